//! What operators did.

use maud::{Markup, html};
use rebootlock::record::{Act, Deed};

use super::groups::{field, head};
use super::moment::Ages;
use super::words::{text, text_if_any};

/// Rows that are shown.
const MOST: usize = 20;

/// What operators did, newest first. Nothing, if nobody ever did anything.
pub(super) fn deeds(all: &[Act], ages: Ages) -> Markup {
    html! {
        section #deeds .section aria-labelledby="deeds-title" hidden[all.is_empty()] {
            header { h2 #deeds-title { "Operators" } }
            div.card {
                table.deeds role="table" {
                    caption.unseen { "What operators did, newest first" }
                    thead role="rowgroup" { tr role="row" {
                        (head("What")) (head("When")) (head("Who")) (head("Why"))
                    } }
                    tbody role="rowgroup" {
                        @for act in all.iter().rev().take(MOST) { (row(act, ages)) }
                    }
                }
            }
        }
    }
}

fn row(act: &Act, ages: Ages) -> Markup {
    html! {
        tr role="row" data-key={ "a:" (act.at.0) ":" (act.by) ":" (act.deed) } {
            th role="rowheader" scope="row" { (what(act)) }
            (field("When", &ages.time(act.at)))
            (field("Who", &text(&act.by)))
            (field("Why", &text_if_any(act.reason.as_deref())))
        }
    }
}

fn what(act: &Act) -> Markup {
    let (before, after) = match &act.deed {
        Deed::Pause => ("paused", String::new()),
        Deed::Resume => ("resumed", String::new()),
        Deed::Lock => ("took a slot for", String::new()),
        Deed::Unlock => ("freed the slot of", String::new()),
        Deed::SetMax => {
            ("changed the limit of", act.max.map(|max| format!("to {max}")).unwrap_or_default())
        }
        Deed::Request => ("asked for a reboot of", String::new()),
        Deed::Cancel => ("took back the request to reboot", String::new()),
        Deed::Hold => ("holds", String::new()),
        Deed::Unhold => ("no longer holds", String::new()),
        Deed::Forget => ("forgot", String::new()),
        Deed::Other(other) => (other.as_str(), String::new()),
    };
    let groups = act.groups.join(", ");
    html! {
        (text(before)) " "
        @match (&act.machine_id, groups.as_str()) {
            (Some(id), "") => span.name { (text(id)) },
            (Some(id), groups) => { span.name { (text(id)) } " in " (text(groups)) },
            (None, "") => span.name { "the fleet" },
            (None, groups) => { "group " span.name { (text(groups)) } },
        }
        @if !after.is_empty() { " " (after) }
    }
}
