//! The daemon as a client of FleetLock servers: our gateway as a process on SQLite, and one of another
//! kind that speaks the protocol and no more, or misbehaves.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::os::unix::fs::PermissionsExt as _;

use rebootlock::record::Via;
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, SOON, ctl};
use rebootlock_tests::fleetlock::{Gateway, Misdeed, Plain};
use rebootlock_tests::pki::Pki;
use rebootlock_tests::process::Process;

/// A server that does not hold requests is asked often.
const CONFIG: &str = "[agent]\npoll_secs = 1\n[store]\ntimeout_secs = 1\n";

/// Only a request that is held finds a slot within a test.
const PATIENT: &str = "[agent]\npoll_secs = 600\n";

async fn wanting(id: &str, endpoint: &[String], config: &str) -> Member {
    let mut member = Member::new(id, endpoint, config).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_becomes_a_reboot_and_a_freed_slot_through_a_gateway() {
    let gateway = Gateway::start().await.unwrap();
    let look = gateway.look().unwrap();
    let id = "35ba2101ae3f4d45b96e9c51f461bbff";
    let machine_id = "dfd7882acda64c34aca76193c46f5d4e";
    let mut member = wanting(machine_id, &gateway.endpoint(), PATIENT).await;
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    let record = look.record(id).await.unwrap().unwrap();
    assert_eq!(record.via, Some(Via::Fleetlock));
    let held = format!(r#"{{"semaphore":0,"max":1,"holders":["{id}"]}}"#);
    assert_eq!(look.semaphore_text().await.unwrap(), held);
    // Going down stops the daemon, and frees nothing.
    member.agent().unwrap().signal(rebootlock_tests::process::Signal::TERM).unwrap();
    assert!(member.agent().unwrap().wait_exit(SOON).await.unwrap().success());
    assert_eq!(look.semaphore_text().await.unwrap(), held);
    member.go_down_and_come_back().await.unwrap();
    member.wait_log("slot given back").await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.machine.logind.reboots(), 1);
    assert_eq!(member.count_log("back after the reboot").unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_both_ends_know_each_other_or_nothing_reboots() {
    let pki = Pki::new().unwrap();
    let tls = format!(
        "[gateway]\ntls_cert_file = {:?}\ntls_key_file = {:?}\nclient_ca_file = {:?}\n",
        pki.server_cert(),
        pki.server_key(),
        pki.ca()
    );
    let gateway = Gateway::with_config(&tls).await.unwrap();
    let look = gateway.look().unwrap();
    let endpoint = [format!("fleetlock+https://{}/", gateway.address())];
    let client =
        format!("cert_file = {:?}\nkey_file = {:?}\n", pki.client_cert(), pki.client_key());
    let config = |more: &str| format!("{CONFIG}{more}");
    for (store, said) in [
        (format!("ca_file = {:?}\n{client}", pki.other_ca()), "UnknownIssuer"),
        (format!("ca_file = {:?}\n", pki.ca()), "CertificateRequired"),
    ] {
        let stranger = wanting("web-1", &endpoint, &config(&store)).await;
        stranger.wait_status(said).await.unwrap();
        assert_eq!(stranger.machine.logind.reboots(), 0);
    }
    assert!(look.semaphore_text().await.is_err(), "nobody has got as far as the store");
    let good = config(&format!("ca_file = {:?}\n{client}", pki.ca()));
    let mut member = wanting("web-1", &endpoint, &good).await;
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    let held = r#"{"semaphore":0,"max":1,"holders":["web-1"]}"#;
    assert_eq!(look.semaphore_text().await.unwrap(), held);
    member.come_back_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.machine.logind.reboots(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_share_one_slot_and_the_second_gets_it_at_once() {
    let mut gateway = Gateway::start().await.unwrap();
    let look = gateway.look().unwrap();
    let mut first = wanting("web-1", &gateway.endpoint(), PATIENT).await;
    first.machine.logind.wait_reboot(SOON).await.unwrap();
    let mut second = wanting("web-2", &gateway.endpoint(), PATIENT).await;
    look.wait_queue(1).await.unwrap();
    assert_eq!(second.machine.logind.reboots(), 0);
    first.come_back_and_give_back().await.unwrap();
    second.machine.logind.wait_reboot(SOON).await.unwrap();
    // The gateway is away while the second is down, and for a while after.
    gateway.kill().await.unwrap();
    second.go_down_and_come_back().await.unwrap();
    second.wait_log("cannot give the slot back").await.unwrap();
    gateway.resume().await.unwrap();
    second.wait_log("slot given back").await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!((first.machine.logind.reboots(), second.machine.logind.reboots()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_asked_until_it_is_back() {
    let mut gateway = Gateway::start().await.unwrap();
    gateway.kill().await.unwrap();
    let mut member = wanting("web-1", &gateway.endpoint(), CONFIG).await;
    member.wait_status("cannot connect to").await.unwrap();
    gateway.resume().await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    gateway.look().unwrap().wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_200_reboots_a_machine() {
    let server = Plain::start(1).await.unwrap();
    server.misbehave("pre-reboot", Misdeed::Says("HTTP/1.1 204 No Content\r\n\r\n"));
    let mut member = wanting("web-1", &server.endpoint(), CONFIG).await;
    for (answer, said) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", "answers 204; nothing but 200 is a yes"),
        ("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", "answers 202; nothing but"),
        (
            "HTTP/1.1 302 Found\r\nLocation: /base/ok\r\nContent-Length: 0\r\n\r\n",
            "answers 302; redirects are not followed",
        ),
        (
            "HTTP/1.1 307 Found\r\nLocation: /base/v1/steady-state\r\nContent-Length: 0\r\n\r\n",
            "answers 307; redirects are not followed",
        ),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nwhat", "answers 404"),
        ("HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n", "answers 503"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "the answer breaks off"),
        ("ok", "no answer: "),
    ] {
        server.misbehave("pre-reboot", Misdeed::Says(answer));
        member.wait_status(said).await.unwrap();
        server.wait_asked("pre-reboot web-1", 1).await.unwrap();
    }
    assert_eq!((member.machine.logind.reboots(), server.holders().len()), (0, 0));
    // Rubbish under a 200 is a yes all the same: bodies are nowhere laid down.
    let rubbish = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html";
    server.misbehave("pre-reboot", Misdeed::Says(rubbish));
    member.reboot_and_give_back().await.unwrap();
    assert_eq!(server.asked("nonsense web-1"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_are_asked_for_again() {
    let server = Plain::start(1).await.unwrap();
    server.misbehave("pre-reboot", Misdeed::CutsOff);
    let mut member = wanting("web-1", &server.endpoint(), CONFIG).await;
    member.wait_status("no answer: ").await.unwrap();
    assert_eq!(server.holders(), ["web-1"]);
    assert_eq!(member.machine.logind.reboots(), 0);
    server.behave();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    for misdeed in [Misdeed::CutsOff, Misdeed::Hangs] {
        server.misbehave("steady-state", misdeed);
        if member.machine.logind.reboots() == 1 && misdeed == Misdeed::CutsOff {
            member.go_down_and_come_back().await.unwrap();
        }
        server.wait_asked("steady-state web-1", 2).await.unwrap();
    }
    assert_eq!(member.count_log("slot given back").unwrap(), 0);
    server.behave();
    member.wait_log("slot given back").await.unwrap();
    assert_eq!(server.holders(), [""; 0]);
    assert_eq!((member.machine.logind.reboots(), server.grants().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_kind_serves_one_machine_after_the_other() {
    let server = Plain::start(1).await.unwrap();
    let mut fleet = Vec::new();
    for id in ["web-1", "web-2", "web-3"] {
        fleet.push(wanting(id, &server.endpoint(), CONFIG).await);
    }
    let through = fleet.iter_mut().map(async |member| {
        member.machine.logind.wait_reboot(SOON).await.unwrap();
        assert_eq!(server.holders(), [member.machine.id()]);
        member.come_back_and_give_back().await.unwrap();
    });
    futures::future::join_all(through).await;
    let mut grants = server.grants();
    grants.sort();
    assert_eq!(grants, ["web-1", "web-2", "web-3"]);
    assert!(server.holders().is_empty());
}

/// A pre-reboot hook that waits until the test lets it go.
struct Hook {
    dir: tempfile::TempDir,
}

impl Hook {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["pre", "post"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
        let script = dir.path().join("pre/10-wait");
        let text = format!(
            "#!/bin/sh\n: > {}\nuntil test -e {}; do sleep 0.05; done\n",
            begun.display(),
            go.display()
        );
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn config(&self) -> String {
        let dir = self.dir.path().display();
        format!("[hooks]\npre_reboot_dir = \"{dir}/pre\"\npost_reboot_dir = \"{dir}/post\"\n")
    }

    async fn begun(&self) {
        eventually("the hook runs", SOON, async || {
            let begun = self.dir.path().join("begun").exists();
            if begun { Ok(()) } else { Err("not yet") }
        })
        .await
        .unwrap();
    }

    fn go(&self) {
        std::fs::write(self.dir.path().join("go"), "").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_between_the_grant_and_the_permit_stops_the_reboot() {
    let gateway = Gateway::start().await.unwrap();
    let look = gateway.look().unwrap();
    let hook = Hook::new();
    let config = format!("{PATIENT}{}", hook.config());
    let mut member = wanting("web-1", &gateway.endpoint(), &config).await;
    hook.begun().await;
    look.pause("ann", "sales week").await.unwrap();
    hook.go();
    let said = member.wait_log("no permit").await.unwrap();
    assert!(said.contains("failed_lock_paused") && said.contains("sales week"), "{said}");
    member.wait_log("slot given back").await.unwrap();
    look.wait_free().await.unwrap();
    member.wait_status("failed_lock_paused").await.unwrap();
    assert_eq!(member.machine.logind.reboots(), 0);
    look.resume().await.unwrap();
    member.reboot_and_give_back().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_went_to_another_meanwhile_is_not_rebooted_with() {
    let server = Plain::start(1).await.unwrap();
    let hook = Hook::new();
    // After this long, a failure counts as a no.
    let config = format!("{CONFIG}{}", hook.config())
        .replace("poll_secs = 1", "poll_secs = 1\ninhibit_timeout_secs = 2");
    let mut first = wanting("web-1", &server.endpoint(), &config).await;
    hook.begun().await;
    server.forget();
    let mut second = wanting("web-2", &server.endpoint(), CONFIG).await;
    second.machine.logind.wait_reboot(SOON).await.unwrap();
    hook.go();
    first.wait_log("cannot get the permit to reboot").await.unwrap();
    first.wait_log("did not say for too long").await.unwrap();
    first.wait_log("slot given back").await.unwrap();
    assert_eq!(first.machine.logind.reboots(), 0);
    assert_eq!(server.holders(), ["web-2"]);
    second.come_back_and_give_back().await.unwrap();
    first.reboot_and_give_back().await.unwrap();
    assert!(server.holders().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_is_withdrawn_while_waiting_leaves_nothing_behind() {
    let gateway = Gateway::start().await.unwrap();
    let look = gateway.look().unwrap();
    look.lock("db-1").await.unwrap();
    let mut member = wanting("web-1", &gateway.endpoint(), PATIENT).await;
    look.wait_queue(1).await.unwrap();
    member.machine.update_engine.idle().await.unwrap();
    look.wait_queue(0).await.unwrap();
    look.unlock("db-1").await.unwrap();
    member.wait_log("Idle").await.unwrap();
    look.wait_free().await.unwrap();
    // And again, if it is wanted again.
    member.machine.update_engine.need_reboot().await.unwrap();
    member.reboot_and_give_back().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_memory_a_slot_is_given_back_and_none_is_asked_for() {
    let server = Plain::start(1).await.unwrap();
    let mut member = wanting("web-1", &server.endpoint(), CONFIG).await;
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    member.kill().await.unwrap();
    member.machine.new_boot().await.unwrap();
    std::fs::remove_file(member.machine.state_dir().join("agent.json")).unwrap();
    member.start().await.unwrap();
    server.wait_free().await.unwrap();
    member.kill().await.unwrap();
    // A folder in the way of the file: root writes everywhere else.
    std::fs::create_dir(member.machine.state_dir().join("agent.json.new")).unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.start().await.unwrap();
    member.wait_status("it cannot be remembered").await.unwrap();
    assert_eq!(server.grants().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_takes_the_slot_and_gives_it_back() {
    let gateway = Gateway::start().await.unwrap();
    let look = gateway.look().unwrap();
    let member = Member::new("web-1", &gateway.endpoint(), PATIENT).await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    let pass = async || {
        let mut command = member.command().unwrap();
        let out = command.args(["--once", "--output", "json"]).output().await.unwrap();
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        (out.status.code(), report["outcome"].as_str().unwrap().to_owned())
    };
    assert_eq!(pass().await, (Some(0), "ready".to_owned()));
    look.wait_free().await.unwrap();
    look.lock("db-1").await.unwrap();
    assert_eq!(pass().await, (Some(4), "lock_unavailable".to_owned()));
    look.wait_queue(0).await.unwrap();
    look.pause("ann", "sales week").await.unwrap();
    assert_eq!(pass().await, (Some(5), "paused".to_owned()));
    assert_eq!(member.machine.logind.reboots(), 0);
}

/// Its own word for a full group, a lost race and whatever else.
#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_airlock_refuses_ends_as_any_that_gets_no_slot() {
    let server = Plain::start(0).await.unwrap();
    let member = Member::new("web-1", &server.endpoint(), CONFIG).await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    // The second is not kept waiting for what became of the first.
    for _ in 0..2 {
        let mut command = member.command().unwrap();
        let out = command.args(["--once", "--output", "json"]).output().await.unwrap();
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!((out.status.code(), &report["outcome"]), (Some(4), &"lock_unavailable".into()));
    }
    assert_eq!(server.asked("pre-reboot web-1"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_airlock_is_waited_for_without_alarm() {
    let server = Plain::start(0).await.unwrap();
    let config = CONFIG.replace("poll_secs = 1", "poll_secs = 600");
    let mut member = wanting("web-1", &server.endpoint(), &config).await;
    let said = member.wait_status("semaphore currently full").await.unwrap();
    assert!(said.contains("answers 500 failed_lock"), "{said}");
    // A server that fails is complained of.
    assert_eq!(member.count_log("waiting for a slot").unwrap(), 0);
    assert_eq!(member.machine.logind.reboots(), 0);
}

const BEST_EFFORT: &str = "[agent]\nstrategy = \"best-effort\"\nbest_effort_wait_secs = 1\n\
                           poll_secs = 1\n[store]\ntimeout_secs = 1\n";

/// Asked often enough to have had its patience, had that counted.
async fn still_waits(member: &mut Member, server: &Plain) {
    server.wait_asked("pre-reboot web-1", 5).await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
    assert_eq!(member.count_log("rebooting without a slot").unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn best_effort_does_without_a_slot_only_if_nobody_can_be_asked() {
    let server = Plain::start(0).await.unwrap();
    let says = |kind: &str| {
        let body = format!(r#"{{"kind":"{kind}","value":"so it is"}}"#);
        let length = body.len();
        Misdeed::Says(format!("HTTP/1.1 503 X\r\nContent-Length: {length}\r\n\r\n{body}").leak())
    };
    server.misbehave("pre-reboot", says("overloaded"));
    let mut member = wanting("web-1", &server.endpoint(), BEST_EFFORT).await;
    for kind in ["overloaded", "store_busy"] {
        server.misbehave("pre-reboot", says(kind));
        member.wait_status(kind).await.unwrap();
        still_waits(&mut member, &server).await;
    }
    server.misbehave("pre-reboot", says("store_unavailable"));
    member.wait_log("rebooting without a slot, as best-effort says").await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn best_effort_has_no_slot_to_do_without_where_a_document_is_damaged() {
    let mut gateway = Gateway::start().await.unwrap();
    let look = gateway.look().unwrap();
    look.put_semaphore("{").await.unwrap();
    let member = wanting("web-1", &gateway.endpoint(), BEST_EFFORT).await;
    member.wait_status("store_damaged").await.unwrap();
    let once = async || {
        let other = Member::new("web-2", &gateway.endpoint(), BEST_EFFORT).await.unwrap();
        other.machine.update_engine.need_reboot().await.unwrap();
        let mut command = other.command().unwrap();
        command.args(["--once", "--output", "json"]).output().await.unwrap().status.code()
    };
    // Each asks the server anew, while the first is past its patience.
    for _ in 0..3 {
        assert_eq!(once().await, Some(1));
    }
    assert_eq!(member.machine.logind.attempts(), 0);
    gateway.kill().await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_or_a_login_page_under_a_200_reboots_nothing_and_gives_nothing_back() {
    const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\
                        Content-Length: 21\r\n\r\n<html>Log in</html>\r\n";
    const FULL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 51\r\n\r\n\
                        {\"kind\":\"failed_lock_semaphore_full\",\"value\":\"all\"}";
    let server = Plain::start(1).await.unwrap();
    server.misbehave("pre-reboot", Misdeed::Says(PAGE));
    let mut member = wanting("web-1", &server.endpoint(), CONFIG).await;
    for (answer, said) in [(PAGE, "a page for people"), (FULL, "a refusal is no yes")] {
        server.misbehave("pre-reboot", Misdeed::Says(answer));
        member.wait_status(said).await.unwrap();
        server.wait_asked("pre-reboot web-1", 2).await.unwrap();
    }
    assert_eq!(member.machine.logind.attempts(), 0);
    server.behave();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    server.misbehave("steady-state", Misdeed::Says(PAGE));
    member.go_down_and_come_back().await.unwrap();
    server.wait_asked("steady-state web-1", 2).await.unwrap();
    assert_eq!(member.count_log("slot given back").unwrap(), 0);
    server.behave();
    member.wait_log("slot given back").await.unwrap();
    assert!(server.holders().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_store_says_so() {
    let gateway = Gateway::start().await.unwrap();
    for words in [&["status"][..], &["lock", "web-1"], &["pause"], &["queue"]] {
        let ran = ctl(&gateway.endpoint(), words).await.unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains("is a FleetLock server"), "{words:?}: {said}");
    }
    let member = Member::new("web-1", &gateway.endpoint(), PATIENT).await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    let binary = rebootlock_tests::binaries::path("rebootlockd").unwrap();
    let run = async |words: &[&str]| {
        let mut command = member.machine.command(&binary);
        command.args(words).args(["--endpoint", &gateway.endpoint()[0]]);
        command.arg("--machine-id-file").arg(member.machine.machine_id_file());
        command.arg("--boot-id-file").arg(member.machine.boot_id_file());
        let out = command.args(["--config", "/dev/null"]).output().await.unwrap();
        let said = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
        (out.status.code(), said)
    };
    let state = member.machine.state_dir();
    let (code, said) = run(&["status", "--state-dir", state.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("lock_skipped: ") && said.contains("only asking tells"), "{said}");
    let (code, said) = run(&["simulate"]).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(&["validate-config"]).await;
    assert!(code == Some(0) && said.contains("configuration is valid"), "{said}");
    let (code, said) = run(&["validate-config", "--group", "a,b"]).await;
    assert!(code == Some(2) && said.contains("one group at a time"), "{said}");
}

/// How the machine is after the death of its daemon.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    SameBoot,
    NewBoot,
}

use Then::{NewBoot, SameBoot};

async fn dies(member: &Member, point: &str) {
    use std::os::unix::process::ExitStatusExt as _;
    let mut command = member.command().unwrap();
    command.env("REBOOTLOCK_FAILPOINT", point);
    let mut doomed = Process::spawn(member.machine.id(), command).unwrap();
    let status = doomed.wait_exit(SOON).await.unwrap();
    assert_eq!(status.signal(), Some(9), "at {point}");
}

/// `web-1` dies at `point`, `web-2` wants the same slot; both get through in the end, and `web-1` with
/// so many reboots.
async fn crash(point: &str, then: Then, reboots: usize) {
    let server = Plain::start(1).await.unwrap();
    let config = format!("{CONFIG}[reboot]\n").replace("[agent]", "[agent]\nwarn_users_secs = 1");
    let mut first = Member::new("web-1", &server.endpoint(), &config).await.unwrap();
    let mut second = Member::new("web-2", &server.endpoint(), &config).await.unwrap();
    first.machine.logind.add_session("ann", "").await.unwrap();
    first.machine.update_engine.need_reboot().await.unwrap();
    let returning = matches!(point, "before-release" | "released");
    if returning {
        first.start().await.unwrap();
        first.machine.logind.wait_reboot(SOON).await.unwrap();
        first.kill().await.unwrap();
        first.machine.new_boot().await.unwrap();
    }
    dies(&first, point).await;
    second.start().await.unwrap();
    second.machine.update_engine.need_reboot().await.unwrap();
    if then == NewBoot {
        first.machine.new_boot().await.unwrap();
    }
    first.start().await.unwrap();
    if point == "ordered" && then == SameBoot {
        first.wait_log("GoingDown").await.unwrap();
    }
    let first_gets_through = async {
        if !returning && then == SameBoot {
            first.reboot_and_give_back().await.unwrap();
        }
    };
    futures::future::join(first_gets_through, async {
        second.reboot_and_give_back().await.unwrap()
    })
    .await;
    server.wait_free().await.unwrap();
    assert_eq!(first.machine.logind.reboots(), reboots);
    assert_eq!(second.machine.logind.reboots(), 1);
    assert_eq!(server.grants().iter().filter(|id| *id == "web-2").count(), 1);
}

macro_rules! crashes {
    ($($name:ident: $point:literal, $then:ident, $reboots:literal;)+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            crash($point, $then, $reboots).await;
        }
    )+};
}

crashes! {
    queued_then_restarted: "queued", SameBoot, 1;
    queued_then_booted: "queued", NewBoot, 0;
    slot_granted_then_restarted: "slot-granted", SameBoot, 1;
    slot_granted_then_booted: "slot-granted", NewBoot, 0;
    draining_then_restarted: "draining", SameBoot, 1;
    draining_then_booted: "draining", NewBoot, 0;
    before_permit_then_restarted: "before-permit", SameBoot, 1;
    before_permit_then_booted: "before-permit", NewBoot, 0;
    permitted_then_restarted: "permitted", SameBoot, 1;
    permitted_then_booted: "permitted", NewBoot, 0;
    ordered_then_restarted_while_going_down: "ordered", SameBoot, 1;
    ordered_then_booted: "ordered", NewBoot, 1;
    before_release_then_restarted: "before-release", SameBoot, 1;
    before_release_then_booted: "before-release", NewBoot, 1;
    released_then_restarted: "released", SameBoot, 1;
    released_then_booted: "released", NewBoot, 1;
}
