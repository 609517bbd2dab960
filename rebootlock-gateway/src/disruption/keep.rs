//! What has to happen while nobody asks: times that end, services that become ready, slots that become
//! free.
//!
//! One gateway does it, by a key on a lease. That is thrift and nothing else: each step is a transaction
//! that requires what it was decided on, so two that did the same at once would do it once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{LockError, Timed};
use rebootlock::queue::Queue;
use rebootlock::record::{Disruption, DisruptionState, UnixTime};
use rebootlock::store::{Event, Key, LeaseId, LeaseKeeper, Select, Span, StoreError, Watch};
use rebootlock::window::Verdict;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::ask::{self, advance, promote};
use super::change;
use super::end::{Proof, expire, finish};
use super::probe::{self, Pauses};
use super::search::Search;
use crate::app::{App, Live, chain};
use crate::election::elect;
use crate::slots::{self, Refusal};

/// How long a gateway that died is waited for.
const RESIGNED_AFTER: Duration = Duration::from_secs(6);

/// Between two looks whether there is anything to look after.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Between two looks at everything, though nothing was heard.
const TEND_EVERY: Duration = Duration::from_secs(5);

/// Changes that come within so short a time are looked at together.
const TOGETHER: Duration = Duration::from_millis(50);

/// Looks after all machines that speak this protocol, until the gateway stops.
pub async fn keep(app: Arc<App>) {
    let mut said = false;
    let mut search = Search::default();
    while !app.stop.is_cancelled() {
        let live = app.live();
        search.now_and_then(&live).await;
        match elected(&live).await {
            Ok(Some(mut term)) => {
                said = false;
                tokio::select! {
                    () = tend_all(&app, &mut search) => {}
                    () = term.gone() => {}
                    () = app.stop.cancelled() => {}
                }
                // If that fails, it ends by itself.
                let _ = term.end().await;
                continue;
            }
            Ok(None) => said = false,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    let error = chain(&error);
                    tracing::warn!(
                        error,
                        "clients of disruption-manager are not looked after for now"
                    );
                }
            }
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = app.disrupted.notified() => {}
            () = app.stop.cancelled() => {}
        }
    }
}

/// Makes this gateway the one that does it, if there is anything to do and nobody does.
async fn elected(live: &Live) -> Result<Option<LeaseKeeper>, StoreError> {
    let (store, keys) = (live.locks.store(), live.locks.keys());
    let there = store.list(&keys.disruptions(), Select::Keys).await?;
    if there.entries.is_empty() {
        return Ok(None);
    }
    elect(store, keys.disruption_keeper(), RESIGNED_AFTER).await
}

/// Looks at everything again and again, until there is nothing left.
async fn tend_all(app: &Arc<App>, search: &mut Search) {
    let mut live = app.live();
    let keys = live.locks.keys().clone();
    let everything = Span::Below(Key::new(format!("{keys}/")));
    let mut changes = live.locks.store().watch_from_now(std::slice::from_ref(&everything));
    let mut tender = Tender::default();
    loop {
        live = app.live();
        search.now_and_then(&live).await;
        match tender.tend(app, &live).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "looking again later"),
        }
        let again = Instant::now() + TEND_EVERY;
        tokio::select! {
            () = sleep_until(again) => {}
            () = app.disrupted.notified() => {}
            () = concerns(&mut changes) => settle_down(&mut changes).await,
        }
    }
}

/// Returns when something changes that a machine may wait for.
async fn concerns(changes: &mut Watch) {
    while let Some(event) = changes.next().await {
        match event {
            Event::Changed { key, entry, .. } => {
                let key = key.as_str();
                let gone = entry.is_none();
                let stops = ["/paused", "/cooldown"].iter().any(|end| key.ends_with(end))
                    || key.contains("/holds/")
                    || key.contains("/queue/")
                    || key.contains("/disruption-time/");
                if (gone && stops) || key.ends_with("/semaphore") || key.contains("/disruption/") {
                    return;
                }
            }
            Event::Lost { .. } | Event::Resumed => return,
            Event::Interrupted { .. } => {}
        }
    }
    // The runtime shuts down.
    std::future::pending().await
}

async fn settle_down(changes: &mut Watch) {
    let until = Instant::now() + TOGETHER;
    while timeout(until.saturating_duration_since(Instant::now()), changes.next())
        .await
        .is_ok_and(|e| e.is_some())
    {}
}

/// Questions whether one machine is ready.
struct Probe {
    asking: AbortOnDropHandle<()>,
    problem: Problem,
}

/// Why it was not ready when it was last asked.
type Problem = Arc<Mutex<String>>;

/// What is remembered from one look to the next.
#[derive(Default)]
struct Tender {
    /// Questions whether a machine is ready, by the lease of the time that it has for that.
    probes: BTreeMap<(MachineId, String), Probe>,
    /// Groups that machines asked for.
    groups: BTreeSet<Group>,
    /// When places in queues were kept alive.
    kept: Option<Instant>,
    /// Machines whose documents cannot be read, which was said.
    damaged: BTreeSet<MachineId>,
}

impl Tender {
    /// Does for each machine what is to be done now. Says how many there are.
    async fn tend(&mut self, app: &Arc<App>, live: &Arc<Live>) -> Result<usize, Refusal> {
        let known = slots::in_time(live, live.locks.disruptions()).await?;
        let count = known.len();
        let said = known.iter().filter_map(|(_, timed)| Some(&timed.as_ref().ok()?.disruption));
        self.settle_limits(live, lowest_limits(said)).await?;
        let mut waiting: BTreeMap<Group, BTreeMap<MachineId, Disruption>> = BTreeMap::new();
        let mut probed = BTreeSet::new();
        for (machine, timed) in known {
            let Timed { disruption, runs } = match timed {
                Ok(timed) => timed,
                Err(error) => {
                    if self.damaged.insert(machine.clone()) {
                        let error = chain(&error);
                        tracing::error!(id = %machine, error, "take it away by hand");
                    }
                    continue;
                }
            };
            match (disruption.state, runs) {
                // It has its slot, or that is gone and it asks elsewhere.
                (DisruptionState::Asking, true) if disruption.again.is_some() => {
                    unless_damaged(change::move_on(live, &machine, &disruption).await)?;
                }
                (DisruptionState::Asking, true) => {
                    waiting
                        .entry(disruption.group.clone())
                        .or_default()
                        .insert(machine, disruption);
                }
                (DisruptionState::Asking, false) => {
                    unless_damaged(expire(live, &machine, &disruption).await)?;
                }
                (DisruptionState::Proving, true) => {
                    let probe = (machine, disruption.lease.clone());
                    probed.insert(probe.clone());
                    self.probe(app, probe, disruption);
                }
                (DisruptionState::Proving, false) => {
                    let proof = match &disruption.ready_url {
                        _ if disruption.expired => Proof::NotBack,
                        None => Proof::TimeOver,
                        Some(url) => {
                            Proof::NotReady { problem: self.problem(&machine, url, &disruption) }
                        }
                    };
                    unless_damaged(finish(live, &machine, &disruption, proof).await)?;
                }
            }
        }
        self.probes.retain(|probe, _| probed.contains(probe));
        let keep = self.kept.is_none_or(|kept| kept.elapsed() >= live.settings.reserve / 3);
        if keep {
            self.kept = Some(Instant::now());
        }
        for (group, machines) in waiting {
            unless_damaged(line_up(live, &group, &machines, keep).await)?;
        }
        Ok(count)
    }

    /// Lets the limits of groups rise again, and groups that nobody asks for go.
    async fn settle_limits(
        &mut self,
        live: &Live,
        said: BTreeMap<Group, u32>,
    ) -> Result<(), Refusal> {
        self.groups.extend(said.keys().cloned());
        for group in self.groups.iter().filter(|group| ask::follows(live, group)) {
            let lowest = said.get(group).copied();
            let settling = slots::in_time(live, live.locks.settle_limit(group, lowest)).await;
            unless_damaged(settling)?;
        }
        self.groups.retain(|group| said.contains_key(group));
        Ok(())
    }

    fn probe(&mut self, app: &Arc<App>, probe: (MachineId, String), disruption: Disruption) {
        let Some(url) = disruption.ready_url.clone() else { return };
        let ended = self.probes.get(&probe).is_some_and(|probe| probe.asking.is_finished());
        // One that has ended without success could not tell the store.
        if ended || !self.probes.contains_key(&probe) {
            let (app, machine) = (app.clone(), probe.0.clone());
            let problem = Problem::new(Mutex::new(format!("{url}: no answer")));
            let last = problem.clone();
            let asking =
                tokio::spawn(
                    async move { wait_for(&app, &machine, &url, disruption, &last).await },
                );
            self.probes.insert(probe, Probe { asking: AbortOnDropHandle::new(asking), problem });
        }
    }

    /// Why a machine was not ready, as far as this gateway knows.
    fn problem(&self, machine: &MachineId, url: &str, proving: &Disruption) -> String {
        let probe = self.probes.get(&(machine.clone(), proving.lease.clone()));
        let last = probe.map(|probe| probe.problem.lock().unwrap_or_else(PoisonError::into_inner));
        last.map_or_else(|| format!("{url}: not asked here yet"), |last| last.clone())
    }
}

/// What the machines of each group say, at the least.
fn lowest_limits<'a>(said: impl Iterator<Item = &'a Disruption>) -> BTreeMap<Group, u32> {
    let mut limits = BTreeMap::new();
    for disruption in said {
        for group in std::iter::once(&disruption.group).chain(&disruption.again) {
            let Some(limit) = disruption.limit_in(group) else { continue };
            let lowest = limits.entry(group.clone()).or_insert(limit);
            *lowest = limit.min(*lowest);
        }
    }
    limits
}

/// What is wrong with one group or one machine, which the log has, must not keep the others waiting.
pub(super) fn unless_damaged(done: Result<(), Refusal>) -> Result<(), Refusal> {
    match done {
        Err(refusal) if refusal.kind.is_of_store() => Err(refusal),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Asks until the machine is ready, and lets go of its slot then. Its time ends elsewhere.
async fn wait_for(
    app: &App,
    machine: &MachineId,
    url: &str,
    disruption: Disruption,
    last: &Problem,
) {
    let left = disruption.until.seconds_since(UnixTime::now());
    for pause in Pauses::of(Duration::from_secs(left)) {
        let live = app.live();
        match probe::ask(url, live.settings.disruption.ready_hosts.as_deref()).await {
            Ok(()) => match finish(&live, machine, &disruption, Proof::Ready).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(id = %machine, "ready, but still holding: {error}"),
            },
            Err(problem) => {
                tracing::debug!(id = %machine, problem, "not ready");
                *last.lock().unwrap_or_else(PoisonError::into_inner) = problem;
            }
        }
        sleep(pause).await;
    }
}

/// Sees to it that all who wait in a group have a place in its queue, and those whose turn it is a slot.
async fn line_up(
    live: &Live,
    group: &Group,
    machines: &BTreeMap<MachineId, Disruption>,
    keep: bool,
) -> Result<(), Refusal> {
    let (semaphore, _) = slots::in_time(live, live.locks.glance(group)).await?;
    let now = Timestamp::now();
    let waits = |machine: &MachineId| {
        let open = matches!(live.windows.judge(now, machine), Verdict::Open { .. });
        // Who may not go now is in nobody's way.
        open && !semaphore.holds(machine)
    };
    let mut outside: Vec<_> = machines.iter().filter(|(machine, _)| waits(machine)).collect();
    if outside.is_empty() {
        return Ok(());
    }
    let below = live.locks.keys().queue(group);
    let listing = async {
        live.locks.store().list(&below, Select::All).await.map_err(|source| {
            let action = format!("listing {below}");
            LockError::Store { action, source }
        })
    };
    let listed = slots::in_time(live, listing).await?;
    let line = Queue::of(&listed).in_order();
    for ticket in &line {
        outside.retain(|(machine, _)| **machine != ticket.machine);
        let Some(waiter) = &ticket.waiter else { continue };
        let ours = keep && machines.contains_key(&ticket.machine);
        let lease = waiter.lease.as_deref().filter(|_| ours);
        if let Some(lease) = lease.and_then(|lease| i64::from_str_radix(lease, 16).ok()) {
            // One that has ended meanwhile is taken anew at the next look.
            let _ = live.locks.store().keep_alive(LeaseId(lease)).await;
        }
    }
    // Who has lost its place, because no gateway was there, has it again in the order of its wish.
    outside.sort_by_key(|(machine, disruption)| (disruption.since, (*machine).clone()));
    for (machine, _) in outside {
        advance(live, machine).await?;
    }
    if semaphore.available() > 0 {
        promote(live, group).await;
    }
    Ok(())
}
