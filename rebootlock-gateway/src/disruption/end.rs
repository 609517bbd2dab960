//! How permissions and proofs end.

use std::time::Duration;

use rebootlock::id::MachineId;
use rebootlock::lock::{Ended, GivenBack, Rewrite, Timed, Wanted};
use rebootlock::record::{Disruption, DisruptionState, UnixTime};

use super::ask::{self, promote};
use super::change;
use crate::app::Live;
use crate::slots::{self, Refusal};

/// Why a slot goes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// The machine's service has answered.
    Ready,
    /// The machine has said that it is back, and had its time.
    TimeOver,
    /// The machine has said that it is back, and its service has not said so in the time for that.
    NotReady {
        /// What was the matter when it was last asked.
        problem: String,
    },
    /// Nobody knows where it is.
    NotBack,
}

/// Ends the time of a machine that was permitted, or wanted to be, and has said nothing since.
pub(super) async fn expire(
    live: &Live,
    machine: &MachineId,
    asking: &Disruption,
) -> Result<(), Refusal> {
    let group = &asking.group;
    // Whoever asks again at this very moment finds another document, or makes this find one.
    let is_over = |known: Option<&Timed>| {
        known.is_some_and(|timed| !timed.runs && timed.disruption.is_same_time(asking))
    };
    let Some(record) = ask::slot(live, group, machine).await? else {
        if asking.again.is_some() {
            return change::move_on(live, machine, asking).await;
        }
        let left = ask::leave(live, machine, group, None, |known, slot| {
            let wants_more = known.is_some_and(|timed| timed.disruption.again.is_some());
            (is_over(known) && !slot && !wants_more).then_some(Wanted::NothingMore)
        });
        if left.await?.is_some() {
            tracing::info!(id = %machine, %group, "requested/expired->denied");
        }
        return Ok(());
    };
    let time = asking.ready_timeout_secs.map(Duration::from_secs).unwrap_or_default();
    let now = UnixTime::now();
    let rewriting = live.locks.rewrite_disruption(machine, time, |known| match known {
        Some(Timed { disruption, .. }) if is_over(known) => {
            let state = DisruptionState::Proving;
            let proving = Disruption { state, since: now, expired: true, ..disruption.clone() };
            if time.is_zero() { Rewrite::Put(proving) } else { Rewrite::Begin(proving) }
        }
        _ => Rewrite::Keep,
    });
    let Some(proving) = slots::in_time(live, rewriting).await?.filter(|known| known.expired) else {
        return Ok(());
    };
    tracing::warn!(
        target: "rebootlock_gateway::audit",
        event = "expired", id = %machine, %group,
        since = record.as_ref().map(|record| record.start_time.to_text()),
        "permitted/expired->denied; this machine has not said that it is back"
    );
    if let Some(record) = record {
        ask::show_as_verifying(live, group, machine, &record).await;
    }
    if time.is_zero() {
        finish(live, machine, &proving, Proof::NotBack).await?;
    }
    Ok(())
}

/// Lets go of the slot of a machine that has proven to be ready, or will not any more: unless that was
/// done already, and what it has now it got since.
pub(super) async fn finish(
    live: &Live,
    machine: &MachineId,
    proving: &Disruption,
    proof: Proof,
) -> Result<(), Refusal> {
    let group = &proving.group;
    let ended = match proof {
        Proof::NotBack => Ended::Overdue { by: "the gateway".to_owned() },
        Proof::NotReady { .. } => Ended::NotReady,
        Proof::Ready | Proof::TimeOver => Ended::Steady,
    };
    let leaving = live.locks.leave(group, machine, &ended, |known, _| {
        let now = &known.filter(|timed| timed.disruption.is_same_time(proving))?.disruption;
        let again = now.again.is_some();
        Some(if again { Wanted::StillSomething } else { Wanted::NothingMore })
    });
    let Some(given_back) = slots::in_time(live, leaving).await? else { return Ok(()) };
    if let GivenBack::Freed(record) = given_back {
        let since = record.map(|record| record.start_time.to_text());
        match proof {
            Proof::NotBack => tracing::warn!(
                target: "rebootlock_gateway::audit",
                event = "overdue", id = %machine, %group, since,
                "its time is over and its slot was freed; whether it is well nobody knows"
            ),
            Proof::NotReady { problem } => tracing::warn!(
                target: "rebootlock_gateway::audit",
                event = "not-ready", id = %machine, %group, since, url = proving.ready_url, problem,
                "ready check timed out and its slot was freed; whether it is well nobody knows"
            ),
            Proof::Ready => said_ready(machine, proving, "ready"),
            Proof::TimeOver => said_ready(machine, proving, "ready delay completed"),
        }
    }
    begin_again(live, machine, proving).await?;
    promote(live, group).await;
    Ok(())
}

fn said_ready(machine: &MachineId, proving: &Disruption, how: &str) {
    tracing::info!(
        target: "rebootlock_gateway::audit",
        event = "ready", id = %machine, group = %proving.group, url = proving.ready_url, "{how}"
    );
}

/// A machine that asked for another slot while it had the last one, or proved itself for it, waits for it
/// from now on.
async fn begin_again(
    live: &Live,
    machine: &MachineId,
    proving: &Disruption,
) -> Result<(), Refusal> {
    let time = live.settings.disruption.permitted;
    let rewriting = live.locks.rewrite_disruption(machine, time, |known| {
        let known = known.map(|timed| &timed.disruption);
        let Some(known) = known.filter(|known| known.is_same_time(proving)) else {
            return Rewrite::Keep;
        };
        change::next(known).map_or(Rewrite::Keep, Rewrite::Begin)
    });
    let now = slots::in_time(live, rewriting).await?;
    if now.is_some_and(|now| now.is_same_time(proving)) {
        // It has just taken that back, and its slot has gone already.
        ask::leave(live, machine, &proving.group, None, |known, _| {
            let known = &known?.disruption;
            let over = known.again.is_none() && known.is_same_time(proving);
            over.then_some(Wanted::NothingMore)
        })
        .await?;
    }
    Ok(())
}
