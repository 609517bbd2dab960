//! The command line.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use rebootlock::cli::beside::{CompletionsArgs, ManualArgs};
use rebootlock::cli::{CommonArgs, exit};
use rebootlock::duration;
use rebootlock::id::MachineId;

use crate::commands::disruption;

const EXAMPLES: &str = "\
Examples:
  rebootlockctl status                      who holds a slot, who waits, what is paused
  rebootlockctl status --all-groups --watch the same for all groups, redrawn on every change
  rebootlockctl set-max 4                   let four machines be down at once
  rebootlockctl lock web-3 --wait 10m       take a slot for web-3, wait for it if need be
  rebootlockctl unlock web-3                free the slot of a machine that will not come back
  rebootlockctl pause --reason \"bad kernel\" nobody new gets a slot until `resume`
  rebootlockctl hold web-3 --for 2h         that one machine does not reboot before then
  rebootlockctl explain web-3               why it is not rebooting, and what to do
  rebootlockctl history --since 7d          who was down, why, for how long, how it ended
  rebootlockctl doctor                      check everything, and say how to mend it

Exit codes:
  0 done, 1 failed, 2 bad configuration, 3 blocked by a gate (an inhibitor, a cooldown), 4 no slot,
  5 paused or held, 7 holds no slot, 64 wrong command line";

/// Operates the reboot lock of a fleet: who may be down, and how many at once.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: CommonArgs,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show who holds a slot, who waits, and what is paused
    #[command(after_help = "\
Examples:
  rebootlockctl status --group lb
  rebootlockctl status --all-groups --watch
  rebootlockctl status --output json | jq '.[0].holders[] | select(.overdue)'")]
    Status(Status),
    /// Take a slot for this machine, or for the one named
    #[command(after_help = "\
Examples:
  rebootlockctl lock                        this machine, if a slot is free
  rebootlockctl lock --wait 1h30m           wait in the queue for as long
  rebootlockctl lock web-3 --reason \"disk\"  a machine that cannot ask itself")]
    Lock(Lock),
    /// Free the slot of this machine, or of the one named
    #[command(after_help = "\
Examples:
  rebootlockctl unlock web-3
  rebootlockctl unlock --overdue 2h         the forgotten ones, each after asking")]
    Unlock(Unlock),
    /// Hold a slot while a command runs, then give it back
    #[command(after_help = "\
Examples:
  rebootlockctl exec -- ./maintenance.sh
  rebootlockctl exec --wait 1h --group lb -- ansible-playbook upgrade.yml
  rebootlockctl exec --reason \"disk swap\" -- ./swap --password \"$SECRET\"

The whole command line is written into the store as the reason, where everybody who may look at
the lock can read it, in status and afterwards in history. Give a --reason if it has secrets in it,
or keep them in a file.

The exit code is the command's, 128 and its signal, or 127 if it cannot be started. Without a slot
the command is not run, and the code is 4 if none is free or this machine has one already, 3 during
a cooldown, 5 when paused or held, 1 when interrupted or if something failed; it is 1 too if the
slot could not be given back afterwards.

TERM and HUP are passed on to the command, and Ctrl-C reaches it from the terminal; exec waits for
its end. While the slot cannot be given back, any of them ends the trying. The command finds
REBOOTLOCK_MACHINE_ID, REBOOTLOCK_GROUPS and REBOOTLOCK_TOKEN in its environment. When exec itself
is killed, the slot stays, and status shows it as orphaned, with its host.")]
    Exec(Exec),
    /// Set how many machines of a group may be down at once
    #[command(after_help = "\
Examples:
  rebootlockctl set-max 4 --group lb
  rebootlockctl set-max 0                   nobody reboots; holders keep their slots")]
    SetMax {
        /// The new limit; 0: nobody
        #[arg(value_name = "N", value_parser = limit, allow_negative_numbers = true)]
        max: u32,
    },
    /// Take a slot, then reboot this machine
    #[command(after_help = "\
Examples:
  rebootlockctl reboot --reason \"new firmware\"
  rebootlockctl reboot --wait               in turn, however long it takes

The agent on this machine frees the slot when it is back and healthy.")]
    Reboot(Reboot),
    /// Emit update-engine's signal that an update waits for a reboot, to try a set-up
    SendNeedReboot,
    /// Show who waits for a slot, for how long, and what is in the way
    Queue {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        output: Output,
    },
    /// List the groups
    Groups {
        #[command(flatten)]
        output: Output,
    },
    /// Show the machines of the fleet: what each is doing, and whether it is well
    #[command(after_help = "\
A machine whose agent is not there is away. If it will not come back: rebootlockctl forget ID")]
    Machines {
        #[command(flatten)]
        output: Output,
    },
    /// Show why a machine is not rebooting now, and what would have to change
    #[command(after_help = "\
Examples:
  rebootlockctl explain                     this machine
  rebootlockctl explain web-3
  rebootlockctl explain web-3 --output json | jq -r '.reasons[].why'

Exit code 7: nothing is known of that machine.")]
    Explain {
        /// Which machine [default: this one]
        #[arg(value_name = "ID")]
        machine: Option<MachineId>,
        #[command(flatten)]
        output: Output,
    },
    /// Show whether this machine may reboot now, and when its windows open and close
    #[command(after_help = "\
Examples:
  rebootlockctl windows
  rebootlockctl windows --from \"2026-12-24 18:00\" --days 30
  rebootlockctl windows --output json | jq -r .nextStart

Reads the configuration of this machine; no store is asked. The window that REBOOT_WINDOW_START
and REBOOT_WINDOW_LENGTH make is known to the agent alone.")]
    Windows(WindowsArgs),
    /// Let nobody new have a slot
    #[command(after_help = "\
Examples:
  rebootlockctl pause --group lb --reason \"kernel trouble\"
  rebootlockctl pause --fleet --for 8h      all groups, also future ones; ends by itself")]
    Pause {
        /// Why, for others to read
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Everything, not only a group
        #[arg(long)]
        fleet: bool,
        /// End it by itself after so long, as 30s, 5m or 1h30m
        #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
        time: Option<Duration>,
    },
    /// End a pause
    Resume {
        /// The pause of the fleet, not that of a group
        #[arg(long)]
        fleet: bool,
    },
    /// Wish that a machine reboot: its agent takes it from there
    Request {
        /// Which machine
        #[arg(value_name = "ID")]
        machine: MachineId,
        /// Why, for others to read
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Place in the queue: higher goes first
        #[arg(long, value_name = "N", default_value_t = 0)]
        priority: u32,
    },
    /// Take such a wish back
    Cancel {
        /// Which machine
        #[arg(value_name = "ID")]
        machine: MachineId,
    },
    /// Keep one machine from rebooting
    #[command(after_help = "\
Examples:
  rebootlockctl hold web-3 --for 2h --reason \"restoring a backup\"
  rebootlockctl hold --this                 until `unhold`

A machine that is held gets no slot, and no permit to reboot with the one it has. One that has its
permit already goes down all the same, and is held when it is back.")]
    Hold {
        #[command(flatten)]
        target: Target,
        /// End it by itself after so long, as 30s, 5m or 1h30m
        #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
        time: Option<Duration>,
        /// Why, for others to read
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let a machine that is held reboot again
    Unhold {
        #[command(flatten)]
        target: Target,
    },
    /// Show who held a slot, why, for how long, and how it ended; newest last
    #[command(after_help = "\
Examples:
  rebootlockctl history --since 7d --all-groups
  rebootlockctl history --output json | jq '.[] | select(.downForSecs > 600)'

DOWN FOR is the time from the permit to reboot until the slot went back. Slots given back before
anything came of them are not remembered. Each group keeps its newest 1000.")]
    History(History),
    /// Take away what is known of a machine that will not come back
    #[command(after_help = "\
Its place in the roster, its request, its hold, its wish to be disrupted and its places in queues
go. A slot it holds does not: see `unlock`.")]
    Forget {
        /// Which machine
        #[arg(value_name = "ID")]
        machine: MachineId,
        /// Even though its agent is there, or seems to be: one that lives shows itself again within ten
        /// minutes, and enrols again when it starts
        #[arg(long)]
        force: bool,
    },
    /// Show how damaged documents would be mended; write it with --yes
    Repair {
        #[command(flatten)]
        scope: Scope,
        /// Write what is shown
        #[arg(long)]
        yes: bool,
    },
    /// Check everything the lock needs, and say how to mend what is wrong
    Doctor {
        #[command(flatten)]
        output: Output,
    },
    /// Ask a disruption-manager, or a gateway, whether this machine may be disrupted
    #[command(after_help = "\
Examples:
  rebootlockctl disruption request --url https://gateway.example --group web
  rebootlockctl disruption check --url http://manager:6979/api/v1/request --machine-file mdb.json

For subd, whose -disruptionManager names a program that is run with one word, make one:
  #!/bin/sh
  exec rebootlockctl disruption \"$1\" --url https://gateway.example --machine-file /etc/mdb.json

Exit codes: 0 permitted, 1 requested, 2 denied, 3 it could not be asked, 64 wrong command line,
or this help. After a cancel the answer is denied.")]
    Disruption(disruption::Args),
    /// Print a completion script for a shell
    #[command(after_help = "\
Example:
  rebootlockctl completions bash > /usr/share/bash-completion/completions/rebootlockctl")]
    Completions(CompletionsArgs),
    /// Write the manual pages of this program into a folder
    #[command(hide = true)]
    Manual(ManualArgs),
}

/// Whether a command line, right or wrong, is one of `disruption`: there 0 means that the machine may be
/// disrupted, and a help text does not say that.
pub(crate) fn is_of_disruption(line: impl IntoIterator<Item = OsString>) -> bool {
    let command = Cli::command().ignore_errors(true).disable_help_flag(true);
    let said = command.disable_version_flag(true).try_get_matches_from(line);
    said.is_ok_and(|said| said.subcommand_name() == Some("disruption"))
}

impl Command {
    /// The exit code where not even the beginning can be made.
    pub(crate) fn cannot_start(&self) -> u8 {
        match self {
            Self::Disruption(_) => disruption::NOT_ASKED,
            _ => exit::FAILED,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// Stay, and show it again whenever the store changes; Ctrl-C ends it
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WindowsArgs {
    /// As if it were then, as 2026-12-24 or "2026-12-24 18:00" [default: now]
    #[arg(long, value_name = "DATETIME")]
    pub(crate) from: Option<String>,
    /// How many days are shown
    #[arg(long, value_name = "N", default_value_t = 14, value_parser = clap::value_parser!(u16).range(1..=366))]
    pub(crate) days: u16,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Lock {
    /// Which machine [default: this one]
    #[arg(value_name = "ID")]
    pub(crate) machine: Option<MachineId>,
    /// Why, for others to read
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Why, for everybody to read [default: the whole command line]
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Unlock {
    /// Which machine [default: this one]
    #[arg(value_name = "ID")]
    pub(crate) machine: Option<MachineId>,
    /// All that hold a slot for longer than this and are not expected back later
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "machine")]
    pub(crate) overdue: Option<Duration>,
    /// Free them without asking
    #[arg(long, requires = "overdue")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Reboot {
    /// Why, for others to read
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Wait in the queue for so long, as 30s, 5m or 1h30m; without a duration, for ever
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "forever", value_parser = patience)]
    pub(crate) wait: Option<Patience>,
}

/// Which machine a command is about; it has to be said.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// Which machine
    #[arg(value_name = "ID")]
    pub(crate) machine: Option<MachineId>,
    /// This machine
    #[arg(long)]
    pub(crate) this: bool,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// Only what ended so long ago at most, as 12h or 7d
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub(crate) since: Option<Duration>,
    #[command(flatten)]
    pub(crate) scope: Scope,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Scope {
    /// All groups, not only those named by --group
    #[arg(long)]
    pub(crate) all_groups: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// For people, or for programs
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// How long to wait for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    For(Duration),
    Forever,
}

fn patience(text: &str) -> Result<Patience, String> {
    match text {
        "forever" => Ok(Patience::Forever),
        text => duration::parse(text).map(Patience::For),
    }
}

/// Something that ends by itself lasts for a while.
pub(crate) fn lasting(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        time => Ok(time),
    }
}

fn limit(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| match text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        true => format!("max must be {} or less", u32::MAX),
        false => "max must be 0 or more".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn limits_are_whole_numbers_from_zero_up() {
        assert_eq!(limit("0"), Ok(0));
        for wrong in ["-3", "x", "", "1.5", "+"] {
            assert_eq!(limit(wrong), Err("max must be 0 or more".to_owned()), "{wrong}");
        }
        assert!(limit("4294967296").is_err());
    }

    #[test]
    fn whom_to_hold_has_to_be_said() {
        let hold = |args: &[&str]| Cli::try_parse_from([&["ctl", "hold"], args].concat());
        for wrong in [&[][..], &["a", "--this"], &["a", "--for", "0"], &["a", "--for", "2"]] {
            assert!(hold(wrong).is_err(), "{wrong:?}");
        }
        for right in [&["a"][..], &["--this"], &["a", "--for", "2h"]] {
            assert!(hold(right).is_ok(), "{right:?}");
        }
    }

    #[test]
    fn waiting_without_a_duration_is_for_ever() {
        let wait = |args: &[&str]| match Cli::try_parse_from(args).map(|cli| cli.command) {
            Ok(Command::Lock(lock)) => lock.wait.wait,
            _ => None,
        };
        assert_eq!(wait(&["ctl", "lock"]), None);
        assert_eq!(wait(&["ctl", "lock", "m", "--wait"]), Some(Patience::Forever));
        let five = Patience::For(Duration::from_secs(300));
        assert_eq!(wait(&["ctl", "lock", "--wait", "5m"]), Some(five));
        assert!(Cli::try_parse_from(["ctl", "lock", "--wait", "web-3"]).is_err());
    }
}
