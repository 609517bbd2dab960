//! `Mon..Fri *-*-1..7 22:00` and a length: systemd's calendar expressions, see systemd.time(7).
//!
//! As there, with these differences: days of the week may go past Sunday (`Fri..Mon`), `*/2` is
//! allowed and counts from the lowest value, and fractions of seconds and `@` times are refused.

mod field;

use std::time::Duration;

use jiff::ToSpan as _;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;

use self::field::Field;
use super::days::{self, Days};
use super::{InvalidWindow, Span, clock, locksmith};

/// As many beginnings as a day has minutes.
const MOST_A_DAY: usize = 1440;

/// Longest length. What takes longer is said better with dates.
const LONGEST: Duration = Duration::from_secs(31 * 86_400);

/// When it begins, and for how long it stays open.
#[derive(Debug, Clone, PartialEq)]
pub struct Calendar {
    days: Days,
    years: Field,
    months: Field,
    days_of_month: Field,
    /// The days of the month are counted from its end.
    from_the_end: bool,
    times: Vec<Time>,
    zone: Option<TimeZone>,
    length: Duration,
}

impl Calendar {
    /// Reads a calendar expression, and a length as locksmith writes it.
    ///
    /// # Errors
    /// [`InvalidWindow`] says which of them is wrong.
    pub fn parse(text: &str, length: &str) -> Result<Self, InvalidWindow> {
        let span = locksmith::parse_length(length)?;
        let refuse = |problem: &str| {
            Err(InvalidWindow::Length { length: length.to_owned(), problem: problem.to_owned() })
        };
        if span.is_zero() {
            return refuse("is no time at all");
        }
        if span > LONGEST {
            return refuse("is too long; at most 744h, which is 31 days, are allowed");
        }
        let mut calendar = parse(text).map_err(|error| match error {
            Refused::Zone(error) => error,
            Refused::Text(problem) => {
                InvalidWindow::Expression { what: "calendar", text: text.to_owned(), problem }
            }
        })?;
        calendar.length = span;
        Ok(calendar)
    }

    /// The zone that the expression names.
    pub fn zone(&self) -> Option<&TimeZone> {
        self.zone.as_ref()
    }

    pub(super) fn reach(&self) -> i64 {
        clock::reach(self.length)
    }

    /// The spans that begin on that day.
    pub(super) fn on(&self, date: Date, zone: &TimeZone) -> Vec<Span> {
        if !self.has(date) {
            return Vec::new();
        }
        let span = |time: &Time| {
            let opens = clock::begins(zone, date.to_datetime(*time))?;
            Span::new(opens, clock::later(opens, self.length)?)
        };
        self.times.iter().filter_map(span).collect()
    }

    fn has(&self, date: Date) -> bool {
        let month = date.days_in_month().unsigned_abs().into();
        self.days.contains(date.weekday())
            && self.years.contains(date.year().unsigned_abs())
            && self.months.contains(date.month().unsigned_abs().into())
            && if self.from_the_end {
                self.days_of_month.contains_from_end(date.day().unsigned_abs().into(), month)
            } else {
                self.days_of_month.contains(date.day().unsigned_abs().into())
            }
    }

    /// Whether there is any such day, as there is no 30 February.
    fn is_ever(&self) -> bool {
        let mut day = Date::constant(1970, 1, 1);
        let end = Date::constant(2200, 1, 1);
        while day < end {
            if self.has(day) {
                return true;
            }
            day = day.saturating_add(1.day());
        }
        false
    }
}

enum Refused {
    Text(String),
    Zone(InvalidWindow),
}

impl From<String> for Refused {
    fn from(problem: String) -> Self {
        Self::Text(problem)
    }
}

impl From<&str> for Refused {
    fn from(problem: &str) -> Self {
        Self::Text(problem.to_owned())
    }
}

fn parse(text: &str) -> Result<Calendar, Refused> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let alphabetic = |word: &&str| word.starts_with(|c: char| c.is_ascii_alphabetic());
    let zone = match words.last().copied().filter(|word| words.len() > 1 && alphabetic(word)) {
        Some(name) => {
            words.pop();
            Some(clock::zone_named(name).map_err(Refused::Zone)?)
        }
        None => None,
    };
    let written = match &words[..] {
        [word] => shorthand(word),
        _ => None,
    };
    if let Some(written) = written {
        words = written.split_whitespace().collect();
    }
    let mut words = words.into_iter().peekable();
    let days = match words.next_if(alphabetic) {
        Some(list) => day_list(list)?,
        None => Days::ALL,
    };
    let date = words.next_if(|word| word.contains(['-', '~']) && !word.contains(':'));
    let time = words.next_if(|word| word.contains(':'));
    if let Some(word) = words.next() {
        return Err(format!(
            "{word:?} is neither days, a date nor a time; expected as in Mon..Fri *-*-1..7 22:00"
        )
        .into());
    }
    if days == Days::ALL && date.is_none() && time.is_none() {
        return Err("is empty; expected as in Mon..Fri *-*-1..7 22:00".into());
    }
    let (years, months, days_of_month, from_the_end) = parse_date(date.unwrap_or("*-*-*"))?;
    let calendar = Calendar {
        days,
        years,
        months,
        days_of_month,
        from_the_end,
        times: parse_time(time.unwrap_or("00:00"))?,
        zone,
        length: Duration::ZERO,
    };
    if !calendar.is_ever() {
        return Err("there is no such day from 1970 to 2199".into());
    }
    Ok(calendar)
}

fn shorthand(word: &str) -> Option<&'static str> {
    Some(match word.to_ascii_lowercase().as_str() {
        "minutely" => "*-*-* *:*",
        "hourly" => "*-*-* *:00",
        "daily" => "*-*-*",
        "weekly" => "Mon *-*-*",
        "monthly" => "*-*-01",
        "quarterly" => "*-01,04,07,10-01",
        "semiannually" | "semi-annually" | "bi-annually" => "*-01,07-01",
        "yearly" | "annually" | "anually" => "*-01-01",
        _ => return None,
    })
}

fn day_list(text: &str) -> Result<Days, String> {
    let day = |name: &str| {
        let wrong = || format!("{name:?} is not a day of the week; expected Mon or Monday");
        days::named(name).ok_or_else(wrong)
    };
    let list = text.strip_suffix(',').unwrap_or(text);
    list.split(',').try_fold(Days::NONE, |days, item| {
        Ok(match item.split_once("..").or_else(|| item.split_once('-')) {
            None => days.with(day(item)?),
            Some((from, to)) => days.with_all(day(from)?, day(to)?),
        })
    })
}

fn parse_date(text: &str) -> Result<(Field, Field, Field, bool), String> {
    let wrong = || format!("{text:?} is not a date; expected YEAR-MONTH-DAY or MONTH-DAY");
    let (rest, from_the_end, day) = match text.rsplit_once(['-', '~']) {
        Some((rest, day)) => (rest, text.as_bytes().get(rest.len()) == Some(&b'~'), day),
        None => return Err(wrong()),
    };
    let (year, month) = match rest.split_once('-') {
        None => ("*", rest),
        Some((year, month)) if !month.contains('-') => (year, month),
        Some(_) => return Err(wrong()),
    };
    if from_the_end && day == "*" {
        return Err("a day counted from the end of the month is a number: *-*~1 is the last".into());
    }
    Ok((
        Field::parse("year", &year_in_full(year), 1970, 2199)?,
        Field::parse("month", month, 1, 12)?,
        // Counted from the end it must be a day that every month has.
        Field::parse("day", day, 1, if from_the_end { 28 } else { 31 })?,
        from_the_end,
    ))
}

/// Two digits mean a year from 1970 to 2069.
fn year_in_full(text: &str) -> String {
    match text.parse::<u16>() {
        Ok(short) if text.len() == 2 => (short + if short < 70 { 2000 } else { 1900 }).to_string(),
        _ => text.to_owned(),
    }
}

fn parse_time(text: &str) -> Result<Vec<Time>, String> {
    let wrong = || format!("{text:?} is not a time; expected HOUR:MINUTE or HOUR:MINUTE:SECOND");
    let mut parts = text.split(':');
    let (Some(hour), Some(minute)) = (parts.next(), parts.next()) else { return Err(wrong()) };
    let second = parts.next().unwrap_or("00");
    if parts.next().is_some() {
        return Err(wrong());
    }
    let hours = Field::parse("hour", hour, 0, 23)?.values();
    let minutes = Field::parse("minute", minute, 0, 59)?.values();
    let seconds = Field::parse("second", second, 0, 59)?.values();
    if hours.len() * minutes.len() * seconds.len() > MOST_A_DAY {
        return Err("begins more often than every minute; a longer length says it better".into());
    }
    let mut times = Vec::new();
    for hour in &hours {
        for minute in &minutes {
            for second in &seconds {
                let number = |n: &u16| i8::try_from(*n).unwrap_or_default();
                let time = Time::new(number(hour), number(minute), number(second), 0);
                times.push(time.map_err(|_| wrong())?);
            }
        }
    }
    Ok(times)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn calendar(text: &str) -> Result<Calendar, InvalidWindow> {
        Calendar::parse(text, "1h")
    }

    #[test]
    fn what_systemd_takes_is_taken() {
        for text in [
            "22:0",
            "*-*~1 02:00",
            "*~1",
            "Mon *-05~07/1",
            "*-*-1..7 22:00",
            "Mon,Tue, 10:00",
            "Mon-Fri 10:00",
            "Mon..Fri,Sun",
            "monday",
            "*-*-* *:00/30",
            "08..17:00",
            "0/2:00",
            "1..5/2:00",
            "12-3/2",
            "26-12-24",
            "2003-03-05 05:40 UTC",
            "hourly UTC",
            "weekly Europe/Berlin",
            "22:00 Europe/Berlin",
            "5:5:5",
            "*-*-*",
            "*:*",
            "Mon *-1 10:00",
            "2026/2-01-01",
            "Thu,Fri 2012-*-1,5 11:12:13",
            "2003-02..04-05",
            "minutely",
            "quarterly",
            "semi-annually",
            "annually",
            // Ours.
            "Fri..Mon 22:00",
            "*:*/10",
        ] {
            assert!(calendar(text).is_ok(), "{text}: {}", calendar(text).unwrap_err());
        }
    }

    #[test]
    fn what_it_refuses_is_refused_with_a_reason() {
        for (text, said) in [
            ("", "is empty"),
            ("22", "neither"),
            ("*", "neither"),
            ("* 10:00", "neither"),
            ("Mon, Tue 10:00", "neither"),
            ("daily 10:00", "\"daily\" is not a day"),
            ("Mon Tue", "time zone \"Tue\""),
            ("00:00 UTC UTC", "neither"),
            ("22:00 Europe/Atlantis", "no time zone \"Europe/Atlantis\""),
            ("UTC", "\"UTC\" is not a day"),
            ("tues 10:00", "\"tues\" is not a day"),
            ("mondays", "not a day"),
            ("Mon.. 10:00", "\"\" is not a day"),
            ("24:00", "hour 24 is not from 0 to 23"),
            ("23:60", "minute 60"),
            ("*-*-0", "day 0"),
            ("*-13-1", "month 13"),
            ("1969-1-1", "year 1969"),
            ("*-*-31..1", "31..1"),
            ("23..2:00", "23..2"),
            ("1/0:00", "step"),
            ("1/99:00", "step"),
            ("1,,2:00", "\"\" is not"),
            (",1:00", "\"\" is not"),
            ("1,:00", "\"\" is not"),
            ("*,1:00", "\"*\" is not"),
            ("**:00", "\"**\" is not"),
            ("-5:00", "\"-5\" is not"),
            ("+5:00", "\"+5\" is not"),
            ("22:00:00.5", "\"00.5\" is not"),
            ("1:2:3:4", "not a time"),
            ("2026-12", "month 2026"),
            ("*-*-*~1", "not a date"),
            ("1-2-3-4", "not a date"),
            ("*-*~*", "counted from the end"),
            ("*-*~29", "day 29 is not from 1 to 28"),
            ("@1700000000", "neither"),
            ("*-02-30", "no such day"),
            ("Mon 2026-12-24", "no such day"),
            ("*:*:*", "more often than every minute"),
        ] {
            let error = calendar(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        for (length, said) in [("0", "no time"), ("745h", "at most 744h"), ("1d", "not a duration")]
        {
            let error = Calendar::parse("daily", length).unwrap_err().to_string();
            assert!(error.contains(said), "{length}: {error}");
        }
    }

    #[test]
    fn days_are_found_as_systemd_finds_them() {
        for (text, days) in [
            ("*-*~1", "2026-01-31 2026-02-28 2026-03-31"),
            ("*-02~03", "2026-02-26 2027-02-26 2028-02-27"),
            ("Mon *-05~07/1", "2026-05-25 2027-05-31 2028-05-29"),
            ("*-*~1..3", "2026-01-29 2026-01-30 2026-01-31"),
            ("*-*~5/2", "2026-01-27 2026-01-29 2026-01-31"),
            ("Mon..Fri *-*-1..7", "2026-01-01 2026-01-02 2026-01-05"),
            ("Wed *-1", "2026-04-01 2026-07-01 2027-09-01"),
            ("*-*-31", "2026-01-31 2026-03-31 2026-05-31"),
            ("*-2/5-10/10", "2026-02-10 2026-02-20 2026-07-10"),
            ("2027/2-*-1", "2027-01-01 2027-02-01 2027-03-01"),
            ("*-02-29", "2028-02-29 2032-02-29 2036-02-29"),
            ("Fri..Mon *-01-*", "2026-01-02 2026-01-03 2026-01-04"),
        ] {
            let calendar = calendar(text).unwrap();
            let begin: Date = "2026-01-01".parse().unwrap();
            let found: Vec<_> = (0..4000)
                .map(|day| begin.saturating_add(i64::from(day).days()))
                .filter(|day| calendar.has(*day))
                .take(3)
                .map(|day| day.to_string())
                .collect();
            assert_eq!(found, days.split(' ').collect::<Vec<_>>(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,24}", near in "[MonFri0-9: ,./*~-]{0,24}") {
            let _ = (calendar(&text), calendar(&near), Calendar::parse("daily", &text));
        }
    }
}
