//! What an operator may configure beyond the number of slots: who is given up, and whose health counts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::time::Duration;

use support::Fleet;

const RELEASE: &str = "[gateway]\nrelease_silent_after_secs = 3600\nrelease_budget = 1\n";

fn put(fleet: &Fleet, key: &str, value: &str) {
    let store = rusqlite::Connection::open(fleet.store()).unwrap();
    store.busy_timeout(Duration::from_secs(10)).unwrap();
    let key = format!("coreos.com/updateengine/rebootlock/{key}");
    store
        .execute(
            "INSERT OR REPLACE INTO entry (key, value, modified, created, lease)
             VALUES (?1, ?2, 1000000, 1000000, NULL)",
            rusqlite::params![key, value.as_bytes()],
        )
        .unwrap();
}

/// As if `id` had its slot since 1970.
fn backdate(fleet: &Fleet, id: &str) {
    let record = fleet.document(&format!("holders/{id}")).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["startTime"] = 1.into();
    put(fleet, &format!("holders/{id}"), &record.to_string());
}

#[test]
fn who_is_silent_for_too_long_is_given_up_on_once_a_day_and_nobody_else() {
    let fleet = Fleet::new("");
    let gw = fleet.start();
    gw.pre_reboot("a").is_granted();
    backdate(&fleet, "a");
    drop(gw);
    // Never by default.
    let gw = fleet.start();
    gw.logged("\"event\":\"overdue\"");
    gw.pre_reboot("b").is_full();
    drop(gw);
    fleet.configure(RELEASE);
    let gw = fleet.start();
    gw.logged("\"event\":\"overdue\"");
    assert!(gw.logged("\"event\":\"released-silent\"").contains("\"id\":\"a\""));
    gw.pre_reboot("b").is_granted();
    gw.pre_reboot("a").is_full();
    backdate(&fleet, "b");
    drop(gw);
    // Enough for today.
    let gw = fleet.start();
    gw.logged("\"event\":\"release-budget-spent\"");
    gw.pre_reboot("a").is_full();
}

#[test]
fn who_asks_again_is_not_given_up_by_any_gateway() {
    let fleet = Fleet::new(RELEASE);
    let gw = fleet.start();
    gw.pre_reboot("a").is_granted();
    gw.pre_reboot("a").is_granted();
    let record: serde_json::Value =
        serde_json::from_str(&fleet.document("holders/a").unwrap()).unwrap();
    let noted = format!("alive/{}", record["token"].as_str().unwrap());
    assert_eq!(fleet.document(&noted).as_deref(), Some("a"));
    // Noted once in a while only.
    let written = fleet.revision();
    gw.pre_reboot("a").is_granted();
    assert_eq!(fleet.revision(), written);
    backdate(&fleet, "a");
    let other = fleet.start();
    other.logged("\"event\":\"overdue\"");
    other.pre_reboot("b").is_full();
    other.pre_reboot("a").is_granted();
}

#[test]
fn nobody_gets_a_slot_or_may_use_one_while_the_others_are_unwell() {
    let gate = "[[gate]]\nname = \"others\"\ntype = \"cluster\"\nmax_unhealthy = 0\n";
    let fleet = Fleet::new(gate);
    let gw = fleet.start();
    gw.pre_reboot("a").is_granted();
    // Belongs to the fleet, and is not there.
    put(&fleet, "roster/x", r#"{"machineID":"x","groups":["default"],"firstSeen":1}"#);
    for id in ["a", "b"] {
        let refused = gw.pre_reboot(id);
        refused.is(423, "failed_lock_unhealthy");
        assert!(refused.value().contains("x is not there"), "{refused:?}");
    }
    gw.steady_state("a").is_granted();
}
