//! `[[gate]]`: a reason to wait. Which key belongs to which type: `docs/gates.md`.

mod busy_file;
mod cluster;
mod http;
mod inhibitor;
mod pattern;
mod prometheus;
mod script;
mod sessions;
mod systemd;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

pub use self::busy_file::BusyFileGate;
pub use self::cluster::{ClusterRules, MinHealthy};
pub use self::http::{Expected, HttpGate, StatusRange};
pub use self::inhibitor::InhibitorGate;
use self::inhibitor::{Mode, What};
pub use self::pattern::{Glob, NamePattern};
pub use self::prometheus::{AlertFilter, LabelValue, PrometheusGate, Question};
pub use self::script::ScriptGate;
pub use self::sessions::SessionsGate;
pub use self::systemd::{FailedUnits, ManagerState, SystemdGate};
use super::table::{Count, Fault, Named, Secs, Table};
use super::{ConfigError, Places};

/// When a gate is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing wants a reboot.
    Monitor,
    /// For the others: is this machine well?
    Heartbeat,
    /// A reboot is wanted; before a slot is asked for.
    PreLock,
    /// With the slot held, before the machine goes down.
    PostLock,
    /// The machine is back: may it give its slot away?
    Verify,
}

impl Phase {
    /// Each one.
    pub const ALL: [Self; 5] =
        [Self::Monitor, Self::Heartbeat, Self::PreLock, Self::PostLock, Self::Verify];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Heartbeat => "heartbeat",
            Self::PreLock => "pre-lock",
            Self::PostLock => "post-lock",
            Self::Verify => "verify",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `[[gate]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct GateSettings {
    /// Known by this name.
    pub name: String,
    /// Longest time one question may take.
    pub timeout: Duration,
    /// When it is asked, in their order, at least one.
    pub phases: Vec<Phase>,
    /// Whether it is asked at all.
    pub enabled: bool,
    /// What it looks at.
    pub kind: GateKind,
}

/// What a gate looks at.
#[derive(Debug, Clone, PartialEq)]
pub enum GateKind {
    /// The exit code of a command.
    Script(ScriptGate),
    /// The answer of a web server.
    Http(HttpGate),
    /// Alerts, or a query.
    Prometheus(PrometheusGate),
    /// The state of the service manager and its units.
    Systemd(SystemdGate),
    /// Programs that do not want a shutdown now.
    Inhibitor(InhibitorGate),
    /// Users who are logged in.
    Sessions(SessionsGate),
    /// Files that are there while something is going on.
    BusyFile(BusyFileGate),
    /// The health of the other machines.
    Cluster(ClusterRules),
}

impl GateKind {
    /// Its `type`, as it is written.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Script(_) => Type::Script,
            Self::Http(_) => Type::Http,
            Self::Prometheus(_) => Type::Prometheus,
            Self::Systemd(_) => Type::Systemd,
            Self::Inhibitor(_) => Type::Inhibitor,
            Self::Sessions(_) => Type::Sessions,
            Self::BusyFile(_) => Type::BusyFile,
            Self::Cluster(_) => Type::Cluster,
        }
        .as_str()
    }
}

/// The `type` of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Type {
    Script,
    Http,
    Prometheus,
    Systemd,
    Inhibitor,
    Sessions,
    BusyFile,
    Cluster,
}

impl Type {
    fn as_str(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Http => "http",
            Self::Prometheus => "prometheus",
            Self::Systemd => "systemd",
            Self::Inhibitor => "inhibitor",
            Self::Sessions => "sessions",
            Self::BusyFile => "busy-file",
            Self::Cluster => "cluster",
        }
    }

    /// The keys that belong to it, besides `name`, `type` and `enabled`.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Script => &["timeout_secs", "phases", "command"],
            Self::Http => &[
                "timeout_secs",
                "phases",
                "url",
                "status",
                "json_pointer",
                "equals",
                "ca_file",
                "bearer_token_file",
            ],
            Self::Prometheus => &[
                "timeout_secs",
                "phases",
                "url",
                "pending",
                "ignore",
                "only",
                "labels",
                "query",
                "ca_file",
                "bearer_token_file",
            ],
            Self::Systemd => &["timeout_secs", "phases", "failed_units", "ignore_units", "states"],
            Self::Inhibitor => &["timeout_secs", "phases", "what", "mode", "ignore_who"],
            Self::Sessions => &["timeout_secs", "phases", "max", "ignore_users", "idle_secs"],
            Self::BusyFile => &["timeout_secs", "phases", "paths", "max_age_secs"],
            // Always asked before a slot is asked for and again with the slot held.
            Self::Cluster => &["min_healthy", "max_unhealthy", "fallback", "groups"],
        }
    }

    /// When it may be asked.
    fn possible_phases(self) -> &'static [Phase] {
        match self {
            Self::Script | Self::Http | Self::Prometheus | Self::Systemd => &Phase::ALL,
            // Somebody who is logged in says nothing about whether the machine came back well.
            Self::Inhibitor | Self::Sessions | Self::BusyFile => &Phase::ALL[..4],
            Self::Cluster => &[Phase::PreLock, Phase::PostLock],
        }
    }

    /// When it is asked unless it says otherwise.
    fn usual_phases(self) -> &'static [Phase] {
        match self {
            Self::Script => &Phase::ALL,
            _ => &[Phase::PreLock, Phase::PostLock],
        }
    }
}

/// The keys of all types; which of them belong together is checked later.
macro_rules! written {
    ($($key:ident: $type:ty),+ $(,)?) => {
        /// `[[gate]]` as written.
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct GateTable {
            name: Option<Spanned<String>>,
            r#type: Option<Spanned<Type>>,
            enabled: Option<bool>,
            $($key: Option<Spanned<$type>>),+
        }

        impl GateTable {
            /// The keys that are there, and where their values are, in the order of the text.
            fn keys(&self) -> Vec<(&'static str, Range<usize>)> {
                let mut keys = Vec::new();
                $(if let Some(value) = &self.$key {
                    keys.push((stringify!($key), value.span()));
                })+
                keys.sort_by_key(|(_, span)| span.start);
                keys
            }
        }
    };
}

written! {
    timeout_secs: Secs<1, 3600>,
    phases: Vec<Spanned<Phase>>,
    command: Vec<Spanned<String>>,
    url: String,
    status: Vec<StatusRange>,
    json_pointer: String,
    equals: toml::Value,
    ca_file: String,
    bearer_token_file: String,
    pending: bool,
    ignore: NamePattern,
    only: NamePattern,
    labels: BTreeMap<String, Spanned<String>>,
    query: String,
    failed_units: FailedUnits,
    ignore_units: Vec<Spanned<String>>,
    states: Vec<Spanned<ManagerState>>,
    what: Vec<Spanned<What>>,
    mode: Vec<Spanned<Mode>>,
    ignore_who: Vec<Spanned<String>>,
    max: Count<0, 1_000_000>,
    ignore_users: Vec<Spanned<String>>,
    idle_secs: Secs<1, 31_536_000>,
    paths: Vec<Spanned<String>>,
    max_age_secs: Secs<1, 31_536_000>,
    min_healthy: MinHealthy,
    max_unhealthy: Count<0, 1_000_000>,
    fallback: Vec<Spanned<String>>,
    groups: Vec<Spanned<String>>,
}

/// Longest name of a gate, in characters: it becomes part of sentences and a label of metrics.
const MAX_NAME: usize = 64;

impl Table for GateTable {
    type Settings = GateSettings;

    fn check(mut self, whole: Range<usize>) -> Result<GateSettings, Fault> {
        let Some(of_type) = &self.r#type else {
            let problem = "`type` is missing; known are `script`, `http`, `prometheus`, `systemd`, \
                           `inhibitor`, `sessions`, `busy-file`, `cluster`";
            return Err(Fault::new(whole, problem));
        };
        let of_type = *of_type.get_ref();
        for (key, span) in self.keys() {
            if !of_type.keys().contains(&key) {
                let known: Vec<_> = of_type.keys().iter().map(|key| format!("`{key}`")).collect();
                let problem = format!(
                    "`{key}` does not belong to a gate of type `{}`, which knows {}",
                    of_type.as_str(),
                    known.join(", ")
                );
                return Err(Fault::new(span, problem));
            }
        }
        let name = self.name.take();
        let enabled = self.enabled.unwrap_or(true);
        let timeout = self.timeout_secs.take();
        let phases = phases(of_type, self.phases.take())?;
        let kind = match of_type {
            Type::Script => GateKind::Script(script::check(self, whole.clone())?),
            Type::Http => GateKind::Http(http::check(self, whole.clone())?),
            Type::Prometheus => GateKind::Prometheus(prometheus::check(self, whole.clone())?),
            Type::Systemd => GateKind::Systemd(systemd::check(self)?),
            Type::Inhibitor => GateKind::Inhibitor(inhibitor::check(self)?),
            Type::Sessions => GateKind::Sessions(sessions::check(self)?),
            Type::BusyFile => GateKind::BusyFile(busy_file::check(self, whole.clone())?),
            Type::Cluster => GateKind::Cluster(cluster::check(self)?),
        };
        let name = match name {
            Some(name) => check_name(name.get_ref())
                .map(|()| name.get_ref().clone())
                .map_err(|problem| Fault::at(&name, problem))?,
            None => {
                let derived = derived_name(&kind);
                check_name(&derived).map_err(|problem| {
                    Fault::new(whole, format!("needs a `name`: of `{derived}`, {problem}"))
                })?;
                derived
            }
        };
        let timeout = timeout.map_or(Duration::from_secs(30), |timeout| timeout.get_ref().get());
        Ok(GateSettings { name, timeout, phases, enabled, kind })
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err("`name` must not be blank".to_owned());
    }
    if name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(format!(
            "`name` must have at most {MAX_NAME} characters, none of them a control character"
        ));
    }
    Ok(())
}

/// What a gate is called that was given no name.
fn derived_name(kind: &GateKind) -> String {
    match kind {
        GateKind::Script(script) => {
            let program = script.command.first().map(String::as_str).unwrap_or_default();
            program.rsplit('/').next().unwrap_or_default().to_owned()
        }
        GateKind::Http(http) => http.url.authority().map(ToString::to_string).unwrap_or_default(),
        other => other.as_str().to_owned(),
    }
}

fn phases(
    of_type: Type,
    written: Option<Spanned<Vec<Spanned<Phase>>>>,
) -> Result<Vec<Phase>, Fault> {
    let Some(written) = written else { return Ok(of_type.usual_phases().to_vec()) };
    let possible = of_type.possible_phases();
    let list = || possible.iter().map(|phase| format!("`{phase}`")).collect::<Vec<_>>().join(", ");
    if written.get_ref().is_empty() {
        let problem = format!(
            "`phases` must name at least one of {}; `enabled = false` switches a gate off",
            list()
        );
        return Err(Fault::at(&written, problem));
    }
    let mut phases = Vec::new();
    for phase in written.into_inner() {
        if !possible.contains(phase.get_ref()) {
            let problem = format!(
                "a gate of type `{}` cannot be asked in phase `{}`; possible are {}",
                of_type.as_str(),
                phase.get_ref(),
                list()
            );
            return Err(Fault::at(&phase, problem));
        }
        phases.push(phase.into_inner());
    }
    phases.sort();
    phases.dedup();
    Ok(phases)
}

impl Named for GateSettings {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Checks the gates of one file, where each name may occur once.
pub(super) fn check_all(
    tables: Option<Vec<Spanned<GateTable>>>,
) -> Result<Option<Vec<GateSettings>>, Fault> {
    let Some(tables) = tables else { return Ok(None) };
    let mut gates: Vec<GateSettings> = Vec::new();
    for table in tables {
        let whole = table.span();
        let named = table.get_ref().name.as_ref().map(Spanned::span);
        let gate = table.into_inner().check(whole.clone())?;
        if gates.iter().any(|known| known.name == gate.name) {
            let problem = match named {
                Some(_) => format!("there is a gate `{}` already", gate.name),
                None => format!("there is a gate `{}` already; give this one a `name`", gate.name),
            };
            return Err(Fault::new(named.unwrap_or(whole), problem));
        }
        gates.push(gate);
    }
    Ok(Some(gates))
}

/// The gates of all files together.
pub(super) fn decide(
    gates: Option<Vec<GateSettings>>,
    places: &Places,
) -> Result<Vec<GateSettings>, ConfigError> {
    let gates = gates.unwrap_or_default();
    let cluster = |gate: &&GateSettings| gate.enabled && matches!(gate.kind, GateKind::Cluster(_));
    let clusters: Vec<_> = gates.iter().filter(cluster).map(|gate| gate.name.as_str()).collect();
    if let [first, second, ..] = clusters[..] {
        let problem =
            format!("only one gate of type `cluster` can be there, not both {first} and {second}");
        let place = places.get(&format!("gate.{second}")).cloned();
        return Err(ConfigError::Setting { setting: "gate", problem, place });
    }
    Ok(gates)
}

/// Names in a list, none of them blank. `key` is for the message.
fn names(key: &str, list: Option<Spanned<Vec<Spanned<String>>>>) -> Result<Vec<String>, Fault> {
    let mut names = Vec::new();
    for name in list.map(Spanned::into_inner).unwrap_or_default() {
        if name.get_ref().trim().is_empty() {
            return Err(Fault::at(&name, format!("a name in `{key}` must not be blank")));
        }
        names.push(name.into_inner());
    }
    Ok(names)
}

/// A path from the root: a service has no folder of its own to begin at.
fn absolute(key: &str, path: Spanned<String>) -> Result<std::path::PathBuf, Fault> {
    if !path.get_ref().starts_with('/') || path.get_ref().contains('\0') {
        let problem = format!("`{key}` must be an absolute path, not {:?}", path.get_ref());
        return Err(Fault::at(&path, problem));
    }
    Ok(path.into_inner().into())
}
