//! `machines`: who belongs to the fleet, which agents are there, and how the machines are.

use std::process::ExitCode;

use rebootlock::duration;
use rebootlock::record::{Health, UnixTime};
use rebootlock::view::MachineView;

use crate::cli::{Format, Output};
use crate::output::{Field, colour, print, print_json, say, table};
use crate::session::Session;

fn fields(machine: &MachineView, now: UnixTime) -> Vec<Field> {
    let since = machine.state_since.map(|since| duration::show(now.seconds_since(since)));
    let state = machine.state.as_deref().unwrap_or_default();
    vec![
        Field::new(machine.machine_id.as_str()),
        Field::new(machine.hostname.as_deref().unwrap_or_default()),
        match &machine.damage {
            Some(_) => Field::alarming("unreadable"),
            None if state == "away" => Field::alarming(state),
            None => Field::new(state),
        },
        Field::new(since.unwrap_or_default()),
        health_field(machine),
        Field::new(machine.groups.join(", ")),
        Field::new(machine.version.as_deref().unwrap_or_default()),
    ]
}

/// As it counts for the others, and not as its agent once said.
fn health_field(machine: &MachineView) -> Field {
    match (&machine.health, &machine.unwell) {
        (Some(Health { healthy: false, reason: None, .. }), _) => Field::alarming("unhealthy"),
        (Some(Health { healthy: false, reason: Some(reason), .. }), _) => {
            Field::alarming(format!("unhealthy: {reason}"))
        }
        // What cannot be read is shown already.
        (_, Some(why)) if machine.damage.is_none() => Field::alarming(why),
        (Some(_), None) => Field::new("healthy"),
        _ => Field::new(""),
    }
}

pub(super) async fn run(session: Session, output: Output) -> anyhow::Result<ExitCode> {
    let groups = session.locks.groups().await?;
    let fleet = session.locks.fleet(&groups).await?;
    let now = UnixTime::now();
    let rows: Vec<_> = fleet.members.iter().map(|(id, m)| MachineView::of(id, m, now)).collect();
    match output.output {
        Format::Json => print_json(&rows)?,
        Format::Table if rows.is_empty() => say(format_args!("no agent is there")),
        Format::Table => {
            let headings = ["MACHINE ID", "HOST", "STATE", "SINCE", "HEALTH", "GROUPS", "VERSION"];
            let fields = rows.iter().map(|row| fields(row, now)).collect();
            print(&table(&headings, fields, colour()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
