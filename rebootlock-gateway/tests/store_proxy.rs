//! The store for others: who may what with which keys, what is never written, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Answer, Fleet, Gateway, file, request};

const PREFIX: &str = "coreos.com/updateengine/rebootlock";
const READ: &str = "/api/v1/store/read";
const COMMIT: &str = "/api/v1/store/commit";

/// Whose token is its name and `-token`.
const CREDENTIALS: &str = r#"
[[client]]
name = "operator"
role = "operator"
token_sha256 = "0850123315d21ab90f4f7236408a52ef6dbd6a02a6550e5c10dc73f4d993680e"
[[client]]
name = "viewer"
role = "viewer"
token_sha256 = "d036bd6d01a1cae081d39a2f8dab751dc042de814fd60df31fcb553170950f29"
[[client]]
name = "agent"
role = "agent"
ids = ["a"]
groups = ["default", "rack 7"]
token_sha256 = "eb47b9ce4840a5b3ea138b8691253b78035b9289d9014409067e9844c272ef99"
[[client]]
name = "web"
role = "operator"
groups = ["web"]
token_sha256 = "671391faf68e509ca4ec48ccb0690453e9b82c2fa48273703233d60b52b9640d"
[[client]]
name = "fleetlock"
token_sha256 = "f880ee613f7eed5e13dbe3e744c21819ca5441aac583320317d1832025061e37"
"#;

fn start(config: &str) -> (Fleet, Gateway) {
    let fleet = Fleet::new("");
    let credentials = file(&fleet, "credentials.toml", CREDENTIALS);
    let config = format!("[gateway]\ncredentials_file = {credentials:?}\n{config}");
    fleet.configure(&config);
    let gateway = fleet.start();
    (fleet, gateway)
}

fn headers(who: &str) -> String {
    let credentials = match who {
        "" => String::new(),
        who => format!("authorization: Bearer {who}-token\r\n"),
    };
    format!("content-type: application/json\r\n{credentials}")
}

fn ask(gateway: &Gateway, who: &str, path: &str, body: &Value) -> Answer {
    gateway.post(path, &headers(who), &body.to_string())
}

#[track_caller]
fn refused(answer: &Answer, status: u16, kind: &str, said: &str) {
    assert_eq!((answer.status, answer.kind().as_str()), (status, kind), "{answer:?}");
    assert!(answer.head.contains("content-type: application/problem+json"), "{answer:?}");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(said), "no {said:?} in {detail:?}");
}

fn put(key: &str, value: &str) -> Value {
    json!({"changes": [{"put": {"key": format!("{PREFIX}/{key}"), "value": value}}]})
}

fn delete(key: &str) -> Value {
    json!({"changes": [{"delete": format!("{PREFIX}/{key}")}]})
}

#[test]
fn people_sign_with_their_own_names() {
    const ME: &str = "/api/v1/store/me";
    let (fleet, gw) = start("");
    for who in ["operator", "web", "agent"] {
        assert_eq!(ask(&gw, who, ME, &json!({})).json(), json!({"name": who}));
    }
    refused(&ask(&gw, "viewer", ME, &json!({})), 403, "forbidden", "for looking only");
    refused(&ask(&gw, "", ME, &json!({})), 401, "unauthorized", "");
    let stop = |by: &str| json!({"by": by, "since": 1}).to_string();
    let past = |ended: &str, by: &str| {
        json!({"machineID": "a", "endedAt": 1, "ended": ended, "by": by}).to_string()
    };
    for key in ["paused", "groups/lb/paused", "fleet/paused", "holds/a", "requests/a"] {
        let lie = put(key, &stop("alice"));
        refused(
            &ask(&gw, "operator", COMMIT, &lie),
            403,
            "forbidden",
            "it says that \"alice\" did it",
        );
        assert_eq!(fleet.document(key), None);
        assert_eq!(ask(&gw, "operator", COMMIT, &put(key, &stop("operator"))).status, 200);
    }
    let lie = put("history/1", &past("unlocked", "alice"));
    refused(&ask(&gw, "operator", COMMIT, &lie), 403, "forbidden", "did it");
    // Machines sign for themselves.
    for (who, by, ended) in [
        ("operator", "operator", "unlocked"),
        ("operator", "m2", "overdue"),
        ("agent", "m2", "overdue"),
    ] {
        let answer = ask(&gw, who, COMMIT, &put("history/1", &past(ended, by)));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[test]
fn each_role_may_do_what_it_is_for() {
    let (fleet, gw) = start("public_view = false");
    let read = json!({"keys": [format!("{PREFIX}/semaphore")]});
    refused(&ask(&gw, "", READ, &read), 401, "unauthorized", "credentials are needed");
    refused(&ask(&gw, "wrong", READ, &read), 401, "unauthorized", "not known here");
    refused(&ask(&gw, "fleetlock", READ, &read), 403, "forbidden", "for machines");
    for who in ["viewer", "agent", "operator"] {
        let answer = ask(&gw, who, READ, &read);
        assert_eq!((answer.status, &answer.json()["entries"]), (200, &json!([])), "{answer:?}");
    }
    let fine = r#"{"semaphore":1,"max":1,"holders":[]}"#;
    refused(&ask(&gw, "", COMMIT, &put("semaphore", fine)), 401, "unauthorized", "");
    refused(&ask(&gw, "fleetlock", COMMIT, &put("x", "")), 403, "forbidden", "FleetLock clients");
    let grant = json!({"ttlMillis": 60_000});
    for (path, body) in [(COMMIT, &put("semaphore", fine)), ("/api/v1/store/lease/grant", &grant)] {
        refused(&ask(&gw, "viewer", path, body), 403, "forbidden", "for looking only");
    }
    for (body, allowed) in [
        (put("semaphore", fine), true),
        (put("groups/rack+7/semaphore", fine), true),
        (put("groups/lb/semaphore", fine), false),
        (put("holders/a", "{}"), true),
        (put("holders/b", "{}"), false),
        (put("groups/rack+7/queue/a", "{}"), true),
        (put("groups/lb/queue/a", "{}"), false),
        (put("machines/a", "{}"), true),
        (put("machines/b", "{}"), false),
        (put("history/000000000001-x", "{}"), true),
        (put("paused", "{}"), false),
        (delete("groups/rack+7/paused"), false),
        (put("fleet/paused", "{}"), false),
        (put("requests/a", "{}"), false),
        (delete("requests/a"), true),
        (delete("requests/b"), false),
        (delete("holds/a"), false),
        (put("something/new", "{}"), false),
    ] {
        let answer = ask(&gw, "agent", COMMIT, &body);
        match allowed {
            true => assert_eq!(answer.status, 200, "{body}: {answer:?}"),
            false => refused(&answer, 403, "forbidden", "change"),
        }
        assert_eq!(ask(&gw, "operator", COMMIT, &body).status, 200, "{body}");
    }
    // Whoever could write these could sign in as somebody else, or unsay what was done.
    for body in [delete("acts/x"), put("sessions/x", "{}")] {
        for who in ["agent", "operator"] {
            refused(&ask(&gw, who, COMMIT, &body), 403, "forbidden", "");
        }
    }
    let line = gw.logged("commit_refused");
    assert!(line.contains("groups/lb/semaphore") && line.contains("\"by\":\"agent\""), "{line}");
    let line = gw.logged("\"event\":\"commit\"");
    for part in ["\"by\":\"agent\"", "127.0.0.1", "rebootlock/semaphore", "\"outcome\":\"won\""] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert_eq!(fleet.semaphore(), fine);
}

#[test]
fn an_operator_of_some_groups_changes_nothing_of_machines_that_may_be_in_others() {
    let (_fleet, gw) = start("");
    for (body, allowed) in [
        (put("groups/web/semaphore", r#"{"semaphore":1,"max":1,"holders":[]}"#), true),
        (put("groups/web/paused", "{}"), true),
        (delete("groups/web/holders/a"), true),
        (put("semaphore", r#"{"semaphore":1,"max":1,"holders":[]}"#), false),
        (delete("holders/a"), false),
        (put("holds/a", "{}"), false),
        (delete("holds/a"), false),
        (put("requests/a", "{}"), false),
        (delete("requests/a"), false),
        (delete("machines/a"), false),
        (delete("roster/a"), false),
        (put("fleet/paused", "{}"), false),
    ] {
        let answer = ask(&gw, "web", COMMIT, &body);
        match allowed {
            true => assert_eq!(answer.status, 200, "{body}: {answer:?}"),
            false => refused(&answer, 403, "forbidden", "cannot be changed"),
        }
    }
}

#[test]
fn without_credentials_in_its_file_nobody_changes_anything() {
    let fleet = Fleet::new("");
    let gw = fleet.start();
    let local = |path, body: &Value| {
        let text = format!("host: {}\r\n{}", gw.address, headers(""));
        let body = body.to_string();
        let length = body.len();
        let text = format!("POST {path} HTTP/1.1\r\ncontent-length: {length}\r\n{text}\r\n{body}");
        gw.send(text.as_bytes())
    };
    assert_eq!(local(READ, &json!({})).status, 200);
    let answer = local(COMMIT, &put("semaphore", r#"{"semaphore":1,"max":1,"holders":[]}"#));
    refused(&answer, 401, "unauthorized", "nobody may change anything through this gateway");
    assert_eq!(fleet.revision(), 0);
}

#[test]
fn only_keys_below_the_prefix_are_served() {
    let (fleet, gw) = start("");
    for key in ["x", PREFIX, "coreos.com/updateengine/rebootlock0", "", "coreos.com/", "/x"] {
        for (path, body) in [
            (READ, json!({"keys": [key]})),
            (READ, json!({"below": [{"prefix": key}]})),
            (COMMIT, json!({"when": [{"key": key, "modified": null}]})),
            (COMMIT, json!({"changes": [{"put": {"key": key, "value": ""}}]})),
            (COMMIT, json!({"changes": [{"delete": key}]})),
            ("/api/v1/store/watch", json!({"spans": [{"below": key}]})),
            ("/api/v1/store/watch", json!({"spans": [{"between": [key, format!("{PREFIX}0")]}]})),
        ] {
            let answer = ask(&gw, "operator", path, &body);
            refused(&answer, 403, "forbidden", "compare prefix in [store]");
        }
    }
    let beyond = json!({"spans": [{"between": [format!("{PREFIX}/a"), "d"]}]});
    refused(&ask(&gw, "operator", "/api/v1/store/watch", &beyond), 403, "forbidden", "d is not");
    assert_eq!(fleet.revision(), 0);
}

#[test]
fn a_semaphore_that_contradicts_itself_is_not_written() {
    let (fleet, gw) = start("");
    let fine = r#"{"semaphore":1,"max":2,"holders":["a"]}"#;
    for key in ["semaphore", "groups/lb/semaphore"] {
        assert_eq!(ask(&gw, "operator", COMMIT, &put(key, fine)).status, 200);
        let before = fleet.revision();
        for (value, said) in [
            (r#"{"semaphore":2,"max":2,"holders":["a"]}"#, "do not add up to max 2"),
            (r#"{"semaphore":0,"max":2,"holders":["a","a"]}"#, "listed more than once"),
            (r#"{"semaphore":-1,"max":-1,"holders":[]}"#, "max is -1"),
            ("", "not valid JSON"),
        ] {
            let answer = ask(&gw, "operator", COMMIT, &put(key, value));
            refused(&answer, 422, "invalid_document", said);
            assert!(answer.body.contains(key), "{answer:?}");
        }
        refused(&ask(&gw, "operator", COMMIT, &delete(key)), 422, "invalid_document", "be gone");
        let key = format!("{PREFIX}/{key}");
        let leased = json!({"changes": [{"put": {"key": key, "value": fine, "lease": "1"}}]});
        refused(&ask(&gw, "operator", COMMIT, &leased), 422, "invalid_document", "a lease");
        // Not even as a part of something else.
        let damaged = json!({"put": {"key": key, "value": "{}"}});
        let other = json!({"delete": format!("{PREFIX}/queue/a")});
        let both = json!({"changes": [other, damaged]});
        refused(&ask(&gw, "operator", COMMIT, &both), 422, "invalid_document", "missing field");
        assert_eq!(fleet.revision(), before);
    }
    let key = format!("{PREFIX}/queue/a");
    let twice = json!({"changes": [{"delete": key}, {"put": {"key": key, "value": ""}}]});
    refused(&ask(&gw, "operator", COMMIT, &twice), 400, "invalid_body", "changed twice");
}

#[test]
fn what_cannot_be_understood_is_refused() {
    let (_fleet, gw) = start("");
    for (path, body) in [
        (READ, "[]"),
        (READ, r#"{"key":[]}"#),
        (READ, "{"),
        (COMMIT, r#"{"when":[{"key":"x"}]}"#),
        (COMMIT, r#"{"changes":[{}]}"#),
        ("/api/v1/store/watch", r#"{"spans":[]}"#),
        ("/api/v1/store/lease/grant", r#"{"ttlMillis":0}"#),
        ("/api/v1/store/lease/grant", r#"{"ttlMillis":604800001}"#),
        ("/api/v1/store/lease/keep-alive", r#"{"lease":7}"#),
    ] {
        refused(&gw.post(path, &headers("operator"), body), 400, "invalid_body", "");
    }
    let several = json!({"after": 1, "spans": [
        {"below": format!("{PREFIX}/a")}, {"below": format!("{PREFIX}/b")},
    ]});
    let answer = ask(&gw, "operator", "/api/v1/store/watch", &several);
    refused(&answer, 400, "invalid_body", "one span");
    let token = "authorization: Bearer operator-token\r\n";
    refused(&gw.post(READ, token, "{}"), 415, "unsupported_media_type", "");
    let from_elsewhere = format!("{}sec-fetch-site: cross-site\r\n", headers("operator"));
    refused(&gw.post(READ, &from_elsewhere, "{}"), 403, "forbidden", "other sites");
    let get = request("GET", READ, &headers("operator"), "");
    refused(&gw.send(get.as_bytes()), 405, "method_not_allowed", "POST");
    refused(&ask(&gw, "operator", "/api/v1/store/x", &json!({})), 404, "not_found", "");
    let long = format!(r#"{{"keys":["{PREFIX}/{}"]}}"#, "x".repeat(300_000));
    refused(&gw.post(READ, &headers("operator"), &long), 413, "body_too_large", "");
    let lease = json!({"lease": "99"});
    let answer = ask(&gw, "operator", "/api/v1/store/lease/keep-alive", &lease);
    refused(&answer, 410, "lease_gone", "ended");
    assert_eq!(ask(&gw, "operator", "/api/v1/store/lease/revoke", &lease).status, 200);
}

/// A watch, line by line.
struct Lines(BufReader<TcpStream>);

impl Lines {
    fn open(gateway: &Gateway, spans: &Value, after: Option<u64>) -> Self {
        let mut stream = gateway.connect();
        let body = json!({"spans": spans, "after": after}).to_string();
        let text = request("POST", "/api/v1/store/watch", &headers("viewer"), &body);
        stream.write_all(text.as_bytes()).unwrap();
        let mut lines = Self(BufReader::new(stream));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.0.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.to_lowercase().contains("application/x-ndjson"), "{head}");
        lines
    }

    /// Each comes in a chunk of its own. `None`: it has ended.
    fn next(&mut self) -> Option<Value> {
        let mut read = || {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            line
        };
        let size = read();
        if size.trim() == "0" || size.is_empty() {
            return None;
        }
        let line = read();
        assert_eq!(read(), "\r\n", "the end of a chunk");
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// But heartbeats.
    fn news(&mut self) -> Option<Value> {
        loop {
            match self.next() {
                Some(line) if line.get("heartbeat").is_some() => {}
                other => return other,
            }
        }
    }
}

#[test]
fn a_watch_tells_what_happens_until_the_gateway_stops() {
    let (_fleet, gw) = start("");
    let won = ask(&gw, "operator", COMMIT, &put("queue/a", "1")).json()["won"].as_u64().unwrap();
    let mut past = Lines::open(&gw, &json!([{"below": format!("{PREFIX}/queue/")}]), Some(0));
    let spans = json!([{"below": format!("{PREFIX}/queue/")}, {"below": format!("{PREFIX}/x/")}]);
    let mut now = Lines::open(&gw, &spans, None);
    assert_eq!(past.news().unwrap(), json!({"opened": won}));
    assert_eq!(past.news().unwrap()["put"]["value"], "1");
    assert_eq!(now.news().unwrap(), json!({"opened": won}));
    assert_eq!(now.news().unwrap(), json!({"lost": won}));
    let mut quiet = Lines::open(&gw, &json!([{"below": format!("{PREFIX}/x/")}]), Some(won));
    assert_eq!(quiet.next().unwrap(), json!({"opened": won}));
    assert_eq!(quiet.next().unwrap(), json!({"heartbeat": {}}));
    let metrics = gw.get("/metrics").body;
    assert!(metrics.contains("rebootlock_gateway_watches 3\n"), "{metrics}");
    let bytes = json!({"changes": [
        {"put": {"key": format!("{PREFIX}/queue/b"), "base64": "//4A"}},
        {"delete": format!("{PREFIX}/queue/a")},
    ]});
    assert_eq!(ask(&gw, "operator", COMMIT, &bytes).status, 200);
    for watch in [&mut past, &mut now] {
        let mut told = [watch.news().unwrap(), watch.news().unwrap()];
        told.sort_by_key(|line| line.get("put").is_some());
        let key = |name| format!("{PREFIX}/queue/{name}");
        assert_eq!(told[0], json!({"gone": {"key": key("a"), "revision": won + 1}}));
        assert_eq!(told[1]["put"]["key"], key("b"));
        assert_eq!(told[1]["put"]["base64"], "//4A");
    }
    gw.signal(Signal::TERM);
    for watch in [&mut past, &mut now] {
        assert_eq!(watch.news().unwrap(), json!({"end": "the gateway stops"}));
        assert!(watch.next().is_none());
    }
    assert_eq!(gw.ended(), Some(0));
}

#[test]
fn no_more_watches_than_allowed_are_open() {
    let (_fleet, gw) = start("max_watches = 2");
    let spans = json!([{"below": format!("{PREFIX}/queue/")}]);
    let one = Lines::open(&gw, &spans, Some(0));
    let _two = Lines::open(&gw, &spans, Some(0));
    let third = || ask(&gw, "viewer", "/api/v1/store/watch", &json!({"spans": spans}));
    refused(&third(), 503, "overloaded", "max_watches");
    // Other questions are answered.
    assert_eq!(ask(&gw, "viewer", READ, &json!({})).status, 200);
    drop(one);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !gw.get("/metrics").body.contains("rebootlock_gateway_watches 1\n") {
        assert!(std::time::Instant::now() < deadline, "the first is still open");
        std::thread::sleep(Duration::from_millis(10));
    }
    Lines::open(&gw, &spans, Some(0));
}
