//! `type = "systemd"`

use serde::Deserialize;
use toml::Spanned;

use super::super::table::Fault;
use super::{GateTable, Glob};

/// Open if the service manager is content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemdGate {
    /// What failed units mean.
    pub failed_units: FailedUnits,
    /// Failed units that do not count.
    pub ignore_units: Vec<Glob>,
    /// Its states that are good. `degraded` only says that units have failed, and is as good as
    /// `running` if the failed ones do not count.
    pub states: Vec<ManagerState>,
}

/// What failed units mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailedUnits {
    /// There must be none.
    None,
    /// They do not count.
    Ignore,
}

/// What `systemctl is-system-running` says that may be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ManagerState {
    /// Before the basic target.
    Initializing,
    /// Jobs of the boot are left to do.
    Starting,
    /// All is well.
    Running,
    /// Units have failed.
    Degraded,
    /// The rescue or emergency target.
    Maintenance,
    /// Going down.
    Stopping,
}

impl ManagerState {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Maintenance => "maintenance",
            Self::Stopping => "stopping",
        }
    }
}

pub(super) fn check(table: GateTable) -> Result<SystemdGate, Fault> {
    let failed_units = table.failed_units.map_or(FailedUnits::None, Spanned::into_inner);
    if let (FailedUnits::Ignore, Some(units)) = (failed_units, &table.ignore_units) {
        let problem = "`ignore_units` is of no use with failed_units = \"ignore\"";
        return Err(Fault::at(units, problem));
    }
    let states = match table.states {
        None => vec![ManagerState::Running],
        Some(list) if list.get_ref().is_empty() => {
            return Err(Fault::at(&list, "`states` needs at least one state that is good"));
        }
        Some(list) => {
            let stopping =
                list.get_ref().iter().find(|state| *state.get_ref() == ManagerState::Stopping);
            if let Some(state) = stopping {
                let problem = "a machine that is going down already cannot be good; `states` \
                               may have `initializing`, `starting`, `running`, `degraded`, \
                               `maintenance`";
                return Err(Fault::at(state, problem));
            }
            list.into_inner().into_iter().map(Spanned::into_inner).collect()
        }
    };
    let units = table.ignore_units.map(Spanned::into_inner).unwrap_or_default();
    let unit = |unit: Spanned<String>| {
        Glob::new(unit.get_ref()).map_err(|problem| Fault::at(&unit, problem))
    };
    let ignore_units = units.into_iter().map(unit).collect::<Result<_, _>>()?;
    Ok(SystemdGate { failed_units, ignore_units, states })
}
