//! The configuration that all programs share: files, then the environment, then flags.
//!
//! Files parse into fragments, all optional, as written; fragments merge, the later one winning
//! member by member; the result becomes [`Settings`] once, validated, with no `Option` that means
//! "default". Nothing reads the environment after that.

mod comment;
mod detector;
mod file;
mod fragment;
pub mod gate;
mod gateway;
mod group;
mod hooks;
mod metrics;
mod network;
mod places;
mod reboot;
mod store;
mod table;
pub mod variables;
mod window;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use self::comment::comment;
pub use self::detector::{DetectorKind, DetectorSettings, Source as DetectorSource};
pub use self::file::{ConfigError, DEFAULT_FILE, Files, read_files};
pub use self::fragment::{
    AgentFragment, Fragment, LogFormat, LogFragment, MachineFragment, StoreFragment, Strategy,
};
pub use self::gate::GateSettings;
pub use self::gateway::{
    ClientCertificates, ClusterSettings, CommandLine, CountFrom, DisruptionGroups,
    DisruptionSettings, GatewayFragment, GatewaySettings, GoaheadSettings, Pattern, ReleaseSilent,
    TlsSettings,
};
pub use self::group::GroupSettings;
pub use self::hooks::{HooksFragment, HooksSettings, Isolation};
pub use self::metrics::{Listen, MetricsFragment, MetricsSettings, Textfile};
pub use self::network::Network;
pub use self::places::{Place, Places};
pub use self::reboot::{Announce, OnOverdue, RebootFragment, RebootMethod, RebootSettings};
pub use self::table::{Count, Secs};
pub use self::window::{WindowRule, WindowSettings, local_zone};
use crate::http::Access;
use crate::id::Group;
use crate::keys::Keyspace;
use crate::record::sorted_groups;
use crate::store::Endpoint;
use crate::window::Windows;

/// Everything, decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where the lock lives.
    pub store: StoreSettings,
    /// Which machine this is.
    pub machine: MachineSettings,
    /// How the agent behaves.
    pub agent: AgentSettings,
    /// When reboots may begin; at any time if there are none.
    pub windows: Windows,
    /// Reasons to reboot, besides update-engine and requests.
    pub detectors: Vec<DetectorSettings>,
    /// Reasons to wait.
    pub gates: Vec<GateSettings>,
    /// What holds for single groups.
    pub groups: Vec<GroupSettings>,
    /// What runs around the reboot.
    pub hooks: HooksSettings,
    /// How this machine goes down, and when it counts as back.
    pub reboot: RebootSettings,
    /// The HTTP service.
    pub gateway: GatewaySettings,
    /// Figures for Prometheus.
    pub metrics: MetricsSettings,
    /// How the programs talk.
    pub log: LogSettings,
}

/// Where the lock lives.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreSettings {
    /// At least one, all of one kind.
    pub endpoints: Vec<Endpoint>,
    /// PEM file with the authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file with its key.
    pub key_file: Option<PathBuf>,
    /// User name.
    pub username: Option<String>,
    /// Password, out of a file.
    pub password: Option<String>,
    /// That file, for what reads it anew each time.
    pub password_file: Option<PathBuf>,
    /// File with a token, for a gateway.
    pub token_file: Option<PathBuf>,
    /// How web servers among the endpoints are talked to.
    pub access: Access,
    /// Above all keys.
    pub keys: Keyspace,
    /// Longest time one request may take.
    pub timeout: Duration,
}

/// Which machine this is.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineSettings {
    /// File with the machine-id.
    pub id_file: PathBuf,
    /// File with the boot id.
    pub boot_id_file: PathBuf,
    /// Its groups, sorted, at least one.
    pub groups: Vec<Group>,
}

/// How the agent behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSettings {
    /// What to do when a reboot is wanted.
    pub strategy: Strategy,
    /// Place in the queue: higher goes first.
    pub priority: u32,
    /// Time given to users who are logged in.
    pub warn_users: Duration,
    /// How long an inhibitor may hold a slot up.
    pub inhibit_timeout: Duration,
    /// Still up so long after the reboot was ordered, something is wrong.
    pub reboot_deadline: Duration,
    /// Look again after this long even if nothing was heard.
    pub poll: Duration,
    /// How long `best-effort` waits for a store out of reach before it reboots without a slot.
    pub best_effort_wait: Duration,
    /// How often detectors and gates are asked.
    pub check_interval: Duration,
    /// How often this machine looks how it is and tells the others.
    pub heartbeat: Duration,
    /// While this file is there, nothing reboots.
    pub kill_switch_file: PathBuf,
}

/// How the programs talk.
#[derive(Debug, Clone, PartialEq)]
pub struct LogSettings {
    /// In which form.
    pub format: LogFormat,
    /// What is shown, as `tracing` directives.
    pub level: String,
}

impl Settings {
    /// Decides everything that `fragment` leaves open, and checks what contradicts itself.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting.
    pub fn decide(fragment: Fragment) -> Result<Self, ConfigError> {
        or_first_fault(|note| Self::decide_noting(fragment, note))
    }

    /// [`Settings::decide`], telling `note` each contradiction rather than the first alone. `None` if
    /// there was one.
    pub fn decide_noting(fragment: Fragment, note: &mut dyn FnMut(ConfigError)) -> Option<Self> {
        let places = fragment.places;
        let note = &mut |fault: ConfigError| note(fault.placed(&places));
        let store = StoreSettings::decide(fragment.store).map_err(&mut *note).ok();
        let windows = window::decide(fragment.window.unwrap_or_default(), &places);
        let windows = windows.map_err(&mut *note).ok();
        let gates = gate::decide(fragment.gate, &places).map_err(&mut *note).ok();
        let reboot = RebootSettings::decide(fragment.reboot).map_err(&mut *note).ok();
        let gateway = GatewaySettings::decide(fragment.gateway).map_err(&mut *note).ok();
        let (machine, agent, log) = (fragment.machine, fragment.agent, fragment.log);
        let decided = Self {
            store: store?,
            machine: MachineSettings {
                id_file: machine.id_file.unwrap_or_else(|| "/etc/machine-id".into()),
                boot_id_file: machine
                    .boot_id_file
                    .unwrap_or_else(|| "/proc/sys/kernel/random/boot_id".into()),
                groups: sorted_groups(machine.groups.unwrap_or_default()),
            },
            agent: AgentSettings {
                strategy: agent.strategy.unwrap_or_default(),
                priority: agent
                    .priority
                    .map_or(0, |priority| u32::try_from(priority.get()).unwrap_or(u32::MAX)),
                warn_users: secs(agent.warn_users_secs, 300),
                inhibit_timeout: secs(agent.inhibit_timeout_secs, 600),
                reboot_deadline: secs(agent.reboot_deadline_secs, 900),
                poll: secs(agent.poll_secs, 60),
                best_effort_wait: secs(agent.best_effort_wait_secs, 60),
                check_interval: secs(agent.check_interval_secs, 60),
                heartbeat: secs(agent.heartbeat_secs, 15),
                kill_switch_file: agent
                    .kill_switch_file
                    .unwrap_or_else(|| "/etc/rebootlock/disable".into()),
            },
            windows: windows?,
            detectors: fragment.detector.unwrap_or_default(),
            gates: gates?,
            groups: fragment.group.unwrap_or_default(),
            hooks: HooksSettings::decide(fragment.hooks),
            reboot: reboot?,
            gateway: gateway?,
            metrics: MetricsSettings::decide(fragment.metrics),
            log: LogSettings {
                format: log.format.unwrap_or_default(),
                level: log.level.unwrap_or_else(|| "info".to_owned()),
            },
        };
        check_silent(&decided).map_err(&mut *note).ok()?;
        store::check_without_store(&decided, &places).map_err(note).ok()?;
        Some(decided)
    }
}

/// Nobody's slot is given up before it was said that it is overdue.
fn check_silent(settings: &Settings) -> Result<(), ConfigError> {
    let (rule, alarm) = (settings.gateway.release_silent, settings.reboot.overdue_after);
    match rule.filter(|rule| rule.after < alarm) {
        None => Ok(()),
        Some(rule) => Err(ConfigError::of_setting(
            "gateway.release_silent_after_secs",
            format!(
                "{} would give slots back before they are overdue, so that nobody were told; expected \
                 at least the {} of [reboot] overdue_after_secs",
                rule.after.as_secs(),
                alarm.as_secs()
            ),
        )),
    }
}

/// What `decide` makes, or the first fault it notes.
///
/// # Errors
/// That [`ConfigError`].
pub fn or_first_fault<T>(
    decide: impl FnOnce(&mut dyn FnMut(ConfigError)) -> Option<T>,
) -> Result<T, ConfigError> {
    let mut first = None;
    let decided = decide(&mut |fault| {
        first.get_or_insert(fault);
    });
    match (decided, first) {
        (Some(decided), None) => Ok(decided),
        (_, Some(fault)) => Err(fault),
        (None, None) => Err(ConfigError::of_setting("configuration", "cannot be decided")),
    }
}

fn secs<const MIN: u64, const MAX: u64>(given: Option<Secs<MIN, MAX>>, default: u64) -> Duration {
    given.map_or(Duration::from_secs(default), Secs::get)
}

impl Settings {
    /// How long each group cools down after a reboot.
    pub fn cooldowns(&self) -> BTreeMap<Group, Duration> {
        self.groups.iter().map(|group| (group.name.clone(), group.cooldown)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod foreign;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    fn decide(text: &str) -> Result<Settings, ConfigError> {
        Settings::decide(Fragment::parse(Path::new("test.toml"), text)?)
    }

    #[test]
    fn nothing_configured_means_the_documented_defaults() {
        let settings = decide("").unwrap();
        assert_eq!(settings.store.endpoints[0].to_string(), "http://127.0.0.1:2379");
        assert_eq!(settings.machine.groups, [Group::default()]);
        assert_eq!(settings.agent.strategy, Strategy::EtcdLock);
        assert_eq!(settings.agent.warn_users, Duration::from_secs(300));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_a_suggestion() {
        let error = decide("[store]\nendpoint = [\"memory:\"]\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "test.toml:2:1: unknown key `endpoint` in [store]; did you mean `endpoints`?"
        );
        let error = decide("[agnet]\nstrategy = \"off\"\n").unwrap_err().to_string();
        assert_eq!(error, "test.toml:1:2: unknown table `agnet`; did you mean `agent`?");
    }

    #[test]
    fn a_bad_value_is_named_with_its_place_and_what_is_allowed() {
        for (text, said) in [
            (
                "[agent]\nstrategy = \"of\"",
                "test.toml:2:12: `strategy`: unknown value `of`; did you mean `off`? (allowed: `etcd-lock`, `lock`, `reboot`, `best-effort`, `off`)",
            ),
            (
                "[store]\nendpoints = [\"host:1\"]",
                "test.toml:2:13: `endpoints`: endpoint \"host:1\" has no scheme that is known; expected http://host:2379, https://host:2379, gateway+https://host, sqlite:/path, memory: or fleetlock+https://host/path",
            ),
            (
                "[store]\ntimeout_secs = \"5\"",
                "test.toml:2:16: `timeout_secs`: invalid type: string \"5\", expected a whole number from 1 to 3600",
            ),
            (
                "[machine]\ngroups = [\"\"]",
                "test.toml:2:10: `groups`: group name is empty; expected 1 to 253 bytes",
            ),
        ] {
            assert_eq!(decide(text).unwrap_err().to_string(), said);
        }
        let error = decide("[store]\nendpoints = [\"memory:\"").unwrap_err().to_string();
        assert!(error.starts_with("test.toml:2:"), "{error}");
    }

    #[test]
    fn groups_cool_down_as_long_as_they_are_told_to() {
        let lb = "[[group]]\nname = \"lb\"\ncooldown_secs = 600\n[[group]]\nname = \"db\"\n";
        let cooldowns = decide(lb).unwrap().cooldowns();
        assert_eq!(cooldowns[&Group::new("lb").unwrap()], Duration::from_secs(600));
        assert_eq!(cooldowns[&Group::new("db").unwrap()], Duration::ZERO);
        let error = decide("[[group]]\nname = \"\"").unwrap_err().to_string();
        assert_eq!(error, "test.toml:2:8: `name`: group name is empty; expected 1 to 253 bytes");
        let error = decide("[[group]]\nname = \"a\"\ncooldown_secs = -1").unwrap_err().to_string();
        assert_eq!(error, "test.toml:3:17: `cooldown_secs`: -1 is not from 0 to 31536000");
    }

    #[test]
    fn contradictions_are_refused() {
        for text in [
            "[store]\nendpoints = [\"memory:\", \"http://h:1\"]",
            "[store]\ncert_file = \"/x\"",
            "[store]\nendpoints = [\"http://h:1\", \"gateway+http://h:1\"]",
            "[store]\nusername = \"u\"\npassword_file = \"/dev/null\"\ntoken_file = \"/x\"",
            "[store]\nusername = \"u\"",
            "[store]\ntimeout_secs = 0",
            "[store]\ntimeout_secs = 3153600001",
            "[agent]\npoll_secs = 9223372036854775807",
            "[store]\nusername = \"u\"\npassword_file = \"/nonexistent\"",
        ] {
            assert!(decide(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_default_file_shows_every_setting_with_its_default() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/etc/rebootlock/rebootlock.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let setting = |line: &str| {
            line.strip_prefix('#')
                .is_some_and(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()))
        };
        let shown: Vec<_> =
            text.lines().map(|line| if setting(line) { &line[1..] } else { line }).collect();
        let shown = Fragment::parse(&path, &shown.join("\n")).unwrap();
        assert!(shown.store.timeout_secs.is_some() && shown.window.is_some());
        // As it is installed it decides nothing.
        let installed = Settings::decide(Fragment::parse(&path, &text).unwrap()).unwrap();
        assert_eq!(installed, decide("").unwrap());
        let (agent, hooks) = (shown.agent, shown.hooks);
        let reboot = shown.reboot.without_examples();
        let gateway = shown.gateway.without_examples();
        let shown = Fragment { agent, hooks, reboot, gateway, ..Fragment::default() };
        let shown = Settings::decide(shown).unwrap();
        assert_eq!(shown.agent, installed.agent);
        assert_eq!(shown.hooks, installed.hooks);
        assert_eq!(shown.gateway, installed.gateway);
        assert_eq!(shown.reboot, installed.reboot);
    }
}
