//! `request` and `cancel`: an operator's wish that a machine reboot.

use std::process::ExitCode;

use rebootlock::id::MachineId;
use rebootlock::lock::Cancelled;
use rebootlock::record::{Request, UnixTime};

use crate::output::say;
use crate::session::Session;

pub(super) async fn request(
    session: Session,
    machine: MachineId,
    reason: Option<String>,
    priority: u32,
) -> anyhow::Result<ExitCode> {
    let (by, since) = (session.operator().await?, UnixTime::now());
    let request = Request { by, reason, since, priority, unknown: serde_json::Map::new() };
    session.locks.request(&machine, &request).await?;
    let agent = session.locks.keys().machine(&machine);
    // Only for the sentence: the request stands, whatever the answer is.
    match session.locks.store().load(std::slice::from_ref(&agent)).await {
        Ok(now) if now.get(&agent).is_none() => say(format_args!(
            "requested; no agent of {machine} is there now, and the request waits for one"
        )),
        _ => say(format_args!("requested; the agent of {machine} takes it from here")),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn cancel(session: Session, machine: MachineId) -> anyhow::Result<ExitCode> {
    match session.locks.cancel(&machine).await? {
        Cancelled::Ended(_) => {
            say(format_args!("cancelled; a reboot that is permitted already goes on"));
        }
        Cancelled::NotRequested => say(format_args!("no reboot of {machine} was requested")),
    }
    Ok(ExitCode::SUCCESS)
}
