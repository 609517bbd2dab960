//! airlock's documents: `com.coreos.airlock/groups/<group>/v1/semaphore`, each
//! `{"total_slots": n, "holders": ["id", …]}`.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use percent_encoding::percent_decode_str;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::LockManager;
use rebootlock::record::{Claim, Document as _, UnixTime, Via};
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{Commit, Entry, Key, Precondition, Select, SharedStore, Txn};
use serde::{Deserialize, Serialize};

const GROUPS: &str = "com.coreos.airlock/groups/";
const SEMAPHORE: &str = "/v1/semaphore";

/// Holders in one transaction: two keys each at most, of the 128 that etcd allows.
const AT_ONCE: usize = 50;

/// How often a group is tried while others change it.
const TRIES: usize = 20;

/// Keys that airlock or its users may have added are of no use here.
#[derive(Debug, Deserialize)]
struct Theirs {
    total_slots: u32,
    #[serde(default)]
    holders: Option<Vec<String>>,
}

/// What was taken over, so that it is not done twice.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    /// Of their document.
    revision: u64,
    at: UnixTime,
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
        complete &= one_group(locks, &found, same_store, write).await?;
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
    let segment = key.as_str().strip_prefix(GROUPS).and_then(|rest| rest.strip_suffix(SEMAPHORE));
    let segment = segment.filter(|segment| !segment.contains('/'));
    let segment = segment.with_context(|| format!("{key} is no key of airlock's"))?;
    let name = segment.replace('+', " ");
    let name = percent_decode_str(&name).decode_utf8();
    let name = name.with_context(|| format!("{key} names no group"))?;
    let group = Group::new(name).with_context(|| format!("{key} names no group"))?;
    let theirs = serde_json::from_slice(&entry.value)
        .with_context(|| format!("{key} is not what airlock writes"))?;
    Ok(Found { key, entry, group, theirs })
}

async fn one_group(
    locks: &LockManager,
    found: &Found,
    same_store: bool,
    write: bool,
) -> Result<bool> {
    let Found { key, entry, group, theirs } = found;
    let (fit, unfit): (BTreeSet<&String>, BTreeSet<_>) =
        theirs.holders.iter().flatten().partition(|id| MachineId::new(id.as_str()).is_ok());
    let holders: Vec<MachineId> =
        fit.into_iter().filter_map(|id| MachineId::new(id.as_str()).ok()).collect();
    let place = locks.keys().semaphore(group);
    let mark = mark(locks, key);
    let mut parts: Vec<&[MachineId]> = holders.chunks(AT_ONCE).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    for (n, some) in parts.iter().enumerate() {
        let first = n == 0;
        let mut tries = 0;
        loop {
            let records: Vec<_> = some.iter().map(|m| locks.keys().holder(group, m)).collect();
            let keys = [&[place.clone(), mark.clone()], &records[..]].concat();
            let before = locks.store().load(&keys).await.context("cannot read our documents")?;
            let last =
                before.get(&mark).and_then(|e| serde_json::from_slice::<Mark>(&e.value).ok());
            if let Some(last) = last.filter(|last| last.revision == entry.modified.0) {
                println!("group {group}: taken over at {} already", last.at.to_text());
                return Ok(true);
            }
            let known = before.get(&place).map(|entry| Semaphore::from_json(&entry.value));
            let known = known.transpose().with_context(|| {
                format!("{place} cannot be read; nothing was changed; see rebootlockctl repair")
            })?;
            let mut semaphore = known.clone().unwrap_or_else(|| Semaphore::new(theirs.total_slots));
            if first && tries == 0 {
                println!("{}", headline(group, known.as_ref(), theirs.total_slots));
            }
            let mut txn = Txn::new().when(before.unchanged(&place)).when(before.unchanged(&mark));
            if same_store {
                let modified = Some(entry.modified);
                txn = txn.when(Precondition { key: key.clone(), modified });
            }
            for (machine, record) in some.iter().zip(&records) {
                let holds = semaphore.holds(machine);
                if tries == 0 {
                    println!(
                        "  {machine}: {}",
                        if holds { "holds it here too" } else { "is to hold a slot" }
                    );
                }
                if !holds {
                    add(&mut semaphore, machine)?;
                    let mut claim = Claim::new(machine.clone(), [group.clone()], Via::Fleetlock);
                    claim.reason = Some("held through airlock, and taken over".to_owned());
                    txn = txn
                        .when(before.unchanged(record))
                        .put(record.clone(), claim.record(UnixTime::now()).to_json());
                }
            }
            txn = txn.put(place.clone(), semaphore.to_json());
            if n + 1 == parts.len() {
                let done = Mark { revision: entry.modified.0, at: UnixTime::now() };
                txn = txn.put(mark.clone(), serde_json::to_vec(&done)?);
            }
            if !write {
                break;
            }
            match locks.store().commit(&txn).await.context("cannot write our documents")? {
                Commit::Won(_) => break,
                Commit::Lost => tries += 1,
            }
            if tries == TRIES {
                bail!("group {group}: others keep changing its documents; run this again");
            }
        }
    }
    for id in &unfit {
        eprintln!(
            "error: group {group}: holder {id:?} has an id that is none here, so its slot cannot \
             be taken over"
        );
    }
    Ok(unfit.is_empty())
}

fn headline(group: &Group, known: Option<&Semaphore>, theirs: u32) -> String {
    match known.map(Semaphore::max) {
        None => format!("group {group}: {theirs} slots, as in airlock"),
        Some(ours) if ours == theirs => format!("group {group}: {ours} slots, here too"),
        Some(ours) => format!("group {group}: {ours} slots stay; airlock has {theirs}"),
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

/// Where it is noted that their document was taken over.
fn mark(locks: &LockManager, theirs: &Key) -> Key {
    let segment = theirs.as_str().trim_start_matches(GROUPS).trim_end_matches(SEMAPHORE);
    Key::new(format!("{}/taken-over/airlock/{segment}", locks.keys()))
}

/// Says so if there are slots in the same store that nobody here knows of.
pub(crate) async fn remind(locks: &LockManager) {
    let below = Key::new(GROUPS);
    // Who may not look there has no airlock there either, as far as it can be known.
    let Ok(listed) = locks.store().list(&below, Select::Keys).await else { return };
    for key in listed.entries.into_keys() {
        let mark = mark(locks, &key);
        let noted = locks.store().load(std::slice::from_ref(&mark)).await;
        if noted.is_ok_and(|noted| noted.get(&mark).is_none()) {
            tracing::warn!(
                %key,
                "airlock's slots in this store do not count here; see `rebootlock-gateway take-over \
                 --from airlock`"
            );
        }
    }
}
