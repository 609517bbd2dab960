//! `queue`: who waits, for how long, and what is in the way.

use std::process::ExitCode;

use rebootlock::lock::GroupStatus;
use rebootlock::record::UnixTime;
use rebootlock::view::WaiterView;
use rebootlock::view::words::in_groups;

use super::groups_of;
use super::look::{end, look};
use crate::cli::{Format, Output, Scope};
use crate::output::{Field, clean, print, print_json, say, table};
use crate::session::Session;
use crate::view;

fn text(status: &GroupStatus, now: UnixTime) -> String {
    let fields = status.queue.iter().enumerate().map(|(n, ticket)| {
        let mut row = view::waiter(ticket, now);
        row.push(Field::new(view::priority(ticket).to_string()));
        row.push(Field::new(view::obstacle(status, n)));
        row
    });
    let headings = ["MACHINE ID", "HOST", "WAITING FOR", "PRIORITY", "IN THE WAY"];
    table(&headings, fields.collect(), false)
}

pub(super) async fn run(
    session: Session,
    scope: Scope,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let seen = look(&session, groups_of(&session, &scope).await?).await?;
    let found: Vec<_> = seen.iter().filter_map(|seen| seen.status.as_ref().ok()).collect();
    let now = UnixTime::now();
    match output.output {
        Format::Json => {
            let waiters = found.iter().flat_map(|status| WaiterView::all_of(status, now));
            print_json(&waiters.collect::<Vec<_>>())?;
        }
        Format::Table => show(&found, seen.len() == 1, now)?,
    }
    Ok(end(&seen))
}

fn show(found: &[&GroupStatus], alone: bool, now: UnixTime) -> anyhow::Result<()> {
    let mut held: Vec<_> = found.iter().flat_map(|status| status.held.clone()).collect();
    held.sort_by(|a, b| a.machine.cmp(&b.machine));
    held.dedup();
    let queues: Vec<_> = found.iter().filter(|status| !status.queue.is_empty()).collect();
    if queues.is_empty() && !found.is_empty() {
        let groups: Vec<_> = found.iter().map(|status| status.group.clone()).collect();
        say(format_args!("nobody waits in {}", in_groups(&groups)));
    }
    let part = |status: &&&GroupStatus| match alone {
        true => text(status, now),
        false => format!("Group: {}\n{}", clean(status.group.as_str()), text(status, now)),
    };
    print(&queues.iter().map(part).collect::<Vec<_>>().join("\n"))?;
    for held in &held {
        say(format_args!("held, and so in no queue: {}", view::held(held, now)));
    }
    Ok(())
}
