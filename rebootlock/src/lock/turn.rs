//! Slots for machines that ask now and then instead of waiting: who was refused is remembered, and
//! what becomes free is kept for it until it can be expected to have asked again.
//!
//! The memory is the queue itself, so machines that ask and machines that wait stand in one line,
//! and any number of processes that answer for one store agree. A place hangs on a lease that each
//! time of asking keeps alive; whoever stops asking is forgotten with it.

use std::time::Duration;

use tokio::time::Instant;

use super::line::Entering;
use super::release::{Leases, Outcome};
use super::{
    Acquired, Decision, Ended, LockError, LockManager, Release, Released, Result, backoff,
};
use crate::id::{Group, MachineId};
use crate::queue::Queue;
use crate::record::{Claim, Document, HolderRecord, Via, Waiter};
use crate::store::{Commit, LeaseId, Select, Snapshot, StoreError, Txn};
use crate::wait::forget_places;

/// How much of a queue is read. Who is further behind is not told how far.
pub(super) const LOOK: usize = 100;

/// How asking ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Turn {
    /// The slots are the machine's.
    Granted(Acquired),
    /// They are not; the machine is remembered.
    Queued(Queued),
}

/// What a machine waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// In which group.
    pub group: Group,
    /// Its limit.
    pub max: u32,
    /// How many of its slots nobody has. They are for those who asked before.
    pub free: u32,
    /// How many go first; if it is [`Queued::MOST_AHEAD`], so many at the least.
    pub ahead: usize,
}

impl Queued {
    /// No more are counted.
    pub const MOST_AHEAD: usize = LOOK;
}

/// How giving back ended.
#[derive(Debug, Clone, PartialEq)]
pub enum GivenBack {
    /// The slot is free. With the record that went with it, if there was one.
    Freed(Option<Box<HolderRecord>>),
    /// The machine had none.
    NotHeld,
    /// It has one that came about in another way, and keeps it.
    Kept(Box<HolderRecord>),
}

/// What was decided on what was read.
pub(super) enum Step {
    Granted(Acquired),
    /// To be remembered, with what is known of the machine itself.
    Queued(Queued, Snapshot),
    /// The same, because of a pause or a cooldown.
    Stopped(LockError, Snapshot),
    /// To be forgotten: others would wait behind it in vain.
    Held(LockError),
}

impl LockManager {
    /// Takes the claim's slots if they are free and nobody who asked before is to have them. Else
    /// the machine is remembered for `memory`, and asking again within that time keeps its place.
    ///
    /// Who has them already and asks again changes nothing, but is told of a pause or a hold: asking
    /// is the only way in which such a machine finds out whether it may still go down.
    ///
    /// # Errors
    /// As for [`LockManager::acquire`], without [`LockError::Full`].
    pub async fn acquire_in_turn(&self, claim: &Claim, memory: Duration) -> Result<Turn> {
        let action = format!("acquiring a slot for {} below {}", claim.machine, self.keys);
        let deadline = Instant::now() + self.deadline;
        let mut attempt = 0;
        loop {
            let step = match self.look(&action, claim, Select::Oldest(LOOK)).await? {
                // So many are free that counting no further would refuse what can be had.
                Step::Queued(queued, _) if queued.free as usize >= LOOK => {
                    self.look(&action, claim, Select::All).await?
                }
                step => step,
            };
            let (answer, own) = match step {
                Step::Granted(acquired) => return Ok(Turn::Granted(acquired)),
                Step::Queued(queued, own) => (Ok(Turn::Queued(queued)), own),
                Step::Stopped(stop, own) => (Err(stop), own),
                Step::Held(hold) => {
                    let forgotten = forget_places(self, claim.groups(), &claim.machine).await;
                    return Err(forgotten.map_or_else(|e| store_error(&action, e), |()| hold));
                }
            };
            match self.remember(claim, memory, &own).await {
                Ok(true) => return answer,
                Ok(false) => {}
                Err(error) => return Err(store_error(&action, error)),
            }
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
            if Instant::now() >= deadline {
                return Err(LockError::Contended { action, after: self.deadline });
            }
        }
    }

    /// Takes the slots if it is the machine's turn.
    async fn look(&self, action: &str, claim: &Claim, select: Select) -> Result<Step> {
        let (groups, machine) = (claim.groups(), &claim.machine);
        let mut keys = self.keys_of(groups, machine);
        keys.extend(groups.iter().map(|group| self.keys.waiter(group, machine)));
        let lines =
            |group| [(self.keys.queue(group), select), (self.keys.all_urgent(group), Select::All)];
        let below: Vec<_> = groups.iter().flat_map(lines).collect();
        let ended = self
            .settle_over(
                action,
                || self.store.read(&keys, &below),
                None,
                |before| self.decide_turn(claim, before, select),
            )
            .await?;
        self.remember_if_only(claim, ended.left);
        Ok(ended.answer)
    }

    pub(super) fn decide_turn(
        &self,
        claim: &Claim,
        before: &Snapshot,
        select: Select,
    ) -> Result<Decision<Step>> {
        let (groups, machine) = (claim.groups(), &claim.machine);
        let (mut txn, acquired) = match self.decide_acquire(claim, before) {
            Ok(Decision::Done(acquired)) => {
                return self.has_already(claim, acquired, before).map(Decision::Done);
            }
            Ok(Decision::Commit(txn, acquired)) => (txn, acquired),
            Err(LockError::Full { .. }) => (Txn::new(), Acquired::Granted),
            Err(stop @ (LockError::Paused { .. } | LockError::CoolingDown { .. })) => {
                return Ok(Decision::Done(Step::Stopped(stop, self.own(claim, before))));
            }
            Err(hold @ LockError::Held { .. }) => return Ok(Decision::Done(Step::Held(hold))),
            Err(error) => return Err(error),
        };
        for group in groups {
            let semaphore = self.semaphore(before, group)?;
            let free = u32::try_from(semaphore.available()).unwrap_or(0);
            let ahead = self.ahead(before, group, machine);
            // Of those beyond the head it is not known how many there are.
            let unknown = select != Select::All && ahead >= LOOK;
            if !semaphore.holds(machine) && (unknown || free as usize <= ahead) {
                let queued = Queued { group: group.clone(), max: semaphore.max(), free, ahead };
                return Ok(Decision::Done(Step::Queued(queued, self.own(claim, before))));
            }
            txn = txn.when(before.unchanged(&self.keys.waiter(group, machine)));
        }
        Ok(Decision::Commit(txn, Step::Granted(acquired)))
    }

    /// Who has its slots is told of a pause and a hold all the same.
    pub(super) fn has_already(
        &self,
        claim: &Claim,
        acquired: Acquired,
        before: &Snapshot,
    ) -> Result<Step> {
        let stop = self.stop_in_force(before, claim.groups(), &claim.machine);
        stop.map_or(Ok(Step::Granted(acquired)), Err)
    }

    /// How many wait before `machine`; all of them if it has no place.
    fn ahead(&self, before: &Snapshot, group: &Group, machine: &MachineId) -> usize {
        let queue = self.queue(before, group);
        queue.ahead_of(machine).unwrap_or(queue.len())
    }

    /// What was read of a group's queue.
    fn queue(&self, before: &Snapshot, group: &Group) -> Queue {
        let (line, urgent) = (self.keys.queue(group), self.keys.all_urgent(group));
        Queue::of_head(&before.below(&line), &before.below(&urgent))
    }

    /// What was read of the claim's machine itself, and of the queues if it has to look for its place.
    fn own(&self, claim: &Claim, before: &Snapshot) -> Snapshot {
        let mut own = Snapshot { revision: before.revision, ..Snapshot::default() };
        for key in self.own_keys(claim) {
            own.entries.extend(before.get(&key).map(|entry| (key, entry.clone())));
        }
        if claim.priority > 0 {
            for group in claim.groups() {
                own.entries.extend(before.below(&self.keys.queue(group)).entries);
            }
        }
        own
    }

    /// Keeps the machine's places for another while, or takes them. `false`: something has changed.
    async fn remember(
        &self,
        claim: &Claim,
        memory: Duration,
        own: &Snapshot,
    ) -> std::result::Result<bool, StoreError> {
        if let Some(lease) = self.kept_by(claim, own) {
            return match self.store.keep_alive(lease).await {
                Ok(()) => Ok(true),
                Err(StoreError::LeaseGone) => Ok(false),
                Err(error) => Err(error),
            };
        }
        // Stores count whole seconds.
        let lease = self.store.grant(memory.max(Duration::from_secs(1))).await?;
        let entering = self.place_by_asking(claim, own, lease);
        let takes = matches!(entering, Entering::Takes { .. });
        let (Entering::Takes { txn, .. } | Entering::Clears(txn)) = entering;
        let won = matches!(self.store.commit(&txn).await?, Commit::Won(_));
        if !(won && takes) {
            // Nothing hangs on it, and it ends by itself.
            let _ = self.store.revoke(lease).await;
        }
        Ok(won && takes)
    }

    /// Puts the claim's machine in line until the lease ends, which each time of asking keeps alive.
    pub(super) fn place_by_asking(
        &self,
        claim: &Claim,
        own: &Snapshot,
        lease: LeaseId,
    ) -> Entering {
        let queues: Vec<_> = claim.groups().iter().map(|group| self.queue(own, group)).collect();
        let ticket = self.ticket(claim, self.now(), &queues);
        let ticket = Waiter { lease: Some(format!("{:x}", lease.0)), ..ticket };
        match self.enter(claim, own, ticket, lease) {
            Entering::Takes { txn, came } => {
                Entering::Takes { txn: txn.when_absent(self.keys.hold(&claim.machine)), came }
            }
            clears => clears,
        }
    }

    /// The lease that all places of the claim's machine hang on, if it is one that asking keeps alive.
    pub(super) fn kept_by(&self, claim: &Claim, own: &Snapshot) -> Option<LeaseId> {
        let mut leases = claim.groups().iter().map(|group| {
            let entry = own.get(&self.keys.waiter(group, &claim.machine))?;
            let lease = Waiter::from_json(&entry.value).ok()?.lease?;
            Some(LeaseId(i64::from_str_radix(&lease, 16).ok()?))
        });
        let first = leases.next()??;
        leases.all(|lease| lease == Some(first)).then_some(first)
    }

    /// Gives back the slot of `machine` in `group`, if it was taken `via` this door or by a program
    /// that writes no records, and takes the machine out of the queue. Who has neither a slot nor a
    /// place changes nothing.
    ///
    /// # Errors
    /// [`LockError::Damaged`], or what the store says; then it may have happened all the same.
    pub async fn give_back(
        &self,
        group: &Group,
        machine: &MachineId,
        via: &Via,
    ) -> Result<GivenBack> {
        self.settle_give_back(group, machine, via).await
    }

    pub(super) fn decide_give_back(
        &self,
        group: &Group,
        machine: &MachineId,
        via: &Via,
        leases: &Leases,
        before: &Snapshot,
    ) -> Result<Decision<Back>> {
        let places = [self.keys.waiter(group, machine), self.keys.urgent(group, machine)];
        let mut txn = Txn::new();
        let mut was_waiting = false;
        for place in places {
            txn = txn.when(before.unchanged(&place));
            if before.get(&place).is_some() {
                (txn, was_waiting) = (txn.delete(place), true);
            }
        }
        let left = |given_back| match was_waiting {
            true => Decision::Commit(txn.clone(), Back::Settled(given_back)),
            false => Decision::Done(Back::Settled(given_back)),
        };
        if !self.semaphore(before, group)?.holds(machine) {
            return Ok(left(GivenBack::NotHeld));
        }
        let record = self.record(before, group, machine)?;
        if let Some(record) = record.as_ref().filter(|r| r.via.as_ref().is_some_and(|v| v != via)) {
            return Ok(left(GivenBack::Kept(Box::new(record.clone()))));
        }
        // What was taken anew meanwhile is not what was asked about.
        let token = record.and_then(|record| record.token);
        let release = Release { token, ended: Ended::Steady };
        let groups = std::slice::from_ref(group);
        Ok(match self.decide_release(groups, machine, &release, leases, before)? {
            Decision::Commit(mut freeing, Outcome::Settled(Released::Freed(record))) => {
                freeing.preconditions.extend(txn.preconditions);
                freeing.changes.extend(txn.changes);
                Decision::Commit(freeing, Back::Settled(GivenBack::Freed(record)))
            }
            Decision::Done(Outcome::AlsoHolds(_)) => Decision::Done(Back::AlsoHolds(release)),
            _ => left(GivenBack::NotHeld),
        })
    }
}

/// What was decided about a slot that is given back.
pub(super) enum Back {
    Settled(GivenBack),
    /// There are more slots that were taken together with it, to be freed by this.
    AlsoHolds(Release),
}

pub(super) fn store_error(action: &str, source: StoreError) -> LockError {
    LockError::Store { action: action.to_owned(), source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::keys::Keyspace;
    use crate::lock::Scope;
    use crate::record::{Hold, Pause, UnixTime};
    use crate::store::{MemoryStore, Store as _};
    use crate::wait::{WaitOptions, Waiting};

    const MEMORY: Duration = Duration::from_secs(330);

    fn manager() -> (MemoryStore, LockManager) {
        let store = MemoryStore::new();
        (store.clone(), LockManager::new(Arc::new(store), Keyspace::default()))
    }

    fn machine(name: &str) -> MachineId {
        MachineId::new(name).unwrap()
    }

    async fn ask(locks: &LockManager, name: &str) -> Result<Turn> {
        locks.acquire_in_turn(&Claim::new(machine(name), [], Via::Fleetlock), MEMORY).await
    }

    async fn gets(locks: &LockManager, name: &str) -> bool {
        matches!(ask(locks, name).await.unwrap(), Turn::Granted(_))
    }

    async fn ahead(locks: &LockManager, name: &str) -> usize {
        match ask(locks, name).await.unwrap() {
            Turn::Queued(queued) => queued.ahead,
            Turn::Granted(acquired) => panic!("{name}: {acquired:?}"),
        }
    }

    async fn done(locks: &LockManager, name: &str) -> GivenBack {
        locks.give_back(&Group::default(), &machine(name), &Via::Fleetlock).await.unwrap()
    }

    async fn pass(secs: u64) {
        tokio::time::sleep(Duration::from_secs(secs)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_freed_slot_is_kept_for_who_asked_first() {
        let (_store, locks) = manager();
        assert!(gets(&locks, "a").await);
        assert_eq!(ahead(&locks, "b").await, 0);
        assert_eq!(ahead(&locks, "c").await, 1);
        assert!(matches!(done(&locks, "a").await, GivenBack::Freed(Some(_))));
        assert_eq!(ahead(&locks, "c").await, 1);
        assert_eq!(ahead(&locks, "d").await, 2);
        pass(300).await;
        assert!(gets(&locks, "b").await);
        assert_eq!(ahead(&locks, "c").await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_asking_is_forgotten_and_who_asks_is_not() {
        let (_store, locks) = manager();
        assert!(gets(&locks, "a").await);
        assert_eq!(ahead(&locks, "b").await, 0);
        for _ in 0..5 {
            pass(300).await;
            // Each time keeps its place, though the lease would have ended.
            assert!(ahead(&locks, "c").await <= 1);
        }
        assert_eq!(ahead(&locks, "c").await, 0, "b is forgotten");
        done(&locks, "a").await;
        assert!(gets(&locks, "c").await);
    }

    #[tokio::test(start_paused = true)]
    async fn asking_again_with_a_slot_or_a_place_writes_nothing() {
        let (store, locks) = manager();
        assert!(gets(&locks, "a").await);
        assert_eq!(ahead(&locks, "b").await, 0);
        let revision = || async { store.load(&[]).await.unwrap().revision };
        let before = revision().await;
        assert!(gets(&locks, "a").await);
        assert_eq!(ahead(&locks, "b").await, 0);
        assert_eq!(done(&locks, "stranger").await, GivenBack::NotHeld);
        assert_eq!(revision().await, before);
    }

    #[tokio::test(start_paused = true)]
    async fn machines_that_ask_and_machines_that_wait_stand_in_one_line() {
        let (_store, locks) = manager();
        assert!(gets(&locks, "a").await);
        assert_eq!(ahead(&locks, "first").await, 0);
        let claim = Claim::new(machine("second"), [], Via::Agent);
        let options = WaitOptions { lease: Duration::from_secs(30), poll: Duration::from_secs(60) };
        let mut second = Waiting::start(locks.clone(), claim.clone(), options);
        while locks.status(&Group::default()).await.unwrap().queue.len() < 2 {
            second.changed().await;
        }
        done(&locks, "a").await;
        pass(200).await;
        assert!(gets(&locks, "first").await, "the one that waits has to wait for it");
        assert_eq!(ahead(&locks, "third").await, 1);
        done(&locks, "first").await;
        second.granted().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_keeps_the_line_and_stops_those_who_have_a_slot_too() {
        let (_store, locks) = manager();
        assert!(gets(&locks, "a").await);
        let pause = Pause {
            by: "eve".into(),
            reason: None,
            since: UnixTime(1),
            until: None,
            unknown: Default::default(),
        };
        locks.pause(&Scope::Fleet, &pause).await.unwrap();
        for name in ["a", "b", "c"] {
            assert!(matches!(ask(&locks, name).await, Err(LockError::Paused { .. })), "{name}");
        }
        locks.resume(&Scope::Fleet).await.unwrap();
        assert!(gets(&locks, "a").await, "its slot stayed");
        done(&locks, "a").await;
        assert_eq!(ahead(&locks, "c").await, 1);
        assert!(gets(&locks, "b").await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_held_makes_way() {
        let (_store, locks) = manager();
        assert!(gets(&locks, "a").await);
        assert_eq!(ahead(&locks, "b").await, 0);
        let hold = Hold {
            by: "eve".into(),
            reason: None,
            since: UnixTime(1),
            until: None,
            unknown: Default::default(),
        };
        locks.hold(&machine("b"), &hold).await.unwrap();
        done(&locks, "a").await;
        assert_eq!(ahead(&locks, "c").await, 1);
        assert!(matches!(ask(&locks, "b").await, Err(LockError::Held { .. })));
        assert!(gets(&locks, "c").await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_taken_through_another_door_is_not_given_back() {
        let (_store, locks) = manager();
        locks.acquire(&Claim::new(machine("a"), [], Via::Agent)).await.unwrap();
        assert!(matches!(done(&locks, "a").await, GivenBack::Kept(_)));
        assert_eq!(ahead(&locks, "b").await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_up_leaves_the_line() {
        let (_store, locks) = manager();
        assert!(gets(&locks, "a").await);
        assert_eq!(ahead(&locks, "b").await, 0);
        assert_eq!(done(&locks, "b").await, GivenBack::NotHeld);
        assert_eq!(ahead(&locks, "c").await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_go_as_slots_are_free_in_the_order_they_came() {
        let (_store, locks) = manager();
        locks.set_max(&Group::default(), 0).await.unwrap();
        for n in 0..250 {
            ahead(&locks, &format!("m{n}")).await;
        }
        locks.set_max(&Group::default(), 200).await.unwrap();
        assert!(gets(&locks, "m199").await);
        assert!(gets(&locks, "m1").await);
        assert!(!gets(&locks, "m220").await);
        assert!(!gets(&locks, "new").await);
    }

    #[tokio::test]
    async fn of_twenty_at_once_ten_get_ten_slots() {
        let (_store, locks) = manager();
        locks.set_max(&Group::default(), 10).await.unwrap();
        let asking: Vec<_> = (0..20)
            .map(|n| {
                let locks = locks.clone();
                tokio::spawn(async move { gets(&locks, &format!("m{n}")).await })
            })
            .collect();
        let mut granted = 0;
        for asked in asking {
            granted += u32::from(asked.await.unwrap());
        }
        assert_eq!(granted, 10);
    }
}
