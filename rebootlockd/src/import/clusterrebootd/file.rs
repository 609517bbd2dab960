//! The file as written. A key that clusterrebootd does not know is refused here as it is there.

use serde::Deserialize;
use serde_saphyr::{Error, MessageFormatter as _, Spanned, UserMessageFormatter};

use super::super::Fault;

/// A value and its place.
pub(super) type At<T> = Spanned<T>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) node_name: Option<At<String>>,
    pub(super) reboot_required_detectors: Option<Vec<At<Detector>>>,
    pub(super) health_script: Option<At<String>>,
    pub(super) health_timeout_sec: Option<At<u64>>,
    pub(super) health_publish_interval_sec: Option<At<u64>>,
    pub(super) check_interval_sec: Option<At<u64>>,
    pub(super) backoff_min_sec: Option<At<u64>>,
    pub(super) backoff_max_sec: Option<At<u64>>,
    pub(super) min_reboot_interval_sec: Option<At<u64>>,
    pub(super) lock_key: Option<At<String>>,
    pub(super) lock_ttl_sec: Option<At<u64>>,
    pub(super) etcd_endpoints: Option<Vec<At<String>>>,
    pub(super) etcd_namespace: Option<At<String>>,
    pub(super) etcd_tls: Option<Tls>,
    pub(super) reboot_command: Option<At<Vec<At<String>>>>,
    pub(super) cluster_policies: Option<Policies>,
    pub(super) windows: Option<Windows>,
    pub(super) kill_switch_file: Option<At<String>>,
    pub(super) metrics: Option<Metrics>,
    pub(super) dry_run: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Detector {
    pub(super) name: Option<At<String>>,
    pub(super) r#type: Option<At<String>>,
    pub(super) path: Option<At<String>>,
    pub(super) cmd: Option<Vec<At<String>>>,
    pub(super) success_exit_codes: Option<At<Vec<At<i64>>>>,
    pub(super) timeout_sec: Option<At<u64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) enabled: Option<bool>,
    pub(super) ca_file: Option<At<String>>,
    pub(super) cert_file: Option<At<String>>,
    pub(super) key_file: Option<At<String>>,
    pub(super) insecure_skip_verify: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policies {
    pub(super) min_healthy_fraction: Option<At<f64>>,
    pub(super) min_healthy_absolute: Option<At<u64>>,
    pub(super) forbid_if_only_fallback_left: Option<bool>,
    pub(super) fallback_nodes: Option<Vec<At<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Windows {
    pub(super) deny: Option<Vec<At<String>>>,
    pub(super) allow: Option<Vec<At<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) enabled: Option<bool>,
    pub(super) listen: Option<At<String>>,
}

impl Config {
    /// Reads it. A second document in the file, which clusterrebootd would pass over, is an error.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        serde_saphyr::from_str(text).map_err(|error| explain(&error))
    }
}

fn explain(error: &Error) -> Fault {
    let error = error.without_snippet();
    let place = error.location();
    let (line, column) = place.map_or((1, 1), |place| (place.line(), place.column()));
    let problem = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key `{field}`; clusterrebootd knows {} here", expected.join(", "))
        }
        error => UserMessageFormatter.format_message(error).escape_debug().to_string(),
    };
    Fault::new(line.max(1), column.max(1), problem)
}
