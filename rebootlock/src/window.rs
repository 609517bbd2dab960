//! Reboot windows: when a reboot may begin, and when it must not. Pure: time is an argument.
//!
//! A [`Window`] allows or denies, and says when in one of five ways ([`Rule`]). [`Windows`] judges
//! an instant by all of them together:
//!
//! - Deny beats allow.
//! - Without any window that allows, everything is allowed that is not denied.
//! - What is left until reboots are no longer allowed must last for `min_remaining`. Windows that
//!   overlap or touch count as one, and a window that denies ends it.
//! - With a `splay` this machine begins a while after the window opens: see [`Windows::delay`].
//!
//! A window is open from its first instant up to but not including its last. One exception: a
//! window of `start` and `length` includes its last instant, as locksmith's does.
//!
//! Wall clocks jump. The rules, for the zone of the window:
//!
//! - A start that the clocks jump over is the instant at which they jump. One that they show twice
//!   is the first time.
//! - `length` is time that really passes.
//! - An end on the wall clock that the clocks jump over is the instant at which they jump. One that
//!   they show twice is the first time if the window allows and the second if it denies, so that
//!   doubt never lets a reboot through.
//!
//! So `Sun 02:00-03:00` in Europe/Berlin is no time at all on the day the clocks go forward, and
//! two hours long on the day they go back.

mod calendar;
mod clock;
mod dates;
mod days;
mod holidays;
mod judge;
mod locksmith;
mod range;
mod verdict;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use self::calendar::Calendar;
pub use self::clock::zone_named;
pub use self::dates::Dates;
pub use self::holidays::Holidays;
pub use self::judge::{Opening, Windows};
pub use self::locksmith::Locksmith;
pub use self::range::WeekRange;
pub use self::verdict::Verdict;

/// What is wrong with a window as written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWindow {
    /// Not a time of day.
    #[error("window start {0:?} is not a time; expected 23:00 or Thu 23:00")]
    Start(String),
    /// Not a duration, or not one that is allowed.
    #[error("window length {length:?} {problem}")]
    Length {
        /// As written.
        length: String,
        /// What is wrong with it, and what is allowed.
        problem: String,
    },
    /// The expression that says when.
    #[error("{what} {text:?}: {problem}")]
    Expression {
        /// Of which kind.
        what: &'static str,
        /// As written.
        text: String,
        /// What is wrong with it, and what is allowed.
        problem: String,
    },
    /// A line of an iCalendar file.
    #[error("line {line}: {problem}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// Not a zone of this machine's database.
    #[error(
        "there is no time zone {0:?} in this machine's database; expected a name like Europe/Berlin (package tzdata)"
    )]
    Zone(String),
    /// One half of it is missing.
    #[error("REBOOT_WINDOW_START and REBOOT_WINDOW_LENGTH go together; only {0} is set")]
    Half(&'static str),
}

/// What a window does while it is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Reboots may begin.
    #[default]
    Allow,
    /// Reboots must not begin, whatever else allows them.
    Deny,
}

impl Action {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// When a window is open.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// A start and a length, every day or every week.
    Locksmith(Locksmith),
    /// `Fri 18:00-Mon 08:00`
    Range(WeekRange),
    /// A systemd calendar expression and a length.
    Calendar(Calendar),
    /// Single days and ranges of days.
    Dates(Dates),
    /// The events of an iCalendar file.
    Holidays(Holidays),
}

/// A time during which reboots may begin, or must not.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Known by this name.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Whose wall clock its rule speaks of.
    pub zone: TimeZone,
    /// When it is open.
    pub rule: Rule,
    /// So much must be left until reboots are no longer allowed.
    pub min_remaining: Duration,
    /// Machines begin within so long of its opening, each at a moment of its own.
    pub splay: Duration,
}

/// A stretch of time: from `opens` up to but not including `closes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first instant.
    pub opens: Timestamp,
    /// The first instant after it.
    pub closes: Timestamp,
}

impl Span {
    fn new(opens: Timestamp, closes: Timestamp) -> Option<Self> {
        (opens < closes).then_some(Self { opens, closes })
    }

    /// Whether `at` is inside.
    pub fn contains(&self, at: Timestamp) -> bool {
        self.opens <= at && at < self.closes
    }
}

/// How far ahead an opening is looked for, in days: some eleven years, past every leap day. Most
/// openings are near, so it is done in strides.
const STRIDES: [i64; 4] = [9, 70, 500, 4200];

impl Window {
    /// A window that allows, without a name of its own.
    pub fn new(name: impl Into<String>, zone: TimeZone, rule: Rule) -> Self {
        Self {
            name: name.into(),
            action: Action::Allow,
            zone,
            rule,
            min_remaining: Duration::ZERO,
            splay: Duration::ZERO,
        }
    }

    /// Its spans that end after `from` and begin before `to`, by their beginning. They may overlap.
    pub fn spans(&self, from: Timestamp, to: Timestamp) -> Vec<Span> {
        let mut spans = match &self.rule {
            Rule::Locksmith(rule) => clock::daily(from, to, &self.zone, rule.reach(), |date| {
                rule.on(date, &self.zone).into_iter().collect()
            }),
            Rule::Range(rule) => clock::daily(from, to, &self.zone, rule.reach(), |date| {
                rule.on(date, &self.zone, self.action).into_iter().collect()
            }),
            Rule::Calendar(rule) => {
                let zone = rule.zone().unwrap_or(&self.zone);
                clock::daily(from, to, zone, rule.reach(), |date| rule.on(date, zone))
            }
            Rule::Dates(rule) => rule.spans(&self.zone, self.action),
            Rule::Holidays(rule) => rule.spans(from, to, &self.zone, self.action),
        };
        spans.retain(|span| span.closes > from && span.opens < to);
        spans.sort();
        spans.dedup();
        spans
    }

    /// The spans that `at` is in.
    pub fn spans_at(&self, at: Timestamp) -> Vec<Span> {
        let next = at.checked_add(jiff::SignedDuration::from_nanos(1)).unwrap_or(at);
        self.spans(at, next)
    }

    /// When it opens next, after `at`. `None` if it does not within eleven years.
    pub fn next_opening(&self, at: Timestamp) -> Option<Timestamp> {
        let mut from = at;
        for days in STRIDES {
            let to = clock::later(at, Duration::from_secs(days.unsigned_abs() * 86_400))
                .unwrap_or(Timestamp::MAX);
            let found = self.spans(from, to).into_iter().map(|span| span.opens).find(|o| *o > at);
            if found.is_some() {
                return found;
            }
            from = to;
        }
        None
    }

    /// Whose wall clock is shown with its times.
    pub fn shown_in(&self) -> &TimeZone {
        match &self.rule {
            Rule::Calendar(rule) => rule.zone().unwrap_or(&self.zone),
            _ => &self.zone,
        }
    }
}
