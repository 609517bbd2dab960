//! A second opinion, minute by minute: what the wall clock showed in each minute of two years, and
//! windows marked in that by counting. It knows offsets from UTC and nothing else about zones.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::{Action, Calendar, Dates, Locksmith, Rule, Verdict, WeekRange, Window, Windows};
use crate::id::MachineId;

const DAY: i64 = 1440;

/// Longer than any window here, at both ends.
const MARGIN: i64 = 40 * DAY;

/// Chance that is the same in every run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        i64::try_from((mixed ^ mixed >> 31) % sides.unsigned_abs()).unwrap()
    }

    fn days(&mut self) -> Vec<i64> {
        let days: Vec<i64> = (0..7).filter(|_| self.roll(3) == 0).collect();
        if days.is_empty() { vec![self.roll(7)] } else { days }
    }
}

/// What the clocks of a zone showed.
struct Clocks {
    zone: TimeZone,
    /// The first minute, since 1970 in UTC.
    first: i64,
    /// What they showed in each minute, in minutes since their own 1970.
    shown: Vec<i64>,
    /// The latest that they had shown until then.
    latest: Vec<i64>,
    /// Year, month, day and length of month, for each day since `first`'s.
    dates: Vec<[i64; 4]>,
    first_day: i64,
}

impl Clocks {
    fn new(zone: &str, year: i64) -> Self {
        let zone = TimeZone::get(zone).unwrap();
        let begin: Timestamp = format!("{year}-01-01T00:00Z").parse().unwrap();
        let first = begin.as_second() / 60 - MARGIN;
        let mut shown = Vec::new();
        let mut offset = 0;
        for minute in first..first + 2 * MARGIN + 731 * DAY {
            if minute % 15 == 0 || shown.is_empty() {
                let at = Timestamp::from_second(minute * 60).unwrap();
                offset = i64::from(zone.to_offset(at).seconds()) / 60;
            }
            shown.push(minute + offset);
        }
        let mut latest = shown.clone();
        for at in 1..latest.len() {
            latest[at] = latest[at].max(latest[at - 1]);
        }
        // From the first of January of the year before, day by day.
        let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let first_day = begin.as_second() / 86_400 - if leap(year - 1) { 366 } else { 365 };
        let mut dates = Vec::new();
        for year in year - 1..year + 4 {
            let february = if leap(year) { 29 } else { 28 };
            let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            for (month, length) in (1..).zip(lengths) {
                dates.extend((1..=length).map(|day| [year, month, day, length]));
            }
        }
        Self { zone, first, shown, latest, dates, first_day }
    }

    fn at(&self, minute: usize) -> Timestamp {
        Timestamp::from_second((self.first + i64::try_from(minute).unwrap()) * 60).unwrap()
    }

    /// The first minute in which they showed `time` or later.
    fn first_at(&self, time: i64) -> usize {
        self.latest.partition_point(|latest| *latest < time)
    }

    /// The last minute in which they showed `time`; if they never did, the first later one.
    fn last_at(&self, time: i64) -> usize {
        let first = self.first_at(time);
        let soon = first..(first + 4 * 60).min(self.shown.len());
        soon.rev().find(|minute| self.shown[*minute] == time).unwrap_or(first)
    }

    /// The days on the wall clock, and their dates.
    fn days(&self) -> impl Iterator<Item = (i64, [i64; 4])> {
        (self.first_day..).zip(self.dates.iter().copied())
    }

    /// The minutes that are compared: the margins see only part of what is open in them.
    fn compared(&self) -> std::ops::Range<usize> {
        usize::try_from(MARGIN).unwrap()..self.shown.len() - usize::try_from(MARGIN).unwrap()
    }
}

/// A window as it was thrown, apart from how it is written.
#[derive(Debug)]
enum Plan {
    Locksmith {
        day: Option<i64>,
        start: i64,
        length: i64,
    },
    Range {
        days: Vec<i64>,
        start: i64,
        end: i64,
        end_day: Option<i64>,
    },
    Calendar {
        days: Vec<i64>,
        from: i64,
        to: i64,
        from_end: bool,
        step: i64,
        minute: i64,
        length: i64,
    },
    Dates {
        from: (i64, i64),
        to: (i64, i64),
    },
}

const NAMES: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

fn weekday(day: i64) -> i64 {
    // The first of January 1970 was a Thursday.
    (day + 3).rem_euclid(7)
}

fn name(day: i64) -> &'static str {
    NAMES[usize::try_from(day).unwrap()]
}

fn names(days: &[i64]) -> String {
    days.iter().map(|day| name(*day)).collect::<Vec<_>>().join(",")
}

fn hm(minutes: i64) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

impl Plan {
    fn throw(dice: &mut Dice, clocks: &Clocks) -> Self {
        // Most things happen where clocks change.
        let time = |dice: &mut Dice| match dice.roll(3) {
            0 => dice.roll(DAY),
            _ => dice.roll(4 * 12 + 1) * 5,
        };
        let start = time(dice);
        match dice.roll(4) {
            0 => {
                let day = Some(dice.roll(7)).filter(|_| dice.roll(2) == 0);
                let longest = if day.is_some() { 7 * DAY } else { DAY };
                let short = dice.roll(2) == 0;
                Self::Locksmith { day, start, length: dice.roll(if short { 200 } else { longest }) }
            }
            1 => {
                let end_day = Some(dice.roll(7)).filter(|_| dice.roll(3) == 0);
                let days = match end_day {
                    Some(_) => vec![if dice.roll(3) == 0 { 6 } else { dice.roll(7) }],
                    None => dice.days(),
                };
                let end = if dice.roll(10) == 0 { DAY } else { time(dice) };
                Self::Range { days, start, end, end_day }
            }
            2 => {
                let from = 1 + dice.roll(20);
                Self::Calendar {
                    days: dice.days(),
                    from,
                    to: from + dice.roll(8),
                    from_end: dice.roll(3) == 0,
                    step: 1 + dice.roll(12),
                    minute: dice.roll(60),
                    length: 1 + dice.roll(2 * DAY),
                }
            }
            _ => {
                let days = i64::try_from(clocks.dates.len()).unwrap() - 400;
                let from = clocks.first_day + 300 + dice.roll(days - 300);
                let to = (from + dice.roll(20), time(dice));
                let from = (from, start);
                let backwards = to <= from;
                Self::Dates { from, to: if backwards { (from.0 + 1, to.1) } else { to } }
            }
        }
    }

    /// As a person would write it.
    fn rule(&self, clocks: &Clocks) -> Rule {
        match self {
            Self::Locksmith { day, start, length } => {
                let day = day.map(|day| format!("{} ", name(day))).unwrap_or_default();
                let start = format!("{day}{}", hm(*start));
                Rule::Locksmith(Locksmith::parse(&start, &format!("{length}m")).unwrap())
            }
            Self::Range { days, start, end, end_day } => {
                let end_day = end_day.map(|day| format!("{} ", name(day))).unwrap_or_default();
                let text = format!("{} {}-{end_day}{}", names(days), hm(*start), hm(*end));
                Rule::Range(WeekRange::parse(&text).unwrap())
            }
            Self::Calendar { days, from, to, from_end, step, minute, length } => {
                let mark = if *from_end { '~' } else { '-' };
                let text = format!("{} *-*{mark}{from}..{to} 00/{step}:{minute}", names(days));
                Rule::Calendar(Calendar::parse(&text, &format!("{length}m")).unwrap())
            }
            Self::Dates { from, to } => {
                let show = |(day, time): &(i64, i64)| {
                    let [y, m, d, _] =
                        clocks.dates[usize::try_from(day - clocks.first_day).unwrap()];
                    format!("{y:04}-{m:02}-{d:02} {}", hm(*time))
                };
                Rule::Dates(Dates::parse(&[format!("{}..{}", show(from), show(to))]).unwrap())
            }
        }
    }

    /// The minutes in which it is open, by counting.
    fn marked(&self, clocks: &Clocks, action: Action) -> Vec<bool> {
        let mut open = vec![false; clocks.shown.len()];
        let mut mark = |from: usize, to: usize| {
            let to = to.min(open.len());
            open[from.min(to)..to].fill(true);
        };
        let end_at = |time: i64| match action {
            Action::Allow => clocks.first_at(time),
            Action::Deny => clocks.last_at(time),
        };
        let minutes = |count: &i64| usize::try_from(*count).unwrap();
        for (day, [_, _, number, month]) in clocks.days() {
            let (midnight, weekday) = (day * DAY, weekday(day));
            match self {
                Self::Locksmith { day, start, length } => {
                    if day.is_none_or(|day| day == weekday) {
                        let from = clocks.first_at(midnight + start);
                        mark(from, from + minutes(length) + 1);
                    }
                }
                Self::Range { days, start, end, end_day } => {
                    if days.contains(&weekday) {
                        let mut end = midnight + end;
                        let period = if let Some(end_day) = end_day {
                            end += (end_day - weekday).rem_euclid(7) * DAY;
                            7 * DAY
                        } else {
                            DAY
                        };
                        if end <= midnight + start {
                            end += period;
                        }
                        mark(clocks.first_at(midnight + start), end_at(end));
                    }
                }
                Self::Calendar { days, from, to, from_end, step, minute, length } => {
                    let number = if *from_end { month - number + 1 } else { number };
                    if days.contains(&weekday) && (*from..=*to).contains(&number) {
                        for hour in (0..24).filter(|hour| hour % step == 0) {
                            let from = clocks.first_at(midnight + hour * 60 + minute);
                            mark(from, from + minutes(length));
                        }
                    }
                }
                Self::Dates { from, to } => {
                    if from.0 == day {
                        let to = end_at(to.0 * DAY + to.1);
                        mark(clocks.first_at(midnight + from.1), to);
                    }
                }
            }
        }
        open
    }
}

/// The minutes in which our window is open.
fn marked(window: &Window, clocks: &Clocks) -> Vec<bool> {
    let mut open = vec![false; clocks.shown.len()];
    let first = i128::from(clocks.first) * 60_000_000_000;
    let index = |at: Timestamp| {
        let minutes = (at.as_nanosecond() - first + 59_999_999_999).div_euclid(60_000_000_000);
        usize::try_from(minutes.max(0)).unwrap().min(clocks.shown.len())
    };
    for span in window.spans(clocks.at(0), clocks.at(clocks.shown.len())) {
        open[index(span.opens)..index(span.closes)].fill(true);
    }
    open
}

fn compare(zone: &str, year: i64, plans: usize) {
    let clocks = Clocks::new(zone, year);
    let mut dice = Dice(zone.bytes().map(u64::from).sum());
    let mut thrown: Vec<(Window, Vec<bool>)> = Vec::new();
    for _ in 0..plans {
        let plan = Plan::throw(&mut dice, &clocks);
        let action = if dice.roll(3) == 0 { Action::Deny } else { Action::Allow };
        let window =
            Window { action, ..Window::new("plan", clocks.zone.clone(), plan.rule(&clocks)) };
        let (ours, theirs) = (marked(&window, &clocks), plan.marked(&clocks, action));
        let differs = clocks.compared().find(|minute| ours[*minute] != theirs[*minute]);
        if let Some(minute) = differs {
            let at = clocks.at(minute).to_zoned(clocks.zone.clone());
            panic!("{plan:?} {action:?}: we say {} at {at}", ours[minute]);
        }
        thrown.push((window, theirs));
    }
    for group in thrown.chunks(4) {
        judge(&mut dice, &clocks, group);
    }
}

/// What all of them together say, at the minutes where that changes and some others.
fn judge(dice: &mut Dice, clocks: &Clocks, group: &[(Window, Vec<bool>)]) {
    let machine = MachineId::new("m").unwrap();
    let at_least = dice.roll(90);
    let windows = Windows(
        group
            .iter()
            .map(|(window, _)| match window.action {
                Action::Deny => window.clone(),
                Action::Allow => {
                    let min_remaining = Duration::from_secs(at_least.unsigned_abs() * 60);
                    Window { min_remaining, ..window.clone() }
                }
            })
            .collect(),
    );
    let any = |action: Action, minute: usize| {
        group.iter().any(|(window, open)| window.action == action && open[minute])
    };
    let allowing = group.iter().any(|(window, _)| window.action == Action::Allow);
    let permitted: Vec<bool> = (0..clocks.shown.len())
        .map(|minute| !any(Action::Deny, minute) && (!allowing || any(Action::Allow, minute)))
        .collect();
    let changes: Vec<usize> =
        clocks.compared().filter(|minute| permitted[*minute] != permitted[*minute - 1]).collect();
    let length = i64::try_from(clocks.compared().len()).unwrap();
    let mut looked_at: Vec<usize> = (0..15)
        .map(|_| clocks.compared().start + usize::try_from(dice.roll(length)).unwrap())
        .collect();
    for _ in 0..15 {
        if !changes.is_empty() {
            let change = dice.roll(i64::try_from(changes.len()).unwrap());
            let change = changes[usize::try_from(change).unwrap()];
            looked_at.extend([change - 1, change, change + 1]);
        }
    }
    for minute in looked_at {
        let now = clocks.at(minute);
        let next = |wanted: bool| (minute..permitted.len()).find(|m| permitted[*m] == wanted);
        let near = |found: Option<Timestamp>, minute: Option<usize>| match (found, minute) {
            // What happens after the minutes we know of is not known.
            (_, None) => true,
            (None, Some(_)) => false,
            // The last instant of a locksmith window makes a minute of its own here.
            (Some(found), Some(minute)) => {
                minute >= clocks.compared().end
                    || clocks.at(minute).duration_since(found).abs() <= SignedDuration::from_mins(1)
            }
        };
        let verdict = windows.judge(now, &machine);
        let context = || format!("{verdict:?} at {now} in {:?}", clocks.zone.iana_name());
        assert_eq!(windows.permits(now), permitted[minute], "{}", context());
        match verdict {
            Verdict::Open { until, window } => {
                assert!(permitted[minute] && near(until, next(false)), "{}", context());
                let left = next(false).map(|end| i64::try_from(end - minute).unwrap());
                let enough = window.is_none() || left.is_none_or(|left| left >= at_least);
                assert!(enough, "{}", context());
            }
            Verdict::TooLittleLeft { closes, .. } => {
                assert!(permitted[minute] && near(Some(closes), next(false)), "{}", context());
                let left = i64::try_from(next(false).unwrap() - minute).unwrap();
                assert!(left <= at_least, "{}", context());
            }
            Verdict::Denied { .. } => assert!(any(Action::Deny, minute), "{}", context()),
            Verdict::Outside { opens } => {
                assert!(!permitted[minute] && !any(Action::Deny, minute), "{}", context());
                assert!(near(opens, next(true)), "{}", context());
            }
            Verdict::Splay { .. } => panic!("{}", context()),
        }
    }
}

#[test]
fn berlin_agrees_with_the_minutes() {
    compare("Europe/Berlin", 2026, 40);
}

#[test]
fn new_york_agrees_with_the_minutes() {
    compare("America/New_York", 2026, 40);
}

#[test]
fn lord_howe_agrees_with_the_minutes() {
    compare("Australia/Lord_Howe", 2026, 40);
}

#[test]
fn kolkata_agrees_with_the_minutes() {
    compare("Asia/Kolkata", 2026, 40);
}

#[test]
fn casablanca_agrees_with_the_minutes() {
    compare("Africa/Casablanca", 2026, 40);
}

#[test]
fn utc_agrees_with_the_minutes() {
    compare("UTC", 2026, 40);
}

/// It went past a whole day, 30 December 2011.
#[test]
fn apia_agrees_with_the_minutes() {
    compare("Pacific/Apia", 2011, 40);
}
