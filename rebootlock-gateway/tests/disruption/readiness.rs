//! What a machine has to prove before its slot goes back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{LIMIT, Machine, READY_TIMEOUT, READY_URL, Service, holders, poll};
use super::gateway;
use super::support::Fleet;

/// Whose slot is kept, and who comes next.
fn pair(tags: &[(&str, &str)]) -> (Machine, Machine) {
    let tagged = |machine: Machine| {
        tags.iter().fold(machine, |machine, (key, value)| machine.tag(key, value))
    };
    (tagged(Machine::new(2)), Machine::new(3))
}

#[test]
fn a_slot_is_kept_until_the_service_answers_200() {
    let (fleet, gw) = gateway("");
    let service = Service::start(503);
    let url = service.url().replace("127.0.0.1", "{{index .Tags \"where\"}}");
    let (a, b) = pair(&[(READY_URL, &url), (READY_TIMEOUT, "10m"), ("where", "127.0.0.1")]);
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(b.request(&gw), "requested");
    a.cancel(&gw);
    assert_eq!((a.check(&gw), b.check(&gw)), ("denied".into(), "requested".into()));
    let record: Value =
        serde_json::from_str(&fleet.document("groups/web/holders/127.0.0.2").unwrap()).unwrap();
    assert_eq!(record["state"], "verifying");
    for status in [204, 404] {
        let before = service.asked();
        service.becomes(status);
        poll("it is not asked", || service.asked() > before + 2);
    }
    // Cancelling again changes nothing.
    a.cancel(&gw);
    assert_eq!(holders(&fleet), json!(["127.0.0.2"]));
    service.becomes(302);
    b.until(&gw, "permitted");
    // Blanks are sent as a client of that protocol sends them.
    let b = b.tag(READY_URL, &format!(" {}/a b ", service.url()));
    b.cancel(&gw);
    poll("its slot does not go back", || holders(&fleet) == json!([]));
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(holders(&fleet), json!(["127.0.0.2"]));
    let a = Machine::new(2);
    a.cancel(&gw);
    poll("its document stays", || fleet.document("disruption/127.0.0.2").is_none());
}

#[test]
fn a_service_that_says_nothing_holds_a_slot_no_longer_than_its_time() {
    let (fleet, gw) = gateway("");
    let service = Service::start(0);
    let (a, b) = pair(&[(READY_URL, &service.url()), (READY_TIMEOUT, "1s")]);
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(b.request(&gw), "requested");
    let began = Instant::now();
    a.cancel(&gw);
    b.until(&gw, "permitted");
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    gw.logged("\"event\":\"not-ready\"");
    assert_eq!(ended(&fleet, &a), ["not-ready"]);
}

/// How the slots of a machine ended, as the history has it.
fn ended(fleet: &Fleet, machine: &Machine) -> Vec<Value> {
    let read = |key: &String| serde_json::from_str(&fleet.document(key).unwrap()).unwrap();
    let past: Vec<Value> = fleet.places("/history/").iter().map(read).collect();
    let of_it = past.iter().filter(|past| past["machineID"] == machine.id());
    of_it.map(|past| past["ended"].clone()).collect()
}

#[test]
fn a_service_that_is_never_ready_is_not_reported_as_ready() {
    let service = Service::start(204);
    let nobody = "http://127.0.0.1:1/ready";
    for (url, why) in [(&*service.url(), "status 204"), (nobody, "127.0.0.1:1/ready: ")] {
        let (fleet, gw) = gateway("");
        let (a, b) = pair(&[(READY_URL, url), (READY_TIMEOUT, "1s")]);
        assert_eq!(a.request(&gw), "permitted");
        assert_eq!(b.request(&gw), "requested");
        a.cancel(&gw);
        b.until(&gw, "permitted");
        let said = gw.logged("\"event\":\"not-ready\"");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&said["level"], &said["url"]), (&json!("WARN"), &json!(url)), "{said}");
        assert!(said["problem"].as_str().unwrap().contains(why), "{said}");
        assert_eq!(ended(&fleet, &a), ["not-ready"]);
        // Who is to wait, and for nothing else, has done so.
        b.clone().tag(READY_TIMEOUT, "1s").cancel(&gw);
        gw.logged("ready delay completed");
        poll("its slot does not go back", || holders(&fleet) == json!([]));
        assert_eq!(ended(&fleet, &b), ["given-back"]);
    }
}

#[test]
fn what_cannot_be_understood_holds_the_slot_for_the_time_it_may_take() {
    let (fleet, gw) = gateway("");
    let (a, b) = pair(&[(READY_URL, "http://{{.Nope}}/"), (READY_TIMEOUT, "soon")]);
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(b.request(&gw), "requested");
    a.cancel(&gw);
    let document: Value =
        serde_json::from_str(&fleet.document("disruption/127.0.0.2").unwrap()).unwrap();
    assert_eq!(
        (&document["state"], &document["readyTimeoutSecs"]),
        (&json!("proving"), &json!(900))
    );
    assert_eq!(document["readyUrl"], Value::Null);
    assert_eq!(b.check(&gw), "requested");
    gw.logged("there is no field Nope");
    gw.logged("is no time such as");
    a.cancel(&gw);
    let d = Machine::new(4).group("db").tag(READY_URL, "ftp://127.0.0.1/");
    assert_eq!(d.request(&gw), "permitted");
    d.cancel(&gw);
    gw.logged("is no http or https address");
    // No time at all is no reason to wait.
    let (c, _) = pair(&[(READY_TIMEOUT, "-1s")]);
    let c = Machine { record: c.record, address: c.address }.group("other");
    c.cancel(&gw);
}

#[test]
fn who_asks_again_meanwhile_gets_its_turn_afterwards() {
    let (fleet, gw) = gateway("");
    let service = Service::start(503);
    let (a, b) = pair(&[(READY_URL, &service.url()), (READY_TIMEOUT, "10m"), (LIMIT, "2")]);
    let b = b.tag(LIMIT, "2");
    assert_eq!(a.request(&gw), "permitted");
    a.cancel(&gw);
    // It never has two slots, and what it proves nobody else waits for.
    assert_eq!((a.request(&gw), a.check(&gw)), ("requested".into(), "requested".into()));
    assert_eq!(b.request(&gw), "permitted");
    assert_eq!(holders(&fleet), json!(["127.0.0.2", "127.0.0.3"]));
    service.becomes(200);
    a.until(&gw, "permitted");
    a.cancel(&gw);
    poll("its slot does not go back", || holders(&fleet) == json!(["127.0.0.3"]));
    // Who takes that back does not get it.
    service.becomes(503);
    assert_eq!(a.request(&gw), "permitted");
    a.cancel(&gw);
    assert_eq!(a.request(&gw), "requested");
    a.cancel(&gw);
    assert_eq!(a.check(&gw), "denied");
    service.becomes(200);
    poll("its slot does not go back", || holders(&fleet) == json!(["127.0.0.3"]));
    assert_eq!(a.check(&gw), "denied");
}

#[test]
fn what_is_proven_in_one_group_makes_room_for_the_wish_in_another() {
    let (fleet, gw) = gateway("");
    let service = Service::start(503);
    let (a, b) = pair(&[(READY_URL, &service.url()), (READY_TIMEOUT, "10m")]);
    let elsewhere = a.clone().group("db");
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(b.request(&gw), "requested");
    assert_eq!(elsewhere.request(&gw), "requested");
    for _ in 0..2 {
        // A reply may be lost.
        a.cancel(&gw);
        assert_eq!((a.check(&gw), elsewhere.check(&gw)), ("denied".into(), "requested".into()));
        assert_eq!(holders(&fleet), json!([a.id()]));
    }
    service.becomes(200);
    elsewhere.until(&gw, "permitted");
    b.until(&gw, "permitted");
    assert_eq!(holders(&fleet), json!([b.id()]));
    // Whoever asks elsewhere while it proves itself, and takes that back, wants nothing more.
    service.becomes(503);
    elsewhere.cancel(&gw);
    assert_eq!(a.request(&gw), "requested");
    a.cancel(&gw);
    assert_eq!(a.check(&gw), "denied");
}

#[test]
fn a_permission_that_ends_has_to_be_proven_too() {
    let (fleet, gw) = gateway("[gateway]\ndisruption_permitted_secs = 1\n");
    let service = Service::start(503);
    let (a, b) = pair(&[(READY_URL, &service.url()), (READY_TIMEOUT, "10m")]);
    assert_eq!(a.request(&gw), "permitted");
    gw.logged("permitted/expired->denied");
    assert_eq!(holders(&fleet), json!(["127.0.0.2"]), "its slot stays");
    assert_eq!((a.check(&gw), b.request(&gw)), ("denied".into(), "requested".into()));
    service.becomes(200);
    poll("its slot does not go back", || {
        b.request(&gw);
        holders(&fleet) == json!(["127.0.0.3"])
    });
}

#[test]
fn a_restart_goes_on_asking() {
    let fleet = super::support::Fleet::new("");
    let service = Service::start(503);
    let (a, b) = pair(&[(READY_URL, &service.url()), (READY_TIMEOUT, "10m")]);
    let gw = fleet.start();
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(b.request(&gw), "requested");
    a.cancel(&gw);
    poll("it is not asked", || service.asked() > 0);
    gw.signal(rustix::process::Signal::TERM);
    assert_eq!(gw.ended(), Some(0));
    let before = service.asked();
    let gw = fleet.start();
    poll("it is not asked any more", || service.asked() > before);
    service.becomes(200);
    b.until(&gw, "permitted");
}

#[test]
fn only_hosts_that_are_named_are_asked() {
    let (_fleet, gw) = gateway("[gateway]\ndisruption_ready_hosts = [\"*.example\"]\n");
    let service = Service::start(200);
    let (a, b) = pair(&[(READY_URL, &service.url()), (READY_TIMEOUT, "1s")]);
    assert_eq!(a.request(&gw), "permitted");
    a.cancel(&gw);
    assert_eq!(b.request(&gw), "requested");
    b.until(&gw, "permitted");
    assert_eq!(service.asked(), 0);
}
