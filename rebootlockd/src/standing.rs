//! How this machine stands in the store, for the figures: its slots, what is paused, and whether
//! somebody holds it back.
//!
//! The store is asked rather than the agent, which knows of these only what it needs for its next step:
//! an idle machine may be held back, and a slot may be unlocked while its machine goes down. Agents
//! whose figures nobody sees do not run this.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use rand::RngExt as _;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{LockError, LockManager, Scope};
use rebootlock::record::{Document as _, Pause};
use rebootlock::store::{Entry, Event, Key, Span};
use tokio::time::Instant;

use crate::metrics::{Lasting, Metrics};

/// Tells `metrics` for as long as it is polled: at once when something changes, and every `poll` or a
/// little more in any case, as programs that know only the semaphore's document change nothing else.
pub(crate) async fn follow(
    locks: Arc<LockManager>,
    machine: MachineId,
    groups: Vec<Group>,
    poll: Duration,
    metrics: Metrics,
) {
    let standing = Standing { locks, machine, groups, metrics };
    let spans = standing.spans();
    loop {
        let mut changes = standing.locks.store().watch_from_now(&spans);
        let mut next = next_look(poll);
        loop {
            let mut event = tokio::select! {
                event = changes.next() => event,
                () = tokio::time::sleep_until(next) => Some(Event::Resumed),
            };
            // What came together is one piece of news.
            while let Some(Some(later)) = changes.next().now_or_never() {
                event = Some(later);
            }
            match event {
                Some(Event::Interrupted { .. }) => standing.is_unknown(),
                Some(_) => standing.look().await,
                None => break,
            }
            next = next_look(poll);
        }
    }
}

fn next_look(poll: Duration) -> Instant {
    Instant::now() + poll.mul_f64(rand::rng().random_range(1.0..1.2))
}

struct Standing {
    locks: Arc<LockManager>,
    machine: MachineId,
    groups: Vec<Group>,
    metrics: Metrics,
}

impl Standing {
    fn scopes(&self) -> Vec<Scope> {
        let groups = self.groups.iter().cloned().map(Scope::Group);
        groups.chain([Scope::Fleet]).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let keys = self.locks.keys();
        let stops = self.scopes().into_iter().map(|scope| scope.key(keys));
        let own = self.groups.iter().map(|group| keys.holder(group, &self.machine));
        stops.chain(own).chain([keys.hold(&self.machine)]).map(Span::Below).collect()
    }

    async fn look(&self) {
        match self.read().await {
            Ok(()) => self.metrics.set_store_up(Some(true)),
            Err(error) => {
                tracing::debug!(%error, "how this machine stands in the store is not known");
                self.is_unknown();
                self.metrics.set_store_up(Some(!error.is_out_of_reach()));
            }
        }
    }

    async fn read(&self) -> Result<(), LockError> {
        let (keys, scopes) = (self.locks.keys(), self.scopes());
        let hold = keys.hold(&self.machine);
        let mut wanted: Vec<Key> = scopes.iter().map(|scope| scope.key(keys)).collect();
        wanted.push(hold.clone());
        let now = self
            .locks
            .store()
            .load(&wanted)
            .await
            .map_err(|source| LockError::Store { action: format!("reading {hold}"), source })?;
        let pause = |entry: &Entry| {
            // One that cannot be read counts too.
            Lasting::since(Pause::from_json(&entry.value).ok().map(|pause| pause.since))
        };
        self.metrics.set_pauses(scopes.into_iter().map(|scope| {
            let paused = now.get(&scope.key(keys)).map_or(Lasting::No, pause);
            (scope, paused)
        }));
        self.metrics.set_held(Some(now.get(&hold).is_some()));
        let held = self.locks.holding(&self.groups, &self.machine).await?;
        self.metrics.set_slots(self.groups.iter().map(|group| {
            let slot = held.get(group).map_or(Lasting::No, |record| {
                Lasting::since(record.as_ref().map(|record| record.start_time))
            });
            (group.clone(), slot)
        }));
        Ok(())
    }

    /// Pauses and holds come and go. A slot stays while the store is away, so what was heard of it last
    /// goes on being shown.
    fn is_unknown(&self) {
        self.metrics.set_pauses([]);
        self.metrics.set_held(None);
        self.metrics.set_store_up(Some(false));
    }
}
