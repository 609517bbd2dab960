//! `rebootlockd simulate`: what the detectors of this machine say now. Asks no store, takes no
//! slot, reboots nothing.

use std::io::Write as _;

use clap::{Args, ValueEnum};
use rebootlock::cli::{CommonArgs, exit};
use rebootlock::config::{DetectorSettings, Fragment, LogSettings, Settings, StoreFragment};
use serde_json::json;

use crate::command::{self, fail};
use crate::detect::{Detectors, Finding, Findings, Verdict};
use crate::want::Want;

/// Lines of a command's output that are shown.
const SHOWN: usize = 20;

/// Flags of `simulate`.
#[derive(Debug, Clone, Args)]
pub struct SimulateArgs {
    /// How the answer is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Reads the configuration, asks the detectors and prints what they say. Returns the process's exit
/// code: 0, or 6 if one failed that may not.
pub fn run(common: &CommonArgs, args: &SimulateArgs) -> u8 {
    let (detectors, log) = match read(common) {
        Ok(read) => read,
        Err(error) => return fail(&error, exit::CONFIG),
    };
    if let Err(error) = rebootlock::logging::start(&log) {
        return fail(&error.into(), exit::CONFIG);
    }
    let asked = Detectors::new(&detectors);
    let asking = async { Ok(asked.ask().await) };
    let findings = match command::look("all detectors had answered", asking) {
        Ok(findings) => findings,
        Err(code) => return code,
    };
    let text = match args.output {
        Output::Text => text(&detectors, &findings),
        Output::Json => format!("{:#}\n", document(&detectors, &findings)),
    };
    // A reader that has gone needs no answer.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if findings.failed().is_empty() { 0 } else { exit::DETECTOR_FAILED }
}

/// The detectors, and how to log. What is said of the store is not even looked at: its password may
/// be in a file for root alone.
fn read(common: &CommonArgs) -> anyhow::Result<(Vec<DetectorSettings>, LogSettings)> {
    let fragment = common.fragment_over(Fragment::default())?;
    let settings = Settings::decide(Fragment { store: StoreFragment::default(), ..fragment })?;
    Ok((settings.detectors, settings.log))
}

/// What one detector says, on one line.
pub(crate) fn sentence(finding: &Finding) -> String {
    let says = match &finding.verdict {
        Verdict::Clear => "no reboot needed".to_owned(),
        Verdict::Wanted { reason } => format!("reboot needed: {reason}"),
        Verdict::Failed { why } if finding.optional => format!("failed, left out: {why}"),
        Verdict::Failed { why } => format!("failed: {why}"),
    };
    let code = finding.exit_code.map(|code| format!(", exit code {code}")).unwrap_or_default();
    format!("{}: {says} ({:.3} s{code})", finding.name, finding.took.as_secs_f64())
}

fn text(settings: &[DetectorSettings], findings: &Findings) -> String {
    let mut text = String::from("Detectors, besides requests by `rebootlockctl request`:\n");
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    let update_engine = DetectorSettings::update_engine_is_on(settings);
    say(format!(
        "  update-engine ({})",
        if update_engine { "on; it speaks up by itself and is not asked here" } else { "off" }
    ));
    for one in settings.iter().filter(|one| one.name != "update-engine") {
        let off = matches!(one.source, rebootlock::config::DetectorSource::Off);
        let timeout = one.timeout.as_secs();
        let how = match (off, one.optional) {
            (true, _) => "off".to_owned(),
            (false, true) => format!("{timeout} s, optional"),
            (false, false) => format!("{timeout} s"),
        };
        say(format!("  {} ({}, {how})", one.name, one.kind.as_str()));
    }
    say(String::new());
    for finding in findings {
        say(sentence(finding));
        let lines: Vec<&str> = finding.output.lines().collect();
        let skipped = lines.len().saturating_sub(SHOWN);
        if skipped > 0 {
            say(format!("    … {skipped} lines before"));
        }
        for line in &lines[skipped..] {
            say(format!("    | {}", line.replace(|c: char| c.is_control() && c != '\t', "?")));
        }
    }
    say(match (findings.want(), &findings.failed()[..]) {
        (Want::Reboot { reason, .. }, _) => format!("Overall: a reboot is wanted: {reason}"),
        (Want::Nothing, _) => "Overall: no reboot is wanted".to_owned(),
        (Want::Unknown, failed) => format!(
            "Overall: unknown, because of {}; no detector's reason counts until it answers or is \
             optional",
            failed.iter().map(|finding| finding.name.as_str()).collect::<Vec<_>>().join(", ")
        ),
    });
    text
}

/// One finding, for programs.
pub(crate) fn finding(one: &Finding) -> serde_json::Value {
    let reason = match &one.verdict {
        Verdict::Clear => None,
        Verdict::Wanted { reason } => Some(reason),
        Verdict::Failed { why } => Some(why),
    };
    json!({
        "name": one.name,
        "type": one.kind,
        "optional": one.optional,
        "verdict": one.verdict.as_str(),
        "reason": reason,
        "seconds": one.took.as_secs_f64(),
        "exitCode": one.exit_code,
        "output": one.output,
    })
}

fn document(settings: &[DetectorSettings], findings: &Findings) -> serde_json::Value {
    let (verdict, reason) = match findings.want() {
        Want::Reboot { reason, .. } => ("wanted", Some(reason)),
        Want::Nothing => ("clear", None),
        Want::Unknown => ("unknown", None),
    };
    json!({
        "updateEngine": DetectorSettings::update_engine_is_on(settings),
        "detectors": findings.iter().map(finding).collect::<Vec<_>>(),
        "failed": findings.failed().iter().map(|one| &one.name).collect::<Vec<_>>(),
        "verdict": verdict,
        "reason": reason,
    })
}
