use rebootlock::config::{Fragment, Settings};

use super::super::{Peer, convert};
use super::*;

fn ours(text: &str) -> Result<String, String> {
    let files = [(PathBuf::from("web.yml"), text.to_owned())];
    convert(Peer::Goahead, &files)
        .map(|ours| ours.text)
        .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

fn settings(toml: &str) -> Settings {
    Settings::decide(Fragment::parse(Path::new("ours.toml"), toml).unwrap()).unwrap()
}

const MAIN: &str = "ssl_private_key: /k\nssl_certificate_file: /c\n";

/// Every key that goahead knows.
const WEB: &str = "\
web:
  enabled: yes
  name_pattern: ^web-\\d+
  blacklist_name_pattern:
    - canary
  minimum_uptime: 30m
  cluster_type: standalone
  allowed_parallel_restarts: 010
  reboot_goahead_checks:
    - /usr/bin/check --name '{:%fqdn%:} x'
  reboot_goahead_checks_exit_code_for_reboot: 7
  reboot_goahead_actions:
    - scripts/act {:%cluster%:}
    - act2
  reboot_completion_check: /usr/bin/back {:%hostname%:}
  reboot_completion_check_interval: 1500ms
  reboot_completion_check_consecutive_successes: 3
  reboot_completion_check_offset: 30s
  reboot_completion_actions: [done]
  reboot_completion_panic_threshold: 1h
  reboot_completion_panic_actions:
    scripts: [alarm]
    mail: [op@example]
  raise_errors: true
off:
  name_pattern: ^off
";

#[test]
fn a_cluster_becomes_a_group_with_its_checks_and_actions() {
    let toml = ours(WEB).unwrap();
    let settings = settings(&toml);
    assert_eq!(settings.groups.len(), 1);
    assert_eq!((settings.groups[0].name.as_str(), settings.groups[0].slots), ("web", Some(8)));
    let goahead = settings.gateway.goahead.unwrap();
    let [web] = &goahead.clusters[..] else { panic!("{toml}") };
    assert!(web.pattern.is_in("web-1") && !web.pattern.is_in("web-x"));
    assert_eq!(web.except[0].as_str(), "canary");
    assert_eq!(web.minimum_uptime.as_secs(), 1800);
    assert_eq!(web.checks[0].argv(), ["/usr/bin/check", "--name", "{:%fqdn%:} x"]);
    assert_eq!(web.check_exit_code, 7);
    assert!(
        web.actions[0].argv()[0].starts_with('/') && web.actions[0].argv()[1] == "{:%cluster%:}"
    );
    assert_eq!(web.completion_interval.as_secs(), 2);
    assert_eq!(web.completion_successes, 3);
    assert_eq!(web.completion_offset.unwrap().as_secs(), 30);
    assert_eq!(web.panic_after.unwrap().as_secs(), 3600);
    assert_eq!(web.panic_actions[0].text(), "alarm");
    for said in [
        "cluster \"off\" was not enabled",
        "goahead ignored reboot_completion_check_offset",
        "reboot_completion_check_interval was 1500ms",
        "goahead never sent any",
        "raise_errors: exit codes",
        "goahead put the whole name",
    ] {
        assert!(toml.replace("\n# ", " ").contains(said), "{said} in {toml}");
    }
}

#[test]
fn what_goahead_takes_silently_is_said() {
    let base = "a:\n  enabled: on\n  name_pattern: ^a\n";
    for (text, said) in [
        (format!("{base}  typo: 1\n"), "key \"typo\" in \"a\" is not goahead's"),
        (base.to_owned(), "slots = 0"),
        (base.to_owned(), "Here it is off."),
        (base.to_owned(), "reboot_completion_check was empty"),
        (
            format!(
                "{base}  reboot_completion_check_offset: 5m\n  reboot_completion_check_interval: 7s\n  \
                 reboot_completion_check_consecutive_successes: 3\n"
            ),
            "completion_check_interval_secs = 7 reboot_completion_check_offset says nothing without a \
             check; with one: completion_check_offset_secs = 300 \
             reboot_completion_check_consecutive_successes says nothing without a check; with one: \
             completion_check_successes = 3",
        ),
        (format!("{base}b:\n  enabled: true\n  name_pattern: b\n"), "the first of them"),
        (
            format!("{base}  minimum_uptime: 5m\n  minimum_uptime: 1h\n"),
            "minimum_uptime_secs = 3600",
        ),
        ("a:\n".to_owned(), "cluster \"a\" was not enabled"),
        (String::new(), "answers_root = true"),
    ] {
        let toml = ours(&text).unwrap();
        assert!(
            toml.replace("\n# ", " ").replace("\n#   ", " ").contains(said),
            "{said} in {toml}"
        );
        settings(&toml);
    }
}

#[test]
fn what_cannot_be_kept_is_an_error_with_its_place() {
    let base = "a:\n  enabled: true\n  name_pattern: ^a\n";
    for (text, said) in [
        ("a:\n  enabled: true\n".to_owned(), "web.yml: 1:1: cluster \"a\" has no `name_pattern`"),
        (base.replace("^a", "'('"), "web.yml: 3:17: cluster \"a\": \"(\" is no pattern"),
        (base.replace("^a", "'[a&&b]'"), "web.yml: 3:17: cluster \"a\": \"[a&&b]\": && between"),
        (
            format!("{base}  minimum_uptime: 1800\n"),
            "web.yml: 4:19: `minimum_uptime`: 1800 without a unit is so many nanoseconds",
        ),
        (format!("{base}  minimum_uptime: 1d\n"), "web.yml: 4:19: `minimum_uptime`: \"1d\" is no"),
        (
            format!("{base}  reboot_goahead_actions: [\"x 'y\"]\n"),
            "web.yml: 4:28: \"x 'y\": ' is not",
        ),
        (format!("{base}  reboot_goahead_actions: x\n"), "web.yml: 4:"),
        (
            format!("{base}  reboot_goahead_checks_exit_code_for_reboot: -1\n"),
            "web.yml: 4:47: `reboot_goahead_checks_exit_code_for_reboot`: no program",
        ),
        (base.replace("a:", "unknown:"), "web.yml: 1:1: cluster \"unknown\": that is what"),
        (base.replace("a:", "\"\":"), "web.yml: 1:1: cluster \"\": "),
        (
            format!("{base}  allowed_parallel_restarts: 99999999999\n"),
            "web.yml: 4:30: `allowed_parallel_restarts`: at most 1000000 here",
        ),
        (format!("{base}  allowed_parallel_restarts: 2.5\n"), "web.yml: 4:"),
        (format!("{base}  allowed_parallel_restarts: \"2\"\n"), "web.yml: 4:"),
        (format!("{MAIN}listen_port: 70000\n"), "web.yml: 3:14: `listen_port`: a port is"),
        (
            format!("{MAIN}listen_address: gw.example\n"),
            "web.yml: 3:17: `listen_address`: \"gw.example\" is not the number of an address",
        ),
        (
            format!("{MAIN}ssl_require_and_verify_client_cert: true\n"),
            "web.yml: 1:1: `ssl_client_cert_ca_file` is missing: ssl_require_and_verify_client_cert",
        ),
        ("listen_port: 1\n".to_owned(), "web.yml: 1:1: `ssl_certificate_file` is missing"),
        ("[1]".to_owned(), "web.yml: 1:1"),
    ] {
        let error = ours(&text).unwrap_err();
        assert!(error.starts_with(said), "{text}: {error}");
    }
}

#[test]
fn what_goahead_runs_with_is_converted_and_said() {
    let cluster = |name: &str, more: &str| {
        format!(
            "{name}:\n  enabled: true\n  name_pattern: ^a\n  allowed_parallel_restarts: 2.0\n{more}"
        )
    };
    let check = "  reboot_completion_check: /bin/check\n  reboot_completion_check_interval: 48h\n";
    for (text, set, said) in [
        (
            format!("{MAIN}listen_address: localhost\nlisten_port: 8443.0\n"),
            "listen = \"127.0.0.1:8443\"",
            "listen_address was localhost",
        ),
        (
            format!("{MAIN}listen_address: ''\n"),
            "listen = \"0.0.0.0:8443\"",
            "listen_address was empty: all addresses",
        ),
        (
            format!("{MAIN}listen_address: \"[::1]\"\n"),
            "listen = \"[::1]:8443\"",
            "The lock is here unless another store is named.",
        ),
        (cluster("a", ""), "slots = 2", "Here it is off."),
        (
            cluster("a", check),
            "completion_check_interval_secs = 86400",
            "reboot_completion_check_interval was 172800 s; 86400 are the most here",
        ),
        (cluster("a/b", ""), "name = \"a/b\"", "goahead did not start with a slash"),
        (cluster("goahead", ""), "name = \"goahead\"", "two logs into one file"),
        (cluster("checker", ""), "name = \"checker\"", "two logs into one file"),
    ] {
        let toml = ours(&text).unwrap();
        assert!(toml.lines().any(|line| line == set), "{set} in {toml}");
        assert!(toml.replace("\n# ", " ").contains(said), "{said} in {toml}");
        settings(&toml);
    }
}
