//! What an operator may configure beyond the number of slots: who is given up, and whose health counts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::time::Duration;

use support::{Fleet, until};

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

/// As if the rule had been in force for two hours.
fn in_force_for_long(fleet: &Fleet) {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let since = since.as_secs() - 7200;
    put(fleet, "silent-rule", &format!("{{\"since\":{since},\"afterSecs\":3600}}"));
}

#[test]
fn nobodys_slot_is_given_up_before_it_was_said_that_it_is_overdue() {
    let rule = "[gateway]\nrelease_silent_after_secs = 3600\n[reboot]\noverdue_after_secs = 3601\n";
    let fleet = Fleet::new(rule);
    let output = fleet.command(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("would give slots back before they are overdue"), "{said}");
}

#[test]
fn who_asked_before_the_rule_was_there_is_not_given_up_by_it() {
    let fleet = Fleet::new("");
    let gw = fleet.start();
    gw.pre_reboot("a").is_granted();
    backdate(&fleet, "a");
    gw.pre_reboot("a").is_granted();
    fleet.configure(RELEASE);
    drop(gw);
    let gw = fleet.start();
    gw.logged("\"event\":\"overdue\"");
    until(
        || "a note of when it began".to_owned(),
        || fleet.document("silent-rule").filter(|rule| rule.contains("\"afterSecs\":3600")),
    );
    gw.pre_reboot("b").is_full();
    // Nor by one that was there once, and is there again.
    in_force_for_long(&fleet);
    drop(gw);
    fleet.configure("");
    let gw = fleet.start();
    until(
        || "that there is no rule".to_owned(),
        || fleet.document("silent-rule").is_none().then_some(()),
    );
    drop(gw);
}

#[test]
fn who_is_stuck_is_told_from_who_is_silent() {
    let fleet = Fleet::new("");
    let gw = fleet.start();
    gw.pre_reboot("a").is_granted();
    backdate(&fleet, "a");
    let late = |state: &str| {
        let figure = format!("overdue_holders{{group=\"default\",state=\"{state}\"}} ");
        let figures = gw.get("/metrics").body;
        let line =
            figures.lines().find_map(|line| line.split_once(&figure).map(|(_, n)| n.to_owned()));
        line.unwrap_or_else(|| panic!("{figure} in {figures}"))
    };
    assert_eq!((late("stuck").as_str(), late("silent").as_str()), ("0", "1"));
    gw.pre_reboot("a").is_granted();
    // One look at the store is shared by all who ask within a moment.
    until(
        || format!("{} stuck", late("stuck")),
        || ((late("stuck").as_str(), late("silent").as_str()) == ("1", "0")).then_some(()),
    );
    gw.signal(rustix::process::Signal::HUP);
    gw.logged("configuration read again");
    assert_eq!(late("stuck"), "1", "a reload forgets nobody");
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
    in_force_for_long(&fleet);
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
    gw.logged("\"message\":\"from then on");
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
    in_force_for_long(&fleet);
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
