//! `groups`: which there are.

use std::process::ExitCode;

use rebootlock::lock::GroupStatus;
use rebootlock::view::PauseView;
use serde::Serialize;

use super::look::{end, look};
use crate::cli::{Format, Output};
use crate::output::{Field, colour, print, print_json, table};
use crate::session::Session;

#[derive(Serialize)]
struct Row<'a> {
    group: &'a str,
    available: i64,
    max: u32,
    holders: usize,
    waiting: usize,
    paused: Vec<PauseView>,
}

impl<'a> Row<'a> {
    fn of(status: &'a GroupStatus) -> Self {
        Self {
            group: status.group.as_str(),
            available: status.semaphore.available(),
            max: status.semaphore.max(),
            holders: status.holders.len(),
            waiting: status.queue.len(),
            paused: PauseView::all_of(status),
        }
    }

    fn fields(&self) -> Vec<Field> {
        let [holders, waiting] = [self.holders, self.waiting].map(|n| Field::new(n.to_string()));
        vec![
            Field::new(self.group),
            Field::new(self.available.to_string()),
            Field::new(self.max.to_string()),
            holders,
            waiting,
            if self.paused.is_empty() { Field::new("no") } else { Field::alarming("yes") },
        ]
    }
}

pub(super) async fn run(session: Session, output: Output) -> anyhow::Result<ExitCode> {
    let seen = look(&session, session.locks.groups().await?).await?;
    let rows: Vec<_> =
        seen.iter().filter_map(|seen| seen.status.as_ref().ok()).map(Row::of).collect();
    match output.output {
        Format::Json => print_json(&rows)?,
        Format::Table => {
            let headings = ["GROUP", "AVAILABLE", "MAX", "HOLDERS", "WAITING", "PAUSED"];
            print(&table(&headings, rows.iter().map(Row::fields).collect(), colour()))?;
        }
    }
    Ok(end(&seen))
}
