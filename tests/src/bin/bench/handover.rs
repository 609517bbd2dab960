//! From one holder to the next: how long it takes and how many requests it costs, by how many wait.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rebootlock::id::Group;
use rebootlock::lock::{Ended, LockManager, Release};
use rebootlock::record::Claim;
use rebootlock::wait::{Obstacle, Progress, WaitOptions, Waiting};
use rebootlock_tests::{eventually, within};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::figures::{TIMES, Table, Times};
use crate::metrics;
use crate::rig::{Rig, claim};

/// How often the slot changes hands, for the times.
const HAND_OVERS: usize = 200;

/// The same for the count of requests, while the queue runs down to the depth that is meant.
const COUNTED: usize = 50;

/// Waiters share so many connections at most: it is the lock that is measured. Who stands next to each
/// other never shares one, so that all is asked for as if each machine were a process of its own.
const CONNECTIONS: usize = 25;

/// Nobody has anything more to ask if nobody does for this long.
const AT_REST: Duration = Duration::from_millis(400);

/// Longest time for all to be in the queue.
const QUEUED_WITHIN: Duration = Duration::from_secs(120);

/// Longest time for one hand-over.
const HANDED_WITHIN: Duration = Duration::from_secs(30);

/// Two tables: times and requests, a row for each depth.
pub(crate) async fn measure(rig: &Rig, depths: &[usize]) -> Result<(Table, Table)> {
    let mut times = Table::new("Hand-over", &TIMES);
    let mut requests = Table::new(
        "Requests to etcd for one hand-over, watches opened by those who move up included",
        &["waiting", "requests", "n"],
    );
    for &depth in depths {
        let Measured { to_next, whole, put } = hand_over(rig, depth).await?;
        times.add(put.row(&format!("bare put, {depth} waiting"), None));
        let reference = Some(("a put", &put));
        times.add(
            to_next.row(&format!("release returned -> next one holds, {depth} waiting"), reference),
        );
        times.add(
            whole.row(&format!("release called -> next one holds, {depth} waiting"), reference),
        );
        let count = count(rig, depth).await?;
        requests.add(vec![depth.to_string(), format!("{count:.1}"), COUNTED.to_string()]);
    }
    Ok((times, requests))
}

struct Measured {
    to_next: Times,
    whole: Times,
    put: Times,
}

/// The queue is as long before each hand-over: who has had the slot queues again.
async fn hand_over(rig: &Rig, depth: usize) -> Result<Measured> {
    let mut raw = rig.raw().await?;
    let group = Group::new(format!("times-{depth}"))?;
    let mut line = Line::form(rig, &group, depth).await?;
    let mut measured =
        Measured { to_next: Times::default(), whole: Times::default(), put: Times::default() };
    for _ in 0..HAND_OVERS {
        let start = Instant::now();
        raw.put("reference", [b'x'; 200], None).await.context("cannot put")?;
        measured.put.add(start.elapsed());
        let called = Instant::now();
        let before = line.holder.clone();
        let returned = line.release().await?;
        let held = line.next().await?;
        measured.to_next.add(held.saturating_duration_since(returned));
        measured.whole.add(held.saturating_duration_since(called));
        line.join(before.number)?;
        line.wait_formed(depth).await?;
    }
    line.disband().await;
    Ok(measured)
}

/// The queue runs down to `depth`: nobody joins meanwhile, whose requests would be counted.
async fn count(rig: &Rig, depth: usize) -> Result<f64> {
    let group = Group::new(format!("count-{depth}"))?;
    let mut line = Line::form(rig, &group, depth + COUNTED).await?;
    let before = requests_at_rest(rig).await?;
    for _ in 0..COUNTED {
        line.release().await?;
        line.next().await?;
    }
    // Who moves up does so behind the hand-over's back.
    let after = requests_at_rest(rig).await?;
    line.disband().await;
    Ok((after - before) / COUNTED as f64)
}

/// The count of requests, once it stands still: everybody has opened its watches.
async fn requests_at_rest(rig: &Rig) -> Result<f64> {
    let mut last = metrics::requests(&rig.etcd).await?;
    eventually("nobody asks etcd for anything", QUEUED_WITHIN, async || {
        tokio::time::sleep(AT_REST).await;
        let now = metrics::requests(&rig.etcd).await?;
        let before = std::mem::replace(&mut last, now);
        anyhow::ensure!(now == before, "{} requests", now - before);
        Ok::<_, anyhow::Error>(now)
    })
    .await
}

#[derive(Debug, Clone)]
struct Holder {
    number: usize,
    claim: Claim,
}

/// A holder, and others that wait in a queue.
struct Line {
    group: Group,
    connections: Vec<LockManager>,
    holder: Holder,
    granted: mpsc::UnboundedReceiver<(Holder, Instant)>,
    grants: mpsc::UnboundedSender<(Holder, Instant)>,
    queued: watch::Sender<usize>,
    waiters: TaskTracker,
    over: CancellationToken,
}

impl Line {
    async fn form(rig: &Rig, group: &Group, waiting: usize) -> Result<Self> {
        let connections: Vec<_> =
            (0..waiting.min(CONNECTIONS)).map(|_| rig.locks()).collect::<Result<_>>()?;
        let (grants, granted) = mpsc::unbounded_channel();
        let claim = claim(group, 0)?;
        rig.locks()?.acquire(&claim).await?;
        let holder = Holder { number: 0, claim };
        let (waiters, over) = (TaskTracker::new(), CancellationToken::new());
        let (group, queued) = (group.clone(), watch::Sender::new(0));
        let line = Self { group, connections, holder, granted, grants, queued, waiters, over };
        let mut in_queue = line.queued.subscribe();
        for number in 1..=waiting {
            line.join(number)?;
            let all = in_queue.wait_for(|count| *count == number);
            within(&format!("{number} in the queue"), QUEUED_WITHIN, all).await??;
        }
        line.wait_formed(waiting).await?;
        Ok(line)
    }

    /// Machine `number` begins to wait.
    fn join(&self, number: usize) -> Result<()> {
        let claim = claim(&self.group, number)?;
        let locks = self.connections[number % self.connections.len()].clone();
        let grants = self.grants.clone();
        let (over, queued) = (self.over.clone(), self.queued.clone());
        self.waiters.spawn(async move {
            let mut waiting = Waiting::start(locks, claim.clone(), WaitOptions::default());
            let mut is_queued = false;
            loop {
                tokio::select! {
                    progress = waiting.next() => match progress {
                        Progress::Granted(_) => break,
                        Progress::Obstacle(Obstacle::Queued { .. }) if !is_queued => {
                            is_queued = true;
                            queued.send_modify(|count| *count += 1);
                        }
                        Progress::Obstacle(_) => {}
                    },
                    () = over.cancelled() => return drop(waiting.leave().await),
                }
            }
            // Nobody is left to hear it once the measurement is over.
            let _ = grants.send((Holder { number, claim }, Instant::now()));
        });
        Ok(())
    }

    /// All leave the queue.
    async fn disband(self) {
        self.over.cancel();
        self.waiters.close();
        self.waiters.wait().await;
    }

    /// Waits until so many are in the queue, and have settled down to wait.
    async fn wait_formed(&self, waiting: usize) -> Result<()> {
        let locks = &self.connections[0];
        let queue = locks.keys().queue(&self.group);
        eventually(&format!("{waiting} wait"), QUEUED_WITHIN, async || {
            let listed = locks.store().list(&queue, rebootlock::store::Select::Keys).await?;
            let now = listed.entries.len();
            anyhow::ensure!(now == waiting, "{now} do");
            Ok::<_, anyhow::Error>(())
        })
        .await?;
        // The last to come has yet to open its watches.
        tokio::time::sleep(Duration::from_millis(if waiting > 500 { 50 } else { 15 })).await;
        Ok(())
    }

    /// The holder gives its slot back. Says when it knew that it had.
    async fn release(&self) -> Result<Instant> {
        let claim = &self.holder.claim;
        let locks = &self.connections[self.holder.number % self.connections.len()];
        locks
            .release(claim.groups(), &claim.machine, &Release::of(claim.token, Ended::GivenBack))
            .await?;
        Ok(Instant::now())
    }

    /// The next one has it. Says when it knew.
    async fn next(&mut self) -> Result<Instant> {
        let next = tokio::time::timeout(HANDED_WITHIN, self.granted.recv()).await;
        let (holder, at) = next.context("nobody takes the slot")?.context("nobody waits")?;
        self.holder = holder;
        Ok(at)
    }
}
