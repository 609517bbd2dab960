//! What came of slots: who had them, why, how it ended.

use rebootlock::id::Group;
use rebootlock::record::UnixTime;
use serde_json::Value;

use crate::operator::{Operator, keys};

#[tokio::test]
async fn what_operators_and_commands_did_is_remembered_newest_last() {
    let op = Operator::new();
    assert_eq!(op.ctl("history").await.ok().err, "nothing is remembered of group default\n");
    op.run(&["lock", "web-3", "--reason", "a disk"]).await.ok();
    op.ctl("unlock web-3").await.ok();
    op.ctl("exec --group default --group lb -- true").await.ok();
    let shown = op.ctl("history").await.ok().out;
    let rows: Vec<Vec<&str>> = shown.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0].join(" "), "ENDED HOST GROUPS VIA HELD FOR DOWN FOR HOW REASON");
    assert_eq!(rows[1][2..5], ["web-3", "default", "ctl"]);
    assert!(shown.contains("unlocked by alice@") && shown.contains("a disk"), "{shown}");
    assert!(rows[2].contains(&"exec-ended") && rows[2].contains(&"lb"), "{shown}");
    assert_eq!(rows.len(), 3);
    // One that was held in two groups is told once.
    let shown = op.ctl("history --all-groups --output json").await.ok().out;
    let shown: Vec<Value> = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown.len(), 2);
    assert_eq!((&shown[0]["machineID"], &shown[0]["ended"]), (&"web-3".into(), &"unlocked".into()));
    assert_eq!(shown[1]["groups"], serde_json::json!(["default", "lb"]));
    assert!(shown[1]["downForSecs"].is_null() && shown[1]["heldForSecs"].is_u64());
    let lb = op.ctl("history --group lb --output json").await.ok().out;
    assert_eq!(serde_json::from_str::<Vec<Value>>(&lb).unwrap().len(), 1);
}

#[tokio::test]
async fn since_leaves_out_what_ended_earlier_and_damage_hides_nothing_else() {
    let op = Operator::new();
    let now = UnixTime::now();
    let put = async |start: i64, text: &str| {
        let key = keys().past(&Group::default(), UnixTime(start), rebootlock::id::Token::random());
        op.put(&key, text).await;
    };
    for (name, days) in [("old", 9), ("new", 2)] {
        let ended = now.0 - days * 86_400;
        let text = format!(
            r#"{{"machineID":"{name}","startTime":{},"downSince":{},"endedAt":{ended},"ended":"verified"}}"#,
            ended - 400,
            ended - 300
        );
        put(ended - 400, &text).await;
    }
    let shown = op.ctl("history --since 7d").await.ok().out;
    assert!(shown.contains(" new ") && !shown.contains(" old "), "{shown}");
    assert!(shown.contains("6m40s") && shown.contains(" 5m "), "{shown}");
    put(1, "{").await;
    let ran = op.ctl("history").await;
    assert_eq!(ran.code, 1);
    assert_eq!(ran.out.lines().count(), 3, "{ran:?}");
    assert!(ran.err.contains("is not valid JSON"), "{ran:?}");
}

#[tokio::test]
async fn an_unlock_takes_the_oldest_history_away() {
    let op = Operator::new();
    let store = op.store();
    let mut txn = rebootlock::store::Txn::new();
    for n in 0..1010 {
        let token = rebootlock::id::Token::random();
        txn = txn.put(keys().past(&Group::default(), UnixTime(n), token), b"{}".to_vec());
    }
    rebootlock::store::Store::commit(&store, &txn).await.unwrap();
    op.ctl("lock a").await.ok();
    op.ctl("unlock a").await.ok();
    let below = keys().history(&Group::default());
    let left = op.load().await;
    let left = left.entries.keys().filter(|key| key.as_str().starts_with(below.as_str()));
    assert_eq!(left.count(), rebootlock::lock::HISTORY_KEPT);
}
