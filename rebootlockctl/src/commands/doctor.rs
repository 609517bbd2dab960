//! `doctor`: checks everything the lock needs, and says how to mend what is wrong.

mod bus;
mod documents;
mod endpoints;
mod fleetlock;
mod machine;
mod zincati;

use std::process::ExitCode;

use rebootlock::cli::{CommonArgs, exit};
use rebootlock::config::{ConfigError, DEFAULT_FILE, Settings};
use rebootlock::lock::LockManager;
use serde::Serialize;

use crate::cli::{Format, Output};
use crate::failure::chain;
use crate::output::{clean, colour, print, print_json};
use crate::session::{open_store, settings};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It works, but a person should know.
    Warn,
    /// It does not work.
    Fail,
}

/// What a check found.
#[derive(Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    /// What was looked at.
    about: String,
    /// What was seen.
    found: String,
    /// What to do about it; nothing to be done where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn ok(about: impl Into<String>, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, about: about.into(), found: found.into(), mend: None }
    }

    fn warn(about: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, mend: Some(mend.into()), ..Self::ok(about, found) }
    }

    fn fail(about: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, mend: Some(mend.into()), ..Self::ok(about, found) }
    }

    fn line(&self, colour: bool) -> String {
        let (word, code) = match self.verdict {
            Verdict::Ok => ("ok  ", "32"),
            Verdict::Warn => ("warn", "33"),
            Verdict::Fail => ("FAIL", "31"),
        };
        let word = if colour { format!("\u{1b}[{code}m{word}\u{1b}[0m") } else { word.to_owned() };
        let mend = self.mend.iter().map(|mend| format!("      {}\n", clean(mend)));
        format!("{word}  {}: {}\n", clean(&self.about), clean(&self.found))
            + &mend.collect::<String>()
    }
}

pub(super) async fn run(common: &CommonArgs, output: Output) -> anyhow::Result<ExitCode> {
    let mut findings = Vec::new();
    match settings(common) {
        Ok(mut settings) => {
            findings.push(configuration(common));
            check(&mut settings, &mut findings).await;
        }
        // Everything else depends on it.
        Err(error) => findings.push(unusable(&error)),
    }
    match output.output {
        Format::Json => print_json(&findings)?,
        Format::Table => {
            let colour = colour();
            print(&findings.iter().map(|finding| finding.line(colour)).collect::<String>())?;
        }
    }
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(if failed { exit::FAILED.into() } else { ExitCode::SUCCESS })
}

async fn check(settings: &mut Settings, findings: &mut Vec<Finding>) {
    if settings.store.is_fleetlock() {
        findings.extend(fleetlock::check(settings).await);
    } else {
        check_store(settings, findings).await;
    }
    findings.extend(machine::check(&settings.machine));
    findings.extend(bus::check().await);
    findings.extend(zincati::check());
}

async fn check_store(settings: &mut Settings, findings: &mut Vec<Finding>) {
    match open_store(&mut settings.store).await {
        Ok(store) => {
            findings.extend(endpoints::check(&settings.store).await);
            let locks = LockManager::new(store, settings.store.keys.clone());
            findings.extend(documents::check(&locks, &settings.machine.groups).await);
        }
        Err(error) => findings.push(Finding::fail(
            "store",
            chain(&error),
            "mend the setting, file or right that it names",
        )),
    }
}

fn configuration(common: &CommonArgs) -> Finding {
    let found = match &common.config {
        Some(path) => path.display().to_string(),
        None if std::path::Path::new(DEFAULT_FILE).exists() => DEFAULT_FILE.to_owned(),
        None => format!("no {DEFAULT_FILE}; flags, variables and defaults only"),
    };
    Finding::ok("configuration", found)
}

fn unusable(error: &anyhow::Error) -> Finding {
    let mend = match error.downcast_ref::<ConfigError>() {
        Some(ConfigError::Unreadable { .. }) => "make the file readable, or name another",
        _ => "correct it there; nothing else was checked",
    };
    Finding::fail("configuration", chain(error), mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_that_is_not_ok_says_what_to_do() {
        let finding = Finding::fail("store", "gone", "bring it back");
        assert_eq!(finding.line(false), "FAIL  store: gone\n      bring it back\n");
        assert_eq!(Finding::ok("store", "there").line(false), "ok    store: there\n");
    }
}
