//! `[[window]]`: when reboots may begin, and when they must not.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::places::{self, Places};
use super::table::{Fault, Secs, Table, text};
use crate::window::{
    Action, Calendar, Dates, Holidays, InvalidWindow, Locksmith, Rule, WeekRange, Window, Windows,
    zone_named,
};

/// Where the zone of this machine is written. Without it the zone is UTC.
const LOCAL_ZONE: &str = "/etc/localtime";

/// `[[window]]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowTable {
    #[serde(default)]
    action: Action,
    #[serde(default, deserialize_with = "text")]
    name: Option<String>,
    start: Option<Spanned<String>>,
    length: Option<Spanned<String>>,
    range: Option<Spanned<String>>,
    calendar: Option<Spanned<String>>,
    dates: Option<Spanned<Vec<Spanned<String>>>>,
    holidays: Option<Spanned<PathBuf>>,
    timezone: Option<Spanned<String>>,
    min_remaining_secs: Option<Spanned<Secs<0, 2_592_000>>>,
    splay_secs: Option<Spanned<Secs<0, 604_800>>>,
}

/// `[[window]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowSettings {
    /// Known by this name.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// When it is open.
    pub rule: WindowRule,
    /// Whose wall clock that means; this machine's if it says nothing.
    pub zone: Option<TimeZone>,
    /// So much must be left until reboots are no longer allowed.
    pub min_remaining: Duration,
    /// Machines begin within so long of its opening.
    pub splay: Duration,
}

/// When a window is open, as far as that is known before files are read.
#[derive(Debug, Clone, PartialEq)]
pub enum WindowRule {
    /// By a rule.
    Rule(Rule),
    /// As an iCalendar file says, which is read when everything is decided.
    File(PathBuf),
}

impl Table for WindowTable {
    type Settings = WindowSettings;

    fn check(self, whole: Range<usize>) -> Result<WindowSettings, Fault> {
        let (written, when) = self.when(whole)?;
        let zone = self
            .timezone
            .as_ref()
            .map(|name| zone_named(name.get_ref()).map_err(|error| Fault::at(name, error)));
        if self.action == Action::Deny {
            let misplaced = |key| format!("`{key}` belongs to a window that allows");
            if let Some(value) = &self.min_remaining_secs {
                return Err(Fault::at(value, misplaced("min_remaining_secs")));
            }
            if let Some(value) = &self.splay_secs {
                return Err(Fault::at(value, misplaced("splay_secs")));
            }
        }
        if let (WindowRule::Rule(Rule::Calendar(calendar)), Some(name)) = (&when, &self.timezone)
            && calendar.zone().is_some()
        {
            return Err(Fault::at(name, "`timezone` and a time zone in `calendar`; one is enough"));
        }
        Ok(WindowSettings {
            name: self.name.unwrap_or(written),
            action: self.action,
            rule: when,
            zone: zone.transpose()?,
            min_remaining: self.min_remaining_secs.map_or(Duration::ZERO, |s| s.into_inner().get()),
            splay: self.splay_secs.map_or(Duration::ZERO, |s| s.into_inner().get()),
        })
    }
}

impl WindowTable {
    /// What the window is called for want of a name, and when it is open.
    fn when(&self, whole: Range<usize>) -> Result<(String, WindowRule), Fault> {
        let ways = [
            self.start.as_ref().map(|value| ("start", value.span())),
            self.range.as_ref().map(|value| ("range", value.span())),
            self.calendar.as_ref().map(|value| ("calendar", value.span())),
            self.dates.as_ref().map(|value| ("dates", value.span())),
            self.holidays.as_ref().map(|value| ("holidays", value.span())),
        ];
        let mut ways = ways.into_iter().flatten();
        let (first, second) = (ways.next(), ways.next());
        if let (Some((one, _)), Some((other, span))) = (&first, second) {
            return Err(Fault::new(span, format!("`{one}` and `{other}` in one window")));
        }
        let has_length = matches!(first, Some(("start" | "calendar", _)));
        if let Some(length) = self.length.as_ref().filter(|_| !has_length) {
            return Err(Fault::at(length, "`length` goes with `start` or `calendar`"));
        }
        if let Some(start) = &self.start {
            let length = self.length_of("start", start)?;
            let rule = Locksmith::parse(start.get_ref(), length.get_ref());
            let rule = rule.map_err(|error| place(error, start, length))?;
            let name = format!("{} for {}", start.get_ref(), length.get_ref());
            return Ok((name, WindowRule::Rule(Rule::Locksmith(rule))));
        }
        if let Some(calendar) = &self.calendar {
            let length = self.length_of("calendar", calendar)?;
            let rule = Calendar::parse(calendar.get_ref(), length.get_ref());
            let rule = rule.map_err(|error| place(error, calendar, length))?;
            let name = format!("{} for {}", calendar.get_ref(), length.get_ref());
            return Ok((name, WindowRule::Rule(Rule::Calendar(rule))));
        }
        if let Some(range) = &self.range {
            let rule = WeekRange::parse(range.get_ref()).map_err(|e| Fault::at(range, e))?;
            return Ok((range.get_ref().clone(), WindowRule::Rule(Rule::Range(rule))));
        }
        if let Some(dates) = &self.dates {
            if dates.get_ref().is_empty() {
                return Err(Fault::at(dates, "`dates` must name at least one day"));
            }
            let mut texts = Vec::new();
            for date in dates.get_ref() {
                Dates::parse(&[date.get_ref()]).map_err(|error| Fault::at(date, error))?;
                texts.push(date.get_ref().as_str());
            }
            let rule = Dates::parse(&texts).map_err(|error| Fault::at(dates, error))?;
            return Ok((texts.join(", "), WindowRule::Rule(Rule::Dates(rule))));
        }
        if let Some(path) = &self.holidays {
            if path.get_ref().as_os_str().is_empty() {
                return Err(Fault::at(path, "`holidays` must name a file"));
            }
            return Ok((
                path.get_ref().display().to_string(),
                WindowRule::File(path.get_ref().clone()),
            ));
        }
        Err(Fault::new(
            whole,
            "a window needs one of `start`, `range`, `calendar`, `dates`, `holidays`",
        ))
    }

    fn length_of(&self, key: &str, value: &Spanned<String>) -> Result<&Spanned<String>, Fault> {
        let missing = || Fault::at(value, format!("`{key}` needs a `length`, as in 1h30m"));
        self.length.as_ref().ok_or_else(missing)
    }
}

fn place(error: InvalidWindow, value: &Spanned<String>, length: &Spanned<String>) -> Fault {
    match error {
        InvalidWindow::Length { .. } => Fault::at(length, error),
        _ => Fault::at(value, error),
    }
}

/// Reads the files that windows name, and settles their zones.
pub(super) fn decide(
    settings: Vec<WindowSettings>,
    places: &Places,
) -> Result<Windows, ConfigError> {
    let window = |settings: WindowSettings| {
        let rule = match settings.rule {
            WindowRule::Rule(rule) => rule,
            WindowRule::File(path) => {
                let holidays = read_holidays(&path).map_err(|problem| ConfigError::Setting {
                    setting: "window.holidays",
                    problem,
                    place: places.get(&places::holidays(&path)).cloned(),
                });
                Rule::Holidays(holidays?)
            }
        };
        Ok(Window {
            name: settings.name,
            action: settings.action,
            zone: settings.zone.map_or_else(local_zone, Ok)?,
            rule,
            min_remaining: settings.min_remaining,
            splay: settings.splay,
        })
    };
    settings.into_iter().map(window).collect::<Result<_, _>>().map(Windows)
}

fn read_holidays(path: &Path) -> Result<Holidays, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!("cannot read {shown}: {error}; expected an iCalendar file (.ics)")
    })?;
    Holidays::parse(&text).map_err(|error| match error {
        InvalidWindow::Line { line, problem } => format!("{shown}:{line}: {problem}"),
        error => format!("{shown}: {error}"),
    })
}

/// The zone of this machine, as its `TZ` or its `/etc/localtime` says.
///
/// # Errors
/// [`ConfigError`] if they say something that cannot be understood.
pub fn local_zone() -> Result<TimeZone, ConfigError> {
    match TimeZone::try_system() {
        Ok(zone) => Ok(zone),
        Err(_) if std::env::var_os("TZ").is_none() && !Path::new(LOCAL_ZONE).exists() => {
            Ok(TimeZone::UTC)
        }
        Err(error) => Err(ConfigError::of_setting(
            "window.timezone",
            format!(
                "the zone of this machine is unclear ({error}); set it here, or mend TZ or {LOCAL_ZONE}"
            ),
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Fragment, Settings};
    use super::*;

    fn windows(text: &str) -> Result<Windows, String> {
        let fragment = Fragment::parse(Path::new("t.toml"), text).map_err(|e| e.to_string())?;
        Settings::decide(fragment).map(|settings| settings.windows).map_err(|e| e.to_string())
    }

    #[test]
    fn each_form_makes_a_window_named_after_itself() {
        for (keys, name) in [
            ("start = \"Thu 23:00\"\nlength = \"1h30m\"", "Thu 23:00 for 1h30m"),
            ("range = \"Fri 18:00-Mon 08:00\"", "Fri 18:00-Mon 08:00"),
            ("calendar = \"Sat *-*-1..7 22:00\"\nlength = \"2h\"", "Sat *-*-1..7 22:00 for 2h"),
            (
                "dates = [\"2026-11-27\", \"2026-12-24..2027-01-02\"]",
                "2026-11-27, 2026-12-24..2027-01-02",
            ),
            ("range = \"22:00-04:00\"\nname = \"nights\"", "nights"),
        ] {
            let found = windows(&format!("[[window]]\n{keys}\n")).unwrap();
            assert_eq!(found.0[0].name, name);
            assert_eq!(found.0[0].action, Action::Allow);
        }
        let text = "[[window]]\naction = \"deny\"\nrange = \"22:00-04:00\"\ntimezone = \"Asia/Kolkata\"\n\
            [[window]]\nrange = \"22:00-04:00\"\nmin_remaining_secs = 600\nsplay_secs = 1800\n";
        let found = windows(text).unwrap().0;
        assert_eq!(
            (found[0].action, found[0].zone.iana_name()),
            (Action::Deny, Some("Asia/Kolkata"))
        );
        assert_eq!(found[1].min_remaining, Duration::from_secs(600));
        assert_eq!(found[1].splay, Duration::from_secs(1800));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (keys, said) in [
            ("", "t.toml:1:1: a window needs one of `start`"),
            (
                "action = \"alow\"",
                "t.toml:2:10: `action`: unknown value `alow`; did you mean `allow`?",
            ),
            ("name = \" \"\nrange = \"1:00-2:00\"", "t.toml:2:8: `name`: must not be blank"),
            (
                "rnage = \"1:00-2:00\"",
                "t.toml:2:1: unknown key `rnage` in [[window]]; did you mean `range`?",
            ),
            (
                "start = \"25:00\"\nlength = \"1h\"",
                "t.toml:2:9: `start`: window start \"25:00\" is not a time",
            ),
            (
                "start = \"5:00\"\nlength = \"24h\"",
                "t.toml:3:10: `length`: window length \"24h\" is too long",
            ),
            ("start = \"5:00\"", "t.toml:2:9: `start` needs a `length`"),
            ("length = \"1h\"", "t.toml:2:10: `length` goes with"),
            ("range = \"1:00-2:00\"\nlength = \"1h\"", "t.toml:3:10: `length` goes with"),
            ("range = \"sat-sun\"", "t.toml:2:9: `range`: range \"sat-sun\": expected"),
            ("range = \"\"", "t.toml:2:9: `range`: range \"\": expected"),
            (
                "calendar = \"25:00\"\nlength = \"1h\"",
                "t.toml:2:12: `calendar`: calendar \"25:00\": hour 25",
            ),
            (
                "calendar = \"daily\"\nlength = \"0\"",
                "t.toml:3:10: `length`: window length \"0\" is no time",
            ),
            ("range = \"1:00-2:00\"\ndates = [\"2026-11-27\"]", "t.toml:3:9: `range` and `dates`"),
            ("dates = []", "t.toml:2:9: `dates` must name"),
            (
                "dates = [\"2026-11-27\", \"2026-11-31\"]",
                "t.toml:2:24: `dates`: date \"2026-11-31\"",
            ),
            ("holidays = \"\"", "t.toml:2:12: `holidays` must name"),
            (
                "range = \"1:00-2:00\"\ntimezone = \"Mars/Base\"",
                "t.toml:3:12: `timezone`: there is no time zone",
            ),
            (
                "calendar = \"daily UTC\"\nlength = \"1h\"\ntimezone = \"UTC\"",
                "t.toml:4:12: `timezone` and a time zone",
            ),
            (
                "range = \"1:00-2:00\"\nsplay_secs = -1",
                "t.toml:3:14: `splay_secs`: -1 is not from 0 to 604800",
            ),
            (
                "range = \"1:00-2:00\"\nmin_remaining_secs = 9999999",
                "t.toml:3:22: `min_remaining_secs`: 9999999 is not from 0 to 2592000",
            ),
            (
                "action = \"deny\"\nrange = \"1:00-2:00\"\nsplay_secs = 5",
                "t.toml:4:14: `splay_secs` belongs to",
            ),
            (
                "action = \"deny\"\nrange = \"1:00-2:00\"\nmin_remaining_secs = 5",
                "t.toml:4:22: `min_remaining_secs` belongs to",
            ),
        ] {
            let error = windows(&format!("[[window]]\n{keys}\n")).unwrap_err();
            assert!(error.starts_with(said), "{keys}: {error}");
        }
    }

    #[test]
    fn a_holidays_file_is_read_and_named_when_it_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("holidays.ics");
        let config = format!("[[window]]\naction = \"deny\"\nholidays = {file:?}\n");
        let error = windows(&config).unwrap_err();
        let said = format!("t.toml:3:12: window.holidays: cannot read {}: No such", file.display());
        assert!(error.starts_with(&said), "{error}");
        std::fs::write(&file, "BEGIN:VCALENDAR\nBEGIN:VEVENT\nDTSTART:x\n").unwrap();
        let error = windows(&config).unwrap_err();
        assert!(
            error.starts_with(&format!(
                "t.toml:3:12: window.holidays: {}:1: VCALENDAR begins here",
                file.display()
            )),
            "{error}"
        );
        let event = "BEGIN:VEVENT\nDTSTART;VALUE=DATE:20261225\nEND:VEVENT";
        std::fs::write(&file, format!("BEGIN:VCALENDAR\n{event}\nEND:VCALENDAR\n")).unwrap();
        assert_eq!(windows(&config).unwrap().0[0].name, file.display().to_string());
    }
}
