//! `status`: who holds a slot, who waits, what is paused; once, or whenever it changes.

mod watch;

use std::process::ExitCode;

use rebootlock::record::UnixTime;
use rebootlock::view::GroupView;

use super::groups_of;
use super::look::{Seen, end, look};
use crate::cli::{Format, Status};
use crate::output::{clean, colour, print, print_json};
use crate::session::Session;
use crate::view;

pub(super) async fn run(session: Session, args: Status) -> anyhow::Result<ExitCode> {
    if args.watch {
        return watch::run(session, args).await;
    }
    let seen = look(&session, groups_of(&session, &args.scope).await?).await?;
    match args.output.output {
        Format::Table => print(&text(&seen))?,
        Format::Json => print_json(&document(&seen))?,
    }
    Ok(end(&seen))
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
