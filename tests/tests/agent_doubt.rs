//! What a daemon does where it cannot know, or knew and does no more: a machine that may be going down
//! keeps its slot, and one that may have no reason to reboot does not keep it from others.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::PathBuf;

use rebootlock::id::{Group, MachineId};
use rebootlock::record::HolderState;
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, Onlooker, SOON};
use rebootlock_tests::machine::Systemd;
use rebootlock_tests::machine::logind::RebootFailure;
use rebootlock_tests::process::Signal;

const AGENT: &str = "[agent]\npoll_secs = 1\ncheck_interval_secs = 1\n";

/// Years from now, in microseconds since 1970.
const ONE_DAY: u64 = 4_000_000_000_000_000;

struct Setting {
    look: Onlooker,
    member: Member,
    _folder: tempfile::TempDir,
}

impl Setting {
    /// With this configuration; `DIR` is the machine's folder.
    async fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let endpoints = [format!("sqlite:{}", folder.path().join("lock.db").display())];
        let look = Onlooker::new(&endpoints).unwrap();
        let member = Member::new("web-1", &endpoints, "").await.unwrap();
        let setting = Self { look, member, _folder: folder };
        setting.configure(config);
        setting
    }

    fn configure(&self, config: &str) {
        let dir = self.member.machine.dir().display().to_string();
        self.member.configure(&config.replace("DIR", &dir)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.member.machine.dir().join(name)
    }

    async fn request(&self) {
        let key = self.look.locks.keys().request(&MachineId::new("web-1").unwrap());
        self.look.put(key, r#"{"by":"ann","since":1397496396}"#).await.unwrap();
    }

    async fn is_requested(&self) -> bool {
        let key = self.look.locks.keys().request(&MachineId::new("web-1").unwrap());
        self.look.get(&key).await.unwrap().is_some()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_that_is_only_scheduled_keeps_the_slot_though_nothing_is_wanted_any_more() {
    let config = format!(
        "{AGENT}reboot_deadline_secs = 1\n[reboot]\nmethod = \"command\"\ncommand = [\"/bin/true\"]\n"
    );
    let Setting { look, mut member, _folder } = Setting::new(&config).await;
    // As `shutdown -r +5` leaves it, whose exit code is 0.
    member.machine.logind.schedule("reboot", ONE_DAY);
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    member.machine.update_engine.idle().await.unwrap();
    member.wait_log("the machine should be down by now").await.unwrap();
    // A restarted daemon knows no more than the first.
    member.restart().await.unwrap();
    member.wait_log("to=Rebooting").await.unwrap();
    look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    assert_eq!(member.count_log("slot given back").unwrap(), 0);
    // Called off: now it is certain.
    member.machine.logind.schedule("", 0);
    member.restart().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_command_that_still_runs_is_neither_doubled_nor_forgotten() {
    let config =
        format!("{AGENT}[reboot]\nmethod = \"command\"\ncommand = [\"/bin/sleep\", \"300\"]\n");
    let Setting { look, mut member, _folder } = Setting::new(&config).await;
    let systemd = Systemd::new(member.machine.bus.address());
    systemd.start().await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    eventually("the command runs", SOON, async || match systemd.started().len() {
        1 => Ok(()),
        count => Err(count),
    })
    .await
    .unwrap();
    member.kill().await.unwrap();
    member.machine.update_engine.idle().await.unwrap();
    member.start().await.unwrap();
    member.wait_log("the command that reboots this machine still runs").await.unwrap();
    member.wait_log("to=Rebooting").await.unwrap();
    look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    assert_eq!(systemd.started().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_change_under_a_slot_give_it_back_and_are_no_reboot() {
    let config = format!("{AGENT}warn_users_secs = 300\n");
    let mut setting = Setting::new(&config).await;
    setting.member.machine.logind.add_session("ann", "").await.unwrap();
    setting.member.start().await.unwrap();
    setting.request().await;
    setting.look.wait_state("web-1", &HolderState::Draining).await.unwrap();
    setting.configure(&format!("{config}[machine]\ngroups = [\"lb\"]\n"));
    setting.member.agent().unwrap().signal(Signal::HUP).unwrap();
    setting.member.wait_log("slot given back").await.unwrap();
    setting.look.wait_free().await.unwrap();
    // It wants it still, and asks in its new group.
    let lb = [Group::new("lb").unwrap()];
    let machine = MachineId::new("web-1").unwrap();
    eventually("it holds a slot of lb", SOON, async || {
        let held = setting.look.locks.holding(&lb, &machine).await.unwrap();
        if held.is_empty() { Err("not yet") } else { Ok(()) }
    })
    .await
    .unwrap();
    assert!(setting.is_requested().await, "it has not been fulfilled");
    assert_eq!(setting.member.count_log("back after the reboot").unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_would_end_the_daemon_changes_nothing() {
    let mut setting = Setting::new(AGENT).await;
    setting.member.start().await.unwrap();
    setting.member.wait_status("no reboot is wanted").await.unwrap();
    std::fs::remove_file(setting.path("machine-id")).unwrap();
    setting.member.agent().unwrap().signal(Signal::HUP).unwrap();
    let said = setting.member.wait_log("the old settings stay in force").await.unwrap();
    assert!(said.contains("cannot read the machine id"), "{said}");
    assert!(setting.member.agent().unwrap().is_running());
    setting.member.machine.update_engine.need_reboot().await.unwrap();
    setting.member.machine.logind.wait_reboot(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detector_that_breaks_while_the_slot_is_held_does_not_keep_it_from_others() {
    let config = format!(
        "{AGENT}inhibit_timeout_secs = 4\n[[detector]]\nname = \"marker\"\ntype = \"command\"\n\
         command = [\"/bin/sh\", \"-c\", \"test -e DIR/broken && exit 9; exit 1\"]\n\
         reboot_needed_codes = [1]\nclear_codes = [0]\n"
    );
    let Setting { look, mut member, _folder } = Setting::new(&config).await;
    member.machine.logind.add_inhibitor("shutdown", "backup", "busy", "block").await.unwrap();
    member.start().await.unwrap();
    member.wait_log("the reboot is held up").await.unwrap();
    std::fs::write(member.machine.dir().join("broken"), "").unwrap();
    member.wait_log("slot given back").await.unwrap();
    look.wait_free().await.unwrap();
    // And it does not take another one before it knows.
    member
        .wait_log("whether a reboot is wanted cannot be found out: a detector fails")
        .await
        .unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inhibitor_is_passed_over_in_the_end_though_the_slot_goes_back_before() {
    let config = format!("{AGENT}inhibit_timeout_secs = 1\n[reboot]\nforce_after_secs = 4\n");
    let Setting { look: _look, mut member, _folder } = Setting::new(&config).await;
    member.machine.logind.add_inhibitor("shutdown", "backup", "busy", "block").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_log("slot given back").await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logind_that_does_not_answer_is_not_passed_over_like_an_inhibitor() {
    let config = format!(
        "{AGENT}inhibit_timeout_secs = 3\n[reboot]\nmethod = \"command\"\n\
         command = [\"/bin/touch\", \"DIR/rebooted\"]\nforce_after_secs = 0\n"
    );
    let Setting { look, mut member, _folder } = Setting::new(&config).await;
    member.machine.logind.stop().await;
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_status("logind does not answer").await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.count_log("slot taken").unwrap(), 0);
    assert!(!member.machine.dir().join("rebooted").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rebooted_for_in_vain_does_not_ride_on_a_request_that_was_taken_back() {
    let config = "[agent]\npoll_secs = 1\ncheck_interval_secs = 600\n";
    let mut setting = Setting::new(config).await;
    let reason = "update-engine installed an update to 9999.0.0";
    setting.member.machine.update_engine.need_reboot().await.unwrap();
    let dir = setting.member.machine.state_dir();
    std::fs::create_dir_all(&dir).unwrap();
    setting.look.lock("db-1").await.unwrap();
    setting.member.start().await.unwrap();
    setting.look.wait_queue(1).await.unwrap();
    let found = setting.member.wait_log("a reboot is wanted").await.unwrap();
    assert!(found.contains(reason), "{found}");
    setting.request().await;
    setting.member.kill().await.unwrap();
    let tried = format!(r#"{{"tried":[{{"reason":"{reason}","reboots":1}}]}}"#);
    std::fs::write(dir.join("agent.json"), tried).unwrap();
    setting.member.start().await.unwrap();
    setting.member.wait_status("1 of 1 held by db-1").await.unwrap();
    let key = setting.look.locks.keys().request(&MachineId::new("web-1").unwrap());
    setting.look.remove(&key).await.unwrap();
    setting.look.unlock("db-1").await.unwrap();
    setting.member.wait_log("still-required").await.unwrap();
    setting.look.wait_free().await.unwrap();
    assert_eq!(setting.member.machine.logind.attempts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_cannot_count_its_reboots_does_not_reboot_for_a_detector() {
    let Setting { look, mut member, _folder } = Setting::new(AGENT).await;
    // A file where a folder should be: nobody can write there, root included.
    let dir = member.machine.state_dir();
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::write(&dir, "").unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_log("reboots cannot be counted in").await.unwrap();
    member.wait_log("slot given back").await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
    let key = look.locks.keys().request(&MachineId::new("web-1").unwrap());
    look.put(key, r#"{"by":"ann","since":1397496396}"#).await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_that_was_refused_is_not_one_that_was_tried_in_vain() {
    let config = format!("{AGENT}reboot_deadline_secs = 1\nkill_switch_file = \"DIR/disable\"\n");
    let mut setting = Setting::new(&config).await;
    let denied = "org.freedesktop.DBus.Error.AccessDenied".to_owned();
    let failure = RebootFailure::Error(denied, "not today".to_owned());
    setting.member.machine.logind.fail_reboots(Some(failure));
    setting.member.start().await.unwrap();
    setting.member.machine.update_engine.need_reboot().await.unwrap();
    setting.member.machine.logind.wait_attempts(1, SOON).await.unwrap();
    std::fs::write(setting.path("disable"), "").unwrap();
    setting.member.wait_log("slot given back").await.unwrap();
    setting.member.machine.logind.fail_reboots(None);
    std::fs::remove_file(setting.path("disable")).unwrap();
    setting.member.machine.logind.wait_reboot(SOON).await.unwrap();
}
