//! An operator's wish that this machine reboot, out of the store.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rebootlock::id::MachineId;
use rebootlock::lock::LockManager;
use rebootlock::record::{Document, Request};
use rebootlock::store::{Entry, Event, Span, Txn};
use tokio::sync::watch;

use crate::want::Want;

/// Follows the request for this machine for as long as anybody wants to know. It also says, once a
/// change, whether the store can be reached.
pub async fn follow(locks: Arc<LockManager>, machine: MachineId, want: Arc<watch::Sender<Want>>) {
    let key = locks.keys().request(&machine);
    let mut away = false;
    loop {
        let mut changes = match locks.store().load(std::slice::from_ref(&key)).await {
            Ok(now) => {
                if std::mem::take(&mut away) {
                    tracing::info!(store = locks.store().location(), "the store answers again");
                }
                tell(&want, now.get(&key));
                locks.store().watch(&Span::Below(key.clone()), now.revision)
            }
            Err(error) => {
                if !std::mem::replace(&mut away, true) {
                    tracing::warn!(%error, "waiting for the store");
                }
                let pause = rand::rng().random_range(250..750);
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(pause)) => continue,
                    () = want.closed() => return,
                }
            }
        };
        loop {
            let event = tokio::select! {
                event = changes.next() => event,
                () = want.closed() => return,
            };
            match event {
                Some(Event::Changed { key: changed, entry, .. }) if changed == key => {
                    tell(&want, entry.as_ref());
                }
                Some(Event::Changed { .. }) => {}
                Some(Event::Interrupted { reason }) => {
                    away = true;
                    tracing::warn!(reason, "the store does not answer");
                }
                Some(Event::Resumed) => {
                    if std::mem::take(&mut away) {
                        tracing::info!(store = locks.store().location(), "the store answers again");
                    }
                }
                Some(Event::Lost { .. }) | None => break,
            }
        }
    }
}

fn tell(want: &watch::Sender<Want>, entry: Option<&Entry>) {
    let now = match entry.map(|entry| Request::from_json(&entry.value)) {
        None => Want::Nothing,
        Some(Ok(Request { by, reason, priority, .. })) => {
            let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            Want::Reboot { reason: format!("requested by {by}{why}"), priority, requested: true }
        }
        // Not knowing is never a yes.
        Some(Err(damage)) => {
            tracing::warn!(%damage, "the request for this machine cannot be read");
            Want::Nothing
        }
    };
    want.send_if_modified(|before| {
        let changed = *before != now;
        *before = now;
        changed
    });
}

/// Looks at the request now: a watch may be late, and a request that was taken back must not
/// reboot anything.
///
/// # Errors
/// What the store says; then nothing is told.
pub async fn look(
    locks: &LockManager,
    machine: &MachineId,
    want: &watch::Sender<Want>,
) -> rebootlock::store::Result<()> {
    let key = locks.keys().request(machine);
    tell(want, locks.store().load(std::slice::from_ref(&key)).await?.get(&key));
    Ok(())
}

/// Takes away the request that a reboot has fulfilled.
///
/// # Errors
/// What the store says.
pub async fn fulfil(locks: &LockManager, machine: &MachineId) -> rebootlock::store::Result<()> {
    let key = locks.keys().request(machine);
    let now = locks.store().load(std::slice::from_ref(&key)).await?;
    if now.get(&key).is_some() {
        // A newer request than the one seen stays.
        locks.store().commit(&Txn::new().when(now.unchanged(&key)).delete(key)).await?;
    }
    Ok(())
}
