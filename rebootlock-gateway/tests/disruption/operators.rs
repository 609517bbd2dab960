//! What an operator takes away from a client stays away, whichever way it was taken.

use serde_json::json;

use super::client::{Machine, PATH, holders, send_from};
use super::support::{Fleet, Gateway, request};
use super::visitor::{MACHINES_TOKEN, TOKEN, Visitor, with_people};

/// What a machine is told that has credentials, which all need where there are any.
fn told(gw: &Gateway, machine: &Machine, operation: &str) -> String {
    let body = json!({"MDB": machine.record, "Request": operation}).to_string();
    let bearer = format!("authorization: Bearer {MACHINES_TOKEN}\r\n");
    let answer = send_from(machine.address, gw, &request("POST", PATH, &bearer, &body));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["Response"].as_str().unwrap().to_owned()
}

/// Lets an operator do something to a machine that is permitted, and another one be next.
fn unlocked(unlock: impl Fn(&Gateway, &Machine)) {
    let fleet = Fleet::new("");
    fleet.configure(&with_people(&fleet, ""));
    let gw = fleet.start();
    let [a, b] = [2, 3].map(Machine::new);
    for _ in 0..2 {
        assert_eq!(told(&gw, &a, "request"), "permitted");
        unlock(&gw, &a);
        assert_eq!(told(&gw, &a, "check"), "denied");
        assert_eq!(holders(&fleet), json!([]));
        assert_eq!(fleet.document("disruption/127.0.0.2"), None);
        assert_eq!(fleet.document("disruption-time/127.0.0.2"), None);
    }
    assert_eq!(told(&gw, &b, "request"), "permitted");
}

#[test]
fn a_slot_that_is_freed_by_the_api_is_not_taken_anew() {
    unlocked(|gw, machine| {
        let headers =
            format!("authorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n");
        let path = format!("/api/v1/machines/{}/unlock", machine.id());
        let done = gw.post(&path, &headers, r#"{"reason":"it is up"}"#);
        assert_eq!((done.status, &done.json()["changed"]), (200, &json!(true)), "{done:?}");
    });
}

#[test]
fn a_slot_that_is_freed_on_the_page_is_not_taken_anew() {
    unlocked(|gw, machine| {
        let mut alice = Visitor::signed_in(gw, "alice", TOKEN);
        let query = format!("do=unlock&group=web&id={}", machine.id());
        let step = alice.operate(gw, &query, &[("reason", "it is up")]);
        let done = alice.agree(gw, &step);
        alice.follow(gw, &done).says("freed the slot of");
    });
}

#[test]
fn a_machine_that_is_forgotten_wishes_for_nothing() {
    let fleet = Fleet::new("");
    fleet.configure(&with_people(&fleet, ""));
    let gw = fleet.start();
    let [a, b] = [2, 3].map(Machine::new);
    assert_eq!(told(&gw, &a, "request"), "permitted");
    assert_eq!(told(&gw, &b, "request"), "requested");
    let headers = format!("authorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n");
    let done = gw.post("/api/v1/machines/127.0.0.3/forget", &headers, r#"{"reason":"gone"}"#);
    assert!(done.body.contains("its wish to be disrupted"), "{done:?}");
    assert_eq!(told(&gw, &b, "check"), "denied");
    assert_eq!(told(&gw, &a, "cancel"), "denied");
    assert_eq!(holders(&fleet), json!([]));
}
