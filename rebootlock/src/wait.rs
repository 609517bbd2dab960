//! Waiting for a slot: a place in the queue, and waking up when it is one's turn.
//!
//! Who waits far behind watches one place only, the one [`FRONT`] before its own, and asks again
//! when that is gone. Who is among the first [`FRONT`] watches the semaphore, the queue and the
//! pauses, keeps its own copy of them, and commits straight from that copy when a slot is free for
//! it. So a hand-over costs as many requests with ten waiting as with a thousand.
//!
//! The place hangs on a lease. A waiter that was frozen has lost its place, and the transaction
//! that would take the slot requires the place: it cannot act on what it believed before.

mod behind;
mod front;
mod obstacle;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::behind::{Guard, Neighbours};
pub use self::obstacle::Obstacle;
use crate::chance;
use crate::id::{Group, MachineId};
use crate::lock::line::Entering;
use crate::lock::{Acquired, LockError, LockManager};
use crate::queue::Queue;
use crate::record::{Claim, UnixTime};
use crate::store::{Commit, Key, LeaseKeeper, Revision, Select, Snapshot, StoreError, Txn};

/// How many at the head of a queue watch it.
pub const FRONT: usize = 4;

/// A place lost again within this time was not lost by chance.
const LOSES_AGAIN: Duration = Duration::from_secs(60);

/// How waiting is done.
#[derive(Debug, Clone)]
pub struct WaitOptions {
    /// A waiter that dies leaves the queue after this long.
    pub lease: Duration,
    /// Look again after this long even if nothing was heard, before up to a fifth is added.
    pub poll: Duration,
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self { lease: Duration::from_secs(30), poll: Duration::from_secs(60) }
    }
}

/// Takes away the places that an earlier life of `machine` left in the queues of `groups`, so that
/// nobody waits for them until their lease ends.
///
/// # Errors
/// What the store says; the lease then ends by itself.
pub async fn forget_places(
    locks: &LockManager,
    groups: &[Group],
    machine: &MachineId,
) -> Result<(), StoreError> {
    let keys = locks.keys();
    let of_group = |group| [keys.waiter(group, machine), keys.urgent(group, machine)];
    let places: Vec<Key> = groups.iter().flat_map(of_group).collect();
    let left = locks.store().load(&places).await?;
    if !left.entries.is_empty() {
        let txn = left.entries.into_keys().fold(Txn::new(), Txn::delete);
        locks.store().commit(&txn).await?;
    }
    Ok(())
}

/// News of a claim that waits.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// The slots are taken.
    Granted(Acquired),
    /// Something else is in the way.
    Obstacle(Obstacle),
}

/// A claim that waits, in a task of its own. Dropping it leaves the queue when the lease ends;
/// [`Waiting::leave`] does at once.
#[derive(Debug)]
pub struct Waiting {
    obstacle: watch::Receiver<Obstacle>,
    granted: oneshot::Receiver<Acquired>,
    cancel: CancellationToken,
    unsettled: Arc<AtomicBool>,
    task: AbortOnDropHandle<Option<Acquired>>,
}

impl Waiting {
    /// Begins to wait.
    pub fn start(locks: LockManager, claim: Claim, options: WaitOptions) -> Self {
        let (obstacles, obstacle) = watch::channel(Obstacle::Asking);
        let (grant, granted) = oneshot::channel();
        let cancel = CancellationToken::new();
        let unsettled = Arc::new(AtomicBool::new(false));
        let waiter = Waiter {
            since: locks.now(),
            locks,
            claim,
            options,
            obstacles,
            cancel: cancel.clone(),
            place: None,
            moved_up: None,
            last_loss: None,
            lost_to: None,
            unsettled: unsettled.clone(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let acquired = waiter.run().await?;
            // Whoever leaves takes the answer from the task instead.
            grant.send(acquired).err()
        }));
        Self { obstacle, granted, cancel, unsettled, task }
    }

    /// What is in the way now.
    pub fn obstacle(&self) -> Obstacle {
        self.obstacle.borrow().clone()
    }

    /// Returns when something else is in the way. Safe to cancel.
    pub async fn changed(&mut self) {
        if self.obstacle.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Returns when the slots are taken. Safe to cancel; call it once only to its end.
    pub async fn granted(&mut self) -> Acquired {
        match (&mut self.granted).await {
            Ok(acquired) => acquired,
            // The task ends without an answer only when it was told to leave.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whichever of [`Waiting::granted`] and [`Waiting::changed`] comes first. Safe to cancel.
    pub async fn next(&mut self) -> Progress {
        tokio::select! {
            // A grant is the last word, and an obstacle that is gone is not worth a word.
            biased;
            acquired = &mut self.granted => match acquired {
                Ok(acquired) => Progress::Granted(acquired),
                Err(_) => std::future::pending().await,
            },
            changed = self.obstacle.changed() => match changed {
                Ok(()) => Progress::Obstacle(self.obstacle()),
                Err(_) => (&mut self.granted).await.map_or_else(
                    |_| Progress::Obstacle(Obstacle::Asking),
                    Progress::Granted,
                ),
            },
        }
    }

    /// Whether the machine may have a slot of which nobody was told, or come to have one: an
    /// acquisition was sent and never answered. After [`Waiting::leave`],
    /// [`LockManager::settle_unanswered`] makes sure of either.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.load(Ordering::SeqCst)
    }

    /// Leaves the queue. If the slots were taken at that very moment they are the caller's to use
    /// or release.
    pub async fn leave(&mut self) -> Option<Acquired> {
        self.cancel.cancel();
        let from_task = (&mut self.task).await.ok().flatten();
        self.granted.try_recv().ok().or(from_task)
    }
}

struct Waiter {
    locks: LockManager,
    since: UnixTime,
    claim: Claim,
    options: WaitOptions,
    obstacles: watch::Sender<Obstacle>,
    cancel: CancellationToken,
    place: Option<Place>,
    /// Those between the one that was watched from far behind, and that is gone now, and us.
    moved_up: Option<Neighbours>,
    /// When a place was lost last.
    last_loss: Option<Instant>,
    /// Whether this machine may have a slot, or come to have one, of which nobody was told: an
    /// acquisition was never answered, or by a loss that may be its own doing, or a slot was seen.
    unsettled: Arc<AtomicBool>,
    /// The semaphores that an acquisition required which is said to have lost, until it is known that
    /// it has: what passes a request on may send it a second time, and hand on that the second lost to
    /// the first.
    lost_to: Option<Vec<Option<Revision>>>,
}

/// Our place in the queue of each group.
struct Place {
    lease: LeaseKeeper,
    /// For each group, when the store saw us come and when the place was last written.
    tickets: Vec<(Key, Revision, Revision)>,
}

/// What a round of waiting ended with.
enum Round {
    Granted(Acquired),
    /// Look again at everything.
    Again,
    /// The place is gone: take a new one.
    PlaceLost,
    Cancelled,
}

impl Waiter {
    async fn run(mut self) -> Option<Acquired> {
        let acquired = loop {
            let round = match self.round().await {
                Ok(round) => round,
                Err(error) => self.failed(&error).await,
            };
            match round {
                Round::Granted(acquired) => break Some(acquired),
                Round::Again => {}
                Round::PlaceLost => self.place_lost().await,
                Round::Cancelled => break None,
            }
        };
        match (&acquired, self.place.take()) {
            // Only taking the slots ends in that with a place, and it took the place away: nothing
            // hangs on the lease, which ends by itself.
            (Some(Acquired::Granted), Some(place)) => drop(place),
            (_, Some(place)) => end_lease(place.lease).await,
            (_, None) => {}
        }
        acquired
    }

    /// One look at everything, and then waiting until something happens.
    async fn round(&mut self) -> Result<Round, LockError> {
        if self.cancel.is_cancelled() {
            return Ok(Round::Cancelled);
        }
        if self.unsettled.load(Ordering::SeqCst) {
            self.settle().await?;
        }
        if self.place.is_none() {
            let seen = self.look().await?;
            if self.may_ask_at_once(&seen)?
                && let Some(round) = self.ask().await?
            {
                return Ok(round);
            }
            match self.take_place(&seen).await {
                // Others may queue, so that nothing was asked for above.
                Err(stop @ (LockError::Paused { .. } | LockError::Held { .. })) => {
                    return self.sit_out(stop).await;
                }
                taken => {
                    if !taken? {
                        return Ok(Round::Again);
                    }
                }
            }
        }
        if let Some(neighbours) = self.moved_up.take() {
            return self.front(Some(neighbours)).await;
        }
        match self.guard().await? {
            Guard::None => self.front(None).await,
            Guard::Gone => Ok(Round::PlaceLost),
            Guard::Behind(group, guard, neighbours, after) => {
                self.behind(group, guard, neighbours, after).await
            }
        }
    }

    /// An acquisition that was never answered may have happened, or may still: after this it has or
    /// never will. Who waits behind others would not notice that it holds what they wait for.
    async fn settle(&mut self) -> Result<(), LockError> {
        let (groups, machine) = (self.claim.groups(), &self.claim.machine);
        self.lost_to = None;
        if self.locks.settle_unanswered(groups, machine).await? {
            // Settled is that only once it is known by which acquisition.
            self.leave_queue().await;
        } else {
            self.unsettled.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    /// What this machine has in its groups, and of their queues as much as entering them takes.
    async fn look(&self) -> Result<Snapshot, LockError> {
        let (keys, own) = (self.locks.keys(), self.locks.own_keys(&self.claim));
        let select = match self.claim.priority {
            // Anybody else, though one place is our own.
            0 => Select::Oldest(2),
            _ => Select::All,
        };
        let queues: Vec<_> =
            self.claim.groups().iter().map(|group| (keys.queue(group), select)).collect();
        self.store_call("looking at", &own[0], self.locks.store().read(&own, &queues)).await
    }

    /// Whether there is no reason to queue: nobody does, or this machine holds a slot already, by
    /// whatever acquisition.
    fn may_ask_at_once(&self, seen: &Snapshot) -> Result<bool, LockError> {
        let (keys, machine) = (self.locks.keys(), &self.claim.machine);
        let mut nobody_waits = true;
        for group in self.claim.groups() {
            if self.locks.semaphore(seen, group)?.holds(machine) {
                self.unsettled.store(true, Ordering::SeqCst);
                return Ok(true);
            }
            let (queue, own) = (keys.queue(group), keys.waiter(group, machine));
            nobody_waits &= seen.below(&queue).entries.keys().all(|place| *place == own);
        }
        Ok(nobody_waits)
    }

    /// Asks for the slots out of turn. `None`: they are not free, and one has to wait.
    async fn ask(&mut self) -> Result<Option<Round>, LockError> {
        let asked = self.locks.acquire(&self.claim).await;
        match self.answered(asked) {
            Ok(acquired) => Ok(Some(Round::Granted(acquired))),
            // While a group cools down the queue keeps its order.
            Err(LockError::Full { .. } | LockError::CoolingDown { .. }) => Ok(None),
            Err(stop @ (LockError::Paused { .. } | LockError::Held { .. })) => {
                self.sit_out(stop).await.map(Some)
            }
            Err(error) => Err(error),
        }
    }

    /// Remembers whether an acquisition was answered.
    fn answered<T>(&self, answer: Result<T, LockError>) -> Result<T, LockError> {
        match answer {
            Err(LockError::Store { .. } | LockError::Contended { .. }) => {
                self.unsettled.store(true, Ordering::SeqCst);
            }
            Ok(_) => self.unsettled.store(false, Ordering::SeqCst),
            // They are not ours.
            Err(_) => {}
        }
        answer
    }

    /// Enters all queues in one transaction, unless something is paused or this machine is held: others
    /// would wait behind it in vain. A place left there by an earlier life of this machine is taken over with its
    /// seniority. `false`: something has changed since it was `seen`.
    async fn take_place(&mut self, seen: &Snapshot) -> Result<bool, LockError> {
        let (keys, groups) = (self.locks.keys(), self.claim.groups());
        let machine = &self.claim.machine;
        let waiters: Vec<_> = groups.iter().map(|g| keys.waiter(g, machine)).collect();
        let first = &waiters[0];
        let store = self.locks.store().clone();
        let lease = self
            .store_call("entering", first, LeaseKeeper::start(store.clone(), self.options.lease))
            .await?;
        let queues: Vec<_> =
            groups.iter().map(|g| Queue::of(&seen.below(&keys.queue(g)))).collect();
        let ticket = self.locks.ticket(&self.claim, self.since, &queues);
        let (txn, came) = match self.locks.enter(&self.claim, seen, ticket, lease.id()) {
            Entering::Takes { txn, came } => (txn, came),
            Entering::Clears(txn) => {
                end_lease(lease).await;
                self.store_call("leaving", first, store.commit(&txn)).await?;
                return Ok(false);
            }
        };
        let txn = self.locks.when_not_stopped(txn, groups, machine);
        let Commit::Won(at) = self.store_call("entering", first, store.commit(&txn)).await? else {
            end_lease(lease).await;
            let keys = self.locks.keys_of(groups, machine);
            let now = self.store_call("reading", &keys[0], store.load(&keys)).await?;
            let stop = self.locks.stop_in_force(&now, groups, machine);
            // Over at this very moment: the next round enters.
            return stop.map_or(Ok(false), Err);
        };
        let tickets = waiters.into_iter().map(|key| (key, came.unwrap_or(at), at)).collect();
        self.place = Some(Place { lease, tickets });
        // Those were the neighbours of another place.
        self.moved_up = None;
        Ok(true)
    }

    /// Paused or held: outside the queue until that has ended.
    async fn sit_out(&mut self, stop: LockError) -> Result<Round, LockError> {
        self.leave_queue().await;
        let key = match &stop {
            LockError::Paused { scope, .. } => scope.key(self.locks.keys()),
            _ => self.locks.keys().hold(&self.claim.machine),
        };
        if let Some(obstacle) = Obstacle::of(&stop) {
            self.report(obstacle);
        }
        let now = self
            .store_call("looking at", &key, async {
                self.locks.store().load(std::slice::from_ref(&key)).await
            })
            .await?;
        if now.get(&key).is_none() {
            return Ok(Round::Again);
        }
        let mut changes = self.locks.store().watch(&(&key).into(), now.revision);
        let poll = tokio::time::sleep(self.poll_interval());
        tokio::select! {
            biased;
            _ = changes.next() => Ok(Round::Again),
            () = self.cancel.cancelled() => Ok(Round::Cancelled),
            () = poll => Ok(Round::Again),
        }
    }

    /// Says what failed, and waits for a moment before trying again: shorter than a second if the
    /// store is out of reach, so that its return is noticed at once.
    async fn failed(&mut self, error: &LockError) -> Round {
        let out_of_reach = error.is_transient();
        self.report(Obstacle::Failing { why: error.to_string(), out_of_reach });
        if matches!(error, LockError::Store { source: StoreError::LeaseGone, .. }) {
            return Round::PlaceLost;
        }
        let longest = Duration::from_millis(if out_of_reach { 750 } else { 5000 });
        let pause = chance::between(longest / 3, longest);
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => Round::Again,
            () = self.cancel.cancelled() => Round::Cancelled,
        }
    }

    /// A lost place is taken anew at once. One that is lost again and again is another process's,
    /// waiting for the same machine: the two must not take it from each other at full speed.
    async fn place_lost(&mut self) {
        self.place = None;
        let again = self.last_loss.is_some_and(|last| last.elapsed() < LOSES_AGAIN);
        self.last_loss = Some(Instant::now());
        if again {
            tracing::warn!(machine = %self.claim.machine, "another process waits for this machine too");
            let pause = chance::between(Duration::from_secs(1), Duration::from_secs(5));
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.cancel.cancelled() => {}
            }
        }
    }

    async fn leave_queue(&mut self) {
        if let Some(place) = self.place.take() {
            end_lease(place.lease).await;
        }
    }

    fn report(&self, obstacle: Obstacle) {
        self.obstacles.send_if_modified(|now| {
            let changed = *now != obstacle;
            *now = obstacle;
            changed
        });
    }

    fn poll_interval(&self) -> Duration {
        chance::between(self.options.poll, self.options.poll.mul_f64(1.2))
    }

    async fn store_call<T>(
        &self,
        doing: &str,
        key: &Key,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, LockError> {
        call.await.map_err(|source| LockError::Store { action: format!("{doing} {key}"), source })
    }
}

async fn end_lease(lease: LeaseKeeper) {
    // When this fails the lease ends by itself, as nobody keeps it alive any more.
    if let Err(error) = lease.end().await {
        tracing::debug!(%error, "could not leave the queue; the lease will");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
