//! `status`: who holds a slot, who waits, what is paused; once, or whenever it changes.

mod watch;

use std::process::ExitCode;

use rebootlock::cli::exit;
use rebootlock::id::Group;
use rebootlock::lock::{GroupStatus, LockError};
use rebootlock::record::UnixTime;
use rebootlock::view::GroupView;

use super::groups_of;
use crate::cli::{Format, Scope, Status};
use crate::failure::chain;
use crate::output::{clean, colour, print, print_json, say};
use crate::session::Session;
use crate::view;

pub(super) async fn run(session: Session, args: Status) -> anyhow::Result<ExitCode> {
    if args.watch {
        return watch::run(session, args).await;
    }
    let seen = look(&session, &args.scope).await?;
    match args.output.output {
        Format::Table => print(&text(&seen))?,
        Format::Json => print_json(&document(&seen))?,
    }
    for damage in seen.iter().filter_map(|seen| seen.status.as_ref().err()) {
        say(format_args!("error: {damage}"));
    }
    let whole = seen.iter().all(|seen| seen.status.is_ok());
    Ok(if whole { ExitCode::SUCCESS } else { exit::FAILED.into() })
}

/// A group as it was, or what is wrong with its semaphore.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    group: Group,
    status: Result<GroupStatus, String>,
}

/// Looks at all groups that are meant. A damaged one does not hide the others.
async fn look(session: &Session, scope: &Scope) -> anyhow::Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for group in groups_of(session, scope).await? {
        let status = match session.locks.status(&group).await {
            Ok(status) => Ok(status),
            Err(damaged @ LockError::Damaged { .. }) => Err(chain(&damaged.into())),
            Err(error) => return Err(error.into()),
        };
        seen.push(Seen { group, status });
    }
    Ok(seen)
}

/// What a person sees: one group as it is, several under headings.
fn text(seen: &[Seen]) -> String {
    let (now, colour) = (UnixTime::now(), colour());
    let alone = seen.len() == 1;
    let part = |seen: &Seen| {
        let heading = format!("Group: {}\n", clean(seen.group.as_str()));
        match &seen.status {
            Ok(status) if alone => view::status(status, now, colour),
            Ok(status) => heading + &view::status(status, now, colour),
            Err(_) if alone => String::new(),
            Err(_) => heading + "damaged\n",
        }
    };
    seen.iter().map(part).collect::<Vec<_>>().join("\n")
}

fn document(seen: &[Seen]) -> Vec<GroupView> {
    let now = UnixTime::now();
    seen.iter()
        .map(|seen| match &seen.status {
            Ok(status) => GroupView::of(status, now),
            Err(error) => GroupView::Damaged { group: seen.group.clone(), error: error.clone() },
        })
        .collect()
}
