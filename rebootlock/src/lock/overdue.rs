//! Freeing the slot of a machine that went down for its reboot and did not come back, where
//! somebody has configured that.
//!
//! It is a guess: nothing tells a machine that is gone from one that nobody can see. So it is made
//! only of an agent's slot, after its permit, long past the time its agent said it would be
//! back, while its agent is not there, while nobody has paused or held anything (then people are at
//! it), and only so often a day: a clock that runs ahead, or a rack without power, frees no more
//! than that.
//!
//! A FleetLock client says neither when it goes down nor when it will be back. Its slot is freed only
//! long after it took it, and long after it last asked for it again: [`LockManager::heard_from`]
//! notes that, and what is noted stands in the way until its lease ends.

use std::time::Duration;

use super::release::{Leases, Outcome};
use super::{Decision, Ended, LockError, LockManager, Release, Released, Result};
use crate::id::{Group, MachineId, Token};
use crate::record::{
    Day, Document, Ending, HolderRecord, HolderState, OverdueReleases, Past, UnixTime, Via,
    sorted_groups,
};
use crate::store::{Key, Snapshot, Txn};

/// What came of looking for a slot to free.
#[derive(Debug, Clone, PartialEq)]
pub enum OverdueRelease {
    /// None is to be freed.
    None,
    /// This machine's slots are free.
    Freed {
        /// Whose they were.
        machine: MachineId,
        /// The record that went with them, as it was found.
        record: Box<HolderRecord>,
    },
    /// There is one, but enough were freed on this day.
    Spent {
        /// Whose it is.
        machine: MachineId,
    },
}

/// A slot that may be freed.
struct Candidate {
    machine: MachineId,
    token: Token,
    record: HolderRecord,
    /// All its groups.
    groups: Vec<Group>,
}

/// Whose slots are looked at.
#[derive(Clone, Copy)]
enum Whose {
    Agents,
    Clients,
}

/// What is allowed, and to whom.
struct Rule<'a> {
    whose: Whose,
    older_than: Duration,
    budget: u32,
    by: &'a str,
}

impl LockManager {
    /// Frees the slots of one machine that holds one in `group`, which is full, and should have
    /// been back `older_than` ago and more: the one that is longest overdue. At most `budget` in
    /// each of its groups on one day, counted by whoever does this, in the same transaction.
    ///
    /// # Errors
    /// [`LockError::Damaged`] if the semaphore or the count cannot be read, or what the store says;
    /// then it may have happened all the same.
    pub async fn release_overdue(
        &self,
        group: &Group,
        older_than: Duration,
        budget: u32,
        by: &str,
    ) -> Result<OverdueRelease> {
        self.release_by(group, &Rule { whose: Whose::Agents, older_than, budget, by }).await
    }

    /// The same of a FleetLock client that took its slot in `group` longer than `silent_for` ago,
    /// and has not been [heard from](LockManager::heard_from) since: the one that took it first.
    ///
    /// # Errors
    /// As for [`LockManager::release_overdue`].
    pub async fn release_silent(
        &self,
        group: &Group,
        silent_for: Duration,
        budget: u32,
        by: &str,
    ) -> Result<OverdueRelease> {
        let rule = Rule { whose: Whose::Clients, older_than: silent_for, budget, by };
        self.release_by(group, &rule).await
    }

    /// Notes that `machine`, holder by the acquisition `token`, is there, for so long. Its slot may have
    /// been freed by the time this returns, but is not after that.
    ///
    /// # Errors
    /// What the store says: then nothing may be noted.
    pub async fn heard_from(
        &self,
        machine: &MachineId,
        token: Token,
        lasting: Duration,
    ) -> Result<()> {
        let key = self.keys.alive(token);
        let action = format!("noting that somebody is there at {key}");
        let lease = self.lease_of(&action, lasting).await?;
        let txn = Txn::new().put_leased(key, machine.as_str().as_bytes().to_vec(), lease);
        let noted = self.store.commit(&txn).await;
        noted.map(drop).map_err(|source| LockError::Store { action, source })
    }

    async fn release_by(&self, group: &Group, rule: &Rule<'_>) -> Result<OverdueRelease> {
        let mut answer = OverdueRelease::None;
        for candidate in self.overdue(group, rule).await? {
            match self.free(group, &candidate, rule).await? {
                OverdueRelease::None => {}
                freed @ OverdueRelease::Freed { .. } => return Ok(freed),
                // Another may be in groups with a budget left.
                spent @ OverdueRelease::Spent { .. } => answer = spent,
            }
        }
        Ok(answer)
    }

    /// Who holds a slot in `group` and is overdue, longest first; nobody if the group is not full.
    async fn overdue(&self, group: &Group, rule: &Rule<'_>) -> Result<Vec<Candidate>> {
        let place = self.keys.semaphore(group);
        let action = format!("looking for overdue machines at {place}");
        let now = self.load(&action, std::slice::from_ref(&place)).await?;
        let semaphore = self.semaphore(&now, group)?;
        if !is_worth_it(semaphore.available(), semaphore.max()) {
            return Ok(Vec::new());
        }
        let holders: Vec<_> = semaphore.holders().iter().cloned().collect();
        let keys: Vec<Key> = holders.iter().map(|m| self.keys.holder(group, m)).collect();
        let records = self.load(&action, &keys).await?;
        let now = self.now();
        let candidate = |(machine, key): (MachineId, &Key)| {
            // What cannot be read is not known to be overdue.
            let record = HolderRecord::from_json(&records.get(key)?.value).ok()?;
            let token = record.token.filter(|_| rule.holds_for(&record, now))?;
            let groups = sorted_groups(record.groups().chain([group.clone()]));
            Some(Candidate { machine, token, record, groups })
        };
        let mut found: Vec<_> = holders.into_iter().zip(&keys).filter_map(candidate).collect();
        found.sort_by_key(|c| (c.record.expected_back, c.record.start_time));
        Ok(found)
    }

    async fn free(
        &self,
        group: &Group,
        candidate: &Candidate,
        rule: &Rule<'_>,
    ) -> Result<OverdueRelease> {
        let Candidate { machine, groups, token, .. } = candidate;
        let action = format!("releasing the overdue slot of {machine} below {}", self.keys);
        self.recent.take(machine);
        let mut keys = self.keys_of(groups, machine);
        keys.extend([self.keys.machine(machine), self.past_of(group, candidate)]);
        keys.push(self.keys.alive(*token));
        keys.extend(groups.iter().map(|group| self.keys.overdue_releases(group)));
        self.settle(&action, &keys, |before| self.decide_overdue(group, candidate, rule, before))
            .await
    }

    fn decide_overdue(
        &self,
        group: &Group,
        candidate: &Candidate,
        rule: &Rule<'_>,
        before: &Snapshot,
    ) -> Result<Decision<OverdueRelease>> {
        let Candidate { machine, token, groups, .. } = candidate;
        let freed = || OverdueRelease::Freed {
            machine: machine.clone(),
            record: Box::new(candidate.record.clone()),
        };
        // An earlier try whose answer was lost.
        let past = before.get(&self.past_of(group, candidate));
        if past.and_then(|entry| Past::from_json(&entry.value).ok()).is_some_and(|past| {
            past.ended == Ending::Overdue && past.by.as_deref() == Some(rule.by)
        }) {
            return Ok(Decision::Done(freed()));
        }
        let nothing = Ok(Decision::Done(OverdueRelease::None));
        let semaphore = self.semaphore(before, group)?;
        let record = self.record(before, group, machine).ok().flatten();
        let still_overdue = record
            .is_some_and(|record| record.is_of(*token) && rule.holds_for(&record, self.now()));
        let (present, alive) = (self.keys.machine(machine), self.keys.alive(*token));
        if !still_overdue
            || !is_worth_it(semaphore.available(), semaphore.max())
            || before.get(&present).is_some()
            || before.get(&alive).is_some()
            || self.stop_in_force(before, groups, machine).is_some()
        {
            return nothing;
        }
        let Some(today) = Day::of(self.now()) else { return nothing };
        let mut counts = Vec::new();
        for group in groups {
            match self.count_one_more(before, group, today, rule.budget)? {
                Some(count) => counts.push((self.keys.overdue_releases(group), count)),
                None => {
                    let machine = machine.clone();
                    return Ok(Decision::Done(OverdueRelease::Spent { machine }));
                }
            }
        }
        let release = Release::of(*token, Ended::Overdue { by: rule.by.to_owned() });
        let decision = self.decide_release(groups, machine, &release, &Leases::new(), before)?;
        let Decision::Commit(mut txn, Outcome::Settled(Released::Freed(_))) = decision else {
            return nothing;
        };
        for (key, count) in counts {
            txn = txn.when(before.unchanged(&key)).put(key, count.to_json());
        }
        let txn = self.when_not_stopped(txn, groups, machine);
        let txn = txn.when_absent(present).when_absent(alive);
        Ok(Decision::Commit(txn, freed()))
    }

    /// The count of `group` with one more on it; `None` if it is used up.
    fn count_one_more(
        &self,
        before: &Snapshot,
        group: &Group,
        today: Day,
        budget: u32,
    ) -> Result<Option<OverdueReleases>> {
        let key = self.keys.overdue_releases(group);
        let known = before.get(&key).map(|entry| OverdueReleases::from_json(&entry.value));
        let known = known.transpose().map_err(|damage| {
            let what = "count of overdue releases";
            LockError::Damaged { what, key, damage }
        })?;
        let fresh = OverdueReleases { day: today, count: 0, unknown: serde_json::Map::new() };
        let known = match known {
            // A clock that runs behind begins no new day.
            Some(known) if known.day >= today => known,
            Some(known) => OverdueReleases { unknown: known.unknown, ..fresh },
            None => fresh,
        };
        let counted = known.count.checked_add(1).filter(|count| *count <= budget);
        Ok(counted.map(|count| OverdueReleases { count, ..known }))
    }

    fn past_of(&self, group: &Group, candidate: &Candidate) -> Key {
        self.keys.past(group, candidate.record.start_time, candidate.token)
    }
}

/// Whether one slot less held lets somebody in.
fn is_worth_it(available: i64, max: u32) -> bool {
    available == 0 && max > 0
}

impl Rule<'_> {
    fn holds_for(&self, record: &HolderRecord, now: UnixTime) -> bool {
        let is_past = |time: UnixTime| time.plus_seconds(self.older_than.as_secs()) < now;
        match self.whose {
            Whose::Agents => {
                record.via == Some(Via::Agent)
                    && record.state == Some(HolderState::Rebooting)
                    && record.expected_back.is_some_and(is_past)
            }
            Whose::Clients => {
                record.via == Some(Via::Fleetlock)
                    && record.state == Some(HolderState::Holding)
                    && is_past(record.start_time)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
