//! The documents beside the semaphore: who holds, who waits, what is paused, what is wished for.
//!
//! Times are whole seconds since 1970-01-01 UTC, as rebootlockd wrote `startTime`. Members that
//! are not known here are kept when a document is written again.

mod act;
mod disruption;
mod goahead;
mod member;
mod past;
mod session;
mod stop;

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::act::{Act, Deed};
pub use self::disruption::{Disruption, DisruptionState, SaidLimit};
pub use self::goahead::{GoaheadAsk, GoaheadDoubt, GoaheadGrant};
pub use self::member::{Blocked, Health, Presence, RosterEntry};
pub use self::past::{Day, Ending, OverdueReleases, Past};
pub use self::session::Session;
pub use self::stop::{Cooldown, Hold, Pause, Stop};
use crate::id::{BootId, Group, MachineId, Token};
use crate::semaphore::json::Damage;

/// Seconds since 1970-01-01 UTC.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixTime(pub i64);

impl UnixTime {
    /// What this machine's clock says.
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_second())
    }

    /// Whole seconds from `earlier` to here; 0 if a clock went backwards.
    pub fn seconds_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }

    /// Date and time in UTC, as `2026-11-21T14:00:00Z`.
    pub fn to_text(self) -> String {
        match jiff::Timestamp::from_second(self.0) {
            Ok(time) => time.to_string(),
            Err(_) => format!("{} s since 1970", self.0),
        }
    }

    /// So many seconds later.
    #[must_use]
    pub fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add_unsigned(seconds))
    }
}

/// How far a holder has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HolderState {
    /// Has the slot; nothing irreversible has happened.
    Holding,
    /// Users are being told, hooks run.
    Draining,
    /// Has the permit: from here on the machine may be down at any moment.
    Rebooting,
    /// Is back and being looked at.
    Verifying,
    /// Is back, but not well; keeps its slot until a person decides.
    Failed,
    /// Something a newer version wrote.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for HolderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Holding => "holding",
            Self::Draining => "draining",
            Self::Rebooting => "rebooting",
            Self::Verifying => "verifying",
            Self::Failed => "failed",
            Self::Other(text) => text,
        })
    }
}

/// Through which door a holder came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// The daemon on the machine.
    Agent,
    /// An operator's `rebootlockctl lock`.
    Ctl,
    /// An operator's `rebootlockctl reboot`.
    CtlReboot,
    /// A command run under `rebootlockctl exec`.
    Exec,
    /// A FleetLock client, over HTTP.
    Fleetlock,
    /// A machine that speaks disruption-manager's protocol, over HTTP.
    DisruptionManager,
    /// A goahead client, over HTTP.
    Goahead,
    /// Something a newer version wrote, or another door.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Agent => "agent",
            Self::Ctl => "ctl",
            Self::CtlReboot => "ctl-reboot",
            Self::Exec => "exec",
            Self::Fleetlock => "fleetlock",
            Self::DisruptionManager => "disruption-manager",
            Self::Goahead => "goahead",
            Self::Other(text) => text,
        })
    }
}

/// Who holds a slot, since when and why. Only the first two members come from rebootlockd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HolderRecord {
    /// The holder.
    #[serde(rename = "machineID")]
    pub machine_id: String,
    /// Since when.
    pub start_time: UnixTime,
    /// What the machine calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The boot during which the slot was taken.
    #[serde(rename = "bootID", default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<BootId>,
    /// Which acquisition this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// All groups whose slots were taken together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How far it has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<HolderState>,
    /// Since when it is in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_since: Option<UnixTime>,
    /// Since when the machine may be down: when it got the permit. It stays when it is back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_since: Option<UnixTime>,
    /// When it should be back; later than that it is overdue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_back: Option<UnixTime>,
    /// Through which door it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl HolderRecord {
    /// The groups named in the record that are names at all.
    pub fn groups(&self) -> impl Iterator<Item = Group> + '_ {
        self.groups.iter().filter_map(|name| Group::new(name.clone()).ok())
    }

    /// Since when the machine may be down, or may have been. Older agents wrote only since when it
    /// is in its state.
    pub fn down_since(&self) -> Option<UnixTime> {
        let rebooting = self.state == Some(HolderState::Rebooting);
        self.down_since.or(self.state_since.filter(|_| rebooting))
    }

    /// Whether something came of it that others should hear of later: the machine had the permit,
    /// and may have been down.
    pub fn came_to_something(&self) -> bool {
        use HolderState::{Failed, Rebooting, Verifying};
        matches!(self.state, Some(Rebooting | Verifying | Failed))
    }

    /// Whether `token` made this record.
    pub fn is_of(&self, token: Token) -> bool {
        self.token == Some(token)
    }
}

/// One machine's place in a queue. It hangs on a lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiter {
    /// Who waits.
    #[serde(rename = "machineID")]
    pub machine_id: String,
    /// Since when, by its own clock.
    pub since: UnixTime,
    /// Higher goes first.
    #[serde(default)]
    pub priority: u32,
    /// With a priority, the revision of the store since which the others must have come to be overtaken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overtakes_from: Option<u64>,
    /// What the machine calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// All groups it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Why it wants a slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Through which door it will come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// The lease the place hangs on, in hexadecimal, where whoever waits comes by now and then: each
    /// time keeps it alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// An operator's wish that a machine reboot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Who wishes.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    pub since: UnixTime,
    /// Place in the queue: higher goes first.
    #[serde(default)]
    pub priority: u32,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A document of this module, in its JSON form.
pub trait Document: Serialize + DeserializeOwned {
    /// Reads it.
    ///
    /// # Errors
    /// [`Damage`] if it is not one.
    fn from_json(bytes: &[u8]) -> Result<Self, Damage> {
        serde_json::from_slice(bytes).map_err(|error| Damage::from_json_error(&error))
    }

    /// Writes it in one line.
    fn to_json(&self) -> Vec<u8> {
        // Every key is a string and no value can fail, so there is always a text.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Document for HolderRecord {}
impl Document for Waiter {}
impl Document for Request {}

/// Who asks for slots, and how it wants to be known while it holds them.
#[derive(Debug, Clone)]
pub struct Claim {
    /// For whom.
    pub machine: MachineId,
    /// In which groups, sorted and each once.
    groups: Vec<Group>,
    /// This acquisition. Asking again with the same token is the same acquisition.
    pub token: Token,
    /// What the machine calls itself.
    pub hostname: Option<String>,
    /// The boot it is in.
    pub boot_id: Option<BootId>,
    /// Why it wants to be down.
    pub reason: Option<String>,
    /// Through which door it comes.
    pub via: Via,
    /// Place in the queue: higher goes first.
    pub priority: u32,
    /// What its record says besides: members of the door it comes through.
    pub members: Option<Box<Map<String, Value>>>,
}

impl Claim {
    /// A claim of `machine` on a slot in each of `groups`; on the default group if there are none.
    pub fn new(machine: MachineId, groups: impl IntoIterator<Item = Group>, via: Via) -> Self {
        Self {
            machine,
            groups: sorted_groups(groups),
            token: Token::random(),
            hostname: None,
            boot_id: None,
            reason: None,
            via,
            priority: 0,
            members: None,
        }
    }

    /// The groups, sorted, at least one.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The record this claim makes when it is granted.
    pub fn record(&self, now: UnixTime) -> HolderRecord {
        HolderRecord {
            machine_id: self.machine.to_string(),
            start_time: now,
            hostname: self.hostname.clone(),
            boot_id: self.boot_id.clone(),
            token: Some(self.token),
            groups: self.group_names(),
            reason: self.reason.clone(),
            state: Some(HolderState::Holding),
            state_since: Some(now),
            down_since: None,
            expected_back: None,
            via: Some(self.via.clone()),
            unknown: self.members.as_deref().cloned().unwrap_or_default(),
        }
    }

    /// The place in the queue this claim takes while it waits.
    pub fn waiter(&self, since: UnixTime) -> Waiter {
        Waiter {
            machine_id: self.machine.to_string(),
            since,
            priority: self.priority,
            overtakes_from: None,
            hostname: self.hostname.clone(),
            groups: self.group_names(),
            reason: self.reason.clone(),
            via: Some(self.via.clone()),
            lease: None,
            unknown: Map::new(),
        }
    }

    fn group_names(&self) -> Vec<String> {
        self.groups.iter().map(ToString::to_string).collect()
    }
}

/// Sorted, each once; the default group if there are none. One order everywhere, so that nothing
/// depends on the order in which a machine names its groups.
pub fn sorted_groups(groups: impl IntoIterator<Item = Group>) -> Vec<Group> {
    let mut groups: Vec<Group> = groups.into_iter().collect();
    groups.sort();
    groups.dedup();
    if groups.is_empty() {
        groups.push(Group::default());
    }
    groups
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rebootlockds_own_record_is_read() {
        let record =
            HolderRecord::from_json(br#"{"machineID":"a","startTime":1397496396}"#).unwrap();
        assert_eq!(record.start_time, UnixTime(1_397_496_396));
        assert_eq!(record.to_json(), br#"{"machineID":"a","startTime":1397496396}"#);
    }

    #[test]
    fn what_a_newer_version_wrote_survives() {
        let text = r#"{"machineID":"a","startTime":1,"state":"levitating","via":"carrier-pigeon","mood":{"x":1}}"#;
        let record = HolderRecord::from_json(text.as_bytes()).unwrap();
        assert_eq!(record.state, Some(HolderState::Other("levitating".into())));
        assert_eq!(String::from_utf8(record.to_json()).unwrap(), text);
    }

    #[test]
    fn states_are_written_in_kebab_case() {
        assert_eq!(serde_json::to_string(&HolderState::Rebooting).unwrap(), "\"rebooting\"");
        assert_eq!(serde_json::to_string(&Via::CtlReboot).unwrap(), "\"ctl-reboot\"");
        assert_eq!(serde_json::from_str::<Via>("\"ctl-reboot\"").unwrap(), Via::CtlReboot);
    }

    #[test]
    fn groups_are_sorted_and_never_none() {
        let group = |name: &str| Group::new(name).unwrap();
        assert_eq!(
            sorted_groups([group("rack-7"), group("lb"), group("lb")]),
            [group("lb"), group("rack-7")]
        );
        assert_eq!(sorted_groups([]), [Group::default()]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (HolderRecord::from_json(&bytes), Waiter::from_json(&bytes));
            let _ = (Pause::from_json(&bytes), Request::from_json(&bytes));
            let _ = (Hold::from_json(&bytes), Cooldown::from_json(&bytes));
            let _ = (Presence::from_json(&bytes), RosterEntry::from_json(&bytes));
            let _ = (Past::from_json(&bytes), OverdueReleases::from_json(&bytes));
            let _ = (Session::from_json(&bytes), Act::from_json(&bytes));
            let _ = GoaheadAsk::from_json(&bytes);
            // A grant is a member of a record: any value may be there.
            let _ = HolderRecord::from_json(&bytes).map(|record| GoaheadGrant::of(&record));
            let _ = (Disruption::from_json(&bytes), SaidLimit::from_json(&bytes));
        }
    }
}
