use std::sync::Arc;

use super::*;
use crate::clock::Clock;
use crate::keys::Keyspace;
use crate::lock::{Acquired, Advance, Scope};
use crate::record::{Claim, Hold, Pause};
use crate::store::{MemoryStore, SharedStore};

const HOUR: Duration = Duration::from_secs(3600);

fn machine(name: &str) -> MachineId {
    MachineId::new(name).unwrap()
}

fn group(name: &str) -> Group {
    Group::new(name).unwrap()
}

fn manager(store: &SharedStore, now: i64) -> LockManager {
    let locks = LockManager::new(store.clone(), Keyspace::default());
    locks.with_clock(Clock::new(move || UnixTime(now)))
}

fn store() -> SharedStore {
    Arc::new(MemoryStore::new())
}

/// `name` has its permit, and says that it is back at `back`.
async fn goes_down(locks: &LockManager, name: &str, groups: &[&str], back: i64) -> Claim {
    let claim = Claim::new(machine(name), groups.iter().map(|g| group(g)), Via::Agent);
    assert_eq!(locks.acquire(&claim).await.unwrap(), Acquired::Granted);
    let permit = Advance::permit(UnixTime(back));
    locks.advance(claim.groups(), &claim.machine, claim.token, &permit).await.unwrap();
    claim
}

async fn put(locks: &LockManager, key: Key, value: Vec<u8>) {
    locks.store().commit(&Txn::new().put(key, value)).await.unwrap();
}

async fn free(locks: &LockManager, budget: u32) -> OverdueRelease {
    locks.release_overdue(&Group::default(), HOUR, budget, "web-9").await.unwrap()
}

fn freed(answer: &OverdueRelease) -> Option<&str> {
    match answer {
        OverdueRelease::Freed { machine, .. } => Some(machine.as_str()),
        _ => None,
    }
}

#[tokio::test]
async fn a_slot_is_freed_only_after_its_time_and_the_history_says_by_whom() {
    let store = store();
    goes_down(&manager(&store, 1000), "a", &[], 2000).await;
    assert_eq!(free(&manager(&store, 2000 + 3600), 9).await, OverdueRelease::None);
    let late = manager(&store, 2000 + 3601);
    assert_eq!(freed(&free(&late, 9).await), Some("a"));
    assert!(late.status(&Group::default()).await.unwrap().holders.is_empty());
    let history = late.history(&[Group::default()], None).await.unwrap();
    let past = history[0].past.clone().unwrap();
    assert_eq!((past.ended, past.by.as_deref()), (Ending::Overdue, Some("web-9")));
    assert_eq!(past.down_since, Some(UnixTime(1000)));
    assert_eq!(free(&late, 9).await, OverdueRelease::None);
}

#[tokio::test]
async fn whoever_is_not_certainly_gone_keeps_its_slot() {
    let late = 1_000_000;
    let change = |change: fn(&mut HolderRecord)| change;
    for spare in [
        change(|record| record.expected_back = None),
        change(|record| record.state = Some(HolderState::Draining)),
        change(|record| record.state = Some(HolderState::Verifying)),
        change(|record| record.state = Some(HolderState::Failed)),
        change(|record| record.state = None),
        change(|record| record.via = Some(Via::Ctl)),
        change(|record| record.via = Some(Via::CtlReboot)),
        change(|record| record.via = Some(Via::Exec)),
        change(|record| record.via = None),
        change(|record| record.token = None),
    ] {
        let store = store();
        let locks = manager(&store, late);
        let claim = goes_down(&locks, "a", &[], 1).await;
        let held = locks.holding(claim.groups(), &claim.machine).await.unwrap();
        let mut record = held[&Group::default()].clone().unwrap();
        spare(&mut record);
        let key = locks.keys().holder(&Group::default(), &claim.machine);
        put(&locks, key.clone(), record.to_json()).await;
        assert_eq!(free(&locks, 9).await, OverdueRelease::None, "{record:?}");
        put(&locks, key, b"{".to_vec()).await;
        assert_eq!(free(&locks, 9).await, OverdueRelease::None);
    }
}

#[tokio::test]
async fn an_agent_that_is_there_a_pause_and_a_hold_keep_it() {
    let store = store();
    let locks = manager(&store, 1_000_000);
    goes_down(&locks, "a", &[], 1).await;
    let present = locks.keys().machine(&machine("a"));
    put(&locks, present.clone(), b"?".to_vec()).await;
    assert_eq!(free(&locks, 9).await, OverdueRelease::None);
    locks.store().commit(&Txn::new().delete(present)).await.unwrap();
    let pause = Pause::from_json(br#"{"by":"eve","since":1}"#).unwrap();
    locks.pause(&Scope::Fleet, &pause).await.unwrap();
    assert_eq!(free(&locks, 9).await, OverdueRelease::None);
    locks.resume(&Scope::Fleet).await.unwrap();
    let hold = Hold::from_json(br#"{"by":"eve","since":1}"#).unwrap();
    locks.hold(&machine("a"), &hold).await.unwrap();
    assert_eq!(free(&locks, 9).await, OverdueRelease::None);
    locks.unhold(&machine("a")).await.unwrap();
    assert_eq!(freed(&free(&locks, 9).await), Some("a"));
}

#[tokio::test]
async fn a_group_with_a_free_slot_or_none_at_all_is_left_alone() {
    let store = store();
    let locks = manager(&store, 1_000_000);
    goes_down(&locks, "a", &[], 1).await;
    for max in [2, 0] {
        locks.set_max(&Group::default(), max).await.unwrap();
        assert_eq!(free(&locks, 9).await, OverdueRelease::None, "{max}");
    }
}

#[tokio::test]
async fn so_many_a_day_and_no_more_and_a_clock_that_runs_behind_begins_no_new_day() {
    let (store, day) = (store(), 86_400);
    let locks = manager(&store, 30 * day);
    locks.set_max(&Group::default(), 3).await.unwrap();
    for (name, back) in [("a", 3), ("b", 1), ("c", 2)] {
        goes_down(&locks, name, &[], back).await;
    }
    assert!(matches!(free(&locks, 0).await, OverdueRelease::Spent { .. }));
    assert_eq!(freed(&free(&locks, 1).await), Some("b"), "the longest first");
    goes_down(&locks, "d", &[], 4).await;
    assert!(matches!(free(&locks, 1).await, OverdueRelease::Spent { .. }));
    assert!(matches!(free(&manager(&store, 29 * day), 1).await, OverdueRelease::Spent { .. }));
    let tomorrow = manager(&store, 31 * day);
    assert_eq!(freed(&free(&tomorrow, 1).await), Some("c"));
    let key = locks.keys().overdue_releases(&Group::default());
    put(&locks, key, br#"{"day":"today","count":0}"#.to_vec()).await;
    goes_down(&locks, "e", &[], 5).await;
    let damaged = tomorrow.release_overdue(&Group::default(), HOUR, 9, "x").await;
    assert!(matches!(damaged, Err(LockError::Damaged { .. })), "{damaged:?}");
}

#[tokio::test]
async fn all_groups_of_the_machine_are_freed_and_each_counts() {
    let store = store();
    let locks = manager(&store, 1_000_000);
    goes_down(&locks, "a", &["lb", "rack"], 1).await;
    let answer = locks.release_overdue(&group("lb"), HOUR, 1, "x").await.unwrap();
    assert_eq!(freed(&answer), Some("a"));
    assert!(locks.status(&group("rack")).await.unwrap().holders.is_empty());
    goes_down(&locks, "b", &["rack"], 1).await;
    let answer = locks.release_overdue(&group("rack"), HOUR, 1, "x").await.unwrap();
    assert!(matches!(answer, OverdueRelease::Spent { .. }), "{answer:?}");
}

#[tokio::test]
async fn of_two_who_free_it_at_once_one_does_and_it_counts_once() {
    let store = store();
    let late = manager(&store, 1_000_000);
    goes_down(&late, "a", &[], 1).await;
    let rule = |by| Rule { whose: Whose::Agents, older_than: HOUR, budget: 9, by };
    let found = late.overdue(&Group::default(), &rule("x")).await.unwrap();
    let group = Group::default();
    let other = manager(&store, 1_000_000);
    // Both have seen it, and neither knows of the other.
    let (first, second) = (rule("web-1"), rule("web-2"));
    let (one, two) =
        tokio::join!(late.free(&group, &found[0], &first), other.free(&group, &found[0], &second));
    let answers = [one.unwrap(), two.unwrap()];
    assert_eq!(answers.iter().filter(|answer| freed(answer).is_some()).count(), 1);
    // Asked again, who did it says so and does nothing.
    let who = if freed(&answers[0]).is_some() { "web-1" } else { "web-2" };
    let again = late.free(&group, &found[0], &rule(who)).await.unwrap();
    assert_eq!(freed(&again), Some("a"));
    let key = late.keys().overdue_releases(&group);
    let now = late.store().load(std::slice::from_ref(&key)).await.unwrap();
    let count = OverdueReleases::from_json(&now.get(&key).unwrap().value).unwrap().count;
    assert_eq!((count, late.history(&[group], None).await.unwrap().len()), (1, 1));
}

#[tokio::test]
async fn who_comes_back_before_the_commit_keeps_it_and_who_comes_later_finds_it_gone() {
    let store = store();
    let locks = manager(&store, 1_000_000);
    let claim = goes_down(&locks, "a", &[], 1).await;
    let rule = Rule { whose: Whose::Agents, older_than: HOUR, budget: 9, by: "web-9" };
    let found = locks.overdue(&Group::default(), &rule).await.unwrap();
    let back = Claim::new(machine("a"), [], Via::Agent);
    locks.adopt(&back, Some(&found[0].record), HolderState::Verifying).await.unwrap();
    let answer = locks.free(&Group::default(), &found[0], &rule).await.unwrap();
    assert_eq!(answer, OverdueRelease::None);
    locks.release(&[], &claim.machine, &Release::by_operator("eve")).await.unwrap();

    let claim = goes_down(&locks, "a", &[], 1).await;
    let held = locks.holding(claim.groups(), &claim.machine).await.unwrap();
    assert_eq!(freed(&free(&locks, 9).await), Some("a"));
    let record = held[&Group::default()].clone();
    let late = locks.adopt(&back, record.as_ref(), HolderState::Verifying).await;
    assert!(matches!(late, Err(LockError::NotOurs { .. })));
    let permit = Advance::permit(UnixTime(9));
    let late = locks.advance(claim.groups(), &claim.machine, claim.token, &permit).await;
    assert!(matches!(late, Err(LockError::NotOurs { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_freed_once_its_time_is_over_and_one_that_asks_is_not() {
    let store = store();
    let early = manager(&store, 1000);
    let claim = Claim::new(machine("a"), [], Via::Fleetlock);
    early.acquire(&claim).await.unwrap();
    let silent = async |locks: &LockManager| {
        locks.release_silent(&Group::default(), HOUR, 1, "gw").await.unwrap()
    };
    assert_eq!(silent(&manager(&store, 1000 + 3600)).await, OverdueRelease::None);
    let late = manager(&store, 1000 + 3601);
    assert_eq!(free(&late, 9).await, OverdueRelease::None, "it is no agent");
    late.heard_from(&claim.machine, claim.token, HOUR).await.unwrap();
    assert_eq!(silent(&late).await, OverdueRelease::None);
    tokio::time::sleep(HOUR + Duration::from_secs(1)).await;
    assert_eq!(freed(&silent(&late).await), Some("a"));
    let past = late.history(&[Group::default()], None).await.unwrap()[0].past.clone().unwrap();
    assert_eq!((past.ended, past.by.as_deref()), (Ending::Overdue, Some("gw")));
    // An agent's is not a client's.
    goes_down(&late, "b", &[], 1).await;
    let later = manager(&store, 9_999_999);
    assert_eq!(silent(&later).await, OverdueRelease::None);
    assert_eq!(freed(&free(&later, 1).await), Some("b"), "another day");
    // Enough for today.
    let old = manager(&store, 1);
    for name in ["c", "d"] {
        old.acquire(&Claim::new(machine(name), [], Via::Fleetlock)).await.unwrap();
        let expected = OverdueRelease::Spent { machine: machine(name) };
        assert_eq!(silent(&later).await, expected, "{name}");
        let groups = [Group::default()];
        later.release(&groups, &machine(name), &Release::by_operator("eve")).await.unwrap();
    }
}
