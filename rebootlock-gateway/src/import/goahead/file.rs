//! The files as written. goahead passes over keys that it does not know; they are told here.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Unexpected, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Error, MessageFormatter as _, Spanned, UserMessageFormatter};

use super::Fault;

/// A value and its place.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(super) struct At<T>(Spanned<T>);

impl<T> std::ops::Deref for At<T> {
    type Target = Spanned<T>;

    fn deref(&self) -> &Spanned<T> {
        &self.0
    }
}

impl<T> At<T> {
    /// What is wrong with it.
    pub(super) fn fault(&self, problem: &str) -> Fault {
        let place = &self.0.referenced;
        format!("{}:{}: {problem}", place.line(), place.column())
    }
}

/// A whole number, which may be written as `2.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Int(pub(super) i64);

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Int;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Int, E> {
                Ok(Int(number))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Int, E> {
                let too_large = |_| E::invalid_value(Unexpected::Unsigned(number), &self);
                i64::try_from(number).map(Int).map_err(too_large)
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Int, E> {
                // Exact as far as that.
                const MOST: f64 = 9_007_199_254_740_992.0;
                if number.fract() != 0.0 || number.abs() > MOST {
                    return Err(E::invalid_value(Unexpected::Float(number), &self));
                }
                #[allow(clippy::cast_possible_truncation)]
                Ok(Int(number as i64))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// `config.yml`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Main {
    pub(super) listen_address: Option<At<String>>,
    pub(super) listen_port: Option<At<Int>>,
    pub(super) include_dir: Option<At<String>>,
    pub(super) log_base_dir: Option<At<String>>,
    pub(super) save_state_dir: Option<At<String>>,
    pub(super) ssl_private_key: Option<At<String>>,
    pub(super) ssl_certificate_file: Option<At<String>>,
    pub(super) ssl_client_cert_ca_file: Option<At<String>>,
    pub(super) ssl_require_and_verify_client_cert: Option<bool>,
    pub(super) timeout: Option<String>,
}

const MAIN: [&str; 10] = [
    "listen_address",
    "listen_port",
    "include_dir",
    "log_base_dir",
    "save_state_dir",
    "ssl_private_key",
    "ssl_certificate_file",
    "ssl_client_cert_ca_file",
    "ssl_require_and_verify_client_cert",
    "timeout",
];

/// What one cluster says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Cluster {
    pub(super) enabled: Option<bool>,
    pub(super) name_pattern: Option<At<String>>,
    pub(super) blacklist_name_pattern: Option<Vec<At<String>>>,
    pub(super) minimum_uptime: Option<At<String>>,
    pub(super) allowed_parallel_restarts: Option<At<Int>>,
    pub(super) reboot_goahead_checks: Option<Vec<At<String>>>,
    pub(super) reboot_goahead_checks_exit_code_for_reboot: Option<At<Int>>,
    pub(super) reboot_goahead_actions: Option<Vec<At<String>>>,
    pub(super) reboot_completion_check: Option<At<String>>,
    pub(super) reboot_completion_check_interval: Option<At<String>>,
    pub(super) reboot_completion_check_consecutive_successes: Option<At<Int>>,
    pub(super) reboot_completion_check_offset: Option<At<String>>,
    pub(super) reboot_completion_actions: Option<Vec<At<String>>>,
    pub(super) reboot_completion_panic_threshold: Option<At<String>>,
    pub(super) reboot_completion_panic_actions: Option<Panic>,
    pub(super) raise_errors: Option<bool>,
}

/// What runs for a machine that does not come back.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Panic {
    pub(super) scripts: Option<Vec<At<String>>>,
    pub(super) mail: Option<Vec<String>>,
}

const CLUSTER: [&str; 17] = [
    "enabled",
    "name_pattern",
    "blacklist_name_pattern",
    "minimum_uptime",
    // Never used by goahead.
    "cluster_type",
    "allowed_parallel_restarts",
    "reboot_goahead_checks",
    "reboot_goahead_checks_exit_code_for_reboot",
    "reboot_goahead_actions",
    "reboot_completion_check",
    "reboot_completion_check_interval",
    "reboot_completion_check_consecutive_successes",
    "reboot_completion_check_offset",
    "reboot_completion_actions",
    "reboot_completion_panic_threshold",
    "reboot_completion_panic_actions",
    "raise_errors",
];

/// One file.
pub(super) enum Contents {
    /// `config.yml`, and its keys that are not goahead's.
    Main(Box<Main>, Vec<String>),
    /// Clusters in their order, each with its keys that are not goahead's.
    Clusters(Vec<(String, Cluster, Vec<String>)>),
}

/// Reads one file.
///
/// # Errors
/// What is wrong, and where.
pub(super) fn read(text: &str) -> Result<Contents, Fault> {
    let keys: InOrder<IgnoredAny> = parse(text)?;
    if keys.0.iter().any(|(key, _)| MAIN.contains(&key.as_str())) {
        let unknown = unknown(keys.0.iter().map(|(key, _)| key), &MAIN);
        return Ok(Contents::Main(Box::new(parse(text)?), unknown));
    }
    let clusters: InOrder<Option<Cluster>> = parse(text)?;
    let keys: InOrder<Option<InOrder<IgnoredAny>>> = parse(text)?;
    let mut found: Vec<(String, Cluster, Vec<String>)> = Vec::new();
    for ((name, cluster), (_, keys)) in clusters.0.into_iter().zip(keys.0) {
        let keys = keys.unwrap_or_default();
        let unknown = unknown(keys.0.iter().map(|(key, _)| key), &CLUSTER);
        found.retain(|(known, ..)| *known != name);
        found.push((name, cluster.unwrap_or_default(), unknown));
    }
    Ok(Contents::Clusters(found))
}

fn unknown<'a>(keys: impl Iterator<Item = &'a String>, known: &[&str]) -> Vec<String> {
    keys.filter(|key| !known.contains(&key.as_str())).cloned().collect()
}

/// As goahead's reader understands YAML: 1.1, and of two keys the last counts.
fn parse<T: DeserializeOwned + Default>(text: &str) -> Result<T, Fault> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
    };
    let parsed: Result<Option<T>, Error> = serde_saphyr::from_str_with_options(text, options);
    parsed.map(Option::unwrap_or_default).map_err(|error| {
        let error = error.without_snippet();
        let place = error.location();
        let (line, column) = place.map_or((1, 1), |place| (place.line(), place.column()));
        let problem = UserMessageFormatter.format_message(error).escape_debug().to_string();
        format!("{}:{}: {problem}", line.max(1), column.max(1))
    })
}

/// A mapping in the order of its keys.
#[derive(Debug)]
struct InOrder<T>(Vec<(String, T)>);

impl<T> Default for InOrder<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for InOrder<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = InOrder<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(InOrder(entries))
            }
        }
        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}
