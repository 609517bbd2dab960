//! Taking slots, freeing them, and how many there are.

use rebootlock::id::Group;
use rebootlock_tests::eventually;
use serde_json::Value;

use crate::operator::{Operator, SOON, keys, machine, semaphore};

#[tokio::test]
async fn this_machine_locks_and_unlocks_and_leaves_nothing() {
    let op = Operator::new();
    let ran = op.ctl("lock --reason test").await.ok();
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
    let own = machine(&"a".repeat(32));
    let record = op.get(&keys().holder(&Group::default(), &own)).await.unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!((&record["via"], &record["bootID"]), (&"ctl".into(), &"9d2a2c6c-boot".into()));
    op.ctl("unlock").await.ok();
    assert_eq!(op.left().await, 1);
    let left = op.get(&semaphore()).await.unwrap();
    assert_eq!(left, r#"{"semaphore":1,"max":1,"holders":[]}"#);
}

#[tokio::test]
async fn another_machine_is_locked_without_a_boot_id_of_ours() {
    let op = Operator::new();
    op.ctl("lock web-3").await.ok();
    let record = op.get(&keys().holder(&Group::default(), &machine("web-3"))).await.unwrap();
    assert!(!record.contains("bootID") && !record.contains("hostname"), "{record}");
}

#[tokio::test]
async fn locking_again_succeeds_and_says_so() {
    let op = Operator::new();
    op.ctl("lock web-3").await.ok();
    let before = op.load().await;
    let ran = op.ctl("lock web-3").await.ok();
    assert_eq!(ran.out, "");
    assert_eq!(ran.err, "web-3 holds a slot in group default already, taken via ctl\n");
    assert_eq!(op.load().await, before);
}

#[tokio::test]
async fn without_a_free_slot_it_exits_4_and_while_paused_5() {
    let op = Operator::new();
    op.ctl("lock a").await.ok();
    op.ctl("lock b").await.failed(4, &["error: no slot is free in group default (limit 1)"]);
    op.ctl("pause --fleet --reason flood").await.ok();
    op.ctl("lock b --group other").await.failed(5, &["the fleet is paused by alice@", ": flood"]);
}

#[tokio::test]
async fn a_machine_in_several_groups_takes_all_slots_or_none() {
    let op = Operator::new();
    op.ctl("lock a --group lb").await.ok();
    op.ctl("lock b --group lb --group rack").await.failed(4, &["group lb"]);
    assert_eq!(op.ctl("status --group rack").await.ok().out, "Available: 1\nMax: 1\n");
    op.ctl("unlock a --group lb").await.ok();
    op.ctl("lock b --group lb --group rack").await.ok();
    let ran = op.ctl("unlock b --group lb").await.ok();
    assert_eq!(ran.err, "its slot in group rack, taken together, is free too\n");
    assert_eq!(op.ctl("status --group rack").await.ok().out, "Available: 1\nMax: 1\n");
}

#[tokio::test]
async fn a_slot_in_one_group_is_not_taken_for_one_in_all() {
    let op = Operator::new();
    op.put(&keys().semaphore(&Group::default()), r#"{"semaphore":0,"max":1,"holders":["a"]}"#)
        .await;
    let holder = keys().holder(&Group::default(), &machine("a"));
    op.put(&holder, r#"{"machineID":"a","startTime":1,"via":"agent"}"#).await;
    let ran = op.ctl("lock a --group default --group lb").await;
    ran.failed(1, &["group default from elsewhere, but none in group lb; unlock it first"]);
}

#[tokio::test]
async fn unlocking_who_holds_nothing_exits_7() {
    let op = Operator::new();
    op.ctl("unlock web-9 --group lb").await.failed(7, &["web-9 holds no slot in group lb\n"]);
    assert!(op.load().await.entries.is_empty());
}

#[tokio::test]
async fn unlocking_a_rebooting_machine_warns_and_does_it() {
    let op = Operator::new();
    op.put(&semaphore(), r#"{"semaphore":0,"max":1,"holders":["a"]}"#).await;
    let holder = keys().holder(&Group::default(), &machine("a"));
    op.put(&holder, r#"{"machineID":"a","startTime":1,"state":"rebooting"}"#).await;
    let ran = op.ctl("unlock a").await.ok();
    assert!(ran.err.contains("warning: a was rebooting and may be down"), "{ran:?}");
    assert_eq!(op.ctl("status").await.ok().out, "Available: 1\nMax: 1\n");
}

pub(crate) async fn with_forgotten(op: &Operator) {
    op.put(&semaphore(), r#"{"semaphore":0,"max":3,"holders":["new","old","unrecorded"]}"#).await;
    let holder = |id| keys().holder(&Group::default(), &machine(id));
    op.put(&holder("old"), r#"{"machineID":"old","startTime":1,"hostname":"web-1"}"#).await;
    let new = r#"{"machineID":"new","startTime":1,"expectedBack":99999999999}"#;
    op.put(&holder("new"), new).await;
}

#[tokio::test]
async fn the_forgotten_are_freed_with_yes_and_nobody_else() {
    let op = Operator::new();
    with_forgotten(&op).await;
    let ran = op.ctl("unlock --overdue 2h --yes").await.ok();
    assert!(ran.err.contains("freed the slot of old in group default"), "{ran:?}");
    assert!(ran.err.contains("unrecorded holds a slot in group default, nobody knows since when"));
    let left = op.get(&semaphore()).await.unwrap();
    assert_eq!(left, r#"{"semaphore":1,"max":3,"holders":["new","unrecorded"]}"#);
    let ran = op.ctl("unlock --overdue 2h --yes").await.ok();
    assert!(ran.err.contains("nobody is overdue by 2h in group default"), "{ran:?}");
}

#[tokio::test]
async fn where_nobody_can_be_asked_nothing_is_freed() {
    let op = Operator::new();
    with_forgotten(&op).await;
    let before = op.load().await;
    op.ctl("unlock --overdue 2h").await.failed(1, &["the input is no terminal; see --yes"]);
    assert_eq!(op.load().await, before);
}

#[tokio::test]
async fn at_a_terminal_each_of_the_forgotten_is_asked_about() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let op = Operator::new();
    with_forgotten(&op).await;
    for (answer, freed) in [("n\n", false), ("y\n", true)] {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        let terminal = std::fs::File::options().read(true).write(true).open(name).unwrap();
        let mut command = op.command(&["unlock", "--overdue", "2h"]);
        let child = command
            .stdin(terminal)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        rustix::io::write(&keyboard, answer.as_bytes()).unwrap();
        let output = tokio::time::timeout(SOON, child.wait_with_output()).await.unwrap().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("free the slot of old (web-1, held for "), "{said}");
        let now = op.get(&semaphore()).await.unwrap();
        assert_eq!(!now.contains("\"old\""), freed, "{said}");
    }
}

#[tokio::test]
async fn the_limit_is_changed_and_both_are_printed() {
    let op = Operator::new();
    assert_eq!(op.ctl("set-max 4").await.ok().out, "Old: 1\nNew: 4\n");
    assert_eq!(op.ctl("set-max 0").await.ok().out, "Old: 4\nNew: 0\n");
    op.ctl("lock a").await.failed(4, &["no slot is free"]);
    for wrong in ["set-max -- -3", "set-max -3", "set-max x", "set-max 1.5"] {
        op.ctl(wrong).await.failed(64, &["max must be 0 or more"]);
    }
    op.ctl("set-max 2 --group a --group b").await.failed(64, &["which of a, b?", "--group"]);
}

#[tokio::test]
async fn requests_are_written_for_the_agent_and_taken_back() {
    let op = Operator::new();
    op.ctl("request web-3 --reason disk --priority 2").await.ok();
    let key = keys().request(&machine("web-3"));
    let request: Value = serde_json::from_str(&op.get(&key).await.unwrap()).unwrap();
    assert_eq!((&request["reason"], &request["priority"]), (&"disk".into(), &2.into()));
    assert!(request["by"].as_str().unwrap().starts_with("alice@"));
    op.ctl("cancel web-3").await.ok();
    assert_eq!(op.get(&key).await, None);
    let ran = op.ctl("cancel web-3").await.ok();
    assert_eq!(ran.err, "no reboot of web-3 was requested\n");
    // Nothing here is still running that could put it back.
    eventually("the store is empty", SOON, async || match op.load().await.entries.len() {
        0 => Ok(()),
        n => Err(format!("{n} entries")),
    })
    .await
    .unwrap();
}
