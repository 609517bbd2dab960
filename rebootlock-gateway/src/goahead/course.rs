//! The course of one grant, from the go-ahead to the freed slot. Pure: what is written into the holder's
//! record, and what is to be done next.

use std::time::Duration;

use rebootlock::config::{ClusterSettings, GoaheadSettings};
use rebootlock::process::How;
use rebootlock::record::{GoaheadGrant, HolderRecord, HolderState, UnixTime};

use super::duration::GoDuration;

/// So long after its time limit the actions of a grant are taken to have been lost with their gateway.
const ACTIONS_LOST: Duration = Duration::from_secs(30);

/// What to do about a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Run the actions of its grant again: whoever was to run them has not said that they ended.
    Actions,
    /// It is overdue: run what is to be run then.
    Panic,
    /// Find out whether it is back.
    Check,
    /// It is back.
    Finish,
    /// Nothing before this time, or ever, unless it says something.
    Wait(Option<UnixTime>),
}

/// What a holder of `cluster` needs at `now`.
pub(super) fn next(
    settings: &GoaheadSettings,
    cluster: &ClusterSettings,
    record: &HolderRecord,
    grant: &GoaheadGrant,
    now: UnixTime,
) -> Next {
    let after = |wait: Duration| grant.granted_at.plus_seconds(wait.as_secs());
    let mut dues = Vec::new();
    if let Some(overdue) = cluster.overdue_after().filter(|_| grant.panicked_at.is_none()) {
        dues.push((after(overdue), Next::Panic));
    }
    if grant.actions_due {
        let count = u32::try_from(cluster.actions.len()).unwrap_or(u32::MAX);
        let longest = settings.action_timeout.saturating_mul(count).saturating_add(ACTIONS_LOST);
        dues.push((after(longest), Next::Actions));
    }
    if record.state == Some(HolderState::Verifying) {
        let enough = grant.successes >= cluster.completion_successes;
        let next = match cluster.completion_check {
            Some(_) if !enough => Next::Check,
            _ => Next::Finish,
        };
        dues.push((grant.granted_at, next));
    } else if let (Some(offset), Some(_)) = (cluster.completion_offset, &cluster.completion_check) {
        dues.push((after(offset), Next::Check));
    }
    dues.sort_by_key(|(due, _)| *due);
    let ready = dues.iter().filter(|(due, _)| *due <= now).map(|(_, next)| *next);
    // Whoever is back is not overdue any more; an alarm must not wait behind a check.
    let rank = |next: &Next| match next {
        Next::Finish => 0,
        Next::Panic => 1,
        Next::Actions => 2,
        Next::Check | Next::Wait(_) => 3,
    };
    ready.min_by_key(rank).unwrap_or_else(|| Next::Wait(dues.first().map(|(due, _)| *due)))
}

/// The machine has said how long it is up. Shorter than before: it has rebooted.
pub(super) fn reported(record: &mut HolderRecord, uptime: &str, up: GoDuration, now: UnixTime) {
    let Some(Ok(mut grant)) = GoaheadGrant::of(record) else { return };
    // What cannot be read is no proof of a reboot.
    let Ok(before) = grant.uptime.parse::<GoDuration>() else { return };
    let back = grant.uptime_after.is_some();
    if up < before {
        if !back {
            grant.uptime_after = Some(uptime.to_owned());
            grant.successes = 0;
            enter(record, HolderState::Verifying, now);
        }
    } else if !back {
        if up > before {
            grant.uptime = uptime.to_owned();
        }
        // A check took it to be away, but it has not rebooted.
        if record.state == Some(HolderState::Verifying) {
            grant.successes = 0;
            enter(record, HolderState::Holding, now);
        }
    }
    grant.write_into(record);
}

/// It may reboot, once more if it has done so already.
pub(super) fn granted_again(
    record: &mut HolderRecord,
    fresh: &GoaheadGrant,
    up: GoDuration,
    now: UnixTime,
) {
    let old = GoaheadGrant::of(record).and_then(Result::ok);
    let same_boot = old.as_ref().is_some_and(|old| {
        old.uptime_after.is_none() && old.uptime.parse::<GoDuration>().is_ok_and(|was| up >= was)
    });
    let mut grant = GoaheadGrant { actions_due: fresh.actions_due, ..fresh.clone() };
    if let Some(old) = old.filter(|_| same_boot) {
        // Asking again does not make it any less overdue.
        (grant.granted_at, grant.panicked_at) = (old.granted_at, old.panicked_at);
    }
    if record.state != Some(HolderState::Holding) {
        enter(record, HolderState::Holding, now);
    }
    grant.write_into(record);
}

/// A check has ended. One that could not be run says nothing but that it is not known.
pub(super) fn checked(record: &mut HolderRecord, how: &How, now: UnixTime) {
    let Some(Ok(mut grant)) = GoaheadGrant::of(record) else { return };
    match (record.state == Some(HolderState::Verifying), how) {
        (true, How::Exited(0)) => grant.successes = grant.successes.saturating_add(1),
        (true, _) => grant.successes = 0,
        // It was looked for without having said anything. As long as the check finds it there, it may
        // still have to go down.
        (false, How::Exited(code)) if *code != 0 => {
            grant.successes = 0;
            enter(record, HolderState::Verifying, now);
        }
        (false, _) => {}
    }
    grant.write_into(record);
}

/// Whether it should have been back by `now`.
pub(super) fn is_overdue(cluster: &ClusterSettings, grant: &GoaheadGrant, now: UnixTime) -> bool {
    let overdue = cluster.overdue_after();
    overdue.is_some_and(|after| now.seconds_since(grant.granted_at) >= after.as_secs())
}

fn enter(record: &mut HolderRecord, state: HolderState, now: UnixTime) {
    record.state = Some(state);
    record.state_since = Some(now);
}
