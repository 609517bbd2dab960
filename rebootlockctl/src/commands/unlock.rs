//! `unlock`: frees slots, of one machine or of all that were forgotten.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use rebootlock::cli::exit;
use rebootlock::duration;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{Ended, Holder, Release, Released};
use rebootlock::record::{HolderRecord, HolderState, UnixTime};
use rebootlock::view::words::in_groups;

use super::trim_history;
use crate::cli::Unlock;
use crate::output::{clean, say};
use crate::session::Session;

pub(super) async fn run(session: Session, args: Unlock) -> anyhow::Result<ExitCode> {
    if let Some(time) = args.overdue {
        return overdue(&session, time, args.yes).await;
    }
    let machine = match args.machine {
        Some(machine) => machine,
        None => session.machine_id()?,
    };
    let groups = session.groups();
    let release = Release::by_operator(session.operator().await?);
    match session.locks.release(groups, &machine, &release).await? {
        Released::Freed(record) => {
            explain(groups, &machine, record.as_deref());
            trim_history(&session, groups).await;
            Ok(ExitCode::SUCCESS)
        }
        Released::NotHeld => {
            say(format_args!("{machine} holds no slot in {}", in_groups(groups)));
            Ok(exit::NOT_HOLDING.into())
        }
    }
}

/// What a person who freed a slot should know.
fn explain(asked: &[Group], machine: &MachineId, record: Option<&HolderRecord>) {
    let Some(record) = record else { return };
    let more: Vec<_> = record.groups().filter(|group| !asked.contains(group)).collect();
    if !more.is_empty() {
        say(format_args!("its slot in {}, taken together, is free too", in_groups(&more)));
    }
    if record.state == Some(HolderState::Rebooting) {
        say(format_args!(
            "warning: {machine} was rebooting and may be down; another machine can go down now"
        ));
    }
}

async fn overdue(session: &Session, time: Duration, yes: bool) -> anyhow::Result<ExitCode> {
    let now = UnixTime::now();
    let mut forgotten = Vec::new();
    for group in session.groups() {
        for holder in session.locks.status(group).await?.holders {
            match is_forgotten(&holder, time, now) {
                Some(true) => forgotten.push((group.clone(), holder)),
                Some(false) => {}
                None => say(format_args!(
                    "{} holds a slot in group {group}, nobody knows since when; unlock it by name",
                    clean(holder.machine.as_str())
                )),
            }
        }
    }
    if forgotten.is_empty() {
        let groups = in_groups(session.groups());
        say(format_args!("nobody is overdue by {} in {groups}", duration::show(time.as_secs())));
        return Ok(ExitCode::SUCCESS);
    }
    if !yes && !io::stdin().is_terminal() {
        bail!(
            "{} to be freed, but nobody can be asked: the input is no terminal; see --yes",
            forgotten.len()
        );
    }
    let by = session.operator().await?;
    for (group, Holder { machine, record }) in forgotten {
        let Some(Ok(record)) = record else { continue };
        if !yes && !asked(&group, &machine, &record, now)? {
            continue;
        }
        // Only what was shown: it may have come back and taken another slot meanwhile.
        let groups = std::slice::from_ref(&group);
        let release = Release { token: record.token, ended: Ended::Unlocked { by: by.clone() } };
        match session.locks.release(groups, &machine, &release).await? {
            Released::Freed(record) => {
                say(format_args!("freed the slot of {machine} in group {group}"));
                explain(groups, &machine, record.as_deref());
            }
            Released::NotHeld => say(format_args!("{machine} has given its slot back by itself")),
        }
    }
    trim_history(session, session.groups()).await;
    Ok(ExitCode::SUCCESS)
}

/// Whether a slot is held for longer than `time` by a machine that is not expected back later.
/// `None`: nobody wrote down since when it is held.
fn is_forgotten(holder: &Holder, time: Duration, now: UnixTime) -> Option<bool> {
    let record = holder.record.as_ref()?.as_ref().ok()?;
    let expected = record.expected_back.is_some_and(|back| back >= now);
    Some(!expected && now.seconds_since(record.start_time) > time.as_secs())
}

fn asked(
    group: &Group,
    machine: &MachineId,
    record: &HolderRecord,
    now: UnixTime,
) -> anyhow::Result<bool> {
    let host = record.hostname.iter().map(|host| format!("{host}, "));
    let state = record.state.iter().map(|state| format!("{state}, "));
    let age = duration::show(now.seconds_since(record.start_time));
    let details = clean(&host.chain(state).collect::<String>());
    let mut stderr = io::stderr().lock();
    // A question that cannot be shown is answered by nobody, and so with no.
    write!(
        stderr,
        "free the slot of {machine} ({details}held for {age}) in group {group}? [y/N] "
    )?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rebootlock::record::{Claim, Via};

    use super::*;

    #[test]
    fn forgotten_is_who_holds_for_long_and_is_not_expected_later() {
        let (now, hour) = (UnixTime(100_000), Duration::from_secs(3600));
        let machine = MachineId::new("a").unwrap();
        let held = |since: i64, back: Option<i64>| {
            let mut record = Claim::new(machine.clone(), [], Via::Agent).record(UnixTime(since));
            record.expected_back = back.map(UnixTime);
            let holder = Holder { machine: machine.clone(), record: Some(Ok(record)) };
            is_forgotten(&holder, hour, now)
        };
        assert_eq!(held(90_000, None), Some(true));
        assert_eq!(held(96_400, None), Some(false));
        assert_eq!(held(90_000, Some(99_999)), Some(true));
        assert_eq!(held(90_000, Some(100_500)), Some(false));
        assert_eq!(is_forgotten(&Holder { machine, record: None }, hour, now), None);
    }
}
