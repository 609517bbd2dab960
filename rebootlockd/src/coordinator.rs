//! `coordinator.conf`: tells update-engine and its tools who reboots this machine.
//!
//! Format and rules are in `proto-docs/coordinator.md`. The lock is held for as long as this
//! process lives; a second coordinator finds it and does not start.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// What a coordinator is doing, as written into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoordinatorState {
    /// Not ready yet.
    Starting,
    /// Never reboots.
    Disabled,
    /// Watching.
    Running,
    /// A reboot is wanted and will come.
    RebootPlanned,
    /// The reboot is ordered.
    Rebooting,
}

impl CoordinatorState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Disabled => "disabled",
            Self::Running => "running",
            Self::RebootPlanned => "reboot-planned",
            Self::Rebooting => "rebooting",
        }
    }
}

/// Why the file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// Another coordinator has it.
    #[error("{} is locked: another reboot coordinator (locksmithd?) is running; stop it first", .0.display())]
    Taken(PathBuf),
    /// It cannot be written.
    #[error("cannot write {}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The file, locked.
#[derive(Debug)]
pub struct Coordinator {
    path: PathBuf,
    strategy: &'static str,
    state: Option<CoordinatorState>,
    locked: File,
}

impl Coordinator {
    /// Takes the file over.
    ///
    /// # Errors
    /// [`CoordinatorError::Taken`] if another process has it.
    pub fn take(path: &Path, strategy: &'static str) -> Result<Self, CoordinatorError> {
        let io = |source| CoordinatorError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        loop {
            let open =
                OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
            let locked = open.map_err(io)?;
            match flock(&locked, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(CoordinatorError::Taken(path.to_owned()));
                }
                Err(errno) => return Err(io(errno.into())),
            }
            // Between opening and locking it may have been replaced.
            let ours = locked.metadata().map_err(io)?.ino();
            if std::fs::metadata(path).is_ok_and(|there| there.ino() == ours) {
                return Ok(Self { path: path.to_owned(), strategy, state: None, locked });
            }
        }
    }

    /// Changes what the file says of the strategy, from the next change of state on.
    pub fn set_strategy(&mut self, strategy: &'static str) {
        if self.strategy != strategy {
            self.strategy = strategy;
            self.state = None;
        }
    }

    /// Writes the state down, if it is another one than before.
    ///
    /// # Errors
    /// [`CoordinatorError::Io`]
    pub fn set(&mut self, state: CoordinatorState) -> Result<(), CoordinatorError> {
        if self.state == Some(state) {
            return Ok(());
        }
        let write = || -> io::Result<File> {
            let new = self.path.with_extension("conf.new");
            let mut file = File::create(&new)?;
            // Locked before it is there, so that at no moment the file is free.
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            let (strategy, state) = (self.strategy, state.as_str());
            write!(file, "NAME=rebootlockd\nSTATE={state}\nSTRATEGY={strategy}\n")?;
            std::fs::rename(&new, &self.path)?;
            Ok(file)
        };
        self.locked =
            write().map_err(|source| CoordinatorError::Io { path: self.path.clone(), source })?;
        self.state = Some(state);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_second_coordinator_is_refused_before_and_after_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("update-engine/coordinator.conf");
        let mut first = Coordinator::take(&path, "etcd-lock").unwrap();
        assert!(matches!(Coordinator::take(&path, "off"), Err(CoordinatorError::Taken(_))));
        first.set(CoordinatorState::RebootPlanned).unwrap();
        assert!(matches!(Coordinator::take(&path, "off"), Err(CoordinatorError::Taken(_))));
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "NAME=rebootlockd\nSTATE=reboot-planned\nSTRATEGY=etcd-lock\n"
        );
        drop(first);
        Coordinator::take(&path, "off").unwrap();
    }
}
