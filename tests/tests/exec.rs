//! `rebootlockctl exec`: a slot for as long as a command runs.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::PathBuf;

use rebootlock::id::Group;
use rebootlock_tests::fleet::{Onlooker, SOON};
use rebootlock_tests::process::{Process, Signal};
use rebootlock_tests::{binaries, eventually};
use tempfile::TempDir;
use tokio::process::Command;

struct Place {
    folder: TempDir,
    look: Onlooker,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = format!("sqlite:{}", folder.path().join("lock.db").display());
        let look = Onlooker::new(&[endpoint]).unwrap();
        Self { folder, look }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `rebootlockctl` on a machine of this name.
    fn ctl(&self, machine: &str, words: &[&str]) -> Command {
        let id = self.path(machine);
        std::fs::write(&id, machine).unwrap();
        let mut command = Command::new(binaries::path("rebootlockctl").unwrap());
        command.env("REBOOTLOCK_CONFIG", "/dev/null").arg("--machine-id-file").arg(id);
        command.arg("--endpoint").arg(format!("sqlite:{}", self.path("lock.db").display()));
        command.args(words);
        command
    }

    async fn held_by(&self) -> Vec<String> {
        let status = self.look.locks.status(&Group::default()).await.unwrap();
        status.holders.iter().map(|holder| holder.machine.to_string()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_is_held_while_the_command_runs_and_its_exit_code_is_passed_on() {
    let place = Place::new();
    let marker = place.path("running");
    let script = format!("touch {}; read line; exit 3", marker.display());
    let command = place.ctl("a", &["exec", "--", "sh", "-c", &script]);
    let mut running = Process::spawn("exec", command).unwrap();
    eventually("the command runs", SOON, async || marker.exists().then_some(()).ok_or("no"))
        .await
        .unwrap();
    assert_eq!(place.held_by().await, ["a"]);

    let other = place.ctl("b", &["exec", "--", "true"]).output().await.unwrap();
    assert_eq!(other.status.code(), Some(4));
    let again = place.ctl("a", &["exec", "--", "true"]).output().await.unwrap();
    assert_eq!(again.status.code(), Some(4), "one slot is not two");
    assert!(String::from_utf8_lossy(&again.stderr).contains("already"));

    running.send_line("go").await.unwrap();
    assert_eq!(running.wait_exit(SOON).await.unwrap().code(), Some(3));
    assert!(place.held_by().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_queue_like_everyone_and_one_that_cannot_start_leaves_nothing() {
    let place = Place::new();
    let missing = place.ctl("a", &["exec", "--", "/nonexistent/command"]).output().await.unwrap();
    assert_eq!(missing.status.code(), Some(127));
    assert!(place.held_by().await.is_empty());

    let first = place.ctl("a", &["exec", "--", "sh", "-c", "read line"]);
    let mut first = Process::spawn("first", first).unwrap();
    eventually("a holds", SOON, async || {
        let held = place.held_by().await;
        if held == ["a"] { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await
    .unwrap();
    let second = place.ctl("b", &["exec", "--wait", "1m", "--", "true"]);
    let mut second = Process::spawn("second", second).unwrap();
    second.wait_line("next in the queue", SOON).await.unwrap();
    first.send_line("go").await.unwrap();
    assert_eq!(second.wait_exit(SOON).await.unwrap().code(), Some(0));
    let status = place.look.locks.status(&Group::default()).await.unwrap();
    assert!(status.holders.is_empty() && status.queue.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stops_exec_stops_the_command_and_frees_the_slot() {
    let place = Place::new();
    let marker = place.path("running");
    let script = format!("touch {}; exec sleep 600", marker.display());
    let command = place.ctl("a", &["exec", "--", "sh", "-c", &script]);
    let mut running = Process::spawn("exec", command).unwrap();
    eventually("the command runs", SOON, async || marker.exists().then_some(()).ok_or("no"))
        .await
        .unwrap();
    running.signal(Signal::TERM).unwrap();
    assert_eq!(running.wait_exit(SOON).await.unwrap().code(), Some(128 + 15));
    assert!(place.held_by().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_exec_was_killed_stays_and_is_shown_as_orphaned() {
    let place = Place::new();
    let marker = place.path("running");
    let script = format!("touch {}; read line", marker.display());
    let command = place.ctl("a", &["exec", "--", "sh", "-c", &script]);
    let mut running = Process::spawn("exec", command).unwrap();
    eventually("the command runs", SOON, async || marker.exists().then_some(()).ok_or("no"))
        .await
        .unwrap();
    running.kill().await.unwrap();
    // The sign of life ends with its lease.
    let shown = eventually("it is orphaned", SOON * 3, async || {
        let status = place.ctl("b", &["status"]).output().await.unwrap();
        let shown = String::from_utf8_lossy(&status.stdout).into_owned();
        if shown.contains("orphaned") { Ok(shown) } else { Err(shown) }
    })
    .await
    .unwrap();
    assert!(shown.contains("read line"), "{shown}");
    assert_eq!(place.held_by().await, ["a"]);
    let unlocked = place.ctl("b", &["unlock", "a"]).output().await.unwrap();
    assert!(unlocked.status.success());
    assert!(place.held_by().await.is_empty());
}
