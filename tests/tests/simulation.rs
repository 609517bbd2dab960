//! Ten thousand simulated fleets on a store that goes wrong: see `rebootlock_tests::simulation`.
//!
//! A schedule that breaks a promise is named by its seed, and played again by
//! `cargo run -p rebootlock-tests --bin simulate SEED`, or as a test by
//! `REBOOTLOCK_SEED=SEED cargo test -p rebootlock-tests --test simulation`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use rebootlock_tests::simulation::{Sabotage, run, run_sabotaged};

/// How many; `REBOOTLOCK_SCHEDULES` says otherwise.
const SCHEDULES: u64 = 10_000;

fn schedules() -> u64 {
    let given = std::env::var("REBOOTLOCK_SCHEDULES").ok();
    given.map_or(SCHEDULES, |given| given.parse().expect("so many schedules are a number"))
}

fn one_seed() -> Option<u64> {
    std::env::var("REBOOTLOCK_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"))
}

#[test]
fn every_schedule_keeps_the_limit_and_drains() {
    let seeds = one_seed().map_or(0..schedules(), |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let worker = || {
        let (mut broken, mut reboots) = (Vec::new(), 0);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return (broken, reboots);
            }
            let outcome = run(seed);
            reboots += u64::from(outcome.reboots);
            if !outcome.broken.is_empty() {
                println!("REBOOTLOCK_SEED={seed}: {:?}", outcome.broken);
                broken.push(seed);
            }
        }
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let broken: Vec<u64> = results.iter().flat_map(|(broken, _)| broken).copied().collect();
    let reboots: u64 = results.iter().map(|(_, reboots)| reboots).sum();
    println!("{reboots} reboots");
    assert!(broken.is_empty(), "these seeds break a promise: {broken:?}");
    assert!(one_seed().is_some() || reboots > schedules(), "hardly any machine rebooted");
}

#[test]
fn the_same_seed_gives_the_same_course_of_events() {
    for seed in one_seed().map_or(0..50, |seed| seed..seed + 1) {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

/// One of the schedules shows it.
fn found_out(sabotage: Sabotage) {
    let mut outcomes = (0..SCHEDULES).map(|seed| (seed, run_sabotaged(seed, sabotage)));
    let (seed, outcome) = outcomes
        .find(|(_, outcome)| !outcome.broken.is_empty())
        .unwrap_or_else(|| panic!("{sabotage:?} goes unnoticed"));
    println!("{sabotage:?} is found out by seed {seed}: {}", outcome.broken[0]);
}

/// A place that is overlooked costs a turn and no limit, and an agent that does not settle what was
/// never answered is too rare for chance: the model shows both.
#[test]
fn a_store_that_overlooks_preconditions_is_found_out() {
    found_out(Sabotage::Overlook("/holders/"));
    found_out(Sabotage::Overlook("/semaphore"));
    found_out(Sabotage::Overlook("/paused"));
}
