//! What an operator did, written down in the transaction that did it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Document, UnixTime};
use crate::id::{Group, MachineId};

/// One thing that an operator did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Act {
    /// When.
    pub at: UnixTime,
    /// Who.
    pub by: String,
    /// What.
    pub deed: Deed,
    /// To this machine.
    #[serde(rename = "machineID", default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// In these groups; to the whole fleet if it names neither groups nor a machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The limit that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// When it should end by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// What operators do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// Kept everybody new out.
    Pause,
    /// Ended that.
    Resume,
    /// Took a slot for a machine.
    Lock,
    /// Freed one.
    Unlock,
    /// Changed how many there are.
    SetMax,
    /// Wished that a machine reboot.
    Request,
    /// Took that back.
    Cancel,
    /// Kept a machine from rebooting.
    Hold,
    /// Ended that.
    Unhold,
    /// Took away what was known of a machine.
    Forget,
    /// Something a newer version wrote.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Lock => "lock",
            Self::Unlock => "unlock",
            Self::SetMax => "set-max",
            Self::Request => "request",
            Self::Cancel => "cancel",
            Self::Hold => "hold",
            Self::Unhold => "unhold",
            Self::Forget => "forget",
            Self::Other(text) => text,
        })
    }
}

impl Act {
    /// What `by` does at `at`, to the whole fleet unless told otherwise.
    pub fn new(at: UnixTime, by: impl Into<String>, deed: Deed) -> Self {
        Self {
            at,
            by: by.into(),
            deed,
            machine_id: None,
            groups: Vec::new(),
            max: None,
            until: None,
            reason: None,
            unknown: Map::new(),
        }
    }

    /// The same, done to a machine.
    #[must_use]
    pub fn to(self, machine: &MachineId) -> Self {
        Self { machine_id: Some(machine.to_string()), ..self }
    }

    /// The same, done in these groups.
    #[must_use]
    pub fn within(self, groups: &[Group]) -> Self {
        Self { groups: groups.iter().map(ToString::to_string).collect(), ..self }
    }
}

impl Document for Act {}
