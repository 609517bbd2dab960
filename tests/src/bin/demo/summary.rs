//! What it comes to: a table, the hand-overs, and the verdict.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::machine::Story;
use crate::slots::{History, Seen};

/// Prints everything, and says by its exit code whether all went well.
pub(crate) fn print(
    stories: &[Story],
    seen: &[Seen],
    history: Result<History>,
    left_over: usize,
    took: Duration,
) -> ExitCode {
    let mut stories: Vec<_> = stories.iter().collect();
    stories.sort_by_key(|story| story.granted);
    println!(
        "\n{:<9}{:>9}{:>11}{:>11}{:>10}",
        "MACHINE", "WAITED", "HELD FOR", "DOWN FOR", "REBOOTS"
    );
    for story in &stories {
        println!(
            "{:<9}{:>9}{:>11}{:>11}{:>10}",
            story.id,
            span(story.wanted, story.granted),
            span(story.granted, story.released),
            span(story.down, story.back),
            story.reboots
        );
    }

    let hand_overs = hand_overs(seen);
    if !hand_overs.is_empty() {
        println!("\nHand-overs, from the slot being free to the next machine's having it:");
        for (from, to, took) in &hand_overs {
            println!("  {from:<6} -> {to:<6} {:>6.1} ms", took.as_secs_f64() * 1000.0);
        }
    }

    println!();
    let mut well = true;
    let mut check = |good: bool, line: String| {
        well &= good;
        println!("{} {line}", if good { "ok  " } else { "FAIL" });
    };
    match history {
        Ok(History { revisions, most, max }) => {
            let word = if most <= max { "held" } else { "exceeded" };
            let line = format!(
                "limit {word} at every one of {revisions} revisions: at most {most} of {max}"
            );
            let line = if most <= max { line } else { line.replace("every one", "some") };
            check(most <= max, line);
        }
        Err(error) => check(false, format!("the limit cannot be checked: {error:#}")),
    }
    let once = stories.iter().filter(|story| story.reboots == 1).count();
    check(
        once == stories.len(),
        format!("{once} of {} machines rebooted, each exactly once", stories.len()),
    );
    check(left_over == 0, format!("{left_over} slots left taken"));
    println!("     in {:.1} s", took.as_secs_f64());
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn span(from: Instant, to: Instant) -> String {
    format!("{:.2} s", to.saturating_duration_since(from).as_secs_f64())
}

/// From each release that somebody was waiting for to the next one's slot.
fn hand_overs(seen: &[Seen]) -> Vec<(String, String, Duration)> {
    let pairs = seen.windows(3).filter_map(|three| {
        let [before, free, after] = three else { return None };
        let (from, to) = (before.holders.first()?, after.holders.first()?);
        free.holders.is_empty().then(|| {
            (from.to_string(), to.to_string(), after.at.saturating_duration_since(free.at))
        })
    });
    pairs.collect()
}
