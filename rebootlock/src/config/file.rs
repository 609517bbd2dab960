//! Reading files, and saying what is wrong with them.

use std::io;
use std::path::{Path, PathBuf};

use super::Fragment;
use super::table::Fault;

/// Read unless another file is named; its drop-ins are in the folder of the same name with `.d`.
pub const DEFAULT_FILE: &str = "/etc/rebootlock/rebootlock.toml";

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named cannot be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A place in a file.
    #[error("{}:{line}:{column}: {problem}", .path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong there, and what is allowed.
        problem: String,
    },
    /// A setting, wherever it came from.
    #[error("{setting}: {problem}")]
    Setting {
        /// Which, as `table.key`, a flag or a variable.
        setting: &'static str,
        /// What is wrong, and what is allowed.
        problem: String,
    },
}

/// Reads `file` and its drop-ins in the order of their names. Without one, the default file, which
/// may be missing.
///
/// # Errors
/// [`ConfigError`] names the file and the place in it.
pub fn read_files(file: Option<&Path>) -> Result<Fragment, ConfigError> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let mut whole = match std::fs::read_to_string(path) {
        Ok(text) => Fragment::parse(path, &text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {
            Fragment::default()
        }
        Err(source) => return Err(ConfigError::Unreadable { path: path.to_owned(), source }),
    };
    for path in drop_ins(&path.with_extension("d"))? {
        let text = std::fs::read_to_string(&path)
            .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        whole = whole.overlaid(Fragment::parse(&path, &text)?);
    }
    Ok(whole)
}

fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(unreadable(source)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// A parser's error with file, line, column, and what was probably meant.
pub(super) fn explain(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let start = error.span().map_or(0, |span| span.start);
    let (before, at) = text.split_at_checked(start).unwrap_or((text, ""));
    let problem = reword(error.message(), before, at);
    at_place(path, before, problem)
}

/// What is wrong with a table that could be parsed.
pub(super) fn fault_in(path: &Path, text: &str, fault: Fault) -> ConfigError {
    let (before, _) = text.split_at_checked(fault.span.start).unwrap_or((text, ""));
    at_place(path, before, fault.problem)
}

fn at_place(path: &Path, before: &str, problem: String) -> ConfigError {
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    ConfigError::Syntax { path: path.to_owned(), line, column, problem }
}

/// serde says "unknown field `x`, expected one of `a`, `b`"; users want to know which they meant.
fn reword(message: &str, before: &str, at: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(found) = quoted.next() else { return message.trim().replace('\n', "; ") };
    let allowed: Vec<&str> = quoted.collect();
    let closest = allowed
        .iter()
        .map(|name| (strsim::jaro_winkler(found, name), *name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .filter(|(likeness, _)| *likeness > 0.75);
    let meant = match closest {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None => format!(
            "known are {}",
            allowed.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        ),
    };
    if message.starts_with("unknown field") {
        let line_start = before.rsplit('\n').next().unwrap_or_default();
        if line_start.trim_start().starts_with('[') || at.starts_with('[') {
            return format!("unknown table `{found}`; {meant}");
        }
        let table = before.lines().rev().map(str::trim).find(|line| line.starts_with('['));
        return match table {
            Some(table) => format!("unknown key `{found}` in {table}; {meant}"),
            None => format!("unknown key `{found}` outside any table; {meant}"),
        };
    }
    if message.starts_with("unknown variant") {
        let allowed: Vec<_> = allowed.iter().map(|name| format!("`{name}`")).collect();
        return format!("unknown value `{found}`; {meant} (allowed: {})", allowed.join(", "));
    }
    message.trim().replace('\n', "; ")
}
