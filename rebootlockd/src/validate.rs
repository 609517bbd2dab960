//! `rebootlockd validate-config`: what is wrong with the configuration, as `run` would read it, and
//! what parses but cannot work on this machine. Asks no store, runs no command.

mod works;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use rebootlock::cli::{CommonArgs, exit};
use rebootlock::config::{ConfigError, Files, Settings, Strategy};
use rebootlock::store::Endpoint;
use rebootlock::{host, store};
use serde_json::{Value, json};

use crate::command;
use crate::options::{Legacy, decide};
use crate::simulate::Output;

/// Flags of `validate-config`.
#[derive(Debug, Clone, Args)]
pub struct ValidateArgs {
    /// What to do when a reboot is wanted, as `run` is told [default: etcd-lock]
    #[arg(long, env = "REBOOTLOCK_STRATEGY", value_name = "STRATEGY")]
    pub strategy: Option<Strategy>,
    /// How the answer is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// What was found.
#[derive(Debug, Default)]
struct Report {
    files: Vec<PathBuf>,
    faults: Vec<Fault>,
    warnings: Vec<String>,
}

/// What keeps `run` from starting.
#[derive(Debug)]
struct Fault {
    message: String,
    place: Option<(PathBuf, usize, usize)>,
    setting: Option<&'static str>,
}

/// Reads the configuration and prints what is to be said about it. Returns the process's exit code:
/// 0, or 2 if `run` would refuse it.
pub fn run(
    common: &CommonArgs,
    args: &ValidateArgs,
    variable: impl Fn(&str) -> Option<OsString> + Copy,
) -> u8 {
    let report = Report::of(common, args.strategy, variable);
    let mut stdout = std::io::stdout();
    // A reader that has gone needs no answer.
    let _ = match args.output {
        Output::Text => {
            for fault in &report.faults {
                eprintln!("error: {}", fault.message);
            }
            for warning in &report.warnings {
                eprintln!("warning: {warning}");
            }
            stdout.write_all(report.text().as_bytes())
        }
        Output::Json => writeln!(stdout, "{:#}", report.document()),
    };
    if report.faults.is_empty() { 0 } else { exit::CONFIG }
}

impl Report {
    fn of(
        common: &CommonArgs,
        strategy: Option<Strategy>,
        variable: impl Fn(&str) -> Option<OsString> + Copy,
    ) -> Self {
        let files = Files::read(common.config.as_deref());
        let mut faults: Vec<Fault> = files.faults.into_iter().map(Fault::from).collect();
        let files_are_fine = faults.is_empty();
        let mut note = |fault: ConfigError| faults.push(fault.into());
        let legacy = Legacy::read(variable, &mut note);
        // What a damaged file meant to say is unknown, so nothing can be missed in what is left.
        let decided = legacy
            .filter(|_| files_are_fine)
            .and_then(|legacy| decide(files.whole, legacy, common, strategy, &mut note));
        let mut report = Self { files: files.read, faults, warnings: Vec::new() };
        if let Some((settings, windows)) = decided {
            let machine = host::machine_id(&settings.machine.id_file);
            report.note_unless(host::boot_id(&settings.machine.boot_id_file).err());
            report.note_unless(opened(&settings));
            let now = Timestamp::now();
            report.warnings = works::warnings(&settings, &windows, machine.as_ref().ok(), now);
            report.note_unless(machine.err());
        }
        report
    }

    fn note_unless(&mut self, error: Option<impl Into<anyhow::Error>>) {
        self.faults.extend(error.map(|error| Fault {
            message: format!("{:#}", error.into()),
            place: None,
            setting: None,
        }));
    }

    fn text(&self) -> String {
        if !self.faults.is_empty() {
            return String::new();
        }
        let mut text = String::from("configuration is valid\n");
        if self.files.is_empty() {
            text.push_str("no file was read: defaults, variables and flags\n");
        }
        for file in &self.files {
            text.push_str(&format!("read: {}\n", file.display()));
        }
        text
    }

    fn document(&self) -> Value {
        let fault = |fault: &Fault| {
            let place = fault.place.as_ref();
            json!({
                "message": fault.message,
                "file": place.map(|(file, _, _)| file.display().to_string()),
                "line": place.map(|(_, line, _)| line),
                "column": place.map(|(_, _, column)| column),
                "setting": fault.setting,
            })
        };
        json!({
            "valid": self.faults.is_empty(),
            "files": self.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>(),
            "errors": self.faults.iter().map(fault).collect::<Vec<_>>(),
            "warnings": self.warnings,
        })
    }
}

/// What keeps the store from being opened. No server is asked. A database would be made by opening
/// it, so it is not.
fn opened(settings: &Settings) -> Option<anyhow::Error> {
    if !matches!(settings.store.endpoints.first(), Some(Endpoint::Etcd(_) | Endpoint::Gateway(_))) {
        return None;
    }
    match command::runtime() {
        Ok(runtime) => {
            runtime.block_on(async { store::open(&settings.store).err() }).map(Into::into)
        }
        Err(error) => Some(error.into()),
    }
}

impl From<ConfigError> for Fault {
    fn from(error: ConfigError) -> Self {
        let (place, setting) = match &error {
            ConfigError::Syntax { path, line, column, .. } => {
                (Some((path.clone(), *line, *column)), None)
            }
            ConfigError::Setting { setting, place, .. } => {
                let place = place.as_ref();
                let place = place.map(|place| (place.path.clone(), place.line, place.column));
                (place, Some(*setting))
            }
            ConfigError::Unreadable { .. } => (None, None),
        };
        Self { message: format!("{:#}", anyhow::Error::from(error)), place, setting }
    }
}
