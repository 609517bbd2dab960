//! The limits of groups where nobody but their machines says one: the lowest that any machine says that
//! wants a slot or has one.

use std::collections::BTreeSet;

use crate::id::{Group, MachineId};
use crate::lock::history::newest;
use crate::lock::{Decision, LockManager, Result};
use crate::record::{Disruption, Document, Past, SaidLimit};
use crate::semaphore::Semaphore;
use crate::store::{Key, Select, Snapshot, Txn};

/// For so long, in seconds, it is remembered what came of the slots of a group that nobody asks for.
const REMEMBERED: u64 = 30 * 24 * 60 * 60;

/// Whose is the limit, and what is left to do.
enum Step {
    Settled,
    /// The group was taken away, and so goes what came of its slots.
    Dropped,
}

impl LockManager {
    /// Lets a limit that `machine` says count: it is the group's if that has none, or becomes it if the
    /// group's is one that machines said and no other machine says less. Limits that came about in
    /// another way stay.
    ///
    /// # Errors
    /// [`super::LockError::Damaged`], or what the store says.
    pub async fn follow_limit(&self, group: &Group, machine: &MachineId, said: u32) -> Result<()> {
        self.settle_limits(group, Some((machine, said)), None).await
    }

    /// Lets the limit of a group that machines said be the lowest that is said still. A group that
    /// machines alone have made goes when none asks for it, nobody holds or waits, and nothing has
    /// happened in it for a month. If its limit is `believed`, what the caller has found to be said, no
    /// machine's document is read.
    ///
    /// # Errors
    /// As for [`LockManager::follow_limit`].
    pub async fn settle_limit(&self, group: &Group, believed: Option<u32>) -> Result<()> {
        self.settle_limits(group, None, believed).await
    }

    async fn settle_limits(
        &self,
        group: &Group,
        asking: Option<(&MachineId, u32)>,
        believed: Option<u32>,
    ) -> Result<()> {
        let keys = self.of_limit(group);
        let action = format!("following the limit of group {group} at {}", keys[1]);
        let below = [
            (self.keys.disruptions(), Select::All),
            (self.keys.queue(group), Select::Oldest(1)),
            (self.keys.all_urgent(group), Select::Oldest(1)),
            (self.keys.history(group), newest(1)),
        ];
        let (keys_now, below_now) = (&keys, &below);
        let read = || async move {
            let near = self.store.load(keys_now).await?;
            // Most say what is so already, or less.
            let others_count = match (asking, self.said(&near, group)) {
                (_, Said::Nothing | Said::BySomebodyElse) => false,
                (None, Said::ByMachines(max)) => believed != Some(max),
                (Some((_, said)), Said::ByMachines(max)) => said > max,
            };
            if others_count { self.store.read(keys_now, below_now).await } else { Ok(near) }
        };
        let decide = |before: &Snapshot| match (asking, self.said(before, group)) {
            (None, Said::ByMachines(max)) if believed == Some(max) => {
                Ok(Decision::Done(Step::Settled))
            }
            _ => self.decide_limit(group, asking, before),
        };
        match self.settle_over(&action, read, None, decide).await?.answer {
            Step::Settled => Ok(()),
            Step::Dropped => self.trim_below(&self.keys.history(group), 0).await.map(drop),
        }
    }

    fn decide_limit(
        &self,
        group: &Group,
        asking: Option<(&MachineId, u32)>,
        before: &Snapshot,
    ) -> Result<Decision<Step>> {
        let [place, ours, word, ..] = self.of_limit(group);
        let mut semaphore = self.semaphore(before, group)?;
        let limit = match (self.said(before, group), asking) {
            (Said::BySomebodyElse, _) | (Said::Nothing, None) => {
                return Ok(Decision::Done(Step::Settled));
            }
            (Said::Nothing, Some((_, said))) => {
                semaphore = Semaphore::new(said);
                said
            }
            (Said::ByMachines(max), Some((_, said))) if said <= max => said,
            (Said::ByMachines(max), _) => {
                let said = asking.map(|(_, said)| said);
                let Some(others) = self.said_below(before, group, asking.map(|(who, _)| who))
                else {
                    // What cannot be read may say less.
                    return Ok(Decision::Done(Step::Settled));
                };
                match others.into_iter().chain(said).min() {
                    Some(lowest) => lowest,
                    None if self.is_forgotten(before, group, &semaphore) => {
                        let [.., paused, cooldown] = self.of_limit(group);
                        let txn = Txn::new()
                            .when(before.unchanged(&place))
                            .when(before.unchanged(&ours))
                            .when(before.unchanged(&word))
                            .when_absent(paused)
                            .when_absent(cooldown)
                            .delete(place)
                            .delete(ours)
                            .delete(word);
                        return Ok(Decision::Commit(txn, Step::Dropped));
                    }
                    None => max,
                }
            }
        };
        if before.get(&place).is_some() && limit == semaphore.max() {
            return Ok(Decision::Done(Step::Settled));
        }
        semaphore.set_max(limit);
        let document = SaidLimit { max: limit, unknown: serde_json::Map::new() };
        let txn = Txn::new()
            .when(before.unchanged(&place))
            .when(before.unchanged(&ours))
            .when(before.unchanged(&word))
            .put(place, semaphore.to_json())
            .put(ours, document.to_json());
        Ok(Decision::Commit(txn, Step::Settled))
    }

    fn of_limit(&self, group: &Group) -> [Key; 5] {
        let keys = &self.keys;
        [
            keys.semaphore(group),
            keys.said_limit(group),
            keys.limit_word(group),
            keys.paused(group),
            keys.cooldown(group),
        ]
    }

    /// Adds to `txn`, which puts `new` as the document of `machine`, that it says another limit than the
    /// one before, where it does: what others found out without it comes to nothing.
    pub(super) fn with_words(
        &self,
        txn: Txn,
        machine: &MachineId,
        known: Option<&Disruption>,
        new: &Disruption,
    ) -> Txn {
        let groups: BTreeSet<_> = [&new.group].into_iter().chain(&new.again).collect();
        let said = |group: &Group| known.and_then(|known| known.limit_in(group));
        let says_another = groups.into_iter().filter(|group| new.limit_in(group) != said(group));
        says_another.fold(txn, |txn, group| {
            txn.put(self.keys.limit_word(group), machine.as_str().as_bytes().to_vec())
        })
    }

    /// Whose the limit of a group is.
    fn said(&self, before: &Snapshot, group: &Group) -> Said {
        let [place, ours, ..] = self.of_limit(group);
        if before.get(&place).is_none() {
            return Said::Nothing;
        }
        // What cannot be read is not followed.
        let said = before.get(&ours).and_then(|entry| SaidLimit::from_json(&entry.value).ok());
        match (said, self.semaphore(before, group)) {
            (Some(said), Ok(semaphore)) if said.max == semaphore.max() => {
                Said::ByMachines(said.max)
            }
            _ => Said::BySomebodyElse,
        }
    }

    /// The lowest limit that any machine but `one` says. `None`: one of them cannot be read.
    fn said_below(
        &self,
        before: &Snapshot,
        group: &Group,
        one: Option<&MachineId>,
    ) -> Option<Option<u32>> {
        let below = self.keys.disruptions();
        let mut lowest: Option<u32> = None;
        for (key, entry) in &before.entries {
            let Some(id) = key.as_str().strip_prefix(below.as_str()) else { continue };
            if one.is_some_and(|one| one.as_str() == id) {
                continue;
            }
            let said = Disruption::from_json(&entry.value).ok()?.limit_in(group);
            lowest = lowest.into_iter().chain(said).min();
        }
        Some(lowest)
    }

    /// Whether nobody would miss a group that machines have made.
    fn is_forgotten(&self, before: &Snapshot, group: &Group, semaphore: &Semaphore) -> bool {
        let [.., paused, cooldown] = self.of_limit(group);
        let lines = [self.keys.queue(group), self.keys.all_urgent(group)];
        let waits = |key: &Key| lines.iter().any(|line| key.as_str().starts_with(line.as_str()));
        let history = self.keys.history(group);
        let long_ago = |(key, entry): (&Key, &crate::store::Entry)| {
            let past = Past::from_json(&entry.value).ok();
            let age = past.map(|past| self.now().seconds_since(past.ended_at));
            !key.as_str().starts_with(history.as_str()) || age.is_some_and(|age| age > REMEMBERED)
        };
        !group.is_default()
            && semaphore.holders().is_empty()
            && before.get(&paused).is_none()
            && before.get(&cooldown).is_none()
            && !before.entries.keys().any(waits)
            && before.entries.iter().all(long_ago)
    }
}

/// Who has said a group's limit.
enum Said {
    Nothing,
    ByMachines(u32),
    /// An operator, or a configuration.
    BySomebodyElse,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::keys::Keyspace;
    use crate::lock::disruption::tests::wish;
    use crate::lock::{Ended, Rewrite, Scope, Wanted};
    use crate::record::{Claim, Pause, UnixTime, Via};
    use crate::store::{Commit, MemoryStore};

    struct Rig {
        locks: LockManager,
        group: Group,
        now: Arc<AtomicI64>,
    }

    impl Rig {
        fn new() -> Self {
            let now = Arc::new(AtomicI64::new(1_000_000));
            let says = now.clone();
            let clock = Clock::new(move || UnixTime(says.load(Ordering::SeqCst)));
            let store = Arc::new(MemoryStore::new());
            let locks = LockManager::new(store, Keyspace::default()).with_clock(clock);
            Self { locks, group: Group::new("lb").unwrap(), now }
        }

        async fn max(&self) -> u32 {
            self.locks.glance(&self.group).await.unwrap().0.max()
        }

        /// What one machine says, and wants.
        async fn wants(&self, name: &str, limit: u32) {
            let machine = MachineId::new(name).unwrap();
            self.locks.follow_limit(&self.group, &machine, limit).await.unwrap();
            let hour = Duration::from_secs(3600);
            let begin = |_: Option<&super::super::Timed>| {
                Rewrite::Begin(Disruption { group: self.group.clone(), ..wish(limit) })
            };
            self.locks.rewrite_disruption(&machine, hour, begin).await.unwrap();
        }

        async fn leaves(&self, name: &str) {
            let machine = MachineId::new(name).unwrap();
            let all = |_: Option<&super::super::Timed>, _| Some(Wanted::NothingMore);
            self.locks.leave(&self.group, &machine, &Ended::Steady, all).await.unwrap();
            self.locks.settle_limit(&self.group, None).await.unwrap();
        }

        /// What somebody would do now who had read everything.
        async fn decided(&self, asking: Option<(&MachineId, u32)>) -> Txn {
            let (locks, group) = (&self.locks, &self.group);
            let all = [(locks.keys.disruptions(), Select::All)];
            let before = locks.store.read(&locks.of_limit(group), &all).await.unwrap();
            match locks.decide_limit(group, asking, &before).unwrap() {
                Decision::Commit(txn, _) => txn,
                Decision::Done(_) => panic!("nothing to do"),
            }
        }

        async fn there(&self) -> bool {
            self.locks.groups().await.unwrap().contains(&self.group)
        }
    }

    #[tokio::test]
    async fn the_limit_is_the_lowest_that_is_said_until_an_operator_says_one() {
        let rig = Rig::new();
        rig.wants("a", 3).await;
        rig.wants("b", 9).await;
        assert_eq!(rig.max().await, 3);
        rig.wants("c", 1).await;
        assert_eq!(rig.max().await, 1);
        rig.leaves("c").await;
        assert_eq!(rig.max().await, 3, "it rises by itself");
        rig.wants("a", 7).await;
        assert_eq!(rig.max().await, 7);
        rig.locks.set_max(&rig.group, 5).await.unwrap();
        for limit in [1, 9] {
            rig.wants("a", limit).await;
            rig.leaves("b").await;
            assert_eq!(rig.max().await, 5, "an operator has said so");
        }
        rig.leaves("a").await;
        assert!(rig.there().await, "what an operator has set stays");
    }

    /// Somebody looks at what all say, a machine says something new meanwhile, and only then comes what
    /// was decided without it.
    #[tokio::test]
    async fn what_was_decided_without_a_machine_that_speaks_meanwhile_comes_to_nothing() {
        for last_holds_another in [false, true] {
            let rig = Rig::new();
            if last_holds_another {
                rig.wants("a", 3).await;
            }
            let last = MachineId::new("last").unwrap();
            rig.locks.follow_limit(&rig.group, &last, 1).await.unwrap();
            let late = rig.decided(None).await;
            rig.wants("last", 1).await;
            rig.locks.follow_limit(&rig.group, &last, 1).await.unwrap();
            assert_eq!(rig.locks.store.commit(&late).await.unwrap(), Commit::Lost);
            assert_eq!(rig.max().await, 1);
            // What is said again as it was keeps nobody from what it has found out.
            let raised = rig.decided(Some((&last, 2))).await;
            rig.wants("last", 1).await;
            assert!(matches!(rig.locks.store.commit(&raised).await, Ok(Commit::Won(_))));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_raises_no_limit() {
        let rig = Rig::new();
        rig.wants("a", 3).await;
        rig.wants("b", 1).await;
        let damaged = rig.locks.keys.disruption(&MachineId::new("x").unwrap());
        rig.locks.store.commit(&Txn::new().put(damaged, b"?".to_vec())).await.unwrap();
        rig.leaves("b").await;
        assert_eq!(rig.max().await, 1);
    }

    #[tokio::test]
    async fn a_group_that_machines_made_goes_when_nobody_would_miss_it() {
        let rig = Rig::new();
        rig.wants("a", 3).await;
        let pause = Pause {
            by: "eve".into(),
            reason: None,
            since: UnixTime(1),
            until: None,
            unknown: Default::default(),
        };
        let scope = Scope::Group(rig.group.clone());
        rig.locks.pause(&scope, &pause).await.unwrap();
        rig.leaves("a").await;
        assert!(rig.there().await, "somebody has paused it");
        rig.locks.resume(&scope).await.unwrap();
        rig.locks.settle_limit(&rig.group, None).await.unwrap();
        assert!(!rig.there().await, "nothing ever happened in it");

        rig.wants("a", 3).await;
        let a = MachineId::new("a").unwrap();
        let claim = Claim::new(a, [rig.group.clone()], Via::DisruptionManager);
        rig.locks.acquire(&claim).await.unwrap();
        rig.leaves("a").await;
        assert!(rig.there().await, "its history is worth something");
        rig.now.fetch_add(29 * 24 * 3600, Ordering::SeqCst);
        rig.locks.settle_limit(&rig.group, None).await.unwrap();
        assert_eq!(rig.max().await, 3);
        rig.now.fetch_add(2 * 24 * 3600, Ordering::SeqCst);
        rig.locks.settle_limit(&rig.group, None).await.unwrap();
        assert!(!rig.there().await);
        let past = rig.locks.history(std::slice::from_ref(&rig.group), None).await.unwrap();
        assert_eq!(past, []);
    }
}
