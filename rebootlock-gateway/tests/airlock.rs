//! From airlock to here: its configuration, the slots that are held through it, its names.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::process::{Command, Output, Stdio};

use support::etcd::Etcd;
use support::{BINARY, Fleet, Gateway, PROTOCOL, file, params};

const KEY: &str = "com.coreos.airlock/groups";

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output: Output =
        Command::new(BINARY).args(args).env_clear().stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_gateway_starts_from_what_was_made_of_airlocks_configuration() {
    let fleet = Fleet::new("");
    let theirs = file(
        &fleet,
        "config.toml",
        "[service]\naddress = \"127.0.0.1\"\nport = 0\ntls = false\n\
         [status]\nenabled = true\nport = 0\n\
         [etcd3]\nendpoints = [\"http://127.0.0.1:1\"]\n\
         [[lock.groups]]\nname = \"db\"\nslots = 7\n",
    );
    let (code, ours, _) = run(&["import", "--from", "airlock", &theirs]);
    assert_eq!(code, Some(0));
    fleet.configure(&ours);
    let gw = fleet.start();
    gw.post("/v1/pre-reboot", PROTOCOL, &params("a", "db")).is_granted();
    gw.pre_reboot("a").is_granted();
    gw.pre_reboot("b").is(423, "failed_lock");
    let figures = gw.get("/metrics").body;
    for line in [
        "airlock_v1_pre_reboot_incoming_requests_total 3",
        "airlock_v1_steady_state_incoming_requests_total 0",
        "airlock_config_groups 2",
        "airlock_config_semaphore_slots{group=\"db\"} 7",
        "airlock_database_semaphore_lock_holders{group=\"db\"} 1",
        "airlock_database_semaphore_slots{group=\"default\"} 1",
    ] {
        assert!(figures.lines().any(|found| found == line), "{line} in {figures}");
    }
    assert!(figures.ends_with("# EOF\n") && figures.matches("# EOF").count() == 1, "{figures}");
    let (code, ours, said) = run(&["import", "--from", "airlock", "/nonexistent"]);
    assert_eq!((code, ours.as_str()), (Some(1), ""), "{said}");
    let broken = file(&fleet, "broken.toml", "[etcd3]\nendpoints = 1\n");
    assert_eq!(run(&["import", "--from", "airlock", &broken]).0, Some(2));
}

#[test]
fn slots_held_through_airlock_are_shown_first_then_held_here_and_never_twice() {
    let etcd = Etcd::start();
    let put = |group: &str, value: &str| {
        etcd.ctl(&["put", &format!("{KEY}/{group}/v1/semaphore"), value]);
    };
    // Not sorted, as somebody edited it, and with a key that airlock does not know.
    let default = r#"{"total_slots":2,"holders":["b","a"],"note":"x"}"#;
    put("default", default);
    put("my+db", r#"{"total_slots":1,"holders":[]}"#);
    let fleet = Fleet::new("");
    let take_over = |more: &[&str]| {
        let args = ["take-over", "--from", "airlock", "--endpoint", &etcd.endpoints];
        run(&[&args[..], &["--config", fleet.config().to_str().unwrap()], more].concat())
    };
    let (code, shown, said) = take_over(&[]);
    assert_eq!(code, Some(0), "{said}");
    let expected = "group default: 2 slots, as in airlock\n  a: is to hold a slot\n  \
                    b: is to hold a slot\ngroup my db: 1 slots, as in airlock\n";
    assert_eq!(shown, expected);
    assert!(said.contains("nothing was written"), "{said}");
    let ours = || etcd.ctl(&["get", "--prefix", "coreos.com/", "--keys-only"]);
    assert_eq!(ours().trim(), "");

    let gw = Gateway::start(fleet.command_on(&etcd.endpoints, &[]));
    gw.logged("slots of group default are held through airlock, by a, b, and do not count here");
    let elsewhere = "failed_lock_held_elsewhere";
    for id in ["a", "c"] {
        let refused = gw.until(423, |gw| gw.pre_reboot(id));
        refused.is(423, elsewhere);
        assert!(refused.value().contains("rebootlock-gateway take-over --from airlock"));
    }
    // Its slot is free once it is known of; then it can be told so.
    gw.steady_state("b").is(423, elsewhere);
    gw.steady_state("c").is_granted();
    // Nobody holds a slot of this one, here or there.
    gw.post("/v1/pre-reboot", PROTOCOL, &params("c", "my db")).is(400, "invalid_client_params");
    assert!(!ours().contains("holders"), "{}", ours());
    let (code, done, said) = take_over(&["--yes"]);
    assert_eq!((code, done.as_str()), (Some(0), expected), "{said}");
    gw.until(423, |gw| gw.pre_reboot("c")).is_full();
    gw.pre_reboot("a").is_granted();
    gw.steady_state("a").is_granted();
    gw.pre_reboot("c").is_granted();
    gw.logged("all slots that were held through airlock count here now");
    // What was given back since then is not taken again.
    let (code, done, _) = take_over(&["--yes"]);
    assert_eq!(code, Some(0));
    assert!(done.starts_with("group default: taken over at 20"), "{done}");
    gw.pre_reboot("a").is_full();
    assert_eq!(
        etcd.ctl(&["get", &format!("{KEY}/default/v1/semaphore"), "--print-value-only"]).trim(),
        default
    );

    // airlock ran on, and lowered nothing here.
    put("default", r#"{"total_slots":9,"holders":["b","d"]}"#);
    put("odd", "{");
    // It was noticed that it runs, and by whoever starts next.
    let other = Gateway::start(fleet.command_on(&etcd.endpoints, &[]));
    other.until(423, |gw| gw.pre_reboot("e")).is(423, elsewhere);
    drop(other);
    let (code, done, said) = take_over(&["--yes"]);
    assert_eq!(code, Some(8));
    assert!(
        done.contains("group default: 2 slots stay; airlock has 9\n  b: holds it here too\n"),
        "{done}"
    );
    assert!(said.contains("groups/odd/v1/semaphore is not what airlock writes"), "{said}");
    assert!(said.contains("delete it there once nobody holds a slot by it"), "{said}");
    gw.pre_reboot("d").is_granted();
    gw.steady_state("b").is_granted();
    gw.pre_reboot("e").is_full();
    gw.steady_state("c").is_granted();
    gw.steady_state("d").is_granted();
    gw.pre_reboot("a").is_granted();
    gw.pre_reboot("e").is_granted();
}

#[test]
fn a_group_stays_shut_while_a_holder_cannot_be_taken_over_or_a_document_cannot_be_read() {
    let etcd = Etcd::start();
    let key = format!("{KEY}/default/v1/semaphore");
    let put = |value: &str| etcd.ctl(&["put", &key, value]);
    // airlock takes any id that is not empty, and any spelling of its keys.
    let long = "x".repeat(300);
    put(&format!(r#"{{"Total_Slots":5000000000,"HOLDERS":["a","node 7","{long}"]}}"#));
    let fleet = Fleet::new("");
    let take_over =
        || run(&["take-over", "--from", "airlock", "--yes", "--endpoint", &etcd.endpoints]);
    let gw = Gateway::start(fleet.command_on(&etcd.endpoints, &[]));
    let elsewhere = "failed_lock_held_elsewhere";
    for _ in 0..2 {
        let (code, done, said) = take_over();
        assert_eq!(code, Some(8), "{said}");
        assert!(done.contains("5000000000 slots are too many; 1000000 are the most"), "{done}");
        assert!(done.contains("  a: "), "{done}");
        assert!(said.contains("holder \"node 7\" has an id that is none here"), "{said}");
        assert!(said.contains(&format!("or take it out of {key} in etcd")), "{said}");
        assert!(!said.contains(&long) && said.contains("xxx\"…"), "{said}");
        for id in ["a", "c"] {
            gw.pre_reboot(id).is(423, elsewhere);
        }
        // It would be taken over again.
        gw.steady_state("a").is(423, elsewhere);
    }
    put(r#"{"total_slots":1,"holders":["a"]}"#);
    let (code, done, said) = take_over();
    assert_eq!(code, Some(0), "{said}");
    assert!(done.contains("  a: holds it here too"), "{done}");
    gw.pre_reboot("c").is_granted();
    gw.steady_state("a").is_granted();

    put(r#"{"total_slots":1,"Total_slots":2,"holders":null}"#);
    let other = Gateway::start(fleet.command_on(&etcd.endpoints, &[]));
    let refused = other.pre_reboot("d");
    refused.is(423, elsewhere);
    let what = format!("nobody gets one here until {key} has been mended in etcd");
    assert!(refused.value().contains(&what), "{}", refused.value());
    etcd.ctl(&["del", &key]);
    other.pre_reboot("d").is_granted();
}

#[test]
fn they_are_taken_into_another_store_too() {
    let etcd = Etcd::start();
    etcd.ctl(&["put", &format!("{KEY}/lb/v1/semaphore"), r#"{"total_slots":3,"holders":["a"]}"#]);
    let fleet = Fleet::new("");
    let store = format!("sqlite:{}", fleet.store().display());
    let (code, _, said) = run(&[
        "take-over",
        "--from",
        "airlock",
        "--source",
        &etcd.endpoints,
        "--endpoint",
        &store,
        "--yes",
    ]);
    assert_eq!(code, Some(0), "{said}");
    let semaphore = fleet.document("groups/lb/semaphore").unwrap();
    assert_eq!(semaphore, r#"{"semaphore":2,"max":3,"holders":["a"]}"#);
    let gw = fleet.start();
    gw.post("/v1/steady-state", PROTOCOL, &params("a", "lb")).is_granted();
    assert_eq!(fleet.document("groups/lb/holders/a"), None);
}
