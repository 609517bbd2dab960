//! `doctor`: what is well, what is not, and what to do about it.

use rebootlock::id::Group;
use rebootlock_tests::machine::Machine;
use serde_json::Value;

use crate::operator::{Operator, keys, machine, semaphore};

/// An operator on a machine with a bus.
async fn on_machine() -> (Operator, Machine) {
    let machine = Machine::new(&"b".repeat(32)).await.unwrap();
    let op = Operator::new().with("DBUS_SYSTEM_BUS_ADDRESS", machine.bus.address());
    (op, machine)
}

#[tokio::test]
async fn all_is_well_on_a_healthy_machine() {
    let (op, _machine) = on_machine().await;
    let ran = op.ctl("doctor").await.ok();
    for line in [
        "ok    rights: may read and write below coreos.com/updateengine/rebootlock",
        "ok    group default: never used yet; it begins with one slot",
        "ok    system bus: answers",
        "ok    update-engine: com.coreos.update1 is on the bus",
        "ok    logind: would let us reboot",
    ] {
        assert!(ran.out.lines().any(|shown| shown == line), "{line} in {}", ran.out);
    }
    assert!(ran.out.lines().all(|line| line.starts_with("ok ")), "{}", ran.out);
    assert!(op.load().await.entries.is_empty(), "it writes nothing");
}

#[tokio::test]
async fn what_a_person_should_know_is_a_warning_with_advice() {
    let (op, fake) = on_machine().await;
    fake.update_engine.stop().await;
    fake.logind.add_inhibitor("shutdown", "backup", "copying", "block").await.unwrap();
    op.ctl("set-max 0").await.ok();
    op.ctl("pause --fleet --reason flood").await.ok();
    let leftover = keys().holder(&Group::default(), &machine("x"));
    op.put(&leftover, r#"{"machineID":"x","startTime":1}"#).await;
    let ran = op.ctl("doctor --output json").await.ok();
    let findings: Vec<Value> = serde_json::from_str(&ran.out).unwrap();
    let warned: Vec<_> = findings.iter().filter(|f| f["verdict"] == "warn").collect();
    for (about, found) in [
        ("update-engine", "not on the bus"),
        ("inhibitor", "backup"),
        ("group default", "0 of 0 slots free"),
        ("pause", "the fleet by alice@"),
        ("group default", "a leftover"),
    ] {
        let fits = |finding: &&&Value| {
            finding["about"] == about && finding["found"].as_str().unwrap().contains(found)
        };
        assert!(warned.iter().any(|finding| fits(&finding)), "{about}: {found} in {}", ran.out);
    }
    assert!(warned.iter().all(|finding| finding["mend"].is_string()), "{}", ran.out);
    assert_eq!(warned.len(), 5, "{}", ran.out);
}

#[tokio::test]
async fn what_does_not_work_fails_with_advice() {
    let op = Operator::new();
    op.put(&semaphore(), "{").await;
    op.file("machine-id", "uninitialized\n");
    let ran = op.ctl("doctor").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    for part in [
        "FAIL  group default: semaphore at coreos.com/updateengine/rebootlock/semaphore is not",
        "      see what would be changed: rebootlockctl repair --all-groups\n",
        "FAIL  machine id: ",
        "systemd-machine-id-setup",
        "FAIL  system bus: cannot connect to the system bus",
    ] {
        assert!(ran.out.contains(part), "{part} in {}", ran.out);
    }
    op.file("machine-id", &"0".repeat(32));
    assert!(op.ctl("doctor").await.out.contains("holds nothing but zeros"));
}

#[tokio::test]
async fn slots_below_another_prefix_are_told_of() {
    let op = Operator::new();
    let nothing = op.ctl("doctor").await.out;
    assert!(nothing.contains("ok    prefix: nothing is below coreos.com/"), "{nothing}");
    op.ctl("set-max 2").await.ok();
    let ours = op.ctl("doctor").await.out;
    assert!(!ours.contains("prefix: "), "{ours}");
    let file = op.file("other.toml", "[store]\nprefix = \"other\"\n");
    let ran = op.run(&["doctor", "--config", &file]).await;
    let said = "warn  prefix: there are slots below coreos.com/updateengine/rebootlock too, which do not \
                count below other\n";
    assert!(ran.out.contains(said), "{ran:?}");
}

#[tokio::test]
async fn a_holders_record_that_only_goahead_cannot_read_is_shown_and_mended() {
    let op = Operator::new();
    op.put(&semaphore(), r#"{"semaphore":0,"max":1,"holders":["web-1"]}"#).await;
    let record = keys().holder(&Group::default(), &machine("web-1"));
    op.put(&record, r#"{"machineID":"web-1","startTime":1,"goahead":{"cluster":1}}"#).await;
    let found = op.ctl("doctor").await.out;
    assert!(found.contains("holders/web-1 is damaged in `goahead`"), "{found}");
    op.ctl("repair --yes").await.ok();
    let now = op.load().await.get(&record).unwrap().value.clone();
    assert_eq!(String::from_utf8(now).unwrap(), r#"{"machineID":"web-1","startTime":1}"#);
}

#[tokio::test]
async fn a_wrong_configuration_is_a_finding_too() {
    let op = Operator::new();
    let file = op.file("bad.toml", "[store\n");
    let ran = op.run(&["doctor", "--config", &file]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.starts_with(&format!("FAIL  configuration: {file}:1:")), "{ran:?}");
}
