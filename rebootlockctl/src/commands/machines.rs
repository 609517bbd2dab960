//! `machines`: which agents are there.

use std::process::ExitCode;

use anyhow::Context as _;
use rebootlock::keys::last_segment;
use rebootlock::record::{Document, Presence, UnixTime};
use rebootlock::store::{Entry, Key, Select};
use serde::Serialize;

use crate::cli::{Format, Output};
use crate::duration;
use crate::output::{Field, colour, print, print_json, say, table};
use crate::session::Session;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(rename = "machineID")]
    machine_id: String,
    hostname: Option<String>,
    state: Option<String>,
    state_since: Option<UnixTime>,
    groups: Vec<String>,
    version: Option<String>,
    damage: Option<String>,
}

impl Row {
    fn of(key: &Key, entry: &Entry) -> Self {
        let machine_id = last_segment(key).to_owned();
        let (presence, damage) = match Presence::from_json(&entry.value) {
            Ok(presence) => (Some(presence), None),
            Err(damage) => (None, Some(damage.to_string())),
        };
        let state_since = presence.as_ref().map(|presence| presence.state_since);
        let (hostname, state, groups, version) = match presence {
            Some(p) => (p.hostname, Some(p.state), p.groups, p.version),
            None => (None, None, Vec::new(), None),
        };
        Self { machine_id, hostname, state, state_since, groups, version, damage }
    }

    fn fields(&self, now: UnixTime) -> Vec<Field> {
        let text = |text: &Option<String>| Field::new(text.as_deref().unwrap_or_default());
        let since = self.state_since.map(|since| duration::show(now.seconds_since(since)));
        vec![
            Field::new(&self.machine_id),
            text(&self.hostname),
            if self.damage.is_some() { Field::alarming("unreadable") } else { text(&self.state) },
            text(&since),
            Field::new(self.groups.join(", ")),
            text(&self.version),
        ]
    }
}

pub(super) async fn run(session: Session, output: Output) -> anyhow::Result<ExitCode> {
    let below = session.locks.keys().machines();
    let listed = session.locks.store().list(&below, Select::All).await;
    let listed = listed.with_context(|| format!("cannot list {below}"))?;
    let rows: Vec<Row> = listed.entries.iter().map(|(key, entry)| Row::of(key, entry)).collect();
    match output.output {
        Format::Json => print_json(&rows)?,
        Format::Table if rows.is_empty() => say(format_args!("no agent is there")),
        Format::Table => {
            let now = UnixTime::now();
            let headings = ["MACHINE ID", "HOST", "STATE", "SINCE", "GROUPS", "VERSION"];
            let fields = rows.iter().map(|row| row.fields(now)).collect();
            print(&table(&headings, fields, colour()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
