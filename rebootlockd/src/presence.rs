//! Being seen: a document on a lease that says that this agent is there, how its machine is, what it
//! is doing and what keeps it. Other agents decide on the health in it; the rest is for people.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::LockManager;
use rebootlock::record::{Blocked, Document, Health, Presence, UnixTime};
use rebootlock::store::{LeaseKeeper, Result, Txn};
use tokio::sync::watch;

use crate::metrics::{Metrics, Reported, Written};
use crate::policy::State;

/// A machine that is off is not there any more after this long.
const LEASE: Duration = Duration::from_secs(90);

/// That a machine is well is said anew after this long: the others believe it for an hour.
pub const SAY_AGAIN: Duration = Duration::from_secs(600);

/// A state is shown when it has lasted for so long.
const SETTLED: Duration = Duration::from_millis(300);

/// What is shown of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// What it is doing.
    pub state: State,
    /// Whether its machine is well.
    pub health: Option<Health>,
    /// What keeps it.
    pub blocked: Option<Blocked>,
}

/// Keeps the document in the store, and the machine in the roster, while the agent lives. In `metrics`:
/// the health that is written with it.
pub async fn keep(
    locks: Arc<LockManager>,
    machine: MachineId,
    groups: Vec<Group>,
    mut presence: Presence,
    mut shown: watch::Receiver<Shown>,
    metrics: Metrics,
) {
    let mut written: Option<Health> = None;
    let mut lease = None;
    let mut enrolled = false;
    loop {
        let now = shown.borrow_and_update().clone();
        let state = now.state.as_str();
        if presence.state != state {
            presence.state = state.to_owned();
            presence.state_since = UnixTime::now();
        }
        (presence.health, presence.blocked) = (now.health, now.blocked);
        if !enrolled {
            match locks.enrol(&machine, presence.hostname.as_deref(), &groups).await {
                Ok(()) => enrolled = true,
                Err(error) => tracing::debug!(%error, "not in the roster yet"),
            }
        }
        let is_news = presence.health != written;
        let answer = show(&locks, &machine, &presence, &mut lease).await;
        if is_news && let Some(health) = &presence.health {
            count(&metrics, health, &answer);
        }
        match answer {
            Ok(()) => {
                written.clone_from(&presence.health);
                let Some(kept) = &mut lease else { continue };
                tokio::select! {
                    changed = shown.changed() => {
                        if changed.is_err() { return }
                        // States that only last for a moment are not worth a write.
                        tokio::time::sleep(SETTLED).await;
                    }
                    () = kept.gone() => (lease, written) = (None, None),
                    () = tokio::time::sleep(if enrolled { SAY_AGAIN } else { LEASE }) => {}
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the others cannot see this agent");
                // A lease of which nothing is known is replaced, and ends by itself.
                (lease, written) = (None, None);
                let pause = rand::rng().random_range(2000..5000);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }
}

/// Shows once how a machine is, for as long as the lease lasts.
///
/// # Errors
/// What the store says.
pub async fn once(
    locks: &LockManager,
    machine: &MachineId,
    presence: Presence,
    shown: Shown,
    metrics: &Metrics,
) -> Result<()> {
    let state = shown.state.as_str().to_owned();
    let (health, blocked) = (shown.health, shown.blocked);
    let state_since = UnixTime::now();
    let presence = Presence { state, state_since, health, blocked, ..presence };
    let answer = show(locks, machine, &presence, &mut None).await;
    if let Some(health) = &presence.health {
        count(metrics, health, &answer);
    }
    answer
}

fn count(metrics: &Metrics, health: &Health, answer: &Result<()>) {
    let status = if health.healthy { Reported::Healthy } else { Reported::Unhealthy };
    let result = if answer.is_ok() { Written::Success } else { Written::Error };
    metrics.cluster_health_updated(status, result);
}

async fn show(
    locks: &LockManager,
    machine: &MachineId,
    presence: &Presence,
    lease: &mut Option<LeaseKeeper>,
) -> Result<()> {
    let store = locks.store();
    let id = match lease {
        Some(lease) => lease.id(),
        None => lease.insert(LeaseKeeper::start(store.clone(), LEASE).await?).id(),
    };
    let key = locks.keys().machine(machine);
    store.commit(&Txn::new().put_leased(key, presence.to_json(), id)).await?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rebootlock::keys::Keyspace;
    use rebootlock::store::MemoryStore;

    use super::*;

    /// When the agent of `machine` looked last, as the others read it.
    async fn checked_at(locks: &LockManager, machine: &MachineId) -> Option<UnixTime> {
        let key = locks.keys().machine(machine);
        let now = locks.store().load(std::slice::from_ref(&key)).await.unwrap();
        Presence::from_json(&now.get(&key)?.value).unwrap().health.map(|health| health.checked_at)
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_machine_is_still_well_is_said_anew_though_it_is_no_news() {
        let locks = LockManager::new(Arc::new(MemoryStore::new()), Keyspace::default());
        let (locks, machine) = (Arc::new(locks), MachineId::new("a").unwrap());
        let presence = br#"{"machineID":"a","state":"idle","stateSince":1}"#;
        let health = Some(Health::new(None, UnixTime(1)));
        let (shown, changes) = watch::channel(Shown { state: State::Idle, health, blocked: None });
        let presence = Presence::from_json(presence).unwrap();
        let metrics = Metrics::new(UnixTime(1));
        let keeping =
            keep(locks.clone(), machine.clone(), vec![], presence, changes, metrics.clone());
        let keeping = tokio::spawn(keeping);
        tokio::time::sleep(SETTLED).await;
        assert_eq!(checked_at(&locks, &machine).await, Some(UnixTime(1)));
        shown.send_if_modified(|shown| {
            shown.health = Some(Health::new(None, UnixTime(2)));
            false
        });
        tokio::time::sleep(SAY_AGAIN - SETTLED * 2).await;
        assert_eq!(checked_at(&locks, &machine).await, Some(UnixTime(1)));
        tokio::time::sleep(SETTLED * 2).await;
        assert_eq!(checked_at(&locks, &machine).await, Some(UnixTime(2)));
        // A write that says nothing new of the health is not one of it.
        shown.send_modify(|shown| shown.state = State::Closed);
        tokio::time::sleep(SETTLED * 3).await;
        let text = metrics.text(crate::metrics::Format::Prometheus);
        let counted = "cluster_health_updates_total{status=\"healthy\",result=\"success\"} 2\n";
        assert!(text.contains(counted), "{text}");
        keeping.abort();
    }
}
