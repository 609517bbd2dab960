//! The course of one grant, from the go-ahead to the freed slot. Pure: what is written into the holder's
//! record, and what is to be done next.

use std::time::Duration;

use rebootlock::config::{ClusterSettings, GoaheadSettings};
use rebootlock::process::How;
use rebootlock::record::{GoaheadDoubt, GoaheadGrant, HolderRecord, HolderState, UnixTime};

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
    if let Some(alarm) = alarm_at(cluster, grant) {
        dues.push((alarm, Next::Panic));
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

/// When the alarm about a holder is due, if it was not raised yet.
pub(super) fn alarm_at(cluster: &ClusterSettings, grant: &GoaheadGrant) -> Option<UnixTime> {
    let after = cluster.overdue_after().filter(|_| grant.panicked_at.is_none())?;
    Some(grant.granted_at.plus_seconds(after.as_secs()))
}

/// How late a report may come in, and how far clocks may be apart, both together.
const LATE: i64 = 300;
/// Nobody says to the second how long a machine is up.
const INEXACT: i64 = 5;

/// What an uptime says of a reboot after the go-ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Rebooted,
    /// It has rebooted, unless this report is minutes old. Only a machine that was up for minutes when it
    /// got its go-ahead is ever judged so.
    Perhaps,
    /// Nothing, or that it has not.
    Nothing,
}

/// Had it not rebooted, it would by now be up for longer than it ever said, and for longer than its
/// slot is old. What it says falls short of that by as much as the report is late, or by the time
/// between two boots.
fn judge(grant: &GoaheadGrant, up: GoDuration, now: UnixTime) -> Says {
    let seconds = |since: UnixTime| i64::try_from(now.seconds_since(since)).unwrap_or(i64::MAX);
    let age = seconds(grant.granted_at);
    // What cannot be read says that it was up at all.
    let before = grant.uptime.parse().map_or(0, GoDuration::seconds);
    let since = grant.reported_at.map_or(0, seconds);
    let (up, due) = (up.seconds(), before.saturating_add(since).max(age));
    let short_by = due.saturating_sub(up);
    match () {
        // Nobody was ever up for less than no time.
        () if up < 0 => Says::Nothing,
        // Up since before its go-ahead, whatever it says else.
        () if up > age.saturating_add(LATE) => Says::Nothing,
        () if short_by > LATE => Says::Rebooted,
        () if short_by > INEXACT && up <= age => Says::Perhaps,
        () => Says::Nothing,
    }
}

/// Whether a report agrees with an earlier one on when the machine has booted. Late ones are not all late
/// by the same time, and one that is sent twice says the same twice.
fn agrees(doubt: &GoaheadDoubt, up: GoDuration, now: UnixTime) -> bool {
    let Ok(earlier) = doubt.uptime.parse::<GoDuration>() else { return false };
    let longer = up.seconds().saturating_sub(earlier.seconds());
    let later = i64::try_from(now.seconds_since(doubt.at)).unwrap_or(i64::MAX);
    longer > 0 && (longer.saturating_sub(later)).abs() <= INEXACT
}

/// The machine has said how long it is up.
pub(super) fn reported(record: &mut HolderRecord, uptime: &str, up: GoDuration, now: UnixTime) {
    let Some(Ok(mut grant)) = GoaheadGrant::of(record) else { return };
    if grant.uptime_after.is_some() {
        return;
    }
    let says = judge(&grant, up, now);
    let confirmed = grant.doubt.as_ref().is_some_and(|doubt| agrees(doubt, up, now));
    match says {
        Says::Rebooted => back(record, &mut grant, uptime, now),
        Says::Perhaps if confirmed => back(record, &mut grant, uptime, now),
        Says::Perhaps | Says::Nothing => {
            if says == Says::Perhaps {
                grant.doubt = Some(GoaheadDoubt { uptime: uptime.to_owned(), at: now });
            } else if grant.uptime.parse::<GoDuration>().map_or(true, |before| up >= before) {
                grant.uptime = uptime.to_owned();
                (grant.reported_at, grant.doubt) = (Some(now), None);
            }
            // A check took it to be away, but nothing says that it has rebooted.
            (grant.successes, grant.failures) = (0, 0);
            if record.state == Some(HolderState::Verifying) {
                enter(record, HolderState::Holding, now);
            }
        }
    }
    grant.write_into(record);
}

fn back(record: &mut HolderRecord, grant: &mut GoaheadGrant, uptime: &str, now: UnixTime) {
    grant.uptime_after = Some(uptime.to_owned());
    grant.doubt = None;
    (grant.successes, grant.failures) = (0, 0);
    enter(record, HolderState::Verifying, now);
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

/// A check has ended, of which so many in a row are `enough`. One that could not be run says nothing but
/// that it is not known.
pub(super) fn checked(record: &mut HolderRecord, how: &How, enough: u32, now: UnixTime) {
    let Some(Ok(mut grant)) = GoaheadGrant::of(record) else { return };
    match (record.state == Some(HolderState::Verifying), how) {
        (true, How::Exited(0)) => grant.successes = grant.successes.saturating_add(1),
        (true, _) => grant.successes = 0,
        // It was looked for without having said anything. As long as the check finds it there, it may
        // still have to go down.
        (false, How::Exited(0)) => grant.failures = 0,
        (false, How::Exited(_)) => {
            grant.failures = grant.failures.saturating_add(1);
            if grant.failures >= enough {
                (grant.successes, grant.failures) = (0, 0);
                enter(record, HolderState::Verifying, now);
            }
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
        let mut holder = record("5h");
        says(&mut holder, "-1s");
        assert_eq!(holder.state, Some(HolderState::Holding));
        // What it says first is remembered, as nothing better is known.
        says(&mut holder, "6h");
        let mut unknown = record("");
        says(&mut unknown, "6h");
        assert_eq!((grant(&holder).uptime, grant(&unknown).uptime), ("6h".into(), "6h".into()));
        // But that it was up when it got its slot is known.
        let mut holder = record("long");
        reported(&mut holder, "1m", "1m".parse().unwrap(), T.plus_seconds(1000));
        assert_eq!(holder.state, Some(HolderState::Verifying));
    }

    #[test]
    fn what_is_not_known_of_a_check_is_never_a_success() {
        let mut holder = record("5h");
        // Looked for without having said anything.
        for how in [How::Exited(0), How::TimedOut, How::NotStarted(String::new()), How::Killed(9)] {
            checked(&mut holder, &how, 1, T);
            assert_eq!(holder.state, Some(HolderState::Holding), "{how}");
        }
        says(&mut holder, "1m");
        checked(&mut holder, &How::Exited(0), 1, T);
        checked(&mut holder, &How::Exited(0), 1, T);
        assert_eq!(grant(&holder).successes, 2);
        for how in [How::Exited(1), How::TimedOut, How::NotStarted(String::new()), How::Killed(9)] {
            checked(&mut holder, &How::Exited(0), 1, T);
            checked(&mut holder, &how, 1, T);
            assert_eq!(grant(&holder).successes, 0, "{how}");
        }
    }

    #[test]
    fn one_that_a_check_took_to_be_away_may_say_that_it_is_not() {
        let mut holder = record("5h");
        let check = |holder: &mut HolderRecord, code| {
            checked(holder, &How::Exited(code), 3, T);
            holder.state.clone().unwrap()
        };
        // As many in a row as have to succeed, and not one that may have been anything.
        for code in [1, 2, 0, 1, 1] {
            assert_eq!(check(&mut holder, code), HolderState::Holding);
        }
        checked(&mut holder, &How::TimedOut, 3, T);
        assert_eq!(holder.state, Some(HolderState::Holding));
        assert_eq!(check(&mut holder, 1), HolderState::Verifying);
        check(&mut holder, 0);
        says(&mut holder, "5h1m");
        assert_eq!(
            (holder.state.clone(), grant(&holder).successes),
            (Some(HolderState::Holding), 0)
        );
    }

    /// A machine that was up for `young` seconds when it got its go-ahead, and what it says later.
    fn young(young: i64, reports: &[(u64, i64)]) -> HolderRecord {
        let mut holder = record(&format!("{young}s"));
        for (after, up) in reports {
            let text = format!("{up}s");
            reported(&mut holder, &text, text.parse().unwrap(), T.plus_seconds(*after));
        }
        holder
    }

    #[test]
    fn no_late_report_makes_a_machine_reboot_that_has_not() {
        // What it said shortly before, however young it is.
        for up in [129, 100, 1] {
            assert_eq!(young(130, &[(0, up)]).state, Some(HolderState::Holding), "{up}");
        }
        for age in (0..1200).step_by(61) {
            for after in (0..400).step_by(13) {
                for late in (0..=300).step_by(30) {
                    let up = age + i64::try_from(after).unwrap() - late;
                    if up < 0 {
                        continue;
                    }
                    let holder = young(age, &[(after, up)]);
                    assert_eq!(holder.state, Some(HolderState::Holding), "{age} {after} {late}");
                    // Nor with what it says in time then, nor when the same comes twice.
                    let next = age + i64::try_from(after).unwrap() + 30;
                    let twice = if late > 270 { next } else { up };
                    for (at, up) in [(after + 30, next), (after + 30, twice)] {
                        let mut holder = holder.clone();
                        let text = format!("{up}s");
                        reported(&mut holder, &text, text.parse().unwrap(), T.plus_seconds(at));
                        let state = holder.state;
                        assert_eq!(state, Some(HolderState::Holding), "{age} {after} {late}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_reboot_is_noticed_by_the_second_report_and_of_old_machines_by_the_first() {
        for age in [10, 130, 290, 310, 3600, 1_000_000] {
            for down in [8, 60, 299, 400, 4000] {
                for first in [0, 20, 90, 240, 900, 100_000] {
                    let said = |up: i64| (u64::try_from(down + up).unwrap(), up);
                    let holder = young(age, &[said(first)]);
                    let proven = age + down > LATE;
                    let expected =
                        if proven { HolderState::Verifying } else { HolderState::Holding };
                    assert_eq!(holder.state, Some(expected), "{age} {down} {first}");
                    let holder = young(age, &[said(first), said(first + 60)]);
                    let state = holder.state;
                    assert_eq!(state, Some(HolderState::Verifying), "{age} {down} {first}");
                }
            }
        }
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
        checked(&mut holder, &How::Exited(0), 1, T);
        assert_eq!(next_at(check, &holder, 0), Next::Check);
        checked(&mut holder, &How::Exited(0), 1, T);
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
