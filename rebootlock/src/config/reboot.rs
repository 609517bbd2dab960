//! `[reboot]`: how this machine goes down, and when it counts as back.

use serde::Deserialize;

/// `[reboot]` as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RebootFragment {}

/// `[reboot]`, decided.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RebootSettings {}

impl RebootFragment {
    /// This layer with `over` laid on top of it.
    pub(super) fn overlaid(self, _over: Self) -> Self {
        Self {}
    }
}

impl RebootSettings {
    pub(super) fn decide(_fragment: RebootFragment) -> Self {
        Self {}
    }
}
