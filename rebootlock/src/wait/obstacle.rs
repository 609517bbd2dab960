//! What is in the way of one who waits.

use std::time::Duration;

use crate::id::Group;
use crate::lock::{LockError, Scope};
use crate::record::UnixTime;

/// What is in the way.
#[derive(Debug, Clone, PartialEq)]
pub enum Obstacle {
    /// Nothing known yet.
    Asking,
    /// Others are before us, or all slots are taken.
    Queued {
        /// In which group.
        group: Group,
        /// How many go first; `None` if so many that they were not counted.
        ahead: Option<usize>,
    },
    /// Somebody paused it.
    Paused {
        /// What is paused.
        scope: Scope,
        /// By whom and why, in words.
        why: String,
    },
    /// Somebody holds this machine.
    Held {
        /// Who and why, in words.
        why: String,
    },
    /// It is our turn, but the group cools down after somebody's reboot.
    CoolingDown {
        /// Which group.
        group: Group,
        /// After whose reboot, in words.
        why: String,
        /// Until when, by the clock of who came back. The store's clock decides.
        until: Option<UnixTime>,
    },
    /// The store does not answer, or a document is damaged.
    Failing {
        /// The error with its causes, in words.
        why: String,
        /// Whether it is the store that cannot be reached, rather than a document or a right.
        out_of_reach: bool,
    },
}

impl Obstacle {
    /// What an error of an acquisition stands for, if it is one that time or a person will end.
    pub(super) fn of(error: &LockError) -> Option<Self> {
        Some(match error {
            LockError::Full { group, .. } => Self::Queued { group: group.clone(), ahead: Some(0) },
            LockError::Paused { scope, .. } => {
                Self::Paused { scope: scope.clone(), why: error.to_string() }
            }
            LockError::Held { .. } => Self::Held { why: error.to_string() },
            // Without the time that is left, which would be news at every look.
            LockError::CoolingDown { group, cooldown, .. } => {
                let (group, until) = (group.clone(), cooldown.as_ref().map(|c| c.until()));
                let left = Duration::ZERO;
                let steady = LockError::CoolingDown {
                    group: group.clone(),
                    cooldown: cooldown.clone(),
                    left,
                };
                Self::CoolingDown { group, why: steady.to_string(), until }
            }
            _ => return None,
        })
    }
}
