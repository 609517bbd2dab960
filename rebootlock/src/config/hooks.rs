//! `[hooks]`: what runs around the reboot.

use serde::Deserialize;

/// `[hooks]` as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HooksFragment {}

/// `[hooks]`, decided.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HooksSettings {}

impl HooksFragment {
    /// This layer with `over` laid on top of it.
    pub(super) fn overlaid(self, _over: Self) -> Self {
        Self {}
    }
}

impl HooksSettings {
    pub(super) fn decide(_fragment: HooksFragment) -> Self {
        Self {}
    }
}
