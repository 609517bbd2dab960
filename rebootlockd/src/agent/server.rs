//! Slots from a FleetLock server: it does not say who holds, so the memento is all that is known.
//!
//! What was asked for is written down before it is asked, and struck out when the server has said
//! that it is given back. A request that was not answered may be obeyed later: one for a slot is
//! followed by another `steady-state` when it is over; after one that gives back nothing is asked
//! for until it is over, or it could take away a slot that is in use by then.

use std::time::Duration;

use rebootlock::fleetlock::{Call, FleetLock, FleetLockError, client_id};
use rebootlock::id::{MachineId, Token};
use rebootlock::lock::Acquired;
use tokio::time::{Instant, sleep};

use super::reboot::Permit;
use super::{Agent, Held, PassOver};
use crate::line::{Pace, closed};
use crate::lookout::Closed;
use crate::memento::{Asked, Found, Stage};
use crate::metrics::{LockAttempt, Success};
use crate::outcome::Outcome;
use crate::policy::Event;
use crate::slots::Slots;
use crate::want::Want;

/// Before a slot is given back that may be held.
pub(super) const SETTLE_FIRST: Duration = Duration::from_secs(3);

/// Longest pause between two tries of what keeps a slot from others.
const MAX_PAUSE: Duration = Duration::from_secs(15);

impl Agent {
    /// Under which name this machine asks.
    pub(super) fn name(&self) -> MachineId {
        match &self.slots {
            Slots::Store(_) => self.machine.clone(),
            Slots::Server(_) => client_id(&self.machine),
        }
    }

    /// The slot at the server that this machine has or may have, as it remembers.
    pub(super) fn asked(&self) -> Option<Held> {
        let memento = self.memento.load();
        let Asked { id, group, since, .. } =
            memento.asked.filter(|_| self.slots.locks().is_none())?;
        let machine = MachineId::new(id).unwrap_or_else(|_| self.name());
        let token = memento.token.unwrap_or_else(Token::random);
        Some(Held { machine, groups: vec![group], token, since })
    }

    /// The slot that this machine would have, if it has one that it does not remember.
    fn any_slot(&self) -> Held {
        let groups = self.options.settings.machine.groups.clone();
        Held { machine: self.name(), groups, token: Token::random(), since: None }
    }

    /// What an earlier life of this boot has asked may not be over.
    pub(super) fn doubt_earlier_life(&self) {
        let Slots::Server(server) = &self.slots else { return };
        let memento = self.memento.load();
        let same_boot = self.is_of_this_boot(&memento);
        match memento.asked.filter(|_| same_boot).map(|asked| asked.stage) {
            Some(Stage::Asked) => server.doubt(Call::PreReboot),
            Some(Stage::Releasing) => {
                server.doubt(Call::PreReboot);
                server.doubt(Call::SteadyState);
            }
            Some(Stage::Granted) | None => {}
        }
    }

    /// Whether this machine holds a slot from an earlier life of its agent, and from which boot.
    pub(super) async fn look_at_memento(&mut self, server: &FleetLock) -> Event {
        self.held = None;
        let memento = match self.memento.find() {
            Found::Whole(memento) => memento,
            Found::Missing => {
                // Never run here, or robbed of its memory: then a slot may be left from before.
                self.looked = !self.needs_slot();
                if !self.looked && !self.is_certainly_up().await {
                    self.held = Some(self.any_slot());
                    return Event::GoingDown;
                }
                return Event::HoldsNothing;
            }
            Found::Damaged => {
                tracing::error!(
                    "whether this machine has a slot is forgotten; it looks after itself and gives back \
                     what it may have"
                );
                let up = self.is_certainly_up().await;
                self.held = Some(self.any_slot());
                // Whatever this life does not know, an earlier one may have ordered.
                return if up { Event::CameBack } else { Event::GoingDown };
            }
        };
        self.looked = true;
        let (Some(held), Some(asked)) = (self.asked(), memento.asked.as_ref()) else {
            if memento.token.is_some() {
                tracing::error!(
                    "this machine may have a slot in the store that it used before; rebootlockctl \
                     unlock frees it there"
                );
            }
            return self.without_slot(&memento);
        };
        if asked.server != server.location() {
            tracing::warn!(
                before = asked.server,
                now = server.location(),
                "the slot of this machine may be at another server; it is given back here, and \
                 somebody should see to it there"
            );
        }
        if !self.is_of_this_boot(&memento) || self.is_back(&memento) {
            self.held = Some(held);
            return Event::CameBack;
        }
        if memento.ordered && !self.is_certainly_up().await {
            self.held = Some(held);
            return Event::GoingDown;
        }
        let groups = &self.options.settings.machine.groups;
        let same = self.needs_slot() && held.machine == self.name() && held.groups == *groups;
        match asked.stage {
            Stage::Granted if same => {
                self.held = Some(held);
                if memento.ordered { Event::HoldsPermit } else { Event::HoldsStill }
            }
            // Give back what it has, and ask anew.
            Stage::Granted => {
                self.held = Some(held);
                Event::HoldsOthers
            }
            // Whether it came, or is given back, is not known.
            Stage::Asked | Stage::Releasing => {
                self.looked = false;
                Event::HoldsNothing
            }
        }
    }

    /// Gives back once what this machine may have. It is settled when no request for a slot was
    /// under way any more.
    pub(super) async fn settle(&mut self, server: &FleetLock) {
        let held = self.asked().unwrap_or_else(|| self.any_slot());
        let began = Instant::now();
        let over = server.over_in(Call::PreReboot).is_none();
        let answer = server.steady_state(&held.machine, &held.group()).await;
        self.server_said(&answer);
        match answer {
            Ok(_) if over => {
                self.looked = true;
                self.remember(None);
            }
            Ok(_) => self.settle_in = Duration::ZERO,
            Err(error) => {
                tracing::debug!(%error, "whether this machine has a slot is not settled yet");
                self.settle_in = self.pace.after(&error, began.elapsed());
            }
        }
    }

    /// When to do that next.
    pub(super) fn settle_after(&self, server: &FleetLock) -> Duration {
        // Once now, so that others need not wait, and once when it counts.
        server.over_in(Call::PreReboot).unwrap_or_default().max(self.settle_in).min(self.poll())
    }

    /// Asks no more for a slot, and makes sure that none is left.
    pub(super) async fn stop_asking(&mut self, held: &Held) {
        let Slots::Server(server) = self.slots.clone() else { return };
        self.looked = false;
        self.remember_as(Some(held), Stage::Releasing);
        self.settle(&server).await;
    }

    /// What has to be settled before a slot is asked for. Something to do instead, if it came up.
    pub(super) async fn before_asking(
        &mut self,
        server: &FleetLock,
        held: &Held,
    ) -> Option<Result<Event, PassOver>> {
        loop {
            let of_another = self
                .asked()
                .is_some_and(|asked| asked.machine != held.machine || asked.groups != held.groups);
            let left = server.over_in(Call::SteadyState);
            if of_another && left.is_none() {
                self.settle(server).await;
                if self.looked {
                    continue;
                }
            }
            let pause = match (left, of_another) {
                (Some(left), _) => left,
                (None, true) => self.settle_after(server),
                (None, false) => break,
            };
            self.say("a slot is being given back; asking again after that");
            if self.options.run.once {
                let why = "whether a slot was given back is not known yet; try again in a minute";
                return Some(Err(PassOver::Failed(why.to_owned())));
            }
            tokio::select! {
                () = sleep(pause.min(super::WINDOW_TICK)) => {}
                () = self.wants.changed() => {
                    if self.wants.now() == Want::Nothing {
                        return Some(Ok(Event::Unwanted));
                    }
                }
            }
        }
        self.looked = true;
        let error = self.remember(Some(held))?;
        // After the reboot nobody would know of the slot.
        let dir = self.options.run.state_dir.display();
        let why = format!("a slot is not asked for: it cannot be remembered in {dir}: {error}");
        self.say(&why);
        self.conclude(Closed::new(Outcome::HealthBlocked, why));
        if self.options.run.once {
            return Some(Err(PassOver::Concluded));
        }
        sleep(self.check_interval()).await;
        Some(Ok(Event::GatesClosed))
    }

    /// Asks for a slot in a single pass.
    pub(super) async fn ask_once(
        &mut self,
        server: &FleetLock,
        held: Held,
    ) -> Result<Event, PassOver> {
        let asked = Instant::now();
        let answer = server.pre_reboot(&held.machine, &held.group(), None).await;
        self.server_said(&answer);
        let error = match answer {
            Ok(_) => return Ok(self.acquired(Acquired::Granted, held, asked.elapsed())),
            Err(error) => error,
        };
        if error.is_out_of_reach() && self.may_do_without() {
            self.metrics.lock_attempted(LockAttempt::Error, asked.elapsed());
            return Ok(Event::SlotGranted);
        }
        // Who is refused may be in a queue now, and comes back no more.
        self.stop_asking(&held).await;
        match &error {
            FleetLockError::Refused(refusal) if !refusal.is_passing() => {
                self.metrics.lock_attempted(LockAttempt::Contended, asked.elapsed());
                self.conclude(closed(refusal));
                Err(PassOver::Concluded)
            }
            _ => {
                self.metrics.lock_attempted(LockAttempt::Error, asked.elapsed());
                Err(PassOver::Failed(format!("no slot: {error}")))
            }
        }
    }

    /// Asks whether the slot is still there: a server says so by granting it again, and ours
    /// refuses one that was paused meanwhile.
    pub(super) async fn permit_by_server(&mut self, server: &FleetLock, held: &Held) -> Permit {
        if let Some(left) = server.over_in(Call::SteadyState) {
            // It could take the slot away right after.
            sleep(left).await;
            return Permit::Unknown;
        }
        let asked = Instant::now();
        let answer = server.pre_reboot(&held.machine, &held.group(), None).await;
        self.server_said(&answer);
        let error = match answer {
            Ok(_) => return Permit::Given,
            Err(error) => error,
        };
        match &error {
            // One answer for all that can be wrong may be about the store: the slot may still be there.
            FleetLockError::Refused(refusal)
                if !refusal.is_passing() && !refusal.is_one_for_all() =>
            {
                let closed = closed(refusal);
                let event = match closed.outcome {
                    Outcome::Paused | Outcome::Held => Event::Paused,
                    _ => Event::Obstructed,
                };
                Permit::Closed(closed, event)
            }
            _ => {
                self.complain("cannot get the permit to reboot", error.to_string());
                let pause = self.pace.after(&error, asked.elapsed()).min(MAX_PAUSE);
                sleep(pause).await;
                Permit::Unknown
            }
        }
    }

    fn server_said<T>(&self, answer: &Result<T, FleetLockError>) {
        let away = answer.as_ref().is_err_and(FleetLockError::is_out_of_reach);
        self.tell_store_up(!away);
    }

    /// Gives the slot back; goes on trying until the server says that it is. Whether that is the end
    /// of it.
    pub(super) async fn give_back(&mut self, server: &FleetLock, held: &Held) -> bool {
        self.remember_as(Some(held), Stage::Releasing);
        let began = Instant::now();
        let mut pace = Pace::new(self.options.settings.agent.poll.min(MAX_PAUSE));
        loop {
            let over = server.over_in(Call::PreReboot).is_none();
            let asked = Instant::now();
            let answer = server.steady_state(&held.machine, &held.group()).await;
            self.server_said(&answer);
            let error = match answer {
                Ok(said) => {
                    self.metrics.lock_released(Success::Success, began.elapsed());
                    tracing::info!(token = %held.token, said, "slot given back");
                    return over;
                }
                Err(error) => error,
            };
            self.metrics.lock_released(Success::Error, began.elapsed());
            self.complain("cannot give the slot back", error.to_string());
            self.lose_patience("cannot give the slot back").await;
            let patience = self.options.settings.agent.best_effort_wait;
            if self.may_do_without() && error.is_out_of_reach() && began.elapsed() >= patience {
                tracing::warn!("the server does not answer; the slot is given back when it does");
                return false;
            }
            sleep(pace.after(&error, asked.elapsed())).await;
        }
    }
}
