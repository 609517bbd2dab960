//! `machines`: who belongs to the fleet, which agents are there, and how the machines are.

use std::process::ExitCode;

use rebootlock::health::Member;
use rebootlock::id::MachineId;
use rebootlock::record::{Health, Presence, RosterEntry, UnixTime};
use serde::Serialize;

use crate::cli::{Format, Output};
use crate::duration;
use crate::output::{Field, colour, print, print_json, say, table};
use crate::session::Session;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    #[serde(rename = "machineID")]
    machine_id: &'a MachineId,
    hostname: Option<&'a str>,
    /// Whether its agent is there.
    present: bool,
    /// What its agent does; else how far the holder of a slot has come; else `away`.
    state: Option<String>,
    state_since: Option<UnixTime>,
    groups: &'a [String],
    health: Option<&'a Health>,
    /// When its agent first came.
    first_seen: Option<UnixTime>,
    version: Option<&'a str>,
    damage: Option<String>,
}

impl<'a> Row<'a> {
    fn of(machine_id: &'a MachineId, member: &'a Member) -> Self {
        let presence: Option<&Presence> = member.presence.iter().flatten().next();
        let entry: Option<&RosterEntry> = member.roster.iter().flatten().next();
        let damages = [
            member.presence.as_ref().and_then(|read| read.as_ref().err()),
            member.roster.as_ref().and_then(|read| read.as_ref().err()),
        ];
        let (state, state_since) = match (presence, &member.presence, &member.slot) {
            (Some(presence), ..) => (Some(presence.state.clone()), Some(presence.state_since)),
            (None, Some(_), _) => (None, None),
            // It is away for a reason.
            (None, None, Some(slot)) => {
                let state = slot.state.as_ref().map(ToString::to_string);
                (Some(state.unwrap_or_else(|| "away".to_owned())), slot.since)
            }
            (None, None, None) => (Some("away".to_owned()), None),
        };
        let enrolled = entry.map(|entry| &entry.groups[..]);
        Self {
            machine_id,
            hostname: member.hostname(),
            present: member.presence.is_some(),
            state,
            state_since,
            groups: presence.map(|presence| &presence.groups[..]).or(enrolled).unwrap_or_default(),
            health: presence.and_then(|presence| presence.health.as_ref()),
            first_seen: entry.map(|entry| entry.first_seen),
            version: presence.and_then(|presence| presence.version.as_deref()),
            damage: damages.into_iter().flatten().next().map(ToString::to_string),
        }
    }

    fn fields(&self, now: UnixTime) -> Vec<Field> {
        let since = self.state_since.map(|since| duration::show(now.seconds_since(since)));
        let state = self.state.as_deref().unwrap_or_default();
        vec![
            Field::new(self.machine_id.as_str()),
            Field::new(self.hostname.unwrap_or_default()),
            match &self.damage {
                Some(_) => Field::alarming("unreadable"),
                None if state == "away" => Field::alarming(state),
                None => Field::new(state),
            },
            Field::new(since.unwrap_or_default()),
            self.health_field(),
            Field::new(self.groups.join(", ")),
            Field::new(self.version.unwrap_or_default()),
        ]
    }

    fn health_field(&self) -> Field {
        match self.health {
            None => Field::new(""),
            Some(Health { healthy: true, .. }) => Field::new("healthy"),
            Some(Health { reason: None, .. }) => Field::alarming("unhealthy"),
            Some(Health { reason: Some(reason), .. }) => {
                Field::alarming(format!("unhealthy: {reason}"))
            }
        }
    }
}

pub(super) async fn run(session: Session, output: Output) -> anyhow::Result<ExitCode> {
    let groups = session.locks.groups().await?;
    let fleet = session.locks.fleet(&groups).await?;
    let rows: Vec<Row<'_>> = fleet.members.iter().map(|(id, m)| Row::of(id, m)).collect();
    match output.output {
        Format::Json => print_json(&rows)?,
        Format::Table if rows.is_empty() => say(format_args!("no agent is there")),
        Format::Table => {
            let now = UnixTime::now();
            let headings = ["MACHINE ID", "HOST", "STATE", "SINCE", "HEALTH", "GROUPS", "VERSION"];
            let fields = rows.iter().map(|row| row.fields(now)).collect();
            print(&table(&headings, fields, colour()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
