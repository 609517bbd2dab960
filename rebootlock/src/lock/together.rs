//! Several machines' wishes about one group, settled by one load and one commit.
//!
//! Whoever answers for many machines gathers what arrives while the store is busy with what came
//! before ([`LockManager::settle_together`]). Each wish is decided by the rules that hold for it
//! alone, on the documents as the wishes before it leave them. What that changes goes into one
//! transaction; its preconditions are that everything any of them was decided on is still as it
//! was read. So it is as if they had come one after the other, with nobody else in between.
//!
//! - Slots are given back before others are taken: what becomes free goes to who is next at once.
//! - Each has its own answer. What one is refused for, or a record of its machine that is damaged,
//!   adds nothing to the transaction and keeps nobody else from it.
//! - A commit that is lost, or whose answer is, is decided anew on what is there then. An
//!   acquisition knows its own work by its token.
//! - Two wishes of one machine are never in one transaction: they are settled in their order.
//! - Not more than fits into a transaction is settled at once.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use self::plan::{Alone, Granted, Plan, Verdict, changes_hands, is_freed};
use super::release::Leases;
use super::turn::{GivenBack, LOOK, Turn, store_error};
use super::{LockError, LockManager, Released, Result, backoff};
use crate::id::{Group, MachineId};
use crate::record::{Claim, Via};
use crate::store::{Commit, Key, LeaseId, Select, Snapshot, StoreError};
use crate::wait::forget_places;

/// Wishes read for at once: three keys each, and those that all share, of the 128 that etcd allows.
pub const AT_ONCE: usize = 40;

/// Documents known from before that are kept in mind.
const MOST_LEFT: usize = 512;

/// How long an empty line is taken to be empty still. Who enters it in that time may be overtaken by
/// those who come later within it.
const QUIET: Duration = Duration::from_millis(100);

/// A place in line that was kept alive is not kept alive again for this part of the time that it
/// lasts: who asks over and over costs the store no more than who asks now and then.
const KEPT_FOR: u32 = 50;

/// What one machine wants of a group.
#[derive(Debug, Clone)]
pub enum Wish {
    /// See [`LockManager::acquire_in_turn`].
    Acquire {
        /// On this group alone.
        claim: Claim,
        /// How long it is remembered if it is refused.
        memory: Duration,
    },
    /// See [`LockManager::give_back`].
    GiveBack {
        /// Who.
        machine: MachineId,
        /// Through which door.
        via: Via,
    },
}

impl Wish {
    /// Whose it is.
    pub fn machine(&self) -> &MachineId {
        match self {
            Self::Acquire { claim, .. } => &claim.machine,
            Self::GiveBack { machine, .. } => machine,
        }
    }
}

/// What came of a wish.
#[derive(Debug, Clone, PartialEq)]
pub enum Settled {
    /// Of [`Wish::Acquire`].
    Turn(Turn),
    /// Of [`Wish::GiveBack`].
    GivenBack(GivenBack),
}

/// What the last call left behind, for the next one. As long as nobody else changes a group's
/// semaphore, slots are given back, and taken while nobody waits, without anything being read
/// first. All that is believed of documents is proven by the commit, or it is lost and they are
/// read; only that the line is empty cannot be, and is believed for [`QUIET`] at the most.
#[derive(Debug, Default)]
pub struct Left {
    /// The semaphore, and records of holders.
    documents: Snapshot,
    /// Whether the semaphore was last seen as it was left.
    alone: bool,
    /// When the line was last seen empty.
    quiet: Option<Instant>,
    /// Places in line that were kept alive a moment ago, and until when that counts. Whether a place
    /// is still there is read each time; this says only how long it lasts.
    kept: BTreeMap<LeaseId, Instant>,
}

impl Left {
    /// Believes nothing of documents any more.
    fn forget(&mut self) {
        *self = Self { kept: std::mem::take(&mut self.kept), ..Self::default() };
    }

    /// What is known, if it is likely to be enough for all wishes.
    fn known(&self, locks: &LockManager, group: &Group, wishes: &[&Wish]) -> Option<Snapshot> {
        let quiet = self.quiet.is_some_and(|since| since.elapsed() < QUIET);
        let enough = |wish: &&Wish| {
            let holder = locks.keys.holder(group, wish.machine());
            let holds = self.documents.get(&holder).is_some();
            match wish {
                Wish::GiveBack { .. } => holds,
                Wish::Acquire { .. } => quiet && !holds,
            }
        };
        (self.alone && wishes.iter().all(enough)).then(|| self.documents.clone())
    }

    /// Takes in what was read.
    fn saw(&mut self, place: &Key, now: &Snapshot) {
        let modified = |snapshot: &Snapshot| snapshot.get(place).map(|entry| entry.modified);
        let last = modified(&self.documents);
        self.alone = last.is_some() && last == modified(now);
        if !self.alone {
            self.documents = Snapshot::default();
        }
    }

    /// Takes in what was left by a commit.
    fn keep(&mut self, place: &Key, holders: &Key, before: &BTreeSet<Key>, now: Snapshot) {
        let worth_it = |key: &Key| key == place || key.as_str().starts_with(holders.as_str());
        let Snapshot { revision, entries } = now;
        let documents = &mut self.documents;
        documents.revision = revision;
        documents.entries.retain(|key, _| !before.contains(key));
        if documents.entries.len() + entries.len() > MOST_LEFT {
            documents.entries.clear();
        }
        documents.entries.extend(entries.into_iter().filter(|(key, _)| worth_it(key)));
    }
}

impl LockManager {
    /// Settles what several machines want of `group`, each as [`LockManager::acquire_in_turn`] and
    /// [`LockManager::give_back`] would, with one load and one commit if they fit. The answers are
    /// in the order of the wishes. `left` is what the same call about the same group left before.
    ///
    /// A slot that is taken is reported as taken even when the caller has stopped listening: who
    /// asks again is told that it has it.
    pub async fn settle_together(
        &self,
        group: &Group,
        wishes: &[Wish],
        left: &mut Left,
    ) -> Vec<Result<Settled>> {
        let mut answers: BTreeMap<usize, Result<Settled>> = BTreeMap::new();
        let mut open: Vec<usize> = (0..wishes.len()).collect();
        while !open.is_empty() {
            let mut machines = BTreeSet::new();
            let some: Vec<usize> = open
                .iter()
                .copied()
                .filter(|n| machines.len() < AT_ONCE && machines.insert(wishes[*n].machine()))
                .collect();
            let settling: Vec<_> = some.iter().map(|n| &wishes[*n]).collect();
            let settled = self.settle_some(group, &settling, left).await;
            answers.extend(some.into_iter().zip(settled).filter_map(|(n, done)| Some((n, done?))));
            open.retain(|n| !answers.contains_key(n));
        }
        answers.into_values().collect()
    }

    pub(super) async fn settle_give_back(
        &self,
        group: &Group,
        machine: &MachineId,
        via: &Via,
    ) -> Result<GivenBack> {
        let wish = Wish::GiveBack { machine: machine.clone(), via: via.clone() };
        match self.settle_together(group, &[wish], &mut Left::default()).await.pop() {
            Some(Ok(Settled::GivenBack(given_back))) => Ok(given_back),
            Some(Err(error)) => Err(error),
            // Each wish has an answer of its kind.
            _ => Ok(GivenBack::NotHeld),
        }
    }

    /// The wishes are of different machines. `None`: did not fit, and is to be tried again.
    async fn settle_some(
        &self,
        group: &Group,
        wishes: &[&Wish],
        left: &mut Left,
    ) -> Vec<Option<Result<Settled>>> {
        match self.try_some(group, wishes, left).await {
            Ok(answers) => answers,
            // One of them may be to blame.
            Err(LockError::Store { source, .. }) if !source.is_transient() && wishes.len() > 1 => {
                let mut answers = Vec::new();
                for wish in wishes {
                    let settled = self.try_some(group, &[wish], left).await;
                    answers.push(settled.map_or_else(|e| Some(Err(e)), |mut one| one.pop()?));
                }
                answers
            }
            Err(error) => wishes.iter().map(|_| Some(Err(error.clone()))).collect(),
        }
    }

    /// An error is one for all of them.
    async fn try_some(
        &self,
        group: &Group,
        wishes: &[&Wish],
        left: &mut Left,
    ) -> Result<Vec<Option<Result<Settled>>>> {
        let who = match wishes {
            [one] => one.machine().to_string(),
            more => format!("{} machines", more.len()),
        };
        let action = &format!("settling what {who} asked for below {}", self.keys);
        let place = self.keys.semaphore(group);
        let deadline = Instant::now() + self.deadline;
        let mut known = left.known(self, group, wishes);
        let mut granted = Granted::default();
        let mut unsettled: Option<StoreError> = None;
        // What a commit that was never answered gave back, if it happened all the same.
        let mut unanswered: BTreeMap<usize, GivenBack> = BTreeMap::new();
        // Whether a commit was sent before: one that lost may have lost to itself, sent twice.
        let mut sent = false;
        let mut attempt = 0;
        loop {
            let believed = known.take();
            let is_belief = believed.is_some();
            let before = match believed {
                Some(before) => before,
                None => {
                    let asked = Instant::now();
                    let now = self.in_time(deadline, self.read_for(group, wishes)).await;
                    let now = now
                        .map_err(|error| store_error(action, unsettled.clone().unwrap_or(error)))?;
                    left.saw(&place, &now);
                    if wishes.iter().any(|wish| matches!(wish, Wish::Acquire { .. })) {
                        left.quiet = (!self.anybody_waits(group, &now)).then_some(asked);
                    }
                    now
                }
            };
            let plan = self.plan_with_leases(action, group, wishes, &before, &mut granted).await;
            self.keep_places(wishes, &plan, &mut left.kept, &mut granted).await;
            // Only what commits shows whether a belief was right.
            if is_belief && !plan.verdicts.iter().all(changes_hands) {
                continue;
            }
            if !plan.used.is_empty() {
                left.quiet = None;
            }
            let txn = plan.txn(&before);
            let ended = match &txn {
                None => Ok(None),
                Some(txn) => match self.in_time(deadline, self.store.commit(txn)).await {
                    Ok(Commit::Won(revision)) => Ok(Some(revision)),
                    Ok(Commit::Lost) => Err(None),
                    Err(error) => Err(Some(error)),
                },
            };
            match ended {
                Ok(revision) => {
                    if let Some((revision, txn)) = revision.zip(txn) {
                        let now = txn.applied_to(before, revision);
                        let changed = txn.changes.iter().map(|c| c.key().clone()).collect();
                        left.keep(&place, &self.keys.holders(group), &changed, now);
                    }
                    // What was sent before may have happened, and cooldowns and places may hang on them.
                    if !sent {
                        self.end_spare_leases(&plan, &granted).await;
                    }
                    let mut answers = self.answers(action, group, wishes, plan, &granted).await;
                    for (n, given_back) in unanswered {
                        if let Some(Ok(Settled::GivenBack(back @ GivenBack::NotHeld))) =
                            &mut answers[n]
                        {
                            *back = given_back;
                        }
                    }
                    return Ok(answers);
                }
                Err(None) => left.forget(),
                Err(Some(StoreError::LeaseGone)) => {
                    (granted.cooldown, granted.places) = (Leases::new(), BTreeMap::new());
                }
                Err(Some(error)) if error.is_transient() => {
                    left.forget();
                    unsettled = Some(error);
                    unanswered.extend(plan.given_back());
                }
                Err(Some(error)) => return Err(store_error(action, error)),
            }
            sent = true;
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
            if Instant::now() >= deadline {
                let (action, after) = (action.to_owned(), self.deadline);
                return Err(match unsettled {
                    Some(source) => LockError::Store { action, source },
                    None => LockError::Contended { action, after },
                });
            }
        }
    }

    /// Everything that the wishes depend on, at one moment.
    async fn read_for(
        &self,
        group: &Group,
        wishes: &[&Wish],
    ) -> std::result::Result<Snapshot, StoreError> {
        let mut keys = vec![self.keys.semaphore(group)];
        let mut below = Vec::new();
        if wishes.iter().any(|wish| matches!(wish, Wish::Acquire { .. })) {
            keys.extend([
                self.keys.paused(group),
                self.keys.cooldown(group),
                self.keys.fleet_paused(),
            ]);
            below = vec![
                (self.keys.queue(group), Select::Oldest(LOOK)),
                (self.keys.all_urgent(group), Select::All),
            ];
        }
        for wish in wishes {
            let machine = wish.machine();
            keys.extend([self.keys.holder(group, machine), self.keys.waiter(group, machine)]);
            keys.push(match wish {
                Wish::Acquire { .. } => self.keys.hold(machine),
                Wish::GiveBack { .. } => self.keys.urgent(group, machine),
            });
        }
        self.store.read(&keys, &below).await
    }

    /// Whether there is a line at all, among what was read.
    fn anybody_waits(&self, group: &Group, now: &Snapshot) -> bool {
        let lines = [self.keys.queue(group), self.keys.all_urgent(group)];
        let in_line = |key: &Key| lines.iter().any(|l| key.as_str().starts_with(l.as_str()));
        now.entries.keys().any(in_line)
    }

    /// Decides, and sees to the leases that it takes.
    async fn plan_with_leases(
        &self,
        action: &str,
        group: &Group,
        wishes: &[&Wish],
        before: &Snapshot,
        granted: &mut Granted,
    ) -> Plan {
        let mut plan = self.plan(group, wishes, before, granted);
        let cooldown = self.cooldowns.get(group).filter(|time| !time.is_zero());
        let cooldown = cooldown.filter(|_| plan.frees && !granted.cooldown.contains_key(group));
        if cooldown.is_none() && plan.wanted.is_empty() {
            return plan;
        }
        if let Some(time) = cooldown {
            match self.lease_of(action, *time).await {
                Ok(lease) => drop(granted.cooldown.insert(group.clone(), lease)),
                // No slot is given back without the pause that is to follow.
                Err(error) => {
                    let freed = wishes.iter().zip(&plan.verdicts).filter(|(_, v)| is_freed(v));
                    let freed = freed.map(|(wish, _)| (wish.machine().clone(), error.clone()));
                    granted.failed.extend(freed);
                }
            }
        }
        let wanted = std::mem::take(&mut plan.wanted)
            .into_iter()
            .map(|(machine, memory)| async move { (machine, self.lease_of(action, memory).await) });
        for (machine, lease) in join_all(wanted).await {
            match lease {
                Ok(lease) => drop(granted.places.insert(machine, lease)),
                Err(error) => drop(granted.failed.insert(machine, error)),
            }
        }
        self.plan(group, wishes, before, granted)
    }

    /// Keeps places in line alive, but for those that were a moment ago.
    async fn keep_places(
        &self,
        wishes: &[&Wish],
        plan: &Plan,
        lately: &mut BTreeMap<LeaseId, Instant>,
        granted: &mut Granted,
    ) {
        let now = Instant::now();
        lately.retain(|_, until| now < *until);
        let mut keeping = Vec::new();
        for (wish, verdict) in wishes.iter().zip(&plan.verdicts) {
            if let (Wish::Acquire { memory, .. }, Verdict::Keep(_, lease)) = (wish, verdict)
                && !granted.kept.contains_key(lease)
                && !lately.contains_key(lease)
            {
                let (lease, until) = (*lease, now + *memory / KEPT_FOR);
                keeping.push(async move { (lease, until, self.store.keep_alive(lease).await) });
            }
        }
        for (lease, until, kept) in join_all(keeping).await {
            if kept.is_ok() {
                lately.insert(lease, until);
            }
            granted.kept.insert(lease, kept);
        }
    }

    /// Leases that nothing came to hang on end by themselves, but sooner if told to.
    async fn end_spare_leases(&self, plan: &Plan, granted: &Granted) {
        let places = granted.places.values().filter(|lease| !plan.used.contains(lease));
        let cooldown = granted.cooldown.values().filter(|_| !plan.frees);
        let unused = places.chain(cooldown).copied();
        let ended = unused.map(|lease| async move { drop(self.store.revoke(lease).await) });
        join_all(ended.collect::<Vec<_>>()).await;
    }

    async fn answers(
        &self,
        action: &str,
        group: &Group,
        wishes: &[&Wish],
        plan: Plan,
        granted: &Granted,
    ) -> Vec<Option<Result<Settled>>> {
        let mut answers = Vec::new();
        for (wish, verdict) in wishes.iter().zip(plan.verdicts) {
            answers.push(match verdict {
                Verdict::Later => None,
                Verdict::Answer(answer) => Some(answer),
                Verdict::Keep(answer, lease) => Some(match granted.kept.get(&lease) {
                    // It came too late to keep its place, and has to take another.
                    Some(Err(StoreError::LeaseGone)) => {
                        self.settle_alone(group, wish, Alone::Acquire).await
                    }
                    Some(Err(error)) => Err(store_error(action, error.clone())),
                    _ => answer,
                }),
                Verdict::Alone(how) => Some(self.settle_alone(group, wish, how).await),
            });
        }
        answers
    }

    async fn settle_alone(&self, group: &Group, wish: &Wish, how: Alone) -> Result<Settled> {
        if let (Wish::Acquire { claim, memory }, Alone::Acquire) = (wish, &how) {
            return self.acquire_in_turn(claim, *memory).await.map(Settled::Turn);
        }
        let Alone::Release(release) = how else {
            return Ok(Settled::GivenBack(GivenBack::NotHeld));
        };
        let (groups, machine) = (std::slice::from_ref(group), wish.machine());
        let forgotten = forget_places(self, groups, machine).await;
        forgotten.map_err(|error| store_error("leaving the queue", error))?;
        Ok(Settled::GivenBack(match self.release(groups, machine, &release).await? {
            Released::Freed(record) => GivenBack::Freed(record),
            Released::NotHeld => GivenBack::NotHeld,
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
