//! Every status and text, and whatever may be sent instead of a request.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::client::{Machine, PATH, send_from};
use super::gateway;
use super::support::{Fleet, Gateway, file, request};

fn post(gateway: &Gateway, body: &str) -> (u16, String) {
    let answer = gateway.post(PATH, "", body);
    assert!(answer.head.contains("content-type: text/plain; charset=utf-8\r\n"), "{answer:?}");
    (answer.status, answer.body)
}

#[test]
fn only_post_is_served() {
    let (_fleet, gw) = gateway("");
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = gw.send(request(method, PATH, "", "{}").as_bytes());
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (405, "unsupported method\n"),
            "{method}"
        );
        assert!(!answer.head.contains("allow:"), "{answer:?}");
        assert!(answer.head.contains("content-type: text/plain; charset=utf-8\r\n"), "{answer:?}");
    }
    let mut stream = gw.connect();
    std::io::Write::write_all(&mut stream, request("HEAD", PATH, "", "").as_bytes()).unwrap();
    let head = super::support::Answer::read(&mut stream, true).unwrap();
    assert_eq!(head.status, 405);
    // As the original: with a slash at the end it is another path; a query is of no matter.
    assert_eq!(gw.post("/api/v1/request/", "", "{}").status, 404);
    let denied = "{\n    \"Response\": \"denied\"\n}\n";
    for path in ["/api/v1/request?x=y", "//api//v1/request"] {
        let answer = gw.post(path, "", "{}");
        assert_eq!((answer.status, answer.body.as_str()), (200, denied), "{path}");
    }
}

#[test]
fn what_is_no_request_is_answered_in_the_words_that_clients_know() {
    let (fleet, gw) = gateway("");
    for (body, said) in [
        ("", "EOF\n"),
        ("{\"MDB\":{", "unexpected EOF\n"),
        ("{\"Request\":\"CHECK\"}", "unknown DisruptionRequest: CHECK\n"),
        ("{\"Request\":\"\"}", "unknown DisruptionRequest: \n"),
        ("{\"Request\":7}", "Request is of another type than string\n"),
        ("{\"MDB\":{\"Tags\":{\"a\":7}}}", "Tags is of another type than string\n"),
        ("[]", "the body is of another type than object\n"),
    ] {
        assert_eq!(post(&gw, body), (400, said.to_owned()), "{body}");
    }
    assert_eq!(post(&gw, "?").0, 400);
    let long = format!("{{\"x\":\"{}\"}}", "x".repeat(64 * 1024));
    assert_eq!(post(&gw, &long).0, 413);
    assert_eq!(fleet.revision(), 0);
}

#[test]
fn what_stock_clients_may_leave_out_or_add_is_understood() {
    let (fleet, gw) = gateway("");
    let denied = (200, "{\n    \"Response\": \"denied\"\n}\n".to_owned());
    for body in ["null", "{}", "{\"Request\":null}", "{\"Request\":\"check\"} and more"] {
        assert_eq!(post(&gw, body), denied, "{body}");
    }
    assert_eq!(fleet.revision(), 0, "a check of a stranger writes nothing");
    for body in [
        "{\"mdb\":{\"hostname\":\"127.0.0.1\",\"TAGS\":null,\"AwsMetadata\":{\"Tags\":null}},\"request\":\"request\"}",
        "{\"MDB\":{\"Hostname\":\"127.0.0.1\",\"New\":{\"x\":[1]}},\"Request\":\"request\",\"x\":1}\n\n{}",
    ] {
        assert_eq!(
            post(&gw, body),
            (200, "{\n    \"Response\": \"permitted\"\n}\n".into()),
            "{body}"
        );
    }
    let headers = "content-type: application/x-www-form-urlencoded\r\n";
    let body = json!({"MDB": {"Hostname": "127.0.0.1"}, "Request": "check"}).to_string();
    assert_eq!(gw.post(PATH, headers, &body).json()["Response"], "permitted");
}

#[test]
fn names_that_nobody_can_have_are_denied_or_forbidden() {
    let (fleet, gw) = gateway("");
    for hostname in ["", "a b", "a/b", "x\ny", &"h".repeat(300)] {
        let body =
            |operation| json!({"MDB": {"Hostname": hostname}, "Request": operation}).to_string();
        assert_eq!(post(&gw, &body("check")).0, 200, "{hostname}");
        for operation in ["request", "cancel"] {
            let (status, text) = post(&gw, &body(operation));
            let said = format!("lookup {}: no such host\n", hostname.escape_debug());
            assert_eq!((status, text), (403, said), "{hostname}");
        }
    }
    let group = |group: &str| Machine::new(2).group(group);
    for name in ["a\nb", &"g".repeat(254)] {
        assert_eq!(group(name).check(&gw), "denied");
        let refused = group(name).ask(&gw, "request");
        assert_eq!(refused.status, 400, "{refused:?}");
    }
    assert_eq!(fleet.revision(), 0);
}

#[test]
fn where_credentials_are_needed_they_are_needed_here_too() {
    let (token, line) = rebootlock_gateway::auth::new_token();
    let fleet = Fleet::new("");
    let clients =
        format!("[[client]]\nname = \"t\"\n{line}\nids = [\"127.0.0.2\", \"db-1.invalid\"]\n");
    let clients = file(&fleet, "clients.toml", &clients);
    fleet.configure(&format!("[gateway]\ncredentials_file = {clients:?}\n"));
    let gw = fleet.start();
    let ask = |headers: &str, hostname: &str, operation: &str| {
        let body = json!({"MDB": {"Hostname": hostname}, "Request": operation}).to_string();
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        let answer = send_from(from, &gw, &request("POST", PATH, headers, &body));
        (answer.status, answer.body)
    };
    let bearer = format!("authorization: Bearer {token}\r\n");
    for operation in ["check", "request", "cancel"] {
        let (status, text) = ask("", "127.0.0.2", operation);
        assert_eq!(status, 401, "{text}");
        assert!(text.starts_with("credentials are needed"), "{text}");
        let said = "these credentials are not for id 127.0.0.3\n".to_owned();
        assert_eq!(ask(&bearer, "127.0.0.3", operation), (403, said));
    }
    assert_eq!(ask(&bearer, "127.0.0.2", "request").0, 200);
    // Who is named by its credentials needs no address that says the same.
    assert_eq!(ask(&bearer, "db-1.invalid", "request").0, 200);
}

#[test]
fn the_other_transport_is_told_where_to_go() {
    let (_fleet, gw) = gateway("");
    for beginning in
        ["CONNECT /_go_TLS_SRPC_/ HTTP/1.0\n\n", "CONNECT /_SRPC_/TLS/JSON HTTP/1.0\r\n\r\n"]
    {
        for _ in 0..2 {
            let mut stream = gw.connect();
            // In pieces, as a network may bring it.
            for piece in [&beginning[..5], &beginning[5..]] {
                std::io::Write::write_all(&mut stream, piece.as_bytes()).unwrap();
            }
            let mut answer = String::new();
            std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.0 404 Not Found\r\n"), "{answer}");
            assert!(answer.ends_with("POST to /api/v1/request is\n"), "{answer}");
        }
    }
    gw.logged("speaks SRPC");
    let said = gw.log.lock().unwrap().iter().filter(|line| line.contains("speaks SRPC")).count();
    assert_eq!(said, 1);
    gw.get("/healthz").is_granted();
}

#[test]
fn nonsense_ends_nothing() {
    let (_fleet, gw) = gateway("[gateway]\naccess_log = false\n");
    let mut stream = gw.connect();
    let bodies = [
        "{\"MDB\":{\"Hostname\":\"127.0.0.1\",\"Tags\":{\"DisruptionManagerReadyUrl\":\"{{\"}},\"Request\":\"cancel\"}",
        "{\"MDB\":{\"Hostname\":\"\\ud800\"}}",
        "{\"MDB\":{\"Hostname\":\"\u{0}\"},\"Request\":\"request\"}",
        &"[".repeat(60_000),
        "\u{feff}{}",
    ];
    for body in bodies {
        std::io::Write::write_all(&mut stream, request("POST", PATH, "", body).as_bytes()).unwrap();
        let answer = super::support::Answer::read(&mut stream, false).expect("an answer");
        assert!(answer.status < 500, "{body}: {answer:?}");
    }
    assert!(!gw.log.lock().unwrap().iter().any(|line| line.contains("panicked")));
}
