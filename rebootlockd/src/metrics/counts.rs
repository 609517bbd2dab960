//! What has happened since the agent started: counters and histograms.

use std::borrow::Cow;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::labels::{
    Brake, ClusterHealth, Detection, Health, LockAttempt, Phase, Reported, Stage, Success,
    Verification, WindowAnswer, Written,
};
use crate::outcome::Outcome;

/// Label names and values.
type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

pub(super) type Counters<const N: usize> = Family<Labels<N>, Counter>;
pub(super) type Histograms<const N: usize> = Family<Labels<N>, Histogram>;

/// Detectors and gates: most take milliseconds, scripts may take minutes.
const CHECK_SECONDS: [f64; 14] =
    [0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0];

/// From asking for slots to having them, waiting included: a free one takes milliseconds, a queue
/// hours.
const ACQUIRE_SECONDS: [f64; 16] = [
    0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0,
    43200.0, 86400.0,
];

/// Giving slots back, tries against a store out of reach included.
const RELEASE_SECONDS: [f64; 12] =
    [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];

/// Every counter and histogram.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    pub(super) kill_switch_checks: Counters<2>,
    pub(super) window_evaluations: Counters<1>,
    pub(super) detector_evaluations: Counters<2>,
    pub(super) detector_evaluation_seconds: Histograms<2>,
    pub(super) health_checks: Counters<2>,
    pub(super) health_check_seconds: Histograms<2>,
    pub(super) cluster_health_checks: Counters<2>,
    pub(super) cluster_health_updates: Counters<2>,
    pub(super) cooldown_checks: Counters<2>,
    pub(super) cooldown_activations: Counters<1>,
    pub(super) lock_attempts: Counters<1>,
    pub(super) lock_acquire_seconds: Histograms<1>,
    pub(super) lock_release_seconds: Histograms<1>,
    pub(super) outcomes: Counters<1>,
    pub(super) hook_runs: Counters<3>,
    pub(super) reboots_ordered: Counter,
    pub(super) verifications: Counters<1>,
}

/// The one label of a family.
pub(super) fn one(name: &'static str, value: &'static str) -> Labels<1> {
    [(name, value.into())]
}

/// The label `result`, and one before it.
pub(super) fn of(name: &'static str, value: &'static str, result: &'static str) -> Labels<2> {
    [(name, value.into()), ("result", result.into())]
}

/// Every value with every result.
fn pairs(name: &'static str, values: &[&'static str], results: &[&'static str]) -> Vec<Labels<2>> {
    let with_each = |value: &&'static str| {
        let value = *value;
        results.iter().map(move |result| of(name, value, result))
    };
    values.iter().flat_map(with_each).collect()
}

/// Makes a counter for each of `labels`.
fn zero<const N: usize>(counters: &Counters<N>, labels: impl IntoIterator<Item = Labels<N>>) {
    for labels in labels {
        drop(counters.get_or_create(&labels));
    }
}

impl Counts {
    pub(super) fn new() -> Self {
        let checks = || Histogram::new(CHECK_SECONDS);
        let counts = Self {
            kill_switch_checks: Family::default(),
            window_evaluations: Family::default(),
            detector_evaluations: Family::default(),
            detector_evaluation_seconds: Family::new_with_constructor(checks),
            health_checks: Family::default(),
            health_check_seconds: Family::new_with_constructor(checks),
            cluster_health_checks: Family::default(),
            cluster_health_updates: Family::default(),
            cooldown_checks: Family::default(),
            cooldown_activations: Family::default(),
            lock_attempts: Family::default(),
            lock_acquire_seconds: Family::new_with_constructor(|| Histogram::new(ACQUIRE_SECONDS)),
            lock_release_seconds: Family::new_with_constructor(|| Histogram::new(RELEASE_SECONDS)),
            outcomes: Family::default(),
            hook_runs: Family::default(),
            reboots_ordered: Counter::default(),
            verifications: Family::default(),
        };
        counts.begin_at_zero();
        counts
    }

    /// A counter that is first seen at 1 never grew, as `rate` and `increase` see it: the first
    /// event, often the one that matters, would be lost. Histograms are too many for this.
    fn begin_at_zero(&self) {
        let asked = [Phase::Monitor, Phase::PreLock, Phase::PostLock, Phase::Verify];
        let asked = asked.map(Phase::as_str);
        let locking = [Phase::PreLock, Phase::PostLock].map(Phase::as_str);
        zero(&self.kill_switch_checks, pairs("stage", &Stage::texts(), &Brake::texts()));
        zero(&self.detector_evaluations, pairs("phase", &asked, &Detection::texts()));
        zero(&self.health_checks, pairs("phase", &Phase::texts(), &Health::texts()));
        zero(&self.cluster_health_checks, pairs("phase", &locking, &ClusterHealth::texts()));
        zero(&self.cluster_health_updates, pairs("status", &Reported::texts(), &Written::texts()));
        zero(&self.cooldown_checks, pairs("phase", &locking, &Brake::texts()));
        let results = |texts: Vec<&'static str>| texts.into_iter().map(|text| one("result", text));
        zero(&self.window_evaluations, results(WindowAnswer::texts()));
        zero(&self.cooldown_activations, results(Success::texts()));
        zero(&self.lock_attempts, results(LockAttempt::texts()));
        zero(&self.verifications, results(Verification::texts()));
        zero(&self.outcomes, Outcome::ALL.map(|outcome| one("status", outcome.as_str())));
    }

    /// Names leave out `_total`, which the format adds, and help texts their full stop.
    #[rustfmt::skip]
    pub(super) fn register(&self, registry: &mut Registry) {
        let all = self.clone();
        registry.register("kill_switch_checks", "Looks at the kill switch file", all.kill_switch_checks);
        registry.register("window_evaluations", "Questions put to the reboot windows", all.window_evaluations);
        registry.register("detector_evaluations", "Questions put to detectors, which are reasons to reboot", all.detector_evaluations);
        registry.register("detector_evaluation_seconds", "How long one detector took to answer", all.detector_evaluation_seconds);
        registry.register("health_checks", "Questions put to gates, which are reasons to wait", all.health_checks);
        registry.register("health_check_seconds", "How long one gate took to answer", all.health_check_seconds);
        registry.register("cluster_health_checks", "Looks at the health of the whole fleet", all.cluster_health_checks);
        registry.register("cluster_health_updates", "This machine's own health written for the others to see, or found to be no news", all.cluster_health_updates);
        registry.register("cooldown_checks", "Looks at whether another machine came back too recently", all.cooldown_checks);
        registry.register("cooldown_activations", "Cooldowns begun by this machine's giving its slots back", all.cooldown_activations);
        registry.register("lock_attempts", "Ends of asking for slots", all.lock_attempts);
        registry.register("lock_acquire_seconds", "From asking for slots to the end of it, waiting in the queue included", all.lock_acquire_seconds);
        registry.register("lock_release_seconds", "How long giving slots back took", all.lock_release_seconds);
        registry.register("orchestration_outcomes", "Passes over everything that decides a reboot, by how they ended", all.outcomes);
        registry.register("hook_runs", "Hooks run before and after reboots", all.hook_runs);
        registry.register("reboots_ordered", "Orders to reboot given to the system", all.reboots_ordered);
        registry.register("verifications", "Looks at whether the machine is well after a reboot", all.verifications);
    }
}
