//! A place in line for a slot: in the queues of a store, or asking a server again and again.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rebootlock::fleetlock::{FleetLock, FleetLockError, Refusal};
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::Acquired;
use rebootlock::wait::{self, Waiting};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::lookout::Closed;
use crate::outcome::Outcome;

/// For so long a server is asked to hold a request until there is a slot. What stands between often
/// cuts connections that say nothing for a minute.
const HOLD: Duration = Duration::from_secs(50);

/// A server that holds requests for less than this is asked as one that does not.
const WORTH_IT: Duration = Duration::from_secs(10);

/// Before a server that failed is asked again, at first.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Waiting for a slot, in a task of its own.
#[derive(Debug)]
pub(crate) enum Line {
    /// In the queues of a store.
    Store(Waiting),
    /// Before a FleetLock server.
    Server(Asking),
}

/// What is in the way.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Obstacle {
    /// What the store knows.
    Store(wait::Obstacle),
    /// What a server said.
    Refused(Closed),
    /// No server says anything, or nothing of use.
    Failing {
        /// The error, in words.
        why: String,
        /// Whether none can be reached.
        out_of_reach: bool,
    },
}

impl Obstacle {
    /// Nothing known yet.
    pub(crate) const ASKING: Self = Self::Store(wait::Obstacle::Asking);

    /// Whether it is that store or server cannot be reached.
    pub(crate) fn is_away(&self) -> bool {
        matches!(
            self,
            Self::Store(wait::Obstacle::Failing { out_of_reach: true, .. })
                | Self::Failing { out_of_reach: true, .. }
        )
    }

    fn of(error: &FleetLockError) -> Self {
        match error {
            FleetLockError::Refused(refusal) if !refusal.is_passing() => {
                Self::Refused(closed(refusal))
            }
            error => {
                Self::Failing { why: error.to_string(), out_of_reach: error.is_out_of_reach() }
            }
        }
    }
}

/// How a pass ends to which a server said this. The kinds are our own gateway's; to everybody
/// else's a slot is what there is none of.
pub(crate) fn closed(refusal: &Refusal) -> Closed {
    let outcome = match refusal.kind.as_str() {
        "failed_lock_paused" => Outcome::Paused,
        "failed_lock_held" => Outcome::Held,
        "failed_lock_cooldown" => Outcome::CooldownActive,
        "failed_lock_window" => Outcome::WindowOutsideAllow,
        _ => Outcome::LockUnavailable,
    };
    Closed::new(outcome, refusal.to_string())
}

impl Line {
    /// What is in the way now.
    pub(crate) fn obstacle(&self) -> Obstacle {
        match self {
            Self::Store(waiting) => Obstacle::Store(waiting.obstacle()),
            Self::Server(asking) => asking.obstacle.borrow().clone(),
        }
    }

    /// Returns with the slot, or with nothing when something else is in the way. Safe to cancel;
    /// call it once only to a slot.
    pub(crate) async fn next(&mut self) -> Option<Acquired> {
        match self {
            Self::Store(waiting) => match waiting.next().await {
                wait::Progress::Granted(acquired) => Some(acquired),
                wait::Progress::Obstacle(_) => None,
            },
            Self::Server(asking) => asking.next().await.then_some(Acquired::Granted),
        }
    }
}

/// Asking a FleetLock server for a slot until it says yes. Dropped, it asks no more; what is on its
/// way may still be answered by a slot.
#[derive(Debug)]
pub(crate) struct Asking {
    obstacle: watch::Receiver<Obstacle>,
    granted: oneshot::Receiver<()>,
    task: AbortOnDropHandle<()>,
}

impl Asking {
    /// Begins to ask. A server that does not hold requests is asked every `poll` or a little more.
    pub(crate) fn start(
        server: Arc<FleetLock>,
        machine: MachineId,
        group: Group,
        poll: Duration,
    ) -> Self {
        let (obstacles, obstacle) = watch::channel(Obstacle::ASKING);
        let (grant, granted) = oneshot::channel();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut pace = Pace::new(poll);
            // First what is in the way, and then to wait for its end.
            let mut hold = None;
            loop {
                let asked = Instant::now();
                match server.pre_reboot(&machine, &group, hold).await {
                    Ok(said) => {
                        tracing::debug!(said, "the server grants a slot");
                        // Nobody is left to tell: then the agent has gone, and knows that it asked.
                        let _ = grant.send(());
                        return;
                    }
                    Err(error) => {
                        let now = Obstacle::of(&error);
                        obstacles.send_if_modified(|before| {
                            let changed = *before != now;
                            before.clone_from(&now);
                            changed
                        });
                        let begins = hold.is_none() && matches!(now, Obstacle::Refused(_));
                        hold = matches!(now, Obstacle::Refused(_)).then_some(HOLD);
                        if !begins {
                            sleep(pace.after(&error, asked.elapsed())).await;
                        }
                    }
                }
            }
        }));
        Self { obstacle, granted, task }
    }

    async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            granted = &mut self.granted => match granted {
                Ok(()) => true,
                // The task ends with a grant only.
                Err(_) => std::future::pending().await,
            },
            changed = self.obstacle.changed() => match changed {
                Ok(()) => false,
                Err(_) => (&mut self.granted).await.is_ok(),
            },
        }
    }

    /// Stops asking. Whether the slot came at that very moment.
    pub(crate) async fn leave(mut self) -> bool {
        self.task.abort();
        // Until it is over, an answer may come.
        let _ = (&mut self.task).await;
        self.granted.try_recv().is_ok()
    }
}

/// How long to leave a server alone. One that fails is asked ever less often, and no two machines
/// keep step.
#[derive(Debug)]
pub(crate) struct Pace {
    poll: Duration,
    failures: u32,
}

impl Pace {
    /// At most `poll` and a fifth between two questions.
    pub(crate) fn new(poll: Duration) -> Self {
        Self { poll, failures: 0 }
    }

    /// The pause after this answer, which took so long.
    pub(crate) fn after(&mut self, error: &FleetLockError, took: Duration) -> Duration {
        let jitter = rand::rng().random_range(0.0..1.0);
        self.pause(error, took, jitter)
    }

    fn pause(&mut self, error: &FleetLockError, took: Duration, jitter: f64) -> Duration {
        let a_little_more = |time: Duration| time.mul_f64(1.0 + jitter / 5.0);
        match error {
            FleetLockError::Refused(refusal) if !refusal.is_passing() => {
                self.failures = 0;
                // Nobody is asked more often than every `poll` that answers at once.
                if refusal.waited && took >= self.poll.min(WORTH_IT) {
                    return FIRST_PAUSE.mul_f64(jitter);
                }
                let poll = a_little_more(self.poll).saturating_sub(took).max(FIRST_PAUSE);
                poll.max(a_little_more(refusal.retry_after.unwrap_or_default()))
            }
            error => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(self.poll);
                self.failures = self.failures.saturating_add(1);
                let asked_to = match error {
                    FleetLockError::Refused(refusal) => refusal.retry_after.unwrap_or_default(),
                    _ => Duration::ZERO,
                };
                pause.mul_f64(0.5 + jitter / 2.0).max(a_little_more(asked_to))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, waited: bool, retry_after: Option<u64>) -> FleetLockError {
        FleetLockError::Refused(Refusal {
            server: "http://gw".to_owned(),
            status,
            kind: String::new(),
            value: String::new(),
            page: false,
            waited,
            retry_after: retry_after.map(Duration::from_secs),
        })
    }

    #[test]
    fn a_server_that_says_no_is_asked_every_poll_and_one_that_waited_at_once() {
        let mut pace = Pace::new(Duration::from_secs(60));
        let none = Duration::ZERO;
        let secs = |pause: Duration| pause.as_secs();
        assert_eq!(secs(pace.pause(&refused(423, false, None), none, 0.0)), 60);
        assert_eq!(secs(pace.pause(&refused(423, false, None), none, 0.999)), 71);
        assert_eq!(secs(pace.pause(&refused(423, false, None), Duration::from_secs(20), 0.0)), 40);
        assert_eq!(secs(pace.pause(&refused(423, false, None), Duration::from_secs(90), 0.0)), 1);
        assert_eq!(secs(pace.pause(&refused(423, false, Some(300)), none, 0.0)), 300);
        let held = Duration::from_secs(50);
        assert!(pace.pause(&refused(423, true, None), held, 0.999) < FIRST_PAUSE);
        let FleetLockError::Refused(mut full) = refused(500, false, None) else { return };
        full.kind = "failed_lock".to_owned();
        assert_eq!(secs(pace.pause(&FleetLockError::Refused(full), none, 0.0)), 60);
        // Whatever it says, it has not.
        assert_eq!(secs(pace.pause(&refused(423, true, None), none, 0.0)), 60);
        assert_eq!(secs(pace.pause(&refused(423, true, None), Duration::from_secs(1), 0.0)), 59);
        let mut quick = Pace::new(Duration::from_secs(2));
        let held = Duration::from_secs(2);
        assert!(quick.pause(&refused(423, true, None), held, 0.999) < FIRST_PAUSE);
        let held = Duration::from_secs(1);
        assert_eq!(secs(quick.pause(&refused(423, true, None), held, 0.0)), 1);
    }

    #[test]
    fn a_server_that_fails_is_asked_ever_less_often_up_to_every_poll() {
        let mut pace = Pace::new(Duration::from_secs(60));
        let away = FleetLockError::Unreached(String::new());
        let pauses: Vec<_> =
            (0..8).map(|_| pace.pause(&away, Duration::ZERO, 1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pace.pause(&away, Duration::ZERO, 0.0).as_secs(), 30);
        assert_eq!(pace.pause(&refused(503, false, Some(120)), Duration::ZERO, 0.0).as_secs(), 120);
        pace.pause(&refused(423, false, None), Duration::ZERO, 0.0);
        assert_eq!(pace.pause(&away, Duration::ZERO, 1.0).as_secs(), 1);
    }

    #[test]
    fn what_our_gateway_says_is_told_as_a_store_would() {
        for (kind, outcome) in [
            ("failed_lock_paused", Outcome::Paused),
            ("failed_lock_held", Outcome::Held),
            ("failed_lock_cooldown", Outcome::CooldownActive),
            ("failed_lock_window", Outcome::WindowOutsideAllow),
            ("failed_lock_semaphore_full", Outcome::LockUnavailable),
            ("lock_held", Outcome::LockUnavailable),
        ] {
            let FleetLockError::Refused(mut refusal) = refused(423, false, None) else { return };
            refusal.kind = kind.to_owned();
            assert_eq!(closed(&refusal).outcome, outcome);
        }
        let away = Obstacle::of(&FleetLockError::Unanswered(String::new()));
        assert!(away.is_away() && Obstacle::of(&refused(503, false, None)).is_away());
        // Airlock's one answer for everything: there is no slot, and nothing else is known.
        let FleetLockError::Refused(mut full) = refused(500, false, None) else { return };
        full.kind = "failed_lock".to_owned();
        let now = Obstacle::of(&FleetLockError::Refused(full));
        let Obstacle::Refused(closed) = now else { panic!("{now:?}") };
        assert_eq!(closed.outcome, Outcome::LockUnavailable);
        // A store that is full may be what is behind it: that is no reason to go without a slot.
        assert!(!Obstacle::of(&refused(500, false, None)).is_away());
    }
}
