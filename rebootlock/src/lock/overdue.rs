//! Freeing the slot of a machine that went down for its reboot and did not come back, where
//! somebody has configured that.
//!
//! It is a guess: nothing tells a machine that is gone from one that nobody can see. So it is made
//! only of an agent's slot, after its permit, long past the time its agent said it would be
//! back, while its agent is not there, while nobody has paused or held anything (then people are at
//! it), and only so often a day: a clock that runs ahead, or a rack without power, frees no more
//! than that.

use std::time::Duration;

use super::release::{Leases, Outcome};
use super::{Decision, Ended, LockError, LockManager, Release, Released, Result};
use crate::id::{Group, MachineId, Token};
use crate::record::{
    Day, Document, Ending, HolderRecord, HolderState, OverdueReleases, Past, UnixTime, Via,
    sorted_groups,
};
use crate::store::{Key, Snapshot};

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

/// What is allowed, and to whom.
struct Rule<'a> {
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
        let rule = Rule { older_than, budget, by };
        let mut answer = OverdueRelease::None;
        for candidate in self.overdue(group, older_than).await? {
            match self.free(group, &candidate, &rule).await? {
                OverdueRelease::None => {}
                freed @ OverdueRelease::Freed { .. } => return Ok(freed),
                // Another may be in groups with a budget left.
                spent @ OverdueRelease::Spent { .. } => answer = spent,
            }
        }
        Ok(answer)
    }

    /// Who holds a slot in `group` and is overdue, longest first; nobody if the group is not full.
    async fn overdue(&self, group: &Group, older_than: Duration) -> Result<Vec<Candidate>> {
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
        let candidate = |(machine, key): (MachineId, &Key)| {
            // What cannot be read is not known to be overdue.
            let record = HolderRecord::from_json(&records.get(key)?.value).ok()?;
            let token = record.token.filter(|_| is_overdue(&record, older_than, self.now()))?;
            let groups = sorted_groups(record.groups().chain([group.clone()]));
            Some(Candidate { machine, token, record, groups })
        };
        let mut found: Vec<_> = holders.into_iter().zip(&keys).filter_map(candidate).collect();
        found.sort_by_key(|candidate| candidate.record.expected_back);
        Ok(found)
    }

    async fn free(
        &self,
        group: &Group,
        candidate: &Candidate,
        rule: &Rule<'_>,
    ) -> Result<OverdueRelease> {
        let Candidate { machine, groups, .. } = candidate;
        let action = format!("releasing the overdue slot of {machine} below {}", self.keys);
        self.recent.take(machine);
        let mut keys = self.keys_of(groups, machine);
        keys.extend([self.keys.machine(machine), self.past_of(group, candidate)]);
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
        let still_overdue = record.is_some_and(|record| {
            record.is_of(*token) && is_overdue(&record, rule.older_than, self.now())
        });
        let present = self.keys.machine(machine);
        if !still_overdue
            || !is_worth_it(semaphore.available(), semaphore.max())
            || before.get(&present).is_some()
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
        let txn = self.when_not_stopped(txn, groups, machine).when_absent(present);
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

fn is_overdue(record: &HolderRecord, older_than: Duration, now: UnixTime) -> bool {
    record.via == Some(Via::Agent)
        && record.state == Some(HolderState::Rebooting)
        && record
            .expected_back
            .is_some_and(|expected| expected.plus_seconds(older_than.as_secs()) < now)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::keys::Keyspace;
    use crate::lock::{Acquired, Advance, Scope};
    use crate::record::{Claim, Hold, Pause};
    use crate::store::{MemoryStore, SharedStore, Txn};

    const HOUR: Duration = Duration::from_secs(3600);

    fn machine(name: &str) -> MachineId {
        MachineId::new(name).unwrap()
    }

    fn group(name: &str) -> Group {
        Group::new(name).unwrap()
    }

    fn manager(store: &SharedStore, now: i64) -> LockManager {
        let locks = LockManager::new(store.clone(), Keyspace::default());
        locks.with_clock(Clock::new(move || UnixTime(now)))
    }

    fn store() -> SharedStore {
        Arc::new(MemoryStore::new())
    }

    /// `name` has its permit, and says that it is back at `back`.
    async fn goes_down(locks: &LockManager, name: &str, groups: &[&str], back: i64) -> Claim {
        let claim = Claim::new(machine(name), groups.iter().map(|g| group(g)), Via::Agent);
        assert_eq!(locks.acquire(&claim).await.unwrap(), Acquired::Granted);
        let permit = Advance::permit(UnixTime(back));
        locks.advance(claim.groups(), &claim.machine, claim.token, &permit).await.unwrap();
        claim
    }

    async fn put(locks: &LockManager, key: Key, value: Vec<u8>) {
        locks.store().commit(&Txn::new().put(key, value)).await.unwrap();
    }

    async fn free(locks: &LockManager, budget: u32) -> OverdueRelease {
        locks.release_overdue(&Group::default(), HOUR, budget, "web-9").await.unwrap()
    }

    fn freed(answer: &OverdueRelease) -> Option<&str> {
        match answer {
            OverdueRelease::Freed { machine, .. } => Some(machine.as_str()),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_slot_is_freed_only_after_its_time_and_the_history_says_by_whom() {
        let store = store();
        goes_down(&manager(&store, 1000), "a", &[], 2000).await;
        assert_eq!(free(&manager(&store, 2000 + 3600), 9).await, OverdueRelease::None);
        let late = manager(&store, 2000 + 3601);
        assert_eq!(freed(&free(&late, 9).await), Some("a"));
        assert!(late.status(&Group::default()).await.unwrap().holders.is_empty());
        let history = late.history(&[Group::default()], None).await.unwrap();
        let past = history[0].past.clone().unwrap();
        assert_eq!((past.ended, past.by.as_deref()), (Ending::Overdue, Some("web-9")));
        assert_eq!(past.down_since, Some(UnixTime(1000)));
        assert_eq!(free(&late, 9).await, OverdueRelease::None);
    }

    #[tokio::test]
    async fn whoever_is_not_certainly_gone_keeps_its_slot() {
        let late = 1_000_000;
        let change = |change: fn(&mut HolderRecord)| change;
        for spare in [
            change(|record| record.expected_back = None),
            change(|record| record.state = Some(HolderState::Draining)),
            change(|record| record.state = Some(HolderState::Verifying)),
            change(|record| record.state = Some(HolderState::Failed)),
            change(|record| record.state = None),
            change(|record| record.via = Some(Via::Ctl)),
            change(|record| record.via = Some(Via::CtlReboot)),
            change(|record| record.via = Some(Via::Exec)),
            change(|record| record.via = None),
            change(|record| record.token = None),
        ] {
            let store = store();
            let locks = manager(&store, late);
            let claim = goes_down(&locks, "a", &[], 1).await;
            let held = locks.holding(claim.groups(), &claim.machine).await.unwrap();
            let mut record = held[&Group::default()].clone().unwrap();
            spare(&mut record);
            let key = locks.keys().holder(&Group::default(), &claim.machine);
            put(&locks, key.clone(), record.to_json()).await;
            assert_eq!(free(&locks, 9).await, OverdueRelease::None, "{record:?}");
            put(&locks, key, b"{".to_vec()).await;
            assert_eq!(free(&locks, 9).await, OverdueRelease::None);
        }
    }

    #[tokio::test]
    async fn an_agent_that_is_there_a_pause_and_a_hold_keep_it() {
        let store = store();
        let locks = manager(&store, 1_000_000);
        goes_down(&locks, "a", &[], 1).await;
        let present = locks.keys().machine(&machine("a"));
        put(&locks, present.clone(), b"?".to_vec()).await;
        assert_eq!(free(&locks, 9).await, OverdueRelease::None);
        locks.store().commit(&Txn::new().delete(present)).await.unwrap();
        let pause = Pause::from_json(br#"{"by":"eve","since":1}"#).unwrap();
        locks.pause(&Scope::Fleet, &pause).await.unwrap();
        assert_eq!(free(&locks, 9).await, OverdueRelease::None);
        locks.resume(&Scope::Fleet).await.unwrap();
        let hold = Hold::from_json(br#"{"by":"eve","since":1}"#).unwrap();
        locks.hold(&machine("a"), &hold).await.unwrap();
        assert_eq!(free(&locks, 9).await, OverdueRelease::None);
        locks.unhold(&machine("a")).await.unwrap();
        assert_eq!(freed(&free(&locks, 9).await), Some("a"));
    }

    #[tokio::test]
    async fn a_group_with_a_free_slot_or_none_at_all_is_left_alone() {
        let store = store();
        let locks = manager(&store, 1_000_000);
        goes_down(&locks, "a", &[], 1).await;
        for max in [2, 0] {
            locks.set_max(&Group::default(), max).await.unwrap();
            assert_eq!(free(&locks, 9).await, OverdueRelease::None, "{max}");
        }
    }

    #[tokio::test]
    async fn so_many_a_day_and_no_more_and_a_clock_that_runs_behind_begins_no_new_day() {
        let (store, day) = (store(), 86_400);
        let locks = manager(&store, 30 * day);
        locks.set_max(&Group::default(), 3).await.unwrap();
        for (name, back) in [("a", 3), ("b", 1), ("c", 2)] {
            goes_down(&locks, name, &[], back).await;
        }
        assert!(matches!(free(&locks, 0).await, OverdueRelease::Spent { .. }));
        assert_eq!(freed(&free(&locks, 1).await), Some("b"), "the longest first");
        goes_down(&locks, "d", &[], 4).await;
        assert!(matches!(free(&locks, 1).await, OverdueRelease::Spent { .. }));
        assert!(matches!(free(&manager(&store, 29 * day), 1).await, OverdueRelease::Spent { .. }));
        let tomorrow = manager(&store, 31 * day);
        assert_eq!(freed(&free(&tomorrow, 1).await), Some("c"));
        let key = locks.keys().overdue_releases(&Group::default());
        put(&locks, key, br#"{"day":"today","count":0}"#.to_vec()).await;
        goes_down(&locks, "e", &[], 5).await;
        let damaged = tomorrow.release_overdue(&Group::default(), HOUR, 9, "x").await;
        assert!(matches!(damaged, Err(LockError::Damaged { .. })), "{damaged:?}");
    }

    #[tokio::test]
    async fn all_groups_of_the_machine_are_freed_and_each_counts() {
        let store = store();
        let locks = manager(&store, 1_000_000);
        goes_down(&locks, "a", &["lb", "rack"], 1).await;
        let answer = locks.release_overdue(&group("lb"), HOUR, 1, "x").await.unwrap();
        assert_eq!(freed(&answer), Some("a"));
        assert!(locks.status(&group("rack")).await.unwrap().holders.is_empty());
        goes_down(&locks, "b", &["rack"], 1).await;
        let answer = locks.release_overdue(&group("rack"), HOUR, 1, "x").await.unwrap();
        assert!(matches!(answer, OverdueRelease::Spent { .. }), "{answer:?}");
    }

    #[tokio::test]
    async fn of_two_who_free_it_at_once_one_does_and_it_counts_once() {
        let store = store();
        let late = manager(&store, 1_000_000);
        goes_down(&late, "a", &[], 1).await;
        let found = late.overdue(&Group::default(), HOUR).await.unwrap();
        let rule = |by| Rule { older_than: HOUR, budget: 9, by };
        let group = Group::default();
        let other = manager(&store, 1_000_000);
        // Both have seen it, and neither knows of the other.
        let (first, second) = (rule("web-1"), rule("web-2"));
        let (one, two) = tokio::join!(
            late.free(&group, &found[0], &first),
            other.free(&group, &found[0], &second)
        );
        let answers = [one.unwrap(), two.unwrap()];
        assert_eq!(answers.iter().filter(|answer| freed(answer).is_some()).count(), 1);
        // Asked again, who did it says so and does nothing.
        let who = if freed(&answers[0]).is_some() { "web-1" } else { "web-2" };
        let again = late.free(&group, &found[0], &rule(who)).await.unwrap();
        assert_eq!(freed(&again), Some("a"));
        let key = late.keys().overdue_releases(&group);
        let now = late.store().load(std::slice::from_ref(&key)).await.unwrap();
        let count = OverdueReleases::from_json(&now.get(&key).unwrap().value).unwrap().count;
        assert_eq!((count, late.history(&[group], None).await.unwrap().len()), (1, 1));
    }

    #[tokio::test]
    async fn who_comes_back_before_the_commit_keeps_it_and_who_comes_later_finds_it_gone() {
        let store = store();
        let locks = manager(&store, 1_000_000);
        let claim = goes_down(&locks, "a", &[], 1).await;
        let found = locks.overdue(&Group::default(), HOUR).await.unwrap();
        let rule = Rule { older_than: HOUR, budget: 9, by: "web-9" };
        let back = Claim::new(machine("a"), [], Via::Agent);
        locks.adopt(&back, Some(&found[0].record), HolderState::Verifying).await.unwrap();
        let answer = locks.free(&Group::default(), &found[0], &rule).await.unwrap();
        assert_eq!(answer, OverdueRelease::None);
        locks.release(&[], &claim.machine, &Release::by_operator("eve")).await.unwrap();

        let claim = goes_down(&locks, "a", &[], 1).await;
        let held = locks.holding(claim.groups(), &claim.machine).await.unwrap();
        assert_eq!(freed(&free(&locks, 9).await), Some("a"));
        let record = held[&Group::default()].clone();
        let late = locks.adopt(&back, record.as_ref(), HolderState::Verifying).await;
        assert!(matches!(late, Err(LockError::NotOurs { .. })));
        let permit = Advance::permit(UnixTime(9));
        let late = locks.advance(claim.groups(), &claim.machine, claim.token, &permit).await;
        assert!(matches!(late, Err(LockError::NotOurs { .. })));
    }
}
