//! The machines of the fleet, and what came of their slots.

use serde::Serialize;

use crate::health::{Member, Standing};
use crate::id::MachineId;
use crate::record::{Blocked, Health, Past, Presence, Request, RosterEntry, UnixTime};

/// One machine of the fleet.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineView {
    /// Which.
    #[serde(rename = "machineID")]
    pub machine_id: MachineId,
    /// What it calls itself.
    pub hostname: Option<String>,
    /// Whether its agent is there.
    pub present: bool,
    /// What its agent does; else how far the holder of a slot has come; else `away`.
    pub state: Option<String>,
    /// Since when.
    pub state_since: Option<UnixTime>,
    /// Its groups.
    pub groups: Vec<String>,
    /// Whether it is well, as its agent said last.
    pub health: Option<Health>,
    /// What is known to be wrong with it, however well its agent says it is.
    pub unwell: Option<String>,
    /// What keeps it from a reboot that is wanted.
    pub blocked: Option<Blocked>,
    /// When its agent first came.
    pub first_seen: Option<UnixTime>,
    /// Version of its agent.
    pub version: Option<String>,
    /// What is wrong with a document of it.
    pub damage: Option<String>,
}

impl MachineView {
    /// What is known of one machine.
    pub fn of(machine_id: &MachineId, member: &Member, now: UnixTime) -> Self {
        let presence: Option<&Presence> = member.presence.iter().flatten().next();
        let entry: Option<&RosterEntry> = member.roster.iter().flatten().next();
        let damages = [
            member.presence.as_ref().and_then(|read| read.as_ref().err()),
            member.roster.as_ref().and_then(|read| read.as_ref().err()),
        ];
        let (state, state_since) = match (presence, &member.presence, &member.slot) {
            (Some(presence), ..) => (Some(presence.state.clone()), Some(presence.state_since)),
            (None, Some(_), _) => (None, None),
            // It is away for a reason.
            (None, None, Some(slot)) => {
                let state = slot.state.as_ref().map(ToString::to_string);
                (Some(state.unwrap_or_else(|| "away".to_owned())), slot.since)
            }
            (None, None, None) => (Some("away".to_owned()), None),
        };
        let unwell = match member.standing(now) {
            Standing::Unhealthy(why) if why.is_said() => Some(why.to_string()),
            _ => None,
        };
        let enrolled = entry.map(|entry| entry.groups.clone());
        Self {
            machine_id: machine_id.clone(),
            hostname: member.hostname().map(ToOwned::to_owned),
            present: member.presence.is_some(),
            state,
            state_since,
            groups: presence.map(|p| p.groups.clone()).or(enrolled).unwrap_or_default(),
            health: presence.and_then(|presence| presence.health.clone()),
            unwell,
            blocked: presence.and_then(|presence| presence.blocked.clone()),
            first_seen: entry.map(|entry| entry.first_seen),
            version: presence.and_then(|presence| presence.version.clone()),
            damage: damages.into_iter().flatten().next().map(ToString::to_string),
        }
    }
}

/// What came of an acquisition, with how long it took.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PastView {
    /// As it was written down.
    #[serde(flatten)]
    pub past: Past,
    /// For how long the slot was held.
    pub held_for_secs: Option<u64>,
    /// For how long the machine was out of service.
    pub down_for_secs: Option<u64>,
}

impl From<Past> for PastView {
    fn from(past: Past) -> Self {
        Self { held_for_secs: past.held_secs(), down_for_secs: past.down_secs(), past }
    }
}

/// An operator's wish that a machine reboot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestView {
    /// Which machine.
    #[serde(rename = "machineID")]
    pub machine_id: MachineId,
    /// Who wishes; nothing where the document cannot be read.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Since when.
    pub since: Option<UnixTime>,
    /// Place in the queue: higher goes first.
    pub priority: u32,
}

impl RequestView {
    /// A wish, if its document could be read.
    pub fn of(machine: &MachineId, request: Option<&Request>) -> Self {
        Self {
            machine_id: machine.clone(),
            by: request.map(|request| request.by.clone()),
            reason: request.and_then(|request| request.reason.clone()),
            since: request.map(|request| request.since),
            priority: request.map_or(0, |request| request.priority),
        }
    }
}
