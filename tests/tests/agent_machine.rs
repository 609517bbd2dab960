//! The daemon and its machine: update-engine and logind in all their moods, users, windows,
//! strategies, systemd.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::SystemTime;

use rebootlock::id::{Group, MachineId};
use rebootlock::record::HolderState;
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, Onlooker, SOON};
use rebootlock_tests::machine::logind::RebootFailure;
use rebootlock_tests::machine::update_engine::{self, Answers, NEED_REBOOT};
use rebootlock_tests::process::{Process, Signal};

const CONFIG: &str = "[agent]\npoll_secs = 1\n";

/// Nothing listens there.
const NO_STORE: &str = "http://127.0.0.1:1";

/// A machine, and a store beside it that has no faults of its own.
struct Setting {
    look: Onlooker,
    member: Member,
    _folder: tempfile::TempDir,
}

async fn set_up(config: &str) -> Setting {
    let folder = tempfile::tempdir().unwrap();
    let endpoints = [format!("sqlite:{}", folder.path().join("lock.db").display())];
    let look = Onlooker::new(&endpoints).unwrap();
    let member = Member::new("web-1", &endpoints, config).await.unwrap();
    Setting { look, member, _folder: folder }
}

fn coordinator(member: &Member) -> String {
    std::fs::read_to_string(member.machine.coordinator_file()).unwrap_or_default()
}

async fn wait_coordinator(member: &Member, state: &str) {
    let wanted = format!("STATE={state}\n");
    eventually(&wanted, SOON, async || {
        let text = coordinator(member);
        if text.contains(&wanted) { Ok(()) } else { Err(text) }
    })
    .await
    .unwrap();
}

/// `[[window]]` in UTC that opened or opens so many hours from the present full hour.
fn window(hours_from_now: u64, length: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let hour = (now / 3600 + hours_from_now) % 24;
    format!("[[window]]\nstart = \"{hour:02}:00\"\nlength = \"{length}\"\n")
}

/// Closed for hours to come.
fn closed() -> String {
    format!("{CONFIG}{}", window(12, "1h"))
}

/// Open for hours to come.
fn open() -> String {
    format!("{CONFIG}{}", window(12, "23h"))
}

async fn start_in_utc(member: &mut Member) {
    let mut command = member.command().unwrap();
    command.env("TZ", "UTC");
    member.start_with(command).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_engine_that_comes_late_is_heard_and_its_absence_said_once() {
    let Setting { look, mut member, _folder } = set_up(CONFIG).await;
    member.machine.update_engine.stop().await;
    member.machine.update_engine.need_reboot().await.unwrap();
    member.start().await.unwrap();
    member.wait_log("update-engine is not on the bus").await.unwrap();
    member.wait_status("no reboot is wanted").await.unwrap();
    member.machine.update_engine.start().await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert_eq!(member.count_log("is not on the bus").unwrap(), 1);
    member.come_back_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_update_engine_requests_still_work() {
    let Setting { look, mut member, _folder } = set_up(CONFIG).await;
    member.machine.update_engine.stop().await;
    member.start().await.unwrap();
    let request = look.locks.keys().request(&MachineId::new("web-1").unwrap());
    look.put(request, r#"{"by":"ann","since":1397496396}"#).await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_outlasts_update_engines_absence_and_ends_with_its_word() {
    let Setting { look, mut member, _folder } = set_up(CONFIG).await;
    look.lock("db-1").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_queue(1).await.unwrap();
    member.machine.update_engine.stop().await;
    member.wait_log("update-engine has left the bus").await.unwrap();
    look.wait_queue(1).await.unwrap();
    member.machine.update_engine.idle().await.unwrap();
    member.machine.update_engine.start().await.unwrap();
    look.wait_queue(0).await.unwrap();
    member.wait_status("no reboot is wanted").await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_cannot_be_had_is_asked_for_again() {
    for answers in [Answers::Failing, Answers::Mistyped] {
        let Setting { mut member, _folder, look: _ } = set_up(CONFIG).await;
        member.machine.update_engine.need_reboot().await.unwrap();
        member.machine.update_engine.set_answers(answers).await.unwrap();
        member.start().await.unwrap();
        member.wait_log("update-engine does not tell its status").await.unwrap();
        member.machine.update_engine.set_answers(Answers::Truly).await.unwrap();
        member.machine.logind.wait_reboot(SOON).await.unwrap();
        assert_eq!(member.count_log("does not tell its status").unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_of_another_type_is_ignored_and_one_of_the_same_user_is_heard() {
    let Setting { mut member, _folder, look: _ } = set_up(CONFIG).await;
    member.start().await.unwrap();
    member.wait_status("no reboot is wanted").await.unwrap();
    let client = member.machine.bus.connect().await.unwrap();
    let (path, interface) = (update_engine::PATH, update_engine::INTERFACE);
    let nobody = None::<&str>;
    let wrong = (NEED_REBOOT, 7u32);
    client.emit_signal(nobody, path, interface, "StatusUpdate", &wrong).await.unwrap();
    member.wait_log("ignored: a StatusUpdate signal that is none").await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
    let right = (1_700_000_000_i64, 1.0_f64, NEED_REBOOT, "9999.0.0", 0_i64);
    client.emit_signal(nobody, path, interface, "StatusUpdate", &right).await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_restarts_is_connected_to_again() {
    let Setting { look, mut member, _folder } = set_up("[agent]\nwarn_users_secs = 3\n").await;
    member.machine.logind.add_session("ann", "").await.unwrap();
    member.start().await.unwrap();
    member.wait_status("no reboot is wanted").await.unwrap();
    member.machine.restart_bus().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_state("web-1", &HolderState::Draining).await.unwrap();
    // Now logind's connection breaks too.
    member.machine.restart_bus().await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inhibitor_is_named_and_does_not_keep_the_slot_from_others() {
    let config = "[agent]\npoll_secs = 1\ninhibit_timeout_secs = 1\n";
    let Setting { look, mut member, _folder } = set_up(config).await;
    let logind = &member.machine.logind;
    let id = logind.add_inhibitor("shutdown", "backup", "still writing", "block").await.unwrap();
    // One that only delays is logind's to wait for.
    logind.add_inhibitor("shutdown", "cups", "printing", "delay").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    let said = member.wait_log("the reboot is held up").await.unwrap();
    assert!(
        said.contains("inhibited by backup: still writing") && !said.contains("cups"),
        "{said}"
    );
    member
        .machine
        .notify
        .wait_for(|message| message.contains("inhibited by backup: still writing"), SOON)
        .await
        .unwrap();
    member.wait_log("slot given back").await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
    member.machine.logind.remove_inhibitor(id).await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_reboot_keeps_the_slot_and_is_ordered_again() {
    let config = "[agent]\npoll_secs = 1\nreboot_deadline_secs = 1\n";
    let Setting { look, mut member, _folder } = set_up(config).await;
    let denied = "org.freedesktop.DBus.Error.AccessDenied".to_owned();
    let failure = RebootFailure::Error(denied, "not today".to_owned());
    member.machine.logind.fail_reboots(Some(failure));
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    let said = member.wait_log("the order to reboot failed; the slot is kept").await.unwrap();
    assert!(said.contains("not today"), "{said}");
    look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    member.machine.logind.wait_attempts(2, SOON).await.unwrap();
    look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    member.machine.logind.fail_reboots(None);
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.machine.logind.reboots(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_from_a_machine_that_goes_down_all_the_same_orders_nothing_twice() {
    let config = "[agent]\npoll_secs = 1\nreboot_deadline_secs = 1\n";
    let Setting { look, mut member, _folder } = set_up(config).await;
    member.machine.logind.fail_next_reboot(RebootFailure::ErrorThoughRebooting);
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_log("the machine should be down by now").await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 1);
    look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_window_takes_no_slot_and_a_reload_opens_it() {
    let Setting { look, mut member, _folder } = set_up(&closed()).await;
    start_in_utc(&mut member).await;
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_status("a reboot is wanted; the reboot window opens").await.unwrap();
    wait_coordinator(&member, "reboot-planned").await;
    let status = look.locks.status(&Group::default()).await.unwrap();
    assert!(!status.exists && status.queue.is_empty());
    member.configure(&open()).unwrap();
    member.agent().unwrap().signal(Signal::HUP).unwrap();
    member.wait_log("configuration read again").await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_window_closes_goes_back() {
    let config = format!("[agent]\nwarn_users_secs = 300\n{}", window(12, "23h"));
    let Setting { look, mut member, _folder } = set_up(&config).await;
    member.machine.logind.add_session("ann", "").await.unwrap();
    start_in_utc(&mut member).await;
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_state("web-1", &HolderState::Draining).await.unwrap();
    member.configure(&closed()).unwrap();
    member.agent().unwrap().signal(Signal::HUP).unwrap();
    member.wait_log("the reboot window has closed").await.unwrap();
    look.wait_free().await.unwrap();
    member.wait_status("the reboot window opens").await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_reload_changes_nothing_and_says_what_is_wrong() {
    let Setting { look, mut member, _folder } = set_up(CONFIG).await;
    member.start().await.unwrap();
    member.wait_status("no reboot is wanted").await.unwrap();
    member.configure("[agnet]\npoll_secs = 1\n").unwrap();
    member.agent().unwrap().signal(Signal::HUP).unwrap();
    let said = member.wait_log("the old settings stay in force").await.unwrap();
    assert!(said.contains("rebootlock.toml:1:2: unknown table `agnet`"), "{said}");
    assert!(said.contains("did you mean `agent`?"), "{said}");
    assert!(member.agent().unwrap().is_running());
    member.configure(CONFIG).unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn strategy_reboot_needs_no_store() {
    let config = "[agent]\nstrategy = \"reboot\"\n[store]\ntimeout_secs = 1\n";
    let mut member = Member::new("web-1", &[NO_STORE.to_owned()], config).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert!(coordinator(&member).contains("STRATEGY=reboot\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn strategy_off_never_reboots_until_it_is_changed() {
    let Setting { look, mut member, _folder } = set_up("[agent]\nstrategy = \"off\"\n").await;
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_status("switched off; this machine is never rebooted").await.unwrap();
    wait_coordinator(&member, "disabled").await;
    assert!(!look.locks.status(&Group::default()).await.unwrap().exists);
    assert_eq!(member.machine.logind.attempts(), 0);
    member.configure(CONFIG).unwrap();
    member.agent().unwrap().signal(Signal::HUP).unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn strategy_best_effort_uses_the_lock_if_there_is_one_and_reboots_if_not() {
    let config = "[agent]\nstrategy = \"best-effort\"\nbest_effort_wait_secs = 1\n[store]\ntimeout_secs = 1\n";
    let Setting { look, mut member, _folder } = set_up(config).await;
    look.lock("db-1").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_status("1 of 1 held by db-1").await.unwrap();
    look.unlock("db-1").await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();

    let mut alone = Member::new("web-2", &[NO_STORE.to_owned()], config).await.unwrap();
    alone.start().await.unwrap();
    alone.machine.update_engine.need_reboot().await.unwrap();
    alone.wait_log("rebooting without a slot, as best-effort says").await.unwrap();
    alone.machine.logind.wait_reboot(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_does_everything_but_reboot() {
    let Setting { look, mut member, _folder } = set_up(CONFIG).await;
    let mut command = member.command().unwrap();
    command.arg("--dry-run");
    member.start_with(command).await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_log("dry run: the reboot would be ordered now").await.unwrap();
    member.wait_log("slot given back").await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
    // It does not start over as long as the same thing is wanted.
    member.agent().unwrap().signal(Signal::TERM).unwrap();
    assert!(member.agent().unwrap().wait_exit(SOON).await.unwrap().success());
    assert_eq!(member.count_log("dry run: the reboot would").unwrap(), 1);
}

/// The exit code of one pass.
async fn once(member: &Member) -> i32 {
    let mut command = member.command().unwrap();
    command.arg("--once").env("TZ", "UTC");
    let mut process = Process::spawn("once", command).unwrap();
    process.wait_exit(SOON).await.unwrap().code().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pass_says_by_its_exit_code_why_it_did_not_reboot() {
    let config = "[agent]\npoll_secs = 1\ninhibit_timeout_secs = 1\n";
    let Setting { look, mut member, _folder } = set_up(config).await;
    assert_eq!(once(&member).await, 0, "nothing is wanted");
    member.machine.update_engine.need_reboot().await.unwrap();

    member.configure(&closed()).unwrap();
    assert_eq!(once(&member).await, 3, "closed window");
    member.configure(config).unwrap();

    let inhibitor = member.machine.logind.add_inhibitor("shutdown", "a", "b", "block");
    let inhibitor = inhibitor.await.unwrap();
    assert_eq!(once(&member).await, 3, "inhibited");
    look.wait_free().await.unwrap();
    member.machine.logind.remove_inhibitor(inhibitor).await.unwrap();

    look.lock("db-1").await.unwrap();
    assert_eq!(once(&member).await, 4, "no slot");
    look.unlock("db-1").await.unwrap();
    assert!(look.locks.status(&Group::default()).await.unwrap().queue.is_empty());

    look.pause("ann", "audit").await.unwrap();
    assert_eq!(once(&member).await, 5, "paused");
    look.resume().await.unwrap();

    assert_eq!(once(&member).await, 0, "ready");
    look.wait_free().await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
    member.start().await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    member.kill().await.unwrap();
    member.machine.new_boot().await.unwrap();
    assert_eq!(once(&member).await, 0, "back");
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_conf_follows_the_daemon_and_a_second_one_is_refused() {
    let Setting { look, mut member, _folder } = set_up(CONFIG).await;
    member.start().await.unwrap();
    wait_coordinator(&member, "running").await;
    let mut second = Process::spawn("second", member.command().unwrap()).unwrap();
    assert_eq!(second.wait_exit(SOON).await.unwrap().code(), Some(1));
    let said = second.stderr().lines().join("\n");
    assert!(said.contains("another reboot coordinator (locksmithd?) is running"), "{said}");
    look.lock("db-1").await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    wait_coordinator(&member, "reboot-planned").await;
    look.unlock("db-1").await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert_eq!(coordinator(&member), "NAME=rebootlockd\nSTATE=rebooting\nSTRATEGY=etcd-lock\n");
    member.come_back_and_give_back().await.unwrap();
    wait_coordinator(&member, "running").await;

    let mut waiting = Member::new("web-2", &[NO_STORE.to_owned()], CONFIG).await.unwrap();
    waiting.start().await.unwrap();
    wait_coordinator(&waiting, "starting").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_while_it_waits_it_leaves_the_queue() {
    let Setting { look, mut member, _folder } = set_up(CONFIG).await;
    look.lock("db-1").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_queue(1).await.unwrap();
    member.agent().unwrap().signal(Signal::TERM).unwrap();
    assert!(member.agent().unwrap().wait_exit(SOON).await.unwrap().success());
    let status = look.locks.status(&Group::default()).await.unwrap();
    assert!(status.queue.is_empty(), "not only when the lease ends");
    assert!(member.machine.notify.messages().iter().any(|m| m.contains("STOPPING=1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_fed() {
    let Setting { mut member, _folder, look: _ } = set_up(CONFIG).await;
    let mut command = member.command().unwrap();
    command.env("WATCHDOG_USEC", "300000");
    member.start_with(command).await.unwrap();
    for _ in 0..3 {
        let seen = member.machine.notify.count();
        let fed = |message: &str| message.contains("WATCHDOG=1");
        member.machine.notify.wait_after(seen, fed, SOON).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_logs_have_one_event_for_each_transition() {
    let Setting { mut member, _folder, look: _ } = set_up(CONFIG).await;
    let mut command = member.command().unwrap();
    command.args(["--log-format", "json"]);
    member.start_with(command).await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    member.agent().unwrap().signal(Signal::TERM).unwrap();
    member.agent().unwrap().wait_exit(SOON).await.unwrap();
    let lines = member.agent().unwrap().stderr().lines();
    let events: Vec<serde_json::Value> =
        lines.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    let steps: Vec<_> = events
        .iter()
        .filter(|event| event["message"] == "transition")
        .map(|event| (event["from"].as_str().unwrap(), event["to"].as_str().unwrap()))
        .collect();
    let states =
        ["Starting", "Idle", "Closed", "Queued", "Holding", "Draining", "Permitting", "Rebooting"];
    let expected: Vec<_> = states.windows(2).map(|pair| (pair[0], pair[1])).collect();
    assert_eq!(steps, expected);
}
