//! `[[group]]`: what holds for one group of machines.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::table::{Fault, Named, Table};

/// `[[group]]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupTable {
    name: Spanned<String>,
}

/// `[[group]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSettings {
    /// Known by this name.
    pub name: String,
}

impl Table for GroupTable {
    type Settings = GroupSettings;

    fn check(self, _whole: Range<usize>) -> Result<GroupSettings, Fault> {
        if self.name.get_ref().trim().is_empty() {
            return Err(Fault::at(&self.name, "`name` must not be blank"));
        }
        Ok(GroupSettings { name: self.name.into_inner() })
    }
}

impl Named for GroupSettings {
    fn name(&self) -> &str {
        &self.name
    }
}
