//! Times on the page: in full, in UTC, and how long ago that was.

use maud::{Markup, html};
use rebootlock::record::UnixTime;

/// How times are written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ages {
    /// Counted from this moment, for whoever reads the page as it is.
    Counted(UnixTime),
    /// Left blank: the script of the page fills them in, and a part of it changes only when something
    /// else in it does.
    Blank,
}

impl Ages {
    /// A moment, with its age above it.
    pub(super) fn time(self, moment: UnixTime) -> Markup {
        let text = moment.to_text();
        let age = match self {
            Self::Counted(now) => age(moment, now),
            Self::Blank => String::new(),
        };
        // Nothing that a calendar has: a clock that is far off.
        let Some(date) = text.strip_suffix('Z') else {
            return html! { span.abs { (text) } };
        };
        html! {
            time datetime=(text) {
                span.ago { (age) } " " span.abs { (date.replacen('T', " ", 1)) " UTC" }
            }
        }
    }

    /// Its age alone; in full where somebody points at it.
    pub(super) fn brief(self, moment: UnixTime) -> Markup {
        let text = moment.to_text();
        let age = match self {
            Self::Counted(now) => age(moment, now),
            Self::Blank => String::new(),
        };
        if !text.ends_with('Z') {
            return html! { (text) };
        }
        html! { span.inline { time datetime=(text) title=(text) { span.ago { (age) } } } }
    }

    /// The same, if it is known.
    pub(super) fn time_if_known(self, moment: Option<UnixTime>) -> Markup {
        moment.map(|moment| self.time(moment)).unwrap_or_default()
    }

    /// The same, as a part of a sentence.
    pub(super) fn inline(self, moment: UnixTime) -> Markup {
        html! { span.inline { (self.time(moment)) } }
    }
}

/// `4 min ago`, `in 2 h 5 min`.
fn age(moment: UnixTime, now: UnixTime) -> String {
    match (now.seconds_since(moment), moment.seconds_since(now)) {
        (0, 0) => "just now".to_owned(),
        (past, 0) => format!("{} ago", span(past)),
        (_, future) => format!("in {}", span(future)),
    }
}

/// Seconds as people say them, no finer than they need: `42 s`, `5 min`, `2 h 5 min`, `3 d 4 h`. The
/// script of the page does the same.
pub(super) fn span(secs: u64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("min", 60)];
    let Some(first) = units.iter().position(|(_, size)| secs >= *size) else {
        return format!("{secs} s");
    };
    let (unit, size) = units[first];
    let text = format!("{} {unit}", secs / size);
    match units.get(first + 1) {
        Some((unit, smaller)) if secs % size >= *smaller => {
            format!("{text} {} {unit}", secs % size / smaller)
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_no_finer_than_people_need() {
        for (secs, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (7530, "2 h 5 min"),
            (86_400 + 59, "1 d"),
            (3 * 86_400 + 4 * 3600 + 59, "3 d 4 h"),
        ] {
            assert_eq!(span(secs), text);
        }
    }

    #[test]
    fn a_time_says_when_and_how_long_ago() {
        let (then, now) = (UnixTime(1_795_269_600), UnixTime(1_795_269_852));
        let written = Ages::Counted(now).time(then).into_string();
        let date = "<span class=\"abs\">2026-11-21 14:00:00 UTC</span></time>";
        let age = "<time datetime=\"2026-11-21T14:00:00Z\"><span class=\"ago\">4 min ago</span> ";
        assert_eq!(written, format!("{age}{date}"));
        assert!(Ages::Counted(then).time(now).into_string().contains(">in 4 min<"));
        assert!(Ages::Blank.time(then).into_string().contains("<span class=\"ago\"></span>"));
    }

    #[test]
    fn a_clock_that_is_far_off_is_shown_as_it_is() {
        let written = Ages::Blank.time(UnixTime(i64::MAX)).into_string();
        assert_eq!(written, "<span class=\"abs\">9223372036854775807 s since 1970</span>");
    }
}
