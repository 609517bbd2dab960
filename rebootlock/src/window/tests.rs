//! What a window means, alone and with others.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use jiff::Zoned;
use proptest::prelude::*;

use super::*;
use crate::id::MachineId;

fn at(text: &str) -> Timestamp {
    match text.parse::<Zoned>() {
        Ok(zoned) => zoned.timestamp(),
        Err(_) => text.parse().unwrap(),
    }
}

fn utc(rule: Rule) -> Window {
    Window::new("w", TimeZone::UTC, rule)
}

fn locksmith(start: &str, length: &str) -> Rule {
    Rule::Locksmith(Locksmith::parse(start, length).unwrap())
}

fn range(text: &str) -> Rule {
    Rule::Range(WeekRange::parse(text).unwrap())
}

fn deny(rule: Rule) -> Window {
    Window { name: "freeze".to_owned(), action: Action::Deny, ..utc(rule) }
}

fn berlin(rule: Rule, action: Action) -> Window {
    Window { action, ..Window::new("w", TimeZone::get("Europe/Berlin").unwrap(), rule) }
}

fn machine(id: &str) -> MachineId {
    MachineId::new(id).unwrap()
}

fn is_open(window: &Window, now: &str) -> bool {
    !window.spans_at(at(now)).is_empty()
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
        assert!(Locksmith::parse(start, length).is_ok(), "{start} {length}");
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
        let error = Locksmith::parse(start, "1h").unwrap_err();
        assert_eq!(error, InvalidWindow::Start(start.to_owned()));
    }
    for length in ["", "1", "h", "-1h", "1 h", "1d", "1h30"] {
        let error = Locksmith::parse("1:00", length).unwrap_err().to_string();
        assert!(error.contains("is not a duration"), "{length}: {error}");
    }
    for (start, length) in [("1:00", "24h"), ("Mon 1:00", "168h")] {
        let error = Locksmith::parse(start, length).unwrap_err().to_string();
        assert!(error.contains("is too long"), "{length}: {error}");
    }
}

#[test]
fn locksmiths_window_is_open_from_its_start_to_its_last_instant() {
    let window = utc(locksmith("Thu 23:00", "1h30m"));
    for (now, open) in [
        ("2026-11-19T22:59:59Z", false),
        ("2026-11-19T23:00:00Z", true),
        ("2026-11-20T00:30:00Z", true),
        ("2026-11-20T00:30:00.000000001Z", false),
        ("2026-11-20T00:30:01Z", false),
        ("2026-11-18T23:10:00Z", false),
    ] {
        assert_eq!(is_open(&window, now), open, "{now}");
    }
    let next = window.next_opening(at("2026-11-19T23:00:00Z"));
    assert_eq!(next, Some(at("2026-11-26T23:00:00Z")));
}

#[test]
fn every_other_window_ends_before_its_last_instant() {
    let window = utc(range("Tue 22:00-23:00"));
    for (now, open) in [
        ("2026-11-17T22:30:00Z", true),
        ("2026-11-17T22:59:59.999999999Z", true),
        ("2026-11-17T23:00:00Z", false),
        ("2026-11-16T22:30:00Z", false),
    ] {
        assert_eq!(is_open(&window, now), open, "{now}");
    }
    let window = utc(range("Sat 22:00-04:00"));
    assert!(is_open(&window, "2026-11-22T03:59:59Z"));
    assert!(!is_open(&window, "2026-11-22T04:00:00Z"));
    let window = utc(range("Tue 22:00-Tue 04:00"));
    assert!(is_open(&window, "2026-11-17T03:59:59Z"), "six days and six hours");
    assert!(!is_open(&window, "2026-11-17T04:00:00Z"));
}

#[test]
fn a_start_and_length_last_their_time_on_the_days_the_clocks_change() {
    let window = berlin(locksmith("02:30", "1h"), Action::Allow);
    // 02:30 does not exist on this day: it begins when the clocks jump.
    assert!(!is_open(&window, "2026-03-29T01:59:59+01:00[Europe/Berlin]"));
    assert!(is_open(&window, "2026-03-29T03:00:00+02:00[Europe/Berlin]"));
    assert!(is_open(&window, "2026-03-29T03:30:00+02:00[Europe/Berlin]"));
    assert!(!is_open(&window, "2026-03-29T04:00:01+02:00[Europe/Berlin]"));
    // 02:30 exists twice: it begins the first time, and lasts one real hour.
    assert!(is_open(&window, "2026-10-25T02:30:00+02:00[Europe/Berlin]"));
    assert!(is_open(&window, "2026-10-25T02:29:00+01:00[Europe/Berlin]"));
    assert!(!is_open(&window, "2026-10-25T02:31:00+01:00[Europe/Berlin]"));
}

/// How many minutes of a day a window is open.
fn minutes(window: &Window, day: &str) -> usize {
    let begin = at(&format!("{day}T00:00[Europe/Berlin]"));
    (0..26 * 60)
        .filter(|minute| {
            !window.spans_at(begin + jiff::SignedDuration::from_mins(*minute)).is_empty()
        })
        .count()
}

#[test]
fn a_range_follows_the_wall_clock_on_the_days_the_clocks_change() {
    let (spring, autumn) = ("2026-03-29", "2026-10-25");
    for (text, action, on_spring, on_autumn) in [
        ("Sun 02:00-03:00", Action::Allow, 0, 120),
        ("Sun 02:00-03:00", Action::Deny, 0, 120),
        ("Sun 01:30-02:30", Action::Allow, 30, 60),
        ("Sun 01:30-02:30", Action::Deny, 30, 120),
        ("Sun 02:30-03:30", Action::Allow, 30, 120),
        ("Sun 02:15-02:45", Action::Allow, 0, 30),
        ("Sun 02:15-02:45", Action::Deny, 0, 90),
    ] {
        let window = berlin(range(text), action);
        assert_eq!(minutes(&window, spring), on_spring, "{text} {action:?} in spring");
        assert_eq!(minutes(&window, autumn), on_autumn, "{text} {action:?} in autumn");
    }
}

#[test]
fn calendars_and_dates_follow_the_same_rules() {
    let hourly = Rule::Calendar(Calendar::parse("Sun *-*-* 02:00", "1h").unwrap());
    let window = berlin(hourly, Action::Allow);
    assert_eq!(minutes(&window, "2026-03-29"), 60);
    assert_eq!(minutes(&window, "2026-10-25"), 60);
    let dates = Dates::parse(&["2026-03-29", "2026-10-25 02:00..2026-10-25 02:30"]).unwrap();
    let window = berlin(Rule::Dates(dates.clone()), Action::Allow);
    assert_eq!(minutes(&window, "2026-03-29"), 23 * 60);
    assert_eq!(minutes(&window, "2026-10-25"), 30);
    assert_eq!(minutes(&berlin(Rule::Dates(dates), Action::Deny), "2026-10-25"), 90);
}

#[test]
fn a_zone_in_the_expression_is_the_one_that_counts() {
    let calendar = Calendar::parse("22:00 America/New_York", "1h").unwrap();
    let window = berlin(Rule::Calendar(calendar), Action::Allow);
    assert!(is_open(&window, "2026-11-19T22:30:00-05:00[America/New_York]"));
    assert!(!is_open(&window, "2026-11-19T22:30:00+01:00[Europe/Berlin]"));
}

#[test]
fn without_windows_it_is_always_open() {
    let verdict = Verdict::Open { window: None, until: None };
    assert_eq!(Windows::default().judge(at("2026-11-19T22:59:59Z"), &machine("m")), verdict);
}

#[test]
fn deny_beats_allow_and_is_named() {
    let windows = Windows(vec![utc(range("22:00-23:00")), deny(range("Thu 22:30-Fri 08:00"))]);
    let judge = |now: &str| windows.judge(at(now), &machine("m"));
    let said = |now: &str| judge(now).sentence(&TimeZone::UTC);
    // 19 November 2026 is a Thursday.
    assert!(judge("2026-11-19T22:29:59Z").is_open());
    assert_eq!(
        said("2026-11-19T22:00:00Z"),
        "the reboot window \"w\" is open until Thu 2026-11-19 22:30 UTC"
    );
    assert_eq!(
        said("2026-11-19T22:30:00Z"),
        "the window \"freeze\" denies reboots until Fri 2026-11-20 08:00 UTC"
    );
    assert_eq!(judge("2026-11-19T22:30:00Z").word(), "denied");
    assert_eq!(said("2026-11-20T08:00:00Z"), "the reboot window opens Fri 2026-11-20 22:00 UTC");
    assert_eq!(judge("2026-11-20T08:00:00Z").word(), "outside");
}

#[test]
fn without_a_window_that_allows_only_what_is_denied_is_closed() {
    let windows =
        Windows(vec![deny(Rule::Dates(Dates::parse(&["2026-12-24..2026-12-26"]).unwrap()))]);
    let verdict = windows.judge(at("2026-11-19T22:00:00Z"), &machine("m"));
    assert_eq!(verdict, Verdict::Open { window: None, until: Some(at("2026-12-24T00:00:00Z")) });
    assert!(!windows.judge(at("2026-12-25T12:00:00Z"), &machine("m")).is_open());
    let next = windows.next_start(at("2026-12-25T12:00:00Z"), &machine("m"));
    assert_eq!(next, Some(at("2026-12-27T00:00:00Z")));
    assert!(windows.judge(at("2026-12-27T00:00:00Z"), &machine("m")).is_open());
}

#[test]
fn a_window_that_has_passed_never_opens_again() {
    let windows = Windows(vec![utc(Rule::Dates(Dates::parse(&["2026-01-01"]).unwrap()))]);
    let verdict = windows.judge(at("2026-11-19T22:00:00Z"), &machine("m"));
    assert_eq!(verdict, Verdict::Outside { opens: None });
    assert_eq!(verdict.to_string(), "no reboot window opens any more");
    assert_eq!(windows.next_start(at("2026-11-19T22:00:00Z"), &machine("m")), None);
    let windows = Windows(vec![deny(range("Mon 00:00-Mon 00:00"))]);
    assert_eq!(windows.next_start(at("2026-11-19T22:00:00Z"), &machine("m")), None);
    let verdict = windows.judge(at("2026-11-19T22:00:00Z"), &machine("m"));
    assert!(verdict.to_string().ends_with("with no end in sight"), "{verdict}");
}

/// Many short windows in a row have an end, and it is found however many they are.
#[test]
fn windows_of_a_minute_each_end_when_the_last_of_them_does() {
    let minutes = |expression: &str, hours: u64| Window {
        min_remaining: Duration::from_secs(hours * 3600),
        ..utc(Rule::Calendar(Calendar::parse(expression, "1m").unwrap()))
    };
    let saturday = Windows(vec![minutes("Sat *-*-* *:*", 12)]);
    let judge = |windows: &Windows, now: &str| windows.judge(at(now), &machine("m")).word();
    assert_eq!(judge(&saturday, "2026-11-21T12:00:00Z"), "open");
    assert_eq!(judge(&saturday, "2026-11-21T12:00:01Z"), "too-little-left");
    assert_eq!(judge(&saturday, "2026-11-21T16:00:00Z"), "too-little-left");
    let openings = saturday.next_openings(at("2026-11-20T00:00:00Z"), 2);
    assert_eq!(openings[0].opens, at("2026-11-21T00:00:00Z"));
    assert_eq!(openings[0].closes, Some(at("2026-11-22T00:00:00Z")));
    assert_eq!(openings[1].opens, at("2026-11-28T00:00:00Z"));
    let most = Windows(vec![minutes("*:*", 30 * 24)]);
    let verdict = most.judge(at("2026-11-21T16:00:00Z"), &machine("m"));
    assert!(matches!(verdict, Verdict::Open { until: None, .. }), "{verdict}");
}

#[test]
fn enough_must_be_left_of_all_windows_together() {
    let wants = |rule, minutes: u64| Window {
        min_remaining: Duration::from_secs(minutes * 60),
        ..utc(rule)
    };
    let windows = Windows(vec![wants(range("22:00-23:00"), 30)]);
    let judge = |windows: &Windows, now: &str| windows.judge(at(now), &machine("m")).word();
    assert_eq!(judge(&windows, "2026-11-19T22:30:00Z"), "open");
    assert_eq!(judge(&windows, "2026-11-19T22:30:01Z"), "too-little-left");
    assert_eq!(judge(&windows, "2026-11-19T23:00:00Z"), "outside");
    let verdict = windows.judge(at("2026-11-19T22:50:00Z"), &machine("m"));
    assert_eq!(
        verdict.to_string(),
        "the reboot window \"w\" closes Thu 2026-11-19 23:00 UTC, and 30m must be left"
    );
    let next = windows.next_start(at("2026-11-19T22:50:00Z"), &machine("m"));
    assert_eq!(next, Some(at("2026-11-20T22:00:00Z")));
    // One that touches it goes on where it ends; one that denies ends it.
    let longer = Windows(vec![wants(range("22:00-23:00"), 30), wants(range("23:00-24:00"), 5)]);
    assert_eq!(judge(&longer, "2026-11-19T22:50:00Z"), "open");
    let shorter = Windows(vec![wants(range("22:00-23:00"), 30), deny(range("22:20-22:25"))]);
    assert_eq!(judge(&shorter, "2026-11-19T22:00:00Z"), "too-little-left");
    assert_eq!(judge(&shorter, "2026-11-19T22:25:00Z"), "open");
    // Another window may begin in the middle and want less.
    let other = Windows(vec![wants(range("22:00-23:00"), 120), wants(range("22:40-23:00"), 5)]);
    let next = other.next_start(at("2026-11-19T22:10:00Z"), &machine("m"));
    assert_eq!(next, Some(at("2026-11-19T22:40:00Z")));
}

#[test]
fn a_window_that_is_always_shorter_than_it_must_be_never_starts_anything() {
    let window = Window { min_remaining: Duration::from_secs(7200), ..utc(range("22:00-23:00")) };
    let windows = Windows(vec![window]);
    assert_eq!(windows.next_start(at("2026-11-19T22:10:00Z"), &machine("m")), None);
}

#[test]
fn splay_gives_each_machine_a_moment_of_its_own() {
    let window = Window { splay: Duration::from_secs(1800), ..utc(range("22:00-23:00")) };
    let windows = Windows(vec![window.clone()]);
    assert!(windows.depend_on_machine());
    let opening = at("2026-11-19T22:00:00Z");
    let mut starts = Vec::new();
    for number in 0..200 {
        let machine = machine(&format!("web-{number}"));
        let start = windows.next_start(at("2026-11-19T12:00:00Z"), &machine).unwrap();
        let delay = clock::until(opening, start);
        assert!(start >= opening && delay <= Duration::from_secs(1800), "{start}");
        if start > opening {
            let before = windows.judge(start - jiff::SignedDuration::from_secs(1), &machine);
            assert_eq!(before, Verdict::Splay { window: &windows.0[0], starts: start });
        }
        assert!(windows.judge(start, &machine).is_open());
        starts.push(delay.as_secs());
    }
    starts.sort_unstable();
    assert!(starts[20] < 400 && starts[180] > 1400, "spread evenly: {starts:?}");
    starts.dedup();
    assert!(starts.len() > 150, "{starts:?}");
    // The same whenever it is asked, another next time. Fixed: machines of one fleet may run
    // different versions.
    let span = |day: &str| window.spans_at(at(&format!("{day}T22:00:00Z")))[0];
    let delay = |day: &str| Windows::delay(&window, span(day), &machine("web-1")).as_secs();
    assert_eq!([delay("2026-11-19"), delay("2026-11-20")], [1589, 935]);
}

#[test]
fn splay_leaves_enough_of_a_short_window() {
    let window = Window {
        splay: Duration::from_secs(86_400),
        min_remaining: Duration::from_secs(3000),
        ..utc(range("22:00-23:00"))
    };
    let windows = Windows(vec![window]);
    for number in 0..100 {
        let machine = machine(&format!("web-{number}"));
        let start = windows.next_start(at("2026-11-19T12:00:00Z"), &machine).unwrap();
        assert!(start <= at("2026-11-19T22:10:00Z"), "{start}");
    }
}

#[test]
fn openings_are_those_of_all_windows_together() {
    let windows = Windows(vec![
        utc(range("Thu 22:00-24:00")),
        utc(range("Fri 00:00-02:00")),
        deny(range("Fri 01:00-01:30")),
    ]);
    let openings = windows.next_openings(at("2026-11-19T12:00:00Z"), 3);
    let times: Vec<_> = openings.iter().map(|o| (o.opens, o.closes.unwrap())).collect();
    assert_eq!(
        times,
        [
            (at("2026-11-19T22:00:00Z"), at("2026-11-20T01:00:00Z")),
            (at("2026-11-20T01:30:00Z"), at("2026-11-20T02:00:00Z")),
            (at("2026-11-26T22:00:00Z"), at("2026-11-27T01:00:00Z")),
        ]
    );
    // The one it is in is not the next.
    let next = windows.next_openings(at("2026-11-19T23:00:00Z"), 1)[0];
    assert_eq!(next.opens, at("2026-11-20T01:30:00Z"));
    assert!(Windows::default().next_openings(at("2026-11-19T23:00:00Z"), 9).is_empty());
}

#[test]
fn rare_days_are_found() {
    let leap = Rule::Calendar(Calendar::parse("*-02-29 03:00", "1h").unwrap());
    let next = utc(leap).next_opening(at("2028-03-01T00:00:00Z"));
    assert_eq!(next, Some(at("2032-02-29T03:00:00Z")));
}

#[test]
fn the_ends_of_time_do_no_harm() {
    for rule in [locksmith("23:00", "1h"), range("Fri 18:00-Mon 08:00")] {
        let windows = Windows(vec![utc(rule)]);
        for now in [Timestamp::MIN, Timestamp::MAX] {
            let _ = windows.judge(now, &machine("m"));
            let _ = windows.next_start(now, &machine("m"));
            let _ = windows.next_openings(now, 3);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_makes_it_panic(start in ".{0,12}", length in ".{0,12}") {
        let _ = Locksmith::parse(&start, &length);
    }

    #[test]
    fn it_is_open_at_its_next_start_and_closed_just_before(
        minute in 0..(24 * 60_i32), length in 1..600_u32, second in 0..(365 * 86400_i64)
    ) {
        let start = format!("{}:{:02}", minute / 60, minute % 60);
        let zone = TimeZone::get("America/New_York").unwrap();
        let window = Window::new("w", zone, locksmith(&start, &format!("{length}m")));
        let now = Timestamp::from_second(1_767_225_600 + second).unwrap();
        let next = window.next_opening(now).unwrap();
        prop_assert!(next > now && !window.spans_at(next).is_empty());
        if window.spans_at(now).is_empty() {
            let before = next - jiff::SignedDuration::from_nanos(1);
            prop_assert!(window.spans_at(before).is_empty());
        }
    }
}
