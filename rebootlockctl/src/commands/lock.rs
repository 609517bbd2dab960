//! `lock`: takes a slot.

use std::process::ExitCode;

use anyhow::bail;
use rebootlock::lock::Acquired;
use rebootlock::record::{Claim, HolderRecord, Via};

use super::waiting;
use crate::cli::Lock;
use crate::output::say;
use crate::session::{Session, in_groups, names};

pub(super) async fn run(session: Session, args: Lock) -> anyhow::Result<ExitCode> {
    let claim = match args.machine {
        None => session.own_claim(Via::Ctl, args.reason)?,
        Some(machine) => {
            // Which boot that machine is in, or its name, nobody here can know.
            let mut claim = Claim::new(machine, session.groups().iter().cloned(), Via::Ctl);
            claim.reason = args.reason;
            claim
        }
    };
    if let Acquired::Already(record) = waiting::acquire(&session, &claim, args.wait.wait).await? {
        must_hold_all(&session, &claim).await?;
        let (machine, groups) = (&claim.machine, in_groups(claim.groups()));
        say(format_args!("{machine} holds a slot in {groups} already{}", by(record.as_deref())));
    }
    Ok(ExitCode::SUCCESS)
}

/// A machine that somebody else gave a slot in some of its groups has not got one in the others.
pub(super) async fn must_hold_all(session: &Session, claim: &Claim) -> anyhow::Result<()> {
    let held = session.locks.holding(claim.groups(), &claim.machine).await?;
    let missing: Vec<_> =
        claim.groups().iter().filter(|group| !held.contains_key(group)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let held: Vec<_> = held.into_keys().collect();
    let (machine, missing) = (&claim.machine, names(&missing));
    bail!(
        "{machine} holds a slot in {} from elsewhere, but none in {missing}; unlock it first",
        in_groups(&held)
    )
}

/// `, taken by its agent`
pub(super) fn by(record: Option<&HolderRecord>) -> String {
    match record.and_then(|record| record.via.as_ref()) {
        None => String::new(),
        Some(Via::Agent) => ", taken by its agent".to_owned(),
        Some(via) => format!(", taken via {}", crate::output::clean(&via.to_string())),
    }
}
