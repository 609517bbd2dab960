//! airlock's documents: `com.coreos.airlock/groups/<group>/v1/semaphore`, each
//! `{"total_slots": n, "holders": ["id", …]}`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use percent_encoding::percent_decode_str;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{LockError, LockManager};
use rebootlock::record::{Claim, UnixTime, Via};
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{Entry, Key, Precondition, Select, SharedStore, StoreError};
use serde::Deserialize;

use super::slots::{Slots, Stamp};

const GROUPS: &str = "com.coreos.airlock/groups/";
const SEMAPHORE: &str = "/v1/semaphore";

/// Keys that airlock or its users may have added are of no use here.
#[derive(Debug, Deserialize)]
struct Theirs {
    total_slots: u32,
    #[serde(default)]
    holders: Option<Vec<String>>,
}

/// One of their documents.
struct Found {
    key: Key,
    entry: Entry,
    group: Group,
    theirs: Theirs,
}

/// Shows what is to be taken over, and does it if told to. `false` if there is something that could
/// not be.
pub(super) async fn take_over(
    locks: &LockManager,
    theirs: &SharedStore,
    write: bool,
    say: &mut dyn FnMut(String),
) -> Result<bool> {
    let below = Key::new(GROUPS);
    let listed =
        theirs.list(&below, Select::All).await.context("cannot read airlock's documents")?;
    if listed.entries.is_empty() {
        eprintln!("there are no documents of airlock below {GROUPS} at {}", theirs.location());
        return Ok(true);
    }
    let same_store = std::sync::Arc::ptr_eq(theirs, locks.store());
    let mut complete = true;
    for (key, entry) in listed.entries {
        let found = match read(key, entry) {
            Ok(found) => found,
            Err(problem) => {
                eprintln!("error: {problem:#}");
                complete = false;
                continue;
            }
        };
        complete &= one_group(locks, &found, same_store, write, say).await?;
    }
    if !write {
        eprintln!(
            "nothing was written; stop airlock, which would go on granting slots of its own, and \
             run this again with --yes"
        );
    }
    Ok(complete)
}

fn read(key: Key, entry: Entry) -> Result<Found> {
    let group = group_of(&key)?;
    let theirs = serde_json::from_slice(&entry.value)
        .with_context(|| format!("{key} is not what airlock writes"))?;
    Ok(Found { key, entry, group, theirs })
}

fn group_of(key: &Key) -> Result<Group> {
    let segment = key.as_str().strip_prefix(GROUPS).and_then(|rest| rest.strip_suffix(SEMAPHORE));
    let segment = segment.filter(|segment| !segment.contains('/'));
    let segment = segment.with_context(|| format!("{key} is no key of airlock's"))?;
    let name = segment.replace('+', " ");
    let name = percent_decode_str(&name).decode_utf8();
    let name = name.with_context(|| format!("{key} names no group"))?;
    Group::new(name).with_context(|| format!("{key} names no group"))
}

async fn one_group(
    locks: &LockManager,
    found: &Found,
    same_store: bool,
    write: bool,
    say: &mut dyn FnMut(String),
) -> Result<bool> {
    let Found { key, entry, group, theirs } = found;
    let (fit, unfit): (BTreeSet<&String>, BTreeSet<_>) =
        theirs.holders.iter().flatten().partition(|id| MachineId::new(id.as_str()).is_ok());
    let now = UnixTime::now();
    let holders = fit.into_iter().filter_map(|id| {
        let machine = MachineId::new(id.as_str()).ok()?;
        let mut claim = Claim::new(machine.clone(), [group.clone()], Via::Fleetlock);
        claim.reason = Some("held through airlock, and taken over".to_owned());
        Some((machine, claim.record(now)))
    });
    let modified = Some(entry.modified);
    let slots = Slots {
        group: group.clone(),
        slots: theirs.total_slots,
        whose: Some("airlock"),
        holders: holders.collect(),
        mark: mark(locks, key),
        stamp: Stamp::Revision { revision: entry.modified.0 },
        unchanged: same_store.then(|| Precondition { key: key.clone(), modified }),
    };
    slots.take(locks, write, say).await?;
    for id in &unfit {
        eprintln!(
            "error: group {group}: holder {id:?} has an id that is none here, so its slot cannot \
             be taken over"
        );
    }
    Ok(unfit.is_empty())
}

/// Where it is noted that their document was taken over.
fn mark(locks: &LockManager, theirs: &Key) -> Key {
    let segment = theirs.as_str().trim_start_matches(GROUPS).trim_end_matches(SEMAPHORE);
    Key::new(format!("{}/taken-over/airlock/{segment}", locks.keys()))
}

/// Holders by group of documents in the same store that were not taken over as they are now. `None`
/// instead of holders: the document cannot be read.
pub(super) async fn pending(
    locks: &LockManager,
) -> Result<BTreeMap<Group, Option<BTreeSet<String>>>, LockError> {
    let failed = |source| LockError::Store { action: format!("looking below {GROUPS}"), source };
    let mut pending = BTreeMap::new();
    let listed = match locks.store().list(&Key::new(GROUPS), Select::All).await {
        Ok(listed) => listed,
        // Who may not look there has no airlock there either, as far as it can be known.
        Err(StoreError::Forbidden(_)) => return Ok(pending),
        Err(error) => return Err(failed(error)),
    };
    for (key, entry) in listed.entries {
        // No key of a group keeps nobody from anything.
        let Ok(group) = group_of(&key) else { continue };
        let (mark, place) = (mark(locks, &key), locks.keys().semaphore(&group));
        let ours = locks.store().load(&[mark.clone(), place.clone()]).await.map_err(failed)?;
        if ours
            .get(&mark)
            .is_some_and(|noted| Stamp::Revision { revision: entry.modified.0 }.is_on(&noted.value))
        {
            continue;
        }
        let Ok(theirs) = serde_json::from_slice::<Theirs>(&entry.value) else {
            pending.insert(group, None);
            continue;
        };
        let known = ours.get(&place).and_then(|entry| Semaphore::from_json(&entry.value).ok());
        let counted = |id: &String| {
            let machine = MachineId::new(id.as_str()).ok();
            known.as_ref().zip(machine).is_some_and(|(known, machine)| known.holds(&machine))
        };
        let holders: BTreeSet<_> = theirs.holders.into_iter().flatten().collect();
        if !holders.iter().all(counted) {
            pending.insert(group, Some(holders));
        }
    }
    Ok(pending)
}
