//! What is well written and cannot work on this machine, or will not do what was meant.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rebootlock::config::gate::GateKind;
use rebootlock::config::{
    DetectorSource, OnOverdue, RebootMethod, Settings, StoreSettings, Strategy,
};
use rebootlock::http::Credentials;
use rebootlock::id::MachineId;
use rebootlock::store::Endpoint;
use rebootlock::window::{Action, Windows};

/// Whatever can be seen without running or asking anything.
pub(super) fn warnings(
    settings: &Settings,
    windows: &Windows,
    machine: Option<&MachineId>,
    now: Timestamp,
) -> Vec<String> {
    let mut found = Vec::new();
    let kill_switch = &settings.agent.kill_switch_file;
    // Not being able to look is as good as seeing it, to the agent too.
    if kill_switch.try_exists().unwrap_or(true) {
        found.push(format!(
            "the kill switch {} is there: this machine does not reboot until it is taken away",
            kill_switch.display()
        ));
    }
    stores(settings, &mut found);
    strategies(settings, &mut found);
    opens(windows, machine, now, &mut found);
    detectors(settings, &mut found);
    gates(settings, &mut found);
    if let RebootMethod::Command { argv, .. } = &settings.reboot.method {
        let program = argv.first().map(ToString::to_string).unwrap_or_default();
        // What a variable will stand for is not known yet.
        if !program.contains("${") {
            found.extend(unreachable("[reboot] command", &program));
        }
    }
    hooks("pre_reboot_dir", &settings.hooks.pre_reboot_dir, &mut found);
    hooks("post_reboot_dir", &settings.hooks.post_reboot_dir, &mut found);
    found
}

fn stores(settings: &Settings, found: &mut Vec<String>) {
    match settings.store.endpoints.first() {
        Some(Endpoint::Memory) => found.push(
            "[store] memory: is forgotten when the process ends, and with it who holds a slot"
                .to_owned(),
        ),
        Some(Endpoint::Sqlite(path)) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                let folder = folder.display();
                found.push(format!("[store] there is no folder {folder} for the database"));
            }
        }
        Some(Endpoint::FleetLock(_)) => {
            can_be_read(&settings.store, found);
            without_store(settings, found);
        }
        Some(Endpoint::Etcd(_) | Endpoint::Gateway(_)) | None => {
            can_be_read(&settings.store, found)
        }
    }
}

/// Read when a connection is made, and anew each time.
fn can_be_read(store: &StoreSettings, found: &mut Vec<String>) {
    let files = [
        &store.ca_file,
        &store.cert_file,
        &store.key_file,
        &store.password_file,
        &store.token_file,
    ];
    for file in files.into_iter().flatten() {
        if let Err(error) = std::fs::File::open(file) {
            found.push(format!("[store] cannot read {}: {error}", file.display()));
        }
    }
}

/// What asks for a store, and does nothing or stops everything where the strategy has none.
fn strategies(settings: &Settings, found: &mut Vec<String>) {
    let strategy = settings.agent.strategy;
    for gate in settings.gates.iter().filter(|gate| gate.enabled) {
        match (&gate.kind, strategy) {
            (GateKind::Cluster(_), Strategy::Reboot) => found.push(format!(
                "gate `{}`: strategy `reboot` has no store that says how other machines are, so this \
                 machine never reboots",
                gate.name
            )),
            (GateKind::Cluster(_), Strategy::BestEffort) => found.push(format!(
                "gate `{}`: is closed while the store does not answer, so that best effort does not go \
                 without it",
                gate.name
            )),
            _ => {}
        }
    }
    let idle = without_effect(settings);
    if strategy == Strategy::Reboot && !idle.is_empty() {
        found.push(format!("{}: without effect with strategy `reboot`", idle.join(", ")));
    }
}

/// What only matters among machines that share a store.
fn without_effect(settings: &Settings) -> Vec<&'static str> {
    let mut idle = Vec::new();
    if settings.agent.priority > 0 {
        idle.push("[agent] priority");
    }
    if settings.reboot.on_overdue == OnOverdue::Release {
        idle.push("[reboot] on_overdue");
    }
    if settings.groups.iter().any(|group| !group.cooldown.is_zero()) {
        idle.push("[[group]] cooldown_secs");
    }
    idle
}

/// What does nothing, or something else than was meant, because there is only a FleetLock server.
fn without_store(settings: &Settings, found: &mut Vec<String>) {
    let store = &settings.store;
    for endpoint in &store.endpoints {
        let Endpoint::FleetLock(url) = endpoint else { continue };
        let plain = url.starts_with("http://");
        if plain && (store.ca_file.is_some() || store.cert_file.is_some()) {
            found.push(format!("[store] {endpoint}: certificates are of no use without https"));
        }
        let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
        let here = ["localhost", "127.", "[::1]"].iter().any(|own| host.starts_with(own));
        if plain && !here && store.access.credentials != Credentials::None {
            found.push(format!(
                "[store] {endpoint}: everybody on the way reads the password or token; use \
                 fleetlock+https://"
            ));
        }
    }
    let idle = without_effect(settings);
    if !idle.is_empty() && settings.agent.strategy != Strategy::Reboot {
        found.push(format!(
            "{}: decided by the FleetLock server, and without effect here",
            idle.join(", ")
        ));
    }
}

fn opens(windows: &Windows, machine: Option<&MachineId>, now: Timestamp, found: &mut Vec<String>) {
    for window in &windows.0 {
        let is_over = window.spans_at(now).is_empty() && window.next_opening(now).is_none();
        match window.action {
            _ if !is_over => {}
            Action::Allow => found.push(format!("window `{}` never opens again", window.name)),
            Action::Deny => found.push(format!("window `{}` denies nothing any more", window.name)),
        }
    }
    if let Some(machine) = machine
        && windows.next_start(now, machine).is_none()
    {
        found.push(
            "all windows together leave no moment at which a reboot may begin; see `rebootlockctl \
             windows`"
                .to_owned(),
        );
    }
}

fn detectors(settings: &Settings, found: &mut Vec<String>) {
    for detector in &settings.detectors {
        let own = |argv: &Option<Vec<String>>| {
            let first = argv.as_ref().and_then(|argv| argv.first().cloned());
            first.or_else(|| Some(detector.kind.as_str().to_owned()))
        };
        let program = match &detector.source {
            DetectorSource::Command { argv, .. } => argv.first().cloned(),
            DetectorSource::NeedsRestarting { argv }
            | DetectorSource::Needrestart { argv }
            | DetectorSource::RpmOstree { argv }
            | DetectorSource::Bootc { argv } => own(argv),
            DetectorSource::Kernel { root } if !root.join("lib/modules").is_dir() => {
                let (name, root) = (&detector.name, root.display());
                found.push(format!("detector `{name}`: there is no folder lib/modules in {root}"));
                None
            }
            _ => None,
        };
        if let Some(program) = program {
            found.extend(unreachable(&format!("detector `{}`", detector.name), &program));
        }
    }
}

fn gates(settings: &Settings, found: &mut Vec<String>) {
    for gate in settings.gates.iter().filter(|gate| gate.enabled) {
        let what = format!("gate `{}`", gate.name);
        let files = match &gate.kind {
            GateKind::Script(script) => {
                let program = script.command.first().map(String::as_str).unwrap_or_default();
                found.extend(unreachable(&what, program));
                continue;
            }
            GateKind::Http(http) => [&http.ca_file, &http.bearer_token_file],
            GateKind::Prometheus(prometheus) => {
                [&prometheus.ca_file, &prometheus.bearer_token_file]
            }
            _ => continue,
        };
        for file in files.into_iter().flatten() {
            if let Err(error) = std::fs::File::open(file) {
                found.push(format!("{what}: cannot read {}: {error}", file.display()));
            }
        }
    }
}

/// Why `program` cannot be started, if so.
fn unreachable(what: &str, program: &str) -> Option<String> {
    if program.contains('/') {
        let problem = not_executable(Path::new(program))?;
        return Some(format!("{what}: {program} {problem}"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(program));
    if candidates.any(|candidate| not_executable(&candidate).is_none()) {
        return None;
    }
    Some(format!(
        "{what}: there is no program {program} in PATH ({}); write its full path",
        path.to_string_lossy()
    ))
}

fn not_executable(path: &Path) -> Option<String> {
    match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Some("is not there".to_owned())
        }
        Err(error) => Some(format!("cannot be looked at: {error}")),
        Ok(about) if !about.is_file() => Some("is not a file".to_owned()),
        Ok(about) if about.permissions().mode() & 0o111 == 0 => {
            Some("is not executable (chmod +x)".to_owned())
        }
        Ok(_) => None,
    }
}

fn hooks(key: &str, folder: &Path, found: &mut Vec<String>) {
    let mut say = |text: String| found.push(format!("[hooks] {key}: {text}"));
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return say(format!("there is no folder {}, and so no hook runs", folder.display()));
        }
        Err(error) => return say(format!("cannot read {}: {error}", folder.display())),
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => paths.push(entry.path()),
            Err(error) => return say(format!("cannot read {}: {error}", folder.display())),
        }
    }
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if let Some(problem) = not_executable(&path).filter(|_| !hidden) {
            say(format!("{} {problem}, and does not run as a hook", path.display()));
        }
    }
}
