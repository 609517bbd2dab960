//! What keeps machines from taking slots: holds, pauses that end by themselves, cooldowns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rebootlock::id::{BootId, Group};
use rebootlock::lock::{Ended, LockManager, Release};
use rebootlock::record::{Claim, Via};
use rebootlock::store::{SharedStore, Store as _, Txn};
use rebootlock_tests::etcd::{EtcdSetup, system};
use serde_json::Value;

use crate::operator::{Operator, SOON, group, keys, machine};
use crate::waiting::wait_for_queue;

/// A machine of the default group comes back from its reboot, and the group cools down.
async fn reboot(store: SharedStore, name: &str, cooldown: Duration) {
    let locks = LockManager::new(store, keys());
    let locks = locks.with_cooldowns(BTreeMap::from([(Group::default(), cooldown)]));
    let mut claim = Claim::new(machine(name), [], Via::Agent);
    claim.hostname = Some(format!("{name}.example"));
    locks.acquire(&claim).await.unwrap();
    let boot = BootId::new("11111111-2222-3333-4444-555555555555").unwrap();
    let release = Release::of(claim.token, Ended::Verified { boot });
    locks.release(&[], &claim.machine, &release).await.unwrap();
}

#[tokio::test]
async fn a_held_machine_gets_no_slot_and_everybody_sees_why() {
    let op = Operator::new();
    let ran = op.run(&["hold", "web-3", "--for", "2h", "--reason", "a backup"]).await.ok();
    assert_eq!(
        (ran.out.as_str(), ran.err.as_str()),
        ("", "web-3 is held for 2h; a reboot that is permitted already goes on\n")
    );
    op.ctl("lock web-3").await.failed(5, &["web-3 is held by alice@", " until 2", ": a backup"]);
    op.ctl("lock web-4").await.ok();
    let shown = op.ctl("status").await.ok().out;
    let first = shown.lines().next().unwrap();
    assert!(first.starts_with("Held: web-3 by alice@"), "{shown}");
    assert!(first.contains(": a backup (for ") && first.contains(", for another "), "{shown}");
    let shown: Value =
        serde_json::from_str(&op.ctl("status --output json").await.ok().out).unwrap();
    let held = &shown[0]["held"][0];
    assert_eq!((&held["machineID"], &held["reason"]), (&"web-3".into(), &"a backup".into()));
    let lasts = held["until"].as_i64().unwrap() - held["since"].as_i64().unwrap();
    assert_eq!(lasts, 7200);
    let doctor = op.ctl("doctor").await;
    assert!(doctor.out.contains("rebootlockctl unhold web-3"), "{}", doctor.out);

    let ran = op.ctl("unhold web-3").await.ok();
    assert!(ran.err.starts_with("web-3 may reboot again; it was held by alice@"), "{ran:?}");
    assert_eq!(op.ctl("unhold web-3").await.ok().err, "web-3 was not held\n");
    op.ctl("unlock web-4").await.ok();
    op.ctl("lock web-3").await.ok();
}

#[tokio::test]
async fn this_machine_can_be_held_and_it_has_to_be_said_which() {
    let op = Operator::new();
    op.ctl("hold").await.failed(64, &["<ID|--this>"]);
    op.ctl("hold a --this").await.failed(64, &["cannot be used with"]);
    op.ctl("hold a --for 0s").await.failed(64, &["longer than nothing"]);
    op.ctl("hold --this").await.ok();
    op.ctl("lock").await.failed(5, &["is held by alice@"]);
    op.ctl("exec -- true").await.failed(5, &["is held by alice@"]);
    op.ctl("unhold --this").await.ok();
    op.ctl("lock").await.ok();
}

#[tokio::test]
async fn a_hold_shows_in_the_groups_of_its_machine_only() {
    let op = Operator::new();
    let roster = keys().roster_entry(&machine("web-3"));
    op.put(&roster, r#"{"machineID":"web-3","groups":["lb"],"firstSeen":1}"#).await;
    op.ctl("hold web-3").await.ok();
    assert!(op.ctl("status --group lb").await.ok().out.contains("Held: web-3"));
    assert!(!op.ctl("status").await.ok().out.contains("Held:"));
    op.put(&keys().hold(&machine("web-4")), "?").await;
    let shown = op.ctl("status").await.ok().out;
    assert!(shown.starts_with("Held: web-4 (the hold cannot be read"), "{shown}");
    op.ctl("lock web-4").await.failed(5, &["by whom cannot be read"]);
    op.ctl("unhold web-4").await.ok();
}

#[tokio::test]
async fn a_held_waiter_leaves_the_queue_and_comes_back_when_its_hold_ends() {
    let op = Operator::new();
    op.ctl("lock a").await.ok();
    let mut waiting = op.start("lock b --wait");
    wait_for_queue(&op, &["b"]).await;
    let other = op.start("lock c --wait");
    wait_for_queue(&op, &["b", "c"]).await;
    op.ctl("hold b --for 3s").await.ok();
    waiting.wait_line("waiting: b is held by alice@", SOON).await.unwrap();
    wait_for_queue(&op, &["c"]).await;
    let shown = op.ctl("queue").await.ok();
    assert!(shown.out.contains("1 of 1 slot held by a"), "{shown:?}");
    // The store's clock ends it; nobody says unhold.
    wait_for_queue(&op, &["c", "b"]).await;
    op.ctl("unlock a").await.ok();
    wait_for_queue(&op, &["b"]).await;
    op.ctl("unlock c").await.ok();
    assert_eq!(waiting.wait_exit(SOON).await.unwrap().code(), Some(0));
    drop(other);
}

#[tokio::test]
async fn a_pause_that_is_to_end_ends() {
    let op = Operator::new();
    let ran = op.ctl("pause --for 3s").await.ok();
    assert_eq!(ran.err, "group default is paused for 3s; who holds a slot keeps it\n");
    assert!(op.ctl("status").await.ok().out.starts_with("Paused: group default by alice@"));
    let shown = op.ctl("status --output json").await.ok().out;
    assert!(shown.contains("\"until\": "), "{shown}");
    let mut waiting = op.start("lock a --wait");
    assert_eq!(waiting.wait_exit(SOON).await.unwrap().code(), Some(0));
    assert_eq!(op.ctl("resume").await.ok().err, "group default was not paused\n");
}

#[tokio::test]
async fn a_group_that_cools_down_exits_3_and_says_after_whom() {
    let op = Operator::new();
    reboot(Arc::new(op.store()), "web-1", Duration::from_secs(600)).await;
    op.ctl("lock a").await.failed(
        3,
        &["group default cools down for another ", " s after the reboot of web-1.example"],
    );
    let shown = op.ctl("status").await.ok().out;
    assert!(shown.starts_with("Cooling down: for another "), "{shown}");
    let shown: Value =
        serde_json::from_str(&op.ctl("status --output json").await.ok().out).unwrap();
    assert_eq!(shown[0]["cooldown"]["machineID"], "web-1");
    assert!(shown[0]["cooldown"]["leftSecs"].as_u64().unwrap() > 500);
    let mut waiting = op.start("lock a --wait");
    waiting.wait_line("next in the queue: group default cools down after", SOON).await.unwrap();
    let shown = op.ctl("queue").await.ok().out;
    assert!(shown.contains("the group cools down after the reboot of web-1.example"), "{shown}");
    op.store().commit(&Txn::new().delete(keys().cooldown(&Group::default()))).await.unwrap();
    assert_eq!(waiting.wait_exit(SOON).await.unwrap().code(), Some(0));
}

async fn cools_down(op: &Operator, store: SharedStore) {
    reboot(store, "web-1", Duration::from_secs(4)).await;
    op.ctl("lock a").await.failed(3, &["cools down"]);
    let mut first = op.start("lock a --wait");
    wait_for_queue(op, &["a"]).await;
    let second = op.start("lock b --wait");
    wait_for_queue(op, &["a", "b"]).await;
    // Nobody polls within this time: it is the end of the lease that is heard.
    assert_eq!(first.wait_exit(SOON).await.unwrap().code(), Some(0));
    wait_for_queue(op, &["b"]).await;
    drop(second);
}

#[tokio::test]
async fn the_first_in_the_queue_goes_when_its_group_has_cooled_down() {
    let op = Operator::new();
    cools_down(&op, Arc::new(op.store())).await;
}

#[tokio::test]
async fn on_etcd_holds_pauses_and_cooldowns_end_by_the_clock_of_the_store() {
    let etcd = EtcdSetup::new(&system().unwrap()).start().await.unwrap();
    let op = Operator::on(&etcd.endpoints());
    op.ctl("hold a --for 3s").await.ok();
    op.ctl("pause --fleet --for 3s").await.ok();
    op.ctl("lock a").await.failed(5, &["the fleet is paused by alice@"]);
    let mut waiting = op.start("lock a --wait");
    assert_eq!(waiting.wait_exit(SOON).await.unwrap().code(), Some(0));
    op.ctl("unlock a").await.ok();
    let store = op.open().await;
    cools_down(&op, store).await;
}

#[tokio::test]
async fn who_is_gone_is_forgotten_and_who_is_there_is_not() {
    let op = Operator::new();
    let lb = group("lb");
    assert_eq!(op.ctl("machines").await.ok().err, "no agent is there\n");
    for (name, text) in [("web-1", r#""groups":["lb"]"#), ("web-2", r#""groups":["lb"]"#)] {
        let text =
            format!(r#"{{"machineID":"{name}","hostname":"{name}.x",{text},"firstSeen":1}}"#);
        op.put(&keys().roster_entry(&machine(name)), &text).await;
    }
    let presence = r#"{"machineID":"web-1","hostname":"web-1.x","groups":["lb"],"state":"idle","stateSince":1,"health":{"healthy":false,"reason":"disk full","checkedAt":1},"version":"0.1.0"}"#;
    op.put(&keys().machine(&machine("web-1")), presence).await;
    op.put(&keys().semaphore(&lb), r#"{"semaphore":0,"max":1,"holders":["web-2"]}"#).await;
    let shown = op.ctl("machines").await.ok().out;
    let rows: Vec<Vec<&str>> = shown.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[1][..3], ["web-1", "web-1.x", "idle"]);
    assert!(shown.contains("unhealthy: disk full"), "{shown}");
    assert_eq!(rows[2], ["web-2", "web-2.x", "away", "-", "-", "lb", "-"]);
    let shown: Value =
        serde_json::from_str(&op.ctl("machines --output json").await.ok().out).unwrap();
    assert_eq!((&shown[0]["present"], &shown[1]["present"]), (&true.into(), &false.into()));
    assert_eq!(shown[0]["health"]["healthy"], false);

    op.ctl("forget web-1").await.failed(1, &["the agent of web-1 is there"]);
    op.ctl("forget web-2").await.failed(1, &["holds a slot in group lb", "unlock web-2"]);
    op.ctl("unlock web-2 --group lb").await.ok();
    op.ctl("request web-2").await.ok();
    op.ctl("hold web-2").await.ok();
    let ran = op.ctl("forget web-2").await.ok();
    assert_eq!(
        ran.err,
        "forgot of web-2: its place in the roster, the request to reboot, its hold\n"
    );
    assert_eq!(op.ctl("forget web-2").await.ok().err, "nothing is known of web-2\n");
    let ran = op.ctl("forget web-1 --force").await.ok();
    assert_eq!(ran.err, "forgot of web-1: its place in the roster, what its agent said\n");
    assert_eq!(op.ctl("machines").await.ok().err, "no agent is there\n");
}

/// Written by hand, or brought back with a backup: no lease ends it, and it keeps everybody up.
#[tokio::test]
async fn what_no_agent_keeps_up_is_shown_for_what_it_is_and_can_be_forgotten() {
    let op = Operator::new();
    let old = r#"{"machineID":"old","groups":[],"state":"idle","stateSince":1,"health":{"healthy":true,"checkedAt":1551398400}}"#;
    for (name, text) in [("odd", "{{{"), ("old", old)] {
        op.put(&keys().machine(&machine(name)), text).await;
    }
    let stale = "has not looked at itself since 2019-03-01T00:00:00Z";
    let shown = op.ctl("machines").await.ok().out;
    assert!(shown.contains(stale) && !shown.contains("healthy"), "{shown}");
    let shown: Value =
        serde_json::from_str(&op.ctl("machines --output json").await.ok().out).unwrap();
    assert_eq!(
        (&shown[0]["unwell"], &shown[1]["unwell"]),
        (&"cannot be read".into(), &stale.into())
    );
    let doctor = op.ctl("doctor").await.out;
    for (name, said) in [("odd", "what is known of odd cannot be read"), ("old", stale)] {
        assert!(doctor.contains(said), "{doctor}");
        assert!(doctor.contains(&format!("rebootlockctl forget {name} --force")), "{doctor}");
        op.ctl(&format!("forget {name}")).await.failed(1, &["is there"]);
        let ran = op.ctl(&format!("forget {name} --force")).await.ok();
        assert_eq!(ran.err, format!("forgot of {name}: what its agent said\n"));
    }
    assert_eq!(op.ctl("machines").await.ok().err, "no agent is there\n");
}
