//! `groups`: which there are.

use std::process::ExitCode;

use anyhow::Context as _;
use rebootlock::cli::exit;
use rebootlock::lock::{GroupStatus, LockError};
use rebootlock::view::PauseView;
use serde::Serialize;

use crate::cli::{Format, Output};
use crate::failure::chain;
use crate::output::{Field, colour, print, print_json, say, table};
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
    let (mut found, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for group in session.locks.groups().await? {
        match session.locks.status(&group).await {
            Ok(status) => found.push(status),
            Err(error @ LockError::Damaged { .. }) => {
                say(format_args!("error: {}", chain(&error.into())));
                code = exit::FAILED.into();
            }
            Err(error) => return Err(error).context(format!("cannot look at group {group}")),
        }
    }
    let rows: Vec<_> = found.iter().map(Row::of).collect();
    match output.output {
        Format::Json => print_json(&rows)?,
        Format::Table => {
            let headings = ["GROUP", "AVAILABLE", "MAX", "HOLDERS", "WAITING", "PAUSED"];
            print(&table(&headings, rows.iter().map(Row::fields).collect(), colour()))?;
        }
    }
    Ok(code)
}
