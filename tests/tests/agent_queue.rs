//! Agents in the queue: who goes first, and what makes one leave.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::SystemTime;

use rebootlock::id::Group;
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, Onlooker, SOON, ctl};
use rebootlock_tests::process::Signal;

/// Everything is looked at again and again.
const CONFIG: &str = "[agent]\npoll_secs = 1\ncheck_interval_secs = 1\n";

struct Place {
    folder: tempfile::TempDir,
    look: Onlooker,
}

impl Place {
    /// Its only slot is held by db-1.
    async fn full() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let look = Onlooker::new(&[endpoint(&folder)]).unwrap();
        look.lock("db-1").await.unwrap();
        Self { folder, look }
    }

    fn endpoints(&self) -> Vec<String> {
        vec![endpoint(&self.folder)]
    }

    async fn member(&self, id: &str, config: &str) -> Member {
        let mut member = Member::new(id, &self.endpoints(), config).await.unwrap();
        let mut command = member.command().unwrap();
        command.env("TZ", "UTC");
        member.start_with(command).await.unwrap();
        member
    }

    async fn request(&self, words: &[&str]) {
        let words: Vec<_> = ["request"].iter().chain(words).copied().collect();
        assert!(ctl(&self.endpoints(), &words).await.unwrap().status.success());
    }

    /// Waits until exactly these machines wait, in the order in which they would go.
    async fn wait_order(&self, expected: &[&str]) {
        eventually(&format!("the queue is {expected:?}"), SOON, async || {
            let status = self.look.locks.status(&Group::default()).await?;
            let queue: Vec<_> = status.queue.iter().map(|t| t.machine.to_string()).collect();
            anyhow::ensure!(queue == expected, "{queue:?}");
            Ok(())
        })
        .await
        .unwrap();
    }
}

fn endpoint(folder: &tempfile::TempDir) -> String {
    format!("sqlite:{}", folder.path().join("lock.db").display())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_queues_leaves_when_its_gate_closes_and_comes_back_when_it_opens() {
    let place = Place::full().await;
    let busy = place.folder.path().join("busy");
    let gate = "[[gate]]\nname = \"backup\"\ntype = \"busy-file\"";
    let config = format!("{CONFIG}{gate}\npaths = [{busy:?}]\n");
    let mut member = place.member("web-1", &config).await;
    place.request(&["web-1"]).await;
    place.wait_order(&["web-1"]).await;
    std::fs::write(&busy, "").unwrap();
    place.wait_order(&[]).await;
    member.wait_status("gate backup is closed").await.unwrap();
    // A slot that is free now is not for it, though it still wants to reboot.
    place.look.unlock("db-1").await.unwrap();
    place.look.lock("db-2").await.unwrap();
    place.look.unlock("db-2").await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
    std::fs::remove_file(&busy).unwrap();
    member.reboot_and_give_back().await.unwrap();
    place.look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_queues_leaves_when_its_window_closes() {
    let place = Place::full().await;
    let mut member = place.member("web-1", CONFIG).await;
    place.request(&["web-1"]).await;
    place.wait_order(&["web-1"]).await;
    // Closed for hours to come.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let hour = (now / 3600 + 12) % 24;
    member
        .configure(&format!("{CONFIG}[[window]]\nstart = \"{hour:02}:00\"\nlength = \"1h\"\n"))
        .unwrap();
    member.agent().unwrap().signal(Signal::HUP).unwrap();
    place.wait_order(&[]).await;
    member.wait_status("window").await.unwrap();
    place.look.unlock("db-1").await.unwrap();
    member.configure(CONFIG).unwrap();
    member.agent().unwrap().signal(Signal::HUP).unwrap();
    member.reboot_and_give_back().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn priorities_of_configuration_and_of_requests_decide_who_goes_first() {
    let place = Place::full().await;
    let mut revisions = place.look.record_revisions();
    let important = format!("{CONFIG}priority = 5\n");
    let mut plain = place.member("web-1", CONFIG).await;
    let mut configured = place.member("web-2", &important).await;
    let mut requested = place.member("web-3", CONFIG).await;
    place.request(&["web-1"]).await;
    place.wait_order(&["web-1"]).await;
    place.request(&["web-2"]).await;
    place.wait_order(&["web-2", "web-1"]).await;
    place.request(&["web-3", "--priority", "9"]).await;
    place.wait_order(&["web-3", "web-2", "web-1"]).await;
    let shown = ctl(&place.endpoints(), &["queue", "--output", "json"]).await.unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&shown.stdout).unwrap();
    let places: Vec<_> = rows
        .iter()
        .map(|row| (row["machineID"].as_str().unwrap(), row["priority"].as_u64().unwrap()))
        .collect();
    assert_eq!(places, [("web-3", 9), ("web-2", 5), ("web-1", 0)]);
    place.look.unlock("db-1").await.unwrap();
    for member in [&mut requested, &mut configured, &mut plain] {
        member.reboot_and_give_back().await.unwrap();
    }
    let order = revisions.replay(1, 4).await.unwrap();
    assert_eq!(order, ["db-1", "web-3", "web-2", "web-1"]);
}
