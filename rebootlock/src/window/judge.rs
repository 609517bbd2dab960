//! All windows of a machine together.

use std::time::Duration;

use jiff::Timestamp;

use super::{Action, Span, Verdict, Window, clock};
use crate::id::MachineId;

/// Spans that touch are followed for so many steps, and at least for so long. Longer is for ever, as
/// far as anybody asks: nobody can want more to be left than 30 days, after a splay of at most 7.
const MOST_STEPS: usize = 400;
const FOR_EVER: Duration = Duration::from_secs(40 * 86_400);

/// They are looked for this far at a time: a window may open every minute.
const STRIDE: Duration = Duration::from_secs(86_400);

/// All windows of a machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Windows(pub Vec<Window>);

/// A stretch of time in which reboots may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The first instant.
    pub opens: Timestamp,
    /// The first instant after it; `None` if no end is in sight.
    pub closes: Option<Timestamp>,
}

impl Windows {
    fn doing(&self, action: Action) -> impl Iterator<Item = &Window> {
        self.0.iter().filter(move |window| window.action == action)
    }

    fn has_allowing(&self) -> bool {
        self.doing(Action::Allow).next().is_some()
    }

    /// Whether it matters which machine asks.
    pub fn depend_on_machine(&self) -> bool {
        self.0.iter().any(|window| !window.splay.is_zero())
    }

    /// Whether a reboot of `machine` may begin at `now`, and what decides it.
    pub fn judge(&self, now: Timestamp, machine: &MachineId) -> Verdict<'_> {
        if let Some(window) =
            self.doing(Action::Deny).find(|window| !window.spans_at(now).is_empty())
        {
            return Verdict::Denied { window, until: self.touching(Action::Deny, now) };
        }
        if !self.has_allowing() {
            return Verdict::Open { window: None, until: self.next(Action::Deny, now) };
        }
        let open: Vec<(&Window, Span)> = self
            .doing(Action::Allow)
            .flat_map(|window| window.spans_at(now).into_iter().map(move |span| (window, span)))
            .collect();
        if open.is_empty() {
            return Verdict::Outside { opens: self.next_permitted(now) };
        }
        let until = self.permitted_until(now);
        let enough = |window: &Window, at: Timestamp| {
            until.is_none_or(|until| clock::until(at, until) >= window.min_remaining)
        };
        let starts = |(window, span): &(&'_ Window, Span)| self.starts(window, *span, machine);
        if let Some((window, _)) =
            open.iter().find(|each| starts(each) <= now && enough(each.0, now))
        {
            return Verdict::Open { window: Some(window), until };
        }
        let later = open.iter().map(|each| (starts(each), each.0));
        let later = later.filter(|(starts, window)| *starts > now && enough(window, *starts));
        if let Some((starts, window)) = later.min_by_key(|(starts, _)| *starts) {
            return Verdict::Splay { window, starts };
        }
        // Of those that are open one wants more time than is left, and the least of them matters.
        let least = open.iter().map(|(window, _)| *window).min_by_key(|w| w.min_remaining);
        match (least, until) {
            (Some(window), Some(closes)) => {
                Verdict::TooLittleLeft { window, closes, left: clock::until(now, closes) }
            }
            _ => Verdict::Outside { opens: None },
        }
    }

    /// How long after `span` of `window` opens `machine` begins: a moment of its own, the same
    /// whenever it is asked, and another one next time. Never so late that too little is left.
    pub fn delay(window: &Window, span: Span, machine: &MachineId) -> Duration {
        let room = clock::until(span.opens, span.closes).saturating_sub(window.min_remaining);
        let most = window.splay.min(room).as_secs();
        if most == 0 {
            return Duration::ZERO;
        }
        let opening = span.opens.as_second().to_be_bytes();
        let text = machine.as_str().bytes().chain(opening);
        Duration::from_secs(scatter(text) % (most + 1))
    }

    fn starts(&self, window: &Window, span: Span, machine: &MachineId) -> Timestamp {
        clock::later(span.opens, Self::delay(window, span, machine)).unwrap_or(span.closes)
    }

    /// From when on a reboot of `machine` may begin: `now` if it may already. `None` if that is
    /// years away, or never.
    pub fn next_start(&self, now: Timestamp, machine: &MachineId) -> Option<Timestamp> {
        let mut at = now;
        for _ in 0..MOST_STEPS {
            at = match self.judge(at, machine) {
                Verdict::Open { .. } => return Some(at),
                Verdict::Denied { until, .. } => until?,
                Verdict::Outside { opens } => opens?,
                Verdict::Splay { starts, .. } => {
                    self.next(Action::Allow, at).map_or(starts, |opens| opens.min(starts))
                }
                // Another window may begin before all of them end, and want less.
                Verdict::TooLittleLeft { closes, .. } => {
                    self.next(Action::Allow, at).map_or(closes, |opens| opens.min(closes))
                }
            };
        }
        None
    }

    /// The next `most` stretches of time in which reboots may begin, all windows taken together.
    /// The one that `now` is in is not among them.
    pub fn next_openings(&self, now: Timestamp, most: usize) -> Vec<Opening> {
        let mut openings = Vec::new();
        let mut at = if self.permits(now) { self.permitted_until(now) } else { Some(now) };
        while let Some(opens) = at.and_then(|at| self.next_permitted(at)) {
            if openings.len() == most {
                break;
            }
            let closes = self.permitted_until(opens);
            openings.push(Opening { opens, closes });
            at = closes;
        }
        openings
    }

    /// Whether a reboot may begin at `at`, splay and what must be left aside.
    pub fn permits(&self, at: Timestamp) -> bool {
        let open = |action| self.doing(action).any(|window| !window.spans_at(at).is_empty());
        !open(Action::Deny) && (!self.has_allowing() || open(Action::Allow))
    }

    /// From when on one may, not before `at`.
    fn next_permitted(&self, at: Timestamp) -> Option<Timestamp> {
        let mut at = at;
        for _ in 0..MOST_STEPS {
            if self.doing(Action::Deny).any(|window| !window.spans_at(at).is_empty()) {
                at = self.touching(Action::Deny, at)?;
            } else if self.permits(at) {
                return Some(at);
            } else {
                at = self.next(Action::Allow, at)?;
            }
        }
        None
    }

    /// Until when one may without a break. `None` if no end is in sight.
    fn permitted_until(&self, at: Timestamp) -> Option<Timestamp> {
        let closes = self.has_allowing().then(|| self.touching(Action::Allow, at)).flatten();
        closes.into_iter().chain(self.next(Action::Deny, at)).min()
    }

    /// When the windows that do `action` open next, after `at`.
    fn next(&self, action: Action, at: Timestamp) -> Option<Timestamp> {
        self.doing(action).filter_map(|window| window.next_opening(at)).min()
    }

    /// The end of the spans around `at`, and of those that overlap or touch them. `None` if it is
    /// not in sight.
    fn touching(&self, action: Action, at: Timestamp) -> Option<Timestamp> {
        let far = clock::later(at, FOR_EVER).unwrap_or(Timestamp::MAX);
        let (mut end, mut steps) = (at, 0);
        while steps < MOST_STEPS || end < far {
            let before = end;
            let to = clock::later(end, STRIDE).unwrap_or(Timestamp::MAX);
            let mut spans: Vec<Span> =
                self.doing(action).flat_map(|window| window.spans(end, to)).collect();
            spans.sort();
            for span in spans {
                if span.opens > end {
                    return Some(end);
                }
                if span.closes > end {
                    end = span.closes;
                    steps += 1;
                }
            }
            if end == before {
                return Some(end);
            }
        }
        None
    }
}

/// A number that looks like chance and is always the same for the same bytes, here and on every
/// other machine: FNV-1a, its bits mixed as in MurmurHash3.
fn scatter(bytes: impl Iterator<Item = u8>) -> u64 {
    let mut number = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |number, byte| {
        (number ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        number = (number ^ number >> 33).wrapping_mul(factor);
    }
    number ^ number >> 33
}
