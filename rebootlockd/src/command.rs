//! What the commands of this program have in common: how they fail, and what they run in.

use std::future::Future;
use std::io;

use rebootlock::cli::exit;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// Says on standard error why a command failed; `code` is the process's to end with.
pub fn fail(error: &anyhow::Error, code: u8) -> u8 {
    eprintln!("error: {error:#}");
    code
}

/// One thread: an agent waits nearly all of its life, and every thread costs memory.
///
/// # Errors
/// What the system says.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Runs a look at things to its end, or until somebody stops it; then it failed because it was
/// stopped before it had `done` its work. A failure is said, and its exit code is the error.
///
/// # Errors
/// The process's exit code.
pub fn look<T>(done: &str, looking: impl Future<Output = anyhow::Result<T>>) -> Result<T, u8> {
    let runtime = runtime().map_err(|error| fail(&error.into(), exit::FAILED))?;
    let looked = runtime.block_on(async {
        let (mut term, mut int) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // Dropped, the commands are killed with all they have started.
        tokio::select! {
            looked = looking => looked,
            _ = term.recv() => anyhow::bail!("stopped before {done}"),
            _ = int.recv() => anyhow::bail!("stopped before {done}"),
        }
    });
    // A look at a file system that hangs must not keep the process.
    runtime.shutdown_background();
    looked.map_err(|error| fail(&error, exit::FAILED))
}
