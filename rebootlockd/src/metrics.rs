//! Figures about the agent for Prometheus: what has happened, and how things are now.
//!
//! One [`Metrics`] lives as long as the process and is handed to whoever has something to tell.
//! Telling costs a few atomic operations, whether or not anybody listens: nothing is served or
//! written unless the configuration says so, which is [`Export`]'s business.
//!
//! `docs/metrics.md` describes every family; a test compares it with what is here.

mod counts;
mod export;
mod labels;
mod now;
mod serve;
mod text;
mod textfile;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use rebootlock::id::Group;
use rebootlock::lock::Scope;
use rebootlock::record::UnixTime;
use tokio::sync::Notify;

use self::counts::{Counts, of, one};
pub use self::export::Export;
pub use self::labels::{
    Brake, ClusterHealth, Detection, Health, HookEnd, HookPhase, LockAttempt, Phase, Reported,
    Stage, Success, Verification, WindowAnswer, Written,
};
use self::now::{Gauges, Now};
pub use self::now::{Lasting, Required, WindowNow};
pub use self::text::Format;
use crate::outcome::Outcome;
use crate::policy::State;

/// All figures of one agent. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Figures>);

struct Figures {
    registry: Registry,
    counts: Counts,
    gauges: Gauges,
    /// Something is different from what was shown last.
    changed: Notify,
}

impl Metrics {
    /// Figures of an agent that started at that time.
    pub fn new(started: UnixTime) -> Self {
        let mut registry = Registry::with_prefix("rebootlock");
        let (counts, gauges) = (Counts::new(), Gauges::new(started));
        counts.register(&mut registry);
        registry.register_collector(Box::new(gauges.clone()));
        Self(Arc::new(Figures { registry, counts, gauges, changed: Notify::new() }))
    }

    /// All figures, as a scrape gets them.
    pub fn text(&self, format: Format) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.0.registry) {
            // Writing into memory does not fail; half a page would be taken for the whole.
            tracing::error!(%error, "cannot write the metrics");
            text.clear();
        }
        match format {
            Format::OpenMetrics => text,
            Format::Prometheus => text::to_prometheus(&text),
        }
    }

    /// Until a figure has changed since this was last awaited. For one who waits.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// What has happened.
impl Metrics {
    /// The kill switch file was looked at.
    pub fn kill_switch_checked(&self, stage: Stage, result: Brake) {
        let labels = of("stage", stage.as_str(), result.as_str());
        self.count(|counts| counts.kill_switch_checks.get_or_create(&labels).inc());
    }

    /// The windows were asked.
    pub fn window_evaluated(&self, result: WindowAnswer) {
        let labels = one("result", result.as_str());
        self.count(|counts| counts.window_evaluations.get_or_create(&labels).inc());
    }

    /// A detector was asked.
    pub fn detector_evaluated(&self, phase: Phase, result: Detection, took: Duration) {
        let labels = of("phase", phase.as_str(), result.as_str());
        self.count(|counts| {
            counts.detector_evaluations.get_or_create(&labels).inc();
            let seconds = counts.detector_evaluation_seconds.get_or_create(&labels);
            seconds.observe(took.as_secs_f64());
        });
    }

    /// A gate was asked.
    pub fn health_checked(&self, phase: Phase, result: Health, took: Duration) {
        let labels = of("phase", phase.as_str(), result.as_str());
        self.count(|counts| {
            counts.health_checks.get_or_create(&labels).inc();
            counts.health_check_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        });
    }

    /// The whole fleet's health was looked at.
    pub fn cluster_health_checked(&self, phase: Phase, result: ClusterHealth) {
        let labels = of("phase", phase.as_str(), result.as_str());
        self.count(|counts| counts.cluster_health_checks.get_or_create(&labels).inc());
    }

    /// This machine's own health was written for the others, or was no news.
    pub fn cluster_health_updated(&self, status: Reported, result: Written) {
        let labels = of("status", status.as_str(), result.as_str());
        self.count(|counts| counts.cluster_health_updates.get_or_create(&labels).inc());
    }

    /// It was looked at whether another machine came back too recently.
    pub fn cooldown_checked(&self, phase: Phase, result: Brake) {
        let labels = of("phase", phase.as_str(), result.as_str());
        self.count(|counts| counts.cooldown_checks.get_or_create(&labels).inc());
    }

    /// A cooldown was begun.
    pub fn cooldown_activated(&self, result: Success) {
        let labels = one("result", result.as_str());
        self.count(|counts| counts.cooldown_activations.get_or_create(&labels).inc());
    }

    /// Asking for slots has ended; `took` is the time since it began, waiting included.
    pub fn lock_attempted(&self, result: LockAttempt, took: Duration) {
        let labels = one("result", result.as_str());
        self.count(|counts| {
            counts.lock_attempts.get_or_create(&labels).inc();
            counts.lock_acquire_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        });
    }

    /// Slots were given back, or not.
    pub fn lock_released(&self, result: Success, took: Duration) {
        let labels = one("result", result.as_str());
        self.count(|counts| {
            counts.lock_release_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        });
    }

    /// A pass over everything that decides a reboot has ended.
    pub fn pass_ended(&self, outcome: Outcome) {
        let labels = one("status", outcome.as_str());
        self.count(|counts| counts.outcomes.get_or_create(&labels).inc());
    }

    /// A hook has run, or could not; `hook` is its file's name.
    pub fn hook_ran(&self, hook: &str, phase: HookPhase, result: HookEnd) {
        let labels = [
            ("hook", hook.to_owned().into()),
            ("phase", phase.as_str().into()),
            ("result", result.as_str().into()),
        ];
        self.count(|counts| counts.hook_runs.get_or_create(&labels).inc());
    }

    /// The system was told to reboot.
    pub fn reboot_ordered(&self) {
        self.count(|counts| counts.reboots_ordered.inc());
    }

    /// The machine was looked at after a reboot.
    pub fn verified(&self, result: Verification) {
        let labels = one("result", result.as_str());
        self.count(|counts| counts.verifications.get_or_create(&labels).inc());
    }

    fn count<T>(&self, count: impl FnOnce(&Counts) -> T) {
        count(&self.0.counts);
        self.0.changed.notify_one();
    }
}

/// How things are now. Saying the same again costs nothing.
impl Metrics {
    /// Whether this machine needs a reboot.
    pub fn set_required(&self, required: Required) {
        self.now(|now| now.required = required);
    }

    /// Whether this machine holds a slot, for every one of its groups; none if that is unknown.
    pub fn set_slots(&self, slots: impl IntoIterator<Item = (Group, Lasting)>) {
        self.now(|now| now.slots = slots.into_iter().collect());
    }

    /// This machine's place in the queue that it waits in, from 1; none if it waits in none.
    pub fn set_queues(&self, places: impl IntoIterator<Item = (Group, u64)>) {
        self.now(|now| now.queues = places.into_iter().collect());
    }

    /// Whether each gate is closed, by name. A gate that is not named any more is not shown.
    pub fn set_gates(&self, closed: impl IntoIterator<Item = (String, bool)>) {
        self.now(|now| now.gates = closed.into_iter().collect());
    }

    /// What tells when reboots may begin, each time figures are shown; `None` if that is unknown.
    pub fn set_window(&self, ask: impl Fn() -> Option<WindowNow> + Send + 'static) {
        self.0.gauges.set_window(Some(Box::new(ask)));
        self.0.changed.notify_one();
    }

    /// Whether the fleet and every group of this machine are paused; none if that is unknown.
    pub fn set_pauses(&self, pauses: impl IntoIterator<Item = (Scope, Lasting)>) {
        let scope = |scope| match scope {
            Scope::Fleet => None,
            Scope::Group(group) => Some(group),
        };
        self.now(|now| now.pauses = pauses.into_iter().map(|(of, at)| (scope(of), at)).collect());
    }

    /// Whether somebody holds this machine back; `None` if that is unknown.
    pub fn set_held(&self, held: Option<bool>) {
        self.now(|now| now.held = held);
    }

    /// Where the agent is on its way, and since when.
    pub fn set_state(&self, state: State, since: UnixTime) {
        self.now(|now| {
            now.past_states.insert(state.as_str());
            // Saying it again is no transition.
            if now.state.is_none_or(|(name, _)| name != state.as_str()) {
                now.state = Some((state.as_str(), since));
            }
        });
    }

    /// Whether the machine is still up, long after its reboot was ordered.
    pub fn set_overdue(&self, overdue: bool) {
        self.now(|now| now.overdue = Some(overdue));
    }

    /// Whether the machine has not become well after its reboot.
    pub fn set_verification_failed(&self, failed: bool) {
        self.now(|now| now.verification_failed = Some(failed));
    }

    /// Whether rebooting did not help, and is not tried again.
    pub fn set_still_required(&self, required: bool) {
        self.now(|now| now.still_required = Some(required));
    }

    /// Whether the store answered; `None` where no store is asked.
    pub fn set_store_up(&self, up: Option<bool>) {
        self.now(|now| now.store_up = up);
    }

    /// Nothing is known of now any more: another agent begins, with other settings.
    pub fn forget_now(&self) {
        self.0.gauges.set_window(None);
        self.now(|now| {
            *now = Now {
                started: now.started,
                past_states: std::mem::take(&mut now.past_states),
                ..Now::default()
            }
        });
    }

    fn now(&self, change: impl FnOnce(&mut Now)) {
        if self.0.gauges.change(change) {
            self.0.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
