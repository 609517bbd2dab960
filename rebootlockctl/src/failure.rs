//! How a command that failed ends: one line on stderr, and an exit code scripts can rely on.

use std::fmt;
use std::process::ExitCode;

use rebootlock::cli::exit;
use rebootlock::config::ConfigError;
use rebootlock::lock::LockError;

use crate::output::{ReaderGone, say};

/// The command line cannot be followed, though each flag by itself is well-formed.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The configuration names something that cannot be used.
#[derive(Debug)]
pub(crate) struct BadConfiguration(pub(crate) String);

impl fmt::Display for BadConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadConfiguration {}

/// Says what went wrong, once, and gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<ReaderGone>() {
        return ExitCode::SUCCESS;
    }
    say(format_args!("error: {}", chain(error)));
    code(error).into()
}

fn code(error: &anyhow::Error) -> u8 {
    error
        .chain()
        .find_map(|cause| {
            if cause.is::<ConfigError>() || cause.is::<BadConfiguration>() {
                return Some(exit::CONFIG);
            }
            if cause.is::<Usage>() {
                return Some(exit::USAGE);
            }
            match cause.downcast_ref::<LockError>()? {
                LockError::Full { .. } => Some(exit::NO_SLOT),
                LockError::Paused { .. } | LockError::Held { .. } => Some(exit::PAUSED),
                LockError::CoolingDown { .. } => Some(exit::GATE_CLOSED),
                _ => Some(exit::FAILED),
            }
        })
        .unwrap_or(exit::FAILED)
}

/// The error and its causes, joined by colons. A cause that the text above it ends with already
/// is not said twice.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if said.is_empty() {
            said = text;
        } else if !said.ends_with(&text) {
            said = format!("{said}: {text}");
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use rebootlock::id::Group;
    use rebootlock::store::StoreError;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let source = StoreError::Unavailable("http://h:1: refused".into());
        let error = LockError::Store { action: "reading k".into(), source };
        let error = Err::<(), _>(error).context("cannot tell").map_err(|e| chain(&e));
        let said = "cannot tell: reading k: the store is out of reach: http://h:1: refused";
        assert_eq!(error, Err(said.to_owned()));
    }

    #[test]
    fn scripts_can_tell_full_from_paused_from_failed() {
        let full = LockError::Full { group: Group::default(), max: 1 };
        assert_eq!(code(&anyhow::Error::from(full).context("why")), exit::NO_SLOT);
        assert_eq!(code(&Usage("no".into()).into()), exit::USAGE);
        assert_eq!(code(&anyhow::anyhow!("no")), exit::FAILED);
    }
}
