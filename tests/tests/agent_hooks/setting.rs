//! A machine with hooks.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rebootlock::id::{Group, MachineId};
use rebootlock::record::{Blocked, Document as _, Ending, Past, Presence};
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, Onlooker, SOON};

pub(crate) const AGENT: &str = "[agent]\npoll_secs = 1\ncheck_interval_secs = 1\n";

/// A machine with hooks, and a store beside it.
pub(crate) struct Setting {
    pub(crate) look: Onlooker,
    pub(crate) member: Member,
    pub(crate) folder: tempfile::TempDir,
}

impl Setting {
    /// With this in `[reboot]`, and more tables after it. `DIR` is the machine's folder.
    pub(crate) async fn new(reboot: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let endpoints = [format!("sqlite:{}", folder.path().join("lock.db").display())];
        let look = Onlooker::new(&endpoints).unwrap();
        let member = Member::new("web-1", &endpoints, AGENT).await.unwrap();
        let setting = Self { look, member, folder };
        for phase in ["pre", "post"] {
            std::fs::create_dir(setting.path(phase)).unwrap();
        }
        let hooks = "[hooks]\npre_reboot_dir = \"DIR/pre\"\npost_reboot_dir = \"DIR/post\"\n";
        setting.configure(&format!(
            "{AGENT}[reboot]\nverify_interval_secs = 1\n{reboot}{hooks}{more}"
        ));
        setting
    }

    pub(crate) fn configure(&self, text: &str) {
        let dir = self.member.machine.dir().display().to_string();
        self.member.configure(&text.replace("DIR", &dir)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.member.machine.dir().join(name)
    }

    pub(crate) fn touch(&self, name: &str) {
        std::fs::write(self.path(name), "").unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    /// A hook that writes down that it runs, and then does `script` in the machine's folder.
    pub(crate) fn hook(&self, phase: &str, name: &str, script: &str) {
        let dir = self.member.machine.dir().display();
        let text =
            format!("#!/bin/sh\ncd {dir}\necho \"$REBOOTLOCK_PHASE {name}\" >> said\n{script}\n");
        let path = self.path(&format!("{phase}/{name}"));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Which hooks have run, in order.
    pub(crate) fn said(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("said")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) async fn wait_said(&self, line: &str) {
        eventually(&format!("{line} runs"), SOON, async || {
            let said = self.said();
            if said.iter().any(|said| said == line) { Ok(()) } else { Err(format!("{said:?}")) }
        })
        .await
        .unwrap();
    }

    pub(crate) async fn wait_file(&self, name: &str) {
        let path = self.path(name);
        eventually(name, SOON, async || if path.exists() { Ok(()) } else { Err("not there") })
            .await
            .unwrap();
    }

    /// What the power cut ends besides the daemon: the process whose number a script wrote down.
    pub(crate) async fn kill_left(&self) {
        let text = std::fs::read_to_string(self.path("pid")).unwrap();
        let pid = rustix::process::Pid::from_raw(text.trim().parse().unwrap()).unwrap();
        // The leader of a group of its own.
        rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).unwrap();
    }

    pub(crate) async fn start_with_update(&mut self) {
        self.member.start().await.unwrap();
        self.member.machine.update_engine.need_reboot().await.unwrap();
    }

    /// The machine goes down as ordered, and its agent starts again.
    pub(crate) async fn reboots(&mut self) {
        self.member.machine.logind.wait_reboot(SOON).await.unwrap();
        self.member.go_down_and_come_back().await.unwrap();
    }

    pub(crate) async fn presence(&self) -> Option<Presence> {
        let key = self.look.locks.keys().machine(&MachineId::new("web-1").unwrap());
        let text = self.look.get(&key).await.unwrap()?;
        Some(Presence::from_json(text.as_bytes()).unwrap())
    }

    /// Waits until the others see that this keeps the machine.
    pub(crate) async fn wait_blocked(&self, outcome: &str, why: &str) -> Blocked {
        eventually(&format!("{outcome}: {why}"), SOON, async || {
            let blocked = self.presence().await.and_then(|presence| presence.blocked);
            match blocked {
                Some(blocked) if blocked.outcome == outcome && blocked.why.contains(why) => {
                    Ok(blocked)
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap()
    }

    pub(crate) async fn request(&self) {
        let key = self.look.locks.keys().request(&MachineId::new("web-1").unwrap());
        self.look.put(key, r#"{"by":"ann","since":1397496396}"#).await.unwrap();
    }

    pub(crate) async fn history(&self) -> Vec<Past> {
        let history = self.look.locks.history(&[Group::default()], None).await.unwrap();
        history.into_iter().map(|entry| entry.past.unwrap()).collect()
    }

    pub(crate) async fn ends(&self) -> Vec<Ending> {
        self.history().await.into_iter().map(|past| past.ended).collect()
    }
}
