//! The lock manager: loads documents, changes them by their rules, commits, and tries again.
//!
//! Every operation is one transaction whose preconditions name every document it was decided on.
//! So however many managers run at once, one of two that contradict each other loses and decides
//! anew. A reply that got lost is settled by reading: the token in the holder record says whether
//! the write was ours. An operation that did happen late, after its caller gave up, has the same
//! preconditions and can therefore only have happened if nothing else did in between.

mod acquire;
mod advance;
mod pause;
mod release;
mod repair;
mod status;

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

pub use self::acquire::Acquired;
pub use self::advance::Advance;
pub use self::pause::{Resumed, Scope};
pub use self::release::Released;
pub use self::repair::Repair;
pub use self::status::{GroupStatus, Holder};
use crate::chance;
use crate::clock::Clock;
use crate::id::{Group, MachineId};
use crate::keys::Keyspace;
use crate::record::{Document, HolderRecord, Pause, UnixTime};
use crate::semaphore::Semaphore;
use crate::semaphore::json::Damage;
use crate::store::{Commit, Key, SharedStore, Snapshot, StoreError, Txn};

/// Longest pause before a lost commit is tried again.
const MAX_BACKOFF: Duration = Duration::from_millis(250);

/// Longest time one operation may take, unless told otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(15);

/// Why an operation did not succeed. Each variant is one thing a caller does differently.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LockError {
    /// Ask again later.
    #[error("no slot is free in group {group} (limit {max})")]
    Full {
        /// The group without a free slot.
        group: Group,
        /// Its limit.
        max: u32,
    },
    /// Ask again when somebody has resumed.
    #[error("{scope} is paused{}", by_whom(.pause.as_deref()))]
    Paused {
        /// What is paused.
        scope: Scope,
        /// By whom and why, if that can be read: what cannot be read pauses all the same.
        pause: Option<Box<Pause>>,
    },
    /// A person has to look. Nothing was changed.
    #[error("{what} at {key} is {damage}; nothing was changed; see rebootlockctl repair")]
    Damaged {
        /// Which kind of document.
        what: &'static str,
        /// Where it is.
        key: Key,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The slot belongs to another acquisition, or to none.
    #[error("the slot of {machine} in group {group} is not ours any more: {what}")]
    NotOurs {
        /// The machine.
        machine: MachineId,
        /// The group.
        group: Group,
        /// What was found instead.
        what: &'static str,
    },
    /// The store did not answer.
    #[error("{action}: {source}")]
    Store {
        /// What was being done, and to what.
        action: String,
        /// What the store said.
        source: StoreError,
    },
    /// So many others changed the same documents that time ran out. Nothing was changed.
    #[error("{action}: others kept changing the same documents for {} s", .after.as_secs())]
    Contended {
        /// What was being done, and to what.
        action: String,
        /// How long it was tried.
        after: Duration,
    },
}

fn by_whom(pause: Option<&Pause>) -> String {
    match pause {
        None => " (by whom cannot be read)".to_owned(),
        Some(Pause { by, reason: None, .. }) => format!(" by {by}"),
        Some(Pause { by, reason: Some(reason), .. }) => format!(" by {by}: {reason}"),
    }
}

impl LockError {
    /// Whether time may cure it without anybody's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store { source, .. } => source.is_transient(),
            Self::Contended { .. } => true,
            _ => false,
        }
    }

    /// Whether the store could not be reached at all.
    pub fn is_out_of_reach(&self) -> bool {
        matches!(self, Self::Store { source, .. } if source.is_transient())
    }
}

/// What a lock manager answers.
pub type Result<T> = std::result::Result<T, LockError>;

/// Acquires and releases slots on a store.
#[derive(Debug, Clone)]
pub struct LockManager {
    store: SharedStore,
    keys: Keyspace,
    deadline: Duration,
    clock: Clock,
}

impl LockManager {
    /// A manager of the documents below `keys`.
    pub fn new(store: SharedStore, keys: Keyspace) -> Self {
        Self { store, keys, deadline: DEFAULT_DEADLINE, clock: Clock::default() }
    }

    /// The same manager, giving up on an operation after `deadline`.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The same manager, dating documents by another clock than the system's.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The store.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Where the documents are.
    pub fn keys(&self) -> &Keyspace {
        &self.keys
    }

    /// What its clock says.
    pub(crate) fn now(&self) -> UnixTime {
        self.clock.now()
    }

    /// Changes the limit of a group and returns the old one. Nobody is thrown out.
    ///
    /// # Errors
    /// [`LockError::Damaged`], or what the store says.
    pub async fn set_max(&self, group: &Group, max: u32) -> Result<u32> {
        let key = self.keys.semaphore(group);
        let action = format!("setting the limit in {key}");
        self.settle(&action, std::slice::from_ref(&key), |before| {
            let mut semaphore = self.semaphore(before, group)?;
            let old = semaphore.set_max(max);
            if old == max && before.get(&key).is_some() {
                return Ok(Decision::Done(old));
            }
            let txn = Txn::new().when(before.unchanged(&key)).put(key.clone(), semaphore.to_json());
            Ok(Decision::Commit(txn, old))
        })
        .await
    }

    /// The loop around every change: load `keys`, decide, commit, and start over when somebody
    /// else was faster. After an error of a commit the decision is made again on what is then
    /// there, which is why every decision recognises its own work.
    async fn settle<T, D>(&self, action: &str, keys: &[Key], decide: D) -> Result<T>
    where
        D: Fn(&Snapshot) -> Result<Decision<T>>,
    {
        let deadline = Instant::now() + self.deadline;
        let store_error = |source| LockError::Store { action: action.to_owned(), source };
        let mut unsettled: Option<StoreError> = None;
        let mut attempt = 0;
        loop {
            let before = match self.in_time(deadline, self.store.load(keys)).await {
                Ok(before) => before,
                Err(error) => return Err(store_error(unsettled.unwrap_or(error))),
            };
            let (txn, done) = match decide(&before)? {
                Decision::Done(done) => return Ok(done),
                Decision::Commit(txn, done) => (txn, done),
            };
            match self.in_time(deadline, self.store.commit(&txn)).await {
                Ok(Commit::Won(_)) => return Ok(done),
                Ok(Commit::Lost) => {}
                Err(error) if error.is_transient() => unsettled = Some(error),
                Err(error) => return Err(store_error(error)),
            }
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
            if Instant::now() >= deadline {
                return Err(match unsettled {
                    Some(source) => store_error(source),
                    None => {
                        LockError::Contended { action: action.to_owned(), after: self.deadline }
                    }
                });
            }
        }
    }

    /// A store keeps its own time limit; the operation's may be shorter.
    async fn in_time<T>(
        &self,
        deadline: Instant,
        call: impl Future<Output = std::result::Result<T, StoreError>>,
    ) -> std::result::Result<T, StoreError> {
        tokio::time::timeout_at(deadline, call).await.unwrap_or_else(|_| {
            let (at, after) = (self.store.location(), self.deadline.as_secs());
            Err(StoreError::Unavailable(format!("{at}: no answer within {after} s")))
        })
    }

    /// The semaphore of a group as it was, or the one a group begins with.
    pub(crate) fn semaphore(&self, snapshot: &Snapshot, group: &Group) -> Result<Semaphore> {
        let key = self.keys.semaphore(group);
        match snapshot.get(&key) {
            None => Ok(Semaphore::default()),
            Some(entry) => Semaphore::from_json(&entry.value)
                .map_err(|damage| LockError::Damaged { what: "semaphore", key, damage }),
        }
    }

    /// The holder record of `machine` in a group as it was.
    fn record(
        &self,
        snapshot: &Snapshot,
        group: &Group,
        machine: &MachineId,
    ) -> Result<Option<HolderRecord>> {
        let key = self.keys.holder(group, machine);
        let Some(entry) = snapshot.get(&key) else { return Ok(None) };
        HolderRecord::from_json(&entry.value).map(Some).map_err(|damage| LockError::Damaged {
            what: "holder record",
            key,
            damage,
        })
    }

    /// Everything a decision about `machine` in `groups` depends on.
    pub(crate) fn keys_of(&self, groups: &[Group], machine: &MachineId) -> Vec<Key> {
        let of_group = |group| {
            [self.keys.semaphore(group), self.keys.holder(group, machine), self.keys.paused(group)]
        };
        let mut keys: Vec<_> = groups.iter().flat_map(of_group).collect();
        keys.push(self.keys.fleet_paused());
        keys
    }

    /// What pauses `groups`, the fleet's pause first.
    pub(crate) fn pause_in_force(
        &self,
        snapshot: &Snapshot,
        groups: &[Group],
    ) -> Option<LockError> {
        let scopes = std::iter::once(Scope::Fleet)
            .chain(groups.iter().map(|group| Scope::Group(group.clone())));
        for scope in scopes {
            if let Some(entry) = snapshot.get(&scope.key(&self.keys)) {
                let pause = Pause::from_json(&entry.value).ok().map(Box::new);
                return Some(LockError::Paused { scope, pause });
            }
        }
        None
    }

    /// The preconditions that none of `groups` is paused, nor the fleet.
    fn when_not_paused(&self, mut txn: Txn, groups: &[Group]) -> Txn {
        for group in groups {
            txn = txn.when_absent(self.keys.paused(group));
        }
        txn.when_absent(self.keys.fleet_paused())
    }
}

/// What to do about what was read.
enum Decision<T> {
    /// Nothing more: it is as wished.
    Done(T),
    /// Commit this; if it is won, the answer is that.
    Commit(Txn, T),
}

/// Pause before attempt number `attempt` + 1: full jitter, so that losers do not meet again.
fn backoff(attempt: u32) -> Duration {
    let ceiling = Duration::from_millis(1 << attempt.min(8)).min(MAX_BACKOFF);
    chance::between(Duration::ZERO, ceiling)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
