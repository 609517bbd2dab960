//! A start and a length, as locksmith has them: `23:00` or `Thu 23:00`, and `1h30m`.

use std::time::Duration;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;

use super::{InvalidWindow, Span, clock, days};

/// A span that comes back every day or every week. Its last instant belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locksmith {
    day: Option<Weekday>,
    time: Time,
    length: Duration,
}

impl Locksmith {
    /// Reads start and length as locksmith writes them.
    ///
    /// # Errors
    /// [`InvalidWindow`] says which of them is wrong.
    pub fn parse(start: &str, length: &str) -> Result<Self, InvalidWindow> {
        let (day, time) = parse_start(start).ok_or(InvalidWindow::Start(start.to_owned()))?;
        let span = parse_length(length)?;
        let (period, limit, hours) =
            if day.is_some() { ("weekly", "7 days", 7 * 24) } else { ("daily", "24 hours", 24) };
        if span >= Duration::from_secs(hours * 3600) {
            let problem = format!("is too long; a {period} window must be shorter than {limit}");
            return Err(InvalidWindow::Length { length: length.to_owned(), problem });
        }
        Ok(Self { day, time, length: span })
    }

    pub(super) fn reach(&self) -> i64 {
        clock::reach(self.length)
    }

    /// The span that begins on that day.
    pub(super) fn on(&self, date: Date, zone: &TimeZone) -> Option<Span> {
        if self.day.is_some_and(|day| day != date.weekday()) {
            return None;
        }
        let opens = clock::begins(zone, date.to_datetime(self.time))?;
        // Spans end before their last instant, and this one includes it.
        let length = self.length.saturating_add(Duration::from_nanos(1));
        Span::new(opens, clock::later(opens, length)?)
    }
}

fn parse_start(text: &str) -> Option<(Option<Weekday>, Time)> {
    let mut words = text.split_whitespace();
    let (day, time) = match (words.next()?, words.next(), words.next()) {
        (time, None, _) => (None, time),
        (day, Some(time), None) => (Some(days::short(day)?), time),
        _ => return None,
    };
    let (hour, minute) = time.split_once(':')?;
    let number = |text: &str, width: std::ops::RangeInclusive<usize>| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        (digits && width.contains(&text.len())).then(|| text.parse::<i8>().ok()).flatten()
    };
    Some((day, Time::new(number(hour, 1..=2)?, number(minute, 2..=2)?, 0, 0).ok()?))
}

/// A duration as Go writes it: numbers with units, without blanks. Negative ones are refused.
pub(super) fn parse_length(text: &str) -> Result<Duration, InvalidWindow> {
    length(text).ok_or_else(|| InvalidWindow::Length {
        length: text.to_owned(),
        problem: "is not a duration; expected 1h, 90m or 1h30m".to_owned(),
    })
}

fn length(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}
