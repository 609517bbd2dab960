//! Clients that have a slot: when each asked for it last, and giving it back without one that says
//! nothing any more, where that is configured.
//!
//! Any gateway on the store may free the slot, so it is in the store that a client was heard from:
//! before it is told again that it has its slot. What is told after that is true for as long as the
//! note lasts. Who asked before that rule was in force was not noted, so nothing is given back until
//! the rule has been in force for as long as it says.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rebootlock::config::ReleaseSilent;
use rebootlock::id::{Group, MachineId, Token};
use rebootlock::lock::{LockError, LockManager, OverdueRelease};
use rebootlock::record::UnixTime;
use rebootlock::store::{Commit, Snapshot, StoreError, Txn};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::app::{Live, chain};

/// When the clients that hold slots were heard from, by this process. Outlives a reload.
#[derive(Debug, Default)]
pub struct Heard {
    /// When each acquisition was last asked for again.
    asked: Mutex<HashMap<Token, Instant>>,
    /// When each was noted in the store, and by a rule of how long.
    noted: Mutex<HashMap<Token, (Instant, Duration)>>,
    /// Somebody was told that it has its slot, and nothing was noted of it.
    unnoted: AtomicBool,
}

impl Heard {
    /// The machine that holds a slot by `token` has asked for it again.
    pub fn asked(&self, token: Token) {
        locked(&self.asked).insert(token, Instant::now());
    }

    /// Whether it has asked within this time, as far as this process knows.
    pub fn asked_within(&self, token: Token, time: Duration) -> bool {
        locked(&self.asked).get(&token).is_some_and(|at| at.elapsed() <= time)
    }

    /// Forgets all but these acquisitions.
    pub fn keep_only(&self, tokens: &HashSet<Token>) {
        locked(&self.asked).retain(|token, _| tokens.contains(token));
        locked(&self.noted).retain(|token, _| tokens.contains(token));
    }

    /// Nothing has to be noted of who asks now, as nobody's slot is given back.
    pub fn not_noted(&self) {
        self.unnoted.store(true, Ordering::SeqCst);
    }

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
        let known = locked(&self.noted).get(&token).copied();
        if known.is_some_and(|(at, by)| by == after && now.duration_since(at) < fresh) {
            return Ok(false);
        }
        // Whole until the next note is due, and `after` from then on.
        locks.heard_from(machine, token, after + fresh).await?;
        locked(&self.noted).insert(token, (now, after));
        Ok(true)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Since when who asks is noted, by all gateways on the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InForce {
    since: UnixTime,
    /// For how long after it asked a client's slot stays.
    after_secs: u64,
}

/// Sees to it that the store says since when the rule is in force, or that there is none. The rule, if
/// it has been for so long that slots may be given back by it.
pub async fn rule(live: &Live) -> Option<ReleaseSilent> {
    match in_force(live).await {
        Ok(rule) => rule,
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                "it cannot be said since when clients are noted, so no slot is given back"
            );
            None
        }
    }
}

async fn in_force(live: &Live) -> Result<Option<ReleaseSilent>, StoreError> {
    let (store, key) = (live.locks.store(), live.locks.keys().silent_rule());
    let found: Snapshot = store.load(std::slice::from_ref(&key)).await?;
    let known = found.get(&key);
    let Some(rule) = live.settings.release_silent else {
        if known.is_some() {
            store.commit(&Txn::new().when(found.unchanged(&key)).delete(key)).await?;
        }
        return Ok(None);
    };
    let now = UnixTime::now();
    let fresh = InForce { since: now, after_secs: rule.after.as_secs() };
    let unnoted = live.heard.unnoted.swap(false, Ordering::SeqCst);
    // What cannot be read says nothing of the past.
    let known = known.and_then(|entry| serde_json::from_slice::<InForce>(&entry.value).ok());
    let wanted = match known {
        Some(known) if !unnoted && known.after_secs == fresh.after_secs => {
            let over = known.since.plus_seconds(known.after_secs) <= now;
            return Ok(over.then_some(rule));
        }
        // Notes that last for longer are good for this one too.
        Some(known) if !unnoted && known.after_secs > fresh.after_secs => {
            InForce { since: known.since, ..fresh }
        }
        _ => fresh,
    };
    // Two numbers always have a JSON form.
    let text = serde_json::to_vec(&wanted).unwrap_or_default();
    let txn = Txn::new().when(found.unchanged(&key)).put(key, text);
    match store.commit(&txn).await {
        Ok(Commit::Won(_)) => tracing::info!(
            after_secs = wanted.after_secs,
            since = wanted.since.to_text(),
            "from then on it is noted which clients ask again; slots of silent ones are given back after \
             that time at the earliest"
        ),
        lost_or_failed => {
            live.heard.unnoted.fetch_or(unnoted, Ordering::SeqCst);
            lost_or_failed?;
        }
    }
    Ok(None)
}

/// Gives back one slot of `group`, if there is one to give back by `rule`.
pub async fn release(live: &Live, rule: ReleaseSilent, group: &Group) {
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
