//! From the slot to the reboot: look again, tell users, get the permit, give the order.

use std::time::Duration;

use rebootlock::config::gate::Phase;
use rebootlock::lock::{Advance, LockError};
use rebootlock::process::Trace;
use rebootlock::record::UnixTime;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Agent, Held};
use crate::environment;
use crate::failpoint;
use crate::logind::held_up_by;
use crate::lookout::Closed;
use crate::memento::Memento;
use crate::method::{MethodError, Order, REBOOT_UNIT};
use crate::outcome::Outcome;
use crate::policy::Event;
use crate::requests;
use crate::slots::Slots;
use crate::unit::{NoSystemd, Systemd};
use crate::want::Want;

/// A permit older than this when it is to be used is asked for again: the process may have been
/// frozen, and an operator may have given the slot to another machine meanwhile.
const PERMIT_IS_FRESH: Duration = Duration::from_secs(5);

/// Between two looks at what inhibits the reboot.
pub(super) const INHIBITOR_POLL: Duration = Duration::from_secs(2);

/// Before a reboot that was refused is ordered again.
const ORDER_AGAIN: Duration = Duration::from_secs(30);

/// Between two looks at a shutdown that takes too long.
const STILL_GOING_DOWN: Duration = Duration::from_secs(60);

/// Whether the machine may go down with its slot.
pub(super) enum Permit {
    /// It may.
    Given,
    /// The slot is not ours any more.
    Lost,
    /// It may not: why, and what follows.
    Closed(Closed, Event),
    /// That could not be found out yet.
    Unknown,
}

impl Agent {
    /// Looks at everything once more, with the slot in hand.
    pub(super) async fn check_again(&mut self) -> Event {
        self.say("has a slot; looking at everything once more");
        if let Some(obstacle) = self.obstacle().await {
            return obstacle;
        }
        if self.options.run.once {
            self.conclude(Closed::new(
                Outcome::Ready,
                "everything is clear; without --once this machine would reboot now",
            ));
            return Event::Obstructed;
        }
        Event::Clear
    }

    /// What is in the way of the reboot, after giving an inhibitor its time to go.
    async fn obstacle(&mut self) -> Option<Event> {
        self.force = false;
        let failed = self.ask_detectors(Phase::PostLock).await;
        self.look_at_request().await;
        // update-engine and requests are heard whatever the detectors say.
        if let Some(failed) = failed.filter(|_| self.wants.now() == Want::Unknown) {
            return Some(self.closed(failed));
        }
        if self.wants.now() != Want::Nothing
            && let Some(closed) = self.look(Phase::PostLock).await
        {
            return Some(self.closed(closed));
        }
        // What is wanted now may be less than what the slot was asked for.
        if let Some(closed) = self.still_required() {
            return Some(self.closed(closed));
        }
        let give_up = Instant::now() + self.options.settings.agent.inhibit_timeout;
        let mut said = None;
        loop {
            match self.wants.now() {
                Want::Nothing => {
                    let why = "with the slot held, nothing wanted a reboot any more";
                    self.conclude(Closed::new(Outcome::RecheckCleared, why));
                    return Some(Event::Unwanted);
                }
                // Others wait for this slot while nobody knows.
                Want::Unknown => tokio::select! {
                    () = self.wants.changed() => continue,
                    () = sleep_until(give_up) => {
                        let why = "with the slot held, whether a reboot is still wanted could not be \
                                   found out";
                        return Some(self.closed(Closed::new(Outcome::HealthBlocked, why)));
                    }
                },
                Want::Reboot { .. } => {}
            }
            if let Some(closed) = self.lookout.glance(Phase::PostLock) {
                return Some(self.closed(closed));
            }
            let in_the_way = match self.in_the_way().await {
                None => {
                    self.held_up_since = None;
                    return None;
                }
                // Not an inhibitor, and so not to be passed over.
                Some(InTheWay::Unknown(why)) => why,
                Some(InTheWay::Inhibited(who)) => {
                    let since = *self.held_up_since.get_or_insert_with(Instant::now);
                    let force_after = self.options.settings.reboot.force_after;
                    if force_after.is_some_and(|after| since.elapsed() >= after) {
                        tracing::warn!(
                            reason = who,
                            "the reboot was held up for too long, and goes on"
                        );
                        self.force = true;
                        return None;
                    }
                    who
                }
            };
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
                    let why = format!("held up: {}", said.unwrap_or_default());
                    self.conclude(Closed::new(Outcome::HealthBlocked, why));
                    return Some(Event::Obstructed);
                }
            }
        }
    }

    /// A request may have been taken back, and the watch be late.
    async fn look_at_request(&mut self) {
        let Some(locks) = self.slots.locks().cloned() else { return };
        let Some(want) = self.requests.clone() else { return };
        while self.held.is_some() && self.wants.is_requested() {
            let looked = requests::look(&locks, &self.machine, &want).await;
            let Err(source) = looked else { return };
            let action = format!("reading {}", locks.keys().request(&self.machine));
            let error = LockError::Store { action, source };
            self.stuck("cannot get the permit to reboot", &error).await;
        }
    }

    /// What closes windows and gates ends the way to the reboot. Where asking for a slot again at
    /// once would end the same, others get their chance first.
    pub(super) fn closed(&mut self, closed: Closed) -> Event {
        match closed.outcome {
            Outcome::WindowDenied | Outcome::WindowOutsideAllow => {
                tracing::info!(
                    why = closed.why,
                    "the reboot window has closed; the slot goes back"
                );
            }
            _ => tracing::info!(why = closed.why, "the slot goes back"),
        }
        let seen_before_the_slot = matches!(
            closed.outcome,
            Outcome::KillSwitchActive | Outcome::WindowDenied | Outcome::WindowOutsideAllow
        );
        self.conclude(closed);
        if seen_before_the_slot { Event::GatesClosed } else { Event::Obstructed }
    }

    /// Whether nobody could say what inhibits a reboot: then a slot would be held in vain.
    pub(super) async fn logind_is_silent(&mut self) -> Option<Closed> {
        match self.in_the_way().await {
            Some(InTheWay::Unknown(why)) => Some(Closed::new(Outcome::HealthBlocked, why)),
            _ => None,
        }
    }

    /// What logind says against a reboot now, if anything.
    async fn in_the_way(&mut self) -> Option<InTheWay> {
        let inhibitors = match self.logind().await {
            Ok(logind) => logind.inhibitors().await,
            Err(error) => Err(error),
        };
        match inhibitors {
            Ok(inhibitors) if inhibitors.is_empty() => None,
            Ok(inhibitors) => Some(InTheWay::Inhibited(held_up_by(&inhibitors))),
            Err(error) => {
                // A connection that broke is made anew.
                self.logind = None;
                Some(InTheWay::Unknown(format!("logind does not answer: {error}")))
            }
        }
    }

    /// The last look, and the permit.
    pub(super) async fn ask_for_permit(&mut self) -> Event {
        failpoint::reach("before-permit");
        let began = Instant::now();
        loop {
            if let Some(obstacle) = self.obstacle().await {
                return obstacle;
            }
            let Some(held) = self.held.clone() else {
                // A strategy without slots, or best effort without a store.
                self.permit_ends = None;
                return Event::Permitted;
            };
            self.say("asking for the permit to reboot");
            let asked = Instant::now();
            let (permit, fresh) = match self.slots.clone() {
                Slots::Store(_) => (self.permit_by_store(&held).await, PERMIT_IS_FRESH),
                Slots::Server(server) => {
                    let fresh = PERMIT_IS_FRESH.max(server.timeout());
                    (self.permit_by_server(&server, &held).await, fresh)
                }
            };
            let patience = self.options.settings.agent.inhibit_timeout;
            match permit {
                Permit::Given if asked.elapsed() < fresh => {
                    self.clear_trouble();
                    self.permit_ends = Some(asked + fresh);
                    failpoint::reach("permitted");
                    return Event::Permitted;
                }
                Permit::Given => tracing::info!("the permit came too late; asking again"),
                Permit::Lost => return self.slot_lost(),
                Permit::Closed(closed, event) => {
                    tracing::info!(why = closed.why, "no permit");
                    self.conclude(closed);
                    return event;
                }
                // A server's failure may be its way to say no, and this machine is drained.
                Permit::Unknown if self.slots.locks().is_none() && began.elapsed() >= patience => {
                    let why = "the server did not say for too long whether the slot is still there";
                    tracing::warn!("{why}; it is given back");
                    self.conclude(Closed::new(Outcome::LockUnavailable, why));
                    return Event::Obstructed;
                }
                Permit::Unknown => {}
            }
        }
    }

    async fn permit_by_store(&mut self, held: &Held) -> Permit {
        let deadline = self.options.settings.agent.reboot_deadline.as_secs();
        let permit = Advance::permit(UnixTime::now().plus_seconds(deadline));
        let error = match self.mark(held, &permit).await {
            Ok(()) => return Permit::Given,
            Err(error) => error,
        };
        let outcome = match &error {
            LockError::NotOurs { .. } => return Permit::Lost,
            LockError::Paused { .. } => Outcome::Paused,
            LockError::Held { .. } => Outcome::Held,
            error => {
                self.stuck("cannot get the permit to reboot", error).await;
                return Permit::Unknown;
            }
        };
        Permit::Closed(Closed::new(outcome, error.to_string()), Event::Paused)
    }

    /// Gives the order. However it is answered, the machine may be going down from here on.
    pub(super) async fn reboot(&mut self) -> Event {
        let reason = self.reason();
        if self.options.run.dry_run {
            tracing::info!(reason, "dry run: the reboot would be ordered now");
            self.say("dry run: would reboot now");
            self.conclude(Closed::new(Outcome::Ready, "dry run: this machine would reboot now"));
            return Event::NotOrdered;
        }
        tracing::info!(reason, "ordering the reboot");
        self.say("rebooting");
        self.conclude(Closed::new(Outcome::Ready, format!("rebooting: {reason}")));
        // Before the order, which may be the last thing this process does.
        let before = self.memento.load();
        let mut after = before.clone();
        if !before.ordered || !self.is_of_this_boot(&before) {
            self.count_try(&mut after);
        }
        after.ordered = true;
        after.ordered_at_secs.get_or_insert(self.kernel_up_for().as_secs());
        if let Some(error) = self.save(&after)
            && self.tried_reason().is_some()
        {
            let why = format!(
                "reboots cannot be counted in {}, and a machine whose reason never goes away would \
                 reboot for ever: {error}; rebootlockctl request reboots it all the same",
                self.options.run.state_dir.display()
            );
            tracing::error!(why, "nothing was ordered");
            self.conclude(Closed::new(Outcome::HealthBlocked, why));
            return Event::NotOrdered;
        }
        let variables = environment::variables(Phase::PostLock, &self.facts(Phase::PostLock));
        let order = Order {
            message: format!("Reboot by rebootlock: {reason}"),
            variables: variables
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            machine_id: self.machine.to_string(),
            force: self.force,
            until: self.permit_ends,
        };
        let memento = self.memento.clone();
        let mut note = |command: &Trace| {
            let with = Memento { command: Some(command.clone()), ..memento.load() };
            if let Err(error) = memento.save(&with) {
                tracing::warn!(%error, "how the reboot command is found cannot be kept");
            }
        };
        let ordered = match self.logind().await {
            Ok(logind) => self.method.order(&logind, &order, &mut note).await,
            Err(error) => Err(MethodError::Logind(error)),
        };
        self.ordered = ordered.is_ok();
        if !matches!(ordered, Err(MethodError::TooLate | MethodError::Impossible(_))) {
            self.metrics.reboot_ordered();
        }
        if let Err(MethodError::TooLate) = ordered {
            tracing::warn!("the order came too late for its permit; asking again");
            self.save(&before);
            return Event::PermitTooOld;
        }
        if let Err(error) = ordered {
            self.logind = None;
            let impossible = matches!(error, MethodError::Impossible(_));
            let error = format!("{:#}", anyhow::Error::from(error));
            if impossible {
                tracing::error!(
                    error,
                    "this machine cannot go down as configured; nothing was ordered"
                );
                self.save(&before);
                self.conclude(Closed::new(Outcome::HealthBlocked, error));
                return Event::NotOrdered;
            }
            tracing::error!(
                error,
                "the order to reboot failed; the slot is kept, as the machine may go down all the same"
            );
            self.say(&format!("the order to reboot failed: {error}"));
        }
        failpoint::reach("ordered");
        Event::Ordered
    }

    /// Until the machine goes down; or until it is plain that it does not.
    pub(super) async fn await_end(&mut self) -> Event {
        self.ending_since.get_or_insert(self.kernel_up_for());
        let deadline = self.options.settings.agent.reboot_deadline;
        let (time, why) = match self.ordered {
            true => (deadline, "the reboot was ordered long ago, and the machine is still up"),
            false => (
                deadline.min(ORDER_AGAIN),
                "the order to reboot is not known to have been taken, and the machine is still up",
            ),
        };
        sleep(time).await;
        self.conclude(Closed::new(Outcome::Overdue, why));
        loop {
            self.metrics.set_overdue(self.is_overdue());
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
                            seconds = time.as_secs(),
                            "still up after the reboot was ordered; ordering it again"
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

    /// Whether this machine should have gone down long ago: since the first order for the slot it has, or
    /// since this agent waits for its end if that is not known.
    pub(super) fn is_overdue(&self) -> bool {
        let memento = self.memento.load();
        let ordered_at = memento.ordered_at_secs.filter(|_| self.is_of_this_boot(&memento));
        let ordered_at = ordered_at.map(Duration::from_secs).or(self.ending_since);
        let deadline = self.options.settings.agent.reboot_deadline;
        ordered_at.is_some_and(|at| self.kernel_up_for().saturating_sub(at) >= deadline)
    }

    /// Whether logind and systemd say that no shutdown is under way or scheduled, and no command that was
    /// ordered to begin one still runs. Not knowing is a no.
    pub(super) async fn is_certainly_up(&mut self) -> bool {
        let memento = self.memento.load();
        let same_boot = self.is_of_this_boot(&memento);
        if let Some(command) = memento.command.as_ref().filter(|_| same_boot)
            && command.lives().await
        {
            tracing::warn!("the command that reboots this machine still runs");
            return false;
        }
        match by_systemd().await {
            Ok(None) => {}
            Ok(Some(why)) => {
                tracing::warn!("{why}");
                return false;
            }
            Err(error) => {
                tracing::warn!(%error, "systemd does not say whether this machine is going down");
                return false;
            }
        }
        let ours = memento.announced.as_ref().filter(|_| same_boot);
        let going_down = match self.logind().await {
            Ok(logind) => logind.is_going_down(ours).await,
            Err(error) => Err(error),
        };
        going_down.map(|going_down| !going_down).unwrap_or_else(|error| {
            tracing::warn!(%error, "logind does not say whether this machine is going down");
            self.logind = None;
            false
        })
    }

    pub(super) async fn mark(&self, held: &Held, step: &Advance) -> Result<(), LockError> {
        match &self.slots {
            Slots::Store(locks) => {
                locks.advance(&held.groups, &self.machine, held.token, step).await
            }
            // A server keeps nothing of the kind.
            Slots::Server(_) => Ok(()),
        }
    }

    pub(super) fn slot_lost(&mut self) -> Event {
        tracing::warn!(
            "the slot is not ours any more: somebody unlocked this machine; nothing is rebooted"
        );
        self.say("the slot was taken away; will ask again");
        self.held = None;
        Event::SlotLost
    }

    pub(super) fn reason(&self) -> String {
        match self.wants.now() {
            Want::Reboot { reason, .. } => reason,
            _ => "a reboot was wanted".to_owned(),
        }
    }
}

/// What systemd does to take this machine down, if anything. Where there is no systemd, nothing.
async fn by_systemd() -> Result<Option<&'static str>, NoSystemd> {
    let systemd = match Systemd::connect().await {
        Err(NoSystemd::Absent) => return Ok(None),
        answer => answer?,
    };
    if systemd.runs(REBOOT_UNIT).await? {
        return Ok(Some("the command that reboots this machine still runs"));
    }
    // logind does not know of what it did not order.
    Ok(systemd.is_stopping().await?.then_some("systemd is taking this machine down"))
}

/// What keeps a machine that has its slot.
enum InTheWay {
    /// Somebody who takes an inhibitor.
    Inhibited(String),
    /// Nobody knows.
    Unknown(String),
}
