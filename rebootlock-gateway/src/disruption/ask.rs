//! The three operations, for a machine that may speak for itself.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use rebootlock::config::{CountFrom, DisruptionGroups};
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{Advance, Followed, LockError, Rewrite, Timed};
use rebootlock::queue::Queue;
use rebootlock::record::{Disruption, DisruptionState, HolderRecord, HolderState, UnixTime, Via};
use rebootlock::store::Select;
use rebootlock::wait::forget_places;

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

/// Whether the machine may be disrupted. What it is told may only change because it is its turn.
///
/// # Errors
/// [`Refusal`] if the store cannot tell.
pub(super) async fn check(live: &Live, asking: &Asking) -> Result<Word, Refusal> {
    let machine = &asking.machine;
    match slots::in_time(live, live.locks.disruption(machine)).await? {
        Some(Timed { disruption, runs }) => match disruption.state {
            DisruptionState::Asking if runs => {
                let held = live.settings.disruption.count_from == CountFrom::Grant
                    && holds(live, &disruption.group, machine).await?.is_some();
                let word = take(live, machine, &disruption.group, asking.address).await?;
                if word == Word::Permitted && !held {
                    count_from_grant(live, &disruption).await;
                }
                Ok(word)
            }
            // Its slot, if it has one, is about to go back.
            DisruptionState::Asking => Ok(Word::Denied),
            DisruptionState::Proving if disruption.again.is_some() => Ok(Word::Requested),
            DisruptionState::Proving => Ok(Word::Denied),
        },
        // A slot that nothing is known about but that it was taken for the machine.
        None if holds(live, &asking.group, machine).await?.is_some() => {
            adopt(live, &asking.group, machine).await?;
            take(live, machine, &asking.group, asking.address).await
        }
        None => Ok(Word::Denied),
    }
}

/// Lets the time of a slot begin that nothing is known about but that it was taken for the machine: what
/// asked for it was overtaken by what took the wish back, or its document was taken away by hand.
pub(super) async fn adopt(live: &Live, group: &Group, machine: &MachineId) -> Result<(), Refusal> {
    let asking = Asking {
        machine: machine.clone(),
        group: group.clone(),
        limit: 1,
        ready: None,
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let wished = wish(&asking, group, UnixTime::now());
    let time = live.settings.disruption.permitted;
    let rewriting = live.locks.rewrite_disruption(machine, time, |known| match known {
        None => Rewrite::Begin(wished.clone()),
        Some(_) => Rewrite::Keep,
    });
    slots::in_time(live, rewriting).await.map(drop)
}

/// Wishes that the machine be disrupted.
///
/// # Errors
/// [`Refusal`] if there is no such group, or the store cannot tell; then it may be remembered all the
/// same.
pub(super) async fn request(app: &App, live: &Live, asking: &Asking) -> Result<Word, Refusal> {
    let machine = &asking.machine;
    let known = slots::in_time(live, live.locks.disruption(machine)).await?;
    // Who has a slot keeps it, whatever group it would go to now.
    let elsewhere = known.map(|timed| timed.disruption.group).filter(|old| *old != asking.group);
    let mut left = None;
    let mut group = asking.group.clone();
    if let Some(old) = elsewhere {
        match holds(live, &old, machine).await? {
            Some(_) => group = old,
            None => left = Some(old),
        }
    }
    if group == asking.group {
        follow_limit(live, asking).await?;
        slots::known(live, &group).await?;
    }
    let disruption = remember(live, asking, &group).await?;
    if let Some(left) = left {
        forget(live, std::slice::from_ref(&left), machine).await?;
    }
    app.disrupted.notify_one();
    match disruption.state {
        DisruptionState::Proving => Ok(Word::Requested),
        DisruptionState::Asking => take(live, machine, &group, asking.address).await,
    }
}

/// Takes the wish back, and gives the slot back: at once, or when the machine has proven to be ready.
///
/// # Errors
/// [`Refusal`] if the store cannot tell; then it may have happened all the same.
pub(super) async fn cancel(app: &App, live: &Live, asking: &Asking) -> Result<Word, Refusal> {
    let machine = &asking.machine;
    let known = slots::in_time(live, live.locks.disruption(machine)).await?;
    let group = known.as_ref().map_or(&asking.group, |timed| &timed.disruption.group).clone();
    let held = holds(live, &group, machine).await?;
    let proves = asking.ready.as_ref().filter(|ready| !ready.within.is_zero());
    let proving = known.is_some_and(|timed| timed.disruption.state == DisruptionState::Proving);
    match (held, proves) {
        (Some(_), _) if proving => {
            // It does not want another one any more.
            let rewriting =
                live.locks.rewrite_disruption(machine, Duration::ZERO, |known| match known {
                    Some(Timed { disruption, .. }) => {
                        Rewrite::Put(Disruption { again: None, ..disruption.clone() })
                    }
                    None => Rewrite::Keep,
                });
            slots::in_time(live, rewriting).await?;
        }
        (Some(record), Some(ready)) => {
            let now = UnixTime::now();
            let rewriting = live.locks.rewrite_disruption(machine, ready.within, |known| {
                let proving = Disruption {
                    state: DisruptionState::Proving,
                    since: now,
                    expired: false,
                    again: None,
                    ..wish(asking, &group, now)
                };
                match known {
                    // Asking again must not make it take longer.
                    Some(timed) if timed.disruption.state == DisruptionState::Proving => {
                        Rewrite::Keep
                    }
                    _ => Rewrite::Begin(proving),
                }
            });
            slots::in_time(live, rewriting).await?;
            tracing::info!(
                target: "rebootlock_gateway::audit",
                event = "proving", id = %machine, %group, url = ready.url,
                within_secs = ready.within.as_secs(),
                "permitted->denied; its slot stays until it is ready"
            );
            show_as_verifying(live, &group, machine, &record).await;
            app.disrupted.notify_one();
        }
        _ => {
            // From here on nobody takes a slot for it, and if this is all that happens, what is left to
            // do is done by who looks after it.
            let ending =
                live.locks.rewrite_disruption(machine, Duration::ZERO, |known| match known {
                    Some(Timed { disruption, .. }) => Rewrite::End(Disruption {
                        state: DisruptionState::Proving,
                        again: None,
                        expired: false,
                        ..disruption.clone()
                    }),
                    None => Rewrite::Keep,
                });
            slots::in_time(live, ending).await?;
            give_back(live, machine, &group, asking.address).await?;
            let ended = |_: Option<&Timed>| Rewrite::Remove;
            let ended = live.locks.rewrite_disruption(machine, Duration::ZERO, ended);
            slots::in_time(live, ended).await?;
            // What was taken for it meanwhile by who had read that it asks. Who takes something later
            // finds that it does not.
            give_back(live, machine, &group, asking.address).await?;
            promote(live, &group).await;
        }
    }
    Ok(Word::Denied)
}

/// Sees to it that the machine's wish is remembered, for the whole time from now on.
async fn remember(live: &Live, asking: &Asking, group: &Group) -> Result<Disruption, Refusal> {
    let now = UnixTime::now();
    let time = live.settings.disruption.permitted;
    let wished = wish(asking, group, now);
    for anew in [false, true] {
        let rewriting = live.locks.rewrite_disruption(&asking.machine, time, |known| match known {
            None => Rewrite::Begin(wished.clone()),
            Some(Timed { disruption, .. }) if disruption.state == DisruptionState::Proving => {
                // It has one slot, and gets the next when that has gone back.
                let again = Some(asking.group.clone());
                Rewrite::Put(Disruption { again, ..disruption.clone() })
            }
            Some(Timed { disruption, runs }) => {
                let same = Disruption {
                    since: disruption.since,
                    until: disruption.until,
                    lease: disruption.lease.clone(),
                    unknown: disruption.unknown.clone(),
                    ..wished.clone()
                };
                if *runs && !anew { Rewrite::Put(same) } else { Rewrite::Begin(same) }
            }
        });
        let remembered = slots::in_time(live, rewriting).await?;
        let Some(remembered) = remembered else { break };
        let proving = remembered.state == DisruptionState::Proving;
        if proving || slots::in_time(live, live.locks.prolong(&remembered)).await? {
            return Ok(remembered);
        }
        // Its time ended this very moment.
    }
    Err(Refusal {
        kind: Kind::StoreUnavailable,
        text: "the lock is being changed by others; ask again".to_owned(),
    })
}

fn wish(asking: &Asking, group: &Group, now: UnixTime) -> Disruption {
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
        unknown: serde_json::Map::new(),
    }
}

/// Asks for a slot for a machine whose wish is remembered.
async fn take(
    live: &Live,
    machine: &MachineId,
    group: &Group,
    address: IpAddr,
) -> Result<Word, Refusal> {
    let via = Via::DisruptionManager;
    let ask = Ask { group: group.clone(), machine: machine.clone(), via, address };
    let answer = slots::acquire(live, &ask).await;
    if let Err(refusal) = &answer {
        tracing::debug!(id = %machine, %group, "{refusal}");
        match refusal.kind {
            Kind::Full | Kind::Paused | Kind::CoolingDown | Kind::Held | Kind::Window => {}
            Kind::TakenOtherwise => return Ok(Word::Denied),
            _ => return answer.map(|_| Word::Denied),
        }
    }
    // Whoever took the wish back meanwhile has looked for a slot or a place before there was one.
    let still = slots::in_time(live, live.locks.disruption(machine)).await?;
    match still {
        Some(Timed { disruption, runs })
            if disruption.state == DisruptionState::Asking && disruption.group == *group =>
        {
            return Ok(match (answer, runs) {
                (_, false) => Word::Denied,
                (Ok(_), true) => Word::Permitted,
                (Err(_), true) => Word::Requested,
            });
        }
        // What it proves its slot for is seen to by who looks after it.
        Some(timed) if timed.disruption.state == DisruptionState::Proving => {
            return Ok(Word::Denied);
        }
        Some(_) | None => {}
    }
    give_back(live, machine, group, address).await?;
    Ok(Word::Denied)
}

/// Gives back what the machine has in `group`, its place in the queue too. Nothing is fine.
pub(super) async fn give_back(
    live: &Live,
    machine: &MachineId,
    group: &Group,
    address: IpAddr,
) -> Result<(), Refusal> {
    let via = Via::DisruptionManager;
    let ask = Ask { group: group.clone(), machine: machine.clone(), via, address };
    match slots::release(live, &ask).await {
        Ok(_) => Ok(()),
        // Nobody can have anything in a group that does not exist.
        Err(refusal) if refusal.kind == Kind::UnknownGroup => Ok(()),
        Err(refusal) => Err(refusal),
    }
}

/// The record of the slot that the machine got through this door, if it has one.
pub(super) async fn holds(
    live: &Live,
    group: &Group,
    machine: &MachineId,
) -> Result<Option<HolderRecord>, Refusal> {
    let groups = std::slice::from_ref(group);
    let mut held = slots::in_time(live, live.locks.holding(groups, machine)).await?;
    let ours = |record: &HolderRecord| record.via == Some(Via::DisruptionManager);
    Ok(held.remove(group).flatten().filter(ours))
}

pub(super) async fn forget(
    live: &Live,
    groups: &[Group],
    machine: &MachineId,
) -> Result<(), Refusal> {
    let forgotten = async {
        forget_places(&live.locks, groups, machine).await.map_err(|source| LockError::Store {
            action: format!("taking {machine} out of the queue"),
            source,
        })
    };
    slots::in_time(live, forgotten).await
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

/// Makes the limit that a machine says the group's, where that is for machines to say.
async fn follow_limit(live: &Live, asking: &Asking) -> Result<(), Refusal> {
    let Asking { group, limit, machine, .. } = asking;
    let by_tags = live.settings.disruption.groups == DisruptionGroups::Tags;
    if !by_tags || live.fixes(group) {
        return Ok(());
    }
    let following = live.locks.follow_limit(group, *limit, None);
    if slots::in_time(live, following).await? == Followed::Settled {
        return Ok(());
    }
    // One machine that says a high number must not make it so for those who do not.
    let known = slots::in_time(live, live.locks.disruptions()).await?;
    let others = known.into_iter().filter_map(|(other, timed)| {
        let disruption = timed.ok()?.disruption;
        (other != *machine && disruption.group == *group).then_some(disruption.limit)
    });
    let others = others.min().unwrap_or(u32::MAX);
    slots::in_time(live, live.locks.follow_limit(group, *limit, Some(others))).await?;
    Ok(())
}

/// The time of a permission that was waited for runs from now on, if the settings say so.
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
    let word = take(live, machine, &disruption.group, disruption.address()).await?;
    if word == Word::Permitted {
        count_from_grant(live, &disruption).await;
    }
    Ok(())
}
