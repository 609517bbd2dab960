//! Soft reboots: the kernel and its boot id stay, and only systemd's count tells that the machine was
//! down.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use rebootlock::record::{Ending, HolderState};
use rebootlock_tests::fleet::{Member, Onlooker, SOON};
use rebootlock_tests::machine::Systemd;
use rebootlock_tests::process::Process;

const CONFIG: &str = "[agent]\npoll_secs = 1\n[reboot]\nmethod = \"soft-reboot\"\n";

/// The second bit of logind's flags.
const SOFT: u64 = 1 << 2;

struct Setting {
    look: Onlooker,
    member: Member,
    systemd: Systemd,
    _folder: tempfile::TempDir,
}

/// A machine that has been told to go down softly, and has its permit.
async fn ordered() -> Setting {
    let folder = tempfile::tempdir().unwrap();
    let endpoints = [format!("sqlite:{}", folder.path().join("lock.db").display())];
    let look = Onlooker::new(&endpoints).unwrap();
    let mut member = Member::new("web-1", &endpoints, CONFIG).await.unwrap();
    let systemd = Systemd::new(member.machine.bus.address());
    systemd.start().await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    let call = member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert_ne!(call.flags & SOFT, 0, "{call:?}");
    look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    Setting { look, member, systemd, _folder: folder }
}

impl Setting {
    /// Everything but the kernel ends and comes up again, and systemd has counted so many.
    async fn comes_up(&mut self, count: u32) {
        self.member.kill().await.unwrap();
        self.systemd.set_soft_reboots(Some(count));
        self.member.machine.logind.new_boot().await.unwrap();
        self.member.machine.update_engine.idle().await.unwrap();
        self.member.start().await.unwrap();
    }

    async fn ends(&self) -> Vec<Ending> {
        let history = self.look.locks.history(&[Default::default()], None).await.unwrap();
        history.into_iter().map(|entry| entry.past.unwrap().ended).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_soft_reboot_under_the_same_boot_id_is_looked_at_and_gives_the_slot_back() {
    let mut setting = ordered().await;
    let boot_id = setting.member.machine.boot_id().unwrap();
    setting.comes_up(1).await;
    setting.member.wait_log("back after the reboot").await.unwrap();
    setting.member.wait_log("slot given back").await.unwrap();
    setting.look.wait_free().await.unwrap();
    assert_eq!(setting.ends().await, [Ending::Verified]);
    assert_eq!(setting.member.machine.boot_id().unwrap(), boot_id);
    // The next one is told from this one too.
    setting.member.machine.update_engine.need_reboot().await.unwrap();
    setting.look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    setting.comes_up(2).await;
    setting.member.wait_log("slot given back").await.unwrap();
    assert_eq!(setting.ends().await, [Ending::Verified, Ending::Verified]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_a_new_count_keeps_the_slot() {
    let mut setting = ordered().await;
    setting.member.restart().await.unwrap();
    // A shutdown is under way, as logind says.
    setting.member.wait_log("event=GoingDown").await.unwrap();
    let record = setting.look.record("web-1").await.unwrap().unwrap();
    assert_eq!(record.state, Some(HolderState::Rebooting));
    assert_eq!(setting.member.count_log("back after the reboot").unwrap(), 0);
    assert_eq!(setting.ends().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_reboot_counts_from_zero_and_is_seen_all_the_same() {
    let mut setting = ordered().await;
    setting.comes_up(1).await;
    setting.member.wait_log("slot given back").await.unwrap();
    setting.member.machine.update_engine.need_reboot().await.unwrap();
    setting.look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    setting.systemd.set_soft_reboots(Some(0));
    setting.member.come_back_and_give_back().await.unwrap();
    assert_eq!(setting.ends().await, [Ending::Verified, Ending::Verified]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_cannot_hear_the_count_does_not_guess_and_ends() {
    let mut setting = ordered().await;
    setting.member.kill().await.unwrap();
    let mut command = setting.member.command().unwrap();
    command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus");
    let mut process = Process::spawn("uncounted", command).unwrap();
    assert_eq!(process.wait_exit(SOON).await.unwrap().code(), Some(1));
    let said = process.stderr().lines().join("\n");
    assert!(said.contains("does not say how many soft reboots there were"), "{said}");
    let record = setting.look.record("web-1").await.unwrap().unwrap();
    assert_eq!(record.state, Some(HolderState::Rebooting));
}
