//! What a person can do about a document that cannot be read.

use std::collections::BTreeSet;

use super::{Decision, LockError, LockManager, Result};
use crate::id::{Group, MachineId};
use crate::keys::last_segment;
use crate::record::{Document, GoaheadGrant, HolderRecord};
use crate::semaphore::Semaphore;
use crate::semaphore::json::mend;
use crate::store::{Key, Revision, Select, Txn};

/// One document, as it is and as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Repair {
    /// Where it is.
    pub key: Key,
    /// What is wrong, in words.
    pub problem: String,
    /// As it is.
    pub before: Vec<u8>,
    /// As it should be; `None`: it should go.
    pub after: Option<Vec<u8>>,
    /// The revision this was decided on.
    modified: Revision,
}

impl LockManager {
    /// What has to be mended in a group: its semaphore, holder records that cannot be read, and
    /// records of machines that hold nothing. Writes nothing.
    ///
    /// # Errors
    /// What the store says.
    pub async fn repairs(&self, group: &Group) -> Result<Vec<Repair>> {
        let place = self.keys.semaphore(group);
        let failed = |source| LockError::Store { action: format!("reading {place}"), source };
        let records =
            self.store.list(&self.keys.holders(group), Select::All).await.map_err(failed)?;
        let loaded = self.store.load(std::slice::from_ref(&place)).await.map_err(failed)?;
        let mut repairs = Vec::new();
        let mut semaphore = Semaphore::default();
        if let Some(entry) = loaded.get(&place) {
            semaphore = match Semaphore::from_json(&entry.value) {
                Ok(semaphore) => semaphore,
                Err(damage) => {
                    let recorded: BTreeSet<_> = records
                        .entries
                        .keys()
                        .filter_map(|key| MachineId::new(last_segment(key)).ok())
                        .collect();
                    let mended = mend(&entry.value, &recorded);
                    repairs.push(Repair {
                        key: place.clone(),
                        problem: damage.to_string(),
                        before: entry.value.clone(),
                        after: Some(mended.to_json()),
                        modified: entry.modified,
                    });
                    mended
                }
            };
        }
        for (key, entry) in records.entries {
            let holds = semaphore.holders().iter().any(|m| m.as_str() == last_segment(&key));
            let (problem, after) = match HolderRecord::from_json(&entry.value) {
                Err(damage) => (damage.to_string(), None),
                Ok(_) if !holds => ("a leftover: the machine holds no slot".to_owned(), None),
                Ok(mut record) => match GoaheadGrant::of(&record) {
                    Some(Err(damage)) => {
                        GoaheadGrant::remove_from(&mut record);
                        let problem = format!(
                            "damaged in `goahead` ({damage}), so that the slot is not freed when the \
                             machine is back; somebody has to unlock it then"
                        );
                        (problem, Some(record.to_json()))
                    }
                    None | Some(Ok(_)) => continue,
                },
            };
            let (before, modified) = (entry.value, entry.modified);
            repairs.push(Repair { key, problem, before, after, modified });
        }
        Ok(repairs)
    }

    /// Writes what `repair` proposes, if the document is still what it was decided on. Returns
    /// whether it was.
    ///
    /// # Errors
    /// What the store says.
    pub async fn mend(&self, repair: &Repair) -> Result<bool> {
        let key = &repair.key;
        let action = format!("mending {key}");
        self.settle(&action, std::slice::from_ref(key), |now| {
            let entry = now.get(key);
            if entry.map(|entry| &entry.value) == repair.after.as_ref() {
                return Ok(Decision::Done(true));
            }
            if entry.map(|entry| entry.modified) != Some(repair.modified) {
                return Ok(Decision::Done(false));
            }
            let txn = Txn::new().when(now.unchanged(key));
            let txn = match &repair.after {
                Some(after) => txn.put(key.clone(), after.clone()),
                None => txn.delete(key.clone()),
            };
            Ok(Decision::Commit(txn, true))
        })
        .await
    }
}
