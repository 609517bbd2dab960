//! The machines of a fleet: who belongs to it, who is there, who is well.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Document, UnixTime};
use crate::id::{BootId, Group};

/// An agent that is there. It hangs on a lease: a machine that is off has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Presence {
    /// Which machine.
    #[serde(rename = "machineID")]
    pub machine_id: String,
    /// What it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The boot it is in.
    #[serde(rename = "bootID", default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<BootId>,
    /// Its groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What the agent is doing, in its own words: `idle`, `queued`, …
    pub state: String,
    /// Since when.
    pub state_since: UnixTime,
    /// Whether the machine is well, as far as its agent knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What keeps it from rebooting, if a reboot is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// What keeps a machine from a reboot that is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// Of which kind: `window_denied`, `health_blocked`, …
    pub outcome: String,
    /// In words.
    pub why: String,
    /// Since when.
    pub since: UnixTime,
    /// Why a reboot is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
}

/// Whether a machine is well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Whether it is.
    pub healthy: bool,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When its agent looked last.
    pub checked_at: UnixTime,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Health {
    /// What an agent found at `checked_at`; `problem` is what is wrong, if anything is.
    pub fn new(problem: Option<String>, checked_at: UnixTime) -> Self {
        Self { healthy: problem.is_none(), reason: problem, checked_at, unknown: Map::new() }
    }
}

/// A machine that belongs to the fleet, whether it is there or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RosterEntry {
    /// Which machine.
    #[serde(rename = "machineID")]
    pub machine_id: String,
    /// What it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// When its agent first came.
    pub first_seen: UnixTime,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Presence {
    /// Whether it names `group`.
    pub fn is_in(&self, group: &Group) -> bool {
        names(&self.groups, group)
    }
}

impl RosterEntry {
    /// Whether it names `group`.
    pub fn is_in(&self, group: &Group) -> bool {
        names(&self.groups, group)
    }
}

/// A machine that names no group is in the default one.
fn names(groups: &[String], group: &Group) -> bool {
    groups.iter().any(|name| name == group.as_str()) || (groups.is_empty() && group.is_default())
}

impl Document for Presence {}
impl Document for Health {}
impl Document for RosterEntry {}
