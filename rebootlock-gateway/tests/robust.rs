//! Clients that are slow, many, in a hurry, or out of their minds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;
use support::{Answer, Fleet, Gateway, PROTOCOL, params, request};

const PRE: &str = "/v1/pre-reboot";
const STEADY: &str = "/v1/steady-state";

/// How many requests of nonsense, if `REBOOTLOCK_FUZZ_REQUESTS` does not say; and from which seed,
/// if `REBOOTLOCK_FUZZ_SEED` does not.
const REQUESTS: usize = 10_000;
const SEED: u64 = 5;

/// Requests that are nearly right, and bytes that are nothing.
fn nonsense(rng: &mut SmallRng) -> Vec<u8> {
    let methods = ["POST", "GET", "PUT", "HEAD", "OPTIONS", "CONNECT", "post", "X", ""];
    let paths = [
        "/v1/pre-reboot",
        "/v1/steady-state",
        "//v1//pre-reboot",
        "/",
        "",
        "*",
        "/%zz",
        "/v1/pre-reboot?%",
        "http://[::/",
        "/metrics",
        "/readyz",
        "gw:80",
        "/\u{7f}",
        "/v1/../v1/pre-reboot",
    ];
    let headers = [
        "fleet-lock-protocol: true\r\n",
        "host: gw\r\n",
        "content-length: 5\r\n",
        "content-length: -1\r\n",
        "transfer-encoding: chunked\r\n",
        "expect: 100-continue\r\n",
        "prefer: wait=0\r\n",
        "authorization: Basic ====\r\n",
        "connection: upgrade\r\nupgrade: h2c\r\n",
        "x: \u{1}\r\n",
        ": x\r\n",
    ];
    let bodies = [
        r#"{"client_params":{"id":"a","group":"default"}}"#,
        r#"{"client_params":{"id":"b","group":"x"}}"#,
        r#"{"client_params":{"id":"\ud800","group":"default"}}"#,
        "[[[[[[",
        "{\"client_params\":{",
        "\u{0}",
        "",
        "5\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\n",
    ];
    let mut pick = |from: &[&str]| from[rng.random_range(0..from.len())].to_owned();
    let mut text = format!("{} {} HTTP/1.1\r\n", pick(&methods), pick(&paths));
    for _ in 0..4 {
        text.push_str(&pick(&headers));
    }
    let body = pick(&bodies);
    if text.contains("true") {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(&body);
    let mut bytes = text.into_bytes();
    for _ in 0..rng.random_range(0..4) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..3) {
            0 => bytes[at] = rng.random(),
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, rng.random()),
        }
    }
    bytes
}

/// A request that is right but for a few bytes, so that it comes far.
fn nearly_right(rng: &mut SmallRng) -> Vec<u8> {
    let path = if rng.random() { PRE } else { STEADY };
    let id = ["a", "b", "AbC", "35ba2101ae3f4d45b96e9c51f461bbff"][rng.random_range(0..4)];
    let mut bytes = request("POST", path, PROTOCOL, &params(id, "default")).into_bytes();
    for _ in 0..rng.random_range(0..3) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..4) {
            0 => bytes[at] = rng.random(),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes.truncate(at),
            _ => {
                let some = bytes[at..].to_vec();
                bytes.extend(some);
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Sends `count` times nonsense, and reads what comes back.
fn rave(gw: &Gateway, seed: u64, count: usize) {
    let mut rng = SmallRng::seed_from_u64(seed);
    for n in 0..count {
        let mut bytes = Vec::new();
        // Sometimes several on one connection.
        for _ in 0..=rng.random_range(0..10_u32).saturating_sub(7) {
            bytes.extend(match rng.random_range(0..10) {
                0 => (0..rng.random_range(0..300)).map(|_| rng.random()).collect(),
                1..5 => nearly_right(&mut rng),
                _ => nonsense(&mut rng),
            });
        }
        let mut stream = gw.connect();
        let _ = stream.write_all(&bytes);
        // Nothing more will come, so nobody waits for it.
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        // Answers follow each other without a break.
        for line in answer.split("HTTP/1.1 ").skip(1) {
            let fine = line.starts_with(['1', '2', '4']) || line.starts_with("503");
            assert!(
                fine,
                "seed {seed}, request {n}: {line}: {:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }
}

#[test]
fn nonsense_gets_no_5xx_but_503_and_ends_nothing() {
    let fleet = Fleet::new(
        "[gateway]\nbody_timeout_secs = 1\nheader_timeout_secs = 1\naccess_log = false\n",
    );
    let gw = fleet.start();
    let seed = from_environment("REBOOTLOCK_FUZZ_SEED").unwrap_or(SEED);
    let requests = from_environment("REBOOTLOCK_FUZZ_REQUESTS")
        .map_or(REQUESTS, |requests| usize::try_from(requests).unwrap());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let gw = &gw;
            scope.spawn(move || rave(gw, seed + thread, requests.div_ceil(4)));
        }
    });
    eprintln!("{requests} connections from seed {seed} in {:?}", began.elapsed());
    gw.get("/healthz").is_granted();
    gw.steady_state("a").is_granted();
    assert!(!gw.log.lock().unwrap().iter().any(|line| line.contains("panicked")));
}

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
