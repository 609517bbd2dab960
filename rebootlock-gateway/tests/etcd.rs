//! Two gateways on one etcd: what one grants the other knows, and an etcd that is away is said to be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Answer, Fleet, Gateway, PROTOCOL, at_once, params, request};

/// A server that is killed when this is dropped.
struct Etcd {
    child: Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (client, peer) = (free(), free());
        let url = |socket: &TcpListener| format!("http://{}", socket.local_addr().unwrap());
        let (endpoint, peer_url) = (url(&client), url(&peer));
        drop((client, peer));
        let child = Command::new("etcd")
            .args(["--data-dir", dir.path().to_str().unwrap(), "--name", "one"])
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("one={peer_url}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd (Debian: etcd-server)");
        Self { child, endpoint, _dir: dir }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(fleet: &Fleet, etcd: &Etcd) -> Gateway {
    let gateway = Gateway::start(fleet.command_on(&etcd.endpoint, &[]));
    gateway.until(200, |gateway| gateway.get("/readyz"));
    gateway
}

#[test]
fn of_twenty_clients_of_two_gateways_exactly_ten_get_ten_slots() {
    let etcd = Etcd::start();
    let fleet = Fleet::new("[[group]]\nname = \"default\"\nslots = 10\n");
    let (one, two) = (start(&fleet, &etcd), start(&fleet, &etcd));
    for _ in 0..3 {
        let answers = at_once(&[&one, &two], 20, "/v1/pre-reboot");
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 10);
        for answer in &answers {
            if answer.status == 200 {
                answer.is_granted()
            } else {
                answer.is_full()
            };
        }
        for answer in at_once(&[&two, &one], 20, "/v1/steady-state") {
            answer.is_granted();
        }
    }
    one.pre_reboot("x").is_granted();
    two.pre_reboot("x").is_granted();
    two.steady_state("x").is_granted();
}

#[test]
fn what_an_operator_does_at_one_gateway_counts_at_the_other_and_is_seen_there() {
    let etcd = Etcd::start();
    let fleet = Fleet::new("");
    let (token, line) = rebootlock_gateway::auth::new_token();
    let text = format!("[[client]]\nname = \"alice\"\nrole = \"operator\"\n{line}\n");
    let credentials = support::file(&fleet, "credentials.toml", &text);
    fleet.configure(&format!(
        "[gateway]\nanswer_within_secs = 1\ncredentials_file = {credentials:?}\n"
    ));
    let (one, two) = (start(&fleet, &etcd), start(&fleet, &etcd));
    let bearer = format!("authorization: Bearer {token}\r\n");
    let act = |path: &str, body: &str| {
        let headers = format!("{bearer}content-type: application/json\r\n");
        one.post(&format!("/api/v1{path}"), &headers, body)
    };
    let see = |path: &str| two.send(request("GET", path, &bearer, "").as_bytes());
    assert_eq!(act("/groups/default/set-max", r#"{"reason":"grown","max":2}"#).status, 200);
    assert_eq!(act("/fleet/pause", r#"{"reason":"why","forSecs":60}"#).status, 200);
    let ask = || two.post("/v1/pre-reboot", &(bearer.clone() + PROTOCOL), &params("a", "default"));
    ask().is(423, "failed_lock_paused");
    assert_eq!(act("/fleet/resume", r#"{"reason":"mended"}"#).status, 200);
    ask().is_granted();
    let seen = see("/api/v1/fleet").json();
    assert_eq!(seen["groups"][0]["holders"][0]["machineID"], "a");
    assert_eq!(seen["groups"][0]["available"], 1);
    let deeds = seen["acts"].as_array().unwrap().iter();
    let deeds: Vec<_> = deeds.map(|act| act["deed"].as_str().unwrap()).collect();
    assert_eq!(deeds, ["set-max", "pause", "resume"]);
    assert_eq!(act("/machines/a/unlock", r#"{"reason":"gone"}"#).status, 200);
    let past = see("/api/v1/history?since=1h").json();
    assert_eq!((&past[0]["ended"], &past[0]["by"]), (&"unlocked".into(), &"alice".into()));
    etcd.signal(Signal::STOP);
    for answer in [see("/api/v1/fleet"), act("/fleet/pause", r#"{"reason":"x"}"#)] {
        assert_eq!((answer.status, answer.kind().as_str()), (503, "store_unavailable"));
    }
    etcd.signal(Signal::CONT);
}

#[test]
fn an_etcd_that_stands_still_is_answered_in_time_and_leaves_nothing_behind() {
    let etcd = Etcd::start();
    let fleet = Fleet::new("[gateway]\nanswer_within_secs = 1\n");
    let gw = start(&fleet, &etcd);
    gw.pre_reboot("a").is_granted();
    let sockets = support::sockets(gw.pid());
    etcd.signal(Signal::STOP);
    let began = Instant::now();
    for path in ["/v1/pre-reboot", "/v1/steady-state"] {
        for answer in at_once(&[&gw], 150, path) {
            answer.is(503, "store_unavailable");
        }
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    gw.get("/healthz").is_granted();
    gw.get("/readyz").is(503, "store_unavailable");
    etcd.signal(Signal::CONT);
    gw.until(200, |gw| gw.steady_state("a"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while support::sockets(gw.pid()) > sockets + 2 {
        assert!(Instant::now() < deadline, "{} sockets", support::sockets(gw.pid()));
        std::thread::sleep(Duration::from_millis(10));
    }
}

const CLUSTER: &str = "[gateway]\nanswer_within_secs = 1\n[[group]]\nname = \"web\"\nslots = 10\n\
                       [[gateway.goahead.cluster]]\nname = \"web\"\npattern = \"^web-\"\n";

/// One question of a goahead client.
fn goahead(gw: &Gateway, path: &str, n: usize, uptime: &str, id: &str) -> serde_json::Value {
    let body = format!(r#"{{"fqdn":"web-{n}","uptime":"{uptime}","request_id":"{id}"}}"#);
    gw.post(path, "", &body).json()
}

#[test]
fn of_twenty_goahead_clients_of_two_gateways_exactly_ten_get_ten_slots() {
    const REQUEST: &str = "/v1/request/restart/os";
    let etcd = Etcd::start();
    let fleet = Fleet::new(CLUSTER);
    let (one, two) = (start(&fleet, &etcd), start(&fleet, &etcd));
    let gateways = [&one, &two];
    // What one was told the other knows.
    let asking: Vec<_> = (0..20)
        .map(|n| {
            let first = goahead(gateways[n % 2], REQUEST, n, "5h", "");
            let id = first["request_id"].as_str().unwrap();
            let body = format!(r#"{{"fqdn":"web-{n}","uptime":"5h","request_id":"{id}"}}"#);
            let mut stream = gateways[(n + 1) % 2].connect();
            let text = request("POST", REQUEST, "", &body);
            std::thread::spawn(move || {
                std::io::Write::write_all(&mut stream, text.as_bytes()).unwrap();
                Answer::read(&mut stream, false).unwrap().json()
            })
        })
        .collect();
    let answers: Vec<_> = asking.into_iter().map(|asking| asking.join().unwrap()).collect();
    let granted: Vec<_> = (0..20).filter(|n| answers[*n]["go_ahead"] == true).collect();
    assert_eq!(granted.len(), 10, "{answers:#?}");
    // Whichever of them looks after the holders, it hears of the reboot; also when the other is gone.
    drop(one);
    for n in &granted {
        goahead(&two, "/v1/inquire/restart/", *n, "10s", "");
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while !two.get("/metrics").body.contains("holders{group=\"web\"} 0") {
        assert!(Instant::now() < deadline, "{}", two.get("/metrics").body);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn goahead_clients_get_no_go_ahead_from_an_etcd_that_stands_still() {
    const REQUEST: &str = "/v1/request/restart/os";
    let etcd = Etcd::start();
    let fleet = Fleet::new(CLUSTER);
    let gw = start(&fleet, &etcd);
    let first = goahead(&gw, REQUEST, 1, "5h", "");
    let id = first["request_id"].as_str().unwrap();
    etcd.signal(Signal::STOP);
    for (path, id) in [(REQUEST, ""), (REQUEST, id), ("/v1/inquire/restart/", "")] {
        let began = Instant::now();
        let json = goahead(&gw, path, 1, "5h", id);
        assert_eq!(json["go_ahead"], false, "{json}");
        assert!(json["message"].as_str().unwrap().contains("does not answer"), "{json}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    assert!(goahead(&gw, REQUEST, 1, "5h", "").get("ask_again_in").is_none());
    etcd.signal(Signal::CONT);
    let deadline = Instant::now() + Duration::from_secs(20);
    while goahead(&gw, REQUEST, 1, "5h", id)["go_ahead"] != true {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
}
