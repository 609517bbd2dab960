//! Looking after the holders: one gateway at a time runs their checks, frees their slots, and raises the
//! alarm about those that are overdue.
//!
//! Which one it is hangs on a lease. Nothing depends on there being only one: a slot is freed by the
//! token of its holder, and what a check found is written into the record it was about.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rebootlock::config::{ClusterSettings, GoaheadSettings};
use rebootlock::id::{Group, MachineId, Token};
use rebootlock::lock::{Ended, LockError, Release, Released};
use rebootlock::process::{Finished, How};
use rebootlock::record::{GoaheadGrant, HolderRecord, HolderState, UnixTime};
use rebootlock::store::{LeaseKeeper, Span, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::ask::run_actions;
use super::command::{Room, Subject};
use super::course::{self, Next};
use super::store::{self, Held};
use crate::app::{App, Live, chain};
use crate::election::elect;

/// When a gateway dies, another one takes over after this time.
const LEASE: Duration = Duration::from_secs(10);
/// Between two tries to take over.
const TRY_AGAIN: Duration = Duration::from_secs(3);
/// Looks again after so long, even if nothing was heard.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Longest sleep of one who looks after a holder.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// Looks after the holders whenever no other gateway does. Ends with the gateway.
pub async fn watch(app: Arc<App>) {
    let stop = app.stop.clone();
    let caring = async {
        loop {
            if app.live().settings.goahead.is_some() {
                match appoint(&app.live()).await {
                    Ok(Some(mut lease)) => {
                        tokio::select! {
                            () = look_after(&app) => {}
                            () = lease.gone() => tracing::warn!("somebody else looks after goahead's holders"),
                            () = stop.cancelled() => {}
                        }
                        // If it does not end now, it does so by itself.
                        let _ = tokio::time::timeout(TRY_AGAIN, lease.end()).await;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(error = chain(&error), "cannot look after holders")
                    }
                }
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = caring => {}
    }
}

/// Makes this gateway the one that looks after the holders, unless there is one.
async fn appoint(live: &Live) -> Result<Option<LeaseKeeper>, StoreError> {
    elect(live.locks.store(), live.locks.keys().goahead_caretaker(), LEASE).await
}

type Tended = HashMap<(Group, MachineId, Token), AbortOnDropHandle<()>>;

/// Sees to it that each holder has one that looks after it.
async fn look_after(app: &Arc<App>) {
    let (news, heard) = watch::channel(());
    let mut tended = Tended::new();
    let mut live = app.live();
    let mut events = events(&live);
    loop {
        if !Arc::ptr_eq(&live, &app.live()) {
            live = app.live();
            events = self::events(&live);
            tended.clear();
        }
        let Some(settings) = live.settings.goahead.clone() else { return };
        match look(&live, &settings).await {
            Err(error) => tracing::debug!(error = chain(&error), "cannot look after holders"),
            Ok(holders) => {
                let key = |held: &Held| (held.group.clone(), held.machine.clone(), held.token);
                tended.retain(|known, task| {
                    !task.is_finished() && holders.iter().any(|held| key(held) == *known)
                });
                for held in &holders {
                    tended.entry(key(held)).or_insert_with(|| {
                        let tend =
                            tend(live.clone(), settings.clone(), held.clone(), heard.clone());
                        AbortOnDropHandle::new(tokio::spawn(tend))
                    });
                }
            }
        }
        tokio::select! {
            event = events.next() => if event.is_none() {
                return;
            },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        news.send_replace(());
    }
}

fn events(live: &Live) -> rebootlock::store::Watch {
    let groups = live.settings.goahead.as_ref().map(store::groups).unwrap_or_default();
    let spans: Vec<Span> =
        groups.iter().map(|group| Span::Below(live.locks.keys().holders(group))).collect();
    live.locks.store().watch_from_now(&spans)
}

async fn look(live: &Live, settings: &GoaheadSettings) -> Result<Vec<Held>, LockError> {
    let mut all = Vec::new();
    for group in store::groups(settings) {
        all.extend(store::holders(live, &group).await?);
    }
    Ok(all)
}

/// Looks after one holder until it is one no more.
async fn tend(
    live: Arc<Live>,
    settings: GoaheadSettings,
    held: Held,
    mut heard: watch::Receiver<()>,
) {
    let Held { group, machine, token, .. } = &held;
    let cluster = settings.clusters.iter().find(|cluster| cluster.name == held.grant.cluster);
    let Some(cluster) = cluster.filter(|cluster| cluster.group == *group) else {
        tracing::error!(
            id = %machine, %group, cluster = held.grant.cluster,
            "a machine holds a slot of a cluster that is not configured any more; its slot stays \
             until somebody runs `rebootlockctl unlock`"
        );
        return std::future::pending().await;
    };
    let mut not_before = Instant::now();
    loop {
        let record = match live.locks.rewrite(group, machine, *token, |_| {}).await {
            Ok(record) => record,
            Err(LockError::NotOurs { .. }) => return,
            Err(error) => {
                tracing::debug!(error = chain(&error), "cannot look after a holder");
                tokio::time::sleep(TRY_AGAIN).await;
                continue;
            }
        };
        let Some(Ok(grant)) = GoaheadGrant::of(&record) else { return };
        let carer = Carer { live: &live, settings: &settings, cluster, held: &held };
        let due = match course::next(&settings, cluster, &record, &grant, UnixTime::now()) {
            Next::Check if Instant::now() < not_before => not_before,
            Next::Wait(until) => {
                let left = until.map_or(LONGEST.as_secs(), |u| u.seconds_since(UnixTime::now()));
                // Clocks count whole seconds, and this one must not run ahead.
                Instant::now() + Duration::from_secs(left.clamp(1, LONGEST.as_secs()))
            }
            next => {
                let done = carer.see_to_beside_alarm(next, &grant).await;
                if next == Next::Check {
                    not_before = Instant::now() + cluster.completion_interval;
                }
                match done {
                    Ok(true) => continue,
                    Ok(false) | Err(LockError::NotOurs { .. }) => return,
                    Err(error) => {
                        let error = chain(&error);
                        tracing::warn!(id = %machine, %group, error, "the store does not answer");
                        Instant::now() + TRY_AGAIN
                    }
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            changed = heard.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

struct Carer<'a> {
    live: &'a Live,
    settings: &'a GoaheadSettings,
    cluster: &'a ClusterSettings,
    held: &'a Held,
}

impl Carer<'_> {
    /// [`Self::see_to`], and raises the alarm if it becomes due meanwhile: checks and actions may take long.
    async fn see_to_beside_alarm(
        &self,
        next: Next,
        grant: &GoaheadGrant,
    ) -> Result<bool, LockError> {
        let mut doing = std::pin::pin!(self.see_to(next, grant));
        let alarm = course::alarm_at(self.cluster, grant);
        let Some(alarm) = alarm.filter(|_| matches!(next, Next::Check | Next::Actions)) else {
            return doing.await;
        };
        let left = Duration::from_secs(alarm.seconds_since(UnixTime::now()).max(1));
        tokio::select! {
            done = &mut doing => return done,
            () = tokio::time::sleep(left) => {}
        }
        let (done, raised) = tokio::join!(doing, self.panic(grant));
        raised.and(done)
    }

    /// Does what is next. `false`: nothing more is to be done for this holder.
    async fn see_to(&self, next: Next, grant: &GoaheadGrant) -> Result<bool, LockError> {
        match next {
            Next::Wait(_) => {}
            Next::Check => self.check(grant).await?,
            Next::Panic => self.panic(grant).await?,
            Next::Actions => {
                let (subject, timeout) =
                    (self.subject(&grant.uptime), self.settings.action_timeout);
                let Held { machine, token, .. } = self.held;
                run_actions(self.live, self.cluster, &subject, machine, *token, timeout).await;
            }
            Next::Finish => {
                return self.finish(grant).await;
            }
        }
        Ok(true)
    }

    async fn check(&self, grant: &GoaheadGrant) -> Result<(), LockError> {
        let Some(check) = &self.cluster.completion_check else { return Ok(()) };
        let subject = self.subject(last_uptime(grant));
        let timeout = self.settings.completion_check_timeout;
        let turn = Room::Completion.turn().await;
        let Finished { how, .. } = subject.run(&turn, check, timeout, "completion check").await;
        drop(turn);
        if !matches!(how, How::Exited(_)) {
            tracing::warn!(id = %self.held.machine, %how, "a completion check says nothing");
        }
        let now = UnixTime::now();
        let enough = self.cluster.completion_successes;
        self.write(|record| course::checked(record, &how, enough, now)).await
    }

    async fn panic(&self, grant: &GoaheadGrant) -> Result<(), LockError> {
        tracing::error!(
            target: "rebootlock_gateway::audit",
            event = "panic", id = %self.held.machine, group = %self.held.group,
            cluster = self.cluster.name, since = grant.granted_at.to_text(),
            "this machine should be back; its slot stays until it is or somebody runs \
             `rebootlockctl unlock`, and nobody else of its cluster goes"
        );
        let subject = self.subject(last_uptime(grant));
        let (actions, timeout) = (&self.cluster.panic_actions, self.settings.action_timeout);
        subject.run_all(&Room::Actions.turn().await, actions, timeout, "panic action").await;
        let now = UnixTime::now();
        self.write(|record| {
            if let Some(Ok(mut grant)) = GoaheadGrant::of(record) {
                grant.panicked_at.get_or_insert(now);
                grant.write_into(record);
            }
        })
        .await
    }

    /// `true`: it is not over yet.
    async fn finish(&self, grant: &GoaheadGrant) -> Result<bool, LockError> {
        let Held { group, machine, token, .. } = self.held;
        let subject = self.subject(last_uptime(grant));
        let timeout = self.settings.action_timeout;
        let actions = &self.cluster.completion_actions;
        subject.run_all(&Room::Actions.turn().await, actions, timeout, "completion action").await;
        // It may have said meanwhile that it has not rebooted.
        let record = self.live.locks.rewrite(group, machine, *token, |_| {}).await?;
        if record.state != Some(HolderState::Verifying) {
            return Ok(true);
        }
        store::forget(self.live, machine, &grant.request_id).await?;
        let release = Release::of(*token, Ended::Steady);
        let released =
            self.live.locks.release(std::slice::from_ref(group), machine, &release).await?;
        if let Released::Freed(_) = released {
            tracing::info!(
                target: "rebootlock_gateway::audit",
                event = "released", id = %machine, %group, via = "goahead",
                cluster = self.cluster.name,
                "the machine is back; slot given back"
            );
        }
        Ok(false)
    }

    async fn write(&self, change: impl Fn(&mut HolderRecord)) -> Result<(), LockError> {
        let Held { group, machine, token, .. } = self.held;
        self.live.locks.rewrite(group, machine, *token, change).await.map(drop)
    }

    fn subject(&self, uptime: &str) -> Subject {
        Subject {
            fqdn: self.held.machine.to_string(),
            cluster: self.cluster.name.clone(),
            uptime: uptime.to_owned(),
            folder: self.settings.working_dir.clone(),
        }
    }
}

fn last_uptime(grant: &GoaheadGrant) -> &str {
    grant.uptime_after.as_deref().unwrap_or(&grant.uptime)
}
