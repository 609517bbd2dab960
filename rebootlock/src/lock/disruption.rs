//! What machines that speak disruption-manager's protocol have asked for.
//!
//! Their documents never decide who has a slot: the semaphore does. Each has a time, which is a key on
//! a lease, so that it ends by the store's clock and never early, whoever writes and whoever looks.

mod leave;
mod limit;

use std::time::Duration;

pub use self::leave::Wanted;
use super::release::LEASE_TRIES;
use super::{Decision, LockError, LockManager, MOST_KEYS, Result};
use crate::id::MachineId;
use crate::record::{Disruption, Document};
use crate::store::{Key, LeaseId, Select, Snapshot, StoreError, Txn};

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

    /// Changes what is known of `machine`. A time that begins anew lasts for `time`, and has a lease of
    /// its own: two of them are never taken for one. Returns the document as it is then.
    ///
    /// It goes by [`LockManager::leave`] alone, which sees to the slot too.
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
                let known_of = known.as_ref().map(|timed| &timed.disruption);
                let spare = known_of.and_then(Disruption::lease);
                let txn = Txn::new().when(before.unchanged(place)).when(before.unchanged(timer));
                let put = |new: &Disruption| {
                    let txn = txn.put(place.clone(), new.to_json());
                    self.with_words(txn, machine, known_of, new)
                };
                Ok(match (decide(known.as_ref()), lease) {
                    (Rewrite::Keep, _) => {
                        Decision::Done(Settled::now(known.map(|timed| timed.disruption), None))
                    }
                    (Rewrite::Put(new), _) => {
                        if known_of == Some(&new) {
                            return Ok(Decision::Done(Settled::now(Some(new), None)));
                        }
                        Decision::Commit(put(&new), Settled::now(Some(new), None))
                    }
                    (Rewrite::Begin(_), None) => Decision::Done(Settled::NeedsLease),
                    (Rewrite::Begin(new), Some(lease)) => {
                        let new = Disruption {
                            lease: format!("{:x}", lease.0),
                            until: self.now().plus_seconds(time.as_secs()),
                            ..new
                        };
                        // Nobody reads it: what counts is that it is there.
                        let value = machine.as_str().as_bytes().to_vec();
                        let txn = put(&new).put_leased(timer.clone(), value, lease);
                        Decision::Commit(txn, Settled::now(Some(new), spare))
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
                Ok(Settled::Now(now, spare)) => {
                    let now = now.map(|now| *now);
                    let used = now.as_ref().and_then(Disruption::lease);
                    let unused = lease.into_iter().chain(spare);
                    for unused in unused.filter(|lease| used != Some(*lease)) {
                        // Nothing hangs on it, and it ends by itself.
                        let _ = self.store.revoke(unused).await;
                    }
                    return Ok(now);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets the time of a document run from now on, for as long as it was to last. `false`: it is over.
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
    /// With the lease that its time hung on before.
    Now(Option<Box<Disruption>>, Option<LeaseId>),
    /// A time is to begin, and there is no lease for it yet.
    NeedsLease,
}

impl Settled {
    fn now(now: Option<Disruption>, spare: Option<LeaseId>) -> Self {
        Self::Now(now.map(Box::new), spare)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::id::Group;
    use crate::keys::Keyspace;
    use crate::record::{DisruptionState, UnixTime};
    use crate::store::MemoryStore;

    const HOUR: Duration = Duration::from_secs(3600);

    fn manager() -> LockManager {
        LockManager::new(Arc::new(MemoryStore::new()), Keyspace::default())
    }

    pub(in crate::lock) fn wish(limit: u32) -> Disruption {
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
            again_limit: None,
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
}
