#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::symlink;

use rebootlock::record::UnixTime;
use tempfile::TempDir;

use super::*;

struct Folders {
    dir: TempDir,
    timeout: Duration,
}

impl Folders {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["pre", "post"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        Self { dir, timeout: Duration::from_secs(60) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A hook that writes its name down and then does `script`.
    fn hook(&self, name: &str, script: &str) {
        let said = self.path("said");
        let text = format!("#!/bin/sh\necho {name} >> {}\n{script}\n", said.display());
        self.file(name, &text, 0o755);
    }

    fn file(&self, name: &str, text: &str, mode: u32) {
        std::fs::write(self.path(name), text).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.path(name), mode).unwrap();
    }

    fn hooks(&self) -> Hooks {
        let settings = HooksSettings {
            pre_reboot_dir: self.path("pre"),
            post_reboot_dir: self.path("post"),
            timeout: self.timeout,
            isolation: Isolation::ProcessGroup,
        };
        Hooks::new(&settings, Metrics::new(UnixTime::now()))
    }

    /// Who ran, in order.
    fn said(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("said")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn env() -> HookEnv {
    HookEnv {
        machine_id: "m1".into(),
        hostname: "web-1".into(),
        boot_id: "b1".into(),
        groups: vec!["lb".into(), "rack-7".into()],
        reason: "a new\nkernel".into(),
        dry_run: true,
        token: "t1".into(),
    }
}

#[tokio::test]
async fn executables_run_in_byte_order_and_nothing_else_does() {
    let folders = Folders::new();
    for name in ["b", "10-b", "9-a", "A", "a"] {
        folders.hook(&format!("pre/{name}"), "");
    }
    folders.hook("pre/.hidden", "");
    folders.file("pre/README", "not a program", 0o644);
    std::fs::create_dir(folders.path("pre/folder")).unwrap();
    symlink(folders.path("pre/b"), folders.path("pre/link")).unwrap();
    let mut noted = Vec::new();
    let note = |now: &Progress| noted.push((now.begun.len(), now.running.is_some()));
    let done = folders.hooks().pre_reboot(&env(), note).await.unwrap();
    assert_eq!(done, ["10-b", "9-a", "A", "a", "b", "link"]);
    noted.dedup();
    let each = (1..=6).flat_map(|number| [(number, true), (number, false)]);
    assert_eq!(noted, each.collect::<Vec<_>>(), "each is noted before it runs");
    assert_eq!(folders.said(), ["pre/10-b", "pre/9-a", "pre/A", "pre/a", "pre/b", "pre/b"]);
}

#[tokio::test]
async fn a_missing_folder_has_no_hooks_and_one_that_cannot_be_read_fails() {
    let folders = Folders::new();
    std::fs::remove_dir(folders.path("pre")).unwrap();
    assert_eq!(folders.hooks().pre_reboot(&env(), |_| ()).await.unwrap(), [""; 0]);
    folders.file("pre", "a file where the folder should be", 0o755);
    let failed = folders.hooks().pre_reboot(&env(), |_| ()).await.unwrap_err();
    assert!(matches!(failed.source, HookError::Unreadable { .. }));
    symlink("/nonexistent", folders.path("post/gone")).unwrap();
    let failed = folders.hooks().post_reboot(&env(), |_| ()).await.unwrap_err();
    assert!(failed.to_string().contains("post/gone"), "{failed}");
}

#[tokio::test]
async fn hooks_are_told_what_happens_and_why() {
    let folders = Folders::new();
    let out = folders.path("env");
    folders.hook("post/env", &format!("env | grep ^REBOOTLOCK_ | sort > {}", out.display()));
    folders.hooks().post_reboot(&env(), |_| ()).await.unwrap();
    let told = std::fs::read_to_string(out).unwrap();
    let told: Vec<_> = told.lines().filter(|line| !line.contains("RUN_ID")).collect();
    for line in [
        "REBOOTLOCK_BOOT_ID=b1",
        "REBOOTLOCK_DRY_RUN=true",
        "REBOOTLOCK_GROUPS=lb,rack-7",
        "REBOOTLOCK_HOSTNAME=web-1",
        "REBOOTLOCK_MACHINE_ID=m1",
        "REBOOTLOCK_PHASE=post-reboot",
        "REBOOTLOCK_REASON=a new kernel",
        "REBOOTLOCK_TOKEN=t1",
    ] {
        assert!(told.contains(&line), "{line} is not in {told:?}");
    }
}

#[tokio::test]
async fn a_failing_pre_hook_undoes_what_was_done_last_first_but_not_itself() {
    let folders = Folders::new();
    for name in ["1", "2", "3"] {
        folders.hook(&format!("pre/{name}"), "");
    }
    folders.hook("pre/4", "echo no power left; exit 7");
    folders.hook("pre/5", "");
    for name in ["1", "3", "4", "other"] {
        folders.hook(&format!("post/{name}"), if name == "3" { "exit 1" } else { "" });
    }
    let mut noted = Vec::new();
    let note = |now: &Progress| noted.push(now.begun.clone());
    let failed = folders.hooks().pre_reboot(&env(), note).await.unwrap_err();
    assert_eq!(failed.source.to_string(), "hook 4 failed: exit code 7; it said: no power left");
    assert_eq!(folders.said(), ["pre/1", "pre/2", "pre/3", "pre/4", "post/3", "post/1"]);
    assert_eq!(failed.not_undone.len(), 1);
    noted.dedup();
    let expected: [&[&str]; 8] = [
        &["1"],
        &["1", "2"],
        &["1", "2", "3"],
        &["1", "2", "3", "4"],
        &["1", "2", "3"],
        &["1", "2"],
        &["1"],
        &[],
    ];
    assert_eq!(noted, expected);
}

#[tokio::test]
async fn names_that_were_kept_are_undone_later() {
    let folders = Folders::new();
    for name in ["1", "2", "3"] {
        folders.hook(&format!("post/{name}"), "");
    }
    let done = ["1".to_owned(), "gone".to_owned(), "2".to_owned()].to_vec();
    let mut left = None;
    let failed = folders.hooks().undo(done, &env(), |now| left = Some(now.clone())).await;
    assert!(failed.is_empty());
    assert_eq!(folders.said(), ["post/2", "post/1"]);
    assert_eq!(left, Some(Progress::default()));
}

#[tokio::test]
async fn a_failing_post_hook_ends_its_phase() {
    let folders = Folders::new();
    folders.hook("post/1", "kill -9 $$");
    folders.hook("post/2", "");
    let error = folders.hooks().post_reboot(&env(), |_| ()).await.unwrap_err();
    assert_eq!(error.to_string(), "hook 1 failed: killed by signal 9");
    assert_eq!(folders.said(), ["post/1"]);
}

#[tokio::test]
async fn a_hook_has_a_deadline_of_its_own() {
    let mut folders = Folders::new();
    folders.timeout = Duration::from_secs(1);
    folders.hook("pre/1", "sleep 60");
    let failed = folders.hooks().pre_reboot(&env(), |_| ()).await.unwrap_err();
    assert!(
        matches!(&failed.source, HookError::Failed { how: How::TimedOut, .. }),
        "{:?}",
        failed.source
    );
}
