//! A transient service: its process, and what becomes of it.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

use super::Shared;

/// A unit that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its name, with `.service`.
    pub name: String,
    /// Program and arguments, as the program sees them.
    pub argv: Vec<String>,
    /// Its variables, as `NAME=value`.
    pub environment: Vec<String>,
    /// Names of all properties it came with.
    pub properties: Vec<String>,
    /// Its main process.
    pub pid: u32,
}

/// `ActiveState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Activating,
    /// It has done its work.
    Inactive,
    /// It has not.
    Failed,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Activating => "activating",
            Self::Inactive => "inactive",
            Self::Failed => "failed",
        }
    }
}

/// What is known of a unit.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) state: State,
    pub(super) group: Option<Pid>,
    pub(super) result: String,
    pub(super) code: i32,
    pub(super) status: i32,
    pub(super) stopped: bool,
    /// By which client, as the bus knows it.
    pub(super) referenced: Option<String>,
    /// Asked to be told when it is gone.
    pub(super) stop_jobs: Vec<OwnedObjectPath>,
}

/// What a unit was asked to be, out of the properties of the call.
pub(super) struct Wish {
    program: String,
    pub(super) argv: Vec<String>,
    pub(super) environment: Vec<String>,
    pub(super) properties: Vec<String>,
    pub(super) add_ref: bool,
    timeout: Duration,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Wish {
    /// Takes what a real systemd would, and refuses what it does not know.
    pub(super) fn read(properties: Vec<(String, OwnedVariant)>) -> Result<Self> {
        let mut wish = Self {
            program: String::new(),
            argv: Vec::new(),
            environment: Vec::new(),
            properties: properties.iter().map(|(name, _)| name.clone()).collect(),
            add_ref: false,
            timeout: Duration::MAX,
            stdout: None,
            stderr: None,
        };
        for (name, value) in properties {
            wish.take(&name, value).with_context(|| format!("Cannot set property {name}"))?;
        }
        if !wish.program.starts_with('/') {
            bail!("Executable path is not absolute: {}", wish.program);
        }
        Ok(wish)
    }

    fn take(&mut self, name: &str, value: OwnedVariant) -> Result<()> {
        let fd = |value: OwnedVariant| match Variant::from(value) {
            Variant::Fd(fd) => Ok(OwnedFd::try_from(fd.try_to_owned()?)?),
            other => bail!("not a file descriptor: {other:?}"),
        };
        match name {
            "ExecStart" => {
                let commands: Vec<(String, Vec<String>, bool)> = value.try_into()?;
                let [(program, argv, _)] = &commands[..] else { bail!("not one command") };
                (self.program, self.argv) = (program.clone(), argv.clone());
                self.argv.iter_mut().for_each(|argument| *argument = expanded(argument));
            }
            "Environment" => self.environment = value.try_into()?,
            "TimeoutStartUSec" => self.timeout = Duration::from_micros(value.try_into()?),
            "TimeoutStopUSec" => drop(u64::try_from(value)?),
            "Type" => expect(value, "oneshot")?,
            "KillMode" => expect(value, "control-group")?,
            "CollectMode" => expect(value, "inactive-or-failed")?,
            "Description" | "SyslogIdentifier" => drop(String::try_from(value)?),
            "AddRef" => self.add_ref = value.try_into()?,
            "IgnoreSIGPIPE" => drop(bool::try_from(value)?),
            "StandardOutputFileDescriptor" => self.stdout = Some(fd(value)?),
            "StandardErrorFileDescriptor" => self.stderr = Some(fd(value)?),
            _ => bail!("unknown property"),
        }
        Ok(())
    }

    pub(super) fn spawn(&mut self) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
        command
            .args(self.argv.iter().skip(1))
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(self.environment.iter().filter_map(|variable| variable.split_once('=')))
            .stdin(Stdio::null())
            .stdout(stdio(self.stdout.take()))
            .stderr(stdio(self.stderr.take()))
            .process_group(0)
            .kill_on_drop(true);
        command.spawn()
    }
}

fn expect(value: OwnedVariant, known: &str) -> Result<()> {
    match String::try_from(value)? {
        value if value == known => Ok(()),
        value => bail!("this stand-in knows {known} alone, not {value}"),
    }
}

/// As systemd does it: `$$` is a dollar, and a variable nobody set is nothing.
fn expanded(argument: &str) -> String {
    let mut text = String::new();
    let mut rest = argument.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '$' if rest.peek() == Some(&'$') => {
                rest.next();
                text.push('$');
            }
            '$' => while rest.next_if(|c| c.is_alphanumeric() || "_{}".contains(*c)).is_some() {},
            c => text.push(c),
        }
    }
    text
}

/// Waits for the unit's end, kills what is left of it, and tells everybody.
pub(super) async fn watch(
    shared: Arc<Shared>,
    connection: Connection,
    name: String,
    job: OwnedObjectPath,
    wish: Wish,
    mut child: Child,
) {
    let group = group_of(&child);
    let ended = match wish.timeout {
        Duration::MAX => Ok(child.wait().await),
        timeout => tokio::time::timeout(timeout, child.wait()).await,
    };
    let (result, code, status) = match ended {
        Ok(Ok(status)) => match (status.code(), status.signal()) {
            (Some(0), _) => ("success", 1, 0),
            (Some(code), _) => ("exit-code", 1, code),
            (None, signal) => ("signal", 2, signal.unwrap_or(0)),
        },
        Ok(Err(_)) => ("resources", 0, 0),
        Err(_) => {
            kill(group, Signal::TERM);
            let grace = tokio::time::timeout(Duration::from_secs(2), child.wait()).await;
            if grace.is_err() {
                kill(group, Signal::KILL);
                let _ = child.wait().await;
            }
            ("timeout", 2, 15)
        }
    };
    kill(group, Signal::KILL);
    let (silent, jobs, result) = {
        let mut inner = shared.inner();
        let silent = inner.signals_unsent;
        let Some(unit) = inner.units.get_mut(&name) else { return };
        let failed = result != "success" && !unit.stopped;
        unit.state = if failed { State::Failed } else { State::Inactive };
        (unit.result, unit.code, unit.status) = (result.to_owned(), code, status);
        unit.group = None;
        let jobs = std::mem::take(&mut unit.stop_jobs);
        let result = match (unit.stopped, failed) {
            (true, _) => "canceled",
            (false, true) => "failed",
            (false, false) => "done",
        };
        (silent, jobs, result)
    };
    if silent {
        return;
    }
    let ends = std::iter::once((job, result)).chain(jobs.into_iter().map(|job| (job, "done")));
    for (job, result) in ends {
        let _ = super::manager::announce_end(&connection, job, &name, result).await;
    }
}

pub(super) fn group_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
}

pub(super) fn kill(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        let _ = kill_process_group(group, signal);
    }
}
