//! A machine whose group changes: it has one slot, and gets the next one when that has gone back.

use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{Rewrite, Timed, Wanted};
use rebootlock::record::{Disruption, DisruptionState, UnixTime};

use super::ask;
use crate::app::Live;
use crate::slots::{self, Refusal};

/// What is known of a machine once it asks in `group` and nowhere else.
fn asking_in(known: &Disruption, group: &Group, limit: u32) -> Disruption {
    Disruption {
        state: DisruptionState::Asking,
        group: group.clone(),
        limit,
        since: UnixTime::now(),
        expired: false,
        again: None,
        again_limit: None,
        ..known.clone()
    }
}

/// The same, where it wants the next slot. `None`: it wants none.
pub(super) fn next(known: &Disruption) -> Option<Disruption> {
    let limit = known.again_limit.unwrap_or(known.limit);
    known.again.as_ref().map(|again| asking_in(known, again, limit))
}

/// Lets a machine that has no slot where it asks leave that line, and ask in `group`, in what is left of
/// its time. `false`: it has a slot, or has said something since.
pub(super) async fn move_over(
    live: &Live,
    machine: &MachineId,
    seen: &Disruption,
    group: &Group,
    limit: u32,
) -> Result<bool, Refusal> {
    // One that is granted at this very moment makes this come to nothing.
    let left = ask::leave(live, machine, &seen.group, None, |known, slot| {
        let known = &known?.disruption;
        let moves = !slot && known.is_same_time(seen);
        moves.then(|| Wanted::SomethingElse(Box::new(asking_in(known, group, limit))))
    });
    Ok(left.await?.is_some())
}

/// Lets a machine whose slot is gone, in whichever way, ask for the next one.
pub(super) async fn move_on(
    live: &Live,
    machine: &MachineId,
    seen: &Disruption,
) -> Result<(), Refusal> {
    let Some(next) = next(seen) else { return Ok(()) };
    if ask::slot(live, &seen.group, machine).await?.is_none()
        && move_over(live, machine, seen, &next.group, next.limit).await?
    {
        begin(live, machine, &next).await?;
    }
    Ok(())
}

/// Lets the whole time of a wish begin that is in a time of another one still, and the machine stand in
/// line.
pub(super) async fn begin(
    live: &Live,
    machine: &MachineId,
    moved: &Disruption,
) -> Result<(), Refusal> {
    let time = live.settings.disruption.permitted;
    let rewriting = live.locks.rewrite_disruption(machine, time, |known| match known {
        Some(Timed { disruption, .. })
            if disruption.state == DisruptionState::Asking
                && (&disruption.group, &disruption.lease) == (&moved.group, &moved.lease) =>
        {
            Rewrite::Begin(disruption.clone())
        }
        // It has asked anew since, or wants nothing more.
        _ => Rewrite::Keep,
    });
    slots::in_time(live, rewriting).await?;
    ask::advance(live, machine).await
}
