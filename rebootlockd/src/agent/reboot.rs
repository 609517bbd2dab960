//! From the slot to the reboot: look again, tell users, get the permit, give the order.

use std::time::Duration;

use rebootlock::lock::{Advance, LockError};
use rebootlock::record::{HolderState, UnixTime};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Agent, Held};
use crate::failpoint;
use crate::logind::{LoggedIn, tell};
use crate::policy::Event;
use crate::want::Want;

/// A permit older than this when it is to be used is asked for again: the process may have been
/// frozen, and an operator may have given the slot to another machine meanwhile.
const PERMIT_IS_FRESH: Duration = Duration::from_secs(5);

/// Between two looks at what inhibits the reboot.
const INHIBITOR_POLL: Duration = Duration::from_secs(2);

/// Before a reboot that was refused is ordered again.
const ORDER_AGAIN: Duration = Duration::from_secs(30);

/// Between two looks at a shutdown that takes too long.
const STILL_GOING_DOWN: Duration = Duration::from_secs(60);

impl Agent {
    /// Looks at everything once more, with the slot in hand.
    pub(super) async fn check_again(&mut self) -> Event {
        self.say("has a slot; looking at everything once more");
        self.obstacle().await.unwrap_or(Event::Clear)
    }

    /// What is in the way of the reboot, after giving an inhibitor its time to go.
    async fn obstacle(&mut self) -> Option<Event> {
        let give_up = Instant::now() + self.options.settings.agent.inhibit_timeout;
        let mut said = None;
        loop {
            match self.wants.now() {
                Want::Nothing => return Some(Event::Unwanted),
                Want::Unknown => {
                    self.wants.changed().await;
                    continue;
                }
                Want::Reboot { .. } => {}
            }
            if !self.window_is_open() {
                tracing::info!("the reboot window has closed");
                return Some(Event::GatesClosed);
            }
            let in_the_way = self.in_the_way().await?;
            if said.as_ref() != Some(&in_the_way) {
                tracing::warn!(reason = in_the_way, "the reboot is held up");
                self.say(&format!("has a slot; the reboot is held up: {in_the_way}"));
                said = Some(in_the_way);
            }
            tokio::select! {
                () = sleep(INHIBITOR_POLL) => {}
                () = self.wants.changed() => {}
                () = sleep_until(give_up) => {
                    tracing::warn!(reason = said, "the reboot was held up for too long; the slot goes to others");
                    return Some(Event::Obstructed);
                }
            }
        }
    }

    /// What logind says against a reboot now, if anything.
    async fn in_the_way(&mut self) -> Option<String> {
        let inhibitors = match self.logind().await {
            Ok(logind) => logind.inhibitors().await,
            Err(error) => Err(error),
        };
        match inhibitors {
            Ok(inhibitors) if inhibitors.is_empty() => None,
            Ok(inhibitors) => {
                let named = inhibitors.iter().map(|i| format!("inhibited by {}: {}", i.who, i.why));
                Some(named.collect::<Vec<_>>().join("; "))
            }
            Err(error) => {
                // A connection that broke is made anew.
                self.logind = None;
                Some(format!("logind does not answer: {error}"))
            }
        }
    }

    /// Tells users who are logged in, and gives them time to leave.
    pub(super) async fn tell_users(&mut self) -> Event {
        let users = self.logged_in().await;
        let time = self.options.settings.agent.warn_users;
        if users.is_empty() || time.is_zero() {
            return Event::Drained;
        }
        if let Some(held) = self.held.clone() {
            match self.mark(&held, &Advance::to(HolderState::Draining)).await {
                Ok(()) => {}
                Err(LockError::NotOurs { .. }) => return self.slot_lost(),
                // The permit, which matters, will find out.
                Err(error) => tracing::debug!(%error, "draining is not written down"),
            }
        }
        failpoint::reach("draining");
        let names: Vec<_> = users.iter().map(|user| user.user.as_str()).collect();
        tracing::info!(users = ?names, seconds = time.as_secs(), "users are told");
        self.say(&format!("reboots in {} s; told {}", time.as_secs(), names.join(", ")));
        tell(
            &users,
            &format!(
                "This machine ({}) will reboot in {}: {}. Please save your work and log out.",
                self.hostname,
                in_minutes(time),
                self.reason()
            ),
        );
        let deadline = Instant::now() + time;
        loop {
            let logind = self.logind.clone();
            tokio::select! {
                () = sleep_until(deadline) => return Event::Drained,
                () = self.wants.changed() => {
                    if self.wants.now() == Want::Nothing {
                        tell(&self.logged_in().await, "The reboot of this machine is called off.");
                        return Event::Unwanted;
                    }
                }
                () = somebody_left(logind) => {
                    if self.logged_in().await.is_empty() {
                        tracing::info!("all users have left");
                        return Event::Drained;
                    }
                }
                // A signal that was missed must not cost the whole time.
                () = sleep(INHIBITOR_POLL * 5) => {
                    if self.logged_in().await.is_empty() {
                        return Event::Drained;
                    }
                }
            }
        }
    }

    /// Who is logged in. When that cannot be found out, somebody whose name we do not know.
    async fn logged_in(&mut self) -> Vec<LoggedIn> {
        let users = match self.logind().await {
            Ok(logind) => logind.logged_in().await,
            Err(error) => Err(error),
        };
        users.unwrap_or_else(|error| {
            tracing::warn!(%error, "who is logged in cannot be found out");
            self.logind = None;
            vec![LoggedIn { user: "(unknown)".to_owned(), tty: String::new() }]
        })
    }

    /// The last look, and the permit.
    pub(super) async fn ask_for_permit(&mut self) -> Event {
        failpoint::reach("before-permit");
        loop {
            if let Some(obstacle) = self.obstacle().await {
                return obstacle;
            }
            let Some(held) = self.held.clone() else {
                // A strategy without slots, or best effort without a store.
                return Event::Permitted;
            };
            self.say("asking for the permit to reboot");
            let deadline = self.options.settings.agent.reboot_deadline.as_secs();
            let permit = Advance::permit(UnixTime::now().plus_seconds(deadline));
            let asked = Instant::now();
            match self.mark(&held, &permit).await {
                Ok(()) if asked.elapsed() < PERMIT_IS_FRESH => {
                    self.clear_trouble();
                    failpoint::reach("permitted");
                    return Event::Permitted;
                }
                Ok(()) => tracing::info!("the permit came too late; asking again"),
                Err(LockError::NotOurs { .. }) => return self.slot_lost(),
                Err(error @ (LockError::Paused { .. } | LockError::Held { .. })) => {
                    tracing::info!(%error, "no permit");
                    return Event::Paused;
                }
                Err(error) => self.stuck("cannot get the permit to reboot", &error).await,
            }
        }
    }

    /// Gives the order. However it is answered, the machine may be going down from here on.
    pub(super) async fn reboot(&mut self) -> Event {
        let reason = self.reason();
        if self.options.run.dry_run {
            tracing::info!(reason, "dry run: the reboot would be ordered now");
            self.say("dry run: would reboot now");
            return Event::NotOrdered;
        }
        tracing::info!(reason, "ordering the reboot");
        self.say("rebooting");
        let ordered = match self.logind().await {
            Ok(logind) => logind.reboot(&format!("Reboot by rebootlock: {reason}")).await,
            Err(error) => Err(error),
        };
        self.ordered = ordered.is_ok();
        if let Err(error) = ordered {
            self.logind = None;
            tracing::error!(%error, "the order to reboot failed; the slot is kept, as the machine may go down all the same");
            self.say(&format!("the order to reboot failed: {error}"));
        }
        failpoint::reach("ordered");
        Event::Ordered
    }

    /// Until the machine goes down; or until it is plain that it does not.
    pub(super) async fn await_end(&mut self) -> Event {
        let deadline = self.options.settings.agent.reboot_deadline;
        sleep(if self.ordered { deadline } else { deadline.min(ORDER_AGAIN) }).await;
        loop {
            if self.is_certainly_up().await {
                return match self.wants.now() {
                    Want::Nothing => {
                        tracing::error!(
                            "still up, and nothing wants a reboot any more: the slot goes back"
                        );
                        Event::StillUpUnwanted
                    }
                    _ => {
                        tracing::error!(
                            seconds = deadline.as_secs(),
                            "still up long after the reboot was ordered; ordering it again"
                        );
                        Event::StillUp
                    }
                };
            }
            tracing::error!(
                "the machine should be down by now: a shutdown is under way or logind does not \
                 answer; the slot is kept; somebody should look at this machine"
            );
            self.say("should be down by now; somebody should look at this machine");
            sleep(STILL_GOING_DOWN).await;
        }
    }

    /// Whether logind says that no shutdown is under way. Not knowing is a no.
    pub(super) async fn is_certainly_up(&mut self) -> bool {
        let going_down = match self.logind().await {
            Ok(logind) => logind.is_going_down().await,
            Err(error) => Err(error),
        };
        going_down.map(|going_down| !going_down).unwrap_or_else(|error| {
            tracing::warn!(%error, "logind does not say whether this machine is going down");
            self.logind = None;
            false
        })
    }

    async fn mark(&self, held: &Held, step: &Advance) -> Result<(), LockError> {
        self.locks.advance(&held.groups, &self.machine, held.token, step).await
    }

    fn slot_lost(&mut self) -> Event {
        tracing::warn!(
            "the slot is not ours any more: somebody unlocked this machine; nothing is rebooted"
        );
        self.say("the slot was taken away; will ask again");
        self.held = None;
        Event::SlotLost
    }

    fn reason(&self) -> String {
        match self.wants.now() {
            Want::Reboot { reason, .. } => reason,
            _ => "a reboot was wanted".to_owned(),
        }
    }
}

async fn somebody_left(logind: Option<crate::logind::Logind>) {
    match logind {
        Some(logind) => logind.somebody_left().await,
        None => std::future::pending().await,
    }
}

fn in_minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds / 60),
    }
}
