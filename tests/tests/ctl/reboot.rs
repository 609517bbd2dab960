//! `reboot` and `send-need-reboot`, on a machine with a bus.

use futures::StreamExt as _;
use rebootlock::id::Group;
use rebootlock_tests::machine::Machine;
use rebootlock_tests::machine::logind::RebootFailure;
use rebootlock_tests::process::Signal;
use serde_json::Value;

use crate::operator::{Operator, SOON, keys, machine, semaphore};
use crate::waiting::wait_for_queue;

const OWN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

async fn on_machine() -> (Operator, Machine) {
    let machine = Machine::new(OWN).await.unwrap();
    let op = Operator::new().with("DBUS_SYSTEM_BUS_ADDRESS", machine.bus.address());
    (op, machine)
}

async fn own_record(op: &Operator) -> Value {
    let key = keys().holder(&Group::default(), &machine(OWN));
    serde_json::from_str(&op.get(&key).await.expect("a record")).unwrap()
}

#[tokio::test]
async fn it_takes_the_slot_gets_the_permit_and_reboots_once() {
    let (op, fake) = on_machine().await;
    op.ctl("reboot --reason firmware").await.ok();
    let calls = fake.logind.reboot_calls();
    assert_eq!(calls.len(), 1);
    assert!(!calls[0].interactive);
    assert_eq!(calls[0].wall_message.as_deref(), Some("rebooting: firmware"));
    let record = own_record(&op).await;
    assert_eq!((&record["state"], &record["via"]), (&"rebooting".into(), &"ctl-reboot".into()));
    assert_eq!(record["bootID"], "9d2a2c6c-boot");
    let back = record["expectedBack"].as_i64().unwrap() - record["stateSince"].as_i64().unwrap();
    assert!((899..=901).contains(&back), "{record}");
}

#[tokio::test]
async fn without_a_slot_or_while_paused_nothing_reboots() {
    let (op, fake) = on_machine().await;
    op.ctl("lock other").await.ok();
    op.ctl("reboot").await.failed(4, &["no slot is free"]);
    op.ctl("unlock other").await.ok();
    op.ctl("pause").await.ok();
    op.ctl("reboot").await.failed(5, &["paused"]);
    // Already holding helps nobody past a pause either.
    op.ctl("resume").await.ok();
    op.ctl("lock").await.ok();
    op.ctl("pause").await.ok();
    op.ctl("reboot").await.failed(5, &["paused", "the slot it had before stays"]);
    assert!(op.get(&semaphore()).await.unwrap().contains(OWN));
    assert_eq!(fake.logind.attempts(), 0);
}

#[tokio::test]
async fn it_waits_for_its_turn_if_told_to() {
    let (op, fake) = on_machine().await;
    op.ctl("lock other").await.ok();
    let mut waiting = op.start("reboot --wait 1h");
    wait_for_queue(&op, &[OWN]).await;
    assert_eq!(fake.logind.attempts(), 0);
    op.ctl("unlock other").await.ok();
    assert_eq!(waiting.wait_exit(SOON).await.unwrap().code(), Some(0));
    assert_eq!(fake.logind.reboots(), 1);
}

#[tokio::test]
async fn an_interrupted_wait_reboots_nothing_and_leaves_nothing() {
    let (op, fake) = on_machine().await;
    op.ctl("lock other").await.ok();
    let mut waiting = op.start("reboot --wait");
    wait_for_queue(&op, &[OWN]).await;
    waiting.signal(Signal::INT).unwrap();
    assert_eq!(waiting.wait_exit(SOON).await.unwrap().code(), Some(1));
    op.ctl("unlock other").await.ok();
    assert_eq!(op.left().await, 1);
    assert_eq!(fake.logind.attempts(), 0);
}

#[tokio::test]
async fn an_inhibitor_is_named_and_no_slot_is_kept() {
    let (op, fake) = on_machine().await;
    fake.logind.add_inhibitor("shutdown", "backup", "copying tapes", "block").await.unwrap();
    fake.logind.add_inhibitor("shutdown", "sync", "a moment", "delay").await.unwrap();
    op.ctl("reboot").await.failed(3, &["blocked by backup", "copying tapes"]);
    assert!(op.load().await.entries.is_empty());
    assert_eq!(fake.logind.attempts(), 0);
}

#[tokio::test]
async fn an_inhibitor_that_came_while_waiting_gets_the_slot_given_back() {
    let (op, fake) = on_machine().await;
    op.ctl("lock other").await.ok();
    let mut waiting = op.start("reboot --wait");
    wait_for_queue(&op, &[OWN]).await;
    fake.logind.add_inhibitor("shutdown", "backup", "copying", "block").await.unwrap();
    op.ctl("unlock other").await.ok();
    assert_eq!(waiting.wait_exit(SOON).await.unwrap().code(), Some(3));
    assert_eq!(op.ctl("status").await.ok().out, "Available: 1\nMax: 1\n");
    assert_eq!(fake.logind.attempts(), 0);
}

#[tokio::test]
async fn a_slot_of_the_agent_is_taken_over_under_a_new_token() {
    let (op, fake) = on_machine().await;
    op.put(&semaphore(), &format!(r#"{{"semaphore":0,"max":1,"holders":["{OWN}"]}}"#)).await;
    let token = "5a0c2f2c-56a6-4a8f-a6b0-1a5d8a7c2f10";
    let record = format!(
        r#"{{"machineID":"{OWN}","startTime":5,"token":"{token}","groups":["default"],"state":"holding","via":"agent"}}"#
    );
    op.put(&keys().holder(&Group::default(), &machine(OWN)), &record).await;
    let ran = op.ctl("reboot").await.ok();
    assert!(ran.err.contains("holds its slot in group default already, taken by its agent"));
    assert_eq!(fake.logind.reboots(), 1);
    let record = own_record(&op).await;
    assert_eq!((&record["state"], &record["startTime"]), (&"rebooting".into(), &5.into()));
    assert_ne!(record["token"], token);
}

#[tokio::test]
async fn after_the_permit_a_failed_reboot_keeps_the_slot_and_says_what_to_do() {
    let (op, fake) = on_machine().await;
    let refusal = ("org.freedesktop.DBus.Error.Failed".to_owned(), "disk on fire".to_owned());
    fake.logind.fail_next_reboot(RebootFailure::Error(refusal.0, refusal.1));
    let ran = op.ctl("reboot").await;
    ran.failed(1, &["the slot stays taken", &format!("unlock {OWN}"), "disk on fire"]);
    assert_eq!(own_record(&op).await["state"], "rebooting");
    assert!(op.get(&semaphore()).await.unwrap().contains(OWN));
}

#[tokio::test]
async fn without_a_bus_no_slot_is_taken() {
    let op = Operator::new();
    op.ctl("reboot").await.failed(1, &["cannot connect to the system bus"]);
    op.ctl("send-need-reboot").await.failed(1, &["cannot connect to the system bus"]);
    assert!(op.load().await.entries.is_empty());
}

#[tokio::test]
async fn the_signal_is_the_one_update_engine_sends() {
    let (op, fake) = on_machine().await;
    let bus = fake.bus.connect().await.unwrap();
    let rule = zbus::MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .interface("com.coreos.update1.Manager")
        .member("StatusUpdate")
        .path("/com/coreos/update1")
        .build()
        .unwrap();
    let mut signals = zbus::MessageStream::for_match_rule(rule, &bus, None).await.unwrap();
    op.ctl("send-need-reboot").await.ok();
    let signal = tokio::time::timeout(SOON, signals.next()).await.unwrap().unwrap().unwrap();
    let body = signal.body();
    let status: (i64, f64, String, String, i64) = body.deserialize().unwrap();
    assert_eq!(status.2, "UPDATE_STATUS_UPDATED_NEED_REBOOT");
}
