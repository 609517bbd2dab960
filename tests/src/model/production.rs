//! What production decides: the model asks the real lock manager, over a store that shows it the
//! model's documents and catches the transaction it would commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use rebootlock::id::{BootId, Group, MachineId, Token};
use rebootlock::keys::Keyspace;
use rebootlock::lock::{Acquired, Advance, Ended, LockError, LockManager, Release, Released};
use rebootlock::queue::{Queue, overtakes_from};
use rebootlock::record::{Claim, Document, HolderRecord, HolderState, Pause, UnixTime, Via};
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{
    Change, Commit, Entry, Key, LeaseId, Result, Revision, Select, Snapshot, Span, Store,
    StoreError, Txn, Watch,
};
use uuid::Uuid;

/// How many machines.
pub const MACHINES: usize = 3;

/// How many groups.
pub const GROUPS: usize = 2;

/// A set of documents, one bit each.
pub type Keys = u16;

/// The semaphore of a group.
pub fn semaphore(group: usize) -> Keys {
    1 << group
}

/// A machine's holder record in a group.
pub fn record(group: usize, machine: usize) -> Keys {
    1 << (GROUPS + group * MACHINES + machine)
}

/// The fleet's pause.
pub const FLEET_PAUSED: Keys = 1 << 8;

/// The pause of a group.
pub fn paused(group: usize) -> Keys {
    1 << (9 + group)
}

/// All pauses.
pub const PAUSES: Keys = 0b111 << 8;

/// A machine's places, which come and go together in all its queues.
pub fn place(machine: usize) -> Keys {
    1 << (11 + machine)
}

/// How far a record says its holder has come. Draining is left out: nothing depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Has the slot.
    Holding,
    /// Has the permit.
    Rebooting,
    /// Is back.
    Verifying,
}

/// What counts of a holder record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    /// The acquisition.
    pub token: u8,
    /// How far it has come.
    pub stage: Stage,
    /// Whether it was taken in the boot the machine is in now.
    pub this_boot: bool,
    /// Whether an operator took it for the machine.
    pub by_operator: bool,
}

/// Documents as they are when somebody reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Documents {
    /// The holders of each group, a bit per machine.
    pub holders: [u8; GROUPS],
    /// The records of the machine in question.
    pub records: [Option<Record>; GROUPS],
    /// Which pauses are in force.
    pub pauses: Keys,
}

/// What is asked of the lock manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Question {
    /// `LockManager::acquire`.
    Acquire {
        /// The claim's token.
        token: u8,
        /// Whether it is an operator's.
        by_operator: bool,
    },
    /// `LockManager::advance` to the permit.
    Permit {
        /// The token the process holds by.
        token: u8,
    },
    /// `LockManager::adopt`.
    Adopt {
        /// The new token.
        token: u8,
        /// What was found, in the groups it was found in.
        found: Option<Record>,
        /// A bit per group.
        groups: u8,
        /// The stage to write.
        stage: Stage,
    },
    /// `LockManager::release`.
    Release {
        /// `None`: an operator's unlock.
        token: Option<u8>,
    },
}

/// A transaction in the model's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Changes {
    /// Semaphores written: their new holders.
    pub holders: [Option<u8>; GROUPS],
    /// Records written or taken away.
    pub records: [Option<Option<Record>>; GROUPS],
    /// Whether the machine's places are deleted.
    pub leaves_queue: bool,
    /// What was present and must be unchanged.
    pub unchanged: Keys,
    /// What was absent and must be absent.
    pub absent: Keys,
}

/// What the lock manager answers, or would commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is as wished.
    Done,
    /// Another acquisition holds the machine's slots.
    Already,
    /// Nothing to release.
    NotHeld,
    /// No slot is free.
    Full,
    /// Something is paused.
    Paused,
    /// The slot is not the token's.
    NotOurs,
    /// It would commit this.
    Commit(Changes),
}

/// The limits and who is in which group.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    /// Each group's limit.
    pub max: [u32; GROUPS],
    /// Each machine's groups, a bit each.
    pub groups: [u8; MACHINES],
    /// Each machine's priority. One has any at most: two would have to know of each other as they enter.
    pub priority: [u32; MACHINES],
}

impl Fleet {
    /// The groups of a machine.
    pub fn groups_of(&self, machine: usize) -> impl Iterator<Item = usize> + '_ {
        (0..GROUPS).filter(move |group| self.groups[machine] & (1 << group) != 0)
    }
}

/// How many go before a machine, by the queue in the order of arrival and the machine.
type Turns = HashMap<(Vec<u8>, usize), Option<usize>>;

/// Asks production, each question about the same documents once.
#[derive(Debug)]
pub struct Production {
    fleet: Fleet,
    known: Mutex<HashMap<(usize, Question, Documents), Answer>>,
    turns: Mutex<Turns>,
    runtime: tokio::runtime::Runtime,
}

impl Production {
    /// For this fleet.
    pub fn new(fleet: Fleet) -> Self {
        // Only for its clock: nothing ever waits.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { fleet, known: Mutex::default(), turns: Mutex::default(), runtime }
    }

    /// What the lock manager would do about `machine` with these documents before it.
    pub fn ask(&self, machine: usize, question: Question, documents: &Documents) -> Answer {
        let key = (machine, question, *documents);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        known.unwrap_or_else(|| {
            let answer = self.really_ask(machine, question, documents);
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, answer);
            answer
        })
    }

    /// How many go before `machine` in a queue, given in the order of arrival.
    pub fn ahead_of(&self, queue: &[u8], machine: usize) -> Option<usize> {
        let key = (queue.to_vec(), machine);
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        *turns.entry(key).or_insert_with(|| {
            let mut listed = Queue::default();
            for (n, waiter) in queue.iter().enumerate() {
                let id = machine_id(usize::from(*waiter));
                let key = Key::new(format!("q/queue/{id}"));
                let mut claim = Claim::new(id, [], Via::Agent);
                claim.priority = self.fleet.priority[usize::from(*waiter)];
                let mut waiter = claim.waiter(UnixTime(1));
                if claim.priority > 0 {
                    waiter.overtakes_from = Some(overtakes_from(&[], &claim, UnixTime(1)));
                }
                let value = waiter.to_json();
                let at = Revision(n as u64 + 1);
                listed.changed(&key, Some(&Entry { value, modified: at, created: at }), at);
            }
            listed.ahead_of(&machine_id(machine))
        })
    }

    fn really_ask(&self, machine: usize, question: Question, documents: &Documents) -> Answer {
        let _clock = self.runtime.enter();
        let probe =
            Arc::new(Probe { shown: self.show(machine, documents), caught: Mutex::default() });
        let locks = LockManager::new(probe.clone(), Keyspace::default());
        let id = machine_id(machine);
        let groups: Vec<_> = self.fleet.groups_of(machine).map(group_name).collect();
        let now = "nothing waits over a store that answers at once";
        let answered = match question {
            Question::Acquire { token, by_operator } => {
                let claim = claim(machine, groups, token, by_operator);
                locks.acquire(&claim).now_or_never().expect(now).map(|acquired| match acquired {
                    Acquired::Granted => Answer::Done,
                    Acquired::Already(_) => Answer::Already,
                })
            }
            Question::Permit { token } => locks
                .advance(&groups, &id, token_of(token), &Advance::permit(UnixTime(9)))
                .now_or_never()
                .expect(now)
                .map(|()| Answer::Done),
            Question::Adopt { token, found, groups, stage } => {
                let groups = (0..GROUPS).filter(|g| groups & (1 << g) != 0).map(group_name);
                let claim = claim(machine, groups.collect(), token, false);
                let found = found.map(|found| written(&claim, found));
                locks
                    .adopt(&claim, found.as_ref(), state_of(stage))
                    .now_or_never()
                    .expect(now)
                    .map(|()| Answer::Done)
            }
            Question::Release { token } => locks
                .release(
                    &groups,
                    &id,
                    &Release { token: token.map(token_of), ended: Ended::GivenBack },
                )
                .now_or_never()
                .expect(now)
                .map(|released| match released {
                    Released::Freed(_) => Answer::Done,
                    Released::NotHeld => Answer::NotHeld,
                }),
        };
        let caught = probe.caught.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (caught, answered) {
            (Some(txn), _) => Answer::Commit(self.read(machine, &probe.shown, &txn)),
            (None, Ok(answer)) => answer,
            (None, Err(LockError::Full { .. })) => Answer::Full,
            (None, Err(LockError::Paused { .. })) => Answer::Paused,
            (None, Err(LockError::NotOurs { .. })) => Answer::NotOurs,
            (None, Err(error)) => panic!("{question:?} about {documents:?}: {error}"),
        }
    }

    /// The documents as production writes them, each at a revision of its own.
    fn show(&self, machine: usize, documents: &Documents) -> Snapshot {
        let keys = Keyspace::default();
        let mut texts = Vec::new();
        for group in 0..GROUPS {
            let mut semaphore = Semaphore::new(self.fleet.max[group]);
            for holder in (0..MACHINES).filter(|m| documents.holders[group] & (1 << m) != 0) {
                // A mutated model may hold too many, and is found out by its properties.
                if semaphore.acquire(machine_id(holder)).is_err() {
                    semaphore.set_max(self.fleet.max[group] + 1);
                    let _ = semaphore.acquire(machine_id(holder));
                    semaphore.set_max(self.fleet.max[group]);
                }
            }
            texts.push((keys.semaphore(&group_name(group)), semaphore.to_json()));
            if let Some(found) = documents.records[group] {
                let groups = self.fleet.groups_of(machine).map(group_name).collect();
                let claim = claim(machine, groups, found.token, found.by_operator);
                let record = written(&claim, found);
                texts.push((
                    keys.holder(&group_name(group), &machine_id(machine)),
                    record.to_json(),
                ));
            }
        }
        let pause = Pause {
            by: "op".into(),
            reason: None,
            since: UnixTime(1),
            until: None,
            unknown: Default::default(),
        };
        for (bit, key) in self.pause_keys() {
            if documents.pauses & bit != 0 {
                texts.push((key, pause.to_json()));
            }
        }
        let entry = |(n, (key, value)): (usize, (Key, Vec<u8>))| {
            let at = Revision(n as u64 + 1);
            (key, Entry { value, modified: at, created: at })
        };
        Snapshot {
            revision: Revision(99),
            entries: texts.into_iter().enumerate().map(entry).collect(),
        }
    }

    fn pause_keys(&self) -> Vec<(Keys, Key)> {
        let keys = Keyspace::default();
        let mut all = vec![(FLEET_PAUSED, keys.fleet_paused())];
        all.extend((0..GROUPS).map(|group| (paused(group), keys.paused(&group_name(group)))));
        all
    }

    /// A transaction back in the model's terms. What the model has no word for is a panic: then
    /// production changed, and the model has to follow.
    fn read(&self, machine: usize, shown: &Snapshot, txn: &Txn) -> Changes {
        let mut names: BTreeMap<Key, Keys> =
            self.pause_keys().into_iter().map(|(b, k)| (k, b)).collect();
        let mut groups = BTreeMap::new();
        let mut places = Vec::new();
        let (keys, id) = (Keyspace::default(), machine_id(machine));
        for group in 0..GROUPS {
            let name = group_name(group);
            names.insert(keys.semaphore(&name), semaphore(group));
            names.insert(keys.holder(&name, &id), record(group, machine));
            groups.insert(keys.semaphore(&name), group);
            groups.insert(keys.holder(&name, &id), group);
            places.extend([keys.waiter(&name, &id), keys.urgent(&name, &id)]);
        }
        // The model knows no holds and no cooldowns: that there is none is all it can say.
        let stops: Vec<Key> = (0..GROUPS)
            .map(|group| keys.cooldown(&group_name(group)))
            .chain([keys.hold(&id)])
            .collect();
        let history: Vec<Key> = (0..GROUPS).map(|group| keys.history(&group_name(group))).collect();
        let is_history = |key: &Key| history.iter().any(|h| key.as_str().starts_with(h.as_str()));
        let mut changes = Changes::default();
        for precondition in &txn.preconditions {
            if stops.contains(&precondition.key) {
                assert_eq!(precondition.modified, None);
                continue;
            }
            let bit = names[&precondition.key];
            let seen = shown.get(&precondition.key).map(|entry| entry.modified);
            assert_eq!(seen, precondition.modified, "a precondition that was not read");
            match seen {
                Some(_) => changes.unchanged |= bit,
                None => changes.absent |= bit,
            }
        }
        for change in &txn.changes {
            if places.contains(change.key()) {
                assert!(matches!(change, Change::Delete { .. }));
                changes.leaves_queue = true;
                continue;
            }
            // Nothing is decided on the history.
            if is_history(change.key()) {
                continue;
            }
            let group = groups[change.key()];
            let is_semaphore = names[change.key()] == semaphore(group);
            match change {
                Change::Delete { .. } => changes.records[group] = Some(None),
                Change::Put { value, .. } if is_semaphore => {
                    let written = Semaphore::from_json(value).unwrap();
                    assert_eq!(written.max(), self.fleet.max[group]);
                    let bits = (0..MACHINES).filter(|m| written.holds(&machine_id(*m)));
                    changes.holders[group] = Some(bits.fold(0, |all, m| all | 1 << m));
                }
                Change::Put { value, .. } => {
                    let written = HolderRecord::from_json(value).unwrap();
                    changes.records[group] = Some(Some(read_record(&written)));
                }
            }
        }
        changes
    }
}

/// The model's name of a machine.
pub fn machine_id(machine: usize) -> MachineId {
    MachineId::new(format!("m{machine}")).unwrap()
}

fn group_name(group: usize) -> Group {
    if group == 0 { Group::default() } else { Group::new(format!("g{group}")).unwrap() }
}

fn token_of(token: u8) -> Token {
    Token::from(Uuid::from_u128(u128::from(token) + 1))
}

fn boot(this: bool) -> BootId {
    BootId::new(&Uuid::from_u128(if this { 2 } else { 1 }).to_string()).unwrap()
}

fn state_of(stage: Stage) -> HolderState {
    match stage {
        Stage::Holding => HolderState::Holding,
        Stage::Rebooting => HolderState::Rebooting,
        Stage::Verifying => HolderState::Verifying,
    }
}

fn claim(machine: usize, groups: Vec<Group>, token: u8, by_operator: bool) -> Claim {
    let via = if by_operator { Via::Ctl } else { Via::Agent };
    let mut claim = Claim::new(machine_id(machine), groups, via);
    claim.token = token_of(token);
    claim.boot_id = (!by_operator).then(|| boot(true));
    claim
}

fn written(claim: &Claim, record: Record) -> HolderRecord {
    HolderRecord {
        token: Some(token_of(record.token)),
        state: Some(state_of(record.stage)),
        boot_id: (!record.by_operator).then(|| boot(record.this_boot)),
        via: Some(if record.by_operator { Via::Ctl } else { Via::Agent }),
        ..claim.record(UnixTime(1))
    }
}

fn read_record(record: &HolderRecord) -> Record {
    let token = (0..=u8::MAX).find(|token| record.is_of(token_of(*token))).unwrap();
    let stage = match record.state.as_ref().unwrap() {
        HolderState::Holding => Stage::Holding,
        HolderState::Rebooting => Stage::Rebooting,
        HolderState::Verifying => Stage::Verifying,
        other => panic!("a state the model does not know: {other}"),
    };
    let by_operator = record.via == Some(Via::Ctl);
    Record {
        token,
        stage,
        this_boot: by_operator || record.boot_id == Some(boot(true)),
        by_operator,
    }
}

/// Shows documents, and catches what is to be committed.
#[derive(Debug)]
struct Probe {
    shown: Snapshot,
    caught: Mutex<Option<Txn>>,
}

#[async_trait]
impl Store for Probe {
    async fn load(&self, keys: &[Key]) -> Result<Snapshot> {
        let mut seen = self.shown.clone();
        seen.entries.retain(|key, _| keys.contains(key));
        Ok(seen)
    }

    async fn commit(&self, txn: &Txn) -> Result<Commit> {
        *self.caught.lock().unwrap_or_else(PoisonError::into_inner) = Some(txn.clone());
        Err(StoreError::Broken("caught".to_owned()))
    }

    async fn read(&self, _: &[Key], _: &[(Key, Select)]) -> Result<Snapshot> {
        Err(StoreError::Broken("the model has queues of its own".to_owned()))
    }

    async fn list(&self, _: &Key, _: Select) -> Result<Snapshot> {
        Err(StoreError::Broken("the model has queues of its own".to_owned()))
    }

    fn watch_from_now(&self, _: &[Span]) -> Watch {
        unreachable!("nothing that decides watches")
    }

    fn watch(&self, _: &Span, _: Revision) -> Watch {
        unreachable!("nothing that decides watches")
    }

    async fn grant(&self, _: Duration) -> Result<LeaseId> {
        Err(StoreError::Broken("the model has leases of its own".to_owned()))
    }

    async fn keep_alive(&self, _: LeaseId) -> Result<()> {
        Err(StoreError::LeaseGone)
    }

    async fn revoke(&self, _: LeaseId) -> Result<()> {
        Ok(())
    }

    fn location(&self) -> String {
        "the model".to_owned()
    }
}
