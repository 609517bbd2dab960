//! `[metrics]`: figures for Prometheus.

use serde::Deserialize;

/// `[metrics]` as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsFragment {}

/// `[metrics]`, decided.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsSettings {}

impl MetricsFragment {
    /// This layer with `over` laid on top of it.
    pub(super) fn overlaid(self, _over: Self) -> Self {
        Self {}
    }
}

impl MetricsSettings {
    pub(super) fn decide(_fragment: MetricsFragment) -> Self {
        Self {}
    }
}
