//! Reading files, and saying what is wrong with them.

use std::io;
use std::path::{Path, PathBuf};

use super::Fragment;
use super::places::{Place, Places};
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
    #[error("{}{setting}: {problem}", .place.iter().map(|place| format!("{place}: ")).collect::<String>())]
    Setting {
        /// Which, as `table.key`, a flag or a variable.
        setting: &'static str,
        /// What is wrong, and what is allowed.
        problem: String,
        /// Where it was written, if that is known.
        place: Option<Place>,
    },
}

impl ConfigError {
    /// About a setting, wherever it came from.
    pub fn of_setting(setting: &'static str, problem: impl Into<String>) -> Self {
        Self::Setting { setting, problem: problem.into(), place: None }
    }

    /// The same with the place of the setting, if that is known.
    #[must_use]
    pub(super) fn placed(self, places: &Places) -> Self {
        match self {
            Self::Setting { setting, problem, place: None } => {
                Self::Setting { setting, problem, place: places.nearest(setting).cloned() }
            }
            other => other,
        }
    }
}

/// Reads `file` and its drop-ins in the order of their names. Without one, the default file, which
/// may be missing.
///
/// # Errors
/// [`ConfigError`] names the file and the place in it.
pub fn read_files(file: Option<&Path>) -> Result<Fragment, ConfigError> {
    let files = Files::read(file);
    match files.faults.into_iter().next() {
        Some(fault) => Err(fault),
        None => Ok(files.whole),
    }
}

/// What all files say together, and what is wrong with them.
#[derive(Debug, Default)]
pub struct Files {
    /// Those that were read, in this order, with those that have faults.
    pub read: Vec<PathBuf>,
    /// What those without faults say.
    pub whole: Fragment,
    /// The first of each file.
    pub faults: Vec<ConfigError>,
}

impl Files {
    /// Reads as [`read_files`] does, and goes on after a fault.
    pub fn read(file: Option<&Path>) -> Self {
        let mut files = Self::default();
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        files.add(path, file.is_some());
        match drop_ins(&path.with_extension("d")) {
            Ok(paths) => paths.iter().for_each(|path| files.add(path, true)),
            Err(fault) => files.faults.push(fault),
        }
        files
    }

    fn add(&mut self, path: &Path, must_be_there: bool) {
        let parsed = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_be_there => return,
            Err(source) => Err(ConfigError::Unreadable { path: path.to_owned(), source }),
            Ok(text) => {
                self.read.push(path.to_owned());
                Fragment::parse(path, &text)
            }
        };
        match parsed {
            Ok(fragment) => {
                self.whole = std::mem::take(&mut self.whole).overlaid(fragment);
            }
            Err(fault) => self.faults.push(fault),
        }
    }
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
    at_place(path, before, naming_key(before, at, problem))
}

/// What is wrong with a table that could be parsed.
pub(super) fn fault_in(path: &Path, text: &str, fault: Fault) -> ConfigError {
    let (before, at) = text.split_at_checked(fault.span.start).unwrap_or((text, ""));
    at_place(path, before, naming_key(before, at, fault.problem))
}

fn at_place(path: &Path, before: &str, problem: String) -> ConfigError {
    let Place { path, line, column } = Place::behind(path, before);
    ConfigError::Syntax { path, line, column, problem }
}

/// `problem` with the key whose value it is about, unless it names the key itself.
fn naming_key(before: &str, at: &str, problem: String) -> String {
    match key_of(before, at) {
        Some(key) if !problem.contains(&format!("`{key}`")) => format!("`{key}`: {problem}"),
        _ => problem,
    }
}

/// The key of the value that begins at `at`. The value may be in a list over several lines.
fn key_of<'a>(before: &'a str, at: &str) -> Option<&'a str> {
    let mut lines = before.rsplit('\n');
    let mut line = lines.next()?.trim();
    if line.is_empty() && at.starts_with('[') {
        return None;
    }
    loop {
        if let Some((key, _)) = line.split_once('=') {
            let key = key.trim();
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            return (!key.is_empty() && key.chars().all(plain)).then_some(key);
        }
        line = lines.next()?.trim();
        let goes_on = line.is_empty() || line.starts_with('#') || line.ends_with(['[', ',', '{']);
        if !goes_on {
            return None;
        }
    }
}

/// serde says "unknown field `x`, expected one of `a`, `b`"; users want to know which they meant.
fn reword(message: &str, before: &str, at: &str) -> String {
    if message.starts_with("invalid type: map, expected a sequence") {
        let name = match at.starts_with('[') {
            true => at.trim_start_matches('[').split(']').next(),
            false => key_of(before, at),
        };
        if let Some(name) = name {
            return format!("`{name}` can be there several times; write [[{name}]]");
        }
    }
    if message == "duplicate key" {
        let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let key = at.split(|c| !is_key(c)).next().unwrap_or_default();
        return format!("there is a `{key}` already; take one of them out");
    }
    if let Some((found, _)) = message.split_once(", expected path string") {
        return format!("{found}, expected a path in quotes");
    }
    if message == "wanted string or table" {
        return "expected a word in quotes".to_owned();
    }
    if let Some((found, _)) = message.split_once(", expected a sequence") {
        return format!("{found}, expected a list in square brackets");
    }
    if let Some((found, _)) = message.split_once(", expected struct ") {
        return format!("{found}, expected a table: its name in brackets, as in [store]");
    }
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
    if message.starts_with("missing field") {
        return format!("`{found}` is missing");
    }
    if message.starts_with("unknown variant") {
        let names: Vec<_> = allowed.iter().map(|name| format!("`{name}`")).collect();
        let names = names.join(", ");
        return match closest {
            Some(_) => format!("unknown value `{found}`; {meant} (allowed: {names})"),
            None => format!("unknown value `{found}`; allowed are {names}"),
        };
    }
    message.trim().replace('\n', "; ")
}
