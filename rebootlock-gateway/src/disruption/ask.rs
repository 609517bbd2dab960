//! Two of the three operations, for a machine that may speak for itself: looking, and asking.

use std::net::{IpAddr, Ipv4Addr};

use rebootlock::config::{CountFrom, DisruptionGroups};
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{Advance, Ended, GivenBack, LockError, Rewrite, Timed, Wanted};
use rebootlock::queue::Queue;
use rebootlock::record::{Disruption, DisruptionState, HolderRecord, HolderState, UnixTime, Via};
use rebootlock::store::Select;

use super::change;
use super::tags::Ready;
use crate::app::{App, Live};
use crate::reply::Kind;
use crate::slots::{self, Ask, Refusal};

/// What a machine is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// It may be disrupted.
    Permitted,
    /// Not now; it is remembered.
    Requested,
    /// It may not, and nobody remembers that it wants to.
    Denied,
}

impl Word {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::Requested => "requested",
            Self::Denied => "denied",
        }
    }
}

/// Who asks, and what its tags say.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) machine: MachineId,
    pub(super) group: Group,
    pub(super) limit: u32,
    pub(super) ready: Option<Ready>,
    pub(super) address: IpAddr,
}

/// Whether the machine may be disrupted as one of the group that it names. What it is told may only change
/// because it is its turn.
///
/// # Errors
/// [`Refusal`] if the store cannot tell.
pub(super) async fn check(live: &Live, asking: &Asking) -> Result<Word, Refusal> {
    let machine = &asking.machine;
    match slots::in_time(live, live.locks.disruption(machine)).await? {
        Some(Timed { disruption, runs: true })
            if disruption.state == DisruptionState::Asking && disruption.group == asking.group =>
        {
            let held = live.settings.disruption.count_from == CountFrom::Grant
                && holds(live, &disruption.group, machine).await?.is_some();
            let word = take(live, machine, &disruption, asking.address).await?;
            if word == Word::Permitted && !held {
                count_from_grant(live, &disruption).await;
            }
            Ok(word)
        }
        // Its slot, in whichever group, is to go back first.
        Some(Timed { disruption, .. }) if disruption.again.as_ref() == Some(&asking.group) => {
            Ok(Word::Requested)
        }
        // It has asked for nothing here, or its time is over.
        Some(_) => Ok(Word::Denied),
        // A slot that nothing is known about but that it was taken for the machine.
        None if holds(live, &asking.group, machine).await?.is_some() => {
            match adopt(live, &asking.group, machine).await? {
                Some(adopted) => take(live, machine, &adopted, asking.address).await,
                None => Ok(Word::Denied),
            }
        }
        None => Ok(Word::Denied),
    }
}

/// Lets the time of a slot begin that nothing is known about but that it was taken for the machine: what
/// asked for it was overtaken by what took the wish back, or its document was taken away by hand.
pub(super) async fn adopt(
    live: &Live,
    group: &Group,
    machine: &MachineId,
) -> Result<Option<Disruption>, Refusal> {
    // It has said nothing, and so nothing but what is so already.
    let (semaphore, _) = slots::in_time(live, live.locks.glance(group)).await?;
    let asking = Asking {
        machine: machine.clone(),
        group: group.clone(),
        limit: semaphore.max(),
        ready: None,
        address: NOBODY,
    };
    let wished = wish(&asking, group, UnixTime::now());
    let time = live.settings.disruption.permitted;
    let rewriting = live.locks.rewrite_disruption(machine, time, |known| match known {
        None => Rewrite::Begin(wished.clone()),
        Some(_) => Rewrite::Keep,
    });
    slots::in_time(live, rewriting).await
}

/// Whether a wish was not a machine's own.
pub(super) fn is_adopted(disruption: &Disruption) -> bool {
    disruption.address() == NOBODY
}

/// From where nobody asks.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Wishes that the machine be disrupted as one of the group that it names.
///
/// # Errors
/// [`Refusal`] if there is no such group, or the store cannot tell; then it may be remembered all the
/// same.
pub(super) async fn request(app: &App, live: &Live, asking: &Asking) -> Result<Word, Refusal> {
    let machine = &asking.machine;
    admit(live, asking).await?;
    let disruption = remember(live, asking).await?;
    // A group that nobody asked for may have gone in between.
    admit(live, asking).await?;
    app.disrupted.notify_one();
    if disruption.state == DisruptionState::Asking && disruption.group == asking.group {
        take(live, machine, &disruption, asking.address).await
    } else {
        Ok(Word::Requested)
    }
}

/// Whether there is the group that a machine asks for, with what it says about its limit.
async fn admit(live: &Live, asking: &Asking) -> Result<(), Refusal> {
    let Asking { group, limit, machine, .. } = asking;
    match follows(live, group) {
        true => slots::in_time(live, live.locks.follow_limit(group, machine, *limit)).await,
        false => slots::known(live, group).await,
    }
}

/// Sees to it that the machine's wish is remembered: for the whole time from now on, or, while it has a
/// slot in another group or proves itself for one, until that has gone back. What it has asked for there
/// stays as it is.
async fn remember(live: &Live, asking: &Asking) -> Result<Disruption, Refusal> {
    let Asking { machine, group, limit, .. } = asking;
    let known = slots::in_time(live, live.locks.disruption(machine)).await?;
    if let Some(Timed { disruption: known, .. }) = known
        && known.state == DisruptionState::Asking
        && known.group != *group
    {
        change::move_over(live, machine, &known, group, *limit).await?;
    }
    let wished = wish(asking, group, UnixTime::now());
    let again = |known: &Disruption| {
        let (again, again_limit) = (Some(group.clone()), Some(*limit));
        Disruption { again, again_limit, ..known.clone() }
    };
    let time = live.settings.disruption.permitted;
    let rewriting = live.locks.rewrite_disruption(machine, time, |known| {
        match known.map(|timed| &timed.disruption) {
            None => Rewrite::Begin(wished.clone()),
            // Its time is that of the settings of now.
            Some(known) if known.state == DisruptionState::Asking && known.group == *group => {
                let (since, unknown) = (known.since, known.unknown.clone());
                Rewrite::Begin(Disruption { since, unknown, ..wished.clone() })
            }
            Some(known) => Rewrite::Put(again(known)),
        }
    });
    Ok(slots::in_time(live, rewriting).await?.unwrap_or(wished))
}

pub(super) fn wish(asking: &Asking, group: &Group, now: UnixTime) -> Disruption {
    let ready = asking.ready.as_ref();
    Disruption {
        machine_id: asking.machine.to_string(),
        group: group.clone(),
        limit: asking.limit,
        state: DisruptionState::Asking,
        since: now,
        until: now,
        lease: String::new(),
        address: Some(asking.address.to_string()),
        ready_url: ready.and_then(|ready| ready.url.clone()),
        ready_timeout_secs: ready.map(|ready| ready.within.as_secs()),
        expired: false,
        again: None,
        again_limit: None,
        unknown: serde_json::Map::new(),
    }
}

/// Asks for a slot for a machine that wishes for one.
async fn take(
    live: &Live,
    machine: &MachineId,
    wished: &Disruption,
    address: IpAddr,
) -> Result<Word, Refusal> {
    let (via, group) = (Via::DisruptionManager, &wished.group);
    let ask = Ask { group: group.clone(), machine: machine.clone(), via, address };
    let answer = slots::acquire(live, &ask).await;
    if let Err(refusal) = &answer {
        tracing::debug!(id = %machine, %group, "{refusal}");
        match refusal.kind {
            Kind::Full
            | Kind::Paused
            | Kind::CoolingDown
            | Kind::Held
            | Kind::Window
            | Kind::Unhealthy => {}
            Kind::TakenOtherwise => return Ok(Word::Denied),
            _ => return answer.map(|_| Word::Denied),
        }
    }
    // Whoever took the wish back meanwhile has looked for a slot or a place before there was one.
    let still = slots::in_time(live, live.locks.disruption(machine)).await?;
    if let Some(Timed { disruption, runs }) = still.filter(|t| t.disruption.group == *group) {
        return Ok(match (disruption.state, answer) {
            (DisruptionState::Asking, _) if !runs => Word::Denied,
            (DisruptionState::Asking, Ok(_)) if disruption.is_same_time(wished) => Word::Permitted,
            // What it wished for since may not have been granted.
            (DisruptionState::Asking, _) => Word::Requested,
            // What it proves its slot for is seen to by who looks after it.
            (DisruptionState::Proving, _) => Word::Denied,
        });
    }
    leave(live, machine, group, Some(address), |known, _| match known {
        Some(timed) if timed.disruption.group == *group => None,
        _ => Some(Wanted::StillSomething),
    })
    .await?;
    Ok(Word::Denied)
}

/// Gives back what the machine has in `group`, its place in the queue too, if `decide` says so of what
/// there is at that moment. `None`: it did not.
pub(super) async fn leave(
    live: &Live,
    machine: &MachineId,
    group: &Group,
    address: Option<IpAddr>,
    decide: impl Fn(Option<&Timed>, bool) -> Option<Wanted>,
) -> Result<Option<GivenBack>, Refusal> {
    let leaving = live.locks.leave(group, machine, &Ended::Steady, decide);
    let left = slots::in_time(live, leaving).await?;
    if let Some(GivenBack::Freed(_)) = &left {
        tracing::info!(
            target: "rebootlock_gateway::audit",
            event = "released", id = %machine, %group, via = %Via::DisruptionManager,
            address = address.map(tracing::field::display), "slot given back"
        );
    }
    Ok(left)
}

/// The slot that is the machine's to give back through this door, if it has one, and its record.
pub(super) async fn slot(
    live: &Live,
    group: &Group,
    machine: &MachineId,
) -> Result<Option<Option<HolderRecord>>, Refusal> {
    let groups = std::slice::from_ref(group);
    let mut held = slots::in_time(live, live.locks.holding(groups, machine)).await?;
    let elsewhere = |record: &HolderRecord| {
        record.via.as_ref().is_some_and(|via| *via != Via::DisruptionManager)
    };
    Ok(held.remove(group).filter(|record| !record.as_ref().is_some_and(elsewhere)))
}

/// The record of the slot that the machine got through this door, if it has one.
pub(super) async fn holds(
    live: &Live,
    group: &Group,
    machine: &MachineId,
) -> Result<Option<HolderRecord>, Refusal> {
    let ours = |record: &HolderRecord| record.via == Some(Via::DisruptionManager);
    Ok(slot(live, group, machine).await?.flatten().filter(ours))
}

/// For people. What counts is the machine's own document.
pub(super) async fn show_as_verifying(
    live: &Live,
    group: &Group,
    machine: &MachineId,
    record: &HolderRecord,
) {
    let Some(token) = record.token else { return };
    let (groups, step) = (std::slice::from_ref(group), Advance::to(HolderState::Verifying));
    let shown = slots::in_time(live, live.locks.advance(groups, machine, token, &step)).await;
    if let Err(error) = shown {
        tracing::debug!(id = %machine, %error, "not shown as verifying");
    }
}

/// Whether the limit of a group is for its machines to say, as far as the settings know.
pub(super) fn follows(live: &Live, group: &Group) -> bool {
    live.settings.disruption.groups == DisruptionGroups::Tags && !live.fixes(group)
}

/// The time of a permission that was waited for runs from now on, if the settings say so. It is as long
/// as it was to be when the machine asked.
async fn count_from_grant(live: &Live, disruption: &Disruption) {
    if live.settings.disruption.count_from == CountFrom::Grant
        && let Err(error) = slots::in_time(live, live.locks.prolong(disruption)).await
    {
        tracing::warn!(id = disruption.machine_id, %error, "its time was not prolonged");
    }
}

/// Gives what is free to those whose turn it is, if they come through this door.
pub(super) async fn promote(live: &Live, group: &Group) {
    if let Err(error) = promoted(live, group).await {
        // The next look does it as well.
        tracing::warn!(%group, "nobody was promoted: {error}");
    }
}

async fn promoted(live: &Live, group: &Group) -> Result<(), Refusal> {
    let (semaphore, _) = slots::in_time(live, live.locks.glance(group)).await?;
    let free = usize::try_from(semaphore.available()).unwrap_or(0);
    if free == 0 {
        return Ok(());
    }
    let below = live.locks.keys().queue(group);
    let listing = async {
        live.locks.store().list(&below, Select::All).await.map_err(|source| {
            let action = format!("listing {below}");
            LockError::Store { action, source }
        })
    };
    let line = Queue::of(&slots::in_time(live, listing).await?).in_order();
    for ticket in line.into_iter().take(free) {
        let via = ticket.waiter.and_then(|waiter| waiter.via);
        if via == Some(Via::DisruptionManager) {
            advance(live, &ticket.machine).await?;
        }
    }
    Ok(())
}

/// Asks for a slot for a machine that waits for one, or lets it wait in line.
pub(super) async fn advance(live: &Live, machine: &MachineId) -> Result<(), Refusal> {
    let known = slots::in_time(live, live.locks.disruption(machine)).await?;
    let Some(Timed { disruption, runs: true }) = known else { return Ok(()) };
    if disruption.state != DisruptionState::Asking {
        return Ok(());
    }
    let word = take(live, machine, &disruption, disruption.address()).await?;
    if word == Word::Permitted {
        count_from_grant(live, &disruption).await;
    }
    Ok(())
}
