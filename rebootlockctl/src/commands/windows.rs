//! `windows`: whether this machine may reboot now, and when its windows open and close.
//!
//! Looks at the configuration only; no store is asked.

use std::process::ExitCode;

use anyhow::Context as _;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use rebootlock::cli::CommonArgs;
use rebootlock::config::{MachineSettings, local_zone};
use rebootlock::host;
use rebootlock::id::MachineId;
use rebootlock::window::{Span, Window, Windows};
use serde::Serialize;

use crate::cli::{Format, WindowsArgs};
use crate::failure::Usage;
use crate::output::{Field, clean, print, print_json, table};
use crate::session::settings;

/// More combined openings than anybody reads.
const MOST_OPENINGS: usize = 1000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View<'a> {
    /// The moment all of this is about.
    at: String,
    open: bool,
    /// In one word.
    verdict: &'static str,
    /// In a sentence.
    why: String,
    /// The window that decides it.
    window: Option<&'a str>,
    /// When this machine may begin.
    next_start: Option<String>,
    /// When reboots may begin, all windows taken together.
    openings: Vec<OpeningView>,
    windows: Vec<WindowView<'a>>,
}

#[derive(Serialize)]
struct OpeningView {
    opens: String,
    closes: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WindowView<'a> {
    name: &'a str,
    action: &'static str,
    timezone: Option<&'a str>,
    min_remaining_secs: u64,
    splay_secs: u64,
    spans: Vec<SpanView>,
}

#[derive(Serialize)]
struct SpanView {
    opens: String,
    closes: String,
    /// When this machine begins in it.
    starts: Option<String>,
}

/// What is asked.
struct Question {
    windows: Windows,
    machine: MachineId,
    from: Timestamp,
    to: Timestamp,
    /// For times of no window in particular.
    zone: TimeZone,
}

pub(super) async fn run(common: &CommonArgs, args: WindowsArgs) -> anyhow::Result<ExitCode> {
    let settings = settings(common)?;
    let zone = local_zone()?;
    let from = match &args.from {
        Some(text) => moment(text, &zone)?,
        None => Timestamp::now(),
    };
    let to = from.saturating_add(SignedDuration::from_hours(24 * i64::from(args.days)))?;
    let machine = machine(&settings.windows, &settings.machine)?;
    let question = Question { windows: settings.windows, machine, from, to, zone };
    match args.output.output {
        Format::Json => print_json(&question.view())?,
        Format::Table => print(&question.text())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// This machine; where no window depends on it, it need not be known.
fn machine(windows: &Windows, settings: &MachineSettings) -> anyhow::Result<MachineId> {
    match host::machine_id(&settings.id_file) {
        Err(_) if !windows.depend_on_machine() => Ok(MachineId::new("unknown")?),
        found => found.context(
            "cannot tell which machine this is, and splay_secs depends on it; see --machine-id-file",
        ),
    }
}

/// `2026-12-24`, `2026-12-24 18:00`, or with an offset or zone.
fn moment(text: &str, zone: &TimeZone) -> anyhow::Result<Timestamp> {
    if let Ok(exact) = text.parse::<Zoned>() {
        return Ok(exact.timestamp());
    }
    if let Ok(exact) = text.parse::<Timestamp>() {
        return Ok(exact);
    }
    let local = match (text.parse::<DateTime>(), text.parse::<Date>()) {
        (Ok(local), _) => local,
        (_, Ok(date)) => date.to_datetime(Time::midnight()),
        _ => {
            let expected = "expected 2026-12-24, \"2026-12-24 18:00\" or 2026-12-24T18:00:00Z";
            return Err(Usage(format!("{text:?} is not a moment; {expected}")).into());
        }
    };
    Ok(zone.to_timestamp(local)?)
}

fn shown(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%a %F %R %Z").to_string()
}

fn exact(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%FT%T%:z").to_string()
}

impl Question {
    /// The spans of `window`, overlapping and touching ones together, and when this machine begins
    /// in each.
    fn spans_of(&self, window: &Window) -> Vec<(Span, Option<Timestamp>)> {
        let mut merged: Vec<(Span, Option<Timestamp>)> = Vec::new();
        for span in window.spans(self.from, self.to) {
            let starts = self.starts(window, span);
            match merged.last_mut() {
                Some((last, first)) if span.opens <= last.closes => {
                    last.closes = last.closes.max(span.closes);
                    *first = (*first).min(starts);
                }
                _ => merged.push((span, starts)),
            }
        }
        merged
    }

    fn starts(&self, window: &Window, span: Span) -> Option<Timestamp> {
        let delay = SignedDuration::try_from(Windows::delay(window, span, &self.machine)).ok()?;
        span.opens.checked_add(delay).ok().filter(|_| !window.splay.is_zero())
    }

    fn openings(&self) -> Vec<(Timestamp, Option<Timestamp>)> {
        let openings = self.windows.next_openings(self.from, MOST_OPENINGS).into_iter();
        openings.map(|o| (o.opens, o.closes)).take_while(|(opens, _)| *opens < self.to).collect()
    }

    fn view(&self) -> View<'_> {
        let verdict = self.windows.judge(self.from, &self.machine);
        let next = self.windows.next_start(self.from, &self.machine);
        let window = |window: &'_ Window| -> Vec<SpanView> {
            let zone = window.shown_in();
            let spans = self.spans_of(window).into_iter();
            spans
                .map(|(span, starts)| SpanView {
                    opens: exact(span.opens, zone),
                    closes: exact(span.closes, zone),
                    starts: starts.map(|at| exact(at, zone)),
                })
                .collect()
        };
        View {
            at: exact(self.from, &self.zone),
            open: verdict.is_open(),
            verdict: verdict.word(),
            why: verdict.sentence(&self.zone),
            window: verdict.window().map(|window| window.name.as_str()),
            next_start: next.map(|at| exact(at, &self.zone)),
            openings: self
                .openings()
                .into_iter()
                .map(|(opens, closes)| OpeningView {
                    opens: exact(opens, &self.zone),
                    closes: closes.map(|at| exact(at, &self.zone)),
                })
                .collect(),
            windows: self
                .windows
                .0
                .iter()
                .map(|each| WindowView {
                    name: &each.name,
                    action: each.action.as_str(),
                    timezone: each.shown_in().iana_name(),
                    min_remaining_secs: each.min_remaining.as_secs(),
                    splay_secs: each.splay.as_secs(),
                    spans: window(each),
                })
                .collect(),
        }
    }

    fn text(&self) -> String {
        let verdict = self.windows.judge(self.from, &self.machine);
        let mut text = match verdict.is_open() {
            true => format!("Open: {}\n", clean(&verdict.sentence(&self.zone))),
            false => format!("Closed: {}\n", clean(&verdict.sentence(&self.zone))),
        };
        if !verdict.is_open() {
            let next = self.windows.next_start(self.from, &self.machine);
            let next = next.map_or_else(|| "never".to_owned(), |at| shown(at, &self.zone));
            text += &format!("This machine may begin: {next}\n");
        }
        if self.windows.0.is_empty() {
            return text;
        }
        text += "\n";
        text += &self.spans();
        // Of one window alone the table above says it all.
        let openings = self.openings();
        if self.windows.0.len() > 1 && !openings.is_empty() {
            let rows = openings.into_iter().map(|(opens, closes)| {
                let closes = closes.map(|at| shown(at, &self.zone)).unwrap_or_default();
                vec![Field::new(shown(opens, &self.zone)), Field::new(closes)]
            });
            text += "\nALL TOGETHER\n";
            text += &table(&["OPENS", "CLOSES"], rows.collect(), false);
        }
        text
    }

    fn spans(&self) -> String {
        let splay = self.windows.depend_on_machine();
        let mut rows = Vec::new();
        for window in &self.windows.0 {
            let zone = window.shown_in();
            let row = |opens: &str, closes: &str, starts: &str| {
                let mut row = vec![Field::new(&window.name), Field::new(window.action.as_str())];
                row.extend([Field::new(opens), Field::new(closes)]);
                row.extend(splay.then(|| Field::new(starts)));
                row
            };
            let spans = self.spans_of(window);
            if spans.is_empty() {
                let next = window.next_opening(self.to).map(|at| shown(at, zone));
                let next = next.as_deref().unwrap_or("never");
                rows.push((Timestamp::MAX, row(next, "", "")));
            }
            for (span, starts) in spans {
                let starts = starts.map(|at| shown(at, zone));
                let (opens, closes) = (shown(span.opens, zone), shown(span.closes, zone));
                rows.push((span.opens, row(&opens, &closes, starts.as_deref().unwrap_or(""))));
            }
        }
        rows.sort_by_key(|(opens, _)| *opens);
        let mut headings = vec!["WINDOW", "ACTION", "OPENS", "CLOSES"];
        headings.extend(splay.then_some("THIS MACHINE"));
        table(&headings, rows.into_iter().map(|(_, row)| row).collect(), false)
    }
}
