//! locksmith's variables: Flatcar's update.conf, or the environment file of its unit.

use std::collections::BTreeMap;

use rebootlock::id::Group;
use rebootlock::store::Endpoint;
use rebootlock::window::{InvalidWindow, Locksmith};

use super::draft::{Draft, list, quoted};
use super::{Fault, words};

/// What the daemon reads, without its prefix.
const OPTIONS: [&str; 11] = [
    "ENDPOINT",
    "ETCD_CAFILE",
    "ETCD_CERTFILE",
    "ETCD_KEYFILE",
    "ETCD_USERNAME",
    "ETCD_PASSWORD",
    "GROUP",
    "DEBUG",
    "REBOOT_STRATEGY",
    "REBOOT_WINDOW_START",
    "REBOOT_WINDOW_LENGTH",
];

/// What stands in update.conf for update-engine.
const UPDATE_ENGINE: [&str; 8] = [
    "GROUP",
    "SERVER",
    "DOWNLOAD_USER",
    "DOWNLOAD_PASSWORD",
    "MACHINE_ALIAS",
    "MACHINE_APPID",
    "PCR_POLICY_SERVER",
    "COREOS_RELEASE_APPID",
];

/// Where the password goes that a file for everybody should not hold.
const PASSWORD_FILE: &str = "/etc/rebootlock/password";

/// A value and its line.
type Variables = BTreeMap<String, (u64, String)>;

pub(super) fn convert(text: &str) -> Result<Draft, Fault> {
    let mut draft = Draft::new("locksmith");
    draft.note(
        "rebootlockd reads REBOOT_STRATEGY, REBOOT_WINDOW_* and LOCKSMITHD_* itself, as its unit \
         loads update.conf, and they win over files. Take them out there to have this file decide",
    );
    let variables = read(text, &mut draft)?;
    let of_daemon = |name: &str| variables.get(&format!("LOCKSMITHD_{name}"));
    store(&mut draft, &of_daemon)?;
    if let Some((line, group)) = of_daemon("GROUP") {
        let key = "LOCKSMITHD_GROUP";
        Group::new(group.as_str()).map_err(|error| at(*line, format!("{key}: {error}")))?;
        draft.table("machine").set("groups", list([group.as_str()]));
    }
    let either = |name: &str| of_daemon(name).or_else(|| variables.get(name));
    strategy(&mut draft, either("REBOOT_STRATEGY"))?;
    window(&mut draft, either("REBOOT_WINDOW_START"), either("REBOOT_WINDOW_LENGTH"))?;
    if let Some((line, value)) = of_daemon("DEBUG") {
        match value.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" => {
                draft.table("log").set("level", "debug");
            }
            "0" | "f" | "false" => {}
            _ => {
                let problem = format!("LOCKSMITHD_DEBUG: {value:?} is neither true nor false");
                return Err(at(*line, problem));
            }
        }
    }
    others(&mut draft, &variables)?;
    draft.note(
        "who holds what is not carried over: locksmith kept it in etcd's v2 tree, which version 3 \
         does not see. Set the limit with `rebootlockctl set-max`, and change all machines of a \
         group over before the next update",
    );
    Ok(draft)
}

fn at(line: u64, problem: impl Into<String>) -> Fault {
    Fault::new(line, 1, problem)
}

/// The variables of the file. Of two the later wins, as it does for systemd.
fn read(text: &str, draft: &mut Draft) -> Result<Variables, Fault> {
    let mut variables = Variables::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let expected = "expected NAME=VALUE, a comment, or nothing";
        let Some((name, value)) = line.split_once('=') else {
            return Err(at(number, format!("{line:?}: {expected}")));
        };
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_part) {
            return Err(at(number, format!("{name:?} is no name of a variable; {expected}")));
        }
        let words = words::split(value)
            .map_err(|unclosed| at(number, format!("{name}: the {} is not closed", unclosed.0)))?;
        let value = words.join(" ");
        if let Some((before, _)) = variables.get(name) {
            draft
                .note(format!("{name} of line {before} does not count: line {number} has another"));
        }
        variables.insert(name.to_owned(), (number, value));
    }
    // Set to nothing is not set.
    variables.retain(|_, (_, value)| !value.trim().is_empty());
    Ok(variables)
}

fn store<'a>(
    draft: &mut Draft,
    variable: &impl Fn(&str) -> Option<&'a (u64, String)>,
) -> Result<(), Fault> {
    if let Some((line, endpoints)) = variable("ENDPOINT") {
        let mut urls = Vec::new();
        for url in endpoints.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            url.parse::<Endpoint>()
                .map_err(|error| at(*line, format!("LOCKSMITHD_ENDPOINT: {error}")))?;
            if url.ends_with(":4001") {
                let old = "port 4001 was etcd's in its first years; version 3 is not there";
                draft.table("store").note(old);
            }
            urls.push(url.to_owned());
        }
        if !urls.is_empty() {
            draft.table("store").set("endpoints", list(urls));
        }
    }
    for (name, key) in
        [("ETCD_CAFILE", "ca_file"), ("ETCD_CERTFILE", "cert_file"), ("ETCD_KEYFILE", "key_file")]
    {
        if let Some((line, path)) = variable(name) {
            if !path.starts_with('/') {
                let problem = format!("LOCKSMITHD_{name}: {path:?} is not a full path");
                return Err(at(*line, problem));
            }
            draft.table("store").set(key, path.as_str());
        }
    }
    match (variable("ETCD_CERTFILE"), variable("ETCD_KEYFILE")) {
        (Some((line, _)), None) | (None, Some((line, _))) => {
            let problem = "LOCKSMITHD_ETCD_CERTFILE and LOCKSMITHD_ETCD_KEYFILE go together";
            return Err(at(*line, problem));
        }
        _ => {}
    }
    let (user, password) = (variable("ETCD_USERNAME"), variable("ETCD_PASSWORD"));
    if let (None, Some((line, _))) = (user, password) {
        return Err(at(*line, "LOCKSMITHD_ETCD_PASSWORD without LOCKSMITHD_ETCD_USERNAME"));
    }
    if let Some((_, user)) = user {
        draft
            .table("store")
            .set("username", user.as_str())
            .note(
                "LOCKSMITHD_ETCD_PASSWORD is not repeated here. Write it into this file as its first \
                 line, for root alone (mode 0600).",
            )
            .set("password_file", PASSWORD_FILE);
    }
    Ok(())
}

fn strategy(draft: &mut Draft, written: Option<&(u64, String)>) -> Result<(), Fault> {
    let Some((line, strategy)) = written else {
        draft
            .table("agent")
            .note(
                "REBOOT_STRATEGY was not set, which was \"reboot\" to locksmith: without a lock. The \
                 default here is the safer one.",
            )
            .set("strategy", "etcd-lock");
        return Ok(());
    };
    let strategy = strategy.trim().to_ascii_lowercase();
    if !["etcd-lock", "reboot", "off", "best-effort"].contains(&&*strategy) {
        let allowed = "allowed are etcd-lock, reboot, best-effort, off";
        return Err(at(*line, format!("REBOOT_STRATEGY: {strategy:?} is none; {allowed}")));
    }
    let agent = draft.table("agent");
    if strategy == "best-effort" {
        agent.note(
            "With a slot while the store answers. Locksmith asked whether etcd runs on this machine; \
             here the store must be out of reach for best_effort_wait_secs first.",
        );
    }
    agent.set("strategy", strategy);
    Ok(())
}

fn window(
    draft: &mut Draft,
    start: Option<&(u64, String)>,
    length: Option<&(u64, String)>,
) -> Result<(), Fault> {
    let ((first, start), (second, length)) = match (start, length) {
        (None, None) => return Ok(()),
        (Some((line, _)), None) => {
            return Err(at(*line, InvalidWindow::Half("REBOOT_WINDOW_START").to_string()));
        }
        (None, Some((line, _))) => {
            return Err(at(*line, InvalidWindow::Half("REBOOT_WINDOW_LENGTH").to_string()));
        }
        (Some(start), Some(length)) => (start, length),
    };
    Locksmith::parse(start, length).map_err(|error| match error {
        InvalidWindow::Length { .. } => at(*second, format!("REBOOT_WINDOW_LENGTH: {error}")),
        error => at(*first, format!("REBOOT_WINDOW_START: {error}")),
    })?;
    draft.add("window").set("start", start.as_str()).set("length", length.as_str()).note(
        "In this machine's time zone, as before; `timezone` names another. Looked at again right \
         before the reboot, so min_remaining_secs may be worth setting.",
    );
    Ok(())
}

/// Whatever is not the daemon's. A name nobody knows is an error: it may have been mistyped.
fn others(draft: &mut Draft, variables: &Variables) -> Result<(), Fault> {
    for (name, (line, value)) in variables {
        let of_daemon = name.strip_prefix("LOCKSMITHD_").is_some_and(|it| OPTIONS.contains(&it));
        let bare = name.starts_with("REBOOT_") && OPTIONS.contains(&name.as_str());
        if of_daemon {
            continue;
        }
        if bare {
            if variables.contains_key(&format!("LOCKSMITHD_{name}")) {
                draft.note(format!("{name} does not count beside LOCKSMITHD_{name}"));
            }
            continue;
        }
        if UPDATE_ENGINE.contains(&name.as_str()) {
            draft.note(format!("{name} is for update-engine: leave it where it is"));
        } else if let Some(option) = name.strip_prefix("LOCKSMITHCTL_")
            && OPTIONS[..8].contains(&option)
        {
            let shown =
                if option == "ETCD_PASSWORD" { "a password".to_owned() } else { quoted(value) };
            draft.note(format!(
                "{name} ({shown}) was for locksmithctl. rebootlockctl reads this file too, and that \
                 variable from its environment"
            ));
        } else {
            return Err(at(
                *line,
                format!("unknown key {name}: neither locksmith's nor update-engine's"),
            ));
        }
    }
    Ok(())
}
