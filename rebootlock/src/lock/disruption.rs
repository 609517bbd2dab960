//! What machines that speak disruption-manager's protocol have asked for, and the limits they say.
//!
//! Their documents never decide who has a slot: the semaphore does. Each has a time, which is a key on
//! a lease, so that it ends by the store's clock and never early, whoever writes and whoever looks.

use std::time::Duration;

use super::{Decision, LockError, LockManager, MOST_KEYS, Result};
use crate::id::{Group, MachineId};
use crate::record::{Disruption, Document, SaidLimit};
use crate::semaphore::Semaphore;
use crate::store::{Key, LeaseId, Select, Snapshot, StoreError, Txn};

/// How often a new lease is taken when a commit took longer than the one it had.
const LEASE_TRIES: u32 = 3;

/// A machine's document, and whether its time still runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    /// The document.
    pub disruption: Disruption,
    /// Whether its time still runs.
    pub runs: bool,
}

/// What is to become of a machine's document.
#[derive(Debug, Clone, PartialEq)]
pub enum Rewrite {
    /// It stays as it is.
    Keep,
    /// This takes its place, and its time goes on.
    Put(Disruption),
    /// This takes its place, and its time begins anew.
    Begin(Disruption),
    /// This takes its place, and its time is over.
    End(Disruption),
    /// It goes, and its time with it.
    Remove,
}

/// What came of a limit that a machine says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// It is the group's, or the group's is not for machines to say.
    Settled,
    /// It is higher than the group's, so what the other machines of the group say has to be known.
    Higher,
}

impl LockManager {
    /// What `machine` has asked for.
    ///
    /// # Errors
    /// [`LockError::Damaged`], or what the store says.
    pub async fn disruption(&self, machine: &MachineId) -> Result<Option<Timed>> {
        let keys = self.of_disruption(machine);
        let now = self.load(&format!("reading {}", keys[0]), &keys).await?;
        self.timed(&now, machine)
    }

    /// What all machines have asked for. One that cannot be read is an error of its own.
    ///
    /// # Errors
    /// What the store says.
    pub async fn disruptions(&self) -> Result<Vec<(MachineId, Result<Timed>)>> {
        let below = self.keys.disruptions();
        let mut listed = self.list(&below, Select::All).await?;
        let machine = |key: &Key| MachineId::new(key.as_str().strip_prefix(below.as_str())?).ok();
        let machines: Vec<_> = listed.entries.keys().filter_map(machine).collect();
        // A time that has ended since the list was read is over. One that began since is seen to run,
        // and whoever acts on an older document than the one it belongs to finds that it has changed.
        let timers: Vec<_> = machines.iter().map(|m| self.keys.disruption_timer(m)).collect();
        for some in timers.chunks(MOST_KEYS) {
            let now = self.load(&format!("reading what is below {below}"), some).await?;
            listed.entries.extend(now.entries);
        }
        let timed = |machine: MachineId| {
            let timed = self.timed(&listed, &machine).transpose()?;
            Some((machine, timed))
        };
        Ok(machines.into_iter().filter_map(timed).collect())
    }

    /// Changes what is known of `machine`. A time that begins anew lasts for `time`. Returns the
    /// document as it is then.
    ///
    /// # Errors
    /// [`LockError::Damaged`], or what the store says; then it may have been changed all the same.
    pub async fn rewrite_disruption(
        &self,
        machine: &MachineId,
        time: Duration,
        decide: impl Fn(Option<&Timed>) -> Rewrite,
    ) -> Result<Option<Disruption>> {
        let keys = self.of_disruption(machine);
        let [place, timer] = &keys;
        let action = format!("changing {place}");
        let mut lease: Option<LeaseId> = None;
        let mut tries = 0;
        loop {
            let settled = self.settle(&action, &keys, |before| {
                let known = self.timed(before, machine)?;
                let txn = Txn::new().when(before.unchanged(place)).when(before.unchanged(timer));
                Ok(match (decide(known.as_ref()), lease) {
                    (Rewrite::Keep, _) => {
                        Decision::Done(Settled::Now(known.map(|timed| Box::new(timed.disruption))))
                    }
                    (Rewrite::Remove, _) if known.is_none() => Decision::Done(Settled::Now(None)),
                    (Rewrite::Remove, _) => Decision::Commit(
                        txn.delete(place.clone()).delete(timer.clone()),
                        Settled::Now(None),
                    ),
                    (Rewrite::Put(new), _) => {
                        if known.is_some_and(|timed| timed.disruption == new) {
                            return Ok(Decision::Done(Settled::Now(Some(Box::new(new)))));
                        }
                        Decision::Commit(
                            txn.put(place.clone(), new.to_json()),
                            Settled::Now(Some(Box::new(new))),
                        )
                    }
                    (Rewrite::End(new), _) => Decision::Commit(
                        txn.put(place.clone(), new.to_json()).delete(timer.clone()),
                        Settled::Now(Some(Box::new(new))),
                    ),
                    (Rewrite::Begin(_), None) => Decision::Done(Settled::NeedsLease),
                    (Rewrite::Begin(new), Some(lease)) => {
                        let new = Disruption {
                            lease: format!("{:x}", lease.0),
                            until: self.now().plus_seconds(time.as_secs()),
                            ..new
                        };
                        // Nobody reads it: what counts is that it is there.
                        let value = machine.as_str().as_bytes().to_vec();
                        let txn = txn.put(place.clone(), new.to_json());
                        let txn = txn.put_leased(timer.clone(), value, lease);
                        Decision::Commit(txn, Settled::Now(Some(Box::new(new))))
                    }
                })
            });
            match settled.await {
                Ok(Settled::NeedsLease) => lease = Some(self.lease_of(&action, time).await?),
                // The commit took longer than a short time lasts.
                Err(LockError::Store { source: StoreError::LeaseGone, .. })
                    if tries < LEASE_TRIES =>
                {
                    (lease, tries) = (None, tries + 1);
                }
                Ok(Settled::Now(now)) => {
                    let now = now.map(|now| *now);
                    let used = now.as_ref().and_then(Disruption::lease);
                    if let Some(unused) = lease.filter(|lease| used != Some(*lease)) {
                        // Nothing hangs on it, and it ends by itself.
                        let _ = self.store.revoke(unused).await;
                    }
                    return Ok(now);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets the time of a document run from now on. `false`: it is over.
    ///
    /// # Errors
    /// What the store says.
    pub async fn prolong(&self, disruption: &Disruption) -> Result<bool> {
        let Some(lease) = disruption.lease() else { return Ok(false) };
        match self.store.keep_alive(lease).await {
            Ok(()) => Ok(true),
            Err(StoreError::LeaseGone) => Ok(false),
            Err(source) => {
                let action = format!("prolonging the time of {}", disruption.machine_id);
                Err(LockError::Store { action, source })
            }
        }
    }

    /// Makes `said` the limit of a group, if limits are for its machines to say: if it has none, or has
    /// one that they have said before. A higher one needs `others`, the lowest limit that any other
    /// machine says, which then is the most that it becomes.
    ///
    /// # Errors
    /// [`LockError::Damaged`], or what the store says.
    pub async fn follow_limit(
        &self,
        group: &Group,
        said: u32,
        others: Option<u32>,
    ) -> Result<Followed> {
        let (place, ours) = (self.keys.semaphore(group), self.keys.said_limit(group));
        let action = format!("following the limit of group {group} at {ours}");
        self.settle(&action, &[place.clone(), ours.clone()], |before| {
            let mut semaphore = self.semaphore(before, group)?;
            let mut limit = said;
            if before.get(&place).is_some() {
                // What cannot be read is not followed.
                let known = before.get(&ours).and_then(|e| SaidLimit::from_json(&e.value).ok());
                let is_ours = known.is_some_and(|known| known.max == semaphore.max());
                match others {
                    _ if !is_ours || said == semaphore.max() => {
                        return Ok(Decision::Done(Followed::Settled));
                    }
                    None if said > semaphore.max() => return Ok(Decision::Done(Followed::Higher)),
                    None => {}
                    Some(others) => limit = said.min(others),
                }
                if limit == semaphore.max() {
                    return Ok(Decision::Done(Followed::Settled));
                }
            } else {
                semaphore = Semaphore::new(limit);
            }
            semaphore.set_max(limit);
            let document = SaidLimit { max: limit, unknown: serde_json::Map::new() };
            let txn = Txn::new()
                .when(before.unchanged(&place))
                .when(before.unchanged(&ours))
                .put(place.clone(), semaphore.to_json())
                .put(ours.clone(), document.to_json());
            Ok(Decision::Commit(txn, Followed::Settled))
        })
        .await
    }

    /// The document, and its time.
    pub(super) fn of_disruption(&self, machine: &MachineId) -> [Key; 2] {
        [self.keys.disruption(machine), self.keys.disruption_timer(machine)]
    }

    fn timed(&self, snapshot: &Snapshot, machine: &MachineId) -> Result<Option<Timed>> {
        let [key, timer] = self.of_disruption(machine);
        let Some(entry) = snapshot.get(&key) else { return Ok(None) };
        let runs = snapshot.get(&timer).is_some();
        match Disruption::from_json(&entry.value) {
            Ok(disruption) => Ok(Some(Timed { disruption, runs })),
            Err(damage) => Err(LockError::Damaged { what: "disruption", key, damage }),
        }
    }
}

enum Settled {
    Now(Option<Box<Disruption>>),
    /// A time is to begin, and there is no lease for it yet.
    NeedsLease,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::keys::Keyspace;
    use crate::record::{DisruptionState, UnixTime};
    use crate::store::MemoryStore;

    const HOUR: Duration = Duration::from_secs(3600);

    fn manager() -> LockManager {
        LockManager::new(Arc::new(MemoryStore::new()), Keyspace::default())
    }

    fn wish(limit: u32) -> Disruption {
        Disruption {
            machine_id: "a".to_owned(),
            group: Group::default(),
            limit,
            state: DisruptionState::Asking,
            since: UnixTime(1),
            until: UnixTime(1),
            lease: String::new(),
            address: None,
            ready_url: None,
            ready_timeout_secs: None,
            expired: false,
            again: None,
            unknown: serde_json::Map::new(),
        }
    }

    async fn runs(locks: &LockManager, machine: &MachineId) -> Option<bool> {
        locks.disruption(machine).await.unwrap().map(|timed| timed.runs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_runs_from_its_last_beginning() {
        let (locks, a) = (manager(), MachineId::new("a").unwrap());
        let begin = || locks.rewrite_disruption(&a, HOUR, |_| Rewrite::Begin(wish(1)));
        let pass = |minutes: u64| tokio::time::sleep(Duration::from_secs(60 * minutes));
        assert_eq!(runs(&locks, &a).await, None);
        let begun = begin().await.unwrap().unwrap();
        pass(50).await;
        assert!(locks.prolong(&begun).await.unwrap());
        pass(50).await;
        // Another word does not make it longer.
        let put = |limit| {
            locks.rewrite_disruption(&a, HOUR, move |known| {
                Rewrite::Put(Disruption { limit, ..known.unwrap().disruption.clone() })
            })
        };
        assert_eq!(put(7).await.unwrap().unwrap().limit, 7);
        assert_eq!(runs(&locks, &a).await, Some(true));
        pass(11).await;
        assert_eq!(runs(&locks, &a).await, Some(false));
        assert!(!locks.prolong(&begun).await.unwrap());
        begin().await.unwrap();
        assert_eq!(runs(&locks, &a).await, Some(true));
        assert_eq!(locks.disruptions().await.unwrap().len(), 1);
        locks.rewrite_disruption(&a, HOUR, |_| Rewrite::Remove).await.unwrap();
        assert_eq!(runs(&locks, &a).await, None);
        assert!(locks.disruptions().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_overwritten() {
        let (locks, a) = (manager(), MachineId::new("a").unwrap());
        let txn = Txn::new().put(locks.keys.disruption(&a), b"?".to_vec());
        locks.store.commit(&txn).await.unwrap();
        let begun = locks.rewrite_disruption(&a, HOUR, |_| Rewrite::Begin(wish(1))).await;
        assert!(matches!(begun, Err(LockError::Damaged { .. })), "{begun:?}");
        let [(_, known)] = &locks.disruptions().await.unwrap()[..] else { panic!("not one") };
        assert!(matches!(known, Err(LockError::Damaged { .. })), "{known:?}");
    }

    #[tokio::test]
    async fn machines_say_the_limit_until_an_operator_does() {
        let locks = manager();
        let group = Group::new("lb").unwrap();
        let say = |limit, others| locks.follow_limit(&group, limit, others);
        let max = || async { locks.glance(&group).await.unwrap().0.max() };
        assert_eq!(say(3, None).await.unwrap(), Followed::Settled);
        assert_eq!(max().await, 3);
        assert_eq!(say(9, None).await.unwrap(), Followed::Higher);
        assert_eq!(say(9, Some(3)).await.unwrap(), Followed::Settled);
        assert_eq!(max().await, 3, "another machine says 3");
        assert_eq!(say(9, Some(u32::MAX)).await.unwrap(), Followed::Settled);
        assert_eq!(max().await, 9);
        assert_eq!(say(2, None).await.unwrap(), Followed::Settled);
        assert_eq!(max().await, 2);
        locks.set_max(&group, 5).await.unwrap();
        for (limit, others) in [(1, None), (9, None), (9, Some(9))] {
            assert_eq!(say(limit, others).await.unwrap(), Followed::Settled);
            assert_eq!(max().await, 5, "an operator has said so");
        }
    }
}
