//! `rebootlock-gateway import`: the configuration of another server, as ours. One program a file.
//!
//! Nothing is lost in silence. What has no equal, or behaves differently here, becomes a comment;
//! what cannot be understood is an error with its place. Where there is a choice, fewer machines
//! reboot than did before, never more.

mod airlock;

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use rebootlock::cli::exit;
use rebootlock::config::{ConfigError, Fragment, Settings};

/// Flags of `import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// Whose configuration it is
    #[arg(long, value_name = "PROGRAM")]
    pub from: Peer,
    /// The file, or - for standard input
    pub file: PathBuf,
}

/// Whose configuration can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// airlock: its config.toml
    Airlock,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Something in the file; with its line and column if they are known.
    #[error("{}: {problem}", .path.display())]
    Fault {
        /// The file.
        path: PathBuf,
        /// What.
        problem: String,
    },
    /// What came of it is refused by our own programs.
    #[error("{}: what comes of it is not valid here", .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ConfigError,
    },
}

/// Reads the file and prints ours. Returns the process's exit code: 0, 1 if the file cannot be read,
/// or 2 if it cannot be understood.
pub fn run(args: &ImportArgs) -> u8 {
    let (path, text) = if args.file.as_os_str() == "-" {
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
    match convert(args.from, path, &text) {
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
pub fn convert(from: Peer, path: &Path, text: &str) -> Result<String, ImportError> {
    let ours = match from {
        Peer::Airlock => airlock::convert(text),
    };
    let ours = ours.map_err(|problem| ImportError::Fault { path: path.to_owned(), problem })?;
    // What we print must be what we read.
    let checked = Fragment::parse(Path::new("result"), &ours).and_then(Settings::decide);
    checked.map_err(|source| ImportError::Refused { path: path.to_owned(), source })?;
    Ok(ours)
}
