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

/// How far clocks may be apart, and a report be old, before it is believed that a machine has rebooted.
const CLOCKS_APART: Duration = Duration::from_secs(300);

/// The machine has said how long it is up. Shorter than before, and not longer than its slot is old: it
/// has rebooted. A report of before, overtaken by a newer one, says a shorter time too.
pub(super) fn reported(record: &mut HolderRecord, uptime: &str, up: GoDuration, now: UnixTime) {
    let Some(Ok(mut grant)) = GoaheadGrant::of(record) else { return };
    // What cannot be read is no proof of a reboot.
    let Ok(before) = grant.uptime.parse::<GoDuration>() else { return };
    let back = grant.uptime_after.is_some();
    let slot_is_old = Duration::from_secs(now.seconds_since(grant.granted_at));
    let since_grant = GoDuration::from(slot_is_old.saturating_add(CLOCKS_APART));
    if up < before && (back || up <= since_grant) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use rebootlock::config::{Fragment, Settings};
    use rebootlock::id::{Group, MachineId};
    use rebootlock::record::{Claim, Via};

    use super::*;

    const CLUSTER: &str = "[[gateway.goahead.cluster]]\nname = \"web\"\npattern = \"x\"\n";
    const T: UnixTime = UnixTime(1_000_000);

    fn settings(more: &str) -> GoaheadSettings {
        let text = format!("[gateway.goahead]\naction_timeout_secs = 10\n{CLUSTER}{more}");
        let fragment = Fragment::parse(Path::new("test.toml"), &text).unwrap();
        Settings::decide(fragment).unwrap().gateway.goahead.unwrap()
    }

    fn record(uptime: &str) -> HolderRecord {
        let (machine, group) = (MachineId::new("x").unwrap(), Group::new("web").unwrap());
        let mut claim = Claim::new(machine, [group], Via::Goahead);
        let grant = GoaheadGrant::new("web", "abcdefgh", uptime, T);
        claim.members = Some(Box::new(grant.to_member()));
        claim.record(T)
    }

    fn says(record: &mut HolderRecord, uptime: &str) {
        reported(record, uptime, uptime.parse().unwrap(), T);
    }

    fn next_at(more: &str, record: &HolderRecord, after: u64) -> Next {
        let settings = settings(more);
        let grant = GoaheadGrant::of(record).unwrap().unwrap();
        next(&settings, &settings.clusters[0], record, &grant, T.plus_seconds(after))
    }

    fn grant(record: &HolderRecord) -> GoaheadGrant {
        GoaheadGrant::of(record).unwrap().unwrap()
    }

    #[test]
    fn only_a_shorter_uptime_is_a_reboot() {
        let mut holder = record("5h");
        for uptime in ["5h", "300m", "6h"] {
            says(&mut holder, uptime);
            assert_eq!(holder.state, Some(HolderState::Holding), "{uptime}");
        }
        assert_eq!(grant(&holder).uptime, "6h");
        // One of before the grant that comes late.
        says(&mut holder, "5h59m");
        assert_eq!(holder.state, Some(HolderState::Holding));
        reported(&mut holder, "5h59m", "5h59m".parse().unwrap(), T.plus_seconds(6 * 3600));
        assert_eq!(holder.state, Some(HolderState::Verifying));
        assert_eq!(grant(&holder).uptime_after.as_deref(), Some("5h59m"));
        // What it says afterwards starts nothing anew.
        let before = holder.clone();
        for uptime in ["1m", "7h"] {
            says(&mut holder, uptime);
            assert_eq!(holder, before, "{uptime}");
        }
    }

    #[test]
    fn an_uptime_that_cannot_be_read_proves_nothing() {
        let mut holder = record("long");
        says(&mut holder, "1s");
        assert_eq!(holder.state, Some(HolderState::Holding));
    }

    #[test]
    fn what_is_not_known_of_a_check_is_never_a_success() {
        let mut holder = record("5h");
        // Looked for without having said anything.
        for how in [How::Exited(0), How::TimedOut, How::NotStarted(String::new()), How::Killed(9)] {
            checked(&mut holder, &how, T);
            assert_eq!(holder.state, Some(HolderState::Holding), "{how}");
        }
        says(&mut holder, "1m");
        checked(&mut holder, &How::Exited(0), T);
        checked(&mut holder, &How::Exited(0), T);
        assert_eq!(grant(&holder).successes, 2);
        for how in [How::Exited(1), How::TimedOut, How::NotStarted(String::new()), How::Killed(9)] {
            checked(&mut holder, &How::Exited(0), T);
            checked(&mut holder, &how, T);
            assert_eq!(grant(&holder).successes, 0, "{how}");
        }
    }

    #[test]
    fn one_that_a_check_took_to_be_away_may_say_that_it_is_not() {
        let mut holder = record("5h");
        checked(&mut holder, &How::Exited(2), T);
        assert_eq!(holder.state, Some(HolderState::Verifying));
        checked(&mut holder, &How::Exited(0), T);
        says(&mut holder, "5h1m");
        assert_eq!(
            (holder.state.clone(), grant(&holder).successes),
            (Some(HolderState::Holding), 0)
        );
    }

    #[test]
    fn nothing_is_finished_before_it_is_back() {
        let check = "completion_check = \"x\"\ncompletion_check_successes = 2\n";
        let mut holder = record("5h");
        for more in ["", check] {
            assert_eq!(next_at(more, &holder, 1_000_000), Next::Wait(None), "{more}");
        }
        says(&mut holder, "1m");
        assert_eq!(next_at("", &holder, 0), Next::Finish);
        assert_eq!(next_at(check, &holder, 0), Next::Check);
        checked(&mut holder, &How::Exited(0), T);
        assert_eq!(next_at(check, &holder, 0), Next::Check);
        checked(&mut holder, &How::Exited(0), T);
        assert_eq!(next_at(check, &holder, 0), Next::Finish);
    }

    #[test]
    fn offset_alarm_and_lost_actions_have_their_times() {
        let more = "completion_check = \"x\"\ncompletion_check_offset_secs = 60\n\
                    panic_after_secs = 100\nactions = [\"a\", \"b\"]\n";
        let mut holder = record("5h");
        assert_eq!(next_at(more, &holder, 59), Next::Wait(Some(T.plus_seconds(60))));
        assert_eq!(next_at(more, &holder, 60), Next::Check);
        assert_eq!(next_at(more, &holder, 160), Next::Panic);
        let overdue = |after| {
            is_overdue(&settings(more).clusters[0], &grant(&record("5h")), T.plus_seconds(after))
        };
        assert!(!overdue(159) && overdue(160));
        let mut due = grant(&holder);
        (due.actions_due, due.panicked_at) = (true, Some(T));
        due.write_into(&mut holder);
        // Twice their time limit, and half a minute.
        assert_eq!(next_at(more, &holder, 49), Next::Wait(Some(T.plus_seconds(50))));
        assert_eq!(next_at(more, &holder, 160), Next::Actions);
    }

    #[test]
    fn a_second_go_ahead_does_not_put_the_alarm_off_unless_it_has_rebooted() {
        let again = |holder: &mut HolderRecord, uptime: &str| {
            let later = T.plus_seconds(500);
            let fresh = GoaheadGrant::new("web", "hgfedcba", uptime, later);
            granted_again(holder, &fresh, uptime.parse().unwrap(), later);
            grant(holder)
        };
        let mut holder = record("5h");
        assert_eq!(again(&mut holder, "5h1m").granted_at, T);
        says(&mut holder, "1m");
        let grant = again(&mut holder, "2m");
        assert_eq!((grant.granted_at, grant.uptime_after), (T.plus_seconds(500), None));
        assert_eq!(holder.state, Some(HolderState::Holding));
    }
}
