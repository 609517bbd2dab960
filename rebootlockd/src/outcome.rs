//! How one pass over everything that decides a reboot ended. Pure.

use std::fmt;

use rebootlock::cli::exit;
use serde::{Serialize, Serializer};

/// The end of a pass. Names and codes are read by scripts, dashboards and alert rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Nothing wants a reboot.
    NoAction,
    /// The kill switch file is there.
    KillSwitchActive,
    /// This machine or the fleet is not well enough.
    HealthBlocked,
    /// A window forbids reboots now.
    WindowDenied,
    /// Windows allow reboots at other times.
    WindowOutsideAllow,
    /// No slot is free, or the store does not tell.
    LockUnavailable,
    /// All is clear; no slot was asked for because none was to be.
    LockSkipped,
    /// With the slot held, nothing wanted a reboot any more.
    RecheckCleared,
    /// A machine came back too recently.
    CooldownActive,
    /// The reboot is ordered, or would be if it were not only tried out.
    Ready,
    /// Somebody paused the group or the fleet.
    Paused,
    /// Somebody holds this machine back.
    Held,
    /// The reboot was ordered long ago and the machine is still up.
    Overdue,
    /// It rebooted for this reason before, and the reason has not gone away.
    StillRequired,
}

impl Outcome {
    /// Each one.
    pub const ALL: [Self; 14] = [
        Self::NoAction,
        Self::KillSwitchActive,
        Self::HealthBlocked,
        Self::WindowDenied,
        Self::WindowOutsideAllow,
        Self::LockUnavailable,
        Self::LockSkipped,
        Self::RecheckCleared,
        Self::CooldownActive,
        Self::Ready,
        Self::Paused,
        Self::Held,
        Self::Overdue,
        Self::StillRequired,
    ];

    /// As it is written everywhere. Those with underscores are clusterrebootd's names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoAction => "no_action",
            Self::KillSwitchActive => "kill_switch_active",
            Self::HealthBlocked => "health_blocked",
            Self::WindowDenied => "window_denied",
            Self::WindowOutsideAllow => "window_outside_allow",
            Self::LockUnavailable => "lock_unavailable",
            Self::LockSkipped => "lock_skipped",
            Self::RecheckCleared => "recheck_cleared",
            Self::CooldownActive => "cooldown_active",
            Self::Ready => "ready",
            Self::Paused => "paused",
            Self::Held => "held",
            Self::Overdue => "overdue",
            Self::StillRequired => "still-required",
        }
    }

    /// What a program ends with whose only pass ended so.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::NoAction | Self::LockSkipped | Self::RecheckCleared | Self::Ready => 0,
            Self::HealthBlocked
            | Self::WindowDenied
            | Self::WindowOutsideAllow
            | Self::CooldownActive
            | Self::Overdue
            | Self::StillRequired => exit::GATE_CLOSED,
            Self::LockUnavailable => exit::NO_SLOT,
            Self::KillSwitchActive | Self::Paused | Self::Held => exit::PAUSED,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn scripts_can_rely_on_names_and_codes() {
        let table = Outcome::ALL.map(|outcome| (outcome.as_str(), outcome.exit_code()));
        assert_eq!(
            table,
            [
                ("no_action", 0),
                ("kill_switch_active", 5),
                ("health_blocked", 3),
                ("window_denied", 3),
                ("window_outside_allow", 3),
                ("lock_unavailable", 4),
                ("lock_skipped", 0),
                ("recheck_cleared", 0),
                ("cooldown_active", 3),
                ("ready", 0),
                ("paused", 5),
                ("held", 5),
                ("overdue", 3),
                ("still-required", 3),
            ]
        );
        assert_eq!(Outcome::ALL.iter().collect::<BTreeSet<_>>().len(), Outcome::ALL.len());
    }

    #[test]
    fn json_has_the_name() {
        assert_eq!(serde_json::json!(Outcome::StillRequired), "still-required");
    }
}
