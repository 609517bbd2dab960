//! What the windows say about an instant, for programs and for people.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Window;

/// Whether a reboot may begin, and what decides it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict<'a> {
    /// It may.
    Open {
        /// The window that allows it; `None` if none has to.
        window: Option<&'a Window>,
        /// When reboots are no longer allowed; `None` if no end is in sight.
        until: Option<Timestamp>,
    },
    /// A window denies it, whatever others say.
    Denied {
        /// Which.
        window: &'a Window,
        /// When the last of those that deny without a break closes; `None` if no end is in sight.
        until: Option<Timestamp>,
    },
    /// No window that allows is open.
    Outside {
        /// When one opens and nothing denies; `None` if that is years away, or never.
        opens: Option<Timestamp>,
    },
    /// A window is open, but not for long enough.
    TooLittleLeft {
        /// Which; its `min_remaining` says how much it wants.
        window: &'a Window,
        /// When reboots are no longer allowed.
        closes: Timestamp,
        /// How long that is from now.
        left: Duration,
    },
    /// A window is open, and this machine's moment in it is yet to come.
    Splay {
        /// Which.
        window: &'a Window,
        /// When this machine may begin.
        starts: Timestamp,
    },
}

impl<'a> Verdict<'a> {
    /// Whether a reboot may begin.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// The window that decides it.
    pub fn window(&self) -> Option<&'a Window> {
        match *self {
            Self::Open { window, .. } => window,
            Self::Outside { .. } => None,
            Self::Denied { window, .. }
            | Self::TooLittleLeft { window, .. }
            | Self::Splay { window, .. } => Some(window),
        }
    }

    /// One word for it, the same in logs, JSON and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Denied { .. } => "denied",
            Self::Outside { .. } => "outside",
            Self::TooLittleLeft { .. } => "too-little-left",
            Self::Splay { .. } => "splay",
        }
    }

    /// The same for people; times of no window in particular are shown in `zone`.
    pub fn sentence(&self, zone: &TimeZone) -> String {
        let at = |at: Timestamp| {
            let zone = self.window().map_or(zone, Window::shown_in);
            at.to_zoned(zone.clone()).strftime("%a %F %R %Z").to_string()
        };
        let until = |until: Option<Timestamp>| until.map(|end| format!(" until {}", at(end)));
        let name = |window: &Window| format!("{:?}", window.name);
        match *self {
            Self::Open { window: None, until: end } => {
                format!("no window is needed{}", until(end).unwrap_or_default())
            }
            Self::Open { window: Some(window), until: end } => format!(
                "the reboot window {} is open{}",
                name(window),
                until(end).unwrap_or_default()
            ),
            Self::Denied { window, until: end } => format!(
                "the window {} denies reboots{}",
                name(window),
                until(end).unwrap_or_else(|| ", with no end in sight".to_owned())
            ),
            Self::Outside { opens: Some(opens) } => {
                format!("the reboot window opens {}", at(opens))
            }
            Self::Outside { opens: None } => "no reboot window opens any more".to_owned(),
            Self::TooLittleLeft { window, closes, .. } => format!(
                "the reboot window {} closes {}, and {} must be left",
                name(window),
                at(closes),
                minutes(window.min_remaining)
            ),
            Self::Splay { window, starts } => format!(
                "the reboot window {} is open, and this machine's moment in it is {}",
                name(window),
                at(starts)
            ),
        }
    }
}

impl fmt::Display for Verdict<'_> {
    /// In UTC where no window says better.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence(&TimeZone::UTC))
    }
}

fn minutes(length: Duration) -> String {
    match length.as_secs() {
        secs if secs % 3600 == 0 => format!("{}h", secs / 3600),
        secs if secs % 60 == 0 => format!("{}m", secs / 60),
        secs => format!("{secs}s"),
    }
}
