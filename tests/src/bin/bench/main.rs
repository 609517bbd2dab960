//! How fast it is and how much it takes, each figure beside a reference from the same run.

mod drain;
mod figures;
mod gateway;
mod handover;
mod latency;
mod metrics;
mod programs;
mod rig;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use self::figures::Report;
use self::rig::{Rig, Wanted};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Taking a slot and giving it back, on each store
    Latency,
    /// From one holder to the next, and the requests that costs
    HandOver,
    /// Whole fleets through few slots
    Drain,
    /// More callers than free slots, at one instant
    Race,
    /// `rebootlockctl exec` beside `etcdctl lock`
    Exec,
    /// `rebootlockctl status` beside `etcdctl get`
    Status,
    /// FleetLock clients through `rebootlock-gateway`
    Gateway,
    /// `rebootlockd` with nothing to do
    Daemon,
    /// The programs on disk
    Size,
}

/// Prints figures beside a reference from the same run. Build it with --release.
#[derive(Debug, Parser)]
struct Options {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Also hand over with 1000 waiting, and drain 10,000
    #[arg(long)]
    deep: bool,
    /// How often each call is timed
    #[arg(long, value_name = "N", default_value_t = 1000)]
    rounds: usize,
    /// Through the gateway, so many connections at once [default: 1, 4, 16 and 64]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    connections: Vec<usize>,
    #[command(flatten)]
    etcd: Wanted,
    /// Print tables as Markdown
    #[arg(long)]
    markdown: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // As the gateway has: the others are for what is measured.
    if let Some(workers) = rebootlock::host::worker_threads() {
        runtime.worker_threads(workers);
    }
    let measured = runtime.enable_all().build().map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                ended = run(&options) => ended,
                _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
            }
        })
    });
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must be 1 or more");
    // As many slots as connections, at the most.
    let possible = |connections: &usize| (1..=64).contains(connections);
    ensure!(options.connections.iter().all(possible), "--connections must be from 1 to 64");
    if cfg!(debug_assertions) {
        eprintln!("bench: a debug build; its figures say little");
    }
    let wants = |part| options.parts.is_empty() || options.parts.contains(&part);
    let report = Report::new(options.markdown);
    let rig = Rig::start(&options.etcd, 1).await?;
    report.note(&format!(
        "etcd {}, one member on loopback unless three are named, fsync on.",
        rig.version()
    ));
    let sync = figures::show(latency::sync()?);
    report.note(&format!("To append 200 bytes to a file and sync it takes {sync} here."));
    if let Some(micros) = options.etcd.slower_sync {
        report.note(&format!("Each of etcd's syncs is made to take {micros} us longer."));
    }
    if wants(Part::Latency) {
        report.show(&latency::measure(&rig, options.rounds).await?);
    }
    if wants(Part::HandOver) {
        let mut depths = vec![10, 100];
        depths.extend(options.deep.then_some(1000));
        let (times, requests) = handover::measure(&rig, &depths).await?;
        report.show(&times);
        report.show(&requests);
    }
    if wants(Part::Drain) {
        let mut fleets = vec![(1000, 1), (1000, 10)];
        fleets.extend(options.deep.then_some((10_000, 10)));
        report.show(&drain::measure(&rig, &fleets).await?);
    }
    if wants(Part::Race) {
        report.show(&drain::race(&rig).await?);
    }
    if wants(Part::Exec) {
        report.show(&programs::exec(&rig).await?);
    }
    if wants(Part::Status) {
        report.show(&programs::status(&rig).await?);
    }
    if wants(Part::Gateway) {
        for table in gateway::measure(&rig, &options.etcd, &options.connections).await? {
            report.show(&table);
        }
    }
    if wants(Part::Daemon) {
        report.show(&programs::daemon(&rig).await?);
    }
    if wants(Part::Size) {
        report.show(&programs::sizes()?);
    }
    Ok(())
}
