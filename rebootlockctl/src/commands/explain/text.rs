//! The explanation for people, and for programs.

use rebootlock::duration::show;
use rebootlock::id::{Group, MachineId};
use rebootlock::record::{Health, UnixTime};
use rebootlock::view::GroupView;
use serde::Serialize;

use super::Facts;
use super::reasons::{Explanation, Reason};
use crate::output::clean;

/// One screen.
pub(super) fn screen(facts: &Facts, explanation: &Explanation) -> String {
    let id = facts.machine.as_str();
    let name = match hostname(facts) {
        Some(host) if host != id => format!("{host} ({id})"),
        _ => id.to_owned(),
    };
    let mut lines = vec![format!("{name} {}", explanation.summary), String::new()];
    let mut about = |label: &str, text: &str| lines.push(format!("{label:<8}{text}"));
    about("Wanted", explanation.wanted.as_deref().unwrap_or("no"));
    about("Agent", &agent(facts));
    let groups: Vec<_> = facts.groups.iter().map(|(group, _)| group.as_str()).collect();
    about("Groups", &groups.join(", "));
    lines.push(String::new());
    for (number, reason) in (1..).zip(&explanation.reasons) {
        lines.push(format!("{number}. {}", reason.why));
        lines.push(format!("   what to do: {}", reason.todo));
    }
    if explanation.reasons.is_empty() {
        lines.push(
            "Nothing that can be seen from here is in the way: look again in a moment".to_owned(),
        );
    }
    lines.iter().map(|line| clean(line) + "\n").collect()
}

fn hostname(facts: &Facts) -> Option<&str> {
    let entry = || facts.roster.as_ref()?.as_ref().ok()?.hostname.as_deref();
    facts.agent().and_then(|agent| agent.hostname.as_deref()).or_else(entry)
}

/// `waiting-for-slot for 12m, healthy, version 0.1.0`
fn agent(facts: &Facts) -> String {
    let Some(agent) = facts.agent() else {
        return if facts.presence.is_some() { "cannot be read" } else { "not there" }.to_owned();
    };
    let age = show(facts.now.seconds_since(agent.state_since));
    let mut text = format!("{} for {age}", agent.state);
    match &agent.health {
        None => {}
        Some(Health { healthy: true, .. }) => text += ", healthy",
        Some(_) => text += ", unhealthy",
    }
    if let Some(version) = &agent.version {
        text += &format!(", version {version}");
    }
    text
}

/// The members are a promise: new ones may come, none goes or changes its meaning.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document<'a> {
    #[serde(rename = "machineID")]
    machine_id: &'a MachineId,
    hostname: Option<&'a str>,
    summary: &'a str,
    /// Why a reboot is wanted, if one is.
    wanted: Option<&'a str>,
    /// Whether its agent is there.
    present: bool,
    state: Option<&'a str>,
    state_since: Option<UnixTime>,
    health: Option<&'a Health>,
    reasons: &'a [Reason],
    groups: Vec<GroupView>,
}

pub(super) fn document<'a>(facts: &'a Facts, explanation: &'a Explanation) -> Document<'a> {
    let agent = facts.agent();
    let group = |(group, status): &'a (Group, Result<_, String>)| match status {
        Ok(status) => GroupView::of(status, facts.now),
        Err(error) => GroupView::Damaged { group: group.clone(), error: error.clone() },
    };
    Document {
        machine_id: &facts.machine,
        hostname: hostname(facts),
        summary: explanation.summary,
        wanted: explanation.wanted.as_deref(),
        present: facts.presence.is_some(),
        state: agent.map(|agent| agent.state.as_str()),
        state_since: agent.map(|agent| agent.state_since),
        health: agent.and_then(|agent| agent.health.as_ref()),
        reasons: &explanation.reasons,
        groups: facts.groups.iter().map(group).collect(),
    }
}
