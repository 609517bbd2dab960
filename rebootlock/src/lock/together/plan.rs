//! What to do about several wishes at once: each decided on the documents as those before it leave
//! them, and all of it made into one transaction. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Settled, Wish};
use crate::id::{Group, MachineId};
use crate::lock::acquire::already;
use crate::lock::line::Entering;
use crate::lock::release::Leases;
use crate::lock::turn::{Back, GivenBack, LOOK, Step, Turn};
use crate::lock::{Acquired, Decision, LockError, LockManager, Release, Result};
use crate::record::{Claim, Via};
use crate::semaphore::Semaphore;
use crate::store::{Change, Key, LeaseId, Revision, Select, Snapshot, StoreError, Txn};

/// Preconditions, and changes, of one transaction.
const MOST_OPERATIONS: usize = 126;

/// How one wish was decided, if the transaction it is part of is won.
pub(super) enum Verdict {
    Answer(Result<Settled>),
    /// The place it has in line is kept alive by asking.
    Keep(Result<Settled>, LeaseId),
    /// By an operation of its own, on groups or places that were not read.
    Alone(Alone),
    /// It did not fit any more.
    Later,
}

pub(super) enum Alone {
    Acquire,
    Release(Release),
}

/// All wishes decided, and what that changes.
pub(super) struct Plan {
    /// As all that was decided so far leaves it.
    now: Snapshot,
    /// As it was read; each machine has one wish, so what others wish changes nothing about whether
    /// it is a holder.
    semaphore: Option<Semaphore>,
    conditions: BTreeSet<Key>,
    changes: BTreeMap<Key, Change>,
    pub(super) verdicts: Vec<Verdict>,
    /// Who needs a lease for a place in line, and for how long.
    pub(super) wanted: Vec<(MachineId, Duration)>,
    /// Leases that places hang on.
    pub(super) used: BTreeSet<LeaseId>,
    /// Whether a slot becomes free.
    pub(super) frees: bool,
}

impl Plan {
    /// Adds what one wish changes; `false` if that is too much for one transaction.
    fn add(&mut self, before: &Snapshot, txn: &Txn) -> bool {
        let needless = |change: &&Change| {
            // What is not there need not be taken away.
            !matches!(change, Change::Delete { key } if before.get(key).is_none())
        };
        let conditions: Vec<_> = txn.preconditions.iter().map(|condition| &condition.key).collect();
        let changes: Vec<_> = txn.changes.iter().filter(needless).collect();
        let more = conditions.iter().filter(|key| !self.conditions.contains(**key)).count();
        let more_changes =
            changes.iter().filter(|change| !self.changes.contains_key(change.key())).count();
        if self.conditions.len() + more > MOST_OPERATIONS
            || self.changes.len() + more_changes > MOST_OPERATIONS
        {
            return false;
        }
        self.conditions.extend(conditions.into_iter().cloned());
        self.changes
            .extend(changes.into_iter().map(|change| (change.key().clone(), change.clone())));
        // Later than all that was read.
        let revision = Revision(before.revision.0 + 1);
        self.now = txn.applied_to(std::mem::take(&mut self.now), revision);
        true
    }

    /// The slots that become free by it, by the number of the wish.
    pub(super) fn given_back(&self) -> impl Iterator<Item = (usize, GivenBack)> + '_ {
        self.verdicts.iter().enumerate().filter_map(|(n, verdict)| match verdict {
            Verdict::Answer(Ok(Settled::GivenBack(freed @ GivenBack::Freed(_)))) => {
                Some((n, freed.clone()))
            }
            _ => None,
        })
    }

    /// What to commit, if there is anything.
    pub(super) fn txn(&self, before: &Snapshot) -> Option<Txn> {
        (!self.changes.is_empty()).then(|| Txn {
            preconditions: self.conditions.iter().map(|key| before.unchanged(key)).collect(),
            changes: self.changes.values().cloned().collect(),
        })
    }
}

/// What was granted for one transaction, over all tries.
#[derive(Default)]
pub(super) struct Granted {
    pub(super) cooldown: Leases,
    pub(super) places: BTreeMap<MachineId, LeaseId>,
    /// Who did not get what it takes.
    pub(super) failed: BTreeMap<MachineId, LockError>,
    pub(super) kept: BTreeMap<LeaseId, std::result::Result<(), StoreError>>,
}

impl LockManager {
    pub(super) fn plan(
        &self,
        group: &Group,
        wishes: &[&Wish],
        before: &Snapshot,
        granted: &Granted,
    ) -> Plan {
        let mut plan = Plan {
            semaphore: self.semaphore(before, group).ok(),
            now: before.clone(),
            conditions: BTreeSet::new(),
            changes: BTreeMap::new(),
            verdicts: wishes.iter().map(|_| Verdict::Later).collect(),
            wanted: Vec::new(),
            used: BTreeSet::new(),
            frees: false,
        };
        // What one gives back may be for another.
        let gives_back = |n: &usize| matches!(wishes[*n], Wish::GiveBack { .. });
        let (first, then): (Vec<_>, Vec<_>) = (0..wishes.len()).partition(gives_back);
        for n in first.into_iter().chain(then) {
            plan.verdicts[n] = match (granted.failed.get(wishes[n].machine()), wishes[n]) {
                (Some(error), _) => Verdict::Answer(Err(error.clone())),
                (None, Wish::GiveBack { machine, via }) => {
                    self.plan_give_back(&mut plan, group, (machine, via), before, granted)
                }
                (None, Wish::Acquire { claim, memory }) if claim.groups() == [group.clone()] => {
                    self.plan_acquire(&mut plan, (claim, *memory), before, granted)
                }
                (None, Wish::Acquire { .. }) => Verdict::Alone(Alone::Acquire),
            };
        }
        plan
    }

    fn plan_give_back(
        &self,
        plan: &mut Plan,
        group: &Group,
        (machine, via): (&MachineId, &Via),
        before: &Snapshot,
        granted: &Granted,
    ) -> Verdict {
        let answer = |given_back| Verdict::Answer(Ok(Settled::GivenBack(given_back)));
        match self.decide_give_back(group, machine, via, &granted.cooldown, &plan.now) {
            Err(error) => Verdict::Answer(Err(error)),
            Ok(Decision::Done(Back::Settled(given_back))) => answer(given_back),
            Ok(Decision::Commit(txn, Back::Settled(given_back))) => {
                let frees = matches!(given_back, GivenBack::Freed(_));
                if !plan.add(before, &txn) {
                    return Verdict::Later;
                }
                plan.frees |= frees;
                answer(given_back)
            }
            Ok(Decision::Done(Back::AlsoHolds(release)))
            | Ok(Decision::Commit(_, Back::AlsoHolds(release))) => {
                Verdict::Alone(Alone::Release(release))
            }
        }
    }

    fn plan_acquire(
        &self,
        plan: &mut Plan,
        (claim, memory): (&Claim, Duration),
        before: &Snapshot,
        granted: &Granted,
    ) -> Verdict {
        let holds = plan.semaphore.as_ref().is_some_and(|now| now.holds(&claim.machine));
        let step = match holds {
            // Most who ask have their slots already: nothing is to be written for them.
            true => self.plan_again(plan, claim),
            false => self.decide_turn(claim, &plan.now, Select::Oldest(LOOK)),
        };
        let step = match step {
            Err(error) => return Verdict::Answer(Err(error)),
            Ok(Decision::Done(step)) => step,
            Ok(Decision::Commit(txn, step)) => {
                if !plan.add(before, &txn) {
                    return Verdict::Later;
                }
                step
            }
        };
        let turn = |turn| Ok(Settled::Turn(turn));
        let (answer, own) = match step {
            Step::Granted(acquired) => return Verdict::Answer(turn(Turn::Granted(acquired))),
            // So many are free that the whole queue has to be looked at.
            Step::Queued(queued, _) if queued.free as usize >= LOOK => {
                return Verdict::Alone(Alone::Acquire);
            }
            Step::Queued(queued, own) => (turn(Turn::Queued(queued)), own),
            Step::Stopped(stop, own) => (Err(stop), own),
            Step::Held(hold) => {
                return match plan.add(before, &self.leave_line(claim, &plan.now)) {
                    true => Verdict::Answer(Err(hold)),
                    false => Verdict::Later,
                };
            }
        };
        if let Some(lease) = self.kept_by(claim, &own) {
            plan.used.insert(lease);
            return Verdict::Keep(answer, lease);
        }
        match granted.places.get(&claim.machine) {
            Some(lease) => {
                let Entering::Takes { txn, .. } = self.place_by_asking(claim, &own, *lease) else {
                    return Verdict::Alone(Alone::Acquire);
                };
                if !plan.add(before, &txn) {
                    return Verdict::Later;
                }
                plan.used.insert(*lease);
            }
            None => plan.wanted.push((claim.machine.clone(), memory)),
        }
        Verdict::Answer(answer)
    }

    fn plan_again(&self, plan: &Plan, claim: &Claim) -> Result<Decision<Step>> {
        let records = claim.groups().iter().map(|g| self.record(&plan.now, g, &claim.machine));
        let acquired = already(claim, records.collect::<Result<_>>()?);
        self.has_already(claim, acquired, &plan.now).map(Decision::Done)
    }

    /// Takes the claim's machine out of the line, where it would keep others waiting in vain.
    fn leave_line(&self, claim: &Claim, now: &Snapshot) -> Txn {
        let of_group = |group| {
            [self.keys.waiter(group, &claim.machine), self.keys.urgent(group, &claim.machine)]
        };
        let places = claim.groups().iter().flat_map(of_group);
        places.filter(|place| now.get(place).is_some()).fold(Txn::new(), Txn::delete)
    }
}

/// Whether a slot is taken by it, or becomes free.
pub(super) fn changes_hands(verdict: &Verdict) -> bool {
    let Verdict::Answer(Ok(settled)) = verdict else { return false };
    let granted = Settled::Turn(Turn::Granted(Acquired::Granted));
    is_freed(verdict) || *settled == granted
}

/// Whether a slot becomes free by it.
pub(super) fn is_freed(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Answer(Ok(Settled::GivenBack(GivenBack::Freed(_)))))
}
