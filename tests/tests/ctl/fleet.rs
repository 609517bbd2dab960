//! What an operator sees of the fleet: groups, pauses, the queue.

use rebootlock_tests::process::Signal;
use serde_json::Value;

use crate::operator::{Operator, SOON};
use crate::waiting::wait_for_queue;

#[tokio::test]
async fn groups_are_listed_for_people_and_programs() {
    let op = Operator::new();
    op.ctl("set-max 3 --group lb").await.ok();
    op.ctl("lock a --group lb").await.ok();
    op.ctl("pause --group lb").await.ok();
    let shown = op.ctl("groups").await.ok().out;
    assert_eq!(
        shown,
        "GROUP    AVAILABLE  MAX  HOLDERS  WAITING  PAUSED\n\
         default  1          1    0        0        no\n\
         lb       2          3    1        0        yes\n"
    );
    let shown: Value =
        serde_json::from_str(&op.ctl("groups --output json").await.ok().out).unwrap();
    assert_eq!((&shown[1]["group"], &shown[1]["holders"]), (&"lb".into(), &1.into()));
    assert_eq!(shown[1]["paused"][0]["scope"], "group");
}

#[tokio::test]
async fn a_pause_ends_with_resume_and_resuming_nothing_is_fine() {
    let op = Operator::new();
    assert_eq!(op.ctl("pause").await.ok().out, "");
    op.ctl("lock a").await.failed(5, &["group default is paused by alice@"]);
    op.ctl("lock a --group lb").await.ok();
    assert!(op.ctl("resume").await.ok().err.starts_with("group default goes on; it was paused by"));
    op.ctl("lock a").await.ok();
    assert_eq!(op.ctl("resume").await.ok().err, "group default was not paused\n");
    assert_eq!(op.ctl("resume --fleet").await.ok().err, "the fleet was not paused\n");
}

#[tokio::test]
async fn the_queue_says_what_is_in_the_way() {
    let op = Operator::new();
    assert_eq!(op.ctl("queue").await.ok().err, "nobody waits in group default\n");
    op.ctl("lock a").await.ok();
    let mut first = op.start("lock b --wait");
    wait_for_queue(&op, &["b"]).await;
    let mut second = op.start("lock c --wait");
    wait_for_queue(&op, &["b", "c"]).await;
    let shown = op.ctl("queue").await.ok().out;
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[0], "MACHINE ID  HOST  WAITING FOR  PRIORITY  IN THE WAY");
    assert!(lines[1].starts_with("b ") && lines[1].ends_with("1 of 1 slot held by a"), "{shown}");
    assert!(lines[2].starts_with("c ") && lines[2].ends_with("1 before it"), "{shown}");
    let shown = op.ctl("status").await.ok().out;
    assert!(
        shown.contains("\n\nWAITING\nMACHINE ID  HOST  WAITING FOR\nb           -     "),
        "{shown}"
    );
    let shown: Value = serde_json::from_str(&op.ctl("queue --output json").await.ok().out).unwrap();
    assert_eq!((&shown[1]["machineID"], &shown[1]["position"]), (&"c".into(), &2.into()));
    for waiting in [&mut first, &mut second] {
        waiting.signal(Signal::INT).unwrap();
        assert_eq!(waiting.wait_exit(SOON).await.unwrap().code(), Some(1));
    }
    assert_eq!(op.ctl("queue").await.ok().out, "");
}
