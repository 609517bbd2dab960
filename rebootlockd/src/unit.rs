//! Commands as transient units of systemd: each in a cgroup of its own, with its own limits, outside
//! the daemon's sandbox, and gone with everything it started. See `proto-docs/dbus.md`.
//!
//! Where systemd is not on the bus, [`rebootlock::process`] runs them.

mod asks;
mod left;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use futures::StreamExt as _;
use rebootlock::config::Isolation;
use rebootlock::process::{self, Finished, How, Output, Spec};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::task::TaskTracker;
use zbus::names::{BusName, WellKnownName};
use zbus::{Connection, OwnedObjectPath, Variant};

use self::asks::{ManagerProxy, ServiceProxy, UnitProxy, find_program, how, properties};
pub use self::left::{Left, StillRuns};
use crate::bus::{self, is_named};

const SERVICE: &str = "org.freedesktop.systemd1";

/// From being asked to end until being killed.
const GRACE: Duration = Duration::from_secs(2);
/// systemd ends a unit at its deadline; so much later we do.
const MARGIN: Duration = Duration::from_secs(10);
/// For what is still in the pipe when the unit has ended.
const DRAIN: Duration = Duration::from_millis(500);
/// systemd tells when a unit ends; it is asked for those that it told of while it restarted itself.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Longest part of a unit's name that a command may choose: 255 bytes are allowed in all.
const LONGEST_NAME: usize = 120;

/// systemd takes a moment to forget a unit that has ended, and with it the name.
const ATTEMPTS: u32 = 20;
/// Between two of them.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);

/// States of a unit whose processes may still run.
const ALIVE: [&str; 4] = ["activating", "active", "reloading", "deactivating"];

/// There wherever systemd runs the machine.
const BOOTED: &str = "/run/systemd/system";
/// So long a systemd that must be there is waited for: it may be executing itself anew.
const AWAY_FOR: Duration = Duration::from_secs(5);

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// Nothing can run as a unit here.
#[derive(Debug, thiserror::Error)]
pub enum NoSystemd {
    /// There is a bus, and systemd is not on it.
    #[error("systemd is not on the system bus")]
    Absent,
    /// It runs this machine, and is not on the bus at this moment.
    #[error("systemd is not on the system bus at this moment")]
    Away,
    /// There is no bus.
    #[error("the system bus does not answer")]
    Bus(#[from] zbus::Error),
}

/// Whose a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongs {
    /// It is stopped when nobody waits for it any more, and its output is read.
    ToTheCaller,
    /// It goes on when the daemon stops. Its output goes where systemd puts it, to the journal.
    ToItself,
}

/// systemd on the system bus.
#[derive(Debug, Clone)]
pub struct Systemd {
    manager: ManagerProxy<'static>,
}

/// Units that nobody waits for any more, while systemd is told so.
static STOPPING: LazyLock<TaskTracker> = LazyLock::new(TaskTracker::new);

/// Until systemd has been told of all units that nobody waits for any more, or for a moment. To be
/// called before the runtime ends, else they would run on.
pub async fn all_told() {
    STOPPING.close();
    let _ = timeout(DRAIN, STOPPING.wait()).await;
    STOPPING.reopen();
}

/// Runs a command as a unit or in a process group, as `isolation` wants it. A process group has the
/// daemon's own rights and limits, and `note` is told how to find it.
pub async fn run(
    isolation: Isolation,
    name: &str,
    spec: &Spec,
    belongs: Belongs,
    note: process::Note<'_>,
) -> Finished {
    if isolation != Isolation::ProcessGroup {
        let expected = is_expected();
        match connect_patiently(expected).await {
            Ok(systemd) => return systemd.run(name, spec, belongs).await,
            Err(error) if must_not_be_a_group(isolation, expected) => {
                let why = format!("it must run as a unit, and {error}");
                return Finished { how: How::NotStarted(why), ..Finished::default() };
            }
            Err(error) => tracing::info!(%error, name, "runs as a process group"),
        }
    }
    match belongs {
        Belongs::ToTheCaller => process::run_noting(spec, note).await,
        Belongs::ToItself => process::run_apart(spec, note).await,
    }
}

/// Whether systemd must be on the bus: it runs this machine, and the bus is this machine's own.
fn is_expected() -> bool {
    Path::new(BOOTED).is_dir() && std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_none()
}

/// In a process group of ours a command has our sandbox, and ends with us: nothing that a moment
/// without a bus may decide.
fn must_not_be_a_group(isolation: Isolation, expected: bool) -> bool {
    isolation == Isolation::Unit || expected
}

async fn connect_patiently(expected: bool) -> Result<Systemd, NoSystemd> {
    let give_up = Instant::now() + AWAY_FOR;
    loop {
        match Systemd::connect().await {
            Err(error) if expected && Instant::now() < give_up => {
                tracing::debug!(%error, "systemd is looked for again");
                tokio::time::sleep(ATTEMPT_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// The name of the unit for `what`, as `hook-drain`, of the agent of this machine. It is always the
/// same, so that an agent finds what an earlier life of it has left running.
pub fn unit_name(what: &str, machine_id: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let what: String = what.chars().take(LONGEST_NAME).map(allowed).collect();
    let machine_id = machine_id.replace(|c: char| !c.is_ascii_alphanumeric(), "");
    // The end: where ids are names it is what tells them apart.
    let machine = &machine_id[machine_id.len().saturating_sub(8)..];
    format!("rebootlock-{what}-{machine}.service")
}

impl Systemd {
    /// Finds systemd on the system bus.
    ///
    /// # Errors
    /// [`NoSystemd`] says what is missing.
    pub async fn connect() -> Result<Self, NoSystemd> {
        match Self::on(bus::connect().await?).await {
            Err(NoSystemd::Absent) if is_expected() => Err(NoSystemd::Away),
            answer => answer,
        }
    }

    /// Finds systemd on this bus.
    ///
    /// # Errors
    /// [`NoSystemd`] says what is missing.
    pub async fn on(connection: Connection) -> Result<Self, NoSystemd> {
        let bus = zbus::fdo::DBusProxy::new(&connection).await?;
        // Not by a call, which would have the bus try to start it.
        let name = BusName::WellKnown(WellKnownName::from_static_str_unchecked(SERVICE));
        if !bus.name_has_owner(name).await.map_err(zbus::Error::from)? {
            return Err(NoSystemd::Absent);
        }
        let manager = ManagerProxy::builder(&connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        Ok(Self { manager })
    }

    /// How often everything but the kernel was restarted since this kernel came up. Nothing where
    /// systemd cannot do that (before 254).
    ///
    /// # Errors
    /// What systemd answers.
    pub async fn soft_reboots(&self) -> zbus::Result<Option<u32>> {
        match self.manager.soft_reboots_count().await {
            Ok(count) => Ok(Some(count)),
            Err(error) if is_named(&error, "org.freedesktop.DBus.Error.UnknownProperty") => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether any unit for `what`, of whichever acquisition, still runs.
    ///
    /// # Errors
    /// What systemd answers.
    pub async fn runs(&self, what: &str) -> zbus::Result<bool> {
        let pattern = format!("rebootlock-{what}-*.service");
        Ok(!self.manager.list_units_by_patterns(&ALIVE, &[&pattern]).await?.is_empty())
    }

    /// Whether this machine is going down: a job for that is in the queue, whoever ordered it.
    ///
    /// # Errors
    /// What systemd answers.
    pub async fn is_stopping(&self) -> zbus::Result<bool> {
        Ok(self.manager.system_state().await? == "stopping")
    }

    /// Starts a target that takes the machine down. Nothing takes that back, and logind, its inhibitors
    /// included, is not asked.
    ///
    /// # Errors
    /// What systemd answers.
    pub async fn go_down(&self, target: &str) -> zbus::Result<()> {
        self.manager.start_unit(target, "replace-irreversibly").await.map(drop)
    }

    /// Stops a unit, if it is there, with all that runs in it.
    ///
    /// # Errors
    /// What systemd answers, or that the unit runs on.
    pub async fn stop(&self, name: &str) -> zbus::Result<()> {
        self.stop_and_wait(name).await?;
        if self.manager.list_units_by_patterns(&ALIVE, &[name]).await?.is_empty() {
            return Ok(());
        }
        Err(zbus::Error::Failure(format!("unit {name} does not end")))
    }

    /// Runs a command as the unit `name` to its end, or to its deadline. One of that name that is
    /// still there is stopped before: the daemon that started it has been restarted.
    pub async fn run(&self, name: &str, spec: &Spec, belongs: Belongs) -> Finished {
        let started = Instant::now();
        let mut output = Output::default();
        let how = match self.run_unit(name, spec, belongs, &mut output).await {
            Ok(how) => how,
            Err(error) => How::NotStarted(format!("unit {name}: {error}")),
        };
        Finished { how, output, took: started.elapsed() }
    }

    async fn run_unit(
        &self,
        name: &str,
        spec: &Spec,
        belongs: Belongs,
        output: &mut Output,
    ) -> zbus::Result<How> {
        let deadline = Instant::now() + spec.timeout.saturating_add(GRACE + MARGIN);
        // Both before the unit, so that its end cannot be missed.
        match self.manager.subscribe().await {
            Err(error) if !is_named(&error, "org.freedesktop.systemd1.AlreadySubscribed") => {
                return Err(error);
            }
            _ => {}
        }
        let mut ends = self.manager.receive_job_removed().await?;
        let (mut reader, writer) = match belongs {
            Belongs::ToTheCaller => {
                let (reader, writer) = io::pipe()?;
                (Some(pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?), Some(writer.into()))
            }
            Belongs::ToItself => (None, None),
        };
        let Some(program) = spec.argv.first().and_then(|program| find_program(program)) else {
            let program = spec.argv.first().map_or("", String::as_str);
            return Ok(How::NotStarted(format!("cannot run {program:?}: no such program")));
        };
        let stop = belongs == Belongs::ToTheCaller;
        let mut hold = Hold { systemd: self.clone(), name: name.to_owned(), stop, held: true };
        let job = self.start(name, &program, spec, writer).await?;
        let path = self.manager.get_unit(name).await?;

        let mut buffer = Box::new([0; 16 * 1024]);
        let mut ask = interval(ASK_AGAIN);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ask.reset();
        loop {
            tokio::select! {
                biased;
                () = sleep_until(deadline) => {
                    self.kill(name).await;
                    return Ok(How::TimedOut);
                }
                end = ends.next() => {
                    let Some(end) = end else {
                        return Ok(How::NotStarted(format!(
                            "unit {name}: the system bus went away, so nobody knows how it ended"
                        )));
                    };
                    if end.args()?.job == job {
                        break;
                    }
                }
                _ = ask.tick() => if self.has_ended(&path).await? {
                    break;
                },
                length = read(&mut reader, &mut buffer[..]) => output.push(&buffer[..length]),
            }
        }
        hold.stop = false;
        let rest = async {
            while reader.is_some() {
                let length = read(&mut reader, &mut buffer[..]).await;
                output.push(&buffer[..length]);
            }
        };
        // Whoever still holds it is nobody of the unit's.
        let _ = timeout(DRAIN, rest).await;
        let how = self.how_it_ended(&path).await;
        hold.held = false;
        let _ = self.manager.unref_unit(name).await;
        how
    }

    async fn start(
        &self,
        name: &str,
        program: &Path,
        spec: &Spec,
        output: Option<OwnedFd>,
    ) -> zbus::Result<OwnedObjectPath> {
        let start = || {
            let properties = properties(name, program, spec, output.as_ref());
            async move {
                // The part of systemd's that this call does not use.
                let aux: &[(&str, Vec<(&str, Variant<'_>)>)] = &[];
                self.manager.start_transient_unit(name, "fail", &properties, aux).await
            }
        };
        let mut attempt = 1;
        loop {
            match start().await {
                Err(error) if is_named(&error, UNIT_EXISTS) && attempt < ATTEMPTS => {
                    if attempt == 1 {
                        tracing::warn!(unit = name, "stopping what is left of an earlier run");
                        self.stop_and_wait(name).await?;
                    } else {
                        // Stopped, but not yet forgotten.
                        tokio::time::sleep(ATTEMPT_PAUSE).await;
                    }
                    attempt += 1;
                }
                answer => return answer,
            }
        }
    }

    /// Stops a unit and waits until it is gone, which takes the time of its own stopping at most.
    async fn stop_and_wait(&self, name: &str) -> zbus::Result<()> {
        let mut ends = self.manager.receive_job_removed().await?;
        match self.manager.stop_unit(name, "replace").await {
            Ok(job) => {
                let ended = async {
                    while let Some(end) = ends.next().await {
                        if end.args().is_ok_and(|args| args.job == job) {
                            break;
                        }
                    }
                };
                let _ = timeout(GRACE + MARGIN, ended).await;
            }
            Err(error) if is_named(&error, "org.freedesktop.systemd1.NoSuchUnit") => {}
            Err(error) => return Err(error),
        }
        // A failed one keeps its name until this is said.
        let _ = self.manager.reset_failed_unit(name).await;
        Ok(())
    }

    async fn kill(&self, name: &str) {
        let killed = self.manager.kill_unit(name, "all", rustix::process::Signal::KILL.as_raw());
        if let Err(error) = killed.await {
            tracing::warn!(unit = name, %error, "a unit that did not end cannot be killed");
        }
        let _ = self.manager.stop_unit(name, "replace").await;
    }

    async fn has_ended(&self, path: &OwnedObjectPath) -> zbus::Result<bool> {
        let unit = UnitProxy::builder(self.manager.inner().connection())
            .path(path)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        Ok(matches!(unit.active_state().await?.as_str(), "inactive" | "failed"))
    }

    async fn how_it_ended(&self, path: &OwnedObjectPath) -> zbus::Result<How> {
        let service = ServiceProxy::builder(self.manager.inner().connection())
            .path(path)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        let (code, status) = (service.exec_main_code().await?, service.exec_main_status().await?);
        let result: String = service.result().await?;
        Ok(how(&result, code, status))
    }
}

async fn read(from: &mut Option<pipe::Receiver>, buffer: &mut [u8]) -> usize {
    let Some(receiver) = from else { return std::future::pending().await };
    match receiver.read(buffer).await {
        Ok(length) if length > 0 => length,
        _ => {
            *from = None;
            0
        }
    }
}

/// What keeps a unit known to systemd until we have seen how it ended. Dropped earlier, nobody waits
/// for the unit any more.
struct Hold {
    systemd: Systemd,
    name: String,
    stop: bool,
    held: bool,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        // Without a runtime the daemon is at its end: its successor stops what it finds.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (systemd, name) = (self.systemd.clone(), std::mem::take(&mut self.name));
            let stop = self.stop;
            let stopping = async move {
                if stop && let Err(error) = systemd.manager.stop_unit(&name, "replace").await {
                    tracing::debug!(unit = name, %error, "a unit cannot be stopped");
                }
                let _ = systemd.manager.unref_unit(&name).await;
            };
            STOPPING.spawn_on(stopping, &runtime);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn where_systemd_must_be_there_nothing_runs_in_the_daemons_own_sandbox() {
        assert!(must_not_be_a_group(Isolation::Auto, true));
        assert!(must_not_be_a_group(Isolation::Unit, false));
        assert!(!must_not_be_a_group(Isolation::Auto, false));
    }

    #[test]
    fn a_units_name_has_only_what_systemd_allows() {
        let id = "0b5c1a529b9e4a539f1f0a5e4c1f2d22";
        assert_eq!(
            unit_name("hook-10-drain.sh", id),
            "rebootlock-hook-10-drain.sh-4c1f2d22.service"
        );
        assert_eq!(unit_name("reboot", "wéb-1.example"), "rebootlock-reboot-1example.service");
        assert_eq!(unit_name("hook-ä b/@", ""), "rebootlock-hook-__b__-.service");
        assert!(unit_name(&"x".repeat(1000), id).len() < 255);
    }
}
