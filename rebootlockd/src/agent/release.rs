//! Back: see whether the machine is well, run the hooks, and give the slot back.

use std::time::Duration;

use rebootlock::config::RebootMethod;
use rebootlock::config::gate::Phase;
use rebootlock::lock::{Advance, Ended, LockManager, Release, Released};
use rebootlock::record::{HolderState, UnixTime};
use tokio::time::{Instant, sleep};

use super::{Agent, Held, ONCE_PATIENCE, PassOver};
use crate::failpoint;
use crate::lookout::Closed;
use crate::metrics::{Metrics, Success, Verification};
use crate::outcome::Outcome;
use crate::policy::Event;
use crate::slots::Slots;

/// One release in so many also trims the history.
const TRIMS: u32 = 32;

impl Agent {
    /// Until the machine is well after its reboot. One that is not keeps its slot: the rollout stops
    /// there, and goes on by itself once the machine is mended. A single pass looks once.
    pub(super) async fn verify(&mut self) -> Result<Event, PassOver> {
        self.request_is_fulfilled().await;
        let back_at = self.note_return();
        let found = self.found.as_ref();
        let away = found.map(|found| {
            let since = found.state_since.unwrap_or(found.start_time);
            UnixTime::now().seconds_since(since)
        });
        tracing::info!(seconds = away, "back after the reboot");
        let settings = self.options.settings.reboot.clone();
        // Whether the others see that it has failed, maybe since an earlier life.
        let mut shown_failed = found.is_some_and(|found| found.state == Some(HolderState::Failed));
        let mut failed = false;
        self.metrics.set_verification_failed(shown_failed);
        loop {
            let problem = match self.is_well().await {
                Some(closed) => closed.why,
                None => match self.run_post_hooks().await {
                    Ok(()) => break,
                    Err(error) => error.to_string(),
                },
            };
            self.metrics.verified(Verification::Failed);
            let why = format!("back from the reboot, but not well: {problem}; the slot is kept");
            self.say(&why);
            self.conclude(Closed::new(Outcome::HealthBlocked, why));
            if !failed && self.kernel_up_for().saturating_sub(back_at) >= settings.give_up_after {
                failed = true;
                tracing::error!(
                    problem,
                    "this machine has failed after its reboot; it keeps its slot until it is well \
                     or somebody unlocks it"
                );
                self.metrics.verified(Verification::GivenUp);
                self.metrics.set_verification_failed(true);
            }
            if failed && !shown_failed {
                shown_failed = self.write_down(HolderState::Failed).await;
            }
            if self.options.run.once {
                return Err(PassOver::Concluded);
            }
            sleep(settings.verify_interval).await;
        }
        if failed || shown_failed {
            tracing::info!("well after all");
            self.metrics.set_verification_failed(false);
            self.write_down(HolderState::Verifying).await;
        }
        if !settings.settle.is_zero() {
            self.say(&format!("well; settles for {} s", settings.settle.as_secs()));
            sleep(settings.settle).await;
        }
        self.metrics.verified(Verification::Passed);
        self.go_on();
        self.verified = true;
        Ok(Event::Well)
    }

    /// Whether the machine has been up for long enough, and its gates are open as often in a row as
    /// is wanted; else what is wrong.
    async fn is_well(&mut self) -> Option<Closed> {
        let settings = self.options.settings.reboot.clone();
        loop {
            let up = self.up_for();
            let left = settings.min_uptime.saturating_sub(up);
            if left.is_zero() {
                break;
            }
            let sentence = format!("back; looks at itself in {} s", left.as_secs());
            self.say(&sentence);
            if self.options.run.once && left > ONCE_PATIENCE {
                return Some(Closed::new(Outcome::HealthBlocked, sentence));
            }
            sleep(left.min(Duration::from_secs(15))).await;
        }
        if !self.lookout.has_gates(Phase::Verify) {
            return None;
        }
        for round in 1..=settings.verify_successes {
            if let Some(closed) = self.ask_gates(Phase::Verify).await {
                return Some(closed);
            }
            if round < settings.verify_successes {
                self.say(&format!("well, {round} of {} times", settings.verify_successes));
                sleep(settings.verify_interval).await;
            }
        }
        None
    }

    /// Writes down that this machine is back, and not yet known to be well. Since when, on the kernel's
    /// clock: an earlier life of this boot may have seen it first.
    fn note_return(&self) -> Duration {
        let mut memento = self.of_this_boot(self.memento.load());
        let now = self.kernel_up_for().as_secs();
        let back_at = *memento.back_at_secs.get_or_insert(now);
        self.save(&memento);
        Duration::from_secs(back_at)
    }

    /// How long the kernel has been up; as long as this agent if that cannot be read.
    pub(super) fn kernel_up_for(&self) -> Duration {
        uptime().unwrap_or_else(|| self.began.elapsed())
    }

    /// How long the machine has been up. A soft reboot leaves the kernel's clock alone, and it may be
    /// out of sight: then as long as this agent.
    pub(super) fn up_for(&self) -> Duration {
        let kernels = uptime().map(|up| match self.options.settings.reboot.method {
            // Since it came back, if that was seen.
            RebootMethod::SoftReboot => {
                let back_at = self.memento.load().back_at_secs.map(Duration::from_secs);
                back_at.map_or(Duration::ZERO, |back_at| up.saturating_sub(back_at))
            }
            _ => up,
        });
        kernels.unwrap_or_default().max(self.began.elapsed())
    }

    /// For the others to see; whether they do.
    async fn write_down(&self, state: HolderState) -> bool {
        let Some(held) = &self.held else { return true };
        let written = self.mark(held, &Advance::to(state)).await;
        if let Err(error) = &written {
            tracing::warn!(%error, "how this machine is cannot be written down");
        }
        written.is_ok()
    }

    /// Gives the slots back; goes on trying until they are free.
    pub(super) async fn release(&mut self) -> Event {
        if !self.verified {
            self.undo_hooks().await;
        }
        let verified = std::mem::take(&mut self.verified);
        let Some(held) = self.held.clone().or_else(|| self.asked()) else {
            self.remember(None);
            return Event::Released;
        };
        self.say("giving the slot back");
        failpoint::reach("before-release");
        let ended = match verified {
            true => Ended::Verified { boot: self.boot_id.clone() },
            false => Ended::GivenBack,
        };
        let settled = match self.slots.clone() {
            Slots::Store(locks) => {
                self.release_at_store(&locks, &held, ended).await;
                true
            }
            Slots::Server(server) => self.give_back(&server, &held).await,
        };
        failpoint::reach("released");
        self.found = None;
        self.clear_trouble();
        self.held = None;
        match settled {
            true => drop(self.remember(None)),
            false => self.looked = false,
        }
        if rand::random_ratio(1, TRIMS)
            && let Some(locks) = self.slots.locks()
            && let Err(error) = locks.trim_history(&held.groups).await
        {
            tracing::debug!(%error, "the history is longer than it need be");
        }
        Event::Released
    }

    async fn release_at_store(&mut self, locks: &LockManager, held: &Held, ended: Ended) {
        let cools = matches!(ended, Ended::Verified { .. }) && locks.has_cooldown(&held.groups);
        let release = Release::of(held.token, ended);
        let began = Instant::now();
        let begun = |metrics: &Metrics, result| {
            if cools {
                metrics.cooldown_activated(result);
            }
        };
        loop {
            match locks.release(&held.groups, &self.machine, &release).await {
                Ok(Released::Freed(_)) => {
                    self.metrics.lock_released(Success::Success, began.elapsed());
                    begun(&self.metrics, Success::Success);
                    tracing::info!(token = %held.token, "slot given back");
                    return;
                }
                Ok(Released::NotHeld) => {
                    self.metrics.lock_released(Success::Success, began.elapsed());
                    tracing::info!(token = %held.token, "the slot had been given back already");
                    return;
                }
                Err(error) => {
                    self.metrics.lock_released(Success::Error, began.elapsed());
                    begun(&self.metrics, Success::Error);
                    self.stuck("cannot give the slot back", &error).await;
                }
            }
        }
    }
}

/// How long the kernel has been up.
fn uptime() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}
