//! What a person sees: who has a slot, since when, who waits, and what stops them.

use std::collections::BTreeMap;

use super::{Held, LockError, LockManager, MOST_KEYS, Result, Scope};
use crate::id::{Group, MachineId};
use crate::keys::last_segment;
use crate::queue::{Queue, Ticket};
use crate::record::{Cooldown, Document, Hold, HolderRecord, HolderState, Pause, RosterEntry, Via};
use crate::semaphore::Semaphore;
use crate::semaphore::json::Damage;
use crate::store::{Key, Revision, Select, Snapshot};

/// One machine that has a slot.
#[derive(Debug, Clone, PartialEq)]
pub struct Holder {
    /// Which.
    pub machine: MachineId,
    /// Its record: none if the program that took the slot writes none, damage if it is unreadable.
    pub record: Option<std::result::Result<HolderRecord, Damage>>,
}

/// A group at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupStatus {
    /// Which.
    pub group: Group,
    /// That moment.
    pub revision: Revision,
    /// Whether a semaphore has ever been written.
    pub exists: bool,
    /// Its slots.
    pub semaphore: Semaphore,
    /// Who has them, sorted.
    pub holders: Vec<Holder>,
    /// Who waits, first come first.
    pub queue: Vec<Ticket>,
    /// What pauses it; `None` inside where the document cannot be read.
    pub paused: Vec<(Scope, Option<Pause>)>,
    /// Which of its machines are held.
    pub held: Vec<Held>,
    /// Whether it cools down, and after whom.
    pub cooldown: Option<std::result::Result<Cooldown, Damage>>,
}

impl LockManager {
    /// The state of a group. Writes nothing, whatever is there.
    ///
    /// # Errors
    /// [`LockError::Damaged`] if the semaphore cannot be read, or what the store says.
    pub async fn status(&self, group: &Group) -> Result<GroupStatus> {
        let place = self.keys.semaphore(group);
        let failed = |source| LockError::Store { action: format!("reading {place}"), source };
        let cooldown = self.keys.cooldown(group);
        let paused = [self.keys.paused(group), self.keys.fleet_paused()];
        let documents = [&[place.clone(), cooldown.clone()], &paused[..]].concat();
        let now = self.store.load(&documents).await.map_err(failed)?;
        let (holding, queue) = (self.keys.holders(group), self.keys.queue(group));
        let holds = self.keys.holds();
        let (records, waiting, holds) = tokio::try_join!(
            self.store.list(&holding, Select::All),
            self.store.list(&queue, Select::All),
            self.store.list(&holds, Select::All),
        )
        .map_err(failed)?;
        let semaphore = self.semaphore(&now, group)?;
        let mut holders = holders(&semaphore, &records);
        self.mark_orphans(&mut holders).await.map_err(failed)?;
        let queue = Queue::of(&waiting).in_order();
        let mut held = held(&holds);
        let concerned = |machine: &MachineId| {
            holders.iter().any(|holder| holder.machine == *machine)
                || queue.iter().any(|ticket| ticket.machine == *machine)
        };
        let enrolled = self.groups_of_held(&held).await.map_err(failed)?;
        held.retain(|held| match enrolled.get(&held.machine) {
            Some(entry) => entry.is_in(group) || concerned(&held.machine),
            // Whose groups nobody knows may be ours.
            None => true,
        });
        Ok(GroupStatus {
            group: group.clone(),
            revision: now.revision,
            exists: now.get(&place).is_some(),
            holders,
            queue,
            held,
            cooldown: now.get(&cooldown).map(|entry| Cooldown::from_json(&entry.value)),
            paused: [Scope::Fleet, Scope::Group(group.clone())]
                .into_iter()
                .filter_map(|scope| {
                    let entry = now.get(&scope.key(&self.keys))?;
                    Some((scope, Pause::from_json(&entry.value).ok()))
                })
                .collect(),
            semaphore,
        })
    }

    /// The semaphore of a group and the record of its first holder, which is all that a sentence
    /// about it needs: unlike [`LockManager::status`] it costs the same however many wait.
    ///
    /// # Errors
    /// [`LockError::Damaged`] if the semaphore cannot be read, or what the store says.
    pub async fn glance(&self, group: &Group) -> Result<(Semaphore, Option<HolderRecord>)> {
        let place = self.keys.semaphore(group);
        let failed = |source| LockError::Store { action: format!("reading {place}"), source };
        let now = self.store.load(std::slice::from_ref(&place)).await.map_err(failed)?;
        let semaphore = self.semaphore(&now, group)?;
        let Some(first) = semaphore.holders().first() else { return Ok((semaphore, None)) };
        let holder = self.keys.holder(group, first);
        let now = self.store.load(std::slice::from_ref(&holder)).await.map_err(failed)?;
        let record = now.get(&holder).and_then(|e| HolderRecord::from_json(&e.value).ok());
        Ok((semaphore, record))
    }

    /// What the roster says of machines that are held. Holds are few.
    async fn groups_of_held(
        &self,
        held: &[Held],
    ) -> crate::store::Result<BTreeMap<MachineId, RosterEntry>> {
        let mut enrolled = BTreeMap::new();
        for some in held.chunks(MOST_KEYS) {
            let keys: Vec<_> =
                some.iter().map(|held| self.keys.roster_entry(&held.machine)).collect();
            let now = self.store.load(&keys).await?;
            for (held, key) in some.iter().zip(&keys) {
                if let Some(Ok(entry)) = now.get(key).map(|e| RosterEntry::from_json(&e.value)) {
                    enrolled.insert(held.machine.clone(), entry);
                }
            }
        }
        Ok(enrolled)
    }

    /// Shows the slots of commands that died as orphaned. Their records say what they were.
    async fn mark_orphans(&self, holders: &mut [Holder]) -> crate::store::Result<()> {
        let mut commands: Vec<(Key, &mut HolderRecord)> = holders
            .iter_mut()
            .filter_map(|holder| holder.record.as_mut()?.as_mut().ok())
            .filter(|record| record.via == Some(Via::Exec))
            .filter_map(|record| Some((self.keys.alive(record.token?), record)))
            .collect();
        for some in commands.chunks_mut(MOST_KEYS) {
            let keys: Vec<Key> = some.iter().map(|(key, _)| key.clone()).collect();
            let now = self.store.load(&keys).await?;
            for (key, record) in some {
                if now.get(key).is_none() {
                    record.state = Some(HolderState::Other("orphaned".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// All groups that have a semaphore, and the default one.
    ///
    /// # Errors
    /// What the store says.
    pub async fn groups(&self) -> Result<Vec<Group>> {
        let below = self.keys.groups();
        let listed = self.store.list(&below, Select::Keys).await.map_err(|source| {
            LockError::Store { action: format!("listing the groups below {below}"), source }
        })?;
        let mut groups = vec![Group::default()];
        groups.extend(listed.entries.keys().filter_map(|key| self.keys.group_of_semaphore(key)));
        Ok(groups)
    }

    /// Whether `machine` holds a slot in each of `groups`, and its record there.
    ///
    /// # Errors
    /// [`LockError::Damaged`], or what the store says.
    pub async fn holding(
        &self,
        groups: &[Group],
        machine: &MachineId,
    ) -> Result<BTreeMap<Group, Option<HolderRecord>>> {
        let keys = self.keys_of(groups, machine);
        let action = || format!("reading the slot of {machine} below {}", self.keys);
        let now = self
            .store
            .load(&keys)
            .await
            .map_err(|source| LockError::Store { action: action(), source })?;
        let mut held = BTreeMap::new();
        for group in groups {
            if self.semaphore(&now, group)?.holds(machine) {
                held.insert(group.clone(), self.record(&now, group, machine)?);
            }
        }
        Ok(held)
    }
}

fn held(holds: &Snapshot) -> Vec<Held> {
    let held = |(key, entry): (&Key, &crate::store::Entry)| {
        let machine = MachineId::new(last_segment(key)).ok()?;
        Some(Held { machine, hold: Hold::from_json(&entry.value).ok() })
    };
    holds.entries.iter().filter_map(held).collect()
}

fn holders(semaphore: &Semaphore, records: &Snapshot) -> Vec<Holder> {
    let by_id: BTreeMap<&str, _> =
        records.entries.iter().map(|(key, entry): (&Key, _)| (last_segment(key), entry)).collect();
    let holder = |machine: &MachineId| Holder {
        machine: machine.clone(),
        record: by_id.get(machine.as_str()).map(|entry| HolderRecord::from_json(&entry.value)),
    };
    semaphore.holders().iter().map(holder).collect()
}
