//! Two gateways on one etcd: what one grants the other knows, and an etcd that is away is said to be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
#[path = "disruption/client.rs"]
mod client;
#[allow(dead_code, unreachable_pub)]
mod support;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::{LIMIT, Machine, READY_TIMEOUT, READY_URL, Service};
use rustix::process::{Pid, Signal, kill_process};
use support::{Fleet, Gateway, at_once};

/// A server that is killed when this is dropped.
struct Etcd {
    child: Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    /// One that answers: a port that was free may have been taken when etcd comes to it.
    fn start() -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut etcd = Self::spawn();
            let address = etcd.endpoint.trim_start_matches("http://").to_owned();
            while etcd.child.try_wait().unwrap().is_none() {
                if std::net::TcpStream::connect(&address).is_ok() {
                    return etcd;
                }
                assert!(Instant::now() < deadline, "etcd does not answer");
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(Instant::now() < deadline, "etcd does not start");
        }
    }

    fn spawn() -> Self {
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

#[test]
fn machines_that_ask_two_gateways_have_one_limit_and_one_line() {
    let etcd = Etcd::start();
    let fleet = Fleet::new("");
    let gateways = [start(&fleet, &etcd), start(&fleet, &etcd)];
    let machines: Vec<_> = (2..22).map(|n| Machine::new(n).tag(LIMIT, "3")).collect();
    let ready = std::sync::Barrier::new(machines.len());
    std::thread::scope(|scope| {
        let asking: Vec<_> = machines
            .iter()
            .zip(gateways.iter().cycle())
            .map(|(machine, gateway)| {
                let ready = &ready;
                scope.spawn(move || {
                    ready.wait();
                    machine.request(gateway)
                })
            })
            .collect();
        let words: Vec<_> = asking.into_iter().map(|asked| asked.join().unwrap()).collect();
        assert_eq!(words.iter().filter(|word| *word == "permitted").count(), 3, "{words:?}");
        assert_eq!(words.iter().filter(|word| *word == "requested").count(), 17, "{words:?}");
    });
    // All get through, three at a time, whichever gateway they ask.
    let mut waiting = machines;
    while !waiting.is_empty() {
        let at = |gateway: usize| {
            let permitted = |machine: &&Machine| machine.check(&gateways[gateway]) == "permitted";
            waiting.iter().filter(permitted).map(Machine::id).collect::<Vec<_>>()
        };
        let there = at(0);
        assert_eq!(there, at(1));
        assert_eq!(there.len(), waiting.len().min(3));
        for (n, id) in there.iter().enumerate() {
            let machine = waiting.iter().position(|machine| machine.id() == *id).unwrap();
            waiting.remove(machine).cancel(&gateways[n % 2]);
        }
    }
}

#[test]
fn what_one_gateway_began_to_look_after_another_ends() {
    let etcd = Etcd::start();
    let fleet = Fleet::new("[gateway]\ndisruption_permitted_secs = 3\n");
    let service = Service::start(503);
    let (one, two) = (start(&fleet, &etcd), start(&fleet, &etcd));
    let a = Machine::new(2).tag(READY_URL, &service.url()).tag(READY_TIMEOUT, "10m");
    let [b, c] = [3, 4].map(Machine::new);
    assert_eq!(a.request(&one), "permitted");
    assert_eq!(b.request(&two), "requested");
    a.cancel(&two);
    client::poll("it is not asked", || service.asked() > 0);
    one.signal(Signal::TERM);
    assert_eq!(one.ended(), Some(0));
    service.becomes(200);
    client::poll("b is never permitted", || b.request(&two) == "permitted");
    // And its hour ends, by the clock of the store.
    client::poll("c is never permitted", || c.request(&two) == "permitted");
    assert_eq!(b.check(&two), "denied");
    two.logged("permitted/expired->denied");
}
