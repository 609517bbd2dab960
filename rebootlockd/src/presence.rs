//! Being seen: a document on a lease that says that this agent is there, and what it is doing. For
//! people only; nothing is decided on it, and nothing waits for it.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rebootlock::id::MachineId;
use rebootlock::lock::LockManager;
use rebootlock::record::{Document, Presence, UnixTime};
use rebootlock::store::{LeaseKeeper, Result, Txn};
use tokio::sync::watch;

use crate::policy::State;

/// A machine that is off is not there any more after this long.
const LEASE: Duration = Duration::from_secs(90);

/// A state is shown when it has lasted for so long.
const SETTLED: Duration = Duration::from_millis(300);

/// Keeps the document in the store while the agent lives.
pub async fn keep(
    locks: Arc<LockManager>,
    machine: MachineId,
    mut presence: Presence,
    mut states: watch::Receiver<State>,
) {
    let mut lease = None;
    loop {
        let state = states.borrow_and_update().as_str();
        if presence.state != state {
            presence.state = state.to_owned();
            presence.state_since = UnixTime::now();
        }
        match show(&locks, &machine, &presence, &mut lease).await {
            Ok(()) => {
                let Some(kept) = &mut lease else { continue };
                tokio::select! {
                    changed = states.changed() => {
                        if changed.is_err() { return }
                        // States that only last for a moment are not worth a write.
                        tokio::time::sleep(SETTLED).await;
                    }
                    () = kept.gone() => lease = None,
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the others cannot see this agent");
                // A lease of which nothing is known is replaced, and ends by itself.
                lease = None;
                let pause = rand::rng().random_range(2000..5000);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }
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
