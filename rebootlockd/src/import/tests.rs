#![allow(clippy::unwrap_used)]

use std::time::Duration;

use jiff::civil::date;
use rebootlock::config::gate::{GateKind, MinHealthy, Phase};
use rebootlock::config::{DetectorSource, RebootMethod, Strategy};
use rebootlock::window::Action;

use super::*;

mod usual;

fn ours(from: Peer, text: &str) -> Result<String, String> {
    convert(from, Path::new("/etc/their.conf"), text, date(2026, 11, 21)).map_err(|e| e.to_string())
}

/// The result and what it means, with a password where one is wanted.
fn settings(from: Peer, text: &str) -> (String, Settings) {
    let toml = ours(from, text).unwrap_or_else(|error| panic!("{error}"));
    let password = tempfile::NamedTempFile::new().unwrap();
    let readable = toml.replace("/etc/rebootlock/password", password.path().to_str().unwrap());
    let fragment = Fragment::parse(Path::new("ours.toml"), &readable);
    let fragment = fragment.unwrap_or_else(|error| panic!("{error}\n{toml}"));
    (toml, Settings::decide(fragment).unwrap())
}

/// Every key that clusterrebootd knows.
const CLUSTERREBOOTD: &str = "\
# All of it.
node_name: web-1
reboot_required_detectors:
  - name: packages
    type: file
    path: /var/run/reboot-required
  - type: command
    cmd: [\"/usr/bin/needs-restarting\", \"-r\"]
    success_exit_codes: [1, 3, -1]
    timeout_sec: 120
  - name: vendor
    type: command
    cmd: [vendor-check]
health_script: /usr/local/bin/healthy
health_timeout_sec: 45
health_publish_interval_sec: 20
check_interval_sec: 300
backoff_min_sec: 5
backoff_max_sec: 60
min_reboot_interval_sec: 600
lock_key: /cluster/prod/lock
lock_ttl_sec: 120
etcd_endpoints:
  - https://etcd-1:2379
  - etcd-2:2379
etcd_namespace: /prod
etcd_tls:
  enabled: true
  ca_file: /etc/etcd/ca.pem
  cert_file: /etc/etcd/client.pem
  key_file: /etc/etcd/client.key
  insecure_skip_verify: true
reboot_command: [\"/bin/sh\", \"-c\", \"logger $RC_NODE_NAME ${RC_NOPE} $HOME; for i in 1; do echo $i; done; shutdown -r now\"]
cluster_policies:
  min_healthy_fraction: 0.28
  min_healthy_absolute: null
  forbid_if_only_fallback_left: true
  fallback_nodes: [spare-1, \"\", spare-2]
windows:
  deny:
    - \"Fri 18:00-Mon 08:00\"
  allow:
    - \"Tue-Thu 22:00-04:00\"
    - \"* 23:00-06:00\"
kill_switch_file: /etc/clusterrebootd/stop
metrics:
  enabled: true
  listen: \":9101\"
dry_run: true
";

#[test]
fn all_that_clusterrebootd_knows_is_imported() {
    let (toml, settings) = settings(Peer::Clusterrebootd, CLUSTERREBOOTD);
    let urls: Vec<_> = settings.store.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(urls, ["https://etcd-1:2379", "https://etcd-2:2379"]);
    assert_eq!(settings.store.key_file.as_deref(), Some(Path::new("/etc/etcd/client.key")));
    assert_eq!(settings.agent.strategy, Strategy::Off);
    assert_eq!(settings.agent.check_interval, Duration::from_secs(300));
    assert_eq!(settings.agent.heartbeat, Duration::from_secs(20));
    assert_eq!(settings.agent.kill_switch_file, Path::new("/etc/clusterrebootd/stop"));
    assert_eq!(settings.groups[0].cooldown, Duration::from_secs(600));
    let actions: Vec<_> = settings.windows.0.iter().map(|window| window.action).collect();
    assert_eq!(actions, [Action::Deny, Action::Allow, Action::Allow]);
    let names: Vec<_> = settings.detectors.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["update-engine", "packages", "command:/usr/bin/needs-restarting", "vendor"]);
    assert_eq!(settings.detectors[0].source, DetectorSource::Off);
    let codes = |at: usize| match &settings.detectors[at].source {
        DetectorSource::Command { reboot_needed, clear, .. } => {
            (reboot_needed.clone(), clear.clone())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(codes(2), (vec![1, 3], vec![0]));
    assert_eq!(codes(3), (vec![1], vec![0]));
    let script = &settings.gates[0];
    assert_eq!((script.name.as_str(), script.timeout), ("health_script", Duration::from_secs(45)));
    assert_eq!(script.phases, Phase::ALL);
    let GateKind::Cluster(cluster) = &settings.gates[1].kind else { panic!("no cluster gate") };
    assert_eq!(cluster.min_healthy, Some(MinHealthy::Percent(28)));
    assert_eq!(cluster.max_unhealthy, Some(0));
    let RebootMethod::Command { argv, .. } = &settings.reboot.method else { panic!("no command") };
    let shell = "logger ${RC_NODE_NAME}  $HOME; for i in 1; do echo $i; done; shutdown -r now";
    assert_eq!(argv[2].to_string(), shell);
    assert_eq!(settings.metrics.listen.unwrap().to_string(), "[::]:9101");
    for theirs in [
        "node_name",
        "lock_key",
        "etcd_namespace",
        "lock_ttl_sec",
        "backoff_min_sec",
        "backoff_max_sec",
        "insecure_skip_verify",
        "success_exit_codes had -1",
        "success_exit_codes was empty",
        "${RC_NOPE}",
        "$HOME, $i",
        "allow_remote",
        "min_healthy_fraction",
        "fallback_nodes: blank names",
    ] {
        assert!(toml.contains(theirs), "{theirs} is not in\n{toml}");
    }
}

const SMALLEST: &str = "\
node_name: a
reboot_required_detectors: [{type: file, path: /run/reboot-required}]
health_script: /bin/true
etcd_endpoints: [\"http://127.0.0.1:2379\"]
";

#[test]
fn what_clusterrebootd_leaves_open_is_as_it_was() {
    let (toml, settings) = settings(Peer::Clusterrebootd, SMALLEST);
    assert_eq!(settings.agent.strategy, Strategy::EtcdLock);
    assert_eq!(settings.agent.kill_switch_file, Path::new("/etc/clusterrebootd/disable"));
    assert_eq!(settings.reboot.method, RebootMethod::Logind);
    assert_eq!(settings.gates[0].timeout, Duration::from_secs(30));
    assert!(settings.groups.is_empty() && settings.metrics.listen.is_none());
    assert!(toml.contains("reboot_command was not set"), "{toml}");
}

#[test]
fn fractions_are_rounded_towards_fewer_reboots() {
    for (fraction, percent) in [
        ("0.28", Some(28)),
        ("0.56", Some(56)),
        ("0.281", Some(29)),
        ("0.001", Some(1)),
        ("1", None),
        ("0.995", None),
    ] {
        let text = format!("{SMALLEST}cluster_policies:\n  min_healthy_fraction: {fraction}\n");
        let (_, settings) = settings(Peer::Clusterrebootd, &text);
        let GateKind::Cluster(cluster) = &settings.gates[1].kind else { panic!("no cluster gate") };
        assert_eq!(cluster.min_healthy, percent.map(MinHealthy::Percent), "{fraction}");
        assert_eq!(cluster.max_unhealthy, Some(0));
    }
}

#[test]
fn a_code_that_means_yes_never_means_no_too() {
    let command = |codes: &str| {
        let detectors = format!("[{{type: command, cmd: [/bin/x], success_exit_codes: {codes}}}]");
        let list = "[{type: file, path: /run/reboot-required}]";
        ours(Peer::Clusterrebootd, &SMALLEST.replace(list, &detectors))
    };
    assert!(command("[0]").unwrap().contains("clear_codes = [1]"));
    assert!(command("[0, 1, 0]").unwrap().contains("clear_codes = []"));
    assert!(command("[7]").unwrap().contains("reboot_needed_codes = [7]\nclear_codes = [0]"));
    assert!(command("[-1, 256]").unwrap_err().contains("no code from 0 to 255"));
}

#[test]
fn what_cannot_be_understood_is_named_with_its_place() {
    let with = |more: &str| ours(Peer::Clusterrebootd, &format!("{SMALLEST}{more}\n"));
    for (more, said) in [
        ("lock_tl_sec: 5", "/etc/their.conf:5:1: unknown key `lock_tl_sec`"),
        (
            "windows:\n  alow: []",
            "/etc/their.conf:6:3: unknown key `alow`; clusterrebootd knows deny, allow here",
        ),
        (
            "windows:\n  allow: [\"sat-sun\"]",
            "/etc/their.conf:6:11: `windows.allow`: range \"sat-sun\"",
        ),
        ("check_interval_sec: soon", "/etc/their.conf:5:21: "),
        (
            "kill_switch_file: stop",
            "/etc/their.conf:5:19: `kill_switch_file`: \"stop\" is not a full",
        ),
        ("metrics: {enabled: true, listen: \"host:9\"}", "/etc/their.conf:5:34: `metrics.listen`"),
        ("node_name: b", "/etc/their.conf:5:1: "),
        ("min_reboot_interval_sec: 99999999", "/etc/their.conf:5:26: `min_reboot_interval_sec`"),
        ("reboot_command: [\"\"]", "/etc/their.conf:5:17: `reboot_command` must name a program"),
        ("etcd_tls: {enabled: true}", "/etc/their.conf:1:1: `etcd_tls.ca_file` is missing"),
        ("---\nnode_name: b", "/etc/their.conf:"),
    ] {
        let error = with(more).unwrap_err();
        assert!(error.starts_with(said), "{more}: {error}");
    }
    for (text, said) in [
        ("", "/etc/their.conf:1:1: "),
        ("node_name: a\n", "/etc/their.conf:1:1: `etcd_endpoints` is missing"),
    ] {
        let error = ours(Peer::Clusterrebootd, text).unwrap_err();
        assert!(error.starts_with(said), "{text:?}: {error}");
    }
}

/// update.conf and the environment of the unit, with every key.
const LOCKSMITH: &str = "\
# Flatcar
GROUP=stable
SERVER=https://public.update.flatcar-linux.net/v1/update/
REBOOT_STRATEGY=etcd-lock
LOCKSMITHD_REBOOT_STRATEGY=\"best-effort\"
REBOOT_WINDOW_START=\"Thu 23:00\"
REBOOT_WINDOW_LENGTH=1h30m
LOCKSMITHD_REBOOT_WINDOW_LENGTH='2h'
LOCKSMITHD_ENDPOINT=https://etcd-1:2379,http://127.0.0.1:4001
LOCKSMITHD_ETCD_CAFILE=/etc/ssl/ca.pem
LOCKSMITHD_ETCD_CERTFILE=/etc/ssl/client.pem
LOCKSMITHD_ETCD_KEYFILE=/etc/ssl/client.key
LOCKSMITHD_ETCD_USERNAME=locksmith
LOCKSMITHD_ETCD_PASSWORD=hunter2
export LOCKSMITHD_GROUP=\"rack 7\"
LOCKSMITHD_DEBUG=true
LOCKSMITHCTL_ENDPOINT=https://etcd-1:2379
LOCKSMITHCTL_ETCD_PASSWORD=hunter3
";

#[test]
fn all_that_locksmith_knows_is_imported() {
    let (toml, settings) = settings(Peer::Locksmith, LOCKSMITH);
    assert_eq!(settings.agent.strategy, Strategy::BestEffort);
    assert_eq!(settings.windows.0[0].name, "Thu 23:00 for 2h");
    assert_eq!(settings.store.endpoints.len(), 2);
    assert_eq!(settings.store.cert_file.as_deref(), Some(Path::new("/etc/ssl/client.pem")));
    assert_eq!(settings.store.username.as_deref(), Some("locksmith"));
    assert_eq!(settings.machine.groups[0].as_str(), "rack 7");
    assert_eq!(settings.log.level, "debug");
    assert!(!toml.contains("hunter"), "{toml}");
    for theirs in [
        "GROUP is for update-engine",
        "SERVER is for",
        "REBOOT_STRATEGY does not count beside",
        "REBOOT_WINDOW_LENGTH does not count",
        "LOCKSMITHCTL_ENDPOINT",
        "LOCKSMITHCTL_ETCD_PASSWORD",
        "port 4001",
    ] {
        assert!(toml.contains(theirs), "{theirs} is not in\n{toml}");
    }
}

#[test]
fn locksmiths_default_was_no_lock_and_ours_is_one() {
    let (toml, settings) = settings(Peer::Locksmith, "GROUP=beta\n");
    assert_eq!(settings.agent.strategy, Strategy::EtcdLock);
    assert!(toml.contains("REBOOT_STRATEGY was not set"));
}

#[test]
fn a_variable_nobody_knows_is_an_error_with_its_line() {
    for (text, said) in [
        ("REBOOT_STRATEGY=off\nREBOOT_STRATGY=off", ":2:1: unknown key REBOOT_STRATGY"),
        ("LOCKSMITHD_ENDPIONT=x", ":1:1: unknown key LOCKSMITHD_ENDPIONT"),
        ("\nREBOOT_STRATEGY=maybe", ":2:1: REBOOT_STRATEGY: \"maybe\" is none"),
        ("REBOOT_WINDOW_START=5:00", ":1:1: REBOOT_WINDOW_START and"),
        ("REBOOT_WINDOW_START=25:00\nREBOOT_WINDOW_LENGTH=1h", ":1:1: REBOOT_WINDOW_START: "),
        ("REBOOT_WINDOW_START=5:00\nREBOOT_WINDOW_LENGTH=1d", ":2:1: REBOOT_WINDOW_LENGTH: "),
        ("LOCKSMITHD_ENDPOINT=etcd", ":1:1: LOCKSMITHD_ENDPOINT: "),
        ("LOCKSMITHD_ETCD_KEYFILE=/k", ":1:1: LOCKSMITHD_ETCD_CERTFILE and"),
        ("LOCKSMITHD_ETCD_PASSWORD=x", ":1:1: LOCKSMITHD_ETCD_PASSWORD without"),
        ("REBOOT_STRATEGY", ":1:1: \"REBOOT_STRATEGY\": expected NAME=VALUE"),
        ("GROUP='a", ":1:1: GROUP: the ' is not closed"),
        ("[Service]", ":1:1: \"[Service]\": expected NAME=VALUE"),
    ] {
        let error = ours(Peer::Locksmith, text).unwrap_err();
        assert!(error.starts_with(&format!("/etc/their.conf{said}")), "{text}: {error}");
    }
}

#[test]
fn all_that_suses_rebootmgr_knows_is_imported() {
    let text = "[rebootmgr]\nwindow-start=Sat,Mon-Wed 03:30\nwindow-duration=1h 30m\n\
                strategy=etcd-lock\nlock-group=web\n";
    let (toml, settings) = settings(Peer::Rebootmgr, text);
    assert_eq!(settings.agent.strategy, Strategy::EtcdLock);
    assert_eq!(settings.machine.groups[0].as_str(), "web");
    assert_eq!(settings.windows.0[0].name, "Sat,Mon-Wed 03:30 for 1h30m");
    assert_eq!(settings.windows.0[0].splay, Duration::from_secs(5_400));
    assert!(toml.contains("rebootlockctl request"));
}

#[test]
fn each_strategy_of_suses_has_one_of_ours() {
    for (strategy, ours, windows) in [
        ("best-effort", Strategy::BestEffort, 1),
        ("BEST-EFFORT", Strategy::BestEffort, 1),
        ("best_effort", Strategy::BestEffort, 1),
        ("best-efford", Strategy::BestEffort, 1),
        ("maint-window", Strategy::BestEffort, 1),
        ("etcd-lock", Strategy::EtcdLock, 1),
        ("instantly", Strategy::Reboot, 0),
        ("off", Strategy::Off, 1),
        ("on", Strategy::BestEffort, 1),
    ] {
        let text = format!("[rebootmgr]\nstrategy={strategy}\n");
        let (_, settings) = settings(Peer::Rebootmgr, &text);
        assert_eq!((settings.agent.strategy, settings.windows.0.len()), (ours, windows));
    }
    let (_, settings) = settings(Peer::Rebootmgr, "[rebootmgr]\nwindow-start=\n");
    assert!(settings.windows.0.is_empty());
}

/// The unit that SysEleven ships, with all other flags added.
const FLAGS: &str = "\
[Service]
Type=oneshot
ExecStart=/usr/bin/rebootmgr -v --check-holidays --check-uptime --check-triggers \\
  --post-reboot-wait-until-healthy --lazy-consul-checks -l --ignore-stop-flag \\
  --maintenance-reason \"reboot by me\" --consul 10.0.0.1 --consul-port=8500 --ensure-config \\
  --set-global-stop-flag dc1 --unset-global-stop-flag dc1 --set-group-stop-flag \\
  --unset-group-stop-flag --set-local-stop-flag --unset-local-stop-flag --stop-reason maintenance \\
  --skip-reboot-in-progress-key --task-timeout 30 --group web
SuccessExitStatus=3 4
";

#[test]
fn all_that_syselevens_rebootmgr_knows_is_imported() {
    let (toml, settings) = settings(Peer::Rebootmgr, FLAGS);
    assert_eq!(settings.machine.groups[0].as_str(), "web");
    assert_eq!(settings.hooks.timeout, Duration::from_secs(1_800));
    assert_eq!(settings.reboot.give_up_after, Duration::from_secs(7_200));
    assert_eq!(settings.windows.0[0].action, Action::Deny);
    assert_eq!(settings.gates[0].name, "consul");
    assert!(toml.contains("2026-12-25") && !toml.contains("2026-10-03"), "{toml}");
    for flag in FLAGS.split_whitespace().filter(|word| word.starts_with("--")) {
        let flag = flag.split('=').next().unwrap();
        let becomes_a_setting = ["--group", "--task-timeout"].contains(&flag);
        assert!(toml.contains(flag) || becomes_a_setting, "{flag} is not in\n{toml}");
    }
    let (_, dry) = settings_of("rebootmgr -vvn --ignore-failed-checks");
    assert_eq!((dry.agent.strategy, dry.gates.len()), (Strategy::Off, 0));
    assert_eq!(dry.log.level, "debug");
}

fn settings_of(line: &str) -> (String, Settings) {
    settings(Peer::Rebootmgr, line)
}

#[test]
fn a_node_of_syselevens_is_imported() {
    let text = "{\"enabled\": false, \"message\": \"broken disk\", \"group\": \"db\"}";
    let (toml, settings) = settings(Peer::Rebootmgr, text);
    assert_eq!(settings.agent.strategy, Strategy::Off);
    assert_eq!(settings.machine.groups[0].as_str(), "db");
    assert!(toml.contains("broken disk"));
    let (_, old) = settings_of("{\"disabled\": false}");
    assert_eq!(old.agent.strategy, Strategy::EtcdLock);
}

#[test]
fn what_neither_rebootmgr_knows_is_named_with_its_place() {
    for (text, said) in [
        ("", "1:1: neither SUSE's"),
        ("strategy=off", "1:1: neither SUSE's"),
        ("[rebootmgr]\nstrateg=off", "2:1: unknown key strateg; [rebootmgr] knows"),
        ("[rebootmgr]\nstrategy=of", "2:1: strategy: \"of\" is none; known are"),
        ("[rebootmgr]\nwindow-start=25:00", "2:1: window-start: "),
        ("[rebootmgr]\nwindow-duration=1d", "2:1: window-duration: "),
        ("[rebootmgr]\nwindow-duration=0m", "2:1: window-duration: no time"),
        ("[rebootmgr]\n[other]", "2:1: unknown section [other]"),
        ("{\"enabled\": true, \"grop\": \"x\"}", "1:24: unknown field `grop`"),
        ("{\"message\": \"x\"}", "1:1: `enabled` is missing"),
        ("{", "1:1: EOF"),
        ("# x\nrebootmgr --check-trigers", "2:1: unknown flag or word --check-trigers"),
        ("rebootmgr -vx", "1:1: unknown flag -x"),
        ("rebootmgr --group", "1:1: --group needs a value"),
        ("rebootmgr --check-uptime=1", "1:1: --check-uptime takes no value"),
        ("rebootmgr --task-timeout 0", "1:1: --task-timeout: \"0\" is not a number"),
    ] {
        let error = ours(Peer::Rebootmgr, text).unwrap_err();
        assert!(error.starts_with(&format!("/etc/their.conf:{said}")), "{text}: {error}");
    }
}

#[test]
fn nothing_from_outside_ends_a_comment() {
    let text = format!("{SMALLEST}lock_key: \"a\\nstrategy = 1\"\n");
    let (toml, _) = settings(Peer::Clusterrebootd, &text);
    assert!(!toml.lines().any(|line| line.starts_with("strategy")), "{toml}");
}
