//! `[reboot]`: how this machine goes down, and when it counts as back.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::table::{Count, Fault, Secs};
use super::variables::Template;

/// Longest time that can be set: a mistyped zero should be noticed.
const WEEK: u64 = 7 * 24 * 60 * 60;

/// `[reboot]` as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RebootFragment {
    method: Option<Method>,
    command: Option<Spanned<Vec<Spanned<String>>>>,
    command_timeout_secs: Option<Secs<1, 86_400>>,
    min_uptime_secs: Option<Secs<0, WEEK>>,
    verify_successes: Option<Count<1, 100>>,
    verify_interval_secs: Option<Secs<1, 86_400>>,
    give_up_after_secs: Option<Secs<1, WEEK>>,
    settle_secs: Option<Secs<0, WEEK>>,
    max_attempts: Option<Count<1, 100>>,
    on_overdue: Option<OnOverdue>,
    overdue_after_secs: Option<Secs<60, WEEK>>,
    release_budget: Option<Count<0, 1000>>,
    force_after_secs: Option<Secs<0, WEEK>>,
    announce: Option<Announce>,
}

/// As it is written; what belongs to it is in [`RebootMethod`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Method {
    #[default]
    Logind,
    Command,
    SoftReboot,
    Kexec,
}

/// `[reboot]`, decided.
#[derive(Debug, Clone, PartialEq)]
pub struct RebootSettings {
    /// How this machine goes down.
    pub method: RebootMethod,
    /// A machine that has been up for less does not count as back.
    pub min_uptime: Duration,
    /// It counts as back after its checks have passed this often without a failure between.
    pub verify_successes: u32,
    /// Between two rounds of checks.
    pub verify_interval: Duration,
    /// Still not back so long after it came up, the machine has failed: the slot stays.
    pub give_up_after: Duration,
    /// Wait so long once everything has passed, before the slot is given back.
    pub settle: Duration,
    /// After so many reboots for the same reason, which still stands, the machine is blocked.
    pub max_attempts: u32,
    /// What becomes of the slot of a machine that is overdue.
    pub on_overdue: OnOverdue,
    /// Not back so long after it should have been, a machine is overdue.
    pub overdue_after: Duration,
    /// So many slots of overdue machines may be given back in a day.
    pub release_budget: u32,
    /// Inhibitors are passed over once they have stood in the way for so long; never by default.
    pub force_after: Option<Duration>,
    /// Who tells users that the machine reboots.
    pub announce: Announce,
}

/// Who tells users that the machine reboots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Announce {
    /// logind, as for a scheduled shutdown: again and again, and on the way in. Where it does not, the
    /// agent does.
    #[default]
    Logind,
    /// The agent, once, on the terminals of those who are logged in.
    Terminals,
}

/// How a machine goes down.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum RebootMethod {
    /// systemd-logind reboots it.
    #[default]
    Logind,
    /// This command does.
    Command {
        /// Program and arguments, with variables in them.
        argv: Vec<Template>,
        /// When the command must have ended. Whether the machine goes down is another matter.
        timeout: Duration,
    },
    /// logind restarts everything but the kernel.
    SoftReboot,
    /// logind starts the kernel that was loaded, without the firmware.
    Kexec,
}

/// What becomes of the slot of a machine that is overdue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnOverdue {
    /// It stays until the machine or a person gives it back.
    #[default]
    Hold,
    /// It is given back, as long as there is a budget for that.
    Release,
}

impl RebootFragment {
    /// Checks the command, argument by argument: an error is said at its place.
    pub(super) fn check(self) -> Result<Self, Fault> {
        if let Some(command) = &self.command {
            let Some(program) = command.get_ref().first() else {
                return Err(Fault::at(command, "`command` must name a program"));
            };
            if program.get_ref().trim().is_empty() {
                return Err(Fault::at(program, "`command` must name a program, not a blank"));
            }
            let mut before = "";
            for argument in command.get_ref() {
                let text = argument.get_ref();
                template(text).map_err(|problem| Fault::at(argument, problem))?;
                if is_of_a_shell(before) && text.contains("${REBOOTLOCK_REASON}") {
                    let problem = "`command`: ${REBOOTLOCK_REASON} in a script after `-c` would run as \
                                   part of it, whoever wrote the reason; the shell has it as a \
                                   variable: \\\"$REBOOTLOCK_REASON\\\", with the quotes and without \
                                   braces";
                    return Err(Fault::at(argument, problem));
                }
                before = text;
            }
        }
        Ok(self)
    }

    /// This layer with `over` laid on top of it.
    pub(super) fn overlaid(self, over: Self) -> Self {
        macro_rules! overlay {
            ($($member:ident),+) => { Self { $($member: over.$member.or(self.$member)),+ } };
        }
        overlay!(
            method,
            command,
            command_timeout_secs,
            min_uptime_secs,
            verify_successes,
            verify_interval_secs,
            give_up_after_secs,
            settle_secs,
            max_attempts,
            on_overdue,
            overdue_after_secs,
            release_budget,
            force_after_secs,
            announce
        )
    }
}

#[cfg(test)]
impl RebootFragment {
    /// Without what has no default: the file for new machines shows an example of it.
    pub(super) fn without_examples(self) -> Self {
        assert!(self.command.is_some() && self.force_after_secs.is_some());
        Self { command: None, force_after_secs: None, ..self }
    }
}

impl RebootSettings {
    /// What belongs together may come from several files, so it is checked last.
    pub(super) fn decide(fragment: RebootFragment) -> Result<Self, ConfigError> {
        let method = fragment.method.unwrap_or_default();
        let fault = |setting, problem: &str| Err(ConfigError::of_setting(setting, problem));
        let method = match (method, fragment.command) {
            (Method::Command, Some(command)) => RebootMethod::Command {
                argv: (command.get_ref().iter())
                    .map(|argument| template(argument.get_ref()))
                    .collect::<Result<_, _>>()
                    .map_err(|problem| ConfigError::of_setting("reboot.command", problem))?,
                timeout: fragment.command_timeout_secs.map_or(secs(300), Secs::get),
            },
            (Method::Command, None) => {
                return fault("reboot.command", "method = \"command\" needs a command to run");
            }
            (_, Some(_)) => {
                let problem = "a command is run by method = \"command\" alone; set that, or take the \
                               command out";
                return fault("reboot.command", problem);
            }
            (Method::Logind, None) => RebootMethod::Logind,
            (Method::SoftReboot, None) => RebootMethod::SoftReboot,
            (Method::Kexec, None) => RebootMethod::Kexec,
        };
        let release_budget = fragment.release_budget.map_or(0, number);
        let on_overdue = fragment.on_overdue.unwrap_or_default();
        if on_overdue == OnOverdue::Release && release_budget == 0 {
            let problem = "on_overdue = \"release\" releases nothing with a release_budget of 0; set \
                           how many slots a day may be given back";
            return fault("reboot.release_budget", problem);
        }
        Ok(Self {
            method,
            min_uptime: fragment.min_uptime_secs.map_or(secs(0), Secs::get),
            verify_successes: fragment.verify_successes.map_or(1, number),
            verify_interval: fragment.verify_interval_secs.map_or(secs(10), Secs::get),
            give_up_after: fragment.give_up_after_secs.map_or(secs(1800), Secs::get),
            settle: fragment.settle_secs.map_or(secs(0), Secs::get),
            max_attempts: fragment.max_attempts.map_or(1, number),
            on_overdue,
            overdue_after: fragment.overdue_after_secs.map_or(secs(3600), Secs::get),
            release_budget,
            force_after: fragment.force_after_secs.map(Secs::get),
            announce: fragment.announce.unwrap_or_default(),
        })
    }
}

/// Whether what follows is a script, as after `-c` or `-ec`.
fn is_of_a_shell(argument: &str) -> bool {
    let flags = argument.strip_prefix('-').filter(|flags| !flags.starts_with('-'));
    flags.is_some_and(|flags| flags.ends_with('c'))
}

/// Only variables of ours are seen; everything else stays as it is.
fn template(argument: &str) -> Result<Template, String> {
    if argument.contains('\0') {
        return Err("`command` must not have a zero byte in it".to_owned());
    }
    Template::parse(argument).map_err(|error| error.to_string())
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// All bounds are far below.
fn number<const MIN: u64, const MAX: u64>(count: Count<MIN, MAX>) -> u32 {
    u32::try_from(count.get()).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::super::{Fragment, Isolation, Settings};
    use super::*;

    fn decide(text: &str) -> Result<Settings, ConfigError> {
        Settings::decide(Fragment::parse(Path::new("test.toml"), text)?)
    }

    #[test]
    fn nothing_configured_reboots_by_logind_and_holds_what_is_overdue() {
        let settings = decide("").unwrap();
        assert_eq!(settings.reboot.method, RebootMethod::Logind);
        assert_eq!(settings.reboot.on_overdue, OnOverdue::Hold);
        assert_eq!(settings.reboot.force_after, None);
        assert_eq!(settings.hooks.timeout, secs(600));
        assert_eq!(settings.hooks.isolation, Isolation::Auto);
    }

    #[test]
    fn only_variables_of_ours_are_seen_in_a_command() {
        let text = "[reboot]\nmethod = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \
                    \"for i in 1 2; do echo $i $$ $(id) ${HOME} x${REBOOTLOCK_HOSTNAME}; done\"]";
        let RebootMethod::Command { argv, timeout } = decide(text).unwrap().reboot.method else {
            panic!("another method")
        };
        let said = argv[2].expand(|name| format!("<{name}>"));
        assert_eq!(said, "for i in 1 2; do echo $i $$ $(id) ${HOME} x<REBOOTLOCK_HOSTNAME>; done");
        assert_eq!(timeout, secs(300));
    }

    #[test]
    fn bad_values_are_named_with_their_place_and_what_is_allowed() {
        for (text, said) in [
            (
                "[reboot]\nmethod = \"loginds\"",
                "test.toml:2:10: `method`: unknown value `loginds`; did you mean `logind`? (allowed: \
                 `logind`, `command`, `soft-reboot`, `kexec`)",
            ),
            (
                "[reboot]\nmethod = \"command\"\ncommand = [\"/bin/a\", \"${RC_NODENAME}\"]",
                "test.toml:3:22: `command`: there is no variable `${RC_NODENAME}`; did you mean \
                 `${RC_NODE_NAME}`?",
            ),
            ("[reboot]\ncommand = []", "test.toml:2:11: `command` must name a program"),
            (
                "[reboot]\ncommand = [\" \"]",
                "test.toml:2:12: `command` must name a program, not a blank",
            ),
            (
                "[reboot]\nmethod = \"command\"\ncommand = [\"bash\", \"-ec\", \"a ${REBOOTLOCK_REASON}\"]",
                "test.toml:3:28: `command`: ${REBOOTLOCK_REASON} in a script after `-c` would run as part \
                 of it, whoever wrote the reason; the shell has it as a variable: \
                 \\\"$REBOOTLOCK_REASON\\\", with the quotes and without braces",
            ),
            (
                "[reboot]\nverify_successes = 0",
                "test.toml:2:20: `verify_successes`: 0 is not from 1 to 100",
            ),
            (
                "[reboot]\nmax_attempts = 101",
                "test.toml:2:16: `max_attempts`: 101 is not from 1 to 100",
            ),
            (
                "[reboot]\nsettle_secs = -1",
                "test.toml:2:15: `settle_secs`: -1 is not from 0 to 604800",
            ),
            (
                "[reboot]\non_overdue = \"keep\"",
                "test.toml:2:14: `on_overdue`: unknown value `keep`; allowed are `hold`, `release`",
            ),
            (
                "[hooks]\ntimeout_secs = 0",
                "test.toml:2:16: `timeout_secs`: 0 is not from 1 to 86400",
            ),
            (
                "[hooks]\ntimeout_secs = 86401",
                "test.toml:2:16: `timeout_secs`: 86401 is not from 1 to 86400",
            ),
            (
                "[hooks]\npre_reboot_dir = \"hooks\"",
                "test.toml:2:18: `pre_reboot_dir`: \"hooks\" is not a full path; expected one that begins with /",
            ),
            (
                "[hooks]\nisolation = \"units\"",
                "test.toml:2:13: `isolation`: unknown value `units`; did you mean `unit`? (allowed: `auto`, \
                 `unit`, `process-group`)",
            ),
            (
                "[hooks]\npre_reboot = \"/x\"",
                "test.toml:2:1: unknown key `pre_reboot` in [hooks]; did you mean \
                 `pre_reboot_dir`?",
            ),
        ] {
            assert_eq!(decide(text).unwrap_err().to_string(), said, "{text}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for (text, setting) in [
            ("[reboot]\nmethod = \"command\"", "reboot.command"),
            ("[reboot]\ncommand = [\"/bin/true\"]", "reboot.command"),
            ("[reboot]\nmethod = \"kexec\"\ncommand = [\"/bin/true\"]", "reboot.command"),
            ("[reboot]\non_overdue = \"release\"", "reboot.release_budget"),
        ] {
            let error = decide(text).unwrap_err().to_string();
            assert!(
                error.starts_with("test.toml:") && error.contains(&format!(": {setting}: ")),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_drop_in_adds_to_what_was_set() {
        let parse = |text| Fragment::parse(Path::new("test.toml"), text).unwrap();
        let below =
            parse("[reboot]\nmethod = \"command\"\nmax_attempts = 5\n[hooks]\ntimeout_secs = 9");
        let above = parse("[reboot]\ncommand = [\"/bin/true\"]\n[hooks]\nisolation = \"unit\"");
        let settings = Settings::decide(below.overlaid(above)).unwrap();
        assert!(matches!(settings.reboot.method, RebootMethod::Command { .. }));
        assert_eq!(settings.reboot.max_attempts, 5);
        assert_eq!(settings.hooks.timeout, secs(9));
        assert_eq!(settings.hooks.isolation, Isolation::Unit);
    }
}
