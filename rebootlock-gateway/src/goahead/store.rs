//! What of all this is in the store: asks, and the holders that came about through here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rebootlock::config::GoaheadSettings;
use rebootlock::id::{Group, MachineId, Token};
use rebootlock::keys::last_segment;
use rebootlock::lock::LockError;
use rebootlock::record::{
    Document as _, GoaheadAsk, GoaheadGrant, HolderRecord, HolderState, Request, UnixTime, Via,
};
use rebootlock::semaphore::json::Damage;
use rebootlock::store::{Commit, Key, LeaseId, Select, StoreError, Txn};

use super::body::{self, Params};
use super::course;
use crate::app::{Live, chain};

/// Who has asked once and does not come back within this time asks for the first time again.
const ASK_KEPT: Duration = Duration::from_secs(60 * 60);
/// More keys are not read at once.
const MOST_KEYS: usize = 100;

/// A machine that has a slot through here.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) group: Group,
    pub(super) machine: MachineId,
    pub(super) token: Token,
    pub(super) grant: GoaheadGrant,
}

impl Held {
    /// `None` if somebody else has to do with it.
    pub(super) fn of(group: &Group, machine: MachineId, record: HolderRecord) -> Option<Self> {
        if record.via != Some(Via::Goahead) {
            return None;
        }
        let (token, grant) = (record.token?, GoaheadGrant::of(&record)?);
        // However it came here: its name goes into command lines.
        if body::machine(machine.as_str()).is_none() {
            let why = "no goahead client can have its name, so nothing is run for it and its slot \
                       stays; see `rebootlockctl unlock`";
            say_once(group, &machine, why.to_owned());
            return None;
        }
        match grant {
            Ok(grant) => {
                mended(group, &machine);
                Some(Self { group: group.clone(), machine, token, grant })
            }
            Err(damage) => {
                say_once(group, &machine, unreadable(&damage));
                None
            }
        }
    }
}

/// Whom nobody can look after, and why, as it was said: they are looked at every few seconds.
static SAID: Mutex<BTreeMap<(Group, MachineId), String>> = Mutex::new(BTreeMap::new());

fn say_once(group: &Group, machine: &MachineId, why: String) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.insert((group.clone(), machine.clone()), why.clone()).as_ref() != Some(&why) {
        tracing::error!(id = %machine, %group, "nobody looks after this holder: {why}");
    }
}

fn unreadable(damage: &Damage) -> String {
    format!(
        "its record cannot be read ({damage}), and its slot is not freed when it is back; see \
         `rebootlockctl doctor` and `rebootlockctl repair`"
    )
}

fn mended(group: &Group, machine: &MachineId) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !said.is_empty() {
        said.remove(&(group.clone(), machine.clone()));
    }
}

/// All groups that clusters take slots of.
pub(super) fn groups(settings: &GoaheadSettings) -> BTreeSet<Group> {
    settings.clusters.iter().map(|cluster| cluster.group.clone()).collect()
}

/// The slots that `machine` has through here, in whichever group.
pub(super) async fn held(
    live: &Live,
    settings: &GoaheadSettings,
    machine: &MachineId,
) -> Result<Vec<Held>, LockError> {
    let keys = live.locks.keys();
    let places: Vec<(Group, Key)> = groups(settings)
        .into_iter()
        .map(|group| (group.clone(), keys.holder(&group, machine)))
        .collect();
    let mut held = Vec::new();
    for some in places.chunks(MOST_KEYS) {
        let wanted: Vec<Key> = some.iter().map(|(_, key)| key.clone()).collect();
        let found = load(live, &wanted).await?;
        for (group, key) in some {
            let Some(entry) = found.get(key) else { continue };
            let record = HolderRecord::from_json(&entry.value).map_err(|damage| {
                LockError::Damaged { what: "holder record", key: key.clone(), damage }
            })?;
            held.extend(Held::of(group, machine.clone(), record));
        }
    }
    Ok(held)
}

/// All that hold slots of `group` through here.
pub(super) async fn holders(live: &Live, group: &Group) -> Result<Vec<Held>, LockError> {
    let below = live.locks.keys().holders(group);
    let listed = live.locks.store().list(&below, Select::All).await;
    let listed = listed.map_err(|source| failed(format!("listing {below}"), source))?;
    let holder = |(key, entry): (&Key, &rebootlock::store::Entry)| {
        let machine = MachineId::new(last_segment(key)).ok()?;
        match HolderRecord::from_json(&entry.value) {
            Ok(record) => Held::of(group, machine, record),
            Err(damage) => {
                say_once(group, &machine, unreadable(&damage));
                None
            }
        }
    };
    Ok(listed.entries.iter().filter_map(holder).collect())
}

/// Writes down what a machine says of its uptime, wherever it holds a slot.
pub(super) async fn heard(
    live: &Live,
    settings: &GoaheadSettings,
    said: &Params,
) -> Result<(), LockError> {
    let held = held(live, settings, &said.machine).await?;
    heard_of(live, said, held).await
}

/// The same, for some of its slots.
pub(super) async fn heard_of(
    live: &Live,
    said: &Params,
    slots: Vec<Held>,
) -> Result<(), LockError> {
    for held in slots {
        let now = UnixTime::now();
        let change = |record: &mut HolderRecord| {
            course::reported(record, &said.uptime, said.up, now);
        };
        let written = live.locks.rewrite(&held.group, &held.machine, held.token, change).await;
        let written = match written {
            Ok(written) => written,
            // Unlocked, or freed, in this moment.
            Err(LockError::NotOurs { .. }) => continue,
            Err(error) => return Err(error),
        };
        if written.state == Some(HolderState::Holding) {
            live.heard.asked(held.token);
        }
        let back = GoaheadGrant::of(&written).and_then(Result::ok).and_then(|g| g.uptime_after);
        if held.grant.uptime_after.is_none() && back.is_some() {
            tracing::info!(
                target: "rebootlock_gateway::audit",
                event = "rebooted", id = %held.machine, group = %held.group,
                cluster = held.grant.cluster, uptime = said.uptime,
                "the machine has rebooted"
            );
            fulfil(live, &held).await;
        }
    }
    Ok(())
}

/// An operator's wish is fulfilled by the reboot that came after it.
async fn fulfil(live: &Live, held: &Held) {
    let key = live.locks.keys().request(&held.machine);
    let done = async {
        let found = load(live, std::slice::from_ref(&key)).await?;
        let Some(entry) = found.get(&key) else { return Ok(()) };
        let wish = Request::from_json(&entry.value).ok();
        if wish.is_some_and(|wish| wish.since > held.grant.granted_at) {
            return Ok(());
        }
        let txn = Txn::new().when(found.unchanged(&key)).delete(key.clone());
        let committed = live.locks.store().commit(&txn).await;
        committed.map(drop).map_err(|source| failed(format!("deleting {key}"), source))
    };
    if let Err(error) = done.await {
        tracing::warn!(id = %held.machine, error = chain(&error), "the request stays");
    }
}

/// What an operator wishes of `machine`.
pub(super) async fn wish(live: &Live, machine: &MachineId) -> Result<Option<Request>, LockError> {
    let key = live.locks.keys().request(machine);
    let found = load(live, std::slice::from_ref(&key)).await?;
    let Some(entry) = found.get(&key) else { return Ok(None) };
    let damaged = |damage| LockError::Damaged { what: "request", key: key.clone(), damage };
    Request::from_json(&entry.value).map(Some).map_err(damaged)
}

/// What `machine` was told to ask again with.
pub(super) async fn ask_of(
    live: &Live,
    machine: &MachineId,
) -> Result<Option<GoaheadAsk>, LockError> {
    let key = live.locks.keys().goahead_ask(machine);
    let found = load(live, std::slice::from_ref(&key)).await?;
    // One that cannot be read is as good as none: the machine asks for the first time again.
    Ok(found.get(&key).and_then(|entry| GoaheadAsk::from_json(&entry.value).ok()))
}

/// Writes down what `machine` is to ask again with. What it was told before counts no more.
pub(super) async fn remember(
    live: &Live,
    machine: &MachineId,
    cluster: &str,
    request_id: &str,
) -> Result<(), LockError> {
    let known = ask_of(live, machine).await?.and_then(|ask| lease_of(&ask));
    put_ask(live, machine, cluster, request_id, known, None).await.map(drop)
}

/// Sees to it that `request_id` leads to no second reboot.
pub(super) async fn forget(
    live: &Live,
    machine: &MachineId,
    request_id: &str,
) -> Result<(), LockError> {
    let key = live.locks.keys().goahead_ask(machine);
    let found = load(live, std::slice::from_ref(&key)).await?;
    let Some(entry) = found.get(&key) else { return Ok(()) };
    let Ok(ask) = GoaheadAsk::from_json(&entry.value) else { return Ok(()) };
    if ask.request_id != request_id {
        return Ok(());
    }
    let lease = lease_of(&ask);
    let unchanged = Some(found.unchanged(&key));
    // If it has changed meanwhile, it is another one's.
    put_ask(live, machine, &ask.cluster, "", lease, unchanged).await.map(drop)
}

async fn put_ask(
    live: &Live,
    machine: &MachineId,
    cluster: &str,
    request_id: &str,
    known: Option<LeaseId>,
    only_if: Option<rebootlock::store::Precondition>,
) -> Result<Commit, LockError> {
    let (store, key) = (live.locks.store(), live.locks.keys().goahead_ask(machine));
    let failed = |source| failed(format!("writing {key}"), source);
    let kept = match known {
        Some(lease) => match store.keep_alive(lease).await {
            Ok(()) => Some(lease),
            Err(StoreError::LeaseGone) => None,
            Err(error) => return Err(failed(error)),
        },
        None => None,
    };
    let lease = match kept {
        Some(lease) => lease,
        None => store.grant(ASK_KEPT).await.map_err(failed)?,
    };
    let ask = GoaheadAsk {
        machine_id: machine.to_string(),
        cluster: cluster.to_owned(),
        request_id: request_id.to_owned(),
        since: UnixTime::now(),
        lease: Some(format!("{:x}", lease.0)),
        unknown: serde_json::Map::new(),
    };
    let txn = Txn::new().put_leased(key.clone(), ask.to_json(), lease);
    let txn = only_if.into_iter().fold(txn, Txn::when);
    store.commit(&txn).await.map_err(failed)
}

fn lease_of(ask: &GoaheadAsk) -> Option<LeaseId> {
    Some(LeaseId(i64::from_str_radix(ask.lease.as_deref()?, 16).ok()?))
}

async fn load(live: &Live, keys: &[Key]) -> Result<rebootlock::store::Snapshot, LockError> {
    let what = keys.first().map(ToString::to_string).unwrap_or_default();
    let loaded = live.locks.store().load(keys).await;
    loaded.map_err(|source| failed(format!("reading {what}"), source))
}

fn failed(action: String, source: StoreError) -> LockError {
    LockError::Store { action, source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rebootlock::record::Claim;

    use super::*;

    #[test]
    fn nothing_is_run_for_a_holder_that_no_client_can_be() {
        let group = Group::new("web").unwrap();
        let held = |name: &str, via| {
            let machine = MachineId::new(name).unwrap();
            let mut claim = Claim::new(machine.clone(), [group.clone()], via);
            let grant = GoaheadGrant::new("web", "abcdefgh", "5h", UnixTime(1));
            claim.members = Some(Box::new(grant.to_member()));
            Held::of(&group, machine, claim.record(UnixTime(1))).is_some()
        };
        assert!(held("web-1", Via::Goahead));
        assert!(!held("web-1", Via::Fleetlock));
        for name in ["-la", "$(touch${IFS}pwned)", ".", "a;b", "{:%fqdn%:}", "ä"] {
            assert!(!held(name, Via::Goahead), "{name}");
        }
    }
}
