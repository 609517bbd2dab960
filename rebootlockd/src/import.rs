//! `rebootlockd import`: the configuration of another reboot manager, as ours.
//!
//! Nothing is lost in silence. What has no equal, or behaves differently here, becomes a comment;
//! what cannot be understood is an error with its place. Where there is a choice, the result
//! reboots less often than the original, never more often.

mod clusterrebootd;
mod draft;
mod locksmith;
mod rebootmgr;
#[cfg(test)]
mod tests;
mod words;

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use jiff::Zoned;
use jiff::civil::Date;
use rebootlock::cli::exit;
use rebootlock::config::{Fragment, Settings};

/// Flags of `import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// Whose configuration it is
    #[arg(long, value_name = "PROGRAM")]
    pub from: Peer,
    /// The file, or - for standard input. clusterrebootd: its YAML. locksmith: update.conf or the
    /// unit's environment file. rebootmgr: SUSE's rebootmgr.conf, or of SysEleven's the node's JSON
    /// or the unit that starts it
    pub file: PathBuf,
}

/// Whose configuration can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// clusterrebootd
    Clusterrebootd,
    /// locksmith of CoreOS and Flatcar
    Locksmith,
    /// rebootmgr, SUSE's or SysEleven's
    Rebootmgr,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Something in the file.
    #[error("{}:{fault}", .path.display())]
    Fault {
        /// The file.
        path: PathBuf,
        /// What, and where.
        fault: Fault,
    },
    /// What came of it is refused by our own programs.
    #[error("{}: what comes of it is not valid here", .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rebootlock::config::ConfigError,
    },
}

/// A place in the file, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {problem}")]
pub struct Fault {
    line: u64,
    column: u64,
    problem: String,
}

impl Fault {
    fn new(line: u64, column: u64, problem: impl Into<String>) -> Self {
        Self { line, column, problem: problem.into() }
    }
}

/// Reads the file and prints ours. Returns the process's exit code: 0, 1 if the file cannot be read,
/// or 2 if it cannot be understood.
pub fn run(args: &ImportArgs) -> u8 {
    let from_stdin = args.file.as_os_str() == "-";
    let (path, text) = if from_stdin {
        let mut text = String::new();
        let read = io::stdin().read_to_string(&mut text).map(|_| text);
        (Path::new("stdin"), read)
    } else {
        (args.file.as_path(), std::fs::read_to_string(&args.file))
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            eprintln!("error: cannot read {}: {error}", path.display());
            return exit::FAILED;
        }
    };
    match convert(args.from, path, &text, Zoned::now().date()) {
        Ok(ours) => {
            // A reader that has gone needs no answer.
            let _ = io::stdout().write_all(ours.as_bytes());
            0
        }
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            exit::CONFIG
        }
    }
}

/// Our configuration for `text`, which is called `path` in messages.
///
/// # Errors
/// [`ImportError`] says what cannot be understood.
pub fn convert(from: Peer, path: &Path, text: &str, today: Date) -> Result<String, ImportError> {
    let mut draft = match from {
        Peer::Clusterrebootd => clusterrebootd::convert(text),
        Peer::Locksmith => locksmith::convert(text),
        Peer::Rebootmgr => rebootmgr::convert(text, today),
    }
    .map_err(|fault| ImportError::Fault { path: path.to_owned(), fault })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    draft.came_from(&name);
    let ours = draft.to_toml();
    check(&ours).map_err(|source| ImportError::Refused { path: path.to_owned(), source })?;
    Ok(ours)
}

/// What we print must be what we read. A password file is not there yet.
fn check(ours: &str) -> Result<(), rebootlock::config::ConfigError> {
    let mut fragment = Fragment::parse(Path::new("result"), ours)?;
    fragment.store.username = None;
    fragment.store.password_file = None;
    Settings::decide(fragment).map(drop)
}
