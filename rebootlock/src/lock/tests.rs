use std::sync::Arc;

use super::*;
use crate::id::Token;
use crate::record::{Claim, HolderState, Via};
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

    let freed = locks
        .release(claim.groups(), &claim.machine, &Release::of(claim.token, Ended::GivenBack))
        .await
        .unwrap();
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

    locks.release(&[group("lb")], &machine("a"), &Release::by_operator("eve")).await.unwrap();
    assert_eq!(locks.acquire(&both).await.unwrap(), Acquired::Granted);
    // Freeing one group frees what was taken together with it.
    locks.release(&[group("lb")], &machine("b"), &Release::by_operator("eve")).await.unwrap();
    assert_eq!(locks.status(&group("rack-7")).await.unwrap().semaphore.available(), 1);
}

#[tokio::test]
async fn a_pause_keeps_everybody_new_out_and_nobody_in() {
    let locks = manager();
    let held = claim("a", &["lb"]);
    locks.acquire(&held).await.unwrap();
    let pause = Pause {
        by: "eve".into(),
        reason: None,
        since: UnixTime(1),
        until: None,
        unknown: Default::default(),
    };
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
    locks.release(&[group("lb")], &machine("a"), &Release::by_operator("eve")).await.unwrap();
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
    locks.release(&[], &machine("a"), &Release::by_operator("eve")).await.unwrap();
    locks.acquire(&claim("a", &[])).await.unwrap();
    assert!(matches!(ask(held.token).await, Err(LockError::NotOurs { .. })));
    let freed = locks
        .release(&[], &machine("a"), &Release::of(held.token, Ended::GivenBack))
        .await
        .unwrap();
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
        locks
            .release(&[], &machine("a"), &Release::of(ours.token, Ended::GivenBack))
            .await
            .unwrap(),
        Released::Freed(_)
    ));
}

#[tokio::test]
async fn a_leftover_record_is_replaced_or_removed_but_frees_nothing() {
    let locks = manager();
    let holder = locks.keys().holder(&Group::default(), &machine("a"));
    put(&locks, holder.clone(), r#"{"machineID":"a","startTime":1}"#).await;
    assert_eq!(
        locks.release(&[], &machine("a"), &Release::by_operator("eve")).await.unwrap(),
        Released::NotHeld
    );
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
            locks.release(&[], &ours.machine, &Release::by_operator("eve")).await,
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

fn hold(until: Option<i64>) -> Hold {
    Hold {
        by: "eve".into(),
        reason: Some("disk".into()),
        since: UnixTime(1000),
        until: until.map(UnixTime),
        unknown: Default::default(),
    }
}

fn verified(claim: &Claim) -> Release {
    let boot = crate::id::BootId::new("11111111-2222-3333-4444-555555555555").unwrap();
    Release::of(claim.token, Ended::Verified { boot })
}

fn cooling(locks: LockManager, group: &Group, secs: u64) -> LockManager {
    locks.with_cooldowns([(group.clone(), Duration::from_secs(secs))].into())
}

#[tokio::test(start_paused = true)]
async fn a_held_machine_takes_no_slot_and_gets_no_permit_but_keeps_what_it_has() {
    let locks = manager();
    let (held, other) = (claim("a", &[]), claim("b", &["lb"]));
    locks.acquire(&held).await.unwrap();
    locks.hold(&held.machine, &hold(Some(1600))).await.unwrap();
    let permit = Advance::permit(UnixTime(9));
    let refused = locks.advance(held.groups(), &held.machine, held.token, &permit).await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        "a is held by eve until 1970-01-01T00:26:40Z: disk"
    );
    // It may go on with anything else, and nobody else is concerned.
    let draining = Advance::to(HolderState::Draining);
    locks.advance(held.groups(), &held.machine, held.token, &draining).await.unwrap();
    locks.acquire(&other).await.unwrap();
    let given_back = Release::of(held.token, Ended::GivenBack);
    locks.release(held.groups(), &held.machine, &given_back).await.unwrap();
    assert!(matches!(locks.acquire(&held).await, Err(LockError::Held { hold: Some(_), .. })));
    assert_eq!(locks.status(&Group::default()).await.unwrap().held.len(), 1);
    // The store's clock ends it.
    tokio::time::advance(Duration::from_secs(601)).await;
    locks.acquire(&held).await.unwrap();
    assert_eq!(locks.unhold(&held.machine).await.unwrap(), Unheld::NotHeld);
    // Who has the permit goes down all the same.
    locks.advance(held.groups(), &held.machine, held.token, &permit).await.unwrap();
    locks.hold(&held.machine, &hold(None)).await.unwrap();
    locks.advance(held.groups(), &held.machine, held.token, &permit).await.unwrap_err();
    locks.release(&[], &held.machine, &verified(&held)).await.unwrap();
    assert_eq!(locks.unhold(&held.machine).await.unwrap(), Unheld::Ended(Some(hold(None))));
}

#[tokio::test]
async fn an_unreadable_hold_holds() {
    let locks = manager();
    put(&locks, locks.keys().hold(&machine("a")), "?").await;
    let refused = locks.acquire(&claim("a", &[])).await.unwrap_err();
    assert_eq!(refused.to_string(), "a is held (by whom cannot be read)");
    assert_eq!(locks.unhold(&machine("a")).await.unwrap(), Unheld::Ended(None));
}

#[tokio::test(start_paused = true)]
async fn a_pause_with_an_end_ends_and_one_that_replaces_it_does_not() {
    let locks = manager();
    let pause = |until: Option<i64>| Pause {
        by: "eve".into(),
        reason: None,
        since: UnixTime(100),
        until: until.map(UnixTime),
        unknown: Default::default(),
    };
    locks.pause(&Scope::Fleet, &pause(Some(160))).await.unwrap();
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(matches!(locks.acquire(&claim("a", &[])).await, Err(LockError::Paused { .. })));
    tokio::time::advance(Duration::from_secs(2)).await;
    locks.acquire(&claim("a", &[])).await.unwrap();
    locks.pause(&Scope::Fleet, &pause(Some(160))).await.unwrap();
    locks.pause(&Scope::Fleet, &pause(None)).await.unwrap();
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!(matches!(locks.acquire(&claim("b", &["lb"])).await, Err(LockError::Paused { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_group_cools_down_after_a_reboot_and_only_after_one() {
    let lb = group("lb");
    let locks = cooling(manager(), &lb, 600);
    let (first, second) = (claim("a", &["lb", "rack-7"]), claim("b", &["lb"]));
    for ended in [Ended::GivenBack, Ended::Unlocked { by: "eve".into() }, Ended::ExecEnded] {
        locks.acquire(&first).await.unwrap();
        let release = Release::of(first.token, ended);
        locks.release(&[], &first.machine, &release).await.unwrap();
        locks.release(std::slice::from_ref(&lb), &first.machine, &release).await.unwrap();
        assert_eq!(locks.status(&lb).await.unwrap().cooldown, None, "{release:?}");
    }
    locks.acquire(&first).await.unwrap();
    // Whoever names one of its groups frees all of them, and each cools down that has to.
    locks.release(&[group("rack-7")], &first.machine, &verified(&first)).await.unwrap();
    let refused = locks.acquire(&second).await.unwrap_err();
    let LockError::CoolingDown { group, cooldown: Some(cooldown), .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!((group, cooldown.name(), cooldown.secs), (&lb, "a", 600));
    assert!(refused.to_string().ends_with(" s after the reboot of a"), "{refused}");
    assert_eq!(locks.acquire(&claim("c", &["rack-7"])).await.unwrap(), Acquired::Granted);
    tokio::time::advance(Duration::from_secs(601)).await;
    assert_eq!(locks.acquire(&second).await.unwrap(), Acquired::Granted);
}

#[tokio::test]
async fn an_unreadable_cooldown_cools_down() {
    let locks = manager();
    put(&locks, locks.keys().cooldown(&Group::default()), "?").await;
    let refused = locks.acquire(&claim("a", &[])).await.unwrap_err();
    assert_eq!(refused.to_string(), "group default cools down (since whose reboot cannot be read)");
}

async fn told(locks: &LockManager, groups: &[Group]) -> Vec<String> {
    let history = locks.history(groups, None).await.unwrap();
    let tell = |entry: Remembered| match entry.past {
        Ok(past) => format!("{} {}", past.machine_id, past.ended),
        Err(_) => "unreadable".to_owned(),
    };
    history.into_iter().map(tell).collect()
}

#[tokio::test]
async fn what_came_to_something_is_remembered_in_every_group_and_told_once() {
    let locks = manager();
    let groups = [group("lb"), group("rack-7")];
    let given_back = |claim: &Claim| Release::of(claim.token, Ended::GivenBack);
    let nothing = claim("nothing", &["lb", "rack-7"]);
    locks.acquire(&nothing).await.unwrap();
    locks.release(nothing.groups(), &nothing.machine, &given_back(&nothing)).await.unwrap();
    assert_eq!(told(&locks, &groups).await, [""; 0]);

    let stayed = claim("stayed", &["lb", "rack-7"]);
    locks.acquire(&stayed).await.unwrap();
    let permit = Advance::permit(UnixTime(9));
    locks.advance(stayed.groups(), &stayed.machine, stayed.token, &permit).await.unwrap();
    locks.release(stayed.groups(), &stayed.machine, &given_back(&stayed)).await.unwrap();
    let back = claim("back", &["lb"]);
    locks.acquire(&back).await.unwrap();
    locks.advance(back.groups(), &back.machine, back.token, &permit).await.unwrap();
    let mut again = back.clone();
    again.token = Token::random();
    let held = locks.holding(back.groups(), &back.machine).await.unwrap();
    let record = held[&groups[0]].clone().unwrap();
    locks.adopt(&again, Some(&record), HolderState::Verifying).await.unwrap();
    locks.release(back.groups(), &back.machine, &verified(&again)).await.unwrap();
    let exec = claim("exec", &["rack-7"]);
    locks.acquire(&exec).await.unwrap();
    let ended = Release::of(exec.token, Ended::ExecEnded);
    locks.release(exec.groups(), &exec.machine, &ended).await.unwrap();
    // A slot without a record, as locksmith takes it.
    let place = locks.keys().semaphore(&groups[1]);
    put(&locks, place, r#"{"semaphore":0,"max":1,"holders":["old"]}"#).await;
    let freed = locks.release(&groups[1..], &machine("old"), &Release::by_operator("eve")).await;
    assert_eq!(freed.unwrap(), Released::Freed(None));

    let all = ["stayed given-back", "back verified", "exec exec-ended", "old unlocked"];
    assert_eq!(told(&locks, &groups).await, all);
    assert_eq!(told(&locks, &groups[..1]).await, all[..2]);
    let history = locks.history(&groups, None).await.unwrap();
    let pasts: Vec<_> = history.into_iter().map(|entry| entry.past.unwrap()).collect();
    assert_eq!(pasts[0].groups, ["lb", "rack-7"]);
    // It had the permit, but was never down.
    assert!(pasts[0].down_since.is_some() && pasts[0].down_secs().is_none());
    assert!(pasts[1].down_secs().is_some() && pasts[1].new_boot_id.is_some());
    assert_eq!((pasts[3].by.as_deref(), pasts[3].start_time), (Some("eve"), None));
    let later = pasts[3].ended_at.plus_seconds(1);
    assert!(locks.history(&groups, Some(later)).await.unwrap().is_empty());
}

#[tokio::test]
async fn history_keeps_the_newest_whatever_their_clocks_said() {
    let locks = manager();
    let key = |start| locks.keys().past(&Group::default(), UnixTime(start), Token::random());
    for n in 0..250 {
        // Clocks that run backwards.
        put(&locks, key(1000 - n), "?").await;
    }
    let groups = [Group::default()];
    assert_eq!(locks.trim_history(&groups).await.unwrap(), 0);
    let (one, two) =
        tokio::join!(locks.trim_history_to(&groups, 20), locks.trim_history_to(&groups, 20));
    assert!(one.unwrap() + two.unwrap() >= 230);
    let left = locks.history(&groups, None).await.unwrap();
    assert_eq!(left.len(), 20);
    assert!(left.iter().all(|entry| entry.key < key(1000 - 229)), "{left:?}");
}

#[tokio::test]
async fn enrolling_writes_once_and_keeps_when_the_machine_came_first() {
    let locks = manager();
    let (a, lb) = (machine("a"), group("lb"));
    locks.enrol(&a, Some("web-1"), std::slice::from_ref(&lb)).await.unwrap();
    let key = locks.keys().roster_entry(&a);
    let first = locks.store().load(std::slice::from_ref(&key)).await.unwrap();
    locks.enrol(&a, Some("web-1"), std::slice::from_ref(&lb)).await.unwrap();
    assert_eq!(locks.store().load(std::slice::from_ref(&key)).await.unwrap(), first);
    put(&locks, key.clone(), r#"{"machineID":"a","groups":["lb"],"firstSeen":7,"mood":1}"#).await;
    locks.enrol(&a, Some("web-1"), &[group("db"), lb]).await.unwrap();
    assert_eq!(
        value(&locks, &key).await.unwrap(),
        r#"{"machineID":"a","hostname":"web-1","groups":["db","lb"],"firstSeen":7,"mood":1}"#
    );
    put(&locks, key.clone(), "?").await;
    assert!(matches!(locks.enrol(&a, None, &[]).await, Err(LockError::Damaged { .. })));
    assert_eq!(value(&locks, &key).await.as_deref(), Some("?"));
}

#[tokio::test]
async fn the_fleet_is_the_roster_the_present_and_what_they_hold() {
    let locks = manager();
    let lb = group("lb");
    for name in ["away", "down", "there"] {
        locks.enrol(&machine(name), None, std::slice::from_ref(&lb)).await.unwrap();
    }
    let text = r#"{"machineID":"there","groups":["lb"],"state":"idle","stateSince":1,"health":{"healthy":true,"checkedAt":1}}"#;
    put(&locks, locks.keys().machine(&machine("there")), text).await;
    put(&locks, locks.keys().machine(&machine("odd")), "?").await;
    let down = claim("down", &["lb"]);
    locks.acquire(&down).await.unwrap();
    let permit = Advance::permit(UnixTime(9));
    locks.advance(down.groups(), &down.machine, down.token, &permit).await.unwrap();
    let fleet = locks.fleet(&[lb]).await.unwrap();
    let standing = |name| fleet.members[&machine(name)].standing(UnixTime(9));
    use crate::health::{Sickness, Standing};
    assert_eq!(fleet.members.len(), 4);
    assert_eq!(standing("there"), Standing::Healthy);
    assert_eq!(standing("down"), Standing::Leaving);
    assert_eq!(standing("away"), Standing::Unhealthy(Sickness::Missing));
    assert_eq!(standing("odd"), Standing::Unhealthy(Sickness::Unreadable));
}

#[tokio::test]
async fn only_who_is_gone_is_forgotten_and_never_a_slot() {
    let locks = manager();
    let (a, lb) = (machine("a"), group("lb"));
    assert_eq!(locks.forget(&a, false).await.unwrap(), Forgetting::Unknown);
    locks.enrol(&a, None, std::slice::from_ref(&lb)).await.unwrap();
    locks.acquire(&claim("a", &["lb"])).await.unwrap();
    for even_if_present in [false, true] {
        let refused = locks.forget(&a, even_if_present).await.unwrap();
        assert_eq!(refused, Forgetting::Holds(vec![lb.clone()]));
    }
    locks.release(std::slice::from_ref(&lb), &a, &Release::by_operator("eve")).await.unwrap();
    let present = locks.keys().machine(&a);
    put(&locks, present.clone(), "{}").await;
    assert_eq!(locks.forget(&a, false).await.unwrap(), Forgetting::Present);
    locks.hold(&a, &hold(None)).await.unwrap();
    put(&locks, locks.keys().request(&a), "{}").await;
    put(&locks, locks.keys().waiter(&lb, &a), "{}").await;
    put(&locks, locks.keys().disruption(&a), "?").await;
    let gone = Forgotten {
        roster: true,
        request: true,
        hold: true,
        disruption: true,
        places: vec![lb],
        presence: true,
    };
    assert_eq!(locks.forget(&a, true).await.unwrap(), Forgetting::Done(gone));
    assert_eq!(locks.forget(&a, false).await.unwrap(), Forgetting::Unknown);
}

/// Written by hand, or by a restore: no lease ever ends it, and it blocks everybody.
#[tokio::test]
async fn a_record_that_no_agent_keeps_can_be_forgotten() {
    let locks = manager();
    let old = r#"{"machineID":"a","state":"idle","stateSince":1,
                  "health":{"healthy":true,"checkedAt":1551398400}}"#;
    for text in ["{{{", old] {
        let a = machine("a");
        put(&locks, locks.keys().machine(&a), text).await;
        assert_eq!(locks.forget(&a, false).await.unwrap(), Forgetting::Present);
        let gone = Forgotten { presence: true, ..Forgotten::default() };
        assert_eq!(locks.forget(&a, true).await.unwrap(), Forgetting::Done(gone));
        assert!(locks.fleet(&[Group::default()]).await.unwrap().members.is_empty());
        assert_eq!(locks.forget(&a, true).await.unwrap(), Forgetting::Unknown);
    }
}

/// Else it would get another slot at once, as long as its wish lasts.
#[tokio::test]
async fn unlocking_a_client_of_disruption_manager_ends_its_wish() {
    let locks = manager();
    let a = machine("a");
    for (via, release, stays) in [
        (Via::DisruptionManager, Ended::Unlocked { by: "eve".to_owned() }, false),
        (Via::DisruptionManager, Ended::Steady, true),
        (Via::Ctl, Ended::Unlocked { by: "eve".to_owned() }, true),
    ] {
        let wish = [locks.keys().disruption(&a), locks.keys().disruption_timer(&a)];
        for key in &wish {
            put(&locks, key.clone(), "{}").await;
        }
        let claim = Claim::new(a.clone(), [], via);
        locks.acquire(&claim).await.unwrap();
        let release = Release { token: None, ended: release };
        let freed = locks.release(claim.groups(), &a, &release).await.unwrap();
        assert!(matches!(freed, Released::Freed(_)), "{freed:?}");
        for key in wish {
            assert_eq!(value(&locks, &key).await.is_some(), stays, "{key}");
        }
    }
}

/// A record without its place in the semaphore is a leftover; but who writes one at this moment, by
/// whatever program, is not to be overwritten unseen.
#[tokio::test]
async fn an_acquisition_loses_when_a_record_it_was_decided_on_has_changed() {
    let (locks, claim) = (manager(), claim("a", &["lb"]));
    let holder = locks.keys().holder(&group("lb"), &claim.machine);
    let keys = locks.keys_of(claim.groups(), &claim.machine);
    let before = locks.store().load(&keys).await.unwrap();
    put(&locks, holder.clone(), "{}").await;
    assert_eq!(locks.acquire_from(&claim, &before, []).await.unwrap(), None);
    let now = locks.store().load(std::slice::from_ref(&holder)).await.unwrap();
    assert_eq!(now.get(&holder).unwrap().value, b"{}");
}

#[tokio::test]
async fn a_slot_in_some_groups_is_not_taken_from_under_whoever_has_it() {
    let (locks, first, second) = (manager(), claim("a", &["lb"]), claim("a", &["lb", "rack-7"]));
    locks.acquire(&first).await.unwrap();
    let Acquired::Already(Some(record)) = locks.acquire(&second).await.unwrap() else {
        panic!("taken");
    };
    assert_eq!(record.token, Some(first.token));
    let held = locks.holding(second.groups(), &second.machine).await.unwrap();
    assert_eq!(held.into_keys().collect::<Vec<_>>(), [group("lb")]);
    // Nor a place of which no record says whose it is.
    let semaphore = r#"{"semaphore":0,"max":1,"holders":["b"]}"#;
    put(&locks, locks.keys().semaphore(&group("old")), semaphore).await;
    let both = claim("b", &["lb-2", "old"]);
    assert_eq!(locks.acquire(&both).await.unwrap(), Acquired::Already(None));
    assert!(locks.status(&group("lb-2")).await.unwrap().holders.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_begins_though_the_answer_to_the_release_gets_lost() {
    let store = Arc::new(crate::store::Forgetful::default());
    let locks = LockManager::new(store.clone(), Keyspace::default());
    let (locks, first) = (cooling(locks, &group("lb"), 600), claim("a", &["lb"]));
    locks.acquire(&first).await.unwrap();
    store.forget(1);
    let released = locks.release(first.groups(), &first.machine, &verified(&first)).await.unwrap();
    assert!(matches!(released, Released::Freed(Some(_))), "{released:?}");
    let next = locks.acquire(&claim("b", &["lb"])).await.unwrap_err();
    assert!(matches!(next, LockError::CoolingDown { .. }), "{next}");
}

/// What passes it on sends it twice, and the second loses to the first.
#[tokio::test(start_paused = true)]
async fn a_cooldown_begins_though_the_release_lost_to_itself() {
    let store = Arc::new(crate::store::Forgetful::default());
    let locks = LockManager::new(store.clone(), Keyspace::default());
    let (locks, first) = (cooling(locks, &group("lb"), 600), claim("a", &["lb"]));
    locks.acquire(&first).await.unwrap();
    store.repeat(locks.keys().semaphore(&group("lb")));
    locks.release(first.groups(), &first.machine, &verified(&first)).await.unwrap();
    assert!(store.is_done());
    let next = locks.acquire(&claim("b", &["lb"])).await.unwrap_err();
    assert!(matches!(next, LockError::CoolingDown { .. }), "{next}");
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

#[tokio::test]
async fn a_record_is_rewritten_by_its_holder_alone_and_an_old_token_ends_nothing() {
    let locks = manager();
    let (first, second) = (claim("a", &[]), Token::random());
    locks.acquire(&first).await.unwrap();
    let (group, machine) = (Group::default(), first.machine.clone());
    let reason = |record: &mut HolderRecord| record.reason = Some("x".into());
    let written = locks.rewrite(&group, &machine, first.token, reason).await.unwrap();
    assert_eq!(written.reason.as_deref(), Some("x"));
    let written = locks.rewrite_as(&group, &machine, first.token, second, |_| {}).await.unwrap();
    assert_eq!((written.token, written.reason.as_deref()), (Some(second), Some("x")));
    // Asking again after a lost reply.
    locks.rewrite_as(&group, &machine, first.token, second, |_| {}).await.unwrap();
    let error = locks.rewrite(&group, &machine, first.token, reason).await.unwrap_err();
    assert!(matches!(error, LockError::NotOurs { .. }), "{error}");
    let release = |token| Release::of(token, Ended::Steady);
    let released = locks.release(&[], &machine, &release(first.token)).await.unwrap();
    assert_eq!(released, Released::NotHeld);
    let released = locks.release(&[], &machine, &release(second)).await.unwrap();
    assert!(matches!(released, Released::Freed(Some(_))));
    let error = locks.rewrite(&group, &machine, second, reason).await.unwrap_err();
    assert!(matches!(error, LockError::NotOurs { .. }), "{error}");
}
