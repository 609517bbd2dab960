//! `request` and `cancel`: an operator's wish that a machine reboot.

use std::process::ExitCode;

use rebootlock::id::MachineId;
use rebootlock::lock::Cancelled;
use rebootlock::record::{Request, UnixTime};

use crate::output::say;
use crate::session::{Session, operator};

pub(super) async fn request(
    session: Session,
    machine: MachineId,
    reason: Option<String>,
    priority: u32,
) -> anyhow::Result<ExitCode> {
    let (by, since) = (operator(), UnixTime::now());
    let request = Request { by, reason, since, priority, unknown: serde_json::Map::new() };
    session.locks.request(&machine, &request).await?;
    say(format_args!("requested; the agent of {machine} takes it from here"));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn cancel(session: Session, machine: MachineId) -> anyhow::Result<ExitCode> {
    match session.locks.cancel(&machine).await? {
        Cancelled::Ended(_) => {
            say(format_args!("cancelled; a slot it holds already is not given back"));
        }
        Cancelled::NotRequested => say(format_args!("no reboot of {machine} was requested")),
    }
    Ok(ExitCode::SUCCESS)
}
