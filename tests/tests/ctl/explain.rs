//! What `explain` says. Times are so long ago that a slow machine does not change what is shown.

use rebootlock::clock::Clock;
use rebootlock::id::Group;
use rebootlock::lock::{Advance, Ended, LockManager, Release, Scope};
use rebootlock::record::{
    Blocked, Claim, Document as _, Health, Hold, HolderState, Pause, Presence, Request, UnixTime,
    Via,
};
use rebootlock::store::Txn;
use serde_json::{Map, Value};

use crate::operator::{Operator, group, keys, machine};

/// Shown as `3d4h`.
const LONG: i64 = 3 * 86_400 + 4 * 3600 + 1800;

fn ago(secs: i64) -> UnixTime {
    UnixTime(UnixTime::now().0 - secs)
}

/// What others did, so long ago.
async fn locks(op: &Operator, secs: i64) -> LockManager {
    let then = ago(secs);
    LockManager::new(op.open().await, keys()).with_clock(Clock::new(move || then))
}

fn claim(id: &str, groups: &[&str]) -> Claim {
    let mut claim = Claim::new(machine(id), groups.iter().map(|name| group(name)), Via::Agent);
    claim.hostname = Some(id.to_owned());
    claim.reason = Some("kernel 6.12.9".to_owned());
    claim
}

/// A machine that has its permit since `LONG` ago.
async fn down(op: &Operator, id: &str, groups: &[&str], back: UnixTime) -> Claim {
    let (locks, claim) = (locks(op, LONG).await, claim(id, groups));
    locks.acquire(&claim).await.unwrap();
    let permit = Advance::permit(back);
    locks.advance(claim.groups(), &claim.machine, claim.token, &permit).await.unwrap();
    claim
}

fn presence(id: &str, state: &str, groups: &[&str]) -> Presence {
    Presence {
        machine_id: id.to_owned(),
        hostname: Some(format!("{id}.example")),
        boot_id: None,
        groups: groups.iter().map(|&name| name.to_owned()).collect(),
        state: state.to_owned(),
        state_since: ago(LONG),
        health: Some(Health::new(None, ago(LONG))),
        blocked: None,
        version: Some("1.2.3".to_owned()),
        unknown: Map::new(),
    }
}

fn blocked(outcome: &str, why: &str) -> Option<Blocked> {
    let (outcome, why) = (outcome.to_owned(), why.to_owned());
    Some(Blocked { outcome, why, since: ago(LONG), wanted: Some("kernel 6.12.9".to_owned()) })
}

async fn show(op: &Operator, presence: &Presence) {
    let key = keys().machine(&machine(&presence.machine_id));
    let store = op.open().await;
    store.commit(&Txn::new().put(key, presence.to_json())).await.unwrap();
}

async fn waits(op: &Operator, id: &str, groups: &[&str]) {
    let claim = claim(id, groups);
    let waiter = claim.waiter(ago(LONG)).to_json();
    let txn = claim.groups().iter().fold(Txn::new(), |txn, group| {
        txn.put(keys().waiter(group, &claim.machine), waiter.clone())
    });
    op.open().await.commit(&txn).await.unwrap();
}

async fn explained(op: &Operator, id: &str) -> String {
    op.ctl(&format!("explain {id}")).await.ok().out
}

fn pause() -> Pause {
    let (by, reason) = ("ann@ops".to_owned(), Some("bad kernel".to_owned()));
    Pause { by, reason, since: ago(LONG), until: None, unknown: Map::new() }
}

#[tokio::test]
async fn a_machine_nobody_has_heard_of_is_said_to_be_one() {
    let op = Operator::new();
    op.ctl("explain web-3")
        .await
        .failed(7, &["nothing is known of web-3", "rebootlockctl machines"]);
    op.ctl("explain").await.failed(7, &[&"a".repeat(32)]);
    op.ctl("explain --output json").await.failed(7, &[]);
    assert!(op.load().await.entries.is_empty());
}

#[tokio::test]
async fn one_that_nobody_wants_to_reboot_is_told_how_to() {
    let op = Operator::new();
    show(&op, &presence("web-3", "idle", &["default"])).await;
    assert_eq!(
        explained(&op, "web-3").await,
        "web-3.example (web-3) is not rebooting\n\
         \n\
         Wanted  no\n\
         Agent   idle for 3d4h, healthy, version 1.2.3\n\
         Groups  default\n\
         \n\
         1. nothing wants it to reboot\n   \
            what to do: rebootlockctl request web-3, if it is to reboot\n"
    );
}

#[tokio::test]
async fn everything_in_the_way_is_named_with_what_ends_it() {
    let op = Operator::new();
    let manager = locks(&op, LONG).await;
    down(&op, "web-9", &["lb"], ago(LONG - 3600)).await;
    waits(&op, "web-1", &["lb"]).await;
    waits(&op, "web-3", &["lb", "rack 7"]).await;
    manager.set_max(&group("rack 7"), 0).await.unwrap();
    manager.pause(&Scope::Fleet, &pause()).await.unwrap();
    manager.pause(&Scope::Group(group("rack 7")), &pause()).await.unwrap();
    let hold =
        Hold { by: "eve".into(), reason: None, since: ago(LONG), until: None, unknown: Map::new() };
    manager.hold(&machine("web-3"), &hold).await.unwrap();
    let mut shown = presence("web-3", "waiting-for-gates", &["lb", "rack 7"]);
    shown.health = Some(Health::new(Some("disk /var is full".into()), ago(LONG)));
    shown.blocked =
        blocked("kill_switch_active", "the kill switch /etc/rebootlock/stop it is there");
    show(&op, &shown).await;
    assert_eq!(
        explained(&op, "web-3").await,
        "web-3.example (web-3) is not rebooting, though it should\n\
         \n\
         Wanted  kernel 6.12.9\n\
         Agent   waiting-for-gates for 3d4h, unhealthy, version 1.2.3\n\
         Groups  lb, rack 7\n\
         \n\
         1. held: web-3 by eve (for 3d4h)\n   \
            what to do: rebootlockctl unhold web-3\n\
         2. paused: the fleet by ann@ops: bad kernel (for 3d4h)\n   \
            what to do: rebootlockctl resume --fleet\n\
         3. paused: group rack 7 by ann@ops: bad kernel (for 3d4h)\n   \
            what to do: rebootlockctl resume --group 'rack 7'\n\
         4. the kill switch /etc/rebootlock/stop it is there (for 3d4h)\n   \
            what to do: rm '/etc/rebootlock/stop it', on that machine\n\
         5. 1 of 1 slot of group lb held by web-9 (rebooting, for 3d4h, overdue for 3d3h); it is \
         number 2 in the queue of group lb, after web-1\n   \
            what to do: look at web-9, which is overdue; rebootlockctl unlock web-9 --group lb, if \
         it will not come back\n\
         6. group rack 7 lets nobody reboot: its limit is 0\n   \
            what to do: rebootlockctl set-max 1 --group 'rack 7'\n\
         7. it is unhealthy: disk /var is full (for 3d4h)\n   \
            what to do: mend it: journalctl -u rebootlockd, on that machine\n"
    );
}

#[tokio::test]
async fn what_its_agent_found_comes_with_what_to_do() {
    let op = Operator::new();
    for (outcome, why, todo) in [
        ("window_outside_allow", "no window is open", "wait; rebootlockctl windows"),
        ("health_blocked", "gate alerts is closed: DiskFull", "rebootlockctl machines"),
        ("still-required", "this machine has rebooted once", "rebootlockctl request web-3"),
        ("overdue", "the machine is still up", "systemctl list-jobs"),
        ("something-newer", "the moon is wrong", "wait; it is looked at again"),
        ("lock_unavailable", "waiting for a slot", "rebootlockctl status"),
    ] {
        let shown = Presence {
            blocked: blocked(outcome, why),
            ..presence("web-3", "waiting-for-gates", &["default"])
        };
        show(&op, &shown).await;
        let said = explained(&op, "web-3").await;
        assert!(said.contains("Wanted  kernel 6.12.9\n"), "{said}");
        assert!(said.contains(&format!("1. {why} (for 3d4h)\n   what to do: ")), "{said}");
        assert!(said.contains(todo) && !said.contains("\n2. "), "{said}");
    }
}

#[tokio::test]
async fn a_machine_without_an_agent_is_away_since_its_last_slot_or_since_it_first_came() {
    let op = Operator::new();
    locks(&op, LONG).await.enrol(&machine("web-3"), Some("w3"), &[group("lb")]).await.unwrap();
    let request = Request {
        by: "ann".into(),
        reason: Some("firmware".into()),
        since: ago(LONG),
        priority: 0,
        unknown: Map::new(),
    };
    let txn = Txn::new().put(keys().request(&machine("web-3")), request.to_json());
    op.open().await.commit(&txn).await.unwrap();
    assert_eq!(
        explained(&op, "web-3").await,
        "w3 (web-3) is not rebooting, though it should\n\
         \n\
         Wanted  requested by ann: firmware (3d4h ago)\n\
         Agent   not there\n\
         Groups  lb\n\
         \n\
         1. no agent of this machine is there; it first came 3d4h ago, and has not rebooted since\n   \
            what to do: systemctl status rebootlockd, on that machine; rebootlockctl forget web-3, if \
         it is gone for good\n"
    );
    let claim = down(&op, "web-3", &["lb"], ago(0)).await;
    let release = Release::of(claim.token, Ended::GivenBack);
    locks(&op, LONG).await.release(claim.groups(), &claim.machine, &release).await.unwrap();
    let said = explained(&op, "web-3").await;
    assert!(said.contains("is there; its last slot went back 3d4h ago (given-back)\n"), "{said}");
}

#[tokio::test]
async fn who_has_a_slot_is_told_how_far_it_is() {
    let op = Operator::new();
    let claim = down(&op, "web-3", &["lb", "rack"], UnixTime(ago(-LONG).0)).await;
    let said = explained(&op, "web-3").await;
    assert!(
        said.starts_with("web-3 is rebooting\n\nWanted  kernel 6.12.9\nAgent   not there\n"),
        "{said}"
    );
    let slot = "1. it has its slot in groups lb, rack and its permit for 3d4h; it should be back within \
                3d4h\n   what to do: wait\n";
    assert!(said.ends_with(slot), "{said}");

    let step = async |state: HolderState, back: Option<UnixTime>| {
        let step = Advance { state, expected_back: back, unless_paused: false };
        let manager = locks(&op, LONG).await;
        manager.advance(claim.groups(), &claim.machine, claim.token, &step).await.unwrap();
        explained(&op, "web-3").await
    };
    let said = step(HolderState::Verifying, Some(ago(LONG))).await;
    assert!(said.contains("looks for 3d4h whether it is well\n   what to do: wait; "), "{said}");
    let said = step(HolderState::Failed, None).await;
    assert!(said.starts_with("web-3 is back from its reboot, but not well\n"), "{said}");
    assert!(said.contains("rebootlockctl unlock web-3 --group lb, if the others"), "{said}");
    let said = step(HolderState::Draining, None).await;
    assert!(said.contains("has its slot in groups lb, rack for 3d4h and is draining"), "{said}");
    let said = step(HolderState::Rebooting, Some(ago(LONG))).await;
    assert!(said.starts_with("web-3 has not come back from its reboot\n"), "{said}");
    assert!(
        said.contains("has been down for 3d4h, and should have been back 3d4h ago\n"),
        "{said}"
    );
    assert!(said.contains("what to do: look at its console; rebootlockctl unlock web-3"), "{said}");
}

#[tokio::test]
async fn what_others_left_behind_is_explained_too() {
    let op = Operator::new();
    let semaphore = keys().semaphore(&Group::default());
    op.put(&semaphore, r#"{"semaphore":0,"max":1,"holders":["web-3"]}"#).await;
    let said = explained(&op, "web-3").await;
    assert!(said.contains("a program that writes no record, as locksmith\n"), "{said}");
    let record = keys().holder(&Group::default(), &machine("web-3"));
    op.put(&record, "{").await;
    let said = explained(&op, "web-3").await;
    assert!(said.contains("what to do: rebootlockctl repair --group default\n"), "{said}");
    op.put(&semaphore, "{").await;
    op.put(&keys().machine(&machine("web-3")), "\u{1b}[2J").await;
    let said = explained(&op, "web-3").await;
    assert!(said.contains("Agent   cannot be read\n") && !said.contains('\u{1b}'), "{said}");
    assert!(said.contains("semaphore at ") && said.contains("rebootlockctl repair"), "{said}");
    op.put(&semaphore, r#"{"semaphore":1,"max":1,"holders":[]}"#).await;
    op.ctl("lock web-3 --reason disk").await.ok();
    let said = explained(&op, "web-3").await;
    assert!(said.contains("which an operator locked: disk\n"), "{said}");
}

#[tokio::test]
async fn programs_get_the_same_as_json() {
    let op = Operator::new();
    down(&op, "web-9", &[], ago(LONG - 3600)).await;
    waits(&op, "web-3", &[]).await;
    show(&op, &presence("web-3", "waiting-for-slot", &["default"])).await;
    let shown = op.ctl("explain web-3 --output json").await.ok().out;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["machineID"], "web-3");
    assert_eq!(shown["hostname"], "web-3.example");
    assert_eq!((&shown["present"], &shown["state"]), (&true.into(), &"waiting-for-slot".into()));
    assert_eq!(shown["wanted"], "kernel 6.12.9");
    assert_eq!(shown["summary"], "is not rebooting, though it should");
    assert_eq!(shown["reasons"][0]["kind"], "lock_unavailable");
    for member in ["why", "todo"] {
        assert!(shown["reasons"][0][member].as_str().unwrap().contains("web-9"), "{shown}");
    }
    assert_eq!(shown["reasons"].as_array().unwrap().len(), 1);
    assert_eq!(shown["health"]["healthy"], true);
    assert_eq!(shown["groups"][0]["holders"][0]["overdue"], true);
}

#[tokio::test]
async fn a_client_of_another_kind_needs_no_agent() {
    for (via, has_one) in [
        (Via::Agent, true),
        (Via::Fleetlock, false),
        (Via::Goahead, false),
        (Via::DisruptionManager, false),
    ] {
        let op = Operator::new();
        let mut claim = claim("web-3", &["default"]);
        claim.via = via.clone();
        locks(&op, LONG).await.acquire(&claim).await.unwrap();
        let said = explained(&op, "web-3").await;
        assert!(said.contains("it has its slot in group default for 3d4h"), "{via}: {said}");
        assert_eq!(said.contains("no agent of this machine is there"), has_one, "{via}: {said}");
        // Nor while it waits, nor afterwards.
        let waits = serde_json::json!({"machineID": "web-4", "since": 1, "via": via});
        op.put(&keys().waiter(&Group::default(), &machine("web-4")), &waits.to_string()).await;
        let said = explained(&op, "web-4").await;
        assert!(said.contains("web-3"), "{via}: {said}");
        assert_eq!(said.contains("no agent of this machine is there"), has_one, "{via}: {said}");
        let release = Release::of(claim.token, Ended::Steady);
        locks(&op, LONG).await.release(claim.groups(), &claim.machine, &release).await.unwrap();
        let said = explained(&op, "web-3").await;
        assert_eq!(said.contains("no agent of this machine is there"), has_one, "{via}: {said}");
    }
    // One that may not go now has no place, and asks all the same.
    let op = Operator::new();
    op.put(&keys().disruption(&machine("web-3")), "{}").await;
    let said = explained(&op, "web-3").await;
    assert!(!said.contains("no agent of this machine is there"), "{said}");
}
