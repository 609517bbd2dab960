//! `RRULE`: which days an event comes back on.

use jiff::ToSpan as _;
use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;

use super::super::Action;
use super::Problem;
use super::event;

/// Days further away than this are no repetitions. It bounds the search for the last one.
const HORIZON: Date = Date::constant(2200, 1, 1);

/// A rule by which an event comes back, always at the same time of day.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Recurrence {
    every: Every,
    interval: i64,
    months: Vec<i8>,
    days_of_month: Vec<i8>,
    weekdays: Vec<Nth>,
    week_start: Weekday,
    last: Option<Last>,
}

/// The last moment that counts, on the wall clock of the event.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Last {
    at: DateTime,
    /// Nobody can tell whose clock it is on.
    in_doubt: bool,
}

/// How far one wall clock can be from another, in hours, or a bit less: from UTC to the first zone of
/// a day.
const APART: i64 = 14;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Every {
    Day,
    Week,
    Month,
    Year,
}

/// `MO`, `2MO`, `-1MO`; 0 is each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Nth(i8, Weekday);

impl Recurrence {
    /// Reads the rule of an event that begins at `start` on the wall clock of `zone`, or on such days.
    pub(super) fn parse(
        text: &str,
        start: DateTime,
        whole_days: bool,
        zone: Option<&TimeZone>,
    ) -> Result<Self, Problem> {
        let mut every = None;
        let mut rule = Self {
            every: Every::Year,
            interval: 1,
            months: Vec::new(),
            days_of_month: Vec::new(),
            weekdays: Vec::new(),
            week_start: Weekday::Monday,
            last: None,
        };
        let mut count = None;
        for part in text.trim().split(';') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let wrong = || format!("{part} is not understood");
            match name.to_ascii_uppercase().as_str() {
                "FREQ" => every = Some(frequency(value).ok_or_else(wrong)?),
                "INTERVAL" => rule.interval = from_one(value).ok_or_else(wrong)?,
                "COUNT" => count = Some(from_one(value).ok_or_else(wrong)?),
                "UNTIL" => rule.last = Some(until(value, whole_days, zone).ok_or_else(wrong)?),
                "WKST" => rule.week_start = weekday(value).ok_or_else(wrong)?,
                "BYMONTH" => {
                    let months = list(value, |n| Some(n).filter(|n| (1..=12).contains(n)));
                    rule.months = months.ok_or_else(wrong)?;
                }
                "BYMONTHDAY" => {
                    let day = |n: i8| Some(n).filter(|n| (1..=31).contains(&n.unsigned_abs()));
                    rule.days_of_month = list(value, day).ok_or_else(wrong)?;
                }
                "BYDAY" => {
                    let days = value.split(',').map(nth).collect::<Option<_>>();
                    rule.weekdays = days.ok_or_else(wrong)?;
                }
                _ => return Err(wrong()),
            }
        }
        rule.every = every.ok_or("RRULE has no FREQ")?;
        if count.is_some() && rule.last.is_some() {
            return Err("COUNT and UNTIL in one rule".to_owned());
        }
        if matches!(rule.every, Every::Day | Every::Week)
            && let Some(Nth(n, _)) = rule.weekdays.iter().find(|Nth(n, _)| *n != 0)
        {
            let days = text.split(';').find(|part| part.to_ascii_uppercase().starts_with("BYDAY"));
            return Err(format!(
                "{} is not understood: {n} of what, each day or week?",
                days.unwrap_or_default()
            ));
        }
        if rule.every == Every::Week && !rule.days_of_month.is_empty() {
            return Err("BYMONTHDAY is not understood with FREQ=WEEKLY".to_owned());
        }
        if let Some(count) = count {
            rule.last = rule.nth(start, count).map(|at| Last { at, in_doubt: false });
        }
        Ok(rule)
    }

    /// Whether the event that began at `start` is at `at` too, a day at the same time. Where that is in
    /// doubt, it is what lets no reboot through.
    pub(super) fn includes(&self, start: DateTime, at: DateTime, action: Action) -> bool {
        at >= start
            && self.last.is_none_or(|last| at <= last.by(action))
            && (at == start || self.has(start.date(), at.date()))
    }

    /// The `count`th time.
    fn nth(&self, start: DateTime, count: i64) -> Option<DateTime> {
        let mut left = count - 1;
        let mut day = start.date();
        while left > 0 && day < HORIZON {
            day = day.saturating_add(1.day());
            left -= i64::from(self.has(start.date(), day));
        }
        (left <= 0).then(|| day.to_datetime(start.time()))
    }

    fn has(&self, start: Date, day: Date) -> bool {
        let months = |date: Date| i64::from(date.year()) * 12 + i64::from(date.month());
        let days = |from: Date, to: Date| from.duration_until(to).as_hours() / 24;
        let distance = match self.every {
            Every::Day => days(start, day),
            Every::Week => days(self.week_of(start), self.week_of(day)) / 7,
            Every::Month => months(day) - months(start),
            Every::Year => i64::from(day.year()) - i64::from(start.year()),
        };
        distance % self.interval == 0 && self.in_month(start, day) && self.on_day(start, day)
    }

    fn in_month(&self, start: Date, day: Date) -> bool {
        if !self.months.is_empty() {
            return self.months.contains(&day.month());
        }
        let said = !self.days_of_month.is_empty() || !self.weekdays.is_empty();
        self.every != Every::Year || said || day.month() == start.month()
    }

    fn on_day(&self, start: Date, day: Date) -> bool {
        let from_end = day.day() - day.days_in_month() - 1;
        let by_number = self.days_of_month.iter().any(|n| *n == day.day() || *n == from_end);
        match (self.days_of_month.is_empty(), self.weekdays.is_empty()) {
            (false, false) => by_number && self.on_weekday(day),
            (false, true) => by_number,
            (true, false) => self.on_weekday(day),
            (true, true) => match self.every {
                Every::Day => true,
                Every::Week => day.weekday() == start.weekday(),
                Every::Month | Every::Year => day.day() == start.day(),
            },
        }
    }

    /// Counted in the month, or in the year where no month is named.
    fn on_weekday(&self, day: Date) -> bool {
        let (nth, days) = if self.every == Every::Year && self.months.is_empty() {
            (day.day_of_year(), day.days_in_year())
        } else {
            (day.day().into(), day.days_in_month().into())
        };
        let (first, last) = ((nth - 1) / 7 + 1, -((days - nth) / 7 + 1));
        self.weekdays.iter().any(|Nth(n, weekday)| {
            let n = i16::from(*n);
            *weekday == day.weekday() && (n == 0 || n == first || n == last)
        })
    }

    /// The day on which the week of `day` began.
    fn week_of(&self, day: Date) -> Date {
        let into = self.week_start.until(day.weekday());
        day.saturating_sub(i64::from(into).days())
    }
}

fn frequency(text: &str) -> Option<Every> {
    Some(match text.to_ascii_uppercase().as_str() {
        "DAILY" => Every::Day,
        "WEEKLY" => Every::Week,
        "MONTHLY" => Every::Month,
        "YEARLY" => Every::Year,
        _ => return None,
    })
}

fn from_one(text: &str) -> Option<i64> {
    text.parse::<u16>().ok().filter(|number| *number > 0).map(i64::from)
}

fn list(text: &str, allowed: impl Fn(i8) -> Option<i8>) -> Option<Vec<i8>> {
    text.split(',').map(|number| number.parse().ok().and_then(&allowed)).collect()
}

fn weekday(text: &str) -> Option<Weekday> {
    let names = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];
    let offset = names.iter().position(|name| name.eq_ignore_ascii_case(text))?;
    Weekday::from_monday_zero_offset(i8::try_from(offset).ok()?).ok()
}

fn nth(text: &str) -> Option<Nth> {
    let (number, day) = text.split_at_checked(text.len().checked_sub(2)?)?;
    let number = match number {
        "" => 0,
        number => number.parse().ok().filter(|n: &i8| (1..=53).contains(&n.unsigned_abs()))?,
    };
    Some(Nth(number, weekday(day)?))
}

impl Last {
    fn by(self, action: Action) -> DateTime {
        match action {
            _ if !self.in_doubt => self.at,
            Action::Deny => self.at.saturating_add(APART.hours()),
            Action::Allow => self.at.saturating_sub(APART.hours()),
        }
    }
}

/// The last moment that counts. A day counts to its end. It should be a day where the event has days,
/// UTC where the event has a zone, and without either where the event has neither (RFC 5545, 3.3.10);
/// many calendars write it otherwise, and then its clock is anybody's guess.
fn until(text: &str, whole_days: bool, zone: Option<&TimeZone>) -> Option<Last> {
    let (local, utc) = match text.strip_suffix('Z') {
        Some(local) => (local, true),
        None => (text, false),
    };
    let (date, time) = event::parse(local)?;
    let Some(time) = time else {
        return Some(Last { at: date.to_datetime(Time::MAX), in_doubt: !whole_days });
    };
    let at = date.to_datetime(time);
    Some(match zone {
        Some(zone) if utc => {
            let at = zone.to_datetime(TimeZone::UTC.to_timestamp(at).ok()?);
            Last { at, in_doubt: false }
        }
        _ => Last { at, in_doubt: whole_days || utc || zone.is_some() },
    })
}
