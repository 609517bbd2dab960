//! What happens around a reboot: hooks before and after it, the look at the machine that is back, the
//! guard against reboot loops, and the slot of a machine that does not come back.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod cut_short;
mod setting;

use rebootlock::id::{Group, MachineId};
use rebootlock::record::{Document as _, Ending, HolderRecord, HolderState, UnixTime};
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, SOON};
use rebootlock_tests::machine::Systemd;
use rebootlock_tests::machine::logind::RebootFailure;
use rebootlock_tests::process::Process;

use crate::setting::{AGENT, Setting};

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_in_byte_order_around_the_reboot_and_the_history_says_verified() {
    let mut setting = Setting::new("", "").await;
    for name in ["b-20", "a-10", "B-30"] {
        setting.hook("pre", name, "env | grep ^REBOOTLOCK_ > env-pre");
    }
    setting.hook("post", "9", "env | grep ^REBOOTLOCK_ > env-post");
    setting.hook("post", "10", "");
    setting.start_with_update().await;
    setting.member.machine.logind.wait_reboot(SOON).await.unwrap();
    let before = ["pre-reboot B-30", "pre-reboot a-10", "pre-reboot b-20"];
    assert_eq!(setting.said(), before);
    let old_boot = setting.member.machine.boot_id().unwrap();
    let env = std::fs::read_to_string(setting.path("env-pre")).unwrap();
    for line in [
        "REBOOTLOCK_PHASE=pre-reboot".to_owned(),
        "REBOOTLOCK_MACHINE_ID=web-1".to_owned(),
        "REBOOTLOCK_GROUPS=default".to_owned(),
        "REBOOTLOCK_DRY_RUN=false".to_owned(),
        format!("REBOOTLOCK_BOOT_ID={old_boot}"),
    ] {
        assert!(env.lines().any(|said| said == line), "no {line} in {env}");
    }
    let record = setting.look.record("web-1").await.unwrap().unwrap();
    let token = format!("REBOOTLOCK_TOKEN={}\n", record.token.unwrap());
    let reason = format!("REBOOTLOCK_REASON={}\n", record.reason.unwrap());
    assert!(env.contains(&token) && env.contains(&reason), "{env}");

    setting.member.come_back_and_give_back().await.unwrap();
    setting.look.wait_free().await.unwrap();
    assert_eq!(setting.said(), [&before[..], &["post-reboot 10", "post-reboot 9"]].concat());
    let env = std::fs::read_to_string(setting.path("env-post")).unwrap();
    assert!(env.contains("REBOOTLOCK_PHASE=post-reboot\n") && env.contains(&reason), "{env}");
    let past = setting.history().await.remove(0);
    assert_eq!(past.ended, Ending::Verified);
    assert_eq!(past.new_boot_id.unwrap().to_string(), setting.member.machine.boot_id().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_pre_hook_undoes_those_before_it_and_the_machine_tries_again_later() {
    let mut setting = Setting::new("", "").await;
    for name in ["10-a", "20-b", "40-d"] {
        setting.hook("pre", name, "");
        setting.hook("post", name, "");
    }
    setting.hook("pre", "30-c", "[ ! -e broken ] || { echo no luck; exit 3; }");
    setting.hook("post", "30-c", "");
    setting.touch("broken");
    setting.start_with_update().await;
    let said = setting.member.wait_log("pass ended status=\"health_blocked\"").await.unwrap();
    assert!(said.contains("hook 30-c failed: "), "{said}");
    setting.member.wait_log("slot given back").await.unwrap();
    let first = [
        "pre-reboot 10-a",
        "pre-reboot 20-b",
        "pre-reboot 30-c",
        "post-reboot 20-b",
        "post-reboot 10-a",
    ];
    assert_eq!(setting.said()[..5], first);
    assert_eq!(setting.member.machine.logind.attempts(), 0);
    assert_eq!(setting.ends().await, [], "nothing came of it");
    setting.remove("broken");
    setting.reboots().await;
    setting.member.wait_log("slot given back").await.unwrap();
    assert_eq!(setting.ends().await, [Ending::Verified]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_comes_while_hooks_run_undoes_them() {
    let mut setting = Setting::new("", "").await;
    setting.hook("pre", "10-a", "while [ ! -e go ]; do sleep 0.05; done");
    setting.hook("post", "10-a", "");
    setting.start_with_update().await;
    setting.wait_said("pre-reboot 10-a").await;
    setting.look.pause("ann", "audit").await.unwrap();
    setting.touch("go");
    setting.wait_said("post-reboot 10-a").await;
    setting.look.wait_free().await.unwrap();
    setting.wait_blocked("paused", "ann").await;
    assert_eq!(setting.said(), ["pre-reboot 10-a", "post-reboot 10-a"]);
    assert_eq!(setting.member.machine.logind.attempts(), 0);
    setting.look.resume().await.unwrap();
    setting.member.machine.logind.wait_reboot(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_taken_away_while_hooks_run_undoes_them() {
    let mut setting = Setting::new("", "").await;
    setting.hook("pre", "10-a", "while [ ! -e go ]; do sleep 0.05; done");
    setting.hook("post", "10-a", "");
    setting.start_with_update().await;
    setting.wait_said("pre-reboot 10-a").await;
    setting.look.unlock("web-1").await.unwrap();
    setting.look.lock("db-1").await.unwrap();
    setting.touch("go");
    setting.wait_said("post-reboot 10-a").await;
    setting.look.wait_queue(1).await.unwrap();
    assert_eq!(setting.member.machine.logind.attempts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_post_hook_keeps_the_slot_until_it_is_mended() {
    let mut setting = Setting::new("", "").await;
    setting.hook("post", "10-a", "[ ! -e broken ] || { echo no luck; exit 4; }");
    setting.touch("broken");
    setting.start_with_update().await;
    setting.reboots().await;
    let blocked = setting.wait_blocked("health_blocked", "hook 10-a failed").await;
    assert!(blocked.why.contains("no luck") && blocked.why.contains("slot is kept"), "{blocked:?}");
    setting.member.wait_log("hook 10-a failed").await.unwrap();
    let record = setting.look.record("web-1").await.unwrap().unwrap();
    assert_eq!(record.state, Some(HolderState::Verifying));
    setting.remove("broken");
    setting.member.wait_log("slot given back").await.unwrap();
    setting.look.wait_free().await.unwrap();
    assert_eq!(setting.ends().await, [Ending::Verified]);
}

const BUSY: &str = "[[gate]]\nname = \"busy\"\ntype = \"script\"\n\
                    command = [\"/bin/sh\", \"-c\", \"[ ! -e DIR/busy ]\"]\nphases = [\"verify\"]\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_not_well_keeps_its_slot_is_given_up_and_goes_on_once_it_is() {
    let reboot = "give_up_after_secs = 1\nverify_successes = 2\nsettle_secs = 1\n";
    let mut setting = Setting::new(reboot, BUSY).await;
    setting.hook("post", "10-a", "");
    setting.touch("busy");
    setting.start_with_update().await;
    setting.reboots().await;
    setting.wait_blocked("health_blocked", "not well: gate busy").await;
    setting.look.wait_state("web-1", &HolderState::Failed).await.unwrap();
    setting.member.wait_log("this machine has failed after its reboot").await.unwrap();
    assert_eq!(setting.said(), [""; 0], "hooks are for machines that are well");
    setting.remove("busy");
    let seen = |text: &'static str| move |message: &str| message.contains(text);
    for text in ["well, 1 of 2 times", "well; settles for 1 s"] {
        setting.member.machine.notify.wait_for(seen(text), SOON).await.unwrap();
    }
    setting.member.wait_log("well after all").await.unwrap();
    setting.member.wait_log("slot given back").await.unwrap();
    setting.look.wait_free().await.unwrap();
    assert_eq!(setting.ends().await, [Ending::Verified]);
    assert_eq!(setting.said(), ["post-reboot 10-a"]);
}

/// Starts the agent so that it dies, as by a power cut, once its hooks have run.
async fn dies_after_its_hooks(setting: &Setting) {
    let mut command = setting.member.command().unwrap();
    command.env("REBOOTLOCK_FAILPOINT", "hooks-done");
    let mut doomed = Process::spawn("doomed", command).unwrap();
    setting.member.machine.update_engine.need_reboot().await.unwrap();
    doomed.wait_exit(SOON).await.unwrap();
    assert!(doomed.stderr().lines().iter().any(|line| line.contains("dying at a failpoint")));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_its_hooks_the_daemon_carries_on() {
    let mut setting = Setting::new("", "").await;
    setting.hook("pre", "10-a", "");
    setting.hook("post", "10-a", "");
    dies_after_its_hooks(&setting).await;
    assert_eq!(setting.said(), ["pre-reboot 10-a"]);
    setting.member.start().await.unwrap();
    setting.reboots().await;
    setting.member.wait_log("slot given back").await.unwrap();
    let again = ["pre-reboot 10-a", "pre-reboot 10-a", "post-reboot 10-a"];
    assert_eq!(setting.said(), again, "they may run again, as their page says");
    assert_eq!(setting.member.machine.logind.reboots(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_its_hooks_the_daemon_undoes_them_if_nothing_wants_the_reboot_any_more() {
    let mut setting = Setting::new("", "").await;
    setting.hook("pre", "10-a", "");
    setting.hook("post", "10-a", "");
    dies_after_its_hooks(&setting).await;
    setting.member.machine.update_engine.idle().await.unwrap();
    setting.member.start().await.unwrap();
    setting.member.wait_log("slot given back").await.unwrap();
    assert_eq!(setting.said(), ["pre-reboot 10-a", "post-reboot 10-a"]);
    assert_eq!(setting.member.machine.logind.attempts(), 0);
    setting.look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_its_hooks_the_daemon_undoes_them_if_its_slot_was_taken_away() {
    let mut setting = Setting::new("", "").await;
    setting.hook("pre", "10-a", "");
    setting.hook("post", "10-a", "");
    dies_after_its_hooks(&setting).await;
    setting.look.unlock("web-1").await.unwrap();
    setting.look.lock("db-1").await.unwrap();
    setting.member.start().await.unwrap();
    setting.wait_said("post-reboot 10-a").await;
    setting.look.wait_queue(1).await.unwrap();
    assert_eq!(setting.said(), ["pre-reboot 10-a", "post-reboot 10-a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_reboots_where_one_is_configured() {
    let command = "method = \"command\"\n\
                   command = [\"/bin/sh\", \"-c\", 'echo ${REBOOTLOCK_HOSTNAME} \"$REBOOTLOCK_REASON\" $$ > DIR/ordered']\n";
    let mut setting = Setting::new(command, "").await;
    setting.start_with_update().await;
    let ordered = setting.path("ordered");
    let text =
        eventually("the command runs", SOON, async || match std::fs::read_to_string(&ordered) {
            Ok(text) if text.ends_with('\n') => Ok(text),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
    let record = setting.look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    let (host, reason) = (record.hostname.unwrap(), record.reason.unwrap());
    assert!(text.starts_with(&format!("{host} {reason} ")), "{text}");
    assert_eq!(setting.member.machine.logind.attempts(), 0);
    setting.member.come_back_and_give_back().await.unwrap();
    assert_eq!(setting.ends().await, [Ending::Verified]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_systemd_each_hook_is_a_unit_of_its_own() {
    let mut setting = Setting::new("", "").await;
    let systemd = Systemd::new(setting.member.machine.bus.address());
    systemd.start().await.unwrap();
    setting.hook("pre", "10-a", "");
    setting.hook("post", "20-b", "");
    setting.start_with_update().await;
    setting.reboots().await;
    setting.member.wait_log("slot given back").await.unwrap();
    assert_eq!(setting.said(), ["pre-reboot 10-a", "post-reboot 20-b"]);
    let started = systemd.started();
    let hooks: Vec<_> =
        started.iter().filter(|unit| unit.name.starts_with("rebootlock-hook-")).collect();
    assert_eq!(hooks.len(), 2, "{started:?}");
    for (unit, (name, phase)) in hooks.iter().zip([("10-a", "pre-reboot"), ("20-b", "post-reboot")])
    {
        assert!(unit.name.starts_with(&format!("rebootlock-hook-{name}-")), "{unit:?}");
        let said = format!("REBOOTLOCK_PHASE={phase}");
        assert!(unit.environment.contains(&said), "{unit:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inhibitor_is_passed_over_after_its_time() {
    let mut setting = Setting::new("force_after_secs = 1\n", "").await;
    let logind = &setting.member.machine.logind;
    logind.add_inhibitor("shutdown", "backup", "busy", "block").await.unwrap();
    setting.start_with_update().await;
    setting.member.wait_log("the reboot is held up").await.unwrap();
    setting.member.wait_log("held up for too long, and goes on").await.unwrap();
    let call = setting.member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert_ne!(call.flags & 16, 0, "logind is told to pass over inhibitors");
}

const FILE: &str = "[[detector]]\nname = \"packages\"\ntype = \"file\"\npath = \"DIR/required\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_a_reboot_did_not_cure_causes_no_second_one_but_a_request_and_another_do() {
    let mut setting = Setting::new("max_attempts = 1\n", FILE).await;
    setting.touch("required");
    setting.member.start().await.unwrap();
    setting.reboots().await;
    setting.member.wait_log("slot given back").await.unwrap();
    let blocked = setting.wait_blocked("still-required", "rebooted once for the same").await;
    assert!(blocked.wanted.unwrap().contains("required is there"));
    assert_eq!(setting.member.machine.logind.attempts(), 1);
    assert_eq!(setting.look.record("web-1").await.unwrap(), None);

    setting.request().await;
    setting.reboots().await;
    setting.member.wait_log("slot given back").await.unwrap();
    setting.wait_blocked("still-required", "rebooted once for the same").await;
    assert_eq!(setting.member.machine.logind.attempts(), 2);

    std::fs::write(setting.path("required.pkgs"), "linux\n").unwrap();
    setting.reboots().await;
    setting.member.wait_log("slot given back").await.unwrap();
    setting.wait_blocked("still-required", "because of linux").await;
    setting.remove("required");
    setting.member.wait_status("no reboot is wanted").await.unwrap();
    // Gone and back: that is news.
    setting.touch("required");
    setting.member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert_eq!(setting.member.machine.logind.attempts(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_that_had_to_be_ordered_twice_is_one_reboot() {
    let agent = "[agent]\nreboot_deadline_secs = 1\n";
    let mut setting = Setting::new("max_attempts = 2\n", FILE).await;
    let text = std::fs::read_to_string(setting.path("rebootlock.toml")).unwrap();
    setting.configure(&text.replace("[agent]\n", agent));
    setting.touch("required");
    let (name, text) = ("org.freedesktop.DBus.Error.AccessDenied", "not now");
    let refused = RebootFailure::Error(name.to_owned(), text.to_owned());
    setting.member.machine.logind.fail_next_reboot(refused);
    setting.member.start().await.unwrap();
    setting.reboots().await;
    setting.reboots().await;
    setting.wait_blocked("still-required", "rebooted 2 times").await;
    assert_eq!(setting.member.machine.logind.attempts(), 3);
}

/// `web-1` has gone down, should have been back long ago, and its lease has ended.
async fn goes_down_for_good(setting: &mut Setting) {
    setting.start_with_update().await;
    setting.member.machine.logind.wait_reboot(SOON).await.unwrap();
    setting.member.kill().await.unwrap();
    let machine = MachineId::new("web-1").unwrap();
    let keys = setting.look.locks.keys().clone();
    let record = setting.look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    let ago = |secs| Some(UnixTime(UnixTime::now().0 - secs));
    let long_gone = HolderRecord { expected_back: ago(100), state_since: ago(900), ..record };
    let text = String::from_utf8(long_gone.to_json()).unwrap();
    setting.look.put(keys.holder(&Group::default(), &machine), &text).await.unwrap();
    setting.look.remove(&keys.machine(&machine)).await.unwrap();
}

/// Another machine on the same store, which wants to reboot.
async fn another(setting: &Setting, config: &str) -> Member {
    let endpoints = [format!("sqlite:{}", setting.folder.path().join("lock.db").display())];
    let mut other = Member::new("web-2", &endpoints, "").await.unwrap();
    let dir = other.machine.dir().display().to_string();
    other.configure(&format!("{AGENT}{}", config.replace("DIR", &dir))).unwrap();
    other.start().await.unwrap();
    other.machine.update_engine.need_reboot().await.unwrap();
    other
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_a_machine_that_does_not_come_back_stays_by_default() {
    let mut setting = Setting::new("", "").await;
    goes_down_for_good(&mut setting).await;
    let looks = "[[gate]]\nname = \"looks\"\ntype = \"script\"\nphases = [\"pre-lock\"]\n\
                 command = [\"/bin/sh\", \"-c\", \"echo >> DIR/looks\"]\n";
    let config = format!("[reboot]\noverdue_after_secs = 60\n{looks}");
    let mut other = another(&setting, &config).await;
    // Whenever the gates are asked, an overdue machine would be looked for too.
    let looks = other.machine.dir().join("looks");
    eventually("it has looked often", SOON, async || {
        let looks = std::fs::read(&looks).unwrap_or_default().len();
        if looks > 4 { Ok(()) } else { Err(looks) }
    })
    .await
    .unwrap();
    assert!(setting.look.record("web-1").await.unwrap().is_some());
    assert_eq!(setting.history().await, []);
    assert_eq!(other.count_log("did not come back").unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_a_machine_that_does_not_come_back_is_freed_where_that_is_configured() {
    let mut setting = Setting::new("", "").await;
    goes_down_for_good(&mut setting).await;
    let release =
        "[reboot]\non_overdue = \"release\"\noverdue_after_secs = 60\nrelease_budget = 1\n";
    let mut other = another(&setting, release).await;
    let said = "this machine did not come back from its reboot; its slot was freed";
    other.wait_log(said).await.unwrap();
    other.machine.logind.wait_reboot(SOON).await.unwrap();
    let past = setting.history().await.remove(0);
    assert_eq!((past.ended, past.machine_id.as_str()), (Ending::Overdue, "web-1"));
    assert!(past.by.is_some());

    // It comes back after all, finds its slot with another, and leaves that alone.
    setting.member.go_down_and_come_back().await.unwrap();
    setting.member.wait_log("back after the reboot").await.unwrap();
    setting.member.wait_status("no reboot is wanted").await.unwrap();
    let record = setting.look.record("web-2").await.unwrap().unwrap();
    assert_eq!(record.state, Some(HolderState::Rebooting));
    other.come_back_and_give_back().await.unwrap();
    setting.look.wait_free().await.unwrap();
    let ended = setting.ends().await;
    assert_eq!(ended, [Ending::Overdue, Ending::Verified]);
}
