//! SUSE's `rebootmgr.conf`.

use std::collections::BTreeMap;

use rebootlock::id::Group;
use rebootlock::window::{Calendar, InvalidWindow};

use super::super::Fault;
use super::super::draft::{Draft, list, quoted};

const KEYS: [&str; 4] = ["window-start", "window-duration", "strategy", "lock-group"];

/// What it does without a window of its own.
const START: &str = "03:30";
const DURATION: &str = "1h";

/// Longest splay we know: a week.
const LONGEST_SPLAY: i64 = 604_800;

fn at(line: u64, problem: impl Into<String>) -> Fault {
    Fault::new(line, 1, problem)
}

pub(super) fn convert(text: &str) -> Result<Draft, Fault> {
    let mut draft = Draft::new("rebootmgr");
    let settings = read(text, &mut draft)?;
    let strategy = settings.get("strategy");
    let word = strategy.map_or("best-effort", |(_, word)| word.as_str()).to_ascii_lowercase();
    let agent = draft.table("agent");
    match word.replace('_', "-").as_str() {
        word @ ("best-effort" | "best-efford") => {
            if word == "best-efford" {
                agent.note("best-efford, as rebootmgr's own file spelled it for years");
            }
            agent
                .note(
                    "With a slot if the store answers, else without, as it was with etcd. Without a \
                     store at all \"reboot\" is the same; with one, \"etcd-lock\" is safer.",
                )
                .set("strategy", "best-effort");
        }
        "maint-window" => {
            agent
                .note(
                    "maint-window: in the window alone, and at once where there was none, without a \
                     lock. With a store \"etcd-lock\" is safer.",
                )
                .set("strategy", "best-effort");
        }
        "etcd-lock" => {
            agent.set("strategy", "etcd-lock");
        }
        "instantly" => {
            agent.note("instantly: no lock, and no window").set("strategy", "reboot");
        }
        "off" => {
            agent.set("strategy", "off");
        }
        "on" => {
            agent
                .note("\"on\" only took back an \"off\"; what was in force then is the default")
                .set("strategy", "best-effort");
        }
        other => {
            let line = strategy.map_or(1, |(line, _)| *line);
            let allowed = KNOWN_STRATEGIES;
            return Err(at(line, format!("strategy: {other:?} is none; known are {allowed}")));
        }
    }
    window(&mut draft, &settings, word == "instantly")?;
    if let Some((line, group)) = settings.get("lock-group").filter(|(_, name)| !name.is_empty()) {
        Group::new(group.as_str()).map_err(|error| at(*line, format!("lock-group: {error}")))?;
        draft.table("machine").set("groups", list([group.as_str()]));
    }
    draft.note(
        "rebootmgr waited to be asked, by transactional-update for one. `rebootlockctl request` asks \
         here; or let a detector look: type = \"needs-restarting\", or type = \"file\" with path = \
         \"/run/reboot-needed\"",
    );
    draft.note(
        "locks of rebootmgr 1.x (/opensuse.org/rebootmgr/locks, in etcd's v2 tree) are not read. Set \
         the limit with `rebootlockctl set-max`",
    );
    Ok(draft)
}

const KNOWN_STRATEGIES: &str = "best-effort, maint-window, etcd-lock, instantly, off";

fn read(text: &str, draft: &mut Draft) -> Result<BTreeMap<String, (u64, String)>, Fault> {
    let mut settings: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut is_inside = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') {
            if line != "[rebootmgr]" {
                return Err(at(number, format!("unknown section {line}; known is [rebootmgr]")));
            }
            is_inside = true;
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(at(number, format!("{line:?}: expected KEY=VALUE")));
        };
        let (key, value) = (key.trim(), value.trim());
        if !is_inside || !KEYS.contains(&key) {
            let known = KEYS.join(", ");
            return Err(at(number, format!("unknown key {key}; [rebootmgr] knows {known}")));
        }
        let value = value.trim_matches('"').to_owned();
        if let Some((before, _)) = settings.insert(key.to_owned(), (number, value)) {
            draft.note(format!("{key} of line {before} does not count: line {number} has another"));
        }
    }
    Ok(settings)
}

fn window(
    draft: &mut Draft,
    settings: &BTreeMap<String, (u64, String)>,
    is_instant: bool,
) -> Result<(), Fault> {
    let (start, length) = (settings.get("window-start"), settings.get("window-duration"));
    if start.is_some_and(|(_, start)| start.is_empty()) {
        draft
            .note("window-start was empty: there is no window, and a reboot may begin at any time");
        if let Some((_, length)) = length {
            draft.note(format!("window-duration ({}) did nothing without it", quoted(length)));
        }
        return Ok(());
    }
    let first = start.map_or(1, |(line, _)| *line);
    let second = length.map_or(first, |(line, _)| *line);
    let text = start.map_or(START, |(_, text)| text);
    let given = length.map_or(DURATION, |(_, text)| text);
    let expected = "expected as in 1h30m, 01:30 or 013000";
    let seconds = duration(given)
        .ok_or_else(|| at(second, format!("window-duration: {given:?}; {expected}")))?;
    if seconds == 0 {
        return Err(at(second, "window-duration: no time at all, in which nothing could begin"));
    }
    let written = go_duration(seconds);
    Calendar::parse(text, &written).map_err(|error| match error {
        InvalidWindow::Length { .. } => at(second, format!("window-duration: {error}")),
        error => at(first, format!("window-start: {error}")),
    })?;
    if is_instant {
        if start.is_some() || length.is_some() {
            let window = quoted(&format!("{text} for {written}"));
            draft.note(format!("the window ({window}) did nothing with strategy=instantly"));
        }
        return Ok(());
    }
    let splay = seconds.min(LONGEST_SPLAY);
    let table = draft.add("window");
    if start.is_none() || length.is_none() {
        table.note("What was not set is rebootmgr's own: 03:30, and one hour.");
    }
    table
        .set("calendar", text)
        .set("length", written)
        .note(
            "A request made before the window was carried out at a random moment of it. Here each \
             machine has a moment of its own; 0 has all begin as it opens, one slot after the other.",
        )
        .set("splay_secs", splay);
    Ok(())
}

/// Seconds of `1h 30m`, `01:30`, `01:30:00` or `013000`.
fn duration(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let number = |digits: &str| {
        let plain = (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<i64>().ok()).flatten()
    };
    let sum = |parts: [&str; 3]| {
        let [hours, minutes, seconds] = parts.map(number);
        Some(hours? * 3_600 + minutes? * 60 + seconds?)
    };
    if text.contains(':') {
        let parts: Vec<&str> = text.split(':').collect();
        return match parts[..] {
            [hours, minutes] => sum([hours, minutes, "0"]),
            [hours, minutes, seconds] => sum([hours, minutes, seconds]),
            _ => None,
        };
    }
    if text.len() == 6 && number(&text).is_some() {
        return sum([&text[..2], &text[2..4], &text[4..]]);
    }
    let compact: String = text.split_whitespace().collect();
    let (mut rest, mut seconds, mut any) = (compact.as_str(), 0, false);
    for (unit, worth) in [('h', 3_600), ('m', 60), ('s', 1)] {
        if let Some((digits, after)) = rest.split_once(unit) {
            seconds += number(digits)? * worth;
            (rest, any) = (after, true);
        }
    }
    (any && rest.is_empty()).then_some(seconds)
}

fn go_duration(seconds: i64) -> String {
    let parts = [(seconds / 3_600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, unit)| format!("{count}{unit}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_each_of_their_forms() {
        for (text, seconds) in [
            ("1h30m", Some(5_400)),
            ("1H 30M", Some(5_400)),
            ("90m", Some(5_400)),
            ("10s", Some(10)),
            ("01:30", Some(5_400)),
            ("01:30:05", Some(5_405)),
            ("013000", Some(5_400)),
            ("0m", Some(0)),
            ("1d", None),
            ("90", None),
            ("h", None),
            ("30m1h", None),
            ("1:2:3:4", None),
            ("", None),
        ] {
            assert_eq!(duration(text), seconds, "{text}");
        }
        assert_eq!(go_duration(5_405), "1h30m5s");
        assert_eq!(go_duration(90_000), "25h");
    }
}
