//! `[[group]]`: what holds for one group of machines.

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::table::{Fault, Named, Secs, Table};
use crate::id::Group;

/// Longest cooldown: a year.
const LONGEST: u64 = 365 * 86_400;

/// `[[group]]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupTable {
    name: Spanned<String>,
    cooldown_secs: Option<Secs<0, LONGEST>>,
}

/// `[[group]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSettings {
    /// Which.
    pub name: Group,
    /// After a machine has come back from its reboot nobody new gets a slot for so long.
    pub cooldown: Duration,
}

impl Table for GroupTable {
    type Settings = GroupSettings;

    fn check(self, _whole: Range<usize>) -> Result<GroupSettings, Fault> {
        let name = Group::new(self.name.get_ref().clone())
            .map_err(|error| Fault::at(&self.name, error))?;
        let cooldown = self.cooldown_secs.map(Secs::get).unwrap_or_default();
        Ok(GroupSettings { name, cooldown })
    }
}

impl Named for GroupSettings {
    fn name(&self) -> &str {
        self.name.as_str()
    }
}
