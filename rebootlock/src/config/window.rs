//! `[[window]]`: when reboots may begin.

use std::ops::Range;

use serde::Deserialize;

use super::table::{Fault, Table};

/// `[[window]]` as written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowTable {
    start: String,
    length: String,
}

/// `[[window]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowSettings {
    /// `23:00` or `Thu 23:00`, local time.
    pub start: String,
    /// `1h30m`.
    pub length: String,
}

impl Table for WindowTable {
    type Settings = WindowSettings;

    fn check(self, _whole: Range<usize>) -> Result<WindowSettings, Fault> {
        Ok(WindowSettings { start: self.start, length: self.length })
    }
}
