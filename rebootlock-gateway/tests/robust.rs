//! Clients that are slow, many, or in a hurry.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Answer, Fleet, PROTOCOL, params, request};

const PRE: &str = "/v1/pre-reboot";
const STEADY: &str = "/v1/steady-state";

#[test]
fn requests_in_a_row_are_answered_in_their_order() {
    let fleet = Fleet::new("");
    let gw = fleet.start();
    let ask = |path: &str, id: &str| request("POST", path, PROTOCOL, &params(id, "default"));
    let mut stream = gw.connect();
    let row = [ask(PRE, "a"), ask(PRE, "b"), ask(STEADY, "a"), ask(PRE, "b"), ask(PRE, "a")];
    stream.write_all(row.concat().as_bytes()).unwrap();
    let mut next = || Answer::read(&mut stream, false).expect("an answer");
    next().is_granted();
    next().is_full();
    next().is_granted();
    next().is_granted();
    next().is_full();
}

#[test]
fn what_two_could_read_differently_is_refused_and_nothing_after_it_is_a_request() {
    let fleet = Fleet::new("");
    let gw = fleet.start();
    let body = params("a", "default");
    let post = |target: &str, headers: &str| {
        format!("POST {target} HTTP/1.1\r\n{headers}{PROTOCOL}\r\n{body}")
    };
    let length = format!("content-length: {}\r\n", body.len());
    let smuggled = request("POST", PRE, PROTOCOL, &params("b", "default"));
    for sent in [
        post(PRE, &length),
        post(PRE, &format!("host: gw\r\nhost: gw\r\n{length}")),
        post(PRE, &format!("host: evil.example/x\r\n{length}")),
        post(PRE, "host: gw\r\ntransfer-encoding: gzip, chunked\r\n"),
        post(PRE, "host: gw\r\ntransfer-encoding: identity\r\n"),
    ] {
        let mut stream = gw.connect();
        let _ = stream.write_all(format!("{sent}{smuggled}").as_bytes());
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers);
        let answers = String::from_utf8_lossy(&answers);
        assert!(answers.starts_with("HTTP/1.1 400 "), "{sent}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{sent}: {answers}");
    }
    assert_eq!(fleet.revision(), 0, "nobody got anything");
    gw.send(post(&format!("http://GW:80{PRE}"), &format!("host: gw\r\n{length}")).as_bytes())
        .is_granted();

    // Of both lengths the pieces count, and the connection ends.
    for lengths in [
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
    ] {
        let head = format!("POST {PRE} HTTP/1.1\r\nhost: gw\r\n{lengths}{PROTOCOL}\r\n");
        let mut stream = gw.connect();
        let sent = format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n{smuggled}", body.len());
        let _ = stream.write_all(sent.as_bytes());
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers);
        let answers = String::from_utf8_lossy(&answers);
        assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{lengths}: {answers}");
    }
    assert_eq!(fleet.document("holders/b"), None);
}

#[test]
fn many_who_trickle_keep_nobody_from_being_served() {
    let fleet = Fleet::new("[gateway]\nheader_timeout_secs = 2\nmax_connections = 300\n");
    let gw = fleet.start();
    let began = Instant::now();
    let mut slow: Vec<_> = (0..250).map(|_| gw.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"POST /v1/pre-reboot HTTP/1.1\r\nhost: gw\r\nx-").unwrap();
    }
    gw.pre_reboot("a").is_granted();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // A byte now and then buys no time.
    for mut stream in slow {
        let _ = stream.write_all(b"y");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{rest:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    gw.pre_reboot("a").is_granted();
}

#[test]
fn who_is_not_done_when_the_drain_is_over_is_cut_off() {
    let fleet = Fleet::new("[gateway]\ndrain_secs = 1\nbody_timeout_secs = 60\n");
    let gw = fleet.start();
    let mut slow = gw.connect();
    let head = format!("POST {PRE} HTTP/1.1\r\nhost: gw\r\ncontent-length: 50\r\n{PROTOCOL}\r\n");
    slow.write_all(head.as_bytes()).unwrap();
    let mut quick = gw.connect();
    quick.write_all(request("GET", "/healthz", "", "").as_bytes()).unwrap();
    Answer::read(&mut quick, false).expect("an answer").is_granted();
    let metrics = || gw.get("/metrics").body;
    support::until(metrics, || {
        metrics().contains("rebootlock_gateway_connections 3").then_some(())
    });
    gw.signal(Signal::TERM);
    let began = Instant::now();
    assert_eq!(quick.read(&mut [0; 16]).unwrap(), 0, "an idle connection is closed at once");
    assert_eq!(gw.ended(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(slow.read(&mut [0; 16]).unwrap_or(0), 0);
}
