//! `rebootlock-gateway import`: the configuration of another server, as ours. One program a file.
//!
//! Nothing is lost in silence. What has no equal, or behaves differently here, becomes a comment;
//! what cannot be understood is an error with its place. Where there is a choice, fewer machines
//! reboot than did before, never more.

mod airlock;
mod goahead;

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
    /// The files, or - for standard input. airlock: one; goahead: its config.yml, or files with
    /// clusters
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

/// Whose configuration can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// goahead: its config.yml with the clusters of its include_dir, or files with clusters
    Goahead,
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
    #[error("{}: what comes of it is not valid here: {problem}", .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why. Where that is in the result says nothing to those who have not seen it.
        problem: String,
    },
}

/// Reads the files and prints ours. Returns the process's exit code: 0, 1 if a file cannot be read, or 2
/// if it cannot be understood.
pub fn run(args: &ImportArgs) -> u8 {
    let mut files = Vec::new();
    for path in &args.files {
        let (path, text) = if path.as_os_str() == "-" {
            let mut text = String::new();
            let read = io::stdin().read_to_string(&mut text).map(|_| text);
            (Path::new("stdin"), read)
        } else {
            (path.as_path(), std::fs::read_to_string(path))
        };
        match text {
            Ok(text) => files.push((path.to_owned(), text)),
            Err(error) => {
                eprintln!("error: cannot read {}: {error}", path.display());
                return exit::FAILED;
            }
        }
    }
    match convert(args.from, &files) {
        Ok(ours) => {
            // A reader that has gone needs no answer.
            let _ = io::stdout().write_all(ours.text.as_bytes());
            0
        }
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            exit::CONFIG
        }
    }
}

/// What comes of the files of another server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Converted {
    /// Our configuration.
    pub text: String,
    /// What its comments say, and about what: it may be used without being read.
    pub notes: Vec<String>,
    /// Where goahead keeps its state, unless it was not told.
    pub state: Option<PathBuf>,
    /// Whether goahead's config.yml is among the files, and not only clusters.
    pub has_main: bool,
}

/// Our configuration for `files`, each with its text.
///
/// # Errors
/// [`ImportError`] says what cannot be understood.
pub fn convert(from: Peer, files: &[(PathBuf, String)]) -> Result<Converted, ImportError> {
    let path = || files.first().map(|(path, _)| path.clone()).unwrap_or_default();
    let ours = match (from, files) {
        (Peer::Goahead, files) => goahead::convert(files)?,
        (Peer::Airlock, [(path, text)]) => airlock::convert(text)
            .map(|text| Converted { text, ..Converted::default() })
            .map_err(|problem| ImportError::Fault { path: path.clone(), problem })?,
        (Peer::Airlock, _) => {
            let problem = "airlock has one file; name that alone".to_owned();
            return Err(ImportError::Fault { path: path(), problem });
        }
    };
    // What we print must be what we read.
    let checked = Fragment::parse(Path::new("result"), &ours.text).and_then(Settings::decide);
    match checked {
        Ok(_) => Ok(ours),
        Err(error) => Err(ImportError::Refused {
            path: path(),
            problem: match error {
                ConfigError::Syntax { problem, .. } => problem,
                ConfigError::Setting { setting, problem, .. } => format!("{setting}: {problem}"),
                other @ ConfigError::Unreadable { .. } => other.to_string(),
            },
        }),
    }
}
