#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;

/// Everything told once.
fn busy() -> Metrics {
    let metrics = Metrics::new(UnixTime(1_000));
    let second = Duration::from_secs(1);
    let lb = || Group::new("lb").unwrap();
    metrics.kill_switch_checked(Stage::PreLock, Brake::Inactive);
    metrics.window_evaluated(WindowAnswer::OutsideAllow);
    metrics.detector_evaluated(Phase::PreLock, Detection::Requires, second);
    metrics.health_checked(Phase::PostLock, Health::Blocked, 40 * second);
    metrics.cluster_health_checked(Phase::PreLock, ClusterHealth::Healthy);
    metrics.cluster_health_updated(Reported::Unhealthy, Written::Success);
    metrics.cooldown_checked(Phase::PreLock, Brake::Active);
    metrics.cooldown_activated(Success::Success);
    metrics.lock_attempted(LockAttempt::Contended, 100 * second);
    metrics.lock_released(Success::Success, second);
    metrics.pass_ended(Outcome::StillRequired);
    metrics.hook_ran("10-drain", HookPhase::PreReboot, HookEnd::Timeout);
    metrics.reboot_ordered();
    metrics.verified(Verification::GivenUp);
    metrics.set_required(Required::Since(UnixTime(2_000)));
    metrics.set_slots([(lb(), Lasting::Since(UnixTime(3_000))), (Group::default(), Lasting::No)]);
    metrics.set_queues([(lb(), 2)]);
    metrics.set_gates([("monitoring \"eu\"".to_owned(), true), ("users".to_owned(), false)]);
    let closed = WindowNow { open: false, next_opening: Some(UnixTime(4_000)) };
    metrics.set_window(move || Some(closed));
    let since = Lasting::Since(UnixTime(5_000));
    metrics.set_pauses([(Scope::Fleet, Lasting::No), (Scope::Group(lb()), since)]);
    metrics.set_held(Some(true));
    metrics.set_state(State::Idle, UnixTime(6_000));
    metrics.set_state(State::Queued, UnixTime(7_000));
    metrics.set_overdue(true);
    metrics.set_verification_failed(true);
    metrics.set_still_required(false);
    metrics.set_store_up(Some(true));
    metrics
}

fn lines(metrics: &Metrics) -> BTreeSet<String> {
    metrics.text(Format::Prometheus).lines().map(str::to_owned).collect()
}

/// The values of a gauge or counter, with their labels.
fn values(metrics: &Metrics, family: &str) -> BTreeSet<String> {
    let prefix = format!("rebootlock_{family}");
    let of_family = |line: String| {
        let rest = line.strip_prefix(&prefix)?;
        rest.starts_with([' ', '{']).then(|| rest.to_owned())
    };
    lines(metrics).into_iter().filter_map(of_family).collect()
}

/// Type by name.
fn families(metrics: &Metrics) -> BTreeMap<String, String> {
    let described = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((name.to_owned(), kind.to_owned()))
    };
    metrics.text(Format::Prometheus).lines().filter_map(described).collect()
}

#[test]
fn what_is_told_is_shown() {
    let lines = lines(&busy());
    for line in [
        "# HELP rebootlock_reboots_ordered_total Orders to reboot given to the system.",
        "# TYPE rebootlock_reboots_ordered_total counter",
        "rebootlock_reboots_ordered_total 1",
        "rebootlock_window_evaluations_total{result=\"outside_allow\"} 1",
        "rebootlock_detector_evaluations_total{phase=\"pre-lock\",result=\"requires\"} 1",
        "rebootlock_health_check_seconds_sum{phase=\"post-lock\",result=\"blocked\"} 40.0",
        "rebootlock_health_check_seconds_bucket{le=\"30.0\",phase=\"post-lock\",result=\"blocked\"} 0",
        "rebootlock_health_check_seconds_bucket{le=\"60.0\",phase=\"post-lock\",result=\"blocked\"} 1",
        "rebootlock_lock_acquire_seconds_count{result=\"contended\"} 1",
        "rebootlock_orchestration_outcomes_total{status=\"still-required\"} 1",
        "rebootlock_hook_runs_total{hook=\"10-drain\",phase=\"pre-reboot\",result=\"timeout\"} 1",
        "rebootlock_reboot_required 1",
        "rebootlock_reboot_required_since_timestamp_seconds 2000",
        "rebootlock_holder{group=\"default\"} 0",
        "rebootlock_holder{group=\"lb\"} 1",
        "rebootlock_holder_since_timestamp_seconds{group=\"lb\"} 3000",
        "rebootlock_queue_position{group=\"lb\"} 2",
        "rebootlock_gate_closed{gate=\"monitoring \\\"eu\\\"\"} 1",
        "rebootlock_gate_closed{gate=\"users\"} 0",
        "rebootlock_window_open 0",
        "rebootlock_window_next_opening_timestamp_seconds 4000",
        "rebootlock_paused{scope=\"fleet\"} 0",
        "rebootlock_paused{scope=\"group\",group=\"lb\"} 1",
        "rebootlock_paused_since_timestamp_seconds{scope=\"group\",group=\"lb\"} 5000",
        "rebootlock_state{state=\"idle\"} 0",
        "rebootlock_state{state=\"waiting-for-slot\"} 1",
        "rebootlock_last_transition_timestamp_seconds 7000",
        "rebootlock_start_timestamp_seconds 1000",
        concat!("rebootlock_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(lines.contains(line), "{line}\nnot in\n{lines:#?}");
    }
}

#[test]
fn every_family_is_documented_with_its_type() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `rebootlock_")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`').to_owned();
        Some((format!("rebootlock_{name}"), cells.next()?.to_owned()))
    };
    let documented: BTreeMap<_, _> = text.lines().filter_map(row).collect();
    assert_eq!(documented, families(&busy()));
}

#[test]
fn counters_are_there_before_the_first_event_and_gauges_only_once_they_are_known() {
    let metrics = Metrics::new(UnixTime(1_000));
    for (family, kind) in families(&metrics) {
        let always = ["rebootlock_build_info", "rebootlock_start_timestamp_seconds"];
        assert!(kind == "counter" || always.contains(&family.as_str()), "{family} {kind}");
    }
    assert_eq!(values(&metrics, "orchestration_outcomes_total").len(), Outcome::ALL.len());
    assert!(values(&metrics, "orchestration_outcomes_total").iter().all(|v| v.ends_with(" 0")));
    assert_eq!(values(&metrics, "reboots_ordered_total"), [" 0".to_owned()].into());
    // Nothing that can be told in advance turns up later under other labels.
    let busy = busy();
    for family in ["kill_switch_checks_total", "health_checks_total", "cooldown_checks_total"] {
        assert_eq!(values(&metrics, family).len(), values(&busy, family).len(), "{family}");
    }
}

#[test]
fn a_gauge_that_stops_applying_is_gone() {
    let metrics = busy();
    metrics.set_required(Required::No);
    metrics.set_slots([(Group::default(), Lasting::No)]);
    metrics.set_queues([]);
    metrics.set_gates([("users".to_owned(), false)]);
    metrics.set_window(|| Some(WindowNow { open: true, next_opening: None }));
    metrics.set_pauses([(Scope::Fleet, Lasting::No)]);
    metrics.set_held(None);
    metrics.set_store_up(None);
    for family in [
        "reboot_required_since_timestamp_seconds",
        "holder_since_timestamp_seconds",
        "queue_position",
        "window_next_opening_timestamp_seconds",
        "paused_since_timestamp_seconds",
        "held",
        "store_up",
    ] {
        assert!(values(&metrics, family).is_empty(), "{family}");
        assert!(!families(&metrics).contains_key(&format!("rebootlock_{family}")), "{family}");
    }
    assert_eq!(values(&metrics, "holder"), ["{group=\"default\"} 0".to_owned()].into());
    assert_eq!(values(&metrics, "gate_closed"), ["{gate=\"users\"} 0".to_owned()].into());
    assert_eq!(values(&metrics, "reboot_required"), [" 0".to_owned()].into());

    metrics.forget_now();
    let gauges: Vec<_> =
        families(&metrics).into_iter().filter(|(_, kind)| kind == "gauge").collect();
    let names: Vec<_> = gauges.iter().map(|(name, _)| name.as_str()).collect();
    let left = ["rebootlock_build_info", "rebootlock_start_timestamp_seconds", "rebootlock_state"];
    assert_eq!(names, left);
    assert_eq!(values(&metrics, "reboots_ordered_total"), [" 1".to_owned()].into());
}

#[test]
fn a_state_told_again_is_no_transition() {
    let metrics = Metrics::new(UnixTime(1_000));
    metrics.set_state(State::Idle, UnixTime(2_000));
    metrics.set_state(State::Idle, UnixTime(3_000));
    assert_eq!(values(&metrics, "last_transition_timestamp_seconds"), [" 2000".to_owned()].into());
}

#[tokio::test]
async fn only_a_difference_is_a_change() {
    let metrics = Metrics::new(UnixTime(1_000));
    let changed = async || tokio::time::timeout(Duration::ZERO, metrics.changed()).await.is_ok();
    assert!(!changed().await);
    metrics.set_overdue(false);
    assert!(changed().await);
    metrics.set_overdue(false);
    assert!(!changed().await);
    metrics.pass_ended(Outcome::NoAction);
    assert!(changed().await);
}

#[test]
fn openmetrics_ends_as_it_must_and_says_the_same() {
    let metrics = busy();
    let open = metrics.text(Format::OpenMetrics);
    assert!(open.ends_with("\n# EOF\n"));
    assert!(open.contains(
        "# TYPE rebootlock_reboots_ordered counter\nrebootlock_reboots_ordered_total 1\n"
    ));
    let samples = |text: &str| {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(samples(&open), samples(&metrics.text(Format::Prometheus)));
}

#[test]
fn what_lasts_since_nobody_knows_when_is_shown_without_a_time() {
    let metrics = Metrics::new(UnixTime(1_000));
    metrics.set_slots([(Group::default(), Lasting::Undated)]);
    metrics.set_pauses([(Scope::Fleet, Lasting::Undated)]);
    assert_eq!(values(&metrics, "holder"), ["{group=\"default\"} 1".to_owned()].into());
    assert_eq!(values(&metrics, "paused"), ["{scope=\"fleet\"} 1".to_owned()].into());
    for family in ["holder_since_timestamp_seconds", "paused_since_timestamp_seconds"] {
        assert!(values(&metrics, family).is_empty(), "{family}");
    }
}

#[test]
fn the_windows_are_asked_each_time_figures_are_shown() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let metrics = Metrics::new(UnixTime(1_000));
    let open = Arc::new(AtomicBool::new(false));
    let asked = open.clone();
    metrics.set_window(move || {
        Some(WindowNow { open: asked.load(Ordering::SeqCst), next_opening: None })
    });
    assert_eq!(values(&metrics, "window_open"), [" 0".to_owned()].into());
    open.store(true, Ordering::SeqCst);
    assert_eq!(values(&metrics, "window_open"), [" 1".to_owned()].into());
}
