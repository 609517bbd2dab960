//! Groups: slots, who has them, who waits.

use maud::{Markup, html};
use rebootlock::id::{Group, MachineId};
use rebootlock::record::HolderState;
use rebootlock::view::{GroupView, HeldView, HolderView, PauseView, Readable, WaiterView};

use super::moment::Ages;
use super::words::{Tone, act, clean, count, machine, more, tag, text, text_if_any};

/// Rows of one group that are shown.
const MOST_HOLDERS: usize = 50;
const MOST_WAITERS: usize = 20;

/// More slots than these are not drawn one by one.
const MOST_PIPS: usize = 32;

/// One group.
pub(super) fn group(view: &GroupView, ages: Ages) -> Markup {
    match view {
        GroupView::Readable(group) => readable(group, ages),
        GroupView::Damaged { group, error } => damaged(group, error),
    }
}

/// Where it is on the page.
pub(super) fn anchor(group: &Group) -> String {
    // As in a link: no blank is left.
    let name: String = form_urlencoded::byte_serialize(group.as_str().as_bytes()).collect();
    format!("group-{name}")
}

fn damaged(group: &Group, error: &str) -> Markup {
    html! {
        section.card.damage id=(anchor(group)) {
            header {
                h3 { (text(group.as_str())) }
                (tag(Tone::Bad, "damaged"))
            }
            div {
                p { strong { (text(error)) } }
                p {
                    "Nobody gets a slot in this group, and nothing is overwritten. "
                    code { "rebootlockctl repair --group " (clean(group.as_str())) }
                    " shows how the document would be mended, and writes it with " code { "--yes" } "."
                }
            }
        }
    }
}

fn readable(view: &Readable, ages: Ages) -> Markup {
    let group = &view.group;
    let paused_here = view.paused.iter().find(|pause| pause.scope != "fleet");
    html! {
        section.card id=(anchor(group)) aria-label={ "Group " (clean(group.as_str())) } {
            header {
                h3 { (text(group.as_str())) }
                (condition(view))
                (pips(view))
                span.slots {
                    (view.holders.len()) " of " (count(view.max as usize, "slot")) " taken"
                }
                span.acts {
                    @if paused_here.is_some() { (act("resume", Some(group), None, "Resume…")) }
                    @else { (act("pause", Some(group), None, "Pause…")) }
                    (act("set-max", Some(group), None, "Change limit…"))
                }
            }
            @if let Some(pause) = paused_here { (paused(pause, ages)) }
            @if let Some(cooldown) = &view.cooldown {
                p.note.warn {
                    "Cools down after the reboot of "
                    @match cooldown.hostname.as_deref().or(cooldown.machine_id.as_deref()) {
                        Some(name) => (text(name)),
                        None => "a machine; the document cannot be read, and counts all the same",
                    }
                    @if let Some(until) = cooldown.until { ", ends " (ages.inline(until)) }
                }
            }
            @for held in &view.held { (self::held(held, ages)) }
            @if view.holders.is_empty() && view.queue.is_empty() {
                p.none { "Nobody holds a slot, and nobody waits for one." }
            }
            @if !view.holders.is_empty() { (holders(view, ages)) }
            @if !view.queue.is_empty() { (queue(view, ages)) }
        }
    }
}

/// How a group is, in a word.
fn condition(view: &Readable) -> Markup {
    let late = view.holders.iter().filter(|holder| holder.overdue).count();
    html! {
        @if late > 0 { (tag(Tone::Bad, &format!("{late} overdue"))) }
        @if !view.paused.is_empty() { (tag(Tone::Warn, "paused")) }
        @else if view.max == 0 { (tag(Tone::Warn, "no slots: nobody reboots")) }
        @else if view.cooldown.is_some() { (tag(Tone::Warn, "cooling down")) }
        @else if view.available > 0 { (tag(Tone::Good, &format!("{} free", view.available))) }
        @else { (tag(Tone::Plain, "full")) }
    }
}

fn pips(view: &Readable) -> Markup {
    let all = view.holders.len().max(view.max as usize);
    let late = view.holders.iter().filter(|holder| holder.overdue).count();
    html! {
        @if (1..=MOST_PIPS).contains(&all) {
            ol.pips aria-hidden="true" {
                @for n in 0..all {
                    @if n < late { li.late {} }
                    @else if n < view.holders.len() { li.taken {} }
                    @else { li {} }
                }
            }
        }
    }
}

fn paused(pause: &PauseView, ages: Ages) -> Markup {
    html! {
        p.note.warn {
            @match &pause.by {
                Some(by) => { "Paused by " strong { (text(by)) } },
                None => "Paused; the document cannot be read, and counts all the same",
            }
            (because(pause.reason.as_deref()))
            @if let Some(since) = pause.since { ", since " (ages.inline(since)) }
            @if let Some(until) = pause.until { ", ends " (ages.inline(until)) }
        }
    }
}

fn held(held: &HeldView, ages: Ages) -> Markup {
    html! {
        p.note {
            strong { (text(held.machine_id.as_str())) } " may not reboot: held"
            @match &held.by {
                Some(by) => { " by " (text(by)) },
                None => "; the document cannot be read, and counts all the same",
            }
            (because(held.reason.as_deref()))
            @if let Some(since) = held.since { ", since " (ages.inline(since)) }
            @if let Some(until) = held.until { ", ends " (ages.inline(until)) }
            " " (act("unhold", None, Some(&held.machine_id), "Let go…"))
        }
    }
}

/// `: kernel trouble`, or nothing.
pub(super) fn because(reason: Option<&str>) -> Markup {
    html! { @if let Some(reason) = reason { ": " (text(reason)) } }
}

fn holders(view: &Readable, ages: Ages) -> Markup {
    // Those that need somebody come first, then who has been away for longest.
    let mut holders: Vec<&HolderView> = view.holders.iter().collect();
    holders.sort_by_key(|holder| (!needs_somebody(holder), holder.since));
    let shown = holders.len().min(MOST_HOLDERS);
    let command = format!("rebootlockctl status --group {}", clean(view.group.as_str()));
    html! {
        table.holders role="table" {
            caption.unseen { "Who holds a slot of group " (clean(view.group.as_str())) }
            thead role="rowgroup" { tr role="row" {
                (head("Holder")) (head("Since")) (head("State")) (head("Why")) (head("Via"))
                th.act role="columnheader" scope="col" { span.unseen { "Act" } }
            } }
            tbody role="rowgroup" { @for holder in &holders[..shown] { (row(&view.group, holder, ages)) } }
        }
        (more(holders.len(), shown, &command))
    }
}

fn needs_somebody(holder: &HolderView) -> bool {
    holder.overdue || holder.damage.is_some() || holder.state == Some(HolderState::Failed)
}

/// A heading of a column.
pub(super) fn head(text: &str) -> Markup {
    html! { th role="columnheader" scope="col" { (text) } }
}

/// A field, which knows its heading where there is no room for columns.
pub(super) fn field(label: &str, content: &Markup) -> Markup {
    html! { td role="cell" data-label=(label) { (content) } }
}

fn row(group: &Group, holder: &HolderView, ages: Ages) -> Markup {
    let id = holder.machine_id.as_str();
    let late = needs_somebody(holder).then_some("late");
    html! {
        tr role="row" class=[late] data-key={ "h:" (group) ":" (id) } {
            th role="rowheader" scope="row" { (machine(holder.hostname.as_deref(), id)) }
            (field("Since", &ages.time_if_known(holder.since)))
            (field("State", &state(holder, ages)))
            (field("Why", &text_if_any(holder.reason.as_deref())))
            (field("Via", &text_if_any(holder.via.as_ref().map(ToString::to_string).as_deref())))
            td.acts role="cell" { (act("unlock", Some(group), Some(&holder.machine_id), "Unlock…")) }
        }
    }
}

fn state(holder: &HolderView, ages: Ages) -> Markup {
    let tone = match &holder.state {
        Some(HolderState::Failed | HolderState::Other(_)) => Tone::Bad,
        Some(HolderState::Rebooting | HolderState::Draining) => Tone::Warn,
        Some(HolderState::Verifying) => Tone::Good,
        Some(HolderState::Holding) | None => Tone::Plain,
    };
    html! {
        @if let Some(damage) = &holder.damage {
            (tag(Tone::Bad, "damaged record")) " "
            p.soft { (text(damage)) ". The slot counts. See " code { "rebootlockctl doctor" } "." }
        }
        @if let Some(state) = &holder.state { (tag(tone, &state.to_string())) }
        @if holder.overdue {
            " " (tag(Tone::Bad, "overdue"))
            @if let Some(expected) = holder.expected_back {
                p.soft { "due " (ages.brief(expected)) }
            }
        }
        @if holder.state.is_none() && holder.damage.is_none() {
            span.soft { "no record: taken by a program that writes none" }
        }
    }
}

fn queue(view: &Readable, ages: Ages) -> Markup {
    let shown = view.queue.len().min(MOST_WAITERS);
    let command = format!("rebootlockctl queue --group {}", clean(view.group.as_str()));
    html! {
        h4 { "Waiting: " (count(view.queue.len(), "machine")) }
        table.queue role="table" {
            caption.unseen { "Who waits for a slot of group " (clean(view.group.as_str())) }
            thead role="rowgroup" { tr role="row" {
                (head("Next")) (head("Since")) (head("Why")) (head("In the way"))
            } }
            tbody role="rowgroup" {
                @for waiter in &view.queue[..shown] { (waiting(&view.group, waiter, ages)) }
            }
        }
        (more(view.queue.len(), shown, &command))
    }
}

fn waiting(group: &Group, waiter: &WaiterView, ages: Ages) -> Markup {
    let id: &MachineId = &waiter.machine_id;
    html! {
        tr role="row" data-key={ "q:" (group) ":" (id) } {
            th role="rowheader" scope="row" {
                span.soft { (waiter.position) ". " }
                (machine(waiter.hostname.as_deref(), id.as_str()))
                @if waiter.priority > 0 { " " (tag(Tone::Plain, &format!("priority {}", waiter.priority))) }
            }
            (field("Since", &ages.time_if_known(waiter.since)))
            (field("Why", &text_if_any(waiter.reason.as_deref())))
            (field("In the way", &text(&waiter.in_the_way)))
        }
    }
}
