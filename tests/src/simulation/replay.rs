//! What a store has seen, gone through again revision by revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use rebootlock::id::Group;
use rebootlock::keys::Keyspace;
use rebootlock::record::{Document as _, HolderRecord, HolderState};
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{Entry, Key, Revision};

use super::machine::Machine;

/// Every change a store has seen, oldest first.
pub type Log = [(Revision, Key, Option<Entry>)];

/// Checks every revision of a history: never over the limit, a slot and its record together,
/// nothing given in spite of a pause.
///
/// # Errors
/// The first promise that was broken, and when.
pub fn check(log: &Log, groups: &[Group], machines: &[Arc<Machine>]) -> Result<(), String> {
    let keys = Keyspace::default();
    let mut now: BTreeMap<&Key, &Entry> = BTreeMap::new();
    for changes in log.chunk_by(|(one, ..), (other, ..)| one == other) {
        let given = given(&now, changes)?;
        for (_, key, entry) in changes {
            match entry {
                Some(entry) => now.insert(key, entry),
                None => now.remove(key),
            };
        }
        let broken = |what| Err(format!("at revision {}: {what}", changes[0].0));
        for group in groups {
            let Some(entry) = now.get(&keys.semaphore(group)) else { continue };
            let semaphore = Semaphore::from_json(&entry.value).map_err(|e| e.to_string())?;
            if semaphore.available() < 0 {
                return broken(format!("{} hold a slot in {group}", semaphore.holders().len()));
            }
            for machine in machines {
                let has_record = now.contains_key(&keys.holder(group, &machine.id));
                if semaphore.holds(&machine.id) != has_record {
                    return broken(format!("slot and record of {} in {group} differ", machine.id));
                }
            }
            let paused = [keys.fleet_paused(), keys.paused(group)];
            let holders = keys.holders(group);
            for key in given.iter().filter(|key| key.as_str().starts_with(holders.as_str())) {
                if paused.iter().any(|paused| now.contains_key(paused)) {
                    return broken(format!("{key} was given something in spite of a pause"));
                }
            }
        }
    }
    Ok(())
}

/// The records that came about or got the permit in `changes`.
fn given<'a>(now: &BTreeMap<&Key, &Entry>, changes: &'a Log) -> Result<Vec<&'a Key>, String> {
    let read = |entry: &Entry| HolderRecord::from_json(&entry.value).map_err(|e| e.to_string());
    let mut given = Vec::new();
    for (_, key, entry) in changes.iter().filter(|(_, key, _)| key.as_str().contains("/holders/")) {
        let Some(entry) = entry else { continue };
        let before = now.get(key).map(|entry| read(entry)).transpose()?.map(|record| record.state);
        let permitted = read(entry)?.state == Some(HolderState::Rebooting);
        if before.is_none() || permitted && before != Some(Some(HolderState::Rebooting)) {
            given.push(key);
        }
    }
    Ok(given)
}
