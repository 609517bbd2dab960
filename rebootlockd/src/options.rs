//! Flags, variables and files become what the agent needs.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use rebootlock::cli::beside::{CompletionsArgs, ManualArgs};
use rebootlock::cli::{CommonArgs, locksmith_fragment};
use rebootlock::config::{
    AgentFragment, ConfigError, Fragment, Settings, Strategy, local_zone, or_first_fault,
    read_files,
};
use rebootlock::window::{Action, InvalidWindow, Locksmith, Rule, Window, Windows};

use crate::import::ImportArgs;
use crate::simulate::{Output, SimulateArgs};
use crate::status::StatusArgs;
use crate::validate::ValidateArgs;
use crate::version::VersionArgs;

const EXAMPLES: &str = "\
Examples:
  rebootlockd run                                  as the service does
  rebootlockd run --endpoint http://10.0.0.5:2379  with an etcd elsewhere
  rebootlockd run --dry-run -v                     everything but the reboot
  rebootlockd run --once                           one pass, no reboot: 0 done, 3 gate, 4 no slot, 5 paused
  rebootlockd status                               the same, and not even a slot is taken
  rebootlockd validate-config                      before a reload
  rebootlockd import --from clusterrebootd /etc/clusterrebootd/config.yaml

REBOOT_STRATEGY, REBOOT_WINDOW_START, REBOOT_WINDOW_LENGTH and locksmith's LOCKSMITHD_… variables
work as they did.";

/// The agent of the rebootlock fleet reboot lock.
#[derive(Debug, Parser)]
#[command(name = "rebootlockd", version, about, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every program.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What the daemon can be told to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Wait for a reason to reboot, take a slot, reboot, and give it back afterwards
    Run(RunArgs),
    /// Ask this machine's detectors once and print what they say; touches no store
    Simulate(SimulateArgs),
    /// Say what is wrong with the configuration, as `run` would read it, and what cannot work
    ValidateConfig(ValidateArgs),
    /// Print the configuration of another reboot manager as ours
    Import(ImportArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages of this program into a folder
    #[command(hide = true)]
    Manual(ManualArgs),
    /// Print name, version and target
    Version(VersionArgs),
    /// Look at everything that decides a reboot, as a pass would, and take nothing
    Status(StatusArgs),
}

/// Flags of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// What to do when a reboot is wanted [default: etcd-lock]
    #[arg(long, env = "REBOOTLOCK_STRATEGY", value_name = "STRATEGY")]
    pub strategy: Option<Strategy>,
    /// Tells update-engine's tools who reboots this machine
    #[arg(long, value_name = "FILE", default_value = "/run/update-engine/coordinator.conf")]
    pub coordinator_file: PathBuf,
    /// What the agent keeps on disk
    #[arg(long, value_name = "DIR", default_value = "/var/lib/rebootlock")]
    pub state_dir: PathBuf,
    /// Do everything but reboot
    #[arg(long)]
    pub dry_run: bool,
    /// One pass without a reboot: take the slot, look at everything, say how it went, give it back
    #[arg(long)]
    pub once: bool,
    /// How a single pass is told
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// Everything `run` was told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files, variables and flags of every program.
    pub settings: Settings,
    /// When reboots may begin.
    pub windows: Windows,
    /// Flags of `run`.
    pub run: RunArgs,
}

/// Reads files and variables and lays the flags on top.
///
/// # Errors
/// [`ConfigError`] says which file or setting is wrong.
pub fn read(
    common: &CommonArgs,
    run: &RunArgs,
    variable: impl Fn(&str) -> Option<OsString> + Copy,
) -> Result<Options, ConfigError> {
    let files = read_files(common.config.as_deref())?;
    or_first_fault(|note| {
        let legacy = Legacy::read(variable, note)?;
        let (settings, windows) = decide(files, legacy, common, run.strategy, note)?;
        Some(Options { settings, windows, run: run.clone() })
    })
}

/// What the variables of update.conf and of locksmith say.
#[derive(Debug)]
pub struct Legacy {
    fragment: Fragment,
    /// Its name, and when it is open.
    window: Option<(String, Locksmith)>,
}

impl Legacy {
    /// Reads them all and tells `note` what is wrong with them. `None` if something was.
    pub fn read(
        variable: impl Fn(&str) -> Option<OsString> + Copy,
        note: &mut dyn FnMut(ConfigError),
    ) -> Option<Self> {
        let text = |name: &str| {
            variable(name)
                .map(|value| value.to_string_lossy().trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let either = |name: &str| text(&format!("LOCKSMITHD_{name}")).or_else(|| text(name));
        let legacy = locksmith_fragment("LOCKSMITHD", variable).map_err(&mut *note).ok();
        let strategy = either("REBOOT_STRATEGY").map(|name| parse_strategy(&name)).transpose();
        let strategy = strategy.map_err(&mut *note).ok();
        let written = match (either("REBOOT_WINDOW_START"), either("REBOOT_WINDOW_LENGTH")) {
            (None, None) => Ok(None),
            (Some(start), Some(length)) => Locksmith::parse(&start, &length)
                .map(|rule| Some((format!("{start} for {length}"), rule))),
            (Some(_), None) => Err(InvalidWindow::Half("REBOOT_WINDOW_START")),
            (None, Some(_)) => Err(InvalidWindow::Half("REBOOT_WINDOW_LENGTH")),
        };
        let window = written.map_err(|error| {
            let problem = error.to_string();
            note(ConfigError::of_setting("REBOOT_WINDOW_START", problem));
        });
        let agent = AgentFragment { strategy: strategy?, ..AgentFragment::default() };
        Some(Self { fragment: Fragment { agent, ..legacy? }, window: window.ok()? })
    }
}

/// Puts files, variables and flags together, and tells `note` what contradicts itself. `None` if
/// something does.
pub fn decide(
    files: Fragment,
    legacy: Legacy,
    common: &CommonArgs,
    strategy: Option<Strategy>,
    note: &mut dyn FnMut(ConfigError),
) -> Option<(Settings, Windows)> {
    let mut fragment = common.over(files, legacy.fragment);
    fragment.agent.strategy = strategy.or(fragment.agent.strategy);
    let settings = Settings::decide_noting(fragment, note)?;
    let mut windows = settings.windows.clone();
    if let Some((name, rule)) = legacy.window {
        // The host's own variables replace what files allow, as every later layer does. What files
        // deny stays denied.
        windows.0.retain(|window| window.action == Action::Deny);
        let zone = local_zone().map_err(note).ok()?;
        windows.0.push(Window::new(name, zone, Rule::Locksmith(rule)));
    }
    Some((settings, windows))
}

fn parse_strategy(name: &str) -> Result<Strategy, ConfigError> {
    clap::ValueEnum::from_str(name, true).map_err(|_| {
        let problem =
            format!("{name:?} is none; allowed are etcd-lock, lock, reboot, best-effort, off");
        ConfigError::of_setting("REBOOT_STRATEGY", problem)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn options(variables: &[(&str, &str)], flags: &[&str]) -> Result<Options, ConfigError> {
        options_of("", variables, flags)
    }

    fn options_of(
        config: &str,
        variables: &[(&str, &str)],
        flags: &[&str],
    ) -> Result<Options, ConfigError> {
        let variables = variables.iter().map(|(name, value)| (*name, (*value).into()));
        options_in(config, &variables.collect(), flags)
    }

    pub(super) fn options_from(
        variables: &BTreeMap<&str, OsString>,
        flags: &[&str],
    ) -> Result<Options, ConfigError> {
        options_in("", variables, flags)
    }

    fn options_in(
        config: &str,
        variables: &BTreeMap<&str, OsString>,
        flags: &[&str],
    ) -> Result<Options, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        let config = file.path().to_str().unwrap().to_owned();
        let words = ["rebootlockd", "run", "--config", &config];
        let cli = Cli::try_parse_from(words.iter().chain(flags)).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run: {flags:?}") };
        read(&cli.common, &run, |name| variables.get(name).cloned())
    }

    #[test]
    fn flatcars_update_conf_works_unchanged() {
        let options = options(
            &[
                ("REBOOT_STRATEGY", "best-effort"),
                ("LOCKSMITHD_REBOOT_WINDOW_START", "Thu 23:00"),
                ("REBOOT_WINDOW_LENGTH", "1h30m"),
                ("LOCKSMITHD_ENDPOINT", "http://127.0.0.1:2379,http://127.0.0.1:4001"),
                ("LOCKSMITHD_GROUP", "rack 7"),
            ],
            &[],
        )
        .unwrap();
        assert_eq!(options.settings.agent.strategy, Strategy::BestEffort);
        assert_eq!(options.windows.0.len(), 1);
        assert_eq!(options.settings.store.endpoints.len(), 2);
        assert_eq!(options.settings.machine.groups[0].as_str(), "rack 7");
    }

    #[test]
    fn the_window_of_update_conf_replaces_what_files_allow_and_not_what_they_deny() {
        let config = "[[window]]\nrange = \"22:00-23:00\"\n\
            [[window]]\naction = \"deny\"\ndates = [\"2026-12-24\"]\n";
        let variables = [("REBOOT_WINDOW_START", "Thu 23:00"), ("REBOOT_WINDOW_LENGTH", "1h")];
        let windows = options_of(config, &variables, &[]).unwrap().windows.0;
        let names: Vec<_> = windows.iter().map(|window| window.name.as_str()).collect();
        assert_eq!(names, ["2026-12-24", "Thu 23:00 for 1h"]);
    }

    #[test]
    fn a_flag_wins_over_a_variable() {
        let options = options(&[("REBOOT_STRATEGY", "off")], &["--strategy", "lock"]).unwrap();
        assert_eq!(options.settings.agent.strategy, Strategy::EtcdLock);
    }

    #[test]
    fn half_a_window_or_a_wrong_one_does_not_start() {
        let said = |variables| options(variables, &[]).unwrap_err().to_string();
        assert!(said(&[("REBOOT_WINDOW_START", "23:00")]).contains("go together"));
        assert!(
            said(&[("REBOOT_WINDOW_START", "25:00"), ("REBOOT_WINDOW_LENGTH", "1h")])
                .contains("\"25:00\" is not a time")
        );
        assert!(said(&[("REBOOT_STRATEGY", "maybe")]).contains("allowed are etcd-lock"));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod foreign {
    use std::os::unix::ffi::OsStringExt as _;

    use proptest::prelude::*;
    use rebootlock::config::ConfigError;

    use super::OsString;
    use super::tests::options_from;

    /// All that locksmith and update.conf know.
    const VARIABLES: &[&str] = &[
        "REBOOT_STRATEGY",
        "LOCKSMITHD_REBOOT_STRATEGY",
        "REBOOT_WINDOW_START",
        "REBOOT_WINDOW_LENGTH",
        "LOCKSMITHD_REBOOT_WINDOW_START",
        "LOCKSMITHD_REBOOT_WINDOW_LENGTH",
        "LOCKSMITHD_ENDPOINT",
        "LOCKSMITHD_GROUP",
        "LOCKSMITHD_ETCD_CAFILE",
        "LOCKSMITHD_ETCD_CERTFILE",
        "LOCKSMITHD_ETCD_KEYFILE",
        "LOCKSMITHD_ETCD_USERNAME",
        "LOCKSMITHD_ETCD_PASSWORD",
    ];

    fn value() -> impl Strategy<Value = OsString> {
        const LIKELY: &[&str] = &[
            "off",
            "Reboot",
            "etcd-lock",
            "Thu 23:00",
            "04:00",
            "1h30m",
            "24h",
            "",
            " ",
            "http://127.0.0.1:2379",
            "http://a:1,http://b:2",
            "memory:,http://b",
            "lb",
            "rack 7",
        ];
        prop_oneof![
            3 => prop::sample::select(LIKELY).prop_map(OsString::from),
            1 => prop::collection::vec(1..=255_u8, 0..12).prop_map(OsString::from_vec),
        ]
    }

    proptest! {
        #[test]
        fn variables_of_any_bytes_are_taken_or_refused_by_name(
            variables in prop::collection::btree_map(prop::sample::select(VARIABLES), value(), 0..6)
        ) {
            let set = |name: &str| variables.get(name).is_some_and(|value| {
                !value.to_string_lossy().trim().is_empty()
            });
            let either = |name: &str| set(name) || set(&format!("LOCKSMITHD_{name}"));
            match options_from(&variables, &[]) {
                Ok(options) => {
                    // Nothing that was said is passed over in silence.
                    let (start, length) = (either("REBOOT_WINDOW_START"), either("REBOOT_WINDOW_LENGTH"));
                    prop_assert_eq!(start, length);
                    prop_assert_eq!(options.windows.0.len(), usize::from(start));
                    if either("REBOOT_STRATEGY") {
                        let name = variables.get("LOCKSMITHD_REBOOT_STRATEGY").filter(|_| set("LOCKSMITHD_REBOOT_STRATEGY"))
                            .or(variables.get("REBOOT_STRATEGY")).unwrap().to_string_lossy().trim().to_lowercase();
                        let name = if name == "lock" { "etcd-lock" } else { name.as_str() };
                        prop_assert_eq!(options.settings.agent.strategy.as_str(), name);
                    } else {
                        prop_assert_eq!(options.settings.agent.strategy.as_str(), "etcd-lock");
                    }
                    prop_assert!(!options.settings.store.endpoints.is_empty());
                }
                Err(error) => {
                    prop_assert!(matches!(error, ConfigError::Setting { .. }), "{:?}", error);
                    let said = error.to_string();
                    prop_assert!(!said.contains('\n'), "{}", said);
                }
            }
        }
    }
}
