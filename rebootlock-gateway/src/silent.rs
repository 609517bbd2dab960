//! Clients that have a slot and say nothing any more: giving it back without them, where that is
//! configured, and noting who is there, so that it is not done to them.
//!
//! Any gateway on the store may free the slot, so it is in the store that a client was heard from:
//! before it is told again that it has its slot. What is told after that is true for as long as the
//! note lasts.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rebootlock::id::{Group, MachineId, Token};
use rebootlock::lock::{LockError, LockManager, OverdueRelease};
use tokio::time::Instant;

use crate::app::{Live, chain};

/// When each acquisition was last noted to be in use.
#[derive(Debug, Default)]
pub struct Heard(Mutex<HashMap<Token, Instant>>);

impl Heard {
    /// Notes that `machine` is there, in the store too unless that was done a short while ago.
    /// `true`: something had to be noted, and its slot may have been given back before.
    ///
    /// # Errors
    /// What the store says: then it must not be told that it may go down.
    pub async fn note(
        &self,
        locks: &LockManager,
        machine: &MachineId,
        token: Token,
        after: Duration,
    ) -> Result<bool, LockError> {
        let now = Instant::now();
        let fresh = after / 4;
        {
            let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            noted.retain(|_, at| now.duration_since(*at) < fresh);
            if noted.contains_key(&token) {
                return Ok(false);
            }
        }
        // Whole until the next note is due, and `after` from then on.
        locks.heard_from(machine, token, after + fresh).await?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(token, now);
        Ok(true)
    }
}

/// Gives back one slot of `group`, if there is one to give back.
pub async fn release(live: &Live, group: &Group) {
    let Some(rule) = live.settings.release_silent else { return };
    let by = "rebootlock-gateway";
    match live.locks.release_silent(group, rule.after, rule.budget, by).await {
        Ok(OverdueRelease::None) => {}
        Ok(OverdueRelease::Freed { machine, record }) => tracing::warn!(
            target: "rebootlock_gateway::audit",
            event = "released-silent", id = %machine, %group, since = record.start_time.to_text(),
            "the slot of a machine that did not come back is given back, as \
             gateway.release_silent_after_secs says; somebody should look at the machine"
        ),
        Ok(OverdueRelease::Spent { machine }) => tracing::warn!(
            target: "rebootlock_gateway::audit",
            event = "release-budget-spent", id = %machine, %group,
            "the slot of a machine that did not come back stays: enough were given back today"
        ),
        Err(error) => {
            tracing::warn!(%group, error = chain(&error), "cannot look for silent machines");
        }
    }
}
