//! The third operation: a machine does not want to be disrupted any more.
//!
//! What is there may change while this is decided. What it is decided on is a condition of what it
//! changes, so that a gateway that was slow takes nothing back that the machine asked for since.

use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{Rewrite, Timed, Wanted};
use rebootlock::record::{Disruption, DisruptionState, UnixTime};
use tokio::time::Instant;

use super::ask::{self, Asking, Word, is_adopted, promote};
use super::change;
use super::tags::Ready;
use crate::app::{App, Live};
use crate::reply::Kind;
use crate::slots::{self, Refusal};

/// So often it may change meanwhile.
const TRIES: usize = 8;

/// Takes the wish back, and gives the slot back: at once, or when the machine has proven to be ready.
///
/// # Errors
/// [`Refusal`] if the store cannot tell; then it may have happened all the same.
pub(super) async fn cancel(app: &App, live: &Live, asking: &Asking) -> Result<Word, Refusal> {
    let (began, machine) = (Instant::now(), &asking.machine);
    let mut seen = known(live, machine).await?;
    for _ in 0..TRIES {
        if take_back(app, live, asking, seen.as_ref()).await? {
            return Ok(Word::Denied);
        }
        let now = known(live, machine).await?;
        if asked_since(asking, seen.as_ref(), now.as_ref()) {
            tracing::info!(id = %machine, "it has asked again before its wish was taken back");
            return Ok(Word::Denied);
        }
        // Whoever asked for this has been told long ago that it cannot be done.
        if began.elapsed() > live.settings.answer_within {
            break;
        }
        seen = now;
    }
    Err(Refusal {
        kind: Kind::StoreBusy,
        text: "the lock is being changed by others; ask again".to_owned(),
    })
}

async fn known(live: &Live, machine: &MachineId) -> Result<Option<Disruption>, Refusal> {
    let known = slots::in_time(live, live.locks.disruption(machine)).await?;
    Ok(known.map(|timed| timed.disruption))
}

/// Whether the machine has asked for something between two looks.
fn asked_since(asking: &Asking, seen: Option<&Disruption>, now: Option<&Disruption>) -> bool {
    let Some(now) = now else { return false };
    if now.state == DisruptionState::Proving || is_adopted(now) {
        return false;
    }
    match seen {
        None => true,
        // It may have got what it had asked for before.
        Some(seen) if seen.again.as_ref() == Some(&now.group) => keeps_next(asking, seen),
        Some(seen) => !now.is_same_time(seen),
    }
}

/// Whether the machine takes back what it has in one group, and wants a slot in another one still.
fn keeps_next(asking: &Asking, known: &Disruption) -> bool {
    known.group == asking.group && known.again.as_ref().is_some_and(|again| *again != asking.group)
}

/// What is known of it then.
fn next(asking: &Asking, known: &Disruption) -> Option<Disruption> {
    keeps_next(asking, known).then(|| change::next(known)).flatten()
}

/// Does what there is to do about what was seen. `false`: that has changed.
async fn take_back(
    app: &App,
    live: &Live,
    asking: &Asking,
    seen: Option<&Disruption>,
) -> Result<bool, Refusal> {
    let machine = &asking.machine;
    let group = seen.map_or(&asking.group, |seen| &seen.group);
    if let Some(seen) = seen.filter(|seen| seen.state == DisruptionState::Proving) {
        return want_no_more(live, asking, seen).await;
    }
    let ready = asking.ready.as_ref().filter(|ready| !ready.within.is_zero());
    let same = |known: Option<&Timed>| match (known, seen) {
        (None, None) => true,
        (Some(known), Some(seen)) => known.disruption.is_same_time(seen),
        _ => false,
    };
    if let Some(ready) = ready
        && let Some(record) = ask::slot(live, group, machine).await?
    {
        let began = prove(live, asking, group, ready, same).await?;
        if began {
            if let Some(record) = record {
                ask::show_as_verifying(live, group, machine, &record).await;
            }
            app.disrupted.notify_one();
        }
        return Ok(began);
    }
    let left = ask::leave(live, machine, group, Some(asking.address), |known, slot| {
        // One that came meanwhile has to be proven for.
        if !same(known) || slot && ready.is_some() {
            return None;
        }
        let next = known.and_then(|timed| next(asking, &timed.disruption)).map(Box::new);
        Some(next.map_or(Wanted::NothingMore, Wanted::SomethingElse))
    });
    if left.await?.is_none() {
        return Ok(false);
    }
    promote(live, group).await;
    if let Some(next) = seen.and_then(|seen| next(asking, seen)) {
        change::begin(live, machine, &next).await?;
        app.disrupted.notify_one();
    }
    Ok(true)
}

/// Of a machine that proves itself: it does not want another slot after that, unless that is in another group.
async fn want_no_more(live: &Live, asking: &Asking, seen: &Disruption) -> Result<bool, Refusal> {
    // A time goes on, so none is needed.
    let time = std::time::Duration::ZERO;
    let rewriting = live.locks.rewrite_disruption(&asking.machine, time, |known| match known {
        Some(Timed { disruption, .. })
            if disruption.is_same_time(seen) && !keeps_next(asking, disruption) =>
        {
            Rewrite::Put(Disruption { again: None, again_limit: None, ..disruption.clone() })
        }
        _ => Rewrite::Keep,
    });
    let now = slots::in_time(live, rewriting).await?;
    Ok(now.is_some_and(|now| now.is_same_time(seen)))
}

/// Lets the time begin in which a machine with a slot proves that it is ready.
async fn prove(
    live: &Live,
    asking: &Asking,
    group: &Group,
    ready: &Ready,
    same: impl Fn(Option<&Timed>) -> bool,
) -> Result<bool, Refusal> {
    let (machine, now) = (&asking.machine, UnixTime::now());
    let proving = Disruption { state: DisruptionState::Proving, ..ask::wish(asking, group, now) };
    let rewriting = live.locks.rewrite_disruption(machine, ready.within, |known| {
        if !same(known) {
            return Rewrite::Keep;
        }
        let mut proving = proving.clone();
        if let Some(Timed { disruption, .. }) = known {
            // What it says about one group is nothing about another.
            if *group != asking.group {
                proving.limit = disruption.limit;
            }
            if keeps_next(asking, disruption) {
                proving.again = disruption.again.clone();
                proving.again_limit = disruption.again_limit;
            }
        }
        Rewrite::Begin(proving)
    });
    let began = slots::in_time(live, rewriting).await?.is_some_and(|known| {
        (known.state, known.since, known.expired) == (DisruptionState::Proving, now, false)
    });
    if began {
        tracing::info!(
            target: "rebootlock_gateway::audit",
            event = "proving", id = %machine, %group, url = ready.url,
            within_secs = ready.within.as_secs(),
            "permitted->denied; its slot stays until it is ready"
        );
    }
    Ok(began)
}
