//! `[[gate]]`: a reason to wait.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::table::{Fault, Named, Table};

/// `[[gate]]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateTable {
    name: Spanned<String>,
}

/// `[[gate]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct GateSettings {
    /// Known by this name.
    pub name: String,
}

impl Table for GateTable {
    type Settings = GateSettings;

    fn check(self, _whole: Range<usize>) -> Result<GateSettings, Fault> {
        if self.name.get_ref().trim().is_empty() {
            return Err(Fault::at(&self.name, "`name` must not be blank"));
        }
        Ok(GateSettings { name: self.name.into_inner() })
    }
}

impl Named for GateSettings {
    fn name(&self) -> &str {
        &self.name
    }
}
