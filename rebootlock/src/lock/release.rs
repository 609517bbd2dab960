//! Giving a machine's slots back.

use std::collections::BTreeSet;

use super::{Decision, LockManager, Result};
use crate::id::{Group, MachineId, Token};
use crate::record::{HolderRecord, sorted_groups};
use crate::store::{Snapshot, Txn};

/// How a release ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Released {
    /// The slots are free. With the record that went with them, if there was one.
    Freed(Option<Box<HolderRecord>>),
    /// The machine held none, or none by the token that was named.
    NotHeld,
}

impl LockManager {
    /// Frees the slots of `machine` in `groups`, and in the groups that its record says were taken
    /// together with them, in one transaction that takes the records away too.
    ///
    /// With a `token` only that acquisition is released: a machine that was unlocked and locked
    /// again meanwhile keeps what it has now. Without one, whoever holds is released: an
    /// operator's decision.
    ///
    /// # Errors
    /// [`super::LockError::Damaged`], or what the store says; then it may have happened all the same.
    pub async fn release(
        &self,
        groups: &[Group],
        machine: &MachineId,
        token: Option<Token>,
    ) -> Result<Released> {
        let mut groups = sorted_groups(groups.iter().cloned());
        loop {
            let action = format!("releasing the slot of {machine} below {}", self.keys);
            let keys = self.keys_of(&groups, machine);
            let outcome = self
                .settle(&action, &keys, |before| {
                    self.decide_release(&groups, machine, token, before)
                })
                .await?;
            match outcome {
                Outcome::Settled(released) => return Ok(released),
                Outcome::AlsoHolds(more) => groups = sorted_groups(groups.into_iter().chain(more)),
            }
        }
    }

    /// Makes sure that no acquisition for `machine` that was never answered can still happen: it
    /// requires the semaphores as they were, so they are written anew, unchanged. Returns whether
    /// the machine holds a slot in one of `groups`; then nothing is written.
    ///
    /// # Errors
    /// [`super::LockError::Damaged`], or what the store says; then it is not settled.
    pub async fn settle_unanswered(&self, groups: &[Group], machine: &MachineId) -> Result<bool> {
        let groups = sorted_groups(groups.iter().cloned());
        let action = format!("settling what {machine} last asked for below {}", self.keys);
        let keys: Vec<_> = groups.iter().map(|group| self.keys.semaphore(group)).collect();
        self.settle(&action, &keys, |before| {
            let mut txn = Txn::new();
            for (group, key) in groups.iter().zip(&keys) {
                let semaphore = self.semaphore(before, group)?;
                if semaphore.holds(machine) {
                    return Ok(Decision::Done(true));
                }
                txn = txn.when(before.unchanged(key)).put(key.clone(), semaphore.to_json());
            }
            Ok(Decision::Commit(txn, false))
        })
        .await
    }

    fn decide_release(
        &self,
        groups: &[Group],
        machine: &MachineId,
        token: Option<Token>,
        before: &Snapshot,
    ) -> Result<Decision<Outcome>> {
        let mut txn = Txn::new();
        let mut found: Option<HolderRecord> = None;
        let mut more = BTreeSet::new();
        let (mut freed, mut leftover) = (false, false);
        for group in groups {
            let mut semaphore = self.semaphore(before, group)?;
            let record = match self.record(before, group, machine) {
                // An operator may free a slot whose record is damaged; an agent, which has to see
                // its token, may not.
                Err(_) if token.is_none() => None,
                other => other?,
            };
            let (place, holder) = (self.keys.semaphore(group), self.keys.holder(group, machine));
            let by_token =
                token.is_none_or(|token| record.as_ref().is_some_and(|r| r.is_of(token)));
            if !by_token {
                continue;
            }
            txn = txn.when(before.unchanged(&place)).when(before.unchanged(&holder));
            if before.get(&holder).is_some() {
                leftover = true;
                txn = txn.delete(holder);
            }
            if semaphore.release(machine).is_ok() {
                freed = true;
                txn = txn.put(place, semaphore.to_json());
                let together = record.iter().flat_map(HolderRecord::groups);
                more.extend(together.filter(|group| !groups.contains(group)));
                found = found.or(record);
            }
        }
        if !more.is_empty() {
            return Ok(Decision::Done(Outcome::AlsoHolds(more)));
        }
        Ok(match (freed, leftover) {
            (true, _) => {
                Decision::Commit(txn, Outcome::Settled(Released::Freed(found.map(Box::new))))
            }
            // A record without its place in the semaphore goes too, but frees nothing.
            (false, true) => Decision::Commit(txn, Outcome::Settled(Released::NotHeld)),
            (false, false) => Decision::Done(Outcome::Settled(Released::NotHeld)),
        })
    }
}

enum Outcome {
    Settled(Released),
    /// The record names groups that were not loaded yet.
    AlsoHolds(BTreeSet<Group>),
}
