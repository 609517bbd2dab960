//! FleetLock clients, byte by byte, against the real binary, here on SQLite: what stock clients need, and
//! what nobody else may do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::support::{Answer, Fleet, Gateway, PROTOCOL, at_once, file, params, request};
use rustix::process::Signal;

const PRE: &str = "/v1/pre-reboot";
const STEADY: &str = "/v1/steady-state";

fn gateway(config: &str) -> (Fleet, Gateway) {
    let fleet = Fleet::new(config);
    let gateway = fleet.start();
    (fleet, gateway)
}

#[test]
fn a_slot_is_taken_kept_refused_to_others_and_given_back() {
    let (fleet, gw) = gateway("");
    gw.pre_reboot("a").is_granted();
    let written = fleet.revision();
    gw.pre_reboot("a").is_granted();
    assert_eq!(fleet.revision(), written, "asking again writes nothing");
    let refused = gw.pre_reboot("b");
    refused.is_full();
    let value = refused.value();
    assert!(value.starts_with("all 1 slots of group default are taken by a since 20"), "{value}");
    assert!(value.ends_with("you are the next"), "{value}");
    assert!(fleet.semaphore().contains(r#""holders":["a"]"#));
    let record: serde_json::Value =
        serde_json::from_str(&fleet.document("holders/a").unwrap()).unwrap();
    assert_eq!((&record["via"], &record["state"]), (&"fleetlock".into(), &"holding".into()));
    gw.steady_state("a").is_granted();
    assert_eq!(fleet.document("holders/a"), None);
    gw.pre_reboot("b").is_granted();
}

#[test]
fn a_stranger_gives_nothing_back_and_writes_nothing() {
    let (fleet, gw) = gateway("");
    gw.steady_state("a").is_granted();
    gw.steady_state("a").is_granted();
    gw.pre_reboot("a").is_granted();
    let written = fleet.revision();
    gw.steady_state("b").is_granted();
    assert_eq!(fleet.revision(), written);
    gw.pre_reboot("c").is_full();
}

#[test]
fn the_header_must_be_there_once_and_say_true() {
    let (fleet, gw) = gateway("");
    for headers in [
        "",
        "fleet-lock-protocol: 1\r\n",
        "fleet-lock-protocol: TRUE\r\n",
        "fleet-lock-protocol: true, true\r\n",
        "fleet-lock-protocol:\r\n",
        "fleet-lock-protocol: true\r\nfleet-lock-protocol: true\r\n",
        "fleet-lock-protocol: true\r\nFleet-Lock-Protocol: false\r\n",
    ] {
        for path in [PRE, STEADY] {
            gw.post(path, headers, &params("a", "default")).is(400, "missing_header");
        }
    }
    assert_eq!(fleet.semaphore(), "");
    gw.post(PRE, "FLEET-LOCK-PROTOCOL:   true  \r\n", &params("a", "default")).is_granted();
}

#[test]
fn a_body_that_is_none_is_refused_and_the_connection_goes_on() {
    let (fleet, gw) = gateway("");
    let mut stream = gw.connect();
    for (body, kind) in [
        ("", "invalid_body"),
        ("{not json", "invalid_body"),
        ("[]", "invalid_body"),
        ("null", "invalid_body"),
        ("{}", "invalid_body"),
        (r#"{"client_params":{"id":1,"group":"default"}}"#, "invalid_body"),
        (r#"{"client_params":["a","default"]}"#, "invalid_body"),
        ("\u{feff}{\"client_params\":{\"id\":\"a\",\"group\":\"default\"}}", "invalid_body"),
        (r#"{"client_params":{"id":"a","group":"default"}} x"#, "invalid_body"),
        (r#"{"client_params":{"id":"a","id":"b","group":"default"}}"#, "invalid_body"),
        (r#"{"client_params":{"id":"a"}}"#, "invalid_client_params"),
        (r#"{"client_params":{"id":"a","group":""}}"#, "invalid_client_params"),
        (r#"{"client_params":{"group":"default"}}"#, "invalid_client_params"),
        (r#"{"client_params":{"id":"","group":"default"}}"#, "invalid_client_params"),
    ] {
        stream.write_all(request("POST", PRE, PROTOCOL, body).as_bytes()).unwrap();
        let answer = Answer::read(&mut stream, false).expect("the connection is usable");
        answer.is(400, kind);
        for field in ["id", "group"] {
            let missing = !body.contains(field) || body.contains(&format!("\"{field}\":\"\""));
            if kind == "invalid_client_params" && missing {
                assert!(answer.value().contains(&format!("client_params.{field}")), "{answer:?}");
            }
        }
    }
    assert_eq!(fleet.revision(), 0);
    stream.write_all(request("POST", PRE, PROTOCOL, &params("a", "default")).as_bytes()).unwrap();
    Answer::read(&mut stream, false).unwrap().is_granted();
}

#[test]
fn a_group_is_known_when_it_is_configured_or_in_the_store() {
    let (fleet, gw) = gateway("[[group]]\nname = \"lb\"\n");
    for path in [PRE, STEADY] {
        gw.post(path, PROTOCOL, &params("a", "nosuch")).is(400, "unknown_group");
    }
    assert_eq!(fleet.revision(), 0);
    gw.post(PRE, PROTOCOL, &params("a", "lb")).is_granted();
    drop(gw);
    // Nobody configures it any more, but it has a semaphore.
    fleet.configure("");
    fleet.start().post(PRE, PROTOCOL, &params("b", "lb")).is_full();
}

#[test]
fn names_that_nobody_may_have_never_reach_the_store() {
    let (fleet, gw) = gateway("");
    for group in ["bad group/x", "../default", "default\n", "a_b", "ö", &"g".repeat(254)] {
        for path in [PRE, STEADY] {
            gw.post(path, PROTOCOL, &params("a", group)).is(400, "invalid_client_params");
        }
    }
    for id in ["a b", "a/b", "a\nb", "a\u{0}b", &"i".repeat(257), &"i".repeat(60_000)] {
        gw.post(PRE, PROTOCOL, &params(id, "default")).is(400, "invalid_client_params");
    }
    assert_eq!(fleet.revision(), 0);
}

#[test]
fn what_clients_may_write_in_other_ways_is_understood() {
    let (_fleet, gw) = gateway("");
    let pretty = "{\n  \"extra\": [1],\n  \"client_params\": {\n    \"group\": \"default\",\n    \
                  \"id\": \"a\",\n    \"more\": {}\n  }\n}\n";
    for headers in [
        "FLEET-LOCK-PROTOCOL: true\r\n",
        "fleet-lock-protocol: true\r\ncontent-type: application/json\r\n",
        "fleet-lock-protocol: true\r\ncontent-type: application/x-www-form-urlencoded\r\n",
    ] {
        gw.post(PRE, headers, pretty).is_granted();
    }
    let body = params("a", "default");
    let chunked = format!(
        "POST {PRE} HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n{PROTOCOL}\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    gw.send(chunked.as_bytes()).is_granted();
}

#[test]
fn no_other_method_does_anything() {
    let (fleet, gw) = gateway("");
    for method in ["GET", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "BREW"] {
        for path in [PRE, STEADY] {
            let text = request(method, path, PROTOCOL, &params("a", "default"));
            let mut stream = gw.connect();
            stream.write_all(text.as_bytes()).unwrap();
            let answer = Answer::read(&mut stream, method == "HEAD").unwrap();
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("allow: post\r\n"), "{answer:?}");
            if method != "HEAD" {
                answer.is(405, "method_not_allowed");
            }
        }
    }
    assert_eq!(fleet.revision(), 0);
}

#[test]
fn paths_are_served_in_place_and_never_redirected() {
    let (_fleet, gw) = gateway("[gateway]\nprefixes = [\"/prefix\", \"/a/b\"]\n");
    for path in [
        "//v1/pre-reboot",
        "/v1//pre-reboot",
        "/v1/pre-reboot?x=1",
        "/prefix/v1/pre-reboot",
        "//prefix//v1/pre-reboot",
        "/a/b/v1/pre-reboot",
        "http://gw/v1/pre-reboot",
    ] {
        gw.post(path, PROTOCOL, &params("a", "default")).is_granted();
    }
    for path in
        ["/", "/v1", "/v1/pre-reboot/", "/v2/pre-reboot", "/other/v1/pre-reboot", "/prefixv1"]
    {
        gw.post(path, PROTOCOL, &params("a", "default")).is(404, "not_found");
    }
}

#[test]
fn ids_are_told_apart_by_case_and_may_hold_one_slot_in_each_group() {
    let (_fleet, gw) = gateway("[[group]]\nname = \"lb\"\n");
    gw.pre_reboot("AbC").is_granted();
    gw.pre_reboot("abc").is_full();
    gw.post(PRE, PROTOCOL, &params("AbC", "lb")).is_granted();
    gw.steady_state("AbC").is_granted();
    gw.post(PRE, PROTOCOL, &params("abc", "lb")).is_full();
}

#[test]
fn nothing_is_forgotten_by_a_restart_and_a_second_gateway_knows_it_all() {
    let (fleet, gw) = gateway("");
    gw.pre_reboot("a").is_granted();
    gw.pre_reboot("c").is_full();
    gw.signal(Signal::TERM);
    assert_eq!(gw.ended(), Some(0));
    let (first, second) = (fleet.start(), fleet.start());
    first.pre_reboot("b").is_full();
    first.pre_reboot("a").is_granted();
    second.steady_state("a").is_granted();
    let kept = first.pre_reboot("b");
    kept.is_full();
    assert!(kept.value().contains("kept for who asked first"), "{kept:?}");
    second.pre_reboot("c").is_granted();
}

#[test]
fn a_store_that_is_away_is_answered_in_time_and_leaves_nothing_behind() {
    let fleet = Fleet::new("[gateway]\nanswer_within_secs = 1\n[store]\ntimeout_secs = 1\n");
    let gw = fleet.start();
    gw.pre_reboot("a").is_granted();
    let outage = fleet.without_store();
    let sockets = support::sockets(gw.pid());
    let began = Instant::now();
    gw.steady_state("a").is(503, outage.kind());
    for answer in at_once(&[&gw], 300, PRE) {
        answer.is(503, outage.kind());
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    drop(outage);
    gw.until(200, |gw| gw.steady_state("a"));
    support::until_sockets(gw.pid(), sockets + 2);
}

#[test]
fn of_twenty_clients_at_once_exactly_ten_get_ten_slots() {
    let fleet = Fleet::new("[[group]]\nname = \"default\"\nslots = 10\n");
    let (one, two) = (fleet.start(), fleet.start());
    let answers = at_once(&[&one, &two], 20, PRE);
    let granted = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(granted, 10);
    for answer in answers {
        if answer.status == 200 {
            answer.is_granted()
        } else {
            answer.is_full()
        };
    }
}

#[test]
fn a_hundred_strangers_at_once_write_nothing() {
    let (fleet, gw) = gateway("");
    for answer in at_once(&[&gw], 100, STEADY) {
        answer.is_granted();
    }
    assert_eq!(fleet.revision(), 0);
}

#[test]
fn configured_slots_apply_at_once_and_throw_nobody_out() {
    let slots = |n| format!("[[group]]\nname = \"default\"\nslots = {n}\n");
    let (fleet, gw) = gateway(&slots(1));
    gw.pre_reboot("a").is_granted();
    gw.pre_reboot("b").is_full();
    fleet.configure(&slots(5));
    gw.signal(Signal::HUP);
    gw.until(200, |gw| gw.pre_reboot("b"));
    gw.pre_reboot("c").is_granted();
    fleet.configure(&slots(1));
    gw.signal(Signal::HUP);
    gw.logged("\"old\":5,\"new\":1");
    gw.pre_reboot("d").is_full();
    gw.pre_reboot("a").is_granted();
    gw.steady_state("a").is_granted();
    gw.pre_reboot("d").is_full();
    gw.steady_state("b").is_granted();
    gw.steady_state("c").is_granted();
    gw.pre_reboot("d").is_granted();
    fleet.configure("[gateway]\nlisten = 1\n");
    gw.signal(Signal::HUP);
    gw.logged("the old settings stay in force");
    gw.pre_reboot("d").is_granted();
}

#[test]
fn what_stops_reboots_has_a_kind_of_its_own_and_slots_stay() {
    let (fleet, gw) = gateway("");
    gw.pre_reboot("a").is_granted();
    let stop = r#"{"by":"eve","reason":"sale","since":1}"#;
    fleet.put("fleet/paused", stop);
    for id in ["a", "b"] {
        let paused = gw.pre_reboot(id);
        paused.is(423, "failed_lock_paused");
        assert!(paused.value().contains("paused by eve: sale"), "{paused:?}");
    }
    fleet.take_away("fleet/paused");
    gw.pre_reboot("a").is_granted();
    fleet.put("holds/a", stop);
    gw.pre_reboot("a").is(423, "failed_lock_held");
    fleet.take_away("holds/a");
    gw.pre_reboot("a").is_granted();
    gw.steady_state("a").is_granted();
    fleet.put("cooldown", r#"{"machineID":"a","since":1,"secs":600}"#);
    gw.pre_reboot("b").is(423, "failed_lock_cooldown");
    fleet.take_away("cooldown");
    gw.pre_reboot("b").is_granted();
    fleet.put("semaphore", "{");
    gw.pre_reboot("b").is(503, "store_damaged");
    gw.steady_state("b").is(503, "store_damaged");
    assert_eq!(fleet.semaphore(), "{");
    fleet.configure("[[window]]\ndates = [\"2001-01-01\"]\n");
    gw.signal(Signal::HUP);
    gw.until(423, |gw| gw.pre_reboot("b")).is(423, "failed_lock_window");
}

#[test]
fn a_group_cools_down_after_each_machine_that_is_up_again() {
    let (_fleet, gw) = gateway("[[group]]\nname = \"default\"\ncooldown_secs = 600\nslots = 2\n");
    gw.pre_reboot("a").is_granted();
    gw.pre_reboot("b").is_granted();
    gw.steady_state("a").is_granted();
    gw.pre_reboot("c").is(423, "failed_lock_cooldown");
    gw.pre_reboot("b").is_granted();
}

#[test]
fn a_slot_that_came_about_in_another_way_is_not_to_reboot_with() {
    let (fleet, gw) = gateway("");
    gw.steady_state("x").is_granted();
    fleet.put("semaphore", r#"{"semaphore":-1,"max":1,"holders":["a","b"]}"#);
    fleet.put("holders/a", r#"{"machineID":"a","startTime":1,"via":"agent"}"#);
    gw.pre_reboot("a").is(423, "failed_lock_taken_otherwise");
    let kept = gw.steady_state("a");
    kept.is_granted();
    assert!(kept.value().contains("keeps its slot"), "{kept:?}");
    // Programs that write no records know ids only.
    gw.pre_reboot("b").is_granted();
    gw.steady_state("b").is_granted();
    assert!(fleet.semaphore().contains(r#""holders":["a"]"#));
}

#[test]
fn long_bodies_are_refused_before_they_are_read() {
    let (fleet, gw) = gateway("");
    let long = format!("{{\"x\":\"{}\"}}", "x".repeat(64 * 1024));
    gw.post(PRE, PROTOCOL, &long).is(413, "body_too_large");
    let declared =
        format!("POST {PRE} HTTP/1.1\r\nhost: gw\r\ncontent-length: 99999999999\r\n{PROTOCOL}\r\n");
    gw.send(declared.as_bytes()).is(413, "body_too_large");
    let mut chunked =
        format!("POST {PRE} HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n{PROTOCOL}\r\n");
    for _ in 0..17 {
        chunked.push_str(&format!("1000\r\n{}\r\n", " ".repeat(0x1000)));
    }
    gw.send(chunked.as_bytes()).is(413, "body_too_large");
    assert_eq!(fleet.revision(), 0);
}

/// By the HTTP layer, which has no words for it; docs/gateway.md says so.
#[test]
fn what_is_no_request_is_answered_by_a_status_alone() {
    let (_fleet, gw) = gateway("");
    let long = format!("POST {PRE} HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(20 * 1024));
    for (bytes, status) in [("POST / x HTTP/1.1\r\n\r\n", 400), (&*long, 431)] {
        let answer = gw.send(bytes.as_bytes());
        assert_eq!((answer.status, answer.body.as_str()), (status, ""), "{answer:?}");
        assert!(answer.head.contains("connection: close\r\n"), "{answer:?}");
    }
}

#[test]
fn slow_clients_are_cut_off() {
    let (_fleet, gw) = gateway("[gateway]\nheader_timeout_secs = 1\nbody_timeout_secs = 1\n");
    let mut half = gw.connect();
    half.write_all(b"POST /v1/pre-reboot HTTP/1.1\r\nhost: gw\r\n").unwrap();
    let mut rest = Vec::new();
    half.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{rest:?}");
    let mut idle = gw.connect();
    assert_eq!(idle.read(&mut [0; 16]).unwrap(), 0, "a connection that asks nothing is closed");
    let slow =
        format!("POST {PRE} HTTP/1.1\r\nhost: gw\r\ncontent-length: 50\r\n{PROTOCOL}\r\n{{\"cl");
    gw.send(slow.as_bytes()).is(408, "timeout");
}

#[test]
fn credentials_open_what_they_are_for() {
    let fleet = Fleet::new("");
    let run = |args: &[&str], input: &str| {
        let mut child = std::process::Command::new(support::BINARY)
            .arg("hash")
            .args(args)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (password, _) = run(&[], "s3cret\n");
    let (digest, token) = run(&["--token"], "");
    let token = token.lines().last().unwrap().to_owned();
    let credentials = format!(
        "[[client]]\nname = \"lb\"\n{password}groups = [\"lb\"]\n\
         [[client]]\nname = \"one\"\n{digest}ids = [\"a\"]\n"
    );
    let path = file(&fleet, "credentials.toml", &credentials);
    fleet.configure(&format!(
        "[gateway]\ncredentials_file = {path:?}\n[[group]]\nname = \"lb\"\nslots = 9\n"
    ));
    let gw = fleet.start();
    // base64 of lb:s3cret and lb:wrong, as clients make it of `http://lb:s3cret@gw/`.
    let right = format!("{PROTOCOL}authorization: Basic bGI6czNjcmV0\r\n");
    let wrong = format!("{PROTOCOL}authorization: Basic bGI6d3Jvbmc=\r\n");
    let bearer = format!("{PROTOCOL}authorization: Bearer {token}\r\n");
    for path in [PRE, STEADY] {
        gw.post(path, &right, &params("a", "lb")).is_granted();
        gw.post(path, &right, &params("a", "default")).is(403, "forbidden");
        gw.post(path, &bearer, &params("a", "default")).is_granted();
        gw.post(path, &bearer, &params("b", "default")).is(403, "forbidden");
        for headers in [PROTOCOL, &wrong, &format!("{PROTOCOL}authorization: Bearer x\r\n")] {
            gw.post(path, headers, &params("a", "lb")).is(401, "unauthorized");
        }
    }
    assert!(gw.logged("\"event\":\"forbidden\"").contains("\"client\":\"lb\""));
    assert!(!gw.log.lock().unwrap().iter().any(|line| line.contains("s3cret")));
    gw.get("/healthz").is_granted();
}

#[test]
fn machines_ask_without_credentials_beside_people_only_where_that_is_said() {
    let fleet = Fleet::new("");
    let [(person, persons), (_, machines)] =
        [(), ()].map(|()| rebootlock_gateway::auth::new_token());
    let olga = format!("[[client]]\nname = \"olga\"\nrole = \"operator\"\n{persons}\n");
    let path = file(&fleet, "credentials.toml", &olga);
    let config = |more: &str| {
        fleet.configure(&format!("[gateway]\ncredentials_file = {path:?}\n{more}\n"));
    };
    config("");
    let gw = fleet.start();
    gw.pre_reboot("a").is(401, "unauthorized");
    assert!(gw.logged("names people only").contains("\"level\":\"WARN\""));

    config("anonymous_machines = true");
    let one = format!("{olga}[[client]]\nname = \"one\"\nids = [\"b\"]\n{machines}\n");
    file(&fleet, "credentials.toml", &one);
    gw.signal(Signal::HUP);
    gw.logged("configuration read again");
    gw.pre_reboot("a").is_granted();
    // Who has credentials is spoken for by nobody without.
    gw.pre_reboot("b").is(403, "forbidden");
    gw.steady_state("b").is(403, "forbidden");
    for wrong in ["Bearer x", "Basic eDp5"] {
        let headers = format!("{PROTOCOL}authorization: {wrong}\r\n");
        gw.post(PRE, &headers, &params("a", "default")).is(401, "unauthorized");
    }
    // Nothing else is open for that.
    let json = "content-type: application/json\r\n";
    for (path, body) in [
        ("/api/v1/fleet/pause", r#"{"reason":"x"}"#),
        ("/api/v1/machines/a/unlock", r#"{"reason":"x"}"#),
        ("/api/v1/store/commit", r#"{"changes":[]}"#),
        ("/api/v1/store/lease/grant", r#"{"ttlMillis":1000}"#),
    ] {
        assert_eq!(gw.post(path, json, body).status, 401, "{path}");
    }
    let bearer = format!("{json}authorization: Bearer {person}\r\n");
    assert_eq!(gw.post("/api/v1/fleet/pause", &bearer, r#"{"reason":"x"}"#).status, 200);
    gw.pre_reboot("a").is(423, "failed_lock_paused");
}

#[test]
fn who_should_be_back_is_counted_and_keeps_its_slot() {
    let (fleet, gw) = gateway("[reboot]\noverdue_after_secs = 60\n");
    gw.pre_reboot("a").is_granted();
    let figure = |name: &str| {
        let text = gw.get("/metrics").body;
        let line =
            text.lines().find(|line| line.starts_with(&format!("rebootlock_gateway_{name}")));
        line.unwrap_or_else(|| panic!("{name} in {text}")).rsplit(' ').next().unwrap().to_owned()
    };
    let silent = "overdue_holders{group=\"default\",state=\"silent\"}";
    assert_eq!(figure(silent), "0");
    fleet.put("holders/a", r#"{"machineID":"a","startTime":1,"via":"fleetlock"}"#);
    // One look at the groups is for all who ask within a second.
    let becomes = |name: &str, value: &str| {
        support::until(
            || format!("{name} {value} instead of {}", figure(name)),
            || (figure(name) == value).then_some(()),
        );
    };
    becomes(silent, "1");
    gw.pre_reboot("b").is_full();
    assert_eq!(figure("slots{group=\"default\"}"), "1");
    assert_eq!(figure("holders{group=\"default\"}"), "1");
    becomes("queue{group=\"default\"}", "1");
    assert_eq!(figure("store_up"), "1");
    let full = "route=\"pre-reboot\",kind=\"failed_lock_semaphore_full\",status=\"423\"";
    assert_eq!(figure(&format!("requests_total{{{full}}}")), "1");
}

#[test]
fn a_request_is_held_until_a_slot_is_free_or_the_time_is_over() {
    let (_fleet, gw) = gateway("[gateway]\nmax_wait_secs = 30\n");
    let gw = Arc::new(gw);
    gw.pre_reboot("a").is_granted();
    let wait = |secs: u64| format!("{PROTOCOL}prefer: wait={secs}\r\n");
    let began = Instant::now();
    let refused = gw.post(PRE, &wait(1), &params("b", "default"));
    refused.is_full();
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert!(refused.head.contains("preference-applied: wait=1\r\n"), "{refused:?}");
    let held = {
        let (gw, headers) = (gw.clone(), wait(1000));
        std::thread::spawn(move || {
            (gw.post(PRE, &headers, &params("b", "default")), Instant::now())
        })
    };
    // Nobody comes before it, and it hears of the free slot.
    gw.pre_reboot("c").is_full();
    let freed = Instant::now();
    gw.steady_state("a").is_granted();
    let (granted, at) = held.join().unwrap();
    granted.is_granted();
    assert!(granted.head.contains("preference-applied: wait=30\r\n"), "{granted:?}");
    assert!(at.saturating_duration_since(freed) < Duration::from_secs(5));
    gw.pre_reboot("c").is_full();
    gw.steady_state("b").is_granted();
    gw.pre_reboot("c").is_granted();
}

#[test]
fn a_request_that_was_not_held_is_not_said_to_have_been() {
    let (fleet, gw) = gateway("[gateway]\nmax_wait_secs = 30\n");
    let ask = || gw.post(PRE, &format!("{PROTOCOL}prefer: wait=20\r\n"), &params("a", "default"));
    let at_once = |answer: support::Answer| {
        assert!(!answer.head.contains("preference-applied"), "{answer:?}");
        answer
    };
    at_once(ask()).is_granted();
    let stop = r#"{"by":"eve","reason":"sale","since":1}"#;
    fleet.put("holds/a", stop);
    at_once(ask()).is(423, "failed_lock_held");
    fleet.take_away("holds/a");
    fleet.put("holders/a", r#"{"machineID":"a","startTime":1,"via":"agent"}"#);
    at_once(ask()).is(423, "failed_lock_taken_otherwise");
    fleet.configure("[[window]]\ndates = [\"2001-01-01\"]\n");
    gw.signal(Signal::HUP);
    let closed = || gw.pre_reboot("b").kind() == "failed_lock_window";
    support::until(|| "the window".to_owned(), || closed().then_some(()));
    at_once(ask()).is(423, "failed_lock_window");
}

#[test]
fn refusals_can_have_airlocks_names() {
    let (_fleet, gw) = gateway("[gateway]\nairlock_kinds = true\n");
    gw.pre_reboot("a").is_granted();
    gw.pre_reboot("b").is(423, "failed_lock");
    gw.post(PRE, "", "").is(400, "invalid_client_identity");
    gw.post(PRE, PROTOCOL, &params("a", "x")).is(400, "unknown_group");
}
