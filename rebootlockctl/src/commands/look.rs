//! Looking at several groups. A damaged one does not hide the others.

use std::process::ExitCode;

use rebootlock::cli::exit;
use rebootlock::id::Group;
use rebootlock::lock::{GroupStatus, LockError};

use crate::failure::chain;
use crate::output::say;
use crate::session::Session;

/// A group as it was, or what is wrong with its semaphore.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) group: Group,
    pub(super) status: Result<GroupStatus, String>,
}

/// Looks at all of `groups`.
pub(super) async fn look(session: &Session, groups: Vec<Group>) -> anyhow::Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for group in groups {
        let status = match session.locks.status(&group).await {
            Ok(status) => Ok(status),
            Err(damaged @ LockError::Damaged { .. }) => Err(chain(&damaged.into())),
            Err(error) => return Err(error.into()),
        };
        seen.push(Seen { group, status });
    }
    Ok(seen)
}

/// Says what is damaged, after all else was shown, and how the command ends.
pub(super) fn end(seen: &[Seen]) -> ExitCode {
    for damage in seen.iter().filter_map(|seen| seen.status.as_ref().err()) {
        say(format_args!("error: {damage}"));
    }
    let whole = seen.iter().all(|seen| seen.status.is_ok());
    if whole { ExitCode::SUCCESS } else { exit::FAILED.into() }
}
