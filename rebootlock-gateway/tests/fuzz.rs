//! Clients that are out of their minds, at every door: no 5xx but 503, and no panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "fuzz/doors.rs"]
mod doors;
#[allow(dead_code, unreachable_pub)]
mod support;
#[allow(dead_code, unreachable_pub)]
#[path = "support/visitor.rs"]
mod visitor;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use doors::Insider;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rebootlock_gateway::auth;
use support::{Fleet, Gateway, file};
use visitor::Visitor;

/// How many requests, if `REBOOTLOCK_FUZZ_REQUESTS` does not say; and from which seed, if
/// `REBOOTLOCK_FUZZ_SEED` does not.
const REQUESTS: usize = 100_000;
const SEED: u64 = 5;

/// On one connection, where they can be told from each other.
const IN_A_ROW: usize = 20;

/// So many clients at once.
const CLIENTS: usize = 8;

const CONFIG: &str = "body_timeout_secs = 1\nheader_timeout_secs = 1\naccess_log = false\n\
    anonymous_machines = true\npublic_view = true\ndisruption_ready_hosts = [\"nobody.invalid\"]\n\
    [[gateway.goahead.cluster]]\nname = \"web\"\npattern = \"^web-\"\n\
    [[group]]\nname = \"default\"\nslots = 3\n[[group]]\nname = \"lb\"\n";

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

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Sends at least `count` requests, and reads what comes back. Returns how many were answered.
fn rave(gw: &Gateway, who: &Insider, seed: u64, count: usize) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut sent, mut answered) = (0, 0);
    while sent < count {
        let mut bytes = Vec::new();
        match rng.random_range(0..40) {
            0 => bytes.extend((0..rng.random_range(0..300)).map(|_| rng.random::<u8>())),
            1..6 => bytes = nonsense(&mut rng),
            6..12 => bytes = doors::broken(&mut rng, who),
            _ => {
                for _ in 1..IN_A_ROW {
                    bytes.extend(doors::request(&mut rng, who));
                }
                // What stays open comes last.
                bytes.extend(doors::last(&mut rng, who));
                sent += IN_A_ROW - 1;
            }
        }
        sent += 1;
        let mut stream = gw.connect();
        let _ = stream.write_all(&bytes);
        // Nothing more will come, so nobody waits for it.
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        // Answers follow each other without a break.
        for line in answer.split("HTTP/1.1 ").skip(1) {
            let fine = line.starts_with(['1', '2', '3', '4']) || line.starts_with("503");
            assert!(fine, "seed {seed}: {line}: {:?}", String::from_utf8_lossy(&bytes));
            answered += 1;
        }
    }
    answered
}

#[test]
fn nonsense_gets_no_5xx_but_503_and_ends_nothing() {
    let fleet = Fleet::new("");
    let (token, line) = auth::new_token();
    let clients = format!("[[client]]\nname = \"olga\"\nrole = \"operator\"\n{line}\n");
    let clients = file(&fleet, "clients.toml", &clients);
    fleet.configure(&format!("[gateway]\ncredentials_file = {clients:?}\n{CONFIG}"));
    // What becomes of the store is of no matter, and of it there is much.
    let gw = Gateway::start(fleet.command_on("memory:", &[]));
    let mut olga = Visitor::signed_in(&gw, "olga", &token);
    let stamp = olga.get(&gw, "/operate?do=pause&group=lb").field("stamp");
    let cookies: Vec<_> =
        olga.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let who = Insider { token, cookie: format!("cookie: {}\r\n", cookies.join("; ")), stamp };
    let seed = from_environment("REBOOTLOCK_FUZZ_SEED").unwrap_or(SEED);
    let requests = from_environment("REBOOTLOCK_FUZZ_REQUESTS")
        .map_or(REQUESTS, |requests| usize::try_from(requests).unwrap());
    let (began, answered) = (Instant::now(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (gw, who, answered) = (&gw, &who, &answered);
            scope.spawn(move || {
                let seed = seed + u64::try_from(client).unwrap();
                let count = rave(gw, who, seed, requests.div_ceil(CLIENTS));
                answered.fetch_add(count, Ordering::SeqCst);
            });
        }
    });
    let answered = answered.into_inner();
    eprintln!("{requests} requests from seed {seed}, {answered} answers, in {:?}", began.elapsed());
    // Else it is the parser of HTTP alone that is tried.
    assert!(answered > requests / 2, "{answered} of {requests}");
    gw.get("/healthz").is_granted();
    assert!(!gw.log.lock().unwrap().iter().any(|line| line.contains("panicked")));
    let figures = gw.get("/metrics").body;
    for route in doors::ROUTES {
        let answers = format!("requests_total{{route=\"{route}\"");
        assert!(figures.contains(&answers), "nobody came to {route}: {figures}");
    }
}
