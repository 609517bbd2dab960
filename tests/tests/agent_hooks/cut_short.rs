//! Lives of the daemon that end while hooks or the reboot command run, and what the next one makes of
//! it.

use rebootlock::record::HolderState;
use rebootlock_tests::machine::Systemd;
use rebootlock_tests::process::Signal;

use crate::setting::Setting;

/// How the daemon's life ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed,
    Reloaded,
}

const FILE: &str = "[[detector]]\nname = \"packages\"\ntype = \"file\"\npath = \"DIR/required\"\n";

/// A reboot command that takes its time, and a reason that goes away meanwhile.
async fn cut_short_while_its_command_runs(end: End) {
    let command = "method = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"echo $$ > DIR/pid; touch \
                   DIR/begun; while [ ! -e DIR/go ]; do sleep 0.1; done; touch DIR/rebooted\"]\n";
    let mut setting = Setting::new(command, FILE).await;
    let text = std::fs::read_to_string(setting.path("rebootlock.toml")).unwrap();
    let short = "[agent]\nreboot_deadline_secs = 1\n";
    setting.configure(&text.replace("[agent]\n", short));
    setting.touch("required");
    setting.member.start().await.unwrap();
    setting.wait_file("begun").await;
    setting.remove("required");
    match end {
        End::Killed => {
            setting.member.kill().await.unwrap();
            setting.member.start().await.unwrap();
        }
        End::Reloaded => setting.member.agent().unwrap().signal(Signal::HUP).unwrap(),
    }
    setting.member.wait_log("the command that reboots this machine still runs").await.unwrap();
    // Its deadline is over too.
    setting.member.wait_status("should be down by now").await.unwrap();
    let record = setting.look.record("web-1").await.unwrap().unwrap();
    assert_eq!(record.state, Some(HolderState::Rebooting), "{end:?}");
    setting.touch("go");
    setting.wait_file("rebooted").await;
    assert!(setting.look.record("web-1").await.unwrap().is_some());
    setting.member.go_down_and_come_back().await.unwrap();
    setting.member.wait_log("slot given back").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_its_reboot_command_runs_the_daemon_keeps_the_slot() {
    cut_short_while_its_command_runs(End::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reloaded_while_its_reboot_command_runs_the_daemon_keeps_the_slot() {
    cut_short_while_its_command_runs(End::Reloaded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_its_reboot_command_has_ended_in_vain_the_slot_goes_back() {
    let command = "method = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"touch DIR/begun; while \
                   [ ! -e DIR/go ]; do sleep 0.1; done\"]\n";
    let mut setting = Setting::new(command, FILE).await;
    let text = std::fs::read_to_string(setting.path("rebootlock.toml")).unwrap();
    setting.configure(&text.replace("[agent]\n", "[agent]\nreboot_deadline_secs = 1\n"));
    setting.touch("required");
    setting.member.start().await.unwrap();
    setting.wait_file("begun").await;
    setting.remove("required");
    setting.member.kill().await.unwrap();
    setting.touch("go");
    setting.member.start().await.unwrap();
    setting.member.wait_log("slot given back").await.unwrap();
    setting.look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_are_undone_though_nothing_can_be_kept_in_the_state_folder() {
    let mut setting = Setting::new("", "").await;
    setting.hook("pre", "10-a", "");
    setting.hook("pre", "20-b", "while [ ! -e go ]; do sleep 0.05; done");
    setting.hook("post", "10-a", "");
    setting.hook("post", "20-b", "");
    let state = setting.member.machine.state_dir();
    std::fs::remove_dir(&state).unwrap();
    std::fs::write(&state, "").unwrap();
    setting.start_with_update().await;
    setting.wait_said("pre-reboot 20-b").await;
    setting.look.pause("ann", "audit").await.unwrap();
    setting.touch("go");
    setting.wait_said("post-reboot 10-a").await;
    setting.look.wait_free().await.unwrap();
    let expected = ["pre-reboot 10-a", "pre-reboot 20-b", "post-reboot 20-b", "post-reboot 10-a"];
    assert_eq!(setting.said(), expected);
    assert_eq!(setting.member.machine.logind.attempts(), 0);
}

/// Killed during its second hook.
async fn dies_during_its_second_hook(setting: &mut Setting) {
    for phase in ["pre", "post"] {
        setting.hook(phase, "10-a", "");
    }
    setting.hook("pre", "20-b", "echo $$ > pid; touch runs; while :; do sleep 0.1; done");
    setting.hook("post", "20-b", "");
    setting.start_with_update().await;
    setting.wait_file("runs").await;
    setting.member.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_of_a_boot_that_died_before_the_order_are_made_good_in_the_next() {
    let mut setting = Setting::new("", "").await;
    dies_during_its_second_hook(&mut setting).await;
    setting.look.unlock("web-1").await.unwrap();
    setting.kill_left().await;
    setting.member.go_down_and_come_back().await.unwrap();
    setting.member.wait_log("back after the reboot").await.unwrap();
    setting.wait_said("post-reboot 20-b").await;
    setting.member.wait_status("no reboot is wanted").await.unwrap();
    let post = ["post-reboot 10-a", "post-reboot 20-b"];
    assert_eq!(setting.said()[2..], post, "once");
    // And not again with the next start.
    setting.member.restart().await.unwrap();
    setting.member.wait_status("no reboot is wanted").await.unwrap();
    assert_eq!(setting.said()[2..], post);
}

/// Whether the hook of the life that was killed still runs.
fn still_runs(setting: &Setting) -> bool {
    let pid = std::fs::read_to_string(setting.path("pid")).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim().starts_with('Z'))
}

async fn a_hook_that_was_cut_short_ends_and_is_undone(mut setting: Setting) {
    dies_during_its_second_hook(&mut setting).await;
    assert!(still_runs(&setting), "it outlives the daemon");
    setting.member.machine.update_engine.idle().await.unwrap();
    setting.member.start().await.unwrap();
    setting.member.wait_log("a hook was cut short").await.unwrap();
    setting.wait_said("post-reboot 20-b").await;
    assert!(!still_runs(&setting), "ended before it is undone");
    setting.member.wait_log("slot given back").await.unwrap();
    let expected = ["pre-reboot 10-a", "pre-reboot 20-b", "post-reboot 20-b", "post-reboot 10-a"];
    assert_eq!(setting.said(), expected);
    setting.look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_in_a_process_group_that_was_cut_short_is_stopped_and_undone_before_the_slot_goes_back()
 {
    a_hook_that_was_cut_short_ends_and_is_undone(Setting::new("", "").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_in_a_unit_that_was_cut_short_is_stopped_and_undone_before_the_slot_goes_back() {
    let setting = Setting::new("", "").await;
    let systemd = Systemd::new(setting.member.machine.bus.address());
    systemd.start().await.unwrap();
    a_hook_that_was_cut_short_ends_and_is_undone(setting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_died_while_it_was_looked_at_is_looked_at_again_though_somebody_unlocked_it()
{
    let gate = "[[gate]]\nname = \"busy\"\ntype = \"script\"\n\
                command = [\"/bin/sh\", \"-c\", \"[ ! -e DIR/busy ]\"]\nphases = [\"verify\"]\n";
    let mut setting = Setting::new("", gate).await;
    setting.hook("post", "10-a", "");
    setting.touch("busy");
    setting.start_with_update().await;
    setting.reboots().await;
    setting.wait_blocked("health_blocked", "not well: gate busy").await;
    setting.member.kill().await.unwrap();
    setting.look.unlock("web-1").await.unwrap();
    setting.remove("busy");
    setting.member.start().await.unwrap();
    setting.wait_said("post-reboot 10-a").await;
    setting.member.wait_status("no reboot is wanted").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_has_failed_stays_failed_through_restarts() {
    let gate = "[[gate]]\nname = \"busy\"\ntype = \"script\"\n\
                command = [\"/bin/sh\", \"-c\", \"[ ! -e DIR/busy ]\"]\nphases = [\"verify\"]\n";
    let mut setting = Setting::new("give_up_after_secs = 2\n", gate).await;
    setting.touch("busy");
    setting.start_with_update().await;
    setting.reboots().await;
    setting.look.wait_state("web-1", &HolderState::Failed).await.unwrap();
    setting.member.restart().await.unwrap();
    setting.member.wait_log("this machine has failed after its reboot").await.unwrap();
    let record = setting.look.record("web-1").await.unwrap().unwrap();
    assert_eq!(record.state, Some(HolderState::Failed));
    setting.remove("busy");
    setting.member.wait_log("slot given back").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_does_not_start_the_clock_of_a_machine_that_is_not_well_anew() {
    let gate = "[[gate]]\nname = \"busy\"\ntype = \"script\"\n\
                command = [\"/bin/sh\", \"-c\", \"[ ! -e DIR/busy ]\"]\nphases = [\"verify\"]\n";
    let mut setting = Setting::new("give_up_after_secs = 3600\n", gate).await;
    setting.touch("busy");
    setting.start_with_update().await;
    setting.reboots().await;
    setting.wait_blocked("health_blocked", "not well: gate busy").await;
    setting.member.kill().await.unwrap();
    // It has been back for longer than that.
    let path = setting.member.machine.state_dir().join("agent.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut memento: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(memento["back_at_secs"].is_u64(), "{text}");
    memento["back_at_secs"] = 0.into();
    std::fs::write(&path, memento.to_string()).unwrap();
    let text = std::fs::read_to_string(setting.path("rebootlock.toml")).unwrap();
    setting.configure(&text.replace("give_up_after_secs = 3600", "give_up_after_secs = 1"));
    setting.member.start().await.unwrap();
    setting.member.wait_log("this machine has failed after its reboot").await.unwrap();
    setting.look.wait_state("web-1", &HolderState::Failed).await.unwrap();
}
