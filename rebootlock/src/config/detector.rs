//! `[[detector]]`: a reason to reboot.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::table::{Fault, Named, Table};

/// `[[detector]]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorTable {
    name: Spanned<String>,
}

/// `[[detector]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorSettings {
    /// Known by this name.
    pub name: String,
}

impl Table for DetectorTable {
    type Settings = DetectorSettings;

    fn check(self, _whole: Range<usize>) -> Result<DetectorSettings, Fault> {
        if self.name.get_ref().trim().is_empty() {
            return Err(Fault::at(&self.name, "`name` must not be blank"));
        }
        Ok(DetectorSettings { name: self.name.into_inner() })
    }
}

impl Named for DetectorSettings {
    fn name(&self) -> &str {
        &self.name
    }
}
