//! What machines that speak disruption-manager's protocol have asked for.
//!
//! A slot is in the semaphore, and nowhere else. This says what the machine was told about it, and
//! what is to happen to it when nobody asks any more.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Document, UnixTime};
use crate::id::Group;
use crate::store::LeaseId;

/// How far such a machine has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DisruptionState {
    /// It wants a slot, or has one and may be down. Its time runs from its last request.
    Asking,
    /// It has given its slot back, or its time is over. The slot is kept until its service answers,
    /// or until the time for that is over.
    Proving,
}

/// One machine's wish to be disrupted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disruption {
    /// Whose.
    #[serde(rename = "machineID")]
    pub machine_id: String,
    /// Where it wants a slot, or has one.
    pub group: Group,
    /// How many of its group it says may be down at once.
    pub limit: u32,
    /// How far it has come.
    pub state: DisruptionState,
    /// Since when it is in this state.
    pub since: UnixTime,
    /// When the time for this state is over, by the clock of who wrote it. For people: what counts is
    /// the lease.
    pub until: UnixTime,
    /// The lease that its time hangs on, in hexadecimal.
    pub lease: String,
    /// From where it asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What is asked whether the machine is ready, when its slot is to go back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_url: Option<String>,
    /// For how long, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_timeout_secs: Option<u64>,
    /// It did not say that it is back; its time was over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
    /// Where it wants a slot again, as soon as this one has gone back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Group>,
    /// How many of that group it says may be down at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_limit: Option<u32>,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Disruption {
    /// The lease that its time hangs on. What cannot be read is none, and its time is over.
    pub fn lease(&self) -> Option<LeaseId> {
        i64::from_str_radix(&self.lease, 16).ok().map(LeaseId)
    }

    /// What it says about the limit of `group`, if it wants a slot there or has one.
    pub fn limit_in(&self, group: &Group) -> Option<u32> {
        let now = (self.group == *group).then_some(self.limit);
        let again = self.again.as_ref().filter(|again| *again == group);
        let again = again.map(|_| self.again_limit.unwrap_or(self.limit));
        now.into_iter().chain(again).min()
    }

    /// Whether `other` is the same time of the same state, whatever else was said meanwhile.
    pub fn is_same_time(&self, other: &Self) -> bool {
        (self.state, self.since, &self.lease) == (other.state, other.since, &other.lease)
    }

    /// From where it asked last; nowhere if that is not known.
    pub fn address(&self) -> IpAddr {
        let known = self.address.as_deref().and_then(|address| address.parse().ok());
        known.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

/// A group's limit as its machines say it. It is theirs for as long as the semaphore has it too: an
/// operator who sets another one has the last word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaidLimit {
    /// The limit.
    pub max: u32,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Document for Disruption {}
impl Document for SaidLimit {}
