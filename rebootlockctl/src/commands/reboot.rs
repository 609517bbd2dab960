//! `reboot`: takes the slot, gets the permit, orders the reboot.
//!
//! Up to the permit, whatever goes wrong gives a slot taken here back. After it nothing is given
//! back: the machine may be on its way down.

use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use rebootlock::cli::exit;
use rebootlock::lock::{Acquired, Advance, Ended, Release};
use rebootlock::record::{Claim, HolderRecord, HolderState, UnixTime, Via};
use rebootlock::view::words::in_groups;

use super::{lock, waiting};
use crate::bus::SystemBus;
use crate::cli::Reboot;
use crate::output::{clean, say};
use crate::session::Session;
use crate::signals::Signals;

pub(super) async fn run(session: Session, args: Reboot) -> anyhow::Result<ExitCode> {
    let claim = session.own_claim(Via::CtlReboot, args.reason)?;
    let bus = SystemBus::connect().await?;
    // Asked before a slot is taken, so that nobody waits for us in vain.
    match bus.can_reboot().await?.as_str() {
        "yes" => {}
        "na" => bail!("logind says that this machine cannot be rebooted"),
        other => bail!("logind does not let us reboot (CanReboot: {other}); run this as root"),
    }
    if is_inhibited(&bus).await? {
        return Ok(exit::GATE_CLOSED.into());
    }
    let mut signals = Signals::catch()?;
    let acquired = waiting::acquire(&session, &claim, args.wait.wait, &mut signals).await?;
    let taken_here = match acquired {
        Acquired::Granted => true,
        Acquired::Already(record) => {
            tokio::select! {
                taken = take_over(&session, &claim, record.as_deref()) => taken?,
                _ = signals.next() => {
                    bail!("interrupted; no reboot was ordered, and the slot it had before stays")
                }
            }
            false
        }
    };
    let permit = tokio::select! {
        permit = get_permit(&session, &claim, &bus) => permit,
        _ = signals.next() => Err(anyhow!("interrupted; no reboot was ordered")),
    };
    match permit {
        Ok(true) => {}
        Ok(false) => {
            give_back(&session, &claim, taken_here).await;
            return Ok(exit::GATE_CLOSED.into());
        }
        Err(error) => {
            give_back(&session, &claim, taken_here).await;
            return Err(error);
        }
    }
    order(&bus, &claim).await?;
    say(format_args!("rebooting"));
    Ok(ExitCode::SUCCESS)
}

/// Whether somebody blocks the shutdown; names whoever does.
async fn is_inhibited(bus: &SystemBus) -> anyhow::Result<bool> {
    let inhibitors = bus.inhibitors().await?;
    for inhibitor in &inhibitors {
        let (who, why) = (clean(&inhibitor.who), clean(&inhibitor.why));
        say(format_args!("blocked by {who} (pid {}): {why}", inhibitor.pid));
    }
    Ok(!inhibitors.is_empty())
}

/// Goes on under a token of our own with the slot that this machine has already, so that who took
/// it, the agent for one, cannot act on it at the same time.
async fn take_over(
    session: &Session,
    claim: &Claim,
    found: Option<&HolderRecord>,
) -> anyhow::Result<()> {
    lock::must_hold_all(session, claim).await?;
    let groups = in_groups(claim.groups());
    say(format_args!("this machine holds its slot in {groups} already{}", lock::by(found)));
    if found.is_some_and(|record| record.state == Some(HolderState::Rebooting)) {
        say(format_args!("its reboot was ordered before; ordering it again"));
    }
    session.locks.adopt(claim, found, HolderState::Holding).await?;
    Ok(())
}

/// Looks for inhibitors once more, as waiting may have taken long, and writes the permit. `false`
/// if somebody blocks.
async fn get_permit(session: &Session, claim: &Claim, bus: &SystemBus) -> anyhow::Result<bool> {
    if is_inhibited(bus).await? {
        return Ok(false);
    }
    let deadline = session.settings.agent.reboot_deadline.as_secs();
    let permit = Advance::permit(UnixTime::now().plus_seconds(deadline));
    session.locks.advance(claim.groups(), &claim.machine, claim.token, &permit).await?;
    Ok(true)
}

/// Nothing has been ordered yet, so a slot taken here can go.
async fn give_back(session: &Session, claim: &Claim, taken_here: bool) {
    if !taken_here {
        say(format_args!("the slot it had before stays"));
        return;
    }
    let release = Release::of(claim.token, Ended::GivenBack);
    let released = session.locks.release(claim.groups(), &claim.machine, &release).await;
    if let Err(error) = released {
        let machine = &claim.machine;
        say(format_args!("the slot could not be given back: {error}; later: unlock {machine}"));
    }
}

async fn order(bus: &SystemBus, claim: &Claim) -> anyhow::Result<()> {
    let message = match &claim.reason {
        Some(reason) => format!("rebooting: {reason}"),
        None => "rebooting".to_owned(),
    };
    let machine = &claim.machine;
    bus.reboot(&message).await.with_context(|| {
        format!(
            "logind did not confirm the reboot; the slot stays taken, as the machine may go down \
             all the same; if it surely stays up: rebootlockctl unlock {machine}"
        )
    })
}
