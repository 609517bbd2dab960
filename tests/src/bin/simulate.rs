//! Plays the schedule of one seed again, and says what happened: `simulate SEED`.

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let seed = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("which seed?"))?;
    let outcome = rebootlock_tests::simulation::run(seed.parse()?);
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("{} reboots, {} revisions", outcome.reboots, outcome.revisions);
    for broken in &outcome.broken {
        eprintln!("broken: {broken}");
    }
    Ok(if outcome.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
