use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::keys::Keyspace;
use crate::lock::{Ended, Release, Scope};
use crate::queue::Queue;
use crate::record::{Document, Hold, Pause, Via};
use crate::semaphore::Semaphore;
use crate::store::{Forgetful, MemoryStore, SharedStore, Span, SqliteStore, Store as _};

mod late;

fn claim(name: &str, groups: &[&str]) -> Claim {
    let groups: Vec<_> = groups.iter().map(|name| Group::new(*name).unwrap()).collect();
    Claim::new(MachineId::new(name).unwrap(), groups, Via::Agent)
}

/// No poll: what is not heard of is never found.
fn options() -> WaitOptions {
    WaitOptions { lease: Duration::from_secs(5), poll: Duration::from_secs(100_000) }
}

fn manager() -> (MemoryStore, LockManager) {
    let store = MemoryStore::new();
    (store.clone(), LockManager::new(Arc::new(store), Keyspace::default()))
}

async fn in_queue(locks: &LockManager, count: usize) {
    let queue = locks.keys().queue(&Group::default());
    let mut changes = locks.store().watch(&Span::Below(queue.clone()), Revision(0));
    loop {
        let now = locks.store().list(&queue, Select::All).await.unwrap();
        if Queue::of(&now).len() == count {
            return;
        }
        changes.next().await;
    }
}

async fn release(locks: &LockManager, claim: &Claim) {
    locks
        .release(claim.groups(), &claim.machine, &Release::of(claim.token, Ended::GivenBack))
        .await
        .unwrap();
}

/// Every machine waits, does its reboot and gives the slot back; `max` is checked at every
/// revision afterwards.
async fn drain(store: SharedStore, machines: u32, max: u32, groups: &'static [&'static str]) {
    let locks = LockManager::new(store, Keyspace::default());
    for group in groups {
        locks.set_max(&Group::new(*group).unwrap(), max).await.unwrap();
    }
    let down = Arc::new(AtomicU32::new(0));
    let waiting: Vec<_> = (0..machines)
        .map(|n| {
            let (locks, down) = (locks.clone(), down.clone());
            tokio::spawn(async move {
                let claim = claim(&format!("m{n}"), groups);
                let mut waiting = Waiting::start(locks.clone(), claim.clone(), options());
                assert_eq!(waiting.granted().await, Acquired::Granted);
                assert!(!waiting.is_unsettled(), "who lost to another has seen it");
                assert!(down.fetch_add(1, Ordering::SeqCst) < max);
                tokio::task::yield_now().await;
                down.fetch_sub(1, Ordering::SeqCst);
                release(&locks, &claim).await;
            })
        })
        .collect();
    for waiting in waiting {
        waiting.await.unwrap();
    }
    for group in groups {
        let status = locks.status(&Group::new(*group).unwrap()).await.unwrap();
        assert!(status.holders.is_empty() && status.queue.is_empty(), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_through_and_the_limit_holds_at_every_revision() {
    for (machines, max) in [(40, 1), (40, 3)] {
        let store = MemoryStore::new();
        drain(Arc::new(store.clone()), machines, max, &["default"]).await;
        let semaphore = Keyspace::default().semaphore(&Group::default());
        for (revision, _, entry) in store.log(&semaphore) {
            let semaphore = Semaphore::from_json(&entry.unwrap().value).unwrap();
            assert!(semaphore.available() >= 0, "at revision {revision}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_in_two_groups_do_not_deadlock() {
    drain(Arc::new(MemoryStore::new()), 20, 1, &["lb", "rack-7"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_works_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("db"), Duration::from_secs(5)).unwrap();
    drain(Arc::new(store), 20, 2, &["lb", "rack-7"]).await;
}

#[tokio::test(start_paused = true)]
async fn the_one_that_came_first_goes_first() {
    let (_store, locks) = manager();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..30_usize {
        let claim = claim(&format!("m{:02}", 99 - n), &[]);
        waiting.push((claim.clone(), Waiting::start(locks.clone(), claim, options())));
        in_queue(&locks, n + 1).await;
    }
    release(&locks, &holder).await;
    for (claim, mut waiting) in waiting {
        assert_eq!(waiting.granted().await, Acquired::Granted);
        release(&locks, &claim).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_higher_priority_goes_before_those_who_came_earlier() {
    let (_store, locks) = manager();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let early = claim("early", &[]);
    let mut late = claim("late", &[]);
    late.priority = 1;
    let mut first = Waiting::start(locks.clone(), early, options());
    in_queue(&locks, 1).await;
    let mut second = Waiting::start(locks.clone(), late.clone(), options());
    in_queue(&locks, 2).await;
    release(&locks, &holder).await;
    second.granted().await;
    assert!(matches!(first.obstacle(), Obstacle::Queued { .. }));
    release(&locks, &late).await;
    first.granted().await;
}

#[tokio::test(start_paused = true)]
async fn who_dies_while_waiting_is_passed_over_when_its_lease_ends() {
    let (_store, locks) = manager();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let dead = Waiting::start(locks.clone(), claim("dead", &[]), options());
    in_queue(&locks, 1).await;
    let mut alive = Waiting::start(locks.clone(), claim("alive", &[]), options());
    in_queue(&locks, 2).await;
    drop(dead);
    release(&locks, &holder).await;
    alive.granted().await;
}

#[tokio::test(start_paused = true)]
async fn leaving_takes_the_place_away_at_once() {
    let (_store, locks) = manager();
    locks.acquire(&claim("holder", &[])).await.unwrap();
    let mut waiting = Waiting::start(locks.clone(), claim("a", &[]), options());
    in_queue(&locks, 1).await;
    assert_eq!(waiting.leave().await, None);
    assert!(!waiting.is_unsettled());
    assert!(locks.status(&Group::default()).await.unwrap().queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pause_empties_the_queue_and_its_end_fills_it() {
    let (_store, locks) = manager();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let mut waiting = Waiting::start(locks.clone(), claim("a", &[]), options());
    in_queue(&locks, 1).await;
    let pause = Pause {
        by: "eve".into(),
        reason: None,
        since: UnixTime(1),
        until: None,
        unknown: Default::default(),
    };
    locks.pause(&Scope::Fleet, &pause).await.unwrap();
    in_queue(&locks, 0).await;
    release(&locks, &holder).await;
    while !matches!(waiting.obstacle(), Obstacle::Paused { .. }) {
        waiting.changed().await;
    }
    locks.resume(&Scope::Fleet).await.unwrap();
    waiting.granted().await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_place_is_gone_takes_a_new_one_before_it_takes_a_slot() {
    let (_store, locks) = manager();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let mut frozen = Waiting::start(locks.clone(), claim("frozen", &[]), options());
    in_queue(&locks, 1).await;
    let mut other = Waiting::start(locks.clone(), claim("other", &[]), options());
    in_queue(&locks, 2).await;
    // What the end of a lease does to a frozen waiter.
    let place = locks.keys().waiter(&Group::default(), &MachineId::new("frozen").unwrap());
    locks.store().commit(&Txn::new().delete(place)).await.unwrap();
    in_queue(&locks, 2).await;
    release(&locks, &holder).await;
    assert_eq!(other.granted().await, Acquired::Granted);
    assert!(!matches!(frozen.obstacle(), Obstacle::Failing { .. }));
    release(&locks, &claim("other", &[])).await;
    locks
        .release(&[], &MachineId::new("other").unwrap(), &Release::by_operator("eve"))
        .await
        .unwrap();
    frozen.granted().await;
}

#[tokio::test(start_paused = true)]
async fn damage_is_waited_out_and_named() {
    let (_store, locks) = manager();
    let place = locks.keys().semaphore(&Group::default());
    locks.store().commit(&Txn::new().put(place.clone(), b"{".to_vec())).await.unwrap();
    let mut waiting = Waiting::start(locks.clone(), claim("a", &[]), options());
    waiting.changed().await;
    let Obstacle::Failing { why, out_of_reach: false } = waiting.obstacle() else { panic!() };
    assert!(why.contains("not valid JSON") && why.contains("rebootlockctl repair"), "{why}");
    let mended = Semaphore::default().to_json();
    locks.store().commit(&Txn::new().put(place, mended)).await.unwrap();
    waiting.granted().await;
}

#[tokio::test(start_paused = true)]
async fn two_processes_that_wait_for_one_machine_do_not_fight_at_full_speed() {
    let (store, locks) = manager();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let mut first = Waiting::start(locks.clone(), claim("twin", &[]), options());
    in_queue(&locks, 1).await;
    let mut second = Waiting::start(locks.clone(), claim("twin", &[]), options());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let places = store.log(&locks.keys().queue(&Group::default())).len();
    assert!(places < 120, "{places} changes of one place in a minute");
    release(&locks, &holder).await;
    let (one, two) = tokio::join!(first.granted(), second.granted());
    let granted = |acquired: &Acquired| *acquired == Acquired::Granted;
    assert_eq!([&one, &two].into_iter().filter(|a| granted(a)).count(), 1, "{one:?} {two:?}");
}

#[tokio::test(start_paused = true)]
async fn places_of_an_earlier_life_can_be_taken_away() {
    let (store, locks) = manager();
    locks.acquire(&claim("holder", &[])).await.unwrap();
    drop(Waiting::start(locks.clone(), claim("a", &[]), options()));
    let waiting = Waiting::start(locks.clone(), claim("a", &[]), options());
    in_queue(&locks, 1).await;
    drop(waiting);
    let a = MachineId::new("a").unwrap();
    forget_places(&locks, &[Group::default()], &a).await.unwrap();
    assert!(locks.status(&Group::default()).await.unwrap().queue.is_empty());
    let before = store.log(&locks.keys().queue(&Group::default())).len();
    forget_places(&locks, &[Group::default()], &a).await.unwrap();
    assert_eq!(store.log(&locks.keys().queue(&Group::default())).len(), before);
}

fn hold(until: Option<i64>) -> Hold {
    let until = until.map(UnixTime);
    Hold { by: "eve".into(), reason: None, since: UnixTime(0), until, unknown: Default::default() }
}

async fn until_held(waiting: &mut Waiting) {
    while !matches!(waiting.obstacle(), Obstacle::Held { .. }) {
        waiting.changed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_waiter_makes_way_and_comes_back_when_it_is_let_go() {
    let (store, locks) = manager();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let (held, other) = (claim("held", &[]), claim("other", &[]));
    let mut first = Waiting::start(locks.clone(), held.clone(), options());
    in_queue(&locks, 1).await;
    let mut second = Waiting::start(locks.clone(), other.clone(), options());
    in_queue(&locks, 2).await;
    locks.hold(&held.machine, &hold(None)).await.unwrap();
    until_held(&mut first).await;
    in_queue(&locks, 1).await;
    // Though others queue it stays out, and does not try again and again.
    let before = store.log(&locks.keys().queue(&Group::default())).len();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(store.log(&locks.keys().queue(&Group::default())).len(), before);
    release(&locks, &holder).await;
    assert_eq!(second.granted().await, Acquired::Granted);
    locks.unhold(&held.machine).await.unwrap();
    in_queue(&locks, 1).await;
    release(&locks, &other).await;
    assert_eq!(first.granted().await, Acquired::Granted);
}

#[tokio::test(start_paused = true)]
async fn who_is_held_does_not_enter_and_the_end_of_the_hold_is_heard() {
    let (_store, locks) = manager();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let _other = Waiting::start(locks.clone(), claim("other", &[]), options());
    in_queue(&locks, 1).await;
    let held = claim("held", &[]);
    locks.hold(&held.machine, &hold(Some(600))).await.unwrap();
    let mut waiting = Waiting::start(locks.clone(), held, options());
    until_held(&mut waiting).await;
    in_queue(&locks, 1).await;
    // Its lease ends, and nobody polls.
    in_queue(&locks, 2).await;
    assert!(!matches!(waiting.obstacle(), Obstacle::Held { .. }));
}

#[tokio::test(start_paused = true)]
async fn the_first_in_the_queue_goes_when_the_group_has_cooled_down_and_nobody_else_tries() {
    let (store, locks) = manager();
    let locks = locks.with_cooldowns([(Group::default(), Duration::from_secs(600))].into());
    let boot = crate::id::BootId::new("11111111-2222-3333-4444-555555555555").unwrap();
    let verified = |claim: &Claim| Release::of(claim.token, Ended::Verified { boot: boot.clone() });
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..12_usize {
        let claim = claim(&format!("m{:02}", 99 - n), &[]);
        waiting.push((claim.clone(), Waiting::start(locks.clone(), claim, options())));
        in_queue(&locks, n + 1).await;
    }
    locks.release(holder.groups(), &holder.machine, &verified(&holder)).await.unwrap();
    let queue = locks.keys().queue(&Group::default());
    let semaphore = locks.keys().semaphore(&Group::default());
    for (n, (claim, mut first)) in waiting.into_iter().enumerate().take(2) {
        let began = Instant::now();
        while !matches!(first.obstacle(), Obstacle::CoolingDown { .. }) {
            first.changed().await;
        }
        let before = store.log(&semaphore).len();
        assert_eq!(first.granted().await, Acquired::Granted);
        let waited = began.elapsed().as_secs();
        assert!((595..=601).contains(&waited), "after {waited} s");
        assert_eq!(store.log(&semaphore).len(), before + 1);
        in_queue(&locks, 11 - n).await;
        // They all kept their places.
        assert_eq!(store.log(&queue).len(), 12 + n + 1);
        locks.release(claim.groups(), &claim.machine, &verified(&claim)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_a_group_cools_down_queues() {
    let (_store, locks) = manager();
    let cooldown = locks.keys().cooldown(&Group::default());
    let text = br#"{"machineID":"a","since":1,"secs":600}"#;
    locks.store().commit(&Txn::new().put(cooldown.clone(), text.to_vec())).await.unwrap();
    let mut waiting = Waiting::start(locks.clone(), claim("b", &[]), options());
    in_queue(&locks, 1).await;
    while waiting.obstacle() == Obstacle::Asking {
        waiting.changed().await;
    }
    let Obstacle::CoolingDown { until, why, .. } = waiting.obstacle() else { panic!() };
    assert_eq!(until, Some(UnixTime(601)));
    assert_eq!(why, "group default cools down after the reboot of a");
    locks.store().commit(&Txn::new().delete(cooldown)).await.unwrap();
    waiting.granted().await;
}

#[tokio::test(start_paused = true)]
async fn who_moves_up_past_one_that_left_sees_those_who_stayed() {
    let (_store, locks) = manager();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..=FRONT + 1 {
        let claim = claim(&format!("m{n}"), &[]);
        waiting.push(Waiting::start(locks.clone(), claim, options()));
        in_queue(&locks, n + 1).await;
    }
    // The last one watches the second. All between the first and the last leave.
    for left in &mut waiting[1..=FRONT] {
        assert_eq!(left.leave().await, None);
    }
    let left = Instant::now();
    let last = &mut waiting[FRONT + 1];
    let second = Obstacle::Queued { group: Group::default(), ahead: Some(1) };
    while last.obstacle() != second {
        last.changed().await;
    }
    // Not at the next poll.
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_moves_up_through_a_fast_queue_lets_the_urgent_go_first() {
    for enters_after in 0..2 * FRONT {
        let (_store, locks) = manager();
        let mut before = claim("holder", &[]);
        locks.acquire(&before).await.unwrap();
        let mut urgent = claim("urgent", &[]);
        urgent.priority = 1;
        for (n, (claim, mut waiting)) in line(&locks, 3 * FRONT).await.into_iter().enumerate() {
            if n == enters_after {
                let mut first = Waiting::start(locks.clone(), urgent.clone(), options());
                in_queue(&locks, 3 * FRONT - n + 1).await;
                release(&locks, &before).await;
                let granted = tokio::time::timeout(Duration::from_secs(1), first.granted()).await;
                assert_eq!(granted, Ok(Acquired::Granted), "after {n}");
                before = urgent.clone();
            }
            release(&locks, &before).await;
            assert_eq!(waiting.granted().await, Acquired::Granted);
            before = claim;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_moves_up_is_not_kept_by_one_that_left_before_it_looked() {
    for ghost in 2..=FRONT {
        let (_store, locks) = manager();
        let mut before = claim("holder", &[]);
        locks.acquire(&before).await.unwrap();
        let mut line = line(&locks, FRONT + 2).await;
        // The last one watches the second, and does not hear of those between.
        assert_eq!(line[ghost].1.leave().await, None);
        line.remove(ghost);
        for (n, (claim, mut waiting)) in line.into_iter().enumerate() {
            release(&locks, &before).await;
            let released = Instant::now();
            assert_eq!(waiting.granted().await, Acquired::Granted);
            // Not when it looks for other reasons, after a second. At once if somebody was seen to overtake
            // the one that left, as all have but the one right behind it.
            let within = if n == ghost { 100 } else { 1 };
            let took = released.elapsed();
            assert!(took < Duration::from_millis(within), "{took:?} past {ghost}");
            before = claim;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_moves_up_does_not_overtake_one_that_it_has_never_seen() {
    let (_store, locks) = manager();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    // They ask now and then, and so do not take the slot when it becomes free.
    let asking: Vec<_> = (0..=FRONT).map(|n| claim(&format!("asking-{n}"), &[])).collect();
    for claim in &asking {
        locks.acquire_in_turn(claim, Duration::from_secs(330)).await.unwrap();
    }
    let leave = async |claim: &Claim| {
        forget_places(&locks, claim.groups(), &claim.machine).await.unwrap();
        // No time passes, but everybody hears of it.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    };
    let mut last = Waiting::start(locks.clone(), claim("last", &[]), options());
    in_queue(&locks, FRONT + 2).await;
    // It watches the second, and then knows of those after that one.
    leave(&asking[1]).await;
    for claim in &asking[2..] {
        leave(claim).await;
    }
    release(&locks, &holder).await;
    let granted = tokio::time::timeout(Duration::from_secs(1), last.granted()).await;
    assert!(granted.is_err(), "{granted:?} before its turn");
    assert_eq!(last.obstacle(), Obstacle::Queued { group: Group::default(), ahead: Some(1) });
    leave(&asking[0]).await;
    assert_eq!(last.granted().await, Acquired::Granted);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_late_delays_nobody() {
    let store = late::LateStore(MemoryStore::new());
    let locks = LockManager::new(Arc::new(store), Keyspace::default());
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let mut next = Waiting::start(locks.clone(), claim("next", &[]), options());
    let first = Obstacle::Queued { group: Group::default(), ahead: Some(0) };
    while next.obstacle() != first {
        next.changed().await;
    }
    let released = Instant::now();
    release(&locks, &holder).await;
    assert_eq!(next.granted().await, Acquired::Granted);
    assert!(released.elapsed() < late::LATE / 2, "{:?}", released.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_is_paused_stays_out_of_a_queue_that_others_stay_in() {
    let (_store, locks) = manager();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    // It asks now and then, and keeps its place during a pause.
    let asking = claim("asking", &[]);
    locks.acquire_in_turn(&asking, Duration::from_secs(330)).await.unwrap();
    let mut waiting = Waiting::start(locks.clone(), claim("agent", &[]), options());
    in_queue(&locks, 2).await;
    let scope = Scope::Fleet;
    let pause = Pause { by: "ann".to_owned(), ..hold(None) };
    locks.pause(&scope, &pause).await.unwrap();
    while !matches!(waiting.obstacle(), Obstacle::Paused { .. }) {
        waiting.changed().await;
    }
    in_queue(&locks, 1).await;
    let semaphore = Keyspace::default().semaphore(&Group::default());
    let before = locks.store().load(std::slice::from_ref(&semaphore)).await.unwrap().revision;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(matches!(waiting.obstacle(), Obstacle::Paused { .. }));
    let after = locks.store().load(std::slice::from_ref(&semaphore)).await.unwrap().revision;
    // The lease of its place ended at the most.
    assert!(after.0 <= before.0 + 1, "{before:?} {after:?}");
    locks.resume(&scope).await.unwrap();
    in_queue(&locks, 2).await;
}

fn forgetful() -> (Arc<Forgetful>, LockManager) {
    let store = Arc::new(Forgetful::default());
    (store.clone(), LockManager::new(store, Keyspace::default()))
}

/// So many that the last is far behind.
async fn line(locks: &LockManager, count: usize) -> Vec<(Claim, Waiting)> {
    let mut waiting = Vec::new();
    for n in 0..count {
        let claim = claim(&format!("m{n}"), &[]);
        waiting.push((claim.clone(), Waiting::start(locks.clone(), claim, options())));
        in_queue(locks, n + 1).await;
    }
    waiting
}

#[tokio::test(start_paused = true)]
async fn who_holds_without_knowing_finds_out_however_many_wait() {
    let (store, locks) = forgetful();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let waiting = line(&locks, FRONT + 3).await;
    store.forget_about(locks.keys().holder(&Group::default(), &waiting[0].0.machine));
    release(&locks, &holder).await;
    for (claim, mut waiting) in waiting {
        assert_eq!(waiting.granted().await, Acquired::Granted);
        release(&locks, &claim).await;
    }
    assert!(store.is_done());
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_for_in_vain_cannot_happen_behind_the_back_of_who_waits_again() {
    let (store, locks) = forgetful();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let waiting = line(&locks, FRONT + 3).await;
    store.delay(locks.keys().holder(&Group::default(), &waiting[0].0.machine));
    release(&locks, &holder).await;
    for (claim, mut waiting) in waiting {
        assert_eq!(waiting.granted().await, Acquired::Granted);
        release(&locks, &claim).await;
        assert!(store.is_done());
        // Too late.
        assert!(store.deliver().await.iter().all(|ended| *ended == Commit::Lost));
    }
}

/// However many there are, and however often they look.
#[tokio::test(start_paused = true)]
async fn who_is_far_behind_lists_no_queue_to_find_out_that_it_still_is() {
    let (store, locks) = forgetful();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let mut waiting = line(&locks, FRONT).await;
    let often = WaitOptions { poll: Duration::from_secs(1), ..options() };
    let last = claim("last", &[]);
    let mut behind = Waiting::start(locks.clone(), last.clone(), often);
    in_queue(&locks, FRONT + 1).await;
    while !matches!(behind.obstacle(), Obstacle::Queued { .. }) {
        behind.changed().await;
    }
    store.be_mute();
    let all_the_time = async {
        loop {
            behind.changed().await;
            assert!(
                matches!(behind.obstacle(), Obstacle::Queued { .. }),
                "{:?}",
                behind.obstacle()
            );
        }
    };
    let _: Result<(), _> = tokio::time::timeout(Duration::from_secs(30), all_the_time).await;
    store.answer_again();
    let mut before = holder;
    for (claim, waiting) in &mut waiting {
        release(&locks, &before).await;
        assert_eq!(waiting.granted().await, Acquired::Granted);
        before = claim.clone();
    }
    release(&locks, &before).await;
    assert_eq!(behind.granted().await, Acquired::Granted);
}

/// It has the slot, learns that somehow, and leaves before it can tell by which acquisition.
#[tokio::test(start_paused = true)]
async fn who_leaves_before_it_knows_what_it_holds_is_unsettled() {
    let (store, locks) = forgetful();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let (claim, mut waiting) = line(&locks, 1).await.remove(0);
    store.forget_about(locks.keys().holder(&Group::default(), &claim.machine));
    store.be_mute();
    release(&locks, &holder).await;
    while !locks
        .store()
        .list(&locks.keys().queue(&Group::default()), Select::All)
        .await
        .unwrap()
        .entries
        .is_empty()
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(waiting.is_unsettled());
    }
    assert_eq!(waiting.leave().await, None);
    assert!(waiting.is_unsettled());
    assert!(locks.settle_unanswered(claim.groups(), &claim.machine).await.unwrap());
}

/// What passes it on sends it twice, and the second loses to the first.
#[tokio::test(start_paused = true)]
async fn who_lost_to_itself_finds_out_that_it_holds() {
    let (store, locks) = forgetful();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let mut before = holder;
    for (claim, mut waiting) in line(&locks, FRONT + 3).await {
        store.repeat(locks.keys().holder(&Group::default(), &claim.machine));
        release(&locks, &before).await;
        assert_eq!(waiting.granted().await, Acquired::Granted);
        assert!(store.is_done() && !waiting.is_unsettled());
        before = claim;
    }
}

/// The same, but it leaves before it has seen anything of that.
#[tokio::test(start_paused = true)]
async fn who_leaves_after_a_loss_that_it_has_not_seen_is_unsettled() {
    let (store, locks) = forgetful();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let (claim, mut waiting) = line(&locks, 1).await.remove(0);
    store.repeat(locks.keys().holder(&Group::default(), &claim.machine));
    release(&locks, &holder).await;
    while !store.is_done() {
        tokio::task::yield_now().await;
    }
    let late = waiting.leave().await;
    assert!(late.is_some() || waiting.is_unsettled(), "the slot would be nobody's");
    assert!(locks.settle_unanswered(claim.groups(), &claim.machine).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_holds_a_slot_already_is_told_so_at_once_however_many_wait() {
    let (_store, locks) = manager();
    let holder = claim("holder", &[]);
    locks.acquire(&holder).await.unwrap();
    let waiting = line(&locks, FRONT + 3).await;
    for priority in [0, 1] {
        let mut again = claim("holder", &[]);
        again.priority = priority;
        let mut again = Waiting::start(locks.clone(), again, options());
        assert!(matches!(again.granted().await, Acquired::Already(Some(_))));
        // And with the very claim by which it has it.
        let mut same = Waiting::start(locks.clone(), holder.clone(), options());
        assert_eq!(same.granted().await, Acquired::Granted);
    }
    // The first of the line, whom an operator gives the slot, and who is not at its end again.
    release(&locks, &holder).await;
    let (first, mut granted) = waiting.into_iter().next().unwrap();
    assert_eq!(granted.granted().await, Acquired::Granted);
    release(&locks, &first).await;
}

/// A machine that died while it waited in one group comes back to wait in two, and another came
/// between: were it before the other in one queue and behind it in the other, each would wait for
/// the other for ever.
#[tokio::test(start_paused = true)]
async fn a_place_that_was_left_in_one_group_is_not_kept_when_two_are_entered() {
    let (store, locks) = manager();
    let groups = ["lb", "rack-7"];
    let holder = claim("holder", &groups);
    locks.acquire(&holder).await.unwrap();
    let lb = Group::new("lb").unwrap();
    let left = claim("back", &["lb"]);
    let lease = store.grant(Duration::from_secs(1000)).await.unwrap();
    let ticket = left.waiter(locks.now()).to_json();
    let place = locks.keys().waiter(&lb, &left.machine);
    locks.store().commit(&Txn::new().put_leased(place, ticket, lease)).await.unwrap();
    let order = async |group: &Group| -> Vec<String> {
        let queue = locks.status(group).await.unwrap().queue;
        queue.iter().map(|ticket| ticket.machine.to_string()).collect()
    };
    let mut queued = locks.store().watch(&Span::Below(locks.keys().queue(&lb)), Revision(0));
    let other = claim("other", &groups);
    let mut first = Waiting::start(locks.clone(), other.clone(), options());
    while order(&lb).await != ["back", "other"] {
        queued.next().await;
    }
    let back = claim("back", &groups);
    let mut second = Waiting::start(locks.clone(), back.clone(), options());
    for group in groups.map(|name| Group::new(name).unwrap()) {
        while order(&group).await != ["other", "back"] {
            queued.next().await;
        }
    }
    release(&locks, &holder).await;
    assert_eq!(first.granted().await, Acquired::Granted);
    release(&locks, &other).await;
    assert_eq!(second.granted().await, Acquired::Granted);
}
