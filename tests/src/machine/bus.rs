//! A private system bus: a real `dbus-daemon` that nobody else can see.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;
use zbus::connection::Builder;

use crate::eventually;
use crate::process::Process;

/// Longest wait for a `dbus-daemon` to take connections.
const START: Duration = Duration::from_secs(10);

/// A running `dbus-daemon`, killed when dropped.
#[derive(Debug)]
pub struct Bus {
    dir: TempDir,
    address: String,
    daemon: Option<Process>,
}

impl Bus {
    /// Starts a bus in a folder of its own and waits until it can be used.
    pub async fn start() -> Result<Self> {
        // Short, because a socket's path has to fit into 107 bytes.
        let dir = TempDir::with_prefix("bus-").context("cannot make a folder for the bus")?;
        let address = format!("unix:path={}", dir.path().join("socket").display());
        std::fs::write(dir.path().join("bus.conf"), config(&address))
            .context("cannot write the configuration of the bus")?;
        let mut bus = Self { dir, address, daemon: None };
        bus.restart().await?;
        Ok(bus)
    }

    /// What `DBUS_SYSTEM_BUS_ADDRESS` has to say. Without the bus's guid, which changes with every
    /// restart.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Starts the bus, or starts it again, on the same address.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        remove_socket(&self.dir.path().join("socket"))?;
        let mut command = Command::new("dbus-daemon");
        command.arg("--nofork").arg("--print-address").arg("--nopidfile");
        command.arg(format!("--config-file={}", self.dir.path().join("bus.conf").display()));
        let daemon = Process::spawn("dbus-daemon", command)?;
        self.daemon = Some(daemon);
        eventually("the bus takes connections", START, async || {
            connect(&self.address).await.map(drop).map_err(|err| format!("{err:#}"))
        })
        .await
        .context("is dbus-daemon installed and allowed to run")
    }

    /// Kills the bus as a crash would: every connection breaks, every name is gone.
    pub async fn stop(&mut self) -> Result<()> {
        match self.daemon.take() {
            Some(mut daemon) => daemon.kill().await,
            None => Ok(()),
        }
    }

    /// A new connection of the test's own.
    pub async fn connect(&self) -> Result<zbus::Connection> {
        connect(&self.address).await
    }
}

pub(super) async fn connect(address: &str) -> Result<zbus::Connection> {
    let connection = Builder::address(address).build().await;
    connection.with_context(|| format!("cannot connect to the bus at {address}"))
}

fn remove_socket(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A system bus as far as programs can tell, without its policy and without activation: a stand-in
/// that is not there must stay away.
fn config(address: &str) -> String {
    format!(
        r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow send_type="signal"/>
    <allow eavesdrop="true"/>
  </policy>
</busconfig>
"#
    )
}
