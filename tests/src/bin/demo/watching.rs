//! `rebootlockctl status --watch`, in the same terminal.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use rebootlock_tests::{binaries, within};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// The running command. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Watching {
    child: Child,
}

impl Watching {
    /// Starts it on the store at `endpoints`.
    pub(crate) fn start(endpoints: &[String]) -> Result<Self> {
        let mut command = Command::new(binaries::path("rebootlockctl")?);
        command.args(["status", "--watch", "--endpoint"]).arg(endpoints.join(","));
        for (name, _) in std::env::vars_os() {
            let foreign = ["REBOOTLOCK_", "LOCKSMITH"];
            if name.to_str().is_some_and(|name| foreign.iter().any(|f| name.starts_with(f))) {
                command.env_remove(name);
            }
        }
        command.env("REBOOTLOCK_CONFIG", "/dev/null").stdin(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().context("cannot run rebootlockctl")?;
        Ok(Self { child })
    }

    /// Lets it show the last change, then ends it as a person would.
    pub(crate) async fn end(mut self) -> Result<()> {
        // Longer than it gathers the changes of a burst for.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = pid.context("rebootlockctl status --watch ended by itself")?;
        kill_process(pid, Signal::INT).context("cannot end rebootlockctl")?;
        within("the end of rebootlockctl", Duration::from_secs(5), self.child.wait()).await??;
        Ok(())
    }
}
