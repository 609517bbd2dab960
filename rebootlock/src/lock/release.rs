//! Giving a machine's slots back.

use std::collections::{BTreeMap, BTreeSet};

use super::{Before, Decision, LockError, LockManager, Result};
use crate::id::{BootId, Group, MachineId, Token};
use crate::record::{Cooldown, Document, Ending, HolderRecord, Past, UnixTime, Via, sorted_groups};
use crate::store::{LeaseId, Snapshot, StoreError, Txn};

/// How a release ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Released {
    /// The slots are free. With the record that went with them, if there was one.
    Freed(Option<Box<HolderRecord>>),
    /// The machine held none, or none by the token that was named.
    NotHeld,
}

/// What is to be released, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    /// Only this acquisition: a machine that was unlocked and locked again meanwhile keeps what it
    /// has now. Without one, whoever holds is released: an operator's decision.
    pub token: Option<Token>,
    /// How it ended.
    pub ended: Ended,
}

impl Release {
    /// The end of the acquisition that `token` made.
    pub fn of(token: Token, ended: Ended) -> Self {
        Self { token: Some(token), ended }
    }

    /// An operator frees a slot, whoever holds it.
    pub fn by_operator(by: impl Into<String>) -> Self {
        Self { token: None, ended: Ended::Unlocked { by: by.into() } }
    }
}

/// How holding a slot ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// Its holder gives it back. It goes into the history only if the machine had the permit.
    GivenBack,
    /// Its holder says over the network that it is up. In which boot nobody knows, so it counts as
    /// back from a reboot: its groups cool down, and the history has it.
    Steady,
    /// The same, but its service has never said so, and the time for that is over.
    NotReady,
    /// The machine is back from its reboot in this boot, and well. Its groups cool down.
    Verified {
        /// The boot it came back in.
        boot: BootId,
    },
    /// The machine is back but not well, and its slot is freed all the same, as was configured.
    Failed {
        /// The boot it came back in.
        boot: BootId,
    },
    /// The command for which it was held has ended.
    ExecEnded,
    /// An operator frees it.
    Unlocked {
        /// Who.
        by: String,
    },
    /// The machine did not come back, and who waits for its slot frees it, as was configured.
    Overdue {
        /// Who waits.
        by: String,
    },
}

impl Ended {
    /// The entry of the history for `machine`, if this is worth one.
    fn past(
        &self,
        machine: &MachineId,
        record: Option<&HolderRecord>,
        now: UnixTime,
    ) -> Option<Past> {
        let ending = match self {
            Self::GivenBack if !record.is_some_and(HolderRecord::came_to_something) => return None,
            Self::GivenBack | Self::Steady => Ending::GivenBack,
            Self::Verified { .. } => Ending::Verified,
            Self::Failed { .. } => Ending::Failed,
            Self::ExecEnded => Ending::ExecEnded,
            Self::Unlocked { .. } => Ending::Unlocked,
            Self::Overdue { .. } => Ending::Overdue,
            Self::NotReady => Ending::NotReady,
        };
        let mut past = Past::of(machine, record, ending, now);
        match self {
            Self::Verified { boot } | Self::Failed { boot } => {
                past.new_boot_id = Some(boot.clone());
            }
            Self::Unlocked { by } | Self::Overdue { by } => past.by = Some(by.clone()),
            Self::GivenBack | Self::Steady | Self::NotReady | Self::ExecEnded => {}
        }
        Some(past)
    }
}

/// Leases for the cooldowns that a release begins.
pub(super) type Leases = BTreeMap<Group, LeaseId>;

/// How often new leases are taken when a commit took longer than those it had.
pub(super) const LEASE_TRIES: u32 = 3;

impl LockManager {
    /// Frees the slots of `machine` in `groups`, and in the groups that its record says were taken
    /// together with them, in one transaction that takes the records away, writes the history, and
    /// begins the cooldown of groups that have one.
    ///
    /// # Errors
    /// [`LockError::Damaged`], or what the store says; then it may have happened all the same.
    pub async fn release(
        &self,
        groups: &[Group],
        machine: &MachineId,
        release: &Release,
    ) -> Result<Released> {
        let mut groups = sorted_groups(groups.iter().cloned());
        let action = format!("releasing the slot of {machine} below {}", self.keys);
        let (mut leases, mut tries) = (Leases::new(), 0);
        let mut known = self.recent.take(machine);
        loop {
            self.grant_cooldowns(&action, &groups, &release.ended, &mut leases).await?;
            let keys = self.keys_of(&groups, machine);
            let ended = self
                .settle_from(&action, &keys, known.take(), |before| {
                    self.decide_release(&groups, machine, release, &leases, before)
                })
                .await
                .map(|ended| (ended.answer, ended.before));
            match ended {
                // A commit that was never answered has done it.
                Ok((
                    Outcome::Settled(Released::NotHeld),
                    Some(Before::Unanswered(Outcome::Settled(freed))),
                )) => return Ok(freed),
                Ok((Outcome::Settled(released), before)) => {
                    // Cooldowns hang on the leases of a commit that may have happened.
                    if released == Released::NotHeld && before.is_none() {
                        self.end_unused(leases).await;
                    }
                    return Ok(released);
                }
                Ok((Outcome::AlsoHolds(more), _)) => {
                    groups = sorted_groups(groups.into_iter().chain(more));
                }
                Err(LockError::Store { source: StoreError::LeaseGone, .. })
                    if tries < LEASE_TRIES =>
                {
                    (leases, tries) = (Leases::new(), tries + 1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sees to it that there is a lease for each group that is to cool down.
    pub(super) async fn grant_cooldowns(
        &self,
        action: &str,
        groups: &[Group],
        ended: &Ended,
        leases: &mut Leases,
    ) -> Result<()> {
        if !matches!(ended, Ended::Verified { .. } | Ended::Steady | Ended::NotReady) {
            return Ok(());
        }
        for group in groups {
            if let Some(time) = self.cooldowns.get(group).filter(|time| !time.is_zero())
                && !leases.contains_key(group)
            {
                leases.insert(group.clone(), self.lease_of(action, *time).await?);
            }
        }
        Ok(())
    }

    pub(super) async fn end_unused(&self, leases: Leases) {
        for lease in leases.into_values() {
            // Nothing hangs on it, and it ends by itself.
            let _ = self.store.revoke(lease).await;
        }
    }

    /// Makes sure that no acquisition for `machine` that was never answered can still happen: it
    /// requires the semaphores as they were, so they are written anew, unchanged. Returns whether
    /// the machine holds a slot in one of `groups`; then nothing is written.
    ///
    /// # Errors
    /// [`LockError::Damaged`], or what the store says; then it is not settled.
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

    pub(super) fn decide_release(
        &self,
        groups: &[Group],
        machine: &MachineId,
        release: &Release,
        leases: &Leases,
        before: &Snapshot,
    ) -> Result<Decision<Outcome>> {
        let token = release.token;
        // One entry under one name in all groups, so that it can be told to be one.
        let nameless = Token::random();
        let mut txn = Txn::new();
        let mut found: Option<HolderRecord> = None;
        let mut more = BTreeSet::new();
        let (mut freed, mut leftover) = (false, false);
        // Else it would ask for a slot anew as long as its wish lasts.
        let mut unwished = false;
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
                let via = record.as_ref().and_then(|record| record.via.as_ref());
                unwished |= via == Some(&Via::DisruptionManager)
                    && matches!(release.ended, Ended::Unlocked { .. });
                txn = txn.put(place, semaphore.to_json());
                if let Some(past) = release.ended.past(machine, record.as_ref(), self.now()) {
                    let start = past.start_time.unwrap_or(past.ended_at);
                    let key = self.keys.past(group, start, past.token.unwrap_or(nameless));
                    txn = txn.put(key, past.to_json());
                }
                if let Some((time, lease)) = self.cooldowns.get(group).zip(leases.get(group)) {
                    let cooldown = Cooldown {
                        machine_id: machine.to_string(),
                        hostname: record.as_ref().and_then(|record| record.hostname.clone()),
                        since: self.now(),
                        secs: time.as_secs(),
                        unknown: serde_json::Map::new(),
                    };
                    txn = txn.put_leased(self.keys.cooldown(group), cooldown.to_json(), *lease);
                }
                let together = record.iter().flat_map(HolderRecord::groups);
                more.extend(together.filter(|group| !groups.contains(group)));
                found = found.or(record);
            }
        }
        if !more.is_empty() {
            return Ok(Decision::Done(Outcome::AlsoHolds(more)));
        }
        if unwished {
            let [wish, time] = self.of_disruption(machine);
            txn = txn.delete(wish).delete(time);
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

pub(super) enum Outcome {
    Settled(Released),
    /// The record names groups that were not loaded yet.
    AlsoHolds(BTreeSet<Group>),
}
