//! `request` and `cancel`: an operator's wish that a machine reboot.

use std::process::ExitCode;

use anyhow::Context as _;
use rebootlock::id::MachineId;
use rebootlock::record::{Document as _, Request, UnixTime};
use rebootlock::store::{Commit, Txn};

use crate::output::say;
use crate::session::{Session, operator};

pub(super) async fn request(
    session: Session,
    machine: MachineId,
    reason: Option<String>,
    priority: u32,
) -> anyhow::Result<ExitCode> {
    let key = session.locks.keys().request(&machine);
    let (by, since) = (operator(), UnixTime::now());
    let request = Request { by, reason, since, priority, unknown: serde_json::Map::new() };
    // A wish already there is replaced: the last word counts.
    let txn = Txn::new().put(key.clone(), request.to_json());
    let committed = session.locks.store().commit(&txn).await;
    committed.with_context(|| format!("cannot request a reboot of {machine} at {key}"))?;
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
    let key = session.locks.keys().request(&machine);
    let cannot = || format!("cannot cancel the request at {key}");
    let store = session.locks.store();
    let before = store.load(std::slice::from_ref(&key)).await.with_context(cannot)?;
    if before.get(&key).is_none() {
        say(format_args!("no reboot of {machine} was requested"));
        return Ok(ExitCode::SUCCESS);
    }
    let txn = Txn::new().when(before.unchanged(&key)).delete(key.clone());
    match store.commit(&txn).await.with_context(cannot)? {
        Commit::Won(_) => {
            say(format_args!("cancelled; a reboot that is permitted already goes on"))
        }
        Commit::Lost => anyhow::bail!("the request at {key} has just changed; look, and try again"),
    }
    Ok(ExitCode::SUCCESS)
}
