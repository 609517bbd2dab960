//! `lock`: takes a slot.

use std::process::ExitCode;

use anyhow::bail;
use rebootlock::lock::Acquired;
use rebootlock::record::{Claim, HolderRecord, Via};
use rebootlock::view::words::{in_groups, shortfall, taken_by};

use super::waiting;
use crate::cli::Lock;
use crate::output::{clean, say};
use crate::session::Session;
use crate::signals::Signals;

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
    let mut signals = Signals::catch()?;
    let acquired = waiting::acquire(&session, &claim, args.wait.wait, &mut signals).await?;
    if let Acquired::Already(record) = acquired {
        tokio::select! {
            held = must_hold_all(&session, &claim) => held?,
            _ = signals.next() => bail!("interrupted; nothing was changed"),
        }
        let (machine, groups) = (&claim.machine, in_groups(claim.groups()));
        say(format_args!("{machine} holds a slot in {groups} already{}", by(record.as_deref())));
    }
    Ok(ExitCode::SUCCESS)
}

/// A machine that somebody else gave a slot in some of its groups has not got one in the others.
pub(super) async fn must_hold_all(session: &Session, claim: &Claim) -> anyhow::Result<()> {
    match missing(session, claim).await? {
        None => Ok(()),
        Some(text) => bail!(text),
    }
}

/// What a machine that holds a slot already lacks, in a sentence.
pub(super) async fn missing(session: &Session, claim: &Claim) -> anyhow::Result<Option<String>> {
    let held = session.locks.holding(claim.groups(), &claim.machine).await?;
    let held: Vec<_> = held.into_keys().collect();
    Ok(shortfall(&claim.machine, claim.groups(), &held))
}

/// `, taken by its agent`
pub(super) fn by(record: Option<&HolderRecord>) -> String {
    clean(&taken_by(record))
}
