//! From the go-ahead to the freed slot, also when gateways die on the way.

use rustix::process::Signal;

use super::client::{
    cluster, denied, first, gateway, goes, inquire, request, second, until, until_free,
};
use super::support::Fleet;

#[test]
fn a_shorter_uptime_means_a_reboot_and_frees_the_slot() {
    let (fleet, gw) = gateway(&cluster(""));
    goes(&gw, "web-1", "5h");
    for uptime in ["5h", "6h", "6h1m"] {
        assert_eq!(inquire(&gw, "web-1", uptime).json()["message"], "No reason to restart");
    }
    assert!(fleet.group("web").contains("web-1"));
    assert!(denied(&gw, "web-2", "5h").contains(">= 1"));
    // Shorter than the last one, but no machine has been up for so long since the go-ahead.
    assert_eq!(inquire(&gw, "web-1", "5h30m").json()["message"], "No reason to restart");
    assert!(fleet.group("web").contains("web-1"));
    inquire(&gw, "web-1", "4m");
    until_free(&fleet);
    goes(&gw, "web-2", "5h");
    inquire(&gw, "web-2", "10s");
    until_free(&fleet);
    // What led to a reboot leads to no other.
    let spent = request(&gw, "web-1", "5h", Some("abcdefgh")).json();
    assert_eq!(
        spent["message"],
        "Found mismatching request_id in request: abcdefgh and found on middle-ware: "
    );
}

#[test]
fn a_machine_that_wants_to_reboot_again_has_rebooted_all_the_same() {
    let (fleet, gw) = gateway(&cluster(""));
    goes(&gw, "web-1", "5h");
    first(&gw, "web-1", "1m");
    until_free(&fleet);
    goes(&gw, "web-1", "2m");
    assert!(fleet.group("web").contains("web-1"));
}

#[test]
fn a_holder_that_is_in_no_cluster_any_more_is_heard_for_the_slot_it_has() {
    let (fleet, gw) = gateway(&cluster(""));
    let reload = |times: usize, config: &str| {
        fleet.configure(config);
        gw.signal(Signal::HUP);
        let again = || {
            let log = gw.log.lock().unwrap();
            log.iter().filter(|line| line.contains("configuration read again")).count()
        };
        until("the configuration", || again() == times);
    };
    goes(&gw, "web-1", "5h");
    reload(1, &cluster("except = [\"^web-1\"]\n"));
    for (uptime, holds) in [("5h1m", true), ("10s", false)] {
        let said = inquire(&gw, "web-1", uptime).json();
        assert_eq!(
            (said["message"].as_str().unwrap(), &said["unknown_host"]),
            (
                "Found matching blacklist name pattern: ^web-1 for FQDN: web-1 Preventing restart!",
                &true.into()
            )
        );
        match holds {
            true => assert!(fleet.group("web").contains("web-1")),
            false => until_free(&fleet),
        }
    }
    reload(2, &cluster(""));
    goes(&gw, "web-2", "5h");
    reload(3, &cluster("").replace("^web-", "^db-"));
    let said = request(&gw, "web-2", "10s", None).json();
    assert_eq!(said["message"], "FQDN web-2 did not match any known cluster");
    until_free(&fleet);
}

#[test]
fn the_slot_is_freed_after_so_many_checks_in_a_row() {
    let fleet = Fleet::new("");
    let (log, code) = (fleet.path("log"), fleet.path("code"));
    std::fs::write(&code, "1").unwrap();
    let check = fleet.script("check", &format!("echo $1 $2 >> {log}; exit $(cat {code})"));
    let done = fleet.script("done", &format!("echo $1 >> {}", fleet.path("done.log")));
    fleet.configure(&cluster(&format!(
        "completion_check = \"{check} {{:%fqdn%:}} {{:%cluster%:}}\"\ncompletion_check_interval_secs = 1\n\
         completion_check_successes = 2\ncompletion_actions = [\"{done} {{:%uptime%:}}\"]\n"
    )));
    let gw = fleet.start();
    goes(&gw, "web-1", "5h");
    inquire(&gw, "web-1", "10s");
    let runs = || fleet.read("log").lines().count();
    until("two checks that fail", || runs() >= 2);
    let record = fleet.document("groups/web/holders/web-1").unwrap();
    assert!(record.contains(r#""state":"verifying""#) && record.contains(r#""uptimeAfter":"10s""#));
    assert!(denied(&gw, "web-2", "5h").contains("Currently restarting hosts: web-1"));
    let before = runs();
    std::fs::write(&code, "0").unwrap();
    until_free(&fleet);
    assert!(runs() >= before + 2 - 1, "{before} {}", runs());
    assert!(fleet.read("log").starts_with("web-1 web\n"));
    assert_eq!(fleet.read("done.log"), "10s\n");
}

#[test]
fn asking_again_during_the_checks_keeps_the_slot() {
    let fleet = Fleet::new("");
    let (go, log) = (fleet.path("go"), fleet.path("log"));
    let check = fleet
        .script("check", &format!("echo x >> {log}; while [ ! -e {go} ]; do sleep 0.02; done"));
    fleet.configure(&cluster(&format!("completion_check = \"{check}\"\n")));
    let gw = fleet.start();
    goes(&gw, "web-1", "5h");
    inquire(&gw, "web-1", "10s");
    until("a check", || !fleet.read("log").is_empty());
    let again = second(&gw, "web-1", "1m").json();
    assert_eq!(
        (&again["go_ahead"], &again["message"]),
        (&true.into(), &"You should already be restarting!".into())
    );
    std::fs::write(&go, "").unwrap();
    // The check of before frees nothing: the machine may be going down.
    inquire(&gw, "web-1", "2m");
    let record = fleet.document("groups/web/holders/web-1").unwrap();
    assert!(record.contains(r#""state":"holding""#), "{record}");
    assert!(denied(&gw, "web-2", "5h").contains("Currently restarting hosts: web-1"));
    // Nor what it says next, which may be an old report, unless one agrees with it that comes later.
    let old = |secs: i64| {
        let key = "groups/web/holders/web-1";
        let mut old: serde_json::Value =
            serde_json::from_str(&fleet.document(key).unwrap()).unwrap();
        for time in ["/goahead/grantedAt", "/goahead/reportedAt", "/goahead/doubt/at"] {
            if let Some(at) = old.pointer_mut(time) {
                *at = (at.as_i64().unwrap() - secs).into();
            }
        }
        fleet.put(key, &old.to_string());
    };
    old(100);
    inquire(&gw, "web-1", "5s");
    inquire(&gw, "web-1", "5s");
    let record = fleet.document("groups/web/holders/web-1").unwrap();
    assert!(record.contains(r#""state":"holding""#) && record.contains("\"doubt\""), "{record}");
    old(60);
    inquire(&gw, "web-1", "65s");
    until_free(&fleet);
}

#[test]
fn an_old_report_frees_no_slot_that_was_just_granted() {
    let (fleet, gw) = gateway(&cluster(""));
    goes(&gw, "web-1", "2m10s");
    for late in ["2m9s", "1m", "1s", "2m11s", "2m9s"] {
        inquire(&gw, "web-1", late);
        let record = fleet.document("groups/web/holders/web-1").unwrap();
        assert!(record.contains(r#""state":"holding""#), "{late}: {record}");
    }
    assert!(denied(&gw, "web-2", "5h").contains("Currently restarting hosts: web-1"));
}

#[test]
fn after_the_offset_it_is_looked_for_but_a_check_that_succeeds_proves_no_reboot() {
    let fleet = Fleet::new("");
    let (log, code) = (fleet.path("log"), fleet.path("code"));
    std::fs::write(&code, "0").unwrap();
    let check = fleet.script("check", &format!("echo x >> {log}; exit $(cat {code})"));
    fleet.configure(&cluster(&format!(
        "completion_check = \"{check}\"\ncompletion_check_interval_secs = 1\ncompletion_check_offset_secs = 1\n"
    )));
    let gw = fleet.start();
    goes(&gw, "web-1", "5h");
    let runs = || fleet.read("log").lines().count();
    assert_eq!(runs(), 0);
    until("two checks", || runs() >= 2);
    assert!(fleet.group("web").contains("web-1"), "it may still have to go down");
    std::fs::write(&code, "1").unwrap();
    let state = || fleet.document("groups/web/holders/web-1").unwrap_or_default();
    until("it to be away", || state().contains("verifying"));
    // It was something else: it is as up as it was.
    inquire(&gw, "web-1", "5h1m");
    assert!(state().contains("holding"));
    until("it to be away", || state().contains("verifying"));
    std::fs::write(&code, "0").unwrap();
    until_free(&fleet);
}

#[test]
fn a_machine_that_does_not_come_back_is_an_alarm_and_stops_the_others() {
    let fleet = Fleet::new("");
    let script = fleet.script("panic", &format!("echo $1 $2 >> {}", fleet.path("log")));
    let group = "[[group]]\nname = \"web\"\nslots = 2\n";
    fleet.configure(&format!(
        "{group}{}",
        cluster(&format!(
            "panic_after_secs = 2\npanic_actions = [\"{script} {{:%fqdn%:}} {{:%cluster%:}}\"]\n"
        ))
    ));
    let gw = fleet.start();
    goes(&gw, "web-1", "5h");
    // Nobody has to ask for it to be noticed.
    until("the alarm", || fleet.read("log") == "web-1 web\n");
    let panicked = || fleet.document("groups/web/holders/web-1").unwrap().contains("panickedAt");
    until("the record of it", panicked);
    assert_eq!(
        denied(&gw, "web-2", "5h"),
        "Reboot completion panic threshold met for cluster web because previous host web-1 still offline!"
    );
    assert_eq!(second(&gw, "web-1", "5h1m").json()["message"], "You should already be restarting!");
    assert!(gw.logged("\"event\":\"panic\"").contains("web-1"));
    inquire(&gw, "web-1", "3s");
    until_free(&fleet);
    goes(&gw, "web-2", "5h");
    assert_eq!(fleet.read("log"), "web-1 web\n", "once");
}

#[test]
fn a_restart_of_the_gateway_forgets_nothing() {
    let fleet = Fleet::new("");
    let (log, code) = (fleet.path("log"), fleet.path("code"));
    std::fs::write(&code, "1").unwrap();
    let check = fleet.script("check", &format!("echo x >> {log}; exit $(cat {code})"));
    fleet.configure(&cluster(&format!(
        "completion_check = \"{check}\"\ncompletion_check_interval_secs = 1\n"
    )));
    let mut gw = fleet.start();
    let id = first(&gw, "web-1", "5h");
    let restart = |gw: super::support::Gateway, signal| {
        gw.signal(signal);
        gw.ended();
        fleet.start()
    };
    gw = restart(gw, Signal::KILL);
    assert_eq!(request(&gw, "web-1", "5h", Some(&id)).json()["go_ahead"], true);
    gw = restart(gw, Signal::KILL);
    assert_eq!(
        request(&gw, "web-1", "5h", Some(&id)).json()["message"],
        "You should already be restarting!"
    );
    assert!(denied(&gw, "web-2", "5h").contains("web-1"));
    inquire(&gw, "web-1", "10s");
    gw = restart(gw, Signal::TERM);
    until("a check", || !fleet.read("log").is_empty());
    let gw = restart(gw, Signal::KILL);
    assert!(fleet.group("web").contains("web-1"));
    std::fs::write(&code, "0").unwrap();
    until_free(&fleet);
    goes(&gw, "web-2", "5h");
}

#[test]
fn actions_that_a_dead_gateway_began_are_run_again() {
    let fleet = Fleet::new("");
    let (log, go) = (fleet.path("log"), fleet.path("go"));
    let action = fleet
        .script("action", &format!("echo x >> {log}; while [ ! -e {go} ]; do sleep 0.02; done"));
    let config = format!(
        "[gateway.goahead]\naction_timeout_secs = 1\n{}",
        cluster(&format!("actions = [\"{action}\"]\n"))
    );
    fleet.configure(&config.replace("= 1\n", "= 60\n"));
    let gw = fleet.start();
    goes(&gw, "web-1", "5h");
    until("the action", || !fleet.read("log").is_empty());
    gw.signal(Signal::KILL);
    gw.ended();
    let key = "groups/web/holders/web-1";
    let record = fleet.document(key).unwrap();
    assert!(record.contains("actionsDue"));
    // As if it had been an hour ago.
    let mut old: serde_json::Value = serde_json::from_str(&record).unwrap();
    old["goahead"]["grantedAt"] = 1.into();
    fleet.put(key, &old.to_string());
    std::fs::write(&go, "").unwrap();
    fleet.configure(&config);
    let _gw = fleet.start();
    until("the end of the actions", || !fleet.document(key).unwrap().contains("actionsDue"));
    assert_eq!(fleet.read("log"), "x\nx\n");
}
