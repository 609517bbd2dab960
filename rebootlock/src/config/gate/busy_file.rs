//! `type = "busy-file"`

use std::ops::Range;
use std::time::Duration;

use super::super::table::Fault;
use super::{GateTable, Glob};

/// Open if none of these files is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusyFileGate {
    /// Absolute, each part may be a shell pattern; at least one.
    pub paths: Vec<String>,
    /// A file that was changed longer ago does not count.
    pub max_age: Option<Duration>,
}

pub(super) fn check(table: GateTable, whole: Range<usize>) -> Result<BusyFileGate, Fault> {
    let missing = "`paths` is missing: files that are there while something is going on";
    let paths = table.paths.ok_or_else(|| Fault::new(whole, missing))?;
    if paths.get_ref().is_empty() {
        return Err(Fault::at(&paths, "`paths` needs at least one path"));
    }
    for path in paths.get_ref() {
        let text = path.get_ref();
        if !text.starts_with('/') || text.contains('\0') {
            let problem = format!("`paths` must be absolute, which {text:?} is not");
            return Err(Fault::at(path, problem));
        }
        for part in text.split('/') {
            if part.contains("**") {
                let problem = "`**` is not known here; each `*` stands for one part of a path";
                return Err(Fault::at(path, problem));
            }
            if Glob::is_one(part) {
                Glob::new(part).map_err(|problem| Fault::at(path, problem))?;
            }
        }
    }
    let paths = paths.into_inner().into_iter().map(toml::Spanned::into_inner).collect();
    Ok(BusyFileGate { paths, max_age: table.max_age_secs.map(|age| age.get_ref().get()) })
}
