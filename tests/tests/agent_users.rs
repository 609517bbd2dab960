//! Users of a machine that reboots: who tells them, and that nobody tells them what is not so.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use rebootlock::record::HolderState;
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, Onlooker, SOON};
use rebootlock_tests::machine::Pty;
use rebootlock_tests::machine::logind::Logind;

/// logind tells them, which is the default.
const ANNOUNCED: &str = "[agent]\npoll_secs = 1\nwarn_users_secs = 300\n";

/// The agent tells them itself.
fn terminals(secs: u32) -> String {
    format!("[agent]\nwarn_users_secs = {secs}\n[reboot]\nannounce = \"terminals\"\n")
}

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

async fn wait_scheduled(logind: &Logind, what: &str) {
    eventually(&format!("scheduled is {what:?}"), SOON, async || {
        let (scheduled, _) = logind.scheduled();
        if scheduled == what { Ok(()) } else { Err(scheduled) }
    })
    .await
    .unwrap();
}

fn cancelled(logind: &Logind) -> bool {
    logind.walls().iter().any(|wall| wall.contains("cancelled"))
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_told_on_their_terminals_and_the_last_to_leave_ends_the_wait() {
    let Setting { mut member, _folder, look: _ } = set_up(&terminals(300)).await;
    let mut terminal = Pty::open().unwrap();
    let stopped = Pty::open().unwrap();
    stopped.stop_output().unwrap();
    let ann = member.machine.logind.add_session("ann", terminal.name()).await.unwrap();
    let bob = member.machine.logind.add_session("bob", stopped.name()).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    let told = terminal.read_until("log out.", SOON).await.unwrap();
    assert!(told.contains("will reboot in 5 minutes: update-engine installed an update"), "{told}");
    member.wait_status("reboots in 300 s; told ann, bob").await.unwrap();
    member.machine.logind.remove_session(&ann).await.unwrap();
    member.machine.logind.remove_session(&bob).await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert!(member.count_log("all users have left").unwrap() <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_stay_get_their_time_and_no_more() {
    let Setting { look, mut member, _folder } = set_up(&terminals(2)).await;
    let mut terminal = Pty::open().unwrap();
    member.machine.logind.add_session("ann", terminal.name()).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_state("web-1", &HolderState::Draining).await.unwrap();
    let told = std::time::Instant::now();
    terminal.read_until("2 seconds", SOON).await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert!(told.elapsed() >= Duration::from_millis(1500), "{:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn users_hear_when_the_reboot_is_called_off() {
    let Setting { look, mut member, _folder } = set_up(&terminals(300)).await;
    let mut terminal = Pty::open().unwrap();
    member.machine.logind.add_session("ann", terminal.name()).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    terminal.read_until("log out.", SOON).await.unwrap();
    member.machine.update_engine.idle().await.unwrap();
    terminal.read_until("called off", SOON).await.unwrap();
    member.wait_log("slot given back").await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn logind_announces_what_it_will_not_do_and_says_nothing_of_a_cancellation_before_the_order()
{
    let Setting { look, mut member, _folder } = set_up(ANNOUNCED).await;
    let mut terminal = Pty::open().unwrap();
    let ann = member.machine.logind.add_session("ann", terminal.name()).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    wait_scheduled(&member.machine.logind, "reboot").await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let at = Duration::from_micros(member.machine.logind.scheduled().1);
    let left = at - now;
    // A little later than users are told, so that logind never says that it comes now.
    assert!(left > Duration::from_secs(250) && left <= Duration::from_secs(310), "{left:?}");
    let told = terminal.read_until("log out.", SOON).await.unwrap();
    assert!(told.contains("reboots soon: update-engine installed an update"), "{told}");
    assert_eq!(member.machine.logind.attempts(), 0, "the order is the agent's");
    member.machine.logind.remove_session(&ann).await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert_eq!(member.machine.logind.scheduled().0, "", "withdrawn before the order");
    assert!(!cancelled(&member.machine.logind), "{:?}", member.machine.logind.walls());
    assert!(member.machine.logind.tells_users(), "of what others schedule");
    member.come_back_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_goes_cancels_what_logind_announced() {
    let Setting { look, mut member, _folder } = set_up(ANNOUNCED).await;
    let mut terminal = Pty::open().unwrap();
    member.machine.logind.add_session("ann", terminal.name()).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    wait_scheduled(&member.machine.logind, "reboot").await;
    member.machine.update_engine.idle().await.unwrap();
    terminal.read_until("cancelled", SOON).await.unwrap();
    member.wait_log("slot given back").await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.machine.logind.scheduled().0, "");
    assert_eq!(member.machine.logind.attempts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_of_an_earlier_life_is_withdrawn_by_the_next() {
    let Setting { look, mut member, _folder } = set_up(ANNOUNCED).await;
    member.machine.logind.add_session("ann", "").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    wait_scheduled(&member.machine.logind, "reboot").await;
    // It is written down before logind hears of it.
    let memento = member.machine.state_dir().join("agent.json");
    assert!(std::fs::read_to_string(&memento).unwrap().contains("dry-reboot"));
    member.kill().await.unwrap();
    member.machine.update_engine.idle().await.unwrap();
    member.start().await.unwrap();
    member.wait_log("slot given back").await.unwrap();
    look.wait_free().await.unwrap();
    wait_scheduled(&member.machine.logind, "").await;
    assert!(cancelled(&member.machine.logind));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_of_an_earlier_life_is_made_anew_and_taken_for_nobodys_reboot() {
    let Setting { look, mut member, _folder } = set_up(ANNOUNCED).await;
    let ann = member.machine.logind.add_session("ann", "").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    wait_scheduled(&member.machine.logind, "reboot").await;
    let before = member.machine.logind.scheduled();
    member.kill().await.unwrap();
    member.start().await.unwrap();
    eventually("announced anew", SOON, async || {
        let now = member.machine.logind.scheduled();
        if now.0 == "reboot" && now.1 > before.1 { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await
    .unwrap();
    assert_eq!(member.count_log("somebody has scheduled").unwrap(), 0);
    assert!(!cancelled(&member.machine.logind), "it goes on");
    member.machine.logind.remove_session(&ann).await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    member.come_back_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn users_whose_time_is_over_hear_when_the_hooks_call_the_reboot_off() {
    for announce in ["logind", "terminals"] {
        let Setting { look, mut member, _folder } = set_up("").await;
        let hooks = member.machine.dir().join("pre-reboot.d");
        std::fs::create_dir(&hooks).unwrap();
        let hook = hooks.join("10-fails");
        std::fs::write(&hook, "#!/bin/sh\nexit 1\n").unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        let config = format!(
            "[agent]\nwarn_users_secs = 1\n[reboot]\nannounce = \"{announce}\"\n[hooks]\npre_reboot_dir = \"{}\"\n",
            hooks.display()
        );
        member.configure(&config).unwrap();
        let mut terminal = Pty::open().unwrap();
        member.machine.logind.add_session("ann", terminal.name()).await.unwrap();
        member.start().await.unwrap();
        member.machine.update_engine.need_reboot().await.unwrap();
        terminal.read_until("log out.", SOON).await.unwrap();
        terminal.read_until("is called off", SOON).await.unwrap();
        member.wait_log("slot given back").await.unwrap();
        assert!(!cancelled(&member.machine.logind), "{:?}", member.machine.logind.walls());
        assert_eq!(member.machine.logind.tells_users(), announce == "logind");
        assert_eq!(member.machine.logind.attempts(), 0);
        look.wait_free().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_scheduled_stays_and_users_are_told_all_the_same() {
    let Setting { look: _look, mut member, _folder } = set_up(ANNOUNCED).await;
    let mut terminal = Pty::open().unwrap();
    let ann = member.machine.logind.add_session("ann", terminal.name()).await.unwrap();
    let theirs = ("poweroff", 4_000_000_000_000_000);
    member.machine.logind.schedule(theirs.0, theirs.1);
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    let said = member.wait_log("logind does not announce the reboot").await.unwrap();
    assert!(said.contains("somebody has scheduled a poweroff"), "{said}");
    terminal.read_until("will reboot in 5 minutes", SOON).await.unwrap();
    member.machine.logind.remove_session(&ann).await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert_eq!(member.machine.logind.scheduled(), (theirs.0.to_owned(), theirs.1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logind_that_schedules_nothing_does_not_leave_users_untold() {
    let Setting { look: _look, mut member, _folder } = set_up(ANNOUNCED).await;
    member.machine.logind.schedule_nothing();
    let mut terminal = Pty::open().unwrap();
    member.machine.logind.add_session("ann", terminal.name()).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    terminal.read_until("will reboot in 5 minutes", SOON).await.unwrap();
    member.machine.update_engine.idle().await.unwrap();
    terminal.read_until("called off", SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_frightens_nobody() {
    let Setting { look, mut member, _folder } = set_up(ANNOUNCED).await;
    member.machine.logind.add_session("ann", "").await.unwrap();
    let mut command = member.command().unwrap();
    command.arg("--dry-run");
    member.start_with(command).await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_log("dry run: users would be told now").await.unwrap();
    member.wait_log("slot given back").await.unwrap();
    look.wait_free().await.unwrap();
    assert!(member.machine.logind.walls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_switch_that_comes_while_users_leave_is_seen_before_anything_is_drained() {
    let Setting { look, mut member, _folder } = set_up("").await;
    let switch = member.machine.dir().join("disable");
    let hooks = member.machine.dir().join("pre-reboot.d");
    std::fs::create_dir(&hooks).unwrap();
    let config = format!(
        "[agent]\nwarn_users_secs = 300\nkill_switch_file = \"{}\"\n[hooks]\npre_reboot_dir = \"{}\"\n",
        switch.display(),
        hooks.display()
    );
    member.configure(&config).unwrap();
    member.machine.logind.add_session("ann", "").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_state("web-1", &HolderState::Draining).await.unwrap();
    std::fs::write(&switch, "").unwrap();
    member.wait_log("slot given back").await.unwrap();
    look.wait_free().await.unwrap();
    wait_scheduled(&member.machine.logind, "").await;
    assert_eq!(member.count_log("running the hooks").unwrap(), 0);
    assert_eq!(member.machine.logind.attempts(), 0);
}
