//! `queue`: who waits, for how long, and what is in the way.

use std::process::ExitCode;

use rebootlock::lock::GroupStatus;
use rebootlock::record::UnixTime;
use rebootlock::view::WaiterView;

use super::groups_of;
use crate::cli::{Format, Output, Scope};
use crate::output::{Field, clean, print, print_json, say, table};
use crate::session::{Session, in_groups};
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
    let groups = groups_of(&session, &scope).await?;
    let mut found = Vec::new();
    for group in &groups {
        found.push(session.locks.status(group).await?);
    }
    let now = UnixTime::now();
    if output.output == Format::Json {
        print_json(
            &found.iter().flat_map(|status| WaiterView::all_of(status, now)).collect::<Vec<_>>(),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut held: Vec<_> = found.iter().flat_map(|status| status.held.clone()).collect();
    held.sort_by(|a, b| a.machine.cmp(&b.machine));
    held.dedup();
    found.retain(|status| !status.queue.is_empty());
    if found.is_empty() {
        say(format_args!("nobody waits in {}", in_groups(&groups)));
    }
    let parts: Vec<_> = found
        .iter()
        .map(|status| match groups.len() {
            1 => text(status, now),
            _ => format!("Group: {}\n{}", clean(status.group.as_str()), text(status, now)),
        })
        .collect();
    print(&parts.join("\n"))?;
    for held in &held {
        say(format_args!("held, and so in no queue: {}", view::held(held, now)));
    }
    Ok(ExitCode::SUCCESS)
}
