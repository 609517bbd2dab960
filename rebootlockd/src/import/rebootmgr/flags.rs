//! The flags of SysEleven's rebootmgr, as a unit or a crontab has them.

use jiff::civil::Date;
use rebootlock::id::Group;

use super::super::draft::{Draft, list, quoted};
use super::super::{Fault, words};
use super::holidays;

/// Years of holidays that are written down.
const YEARS: i16 = 5;

/// Minutes that a task may take unless told otherwise.
const TASK_TIMEOUT: u64 = 120;

/// What a flag means.
#[derive(Debug, Default)]
struct Flags {
    triggers: bool,
    dry_run: bool,
    check_uptime: bool,
    holidays: bool,
    ignore_failed_checks: bool,
    verbose: usize,
    group: Option<String>,
    task_timeout: Option<u64>,
}

/// Whether the line starts rebootmgr.
pub(super) fn is_command(line: &str) -> bool {
    let line = line.strip_prefix("ExecStart=").unwrap_or(line);
    let program = line.split_whitespace().next().unwrap_or_default();
    let program = program.trim_start_matches(['-', '@', '+', '!', ':']);
    program == "rebootmgr" || program.ends_with("/rebootmgr")
}

pub(super) fn convert(text: &str, today: Date) -> Result<Draft, Fault> {
    let mut draft = Draft::new("rebootmgr");
    let mut commands =
        (1..).zip(joined(text)).filter(|(_, (_, line))| is_command(line)).map(|(_, line)| line);
    let Some((number, line)) = commands.next() else {
        return Err(Fault::new(1, 1, "no line starts rebootmgr"));
    };
    if let Some((number, _)) = commands.next() {
        return Err(Fault::new(number, 1, "a second line starts rebootmgr; import one at a time"));
    }
    if text.lines().count() > 1 {
        draft.note(
            "of the unit only the line that starts rebootmgr was read. rebootlockd brings a unit of \
             its own, and needs no timer",
        );
    }
    let flags = read(&line, number, &mut draft)?;
    settle(&mut draft, &flags, today);
    Ok(draft)
}

/// Lines and where they begin, those put together that end with a backslash.
fn joined(text: &str) -> Vec<(u64, String)> {
    let mut lines: Vec<(u64, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        let (part, continues) =
            line.strip_suffix('\\').map_or((line, false), |part| (part.trim_end(), true));
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, last)) => {
                last.push(' ');
                last.push_str(part);
            }
            None => lines.push((number, part.to_owned())),
        }
        goes_on = continues;
    }
    lines
}

fn read(line: &str, number: u64, draft: &mut Draft) -> Result<Flags, Fault> {
    let at = |problem: String| Fault::new(number, 1, problem);
    let words =
        words::split(line).map_err(|unclosed| at(format!("the {} is not closed", unclosed.0)))?;
    let mut flags = Flags::default();
    let mut words = words.into_iter().skip(1);
    while let Some(word) = words.next() {
        let (name, mut inline) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => {
                (name.to_owned(), Some(value.to_owned()))
            }
            _ => (word.clone(), None),
        };
        // Letters may stand together.
        let letters = name.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
        if let Some(letters) = letters {
            for letter in letters.chars() {
                match letter {
                    'v' => flags.verbose += 1,
                    'n' => flags.dry_run = true,
                    'u' => flags.check_uptime = true,
                    's' => ignores_stop(draft),
                    'l' => ignores_disabled(draft),
                    other => return Err(at(format!("unknown flag -{other}"))),
                }
            }
            continue;
        }
        let mut value = || {
            let value = inline.take().or_else(|| words.next());
            value.ok_or_else(|| at(format!("{name} needs a value")))
        };
        match name.as_str() {
            "--check-triggers" => flags.triggers = true,
            "--dryrun" => flags.dry_run = true,
            "--check-uptime" => flags.check_uptime = true,
            "--check-holidays" => flags.holidays = true,
            "--ignore-failed-checks" => flags.ignore_failed_checks = true,
            "--ignore-stop-flag" => ignores_stop(draft),
            "--ignore-node-disabled" => ignores_disabled(draft),
            "--post-reboot-wait-until-healthy" => draft.note(
                "--post-reboot-wait-until-healthy: that is how it is here. Gates of phase \"verify\" \
                 are asked again until they are open; after give_up_after_secs the machine counts as \
                 failed, and its slot stays",
            ),
            "--lazy-consul-checks" => draft.note(
                "--lazy-consul-checks: there is no wait of 130 s. Gates are asked before a slot is \
                 asked for, and again with it",
            ),
            "--skip-reboot-in-progress-key" => draft.note(
                "--skip-reboot-in-progress-key has no equal: who is rebooting is always written down",
            ),
            "--maintenance-reason" => {
                let reason = quoted(&value()?);
                draft.note(format!(
                    "--maintenance-reason {reason} has no equal: put `consul maint -enable` into a \
                     pre-reboot hook and `consul maint -disable` into a post-reboot hook"
                ));
            }
            "--stop-reason" => {
                let reason = quoted(&value()?);
                draft.note(format!("--stop-reason {reason}: see `rebootlockctl pause --reason`"));
            }
            "--consul" | "--consul-port" => {
                let value = quoted(&value()?);
                draft.note(format!("{name} {value}: say where the lock lives in [store]"));
            }
            "--set-global-stop-flag" | "--unset-global-stop-flag" => {
                let value = quoted(&value()?);
                draft.note(format!("{name} {value}: see `rebootlockctl pause` and `resume`"));
            }
            "--set-group-stop-flag" | "--unset-group-stop-flag" => {
                draft.note(format!("{name}: see `rebootlockctl --group NAME pause` and `resume`"));
            }
            "--set-local-stop-flag" | "--unset-local-stop-flag" => {
                draft.note(format!("{name}: see `rebootlockctl hold` and `unhold`"));
            }
            "--ensure-config" => {
                draft.note("--ensure-config has no equal: there is nothing to be made beforehand");
            }
            "--group" => flags.group = Some(value()?),
            "--task-timeout" => {
                let text = value()?;
                let minutes = text.parse().ok().filter(|minutes| *minutes > 0);
                let wrong = || at(format!("--task-timeout: {text:?} is not a number of minutes"));
                flags.task_timeout = Some(minutes.ok_or_else(wrong)?);
            }
            other => return Err(at(format!("unknown flag or word {other}"))),
        }
        if let Some(value) = inline {
            return Err(at(format!("{name} takes no value, and was given {value:?}")));
        }
    }
    if let Some(group) = &flags.group {
        Group::new(group.as_str()).map_err(|error| at(format!("--group: {error}")))?;
    }
    Ok(flags)
}

fn ignores_stop(draft: &mut Draft) {
    draft.note("--ignore-stop-flag has no equal: a pause always counts");
}

fn ignores_disabled(draft: &mut Draft) {
    draft.note("--ignore-node-disabled has no equal: strategy = \"off\" and `hold` always count");
}

fn settle(draft: &mut Draft, flags: &Flags, today: Date) {
    if flags.dry_run {
        draft
            .table("agent")
            .note("--dryrun is a flag here too, `rebootlockd run --dry-run`; until then nothing reboots.")
            .set("strategy", "off");
    }
    if let Some(group) = &flags.group {
        draft.table("machine").set("groups", list([group.as_str()]));
    }
    if flags.holidays {
        let mut days = Vec::new();
        for year in today.year()..today.year() + YEARS {
            days.extend(holidays::of(year).into_iter().filter(|day| *day >= today));
        }
        draft
            .add("window")
            .set("action", "deny")
            .set("name", "public holidays of Germany")
            .note(format!(
                "--check-holidays: those of all of Germany up to {}. Write more in time, or name an \
                 iCalendar file: holidays = \"/etc/rebootlock/holidays.ics\".",
                today.year() + YEARS - 1
            ))
            .set("dates", list(days.iter().map(ToString::to_string)));
    }
    if flags.triggers {
        draft
            .add("detector")
            .note(
                "--check-triggers: the file. The key reboot_required in Consul becomes `rebootlockctl \
                 request`, which always counts.",
            )
            .set("type", "file")
            .set("path", "/var/run/reboot-required");
    } else {
        draft.note(
            "without --check-triggers each start of rebootmgr asked for a reboot. Here `rebootlockctl \
             request` does, or a detector",
        );
    }
    if flags.ignore_failed_checks {
        draft.note("--ignore-failed-checks: no gate is written for the checks in Consul");
    } else {
        draft
            .add("gate")
            .note(
                "The checks of services in Consul, and of its members, have no equal. This gate stays \
                 shut, and nothing reboots, until there is a program that asks Consul and exits with 0 \
                 if all is well; or take it out, see docs/gates.md.",
            )
            .set("name", "consul")
            .set("type", "script")
            .set("command", list(["/etc/rebootlock/consul-checks"]));
    }
    let minutes = flags.task_timeout.unwrap_or(TASK_TIMEOUT);
    let seconds = minutes.saturating_mul(60);
    let hooks = draft.table("hooks");
    hooks
        .note(
            "Tasks become hooks. What is not executable is skipped with a warning, and in a dry run \
             REBOOTLOCK_DRY_RUN is set, not REBOOTMGR_DRY_RUN. A pre-reboot hook that fails has those \
             before it undone by post-reboot hooks of the same names, and the slot given back.",
        )
        .set("pre_reboot_dir", "/etc/rebootmgr/pre_boot_tasks")
        .set("post_reboot_dir", "/etc/rebootmgr/post_boot_tasks");
    if seconds > 86_400 {
        hooks.note(format!("--task-timeout was {minutes} minutes; a day is the most here"));
    }
    hooks.set("timeout_secs", i64::try_from(seconds.min(86_400)).unwrap_or(86_400));
    if flags.check_uptime {
        draft
            .table("reboot")
            .note("--check-uptime: not back two hours after it came up, a machine has failed.")
            .set("give_up_after_secs", 7_200);
    }
    match flags.verbose {
        0 => {}
        1 => {
            draft.table("log").set("level", "info");
        }
        _ => {
            draft.table("log").set("level", "debug");
        }
    }
    draft.note(
        "Consul's keys become the store's: stop flags are `rebootlockctl pause`, reboot_in_progress \
         is the slot, and a node's `enabled` is imported from its JSON",
    );
    draft.note(
        "`shutdown -r +1` becomes systemd-logind, which reboots at once but asks programs that \
         inhibit a shutdown and warns users first",
    );
}
