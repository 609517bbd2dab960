//! Keeping everybody new out, for a group or for the fleet; and one machine from rebooting.

use std::fmt;
use std::time::Duration;

use super::{Decision, LockManager, Result};
use crate::id::{Group, MachineId};
use crate::keys::Keyspace;
use crate::record::{Document, Hold, Pause, UnixTime};
use crate::store::{Key, Txn};

/// What a pause applies to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everything below the prefix.
    Fleet,
    /// One group.
    Group(Group),
}

impl Scope {
    /// Where its pause is.
    pub fn key(&self, keys: &Keyspace) -> Key {
        match self {
            Self::Fleet => keys.fleet_paused(),
            Self::Group(group) => keys.paused(group),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("the fleet"),
            Self::Group(group) => write!(f, "group {group}"),
        }
    }
}

/// How resuming ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Resumed {
    /// The pause is over. With its document, if it could be read.
    Ended(Option<Pause>),
    /// There was none.
    NotPaused,
}

/// A machine that is held.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Which.
    pub machine: MachineId,
    /// By whom and why; `None` where the document cannot be read, which counts all the same.
    pub hold: Option<Hold>,
}

/// How letting a machine go ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Unheld {
    /// The hold is over. With its document, if it could be read.
    Ended(Option<Hold>),
    /// There was none.
    NotHeld,
}

impl LockManager {
    /// Pauses `scope`, until the pause says or until somebody resumes. A pause already in force is
    /// replaced and returned, if it can be read: the last word counts.
    ///
    /// # Errors
    /// What the store says.
    pub async fn pause(&self, scope: &Scope, pause: &Pause) -> Result<Option<Pause>> {
        let key = scope.key(&self.keys);
        let action = format!("pausing {scope} at {key}");
        let lasting = lasting(pause.since, pause.until);
        let before = self.stop(&action, key, pause.to_json(), lasting).await?;
        Ok(before.and_then(|text| Pause::from_json(&text).ok()))
    }

    /// Ends the pause of `scope`.
    ///
    /// # Errors
    /// What the store says.
    pub async fn resume(&self, scope: &Scope) -> Result<Resumed> {
        let key = scope.key(&self.keys);
        let ended = self.end_stop(&format!("resuming {scope} at {key}"), key).await?;
        Ok(ended.map_or(Resumed::NotPaused, |text| Resumed::Ended(Pause::from_json(&text).ok())))
    }

    /// Keeps `machine` from taking a slot and from rebooting with the one it has, until the hold
    /// says or until somebody lets it go. A machine that has its permit already goes down all the
    /// same. A hold already in force is replaced and returned, if it can be read: the last word
    /// counts.
    ///
    /// # Errors
    /// What the store says.
    pub async fn hold(&self, machine: &MachineId, hold: &Hold) -> Result<Option<Hold>> {
        let key = self.keys.hold(machine);
        let action = format!("holding {machine} at {key}");
        let lasting = lasting(hold.since, hold.until);
        let before = self.stop(&action, key, hold.to_json(), lasting).await?;
        Ok(before.and_then(|text| Hold::from_json(&text).ok()))
    }

    /// Lets `machine` go.
    ///
    /// # Errors
    /// What the store says.
    pub async fn unhold(&self, machine: &MachineId) -> Result<Unheld> {
        let key = self.keys.hold(machine);
        let ended = self.end_stop(&format!("letting {machine} go at {key}"), key).await?;
        Ok(ended.map_or(Unheld::NotHeld, |text| Unheld::Ended(Hold::from_json(&text).ok())))
    }

    /// Puts a document that stops somebody, or a wish; on a lease if it is to last only so long.
    /// Returns what was there before, even if that is the same.
    pub(super) async fn stop(
        &self,
        action: &str,
        key: Key,
        wanted: Vec<u8>,
        lasting: Option<Duration>,
    ) -> Result<Option<Vec<u8>>> {
        let lease = match lasting {
            Some(time) => Some(self.lease_of(action, time).await?),
            None => None,
        };
        self.settle(action, std::slice::from_ref(&key), |before| {
            let there = before.get(&key).map(|entry| entry.value.clone());
            if there.as_ref() == Some(&wanted) {
                return Ok(Decision::Done(there));
            }
            let txn = match lease {
                Some(lease) => Txn::new().put_leased(key.clone(), wanted.clone(), lease),
                None => Txn::new().put(key.clone(), wanted.clone()),
            };
            Ok(Decision::Commit(txn, there))
        })
        .await
    }

    /// Takes such a document away and returns it, if there was one.
    pub(super) async fn end_stop(&self, action: &str, key: Key) -> Result<Option<Vec<u8>>> {
        self.settle(action, std::slice::from_ref(&key), |before| {
            let Some(entry) = before.get(&key) else { return Ok(Decision::Done(None)) };
            let txn = Txn::new().when(before.unchanged(&key)).delete(key.clone());
            Ok(Decision::Commit(txn, Some(entry.value.clone())))
        })
        .await
    }
}

fn lasting(since: UnixTime, until: Option<UnixTime>) -> Option<Duration> {
    until.map(|until| Duration::from_secs(until.seconds_since(since)))
}
