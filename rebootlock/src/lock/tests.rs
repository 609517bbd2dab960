use std::sync::Arc;

use super::*;
use crate::id::Token;
use crate::record::{Claim, HolderState, UnixTime, Via};
use crate::store::MemoryStore;

fn machine(name: &str) -> MachineId {
    MachineId::new(name).unwrap()
}

fn group(name: &str) -> Group {
    Group::new(name).unwrap()
}

fn claim(name: &str, groups: &[&str]) -> Claim {
    Claim::new(machine(name), groups.iter().map(|name| group(name)), Via::Agent)
}

fn manager() -> LockManager {
    LockManager::new(Arc::new(MemoryStore::new()), Keyspace::default())
}

async fn put(locks: &LockManager, key: Key, text: &str) {
    let txn = Txn::new().put(key, text.as_bytes().to_vec());
    assert!(matches!(locks.store().commit(&txn).await.unwrap(), Commit::Won(_)));
}

async fn value(locks: &LockManager, key: &Key) -> Option<String> {
    let now = locks.store().load(std::slice::from_ref(key)).await.unwrap();
    now.get(key).map(|entry| String::from_utf8(entry.value.clone()).unwrap())
}

#[tokio::test]
async fn a_slot_is_taken_and_given_back_with_its_record() {
    let (locks, claim) = (manager(), claim("a", &[]));
    assert_eq!(locks.acquire(&claim).await.unwrap(), Acquired::Granted);
    let status = locks.status(&Group::default()).await.unwrap();
    assert_eq!(status.semaphore.available(), 0);
    let record = status.holders[0].record.clone().unwrap().unwrap();
    assert!(record.is_of(claim.token));

    let freed = locks.release(claim.groups(), &claim.machine, Some(claim.token)).await.unwrap();
    assert!(matches!(freed, Released::Freed(Some(_))));
    assert_eq!(
        value(&locks, &locks.keys().semaphore(&Group::default())).await.unwrap(),
        r#"{"semaphore":1,"max":1,"holders":[]}"#
    );
    let holder = locks.keys().holder(&Group::default(), &claim.machine);
    assert_eq!(value(&locks, &holder).await, None);
}

#[tokio::test]
async fn acquiring_again_changes_nothing() {
    let (locks, first) = (manager(), claim("a", &[]));
    locks.acquire(&first).await.unwrap();
    let before = locks.status(&Group::default()).await.unwrap().revision;
    assert_eq!(locks.acquire(&first).await.unwrap(), Acquired::Granted);
    let second = claim("a", &[]);
    assert!(matches!(locks.acquire(&second).await.unwrap(), Acquired::Already(Some(_))));
    assert_eq!(locks.status(&Group::default()).await.unwrap().revision, before);
    assert!(matches!(locks.acquire(&claim("b", &[])).await, Err(LockError::Full { max: 1, .. })));
}

#[tokio::test]
async fn several_groups_are_taken_all_or_none() {
    let locks = manager();
    locks.acquire(&claim("a", &["lb"])).await.unwrap();
    let both = claim("b", &["rack-7", "lb"]);
    assert!(
        matches!(locks.acquire(&both).await, Err(LockError::Full { group, .. }) if group.as_str() == "lb")
    );
    assert_eq!(locks.status(&group("rack-7")).await.unwrap().semaphore.available(), 1);

    locks.release(&[group("lb")], &machine("a"), None).await.unwrap();
    assert_eq!(locks.acquire(&both).await.unwrap(), Acquired::Granted);
    // Freeing one group frees what was taken together with it.
    locks.release(&[group("lb")], &machine("b"), None).await.unwrap();
    assert_eq!(locks.status(&group("rack-7")).await.unwrap().semaphore.available(), 1);
}

#[tokio::test]
async fn a_pause_keeps_everybody_new_out_and_nobody_in() {
    let locks = manager();
    let held = claim("a", &["lb"]);
    locks.acquire(&held).await.unwrap();
    let pause =
        Pause { by: "eve".into(), reason: None, since: UnixTime(1), unknown: Default::default() };
    for scope in [Scope::Fleet, Scope::Group(group("lb"))] {
        locks.pause(&scope, &pause).await.unwrap();
        let refused = locks.acquire(&claim("b", &["lb"])).await;
        assert!(matches!(refused, Err(LockError::Paused { scope: s, .. }) if s == scope));
        let permit = Advance::permit(UnixTime(2));
        let permitted = locks.advance(held.groups(), &held.machine, held.token, &permit).await;
        assert!(matches!(permitted, Err(LockError::Paused { .. })));
        assert_eq!(locks.acquire(&held).await.unwrap(), Acquired::Granted);
        assert!(matches!(locks.resume(&scope).await.unwrap(), Resumed::Ended(Some(_))));
        assert_eq!(locks.resume(&scope).await.unwrap(), Resumed::NotPaused);
    }
    locks
        .advance(held.groups(), &held.machine, held.token, &Advance::permit(UnixTime(2)))
        .await
        .unwrap();
    locks.release(&[group("lb")], &machine("a"), None).await.unwrap();
}

#[tokio::test]
async fn an_unreadable_pause_pauses() {
    let locks = manager();
    put(&locks, locks.keys().fleet_paused(), "?").await;
    let refused = locks.acquire(&claim("a", &[])).await.unwrap_err();
    assert_eq!(refused.to_string(), "the fleet is paused (by whom cannot be read)");
}

#[tokio::test]
async fn the_permit_needs_the_slot_and_the_token() {
    let (locks, held) = (manager(), claim("a", &[]));
    let permit = Advance::permit(UnixTime(9));
    let ask = async |token: Token| {
        locks.advance(&[Group::default()], &machine("a"), token, &permit).await
    };
    assert!(matches!(ask(held.token).await, Err(LockError::NotOurs { .. })));
    locks.acquire(&held).await.unwrap();
    assert!(matches!(ask(Token::random()).await, Err(LockError::NotOurs { .. })));
    ask(held.token).await.unwrap();
    ask(held.token).await.unwrap();
    let held_now = locks.holding(held.groups(), &held.machine).await.unwrap();
    let record = held_now[&Group::default()].clone().unwrap();
    assert_eq!(record.state, Some(HolderState::Rebooting));
    assert_eq!(record.expected_back, Some(UnixTime(9)));
    // Unlocked by an operator: no more permits, and the old token frees nobody else's slot.
    locks.release(&[], &machine("a"), None).await.unwrap();
    locks.acquire(&claim("a", &[])).await.unwrap();
    assert!(matches!(ask(held.token).await, Err(LockError::NotOurs { .. })));
    let freed = locks.release(&[], &machine("a"), Some(held.token)).await.unwrap();
    assert_eq!(freed, Released::NotHeld);
}

#[tokio::test]
async fn a_slot_taken_without_a_record_can_be_adopted() {
    let locks = manager();
    let place = locks.keys().semaphore(&Group::default());
    put(&locks, place, r#"{"semaphore":0,"max":1,"holders":["a"]}"#).await;
    let ours = claim("a", &[]);
    assert_eq!(locks.acquire(&ours).await.unwrap(), Acquired::Already(None));
    locks.adopt(&ours, None, HolderState::Verifying).await.unwrap();
    locks.adopt(&ours, None, HolderState::Verifying).await.unwrap();
    let other = locks.adopt(&claim("a", &[]), None, HolderState::Verifying).await;
    assert!(matches!(other, Err(LockError::NotOurs { .. })));
    assert!(matches!(
        locks.release(&[], &machine("a"), Some(ours.token)).await.unwrap(),
        Released::Freed(_)
    ));
}

#[tokio::test]
async fn a_leftover_record_is_replaced_or_removed_but_frees_nothing() {
    let locks = manager();
    let holder = locks.keys().holder(&Group::default(), &machine("a"));
    put(&locks, holder.clone(), r#"{"machineID":"a","startTime":1}"#).await;
    assert_eq!(locks.release(&[], &machine("a"), None).await.unwrap(), Released::NotHeld);
    assert_eq!(value(&locks, &holder).await, None);
    put(&locks, holder.clone(), r#"{"machineID":"a","startTime":1}"#).await;
    assert_eq!(locks.acquire(&claim("a", &[])).await.unwrap(), Acquired::Granted);
}

#[tokio::test]
async fn what_cannot_be_read_is_never_overwritten() {
    let locks = manager();
    let place = locks.keys().semaphore(&Group::default());
    for text in [
        "",
        "{",
        r#"{"semaphore":1,"max":"4","holders":[]}"#,
        r#"{"semaphore":2,"max":1,"holders":[]}"#,
    ] {
        put(&locks, place.clone(), text).await;
        let ours = claim("a", &[]);
        assert!(matches!(locks.acquire(&ours).await, Err(LockError::Damaged { .. })));
        assert!(matches!(
            locks.release(&[], &ours.machine, None).await,
            Err(LockError::Damaged { .. })
        ));
        assert!(matches!(
            locks.set_max(&Group::default(), 2).await,
            Err(LockError::Damaged { .. })
        ));
        assert!(matches!(locks.status(&Group::default()).await, Err(LockError::Damaged { .. })));
        assert_eq!(value(&locks, &place).await.as_deref(), Some(text));
    }
    let error = locks.set_max(&Group::default(), 2).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "semaphore at coreos.com/updateengine/rebootlock/semaphore is inconsistent: semaphore 2 \
         and 0 holders do not add up to max 1; nothing was changed; see rebootlockctl repair"
    );
}

#[tokio::test]
async fn repair_mends_what_it_showed_and_nothing_newer() {
    let locks = manager();
    let place = locks.keys().semaphore(&Group::default());
    put(&locks, place.clone(), r#"{"semaphore":0,"max":"2","holders":["a"]}"#).await;
    let repairs = locks.repairs(&Group::default()).await.unwrap();
    assert_eq!(repairs.len(), 1);
    put(&locks, place.clone(), r#"{"semaphore":0,"max":"3","holders":["a"]}"#).await;
    assert!(!locks.mend(&repairs[0]).await.unwrap());
    let repairs = locks.repairs(&Group::default()).await.unwrap();
    assert!(locks.mend(&repairs[0]).await.unwrap());
    assert_eq!(value(&locks, &place).await.unwrap(), r#"{"semaphore":2,"max":3,"holders":["a"]}"#);
    assert!(locks.repairs(&Group::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn status_writes_nothing_and_set_max_writes_once() {
    let locks = manager();
    let status = locks.status(&Group::default()).await.unwrap();
    assert!(!status.exists);
    assert_eq!(status.revision.0, 0);
    assert_eq!(locks.set_max(&Group::default(), 4).await.unwrap(), 1);
    let before = locks.status(&Group::default()).await.unwrap().revision;
    assert_eq!(locks.set_max(&Group::default(), 4).await.unwrap(), 4);
    assert_eq!(locks.status(&Group::default()).await.unwrap().revision, before);
    locks.set_max(&group("rack 7"), 2).await.unwrap();
    assert_eq!(locks.groups().await.unwrap(), [Group::default(), group("rack 7")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_callers_for_ten_slots_are_ten_granted_and_ten_told_full() {
    let locks = manager();
    locks.set_max(&Group::default(), 10).await.unwrap();
    let callers: Vec<_> = (0..20)
        .map(|n| {
            let locks = locks.clone();
            tokio::spawn(async move { locks.acquire(&claim(&format!("m{n}"), &[])).await })
        })
        .collect();
    let (mut granted, mut full) = (0, 0);
    for caller in callers {
        match caller.await.unwrap() {
            Ok(Acquired::Granted) => granted += 1,
            Err(LockError::Full { .. }) => full += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((granted, full), (10, 10));
}

#[tokio::test]
async fn an_acquisition_that_was_never_answered_cannot_happen_once_it_is_settled() {
    let (locks, late) = (manager(), claim("a", &["lb", "rack-7"]));
    let keys = locks.keys_of(late.groups(), &late.machine);
    let before = locks.store().load(&keys).await.unwrap();
    assert!(!locks.settle_unanswered(late.groups(), &late.machine).await.unwrap());
    // The commit that was decided on what was there before arrives now.
    assert_eq!(locks.acquire_from(&late, &before, []).await.unwrap(), None);
    assert!(locks.status(&group("lb")).await.unwrap().holders.is_empty());
    locks.acquire(&late).await.unwrap();
    let revision = locks.status(&group("lb")).await.unwrap().revision;
    assert!(locks.settle_unanswered(late.groups(), &late.machine).await.unwrap());
    assert_eq!(locks.status(&group("lb")).await.unwrap().revision, revision);
}

/// A machine that was given one more group takes over the slot it has, but not from under a step of
/// the one who has it: the semaphore stays as it is at such a step, only the record changes.
#[tokio::test]
async fn an_acquisition_loses_when_a_record_it_was_decided_on_has_changed() {
    let (locks, first, second) = (manager(), claim("a", &["lb"]), claim("a", &["lb", "rack-7"]));
    locks.acquire(&first).await.unwrap();
    let keys = locks.keys_of(second.groups(), &second.machine);
    let before = locks.store().load(&keys).await.unwrap();
    let permit = Advance::permit(UnixTime(9));
    locks.advance(first.groups(), &first.machine, first.token, &permit).await.unwrap();
    assert_eq!(locks.acquire_from(&second, &before, []).await.unwrap(), None);
    let held = locks.holding(second.groups(), &second.machine).await.unwrap();
    let states: Vec<_> = held.into_values().flatten().map(|record| record.state).collect();
    assert_eq!(states, [Some(HolderState::Rebooting)]);
}

/// Everything else is as it was, and the slot is free: what a waiter finds that was frozen until its
/// place had ended.
#[tokio::test]
async fn an_acquisition_out_of_the_queue_loses_without_its_place() {
    let (locks, claim) = (manager(), claim("a", &[]));
    let place = locks.keys().waiter(&Group::default(), &claim.machine);
    put(&locks, place.clone(), "{}").await;
    let keys = locks.keys_of(claim.groups(), &claim.machine);
    let before = locks.store().load(&keys).await.unwrap();
    let places = locks.store().load(std::slice::from_ref(&place)).await.unwrap();
    let places = [places.unchanged(&place)];
    locks.store().commit(&Txn::new().delete(place.clone())).await.unwrap();
    assert_eq!(locks.acquire_from(&claim, &before, places.clone()).await.unwrap(), None);
    // Nor does a new place do for the old one.
    put(&locks, place, "{}").await;
    assert_eq!(locks.acquire_from(&claim, &before, places).await.unwrap(), None);
    assert!(locks.holding(claim.groups(), &claim.machine).await.unwrap().is_empty());
}
