//! What the tags of a machine say: its group, how many of that may be down, and how it proves that it is
//! ready. Pure.

use std::time::Duration;

use axum::http::Uri;
use rebootlock::id::{Group, InvalidName};

use super::body::Machine;
use super::template;

const GROUP: &str = "DisruptionManagerGroupIdentifier";
const LIMIT: &str = "DisruptionManagerGroupMaximumDisrupting";
const READY_TIMEOUT: &str = "DisruptionManagerReadyTimeout";
const READY_URL: &str = "DisruptionManagerReadyUrl";

/// How long a machine may take to be ready unless it says so.
const READY_WITHIN: Duration = Duration::from_secs(15 * 60);

/// Longer is not waited for.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Whom the machine shares a limit with: its tag, else the folder that its image is in, so that all
/// versions of an image are one group. An empty tag is the default group.
///
/// # Errors
/// [`InvalidName`] if no group can be called that.
pub(super) fn group(machine: &Machine) -> Result<Group, InvalidName> {
    match machine.tags.get(GROUP) {
        Some(tag) if tag.is_empty() => Ok(Group::default()),
        Some(tag) => Group::new(tag.clone()),
        None => Group::new(folder(&machine.required_image)),
    }
}

/// Everything before the last slash, put straight, as Go's `path.Dir` does; `.` if there is nothing.
fn folder(path: &str) -> String {
    let (folder, _) = path.rsplit_once('/').map_or(("", path), |(folder, rest)| (folder, rest));
    let rooted = path.starts_with('/');
    let mut segments: Vec<&str> = Vec::new();
    for segment in folder.split('/') {
        match segment {
            "" | "." => {}
            ".." if segments.last().is_some_and(|last| *last != "..") => drop(segments.pop()),
            ".." if rooted => {}
            segment => segments.push(segment),
        }
    }
    match (rooted, segments.join("/")) {
        (true, folder) => format!("/{folder}"),
        (false, folder) if folder.is_empty() => ".".to_owned(),
        (false, folder) => folder,
    }
}

/// How many of its group may be down at once. What is no such number, and 0, is 1.
pub(super) fn limit(machine: &Machine) -> u32 {
    let tag = machine.tags.get(LIMIT).map(String::as_str).unwrap_or_default();
    // A sign is none of the digits.
    if tag.is_empty() || !tag.bytes().all(|b| b.is_ascii_digit()) {
        return 1;
    }
    let limit = tag.parse::<u64>().unwrap_or(1).max(1);
    u32::try_from(limit).unwrap_or(u32::MAX)
}

/// How a machine proves that it is ready again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ready {
    /// What is asked; only time passes without.
    pub(super) url: Option<String>,
    /// For how long at most.
    pub(super) within: Duration,
    /// What of the tags cannot be understood.
    pub(super) problems: Vec<String>,
}

/// What the machine says about that, if it says anything.
///
/// What cannot be understood never lets go of a slot: without an address only the time counts, without a
/// time the usual one.
pub(super) fn ready(machine: &Machine) -> Option<Ready> {
    let (timeout, url) = (machine.tags.get(READY_TIMEOUT), machine.tags.get(READY_URL));
    if timeout.is_none() && url.is_none() {
        return None;
    }
    let mut problems = Vec::new();
    let within = timeout.map_or(READY_WITHIN, |text| {
        duration(text).unwrap_or_else(|| {
            problems.push(format!("{READY_TIMEOUT} {text:?} is no time such as 90s or 10m"));
            READY_WITHIN
        })
    });
    let expanded = |text: &str| -> Result<String, String> {
        let url = template::expand(text, &machine.data()).map_err(|problem| problem.to_string())?;
        as_sent(&url)
    };
    let url = url.and_then(|text| match expanded(text) {
        Ok(url) => Some(url),
        Err(problem) => {
            problems.push(format!("{READY_URL} {text:?}: {problem}"));
            None
        }
    });
    let url = url.filter(|url| !url.is_empty());
    Some(Ready { url, within: within.min(LONGEST), problems })
}

/// An address as clients send it: without blanks around it, and with those after its host encoded. None at
/// all is one, too.
///
/// # Errors
/// What cannot be asked.
fn as_sent(address: &str) -> Result<String, String> {
    let address = address.trim();
    if address.is_empty() {
        return Ok(String::new());
    }
    let wrong = || format!("{address:?} is no http or https address");
    let (scheme, rest) = address.split_once("://").ok_or_else(wrong)?;
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let mut url = format!("{}://{host}", scheme.to_ascii_lowercase());
    for c in path.chars() {
        match c {
            ' ' | '<' | '>' | '`' => url.push_str(&format!("%{:02X}", u32::from(c))),
            c => url.push(c),
        }
    }
    let parsed: Uri = url.parse().map_err(|_| wrong())?;
    let known = matches!(parsed.scheme_str(), Some("http" | "https"));
    let named = parsed.authority().is_some_and(|authority| {
        let after = authority.as_str().rsplit_once(authority.host()).map_or("", |(_, after)| after);
        let port = matches!(after, "" | ":") || authority.port_u16().is_some();
        !authority.host().is_empty() && port
    });
    if known && named { Ok(url) } else { Err(wrong()) }
}

/// Go's way to write a time: numbers, with or without a fraction, each with its unit. A negative one is
/// none at all.
fn duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos: u128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, after) = rest.split_at(end);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => {
                after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len()))
            }
            None => ("", after),
        };
        let (unit, after) = after
            .split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        // Go's times are 64 bits of nanoseconds; a longer one is an error there.
        let number = |digits: &str| match digits {
            "" => Some(0),
            digits => digits.parse::<u64>().ok().map(u128::from),
        };
        nanos += number(whole)? * scale;
        // What is less than a nanosecond is of no matter.
        let fraction = fraction.get(..fraction.len().min(15))?;
        nanos += number(fraction)? * scale / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        rest = after;
    }
    let nanos = i64::try_from(nanos).ok()?;
    let nanos = if negative { 0 } else { u64::try_from(nanos).ok()? };
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tagged(tags: &[(&str, &str)]) -> Machine {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let mut machine = Machine::default();
        (machine.hostname, machine.tags) = ("h".to_owned(), tags.collect());
        machine
    }

    #[test]
    fn a_group_is_a_tag_or_the_folder_of_an_image() {
        for (image, name) in [
            ("", "."),
            ("flat", "."),
            ("a/b/1", "a/b"),
            ("a/b/2", "a/b"),
            ("a/b", "a"),
            ("/x", "/"),
            ("a//b/../c/i", "a/c"),
            ("q/r/", "q/r"),
            ("../x/i", "../x"),
            ("a/../../i", ".."),
            ("/../i", "/"),
        ] {
            let mut machine = Machine::default();
            machine.required_image = image.to_owned();
            assert_eq!(group(&machine).unwrap().as_str(), name, "{image:?}");
        }
        assert_eq!(group(&tagged(&[(GROUP, "a/b")])).unwrap().as_str(), "a/b");
        assert!(group(&tagged(&[(GROUP, "")])).unwrap().is_default());
        assert!(group(&tagged(&[(GROUP, "a\nb")])).is_err());
        // The names of tags are what they are.
        let machine = tagged(&[("disruptionmanagergroupidentifier", "x")]);
        assert_eq!(group(&machine).unwrap().as_str(), ".");
    }

    #[test]
    fn a_limit_is_a_number_of_digits_or_1() {
        assert_eq!(limit(&tagged(&[])), 1);
        for (tag, number) in [
            ("3", 3),
            ("02", 2),
            ("18446744073709551615", u32::MAX),
            ("18446744073709551616", 1),
            ("0", 1),
            ("-2", 1),
            ("+2", 1),
            (" 2", 1),
            ("2.0", 1),
            ("0x10", 1),
            ("1e3", 1),
            ("2_0", 1),
            ("", 1),
            ("٣", 1),
        ] {
            assert_eq!(limit(&tagged(&[(LIMIT, tag)])), number, "{tag:?}");
        }
    }

    #[test]
    fn times_are_written_as_in_go() {
        let secs = Duration::from_secs_f64;
        for (text, time) in [
            ("0", Some(0.0)),
            ("+0", Some(0.0)),
            ("5s", Some(5.0)),
            ("1h30m", Some(5400.0)),
            ("1.5h", Some(5400.0)),
            (".5s", Some(0.5)),
            ("1.s", Some(1.0)),
            ("100ms", Some(0.1)),
            ("1m1.25s", Some(61.25)),
            ("2us", Some(0.000_002)),
            ("2µs", Some(0.000_002)),
            ("-5m", Some(0.0)),
            ("30", None),
            ("", None),
            ("s", None),
            (".s", None),
            ("5 s", None),
            ("5d", None),
            ("-", None),
            ("9999999999h", None),
            ("1h-5m", None),
        ] {
            assert_eq!(duration(text), time.map(secs), "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_understood_lets_go_of_nothing() {
        assert_eq!(ready(&tagged(&[])), None);
        let url = |url: &str| Some(url.to_owned());
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        for (tags, expected, within, problems) in [
            (&[(READY_URL, "http://{{.Hostname}}/")][..], url("http://h/"), minutes(15), 0),
            (&[(READY_TIMEOUT, "5m")], None, minutes(5), 0),
            (&[(READY_TIMEOUT, "-5m")], None, minutes(0), 0),
            (&[(READY_TIMEOUT, "30")], None, minutes(15), 1),
            (
                &[(READY_TIMEOUT, "soon"), (READY_URL, "http://h/")],
                url("http://h/"),
                minutes(15),
                1,
            ),
            (&[(READY_URL, "http://{{.Nope}}/"), (READY_TIMEOUT, "5m")], None, minutes(5), 1),
            (&[(READY_URL, "")], None, minutes(15), 0),
            (&[(READY_TIMEOUT, "200000h")], None, LONGEST, 0),
        ] {
            let ready = ready(&tagged(tags)).unwrap();
            assert_eq!((ready.url, ready.within), (expected, within), "{tags:?}");
            assert_eq!(ready.problems.len(), problems, "{tags:?}");
        }
    }

    #[test]
    fn an_address_is_made_such_that_it_can_be_asked() {
        for (tag, sent) in [
            (" http://h:1/ready\n", Some("http://h:1/ready")),
            ("http://h/a b?c d", Some("http://h/a%20b?c%20d")),
            ("http://h?x", Some("http://h?x")),
            ("HTTPS://h/<a>", Some("https://h/%3Ca%3E")),
            ("http://h/a%20b", Some("http://h/a%20b")),
            ("http://[::1]:80/", Some("http://[::1]:80/")),
            ("", Some("")),
            ("  ", Some("")),
            ("h:1234/ready", None),
            ("/ready", None),
            ("ftp://h/", None),
            ("http:///ready", None),
            ("http://:80/", None),
            ("http://a b/", None),
            ("http://h:port/", None),
            ("http://h/\u{1}", None),
        ] {
            assert_eq!(as_sent(tag).ok().as_deref(), sent, "{tag:?}");
        }
        let ready = ready(&tagged(&[(READY_URL, "{{.Hostname}}:1234/"), (READY_TIMEOUT, "5m")]));
        let ready = ready.unwrap();
        assert_eq!((ready.url, ready.within), (None, Duration::from_secs(300)));
        let said = "DisruptionManagerReadyUrl \"{{.Hostname}}:1234/\": \"h:1234/\" is no http or https address";
        assert_eq!(ready.problems, [said]);
    }

    proptest! {
        #[test]
        fn no_tags_make_it_panic(
            image in "[a./]{0,12}",
            time in "[0-9.a-z-]{0,30}",
            url in "(http://)?\\PC{0,12}",
        ) {
            let mut machine = tagged(&[(READY_TIMEOUT, &time), (READY_URL, &url)]);
            machine.required_image = image;
            let _ = (group(&machine), ready(&machine));
        }
    }
}
