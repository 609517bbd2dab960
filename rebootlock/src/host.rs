//! What this machine is called, which boot it is in, and how much of it is for a program of ours.

use std::io;
use std::path::{Path, PathBuf};

use crate::id::{BootId, InvalidName, MachineId};

/// Why this machine does not know itself.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file is missing or may not be read.
    #[error("cannot read the {what} from {}", .path.display())]
    Unreadable {
        /// What was to be read.
        what: &'static str,
        /// From where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} does not hold a {what}", .path.display())]
    Invalid {
        /// What was to be read.
        what: &'static str,
        /// From where.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidName,
    },
    /// systemd has not given the machine an id yet.
    #[error("{} says \"uninitialized\": the machine has no id yet; see systemd-machine-id-setup(1)", .path.display())]
    Uninitialized {
        /// The file that says so.
        path: PathBuf,
    },
}

/// Says how many threads a program has, instead of [`worker_threads`].
const WORKERS_VARIABLE: &str = "TOKIO_WORKER_THREADS";

/// How many threads are to work in a program that answers for many: half of the processors. A
/// request that is passed from thread to thread takes longer, and what it waits for is the store,
/// which needs processors too if it is on the same machine. `None`: the runtime is told by
/// `TOKIO_WORKER_THREADS`.
pub fn worker_threads() -> Option<usize> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::env::var_os(WORKERS_VARIABLE).is_none().then(|| processors.div_ceil(2))
}

/// Reads the machine-id.
///
/// # Errors
/// [`HostError`] names the file.
pub fn machine_id(path: &Path) -> Result<MachineId, HostError> {
    let (what, text) = read("machine id", path)?;
    if text.trim() == "uninitialized" {
        return Err(HostError::Uninitialized { path: path.to_owned() });
    }
    MachineId::new(text.trim()).map_err(|source| HostError::Invalid {
        what,
        path: path.to_owned(),
        source,
    })
}

/// Reads the boot id.
///
/// # Errors
/// [`HostError`] names the file.
pub fn boot_id(path: &Path) -> Result<BootId, HostError> {
    let (what, text) = read("boot id", path)?;
    BootId::new(&text).map_err(|source| HostError::Invalid { what, path: path.to_owned(), source })
}

fn read(what: &'static str, path: &Path) -> Result<(&'static str, String), HostError> {
    let text = std::fs::read_to_string(path).map_err(|source| HostError::Unreadable {
        what,
        path: path.to_owned(),
        source,
    })?;
    Ok((what, text))
}

/// What the machine calls itself.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
