//! What came of an acquisition, written down when its slots went back.

use std::fmt;
use std::str::FromStr as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Document, HolderRecord, UnixTime, Via};
use crate::id::{BootId, MachineId, Token};

/// How holding a slot ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The machine came back from its reboot, and was well.
    Verified,
    /// Its holder gave it back; the machine is not known to have been down.
    GivenBack,
    /// An operator freed it.
    Unlocked,
    /// The command for which it was held has ended.
    ExecEnded,
    /// The machine came back but was not well, and its slot was freed all the same, because
    /// somebody had configured that.
    Failed,
    /// The machine did not come back, and a machine that waited freed its slot, because somebody had
    /// configured that.
    Overdue,
    /// The machine said that it was back, and its service never said so: its time for that was over.
    NotReady,
    /// Something a newer version wrote.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Verified => "verified",
            Self::GivenBack => "given-back",
            Self::Unlocked => "unlocked",
            Self::ExecEnded => "exec-ended",
            Self::Failed => "failed",
            Self::Overdue => "overdue",
            Self::NotReady => "not-ready",
            Self::Other(text) => text,
        })
    }
}

/// One entry of the history: who held a slot, why, and how it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Past {
    /// Who held it.
    #[serde(rename = "machineID")]
    pub machine_id: String,
    /// What the machine calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Which acquisition it was; none where a program that writes no records took the slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// All groups whose slots were held together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Through which door it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// Since when it was held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<UnixTime>,
    /// Since when the machine may have been down: when it got the permit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_since: Option<UnixTime>,
    /// Until when it was held.
    pub ended_at: UnixTime,
    /// How it ended.
    pub ended: Ending,
    /// The operator who ended it, or the machine that waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The boot during which the slot was taken.
    #[serde(rename = "bootID", default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<BootId>,
    /// The boot in which the machine came back.
    #[serde(rename = "newBootID", default, skip_serializing_if = "Option::is_none")]
    pub new_boot_id: Option<BootId>,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Past {
    /// What is known of a slot of `machine` from its record, if it had one.
    pub fn of(
        machine: &MachineId,
        record: Option<&HolderRecord>,
        ended: Ending,
        ended_at: UnixTime,
    ) -> Self {
        Self {
            machine_id: machine.to_string(),
            hostname: record.and_then(|record| record.hostname.clone()),
            token: record.and_then(|record| record.token),
            groups: record.map(|record| record.groups.clone()).unwrap_or_default(),
            reason: record.and_then(|record| record.reason.clone()),
            via: record.and_then(|record| record.via.clone()),
            start_time: record.map(|record| record.start_time),
            down_since: record.and_then(HolderRecord::down_since),
            ended_at,
            ended,
            by: None,
            boot_id: record.and_then(|record| record.boot_id.clone()),
            new_boot_id: None,
            unknown: Map::new(),
        }
    }

    /// For how long the machine was out of service, from its permit to the end. `None` if it is
    /// not known to have been down at all.
    pub fn down_secs(&self) -> Option<u64> {
        // What was given back before a reboot came about was never down.
        let down = self.down_since.filter(|_| self.ended != Ending::GivenBack)?;
        Some(self.ended_at.seconds_since(down))
    }

    /// For how long the slot was held.
    pub fn held_secs(&self) -> Option<u64> {
        Some(self.ended_at.seconds_since(self.start_time?))
    }
}

impl Document for Past {}

/// A day in UTC, as `2026-11-21`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Day(jiff::civil::Date);

impl Day {
    /// The one that `time` falls on; `None` in no calendar.
    pub fn of(time: UnixTime) -> Option<Self> {
        let time = jiff::Timestamp::from_second(time.0).ok()?;
        Some(Self(time.to_zoned(jiff::tz::TimeZone::UTC).date()))
    }
}

impl TryFrom<String> for Day {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, jiff::Error> {
        jiff::civil::Date::from_str(&text).map(Self)
    }
}

impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.0.to_string()
    }
}

/// How many slots of machines that did not come back were freed in a group on one day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverdueReleases {
    /// Which day, by the clock of who freed the first.
    pub day: Day,
    /// How many.
    pub count: u32,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Document for OverdueReleases {}
