//! What is kept for goahead clients, who are told something once and come back with it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Document, HolderRecord, UnixTime};
use crate::semaphore::json::Damage;

/// A goahead client that has asked once and is to ask again, by this id. It hangs on a lease: nothing
/// is lost with it but the first of two questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GoaheadAsk {
    /// Who asked.
    #[serde(rename = "machineID")]
    pub machine_id: String,
    /// The cluster it was found in.
    pub cluster: String,
    /// What it has to say next time; empty once that has led to a reboot.
    #[serde(rename = "requestID")]
    pub request_id: String,
    /// When it asked.
    pub since: UnixTime,
    /// The lease all of this hangs on, in hexadecimal: the next question keeps it alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Document for GoaheadAsk {}

/// What the record of a holder says besides if a goahead client got the slot, as its member `goahead`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GoaheadGrant {
    /// The cluster that it was found in, whose checks and actions count.
    pub cluster: String,
    /// What it asked by.
    #[serde(rename = "requestID")]
    pub request_id: String,
    /// The longest uptime that it has reported since it may reboot, as it wrote it. A shorter one
    /// means that it has.
    pub uptime: String,
    /// When it reported that. If it is not known, it is as if it had done so just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<UnixTime>,
    /// Since when it may reboot.
    pub granted_at: UnixTime,
    /// The actions of the grant have not ended yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub actions_due: bool,
    /// The shorter uptime that it reported first after its reboot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_after: Option<String>,
    /// A shorter uptime that is no proof by itself that it has rebooted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<GoaheadDoubt>,
    /// How often in a row the check has failed, while it was not known to have rebooted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// How often in a row the check has found it to be back.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub successes: u32,
    /// When it was found to be overdue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panicked_at: Option<UnixTime>,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A report that may have been late.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GoaheadDoubt {
    /// The uptime that was reported.
    pub uptime: String,
    /// When that came in.
    pub at: UnixTime,
}

/// The member of the holder record.
const MEMBER: &str = "goahead";

impl GoaheadGrant {
    /// A grant of now.
    pub fn new(cluster: &str, request_id: &str, uptime: &str, granted_at: UnixTime) -> Self {
        Self {
            cluster: cluster.to_owned(),
            request_id: request_id.to_owned(),
            uptime: uptime.to_owned(),
            reported_at: Some(granted_at),
            granted_at,
            actions_due: false,
            uptime_after: None,
            doubt: None,
            failures: 0,
            successes: 0,
            panicked_at: None,
            unknown: Map::new(),
        }
    }

    /// What `record` says of one; `None` if it says nothing.
    ///
    /// # Errors
    /// [`Damage`] if what it says cannot be read.
    pub fn of(record: &HolderRecord) -> Option<Result<Self, Damage>> {
        let member = record.unknown.get(MEMBER)?.clone();
        Some(serde_json::from_value(member).map_err(|error| Damage::from_json_error(&error)))
    }

    /// The member by itself.
    pub fn to_member(&self) -> Map<String, Value> {
        // Every key is a string and no value can fail.
        let value = serde_json::to_value(self).unwrap_or_default();
        [(MEMBER.to_owned(), value)].into_iter().collect()
    }

    /// Leaves nothing of one in `record`.
    pub fn remove_from(record: &mut HolderRecord) {
        record.unknown.remove(MEMBER);
    }

    /// Writes it into `record`.
    pub fn write_into(&self, record: &mut HolderRecord) {
        record.unknown.extend(self.to_member());
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}
