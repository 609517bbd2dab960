//! What systemd is asked for, and how its answers read: its interfaces, the properties of a unit, and
//! how a unit ended.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zbus::{Fd, OwnedObjectPath, Variant};

use super::GRACE;
use rebootlock::process::{self, How, Spec};

/// name, description, load state, active state, sub-state, followed unit, object, job id, job type,
/// job object
pub(super) type Row =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub(super) trait Manager {
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        aux: &[(&str, Vec<(&str, Variant<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
    fn unref_unit(&self, name: &str) -> zbus::Result<()>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<Row>>;
    fn subscribe(&self) -> zbus::Result<()>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn system_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn soft_reboots_count(&self) -> zbus::Result<u32>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1"
)]
pub(super) trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1"
)]
pub(super) trait Service {
    #[zbus(property(emits_changed_signal = "false"))]
    fn result(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn exec_main_code(&self) -> zbus::Result<i32>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn exec_main_status(&self) -> zbus::Result<i32>;
}

/// What systemd says of a unit that has ended. `code` is why its process ended, as `waitid` has it.
pub(super) fn how(result: &str, code: i32, status: i32) -> How {
    const EXITED: i32 = 1;
    const KILLED: i32 = 2;
    const DUMPED: i32 = 3;
    match (result, code) {
        ("timeout", _) => How::TimedOut,
        // Something else in the unit was killed: it did not do all of its work.
        ("oom-kill", _) => How::Killed(9),
        ("success", EXITED) if status == 0 => How::Exited(0),
        ("exit-code", EXITED) => How::Exited(status),
        (_, KILLED | DUMPED) => How::Killed(status),
        (result, _) => How::NotStarted(format!("systemd could not run it: {result}")),
    }
}

pub(super) fn properties<'a>(
    name: &'a str,
    program: &Path,
    spec: &'a Spec,
    output: Option<&'a OwnedFd>,
) -> Vec<(&'a str, Variant<'a>)> {
    let program = program.to_string_lossy().into_owned();
    // systemd would replace variables in arguments.
    let argv: Vec<String> = spec.argv.iter().map(|argument| argument.replace('$', "$$")).collect();
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX - 1);
    let mut properties = vec![
        ("Description", Variant::from(format!("rebootlock: {}", spec.argv[0]))),
        ("Type", Variant::from("oneshot")),
        ("ExecStart", Variant::from(vec![(program, argv, false)])),
        ("Environment", Variant::from(environment(spec))),
        ("KillMode", Variant::from("control-group")),
        ("TimeoutStartUSec", Variant::from(micros(spec.timeout))),
        ("TimeoutStopUSec", Variant::from(micros(GRACE))),
        // What has failed is forgotten too, but not before we have looked at it.
        ("CollectMode", Variant::from("inactive-or-failed")),
        ("AddRef", Variant::from(true)),
        // As everywhere but in units.
        ("IgnoreSIGPIPE", Variant::from(false)),
        ("SyslogIdentifier", Variant::from(name.trim_end_matches(".service"))),
    ];
    if let Some(output) = output {
        properties.push(("StandardOutputFileDescriptor", Variant::from(Fd::from(output))));
        properties.push(("StandardErrorFileDescriptor", Variant::from(Fd::from(output))));
    }
    properties
}

/// What the command is given, and what the daemon was told by variables of ours, for a hook that
/// calls `rebootlockctl`. The rest is systemd's.
fn environment(spec: &Spec) -> Vec<String> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let own = |name: &str| spec.env.iter().any(|(known, _)| known == name);
    let variables: BTreeMap<_, _> = process::environment(spec)
        .into_iter()
        .filter_map(text)
        .filter(|(name, _)| name.starts_with("REBOOTLOCK_") || own(name))
        .collect();
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// systemd wants the full path of a program. It must be there and executable, as it says otherwise
/// only by an exit code that scripts may use too.
pub(super) fn find_program(program: &str) -> Option<PathBuf> {
    let runs = |path: &PathBuf| {
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return std::path::absolute(program).ok().filter(runs);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(runs)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_is_never_read_as_a_success_it_was_not() {
        for (result, code, status, expected) in [
            ("success", 1, 0, How::Exited(0)),
            ("exit-code", 1, 3, How::Exited(3)),
            ("signal", 2, 11, How::Killed(11)),
            ("core-dump", 3, 6, How::Killed(6)),
            ("timeout", 2, 15, How::TimedOut),
            ("timeout", 1, 0, How::TimedOut),
            ("oom-kill", 1, 0, How::Killed(9)),
        ] {
            assert_eq!(how(result, code, status), expected);
        }
        for (result, code, status) in [("success", 0, 0), ("resources", 0, 0), ("protocol", 1, 0)] {
            assert!(matches!(how(result, code, status), How::NotStarted(_)), "{result}");
        }
    }

    #[test]
    fn arguments_are_not_systemds_to_expand() {
        let argv = ["/bin/sh", "-c", "echo $$ ${HOME}"].map(str::to_owned).to_vec();
        let spec = Spec { argv, env: vec![], timeout: Duration::from_secs(1) };
        let properties = properties("x.service", Path::new("/bin/sh"), &spec, None);
        let shown = format!("{:?}", properties.iter().find(|(name, _)| *name == "ExecStart"));
        assert!(shown.contains("echo $$$$ $${HOME}"), "{shown}");
    }

    #[test]
    fn a_program_is_found_where_a_shell_would() {
        assert!(find_program("sh").unwrap().is_absolute());
        assert_eq!(find_program("/bin/sh").unwrap(), Path::new("/bin/sh"));
        assert_eq!(find_program("no-such-program-anywhere"), None);
        assert_eq!(find_program("/etc/passwd"), None);
    }
}
