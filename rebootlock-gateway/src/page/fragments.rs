//! The page in parts: what stands where, and which of it changes by itself.

use maud::{Markup, html};
use rebootlock::record::UnixTime;
use rebootlock::view::{GroupView, PauseView};

use super::deeds;
use super::groups::{self, anchor, because};
use super::machines::{self, is_unwell};
use super::moment::Ages;
use super::parts::{Part, Parts, frame};
use super::words::{Tone, act, tag, text};
use crate::fleet::FleetView;

/// More groups than these are not shown.
const MOST_GROUPS: usize = 100;

/// What is to be shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    /// The fleet, if it has been seen.
    pub(super) fleet: Option<&'a FleetView>,
    /// When.
    pub(super) as_of: Option<UnixTime>,
    /// Since when the store does not answer.
    pub(super) trouble: Option<UnixTime>,
}

/// All of it, for who reads the page as it is.
pub(super) fn whole(scene: Scene<'_>, ages: Ages) -> Markup {
    let Some(fleet) = scene.fleet else { return notices(scene, ages) };
    html! {
        (notices(scene, ages))
        (figures(fleet))
        section.section aria-labelledby="groups-title" {
            header {
                h2 #groups-title { "Groups" }
                span.acts {
                    @if fleet.paused.is_none() { (act("pause", None, None, "Pause the fleet…")) }
                }
            }
            (frame(shown(fleet).map(|view| groups::group(view, ages))))
        }
        (machines::machines(&fleet.machines, &fleet.requests, &fleet.held, ages))
        (machines::history(&fleet.history, ages))
        (deeds::deeds(&fleet.acts, ages))
    }
}

/// The same in parts.
pub(super) fn parts(scene: Scene<'_>) -> Parts {
    let ages = Ages::Blank;
    let part = |id: &str, markup: Markup| Part::new(id, markup.into_string());
    let notices = part("notices", notices(scene, ages));
    let Some(fleet) = scene.fleet else { return Parts::new(Vec::new(), vec![notices]) };
    let groups = shown(fleet).map(|view| part(&anchor(view.group()), groups::group(view, ages)));
    let others = vec![
        notices,
        part("figures", figures(fleet)),
        part("machines", machines::machines(&fleet.machines, &fleet.requests, &fleet.held, ages)),
        part("history", machines::history(&fleet.history, ages)),
        part("deeds", deeds::deeds(&fleet.acts, ages)),
    ];
    Parts::new(groups.collect(), others)
}

fn shown(fleet: &FleetView) -> impl Iterator<Item = &GroupView> {
    fleet.groups.iter().take(MOST_GROUPS)
}

/// What everybody has to know first.
fn notices(scene: Scene<'_>, ages: Ages) -> Markup {
    html! {
        div #notices .notices {
            @if let Some(since) = scene.trouble { (trouble(scene.as_of, since, ages)) }
            @if let Some(fleet) = scene.fleet {
                @if let Some(pause) = &fleet.paused { (paused(pause, ages)) }
                @for view in &fleet.groups {
                    @if let GroupView::Damaged { group, .. } = view {
                        div.notice.bad role="group" {
                            strong { "A document is damaged." }
                            p {
                                "The semaphore of group "
                                a href={ "#" (anchor(group)) } { (text(group.as_str())) }
                                " has to be mended by somebody: " code { "rebootlockctl repair" }
                            }
                        }
                    }
                }
                @if fleet.groups.len() > MOST_GROUPS {
                    div.notice {
                        p {
                            "There are " (fleet.groups.len()) " groups; the first " (MOST_GROUPS)
                            " are shown. " code { "rebootlockctl groups" } " lists them all."
                        }
                    }
                }
            }
        }
    }
}

fn trouble(as_of: Option<UnixTime>, since: UnixTime, ages: Ages) -> Markup {
    html! {
        div.notice.bad role="group" {
            strong { "The store does not answer" }
            p {
                "since " (ages.inline(since)) ". Nobody gets a slot until it does. "
                @match as_of {
                    Some(as_of) => { "What is shown was so " (ages.inline(as_of)) "." },
                    None => "Nothing has been seen yet.",
                }
            }
        }
    }
}

fn paused(pause: &PauseView, ages: Ages) -> Markup {
    html! {
        div.notice role="group" {
            strong { "The fleet is paused" }
            p {
                @match &pause.by {
                    Some(by) => { "by " (text(by)) },
                    None => "by whom cannot be read; the pause counts all the same",
                }
                (because(pause.reason.as_deref()))
                @if let Some(since) = pause.since { ", since " (ages.inline(since)) }
                @if let Some(until) = pause.until { ", ends " (ages.inline(until)) }
            }
            (act("resume", None, None, "Resume…"))
        }
    }
}

/// The fleet in a few numbers.
fn figures(fleet: &FleetView) -> Markup {
    let groups: Vec<_> = fleet.groups.iter().filter_map(GroupView::readable).collect();
    let holders = groups.iter().flat_map(|group| &group.holders);
    let (taken, late) = (holders.clone().count(), holders.filter(|holder| holder.overdue).count());
    let slots: u64 = groups.iter().map(|group| u64::from(group.max)).sum();
    let waiting: usize = groups.iter().map(|group| group.queue.len()).sum();
    let unwell = fleet.machines.iter().filter(|machine| is_unwell(machine)).count();
    let figure = |label: &str, bad: bool, number: usize, more: Markup| {
        html! {
            div.bad[bad] {
                dt { (label) }
                dd { (number) " " (more) }
            }
        }
    };
    html! {
        dl #figures .figures {
            (figure("Slots taken", false, taken, html! { small { "of " (slots) } }))
            (figure("Waiting", false, waiting, html! {}))
            (figure("Overdue", late > 0, late, html! {}))
            (figure("Machines", false, fleet.machines.len(), html! {
                @if unwell > 0 { (tag(Tone::Bad, &format!("{unwell} unwell"))) }
            }))
        }
    }
}
