//! `type = "sessions"`

use std::time::Duration;

use super::super::table::Fault;
use super::{GateTable, names};

/// Open if few enough users are logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionsGate {
    /// So many users may be.
    pub max: u64,
    /// Users who do not count.
    pub ignore_users: Vec<String>,
    /// A session that has been idle for longer does not count.
    pub idle: Option<Duration>,
}

pub(super) fn check(table: GateTable) -> Result<SessionsGate, Fault> {
    Ok(SessionsGate {
        max: table.max.map_or(0, |max| max.get_ref().get()),
        ignore_users: names("ignore_users", table.ignore_users)?,
        idle: table.idle_secs.map(|idle| idle.get_ref().get()),
    })
}
