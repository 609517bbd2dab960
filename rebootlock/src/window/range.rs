//! `Fri 18:00-Mon 08:00`: from one time of the wall clock to another, every week.
//!
//! The expressions that clusterrebootd takes mean the same here. Ours may end at 24:00 too.

use jiff::Span as Lapse;
use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;

use super::days::{self, Days};
use super::{Action, InvalidWindow, Span, clock};

/// On which days of the week it begins, and how it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeekRange {
    days: Days,
    start: Time,
    end: Time,
    /// How many days after it began it ends.
    days_later: i64,
}

/// A time of day; the hour may be 24 where a day may end.
struct Clock {
    hour: i8,
    minute: i8,
}

impl Clock {
    fn minutes(&self) -> i64 {
        i64::from(self.hour) * 60 + i64::from(self.minute)
    }

    /// The time, and the days that 24:00 is more than 00:00.
    fn time(&self) -> (Time, i64) {
        (Time::constant(self.hour % 24, self.minute, 0, 0), i64::from(self.hour / 24))
    }
}

impl WeekRange {
    /// Reads `[DAYS ]HH:MM-[DAY ]HH:MM`.
    ///
    /// # Errors
    /// [`InvalidWindow`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidWindow> {
        parse(text).map_err(|problem| InvalidWindow::Expression {
            what: "range",
            text: text.to_owned(),
            problem,
        })
    }

    pub(super) fn reach(&self) -> i64 {
        self.days_later + 2
    }

    /// The span that begins on that day.
    pub(super) fn on(&self, date: Date, zone: &TimeZone, action: Action) -> Option<Span> {
        if !self.days.contains(date.weekday()) {
            return None;
        }
        let end: DateTime =
            date.checked_add(Lapse::new().days(self.days_later)).ok()?.to_datetime(self.end);
        let start = date.to_datetime(self.start);
        Span::new(clock::begins(zone, start)?, clock::ends(zone, end, action)?)
    }
}

fn parse(text: &str) -> Result<WeekRange, String> {
    let expected =
        "expected [DAYS] HH:MM-[DAY] HH:MM, as in Fri 18:00-Mon 08:00 or Tue-Thu 22:00-04:00";
    if text.contains(['–', '—', '−']) {
        return Err("write a plain hyphen between the times".to_owned());
    }
    let colon = text.find(':').ok_or(expected)?;
    let hyphen = text[colon..].find('-').ok_or(expected)? + colon;
    let (start_days, start) = part(&text[..hyphen])?;
    let (end_days, end) = part(&text[hyphen + 1..])?;
    if start.hour == 24 {
        return Err("24:00 is where a day ends; begin at 00:00 of the next".to_owned());
    }
    let days = match start_days {
        "" | "*" => Days::ALL,
        list => day_list(list)?,
    };
    let (time, past_midnight) = end.time();
    let days_later = if end_days.is_empty() {
        past_midnight + i64::from(end.minutes() <= start.minutes())
    } else {
        let last = day_list(end_days)?.single();
        let both = last.zip(days.single()).filter(|_| end_days != "*");
        let (last, first) = both.ok_or(
            "with a day at the end there must be exactly one at the beginning and one at the end",
        )?;
        let between = i64::from(first.until(last));
        let week = between * 1440 + end.minutes() <= start.minutes();
        between + past_midnight + if week { 7 } else { 0 }
    };
    Ok(WeekRange { days, start: start.time().0, end: time, days_later })
}

/// Days, if any, and a time.
fn part(text: &str) -> Result<(&str, Clock), String> {
    let text = text.trim();
    let (days, time) = text.rsplit_once(char::is_whitespace).unwrap_or(("", text));
    Ok((days.trim(), clock(time)?))
}

fn clock(text: &str) -> Result<Clock, String> {
    let wrong = || format!("{text:?} is not a time; expected HH:MM from 00:00 to 24:00");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str, limit: i8| {
        let digits = text.strip_prefix('+').unwrap_or(text);
        let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<i8>().ok()).flatten().filter(|n| *n <= limit)
    };
    let hour = number(hour, 24).ok_or_else(wrong)?;
    let minute = number(minute, if hour == 24 { 0 } else { 59 }).ok_or_else(wrong)?;
    Ok(Clock { hour, minute })
}

fn day_list(text: &str) -> Result<Days, String> {
    text.split(',').try_fold(Days::NONE, |days, item| {
        Ok(match item.split_once('-') {
            None => days.with(day(item)?),
            Some((from, to)) => days.with_all(day(from)?, day(to)?),
        })
    })
}

fn day(text: &str) -> Result<Weekday, String> {
    let name = text.trim();
    match name.to_ascii_lowercase().as_str() {
        "tues" => Some(Weekday::Tuesday),
        "weds" => Some(Weekday::Wednesday),
        "thur" | "thurs" => Some(Weekday::Thursday),
        _ => days::named(name),
    }
    .ok_or_else(|| format!("{name:?} is not a day of the week; expected Mon or Monday"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_clusterrebootd_takes_is_taken() {
        for text in [
            "Fri 18:00-Mon 08:00",
            "Tue-Thu 22:00-04:00",
            "* 23:00-06:00",
            "22:00-04:00",
            "Sat 22:00-04:00",
            "Mon 00:00-Mon 00:00",
            "Tue 22:00-Tue 04:00",
            "Fri-Mon 1:5-+9:00",
            " mon , WEDNESDAY,tues-thurs  22:00 - 04:00 ",
            "weds 1:00-thur 2:00",
            "Mon-Mon 22:00-Tue 04:00",
        ] {
            assert!(WeekRange::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_day_may_end_at_24() {
        let same = |a, b| assert_eq!(WeekRange::parse(a).unwrap(), WeekRange::parse(b).unwrap());
        same("Mon 22:00-24:00", "Mon 22:00-00:00");
        same("00:00-24:00", "* 0:00-0:00");
        same("Fri 18:00-Sun 24:00", "Fri 18:00-Mon 00:00");
        same("Mon 00:00-Sun 24:00", "Mon 00:00-Mon 00:00");
        same("Mon 22:00-Mon 24:00", "Mon 22:00-Tue 00:00");
    }

    #[test]
    fn what_it_refuses_is_refused_with_a_reason() {
        for (text, said) in [
            ("Mon-Tue 22:00-Wed 04:00", "exactly one"),
            ("* 22:00-* 04:00", "not a day"),
            ("22:00-Wed 04:00", "exactly one"),
            ("Mon 22:00-Tue,Wed 04:00", "exactly one"),
            ("Mon 22:00", "expected [DAYS]"),
            ("sat-sun", "expected [DAYS]"),
            ("daily 22:00-04:00", "\"daily\" is not a day"),
            ("22:00–04:00", "plain hyphen"),
            ("22:00-04:00 UTC", "\"UTC\" is not a time"),
            ("", "expected [DAYS]"),
            ("24:00-04:00", "begin at 00:00"),
            ("22:00-24:01", "not a time"),
            ("22:00-25:00", "not a time"),
            ("22:60-04:00", "not a time"),
            ("22:00:00-04:00", "not a time"),
            ("9pm-10pm", "expected [DAYS]"),
            ("Mon,,Tue 22:00-04:00", "\"\" is not a day"),
            ("Mon..Fri 22:00-04:00", "not a day"),
            ("22:00--4:00", "not a time"),
            ("++1:00-04:00", "not a time"),
        ] {
            let error = WeekRange::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,24}", near in "[MonTueFri0-9: ,*+-]{0,24}") {
            let _ = (WeekRange::parse(&text), WeekRange::parse(&near));
        }
    }
}
