//! Documents that cannot be read: shown, never overwritten, mended on demand.

use rebootlock::id::Group;

use crate::operator::{Operator, SOON, group, keys, machine, semaphore};

const DAMAGED: [(&str, &str); 5] = [
    ("", "not valid JSON (line 1 column 0)"),
    ("{\"semaphore\":1,\n\"max\":1,\"hol", "line 2 column"),
    (r#"{"semaphore":1,"max":"4","holders":[]}"#, "string \"4\", expected i64 at line 1 column"),
    (r#"{"semaphore":1,"max":1,"holders":["a"]}"#, "do not add up"),
    (r#"{"semaphore":0,"max":2,"holders":["a","a"]}"#, "holder \"a\" is listed more than once"),
];

#[tokio::test]
async fn no_command_overwrites_a_damaged_semaphore_and_each_says_where_and_what() {
    for (text, said) in DAMAGED {
        let op = Operator::new();
        op.put(&semaphore(), text).await;
        let before = op.load().await;
        let key = "coreos.com/updateengine/rebootlock/semaphore";
        for line in ["status", "lock", "unlock", "set-max 3", "lock --wait 5s", "queue"] {
            op.ctl(line).await.failed(1, &[key, said, "rebootlockctl repair"]);
        }
        let groups = op.ctl("groups").await;
        assert_eq!(groups.code, 1);
        assert!(groups.err.contains(key) && groups.err.contains(said), "{groups:?}");
        assert_eq!(op.load().await, before, "after {text}");
    }
}

#[tokio::test]
async fn a_damaged_group_does_not_hide_the_others() {
    let op = Operator::new();
    op.put(&keys().semaphore(&group("lb")), "{").await;
    let ran = op.ctl("status --all-groups").await;
    assert_eq!(ran.code, 1);
    assert_eq!(ran.out, "Group: default\nAvailable: 1\nMax: 1\n\nGroup: lb\ndamaged\n");
    assert!(ran.err.contains("groups/lb/semaphore") && ran.err.contains("line 1"), "{ran:?}");
    let ran = op.ctl("status --all-groups --output json").await;
    let shown: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &shown[0]["max"]), (1, &1.into()));
    assert!(shown[1]["error"].as_str().unwrap().contains("groups/lb/semaphore"), "{shown}");
}

#[tokio::test]
async fn a_damaged_group_does_not_hide_who_waits_in_the_others() {
    let op = Operator::new();
    op.ctl("lock a").await.ok();
    // It comes before the default group and between the others.
    op.put(&keys().semaphore(&group("aa")), "{").await;
    op.ctl("lock x --group web").await.ok();
    let mut waiting = [op.start("lock b --wait"), op.start("lock y --wait --group web")];
    for waiting in &waiting {
        waiting.wait_line("next in the queue", SOON).await.unwrap();
    }
    let ran = op.ctl("queue --all-groups").await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("\nb ") && ran.out.contains("\ny "), "{ran:?}");
    assert!(ran.err.contains("groups/aa/semaphore") && ran.err.contains("repair"), "{ran:?}");
    let ran = op.ctl("queue --all-groups --output json").await;
    let shown: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, shown.as_array().unwrap().len()), (1, 2), "{ran:?}");
    assert!(ran.err.contains("groups/aa/semaphore"), "{ran:?}");
    for waiting in &mut waiting {
        waiting.kill().await.unwrap();
    }
}

#[tokio::test]
async fn repair_shows_first_and_writes_only_with_yes() {
    let op = Operator::new();
    assert_eq!(op.ctl("repair").await.ok().out, "nothing to repair\n");
    op.put(&semaphore(), r#"{"semaphore":1,"max":1,"holders":["a"]}"#).await;
    let leftover = keys().holder(&Group::default(), &machine("b"));
    op.put(&leftover, r#"{"machineID":"b","startTime":1}"#).await;
    let before = op.load().await;
    let ran = op.ctl("repair").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    for part in [
        "coreos.com/updateengine/rebootlock/semaphore\n",
        "  problem: inconsistent: semaphore 1 and 1 holders do not add up to max 1\n",
        "  before:  {\"semaphore\":1,\"max\":1,\"holders\":[\"a\"]}\n",
        "  after:   {\"semaphore\":0,\"max\":1,\"holders\":[\"a\"]}\n",
        "  problem: a leftover: the machine holds no slot\n",
        "  after:   would be removed\n",
    ] {
        assert!(ran.out.contains(part), "{part} in {}", ran.out);
    }
    assert!(ran.err.contains("nothing was written"), "{ran:?}");
    assert_eq!(op.load().await, before);
    op.ctl("repair --yes").await.ok();
    assert_eq!(op.ctl("status").await.ok().out, "Available: 0\nMax: 1\n\nMACHINE ID\na\n");
    assert_eq!(op.get(&leftover).await, None);
    assert_eq!(op.ctl("repair --yes --all-groups").await.ok().out, "nothing to repair\n");
}

#[tokio::test]
async fn a_slot_whose_record_is_damaged_can_be_freed_by_an_operator() {
    let op = Operator::new();
    op.put(&semaphore(), r#"{"semaphore":0,"max":1,"holders":["a"]}"#).await;
    op.put(&keys().holder(&Group::default(), &machine("a")), "?").await;
    op.ctl("unlock a").await.ok();
    assert_eq!(op.ctl("status").await.ok().out, "Available: 1\nMax: 1\n");
    assert_eq!(op.left().await, 1);
}

#[tokio::test]
async fn a_pause_that_cannot_be_read_pauses_all_the_same() {
    let op = Operator::new();
    op.put(&keys().paused(&Group::default()), "?").await;
    op.ctl("lock a").await.failed(5, &["group default is paused"]);
    assert!(op.ctl("status").await.ok().out.starts_with("Paused: group default (the pause"));
    op.ctl("resume").await.ok();
    op.ctl("lock a").await.ok();
}
