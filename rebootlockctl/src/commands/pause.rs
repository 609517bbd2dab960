//! `pause` and `resume`: keeping everybody new out, for a while.

use std::process::ExitCode;

use rebootlock::lock::{Resumed, Scope};
use rebootlock::record::{Pause, UnixTime};

use crate::duration;
use crate::output::{clean, say};
use crate::session::{Session, operator};

fn scopes(session: &Session, fleet: bool) -> Vec<Scope> {
    match fleet {
        true => vec![Scope::Fleet],
        false => session.groups().iter().cloned().map(Scope::Group).collect(),
    }
}

pub(super) async fn pause(
    session: Session,
    reason: Option<String>,
    fleet: bool,
) -> anyhow::Result<ExitCode> {
    let (by, since) = (operator(), UnixTime::now());
    let pause = Pause { by, reason, since, unknown: serde_json::Map::new() };
    for scope in scopes(&session, fleet) {
        session.locks.pause(&scope, &pause).await?;
        say(format_args!("{scope} is paused; who holds a slot keeps it"));
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
