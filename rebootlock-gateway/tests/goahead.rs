//! goahead clients against the real binary, here on SQLite: what stock clients read, and what must not
//! come of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
mod support;

#[path = "goahead/client.rs"]
mod client;
#[path = "goahead/commands.rs"]
mod commands;
#[path = "goahead/compat.rs"]
mod compat;
#[path = "goahead/course.rs"]
mod course;
#[path = "goahead/lock.rs"]
mod lock;

use self::client::{INQUIRE, REQUEST, cluster, gateway, inquire, post, request, second, settled};
use self::support::{Fleet, Gateway, file};
use serde_json::Value;

#[test]
fn what_is_asked_twice_is_granted_in_goaheads_words() {
    let (fleet, gw) = gateway(&cluster(""));
    let first = request(&gw, "web-1.example", "2h31m", None);
    let text = first.body.clone();
    let keys: Vec<_> = first.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        keys,
        [
            "timestamp",
            "go_ahead",
            "unknown_host",
            "ask_again_in",
            "request_id",
            "found_cluster",
            "requesting_fqdn",
            "message",
            "reported_uptime",
        ],
        "{text}"
    );
    assert!(first.head.contains("content-type: application/json\r\n"), "{first:?}");
    let json = first.json();
    assert_eq!(
        (&json["go_ahead"], &json["unknown_host"]),
        (&Value::Bool(false), &Value::Bool(false))
    );
    assert_eq!(
        (&json["found_cluster"], &json["requesting_fqdn"]),
        (&"web".into(), &"web-1.example".into())
    );
    assert_eq!(json["reported_uptime"], "2h31m");
    assert_eq!(json["message"], "No previous request file found for fqdn: web-1.example");
    let wait = json["ask_again_in"].as_str().unwrap().strip_suffix('s').unwrap();
    assert!(wait.parse::<u32>().unwrap() < 30);
    let id = json["request_id"].as_str().unwrap();
    assert!(id.len() == 8 && id.bytes().all(|b| b.is_ascii_alphabetic()), "{id}");
    assert_eq!(fleet.group("web"), "", "the first question takes nothing");

    let granted = request(&gw, "web-1.example", "2h31m10s", Some(id));
    let json = granted.json();
    assert_eq!(json["go_ahead"], true, "{json}");
    assert!(json.get("message").is_none() && json.get("ask_again_in").is_some(), "{json}");
    assert_ne!(json["request_id"], id);
    assert!(fleet.group("web").contains(r#""holders":["web-1.example"]"#));
    let record = fleet.document("groups/web/holders/web-1.example").unwrap();
    assert!(record.contains(r#""via":"goahead""#) && record.contains(r#""uptime":"2h31m10s""#));

    let again = request(&gw, "web-1.example", "2h31m20s", Some(id)).json();
    assert_eq!(again["go_ahead"], true);
    assert_eq!(again["message"], "You should already be restarting!");

    let denied = second(&gw, "web-2.example", "5h");
    let json = denied.json();
    assert_eq!(json["go_ahead"], false);
    assert_eq!(
        json["message"],
        "Denied restart request as the current_ongoing_restarts of cluster web is larger than the \
         allowed_parallel_restarts: 1 >= 1 Currently restarting hosts: web-1.example"
    );
    assert!(denied.body.contains("1 \\u003e= 1"), "{}", denied.body);
}

#[test]
fn every_path_and_method_is_served_as_goahead_does() {
    let (_fleet, gw) = gateway(&format!("[gateway.goahead]\nanswers_root = true\n{}", cluster("")));
    let body = r#"{"fqdn":"web-1","uptime":"5h"}"#;
    for path in ["/v1/request/restart/os", "/v1/request/restart/", "/request/restart/"] {
        for method in ["POST", "GET", "PUT", "BREW"] {
            let answer = gw.send(support::request(method, path, "", body).as_bytes());
            assert_eq!((answer.status, &answer.json()["found_cluster"]), (200, &"web".into()));
            assert!(answer.json().get("ask_again_in").is_some(), "{method} {path}");
        }
    }
    for path in ["/v1/inquire/restart/", "/inquire/restart/", "//v1//inquire/restart/?x=1"] {
        let answer = gw.post(path, "content-type: x/y\r\n", body);
        assert_eq!(
            (answer.status, answer.json()["message"].as_str()),
            (200, Some("No reason to restart"))
        );
        assert!(answer.json().get("ask_again_in").is_none(), "{path}");
    }
    for path in ["/", "/health", "/v1/", "/v1/health"] {
        let json = gw.get(path).json();
        assert_eq!(json["message"], "HealthHandler!", "{path}");
        assert_eq!(
            (&json["go_ahead"], &json["unknown_host"]),
            (&Value::Bool(false), &Value::Bool(true))
        );
        for empty in ["found_cluster", "requesting_fqdn", "reported_uptime"] {
            assert_eq!(json[empty], "", "{path}");
        }
        assert!(json.get("ask_again_in").is_none());
    }
    let mut stream = gw.connect();
    std::io::Write::write_all(&mut stream, support::request("HEAD", "/health", "", "").as_bytes())
        .unwrap();
    assert_eq!(support::Answer::read(&mut stream, true).unwrap().status, 200);
    for path in [
        "/v1",
        "/v1/inquire/restart",
        "/v1/inquire/restart/os",
        "/v1/request/restart",
        "/request/restart/os",
        "/v1/request/restart/os/",
        "/v1/pre-reboot/",
        "/v2/x",
        "/pre/v1/inquire/restart/",
        "/api/v1/inquire/restart/",
        // Read in one way alone, by us and by whoever stands in front of us.
        "/v1/%69nquire/restart/",
        "/nothing",
        "/api",
    ] {
        for method in ["POST", "GET", "BREW"] {
            nothing_for_goahead(&gw, method, path);
        }
    }
    // FleetLock is served beside it.
    gw.pre_reboot("x").is_granted();
    let log = gw.logged("\"path\":\"/v1/inquire/restart/\"");
    assert!(log.contains("\"kind\":\"success\""), "{log}");
}

/// An answer at which a stock client fails. Any JSON without `error` ends its run as if all were well.
#[track_caller]
fn nothing_for_goahead(gw: &Gateway, method: &str, path: &str) {
    let body = r#"{"fqdn":"web-1","uptime":"5h"}"#;
    let answer = gw.send(support::request(method, path, "", body).as_bytes());
    assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"), "{path}");
    assert!(answer.head.contains("content-type: text/plain; charset=utf-8\r\n"));
    assert!(answer.head.contains("x-content-type-options: nosniff\r\n"));
}

#[test]
fn a_client_that_nobody_serves_does_not_take_it_for_an_answer() {
    let body = r#"{"fqdn":"web-1","uptime":"5h"}"#;
    let (_fleet, gw) = gateway("");
    for path in [REQUEST, INQUIRE, "/inquire/restart/", "/pre/v1/inquire/restart/"] {
        nothing_for_goahead(&gw, "POST", path);
    }
    // Other clients read JSON.
    for path in ["/health", "/v1/x", "/v2/x", "/x"] {
        gw.post(path, "", body).is(404, "not_found");
    }
    let (_fleet, gw) = gateway(&cluster(""));
    for path in ["/pre/v1/request/restart/os", "/api/v1/inquire/restart/", "/v1/x", "/v2/x"] {
        nothing_for_goahead(&gw, "POST", path);
    }
    gw.post("/x", "", body).is(404, "not_found");
    let (_fleet, gw) = gateway("[gateway]\nrequests_per_minute = 1\n");
    nothing_for_goahead(&gw, "POST", INQUIRE);
    let limited = gw.post(INQUIRE, "", body);
    assert_eq!(limited.body, "{\"error\":\"too many requests from your address\"}");
}

#[test]
fn what_cannot_be_used_is_refused_to_the_letter() {
    let (fleet, gw) = gateway(&cluster(""));
    settled(&fleet);
    let written = fleet.revision();
    for path in [REQUEST, INQUIRE] {
        for (body, error) in [
            ("", "Invalid request payload"),
            ("{", "Invalid request payload"),
            ("[1]", "Invalid request payload"),
            (r#"{"fqdn":1,"uptime":"5h"}"#, "Invalid request payload"),
            (r#"{"fqdn":"../web","uptime":"5h"}"#, "Invalid request payload"),
            (r#"{"fqdn":"-web","uptime":"5h"}"#, "Invalid request payload"),
            (r#"{"fqdn":"web 1","uptime":"5h"}"#, "Invalid request payload"),
            ("null", "Invalid request payload. Need at least fqdn and uptime fields!"),
            (
                r#"{"fqdn":"web-1"}"#,
                "Invalid request payload. Need at least fqdn and uptime fields!",
            ),
            (
                r#"{"fqdn":"web-1","uptime":"1d"}"#,
                "Can not convert value 1d of your uptime to a golang Duration. Valid time units are \
                 300ms, 1.5h or 2h45m.",
            ),
        ] {
            let answer = gw.post(path, "", body);
            assert_eq!(answer.status, 400, "{body}: {answer:?}");
            assert_eq!(answer.body, format!("{{\"error\":\"{error}\"}}"), "{body}");
            assert!(answer.head.contains("content-type: application/json\r\n"));
        }
        let long = format!("{{\"x\":\"{}\"}}", "x".repeat(64 * 1024));
        let answer = gw.post(path, "", &long);
        assert_eq!(answer.status, 413);
        assert!(answer.json()["error"].as_str().unwrap().contains("longer than"), "{answer:?}");
    }
    assert_eq!(fleet.revision(), written, "nothing was written");
}

#[test]
fn an_id_counts_for_the_last_first_question_alone() {
    let (fleet, gw) = gateway(&cluster(""));
    let none = "No previous request file found for fqdn: web-1";
    assert_eq!(request(&gw, "web-1", "5h", Some("abcdefgh")).json()["message"], none);
    let old = request(&gw, "web-1", "5h", None).json()["request_id"].as_str().unwrap().to_owned();
    let new = request(&gw, "web-1", "5h", None).json()["request_id"].as_str().unwrap().to_owned();
    let mismatch = request(&gw, "web-1", "5h", Some(&old)).json();
    assert_eq!(
        mismatch["message"],
        format!("Found mismatching request_id in request: {old} and found on middle-ware: {new}")
    );
    assert_eq!(mismatch["go_ahead"], false);
    assert!(mismatch.get("ask_again_in").is_some());
    assert_eq!(fleet.group("web"), "");
    // One character is none.
    assert_eq!(request(&gw, "web-1", "5h", Some("x")).json()["message"], none);
    assert_eq!(request(&gw, "web-1", "5h", Some(&new)).json()["go_ahead"], false);
}

#[test]
fn who_has_not_been_up_for_long_enough_is_told_so() {
    let check = "checks = [\"true\"]\n";
    let (fleet, gw) = gateway(&cluster(&format!("minimum_uptime_secs = 1800\n{check}")));
    let young = request(&gw, "web-1", "1m", None).json();
    assert_eq!(
        young["message"],
        "Configured minimum uptime for cluster: 30m0s was not reached by client's uptime: 1m"
    );
    assert!(young.get("ask_again_in").is_none(), "{young}");
    assert_eq!(
        (&young["unknown_host"], &young["found_cluster"]),
        (&Value::Bool(false), &"web".into())
    );
    assert_eq!(
        inquire(&gw, "web-1", "29m59.9s").json()["message"],
        "MW found a reason to restart, but configured minimum uptime for cluster: 30m0s was not reached \
         by client's uptime: 29m59.9s"
    );
    assert_eq!(fleet.document("goahead/asks/web-1"), None);
    // Equal is enough.
    assert!(request(&gw, "web-1", "30m", None).json().get("ask_again_in").is_some());
    assert_eq!(
        inquire(&gw, "web-1", "1800s").json()["message"],
        "YesInquireToRestart: goahead check result of true is 0"
    );
}

#[test]
fn who_is_in_no_cluster_is_unknown_and_nothing_is_kept_of_it() {
    let second = "[[gateway.goahead.cluster]]\nname = \"db\"\npattern = \"^db\"\n";
    let (fleet, gw) =
        gateway(&format!("{}{second}", cluster("except = [\"^web-9\", \"canary$\"]\n")));
    settled(&fleet);
    let written = fleet.revision();
    for path in [REQUEST, INQUIRE] {
        for (fqdn, message) in [
            ("mail-1", "FQDN mail-1 did not match any known cluster"),
            ("WEB-1", "FQDN WEB-1 did not match any known cluster"),
            (
                "web-canary",
                "Found matching blacklist name pattern: canary$ for FQDN: web-canary Preventing restart!",
            ),
        ] {
            let json = post(&gw, path, fqdn, "5h", None).json();
            assert_eq!(
                (&json["message"], &json["found_cluster"]),
                (&message.into(), &"unknown".into())
            );
            assert_eq!(
                (&json["unknown_host"], &json["go_ahead"]),
                (&Value::Bool(true), &Value::Bool(false))
            );
            assert!(json.get("ask_again_in").is_none());
        }
        assert_eq!(post(&gw, path, "db-canary", "5h", None).json()["found_cluster"], "db");
    }
    let (_fleet, none) = gateway("[gateway.goahead]\n");
    let json = request(&none, "web-1", "5h", None).json();
    assert_eq!((json.get("message"), &json["found_cluster"]), (None, &"unknown".into()));
    assert!(fleet.revision() > written, "db-canary asked for the first time");
    assert_eq!(fleet.document("goahead/asks/mail-1"), None);
}

#[test]
fn who_asks_too_often_is_told_so_in_goaheads_form() {
    let (_fleet, gw) = gateway(&format!("[gateway]\nrequests_per_minute = 1\n{}", cluster("")));
    assert!(request(&gw, "web-1", "5h", None).json().get("ask_again_in").is_some());
    let limited = request(&gw, "web-1", "5h", None);
    assert_eq!(limited.body, "{\"error\":\"too many requests from your address\"}");
    assert!(limited.status == 429 && limited.head.contains("retry-after: "), "{limited:?}");
}

#[test]
fn credentials_count_here_too() {
    let fleet = Fleet::new("");
    let output =
        std::process::Command::new(support::BINARY).args(["hash", "--token"]).output().unwrap();
    let digest = String::from_utf8(output.stdout).unwrap();
    let token = String::from_utf8(output.stderr).unwrap().lines().last().unwrap().to_owned();
    let credentials = format!("[[client]]\nname = \"one\"\n{digest}ids = [\"web-1\"]\n");
    let path = file(&fleet, "credentials.toml", &credentials);
    fleet.configure(&format!("[gateway]\ncredentials_file = {path:?}\n{}", cluster("")));
    let gw = fleet.start();
    let body = |fqdn: &str| format!(r#"{{"fqdn":"{fqdn}","uptime":"5h"}}"#);
    let bearer = format!("authorization: Bearer {token}\r\n");
    let stranger = gw.post(REQUEST, "", &body("web-1"));
    assert_eq!(stranger.status, 401);
    assert!(stranger.json()["error"].as_str().unwrap().contains("credentials"), "{stranger:?}");
    let other = gw.post(REQUEST, &bearer, &body("web-2"));
    assert_eq!((other.status, other.json()["error"].is_string()), (403, true));
    assert!(gw.post(REQUEST, &bearer, &body("web-1")).json().get("ask_again_in").is_some());
}
