//! `pause` and `resume`: keeping everybody new out, for a while.

use std::process::ExitCode;
use std::time::Duration;

use rebootlock::duration;
use rebootlock::lock::{Resumed, Scope};
use rebootlock::record::{Pause, UnixTime};

use crate::output::{clean, say};
use crate::session::Session;

fn scopes(session: &Session, fleet: bool) -> Vec<Scope> {
    match fleet {
        true => vec![Scope::Fleet],
        false => session.groups().iter().cloned().map(Scope::Group).collect(),
    }
}

/// When something that lasts for `time` ends.
pub(super) fn end_of(since: UnixTime, time: Option<Duration>) -> Option<UnixTime> {
    time.map(|time| since.plus_seconds(time.as_secs()))
}

/// ` for 2h`, or nothing.
pub(super) fn for_how_long(time: Option<Duration>) -> String {
    time.map(|time| format!(" for {}", duration::show(time.as_secs()))).unwrap_or_default()
}

pub(super) async fn pause(
    session: Session,
    reason: Option<String>,
    fleet: bool,
    time: Option<Duration>,
) -> anyhow::Result<ExitCode> {
    let (by, since) = (session.operator().await?, UnixTime::now());
    let until = end_of(since, time);
    let pause = Pause { by, reason, since, until, unknown: serde_json::Map::new() };
    for scope in scopes(&session, fleet) {
        session.locks.pause(&scope, &pause).await?;
        let lasting = for_how_long(time);
        say(format_args!("{scope} is paused{lasting}; who holds a slot keeps it"));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(session: Session, fleet: bool) -> anyhow::Result<ExitCode> {
    for scope in scopes(&session, fleet) {
        match session.locks.resume(&scope).await? {
            Resumed::Ended(None) => say(format_args!("{scope} goes on")),
            Resumed::Ended(Some(pause)) => {
                let age = duration::show(UnixTime::now().seconds_since(pause.since));
                let by = clean(&pause.by);
                say(format_args!("{scope} goes on; it was paused by {by} for {age}"));
            }
            Resumed::NotPaused => say(format_args!("{scope} was not paused")),
        }
    }
    Ok(ExitCode::SUCCESS)
}
