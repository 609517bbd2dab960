//! One event.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};

use super::super::{Action, InvalidWindow, Span, clock};
use super::Problem;
use super::content::Line;
use super::recurrence::Recurrence;

/// When something is, once or again and again.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    start: DateTime,
    /// Whose wall clock that is; the window's if it says nothing.
    zone: Option<TimeZone>,
    length: Length,
    recurrence: Option<Recurrence>,
    /// Not on these.
    except: Vec<DateTime>,
    /// On these too.
    besides: Vec<DateTime>,
}

/// Days of the wall clock, then time that passes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Length {
    days: i64,
    time: SignedDuration,
}

impl Length {
    fn in_days(self) -> i64 {
        self.days + self.time.as_secs() / 86_400
    }
}

impl Event {
    /// Its spans, at least those that end after `from` and begin before `to`.
    pub(super) fn spans(
        &self,
        from: Timestamp,
        to: Timestamp,
        zone: &TimeZone,
        action: Action,
    ) -> Vec<Span> {
        let zone = self.zone.as_ref().unwrap_or(zone);
        let span = |at: DateTime| self.span(at, zone, action);
        let mut spans: Vec<Span> = self.besides.iter().copied().filter_map(span).collect();
        match &self.recurrence {
            None => {
                spans.extend(Some(self.start).filter(|at| self.takes_place(*at)).and_then(span))
            }
            Some(recurrence) => {
                let reach = self.length.in_days() + 2;
                spans.extend(clock::daily(from, to, zone, reach, |date| {
                    let at = date.to_datetime(self.start.time());
                    let there = recurrence.includes(self.start, at, action) && self.takes_place(at);
                    Some(at).filter(|_| there).and_then(span).into_iter().collect()
                }));
            }
        }
        spans
    }

    fn takes_place(&self, at: DateTime) -> bool {
        !self.except.contains(&at)
    }

    fn span(&self, at: DateTime, zone: &TimeZone, action: Action) -> Option<Span> {
        let opens = clock::begins(zone, at)?;
        let days_later = at.checked_add(self.length.days.days()).ok()?;
        let closes =
            if self.length.days == 0 { opens } else { clock::ends(zone, days_later, action)? };
        Span::new(opens, closes.checked_add(self.length.time).ok()?)
    }
}

/// What is wrong with an event, in a line of it or as a whole.
pub(super) struct Fault {
    pub(super) line: Option<usize>,
    pub(super) problem: Problem,
}

/// An event while its lines are read.
#[derive(Debug, Default)]
pub(super) struct Draft {
    start: Option<Line>,
    end: Option<Line>,
    rule: Option<Line>,
    except: Vec<Line>,
    besides: Vec<Line>,
    cancelled: bool,
}

impl Draft {
    /// Takes one line of it.
    pub(super) fn take(&mut self, line: Line) -> Result<(), InvalidWindow> {
        let wrong = |problem| InvalidWindow::Line { line: line.number, problem };
        let place = match line.name.as_str() {
            "DTSTART" => &mut self.start,
            "DTEND" | "DURATION" => &mut self.end,
            "RRULE" => &mut self.rule,
            "EXDATE" => {
                self.except.push(line);
                return Ok(());
            }
            "RDATE" => {
                self.besides.push(line);
                return Ok(());
            }
            "STATUS" => {
                self.cancelled |= line.value.trim().eq_ignore_ascii_case("CANCELLED");
                return Ok(());
            }
            name @ ("RECURRENCE-ID" | "EXRULE") => {
                return Err(wrong(format!("{name} is not understood; write the events out")));
            }
            _ => return Ok(()),
        };
        if let Some(before) = place {
            let problem = if before.name == line.name {
                format!("{} twice in one event", line.name)
            } else {
                format!("{} and {} in one event", before.name, line.name)
            };
            return Err(wrong(problem));
        }
        *place = Some(line);
        Ok(())
    }

    /// The event, if it was not called off.
    pub(super) fn finish(self) -> Result<Option<Event>, Fault> {
        let at = |line: &Line| {
            let number = line.number;
            move |problem| Fault { line: Some(number), problem }
        };
        let Some(line) = &self.start else {
            return Err(Fault { line: None, problem: "the event has no DTSTART".to_owned() });
        };
        let start = Moment::of(line, &line.value).map_err(at(line))?;
        let length = match &self.end {
            None if start.time.is_none() => Length { days: 1, time: SignedDuration::ZERO },
            None => Length { days: 0, time: SignedDuration::ZERO },
            Some(line) if line.name == "DURATION" => {
                duration(&line.value, start.time.is_some()).map_err(at(line))?
            }
            Some(line) => Moment::of(line, &line.value)
                .and_then(|end| between(&start, &end))
                .map_err(at(line))?,
        };
        let parse = |line: &Line| {
            let days = start.time.is_none();
            Recurrence::parse(&line.value, start.datetime(), days, start.zone.as_ref())
                .map_err(at(line))
        };
        let recurrence = self.rule.as_ref().map(parse).transpose()?;
        if let Some(rule) = &self.rule
            && length.in_days() > 366
        {
            return Err(at(rule)("an event longer than a year comes back".to_owned()));
        }
        let others = |lines: &[Line]| -> Result<Vec<DateTime>, Fault> {
            let mut found = Vec::new();
            for line in lines {
                for value in line.value.split(',') {
                    let other = Moment::of(line, value).and_then(|other| other.beside(&start));
                    found.push(other.map_err(at(line))?);
                }
            }
            Ok(found)
        };
        let event = Event {
            start: start.datetime(),
            length,
            recurrence,
            except: others(&self.except)?,
            besides: others(&self.besides)?,
            zone: start.zone,
        };
        Ok((!self.cancelled).then_some(event))
    }
}

/// A day, or a time of a day.
struct Moment {
    date: Date,
    time: Option<Time>,
    zone: Option<TimeZone>,
}

impl Moment {
    fn of(line: &Line, value: &str) -> Result<Self, Problem> {
        if let Some(kind) = line.parameter("VALUE")
            && !["DATE", "DATE-TIME"].contains(&kind.to_ascii_uppercase().as_str())
        {
            return Err(format!("VALUE={kind} is not understood; expected DATE or DATE-TIME"));
        }
        let value = value.trim();
        let wrong =
            || format!("{value:?} is neither a day like 20261225 nor a time like 20261224T180000");
        let (value_local, utc) = match value.strip_suffix('Z') {
            Some(local) => (local, true),
            None => (value, false),
        };
        let (date, time) =
            parse(value_local).filter(|(_, time)| time.is_some() || !utc).ok_or_else(wrong)?;
        let zone = match line.parameter("TZID") {
            _ if utc => Some(TimeZone::UTC),
            Some(name) if time.is_some() => {
                Some(clock::zone_named(name).map_err(|error| error.to_string())?)
            }
            _ => None,
        };
        Ok(Self { date, time, zone })
    }

    fn datetime(&self) -> DateTime {
        self.date.to_datetime(self.time.unwrap_or_else(Time::midnight))
    }

    /// The instant; on the wall clock of nobody in particular, as if in UTC.
    fn instant(&self) -> Option<Timestamp> {
        clock::begins(self.zone.as_ref().unwrap_or(&TimeZone::UTC), self.datetime())
    }

    /// The same on the wall clock of an event that begins at `start`.
    fn beside(self, start: &Self) -> Result<DateTime, Problem> {
        if self.time.is_none() != start.time.is_none() {
            return Err("a day where the event has a time, or the other way round".to_owned());
        }
        match (&self.zone, &start.zone) {
            (Some(own), Some(zone)) if own != zone => self
                .instant()
                .map(|instant| zone.to_datetime(instant))
                .ok_or_else(|| "is too far away".to_owned()),
            (Some(_), None) => Err("a zone where the event has none".to_owned()),
            _ => Ok(self.datetime()),
        }
    }
}

/// `20261225` or `20261224T180000`.
pub(super) fn parse(value: &str) -> Option<(Date, Option<Time>)> {
    if !value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'T') {
        return None;
    }
    let number = |from: usize, to: usize| value.get(from..to)?.parse::<i8>().ok();
    let year = value.get(..4)?.parse().ok()?;
    let date = Date::new(year, number(4, 6)?, number(6, 8)?).ok()?;
    match value.len() {
        8 => Some((date, None)),
        15 if value.as_bytes().get(8) == Some(&b'T') => {
            // A leap second is the one before it to every clock here.
            let second = number(13, 15)?;
            let second = if second == 60 { 59 } else { second };
            let time = Time::new(number(9, 11)?, number(11, 13)?, second, 0).ok()?;
            Some((date, Some(time)))
        }
        _ => None,
    }
}

fn between(start: &Moment, end: &Moment) -> Result<Length, Problem> {
    let length = match (start.time, end.time) {
        (None, None) => {
            let days = start.date.duration_until(end.date).as_hours() / 24;
            Length { days, time: SignedDuration::ZERO }
        }
        (Some(_), Some(_)) => {
            if start.zone.is_none() != end.zone.is_none() {
                return Err(
                    "the beginning is in a zone and the end is not, or the other way round"
                        .to_owned(),
                );
            }
            let (start, end) = start.instant().zip(end.instant()).ok_or("is too far away")?;
            Length { days: 0, time: start.duration_until(end) }
        }
        _ => {
            return Err(
                "the beginning is a day and the end a time, or the other way round".to_owned()
            );
        }
    };
    if length.days < 0 || length.time.is_negative() {
        return Err("the event ends before it begins".to_owned());
    }
    // Some programs write the end of a single day as that day itself.
    let same_day = start.time.is_none() && length.days == 0;
    Ok(if same_day { Length { days: 1, ..length } } else { length })
}

/// `P1W`, `P3D`, `PT1H30M`, `P1DT12H`.
fn duration(text: &str, with_time: bool) -> Result<Length, Problem> {
    let text = text.trim();
    let wrong = || format!("{text:?} is not a duration; expected P3D, PT1H30M or P1W");
    let parse = || {
        let text = text.strip_prefix('+').unwrap_or(text).strip_prefix('P')?;
        let (mut days, mut seconds, mut in_time) = (0_i64, 0_i64, false);
        let mut digits = String::new();
        for c in text.chars() {
            if c.is_ascii_digit() && digits.len() < 6 {
                digits.push(c);
                continue;
            }
            if c == 'T' && !in_time && digits.is_empty() {
                in_time = true;
                continue;
            }
            let number: i64 = std::mem::take(&mut digits).parse().ok()?;
            match (c, in_time) {
                ('W', false) => days += number * 7,
                ('D', false) => days += number,
                ('H', true) => seconds += number * 3600,
                ('M', true) => seconds += number * 60,
                ('S', true) => seconds += number,
                _ => return None,
            }
        }
        let whole = digits.is_empty() && !text.is_empty() && !text.ends_with('T');
        whole.then_some(Length { days, time: SignedDuration::from_secs(seconds) })
    };
    let length = parse().ok_or_else(wrong)?;
    if !with_time && !length.time.is_zero() {
        return Err(format!("{text:?} has hours where the event has days"));
    }
    Ok(length)
}
