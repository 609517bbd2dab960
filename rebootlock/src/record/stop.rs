//! What keeps machines from taking slots: pauses, holds, cooldowns. The presence of the document is
//! what counts; what it says is for people.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Document, UnixTime};

/// Present while somebody is stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// Who said so.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    pub since: UnixTime,
    /// When it ends by itself, if it does: the document hangs on a lease of that length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Present while nobody new may take a slot.
pub type Pause = Stop;

/// Present while one machine may not take a slot, nor reboot with the one it has.
pub type Hold = Stop;

/// Present for a while after a machine of a group came back from its reboot. It hangs on a lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cooldown {
    /// Which machine came back.
    #[serde(rename = "machineID")]
    pub machine_id: String,
    /// What it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// When, by its own clock.
    pub since: UnixTime,
    /// How long the group cools down.
    pub secs: u64,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Cooldown {
    /// When it should end. The store's clock decides; this is for people.
    pub fn until(&self) -> UnixTime {
        self.since.plus_seconds(self.secs)
    }

    /// What people call the machine that came back.
    pub fn name(&self) -> &str {
        self.hostname.as_deref().unwrap_or(&self.machine_id)
    }
}

impl Document for Stop {}
impl Document for Cooldown {}
