//! Two gateways on one etcd: what one grants the other knows, and an etcd that is away is said to be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
#[path = "disruption/client.rs"]
mod client;
#[allow(dead_code, unreachable_pub)]
mod support;

use std::io::Write as _;
use std::time::{Duration, Instant};

use client::{LIMIT, Machine, READY_TIMEOUT, READY_URL, Service};
use rustix::process::Signal;
use support::etcd::Etcd;
use support::{Answer, Fleet, Gateway, PROTOCOL, at_once, params, request, until};

fn start(fleet: &Fleet, etcd: &Etcd) -> Gateway {
    let gateway = Gateway::start(fleet.command_on(&etcd.endpoints, &[]));
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
    etcd.signal(0, Signal::STOP);
    for answer in [see("/api/v1/fleet"), act("/fleet/pause", r#"{"reason":"x"}"#)] {
        assert_eq!((answer.status, answer.kind().as_str()), (503, "store_unavailable"));
    }
    etcd.signal(0, Signal::CONT);
}

#[test]
fn an_etcd_that_stands_still_is_answered_in_time_and_leaves_nothing_behind() {
    let etcd = Etcd::start();
    let fleet = Fleet::new("[gateway]\nanswer_within_secs = 1\n");
    let gw = start(&fleet, &etcd);
    gw.pre_reboot("a").is_granted();
    let sockets = support::sockets(gw.pid());
    etcd.signal(0, Signal::STOP);
    let began = Instant::now();
    for path in ["/v1/pre-reboot", "/v1/steady-state"] {
        for answer in at_once(&[&gw], 150, path) {
            answer.is(503, "store_unavailable");
        }
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    gw.get("/healthz").is_granted();
    gw.get("/readyz").is(503, "store_unavailable");
    etcd.signal(0, Signal::CONT);
    gw.until(200, |gw| gw.steady_state("a"));
    support::until_sockets(gw.pid(), sockets + 2);
}

#[test]
fn ten_thousand_failed_requests_leave_sockets_and_memory_as_they_were() {
    let mut etcd = Etcd::start();
    let fleet = Fleet::new(
        "[gateway]\nanswer_within_secs = 1\naccess_log = false\n[store]\ntimeout_secs = 1\n",
    );
    let gw = start(&fleet, &etcd);
    gw.pre_reboot("a").is_granted();
    let sockets = support::sockets(gw.pid());
    etcd.kill(0);
    let texts = ["pre-reboot", "steady-state"].map(|path| {
        let body = support::params("a", "default");
        support::request("POST", &format!("/v1/{path}"), support::PROTOCOL, &body)
    });
    let fail = |times: usize| {
        for _ in 0..times / 200 {
            // All are sent before any is answered, and some more on each connection.
            let mut asking: Vec<_> = (0..50).map(|_| gw.connect()).collect();
            for text in texts.iter().chain(&texts) {
                for stream in &mut asking {
                    stream.write_all(text.as_bytes()).unwrap();
                }
                for stream in &mut asking {
                    let answer = Answer::read(stream, false).expect("an answer");
                    answer.is(503, "store_unavailable");
                }
            }
        }
        support::until_sockets(gw.pid(), sockets + 2);
    };
    // So that all that is kept for good is there.
    fail(2000);
    let resident = support::resident_kib(gw.pid());
    fail(10_000);
    let after = support::resident_kib(gw.pid());
    assert!(after < resident + 4 * 1024, "{resident} KiB before, {after} KiB after");
    etcd.restart(0);
    gw.until(200, |gw| gw.steady_state("a"));
}

#[test]
fn a_member_that_dies_takes_no_slot_with_it_and_gives_none_away() {
    let mut etcd = Etcd::of_members(3);
    let fleet = Fleet::new("[[group]]\nname = \"default\"\nslots = 3\n");
    let (one, two) = (start(&fleet, &etcd), start(&fleet, &etcd));
    for n in 0..30 {
        if n == 10 {
            etcd.kill(0);
        }
        if n == 20 {
            // Whichever leads, by now one that leads has died or was asked to.
            etcd.restart(0);
            etcd.kill(1);
        }
        let id = format!("m{n}");
        let (gw, other) = if n % 2 == 0 { (&one, &two) } else { (&two, &one) };
        gw.until(200, |gw| gw.pre_reboot(&id)).is_granted();
        other.until(200, |gw| gw.pre_reboot(&id)).is_granted();
        other.until(200, |gw| gw.steady_state(&id)).is_granted();
    }
    let answers = at_once(&[&one, &two], 9, "/v1/pre-reboot");
    let granted = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(granted <= 3, "{answers:?}");
    let answers = at_once(&[&one, &two], 9, "/v1/pre-reboot");
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 3);
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
    let figures = || two.get("/metrics").body;
    until(figures, || figures().contains("holders{group=\"web\"} 0").then_some(()));
}

#[test]
fn goahead_clients_get_no_go_ahead_from_an_etcd_that_stands_still() {
    const REQUEST: &str = "/v1/request/restart/os";
    let etcd = Etcd::start();
    let fleet = Fleet::new(CLUSTER);
    let gw = start(&fleet, &etcd);
    let first = goahead(&gw, REQUEST, 1, "5h", "");
    let id = first["request_id"].as_str().unwrap();
    etcd.signal(0, Signal::STOP);
    for (path, id) in [(REQUEST, ""), (REQUEST, id), ("/v1/inquire/restart/", "")] {
        let began = Instant::now();
        let json = goahead(&gw, path, 1, "5h", id);
        assert_eq!(json["go_ahead"], false, "{json}");
        assert!(json["message"].as_str().unwrap().contains("does not answer"), "{json}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    assert!(goahead(&gw, REQUEST, 1, "5h", "").get("ask_again_in").is_none());
    etcd.signal(0, Signal::CONT);
    let ask = || goahead(&gw, REQUEST, 1, "5h", id);
    until(|| ask().to_string(), || (ask()["go_ahead"] == true).then_some(()));
}
