//! A machine that only looks like one: a private system bus with update-engine and logind on it, an
//! identity, a boot, and files in a folder of its own. A reboot is written down and, on
//! [`Machine::new_boot`], had.

mod bus;
pub mod logind;
mod notify;
mod pty;
pub mod systemd;
pub mod update_engine;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;

pub use bus::Bus;
pub use logind::Logind;
pub use notify::NotifySocket;
pub use pty::Pty;
pub use systemd::Systemd;
pub use update_engine::UpdateEngine;

/// Beginnings of variables that would carry the tester's own set-up into a program under test.
const FOREIGN: [&str; 5] =
    ["REBOOTLOCK_", "LOCKSMITH", "REBOOT_STRATEGY", "REBOOT_WINDOW", "NOTIFY_SOCKET"];

/// One machine of a fleet. Dropped, its bus is killed and its folder removed.
#[derive(Debug)]
pub struct Machine {
    /// The private system bus.
    pub bus: Bus,
    /// update-engine, started and idle; stop it to have it come late.
    pub update_engine: UpdateEngine,
    /// logind, started, with nobody logged in.
    pub logind: Logind,
    /// Where the daemon's notifications to systemd arrive.
    pub notify: NotifySocket,
    id: String,
    dir: TempDir,
}

impl Machine {
    /// Starts a machine with this machine-id and a boot id of its own.
    pub async fn new(id: &str) -> Result<Self> {
        let dir = TempDir::with_prefix("machine-").context("cannot make a folder")?;
        let path = |name: &str| dir.path().join(name);
        for folder in ["state", "run/update-engine"] {
            std::fs::create_dir_all(path(folder))
                .with_context(|| format!("cannot make {folder}"))?;
        }
        std::fs::write(path("machine-id"), format!("{id}\n"))
            .context("cannot write a machine-id")?;
        let bus = Bus::start().await?;
        let machine = Self {
            update_engine: UpdateEngine::new(bus.address()),
            logind: Logind::new(bus.address()),
            notify: NotifySocket::bind(&path("notify"))?,
            id: id.to_owned(),
            bus,
            dir,
        };
        machine.write_boot_id()?;
        machine.logind.start().await?;
        machine.update_engine.start().await?;
        Ok(machine)
    }

    /// Its machine-id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id of its present boot.
    pub fn boot_id(&self) -> Result<String> {
        let path = self.boot_id_file();
        let text = std::fs::read_to_string(&path);
        Ok(text.with_context(|| format!("cannot read {}", path.display()))?.trim().to_owned())
    }

    /// Its folder, for a test's own files beside the machine's.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its `/etc/machine-id`.
    pub fn machine_id_file(&self) -> PathBuf {
        self.dir().join("machine-id")
    }

    /// Its `/proc/sys/kernel/random/boot_id`.
    pub fn boot_id_file(&self) -> PathBuf {
        self.dir().join("boot_id")
    }

    /// Its `/run/update-engine/coordinator.conf`; only the folder exists at first.
    pub fn coordinator_file(&self) -> PathBuf {
        self.dir().join("run/update-engine/coordinator.conf")
    }

    /// Its `/var/lib/rebootlock`.
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// The machine comes up again: a new boot id, no shutdown under way, nobody logged in, no inhibitor,
    /// nothing left in `/run`, and update-engine idle. Processes of the old boot are the test's to kill
    /// before. Gives the new boot id.
    pub async fn new_boot(&self) -> Result<String> {
        match std::fs::remove_file(self.coordinator_file()) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                return Err(err).context("cannot clear the coordinator file");
            }
            _ => {}
        }
        let boot_id = self.write_boot_id()?;
        self.logind.new_boot().await?;
        self.update_engine.idle().await?;
        Ok(boot_id)
    }

    /// Stops the bus and starts it again on the same address, and the stand-ins on it.
    pub async fn restart_bus(&mut self) -> Result<()> {
        self.bus.restart().await?;
        self.logind.start().await?;
        self.update_engine.start().await
    }

    /// A command that runs `binary` as this machine's agent: `run` with the machine's files as flags, on
    /// its bus, notifying its socket, with none of the tester's own settings. More flags may follow.
    pub fn daemon_command(&self, binary: &Path) -> Command {
        let mut command = self.command(binary);
        command.arg("run");
        command.arg("--machine-id-file").arg(self.machine_id_file());
        command.arg("--boot-id-file").arg(self.boot_id_file());
        command.arg("--coordinator-file").arg(self.coordinator_file());
        command.arg("--state-dir").arg(self.state_dir());
        command.env("NOTIFY_SOCKET", self.notify.path());
        command
    }

    /// A command that runs `binary` on this machine's bus, with none of the tester's own settings.
    pub fn command(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| FOREIGN.iter().any(|f| name.starts_with(f))) {
                command.env_remove(name);
            }
        }
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.bus.address());
        command
    }

    /// Writes it whole or not at all: a daemon may be reading.
    fn write_boot_id(&self) -> Result<String> {
        let boot_id = uuid::Uuid::new_v4().to_string();
        let new = self.dir().join("boot_id.new");
        std::fs::write(&new, format!("{boot_id}\n")).context("cannot write a boot id")?;
        std::fs::rename(&new, self.boot_id_file()).context("cannot replace the boot id")?;
        Ok(boot_id)
    }
}
