//! What one file says: every member optional.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::ConfigError;
use super::detector::{DetectorSettings, DetectorTable, check_detectors};
use super::file::{explain, fault_in};
use super::gate::{self, GateSettings, GateTable};
use super::gateway::GatewayFragment;
use super::group::{self, GroupSettings, GroupTable};
use super::hooks::HooksFragment;
use super::metrics::{MetricsFragment, MetricsTable};
use super::places::Places;
use super::reboot::RebootFragment;
use super::table::{Count, Fault, Secs, at_least_one, check_all, full_path, overlay_named, text};
use super::window::{WindowSettings, WindowTable};
use crate::id::Group;
use crate::keys::Keyspace;
use crate::store::Endpoint;

/// One layer of configuration: what was written, each table checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fragment {
    /// `[store]`
    pub store: StoreFragment,
    /// `[machine]`
    pub machine: MachineFragment,
    /// `[agent]`
    pub agent: AgentFragment,
    /// `[[window]]`
    pub window: Option<Vec<WindowSettings>>,
    /// `[[detector]]`
    pub detector: Option<Vec<DetectorSettings>>,
    /// `[[gate]]`
    pub gate: Option<Vec<GateSettings>>,
    /// `[[group]]`
    pub group: Option<Vec<GroupSettings>>,
    /// `[hooks]`
    pub hooks: HooksFragment,
    /// `[reboot]`
    pub reboot: RebootFragment,
    /// `[gateway]`
    pub gateway: GatewayFragment,
    /// `[metrics]`
    pub metrics: MetricsFragment,
    /// `[log]`
    pub log: LogFragment,
    /// Where all that is written.
    pub places: Places,
}

/// One file, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    store: StoreFragment,
    machine: MachineFragment,
    agent: AgentFragment,
    window: Option<Vec<Spanned<WindowTable>>>,
    detector: Option<Vec<Spanned<DetectorTable>>>,
    gate: Option<Vec<Spanned<GateTable>>>,
    group: Option<Vec<Spanned<GroupTable>>>,
    hooks: HooksFragment,
    reboot: RebootFragment,
    gateway: GatewayFragment,
    metrics: MetricsTable,
    log: LogFragment,
}

impl Written {
    fn check(self) -> Result<Fragment, Fault> {
        Ok(Fragment {
            store: self.store,
            machine: self.machine,
            agent: self.agent,
            window: check_all(self.window)?,
            detector: check_detectors(self.detector)?,
            gate: gate::check_all(self.gate)?,
            group: group::check_all(self.group)?,
            hooks: self.hooks,
            reboot: self.reboot.check()?,
            gateway: self.gateway,
            metrics: self.metrics.check()?,
            log: self.log,
            places: Places::default(),
        })
    }
}

/// `[store]`: where the lock lives.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreFragment {
    /// Where, tried in this order.
    #[serde(deserialize_with = "at_least_one")]
    pub endpoints: Option<Vec<Endpoint>>,
    /// PEM file with the authorities to trust.
    #[serde(deserialize_with = "full_path")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate.
    #[serde(deserialize_with = "full_path")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with its key.
    #[serde(deserialize_with = "full_path")]
    pub key_file: Option<PathBuf>,
    /// User name.
    #[serde(deserialize_with = "text")]
    pub username: Option<String>,
    /// File whose first line is the password.
    #[serde(deserialize_with = "full_path")]
    pub password_file: Option<PathBuf>,
    /// File whose first line is a token, for servers that take one instead of name and password.
    #[serde(deserialize_with = "full_path")]
    pub token_file: Option<PathBuf>,
    /// A password out of the environment, as locksmith took it. Never out of a file.
    #[serde(skip)]
    pub password: Option<String>,
    /// Above all keys.
    #[serde(deserialize_with = "from_text")]
    pub prefix: Option<Keyspace>,
    /// Longest time one request may take, in seconds.
    pub timeout_secs: Option<Secs<1, 3_600>>,
}

/// `[machine]`: which machine this is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineFragment {
    /// File with the machine-id.
    #[serde(deserialize_with = "full_path")]
    pub id_file: Option<PathBuf>,
    /// File with the boot id.
    #[serde(deserialize_with = "full_path")]
    pub boot_id_file: Option<PathBuf>,
    /// Groups it belongs to.
    #[serde(deserialize_with = "at_least_one")]
    pub groups: Option<Vec<Group>>,
}

/// `[agent]`: how the daemon behaves.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentFragment {
    /// What to do when a reboot is wanted.
    pub strategy: Option<Strategy>,
    /// Place in the queue: higher goes first.
    pub priority: Option<Count<0, 4_294_967_295>>,
    /// Time given to users who are logged in, in seconds.
    pub warn_users_secs: Option<Secs<0, 604_800>>,
    /// How long an inhibitor may hold a slot up, in seconds.
    pub inhibit_timeout_secs: Option<Secs<0, 604_800>>,
    /// Still up so long after the reboot was ordered, something is wrong, in seconds.
    pub reboot_deadline_secs: Option<Secs<1, 604_800>>,
    /// Look again after this long even if nothing was heard, in seconds.
    pub poll_secs: Option<Secs<1, 86_400>>,
    /// How long `best-effort` waits for a store out of reach, in seconds.
    pub best_effort_wait_secs: Option<Secs<0, 604_800>>,
    /// How often detectors and gates are asked, in seconds.
    pub check_interval_secs: Option<Secs<1, 86_400>>,
    /// How often this machine looks how it is and tells the others, in seconds.
    pub heartbeat_secs: Option<Secs<1, 3_600>>,
    /// While this file is there, nothing reboots.
    #[serde(deserialize_with = "full_path")]
    pub kill_switch_file: Option<PathBuf>,
}

/// `[log]`: how the programs talk.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogFragment {
    /// In which form.
    pub format: Option<LogFormat>,
    /// What is shown: `error`, `warn`, `info`, `debug`, `trace`, or directives by module.
    #[serde(deserialize_with = "level")]
    pub level: Option<String>,
}

/// What to do when a reboot is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Reboot with a slot only.
    #[default]
    #[serde(alias = "lock")]
    #[value(alias = "lock")]
    EtcdLock,
    /// Reboot without asking for a slot.
    Reboot,
    /// Reboot with a slot if the store answers, else without.
    BestEffort,
    /// Never reboot.
    Off,
}

impl Strategy {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EtcdLock => "etcd-lock",
            Self::Reboot => "reboot",
            Self::BestEffort => "best-effort",
            Self::Off => "off",
        }
    }
}

/// In which form logs are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people and the journal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Fragment {
    /// Reads one file's text; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] with file, line and column, and a suggestion where there is one.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let written: Written = toml::from_str(text).map_err(|error| explain(path, text, &error))?;
        let checked = written.check().map_err(|fault| fault_in(path, text, fault))?;
        Ok(Self { places: Places::of(path, text), ..checked })
    }

    /// This layer with `over` laid on top of it.
    #[must_use]
    pub fn overlaid(self, over: Self) -> Self {
        let mut places = self.places;
        macro_rules! overlay {
            ($table:ident: $($member:ident),+) => {{
                let (below, above) = (self.$table, over.$table);
                // Flags and variables have no place, and what they say is not what the file says.
                $(if above.$member.is_some() {
                    places.forget(concat!(stringify!($table), ".", stringify!($member)));
                })+
                #[allow(clippy::needless_update)]
                let merged = overlay!(@ $table { $($member: above.$member.or(below.$member)),+ });
                merged
            }};
            (@ store { $($rest:tt)* }) => { StoreFragment { $($rest)* } };
            (@ machine { $($rest:tt)* }) => { MachineFragment { $($rest)* } };
            (@ agent { $($rest:tt)* }) => { AgentFragment { $($rest)* } };
            (@ log { $($rest:tt)* }) => { LogFragment { $($rest)* } };
        }
        let whole = Self {
            store: overlay!(store: endpoints, ca_file, cert_file, key_file, username,
                password_file, token_file, password, prefix, timeout_secs),
            machine: overlay!(machine: id_file, boot_id_file, groups),
            agent: overlay!(agent: strategy, priority, warn_users_secs, inhibit_timeout_secs,
                reboot_deadline_secs, poll_secs, best_effort_wait_secs, check_interval_secs,
                heartbeat_secs, kill_switch_file),
            window: over.window.or(self.window),
            detector: overlay_named(self.detector, over.detector),
            gate: overlay_named(self.gate, over.gate),
            group: overlay_named(self.group, over.group),
            hooks: self.hooks.overlaid(over.hooks),
            reboot: self.reboot.overlaid(over.reboot),
            gateway: self.gateway.overlaid(over.gateway),
            metrics: self.metrics.overlaid(over.metrics),
            log: overlay!(log: format, level),
            places: Places::default(),
        };
        places.extend(over.places);
        Self { places, ..whole }
    }
}

/// A level that is mistyped would be taken for the name of a module, and nothing be shown.
fn level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::logging::filter(&text).map_err(serde::de::Error::custom)?;
    Ok(Some(text))
}

fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}
