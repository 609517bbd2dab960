//! The agent's figures as others see them: a real Prometheus, `promtool`, the alert rules, the
//! dashboard.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rebootlock::config::MetricsSettings;
use rebootlock::id::Group;
use rebootlock::lock::Scope;
use rebootlock::record::UnixTime;
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, Onlooker};
use rebootlock_tests::prometheus::{Prometheus, http_get};
use rebootlockd::metrics::{
    Brake, ClusterHealth, Detection, Export, Format, Health, HookEnd, HookPhase, Lasting,
    LockAttempt, Metrics, Phase, Reported, Required, Stage, Success, Verification, WindowAnswer,
    WindowNow, Written,
};
use rebootlockd::outcome::Outcome;
use rebootlockd::policy::State;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

fn lb() -> Group {
    Group::new("lb").unwrap()
}

fn docs(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file)
}

/// An agent that has told everything it can tell.
fn busy() -> Metrics {
    let metrics = Metrics::new(UnixTime(1_000));
    let second = Duration::from_secs(1);
    metrics.kill_switch_checked(Stage::PreLock, Brake::Inactive);
    metrics.window_evaluated(WindowAnswer::Allowed);
    metrics.detector_evaluated(Phase::PreLock, Detection::Requires, second);
    metrics.health_checked(Phase::PreLock, Health::Pass, second);
    metrics.cluster_health_checked(Phase::PreLock, ClusterHealth::Healthy);
    metrics.cluster_health_updated(Reported::Healthy, Written::Success);
    metrics.cooldown_checked(Phase::PreLock, Brake::Inactive);
    metrics.cooldown_activated(Success::Success);
    metrics.lock_attempted(LockAttempt::Success, second);
    metrics.lock_released(Success::Success, second);
    metrics.pass_ended(Outcome::Ready);
    metrics.hook_ran("10-drain \"all\"", HookPhase::PreReboot, HookEnd::Success);
    metrics.reboot_ordered();
    metrics.verified(Verification::Passed);
    metrics.set_required(Required::Since(UnixTime(2_000)));
    metrics.set_slots([(lb(), Lasting::Since(UnixTime(3_000))), (Group::default(), Lasting::No)]);
    metrics.set_queues([(lb(), 1)]);
    metrics.set_gates([("users \\ \"x\"".to_owned(), true)]);
    let closed = WindowNow { open: false, next_opening: Some(UnixTime(4_000)) };
    metrics.set_window(move || Some(closed));
    let since = Lasting::Since(UnixTime(5_000));
    metrics.set_pauses([(Scope::Fleet, Lasting::No), (Scope::Group(lb()), since)]);
    metrics.set_held(Some(false));
    metrics.set_state(State::Idle, UnixTime(6_000));
    metrics.set_state(State::Holding, UnixTime(7_000));
    metrics.set_overdue(false);
    metrics.set_verification_failed(false);
    metrics.set_still_required(false);
    metrics.set_store_up(Some(true));
    metrics
}

async fn served(metrics: Metrics) -> (Export, SocketAddr) {
    let listen = Some("127.0.0.1:0".parse().unwrap());
    let export = Export::start(metrics, &MetricsSettings { listen, textfile: None });
    let mut listening = export.listening();
    let address = listening.wait_for(Option::is_some).await.unwrap().unwrap();
    (export, address)
}

fn scraping(address: SocketAddr) -> String {
    format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: [{}]\n\
         scrape_configs:\n- job_name: rebootlock\n  static_configs: [{{targets: [\"{address}\"]}}]\n",
        docs("alerts.yml").display(),
    )
}

fn promtool(words: &[&str]) -> Command {
    let mut command = Command::new("promtool");
    command.args(words);
    command
}

/// Runs it to a good end.
fn passes(mut command: Command) {
    let output = command.output().expect("no promtool: `make setup` installs it");
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success(), "{command:?}: {}", said.concat());
}

/// Names of our families in a text, without the suffixes of a histogram's series.
fn names_in(text: &str) -> BTreeSet<String> {
    let word = |rest: &str| {
        let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
        let name = &rest[..end.unwrap_or(rest.len())];
        let suffixes = ["_bucket", "_sum", "_count"];
        suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name).to_owned()
    };
    text.match_indices("rebootlock_").map(|(at, _)| word(&text[at..])).collect()
}

#[tokio::test]
async fn prometheus_scrapes_what_was_told_and_forgets_what_no_longer_applies() {
    let metrics = busy();
    let (_export, address) = served(metrics.clone()).await;
    let prometheus = Prometheus::start(&scraping(address)).await.unwrap();
    let value = async |expression: &str, wanted: &[&str]| {
        eventually(&format!("{expression} is {wanted:?}"), SOON, async || {
            let found = prometheus.query(expression).await.map_err(|error| error.to_string())?;
            let values: Vec<_> = found.iter().map(|(_, value)| value.as_str()).collect();
            if values == wanted { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await
        .unwrap();
    };
    value("up", &["1"]).await;
    for (expression, wanted) in [
        ("rebootlock_holder{group=\"lb\"}", "1"),
        ("rebootlock_holder{group=\"default\"}", "0"),
        ("rebootlock_holder_since_timestamp_seconds{group=\"lb\"}", "3000"),
        ("rebootlock_gate_closed{gate=\"users \\\\ \\\"x\\\"\"}", "1"),
        ("rebootlock_paused{scope=\"fleet\", group=\"\"}", "0"),
        ("rebootlock_state == 1 and rebootlock_state{state=\"holding\"}", "1"),
        ("rebootlock_hook_runs_total{hook=\"10-drain \\\"all\\\"\"}", "1"),
        ("rebootlock_orchestration_outcomes_total{status=\"still-required\"}", "0"),
        ("rebootlock_health_check_seconds_bucket{le=\"1.0\"}", "1"),
        ("count(rebootlock_build_info)", "1"),
    ] {
        value(expression, &[wanted]).await;
    }
    // Prometheus knows each family's type and help, so it read OpenMetrics as we mean it.
    let metadata = prometheus.api("/api/v1/targets/metadata").await.unwrap();
    let metadata = metadata.as_array().unwrap();
    let described = |name: &str| {
        let of_name = |one: &&Value| one["metric"] == name;
        metadata.iter().find(of_name).unwrap_or_else(|| panic!("no {name} in {metadata:?}")).clone()
    };
    assert_eq!(described("rebootlock_reboots_ordered")["type"], "counter");
    assert_eq!(described("rebootlock_lock_acquire_seconds")["type"], "histogram");
    assert_eq!(described("rebootlock_holder")["type"], "gauge");
    assert!(metadata.iter().all(|one| one["help"] != ""), "{metadata:?}");

    // The first event after a scrape is growth.
    metrics.pass_ended(Outcome::StillRequired);
    let outcomes = "rebootlock_orchestration_outcomes_total{status=\"still-required\"}";
    value(&format!("increase({outcomes}[1m]) > bool 0"), &["1"]).await;
    metrics.set_slots([(lb(), Lasting::No)]);
    metrics.set_queues([]);
    value("rebootlock_holder", &["0"]).await;
    value("rebootlock_holder_since_timestamp_seconds", &[]).await;
    value("rebootlock_queue_position", &[]).await;
}

#[tokio::test]
async fn the_dashboard_asks_only_what_prometheus_and_the_agent_can_answer() {
    let text = std::fs::read_to_string(docs("grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let kinds: Vec<_> = variables.iter().map(|one| (&one["name"], &one["type"])).collect();
    assert_eq!(kinds[0], (&"datasource".into(), &"datasource".into()));
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());

    let (_export, address) = served(busy()).await;
    let prometheus = Prometheus::start(&scraping(address)).await.unwrap();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            let expression = target["expr"].as_str().unwrap();
            assert!(expression.contains("job=~\"$job\",instance=~\"$instance\""), "{expression}");
            let expression = expression
                .replace("$job", ".*")
                .replace("$instance", ".*")
                .replace("$__rate_interval", "1m")
                .replace("$__interval", "1m");
            assert!(!expression.contains('$'), "{expression}");
            prometheus.query(&expression).await.unwrap();
        }
    }
}

#[test]
fn dashboard_rules_and_documents_name_only_families_that_exist() {
    let text = busy().text(Format::Prometheus);
    let described = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let families: BTreeSet<_> = described.map(str::to_owned).collect();
    for file in ["grafana-dashboard.json", "alerts.yml", "alerts.test.yml", "metrics.md"] {
        let names = names_in(&std::fs::read_to_string(docs(file)).unwrap());
        assert!(names.len() > 5, "{file}");
        let unknown: Vec<_> = names.difference(&families).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}

#[test]
fn every_alert_is_tested_and_documented() {
    let read = |file| std::fs::read_to_string(docs(file)).unwrap();
    let (rules, tests, text) = (read("alerts.yml"), read("alerts.test.yml"), read("metrics.md"));
    let alerts: Vec<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 8, "{alerts:?}");
    for alert in alerts {
        let quoted = format!("alertname=\"{alert}\"");
        let tested = tests.contains(&quoted) || tests.contains(&format!("alertname: {alert}\n"));
        assert!(tested, "{alert} has no test in alerts.test.yml");
        assert!(text.contains(&format!("| `{alert}` |")), "{alert} is not in metrics.md");
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    let path = |file| docs(file).to_str().unwrap().to_owned();
    passes(promtool(&["check", "rules", &path("alerts.yml")]));
    passes(promtool(&["test", "rules", &path("alerts.test.yml")]));
}

#[tokio::test]
async fn the_textfile_is_what_promtool_accepts_and_what_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rebootlock.prom");
    let settings = MetricsSettings {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        textfile: Some(path.clone()),
    };
    let export = Export::start(busy(), &settings);
    let text =
        eventually("the textfile", SOON, async || std::fs::read_to_string(&path)).await.unwrap();
    let mut listening = export.listening();
    let address = listening.wait_for(Option::is_some).await.unwrap().unwrap();
    assert_eq!(http_get(address, "/metrics").await.unwrap(), text);

    let mut check = promtool(&["check", "metrics"]);
    check.stdin(Stdio::from(std::fs::File::open(&path).unwrap()));
    passes(check);
    drop(export);
    assert!(path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_shows_on_its_listener_what_it_is_doing() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", folder.path().join("lock.db").display());
    let gate = folder.path().join("open");
    let config = format!(
        "[agent]\ncheck_interval_secs = 1\nwarn_users_secs = 0\n\
         [metrics]\nlisten = \"127.0.0.1:0\"\n\
         [[gate]]\nname = \"smoke\"\ntype = \"script\"\nphases = [\"pre-lock\"]\n\
         command = [\"/usr/bin/test\", \"-e\", \"{}\"]\n",
        gate.display()
    );
    let look = Onlooker::new(std::slice::from_ref(&store)).unwrap();
    let mut member = Member::new("web-1", &[store], &config).await.unwrap();
    member.start().await.unwrap();
    let said = member.wait_log("metrics are served").await.unwrap();
    let address = said.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let shows = async |series: &str| {
        eventually(&format!("{series} is shown"), SOON, async || {
            let text = http_get(address, "/metrics").await.map_err(|error| error.to_string())?;
            if text.lines().any(|line| line == series) { Ok(()) } else { Err(text) }
        })
        .await
        .unwrap();
    };
    shows("rebootlock_state{state=\"idle\"} 1").await;
    shows("rebootlock_reboot_required 0").await;

    look.lock("db-1").await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    shows("rebootlock_reboot_required 1").await;
    shows("rebootlock_gate_closed{gate=\"smoke\"} 1").await;
    std::fs::write(&gate, "").unwrap();
    shows("rebootlock_queue_position{group=\"default\"} 1").await;
    shows("rebootlock_gate_closed{gate=\"smoke\"} 0").await;

    look.unlock("db-1").await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    shows("rebootlock_holder{group=\"default\"} 1").await;
    shows("rebootlock_reboots_ordered_total 1").await;
    member.come_back_and_give_back().await.unwrap();
}
