//! What `status` shows.

use rebootlock::id::Group;
use serde_json::Value;

use crate::operator::{Operator, group, keys, machine, semaphore};

const ID: &str = "69d27b356a94476da859461d3a3bc6fd";

#[tokio::test]
async fn a_store_never_used_shows_the_initial_semaphore_and_stays_empty() {
    let op = Operator::new();
    let ran = op.ctl("status").await.ok();
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("Available: 1\nMax: 1\n", ""));
    assert!(op.load().await.entries.is_empty());
}

#[tokio::test]
async fn a_bare_semaphore_is_shown_to_the_letter_as_coreos_did() {
    let op = Operator::new();
    op.put(&semaphore(), &format!(r#"{{"semaphore":0,"max":1,"holders":["{ID}"]}}"#)).await;
    let ran = op.ctl("status").await.ok();
    assert_eq!(ran.out, format!("Available: 0\nMax: 1\n\nMACHINE ID\n{ID}\n"));
    op.put(&semaphore(), r#"{"semaphore":-1,"max":1,"holders":["b","a"]}"#).await;
    assert_eq!(op.ctl("status").await.ok().out, "Available: -1\nMax: 1\n\nMACHINE ID\na\nb\n");
    op.put(&semaphore(), r#"{"semaphore":1,"max":1,"holders":null}"#).await;
    assert_eq!(op.ctl("status").await.ok().out, "Available: 1\nMax: 1\n");
}

#[tokio::test]
async fn records_make_a_table_and_late_ones_are_overdue() {
    let op = Operator::new();
    op.put(&semaphore(), r#"{"semaphore":0,"max":3,"holders":["a","b","c"]}"#).await;
    let holder = |id| keys().holder(&Group::default(), &machine(id));
    let record = r#"{"machineID":"a","startTime":1000,"hostname":"web-1","state":"rebooting",
        "expectedBack":2000,"reason":"kernel"}"#;
    op.put(&holder("a"), record).await;
    op.put(&holder("b"), "{\"machineID\":").await;
    let ran = op.ctl("status").await.ok();
    let lines: Vec<_> = ran.out.lines().collect();
    // How wide the time is depends on the hour in which this runs.
    let heading = lines[3].strip_suffix("REASON").unwrap().trim_end();
    assert_eq!(heading, "MACHINE ID  HOST   STATE               HELD FOR");
    assert!(lines[4].starts_with("a           web-1  rebooting, overdue  "), "{ran:?}");
    assert!(lines[4].ends_with(" kernel"), "{ran:?}");
    assert!(lines[5].starts_with("b           -      damaged record      -"), "{ran:?}");
    assert!(lines.iter().all(|line| line.trim_end() == *line), "{ran:?}");
    assert!(!ran.out.contains('\u{1b}'), "colour is for terminals");
}

#[tokio::test]
async fn programs_get_the_same_as_json() {
    let op = Operator::new();
    op.ctl("lock --reason disk").await.ok();
    op.ctl("pause --reason trouble").await.ok();
    let shown: Value =
        serde_json::from_str(&op.ctl("status --output json").await.ok().out).unwrap();
    let group = &shown[0];
    assert_eq!((&group["group"], &group["available"]), (&"default".into(), &0.into()));
    assert_eq!(group["max"], 1);
    let holder = &group["holders"][0];
    assert_eq!(holder["machineID"], "a".repeat(32));
    assert_eq!((&holder["state"], &holder["via"]), (&"holding".into(), &"ctl".into()));
    assert_eq!((&holder["reason"], &holder["overdue"]), (&"disk".into(), &false.into()));
    assert_eq!(holder["bootID"], "9d2a2c6c-boot");
    for number in ["since", "heldForSecs"] {
        assert!(holder[number].is_u64(), "{number} in {shown}");
    }
    assert!(holder["token"].is_string() && holder["hostname"].is_string());
    assert_eq!(holder["groups"], serde_json::json!(["default"]));
    assert_eq!(group["queue"], serde_json::json!([]));
    assert_eq!(group["paused"][0]["scope"], "group");
    assert_eq!(group["paused"][0]["reason"], "trouble");
    assert!(group["revision"].is_u64());
}

#[tokio::test]
async fn several_groups_have_headings() {
    let op = Operator::new();
    op.ctl("set-max 2 --group lb").await.ok();
    let both = "Group: default\nAvailable: 1\nMax: 1\n\nGroup: lb\nAvailable: 2\nMax: 2\n";
    assert_eq!(op.ctl("status --all-groups").await.ok().out, both);
    assert_eq!(op.ctl("status --group default --group lb").await.ok().out, both);
    assert_eq!(op.ctl("status --group lb").await.ok().out, "Available: 2\nMax: 2\n");
}

#[tokio::test]
async fn a_pause_is_shown_first() {
    let op = Operator::new();
    op.run(&["pause", "--group", "lb", "--reason", "kernel trouble"]).await.ok();
    let shown = op.ctl("status --group lb").await.ok().out;
    assert!(shown.starts_with("Paused: group lb by alice@"), "{shown}");
    assert!(shown.contains(": kernel trouble (for "), "{shown}");
    assert!(shown.ends_with("Available: 1\nMax: 1\n"), "{shown}");
    assert!(op.get(&keys().paused(&group("lb"))).await.is_some());
}

#[tokio::test]
async fn text_out_of_the_store_cannot_steer_the_terminal() {
    let op = Operator::new();
    op.put(&semaphore(), r#"{"semaphore":0,"max":1,"holders":["a\u001b[2Jb\nc"]}"#).await;
    let shown = op.ctl("status").await.ok().out;
    assert!(!shown.contains('\u{1b}') && shown.ends_with("a\u{fffd}[2Jb\u{fffd}c\n"), "{shown}");
}
