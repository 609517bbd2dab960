//! Who belongs to the fleet, who is there, and who is gone for good.

use futures::future::try_join_all;

use super::{Decision, LockError, LockManager, Result};
use crate::health::{Fleet, Member, Slot};
use crate::id::{Group, MachineId};
use crate::keys::last_segment;
use crate::record::{Document, HolderRecord, Presence, RosterEntry, sorted_groups};
use crate::semaphore::json::Damage;
use crate::store::{Key, Select, Txn};

/// What went when a machine was forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Its place in the roster.
    pub roster: bool,
    /// An operator's wish that it reboot.
    pub request: bool,
    /// Its hold.
    pub hold: bool,
    /// Its wish to be disrupted, of a client of disruption-manager.
    pub disruption: bool,
    /// Its places in the queues of these groups.
    pub places: Vec<Group>,
    /// What its agent said of it, or somebody by hand in its place.
    pub presence: bool,
}

/// How forgetting a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forgetting {
    /// This much was known of it, and is gone.
    Done(Forgotten),
    /// Nothing was known of it.
    Unknown,
    /// Its agent is there; nothing was changed.
    Present,
    /// It holds slots in these groups; nothing was changed.
    Holds(Vec<Group>),
}

impl LockManager {
    /// Enters `machine` into the roster. One read if it is there already, as it is now.
    ///
    /// # Errors
    /// [`LockError::Damaged`] if its entry cannot be read: it is not overwritten, and
    /// [`LockManager::forget`] takes it away. Or what the store says.
    pub async fn enrol(
        &self,
        machine: &MachineId,
        hostname: Option<&str>,
        groups: &[Group],
    ) -> Result<()> {
        let key = self.keys.roster_entry(machine);
        let groups: Vec<String> =
            sorted_groups(groups.iter().cloned()).iter().map(ToString::to_string).collect();
        let action = format!("enrolling {machine} at {key}");
        self.settle(&action, std::slice::from_ref(&key), |before| {
            let known = match before.get(&key).map(|entry| RosterEntry::from_json(&entry.value)) {
                None => None,
                Some(Ok(entry)) => Some(entry),
                Some(Err(damage)) => {
                    let (what, key) = ("roster entry", key.clone());
                    return Err(LockError::Damaged { what, key, damage });
                }
            };
            let wanted = RosterEntry {
                machine_id: machine.to_string(),
                hostname: hostname.map(ToOwned::to_owned),
                groups: groups.clone(),
                first_seen: known.as_ref().map_or_else(|| self.now(), |entry| entry.first_seen),
                unknown: known.as_ref().map(|entry| entry.unknown.clone()).unwrap_or_default(),
            };
            if known.as_ref() == Some(&wanted) {
                return Ok(Decision::Done(()));
            }
            let txn = Txn::new().when(before.unchanged(&key)).put(key.clone(), wanted.to_json());
            Ok(Decision::Commit(txn, ()))
        })
        .await
    }

    /// The machines of the fleet, and the slots they hold in `groups`. The number of requests
    /// grows with that of `groups`, not of machines.
    ///
    /// # Errors
    /// [`LockError::Damaged`] if a semaphore cannot be read, or what the store says.
    pub async fn fleet(&self, groups: &[Group]) -> Result<Fleet> {
        let places: Vec<Key> = groups.iter().map(|group| self.keys.semaphore(group)).collect();
        let action = format!("reading the semaphores below {}", self.keys);
        let (roster, machines) = (self.keys.roster(), self.keys.machines());
        let holding: Vec<Key> = groups.iter().map(|group| self.keys.holders(group)).collect();
        let (roster, machines, semaphores, records) = tokio::try_join!(
            self.list(&roster, Select::All),
            self.list(&machines, Select::All),
            self.load(&action, &places),
            try_join_all(holding.iter().map(|below| self.list(below, Select::All))),
        )?;
        let mut fleet = Fleet::default();
        let mut member = |key: &Key, put: &dyn Fn(&mut Member)| {
            // Nobody can have written a key that names no machine but by hand.
            if let Ok(machine) = MachineId::new(last_segment(key)) {
                put(fleet.members.entry(machine).or_default());
            }
        };
        for (key, entry) in &roster.entries {
            member(key, &|member| member.roster = Some(RosterEntry::from_json(&entry.value)));
        }
        for (key, entry) in &machines.entries {
            member(key, &|member| member.presence = Some(Presence::from_json(&entry.value)));
        }
        for (group, records) in groups.iter().zip(&records) {
            for machine in self.semaphore(&semaphores, group)?.holders() {
                let Some(member) = fleet.members.get_mut(machine) else { continue };
                let record = records.get(&self.keys.holder(group, machine));
                let record = record.map(|entry| HolderRecord::from_json(&entry.value));
                let slot = slot(record);
                // The record of one group may be damaged: what another says is better than nothing.
                if member.slot.as_ref().is_none_or(|known| known.state.is_none()) {
                    member.slot = Some(slot);
                }
            }
        }
        Ok(fleet)
    }

    /// Those of `groups` in which `machine` holds a slot, whatever its records say.
    ///
    /// # Errors
    /// [`LockError::Damaged`] if a semaphore cannot be read, or what the store says.
    pub async fn slots_of(&self, groups: &[Group], machine: &MachineId) -> Result<Vec<Group>> {
        let action = format!("looking for slots of {machine} below {}", self.keys);
        let places: Vec<Key> = groups.iter().map(|group| self.keys.semaphore(group)).collect();
        let semaphores = self.load(&action, &places).await?;
        let mut holds = Vec::new();
        for group in groups {
            if self.semaphore(&semaphores, group)?.holds(machine) {
                holds.push(group.clone());
            }
        }
        Ok(holds)
    }

    /// Takes away what is known of a machine that will not come back: its place in the roster, its
    /// request, its hold, its wish to be disrupted, its places in queues. Not its slots, which are freed by a release alone;
    /// and nothing of a machine whose agent is there, unless `even_if_present`: then what the agent
    /// said goes too, as what hangs on no lease would stay for ever. One that lives says it again.
    ///
    /// # Errors
    /// [`LockError::Damaged`] if a semaphore cannot be read, or what the store says.
    pub async fn forget(&self, machine: &MachineId, even_if_present: bool) -> Result<Forgetting> {
        let groups = self.groups().await?;
        let action = format!("forgetting {machine} below {}", self.keys);
        let holds = self.slots_of(&groups, machine).await?;
        if !holds.is_empty() {
            return Ok(Forgetting::Holds(holds));
        }
        let waiting: Vec<Key> = groups.iter().map(|g| self.keys.waiter(g, machine)).collect();
        let waiting = self.load(&action, &waiting).await?;
        let places: Vec<Group> = groups
            .into_iter()
            .filter(|group| waiting.get(&self.keys.waiter(group, machine)).is_some())
            .collect();
        let present = self.keys.machine(machine);
        let (roster, request, hold) =
            (self.keys.roster_entry(machine), self.keys.request(machine), self.keys.hold(machine));
        let [wish, time] = self.of_disruption(machine);
        let keys = [
            present.clone(),
            roster.clone(),
            request.clone(),
            hold.clone(),
            wish.clone(),
            time.clone(),
        ];
        self.settle(&action, &keys, |before| {
            if before.get(&present).is_some() && !even_if_present {
                return Ok(Decision::Done(Forgetting::Present));
            }
            let there = |key| before.get(key).is_some();
            let gone = Forgotten {
                roster: there(&roster),
                request: there(&request),
                hold: there(&hold),
                disruption: there(&wish),
                places: places.clone(),
                presence: there(&present),
            };
            if gone == Forgotten::default() {
                return Ok(Decision::Done(Forgetting::Unknown));
            }
            let mut txn = keys.iter().fold(Txn::new(), |txn, key| txn.when(before.unchanged(key)));
            for key in &keys {
                txn = txn.delete(key.clone());
            }
            for group in &places {
                txn = txn.delete(self.keys.waiter(group, machine));
            }
            Ok(Decision::Commit(txn, Forgetting::Done(gone)))
        })
        .await
    }
}

fn slot(record: Option<std::result::Result<HolderRecord, Damage>>) -> Slot {
    match record {
        Some(Ok(record)) => {
            Slot { since: record.state_since.or(Some(record.start_time)), state: record.state }
        }
        Some(Err(_)) | None => Slot::default(),
    }
}
