//! The same lock as everybody else's: slots, queue, pause, hold, windows, cooldown.

use std::io::Write as _;
use std::sync::{Arc, Barrier};

use rustix::process::Signal;

use super::client::{
    REQUEST, cluster, denied, first, gateway, goes, inquire, second, until, until_free,
};
use super::support::{self, Answer, PROTOCOL, params};

#[test]
fn of_twenty_machines_exactly_ten_get_ten_slots() {
    let group = "[[group]]\nname = \"web\"\nslots = 10\n";
    let (fleet, gw) = gateway(&format!("{group}{}", cluster("")));
    for round in 0..3 {
        let ids: Vec<_> = (0..20).map(|n| first(&gw, &format!("web-{n}"), "5h")).collect();
        let ready = Arc::new(Barrier::new(20));
        let asking: Vec<_> = ids
            .into_iter()
            .enumerate()
            .map(|(n, id)| {
                let (ready, mut stream) = (ready.clone(), gw.connect());
                std::thread::spawn(move || {
                    let body = format!(r#"{{"fqdn":"web-{n}","uptime":"5h","request_id":"{id}"}}"#);
                    let text = support::request("POST", REQUEST, "", &body);
                    ready.wait();
                    stream.write_all(text.as_bytes()).unwrap();
                    Answer::read(&mut stream, false).unwrap().json()
                })
            })
            .collect();
        let answers: Vec<_> = asking.into_iter().map(|asking| asking.join().unwrap()).collect();
        let granted: Vec<_> = answers.iter().filter(|json| json["go_ahead"] == true).collect();
        assert_eq!(granted.len(), 10, "round {round}: {answers:#?}");
        for json in &answers {
            let message = json["message"].as_str().unwrap_or_default();
            assert!(
                message.is_empty() || message.starts_with("Denied restart request"),
                "{message}"
            );
        }
        assert!(fleet.group("web").starts_with(r#"{"semaphore":0,"max":10,"#));
        for json in granted {
            inquire(&gw, json["requesting_fqdn"].as_str().unwrap(), "10s");
        }
        until_free(&fleet);
        // Those who were refused are next, until they are forgotten.
        for n in 0..20 {
            fleet.take_away(&format!("groups/web/queue/web-{n}"));
        }
    }
}

#[test]
fn a_freed_slot_is_kept_for_the_one_that_asked_first() {
    let (fleet, gw) = gateway(&cluster(""));
    goes(&gw, "web-1", "5h");
    assert!(denied(&gw, "web-2", "5h").contains("1 >= 1"));
    assert!(denied(&gw, "web-3", "5h").contains("1 >= 1"));
    inquire(&gw, "web-1", "10s");
    until_free(&fleet);
    let kept = denied(&gw, "web-3", "5h");
    assert!(
        kept.starts_with("Denied restart request: ") && kept.contains("1 machine goes before you"),
        "{kept}"
    );
    goes(&gw, "web-2", "5h");
}

#[test]
fn fleetlock_clients_and_goahead_clients_share_their_slots() {
    let (fleet, gw) = gateway(&cluster("group = \"default\"\n"));
    gw.pre_reboot("a").is_granted();
    let message = denied(&gw, "web-1", "5h");
    assert!(message.ends_with("1 >= 1 Currently restarting hosts: a"), "{message}");
    gw.steady_state("a").is_granted();
    goes(&gw, "web-1", "5h");
    gw.pre_reboot("a").is_full();
    // Nor is the slot of one protocol to be had by the other.
    gw.pre_reboot("web-1").is(423, "failed_lock_taken_otherwise");
    assert!(gw.steady_state("web-1").value().contains("keeps its slot"));
    inquire(&gw, "web-1", "10s");
    until("a free slot", || fleet.semaphore().contains("\"holders\":[]"));
    gw.pre_reboot("a").is_granted();
    gw.steady_state("a").is_granted();
    gw.post("/v1/pre-reboot", PROTOCOL, &params("web-9", "default")).is_granted();
    assert!(denied(&gw, "web-9", "5h").contains("taken by fleetlock"));
}

#[test]
fn what_stops_everybody_stops_goahead_clients() {
    let group = "[[group]]\nname = \"web\"\nslots = 2\n";
    let (fleet, gw) = gateway(&format!("{group}{}", cluster("")));
    goes(&gw, "web-1", "5h");
    let stop = r#"{"by":"op","reason":"why","since":1}"#;
    for (key, said) in [
        ("fleet/paused", "Denied restart request: the fleet is paused by op: why"),
        ("groups/web/paused", "Denied restart request: group web is paused by op: why"),
    ] {
        fleet.put(key, stop);
        assert_eq!(denied(&gw, "web-2", "5h"), said);
        // Whoever has a slot is told too: it has not gone down yet.
        assert_eq!(denied(&gw, "web-1", "5h"), said);
        fleet.take_away(key);
    }
    fleet.put("holds/web-2", stop);
    assert_eq!(denied(&gw, "web-2", "5h"), "Denied restart request: web-2 is held by op: why");
    fleet.take_away("holds/web-2");
    fleet.put("groups/web/cooldown", r#"{"machineID":"a","since":1,"secs":600}"#);
    assert!(denied(&gw, "web-2", "5h").contains("cools down"));
    fleet.take_away("groups/web/cooldown");
    goes(&gw, "web-2", "5h");
    fleet.configure(&format!("{group}{}[[window]]\ndates = [\"2001-01-01\"]\n", cluster("")));
    gw.signal(Signal::HUP);
    until("the window", || {
        second(&gw, "web-3", "5h").json()["message"].to_string().contains("window")
    });
}

#[test]
fn no_slots_are_none_from_the_first_question_on() {
    let group = "[[group]]\nname = \"web\"\nslots = 0\n";
    let (_fleet, gw) = gateway(&format!("{group}{}", cluster("")));
    assert!(denied(&gw, "web-1", "5h").contains("0 >= 0"));
}

#[test]
fn a_damaged_document_is_a_no() {
    let (fleet, gw) = gateway(&cluster("completion_check = \"true\"\n"));
    let id = first(&gw, "web-1", "5h");
    fleet.put("groups/web/semaphore", "{");
    let json = super::client::request(&gw, "web-1", "5h", Some(&id)).json();
    assert_eq!(json["go_ahead"], false);
    assert!(json["message"].as_str().unwrap().contains("damaged"), "{json}");
    assert_eq!(fleet.group("web"), "{");
    fleet.take_away("groups/web/semaphore");
    goes(&gw, "web-1", "5h");
    fleet.put("groups/web/holders/web-1", "[]");
    let json = inquire(&gw, "web-1", "5s").json();
    assert!(
        json["go_ahead"] == false && json["message"].as_str().unwrap().contains("damaged"),
        "{json}"
    );
    assert!(second(&gw, "web-1", "5h").json().get("ask_again_in").is_none());
    assert!(fleet.group("web").contains("web-1"), "its slot stays");
}

#[test]
fn an_operators_request_is_a_reason_until_the_machine_has_rebooted() {
    let (fleet, gw) = gateway(&cluster(""));
    assert_eq!(inquire(&gw, "web-1", "5h").json()["message"], "No reason to restart");
    first(&gw, "web-1", "5h");
    fleet.put("requests/web-1", r#"{"by":"op","reason":"new kernel","since":1}"#);
    for _ in 0..2 {
        assert_eq!(
            inquire(&gw, "web-1", "5h").json()["message"],
            "YesInquireToRestart: requested by op: new kernel"
        );
    }
    goes(&gw, "web-1", "5h");
    inquire(&gw, "web-1", "10s");
    until_free(&fleet);
    assert_eq!(fleet.document("requests/web-1"), None);
}

#[test]
fn who_should_be_back_is_counted() {
    let (fleet, gw) = gateway(&format!("[reboot]\noverdue_after_secs = 60\n{}", cluster("")));
    goes(&gw, "web-1", "5h");
    let key = "groups/web/holders/web-1";
    let mut record: serde_json::Value =
        serde_json::from_str(&fleet.document(key).unwrap()).unwrap();
    record["startTime"] = 1.into();
    fleet.put(key, &record.to_string());
    let metrics = gw.get("/metrics").body;
    assert!(metrics.contains("overdue_holders{group=\"web\",state=\"silent\"} 1"), "{metrics}");
    assert!(
        metrics.contains("route=\"goahead-request\",kind=\"success\",status=\"200\"} 1"),
        "{metrics}"
    );
}
