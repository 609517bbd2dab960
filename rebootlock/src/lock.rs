//! The lock manager: loads documents, changes them by their rules, commits, and tries again.
//!
//! Every operation is one transaction whose preconditions name every document it was decided on.
//! So however many managers run at once, one of two that contradict each other loses and decides
//! anew. A reply that got lost is settled by reading: the token in the holder record says whether
//! the write was ours. An operation that did happen late, after its caller gave up, has the same
//! preconditions and can therefore only have happened if nothing else did in between.

mod acquire;
mod acts;
mod advance;
mod disruption;
mod fleet;
mod history;
pub(crate) mod line;
mod overdue;
mod pause;
mod release;
mod repair;
mod request;
mod rewrite;
mod session;
mod status;
mod together;
mod turn;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use self::acquire::Acquired;
use self::acts::Note;
pub use self::acts::{ACTS_KEPT, Done};
pub use self::advance::Advance;
pub use self::disruption::{Rewrite, Timed, Wanted};
pub use self::fleet::{Forgetting, Forgotten};
pub use self::history::{HISTORY_KEPT, Remembered};
pub use self::overdue::OverdueRelease;
pub use self::pause::{Held, Resumed, Scope, Unheld};
pub use self::release::{Ended, Release, Released};
pub use self::repair::Repair;
pub use self::request::{Cancelled, Requested};
pub use self::status::{GroupStatus, Holder};
pub use self::together::{AT_ONCE, Left, Settled, Wish};
pub use self::turn::{GivenBack, Queued, Turn};
use crate::chance;
use crate::clock::Clock;
use crate::id::{Group, MachineId};
use crate::keys::Keyspace;
use crate::record::{Cooldown, Document, Hold, HolderRecord, Pause, Stop, UnixTime};
use crate::semaphore::Semaphore;
use crate::semaphore::json::Damage;
use crate::store::{Commit, Key, LeaseId, Select, SharedStore, Snapshot, StoreError, Txn};

/// Longest pause before a lost commit is tried again.
const MAX_BACKOFF: Duration = Duration::from_millis(250);

/// How many keys are read or written in one request at most: etcd allows 128.
const MOST_KEYS: usize = 100;

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
    /// Ask again when somebody has let it go.
    #[error("{machine} is held{}", by_whom(.hold.as_deref()))]
    Held {
        /// Which machine must not reboot.
        machine: MachineId,
        /// By whom and why, if that can be read: what cannot be read holds all the same.
        hold: Option<Box<Hold>>,
    },
    /// Ask again when the time is over.
    #[error("group {group} cools down{}", after_whom(.cooldown.as_deref(), *.left))]
    CoolingDown {
        /// Which group.
        group: Group,
        /// Who came back, if that can be read: what cannot be read counts all the same.
        cooldown: Option<Box<Cooldown>>,
        /// How long it should take from now on, by this machine's clock.
        left: Duration,
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

fn by_whom(stop: Option<&Stop>) -> String {
    let Some(Stop { by, reason, until, .. }) = stop else {
        return " (by whom cannot be read)".to_owned();
    };
    let until = until.map(|until| format!(" until {}", until.to_text())).unwrap_or_default();
    let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!(" by {by}{until}{reason}")
}

fn after_whom(cooldown: Option<&Cooldown>, left: Duration) -> String {
    match cooldown {
        None => " (since whose reboot cannot be read)".to_owned(),
        Some(cooldown) if left.is_zero() => format!(" after the reboot of {}", cooldown.name()),
        Some(cooldown) => {
            let left = left.as_secs();
            format!(" for another {left} s after the reboot of {}", cooldown.name())
        }
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
    cooldowns: BTreeMap<Group, Duration>,
    recent: Recent,
    clock: Clock,
    note: Option<Note>,
}

impl LockManager {
    /// A manager of the documents below `keys`.
    pub fn new(store: SharedStore, keys: Keyspace) -> Self {
        let (deadline, cooldowns) = (DEFAULT_DEADLINE, BTreeMap::new());
        let (recent, clock) = (Recent::default(), Clock::default());
        Self { store, keys, deadline, cooldowns, recent, clock, note: None }
    }

    /// The same manager, giving up on an operation after `deadline`.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The same manager, letting these groups cool down for so long after each machine that came
    /// back from a reboot. Cooldowns that others began are heeded without.
    #[must_use]
    pub fn with_cooldowns(self, cooldowns: BTreeMap<Group, Duration>) -> Self {
        Self { cooldowns, ..self }
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
        self.settle_from(action, keys, None, decide).await.map(|ended| ended.answer)
    }

    /// The same; `known` stands for the first load if it leads to a commit, which loses if anything
    /// is not as it is believed to be.
    async fn settle_from<T, D>(
        &self,
        action: &str,
        keys: &[Key],
        known: Option<Snapshot>,
        decide: D,
    ) -> Result<Ending<T>>
    where
        D: Fn(&Snapshot) -> Result<Decision<T>>,
    {
        self.settle_over(action, || self.store.load(keys), known, decide).await
    }

    /// The same, on whatever `load` reads at one moment.
    async fn settle_over<T, D, L>(
        &self,
        action: &str,
        load: impl Fn() -> L,
        mut known: Option<Snapshot>,
        decide: D,
    ) -> Result<Ending<T>>
    where
        D: Fn(&Snapshot) -> Result<Decision<T>>,
        L: Future<Output = std::result::Result<Snapshot, StoreError>>,
    {
        let deadline = Instant::now() + self.deadline;
        let store_error = |source| LockError::Store { action: action.to_owned(), source };
        let mut unsettled: Option<StoreError> = None;
        // What to answer if an earlier commit happened all the same: also one that is said to have
        // lost, as what passes it on may have sent it twice, and the second lost to the first.
        let mut sent: Option<T> = None;
        let mut attempt = 0;
        loop {
            if let (Some(note), Some(_)) = (&self.note, &sent) {
                let key = std::slice::from_ref(&note.key);
                let found = self.in_time(deadline, self.store.load(key)).await;
                if found.map_err(store_error)?.get(&note.key).is_some()
                    && let Some(done) = sent.take()
                {
                    return Ok(Ending { answer: done, left: None, before: None });
                }
            }
            let believed = known.take().and_then(|known| match decide(&known) {
                Ok(Decision::Commit(txn, done)) => Some((known, txn, done)),
                _ => None,
            });
            let (before, txn, done) = match believed {
                Some(believed) => believed,
                None => {
                    let before = match self.in_time(deadline, load()).await {
                        Ok(before) => before,
                        Err(error) => return Err(store_error(unsettled.unwrap_or(error))),
                    };
                    match decide(&before)? {
                        Decision::Done(answer) => {
                            let before = sent.map(|done| Before::of(done, unsettled.is_some()));
                            return Ok(Ending { answer, left: None, before });
                        }
                        Decision::Commit(txn, done) => (before, txn, done),
                    }
                }
            };
            let txn = match &self.note {
                Some(note) => {
                    txn.when_absent(note.key.clone()).put(note.key.clone(), note.value.clone())
                }
                None => txn,
            };
            match self.in_time(deadline, self.store.commit(&txn)).await {
                Ok(Commit::Won(revision)) => {
                    let left = Some(txn.applied_to(before, revision));
                    let before = sent.map(|done| Before::of(done, unsettled.is_some()));
                    return Ok(Ending { answer: done, left, before });
                }
                Ok(Commit::Lost) => {
                    sent.get_or_insert(done);
                }
                Err(error) if error.is_transient() => {
                    unsettled = Some(error);
                    sent = Some(done);
                }
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
            let (place, holder) = (self.keys.semaphore(group), self.keys.holder(group, machine));
            [place, holder, self.keys.paused(group), self.keys.cooldown(group)]
        };
        let mut keys: Vec<_> = groups.iter().flat_map(of_group).collect();
        keys.extend([self.keys.fleet_paused(), self.keys.hold(machine)]);
        keys
    }

    /// What keeps `machine` from going on in `groups`: the fleet's pause, a group's, its own hold.
    pub(crate) fn stop_in_force(
        &self,
        snapshot: &Snapshot,
        groups: &[Group],
        machine: &MachineId,
    ) -> Option<LockError> {
        let scopes = std::iter::once(Scope::Fleet)
            .chain(groups.iter().map(|group| Scope::Group(group.clone())));
        for scope in scopes {
            if let Some(entry) = snapshot.get(&scope.key(&self.keys)) {
                let pause = Pause::from_json(&entry.value).ok().map(Box::new);
                return Some(LockError::Paused { scope, pause });
            }
        }
        let entry = snapshot.get(&self.keys.hold(machine))?;
        let hold = Hold::from_json(&entry.value).ok().map(Box::new);
        Some(LockError::Held { machine: machine.clone(), hold })
    }

    /// Whether one of `groups` cools down after a machine that came back, as configured here.
    pub fn has_cooldown(&self, groups: &[Group]) -> bool {
        let cooldowns = groups.iter().filter_map(|group| self.cooldowns.get(group));
        cooldowns.into_iter().any(|time| !time.is_zero())
    }

    /// Which of `groups` cools down.
    fn cooldown_in_force(&self, snapshot: &Snapshot, groups: &[Group]) -> Option<LockError> {
        groups.iter().find_map(|group| {
            let entry = snapshot.get(&self.keys.cooldown(group))?;
            let cooldown = Cooldown::from_json(&entry.value).ok().map(Box::new);
            let left = cooldown.as_ref().map_or(0, |c| c.until().seconds_since(self.now()));
            let left = Duration::from_secs(left);
            Some(LockError::CoolingDown { group: group.clone(), cooldown, left })
        })
    }

    /// The preconditions that nothing keeps `machine` from going on: see
    /// [`LockManager::stop_in_force`].
    pub(crate) fn when_not_stopped(
        &self,
        mut txn: Txn,
        groups: &[Group],
        machine: &MachineId,
    ) -> Txn {
        for group in groups {
            txn = txn.when_absent(self.keys.paused(group));
        }
        txn.when_absent(self.keys.fleet_paused()).when_absent(self.keys.hold(machine))
    }

    /// A lease that the store ends after `ttl`, as nobody keeps it alive.
    async fn lease_of(&self, action: &str, ttl: Duration) -> Result<LeaseId> {
        // Stores count whole seconds, and none of them is nothing.
        let ttl = ttl.max(Duration::from_secs(1));
        let deadline = Instant::now() + self.deadline;
        let granted = self.in_time(deadline, self.store.grant(ttl)).await;
        granted.map_err(|source| LockError::Store { action: action.to_owned(), source })
    }

    async fn load(&self, action: &str, keys: &[Key]) -> Result<Snapshot> {
        let mut whole = Snapshot::default();
        // Each is a key of one transaction, and a transaction has only so many.
        for some in keys.chunks(MOST_KEYS) {
            let read = self.store.load(some).await;
            let read =
                read.map_err(|source| LockError::Store { action: action.to_owned(), source })?;
            whole.revision = read.revision;
            whole.entries.extend(read.entries);
        }
        Ok(whole)
    }

    async fn list(&self, below: &Key, select: Select) -> Result<Snapshot> {
        let listed = self.store.list(below, select).await;
        listed.map_err(|source| LockError::Store { action: format!("listing {below}"), source })
    }
}

/// Machines whose only slots this process has taken, and the documents as that left them. While
/// somebody has a group's only slot, nothing but an operator changes its semaphore: so its release
/// reads nothing first, and does only when it finds that it should have.
#[derive(Debug, Clone, Default)]
struct Recent(Arc<Mutex<BTreeMap<MachineId, Snapshot>>>);

impl Recent {
    /// As many as one process may reasonably hold at once.
    const MOST: usize = 64;

    fn remember(&self, machine: &MachineId, left: Snapshot) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that somebody else frees is never asked for again.
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(machine.clone(), left);
    }

    fn take(&self, machine: &MachineId) -> Option<Snapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(machine)
    }
}

/// How a change ended.
struct Ending<T> {
    answer: T,
    /// What its commit left behind.
    left: Option<Snapshot>,
    /// An earlier commit of this change, which may have happened before this.
    before: Option<Before<T>>,
}

/// A commit that was sent, and of which it is not known that it won.
enum Before<T> {
    /// It was never answered. What its answer would be.
    Unanswered(T),
    /// It is said to have lost: to somebody else, or to itself, sent twice.
    Lost,
}

impl<T> Before<T> {
    fn of(answer: T, is_unanswered: bool) -> Self {
        if is_unanswered { Self::Unanswered(answer) } else { Self::Lost }
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
