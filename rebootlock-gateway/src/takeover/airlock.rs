//! airlock's documents: `com.coreos.airlock/groups/<group>/v1/semaphore`, each
//! `{"total_slots": n, "holders": ["id", …]}`.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context as _, Result};
use percent_encoding::percent_decode_str;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{LockError, LockManager};
use rebootlock::record::{Claim, UnixTime, Via};
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{Entry, Key, Precondition, Select, SharedStore, StoreError};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::elsewhere::{Documents, Held};
use super::shown;
use super::slots::{Slots, Stamp};
use crate::fold::folded;

const GROUPS: &str = "com.coreos.airlock/groups/";
const SEMAPHORE: &str = "/v1/semaphore";

/// More slots than anybody has here.
const MOST_SLOTS: u32 = 1_000_000;

/// Names count whatever their case, and keys that airlock or its users may have added are of no use here.
#[derive(Debug)]
struct Theirs {
    total_slots: u64,
    holders: BTreeSet<String>,
}

impl<'de> Deserialize<'de> for Theirs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Theirs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Theirs, A::Error> {
                let (mut total_slots, mut holders) = (None, None);
                while let Some(key) = map.next_key::<String>()? {
                    // Which of two airlock goes by is no matter for a guess.
                    let again = match folded(&key).as_str() {
                        "total_slots" => total_slots.replace(map.next_value()?).is_some(),
                        "holders" => holders
                            .replace(map.next_value::<Option<_>>()?.unwrap_or_default())
                            .is_some(),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            false
                        }
                    };
                    if again {
                        return Err(A::Error::custom(format!("{key:?} is there twice")));
                    }
                }
                let total_slots =
                    total_slots.ok_or_else(|| A::Error::missing_field("total_slots"))?;
                Ok(Theirs { total_slots, holders: holders.unwrap_or_default() })
            }
        }
        deserializer.deserialize_map(Object)
    }
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
                eprintln!(
                    "error: {problem:#}; mend it in etcd, or delete it there once nobody holds a slot \
                     by it, and run this again"
                );
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
    let now = UnixTime::now();
    let (mut holders, mut unfit) = (Vec::new(), Vec::new());
    for id in &theirs.holders {
        let Ok(machine) = MachineId::new(id.as_str()) else {
            unfit.push(id);
            continue;
        };
        let mut claim = Claim::new(machine.clone(), [group.clone()], Via::Fleetlock);
        claim.reason = Some("held through airlock, and taken over".to_owned());
        holders.push((machine, claim.record(now)));
    }
    let slots = u32::try_from(theirs.total_slots).unwrap_or(u32::MAX);
    if slots > MOST_SLOTS {
        let theirs = theirs.total_slots;
        say(format!("group {group}: {theirs} slots are too many; {MOST_SLOTS} are the most here"));
    }
    let modified = Some(entry.modified);
    let slots = Slots {
        group: group.clone(),
        slots: slots.min(MOST_SLOTS),
        whose: Some("airlock"),
        holders,
        mark: mark(locks, key),
        stamp: Stamp::Revision { revision: entry.modified.0 },
        is_whole: unfit.is_empty(),
        unchanged: same_store.then(|| Precondition { key: key.clone(), modified }),
    };
    slots.take(locks, write, say).await?;
    let until = match same_store {
        true => "nobody gets a slot of this group here before that",
        // Nobody looks there.
        false => "do not serve this group here before that",
    };
    for id in &unfit {
        eprintln!(
            "error: group {group}: holder {} has an id that is none here, so its slot cannot be taken \
             over; let it come back and give its slot back to airlock, or take it out of {key} in etcd \
             if it holds none any more, and run this again; {until}",
            shown(id)
        );
    }
    Ok(unfit.is_empty())
}

/// Where it is noted that their document was taken over.
fn mark(locks: &LockManager, theirs: &Key) -> Key {
    let segment = theirs.as_str().trim_start_matches(GROUPS).trim_end_matches(SEMAPHORE);
    Key::new(format!("{}/taken-over/airlock/{segment}", locks.keys()))
}

/// Documents in the same store that were not taken over as they are now.
pub(super) async fn pending(locks: &LockManager) -> Result<BTreeMap<Group, Held>, LockError> {
    let failed = |source| LockError::Store { action: format!("looking below {GROUPS}"), source };
    let mut pending: BTreeMap<Group, Held> = BTreeMap::new();
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
        let known = ours.get(&place).and_then(|entry| Semaphore::from_json(&entry.value).ok());
        let counted = |id: &String| {
            let machine = MachineId::new(id.as_str()).ok();
            known.as_ref().zip(machine).is_some_and(|(known, machine)| known.holds(&machine))
        };
        let found = match serde_json::from_slice::<Theirs>(&entry.value) {
            Ok(theirs) if theirs.holders.iter().all(counted) => continue,
            Ok(theirs) => Documents::HeldBy(theirs.holders),
            Err(_) => Documents::Unreadable(key),
        };
        // One group may have two keys: a blank has two spellings.
        match pending.entry(group.clone()) {
            Slot::Vacant(place) => drop(place.insert(Held::new(group, found))),
            Slot::Occupied(mut place) => place.get_mut().add(found),
        }
    }
    Ok(pending)
}
