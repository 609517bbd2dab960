//! goahead's `config.yml` and the files with clusters in its `include_dir`.
//!
//! Everything that goahead takes silently and means otherwise is said: as a comment where it can be
//! kept, as an error where it cannot.

mod file;
mod pattern;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use rebootlock::config::{CommandLine, Pattern, comment};
use rebootlock::id::Group;
use toml::Value;

use self::file::{At, Cluster, Contents, Main};
use super::{Converted, ImportError};
use crate::goahead::duration::GoDuration;

/// Where the store is if goahead was not told where to keep its state: its own default is a folder
/// that everybody may write to and a reboot empties.
const STORE: &str = "/var/lib/rebootlock-gateway/lock.db";

/// So many seconds are the most between two checks.
const LONGEST_INTERVAL: i64 = 86_400;

/// What is wrong, after its line and column.
type Fault = String;

/// Our configuration for all files together.
///
/// # Errors
/// [`ImportError`] names the file and the place in it.
pub(super) fn convert(files: &[(PathBuf, String)]) -> Result<Converted, ImportError> {
    let mut ours = Ours::default();
    let mut clusters: Vec<(String, Cluster, PathBuf)> = Vec::new();
    let mut more = Vec::new();
    for (path, text) in files {
        let wrong = |problem| ImportError::Fault { path: path.clone(), problem };
        match file::read(text).map_err(wrong)? {
            Contents::Main(main, unknown) => {
                ours.has_main = true;
                ours.unknown(path, "", &unknown);
                convert_main(&mut ours, &main).map_err(wrong)?;
                let folder = main.include_dir.as_ref().filter(|at| !at.value.is_empty());
                if let Some(folder) = folder {
                    let folder = full(&folder.value);
                    let found = included(&folder, &mut ours)?;
                    if found.is_empty() {
                        return Err(ImportError::Fault {
                            path: folder,
                            problem: "no file with clusters in this include_dir (*.yml, *.yaml)"
                                .to_owned(),
                        });
                    }
                    more.extend(found);
                }
            }
            Contents::Clusters(found) => add(&mut ours, &mut clusters, path, found),
        }
    }
    for (path, text) in more {
        let wrong = |problem| ImportError::Fault { path: path.clone(), problem };
        match file::read(&text).map_err(wrong)? {
            Contents::Clusters(found) => add(&mut ours, &mut clusters, &path, found),
            Contents::Main(..) => {
                return Err(wrong("1:1: expected clusters by their names".to_owned()));
            }
        }
    }
    if clusters.iter().filter(|(_, cluster, _)| cluster.enabled.unwrap_or(false)).count() > 1 {
        ours.note(
            "a machine that the patterns of several clusters are in belongs to the first of them, in \
             this order; goahead chose anew by chance at each question",
        );
    }
    for (name, cluster, path) in &clusters {
        let wrong = |problem| ImportError::Fault { path: path.clone(), problem };
        convert_cluster(&mut ours, name, cluster).map_err(wrong)?;
    }
    Ok(ours.into_converted(files))
}

/// A cluster that is named again replaces the one before.
fn add(
    ours: &mut Ours,
    clusters: &mut Vec<(String, Cluster, PathBuf)>,
    path: &Path,
    found: Vec<(String, Cluster, Vec<String>)>,
) {
    for (name, cluster, unknown) in found {
        ours.unknown(path, &format!(" in {name:?}"), &unknown);
        if clusters.iter().any(|(known, ..)| *known == name) {
            ours.note(format!("cluster {name:?} is there twice; the later one counts, as before"));
            clusters.retain(|(known, ..)| *known != name);
        }
        clusters.push((name, cluster, path.to_owned()));
    }
}

/// The files of a folder and those below it, in the order of their names. Links to folders are not followed,
/// as in goahead.
fn included(folder: &Path, ours: &mut Ours) -> Result<Vec<(PathBuf, String)>, ImportError> {
    let unreadable = |path: &Path, error: std::io::Error| ImportError::Fault {
        path: path.to_owned(),
        problem: format!("cannot be read: {error}"),
    };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let entry = entry.map_err(|error| unreadable(folder, error))?;
        let kind = entry.file_type().map_err(|error| unreadable(&entry.path(), error))?;
        entries.push((entry.path(), kind));
    }
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut files = Vec::new();
    for (path, kind) in entries {
        if kind.is_dir() {
            files.extend(included(&path, ours)?);
        } else if kind.is_symlink() && path.is_dir() {
            let path = path.display();
            ours.note(format!("{path} is a link to a folder, which goahead did not follow either"));
        } else if kind.is_symlink() && is_lock(&path) {
            ours.note(format!("{} is an editor's lock, and left out", path.display()));
        } else if path.extension().is_some_and(|ext| ext == "yml" || ext == "yaml") {
            let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            files.push((path, text));
        }
    }
    Ok(files)
}

/// Emacs marks `web.yml` as being edited by a link `.#web.yml` that points at no file.
fn is_lock(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".#") && !path.exists()
}

fn convert_main(ours: &mut Ours, main: &Main) -> Result<(), Fault> {
    listen(ours, main)?;
    let store = match main.save_state_dir.as_ref().filter(|at| !at.value.is_empty()) {
        Some(folder) => {
            let folder = full(&folder.value);
            let store = folder.join("rebootlock.db");
            ours.state = Some(folder);
            store
        }
        None => {
            ours.store.note(
                "save_state_dir was not set: goahead kept its state where everybody may write and a \
                 reboot empties it. The lock is here unless another store is named.",
            );
            PathBuf::from(STORE)
        }
    };
    let store = format!("sqlite:{}", store.display());
    ours.store.set("endpoints", Value::Array(vec![store.into()]));
    let file = |key: &str, file: &Option<At<String>>, why: &str| match file {
        Some(file) if !file.value.is_empty() => Ok(full(&file.value).display().to_string()),
        _ => Err(format!("1:1: `{key}` is missing: {why}")),
    };
    let gateway = &mut ours.gateway;
    let tls = "goahead serves TLS alone";
    gateway.set("tls_cert_file", file("ssl_certificate_file", &main.ssl_certificate_file, tls)?);
    gateway.set("tls_key_file", file("ssl_private_key", &main.ssl_private_key, tls)?);
    let authorities = main.ssl_client_cert_ca_file.as_ref();
    if main.ssl_require_and_verify_client_cert.unwrap_or(false) {
        gateway.note(
            "goahead never compared the names of a certificate with that of the machine it asked \
             for; client_name_is_id = true does. Its stock client cannot show a certificate.",
        );
        let why = "ssl_require_and_verify_client_cert has clients show certificates of it";
        let authorities = file("ssl_client_cert_ca_file", &main.ssl_client_cert_ca_file, why)?;
        gateway.set("client_ca_file", authorities);
    } else if authorities.is_some_and(|at| !at.value.is_empty()) {
        gateway.note("ssl_client_cert_ca_file was of no use without client certificates");
    }
    if main.log_base_dir.is_some() {
        ours.note("log_base_dir: messages go to stderr, and so into the journal");
    }
    if main.timeout.is_some() {
        ours.note("timeout: goahead read it and never used it");
    }
    Ok(())
}

fn listen(ours: &mut Ours, main: &Main) -> Result<(), Fault> {
    let port = match &main.listen_port {
        None => 8443,
        Some(at) => u16::try_from(at.value.0)
            .map_err(|_| at.fault("`listen_port`: a port is from 0 to 65535"))?,
    };
    let ip = match &main.listen_address {
        None => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Some(at) => match at.value.trim_matches(['[', ']']) {
            "" => {
                ours.gateway
                    .note("listen_address was empty: all addresses. Those of IPv6 too are [::].");
                Ipv4Addr::UNSPECIFIED.into()
            }
            "localhost" => {
                ours.gateway.note("listen_address was localhost.");
                Ipv4Addr::LOCALHOST.into()
            }
            number => number.parse().map_err(|_| {
                at.fault(&format!(
                    "`listen_address`: {:?} is not the number of an address, such as 0.0.0.0",
                    at.value
                ))
            })?,
        },
    };
    ours.gateway.set("listen", SocketAddr::new(ip, port).to_string());
    Ok(())
}

/// What goahead did with some names.
fn name(lines: &mut Lines, name: &str) -> Result<(), Fault> {
    if name == "unknown" {
        return Err(format!(
            "1:1: cluster {name:?}: that is what clients are told that are in no cluster; it needs another \
             name"
        ));
    }
    Group::new(name).map_err(|error| format!("1:1: cluster {name:?}: {error}"))?;
    if name.contains('/') {
        lines.note(
            "goahead did not start with a slash in the name of a cluster: a file of its state was to have \
             that name. Nothing can be taken over from there.",
        );
    }
    if matches!(name, "goahead" | "checker") {
        lines.note("goahead wrote two logs into one file for a cluster of this name.");
    }
    Ok(())
}

fn convert_cluster(ours: &mut Ours, name: &str, cluster: &Cluster) -> Result<(), Fault> {
    if !cluster.enabled.unwrap_or(false) {
        ours.note(format!("cluster {name:?} was not enabled and is left out"));
        return Ok(());
    }
    let mut group = Lines::of(name);
    self::name(&mut group, name)?;
    let slots = cluster.allowed_parallel_restarts.as_ref();
    match slots {
        Some(at) if at.value.0 > 1_000_000 => {
            return Err(at.fault("`allowed_parallel_restarts`: at most 1000000 here"));
        }
        Some(at) if at.value.0 >= 0 => group.set("slots", at.value.0),
        _ => {
            group.note("allowed_parallel_restarts was not set, or negative: nobody restarts");
            group.set("slots", 0);
        }
    }
    let mut lines = Lines::of(name);
    let pattern = cluster.name_pattern.as_ref();
    let Some(pattern) = pattern.filter(|at| !at.value.is_empty()) else {
        return Err(format!(
            "1:1: cluster {name:?} has no `name_pattern`, which is every machine in goahead; write \
             \".*\" if that is meant"
        ));
    };
    lines.set("pattern", checked(name, pattern)?);
    let except = cluster.blacklist_name_pattern.as_deref().unwrap_or_default();
    if !except.is_empty() {
        let except: Result<Vec<_>, _> = except.iter().map(|at| checked(name, at)).collect();
        lines.set("except", Value::Array(except?.into_iter().map(Value::String).collect()));
    }
    let minimum = seconds("minimum_uptime", &cluster.minimum_uptime, &mut lines)?;
    if minimum > 0 {
        lines.set("minimum_uptime_secs", minimum);
    }
    if cluster.raise_errors.unwrap_or(false) {
        lines.note(
            "raise_errors: exit codes are read as they are here, and a program that cannot be run \
             never counts as one that has succeeded",
        );
    }
    set_commands(&mut lines, "checks", &cluster.reboot_goahead_checks)?;
    if let Some(code) = &cluster.reboot_goahead_checks_exit_code_for_reboot {
        if !(0..=255).contains(&code.value.0) {
            let problem = "`reboot_goahead_checks_exit_code_for_reboot`: no program exits with it";
            return Err(code.fault(problem));
        }
        lines.set("check_exit_code_for_reboot", code.value.0);
    }
    set_commands(&mut lines, "actions", &cluster.reboot_goahead_actions)?;
    convert_completion(&mut lines, cluster)?;
    convert_panic(&mut lines, cluster)?;
    ours.groups.push(group);
    ours.clusters.push(lines);
    Ok(())
}

fn convert_completion(lines: &mut Lines, cluster: &Cluster) -> Result<(), Fault> {
    let check = cluster.reboot_completion_check.as_ref().filter(|at| !at.value.trim().is_empty());
    let interval = seconds(
        "reboot_completion_check_interval",
        &cluster.reboot_completion_check_interval,
        lines,
    )?;
    let offset =
        seconds("reboot_completion_check_offset", &cluster.reboot_completion_check_offset, lines)?;
    match check {
        None => {
            lines.note(
                "reboot_completion_check was empty, which never succeeded, so that no slot was freed. \
                 Here the slot is freed when the machine says that it has rebooted.",
            );
            let consecutive = cluster.reboot_completion_check_consecutive_successes.as_ref();
            let lost = [
                ("interval", interval.min(LONGEST_INTERVAL), "_secs"),
                ("offset", offset, "_secs"),
                ("consecutive_successes", consecutive.map_or(0, |at| at.value.0), ""),
            ];
            for (key, value, unit) in lost.iter().filter(|(_, value, _)| *value != 0) {
                let ours = key.replace("consecutive_", "");
                lines.note(format!(
                    "reboot_completion_check_{key} says nothing without a check; with one: \
                     completion_check_{ours}{unit} = {value}"
                ));
            }
        }
        Some(check) => {
            if ["{:%cluster%:}", "{:%hostname%:}", "{:%uptime%:}"]
                .iter()
                .any(|p| check.value.contains(p))
            {
                lines.note(
                    "goahead put the whole name where this check says cluster or hostname, and left \
                     uptime as it was; here they are what they say",
                );
            }
            lines.set("completion_check", command(check)?);
            if interval == 0 {
                lines.note("reboot_completion_check_interval was 0: checks without a pause");
            }
            if interval > LONGEST_INTERVAL {
                lines.note(format!(
                    "reboot_completion_check_interval was {interval} s; {LONGEST_INTERVAL} are the most here"
                ));
            }
            lines.set("completion_check_interval_secs", interval.clamp(1, LONGEST_INTERVAL));
            let successes = cluster.reboot_completion_check_consecutive_successes.as_ref();
            if let Some(at) = successes.filter(|at| at.value.0 > 1_000_000) {
                let problem =
                    "`reboot_completion_check_consecutive_successes`: at most 1000000 here";
                return Err(at.fault(problem));
            }
            let successes = successes.map_or(1, |at| at.value.0).max(1);
            lines.set("completion_check_successes", successes);
            if offset > 0 {
                lines.note(
                    "goahead ignored reboot_completion_check_offset. So long after the go-ahead the \
                     check begins by itself; it frees the slot once it has failed and then succeeded. \
                     A machine that says that it has rebooted is checked at once.",
                );
                lines.set("completion_check_offset_secs", offset);
            }
        }
    }
    set_commands(lines, "completion_actions", &cluster.reboot_completion_actions)
}

fn convert_panic(lines: &mut Lines, cluster: &Cluster) -> Result<(), Fault> {
    let threshold = seconds(
        "reboot_completion_panic_threshold",
        &cluster.reboot_completion_panic_threshold,
        lines,
    )?;
    let panic = cluster.reboot_completion_panic_actions.as_ref();
    if panic.and_then(|panic| panic.mail.as_ref()).is_some_and(|mail| !mail.is_empty()) {
        lines.note("reboot_completion_panic_actions.mail: goahead never sent any");
    }
    let scripts = panic.and_then(|panic| panic.scripts.clone());
    if threshold > 0 {
        lines.note(
            "Counted from the go-ahead of a machine and its offset. When it is over the actions run \
             once, for the machine that is missing, and nobody else of the cluster gets a go-ahead \
             until it is back or unlocked.",
        );
        lines.set("panic_after_secs", threshold);
        return set_commands(lines, "panic_actions", &scripts);
    }
    lines.note(
        "reboot_completion_panic_threshold was not set, or 0, which made goahead panic at every \
         question as soon as one machine was down. Here it is off.",
    );
    for script in scripts.unwrap_or_default() {
        lines.note(format!("panic_actions = [{}]", Value::String(script.value.clone())));
    }
    Ok(())
}

/// Commands as the lines that they were.
fn set_commands(
    lines: &mut Lines,
    key: &str,
    commands: &Option<Vec<At<String>>>,
) -> Result<(), Fault> {
    let commands: Vec<_> =
        commands.iter().flatten().filter(|at| !at.value.trim().is_empty()).collect();
    if commands.is_empty() {
        return Ok(());
    }
    let commands: Result<Vec<_>, _> = commands.iter().map(|at| command(at)).collect();
    lines.set(key, Value::Array(commands?.into_iter().map(Value::String).collect()));
    Ok(())
}

/// The line, with its program by its full path.
fn command(at: &At<String>) -> Result<String, Fault> {
    let line = at.value.trim();
    let (program, rest) = line.split_once([' ', '\t', '\n']).unwrap_or((line, ""));
    let line = if program.contains('/') && !program.starts_with('/') {
        format!("{} {rest}", full(program).display()).trim_end().to_owned()
    } else {
        line.to_owned()
    };
    CommandLine::parse(&line).map_err(|problem| at.fault(&problem))?;
    Ok(line)
}

/// A pattern that means the same here.
fn checked(cluster: &str, at: &At<String>) -> Result<String, Fault> {
    let problem = pattern::differs(&at.value).or_else(|| Pattern::new(&at.value).err());
    match problem {
        None => Ok(at.value.clone()),
        Some(problem) => Err(at.fault(&format!("cluster {cluster:?}: {problem}"))),
    }
}

/// Whole seconds, rounded up.
fn seconds(key: &str, at: &Option<At<String>>, lines: &mut Lines) -> Result<i64, Fault> {
    let Some(at) = at else { return Ok(0) };
    let text = at.value.trim();
    let Ok(GoDuration(nanos)) = text.parse() else {
        return Err(at.fault(&match text.parse::<i64>() {
            Ok(_) => {
                format!("`{key}`: {text} without a unit is so many nanoseconds; write {text}s")
            }
            Err(_) => format!("`{key}`: {text:?} is no length of time; expected one such as 1h30m"),
        }));
    };
    if nanos < 0 {
        lines.note(format!("{key} was {text}, which is as good as 0"));
        return Ok(0);
    }
    let seconds = nanos / 1_000_000_000 + i64::from(nanos % 1_000_000_000 > 0);
    if nanos % 1_000_000_000 > 0 {
        lines.note(format!("{key} was {text}; here it is whole seconds"));
    }
    if seconds > 31_536_000 {
        return Err(at.fault(&format!("`{key}`: a year is the most here")));
    }
    Ok(seconds)
}

/// A path from the root. goahead's began where it was started.
fn full(path: &str) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path))
}

/// Our configuration in the making.
#[derive(Debug, Default)]
struct Ours {
    store: Lines,
    gateway: Lines,
    groups: Vec<Lines>,
    clusters: Vec<Lines>,
    notes: Vec<String>,
    /// Where goahead keeps its state.
    state: Option<PathBuf>,
    /// Whether there is a config.yml.
    has_main: bool,
}

impl Ours {
    fn note(&mut self, text: impl AsRef<str>) {
        self.notes.push(text.as_ref().to_owned());
    }

    fn unknown(&mut self, path: &Path, place: &str, keys: &[String]) {
        for key in keys {
            let path = path.display();
            self.note(format!("{path}: key {key:?}{place} is not goahead's, which passed over it"));
        }
    }

    fn into_converted(self, files: &[(PathBuf, String)]) -> Converted {
        let names: Vec<_> = files.iter().map(|(path, _)| path.display().to_string()).collect();
        let mut text = comment(
            "",
            &format!(
                "Made from goahead's {} by `rebootlock-gateway import`. Read the comments, then put \
                 it at /etc/rebootlock/rebootlock.toml.",
                names.join(" and ")
            ),
        );
        let mut notes = Vec::new();
        let mut table = |name: &str, lines: &Lines| {
            if !lines.text.is_empty() {
                text.push_str(&format!("\n{name}\n{}", lines.text));
            }
            let about = lines.about.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
            notes.extend(lines.notes.iter().map(|note| format!("{name}{about}: {note}")));
        };
        table("[store]", &self.store);
        table("[gateway]", &self.gateway);
        let mut all = Lines::default();
        all.note("`/` and `/health` are answered as goahead did. The page is at no other path.");
        all.set("answers_root", true);
        all.note(
            "goahead held its answer back until all actions had ended, and lost it after 15 s. Here \
             they go on by themselves; this would wait for them for so long:",
        );
        all.note("wait_for_actions_secs = 10");
        all.note(
            "goahead had no time limits. Here the checks of one question have 10 s together \
             (check_timeout_secs), each completion check has 300 s (completion_check_timeout_secs), and \
             each action has 300 s (action_timeout_secs).",
        );
        all.note(
            "goahead ran commands in the folder that it was started in, and so does goahead-compat; \
             serve runs them in / if working_dir names no other.",
        );
        all.note(
            "goahead-compat takes these settings from a rebootlock.toml that -settings names.",
        );
        table("[gateway.goahead]", &all);
        self.groups.iter().for_each(|lines| table("[[group]]", lines));
        self.clusters.iter().for_each(|lines| table("[[gateway.goahead.cluster]]", lines));
        if !self.notes.is_empty() {
            text.push_str("\n# Without an equal here, or different:\n");
            text.extend(self.notes.iter().map(|note| comment("- ", note)));
        }
        notes.extend(self.notes);
        Converted { text, notes, state: self.state, has_main: self.has_main }
    }
}

/// Settings and comments of one table.
#[derive(Debug, Default)]
struct Lines {
    text: String,
    /// What its name is, if there are several of its kind.
    about: Option<String>,
    notes: Vec<String>,
}

impl Lines {
    fn of(name: &str) -> Self {
        let mut lines = Self { about: Some(name.to_owned()), ..Self::default() };
        lines.set("name", name);
        lines
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.text.push_str(&format!("{key} = {}\n", value.into()));
    }

    fn note(&mut self, text: impl AsRef<str>) {
        self.text.push_str(&comment("", text.as_ref()));
        self.notes.push(text.as_ref().to_owned());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
