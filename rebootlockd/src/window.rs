//! Reboot windows as locksmith has them: `23:00` or `Thu 23:00`, and a length like `1h30m`. Pure.
//!
//! Wall-clock times of the local zone. A start that the clocks jump over begins when they have
//! jumped; one that they run through twice begins the first time. The length is time that really
//! passes, and the window's last instant belongs to it.

use std::time::Duration;

use jiff::civil::{Time, Weekday};
use jiff::{SignedDuration, ToSpan as _, Zoned};

/// What is wrong with a window as written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWindow {
    /// Not a time of day.
    #[error("window start {0:?} is not a time; expected 23:00 or Thu 23:00")]
    Start(String),
    /// Not a duration.
    #[error("window length {0:?} is not a duration; expected 1h, 90m or 1h30m")]
    Length(String),
    /// As long as its period, or longer.
    #[error("window length {length:?} is too long; a {period} window must be shorter than {limit}")]
    TooLong {
        /// As written.
        length: String,
        /// daily or weekly.
        period: &'static str,
        /// Its period.
        limit: &'static str,
    },
    /// One half of it is missing.
    #[error("REBOOT_WINDOW_START and REBOOT_WINDOW_LENGTH go together; only {0} is set")]
    Half(&'static str),
}

/// A time span that comes back every day or every week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    day: Option<Weekday>,
    time: Time,
    length: Duration,
}

impl Window {
    /// Reads start and length as locksmith writes them.
    ///
    /// # Errors
    /// [`InvalidWindow`] says which of them is wrong.
    pub fn parse(start: &str, length: &str) -> Result<Self, InvalidWindow> {
        let (day, time) = parse_start(start).ok_or(InvalidWindow::Start(start.to_owned()))?;
        let span = parse_length(length).ok_or(InvalidWindow::Length(length.to_owned()))?;
        let (period, limit, hours) =
            if day.is_some() { ("weekly", "7 days", 7 * 24) } else { ("daily", "24 hours", 24) };
        if span >= Duration::from_secs(hours * 3600) {
            return Err(InvalidWindow::TooLong { length: length.to_owned(), period, limit });
        }
        Ok(Self { day, time, length: span })
    }

    /// Whether `now` is inside.
    pub fn is_open(&self, now: &Zoned) -> bool {
        (-8..=1).filter_map(|days| self.start_near(now, days)).any(|start| {
            let since = now.duration_since(&start);
            !since.is_negative() && since.unsigned_abs() <= self.length
        })
    }

    /// When it opens next, after `now`.
    pub fn next_start(&self, now: &Zoned) -> Option<Zoned> {
        (-1..=8).filter_map(|days| self.start_near(now, days)).find(|start| start > now)
    }

    /// The start on the day that many days from `now`'s, if there is one.
    fn start_near(&self, now: &Zoned, days: i32) -> Option<Zoned> {
        let date = now.date().checked_add(days.days()).ok()?;
        if self.day.is_some_and(|day| day != date.weekday()) {
            return None;
        }
        date.to_datetime(self.time).to_zoned(now.time_zone().clone()).ok()
    }
}

/// All windows together: open if any of them is, or if there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Windows(pub Vec<Window>);

impl Windows {
    /// Whether a reboot may begin at `now`.
    pub fn is_open(&self, now: &Zoned) -> bool {
        self.0.is_empty() || self.0.iter().any(|window| window.is_open(now))
    }

    /// How long from `now` until one opens. Zero if one is open.
    pub fn opens_in(&self, now: &Zoned) -> Duration {
        if self.is_open(now) {
            return Duration::ZERO;
        }
        let next = self.next_start(now).map(|start| now.duration_until(&start));
        next.unwrap_or(SignedDuration::from_hours(1)).unsigned_abs()
    }

    /// When the next one opens.
    pub fn next_start(&self, now: &Zoned) -> Option<Zoned> {
        self.0.iter().filter_map(|window| window.next_start(now)).min()
    }
}

fn parse_start(text: &str) -> Option<(Option<Weekday>, Time)> {
    let mut words = text.split_whitespace();
    let (day, time) = match (words.next()?, words.next(), words.next()) {
        (time, None, _) => (None, time),
        (day, Some(time), None) => (Some(parse_day(day)?), time),
        _ => return None,
    };
    let (hour, minute) = time.split_once(':')?;
    let number = |text: &str, width: std::ops::RangeInclusive<usize>| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        (digits && width.contains(&text.len())).then(|| text.parse::<i8>().ok()).flatten()
    };
    Some((day, Time::new(number(hour, 1..=2)?, number(minute, 2..=2)?, 0, 0).ok()?))
}

fn parse_day(text: &str) -> Option<Weekday> {
    Some(match text.to_ascii_lowercase().as_str() {
        "mon" => Weekday::Monday,
        "tue" => Weekday::Tuesday,
        "wed" => Weekday::Wednesday,
        "thu" => Weekday::Thursday,
        "fri" => Weekday::Friday,
        "sat" => Weekday::Saturday,
        "sun" => Weekday::Sunday,
        _ => return None,
    })
}

/// A duration as Go writes it: numbers with units, without blanks. Negative ones are refused.
fn parse_length(text: &str) -> Option<Duration> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Zoned {
        text.parse().unwrap()
    }

    #[test]
    fn starts_and_lengths_are_read_as_locksmith_reads_them() {
        for (start, length) in [
            ("14:00", "1h"),
            ("Thu 23:00", "1h30m"),
            ("sun 4:05", "90m"),
            ("00:00", "0"),
            ("SAT 0:00", "167h59m59s"),
        ] {
            assert!(Window::parse(start, length).is_ok(), "{start} {length}");
        }
        for start in [
            "",
            "24:00",
            "1400",
            "Thursday 23:00",
            "Thu",
            "12:60",
            "12:5",
            "Thu 23:00 x",
            "-1:00",
            "+1:00",
        ] {
            assert!(matches!(Window::parse(start, "1h"), Err(InvalidWindow::Start(_))), "{start}");
        }
        for length in ["", "1", "h", "-1h", "1 h", "1d", "1h30"] {
            assert!(
                matches!(Window::parse("1:00", length), Err(InvalidWindow::Length(_))),
                "{length}"
            );
        }
        assert!(matches!(Window::parse("1:00", "24h"), Err(InvalidWindow::TooLong { .. })));
        assert!(matches!(Window::parse("Mon 1:00", "168h"), Err(InvalidWindow::TooLong { .. })));
    }

    #[test]
    fn a_window_is_open_from_its_start_to_its_last_instant() {
        let window = Window::parse("Thu 23:00", "1h30m").unwrap();
        for (now, open) in [
            ("2026-11-19T22:59:59[UTC]", false),
            ("2026-11-19T23:00:00[UTC]", true),
            ("2026-11-20T00:30:00[UTC]", true),
            ("2026-11-20T00:30:01[UTC]", false),
            ("2026-11-18T23:10:00[UTC]", false),
        ] {
            assert_eq!(window.is_open(&at(now)), open, "{now}");
        }
        assert_eq!(
            window.next_start(&at("2026-11-19T23:00:00[UTC]")).unwrap(),
            at("2026-11-26T23:00:00[UTC]")
        );
    }

    #[test]
    fn the_days_the_clocks_change_are_handled() {
        let window = Window::parse("02:30", "1h").unwrap();
        // 02:30 does not exist on this day: it begins when the clocks have jumped.
        assert!(!window.is_open(&at("2026-03-29T01:59:00+01:00[Europe/Berlin]")));
        assert!(window.is_open(&at("2026-03-29T03:30:00+02:00[Europe/Berlin]")));
        // 02:30 exists twice: it begins the first time, and lasts one real hour.
        assert!(window.is_open(&at("2026-10-25T02:30:00+02:00[Europe/Berlin]")));
        assert!(window.is_open(&at("2026-10-25T02:29:00+01:00[Europe/Berlin]")));
        assert!(!window.is_open(&at("2026-10-25T02:31:00+01:00[Europe/Berlin]")));
    }

    #[test]
    fn without_windows_it_is_always_open() {
        assert!(Windows::default().is_open(&at("2026-11-19T22:59:59[UTC]")));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(start in ".{0,12}", length in ".{0,12}") {
            let _ = Window::parse(&start, &length);
        }

        #[test]
        fn it_is_open_at_its_next_start_and_closed_just_before(
            minute in 0..(24 * 60_i32), length in 1..600_u32, second in 0..(365 * 86400_i64)
        ) {
            let window = Window::parse(
                &format!("{}:{:02}", minute / 60, minute % 60), &format!("{length}m")
            ).unwrap();
            let now = jiff::Timestamp::from_second(1_767_225_600 + second).unwrap();
            let now = now.to_zoned(jiff::tz::TimeZone::get("America/New_York").unwrap());
            let next = window.next_start(&now).unwrap();
            prop_assert!(window.is_open(&next));
            prop_assert!(next > now);
            if !window.is_open(&now) {
                let before = next.checked_sub(jiff::Span::new().nanoseconds(1)).unwrap();
                prop_assert!(!window.is_open(&before));
            }
        }
    }
}
