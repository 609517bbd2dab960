//! Files in the form in which the peers' users begin, with every key and form that their own have.

use super::*;

/// In the form in which clusterrebootd's users begin: endpoints without a scheme and TLS beside them,
/// both thresholds, a command in a list of its own, comments between.
const USUAL: &str = "\
# Our load balancers.

node_name: lb-2

reboot_required_detectors:
  # apt says so
  - name: apt
    type: file
    path: /var/run/reboot-required

  - name: rpm
    type: command
    cmd: [\"/usr/sbin/needs-restarting\", \"-r\"]
    success_exit_codes: [1]
    timeout_sec: 15

health_script: /usr/local/sbin/lb-is-well
health_timeout_sec: 40
check_interval_sec: 240
kill_switch_file: /etc/lb/no-reboots

etcd_endpoints:
  - 192.0.2.10:2379
  - 192.0.2.11:2379
etcd_namespace: /lb/reboots
lock_key: /lb/reboots/lock
lock_ttl_sec: 100

etcd_tls:
  enabled: true
  ca_file: /etc/lb/ca.pem
  cert_file: /etc/lb/cert.pem
  key_file: /etc/lb/key.pem
  insecure_skip_verify: false

reboot_command:
  - /sbin/shutdown
  - -r
  - now
  - \"reboot of ${RC_NODE_NAME}\"

cluster_policies:
  min_healthy_fraction: 0.5
  min_healthy_absolute: 2
  forbid_if_only_fallback_left: true
  fallback_nodes:
    - lb-8
    - lb-9

windows:
  deny: []
  allow: []

metrics:
  enabled: true
  listen: 0.0.0.0:9090
";

#[test]
fn the_usual_form_of_clusterrebootds_file_is_imported() {
    let (toml, settings) = settings(Peer::Clusterrebootd, USUAL);
    let urls: Vec<_> = settings.store.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(urls, ["https://192.0.2.10:2379", "https://192.0.2.11:2379"]);
    assert_eq!(settings.agent.strategy, Strategy::EtcdLock);
    assert!(settings.windows.0.is_empty());
    let GateKind::Cluster(cluster) = &settings.gates[1].kind else { panic!("no cluster gate") };
    assert_eq!(cluster.min_healthy, Some(MinHealthy::Count(2)));
    assert_eq!(cluster.fallback, ["lb-8", "lb-9"]);
    let RebootMethod::Command { argv, .. } = &settings.reboot.method else { panic!("no command") };
    assert_eq!(argv[3].to_string(), "reboot of ${RC_NODE_NAME}");
    assert_eq!(settings.metrics.listen.unwrap().to_string(), "0.0.0.0:9090");
    for theirs in ["min_healthy_fraction was 0.5", "etcd_namespace was", "lock_ttl_sec was 100"] {
        assert!(toml.contains(theirs), "{theirs} is not in\n{toml}");
    }
}

#[test]
fn the_template_of_clusterrebootds_package_is_refused_as_it_is_there() {
    let text = "dry_run: true\nnode_name: \"\"\nreboot_required_detectors: []\n\
                health_script: \"\"\netcd_endpoints: []\nlock_key: \"\"\n";
    let error = ours(Peer::Clusterrebootd, text).unwrap_err();
    assert!(error.contains("is missing: clusterrebootd wants one"), "{error}");
}

#[test]
fn the_file_that_suse_installs_is_imported_with_its_slip_of_the_pen() {
    let text = "[rebootmgr]\nwindow-start=03:30\nwindow-duration=1h30m\n\
                strategy=best-efford\nlock-group=default\n";
    let (toml, settings) = settings(Peer::Rebootmgr, text);
    assert!(toml.contains("# best-efford, as rebootmgr's own file"), "{toml}");
    assert_eq!(settings.agent.strategy, Strategy::BestEffort);
    assert_eq!(settings.windows.0[0].name, "03:30 for 1h30m");
    assert_eq!(settings.machine.groups, [Default::default()]);
}

#[test]
fn each_way_of_starting_syselevens_rebootmgr_is_imported() {
    let unit = "[Unit]\nAfter=network-online.target consul.service\n\n[Service]\nType=oneshot\n\
                ExecStart=/usr/bin/rebootmgr -v --check-holidays --check-uptime --check-triggers\n\
                # see the manual\nSuccessExitStatus=0 3 4 101 102\n";
    let (_, from_unit) = settings(Peer::Rebootmgr, unit);
    assert_eq!(from_unit.windows.0[0].action, Action::Deny);
    assert_eq!(from_unit.reboot.give_up_after, Duration::from_secs(7_200));
    let (_, by_hand) = settings_of("/usr/bin/rebootmgr -vst --check-triggers -n -u");
    assert_eq!(by_hand.reboot.give_up_after, Duration::from_secs(7_200));
}
