//! What all parts of the page have in common: text of others, names, states, links to what can be done.

use form_urlencoded::Serializer;
use maud::{Markup, html};
use rebootlock::id::{Group, MachineId};

/// Longer texts are cut: the page is for an overview, and anybody may have written them.
const MOST_CHARS: usize = 300;

/// Text that others wrote. It cannot leave its place: not by markup, which is escaped anyhow, nor by
/// control characters, nor by turning the direction of what follows it.
pub(super) fn text(text: &str) -> Markup {
    html! { bdi { (clean(text)) } }
}

/// The same, for where markup is not understood.
pub(super) fn clean(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut kept: String = chars.by_ref().take(MOST_CHARS).collect();
    if chars.next().is_some() {
        kept.push('…');
    }
    kept
}

/// The same, of what may not be there.
pub(super) fn text_if_any(written: Option<&str>) -> Markup {
    written.map(text).unwrap_or_default()
}

/// What people call a machine, and its id below.
pub(super) fn machine(hostname: Option<&str>, id: &str) -> Markup {
    let name = hostname.filter(|name| !name.is_empty() && *name != id);
    html! {
        span.name { (text(name.unwrap_or(id))) }
        @if name.is_some() { span.id { (text(id)) } }
    }
}

/// How a tag looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Nothing to be said about it.
    Plain,
    /// Worth a look.
    Warn,
    /// Needs somebody.
    Bad,
}

/// One word, or a few.
pub(super) fn tag(tone: Tone, word: &str) -> Markup {
    let class = match tone {
        Tone::Good => "tag good",
        Tone::Plain => "tag",
        Tone::Warn => "tag warn",
        Tone::Bad => "tag bad",
    };
    html! { span class=(class) { (clean(word)) } }
}

/// A link to the form for something that can be done. Only operators see it.
pub(super) fn act(
    what: &str,
    group: Option<&Group>,
    id: Option<&MachineId>,
    label: &str,
) -> Markup {
    let mut query = Serializer::new(String::new());
    query.append_pair("do", what);
    if let Some(group) = group {
        query.append_pair("group", group.as_str());
    }
    if let Some(id) = id {
        query.append_pair("id", id.as_str());
    }
    let of = match (id, group) {
        (Some(id), _) => clean(id.as_str()),
        (None, Some(group)) => format!("group {}", clean(group.as_str())),
        (None, None) => "the fleet".to_owned(),
    };
    html! {
        a.act href={ "operate?" (query.finish()) } { (label) span.unseen { ": " (of) } }
    }
}

/// `1 machine`, `2 machines`.
pub(super) fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// That there is more than is shown, and where.
pub(super) fn more(all: usize, shown: usize, command: &str) -> Markup {
    html! {
        @if all > shown {
            p.more { "and " (all - shown) " more: " code { (command) } }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_stays_in_its_place() {
        let written = text("<b>\"&\u{1b}[2J\n\u{202e}x").into_string();
        assert_eq!(written, "<bdi>&lt;b&gt;&quot;&amp;\u{fffd}[2J\u{fffd}\u{202e}x</bdi>");
        assert_eq!(clean(&"x".repeat(301)), "x".repeat(300) + "…");
    }

    #[test]
    fn links_name_any_group_and_machine() {
        let (group, id) = (Group::new("a&b=/ä").unwrap(), MachineId::new("..?#\"'").unwrap());
        let link = act("unlock", Some(&group), Some(&id), "Unlock…").into_string();
        let href = "operate?do=unlock&amp;group=a%26b%3D%2F%C3%A4&amp;id=..%3F%23%22%27";
        assert!(link.starts_with(&format!("<a class=\"act\" href=\"{href}\">")), "{link}");
    }
}
