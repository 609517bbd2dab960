//! The machines of the fleet, and what came of earlier slots.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};
use rebootlock::duration;
use rebootlock::record::Ending;
use rebootlock::view::{HeldView, MachineView, PastView, RequestView};

use super::groups::{field, head};
use super::moment::Ages;
use super::words::{Tone, act, count, machine, more, tag, text, text_if_any};

/// Rows that are shown.
const MOST_MACHINES: usize = 100;
const MOST_PAST: usize = 30;

/// Whether somebody should look at it.
pub(super) fn is_unwell(machine: &MachineView) -> bool {
    machine.damage.is_some() || machine.unwell.is_some()
}

/// All machines that are known.
pub(super) fn machines(
    all: &[MachineView],
    requests: &[RequestView],
    held: &[HeldView],
    ages: Ages,
) -> Markup {
    let held: BTreeSet<_> = held.iter().map(|held| &held.machine_id).collect();
    let asked: BTreeMap<_, _> =
        requests.iter().map(|request| (&request.machine_id, request)).collect();
    // Those that need somebody first, then those with news, then by name.
    let mut sorted: Vec<&MachineView> = all.iter().collect();
    sorted.sort_by_cached_key(|machine| {
        let quiet = machine.blocked.is_none() && !asked.contains_key(&machine.machine_id);
        let name = machine.hostname.clone().unwrap_or_else(|| machine.machine_id.to_string());
        (!is_unwell(machine), machine.present, quiet, name)
    });
    let shown = sorted.len().min(MOST_MACHINES);
    html! {
        section #machines .section aria-labelledby="machines-title" {
            header {
                h2 #machines-title { "Machines" }
                p { (tally(all)) }
            }
            div.card {
                @if all.is_empty() {
                    p.none {
                        "No agent has enrolled. Machines that come over HTTP alone show above while they "
                        "hold a slot or wait for one."
                    }
                } @else {
                    table.fleet role="table" {
                        caption.unseen { "Machines with an agent" }
                        thead role="rowgroup" { tr role="row" {
                            (head("Machine")) (head("Does")) (head("Since")) (head("Health"))
                            (head("Groups")) (head("Wish")) th.act role="columnheader" scope="col" {
                                span.unseen { "Act" }
                            }
                        } }
                        tbody role="rowgroup" {
                            @for machine in &sorted[..shown] {
                                (row(
                                    machine,
                                    asked.get(&machine.machine_id).copied(),
                                    held.contains(&machine.machine_id),
                                    ages,
                                ))
                            }
                        }
                    }
                    (more(sorted.len(), shown, "rebootlockctl machines"))
                }
            }
        }
    }
}

fn tally(all: &[MachineView]) -> String {
    let away = all.iter().filter(|machine| !machine.present).count();
    let unwell = all.iter().filter(|machine| is_unwell(machine)).count();
    let mut text = count(all.len(), "machine");
    if away > 0 {
        text += &format!(", {away} away");
    }
    if unwell > 0 {
        text += &format!(", {unwell} unwell");
    }
    text
}

fn row(view: &MachineView, request: Option<&RequestView>, held: bool, ages: Ages) -> Markup {
    let id = view.machine_id.as_str();
    let late = is_unwell(view).then_some("late");
    let does = html! {
        @match view.state.as_deref() {
            Some("away") => (tag(Tone::Warn, "away")),
            Some(state) => (tag(Tone::Plain, state)),
            None => {},
        }
        @if held { " " (tag(Tone::Warn, "held")) }
        @if let Some(blocked) = &view.blocked { p.soft { (text(&blocked.why)) } }
    };
    html! {
        tr role="row" class=[late] data-key={ "m:" (id) } {
            th role="rowheader" scope="row" { (machine(view.hostname.as_deref(), id)) }
            (field("Does", &does))
            (field("Since", &ages.time_if_known(view.state_since)))
            (field("Health", &health(view)))
            (field("Groups", &text(&view.groups.join(", "))))
            (field("Wish", &wish(view, request, ages)))
            td.acts role="cell" {
                @if request.is_some() { (act("cancel", None, Some(&view.machine_id), "Cancel…")) }
                @else { (act("request", None, Some(&view.machine_id), "Request…")) }
                @if held { (act("unhold", None, Some(&view.machine_id), "Let go…")) }
                @else { (act("hold", None, Some(&view.machine_id), "Hold…")) }
            }
        }
    }
}

fn health(view: &MachineView) -> Markup {
    html! {
        @if let Some(damage) = &view.damage {
            (tag(Tone::Bad, "damaged")) " "
            p.soft { (text(damage)) ". See " code { "rebootlockctl doctor" } "." }
        } @else if let Some(health) = &view.health {
            @if !health.healthy {
                (tag(Tone::Bad, "unwell")) p.soft { (text_if_any(health.reason.as_deref())) }
            } @else if let Some(why) = &view.unwell { (tag(Tone::Bad, "unwell")) p.soft { (text(why)) } }
            @else { (tag(Tone::Good, "well")) }
        } @else if view.present { span.soft { "says nothing" } }
    }
}

fn wish(view: &MachineView, request: Option<&RequestView>, ages: Ages) -> Markup {
    let wanted = view.blocked.as_ref().and_then(|blocked| blocked.wanted.as_deref());
    html! {
        @if let Some(request) = request {
            "asked for by " strong { (text(request.by.as_deref().unwrap_or("somebody"))) }
            @if let Some(reason) = &request.reason { ": " (text(reason)) }
            @if let Some(since) = request.since { ", " (ages.brief(since)) }
        } @else if let Some(wanted) = wanted { (text(wanted)) }
    }
}

/// What came of earlier slots, newest first.
pub(super) fn history(all: &[PastView], ages: Ages) -> Markup {
    let shown = all.len().min(MOST_PAST);
    html! {
        section #history .section aria-labelledby="history-title" {
            header { h2 #history-title { "History" } }
            div.card {
                @if all.is_empty() { p.none { "Nothing has been given back yet." } } @else {
                    table.past role="table" {
                        caption.unseen { "Slots that were given back, newest first" }
                        thead role="rowgroup" { tr role="row" {
                            (head("Machine")) (head("Given back")) (head("Ended")) (head("Held for"))
                            (head("Down for")) (head("Group")) (head("Why"))
                        } }
                        tbody role="rowgroup" { @for past in all.iter().rev().take(shown) { (entry(past, ages)) } }
                    }
                    (more(all.len(), shown, "rebootlockctl history"))
                }
            }
        }
    }
}

fn entry(view: &PastView, ages: Ages) -> Markup {
    let past = &view.past;
    let lasted = |secs: Option<u64>| html! { @if let Some(secs) = secs { (duration::show(secs)) } };
    let key = past.token.map(|token| token.to_string()).unwrap_or_default();
    let ended = html! {
        (tag(tone(&past.ended), &past.ended.to_string()))
        @if let Some(by) = &past.by { " by " (text(by)) }
    };
    html! {
        tr role="row" data-key={ "p:" (key) ":" (past.ended_at.0) } {
            th role="rowheader" scope="row" { (machine(past.hostname.as_deref(), &past.machine_id)) }
            (field("Given back", &ages.time(past.ended_at)))
            (field("Ended", &ended))
            (field("Held for", &lasted(view.held_for_secs)))
            (field("Down for", &lasted(view.down_for_secs)))
            (field("Group", &text(&past.groups.join(", "))))
            (field("Why", &text_if_any(past.reason.as_deref())))
        }
    }
}

fn tone(ended: &Ending) -> Tone {
    match ended {
        Ending::Verified => Tone::Good,
        Ending::GivenBack | Ending::ExecEnded => Tone::Plain,
        Ending::Unlocked | Ending::Other(_) => Tone::Warn,
        Ending::Failed | Ending::Overdue | Ending::NotReady => Tone::Bad,
    }
}
