//! Keeping everybody new out, for a group or for the fleet.

use std::fmt;

use super::{Decision, LockManager, Result};
use crate::id::Group;
use crate::keys::Keyspace;
use crate::record::{Document, Pause};
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

impl LockManager {
    /// Pauses `scope`. A pause already in force is replaced: the last word counts.
    ///
    /// # Errors
    /// What the store says.
    pub async fn pause(&self, scope: &Scope, pause: &Pause) -> Result<()> {
        let key = scope.key(&self.keys);
        let action = format!("pausing {scope} at {key}");
        let wanted = pause.to_json();
        self.settle(&action, std::slice::from_ref(&key), |before| {
            if before.get(&key).is_some_and(|entry| entry.value == wanted) {
                return Ok(Decision::Done(()));
            }
            Ok(Decision::Commit(Txn::new().put(key.clone(), wanted.clone()), ()))
        })
        .await
    }

    /// Ends the pause of `scope`.
    ///
    /// # Errors
    /// What the store says.
    pub async fn resume(&self, scope: &Scope) -> Result<Resumed> {
        let key = scope.key(&self.keys);
        let action = format!("resuming {scope} at {key}");
        self.settle(&action, std::slice::from_ref(&key), |before| {
            let Some(entry) = before.get(&key) else {
                return Ok(Decision::Done(Resumed::NotPaused));
            };
            let ended = Resumed::Ended(Pause::from_json(&entry.value).ok());
            let txn = Txn::new().when(before.unchanged(&key)).delete(key.clone());
            Ok(Decision::Commit(txn, ended))
        })
        .await
    }
}
