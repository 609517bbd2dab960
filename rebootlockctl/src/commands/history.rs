//! `history`: who held a slot, why, for how long, and how it ended.

use std::process::ExitCode;

use rebootlock::cli::exit;
use rebootlock::duration;
use rebootlock::keys::last_segment;
use rebootlock::lock::Remembered;
use rebootlock::record::{Ending, Past, UnixTime};
use rebootlock::view::PastView;
use rebootlock::view::words::in_groups;

use super::groups_of;
use crate::cli::{Format, History};
use crate::output::{Field, clean, colour, print, print_json, say, table};
use crate::session::Session;

/// `2026-11-21 14:03`, in local time.
fn moment(time: UnixTime) -> String {
    match jiff::Timestamp::from_second(time.0) {
        Ok(time) => {
            time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
        }
        Err(_) => time.to_text(),
    }
}

fn fields(past: &Past) -> Vec<Field> {
    let long = |secs: Option<u64>| Field::new(secs.map(duration::show).unwrap_or_default());
    let how = match &past.by {
        Some(by) => format!("{} by {by}", past.ended),
        None => past.ended.to_string(),
    };
    vec![
        Field::new(moment(past.ended_at)),
        Field::new(past.hostname.as_deref().unwrap_or(&past.machine_id)),
        Field::new(past.groups.join(", ")),
        Field::new(past.via.as_ref().map(ToString::to_string).unwrap_or_default()),
        long(past.held_secs()),
        long(past.down_secs()),
        if matches!(past.ended, Ending::Failed | Ending::Overdue | Ending::NotReady) {
            Field::alarming(how)
        } else {
            Field::new(how)
        },
        Field::new(past.reason.as_deref().unwrap_or_default()),
    ]
}

fn text(pasts: &[&Past], colour: bool) -> String {
    let headings = ["ENDED", "HOST", "GROUPS", "VIA", "HELD FOR", "DOWN FOR", "HOW", "REASON"];
    table(&headings, pasts.iter().map(|past| fields(past)).collect(), colour)
}

pub(super) async fn run(session: Session, args: History) -> anyhow::Result<ExitCode> {
    let groups = groups_of(&session, &args.scope).await?;
    let now = UnixTime::now();
    let ago = |time: std::time::Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let since = args.since.map(|time| UnixTime(now.0.saturating_sub(ago(time))));
    let found = session.locks.history(&groups, since).await?;
    let pasts: Vec<&Past> = found.iter().filter_map(|entry| entry.past.as_ref().ok()).collect();
    match args.output.output {
        Format::Json => {
            let rows = pasts.iter().map(|past| PastView::from((*past).clone()));
            print_json(&rows.collect::<Vec<_>>())?;
        }
        Format::Table if pasts.is_empty() => {
            say(format_args!("nothing is remembered of {}", in_groups(&groups)));
        }
        Format::Table => print(&text(&pasts, colour()))?,
    }
    let damaged: Vec<&Remembered> = found.iter().filter(|entry| entry.past.is_err()).collect();
    for entry in &damaged {
        if let Err(damage) = &entry.past {
            say(format_args!("error: {} is {damage}", clean(last_segment(&entry.key))));
        }
    }
    Ok(if damaged.is_empty() { ExitCode::SUCCESS } else { exit::FAILED.into() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rebootlock::record::Document as _;

    use super::*;

    #[test]
    fn who_why_how_long_and_how_it_ended() {
        let text_of = |json: &str| Past::from_json(json.as_bytes()).unwrap();
        let verified = text_of(
            r#"{"machineID":"a","hostname":"web-3","groups":["lb","rack-7"],"reason":"update","via":"agent","startTime":1795238400,"downSince":1795238702,"endedAt":1795238852,"ended":"verified"}"#,
        );
        let unlocked =
            text_of(r#"{"machineID":"b","endedAt":1795238852,"ended":"unlocked","by":"alice@x"}"#);
        let shown = text(&[&verified, &unlocked], false);
        let lines: Vec<_> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        let [_, first, second]: [Vec<&str>; 3] = lines.try_into().unwrap();
        assert_eq!(
            first[2..],
            ["web-3", "lb,", "rack-7", "agent", "7m32s", "2m30s", "verified", "update"]
        );
        assert_eq!(second[2..], ["b", "-", "-", "-", "-", "unlocked", "by", "alice@x", "-"]);
    }
}
