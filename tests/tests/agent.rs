//! The daemon end to end: a signal on a private bus, the lock in a real store, a reboot ordered
//! from logind, a new boot, a freed slot.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use rebootlock::id::Group;
use rebootlock::record::HolderState;
use rebootlock_tests::etcd::{EtcdSetup, versions};
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, Onlooker, SOON, ctl};

/// Nobody is logged in, so nothing takes time.
const CONFIG: &str = "[agent]\npoll_secs = 5\n";

fn sqlite(folder: &tempfile::TempDir) -> Vec<String> {
    vec![format!("sqlite:{}", folder.path().join("lock.db").display())]
}

/// The main job, on any store.
async fn from_signal_to_freed_slot(endpoints: &[String]) {
    let look = Onlooker::new(endpoints).unwrap();
    let mut member = Member::new("web-1", endpoints, CONFIG).await.unwrap();
    member.start().await.unwrap();
    member.machine.notify.wait_for(|message| message.contains("READY=1"), SOON).await.unwrap();

    member.machine.update_engine.need_reboot().await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    let record = look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    assert_eq!(record.boot_id.unwrap().as_str(), member.machine.boot_id().unwrap());
    assert!(record.expected_back.is_some() && record.token.is_some());
    assert!(record.reason.unwrap().contains("update-engine"));
    assert_eq!(
        look.semaphore_text().await.unwrap(),
        r#"{"semaphore":0,"max":1,"holders":["web-1"]}"#
    );
    let coordinator = std::fs::read_to_string(member.machine.coordinator_file()).unwrap();
    assert_eq!(coordinator, "NAME=rebootlockd\nSTATE=rebooting\nSTRATEGY=etcd-lock\n");

    // Going down stops the daemon, and frees nothing.
    member.agent().unwrap().signal(rebootlock_tests::process::Signal::TERM).unwrap();
    assert!(member.agent().unwrap().wait_exit(SOON).await.unwrap().success());
    assert!(look.record("web-1").await.unwrap().is_some());

    member.go_down_and_come_back().await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(look.semaphore_text().await.unwrap(), r#"{"semaphore":1,"max":1,"holders":[]}"#);
    assert_eq!(member.machine.logind.reboots(), 1);
    member.wait_log("slot given back").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_becomes_a_reboot_and_a_freed_slot_on_every_etcd() {
    for version in versions().unwrap() {
        let etcd = EtcdSetup::new(&version).start().await.unwrap();
        from_signal_to_freed_slot(&etcd.endpoints()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_becomes_a_reboot_and_a_freed_slot_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    from_signal_to_freed_slot(&sqlite(&folder)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_machines_go_one_at_a_time_and_all_get_through() {
    let etcd = EtcdSetup::new(&versions().unwrap()[0]).start().await.unwrap();
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    let mut revisions = look.record_revisions();
    let endpoints = etcd.endpoints();
    let fleet = ["web-1", "web-2", "web-3"].map(async |id| {
        let mut member = Member::new(id, &endpoints, CONFIG).await.unwrap();
        member.start().await.unwrap();
        member.machine.update_engine.need_reboot().await.unwrap();
        member.machine.logind.wait_reboot(SOON).await.unwrap();
        member.go_down_and_come_back().await.unwrap();
        member.wait_log("slot given back").await.unwrap();
        assert_eq!(member.machine.logind.reboots(), 1);
    });
    futures::future::join_all(fleet).await;
    let mut order = revisions.replay(1, 3).await.unwrap();
    order.sort();
    assert_eq!(order, ["web-1", "web-2", "web-3"]);
    let status = look.locks.status(&Group::default()).await.unwrap();
    assert!(status.holders.is_empty() && status.queue.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_are_there_are_listed_with_what_they_do() {
    let folder = tempfile::tempdir().unwrap();
    let endpoints = sqlite(&folder);
    let look = Onlooker::new(&endpoints).unwrap();
    look.locks.set_max(&Group::default(), 0).await.unwrap();
    let mut member = Member::new("web-1", &endpoints, CONFIG).await.unwrap();
    member.start().await.unwrap();
    let listed = async |state: &str| {
        eventually(state, SOON, async || {
            let shown = ctl(&endpoints, &["machines"]).await?;
            let shown = String::from_utf8(shown.stdout)?;
            let row = shown.lines().find(|line| line.starts_with("web-1 ")).map(str::to_owned);
            anyhow::ensure!(row.is_some_and(|row| row.contains(state)), "{shown}");
            Ok::<_, anyhow::Error>(())
        })
        .await
        .unwrap();
    };
    listed("idle").await;
    member.machine.update_engine.need_reboot().await.unwrap();
    listed("waiting-for-slot").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn send_need_reboot_tries_the_whole_set_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut member = Member::new("web-1", &sqlite(&folder), CONFIG).await.unwrap();
    member.start().await.unwrap();
    member.wait_log("Idle").await.unwrap();
    let binary = rebootlock_tests::binaries::path("rebootlockctl").unwrap();
    let mut command = member.machine.command(&binary);
    let sent = command.args(["--config", "/dev/null", "send-need-reboot"]).output().await.unwrap();
    assert!(sent.status.success(), "{sent:?}");
    member.machine.logind.wait_reboot(SOON).await.unwrap();
}
