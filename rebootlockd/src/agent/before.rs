//! Before a slot is asked for: until a reboot is wanted, until nothing keeps this machine, and until
//! it is worth starting over.

use std::time::Duration;

use rebootlock::config::Strategy;
use rebootlock::config::gate::Phase;

use super::slot::at;
use super::{Agent, BackOff, ONCE_PATIENCE, PassOver, WINDOW_TICK};
use crate::lookout::Closed;
use crate::outcome::Outcome;
use crate::policy::Event;
use crate::want::Want;

impl Agent {
    pub(super) async fn await_want(&mut self) -> Result<Event, PassOver> {
        if self.options.settings.agent.strategy == Strategy::Off {
            self.say("switched off; this machine is never rebooted");
        } else {
            self.say("no reboot is wanted");
        }
        self.clear_trouble();
        // Of an earlier life that ended before it could.
        self.undo_hooks().await;
        let mut failure = None;
        if self.options.run.once {
            // First what may speak against it, as the detectors need not run then.
            if let Some(closed) = self.lookout.glance(Phase::PreLock) {
                self.conclude(closed);
                return Err(PassOver::Concluded);
            }
            failure = self.ask_detectors(Phase::PreLock).await.map(|failed| failed.why);
        }
        let give_up = tokio::time::sleep(ONCE_PATIENCE);
        tokio::pin!(give_up);
        let mut monitor = tokio::time::Instant::now();
        let mut believed = None;
        let (mut in_doubt_from, mut in_doubt) = (None, false);
        loop {
            match self.wants.now() {
                Want::Reboot { reason, .. } => {
                    tracing::info!(reason, "a reboot is wanted");
                    return Ok(Event::Wanted);
                }
                Want::Nothing => {
                    self.held_up_since = None;
                    self.lookout.asks_no_gates();
                    believed = self.forget_tried();
                    if self.options.run.once || tokio::time::Instant::now() >= monitor {
                        self.monitor().await;
                        monitor = tokio::time::Instant::now() + self.check_interval();
                    }
                    if self.options.run.once {
                        return Err(PassOver::Concluded);
                    }
                }
                Want::Unknown => {
                    let from = *in_doubt_from
                        .get_or_insert_with(|| tokio::time::Instant::now() + ONCE_PATIENCE);
                    if !in_doubt && tokio::time::Instant::now() >= from {
                        in_doubt = true;
                        self.doubt();
                    }
                    // Whoever else may want one is heard first.
                    if let Some(failed) = failure.clone().filter(|_| self.wants.silent() == 1) {
                        return Err(PassOver::Failed(failed));
                    }
                }
            }
            if self.wants.now() != Want::Unknown {
                if in_doubt {
                    self.say("no reboot is wanted");
                    self.go_on();
                }
                (in_doubt_from, in_doubt) = (None, false);
            }
            let look_again = self.look_again_after();
            let monitored = self.lookout.has_gates(Phase::Monitor);
            tokio::select! {
                () = self.wants.changed() => {}
                () = at(in_doubt_from.filter(|_| !in_doubt)) => {}
                () = tokio::time::sleep_until(monitor), if monitored => {}
                () = tokio::time::sleep(believed.unwrap_or_default()), if believed.is_some() => {}
                // The store was away, or an answer was lost: a slot may wait to be freed.
                () = tokio::time::sleep(look_again), if !self.looked => {
                    if let Some(found) = self.look_again().await {
                        return Ok(found);
                    }
                }
                () = &mut give_up, if self.options.run.once => {
                    let why = "whether a reboot is wanted is not known: update-engine or the \
                               store does not answer";
                    return Err(PassOver::Failed(failure.unwrap_or_else(|| why.to_owned())));
                }
            }
        }
    }

    /// Says that nobody knows whether a reboot is wanted.
    fn doubt(&mut self) {
        let why = match self.detected.want() {
            Want::Unknown => {
                "whether a reboot is wanted cannot be found out: a detector fails; rebootlockd \
                 simulate says which"
            }
            _ => {
                "whether a reboot is wanted cannot be found out: update-engine or the store does not \
                 answer"
            }
        };
        self.say(why);
        self.conclude(Closed::new(Outcome::HealthBlocked, why));
    }

    /// Until windows and gates are open.
    pub(super) async fn await_gates(&mut self) -> Result<Event, PassOver> {
        loop {
            if self.wants.now() == Want::Nothing {
                self.go_on();
                return Ok(Event::Unwanted);
            }
            let closed = match self.before_gates().await {
                None => match self.look(Phase::PreLock).await {
                    None => self.logind_is_silent().await,
                    closed => closed,
                },
                closed => {
                    self.lookout.asks_no_gates();
                    closed
                }
            };
            let Some(closed) = closed else {
                self.go_on();
                return Ok(Event::GatesOpen);
            };
            let sentence = format!("a reboot is wanted; {}", closed.why);
            let until = closed.until;
            let left = until.map(|at| at.duration_since(jiff::Timestamp::now()).unsigned_abs());
            let pause = match closed.outcome {
                // Not for long at a time: clocks are set, and machines sleep.
                Outcome::WindowDenied | Outcome::WindowOutsideAllow | Outcome::KillSwitchActive => {
                    left.unwrap_or(WINDOW_TICK).min(WINDOW_TICK).min(self.check_interval())
                }
                _ => self.check_interval(),
            };
            self.conclude(closed);
            self.say(&sentence);
            if self.options.run.once {
                return Err(PassOver::Concluded);
            }
            let look_again = self.look_again_after();
            tokio::select! {
                () = tokio::time::sleep(pause.max(Duration::from_millis(10))) => {}
                () = self.wants.changed() => {}
                () = tokio::time::sleep(look_again), if !self.looked => {
                    if let Some(found) = self.look_again().await {
                        return Ok(found);
                    }
                }
            }
        }
    }

    /// What makes it idle to ask windows and gates.
    async fn before_gates(&self) -> Option<Closed> {
        if self.wants.now() == Want::Unknown {
            return Some(Closed::new(
                Outcome::HealthBlocked,
                "whether it still is cannot be found out; rebootlockd simulate says which \
                 detector fails",
            ));
        }
        if let Some(closed) = self.still_required() {
            return Some(closed);
        }
        let error = self.method.check().await.err()?;
        Some(Closed::new(Outcome::HealthBlocked, error.to_string()))
    }

    pub(super) async fn back_off(&mut self) -> Event {
        // A slot that was taken away is not given back, but what was drained is needed again.
        self.undo_hooks().await;
        match self.back_off {
            BackOff::None => {}
            BackOff::AWhile => tokio::time::sleep(self.poll()).await,
            BackOff::UntilWishesChange => {
                // A source that only now says that it wants nothing changes nothing.
                let before = self.wants.now();
                while self.wants.now() == before {
                    self.wants.changed().await;
                }
            }
        }
        Event::PauseOver
    }
}
