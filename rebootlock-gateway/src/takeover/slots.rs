//! Slots that are held through another server become slots that are held here.

use anyhow::{Context as _, Result, bail};
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::LockManager;
use rebootlock::record::{Document as _, HolderRecord, UnixTime};
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{Commit, Key, Precondition, Txn};
use serde::{Deserialize, Serialize};

/// Holders in one transaction: two keys each at most, of the 128 that etcd allows.
const AT_ONCE: usize = 50;

/// How often a group is tried while others change it.
const TRIES: usize = 20;

/// The slots of one group there.
pub(super) struct Slots {
    pub(super) group: Group,
    /// So many, if the group is not known here.
    pub(super) slots: u32,
    /// Who says how many there are, if not our own configuration.
    pub(super) whose: Option<&'static str>,
    /// With the records that they are to have.
    pub(super) holders: Vec<(MachineId, HolderRecord)>,
    /// Where it is noted that this was taken over.
    pub(super) mark: Key,
    /// What is noted there.
    pub(super) stamp: Stamp,
    /// Whether these are all that hold slots there. Otherwise it is not noted that they were taken over:
    /// what is left has to be seen to, and then they all are looked at again.
    pub(super) is_whole: bool,
    /// What must not have changed since.
    pub(super) unchanged: Option<Precondition>,
}

/// As what a document was taken over. Another one is another document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Stamp {
    Revision { revision: u64 },
    Digest { sha256: String },
}

/// What was taken over, so that it is not done twice.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    #[serde(flatten)]
    stamp: Stamp,
    at: UnixTime,
}

impl Stamp {
    /// Whether a mark is of this document, as it is.
    pub(super) fn is_on(&self, mark: &[u8]) -> bool {
        self.time_on(mark).is_some()
    }

    fn time_on(&self, mark: &[u8]) -> Option<UnixTime> {
        let mark: Mark = serde_json::from_slice(mark).ok()?;
        (mark.stamp == *self).then_some(mark.at)
    }
}

impl Slots {
    /// Says what is to be taken over, and does it if told to.
    pub(super) async fn take(
        &self,
        locks: &LockManager,
        write: bool,
        say: &mut dyn FnMut(String),
    ) -> Result<()> {
        let group = &self.group;
        let mut parts: Vec<_> = self.holders.chunks(AT_ONCE).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        for (n, some) in parts.iter().enumerate() {
            let is_last = n + 1 == parts.len();
            let mut tries = 0;
            // What is said at the first try is not said again.
            while !self.take_some(locks, some, (n == 0, is_last), write, tries == 0, say).await? {
                tries += 1;
                if tries == TRIES {
                    bail!("group {group}: others keep changing its documents; run this again");
                }
            }
        }
        Ok(())
    }

    /// `false`: somebody was faster.
    async fn take_some(
        &self,
        locks: &LockManager,
        some: &[(MachineId, HolderRecord)],
        (is_first, is_last): (bool, bool),
        write: bool,
        aloud: bool,
        say: &mut dyn FnMut(String),
    ) -> Result<bool> {
        let Self { group, mark, .. } = self;
        let place = locks.keys().semaphore(group);
        let records: Vec<_> = some.iter().map(|(m, _)| locks.keys().holder(group, m)).collect();
        let keys = [&[place.clone(), mark.clone()], &records[..]].concat();
        let before = locks.store().load(&keys).await.context("cannot read our documents")?;
        if let Some(at) = before.get(mark).and_then(|entry| self.stamp.time_on(&entry.value)) {
            say(format!("group {group}: taken over at {} already", at.to_text()));
            return Ok(true);
        }
        let known = before.get(&place).map(|entry| Semaphore::from_json(&entry.value));
        let known = known.transpose().with_context(|| {
            format!("{place} cannot be read; nothing was changed; see rebootlockctl repair")
        })?;
        let mut semaphore = known.clone().unwrap_or_else(|| Semaphore::new(self.slots));
        if is_first && aloud {
            say(self.headline(known.as_ref()));
        }
        let mut txn = Txn::new().when(before.unchanged(&place)).when(before.unchanged(mark));
        if let Some(unchanged) = &self.unchanged {
            txn = txn.when(unchanged.clone());
        }
        for ((machine, record), key) in some.iter().zip(&records) {
            let holds = semaphore.holds(machine);
            if aloud {
                let what = if holds { "holds it here too" } else { "is to hold a slot" };
                say(format!("  {machine}: {what}"));
            }
            if !holds {
                add(&mut semaphore, machine)?;
                txn = txn.when(before.unchanged(key)).put(key.clone(), record.to_json());
            }
        }
        txn = txn.put(place, semaphore.to_json());
        if is_last && self.is_whole {
            let done = Mark { stamp: self.stamp.clone(), at: UnixTime::now() };
            txn = txn.put(mark.clone(), serde_json::to_vec(&done)?);
        }
        if !write {
            return Ok(true);
        }
        let committed = locks.store().commit(&txn).await.context("cannot write our documents")?;
        Ok(matches!(committed, Commit::Won(_)))
    }

    fn headline(&self, known: Option<&Semaphore>) -> String {
        let (group, theirs) = (&self.group, self.slots);
        match (known.map(Semaphore::max), self.whose) {
            (None, None) => format!("group {group}: {theirs} slots"),
            (Some(ours), None) => format!("group {group}: {ours} slots"),
            (None, Some(whose)) => format!("group {group}: {theirs} slots, as in {whose}"),
            (Some(ours), _) if ours == theirs => format!("group {group}: {ours} slots, here too"),
            (Some(ours), Some(whose)) => {
                format!("group {group}: {ours} slots stay; {whose} has {theirs}")
            }
        }
    }
}

/// One more holder, even if there are more of them than slots then: nobody new gets in until enough
/// have left.
fn add(semaphore: &mut Semaphore, machine: &MachineId) -> Result<()> {
    let max = semaphore.set_max(u32::MAX);
    let added = semaphore.acquire(machine.clone());
    semaphore.set_max(max);
    Ok(added?)
}
