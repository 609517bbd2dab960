#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

const LONG: Duration = Duration::from_secs(60);
/// A deadline that every script below has passed its first lines by.
const SHORT: Duration = Duration::from_millis(1500);

fn sh(script: &str, timeout: Duration) -> Spec {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    Spec { argv, env: Vec::new(), timeout }
}

/// Whether a process is there and not just a name waiting for its parent.
fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The numbers that a script printed, one a line.
async fn assert_all_gone(output: &Output, how_many: usize) {
    let text = output.to_string();
    let pids: Vec<_> = text.lines().collect();
    assert_eq!(pids.len(), how_many, "{text}");
    for pid in pids {
        until(&format!("the end of {pid}"), || !lives(pid)).await;
    }
}

#[tokio::test]
async fn both_streams_are_kept_in_the_order_they_came() {
    let run = run(&sh("echo one; echo two >&2; echo three; exit 7", LONG)).await;
    assert_eq!(run.how, How::Exited(7));
    assert_eq!(run.output.to_string(), "one\ntwo\nthree");
    assert!(!run.succeeded());
}

#[tokio::test]
async fn standard_output_can_be_had_by_itself_up_to_a_limit() {
    let (run, stdout) = run_for_stdout(&sh("echo noise >&2; echo '{}'", LONG), 100).await;
    assert!(run.succeeded());
    assert_eq!(stdout, Stdout { bytes: b"{}\n".to_vec(), truncated: false });
    assert!(run.output.to_string().contains("noise"));
    let (_, stdout) = run_for_stdout(&sh("echo 123456", LONG), 3).await;
    assert_eq!(stdout, Stdout { bytes: b"123".to_vec(), truncated: true });
}

#[tokio::test]
async fn variables_are_passed_on_and_there_is_nothing_to_read() {
    let mut spec = sh("cat; echo \"$GREETING $PWD\"", LONG);
    spec.env.push(("GREETING".to_owned(), "hello".to_owned()));
    assert_eq!(run(&spec).await.output.to_string(), "hello /");
}

#[test]
fn secrets_and_what_systemd_says_to_us_are_not_passed_on() {
    for name in ["LOCKSMITHD_ETCD_PASSWORD", "db_password", "AWS_SECRET_KEY", "NOTIFY_SOCKET"] {
        assert!(is_private(name), "{name}");
    }
    for name in ["PATH", "REBOOTLOCK_ENDPOINT", "REBOOTLOCK_ETCD_PASSWORD_FILE", "HOME"] {
        assert!(!is_private(name), "{name}");
    }
}

#[tokio::test]
async fn arguments_are_no_shell() {
    let argv = ["printf", "%s", "$(id) $HOME ; *"].map(str::to_owned).to_vec();
    let run = run(&Spec { argv, env: Vec::new(), timeout: LONG }).await;
    assert_eq!(run.output.to_string(), "$(id) $HOME ; *");
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
    let missing = folder.path().join("missing");
    for (program, said) in [
        (missing.as_path(), "No such file"),
        (plain.as_path(), "Permission denied"),
        (Path::new("no-such-program-anywhere"), "No such file"),
    ] {
        let argv = vec![program.to_str().unwrap().to_owned()];
        let run = run(&Spec { argv, env: Vec::new(), timeout: LONG }).await;
        let How::NotStarted(why) = run.how else { panic!("{program:?} was started") };
        assert!(why.contains(said) && why.contains(program.to_str().unwrap()), "{why}");
    }
    let nothing = Spec { argv: Vec::new(), env: Vec::new(), timeout: LONG };
    assert!(matches!(run(&nothing).await.how, How::NotStarted(_)));
}

#[tokio::test]
async fn death_by_signal_is_no_exit_code() {
    assert_eq!(run(&sh("kill -SEGV $$", LONG)).await.how, How::Killed(11));
    assert_eq!(run(&sh("kill -TERM $$", LONG)).await.how, How::Killed(15));
}

#[tokio::test]
async fn at_its_deadline_a_tree_is_asked_to_end() {
    let run = run(&sh("echo $$; sleep 60 & echo $!; wait", SHORT)).await;
    assert_eq!(run.how, How::TimedOut);
    assert!(run.took < SHORT + GRACE, "{:?}", run.took);
    assert_all_gone(&run.output, 2).await;
}

#[tokio::test]
async fn a_command_that_ends_well_after_its_deadline_was_too_late() {
    let run = run(&sh("trap 'exit 0' TERM; sleep 60 & wait", SHORT)).await;
    assert_eq!(run.how, How::TimedOut);
}

#[tokio::test]
async fn a_tree_that_ignores_being_asked_is_killed() {
    let script = "trap '' TERM; echo $$; \
                  (sh -c 'echo $$; sleep 60'; sleep 60) & echo $!; sleep 60; sleep 60";
    let run = run(&sh(script, SHORT)).await;
    assert_eq!(run.how, How::TimedOut);
    assert!(run.took >= SHORT + GRACE && run.took < SHORT + GRACE + LONG / 6, "{:?}", run.took);
    assert_all_gone(&run.output, 3).await;
}

#[tokio::test]
async fn a_stopped_tree_is_killed() {
    let run = run(&sh("echo $$; kill -STOP $$", SHORT)).await;
    assert_eq!(run.how, How::TimedOut);
    assert_all_gone(&run.output, 1).await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_killed() {
    let run = run(&sh("sleep 60 & echo $!", LONG)).await;
    assert_eq!(run.how, How::Exited(0));
    assert!(run.took < LONG / 6, "{:?}", run.took);
    assert_all_gone(&run.output, 1).await;
}

#[tokio::test]
async fn what_leaves_the_group_is_killed() {
    let script = "setsid sh -c 'echo $$; (setsid sh -c \"echo \\$\\$; sleep 60\" >&2 &) ; sleep 60' & \
                  sleep 60";
    let run = run(&sh(script, SHORT)).await;
    assert_eq!(run.how, How::TimedOut);
    assert_all_gone(&run.output, 2).await;
}

/// Such a one escapes without a cgroup, but nobody waits for it.
#[tokio::test]
async fn nobody_waits_for_output_in_the_hands_of_who_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("escaped");
    let script = format!(
        "env -i setsid sh -c 'echo $$; : > {file}; exec /bin/sleep 60' & \
         while [ ! -e {file} ]; do sleep 0.01; done",
        file = file.display()
    );
    let run = run(&sh(&script, LONG)).await;
    assert_eq!(run.how, How::Exited(0));
    assert!(run.took < LONG / 6, "{:?}", run.took);
    let pid = run.output.to_string().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn output_without_end_neither_blocks_nor_piles_up() {
    let script = "head -c 20000000 /dev/zero | tr '\\0' x; \
                  head -c 20000000 /dev/zero | tr '\\0' y >&2; echo; echo end";
    let run = run(&sh(script, LONG)).await;
    assert_eq!(run.how, How::Exited(0));
    assert_eq!(run.output.bytes().len(), 64 * 1024);
    assert_eq!(run.output.dropped(), 40_000_005 - 64 * 1024);
    assert!(run.output.to_string().ends_with("y\nend"));
    let run = super::run(&sh("yes & yes >&2", SHORT)).await;
    assert_eq!(run.how, How::TimedOut);
    assert!(run.took < SHORT + GRACE, "{:?}", run.took);
}

#[tokio::test]
async fn dropping_the_future_kills_the_tree() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let script = format!(
        "trap '' TERM; (setsid sh -c 'echo $$; sleep 60' & sleep 60 & echo $!; echo $$; echo; wait) \
         > {}; sleep 60",
        file.display()
    );
    let running = tokio::spawn(async move { run(&sh(&script, LONG)).await });
    let printed = || std::fs::read_to_string(&file).unwrap_or_default();
    until("the children", || printed().lines().filter(|line| !line.is_empty()).count() == 3).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    for pid in printed().lines().filter(|line| !line.is_empty()) {
        until(&format!("the end of {pid}"), || !lives(pid)).await;
    }
}

#[tokio::test]
async fn no_zombies_are_left() {
    for script in ["exit 0", "kill -9 $$", "sleep 60 &"] {
        run(&sh(script, LONG)).await;
    }
    run(&sh("trap '' TERM; sleep 60; sleep 60", SHORT)).await;
    drop(tokio::time::timeout(SHORT, run(&sh("sleep 60", LONG))).await);
    let own = std::process::id();
    let children = || {
        let lists = std::fs::read_dir(format!("/proc/{own}/task")).unwrap();
        lists
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
            .collect::<String>()
    };
    // Tests that share a process with this one may have children of their own, but no dead ones.
    until("the last child", || children().split_whitespace().all(lives)).await;
}

#[tokio::test]
async fn a_command_that_belongs_to_itself_outlives_who_waits_but_not_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let (file, end) = (folder.path().join("pid"), folder.path().join("end"));
    let script = format!(
        "echo $$ > {}; while [ ! -e {} ]; do sleep 0.02; done",
        file.display(),
        end.display()
    );
    let pid = || std::fs::read_to_string(&file).unwrap_or_default().trim().to_owned();
    let spec = sh(&script, LONG);
    let running = tokio::spawn(async move { run_apart(&spec, &mut |_| ()).await });
    until("its beginning", || !pid().is_empty()).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert!(lives(&pid()));
    std::fs::write(&end, "").unwrap();
    until("its end", || !lives(&pid())).await;

    assert_eq!(run_apart(&sh("exit 3", LONG), &mut |_| ()).await.how, How::Exited(3));
    let run = run_apart(&sh("sleep 60; sleep 60", SHORT), &mut |_| ()).await;
    assert_eq!(run.how, How::TimedOut);
}

/// Starts a command that belongs to itself, and forgets all of it but its trace.
async fn left_running(script: &str) -> (Trace, String) {
    let folder = tempfile::tempdir().unwrap();
    let begun = folder.path().join("begun");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; {script}", begun.display());
    let (notes, mut noted) = tokio::sync::mpsc::unbounded_channel();
    let running = tokio::spawn(async move {
        run_apart(&sh(&script, LONG), &mut |trace| drop(notes.send(trace.clone()))).await
    });
    assert!(!noted.recv().await.unwrap().was_started(), "noted before it is started");
    let trace = noted.recv().await.unwrap();
    assert!(trace.was_started());
    until("the beginning", || begun.exists()).await;
    let pid = std::fs::read_to_string(&begun).unwrap().trim().to_owned();
    running.abort();
    let _ = running.await;
    // As it is read by another life.
    let trace: Trace = serde_json::from_str(&serde_json::to_string(&trace).unwrap()).unwrap();
    (trace, pid)
}

#[tokio::test]
async fn what_was_left_running_is_found_again_and_ended() {
    let (trace, pid) = left_running("sleep 60 & wait").await;
    assert!(lives(&pid) && trace.lives().await);
    assert!(trace.end().await);
    assert!(!lives(&pid) && !trace.lives().await);
}

#[tokio::test]
async fn what_does_not_heed_and_what_left_its_group_is_ended_too() {
    let (trace, pid) =
        left_running("trap '' TERM; setsid sleep 60 & while :; do sleep 1; done").await;
    assert!(trace.end().await);
    assert!(!lives(&pid) && !trace.lives().await);
}

#[tokio::test]
async fn what_outlives_its_leader_is_still_of_the_run() {
    let (trace, pid) = left_running("sleep 60 & exit 0").await;
    until("the end of the leader", || !lives(&pid)).await;
    assert!(trace.lives().await);
    assert!(trace.end().await && !trace.lives().await);
}

#[tokio::test]
async fn a_number_that_was_given_away_is_nobody_of_the_run() {
    let (trace, _) = left_running("exit 0").await;
    until("the end", || true).await;
    // Who started this test has been there for longer; this test itself may have begun in the same
    // tick of the kernel's clock.
    let older = std::os::unix::process::parent_id();
    let text = serde_json::to_string(&trace).unwrap();
    let before: serde_json::Value = serde_json::from_str(&text).unwrap();
    let pid = before["leader"]["pid"].as_i64().unwrap();
    let other = text.replace(&format!("\"pid\":{pid}"), &format!("\"pid\":{older}"));
    let other: Trace = serde_json::from_str(&other).unwrap();
    // It bears that number now, and began at another time.
    assert!(!other.lives().await);
}
