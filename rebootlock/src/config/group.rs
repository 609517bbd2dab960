//! `[[group]]`: what holds for one group of machines.

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::table::{Count, Fault, Named, Secs, Table};
use crate::id::Group;

/// Longest cooldown: a year.
const LONGEST: u64 = 365 * 86_400;

/// More than any fleet has machines.
const MOST_SLOTS: u64 = 1_000_000;

/// `[[group]]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupTable {
    name: Spanned<String>,
    cooldown_secs: Option<Secs<0, LONGEST>>,
    slots: Option<Count<0, MOST_SLOTS>>,
}

/// `[[group]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSettings {
    /// Which.
    pub name: Group,
    /// After a machine has come back from its reboot nobody new gets a slot for so long.
    pub cooldown: Duration,
    /// How many of its machines may be down at once, where the gateway sees to it.
    pub slots: Option<u32>,
}

impl Table for GroupTable {
    type Settings = GroupSettings;

    fn check(self, _whole: Range<usize>) -> Result<GroupSettings, Fault> {
        let name = Group::new(self.name.get_ref().clone())
            .map_err(|error| Fault::at(&self.name, error))?;
        let cooldown = self.cooldown_secs.map(Secs::get).unwrap_or_default();
        // The bound is far below.
        let slots = self.slots.map(|slots| u32::try_from(slots.get()).unwrap_or(u32::MAX));
        Ok(GroupSettings { name, cooldown, slots })
    }
}

/// Checks the groups of one file, where each may be there once: of two, one would count for nothing.
pub(super) fn check_all(
    tables: Option<Vec<Spanned<GroupTable>>>,
) -> Result<Option<Vec<GroupSettings>>, Fault> {
    let Some(tables) = tables else { return Ok(None) };
    let mut groups: Vec<GroupSettings> = Vec::new();
    for table in tables {
        let (whole, name) = (table.span(), table.get_ref().name.span());
        let group = table.into_inner().check(whole)?;
        if groups.iter().any(|known| known.name == group.name) {
            let problem = format!(
                "there is a [[group]] with this `name` already, {:?}; put both into one",
                group.name.as_str()
            );
            return Err(Fault::new(name, problem));
        }
        groups.push(group);
    }
    Ok(Some(groups))
}

impl Named for GroupSettings {
    fn name(&self) -> &str {
        self.name.as_str()
    }
}
