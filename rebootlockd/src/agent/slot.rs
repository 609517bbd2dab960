//! Finding the slot of an earlier life, and getting a new one, wherever slots come from.

use std::time::Duration;

use rebootlock::config::Strategy;
use rebootlock::config::gate::Phase;
use rebootlock::id::Group;
use rebootlock::lock::{Acquired, LockError, LockManager};
use rebootlock::record::{Claim, UnixTime};
use rebootlock::wait::{self, WaitOptions, Waiting};
use tokio_util::task::AbortOnDropHandle;

use super::health::look_apart;
use super::{Agent, Held, PassOver, WINDOW_TICK};
use crate::failpoint;
use crate::line::{Asking, Line, Obstacle};
use crate::lookout::Closed;
use crate::memento::{Asked, Memento, Stage};
use crate::metrics::{Brake, LockAttempt};
use crate::outcome::Outcome;
use crate::pass;
use crate::policy::Event;
use crate::slots::Slots;
use crate::want::Want;

/// Between two looks for a slot that was asked for and may come late.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

impl Held {
    /// What `claim` asks for.
    pub(super) fn of(claim: &Claim) -> Self {
        let (machine, groups) = (claim.machine.clone(), claim.groups().to_vec());
        Self { machine, groups, token: claim.token, since: None }
    }

    /// The one group, at a FleetLock server.
    pub(super) fn group(&self) -> Group {
        self.groups.first().cloned().unwrap_or_default()
    }
}

impl Agent {
    /// Queues for the slots until they are ours.
    pub(super) async fn ask_for_slot(&mut self) -> Result<Event, PassOver> {
        if !self.needs_slot() {
            return Ok(Event::SlotGranted);
        }
        let claim = self.claim(self.options.settings.machine.groups.clone());
        let held = Held { machine: self.name(), ..Held::of(&claim) };
        if let Slots::Server(server) = self.slots.clone()
            && let Some(instead) = self.before_asking(&server, &held).await
        {
            return instead;
        }
        if self.slots.locks().is_some() {
            // Before the slot, so that after a crash it is known to be ours.
            self.remember(Some(&held));
        }
        let poll = self.options.settings.agent.poll;
        self.line = Some(match self.slots.clone() {
            Slots::Store(locks) if self.options.run.once => {
                return self.acquire_once(&locks, &claim, held).await;
            }
            Slots::Server(server) if self.options.run.once => {
                return self.ask_once(&server, held).await;
            }
            Slots::Store(locks) => Line::Store(Waiting::start(
                (*locks).clone(),
                claim,
                WaitOptions { poll, ..WaitOptions::default() },
            )),
            Slots::Server(server) => {
                Line::Server(Asking::start(server, held.machine.clone(), held.group(), poll))
            }
        });
        self.say("asking for a slot");
        failpoint::reach("queued");
        let asked = tokio::time::Instant::now();
        let mut next_look = asked + self.check_interval();
        let mut next_overdue = asked + self.check_interval();
        let mut looking = None;
        let mut away_since = None;
        let mut last = Obstacle::ASKING;
        loop {
            let Some(line) = &mut self.line else { return Ok(Event::SlotOccupied) };
            let give_up = self.options.settings.agent.best_effort_wait;
            let give_up = away_since
                .filter(|_| self.options.settings.agent.strategy == Strategy::BestEffort)
                .map(|since: tokio::time::Instant| since + give_up);
            let tick = self.options.settings.agent.poll.min(WINDOW_TICK);
            let mut look_again = false;
            let event = tokio::select! {
                acquired = line.next() => match acquired {
                    Some(acquired) => {
                        self.line = None;
                        return Ok(self.acquired(acquired, held, asked.elapsed()));
                    }
                    None => None,
                },
                () = self.wants.changed() => {
                    (self.wants.now() == Want::Nothing).then_some(Event::Unwanted)
                }
                // Gates take their time to answer, and a slot may come meanwhile.
                closed = looked(&mut looking) => {
                    looking = None;
                    next_look = tokio::time::Instant::now() + self.check_interval();
                    closed.map(|closed| self.closed_while_queued(closed))
                }
                () = tokio::time::sleep(tick) => {
                    look_again = true;
                    if looking.is_none() && tokio::time::Instant::now() >= next_look {
                        looking = Some(look_apart(self, Phase::PreLock));
                    }
                    let closed = self.lookout.glance(Phase::PreLock);
                    closed.map(|closed| self.closed_while_queued(closed))
                }
                () = at(give_up) => {
                    tracing::warn!("the store does not answer; rebooting without a slot, as best-effort says");
                    Some(Event::SlotGranted)
                }
            };
            if let Some(event) = event {
                let took = asked.elapsed();
                self.metrics.set_queues([]);
                let late = self.leave_line(&held, event).await;
                self.metrics.lock_attempted(
                    match (event, late) {
                        (Event::SlotGranted, true) => LockAttempt::Success,
                        // The store did not answer in time.
                        (Event::SlotGranted, false) => LockAttempt::Error,
                        _ => LockAttempt::Canceled,
                    },
                    took,
                );
                if late {
                    self.held = Some(Held { since: Some(UnixTime::now()), ..held });
                    if event != Event::SlotGranted {
                        self.release().await;
                    }
                }
                return Ok(event);
            }
            let Some(obstacle) = self.line.as_ref().map(Line::obstacle) else { continue };
            let away = obstacle.is_away();
            away_since = away.then(|| away_since.unwrap_or_else(tokio::time::Instant::now));
            if obstacle != Obstacle::ASKING {
                self.tell_store_up(!away);
            }
            if look_again
                && tokio::time::Instant::now() >= next_overdue
                && let Obstacle::Store(wait::Obstacle::Queued { group, .. }) = &obstacle
            {
                self.release_overdue(group).await;
                next_overdue = tokio::time::Instant::now() + self.check_interval();
            }
            if obstacle != last {
                self.say_obstacle(&obstacle).await;
                last = obstacle;
            } else if look_again
                && let Obstacle::Store(wait::Obstacle::Queued { group, ahead: Some(ahead) }) = &last
            {
                // Who holds, and for how long, changes while the place in the queue does not.
                let sentence = self.queued(group, Some(*ahead)).await;
                self.say(&sentence);
            }
        }
    }

    fn closed_while_queued(&mut self, closed: Closed) -> Event {
        tracing::info!(why = closed.why, "out of the queue");
        self.conclude(closed);
        Event::GatesClosed
    }

    /// Leaves the line; whether a slot came at that very moment.
    async fn leave_line(&mut self, held: &Held, event: Event) -> bool {
        let mut waiting = match self.line.take() {
            None => return false,
            Some(Line::Store(waiting)) => waiting,
            Some(Line::Server(asking)) => {
                let late = asking.leave().await;
                if !late && event != Event::SlotGranted {
                    self.stop_asking(held).await;
                }
                return late;
            }
        };
        let late = waiting.leave().await;
        tracing::debug!(token = %held.token, late = late.is_some(), "left the queue");
        if waiting.is_unsettled() && late.is_none() {
            // It may come later still, and then nobody would give it back.
            self.looked = false;
        }
        late == Some(Acquired::Granted)
    }

    /// The agent stops: it leaves the line. Whether a slot came at that very moment, which is kept.
    pub(super) async fn stop_waiting(&mut self) -> bool {
        match self.line.take() {
            None => false,
            Some(Line::Store(mut waiting)) => waiting.leave().await.is_some(),
            Some(Line::Server(asking)) => {
                let late = asking.leave().await;
                if !late && let Some(asked) = self.asked() {
                    self.stop_asking(&asked).await;
                }
                late
            }
        }
    }

    /// Whether this machine holds a slot from an earlier life of its agent, and from which boot.
    pub(super) async fn look_at_slot(&mut self) -> Event {
        match self.slots.clone() {
            Slots::Store(locks) => self.look_at_store(&locks).await,
            Slots::Server(server) => self.look_at_memento(&server).await,
        }
    }

    /// Makes sure that no slot is held or comes that is not known of. An event if one turned up.
    pub(super) async fn look_again(&mut self) -> Option<Event> {
        let found = match self.slots.clone() {
            Slots::Store(locks) => self.look_again_at_store(&locks).await,
            Slots::Server(server) => {
                self.settle(&server).await;
                None
            }
        };
        self.tell_slots();
        found
    }

    /// When to look again while that is not known.
    pub(super) fn look_again_after(&self) -> Duration {
        match &self.slots {
            Slots::Server(server) => self.settle_after(server),
            Slots::Store(_) if self.needs_slot() => LOOK_AGAIN.min(self.poll()),
            Slots::Store(_) => self.poll(),
        }
    }

    pub(super) fn acquired(&mut self, acquired: Acquired, mut held: Held, took: Duration) -> Event {
        failpoint::reach("slot-granted");
        self.clear_trouble();
        self.metrics.set_queues([]);
        match acquired {
            Acquired::Granted => {
                self.go_on();
                self.metrics.lock_attempted(LockAttempt::Success, took);
                self.tell_store_up(true);
                held.since = Some(UnixTime::now());
                tracing::info!(groups = ?names(&held.groups), token = %held.token, "slot taken");
                if self.slots.locks().is_some() {
                    // In the transaction that took the slot.
                    self.metrics.cooldown_checked(Phase::PreLock.into(), Brake::Inactive);
                }
                self.report.slot.taken = true;
                if self.slots.locks().is_none() {
                    self.remember_as(Some(&held), Stage::Granted);
                }
                self.held = Some(held);
                Event::SlotGranted
            }
            Acquired::Already(record) => {
                let via = record.and_then(|record| record.via).map(|via| via.to_string());
                let sentence = "this machine's slot is held by somebody else; \
                                rebootlockctl status says by whom";
                tracing::warn!(via, "{sentence}");
                self.say(sentence);
                self.metrics.lock_attempted(LockAttempt::Contended, took);
                self.conclude(Closed::new(Outcome::LockUnavailable, sentence));
                Event::SlotOccupied
            }
        }
    }

    async fn acquire_once(
        &mut self,
        locks: &LockManager,
        claim: &Claim,
        held: Held,
    ) -> Result<Event, PassOver> {
        let asked = tokio::time::Instant::now();
        match locks.acquire(claim).await {
            Ok(acquired) => Ok(self.acquired(acquired, held, asked.elapsed())),
            Err(error) => {
                self.pass_without_slot(locks, &error, claim.groups(), asked.elapsed()).await
            }
        }
    }

    async fn pass_without_slot(
        &mut self,
        locks: &LockManager,
        error: &LockError,
        groups: &[Group],
        took: Duration,
    ) -> Result<Event, PassOver> {
        if error.is_out_of_reach() && self.may_do_without() {
            self.metrics.lock_attempted(LockAttempt::Error, took);
            return Ok(Event::SlotGranted);
        }
        let Some(closed) = pass::refused(locks, error).await else {
            self.metrics.lock_attempted(LockAttempt::Error, took);
            self.metrics.cooldown_checked(Phase::PreLock.into(), Brake::Error);
            return Err(PassOver::Failed(format!("no slot: {error}")));
        };
        self.metrics.lock_attempted(LockAttempt::Contended, took);
        if closed.outcome == Outcome::CooldownActive {
            self.metrics.cooldown_checked(Phase::PreLock.into(), Brake::Active);
        }
        self.report.slot.holders = pass::holders(locks, groups).await;
        self.conclude(closed);
        Err(PassOver::Concluded)
    }

    async fn say_obstacle(&mut self, obstacle: &Obstacle) {
        use wait::Obstacle::{Asking, CoolingDown, Failing, Held, Paused, Queued};
        let obstacle = match obstacle {
            Obstacle::Store(obstacle) => obstacle,
            Obstacle::Refused(closed) => {
                self.say(&format!("a reboot is wanted; {}", closed.why));
                return self.conclude(closed.clone());
            }
            Obstacle::Failing { why, .. } => {
                return self.complain("waiting for a slot", why.clone());
            }
        };
        // Who is paused or held is not in the queue, and a store that fails does not say.
        self.metrics.set_queues(match obstacle {
            Queued { group, ahead: Some(ahead) } => Some((group.clone(), *ahead as u64 + 1)),
            CoolingDown { group, .. } => Some((group.clone(), 1)),
            _ => None,
        });
        match obstacle {
            Asking => self.say("asking for a slot"),
            Paused { why, .. } => {
                self.say(&format!("a reboot is wanted; {why}"));
                self.conclude(Closed::new(Outcome::Paused, why));
            }
            Held { why } => {
                self.say(&format!("a reboot is wanted; {why}"));
                self.conclude(Closed::new(Outcome::Held, why));
            }
            CoolingDown { why, .. } => {
                self.metrics.cooldown_checked(Phase::PreLock.into(), Brake::Active);
                self.say(&format!("next in the queue; {why}"));
                self.conclude(Closed::new(Outcome::CooldownActive, why));
            }
            Failing { why, .. } => {
                self.metrics.cooldown_checked(Phase::PreLock.into(), Brake::Error);
                if self.trouble.as_ref() != Some(why) {
                    tracing::warn!(why, "waiting for a slot");
                    self.trouble = Some(why.clone());
                }
                self.say(&format!("waiting for a slot: {why}"));
            }
            Queued { group, ahead } => {
                if self.trouble.take().is_some() {
                    tracing::info!("the store answers again; waiting for a slot");
                }
                let sentence = self.queued(group, *ahead).await;
                self.say(&sentence);
                self.conclude(Closed::new(Outcome::LockUnavailable, sentence));
            }
        }
    }

    /// For whom this machine waits, in a sentence.
    async fn queued(&self, group: &Group, ahead: Option<usize>) -> String {
        let mut sentence = match self.slots.locks() {
            Some(locks) => pass::waiting(locks, group).await,
            None => format!("waiting for a slot in group {group}"),
        };
        match ahead {
            Some(0) => {}
            Some(ahead) => sentence.push_str(&format!("; {ahead} go first")),
            None => sentence.push_str("; many go first"),
        }
        sentence
    }

    pub(super) fn needs_slot(&self) -> bool {
        matches!(self.options.settings.agent.strategy, Strategy::EtcdLock | Strategy::BestEffort)
    }

    pub(super) fn may_do_without(&self) -> bool {
        self.options.settings.agent.strategy == Strategy::BestEffort
    }

    /// Remembers a slot that is about to be asked for, or that there is none. Why it could not, if so.
    pub(super) fn remember(&self, held: Option<&Held>) -> Option<std::io::Error> {
        self.remember_as(held, Stage::Asked)
    }

    pub(super) fn remember_as(&self, held: Option<&Held>, stage: Stage) -> Option<std::io::Error> {
        let before = self.memento.load();
        // What an earlier boot has left undone is found even if the slot is lost meanwhile.
        let came_back = held.is_some() && self.is_back(&before);
        let mut memento = self.of_this_boot(before);
        memento.token = held.map(|held| held.token);
        memento.groups = held.map(|held| held.groups.clone()).unwrap_or_default();
        memento.asked = held.filter(|_| self.slots.locks().is_none()).map(|held| Asked {
            server: self.slots.location(),
            id: held.machine.to_string(),
            group: held.group(),
            stage,
            since: held.since,
        });
        if held.is_none_or(|held| held.since.is_none()) {
            // It was for a slot that is no more.
            memento.ordered_at_secs = None;
        }
        memento.back_at_secs = match came_back {
            true => memento.back_at_secs.or(Some(self.kernel_up_for().as_secs())),
            false => None,
        };
        self.save(&memento)
    }

    /// What of it counts in this boot.
    pub(super) fn of_this_boot(&self, memento: Memento) -> Memento {
        if self.is_of_this_boot(&memento) {
            return memento;
        }
        Memento {
            boot_id: Some(self.boot_id.clone()),
            token: memento.token,
            groups: memento.groups,
            asked: memento.asked,
            tried: memento.tried,
            ..Memento::default()
        }
    }

    /// Whether this machine has rebooted, or was drained for a reboot, before this boot, and has not been
    /// found well since.
    pub(super) fn is_back(&self, memento: &Memento) -> bool {
        match self.is_of_this_boot(memento) {
            true => memento.back_at_secs.is_some(),
            false => {
                memento.ordered || !memento.hooks_done.is_empty() || memento.back_at_secs.is_some()
            }
        }
    }

    /// Whether this was written down in this boot.
    pub(super) fn is_of_this_boot(&self, memento: &Memento) -> bool {
        memento.boot_id.as_ref().is_some_and(|boot| self.boot.is(boot, true))
    }

    /// Why it could not be kept, if it could not.
    pub(super) fn save(&self, memento: &Memento) -> Option<std::io::Error> {
        let error = self.memento.save(memento).err()?;
        tracing::warn!(%error, dir = %self.options.run.state_dir.display(), "nothing can be kept in the state folder");
        Some(error)
    }
}

/// What a look in a task of its own found; for ever if there is none under way.
async fn looked(looking: &mut Option<AbortOnDropHandle<Option<Closed>>>) -> Option<Closed> {
    match looking {
        Some(looking) => looking.await.unwrap_or_else(|error| {
            Some(Closed::new(
                Outcome::HealthBlocked,
                format!("the gates could not be asked: {error}"),
            ))
        }),
        None => std::future::pending().await,
    }
}

pub(super) async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn names(groups: &[Group]) -> Vec<&str> {
    groups.iter().map(Group::as_str).collect()
}
