#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::super::{Fragment, Settings};
use super::*;

fn gates(text: &str) -> Result<Vec<GateSettings>, ConfigError> {
    Ok(Settings::decide(Fragment::parse(Path::new("t.toml"), text)?)?.gates)
}

fn gate(text: &str) -> GateSettings {
    gates(&format!("[[gate]]\n{text}")).unwrap().pop().unwrap()
}

#[test]
fn a_gate_needs_little_more_than_its_type() {
    use Phase::{PostLock, PreLock};

    for (text, name, phases) in [
        (
            "type = \"script\"\ncommand = [\"/usr/lib/x/smoke.sh\", \"-v\"]",
            "smoke.sh",
            &Phase::ALL[..],
        ),
        ("type = \"http\"\nurl = \"http://[::1]:8080/ok\"", "[::1]:8080", &[PreLock, PostLock]),
        ("type = \"prometheus\"\nurl = \"https://p/x\"", "prometheus", &[PreLock, PostLock]),
        ("type = \"systemd\"", "systemd", &[PreLock, PostLock]),
        ("type = \"inhibitor\"", "inhibitor", &[PreLock, PostLock]),
        ("type = \"sessions\"", "sessions", &[PreLock, PostLock]),
        ("type = \"busy-file\"\npaths = [\"/run/x/*.lock\"]", "busy-file", &[PreLock, PostLock]),
        ("type = \"cluster\"", "cluster", &[PreLock, PostLock]),
    ] {
        let gate = gate(text);
        assert_eq!(gate.name, name);
        assert_eq!(gate.phases, phases, "{name}");
        assert!(gate.enabled && gate.timeout == Duration::from_secs(30), "{name}");
        assert!(text.contains(&format!("{:?}", gate.kind.as_str())), "{name}");
    }
}

#[test]
fn what_is_written_is_what_it_means() {
    let common = gate(
        "name = \"a b\"\ntype = \"systemd\"\ntimeout_secs = 3\nenabled = false\n\
         phases = [\"verify\", \"monitor\", \"verify\"]",
    );
    assert_eq!((common.name.as_str(), common.enabled), ("a b", false));
    assert_eq!(common.timeout, Duration::from_secs(3));
    assert_eq!(common.phases, [Phase::Monitor, Phase::Verify]);

    let http = gate(
        "type = \"http\"\nurl = \"https://h/health\"\nstatus = [200, \"300-399\", \"404\"]\n\
         json_pointer = \"/a/0\"\nequals = 3\nca_file = \"/ca\"\nbearer_token_file = \"/t\"",
    );
    let GateKind::Http(http) = http.kind else { panic!() };
    let good: Vec<_> =
        (100..600).filter(|code| http.status.iter().any(|r| r.contains(*code))).collect();
    assert_eq!(good.len(), 102);
    assert_eq!(http.status[1].to_string(), "300-399");
    let value = serde_json::json!(3);
    assert_eq!(http.expected, Some(Expected { pointer: "/a/0".to_owned(), value }));

    let alerts = gate(
        "type = \"prometheus\"\nurl = \"http://p:9090\"\npending = true\nignore = \"Reboot.*\"\n\
         only = \"Node.*\"\nlabels = { severity = \"critical\", \
         instance = \"~${REBOOTLOCK_HOSTNAME}(:[0-9]+)?\" }",
    );
    let GateKind::Prometheus(alerts) = alerts.kind else { panic!() };
    let Question::Alerts(filter) = alerts.question else { panic!() };
    assert!(filter.pending && filter.ignore.unwrap().matches("RebootRequired"));
    assert!(
        matches!(&filter.labels["severity"], LabelValue::Is(value) if value.to_string() == "critical")
    );
    assert!(matches!(&filter.labels["instance"], LabelValue::Matches(_)));

    let GateKind::Cluster(rules) = gate(
        "type = \"cluster\"\nmin_healthy = \"60%\"\nmax_unhealthy = 0\nfallback = [\"lb-1\"]\n\
         groups = [\"lb\"]",
    )
    .kind
    else {
        panic!()
    };
    assert_eq!(rules.min_healthy, Some(MinHealthy::Percent(60)));
    assert_eq!((rules.max_unhealthy, rules.fallback.len(), rules.groups.len()), (Some(0), 1, 1));
    let rules = gate("type = \"cluster\"\nmin_healthy = 3").kind;
    assert!(matches!(rules, GateKind::Cluster(r) if r.min_healthy == Some(MinHealthy::Count(3))));

    let GateKind::Inhibitor(inhibitor) = gate(
        "type = \"inhibitor\"\nwhat = [\"sleep\", \"handle-lid-switch\"]\n\
         mode = [\"block\", \"delay\"]\nignore_who = [\"NetworkManager\"]",
    )
    .kind
    else {
        panic!()
    };
    assert_eq!(inhibitor.what, ["sleep", "handle-lid-switch"]);
    assert_eq!(inhibitor.mode, ["block", "delay"]);
}

#[test]
fn a_later_file_replaces_a_gate_of_the_same_name() {
    let parse = |text: &str| Fragment::parse(Path::new("t.toml"), text).unwrap();
    let below = parse("[[gate]]\ntype = \"systemd\"\n[[gate]]\ntype = \"sessions\"");
    let above = parse("[[gate]]\ntype = \"sessions\"\nenabled = false");
    let gates = Settings::decide(below.overlaid(above)).unwrap().gates;
    assert_eq!(gates.len(), 2);
    assert!(gates[0].enabled && !gates[1].enabled);

    let two = |second: &str| {
        let above = parse(&format!("[[gate]]\nname = \"other\"\ntype = \"cluster\"\n{second}"));
        Settings::decide(parse("[[gate]]\ntype = \"cluster\"").overlaid(above))
    };
    assert!(two("enabled = false").is_ok());
    assert_eq!(
        two("").unwrap_err().to_string(),
        "t.toml:2:8: gate: only one gate of type `cluster` can be there, not both cluster and other"
    );
}

#[test]
fn a_bad_value_is_named_with_its_place_and_what_is_allowed() {
    let mut wrong = Vec::new();
    let long = "x".repeat(65);
    let long_path = format!("type = \"script\"\ncommand = [\"/{long}\"]");
    for (text, said) in [
        (
            "",
            "1:1: `type` is missing; known are `script`, `http`, `prometheus`, `systemd`, `inhibitor`, `sessions`, `busy-file`, `cluster`",
        ),
        (
            "type = \"htpp\"",
            "2:8: `type`: unknown value `htpp`; did you mean `http`? (allowed: `script`, `http`, `prometheus`, `systemd`, `inhibitor`, `sessions`, `busy-file`, `cluster`)",
        ),
        ("type = 1", "2:8: `type`: expected a word in quotes"),
        (
            "type = \"systemd\"\ncomand = []",
            "3:1: unknown key `comand` in [[gate]]; did you mean `command`?",
        ),
        ("type = \"systemd\"\nname = \" \"", "3:8: `name` must not be blank"),
        (
            "type = \"systemd\"\nname = \"a\\nb\"",
            "3:8: `name` must have at most 64 characters, none of them a control character",
        ),
        (
            &long_path,
            &format!(
                "1:1: needs a `name`: of `{long}`, `name` must have at most 64 characters, none of them a control character"
            ),
        ),
        ("type = \"systemd\"\ntimeout_secs = 0", "3:16: `timeout_secs`: 0 is not from 1 to 3600"),
        (
            "type = \"systemd\"\ntimeout_secs = 3601",
            "3:16: `timeout_secs`: 3601 is not from 1 to 3600",
        ),
        (
            "type = \"systemd\"\ntimeout_secs = \"30\"",
            "3:16: `timeout_secs`: invalid type: string \"30\", expected a whole number from 1 to 3600",
        ),
        (
            "type = \"systemd\"\nenabled = 1",
            "3:11: `enabled`: invalid type: integer `1`, expected a boolean",
        ),
        (
            "type = \"systemd\"\nphases = []",
            "3:10: `phases` must name at least one of `monitor`, `heartbeat`, `pre-lock`, `post-lock`, `verify`; `enabled = false` switches a gate off",
        ),
        (
            "type = \"systemd\"\nphases = [\"monitor\", \"postlock\"]",
            "3:22: `phases`: unknown value `postlock`; did you mean `post-lock`? (allowed: `monitor`, `heartbeat`, `pre-lock`, `post-lock`, `verify`)",
        ),
        (
            "type = \"sessions\"\nphases = [\"pre-lock\", \"verify\"]",
            "3:23: `phases`: a gate of type `sessions` cannot be asked in phase `verify`; possible are `monitor`, `heartbeat`, `pre-lock`, `post-lock`",
        ),
        (
            "type = \"cluster\"\nphases = [\"pre-lock\"]",
            "3:10: `phases` does not belong to a gate of type `cluster`, which knows `min_healthy`, `max_unhealthy`, `fallback`, `groups`",
        ),
        (
            "type = \"script\"\ncommand = [\"/x\"]\nurl = \"http://h/\"",
            "4:7: `url` does not belong to a gate of type `script`, which knows `timeout_secs`, `phases`, `command`",
        ),
        (
            "type = \"script\"",
            "1:1: `command` is missing: the program and its arguments, as in [\"/usr/bin/true\"]",
        ),
        ("type = \"script\"\ncommand = []", "3:11: `command` needs a program"),
        (
            "type = \"script\"\ncommand = \"/bin/true\"",
            "3:11: `command`: invalid type: string \"/bin/true\", expected a list in square brackets",
        ),
        (
            "type = \"script\"\ncommand = [\"bin/true\"]",
            "3:12: `command` must begin with the absolute path of a program, not \"bin/true\"",
        ),
        (
            "type = \"script\"\ncommand = [\"/x\", \"a\\u0000\"]",
            "3:18: a word of `command` cannot contain a NUL character",
        ),
        ("type = \"http\"", "1:1: `url` is missing: http://HOST[:PORT]/PATH or https://…"),
        (
            "type = \"http\"\nurl = \"ftp://h/\"",
            "3:7: not a web address; `url` must be http://HOST[:PORT]/PATH or https://…",
        ),
        (
            "type = \"http\"\nurl = \"/path\"",
            "3:7: not a web address; `url` must be http://HOST[:PORT]/PATH or https://…",
        ),
        (
            "type = \"http\"\nurl = \"http://a b\"",
            "3:7: invalid uri character; `url` must be http://HOST[:PORT]/PATH or https://…",
        ),
        (
            "type = \"http\"\nurl = \"http://h:65536/\"",
            "3:7: no valid port; `url` must be http://HOST[:PORT]/PATH or https://…",
        ),
        (
            "type = \"http\"\nurl = \"http://u:p@h/\"",
            "3:7: a password does not belong here, see `bearer_token_file`; `url` must be http://HOST[:PORT]/PATH or https://…",
        ),
        (
            "type = \"http\"\nurl = \"http://h/\"\nstatus = []",
            "4:10: `status` needs at least one status that is good",
        ),
        (
            "type = \"http\"\nurl = \"http://h/\"\nstatus = [99]",
            "4:11: `status`: 99 is not a status from 100 to 599",
        ),
        (
            "type = \"http\"\nurl = \"http://h/\"\nstatus = [\"299-200\"]",
            "4:11: `status`: \"299-200\" is not a range of statuses from 100 to 599, as \"200-299\"",
        ),
        (
            "type = \"http\"\nurl = \"http://h/\"\nstatus = [\"2xx\"]",
            "4:11: `status`: \"2xx\" is not a range of statuses from 100 to 599, as \"200-299\"",
        ),
        (
            "type = \"http\"\nurl = \"http://h/\"\njson_pointer = \"/a\"",
            "4:16: `json_pointer` needs `equals`: what stands there",
        ),
        (
            "type = \"http\"\nurl = \"http://h/\"\nequals = true",
            "4:10: `equals` needs `json_pointer`: where it stands, as \"/cluster/state\"",
        ),
        (
            "type = \"http\"\nurl = \"http://h/\"\njson_pointer = \"a\"\nequals = 1",
            "4:16: `json_pointer` must be empty or begin with `/`, as \"/checks/0\"",
        ),
        (
            "type = \"http\"\nurl = \"http://h/\"\njson_pointer = \"/a\"\nequals = [1]",
            "5:10: `equals` must be a text, a number, true or false",
        ),
        (
            "type = \"http\"\nurl = \"http://h/\"\njson_pointer = \"/a\"\nequals = nan",
            "5:10: `equals` must be a text, a number, true or false",
        ),
        (
            "type = \"http\"\nurl = \"http://h/\"\nca_file = \"/ca\"",
            "4:11: `ca_file` is of no use without https in `url`",
        ),
        (
            "type = \"http\"\nurl = \"https://h/\"\nca_file = \"ca\"",
            "4:11: `ca_file` must be an absolute path, not \"ca\"",
        ),
        (
            "type = \"prometheus\"\nurl = \"http://h/?x\"",
            "3:7: `url` must end before the `?`: `/api/v1/…` is put behind it",
        ),
        (
            "type = \"prometheus\"\nurl = \"http://h/\"\nignore = \"(\"",
            "4:10: `ignore`: \"(\" is not a regular expression: found open group without closing ')'",
        ),
        (
            "type = \"prometheus\"\nurl = \"http://h/\"\nonly = \"\"",
            "4:8: `only`: a pattern must not be empty",
        ),
        (
            "type = \"prometheus\"\nurl = \"http://h/\"\nlabels = { \"a-b\" = \"x\" }",
            "4:20: `labels`: \"a-b\" is not a label: letters, digits and `_`, no digit first",
        ),
        (
            "type = \"prometheus\"\nurl = \"http://h/\"\nlabels = { a = \"~[\" }",
            "4:16: `labels`: \"[\" is not a regular expression: found unclosed character class",
        ),
        (
            "type = \"prometheus\"\nurl = \"http://h/\"\nlabels = { a = \"${RC_HOSTNAME}\" }",
            "4:16: `labels`: there is no variable `${RC_HOSTNAME}`; did you mean `${RC_NODE_NAME}`?",
        ),
        (
            "type = \"prometheus\"\nurl = \"http://h/\"\nquery = 'up{a=\"x\",b=`${RC_PHASE}`}'",
            "4:9: `query`: variables belong between double or single quotes: anywhere else, and \
             between backticks, their values could not be taken literally",
        ),
        (
            "type = \"prometheus\"\nurl = \"http://h/\"\nquery = 'up > ${RC_LOCK_ATTEMPTS}'",
            "4:9: `query`: variables belong between double or single quotes: anywhere else, and \
             between backticks, their values could not be taken literally",
        ),
        (
            "type = \"prometheus\"\nurl = \"http://h/\"\nquery = \" \"",
            "4:9: `query` must not be blank",
        ),
        (
            "type = \"prometheus\"\nurl = \"http://h/\"\nquery = \"up == 0\"\nignore = \"a\"",
            "5:10: `ignore` is about alerts, and with `query` none are looked at; make it two gates",
        ),
        (
            "type = \"systemd\"\nfailed_units = \"some\"",
            "3:16: `failed_units`: unknown value `some`; allowed are `none`, `ignore`",
        ),
        (
            "type = \"systemd\"\nfailed_units = \"ignore\"\nignore_units = [\"x\"]",
            "4:16: `ignore_units` is of no use with failed_units = \"ignore\"",
        ),
        (
            "type = \"systemd\"\nignore_units = [\"[\"]",
            "3:17: `ignore_units`: \"[\" is not a shell pattern: invalid range pattern",
        ),
        ("type = \"systemd\"\nstates = []", "3:10: `states` needs at least one state that is good"),
        (
            "type = \"systemd\"\nstates = [\"running\", \"stopping\"]",
            "3:22: a machine that is going down already cannot be good; `states` may have `initializing`, `starting`, `running`, `degraded`, `maintenance`",
        ),
        ("type = \"inhibitor\"\nwhat = []", "3:8: `what` must not be empty"),
        (
            "type = \"inhibitor\"\nwhat = [\"reboot\"]",
            "3:9: `what`: unknown value `reboot`; allowed are `shutdown`, `sleep`, `idle`, `handle-power-key`, `handle-suspend-key`, `handle-hibernate-key`, `handle-lid-switch`, `handle-reboot-key`",
        ),
        (
            "type = \"inhibitor\"\nignore_who = [\"\"]",
            "3:15: a name in `ignore_who` must not be blank",
        ),
        ("type = \"sessions\"\nmax = -1", "3:7: `max`: -1 is not from 0 to 1000000"),
        ("type = \"sessions\"\nidle_secs = 0", "3:13: `idle_secs`: 0 is not from 1 to 31536000"),
        (
            "type = \"busy-file\"",
            "1:1: `paths` is missing: files that are there while something is going on",
        ),
        ("type = \"busy-file\"\npaths = []", "3:9: `paths` needs at least one path"),
        (
            "type = \"busy-file\"\npaths = [\"x\"]",
            "3:10: `paths` must be absolute, which \"x\" is not",
        ),
        (
            "type = \"busy-file\"\npaths = [\"/a/**/b\"]",
            "3:10: `paths`: `**` is not known here; each `*` stands for one part of a path",
        ),
        (
            "type = \"cluster\"\nmin_healthy = 0",
            "3:15: `min_healthy`: 0 is not a number of machines from 1 to 1000000",
        ),
        (
            "type = \"cluster\"\nmin_healthy = \"101%\"",
            "3:15: `min_healthy`: \"101%\" is not a share from \"1%\" to \"100%\"",
        ),
        (
            "type = \"cluster\"\nmin_healthy = \"60\"",
            "3:15: `min_healthy`: \"60\" is not a share from \"1%\" to \"100%\"",
        ),
        (
            "type = \"cluster\"\nmin_healthy = 0.6",
            "3:15: `min_healthy`: invalid type: floating point `0.6`, expected a number of machines from 1 to 1000000, or a share as \"60%\"",
        ),
        (
            "type = \"cluster\"\nmax_unhealthy = -1",
            "3:17: `max_unhealthy`: -1 is not from 0 to 1000000",
        ),
        ("type = \"cluster\"\nfallback = [\"\"]", "3:13: a name in `fallback` must not be blank"),
        (
            "type = \"cluster\"\ngroups = [\"a\", \"\"]",
            "3:16: `groups`: group name is empty; expected 1 to 253 bytes",
        ),
        (
            "type = \"systemd\"\n[[gate]]\ntype = \"systemd\"",
            "3:1: there is a gate `systemd` already; give this one a `name`",
        ),
        (
            "type = \"systemd\"\n[[gate]]\ntype = \"sessions\"\nname = \"systemd\"",
            "5:8: `name`: there is a gate `systemd` already",
        ),
    ] {
        let error = gates(&format!("[[gate]]\n{text}")).unwrap_err().to_string();
        if error != format!("t.toml:{said}") {
            wrong.push(format!("{text:?}\n  says {error}\n  not t.toml:{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_key_of_every_type_is_in_the_manual() {
    let manual = include_str!("../../../../docs/gates.md");
    for of_type in [
        Type::Script,
        Type::Http,
        Type::Prometheus,
        Type::Systemd,
        Type::Inhibitor,
        Type::Sessions,
        Type::BusyFile,
        Type::Cluster,
    ] {
        let heading = format!("\n## {}\n", of_type.as_str());
        assert!(manual.contains(&heading), "{heading}");
        for key in of_type.keys() {
            assert!(manual.contains(&format!("`{key}`")), "{key}");
        }
    }
    for variable in super::super::variables::VARIABLES {
        assert!(manual.contains(&format!("`{variable}`")), "{variable}");
    }
}
