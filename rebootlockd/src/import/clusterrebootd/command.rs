//! `reboot_command`, and the variables in it.

use rebootlock::config::variables::VARIABLES;

use super::super::Fault;
use super::super::draft::{Draft, list};
use super::fault;
use super::file::At;

pub(super) fn convert(draft: &mut Draft, command: &At<Vec<At<String>>>) -> Result<(), Fault> {
    let words = &command.value;
    if words.first().is_none_or(|program| program.value.trim().is_empty()) {
        return Err(fault(command, "`reboot_command` must name a program"));
    }
    let mut found = Found::default();
    let ours: Vec<String> = words.iter().map(|word| rewrite(&word.value, &mut found)).collect();
    let reboot = draft.table("reboot");
    reboot
        .set("method", "command")
        .note(
            "The command is run outside the daemon, and its exit code is a hint: what counts is \
             whether the machine goes down. method = \"logind\" honours inhibitors and warns users.",
        )
        .set("command", list(ours));
    if !found.unknown.is_empty() {
        reboot.note(format!(
            "{} is no variable that was ever set; it stood for nothing and is left out",
            found.unknown.join(", ")
        ));
    }
    if !found.plain.is_empty() {
        reboot.note(format!(
            "{} stays as it is written, for a shell to see; clusterrebootd replaced it from its own \
             environment, or by nothing",
            found.plain.join(", ")
        ));
    }
    Ok(())
}

/// What looked like a variable.
#[derive(Debug, Default)]
struct Found {
    /// `RC_…` of a name that there never was.
    unknown: Vec<String>,
    /// Any other.
    plain: Vec<String>,
}

/// Theirs replaces `$NAME` and `${NAME}`, ours `${RC_NAME}` alone.
fn rewrite(text: &str, found: &mut Found) -> String {
    let mut ours = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        ours.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, length) = variable(after);
        let whole = &rest[at..at + 1 + length];
        match name {
            Some(name) if VARIABLES.contains(&name) && name.starts_with("RC_") => {
                ours.push_str(&format!("${{{name}}}"));
            }
            // Ours refuses a name of this kind in braces, and theirs had nothing for it.
            Some(name) if name.starts_with("RC_") || is_ours(name, whole) => {
                found.unknown.push(whole.to_owned());
            }
            Some(_) => {
                found.plain.push(whole.to_owned());
                ours.push_str(whole);
            }
            None => ours.push_str(whole),
        }
        rest = &rest[at + 1 + length..];
    }
    found.unknown.dedup();
    found.plain.dedup();
    ours + rest
}

fn is_ours(name: &str, whole: &str) -> bool {
    name.starts_with("REBOOTLOCK_") && whole.starts_with("${")
}

/// The name after a `$`, and how long it is with its braces.
fn variable(after: &str) -> (Option<&str>, usize) {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if let Some(inner) = after.strip_prefix('{') {
        return match inner.find('}') {
            Some(end) => (Some(&inner[..end]), end + 2),
            // The brace alone; what is behind it may hold other variables.
            None if inner.starts_with("RC_") => (Some(inner), inner.len() + 1),
            None => (None, 1),
        };
    }
    let end = after.find(|c| !is_part(c)).unwrap_or(after.len());
    if end > 0 {
        return (Some(&after[..end]), end);
    }
    match after.chars().next() {
        Some(special) if "*#$@!?-".contains(special) => (Some(&after[..1]), 1),
        _ => (None, 0),
    }
}
