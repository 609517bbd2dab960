//! Taking a slot in each of a machine's groups, all or none.

use super::{Decision, LockError, LockManager, Result};
use crate::record::{Claim, Document, HolderRecord};
use crate::store::{Commit, Precondition, Snapshot, Txn};

/// How an acquisition succeeded.
#[derive(Debug, Clone, PartialEq)]
pub enum Acquired {
    /// The slots are ours, by this claim's token.
    Granted,
    /// The machine had them already, or one of them, from another acquisition, and nothing was
    /// changed. Without a record if a program that writes none took them.
    Already(Option<Box<HolderRecord>>),
}

impl LockManager {
    /// Takes a slot for the claim's machine in each of its groups, in one transaction.
    ///
    /// Asking again, with the same claim or another, succeeds and changes nothing.
    ///
    /// # Errors
    /// [`LockError::Full`], [`LockError::Paused`], [`LockError::Held`] and [`LockError::CoolingDown`]:
    /// then they are not ours, and will not be by this. [`LockError::Damaged`], or what the store says;
    /// then they may be ours all the same, which asking again finds out.
    pub async fn acquire(&self, claim: &Claim) -> Result<Acquired> {
        let action = format!("acquiring a slot for {} below {}", claim.machine, self.keys);
        let keys = self.keys_of(claim.groups(), &claim.machine);
        let decide = |before: &Snapshot| {
            Ok(match self.decide_acquire(claim, before) {
                Ok(Decision::Done(acquired)) => Decision::Done(Ok(acquired)),
                Ok(Decision::Commit(txn, acquired)) => Decision::Commit(txn, Ok(acquired)),
                Err(refusal) => Decision::Done(Err(refusal)),
            })
        };
        loop {
            let ended = self.settle_from(&action, &keys, None, decide).await?;
            self.remember_if_only(claim, ended.left);
            // What was sent before may be on its way still, and a pause does not last for ever.
            if ended.answer.is_ok()
                || ended.before.is_none()
                || !self.settle_unanswered(claim.groups(), &claim.machine).await?
            {
                return ended.answer;
            }
        }
    }

    /// How [`LockManager::acquire`] would end at this moment. Writes nothing.
    ///
    /// # Errors
    /// Those of [`LockManager::acquire`].
    pub async fn would_acquire(&self, claim: &Claim) -> Result<Acquired> {
        let action = format!("looking for a slot for {} below {}", claim.machine, self.keys);
        let before = self.load(&action, &self.keys_of(claim.groups(), &claim.machine)).await?;
        Ok(match self.decide_acquire(claim, &before)? {
            Decision::Done(acquired) | Decision::Commit(_, acquired) => acquired,
        })
    }

    /// Like [`LockManager::acquire`], but in one try on documents that are known already, and only
    /// if `places` are still as they were. `None`: they or the documents have changed.
    pub(crate) async fn acquire_from(
        &self,
        claim: &Claim,
        before: &Snapshot,
        places: impl IntoIterator<Item = Precondition>,
    ) -> Result<Option<Acquired>> {
        let (mut txn, acquired) = match self.decide_acquire(claim, before)? {
            Decision::Done(acquired) => return Ok(Some(acquired)),
            Decision::Commit(txn, acquired) => (txn, acquired),
        };
        txn.preconditions.extend(places);
        let action = || format!("acquiring a slot for {} below {}", claim.machine, self.keys);
        match self.store.commit(&txn).await {
            Ok(Commit::Won(revision)) => {
                self.remember_if_only(claim, Some(txn.applied_to(before.clone(), revision)));
                Ok(Some(acquired))
            }
            Ok(Commit::Lost) => Ok(None),
            Err(source) => Err(LockError::Store { action: action(), source }),
        }
    }

    /// What an acquisition left behind is worth remembering if nobody else can be a holder.
    pub(super) fn remember_if_only(&self, claim: &Claim, left: Option<Snapshot>) {
        let Some(left) = left else { return };
        let only = |group| self.semaphore(&left, group).is_ok_and(|semaphore| semaphore.max() == 1);
        if claim.groups().iter().all(only) {
            self.recent.remember(&claim.machine, left);
        }
    }

    pub(super) fn decide_acquire(
        &self,
        claim: &Claim,
        before: &Snapshot,
    ) -> Result<Decision<Acquired>> {
        let machine = &claim.machine;
        let mut txn = Txn::new();
        let mut held = Vec::new();
        let record = claim.record(self.now());
        let mut full = None;
        for group in claim.groups() {
            let mut semaphore = self.semaphore(before, group)?;
            let (place, holder) = (self.keys.semaphore(group), self.keys.holder(group, machine));
            txn = txn.when(before.unchanged(&place)).when(before.unchanged(&holder));
            if semaphore.holds(machine) {
                held.push(self.record(before, group, machine)?);
            } else {
                if let Err(error) = semaphore.acquire(machine.clone()) {
                    full.get_or_insert(LockError::Full { group: group.clone(), max: error.max });
                }
                txn = txn.put(place, semaphore.to_json());
            }
            // A record without its place in the semaphore is a leftover, and is replaced.
            txn = txn
                .put(holder, record.to_json())
                .delete(self.keys.waiter(group, machine))
                .delete(self.keys.urgent(group, machine));
        }
        if held.len() == claim.groups().len() {
            return Ok(Decision::Done(already(claim, held)));
        }
        // Some of its groups are held by an earlier acquisition, which does not know of this one.
        if !held.is_empty() {
            return Ok(Decision::Done(Acquired::Already(first_of(held))));
        }
        if let Some(stop) = self.stop_in_force(before, claim.groups(), machine) {
            return Err(stop);
        }
        if let Some(full) = full {
            return Err(full);
        }
        if let Some(cooling) = self.cooldown_in_force(before, claim.groups()) {
            return Err(cooling);
        }
        let cooldowns = claim.groups().iter().map(|group| self.keys.cooldown(group));
        let txn = cooldowns.fold(txn, Txn::when_absent);
        Ok(Decision::Commit(self.when_not_stopped(txn, claim.groups(), machine), Acquired::Granted))
    }
}

/// What it means that the claim's machine has all slots, by these records.
pub(super) fn already(claim: &Claim, held: Vec<Option<HolderRecord>>) -> Acquired {
    if held.iter().flatten().any(|record| record.is_of(claim.token)) {
        return Acquired::Granted;
    }
    Acquired::Already(first_of(held))
}

fn first_of(held: Vec<Option<HolderRecord>>) -> Option<Box<HolderRecord>> {
    held.into_iter().flatten().next().map(Box::new)
}
