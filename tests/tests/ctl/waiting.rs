//! `lock --wait`: in turn, and out of the queue whatever happens.

use std::time::Duration;

use rebootlock_tests::eventually;
use rebootlock_tests::process::Signal;
use serde_json::Value;

use crate::operator::{Operator, SOON, semaphore};

/// Much shorter than any pause between two looks at a store: who is faster was told.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Waits until exactly these machines wait, in this order.
pub(crate) async fn wait_for_queue(op: &Operator, expected: &[&str]) {
    eventually("the queue is as expected", SOON, async || {
        let shown = op.ctl("queue --output json").await.ok().out;
        let rows: Vec<Value> = serde_json::from_str(&shown).unwrap();
        let ids: Vec<_> = rows.iter().map(|row| row["machineID"].as_str().unwrap()).collect();
        if ids == expected { Ok(()) } else { Err(shown) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_freed_slot_goes_to_who_waits_for_it_at_once() {
    let op = Operator::new();
    op.ctl("lock a").await.ok();
    let mut waiting = op.start("lock b --wait 1h");
    waiting
        .wait_line("waiting for a slot in group default: next in the queue", SOON)
        .await
        .unwrap();
    wait_for_queue(&op, &["b"]).await;
    op.ctl("unlock a").await.ok();
    assert_eq!(waiting.wait_exit(AT_ONCE).await.unwrap().code(), Some(0));
    assert!(waiting.stdout().is_empty());
    assert!(op.get(&semaphore()).await.unwrap().contains(r#""holders":["b"]"#));
    wait_for_queue(&op, &[]).await;
}

#[tokio::test]
async fn patience_ends_with_exit_4_and_an_empty_queue() {
    let op = Operator::new();
    op.ctl("lock a").await.ok();
    let ran = op.ctl("lock b --wait 1s").await;
    ran.failed(4, &["error: waited for 1s: no slot is free in group default (limit 1)"]);
    wait_for_queue(&op, &[]).await;
    op.ctl("pause").await.ok();
    op.ctl("lock b --wait 1s").await.failed(5, &["waited for 1s: group default is paused by"]);
    assert!(!op.get(&semaphore()).await.unwrap().contains("\"b\""));
}

#[tokio::test]
async fn interrupted_it_leaves_the_queue() {
    for signal in [Signal::INT, Signal::TERM] {
        let op = Operator::new();
        op.ctl("lock a").await.ok();
        let mut waiting = op.start("lock b --wait");
        wait_for_queue(&op, &["b"]).await;
        waiting.signal(signal).unwrap();
        assert_eq!(waiting.wait_exit(SOON).await.unwrap().code(), Some(1));
        let said = waiting.stderr().lines().join("\n");
        assert!(said.ends_with("error: interrupted; b waits no longer"), "{said}");
        let shown = op.ctl("queue --output json").await.ok().out;
        assert_eq!(shown, "[]\n");
    }
}

#[tokio::test]
async fn a_pause_is_waited_out_and_named() {
    let op = Operator::new();
    op.ctl("pause --reason flood").await.ok();
    let mut waiting = op.start("lock b --wait");
    waiting.wait_line("waiting: group default is paused by alice@", SOON).await.unwrap();
    op.ctl("resume").await.ok();
    assert_eq!(waiting.wait_exit(SOON).await.unwrap().code(), Some(0));
    assert!(op.get(&semaphore()).await.unwrap().contains("\"b\""));
}

#[tokio::test]
async fn who_waits_in_several_groups_is_shown_under_each_with_what_is_in_the_way_there() {
    let op = Operator::new();
    op.ctl("lock a --group lb").await.ok();
    op.ctl("set-max 2 --group rack-7").await.ok();
    let mut both = op.start("lock b --wait --group lb --group rack-7");
    both.wait_line("next in the queue", SOON).await.unwrap();
    let mut one = op.start("lock c --wait --group lb");
    one.wait_line("1 before us", SOON).await.unwrap();
    let shown = op.ctl("queue --group lb --group rack-7").await.ok().out;
    let parts: Vec<_> = shown.split("\n\n").collect();
    assert_eq!(parts.len(), 2, "{shown}");
    let lb: Vec<_> = parts[0].lines().collect();
    assert_eq!((lb[0], lb.len()), ("Group: lb", 4), "{shown}");
    assert!(lb[1].starts_with("MACHINE ID") && lb[1].ends_with("IN THE WAY"), "{shown}");
    assert!(lb[2].starts_with("b ") && lb[2].ends_with("1 of 1 slot held by a"), "{shown}");
    assert!(lb[3].starts_with("c ") && lb[3].ends_with("1 before it"), "{shown}");
    let rack: Vec<_> = parts[1].lines().collect();
    assert_eq!((rack[0], rack.len()), ("Group: rack-7", 3), "{shown}");
    assert!(rack[2].starts_with("b "), "{shown}");
    let rows = op.ctl("queue --all-groups --output json").await.ok().out;
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    let places: Vec<_> = rows
        .iter()
        .map(|row| (row["group"].as_str().unwrap(), row["machineID"].as_str().unwrap()))
        .collect();
    assert_eq!(places, [("lb", "b"), ("lb", "c"), ("rack-7", "b")]);

    // It leaves both queues at once, with a slot of each.
    op.ctl("unlock a --group lb").await.ok();
    assert_eq!(both.wait_exit(AT_ONCE).await.unwrap().code(), Some(0));
    let ran = op.ctl("queue --group lb --group rack-7").await.ok();
    assert!(ran.out.starts_with("Group: lb\n") && !ran.out.contains("rack-7"), "{ran:?}");
    assert!(!ran.out.contains("\nb "), "{ran:?}");
    one.kill().await.unwrap();
}
