//! A whole fleet through few slots, and many callers at one instant.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rebootlock::id::Group;
use rebootlock::lock::{Ended, LockError, Release};
use rebootlock::wait::{Obstacle, Progress, WaitOptions, Waiting};
use rebootlock_tests::within;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::figures::Table;
use crate::rig::{Rig, claim};

/// How often a put is repeated for the reference.
const PUTS: u32 = 2000;

/// Of their places in the queue. Ten thousand that renew theirs every ten seconds, as they do by default,
/// keep two processors busy with nothing else.
const LEASE: Duration = Duration::from_secs(300);

/// Longest time for all to be in the queue.
const QUEUED_WITHIN: Duration = Duration::from_secs(300);

/// Longest time for all to be through.
const DRAINED_WITHIN: Duration = Duration::from_secs(600);

/// How many places are taken at a time: a fleet does not start within one second either.
const AT_ONCE: usize = 200;

/// Callers, free slots and repetitions of the race.
const CALLERS: usize = 20;
const FREE: u32 = 10;
const RACES: usize = 20;

/// How often a fleet of up to a thousand is drained. It takes no longer than the references beside it,
/// in which a shared machine may have become slower or faster.
const DRAINS: usize = 5;

/// Fleets of so many machines through so many slots.
pub(crate) async fn measure(rig: &Rig, fleets: &[(usize, u32)]) -> Result<Table> {
    let mut table = Table::new(
        "A fleet through its slots: each machine takes one and gives it back",
        &["machines", "slots", "seconds", "a second", "KiB each", "beside sequential puts", "runs"],
    );
    for &(machines, slots) in fleets {
        let runs = if machines > 1000 { 1 } else { DRAINS };
        let mut drains = Vec::new();
        for run in 0..runs {
            let before = puts_a_second(rig).await?;
            let drained = drain(rig, machines, slots, run).await?;
            let puts = (before + puts_a_second(rig).await?) / 2.0;
            drains.push((machines as f64 / drained.took.as_secs_f64() / puts, puts, drained));
        }
        // The memory of the first: what it takes the others find.
        let kib_each = drains[0].2.kib_each;
        drains.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
        let (least, most) = (drains[0].0, drains[runs - 1].0);
        let (ratio, puts, median) = &drains[runs / 2];
        let seconds = median.took.as_secs_f64();
        table.add(vec![
            machines.to_string(),
            slots.to_string(),
            format!("{seconds:.2}"),
            format!("{:.0}", machines as f64 / seconds),
            format!("{kib_each:.1}"),
            format!("{ratio:.2} of {puts:.0} a second"),
            if runs == 1 { "1".to_owned() } else { format!("{runs}: {least:.2} to {most:.2}") },
        ]);
    }
    Ok(table)
}

struct Drained {
    took: Duration,
    /// Memory of this process for each that waits.
    kib_each: f64,
}

async fn drain(rig: &Rig, machines: usize, slots: u32, run: usize) -> Result<Drained> {
    let group = Group::new(format!("drain-{machines}-{slots}-{run}"))?;
    let first = rig.locks()?;
    first.set_max(&group, slots).await?;
    // One process, as a gateway before a fleet is.
    let all = rig.locks()?;
    let mut holders = Vec::new();
    for n in 0..slots as usize {
        let claim = claim(&group, machines + n)?;
        first.acquire(&claim).await?;
        holders.push(claim);
    }

    let memory_before = resident_kib()?;
    let mut fleet = JoinSet::new();
    let (queued, mut in_queue) = watch::channel(0);
    for n in 0..machines {
        let (locks, claim) = (all.clone(), claim(&group, n)?);
        let queued = queued.clone();
        fleet.spawn(async move {
            let options = WaitOptions { lease: LEASE, ..WaitOptions::default() };
            let mut waiting = Waiting::start(locks.clone(), claim.clone(), options);
            let mut is_queued = false;
            while let Progress::Obstacle(obstacle) = waiting.next().await {
                if !is_queued && matches!(obstacle, Obstacle::Queued { .. }) {
                    is_queued = true;
                    queued.send_modify(|count| *count += 1);
                }
            }
            locks
                .release(
                    claim.groups(),
                    &claim.machine,
                    &Release::of(claim.token, Ended::GivenBack),
                )
                .await
        });
        if (n + 1) % AT_ONCE == 0 || n + 1 == machines {
            let all = in_queue.wait_for(|count| *count == n + 1);
            within(&format!("{} in the queue", n + 1), QUEUED_WITHIN, all).await??;
        }
    }
    let kib_each = (resident_kib()? - memory_before) / machines as f64;

    let start = Instant::now();
    for claim in holders {
        first
            .release(claim.groups(), &claim.machine, &Release::of(claim.token, Ended::GivenBack))
            .await?;
    }
    let all = async {
        while let Some(released) = fleet.join_next().await {
            released??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DRAINED_WITHIN, all).await.context("the fleet does not get through")??;
    let took = start.elapsed();
    let (semaphore, _) = first.glance(&group).await?;
    ensure!(semaphore.holders().is_empty(), "slots are left: {:?}", semaphore.holders());
    Ok(Drained { took, kib_each })
}

/// One after the other, over one connection.
async fn puts_a_second(rig: &Rig) -> Result<f64> {
    let mut raw = rig.raw().await?;
    let start = Instant::now();
    for _ in 0..PUTS {
        raw.put("reference", [b'x'; 200], None).await.context("cannot put")?;
    }
    Ok(f64::from(PUTS) / start.elapsed().as_secs_f64())
}

/// Memory of this process.
fn resident_kib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmRSS in /proc/self/status")?.parse()?)
}

/// Twenty callers for ten free slots at the same instant.
pub(crate) async fn race(rig: &Rig) -> Result<Table> {
    let managers: Vec<_> = (0..CALLERS).map(|_| rig.locks()).collect::<Result<_>>()?;
    let (mut granted, mut full, mut other) = (Vec::new(), Vec::new(), 0);
    let mut longest = Duration::ZERO;
    for round in 0..RACES {
        let group = Group::new(format!("race-{round}"))?;
        managers[0].set_max(&group, FREE).await?;
        let mut callers = JoinSet::new();
        let start = Instant::now();
        for (n, locks) in managers.iter().cloned().enumerate() {
            let claim = claim(&group, n)?;
            callers.spawn(async move { locks.acquire(&claim).await });
        }
        let (mut yes, mut no) = (0, 0);
        while let Some(answer) = callers.join_next().await {
            match answer? {
                Ok(_) => yes += 1,
                Err(LockError::Full { .. }) => no += 1,
                Err(error) => {
                    eprintln!("bench: {error}");
                    other += 1;
                }
            }
        }
        longest = longest.max(start.elapsed());
        granted.push(yes);
        full.push(no);
    }
    let exact = granted.iter().all(|n| *n == FREE as usize)
        && full.iter().all(|n| *n == CALLERS - FREE as usize);
    let span = |counts: &[usize]| {
        let (least, most) = (counts.iter().min(), counts.iter().max());
        format!("{} to {}", least.unwrap_or(&0), most.unwrap_or(&0))
    };
    let mut table = Table::new(
        "20 callers for 10 free slots at the same instant",
        &["races", "granted", "told full", "other errors", "slowest race", "exact"],
    );
    table.add(vec![
        RACES.to_string(),
        span(&granted),
        span(&full),
        other.to_string(),
        crate::figures::show(longest),
        if exact && other == 0 { "yes" } else { "NO" }.to_owned(),
    ]);
    Ok(table)
}
