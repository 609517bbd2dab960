//! The keys of a `[[detector]]`: which belong to which type, and what each may be.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::{DEFAULT_MAX_UPTIME, DetectorKind, DetectorTable, absolute};
use crate::config::table::{Count, Fault};

type Codes = Spanned<Vec<Spanned<Count<0, 255>>>>;

impl DetectorTable {
    /// A key that the type knows nothing of was meant for another detector, or for nobody.
    pub(super) fn check_keys(&self, kind: DetectorKind) -> Result<(), Fault> {
        fn span<T>(
            key: &'static str,
            value: &Option<Spanned<T>>,
        ) -> (&'static str, Option<Range<usize>>) {
            (key, value.as_ref().map(Spanned::span))
        }
        let written = [
            span("name", &self.name),
            span("optional", &self.optional),
            span("timeout_secs", &self.timeout_secs),
            span("path", &self.path),
            span("paths", &self.paths),
            span("command", &self.command),
            span("reboot_needed_codes", &self.reboot_needed_codes),
            span("clear_codes", &self.clear_codes),
            span("root", &self.root),
            span("max_days", &self.max_days),
            span("max_uptime_secs", &self.max_uptime_secs),
        ];
        let mut belonging: Vec<&str> = match kind {
            DetectorKind::UpdateEngine | DetectorKind::Request => vec!["enabled"],
            DetectorKind::File => vec!["path", "paths"],
            DetectorKind::Command => vec!["command", "reboot_needed_codes", "clear_codes"],
            DetectorKind::Kernel => vec!["root"],
            DetectorKind::NeedsRestarting
            | DetectorKind::Needrestart
            | DetectorKind::RpmOstree
            | DetectorKind::Bootc => vec!["command"],
            DetectorKind::Uptime => vec!["max_days", "max_uptime_secs"],
        };
        if !kind.is_built_in() {
            belonging.extend(["name", "enabled", "optional", "timeout_secs"]);
        }
        for (key, span) in written {
            if let Some(span) = span
                && !belonging.contains(&key)
            {
                let known: Vec<_> = belonging.iter().map(|key| format!("`{key}`")).collect();
                let problem = format!(
                    "`{key}` does not belong to a detector of type `{}`; it has {}",
                    kind.as_str(),
                    known.join(", ")
                );
                return Err(Fault::new(span, problem));
            }
        }
        Ok(())
    }

    /// `path` or `paths`; none if neither was written.
    pub(super) fn paths(&self) -> Result<Vec<PathBuf>, Fault> {
        let written: Vec<&Spanned<String>> = match (&self.path, &self.paths) {
            (Some(_), Some(paths)) => {
                return Err(Fault::at(paths, "`path` and `paths` say the same; give one of them"));
            }
            (Some(path), None) => vec![path],
            (None, Some(paths)) if paths.get_ref().is_empty() => {
                return Err(Fault::at(paths, "`paths` must name at least one file"));
            }
            (None, Some(paths)) => paths.get_ref().iter().collect(),
            (None, None) => Vec::new(),
        };
        let key = if self.path.is_some() { "path" } else { "paths" };
        let mut paths = Vec::new();
        for path in written {
            let path = absolute(key, path)?;
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        Ok(paths)
    }

    pub(super) fn argv(&self) -> Result<Option<Vec<String>>, Fault> {
        let Some(command) = &self.command else { return Ok(None) };
        let Some(program) = command.get_ref().first() else {
            return Err(Fault::at(command, "`command` must name a program"));
        };
        if program.get_ref().trim().is_empty() {
            return Err(Fault::at(program, "`command` must name a program, not a blank"));
        }
        if program.get_ref().contains('/') && !program.get_ref().starts_with('/') {
            let problem = format!(
                "`command` must name its program by an absolute path or by a name in PATH, not {:?}",
                program.get_ref()
            );
            return Err(Fault::at(program, problem));
        }
        for word in command.get_ref() {
            if word.get_ref().contains('\0') {
                return Err(Fault::at(word, "`command` must not contain a zero byte"));
            }
        }
        Ok(Some(command.get_ref().iter().map(|word| word.get_ref().clone()).collect()))
    }

    /// What means a reboot, if that was written, and what means none.
    pub(super) fn codes(&self) -> Result<(Option<Vec<i32>>, Vec<i32>), Fault> {
        let numbers = |codes: &Codes| -> Vec<i32> {
            let numbers = codes.get_ref().iter().map(|code| code.get_ref().get());
            numbers.filter_map(|code| i32::try_from(code).ok()).collect()
        };
        if let Some(codes) = &self.reboot_needed_codes
            && codes.get_ref().is_empty()
        {
            return Err(Fault::at(codes, "`reboot_needed_codes` must name at least one exit code"));
        }
        let clear = self.clear_codes.as_ref().map_or_else(|| vec![0], numbers);
        if let Some(codes) = &self.reboot_needed_codes {
            for code in codes.get_ref() {
                let number = code.get_ref().get();
                if clear.iter().any(|clear| u64::try_from(*clear) == Ok(number)) {
                    let says = if self.clear_codes.is_some() { "" } else { ", which is [0]" };
                    let problem = format!(
                        "exit code {number} is in `clear_codes`{says} too; it can mean one only"
                    );
                    return Err(Fault::at(code, problem));
                }
            }
        }
        Ok((self.reboot_needed_codes.as_ref().map(numbers), clear))
    }

    pub(super) fn max_uptime(&self) -> Result<Duration, Fault> {
        match (&self.max_days, &self.max_uptime_secs) {
            (Some(_), Some(secs)) => Err(Fault::at(
                secs,
                "`max_days` and `max_uptime_secs` say the same; give one of them",
            )),
            (Some(days), None) => Ok(Duration::from_secs(days.get_ref().get() * 24 * 60 * 60)),
            (None, Some(secs)) => Ok(secs.get_ref().get()),
            (None, None) => Ok(DEFAULT_MAX_UPTIME),
        }
    }
}
