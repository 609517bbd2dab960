//! `status --watch`: redrawn when something happens, and only then.

use std::time::Duration;

use rebootlock_tests::machine::Pty;
use rebootlock_tests::process::Signal;

use crate::operator::{Operator, SOON};

/// Long enough for many redraws, if there were any.
const QUIET: Duration = Duration::from_millis(300);

#[tokio::test]
async fn each_change_is_shown_once_and_ctrl_c_is_no_failure() {
    let op = Operator::new();
    let mut watch = op.start("status --watch");
    watch.stdout().wait_for(SOON, |line| line == "Max: 1").await.unwrap();
    op.ctl("set-max 3").await.ok();
    watch.stdout().wait_for(SOON, |line| line == "Max: 3").await.unwrap();
    // Somebody else's group, and a document that is none of ours.
    op.ctl("set-max 9 --group other").await.ok();
    op.ctl("request x").await.ok();
    tokio::time::sleep(QUIET).await;
    op.ctl("set-max 4").await.ok();
    watch.stdout().wait_for(SOON, |line| line == "Max: 4").await.unwrap();
    watch.signal(Signal::INT).unwrap();
    assert_eq!(watch.wait_exit(SOON).await.unwrap().code(), Some(0));
    let shown = watch.stdout().lines().join("\n");
    assert_eq!(shown, "Available: 1\nMax: 1\n\nAvailable: 3\nMax: 3\n\nAvailable: 4\nMax: 4");
    assert!(watch.stderr().is_empty());
}

#[tokio::test]
async fn programs_get_one_state_a_line() {
    let op = Operator::new();
    let mut watch = op.start("status --watch --output json --all-groups");
    watch.stdout().wait_for(SOON, |line| line.contains(r#""max":1"#)).await.unwrap();
    op.ctl("set-max 7 --group lb").await.ok();
    let line = watch.stdout().wait_for(SOON, |line| line.contains(r#""max":7"#)).await.unwrap();
    let state: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(state[1]["group"], "lb");
    watch.signal(Signal::TERM).unwrap();
    assert_eq!(watch.wait_exit(SOON).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn on_a_terminal_it_redraws_in_place() {
    let op = Operator::new();
    let mut pty = Pty::open().unwrap();
    let open =
        || std::fs::File::options().write(true).open(format!("/dev/{}", pty.name())).unwrap();
    let mut command = op.command(&["status", "--watch"]);
    let mut child = command.stdout(open()).stderr(open()).spawn().unwrap();
    pty.read_until("\u{1b}[HAvailable: 1\u{1b}[K\r\nMax: 1\u{1b}[K\r\n\u{1b}[J", SOON)
        .await
        .unwrap();
    op.ctl("lock b").await.ok();
    let seen = pty.read_until("holding", SOON).await.unwrap();
    assert!(seen.contains("\u{1b}[HAvailable: 0\u{1b}[K"), "{seen:?}");
    child.start_kill().unwrap();
    child.wait().await.unwrap();
}

#[tokio::test]
async fn who_begins_to_wait_and_who_gets_the_slot_is_seen_live() {
    let op = Operator::new();
    op.ctl("lock a").await.ok();
    let watch = op.start("status --watch");
    watch.stdout().wait_for(SOON, |line| line.starts_with("a ")).await.unwrap();
    assert!(!watch.stdout().lines().iter().any(|line| line == "WAITING"));
    let mut waiting = op.start("lock b --wait");
    watch.stdout().wait_for(SOON, |line| line == "WAITING").await.unwrap();
    watch.stdout().wait_for(SOON, |line| line.starts_with("b ")).await.unwrap();
    op.ctl("unlock a").await.ok();
    assert_eq!(waiting.wait_exit(SOON).await.unwrap().code(), Some(0));
    let held = |line: &str| line.starts_with("b ") && line.contains("holding");
    watch.stdout().wait_for(SOON, held).await.unwrap();
    let shown = watch.stdout().lines();
    let last = shown.iter().rposition(|line| line.starts_with("Available: ")).unwrap();
    assert!(!shown[last..].iter().any(|line| line == "WAITING"), "{shown:?}");
}
