//! Checks and actions: who is meant, how long they may take, and what is left of them.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::client::{
    INQUIRE, cluster, denied, first, goes, inquire, request, settled, until, until_free,
};
use super::support::{self, Fleet};

fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

#[test]
fn a_check_is_a_reason_by_its_exit_code_and_by_nothing_else() {
    let fleet = Fleet::new("");
    let script = fleet.script("check", "echo noise; exit ${1#code-}");
    let config =
        |checks: &str| cluster(&format!("check_exit_code_for_reboot = 7\nchecks = [{checks}]\n"));
    let lines = |codes: &[&str]| {
        let quoted: Vec<_> =
            codes.iter().map(|c| format!("\"{script} {c} {{:%fqdn%:}}\"")).collect();
        config(&quoted.join(", "))
    };
    for (checks, message) in [
        (config(""), "No reason to restart".to_owned()),
        (lines(&["0"]), "No reason to restart".to_owned()),
        (
            lines(&["0", "7", "x"]),
            format!("YesInquireToRestart: goahead check result of {script} 7 web-1 is 7"),
        ),
        (config("\"/nonexistent\", \"kill-no-such-program\""), "No reason to restart".to_owned()),
        // A program that cannot be run has no exit code, not even 0.
        (config("\"/nonexistent\"").replace("= 7", "= 0"), "No reason to restart".to_owned()),
    ] {
        fleet.configure(&checks);
        let gw = fleet.start();
        let json = inquire(&gw, "web-1", "5h").json();
        assert_eq!(json["message"], message);
        assert_eq!((&json["go_ahead"], &json["unknown_host"]), (&false.into(), &false.into()));
    }
}

#[test]
fn a_check_that_does_not_end_is_no_reason_and_nothing_of_it_stays() {
    let fleet = Fleet::new("");
    let pids = fleet.path("pids");
    let script = fleet.script(
        "check",
        &format!("trap '' TERM; setsid sh -c 'echo $$ >> {pids}; sleep 60' & echo $$ >> {pids}; sleep 60; exit 0"),
    );
    fleet.configure(&format!(
        "[gateway.goahead]\ncheck_timeout_secs = 1\n{}",
        cluster(&format!("checks = [\"{script}\"]\n"))
    ));
    let gw = fleet.start();
    let began = Instant::now();
    assert_eq!(inquire(&gw, "web-1", "5h").json()["message"], "No reason to restart");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    until("both", || fleet.read("pids").lines().count() == 2);
    for pid in fleet.read("pids").lines() {
        until(&format!("the end of {pid}"), || !lives(pid));
    }
}

#[test]
fn actions_run_for_whom_they_are_meant_and_the_answer_does_not_wait_for_them() {
    let fleet = Fleet::new("");
    let (out, go) = (fleet.path("out"), fleet.path("go"));
    let script = fleet.script(
        "action",
        &format!("while [ ! -e {go} ]; do sleep 0.02; done; for a in \"$@\"; do echo \"<$a>\"; done >> {out}"),
    );
    fleet.configure(&cluster(&format!(
        "actions = [\"/nonexistent\", \"{script} {{:%fqdn%:}} 'x {{:%hostname%:}} y' {{:%cluster%:}} {{:%uptime%:}} {{:%what%:}} $HOME;id\"]\n"
    )));
    let gw = fleet.start();
    let began = Instant::now();
    goes(&gw, "web-1.example", "5h0m1s");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let due = || fleet.document("groups/web/holders/web-1.example").unwrap().contains("actionsDue");
    assert!(due());
    std::fs::write(&go, "").unwrap();
    until("the end of the actions", || !due());
    assert_eq!(
        fleet.read("out"),
        "<web-1.example>\n<x web-1 y>\n<web>\n<5h0m1s>\n<{:%what%:}>\n<$HOME;id>\n"
    );
}

#[test]
fn an_answer_waits_for_actions_where_that_is_wanted_but_not_for_ever() {
    let fleet = Fleet::new("");
    let (out, pids) = (fleet.path("out"), fleet.path("pids"));
    let quick = fleet.script("quick", &format!("echo done >> {out}"));
    let stubborn = fleet.script(
        "stubborn",
        &format!("trap '' TERM; (sleep 60 & echo $! >> {pids}; sleep 60); sleep 60"),
    );
    let config = |action: &str| {
        format!(
            "[gateway.goahead]\nwait_for_actions_secs = 1\naction_timeout_secs = 1\n{}",
            cluster(&format!("actions = [\"{action}\"]\n"))
        )
    };
    fleet.configure(&config(&quick));
    let gw = fleet.start();
    goes(&gw, "web-1", "5h");
    assert_eq!(fleet.read("out"), "done\n");
    drop(gw);
    fleet.configure(&config(&stubborn));
    let gw = fleet.start();
    let id = first(&gw, "web-1", "5h");
    let began = Instant::now();
    assert_eq!(request(&gw, "web-1", "5h", Some(&id)).json()["go_ahead"], true);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    until("the child", || !fleet.read("pids").is_empty());
    until("the end of the child", || !lives(&fleet.read("pids")));
}

#[test]
fn no_name_reaches_a_command_or_a_key_that_is_none() {
    let fleet = Fleet::new("");
    let out = fleet.path("out");
    let script = fleet.script("action", &format!("echo \"$@\" >> {out}"));
    fleet.configure(&format!(
        "[[gateway.goahead.cluster]]\nname = \"all\"\npattern = \".*\"\nactions = [\"{script} {{:%fqdn%:}} {{:%uptime%:}}\"]\nchecks = [\"{script} {{:%fqdn%:}}\"]\n"
    ));
    let gw = fleet.start();
    settled(&fleet);
    let written = fleet.revision();
    for fqdn in [
        "../all",
        "..",
        "a/b",
        "-rf",
        "a b",
        "a;id",
        "$(id)",
        "`id`",
        "a\"b",
        "a'b",
        "{:%uptime%:}",
        "a\nb",
        "a\u{0}b",
        "a\u{e9}",
        "\u{feff}a",
        "a%2f..",
        "*",
        "~",
        "a|b",
        "a&b",
        "a\\b",
    ] {
        for path in [super::client::REQUEST, super::client::INQUIRE] {
            let answer = super::client::post(&gw, path, fqdn, "5h", None);
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (400, "{\"error\":\"Invalid request payload\"}")
            );
        }
    }
    assert_eq!((fleet.revision(), fleet.read("out")), (written, String::new()));
    goes(&gw, "a", "+5h");
    until("the action", || fleet.read("out") == "a 5h\n");
    assert!(denied(&gw, "b", "5h").contains("Currently restarting hosts: a"));
}

#[test]
fn questions_of_strangers_keep_no_action_and_no_completion_check_waiting() {
    let fleet = Fleet::new("");
    let (log, go) = (fleet.path("log"), fleet.path("go"));
    let slow = fleet.script(
        "slow",
        &format!("echo x >> {log}; while [ -e {log} ] && [ ! -e {go} ]; do sleep 0.05; done"),
    );
    let acted = fleet.script("act", &format!("echo $1 >> {}", fleet.path("acted")));
    fleet.configure(&format!(
        "[gateway.goahead]\ncheck_timeout_secs = 600\n{}",
        cluster(&format!(
            "checks = [\"{slow}\"]\nactions = [\"{acted} {{:%fqdn%:}}\"]\ncompletion_check = \"true\"\n"
        ))
    ));
    let gw = fleet.start();
    // More than there is room for.
    let _asking: Vec<_> = (0..60)
        .map(|n| {
            let body = format!(r#"{{"fqdn":"web-x{n}","uptime":"5h"}}"#);
            let mut stream = gw.connect();
            let text = support::request("POST", INQUIRE, "", &body);
            stream.write_all(text.as_bytes()).unwrap();
            stream
        })
        .collect();
    until("all room to be taken", || fleet.read("log").lines().count() >= 16);
    goes(&gw, "web-1", "5h");
    until("the action", || fleet.read("acted") == "web-1\n");
    first(&gw, "web-1", "10s");
    until_free(&fleet);
    assert_eq!(fleet.read("log").lines().count(), 16, "they still run");
    std::fs::write(&go, "").unwrap();
}

#[test]
fn who_asks_again_and_again_takes_the_room_of_one() {
    let fleet = Fleet::new("");
    let (log, go) = (fleet.path("log"), fleet.path("go"));
    let action = fleet.script(
        "action",
        &format!("echo $1 >> {log}; while [ $1 = web-1 ] && [ -e {log} ] && [ ! -e {go} ]; do sleep 0.05; done"),
    );
    let group = "[[group]]\nname = \"web\"\nslots = 2\n";
    let actions = cluster(&format!("actions = [\"{action} {{:%fqdn%:}}\"]\n"));
    fleet.configure(&format!("{group}{actions}"));
    let gw = fleet.start();
    let id = first(&gw, "web-1", "5h");
    for _ in 0..40 {
        assert_eq!(request(&gw, "web-1", "5h", Some(&id)).json()["go_ahead"], true);
    }
    goes(&gw, "web-2", "5h");
    until("both actions", || {
        ["web-1\n", "web-2\n"].iter().all(|of| fleet.read("log").contains(of))
    });
    assert_eq!(fleet.read("log").matches("web-1").count(), 1);
    std::fs::write(&go, "").unwrap();
    // Of all that waited, the last go-ahead's run, and are written down to have ended.
    let due = || fleet.document("groups/web/holders/web-1").unwrap().contains("actionsDue");
    until("the end of the actions", || !due());
    assert_eq!(fleet.read("log").matches("web-1").count(), 2);
}

#[test]
fn a_completion_check_may_take_longer_than_the_checks_of_a_question() {
    let fleet = Fleet::new("");
    let (log, go) = (fleet.path("log"), fleet.path("go"));
    let check = fleet.script(
        "check",
        &format!("echo x >> {log}; while [ -e {log} ] && [ ! -e {go} ]; do sleep 0.05; done"),
    );
    let reason = fleet.script("reason", "sleep 60");
    let alarm = fleet.script("alarm", &format!("echo $1 >> {}", fleet.path("alarms")));
    let config = |limit: &str| {
        format!(
            "[gateway.goahead]\ncheck_timeout_secs = 1\n{limit}{}",
            cluster(&format!(
                "checks = [\"{reason}\"]\ncompletion_check = \"{check}\"\npanic_after_secs = 3\n\
                 panic_actions = [\"{alarm} {{:%fqdn%:}}\"]\n"
            ))
        )
    };
    fleet.configure(&config(""));
    let gw = fleet.start();
    goes(&gw, "web-1", "5h");
    inquire(&gw, "web-1", "10s");
    until("a check", || !fleet.read("log").is_empty());
    // For longer than a question's would, and the alarm does not wait for its end.
    inquire(&gw, "web-1", "12s");
    until("the alarm", || fleet.read("alarms") == "web-1\n");
    assert_eq!(fleet.read("log"), "x\n", "it was not cut off");
    std::fs::write(&go, "").unwrap();
    until_free(&fleet);
    assert_eq!(fleet.read("log"), "x\n");
    // But it has a limit.
    std::fs::remove_file(&go).unwrap();
    fleet.configure(&config("completion_check_timeout_secs = 1\n"));
    gw.signal(rustix::process::Signal::HUP);
    gw.logged("configuration read again");
    goes(&gw, "web-1", "5h");
    inquire(&gw, "web-1", "10s");
    gw.logged("did not end in time");
    gw.logged("a completion check says nothing");
}

#[test]
fn commands_run_in_the_root_or_where_they_are_told_to() {
    let fleet = Fleet::new("");
    let script = fleet.script("where", &format!("pwd >> {}", fleet.path("out")));
    let folder = fleet.path("folder");
    std::fs::create_dir(&folder).unwrap();
    let actions = cluster(&format!("actions = [\"{script}\"]\n"));
    let waits = "[gateway.goahead]\nwait_for_actions_secs = 20\n";
    fleet.configure(&format!("{waits}{actions}"));
    let gw = fleet.start();
    goes(&gw, "web-1", "5h");
    assert_eq!(fleet.read("out"), "/\n");
    fleet.configure(&format!("{waits}working_dir = {folder:?}\n{actions}"));
    gw.signal(rustix::process::Signal::HUP);
    gw.logged("configuration read again");
    goes(&gw, "web-1", "5h");
    assert_eq!(fleet.read("out"), format!("/\n{folder}\n"));
}
