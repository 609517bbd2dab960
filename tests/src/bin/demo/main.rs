//! Five machines that reboot one at a time, in this terminal: five real agents, each on a private bus with
//! stand-ins for update-engine and logind, share one SQLite store. `rebootlockctl status --watch` shows it.

mod machine;
mod narrator;
mod slots;
mod summary;
mod watching;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use futures::future::try_join_all;
use rebootlock_tests::fleet::{Member, Onlooker};
use rebootlock_tests::within;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use self::narrator::Narrator;
use self::slots::Slots;
use self::watching::Watching;

/// The fleet, and how long after the start each machine's update is installed.
const FLEET: [(&str, Duration); 5] = [
    ("web-1", Duration::from_millis(500)),
    ("db-1", Duration::from_millis(1200)),
    ("web-2", Duration::from_millis(1900)),
    ("web-3", Duration::from_millis(2700)),
    ("db-2", Duration::from_millis(4000)),
];

/// Somebody works here and is warned.
const BUSY_MACHINE: &str = "db-1";

/// Agents with the patience of a demo.
const CONFIG: &str = "[agent]\nwarn_users_secs = 3\n\n[log]\nlevel = \"info\"\n";

/// How many may be down at once.
const MAX: u32 = 1;

/// The whole demo ends within this time, well or not.
const PATIENCE: Duration = Duration::from_secs(59);

/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Five machines that reboot one at a time.
///
/// Fails if the limit was ever exceeded, if a machine did not get through, or if a slot is left.
#[derive(Debug, Parser)]
struct Options {
    /// How long a machine takes to reboot
    #[arg(long, value_name = "SECONDS", default_value_t = 2.2, value_parser = seconds)]
    down: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=5.0).contains(&seconds) { Ok(seconds) } else { Err("must be from 0 to 5".to_owned()) }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    // Whatever was started ends with the future that is dropped.
    let ended = tokio::select! {
        ended = within("the end of the demo", PATIENCE, run(&options)) => ended.flatten(),
        stopped = stopped() => stopped.map(|()| ExitCode::from(INTERRUPTED)),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("demo: {error:#}");
        ExitCode::FAILURE
    })
}

/// Returns when a person has had enough.
async fn stopped() -> Result<()> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn run(options: &Options) -> Result<ExitCode> {
    let down = Duration::from_secs_f64(options.down);
    let folder = tempfile::TempDir::with_prefix("demo-").context("cannot make a folder")?;
    let endpoints = [format!("sqlite:{}", folder.path().join("lock.db").display())];
    let look = Onlooker::new(&endpoints)?;
    let mut narrator = Narrator::new();
    narrator.introduce(FLEET.len(), MAX);

    let members = FLEET.map(async |(id, _)| {
        let mut member = Member::new(id, &endpoints, CONFIG).await?;
        member.start().await.map(|()| member)
    });
    let members = try_join_all(members).await?;
    let slots = Slots::record(&look);
    let watching = Watching::start(&endpoints)?;

    let start = Instant::now();
    narrator.begin(start);
    let stories = members.into_iter().zip(FLEET).map(|(member, (id, after))| {
        machine::live(member, start + after, down, id == BUSY_MACHINE, &narrator)
    });
    let stories = try_join_all(stories).await?;
    let took = start.elapsed();
    let history = slots::replay(&look, MAX).await;
    let left_over = look.locks.status(&Default::default()).await?.holders.len();
    watching.end().await?;
    let seen = slots.end();

    Ok(summary::print(&stories, &seen, history, left_over, took))
}
