#![allow(clippy::unwrap_used)]

use std::path::Path;

use rebootlock::config::Fragment;
use tokio::sync::watch as channel;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn detectors(config: &str) -> Detectors {
    let fragment = Fragment::parse(Path::new("test.toml"), config).unwrap();
    Detectors::new(&fragment.detector.unwrap_or_default())
}

fn file(path: &Path) -> String {
    format!("[[detector]]\nname = \"marker\"\ntype = \"file\"\npath = {path:?}\n")
}

fn sh(name: &str, script: &str, more: &str) -> String {
    format!(
        "[[detector]]\nname = {name:?}\ntype = \"command\"\nreboot_needed_codes = [1]\n\
         command = [\"sh\", \"-c\", {script:?}]\n{more}\n"
    )
}

const MISSING: &str = "[[detector]]\nname = \"missing\"\ntype = \"command\"\n\
                       command = [\"/nonexistent/tool\"]\nreboot_needed_codes = [1]\n";

#[tokio::test]
async fn none_configured_or_all_switched_off_is_nothing() {
    let off = "[[detector]]\ntype = \"kernel\"\nenabled = false\n[[detector]]\ntype = \"request\"\n\
               [[detector]]\ntype = \"update-engine\"\n";
    for config in ["", off] {
        let detectors = detectors(config);
        assert!(detectors.is_empty());
        assert_eq!(detectors.ask().await.want(), Want::Nothing);
    }
}

#[tokio::test]
async fn any_reason_is_enough_and_all_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let config = file(&path) + &sh("a", "exit 0", "") + &sh("b", "echo patched; exit 1", "");
    let detectors = detectors(&config);
    let reboot = |reason: String| Want::Reboot { reason, priority: 0, requested: false };
    assert_eq!(detectors.ask().await.want(), reboot("b: patched".into()));
    std::fs::write(&path, "").unwrap();
    let both = format!("marker: {} is there; b: patched", path.display());
    assert_eq!(detectors.ask().await.want(), reboot(both));
}

#[tokio::test]
async fn a_failure_beside_a_reason_is_unknown_unless_it_is_optional() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    std::fs::write(&path, "").unwrap();
    let findings = detectors(&(file(&path) + MISSING)).ask().await;
    assert_eq!(findings.want(), Want::Unknown);
    let [failed] = findings.failed()[..] else { panic!("one failed: {findings:?}") };
    assert_eq!((failed.name.as_str(), failed.kind), ("missing", "command"));
    let optional = detectors(&(file(&path) + MISSING + "optional = true\n")).ask().await;
    assert!(optional.failed().is_empty());
    assert!(
        matches!(optional.want(), Want::Reboot { reason, .. } if reason.starts_with("marker: "))
    );
    // Nor is an optional failure a reason.
    let alone = detectors(&format!("{MISSING}optional = true\n")).ask().await;
    assert_eq!(alone.want(), Want::Nothing);
}

#[tokio::test]
async fn they_are_asked_side_by_side_each_within_its_own_time() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = |name: &str| folder.path().join(name);
    let made = std::process::Command::new("mkfifo").args([pipe("a"), pipe("b")]).status().unwrap();
    assert!(made.success());
    // Each waits for the other: one after the other they would never end.
    let meet = |mine: &str, other: &str| {
        format!(
            "echo x > {} & read x < {}; wait; exit 0",
            pipe(mine).display(),
            pipe(other).display()
        )
    };
    let config = sh("a", &meet("a", "b"), "timeout_secs = 60")
        + &sh("b", &meet("b", "a"), "timeout_secs = 60")
        + &sh("c", "sleep 600", "timeout_secs = 1");
    let findings = detectors(&config).ask().await;
    let verdicts: Vec<_> = findings.iter().map(|one| one.verdict.as_str()).collect();
    assert_eq!(verdicts, ["clear", "clear", "failed"], "{findings:?}");
    assert!(findings.iter().all(|one| one.took < Duration::from_secs(30)));
}

#[tokio::test]
async fn a_touched_file_is_noticed_without_waiting_for_the_interval() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reboot-required");
    let counted = folder.path().join("counted");
    let count = format!("echo x >> {}", counted.display());
    let detectors = detectors(&(file(&path) + &sh("other", &count, "")));
    let (want, mut told) = channel::channel(Want::Unknown);
    let (heard, answers) = std::sync::mpsc::channel();
    let heard = move |finding: &Finding| heard.send(finding.name.clone()).unwrap();
    let following = follow(Arc::new(Latest::new(detectors, want)), LONG * 60, heard);
    let following = tokio::spawn(following);
    let mut until = async |wanted: &str| {
        let matches = |want: &Want| match want {
            Want::Nothing => wanted.is_empty(),
            Want::Reboot { reason, .. } => !wanted.is_empty() && reason.ends_with(wanted),
            Want::Unknown => false,
        };
        tokio::time::timeout(LONG, told.wait_for(matches)).await.unwrap().unwrap().clone()
    };
    until("").await;
    std::fs::write(&path, "").unwrap();
    until("is there").await;
    std::fs::write(folder.path().join("reboot-required.pkgs"), "libc6\n").unwrap();
    until("because of libc6").await;
    std::fs::remove_file(&path).unwrap();
    until("").await;
    // By a rename, as careful programs do it.
    std::fs::write(folder.path().join("new"), "").unwrap();
    std::fs::rename(folder.path().join("new"), &path).unwrap();
    until("because of libc6").await;
    // What costs more than a look at a file was asked once.
    assert_eq!(std::fs::read_to_string(counted).unwrap(), "x\n");
    drop(told);
    tokio::time::timeout(LONG, following).await.unwrap().unwrap();
    // Each answer was told, whoever it came from.
    let answers: Vec<_> = answers.iter().collect();
    assert_eq!(answers.iter().filter(|name| *name == "other").count(), 1);
    assert!(answers.len() >= 6, "{answers:?}");
}

#[tokio::test]
async fn what_cannot_be_noticed_is_found_at_the_interval_and_only_changes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (sub, switch) = (folder.path().join("sub"), folder.path().join("switch"));
    let script = format!("test ! -e {}", switch.display());
    let config = file(&sub.join("m")) + &sh("switched", &script, "");
    let (want, mut told) = channel::channel(Want::Unknown);
    let latest = Arc::new(Latest::new(detectors(&config), want));
    tokio::spawn(follow(latest, Duration::from_millis(50), |_| {}));
    let next = async |told: &mut channel::Receiver<Want>| {
        tokio::time::timeout(LONG, told.changed()).await.unwrap().unwrap();
        told.borrow_and_update().clone()
    };
    assert_eq!(next(&mut told).await, Want::Nothing);
    std::fs::write(&switch, "").unwrap();
    // The very next thing told: not "nothing" again.
    assert!(
        matches!(next(&mut told).await, Want::Reboot { reason, .. } if reason == "switched: exit code 1")
    );
    std::fs::remove_file(&switch).unwrap();
    assert_eq!(next(&mut told).await, Want::Nothing);
    // A folder that was not there when the others were first watched.
    std::fs::create_dir(&sub).unwrap();
    std::fs::write(sub.join("m"), "").unwrap();
    assert!(
        matches!(next(&mut told).await, Want::Reboot { reason, .. } if reason.ends_with("is there"))
    );
}

#[tokio::test]
async fn the_running_kernel_and_the_uptime_are_asked_of_the_real_machine() {
    let root = tempfile::tempdir().unwrap();
    let running = kernel::running();
    std::fs::create_dir_all(root.path().join("lib/modules").join(&running)).unwrap();
    std::fs::write(root.path().join("lib/modules").join(&running).join("vmlinuz"), "k").unwrap();
    let config = format!(
        "[[detector]]\nname = \"k\"\ntype = \"kernel\"\nroot = {:?}\n\
         [[detector]]\ntype = \"uptime\"\nmax_uptime_secs = 1\n",
        root.path()
    );
    let findings = detectors(&config).ask().await;
    let verdicts: Vec<_> = findings.iter().map(|one| &one.verdict).collect();
    // A release that does not begin with a number is nobody's installed kernel.
    assert_eq!(*verdicts[0], Verdict::Clear, "{running}");
    assert_eq!(*verdicts[1], Verdict::wanted("up for more than a second"));
}
