//! A machine's slot and what it has asked for go together, or neither does.

use super::Timed;
use crate::id::{Group, MachineId};
use crate::lock::release::{LEASE_TRIES, Leases, Outcome};
use crate::lock::{
    Before, Decision, Ended, GivenBack, LockError, LockManager, Release, Released, Result,
};
use crate::record::{Disruption, Document, Via, sorted_groups};
use crate::store::{Snapshot, StoreError, Txn};

/// Whether the machine's document outlives its slot.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// It stays as it is.
    StillSomething,
    /// This takes its place, and its time goes on.
    SomethingElse(Box<Disruption>),
    /// It goes, and its time with it.
    NothingMore,
}

/// How one try ended.
enum Left {
    Settled(Option<GivenBack>),
    /// There are more slots that were taken together with it.
    AlsoHolds(Vec<Group>),
}

impl From<Released> for GivenBack {
    fn from(released: Released) -> Self {
        match released {
            Released::Freed(record) => Self::Freed(record),
            Released::NotHeld => Self::NotHeld,
        }
    }
}

impl LockManager {
    /// Gives back what `machine` has in `group`: its slot, if it was taken through disruption-manager's
    /// door or by a program that writes no records, and its places in the queue; and takes its document
    /// away, or puts another one in its place, if `decide` says so. All of it in one transaction, and only
    /// if `decide` says that it is to be, about the document and whether there is such a slot, as both are
    /// then. `None`: it is not.
    ///
    /// # Errors
    /// [`LockError::Damaged`], or what the store says; then it may have happened all the same.
    pub async fn leave(
        &self,
        group: &Group,
        machine: &MachineId,
        ended: &Ended,
        decide: impl Fn(Option<&Timed>, bool) -> Option<Wanted>,
    ) -> Result<Option<GivenBack>> {
        let action = format!("giving back what {machine} has in group {group}");
        let mut groups = vec![group.clone()];
        let (mut leases, mut tries) = (Leases::new(), 0);
        self.recent.take(machine);
        loop {
            self.grant_cooldowns(&action, &groups, ended, &mut leases).await?;
            let mut keys = self.keys_of(&groups, machine);
            keys.extend(self.of_disruption(machine));
            keys.extend([self.keys.waiter(group, machine), self.keys.urgent(group, machine)]);
            let ended = self
                .settle_from(&action, &keys, None, |before| {
                    self.decide_leave(group, &groups, machine, (ended, &leases), before, &decide)
                })
                .await
                .map(|ended| (ended.answer, ended.before));
            match ended {
                // A commit that was never answered may have done it.
                Ok((
                    Left::Settled(answer),
                    Some(Before::Unanswered(Left::Settled(unanswered))),
                )) => {
                    let is_over = matches!(answer, Some(GivenBack::NotHeld));
                    return Ok(if is_over { unanswered } else { answer });
                }
                Ok((Left::Settled(given_back), before)) => {
                    // Cooldowns hang on the leases of a commit that may have happened.
                    if !matches!(given_back, Some(GivenBack::Freed(_))) && before.is_none() {
                        self.end_unused(leases).await;
                    }
                    return Ok(given_back);
                }
                Ok((Left::AlsoHolds(more), _)) => {
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

    fn decide_leave(
        &self,
        group: &Group,
        groups: &[Group],
        machine: &MachineId,
        (ended, leases): (&Ended, &Leases),
        before: &Snapshot,
        decide: impl Fn(Option<&Timed>, bool) -> Option<Wanted>,
    ) -> Result<Decision<Left>> {
        let known = self.timed(before, machine)?;
        let record = self.record(before, group, machine)?;
        let elsewhere = |via: &Via| *via != Via::DisruptionManager;
        let kept = record.as_ref().filter(|record| record.via.as_ref().is_some_and(elsewhere));
        let holds = self.semaphore(before, group)?.holds(machine);
        let Some(wanted) = decide(known.as_ref(), holds && kept.is_none()) else {
            return Ok(Decision::Done(Left::Settled(None)));
        };
        let (mut txn, given_back) = match kept {
            Some(record) if holds => (Txn::new(), GivenBack::Kept(Box::new(record.clone()))),
            Some(_) => (Txn::new(), GivenBack::NotHeld),
            None => {
                let token = record.and_then(|record| record.token);
                let release = Release { token, ended: ended.clone() };
                match self.decide_release(groups, machine, &release, leases, before)? {
                    Decision::Commit(txn, Outcome::Settled(released)) => (txn, released.into()),
                    Decision::Done(Outcome::Settled(released)) => (Txn::new(), released.into()),
                    Decision::Done(Outcome::AlsoHolds(more))
                    | Decision::Commit(_, Outcome::AlsoHolds(more)) => {
                        return Ok(Decision::Done(Left::AlsoHolds(more.into_iter().collect())));
                    }
                }
            }
        };
        // That there is no slot is a reason too.
        for key in [self.keys.semaphore(group), self.keys.holder(group, machine)] {
            if txn.preconditions.iter().all(|condition| condition.key != key) {
                txn = txn.when(before.unchanged(&key));
            }
        }
        for key in self.of_disruption(machine) {
            txn = txn.when(before.unchanged(&key));
            if wanted == Wanted::NothingMore && before.get(&key).is_some() {
                txn = txn.delete(key);
            }
        }
        if let Wanted::SomethingElse(new) = &wanted {
            txn = txn.put(self.keys.disruption(machine), new.to_json());
            txn = self.with_words(txn, machine, known.as_ref().map(|known| &known.disruption), new);
        }
        for key in [self.keys.waiter(group, machine), self.keys.urgent(group, machine)] {
            txn = txn.when(before.unchanged(&key));
            if before.get(&key).is_some() {
                txn = txn.delete(key);
            }
        }
        let left = Left::Settled(Some(given_back));
        Ok(if txn.changes.is_empty() { Decision::Done(left) } else { Decision::Commit(txn, left) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::keys::Keyspace;
    use crate::lock::Rewrite;
    use crate::lock::disruption::tests::wish;
    use crate::record::Claim;
    use crate::store::MemoryStore;

    const HOUR: Duration = Duration::from_secs(3600);

    async fn rig() -> (LockManager, MachineId, Group) {
        let locks = LockManager::new(Arc::new(MemoryStore::new()), Keyspace::default());
        let (machine, group) = (MachineId::new("a").unwrap(), Group::default());
        let begin = locks.rewrite_disruption(&machine, HOUR, |_| Rewrite::Begin(wish(1)));
        begin.await.unwrap();
        (locks, machine, group)
    }

    async fn holds(locks: &LockManager) -> bool {
        !locks.status(&Group::default()).await.unwrap().holders.is_empty()
    }

    #[tokio::test]
    async fn a_slot_and_its_document_go_together_or_not_at_all() {
        let (locks, a, group) = rig().await;
        let claim = Claim::new(a.clone(), [], Via::DisruptionManager);
        locks.acquire(&claim).await.unwrap();
        let leave = |wanted: Option<Wanted>| {
            locks.leave(&group, &a, &Ended::Steady, move |_, _| wanted.clone())
        };
        assert_eq!(leave(None).await.unwrap(), None);
        assert!(holds(&locks).await && locks.disruption(&a).await.unwrap().is_some());
        let left = leave(Some(Wanted::NothingMore)).await.unwrap();
        assert!(matches!(left, Some(GivenBack::Freed(Some(_)))), "{left:?}");
        assert!(!holds(&locks).await && locks.disruption(&a).await.unwrap().is_none());
        assert!(locks.disruptions().await.unwrap().is_empty());
        assert_eq!(leave(Some(Wanted::NothingMore)).await.unwrap(), Some(GivenBack::NotHeld));
    }

    #[tokio::test]
    async fn what_is_asked_is_asked_about_what_there_is() {
        let (locks, a, group) = rig().await;
        let nothing = |known: Option<&Timed>, slot: bool| {
            assert!(known.is_some_and(|timed| timed.runs) && !slot);
            Some(Wanted::StillSomething)
        };
        let left = locks.leave(&group, &a, &Ended::Steady, nothing).await.unwrap();
        assert_eq!(left, Some(GivenBack::NotHeld));
        // What came about in another way is not for it to give back.
        locks.acquire(&Claim::new(a.clone(), [], Via::Ctl)).await.unwrap();
        let not_ours = |_: Option<&Timed>, slot: bool| (!slot).then_some(Wanted::NothingMore);
        let left = locks.leave(&group, &a, &Ended::Steady, not_ours).await.unwrap();
        assert!(matches!(left, Some(GivenBack::Kept(_))), "{left:?}");
        assert!(holds(&locks).await && locks.disruption(&a).await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_gets_lost_costs_no_cooldown() {
        let store = Arc::new(crate::store::Forgetful::default());
        let (a, group) = (MachineId::new("a").unwrap(), Group::default());
        let locks = LockManager::new(store.clone(), Keyspace::default())
            .with_cooldowns([(group.clone(), HOUR)].into());
        for (wanted, left) in [(Wanted::StillSomething, true), (Wanted::NothingMore, false)] {
            let begin = locks.rewrite_disruption(&a, HOUR, |_| Rewrite::Begin(wish(1)));
            begin.await.unwrap();
            locks.acquire(&Claim::new(a.clone(), [], Via::DisruptionManager)).await.unwrap();
            store.forget(1);
            let decide = |known: Option<&Timed>, _| known.map(|_| wanted.clone());
            let freed = locks.leave(&group, &a, &Ended::Steady, decide).await.unwrap();
            assert_eq!(matches!(freed, Some(GivenBack::Freed(_))), left, "{freed:?}");
            assert!(!holds(&locks).await);
            let next = locks.acquire(&Claim::new(a.clone(), [], Via::DisruptionManager)).await;
            assert!(matches!(next, Err(LockError::CoolingDown { .. })), "{next:?}");
            tokio::time::sleep(2 * HOUR).await;
        }
    }
}
