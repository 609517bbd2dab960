//! `hold` and `unhold`: keeping one machine from rebooting.

use std::process::ExitCode;
use std::time::Duration;

use rebootlock::duration;
use rebootlock::id::MachineId;
use rebootlock::lock::Unheld;
use rebootlock::record::{Hold, UnixTime};

use super::pause::{end_of, for_how_long};
use crate::cli::Target;
use crate::output::{clean, say};
use crate::session::Session;

fn machine(session: &Session, target: Target) -> anyhow::Result<MachineId> {
    match target.machine {
        Some(machine) => Ok(machine),
        // Either is required.
        None => session.machine_id(),
    }
}

pub(super) async fn hold(
    session: Session,
    target: Target,
    time: Option<Duration>,
    reason: Option<String>,
) -> anyhow::Result<ExitCode> {
    let machine = machine(&session, target)?;
    let (by, since) = (session.operator().await?, UnixTime::now());
    let until = end_of(since, time);
    let hold = Hold { by, reason, since, until, unknown: serde_json::Map::new() };
    session.locks.hold(&machine, &hold).await?;
    let lasting = for_how_long(time);
    say(format_args!("{machine} is held{lasting}; a reboot that is permitted already goes on"));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn unhold(session: Session, target: Target) -> anyhow::Result<ExitCode> {
    let machine = machine(&session, target)?;
    match session.locks.unhold(&machine).await? {
        Unheld::Ended(None) => say(format_args!("{machine} may reboot again")),
        Unheld::Ended(Some(hold)) => {
            let age = duration::show(UnixTime::now().seconds_since(hold.since));
            let by = clean(&hold.by);
            say(format_args!("{machine} may reboot again; it was held by {by} for {age}"));
        }
        Unheld::NotHeld => say(format_args!("{machine} was not held")),
    }
    Ok(ExitCode::SUCCESS)
}
