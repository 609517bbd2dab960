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
    let host = rebootlock::host::hostname();
    let row = shown.lines().find(|line| line.starts_with("a ")).unwrap();
    assert_eq!(row.split_whitespace().nth(1), Some(host.as_str()), "{shown}");
    let asked = place.ctl("b", &["status", "--output", "json"]).output().await.unwrap();
    let asked: serde_json::Value = serde_json::from_slice(&asked.stdout).unwrap();
    let holder = &asked[0]["holders"][0];
    assert_eq!((&holder["state"], &holder["hostname"]), (&"orphaned".into(), &host.into()));
    let again = place.ctl("a", &["exec", "--", "true"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(4), "{said}");
    assert!(said.contains("already, taken via exec; not run"), "{said}");
    assert_eq!(place.held_by().await, ["a"]);
    let unlocked = place.ctl("b", &["unlock", "a"]).output().await.unwrap();
    assert!(unlocked.status.success());
    assert!(place.held_by().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_in_one_of_two_groups_is_not_said_to_be_one_in_both() {
    let place = Place::new();
    let locked = place.ctl("a", &["lock", "--group", "lb"]).output().await.unwrap();
    assert!(locked.status.success());
    let words = ["exec", "--group", "lb", "--group", "rack-7", "--", "true"];
    let ran = place.ctl("a", &words).output().await.unwrap();
    assert_eq!(ran.status.code(), Some(4));
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    let words = "a holds a slot in group lb from elsewhere, but none in group rack-7";
    assert!(said.contains(words) && said.contains("not run"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_from_the_others_is_not_in_the_reason() {
    let place = Place::new();
    let marker = place.path("running");
    let script = format!("touch {}; read line # --password=secret", marker.display());
    let command = place.ctl("a", &["exec", "--reason", "disk swap", "--", "sh", "-c", &script]);
    let mut running = Process::spawn("exec", command).unwrap();
    eventually("the command runs", SOON, async || marker.exists().then_some(()).ok_or("no"))
        .await
        .unwrap();
    let shown = place.ctl("b", &["status"]).output().await.unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("disk swap") && !shown.contains("secret"), "{shown}");
    running.send_line("go").await.unwrap();
    assert_eq!(running.wait_exit(SOON).await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_was_ignored_before_stays_ignored() {
    let place = Place::new();
    let marker = place.path("running");
    let exec = place.ctl("a", &["exec", "--", "sh", "-c"]);
    // As `nohup` starts it.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    command.arg(exec.as_std().get_program()).args(exec.as_std().get_args());
    command.arg(format!("touch {}; read line; exit 5", marker.display()));
    command.env("REBOOTLOCK_CONFIG", "/dev/null");
    let mut running = Process::spawn("exec", command).unwrap();
    eventually("the command runs", SOON, async || marker.exists().then_some(()).ok_or("no"))
        .await
        .unwrap();
    running.signal(Signal::HUP).unwrap();
    running.send_line("go").await.unwrap();
    assert_eq!(running.wait_exit(SOON).await.unwrap().code(), Some(5));
    assert!(place.held_by().await.is_empty());
}
