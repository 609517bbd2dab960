//! The events of an iCalendar file (RFC 5545).
//!
//! Events of whole days and with times; UTC, with a zone by its IANA name, or on the wall clock of
//! the window; repeated by days, weeks, months or years. What is not understood is refused with its
//! line, never passed over: a holiday that was dropped would let a reboot through.
//!
//! Read here rather than by a crate: those that are kept up bring a second calendar library, one of
//! them a second time zone database, and give no lines.

mod content;
mod event;
mod recurrence;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use self::content::Line;
use self::event::{Draft, Event};
use super::{Action, InvalidWindow, Span};

/// The events of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Holidays(Vec<Event>);

/// What is wrong in a line.
type Problem = String;

impl Holidays {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`InvalidWindow::Line`] says where what is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidWindow> {
        let mut open: Vec<Line> = Vec::new();
        let mut draft = Draft::default();
        let mut events = Vec::new();
        let mut last = 1;
        for line in content::lines(text) {
            let line = line?;
            last = line.number;
            let wrong = |problem: Problem| InvalidWindow::Line { line: line.number, problem };
            let inside = open.last().map_or("", |begin| begin.value.as_str());
            match line.name.as_str() {
                "BEGIN" => {
                    let component = line.value.trim().to_ascii_uppercase();
                    match (inside, component.as_str()) {
                        ("", "VCALENDAR") => {}
                        ("", _) => return Err(wrong("expected BEGIN:VCALENDAR".to_owned())),
                        ("VEVENT", "VEVENT") => {
                            return Err(wrong("an event inside an event".to_owned()));
                        }
                        (_, "VEVENT") => draft = Draft::default(),
                        _ => {}
                    }
                    open.push(Line { value: component, ..line });
                }
                "END" => {
                    if !line.value.trim().eq_ignore_ascii_case(inside) || inside.is_empty() {
                        return Err(wrong(format!("END:{} ends nothing", line.value.trim())));
                    }
                    if inside == "VEVENT" {
                        let begun = open.last().map_or(line.number, |begin| begin.number);
                        let finished = std::mem::take(&mut draft).finish();
                        events.extend(finished.map_err(|fault| InvalidWindow::Line {
                            line: fault.line.unwrap_or(begun),
                            problem: fault.problem,
                        })?);
                    }
                    open.pop();
                }
                _ if open.is_empty() => return Err(wrong("expected BEGIN:VCALENDAR".to_owned())),
                _ if inside == "VEVENT" => draft.take(line)?,
                _ => {}
            }
        }
        if let Some(begin) = open.first() {
            let problem =
                format!("{} begins here and never ends: is the file cut off?", begin.value);
            return Err(InvalidWindow::Line { line: begin.number, problem });
        }
        if events.is_empty() {
            let problem = "there is no event in the file".to_owned();
            return Err(InvalidWindow::Line { line: last, problem });
        }
        Ok(Self(events))
    }

    pub(super) fn spans(
        &self,
        from: Timestamp,
        to: Timestamp,
        zone: &TimeZone,
        action: Action,
    ) -> Vec<Span> {
        self.0.iter().flat_map(|event| event.spans(from, to, zone, action)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn calendar(event: &str) -> String {
        format!("BEGIN:VCALENDAR\r\nVERSION:2.0\r\nBEGIN:VEVENT\r\nUID:1\r\n{event}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n")
            .replace('|', "\r\n")
    }

    fn spans(event: &str) -> Vec<String> {
        let holidays = Holidays::parse(&calendar(event)).unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let mut spans =
            holidays.spans(at("2026-01-01T00:00Z"), at("2029-01-01T00:00Z"), &zone, Action::Deny);
        spans.retain(|span| {
            span.closes > at("2026-01-01T00:00Z") && span.opens < at("2028-12-31T23:00Z")
        });
        spans.sort();
        let shown = |at: Timestamp| at.to_zoned(zone.clone()).strftime("%F %R").to_string();
        spans.iter().map(|span| format!("{}..{}", shown(span.opens), shown(span.closes))).collect()
    }

    #[test]
    fn events_of_days_and_with_times_are_read() {
        for (event, span) in [
            ("DTSTART;VALUE=DATE:20261225", "2026-12-25 00:00..2026-12-26 00:00"),
            ("DTSTART:20261225", "2026-12-25 00:00..2026-12-26 00:00"),
            (
                "DTSTART;VALUE=DATE:20261224|DTEND;VALUE=DATE:20261227",
                "2026-12-24 00:00..2026-12-27 00:00",
            ),
            ("DTSTART;VALUE=DATE:20261224|DURATION:P3D", "2026-12-24 00:00..2026-12-27 00:00"),
            ("DTSTART;VALUE=DATE:20260329", "2026-03-29 00:00..2026-03-30 00:00"),
            (
                "DTSTART:20261224T170000Z|DTEND:20261227T050000Z",
                "2026-12-24 18:00..2026-12-27 06:00",
            ),
            ("DTSTART:20261224T180000|DURATION:P1DT2H30M", "2026-12-24 18:00..2026-12-25 20:30"),
            ("DTSTART:20260328T030000|DURATION:P1D", "2026-03-28 03:00..2026-03-29 03:00"),
            ("DTSTART:20260328T030000|DURATION:PT24H", "2026-03-28 03:00..2026-03-29 04:00"),
            (
                "DTSTART;TZID=America/New_York:20261224T180000|DTEND;TZID=\"America/New_York\":20261224T19\r\n 0000",
                "2026-12-25 00:00..2026-12-25 01:00",
            ),
            (
                "SUMMARY;X=\"a:b;c\":Christmas|BEGIN:VALARM|DTSTART:x|END:VALARM|dtstart;value=date:20261225|TRANSP:TRANSPARENT",
                "2026-12-25 00:00..2026-12-26 00:00",
            ),
        ] {
            assert_eq!(spans(event), [span], "{event}");
        }
        // A moment takes no time, and what was called off does not take place.
        assert!(spans("DTSTART:20261224T180000").is_empty());
        let two = "DTSTART:20261224|STATUS:CANCELLED|END:VEVENT|BEGIN:VEVENT|DTSTART:20261225";
        assert_eq!(spans(two).len(), 1);
    }

    #[test]
    fn events_are_repeated() {
        let day = |event: &str| -> Vec<String> {
            spans(event).into_iter().map(|span| span[..10].to_owned()).collect()
        };
        for (event, days) in [
            ("DTSTART:20251225|RRULE:FREQ=YEARLY", "2026-12-25 2027-12-25 2028-12-25"),
            ("DTSTART:20240229|RRULE:FREQ=YEARLY", "2028-02-29"),
            (
                "DTSTART:20251127|RRULE:FREQ=YEARLY;BYMONTH=11;BYDAY=4TH",
                "2026-11-26 2027-11-25 2028-11-23",
            ),
            (
                "DTSTART:20250526|RRULE:FREQ=YEARLY;BYMONTH=5;BYDAY=-1MO",
                "2026-05-25 2027-05-31 2028-05-29",
            ),
            ("DTSTART:20250106|RRULE:FREQ=YEARLY;BYDAY=1MO", "2026-01-05 2027-01-04 2028-01-03"),
            ("DTSTART:20251225|RRULE:FREQ=YEARLY;INTERVAL=2", "2027-12-25"),
            ("DTSTART:20251225|RRULE:FREQ=YEARLY;COUNT=2", "2026-12-25"),
            ("DTSTART:20251225|RRULE:FREQ=YEARLY;UNTIL=20271225", "2026-12-25 2027-12-25"),
            (
                "DTSTART:20251225|RRULE:FREQ=YEARLY;UNTIL=20271224T235959Z|RDATE;VALUE=DATE:20280101",
                // The day after may be before that, as clocks further east have it.
                "2026-12-25 2027-12-25 2028-01-01",
            ),
            (
                "DTSTART:20251225|RRULE:FREQ=YEARLY|EXDATE;VALUE=DATE:20261225,20271225",
                "2028-12-25",
            ),
            (
                "DTSTART:20261113|RRULE:FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13;COUNT=2",
                "2026-11-13 2027-08-13",
            ),
            (
                "DTSTART:20261031|RRULE:FREQ=MONTHLY;BYMONTHDAY=-1;COUNT=3",
                "2026-10-31 2026-11-30 2026-12-31",
            ),
            ("DTSTART:20261031|RRULE:FREQ=MONTHLY;COUNT=2", "2026-10-31 2026-12-31"),
            (
                "DTSTART:20261006|RRULE:FREQ=WEEKLY;INTERVAL=2;COUNT=4;WKST=SU;BYDAY=TU,SU",
                "2026-10-06 2026-10-18 2026-10-20 2026-11-01",
            ),
            (
                "DTSTART:20261006|RRULE:FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU",
                "2026-10-06 2026-10-11 2026-10-20 2026-10-25",
            ),
            ("DTSTART:20261230|RRULE:FREQ=DAILY;INTERVAL=3;COUNT=2", "2026-12-30 2027-01-02"),
        ] {
            assert_eq!(day(event).join(" "), days, "{event}");
        }
        // A time on the wall clock stays one when the clocks change, and UNTIL is meant in UTC.
        assert_eq!(
            spans(
                "DTSTART;TZID=Europe/Berlin:20261024T120000|DURATION:PT1H|RRULE:FREQ=DAILY;UNTIL=20261025T110000Z"
            ),
            ["2026-10-24 12:00..2026-10-24 13:00", "2026-10-25 12:00..2026-10-25 13:00"]
        );
    }

    /// An end on another clock than the event's, as many calendars write it.
    #[test]
    fn a_day_whose_repetition_is_in_doubt_is_denied_and_not_allowed() {
        let until = |event: &str, action| {
            let holidays = Holidays::parse(&calendar(event)).unwrap();
            let zone = TimeZone::get("Europe/Berlin").unwrap();
            let at = |text: &str| text.parse::<Timestamp>().unwrap();
            let spans = holidays.spans(at("2026-01-01T00Z"), at("2031-01-01T00Z"), &zone, action);
            let last = spans.into_iter().map(|span| span.opens).max().unwrap();
            last.to_zoned(zone).strftime("%F").to_string()
        };
        let yearly = |start: &str, until: &str| format!("{start}|RRULE:FREQ=YEARLY;UNTIL={until}");
        let (day, local) = ("DTSTART;VALUE=DATE:20251225", "DTSTART:20251225T000000|DURATION:P1D");
        let zoned = "DTSTART;TZID=Europe/Berlin:20251225T000000|DURATION:P1D";
        for (start, end, denied, allowed) in [
            // Midnight in Berlin, in UTC.
            (day, "20271224T230000Z", "2027-12-25", "2026-12-25"),
            (local, "20271224T230000Z", "2027-12-25", "2026-12-25"),
            (day, "20271224T235959", "2027-12-25", "2026-12-25"),
            (day, "20271224T090000Z", "2026-12-25", "2026-12-25"),
            (day, "20271226T000000Z", "2027-12-25", "2027-12-25"),
            (zoned, "20271224T235959", "2027-12-25", "2026-12-25"),
            (zoned, "20271224", "2027-12-25", "2026-12-25"),
            // Of the same kind, and so without a doubt.
            (day, "20271224", "2026-12-25", "2026-12-25"),
            (day, "20271225", "2027-12-25", "2027-12-25"),
            (local, "20271224T235959", "2026-12-25", "2026-12-25"),
            (zoned, "20271224T225959Z", "2026-12-25", "2026-12-25"),
            (zoned, "20271224T230000Z", "2027-12-25", "2027-12-25"),
        ] {
            let event = yearly(start, end);
            assert_eq!(until(&event, Action::Deny), denied, "{event}");
            assert_eq!(until(&event, Action::Allow), allowed, "{event}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        for (event, said) in [
            ("SUMMARY:x", "line 3: the event has no DTSTART"),
            ("DTSTART:2026-12-25", "line 5: \"2026-12-25\" is neither a day"),
            ("DTSTART:20260230", "line 5: \"20260230\" is neither a day"),
            ("DTSTART:20261225T250000", "line 5: "),
            (
                "DTSTART;TZID=W. Europe Standard Time:20261225T100000",
                "line 5: there is no time zone",
            ),
            ("DTSTART;VALUE=PERIOD:20261225", "line 5: VALUE=PERIOD"),
            ("DTSTART:20261225|DTSTART:20261226", "line 6: DTSTART twice"),
            ("DTSTART:20261225|DTEND:20261224", "line 6: the event ends before it begins"),
            ("DTSTART:20261225|DTEND:20261226T100000Z", "line 6: "),
            ("DTSTART:20261225|DTEND:20261226|DURATION:P1D", "line 7: "),
            ("DTSTART:20261225|DURATION:1D", "line 6: \"1D\" is not a duration"),
            ("DTSTART:20261225|DURATION:-P1D", "line 6: \"-P1D\" is not a duration"),
            ("DTSTART:20261225|DURATION:PT1H", "line 6: "),
            ("DTSTART:20261225|RRULE:FREQ=HOURLY", "line 6: FREQ=HOURLY is not understood"),
            ("DTSTART:20261225|RRULE:FREQ=YEARLY;BYWEEKNO=20", "line 6: BYWEEKNO"),
            ("DTSTART:20261225|RRULE:FREQ=YEARLY;BYSETPOS=1", "line 6: BYSETPOS"),
            ("DTSTART:20261225|RRULE:INTERVAL=2", "line 6: RRULE has no FREQ"),
            ("DTSTART:20261225|RRULE:FREQ=YEARLY;INTERVAL=0", "line 6: INTERVAL=0"),
            ("DTSTART:20261225|RRULE:FREQ=WEEKLY;BYDAY=1MO", "line 6: BYDAY=1MO"),
            ("DTSTART:20261225|RRULE:FREQ=YEARLY;BYDAY=XX", "line 6: BYDAY=XX"),
            (
                "DTSTART:20261225|RRULE:FREQ=YEARLY;COUNT=2;UNTIL=20301225",
                "line 6: COUNT and UNTIL",
            ),
            ("DTSTART:20261225|RRULE:FREQ=YEARLY|RRULE:FREQ=DAILY", "line 7: RRULE twice"),
            ("DTSTART:20261225|RECURRENCE-ID:20261225", "line 6: RECURRENCE-ID"),
            ("DTSTART:20261225|EXRULE:FREQ=DAILY", "line 6: EXRULE"),
            ("DTSTART:20261225|EXDATE:2026", "line 6: \"2026\""),
            (
                "DTSTART:20261225T100000|RRULE:FREQ=YEARLY|EXDATE:20271225T100000Z",
                "line 7: a zone where the event has none",
            ),
            ("DTSTART:20261225|nonsense", "line 6: "),
            ("DTSTART;X=\"a:20261225", "line 5: "),
            ("DTSTART:20261225|END:VTODO", "line 6: END:VTODO ends nothing"),
            ("DTSTART:20261225|BEGIN:VEVENT", "line 6: an event inside an event"),
        ] {
            let error = Holidays::parse(&calendar(event)).unwrap_err().to_string();
            assert!(error.starts_with(said), "{event}: {error}");
        }
        for (text, said) in [
            ("", "line 1: there is no event"),
            ("<html>", "line 1: "),
            ("BEGIN:VEVENT", "line 1: expected BEGIN:VCALENDAR"),
            ("BEGIN:VCALENDAR\nEND:VCALENDAR\n", "line 2: there is no event"),
            (" folded", "line 1: "),
            ("BEGIN:VCALENDAR\nBEGIN:VEVENT\nDTSTART:20261225\n", "line 1: VCALENDAR begins here"),
        ] {
            let error = Holidays::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }

    #[test]
    fn bare_newlines_and_a_byte_order_mark_do_no_harm() {
        let text = calendar("DTSTART:20261225").replace('\r', "");
        assert!(Holidays::parse(&format!("\u{feff}{text}\n\n")).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(
            text in "(.|\n){0,80}",
            name in "(DTSTART|DTEND|DURATION|RRULE|EXDATE|RDATE)",
            value in ".{0,30}",
            date in "[0-9]{8}(T[0-9]{6}Z?)?",
            rule in "FREQ=(YEARLY|MONTHLY|WEEKLY|DAILY)(;(BYDAY|BYMONTH|BYMONTHDAY|COUNT|INTERVAL|UNTIL|WKST)=[0-9MOSU,+-]{0,9}){0,3}",
        ) {
            let _ = Holidays::parse(&text);
            let _ = Holidays::parse(&calendar(&format!("DTSTART:20261225|{name}:{value}")));
            let _ = Holidays::parse(&calendar(&format!("DTSTART:20261225T100000|{name}:{date}")));
            if let Ok(holidays) = Holidays::parse(&calendar(&format!("DTSTART:{date}|RRULE:{rule}"))) {
                let at = Timestamp::from_second(1_800_000_000).unwrap();
                let _ = holidays.spans(at, at, &TimeZone::UTC, Action::Allow);
            }
        }
    }
}
