//! `reboot_required_detectors`

use super::super::Fault;
use super::super::draft::{Draft, Table, list, quoted};
use super::file::{At, Detector};
use super::{absolute, fault, number};

/// Longest time a detector of ours may take, in seconds.
const LONGEST: u64 = 3_600;

pub(super) fn convert(draft: &mut Draft, detectors: &[At<Detector>]) -> Result<(), Fault> {
    draft
        .add("detector")
        .note("clusterrebootd knows nothing of update-engine; without this table it counts too.")
        .set("type", "update-engine")
        .set("enabled", false);
    let mut names: Vec<String> = Vec::new();
    for at in detectors {
        let detector = &at.value;
        let of_type = detector.r#type.as_ref();
        let of_type = of_type.ok_or_else(|| fault(at, "a detector needs a `type`"))?;
        let table = draft.add("detector");
        let name = name(at)?;
        if names.contains(&name) {
            return Err(fault(at, format!("there is a detector {name:?} already; name this one")));
        }
        let written = match name.as_str() {
            "update-engine" | "request" => {
                table.note(format!("{name:?} is the name of a detector that is built in here"));
                format!("clusterrebootd {name}")
            }
            name => name.to_owned(),
        };
        table.set("name", written);
        names.push(name);
        match of_type.value.trim() {
            "file" => of_file(table, at)?,
            "command" => of_command(table, at)?,
            other => {
                let problem = format!("`type` {other:?} is neither `file` nor `command`");
                return Err(fault(of_type, problem));
            }
        }
    }
    Ok(())
}

/// As clusterrebootd derives it, because its messages carried it.
fn name(at: &At<Detector>) -> Result<String, Fault> {
    let detector = &at.value;
    let given =
        detector.name.as_ref().map(|name| name.value.trim()).filter(|name| !name.is_empty());
    let name = match (given, &detector.path, detector.cmd.as_deref()) {
        (Some(name), _, _) => name.to_owned(),
        (None, Some(path), _) => format!("file:{}", path.value.trim()),
        (None, None, Some([program, ..])) => format!("command:{}", program.value.trim()),
        (None, None, _) => return Err(fault(at, "a detector needs a `path` or a `cmd`")),
    };
    if name.chars().count() > 128 || name.chars().any(char::is_control) {
        let problem = "`name`: at most 128 characters here, none of them control";
        return Err(fault(at, problem));
    }
    Ok(name)
}

fn of_file(table: &mut Table, at: &At<Detector>) -> Result<(), Fault> {
    let detector = &at.value;
    let path = detector.path.as_ref().ok_or_else(|| fault(at, "`path` is missing"))?;
    table.set("type", "file").set("path", absolute("path", path)?);
    for (key, given) in [
        ("cmd", detector.cmd.is_some()),
        ("success_exit_codes", detector.success_exit_codes.is_some()),
        ("timeout_sec", detector.timeout_sec.is_some()),
    ] {
        if given {
            table.note(format!("{key} had no effect on a detector of type `file`"));
        }
    }
    Ok(())
}

fn of_command(table: &mut Table, at: &At<Detector>) -> Result<(), Fault> {
    let detector = &at.value;
    let words = detector.cmd.as_deref().unwrap_or_default();
    let Some(program) = words.first() else { return Err(fault(at, "`cmd` is missing")) };
    let text = program.value.as_str();
    if text.trim().is_empty() || (text.contains('/') && !text.starts_with('/')) {
        let problem = "`cmd` must begin with a full path, or with the name of a program in PATH";
        return Err(fault(program, problem));
    }
    table.set("type", "command").set("command", list(words.iter().map(|word| &*word.value)));
    if let Some(path) = &detector.path {
        let path = quoted(&path.value);
        table.note(format!("path ({path}) had no effect on a detector of type `command`"));
    }
    codes(table, detector)?;
    let timeout = detector.timeout_sec.as_ref().map_or(0, |at| at.value);
    if timeout == 0 {
        table.note("timeout_sec was not set, and so without limit; an hour is the most here.");
    } else if timeout > LONGEST {
        table.note(format!("timeout_sec was {timeout}; {LONGEST} is the most here"));
    }
    let timeout = if timeout == 0 { LONGEST } else { timeout.min(LONGEST) };
    table.set("timeout_secs", number(timeout));
    Ok(())
}

/// `success_exit_codes` are those that mean a reboot. Any other meant none; here only the one in
/// `clear_codes` does, and the rest are failures, which keep this machine from rebooting and are
/// seen.
fn codes(table: &mut Table, detector: &Detector) -> Result<(), Fault> {
    let written = detector.success_exit_codes.as_ref().filter(|codes| !codes.value.is_empty());
    let Some(written) = written else {
        table
            .note(
                "success_exit_codes was empty: any code but 0 meant a reboot, and so did a crash. \
                 That has no safe equal. 1 means a reboot here, 0 means none, and anything else is \
                 a failure that reboots nothing. If the command says yes with other codes, add them.",
            )
            .set("reboot_needed_codes", list([1]))
            .set("clear_codes", list([0]));
        return Ok(());
    };
    let mut needed: Vec<i64> = Vec::new();
    for code in &written.value {
        if !(0..=255).contains(&code.value) {
            table.note(match code.value {
                -1 => "success_exit_codes had -1, death by a signal; that is a failure here"
                    .to_owned(),
                other => format!("success_exit_codes had {other}, with which no program can end"),
            });
        } else if !needed.contains(&code.value) {
            needed.push(code.value);
        }
    }
    if needed.is_empty() {
        let problem =
            "`success_exit_codes` has no code from 0 to 255, with which a program can end";
        return Err(fault(written, problem));
    }
    let clear = [0, 1].into_iter().find(|code| !needed.contains(code));
    table
        .note(
            "success_exit_codes. Every other code meant no reboot, a crash too; here only those in \
             clear_codes do, and the rest are failures. If the command says no with others, add them.",
        )
        .set("reboot_needed_codes", list(needed))
        .set("clear_codes", list(clear));
    Ok(())
}
