use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use proptest::prelude::*;

use super::*;
use crate::keys::Keyspace;
use crate::lock::{Acquired, Release, Scope};
use crate::record::{Document, Hold, Pause};
use crate::store::{self, Change, LeaseId, MemoryStore, Revision, Span, Store, Txn, Watch};

const MEMORY: Duration = Duration::from_secs(330);

/// What happens to the next commit.
#[derive(Debug, Clone)]
enum Fault {
    /// It happens, and nobody hears of it.
    ReplyLost,
    /// It does not happen.
    RequestLost,
    /// Somebody else is faster.
    Overtaken(Txn),
    /// It is refused for good if it is about this key.
    RefusedWith(Key),
}

/// Counts what is asked of it, and goes wrong when told to.
#[derive(Debug, Clone, Default)]
struct Probe {
    inner: MemoryStore,
    reads: Arc<AtomicUsize>,
    commits: Arc<AtomicUsize>,
    kept_alive: Arc<AtomicUsize>,
    faults: Arc<Mutex<Vec<Fault>>>,
}

#[async_trait]
impl Store for Probe {
    async fn load(&self, keys: &[Key]) -> store::Result<Snapshot> {
        self.read(keys, &[]).await
    }

    async fn list(&self, prefix: &Key, select: Select) -> store::Result<Snapshot> {
        self.inner.list(prefix, select).await
    }

    async fn read(&self, keys: &[Key], below: &[(Key, Select)]) -> store::Result<Snapshot> {
        assert!(keys.len() + below.len() <= 128, "{} keys", keys.len());
        self.reads.fetch_add(1, SeqCst);
        self.inner.read(keys, below).await
    }

    async fn commit(&self, txn: &Txn) -> store::Result<Commit> {
        assert!(txn.preconditions.len() <= 128 && txn.changes.len() <= 128);
        let mut keys: Vec<_> = txn.changes.iter().map(Change::key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), txn.changes.len(), "no key is changed twice");
        self.commits.fetch_add(1, SeqCst);
        let unavailable = || Err(StoreError::Unavailable("probe".to_owned()));
        let fault = self.faults.lock().unwrap().pop();
        match fault {
            None => self.inner.commit(txn).await,
            Some(Fault::RequestLost) => unavailable(),
            Some(Fault::ReplyLost) => {
                self.inner.commit(txn).await?;
                unavailable()
            }
            Some(Fault::Overtaken(other)) => {
                self.inner.commit(&other).await?;
                self.inner.commit(txn).await
            }
            Some(Fault::RefusedWith(key)) => {
                self.faults.lock().unwrap().push(Fault::RefusedWith(key.clone()));
                match txn.changes.iter().any(|change| *change.key() == key) {
                    true => Err(StoreError::Forbidden(key.to_string())),
                    false => self.inner.commit(txn).await,
                }
            }
        }
    }

    fn watch(&self, span: &Span, after: Revision) -> Watch {
        self.inner.watch(span, after)
    }

    fn watch_from_now(&self, spans: &[Span]) -> Watch {
        self.inner.watch_from_now(spans)
    }

    async fn grant(&self, ttl: Duration) -> store::Result<LeaseId> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> store::Result<()> {
        self.kept_alive.fetch_add(1, SeqCst);
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> store::Result<()> {
        self.inner.revoke(lease).await
    }

    fn location(&self) -> String {
        "probe".to_owned()
    }
}

struct Rig {
    probe: Probe,
    locks: LockManager,
    left: Left,
}

impl Rig {
    fn new() -> Self {
        let probe = Probe::default();
        let locks = LockManager::new(Arc::new(probe.clone()), Keyspace::default());
        Self { probe, locks, left: Left::default() }
    }

    async fn with_slots(slots: u32) -> Self {
        let rig = Self::new();
        rig.locks.set_max(&Group::default(), slots).await.unwrap();
        rig
    }

    async fn settle(&mut self, wishes: &[Wish]) -> Vec<Result<Settled>> {
        self.locks.settle_together(&Group::default(), wishes, &mut self.left).await
    }

    /// What was asked of the store since the last call: reads and commits.
    fn asked(&self) -> (usize, usize) {
        (self.probe.reads.swap(0, SeqCst), self.probe.commits.swap(0, SeqCst))
    }

    fn fault(&self, fault: Fault) {
        self.probe.faults.lock().unwrap().push(fault);
    }

    async fn holders(&self) -> Vec<String> {
        let status = self.locks.status(&Group::default()).await.unwrap();
        let mut holders: Vec<_> = status.holders.iter().map(|h| h.machine.to_string()).collect();
        holders.sort();
        holders
    }
}

fn machine(name: &str) -> MachineId {
    MachineId::new(name).unwrap()
}

fn takes(name: &str) -> Wish {
    Wish::Acquire { claim: Claim::new(machine(name), [], Via::Fleetlock), memory: MEMORY }
}

fn gives(name: &str) -> Wish {
    Wish::GiveBack { machine: machine(name), via: Via::Fleetlock }
}

/// How it ended, in a word.
fn word(answer: &Result<Settled>) -> String {
    match answer {
        Ok(Settled::Turn(Turn::Granted(Acquired::Granted))) => "granted".to_owned(),
        Ok(Settled::Turn(Turn::Granted(Acquired::Already(_)))) => "already".to_owned(),
        Ok(Settled::Turn(Turn::Queued(queued))) => format!("queued {}", queued.ahead),
        Ok(Settled::GivenBack(GivenBack::Freed(_))) => "freed".to_owned(),
        Ok(Settled::GivenBack(GivenBack::NotHeld)) => "not held".to_owned(),
        Ok(Settled::GivenBack(GivenBack::Kept(_))) => "kept".to_owned(),
        Err(LockError::Paused { .. }) => "paused".to_owned(),
        Err(LockError::Held { .. }) => "held".to_owned(),
        Err(LockError::CoolingDown { .. }) => "cooling".to_owned(),
        Err(LockError::Damaged { .. }) => "damaged".to_owned(),
        Err(LockError::Store { .. }) => "store".to_owned(),
        Err(error) => panic!("{error}"),
    }
}

fn words(answers: &[Result<Settled>]) -> Vec<String> {
    answers.iter().map(word).collect()
}

#[tokio::test(start_paused = true)]
async fn many_wishes_cost_one_load_and_one_commit() {
    let mut rig = Rig::with_slots(3).await;
    rig.asked();
    let answers = rig.settle(&[takes("a"), takes("b"), gives("x"), takes("c"), takes("d")]).await;
    assert_eq!(words(&answers), ["granted", "granted", "not held", "granted", "queued 0"]);
    assert_eq!(rig.asked(), (1, 1));
    // Given back and taken in one.
    let answers = rig.settle(&[takes("d"), takes("e"), gives("b"), takes("a")]).await;
    assert_eq!(words(&answers), ["granted", "queued 0", "freed", "already"]);
    assert_eq!(rig.asked(), (1, 1));
    assert_eq!(rig.holders().await, ["a", "c", "d"]);
    // Nothing to write, nothing written.
    let answers = rig.settle(&[takes("a"), takes("c"), gives("y"), takes("e")]).await;
    assert_eq!(words(&answers), ["already", "already", "not held", "queued 0"]);
    assert_eq!(rig.asked().1, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lone_holder_gives_back_without_a_load_and_is_wrong_only_for_a_moment() {
    let mut rig = Rig::with_slots(2).await;
    for _ in 0..3 {
        rig.settle(&[takes("a")]).await;
        rig.settle(&[gives("a")]).await;
    }
    assert_eq!(words(&rig.settle(&[takes("a")]).await), ["granted"]);
    rig.asked();
    assert_eq!(words(&rig.settle(&[gives("a")]).await), ["freed"]);
    assert_eq!(rig.asked(), (0, 1));
    // Somebody else has a hand in it.
    rig.settle(&[takes("a")]).await;
    rig.locks.acquire(&Claim::new(machine("b"), [], Via::Agent)).await.unwrap();
    assert_eq!(words(&rig.settle(&[gives("a")]).await), ["freed"]);
    assert_eq!(rig.holders().await, ["b"]);
    rig.settle(&[takes("a")]).await;
    rig.locks
        .release(&[Group::default()], &machine("a"), &Release::by_operator("eve"))
        .await
        .unwrap();
    assert_eq!(words(&rig.settle(&[gives("a")]).await), ["not held"]);
    assert_eq!(rig.holders().await, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn while_nobody_waits_slots_change_hands_by_one_commit_each() {
    let mut rig = Rig::with_slots(2).await;
    rig.settle(&[takes("a"), takes("x")]).await;
    rig.settle(&[gives("a")]).await;
    rig.settle(&[takes("a")]).await;
    rig.asked();
    assert_eq!(words(&rig.settle(&[gives("a")]).await), ["freed"]);
    assert_eq!(words(&rig.settle(&[takes("b")]).await), ["granted"]);
    assert_eq!(words(&rig.settle(&[takes("c"), gives("b")]).await), ["granted", "freed"]);
    assert_eq!(rig.asked(), (0, 3));
    // What is no grant is never believed, and neither is that a holder may still go down.
    assert_eq!(words(&rig.settle(&[takes("b")]).await), ["queued 0"]);
    assert_eq!(words(&rig.settle(&[takes("c")]).await), ["already"]);
    assert_eq!(rig.asked().0, 2);
    // Now somebody waits.
    assert_eq!(words(&rig.settle(&[gives("c")]).await), ["freed"]);
    assert_eq!(words(&rig.settle(&[takes("d")]).await), ["queued 1"]);
    // A pause is part of what the commit proves.
    assert_eq!(words(&rig.settle(&[takes("b")]).await), ["granted"]);
    assert_eq!(words(&rig.settle(&[gives("b"), gives("d")]).await), ["freed", "not held"]);
    rig.settle(&[takes("e")]).await;
    rig.settle(&[gives("e")]).await;
    let pause = Pause::from_json(br#"{"by":"eve","since":1}"#).unwrap();
    rig.locks.pause(&Scope::Fleet, &pause).await.unwrap();
    assert_eq!(words(&rig.settle(&[takes("e")]).await), ["paused"]);
    assert_eq!(rig.holders().await, ["x"]);
}

#[tokio::test(start_paused = true)]
async fn that_nobody_waits_is_believed_for_a_moment_only() {
    let mut rig = Rig::with_slots(1).await;
    for _ in 0..2 {
        rig.settle(&[takes("a")]).await;
        rig.settle(&[gives("a")]).await;
    }
    tokio::time::sleep(QUIET).await;
    rig.asked();
    rig.settle(&[takes("a")]).await;
    assert_eq!(rig.asked(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_before_who_comes_in_the_same_moment() {
    let mut rig = Rig::with_slots(1).await;
    rig.settle(&[takes("a")]).await;
    rig.settle(&[takes("z")]).await;
    let answers = rig.settle(&[takes("b"), gives("a"), takes("z")]).await;
    assert_eq!(words(&answers), ["queued 1", "freed", "granted"]);
    assert_eq!(words(&rig.settle(&[gives("z"), takes("c")]).await), ["freed", "queued 1"]);
    assert_eq!(words(&rig.settle(&[takes("b")]).await), ["granted"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_and_a_lost_commit_are_settled_for_each() {
    for unlucky in [Fault::ReplyLost, Fault::RequestLost] {
        let mut rig = Rig::with_slots(2).await;
        rig.settle(&[takes("a")]).await;
        rig.fault(unlucky.clone());
        let answers = rig.settle(&[takes("b"), gives("a"), takes("c"), takes("d")]).await;
        assert_eq!(words(&answers), ["granted", "freed", "granted", "queued 0"], "{unlucky:?}");
        assert_eq!(rig.holders().await, ["b", "c"]);
        let status = rig.locks.status(&Group::default()).await.unwrap();
        assert_eq!(status.queue.len(), 1);
    }
    // One slot is gone when it comes to it.
    let mut rig = Rig::with_slots(2).await;
    let max = rig.locks.keys().semaphore(&Group::default());
    let lowered = br#"{"semaphore":1,"max":1,"holders":[]}"#.to_vec();
    rig.fault(Fault::Overtaken(Txn::new().put(max, lowered)));
    assert_eq!(words(&rig.settle(&[takes("a"), takes("b")]).await), ["granted", "queued 0"]);
    assert_eq!(rig.holders().await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_damaged_held_or_refused_keeps_nobody_from_anything() {
    let mut rig = Rig::with_slots(9).await;
    let hold = Hold::from_json(br#"{"by":"eve","since":1}"#).unwrap();
    rig.locks.hold(&machine("h"), &hold).await.unwrap();
    rig.settle(&[takes("b"), takes("g")]).await;
    let keys = rig.locks.keys().clone();
    let damaged = keys.holder(&Group::default(), &machine("b"));
    rig.probe.inner.commit(&Txn::new().put(damaged, b"{".to_vec())).await.unwrap();
    let answers = rig.settle(&[takes("h"), takes("b"), takes("c"), gives("b"), gives("g")]).await;
    assert_eq!(words(&answers), ["held", "damaged", "granted", "damaged", "freed"]);
    let unwritable = keys.holder(&Group::default(), &machine("f"));
    rig.fault(Fault::RefusedWith(unwritable));
    let answers = rig.settle(&[takes("e"), takes("f"), gives("c")]).await;
    assert_eq!(words(&answers), ["granted", "store", "freed"]);
    assert_eq!(rig.holders().await, ["b", "e"]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_refuses_all_and_each_is_remembered() {
    let mut rig = Rig::with_slots(2).await;
    rig.settle(&[takes("a")]).await;
    let pause = Pause::from_json(br#"{"by":"eve","since":1}"#).unwrap();
    rig.locks.pause(&Scope::Fleet, &pause).await.unwrap();
    let answers = rig.settle(&[takes("a"), takes("b"), takes("c"), gives("x")]).await;
    assert_eq!(words(&answers), ["paused", "paused", "paused", "not held"]);
    rig.locks.resume(&Scope::Fleet).await.unwrap();
    assert_eq!(words(&rig.settle(&[takes("d"), takes("c")]).await), ["queued 2", "queued 1"]);
    assert_eq!(words(&rig.settle(&[takes("b")]).await), ["granted"]);
}

#[tokio::test(start_paused = true)]
async fn the_cooldown_begins_with_the_first_that_is_back_and_nobody_new_gets_in() {
    let mut rig = Rig::with_slots(3).await;
    let cooldowns = [(Group::default(), Duration::from_secs(600))].into();
    rig.locks = rig.locks.with_cooldowns(cooldowns);
    rig.settle(&[takes("a"), takes("b")]).await;
    let answers = rig.settle(&[takes("c"), gives("a"), gives("b"), gives("x")]).await;
    assert_eq!(words(&answers), ["cooling", "freed", "freed", "not held"]);
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(words(&rig.settle(&[takes("c")]).await), ["granted"]);
}

#[tokio::test(start_paused = true)]
async fn who_asks_over_and_over_keeps_its_place_and_writes_now_and_then() {
    let mut rig = Rig::with_slots(1).await;
    assert_eq!(
        words(&rig.settle(&[takes("holder"), takes("first")]).await),
        ["granted", "queued 0"]
    );
    let kept_alive = |rig: &Rig| rig.probe.kept_alive.swap(0, SeqCst);
    for _ in 0..100 {
        assert_eq!(words(&rig.settle(&[takes("first")]).await), ["queued 0"]);
    }
    assert_eq!(kept_alive(&rig), 1, "a hundred times at one moment");
    // A commit that is lost makes it forget what it read, not how long the place lasts.
    rig.fault(Fault::Overtaken(Txn::new()));
    let answers = rig.settle(&[gives("holder"), takes("first"), takes("late")]).await;
    assert_eq!(words(&answers), ["freed", "granted", "queued 0"]);
    assert_eq!(kept_alive(&rig), 0);

    // The last time of asking may have been a moment after the place was kept alive.
    let moment = MEMORY / KEPT_FOR;
    for _ in 0..3 {
        assert_eq!(words(&rig.settle(&[takes("late")]).await), ["queued 0"]);
        tokio::time::advance(moment - Duration::from_millis(1)).await;
        assert_eq!(words(&rig.settle(&[takes("late")]).await), ["queued 0"]);
        assert_eq!(kept_alive(&rig), 1);
        tokio::time::advance(MEMORY - moment - Duration::from_secs(1)).await;
        assert_eq!(words(&rig.settle(&[takes("later")]).await), ["queued 1"]);
        kept_alive(&rig);
    }
    tokio::time::advance(MEMORY).await;
    assert_eq!(words(&rig.settle(&[takes("later")]).await), ["queued 0"], "nobody asks any more");
}

#[tokio::test(start_paused = true)]
async fn one_machine_twice_is_served_in_its_order() {
    let mut rig = Rig::with_slots(1).await;
    let answers = rig.settle(&[takes("a"), gives("a"), takes("a"), takes("b")]).await;
    assert_eq!(words(&answers), ["granted", "freed", "queued 1", "queued 0"]);
    assert!(rig.holders().await.is_empty());
    assert_eq!(words(&rig.settle(&[takes("b")]).await), ["granted"]);
}

#[tokio::test(start_paused = true)]
async fn three_hundred_at_once_fit_into_transactions_of_etcds_size() {
    let mut rig = Rig::with_slots(250).await;
    let names: Vec<_> = (0..300).map(|n| format!("m{n:03}")).collect();
    let all: Vec<_> = names.iter().map(|name| takes(name)).collect();
    let answers = rig.settle(&all).await;
    assert_eq!(words(&answers).iter().filter(|word| *word == "granted").count(), 250);
    assert!(rig.asked().1 <= 10);
    let all: Vec<_> = names.iter().map(|name| gives(name)).collect();
    let answers = rig.settle(&all).await;
    assert_eq!(words(&answers).iter().filter(|word| *word == "freed").count(), 250);
    assert!(rig.holders().await.is_empty());
    let status = rig.locks.status(&Group::default()).await.unwrap();
    assert!(status.queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn slots_taken_together_and_in_another_way_are_told_apart() {
    let mut rig = Rig::with_slots(3).await;
    let groups = [Group::default(), Group::new("lb").unwrap()];
    let both = Claim::new(machine("a"), groups.clone(), Via::Fleetlock);
    rig.locks.acquire(&both).await.unwrap();
    rig.locks.acquire(&Claim::new(machine("b"), [], Via::Agent)).await.unwrap();
    let answers = rig.settle(&[gives("a"), gives("b"), takes("b")]).await;
    assert_eq!(words(&answers)[..2], ["freed", "kept"]);
    let lb = rig.locks.status(&groups[1]).await.unwrap();
    assert!(lb.holders.is_empty());
    // A claim on other groups is settled on its own.
    let both = Wish::Acquire {
        claim: Claim::new(machine("c"), groups.clone(), Via::Fleetlock),
        memory: MEMORY,
    };
    assert_eq!(words(&rig.settle(&[both, takes("d")]).await), ["granted", "granted"]);
}

#[derive(Debug, Clone)]
enum Step {
    Takes(u8),
    Gives(u8),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However they come together and whatever goes wrong: the limit holds, whoever is told that it
    /// has a slot has one, and the documents add up.
    #[test]
    fn the_limit_holds_and_answers_are_true(
        rounds in prop::collection::vec(
            (prop::collection::vec((0..9_u8, any::<bool>()), 1..12), 0..5_u8),
            1..10,
        ),
        slots in 0..4_u32,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut rig = Rig::with_slots(slots).await;
            for (steps, fault) in rounds {
                match fault {
                    1 => rig.fault(Fault::ReplyLost),
                    2 => rig.fault(Fault::RequestLost),
                    3 => rig.fault(Fault::Overtaken(Txn::new())),
                    _ => {}
                }
                let steps: Vec<_> = steps.into_iter()
                    .map(|(n, takes)| if takes { Step::Takes(n) } else { Step::Gives(n) })
                    .collect();
                let wishes: Vec<_> = steps.iter().map(|step| match step {
                    Step::Takes(n) => takes(&format!("m{n}")),
                    Step::Gives(n) => gives(&format!("m{n}")),
                }).collect();
                let answers = words(&rig.settle(&wishes).await);
                rig.probe.faults.lock().unwrap().clear();
                let holders = rig.holders().await;
                assert!(holders.len() <= slots as usize);
                for (n, step) in steps.iter().enumerate() {
                    // What it was told last is how it is.
                    let (Step::Takes(who) | Step::Gives(who)) = step;
                    let last = steps[n + 1..].iter().all(|later| {
                        let (Step::Takes(other) | Step::Gives(other)) = later;
                        other != who
                    });
                    if last {
                        let has = holders.contains(&format!("m{who}"));
                        let told = matches!(answers[n].as_str(), "granted" | "already");
                        assert_eq!(has, told, "{steps:?} {answers:?} {holders:?}");
                    }
                }
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_does_not_end_the_cooldown_that_it_told_of() {
    let mut rig = Rig::new();
    rig.locks = rig.locks.with_cooldowns([(Group::default(), Duration::from_secs(600))].into());
    rig.settle(&[takes("a")]).await;
    rig.fault(Fault::ReplyLost);
    assert_eq!(words(&rig.settle(&[gives("a")]).await), ["freed"]);
    assert_eq!(words(&rig.settle(&[takes("b")]).await), ["cooling"]);
}
