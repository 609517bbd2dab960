//! What has to happen while nobody asks: times that end, services that become ready, slots that become
//! free.
//!
//! One gateway does it, by a key on a lease. That is thrift and nothing else: each step is a transaction
//! that requires what it was decided on, so two that did the same at once would do it once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{Ended, LockError, Release, Rewrite, Timed};
use rebootlock::queue::Queue;
use rebootlock::record::{Disruption, DisruptionState, UnixTime};
use rebootlock::store::{
    Commit, Event, Key, LeaseId, LeaseKeeper, Select, Span, StoreError, Txn, Watch,
};
use rebootlock::window::Verdict;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::ask::{self, advance, holds, promote};
use super::probe::{self, Pauses};
use crate::app::{App, Live, chain};
use crate::reply::Kind;
use crate::slots::{self, Refusal};

/// How long a gateway that died is waited for.
const RESIGNED_AFTER: Duration = Duration::from_secs(6);

/// Between two looks whether there is anything to look after.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Between two looks at everything, though nothing was heard.
const TEND_EVERY: Duration = Duration::from_secs(5);

/// Changes that come within so short a time are looked at together.
const TOGETHER: Duration = Duration::from_millis(50);

/// Between two searches for slots that nobody knows about.
const SEARCH_EVERY: Duration = Duration::from_secs(300);

/// Looks after all machines that speak this protocol, until the gateway stops.
pub async fn keep(app: Arc<App>) {
    let mut said = false;
    let mut searched = Instant::now();
    while !app.stop.is_cancelled() {
        let live = app.live();
        if searched.elapsed() >= SEARCH_EVERY {
            searched = Instant::now();
            adopt_unknown(&live).await;
        }
        match elected(&live).await {
            Ok(Some(mut term)) => {
                said = false;
                tokio::select! {
                    () = tend_all(&app) => {}
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
    let key = keys.disruption_keeper();
    if there.entries.is_empty() || store.load(std::slice::from_ref(&key)).await?.get(&key).is_some()
    {
        return Ok(None);
    }
    let term = LeaseKeeper::start(store.clone(), RESIGNED_AFTER).await?;
    // Nobody reads it: what counts is that it is there.
    let value = format!("pid {}", std::process::id()).into_bytes();
    let txn = Txn::new().when_absent(key.clone()).put_leased(key, value, term.id());
    match store.commit(&txn).await? {
        Commit::Won(_) => Ok(Some(term)),
        Commit::Lost => {
            let _ = term.end().await;
            Ok(None)
        }
    }
}

/// Looks at everything again and again, until there is nothing left.
async fn tend_all(app: &Arc<App>) {
    let mut live = app.live();
    let keys = live.locks.keys().clone();
    let everything = Span::Below(Key::new(format!("{keys}/")));
    let mut changes = live.locks.store().watch_from_now(std::slice::from_ref(&everything));
    let mut tender = Tender::default();
    loop {
        live = app.live();
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

/// What is remembered from one look to the next.
#[derive(Default)]
struct Tender {
    /// Questions whether a machine is ready, by when it began to be asked.
    probes: BTreeMap<(MachineId, UnixTime), AbortOnDropHandle<()>>,
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
                    let probe = (machine, disruption.since);
                    probed.insert(probe.clone());
                    self.probe(app, probe, disruption);
                }
                (DisruptionState::Proving, false) => {
                    let proof = if disruption.expired { Proof::NotBack } else { Proof::TimeOver };
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

    fn probe(&mut self, app: &Arc<App>, probe: (MachineId, UnixTime), disruption: Disruption) {
        let Some(url) = disruption.ready_url.clone() else { return };
        let ended = self.probes.get(&probe).is_some_and(AbortOnDropHandle::is_finished);
        // One that has ended without success could not tell the store.
        if ended || !self.probes.contains_key(&probe) {
            let (app, machine) = (app.clone(), probe.0.clone());
            let asking =
                tokio::spawn(async move { wait_for(&app, &machine, &url, disruption).await });
            self.probes.insert(probe, AbortOnDropHandle::new(asking));
        }
    }
}

/// What is wrong with one group or one machine, which the log has, must not keep the others waiting.
fn unless_damaged(done: Result<(), Refusal>) -> Result<(), Refusal> {
    match done {
        Err(refusal) if refusal.kind == Kind::StoreUnavailable => Err(refusal),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Asks until the machine is ready, and lets go of its slot then. Its time ends elsewhere.
async fn wait_for(app: &App, machine: &MachineId, url: &str, disruption: Disruption) {
    let left = disruption.until.seconds_since(UnixTime::now());
    for pause in Pauses::of(Duration::from_secs(left)) {
        let live = app.live();
        match probe::ask(url, live.settings.disruption.ready_hosts.as_deref()).await {
            Ok(()) => match finish(&live, machine, &disruption, Proof::Ready).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(id = %machine, "ready, but still holding: {error}"),
            },
            Err(problem) => tracing::debug!(id = %machine, problem, "not ready"),
        }
        sleep(pause).await;
    }
}

/// Why a slot goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// The machine's service has answered.
    Ready,
    /// The machine has said that it is back, and had its time.
    TimeOver,
    /// Nobody knows where it is.
    NotBack,
}

/// Ends the time of a machine that was permitted, or wanted to be, and has said nothing since.
async fn expire(live: &Live, machine: &MachineId, disruption: &Disruption) -> Result<(), Refusal> {
    let group = &disruption.group;
    let held = holds(live, group, machine).await?;
    let time = disruption.ready_timeout_secs.map(Duration::from_secs).unwrap_or_default();
    let now = UnixTime::now();
    // Whoever asks again at this very moment finds another document, or makes this find one.
    let rewriting = live.locks.rewrite_disruption(machine, time, |known| match known {
        Some(Timed { disruption, runs: false }) if disruption.state == DisruptionState::Asking => {
            let state = DisruptionState::Proving;
            let proving = Disruption { state, since: now, expired: true, ..disruption.clone() };
            match (&held, time.is_zero()) {
                (None, _) => Rewrite::Remove,
                (Some(_), true) => Rewrite::Put(proving),
                (Some(_), false) => Rewrite::Begin(proving),
            }
        }
        _ => Rewrite::Keep,
    });
    let now = slots::in_time(live, rewriting).await?;
    match (held, now) {
        (Some(record), Some(proving)) if proving.expired => {
            tracing::warn!(
                target: "rebootlock_gateway::audit",
                event = "expired", id = %machine, %group, since = record.start_time.to_text(),
                "permitted/expired->denied; this machine has not said that it is back"
            );
            ask::show_as_verifying(live, group, machine, &record).await;
            if time.is_zero() {
                finish(live, machine, &proving, Proof::NotBack).await?;
            }
        }
        (None, None) => {
            tracing::info!(id = %machine, %group, "requested/expired->denied");
            ask::forget(live, std::slice::from_ref(group), machine).await?;
        }
        _ => {}
    }
    Ok(())
}

/// Lets go of the slot of a machine that has proven to be ready, or will not any more.
async fn finish(
    live: &Live,
    machine: &MachineId,
    proving: &Disruption,
    proof: Proof,
) -> Result<(), Refusal> {
    let group = &proving.group;
    match (holds(live, group, machine).await?, proof) {
        (None, _) => {}
        // By the token that was looked at: another gateway may have done this already, and the machine
        // have got a slot anew.
        (Some(record), proof) => {
            let ended = match proof {
                Proof::NotBack => Ended::Overdue { by: "the gateway".to_owned() },
                Proof::Ready | Proof::TimeOver => Ended::Steady,
            };
            let release = Release { token: record.token, ended };
            let groups = std::slice::from_ref(group);
            slots::in_time(live, live.locks.release(groups, machine, &release)).await?;
            let said = match proof {
                Proof::NotBack => {
                    tracing::warn!(
                        target: "rebootlock_gateway::audit",
                        event = "overdue", id = %machine, %group, since = record.start_time.to_text(),
                        "its time is over and its slot was freed; whether it is well nobody knows"
                    );
                    None
                }
                Proof::Ready => Some("ready"),
                Proof::TimeOver => Some("ready delay completed"),
            };
            if let Some(said) = said {
                tracing::info!(
                    target: "rebootlock_gateway::audit",
                    event = "ready", id = %machine, %group, url = proving.ready_url, "{said}"
                );
            }
        }
    }
    let time = live.settings.disruption.permitted;
    let now = UnixTime::now();
    let rewriting = live.locks.rewrite_disruption(machine, time, |known| {
        let Some(Timed { disruption, .. }) = known else { return Rewrite::Keep };
        if disruption.state != DisruptionState::Proving || disruption.since != proving.since {
            return Rewrite::Keep;
        }
        match &disruption.again {
            None => Rewrite::Remove,
            Some(group) => Rewrite::Begin(Disruption {
                state: DisruptionState::Asking,
                group: group.clone(),
                since: now,
                expired: false,
                again: None,
                ..disruption.clone()
            }),
        }
    });
    slots::in_time(live, rewriting).await?;
    promote(live, group).await;
    Ok(())
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

/// Finds slots that were taken through this door and that no machine's document knows about.
async fn adopt_unknown(live: &Live) {
    let found = async {
        let known = slots::in_time(live, live.locks.disruptions()).await?;
        let known: BTreeSet<_> = known.into_iter().map(|(machine, _)| machine).collect();
        for group in slots::in_time(live, live.groups()).await? {
            let (semaphore, _) = slots::in_time(live, live.locks.glance(&group)).await?;
            for machine in semaphore.holders().iter().filter(|machine| !known.contains(*machine)) {
                if holds(live, &group, machine).await?.is_some() {
                    tracing::warn!(id = %machine, %group, "a slot that nobody asks about; its time begins");
                    ask::adopt(live, &group, machine).await?;
                }
            }
        }
        Ok::<_, Refusal>(())
    };
    if let Err(error) = found.await {
        tracing::debug!(%error, "looking for forgotten slots later");
    }
}
