//! `2026-11-27`, `2026-12-24..2027-01-02`, `2026-12-24 18:00..2026-12-27 06:00`.

use jiff::ToSpan as _;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

use super::{Action, InvalidWindow, Span, clock};

/// Stretches of days, each from its first moment up to but not including the one after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dates(Vec<(DateTime, DateTime)>);

impl Dates {
    /// Reads each of `texts`.
    ///
    /// # Errors
    /// [`InvalidWindow`] says which of them is wrong.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, InvalidWindow> {
        let stretch = |text: &T| {
            let text = text.as_ref();
            parse(text).map_err(|problem| InvalidWindow::Expression {
                what: "date",
                text: text.to_owned(),
                problem,
            })
        };
        texts.iter().map(stretch).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn spans(&self, zone: &TimeZone, action: Action) -> Vec<Span> {
        let span = |(from, to): &(DateTime, DateTime)| {
            Span::new(clock::begins(zone, *from)?, clock::ends(zone, *to, action)?)
        };
        self.0.iter().filter_map(span).collect()
    }
}

fn parse(text: &str) -> Result<(DateTime, DateTime), String> {
    let (from, to) = match text.split_once("..") {
        Some((from, to)) => (moment(from)?, moment(to)?),
        None => {
            let (date, time) = moment(text)?;
            if time.is_some() {
                return Err("a moment is no time to reboot in; give an end, after ..".to_owned());
            }
            ((date, None), (date, None))
        }
    };
    let begin = match from {
        (date, None) => date.to_datetime(Time::midnight()),
        (date, Some(Clock::At(time))) => date.to_datetime(time),
        (_, Some(Clock::Midnight)) => {
            return Err("24:00 is where a day ends; begin at 00:00 of the next".to_owned());
        }
    };
    let end = match to {
        (date, Some(Clock::At(time))) => date.to_datetime(time),
        (date, None | Some(Clock::Midnight)) => {
            let next = date.checked_add(1.day()).map_err(|_| "is too far away".to_owned())?;
            next.to_datetime(Time::midnight())
        }
    };
    if end <= begin {
        return Err("the end is not after the beginning".to_owned());
    }
    Ok((begin, end))
}

/// A time of day; `24:00` is the end of it.
#[derive(Clone, Copy)]
enum Clock {
    At(Time),
    Midnight,
}

fn moment(text: &str) -> Result<(Date, Option<Clock>), String> {
    let text = text.trim();
    let (date, time) = match text.split_once([' ', 'T']) {
        Some((date, time)) => (date, Some(time.trim())),
        None => (text, None),
    };
    let wrong = |text: &str| {
        format!("{text:?} is not a day; expected YYYY-MM-DD, with a time YYYY-MM-DD HH:MM")
    };
    let plain = date.len() == 10 && date.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let date = plain.then(|| date.parse().ok()).flatten().ok_or_else(|| wrong(text))?;
    let clock = |time: &str| {
        let (hour, minute) = time.split_once(':')?;
        if !(1..=2).contains(&hour.len()) || minute.len() != 2 {
            return None;
        }
        if !hour.bytes().chain(minute.bytes()).all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        match (hour.parse().ok()?, minute.parse().ok()?) {
            (24, 0) => Some(Clock::Midnight),
            (hour, minute) => Time::new(hour, minute, 0, 0).ok().map(Clock::At),
        }
    };
    let time = time.map(|time| clock(time).ok_or_else(|| wrong(text))).transpose()?;
    Ok((date, time))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_and_stretches_are_read() {
        for (text, from, to) in [
            ("2026-11-27", "2026-11-27T00:00", "2026-11-28T00:00"),
            ("2026-12-24..2027-01-02", "2026-12-24T00:00", "2027-01-03T00:00"),
            ("2026-12-24 18:00..2026-12-27 06:00", "2026-12-24T18:00", "2026-12-27T06:00"),
            ("2026-12-24T18:00 .. 2026-12-27", "2026-12-24T18:00", "2026-12-28T00:00"),
            ("2026-12-24..2026-12-24 6:00", "2026-12-24T00:00", "2026-12-24T06:00"),
            ("2026-12-24 18:00..2026-12-24 24:00", "2026-12-24T18:00", "2026-12-25T00:00"),
            ("2028-02-29", "2028-02-29T00:00", "2028-03-01T00:00"),
        ] {
            assert_eq!(parse(text), Ok((from.parse().unwrap(), to.parse().unwrap())), "{text}");
        }
    }

    #[test]
    fn what_is_no_stretch_of_days_is_refused_with_a_reason() {
        for (text, said) in [
            ("", "not a day"),
            ("2026-02-29", "not a day"),
            ("24.12.2026", "not a day"),
            ("2026-12-24 18:00", "give an end"),
            ("2026-12-24..", "not a day"),
            ("2027-01-02..2026-12-24", "not after"),
            ("2026-12-24 18:00..2026-12-24 18:00", "not after"),
            ("2026-12-24 24:00..2026-12-26", "begin at 00:00"),
            ("2026-12-24 18:60..2026-12-26", "not a day"),
            ("2026-12-24 18..2026-12-26", "not a day"),
            ("2026-12-24...2026-12-26", "not a day"),
            ("2026-W51-4", "not a day"),
            ("26-12-24", "not a day"),
        ] {
            let error = Dates::parse(&[text]).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}", near in "[0-9]{4}-[0-9]{2}-[0-9T: .-]{0,30}") {
            let _ = (Dates::parse(&[text]), Dates::parse(&[near]));
        }
    }
}
