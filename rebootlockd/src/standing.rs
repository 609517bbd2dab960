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
        for answer in [self.look_for_stops().await, self.look_for_slots().await] {
            if let Err(error) = answer {
                tracing::debug!(%error, "how this machine stands in the store is not known");
                if error.is_out_of_reach() {
                    return self.is_unknown();
                }
            }
        }
        self.metrics.set_store_up(Some(true));
    }

    async fn look_for_stops(&self) -> Result<(), LockError> {
        let (keys, scopes) = (self.locks.keys(), self.scopes());
        let hold = keys.hold(&self.machine);
        let mut wanted: Vec<Key> = scopes.iter().map(|scope| scope.key(keys)).collect();
        wanted.push(hold.clone());
        let now = self.locks.store().load(&wanted).await;
        let now = now
            .map_err(|source| LockError::Store { action: format!("reading {hold}"), source })
            .inspect_err(|_| self.stops_are_unknown())?;
        let pause = |entry: &Entry| {
            // One that cannot be read counts too.
            Lasting::since(Pause::from_json(&entry.value).ok().map(|pause| pause.since))
        };
        self.metrics.set_pauses(scopes.into_iter().map(|scope| {
            let paused = now.get(&scope.key(keys)).map_or(Lasting::No, pause);
            (scope, paused)
        }));
        self.metrics.set_held(Some(now.get(&hold).is_some()));
        Ok(())
    }

    async fn look_for_slots(&self) -> Result<(), LockError> {
        let held = match self.locks.holding(&self.groups, &self.machine).await {
            Ok(held) => held,
            Err(error) => {
                if !error.is_out_of_reach() {
                    self.metrics.set_slots([]);
                }
                return Err(error);
            }
        };
        self.metrics.set_slots(self.groups.iter().map(|group| {
            let slot = held.get(group).map_or(Lasting::No, |record| {
                Lasting::since(record.as_ref().map(|record| record.start_time))
            });
            (group.clone(), slot)
        }));
        Ok(())
    }

    /// The store is away. A slot stays meanwhile, so what was heard of it last goes on being shown.
    fn is_unknown(&self) {
        self.stops_are_unknown();
        self.metrics.set_store_up(Some(false));
    }

    /// They come and go.
    fn stops_are_unknown(&self) {
        self.metrics.set_pauses([]);
        self.metrics.set_held(None);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rebootlock::keys::Keyspace;
    use rebootlock::record::{Claim, UnixTime, Via};
    use rebootlock::store::{MemoryStore, Txn};

    use super::*;
    use crate::metrics::Format;

    async fn shows(metrics: &Metrics, lines: &[&str]) {
        let shown = async {
            loop {
                let text = metrics.text(Format::Prometheus);
                let has = |line: &&str| match line.strip_prefix('!') {
                    Some(family) => !text.contains(&format!("TYPE rebootlock_{family} ")),
                    None => text.lines().any(|shown| shown == format!("rebootlock_{line}")),
                };
                if lines.iter().all(has) {
                    return;
                }
                metrics.changed().await;
            }
        };
        let shown = tokio::time::timeout(Duration::from_secs(30), shown).await;
        assert!(shown.is_ok(), "{lines:?} not in {}", metrics.text(Format::Prometheus));
    }

    #[tokio::test]
    async fn what_the_store_says_of_this_machine_is_shown_as_it_says_it() {
        let locks = LockManager::new(Arc::new(MemoryStore::new()), Keyspace::default());
        let (locks, machine) = (Arc::new(locks), MachineId::new("a").unwrap());
        let (group, metrics) = (Group::default(), Metrics::new(UnixTime(1)));
        let follow = follow(
            locks.clone(),
            machine.clone(),
            vec![group.clone()],
            Duration::from_secs(3600),
            metrics.clone(),
        );
        let following = tokio::spawn(follow);
        let idle = ["holder{group=\"default\"} 0", "paused{scope=\"fleet\"} 0", "held 0"];
        shows(&metrics, &idle).await;
        shows(&metrics, &["store_up 1", "!holder_since_timestamp_seconds"]).await;

        let keys = locks.keys().clone();
        let put = async |key: Key, text: &str| {
            locks.store().commit(&Txn::new().put(key, text.into())).await.unwrap();
        };
        put(keys.fleet_paused(), "not a document").await;
        shows(&metrics, &["paused{scope=\"fleet\"} 1", "!paused_since_timestamp_seconds"]).await;
        put(keys.fleet_paused(), r#"{"by":"ann","since":77}"#).await;
        shows(&metrics, &["paused_since_timestamp_seconds{scope=\"fleet\"} 77"]).await;
        put(keys.hold(&machine), "not a document").await;
        shows(&metrics, &["held 1"]).await;
        // Another machine, whose name begins with ours.
        let other = keys.hold(&MachineId::new("ab").unwrap());
        put(other, r#"{"by":"ann","since":77}"#).await;
        let ended = Txn::new().delete(keys.hold(&machine)).delete(keys.fleet_paused());
        locks.store().commit(&ended).await.unwrap();
        shows(&metrics, &idle).await;

        let claim = Claim::new(machine.clone(), [group.clone()], Via::Agent);
        locks.acquire(&claim).await.unwrap();
        let held = locks.holding(std::slice::from_ref(&group), &machine).await.unwrap();
        let since = held[&group].as_ref().unwrap().start_time.0;
        let since = format!("holder_since_timestamp_seconds{{group=\"default\"}} {since}");
        shows(&metrics, &["holder{group=\"default\"} 1", &since]).await;
        let release = rebootlock::lock::Release::by_operator("op");
        locks.release(&[group], &machine, &release).await.unwrap();
        shows(&metrics, &idle).await;
        following.abort();
    }
}
