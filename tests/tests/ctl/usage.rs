//! The command line itself: help, wrong words, wrong configuration, readers that leave.

use std::process::Stdio;

use crate::operator::{Operator, SOON};

#[tokio::test]
async fn help_and_version_are_answers() {
    let op = Operator::new();
    let help = op.ctl("--help").await.ok();
    assert!(help.out.contains("Examples:") && help.out.contains("Exit codes:"), "{help:?}");
    assert!(op.ctl("--version").await.ok().out.starts_with("rebootlockctl "));
    for command in [
        "status",
        "lock",
        "unlock",
        "set-max",
        "reboot",
        "send-need-reboot",
        "queue",
        "groups",
        "windows",
        "pause",
        "resume",
        "request",
        "cancel",
        "hold",
        "unhold",
        "history",
        "forget",
        "machines",
        "repair",
        "doctor",
        "disruption",
        "completions",
    ] {
        assert!(help.out.contains(&format!("\n  {command} ")), "{command} in {help:?}");
        let ran = op.run(&[command, "--help"]).await;
        // Its exit code is an answer, and help is none.
        assert_eq!(ran.code, if command == "disruption" { 64 } else { 0 }, "{ran:?}");
        assert!(ran.out.contains("Usage:"), "{ran:?}");
    }
}

#[tokio::test]
async fn wrong_command_lines_exit_64_with_a_suggestion() {
    let op = Operator::new();
    op.ctl("stauts").await.failed(64, &["status"]);
    op.ctl("status --al-groups").await.failed(64, &["--all-groups"]);
    op.ctl("").await.failed(64, &["Usage"]);
    op.run(&["lock", "web 3"]).await.failed(64, &["machine id \"web 3\" contains ' '"]);
    op.ctl("lock --wait web-3").await.failed(64, &["\"web-3\" is not a duration"]);
    op.ctl("unlock a --overdue 2h").await.failed(64, &["cannot be used with"]);
    op.ctl("status --output xml").await.failed(64, &["table, json"]);
    op.ctl("status --endpoint host:2379").await.failed(64, &["expected http://host:2379"]);
}

#[tokio::test]
async fn wrong_configuration_exits_2_with_file_line_and_suggestion() {
    let op = Operator::new();
    let file = op.file("bad.toml", "[store]\nendpoint = []\n");
    let said = format!("error: {file}:2:1: unknown key `endpoint` in [store]; did you mean");
    op.run(&["status", "--config", &file]).await.failed(2, &[&said]);
    op.ctl("status --config /nonexistent").await.failed(2, &["cannot read /nonexistent: No such"]);
    let ca = ["--endpoint", "https://127.0.0.1:1", "--etcd-cafile", "/nonexistent"];
    op.run(&[&["status"], &ca[..]].concat()).await.failed(2, &["/nonexistent"]);
    let op = op.with("LOCKSMITHCTL_ENDPOINT", "nonsense");
    op.ctl("status").await.failed(2, &["LOCKSMITHCTL"]);
}

#[tokio::test]
async fn locksmiths_variables_work_and_ours_win() {
    let op = Operator::new().with("LOCKSMITHCTL_GROUP", "lb");
    op.ctl("set-max 5").await.ok();
    assert_eq!(op.ctl("status --group lb").await.ok().out, "Available: 5\nMax: 5\n");
    assert_eq!(op.ctl("status --group default").await.ok().out, "Available: 1\nMax: 1\n");
}

#[tokio::test]
async fn only_who_needs_the_machine_id_misses_it() {
    let op = Operator::new().with("REBOOTLOCK_MACHINE_ID_FILE", "/nonexistent");
    op.ctl("status").await.ok();
    op.ctl("lock web-3").await.ok();
    op.ctl("unlock").await.failed(1, &["which machine this is", "/nonexistent"]);
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_failure() {
    let op = Operator::new();
    for line in ["status", "completions bash", "doctor", "groups", "status --watch"] {
        let args: Vec<_> = line.split(' ').collect();
        let mut command = op.command(&args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = tokio::time::timeout(SOON, child.wait_with_output()).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{line}");
        assert_eq!(output.status.code(), Some(0), "{line}");
    }
}

#[tokio::test]
async fn completions_come_for_each_shell_and_for_no_other() {
    let op = Operator::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = op.ctl(&format!("completions {shell}")).await.ok();
        assert!(ran.out.contains("rebootlockctl") && ran.out.contains("set-max"), "{shell}");
    }
    op.ctl("completions tcsh").await.failed(64, &["bash"]);
}
