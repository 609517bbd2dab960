//! One machine with M, S, K and a recorder.

use std::path::{Path, PathBuf};

use rebootlock::id::MachineId;
use rebootlock_tests::fleet::{Member, Onlooker, SOON};
use rebootlock_tests::process::Process;
use rebootlock_tests::{binaries, eventually};
use serde_json::Value;
use tokio::process::Command;

/// A store that several machines of a test share.
pub(crate) struct Store {
    pub(crate) endpoints: Vec<String>,
    pub(crate) look: Onlooker,
    _folder: tempfile::TempDir,
}

impl Store {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let endpoints = vec![format!("sqlite:{}", folder.path().join("lock.db").display())];
        let look = Onlooker::new(&endpoints).unwrap();
        Self { endpoints, look, _folder: folder }
    }

    /// What another machine's agent says of its health, and when it looked.
    pub(crate) async fn present(&self, id: &str, healthy: bool, checked_at: i64) {
        let reason = if healthy { "" } else { r#""reason":"disk","# };
        let text = format!(
            r#"{{"machineID":"{id}","hostname":"{id}.example","groups":[],"state":"idle","stateSince":1,"health":{{"healthy":{healthy},{reason}"checkedAt":{checked_at}}}}}"#
        );
        self.put(id, &text).await;
    }

    /// The same in any words.
    pub(crate) async fn put(&self, id: &str, text: &str) {
        let key = self.look.locks.keys().machine(&MachineId::new(id).unwrap());
        self.look.put(key, text).await.unwrap();
    }

    /// What the agent of `id` says of its health.
    pub(crate) async fn health(&self, id: &str) -> Option<Value> {
        let key = self.look.locks.keys().machine(&MachineId::new(id).unwrap());
        let text = self.look.get(&key).await.unwrap()?;
        let said: Value = serde_json::from_str(&text).unwrap();
        Some(said["health"].clone())
    }

    /// Waits until the agent of `id` says that it is unwell for a reason with all of `parts`.
    pub(crate) async fn wait_unwell(&self, id: &str, parts: &[&str]) {
        eventually(&format!("{id} is unwell: {parts:?}"), SOON, async || {
            let health = self.health(id).await.unwrap_or_default();
            let reason = health["reason"].as_str().unwrap_or_default();
            match health["healthy"] == false && parts.iter().all(|part| reason.contains(part)) {
                true => Ok(()),
                false => Err(health.to_string()),
            }
        })
        .await
        .unwrap();
    }
}

/// How the daemon of a test is set up.
pub(crate) struct Config<'a> {
    /// What S does.
    pub(crate) script: &'a str,
    /// How long it may take.
    pub(crate) timeout: u32,
    /// What the shell runs to reboot; none: the recorder.
    pub(crate) reboot: Option<&'a str>,
    /// More lines of `[agent]`.
    pub(crate) agent: &'a str,
    /// More tables.
    pub(crate) more: &'a str,
}

impl Default for Config<'_> {
    fn default() -> Self {
        Self { script: "exit 0", timeout: 120, reboot: None, agent: "", more: "" }
    }
}

/// One machine.
pub(crate) struct Scene {
    pub(crate) member: Member,
}

/// How a program ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) said: Value,
    pub(crate) log: String,
}

impl Ran {
    /// Whether it ended so.
    #[track_caller]
    pub(crate) fn ended(&self, outcome: &str, code: i32) -> &str {
        assert_eq!((&self.said["outcome"], self.code), (&outcome.into(), code), "{}", self.all());
        self.why()
    }

    pub(crate) fn why(&self) -> &str {
        self.said["why"].as_str().unwrap()
    }

    pub(crate) fn all(&self) -> String {
        format!("{:#}\n{}", self.said, self.log)
    }
}

impl Scene {
    pub(crate) async fn new(id: &str, store: &Store, config: Config<'_>) -> Self {
        Self::on(id, &store.endpoints, config).await
    }

    pub(crate) async fn on(id: &str, endpoints: &[String], config: Config<'_>) -> Self {
        let member = Member::new(id, endpoints, "").await.unwrap();
        let scene = Self { member };
        scene.configure(config);
        scene
    }

    pub(crate) fn configure(&self, config: Config<'_>) {
        let Config { script, timeout, reboot, agent, more } = config;
        let (marker, kill_switch) = (self.path("M"), self.path("K"));
        let script = format!("echo $RC_PHASE $RC_LOCK_HELD >> \"$0\"; {script}");
        let recorder = format!("echo rebooted >> {}", self.path("reboots").display());
        let reboot = reboot.unwrap_or(&recorder);
        let text = format!(
            "[agent]\ncheck_interval_secs = 1\nheartbeat_secs = 1\npoll_secs = 1\n\
             inhibit_timeout_secs = 1\nkill_switch_file = {kill_switch:?}\n{agent}\n\
             [reboot]\nmethod = \"command\"\ncommand = [\"/bin/sh\", \"-c\", {reboot:?}]\n\
             verify_interval_secs = 1\n\
             [[detector]]\nname = \"M\"\ntype = \"file\"\npath = {marker:?}\n\
             [[gate]]\nname = \"S\"\ntype = \"script\"\ntimeout_secs = {timeout}\n\
             command = [\"/bin/sh\", \"-c\", {script:?}, {seen:?}]\n{more}\n",
            seen = self.path("seen"),
        );
        self.member.configure(&text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.member.machine.dir().join(name)
    }

    /// M is there.
    pub(crate) fn due(&self) -> &Self {
        self.touch("M");
        self
    }

    pub(crate) fn touch(&self, name: &str) {
        std::fs::write(self.path(name), "").unwrap();
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        lines(&self.path(name))
    }

    /// The phases in which S was asked, and whether the slot was held.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.lines("seen")
    }

    /// How often the recorder was called.
    pub(crate) fn reboots(&self) -> usize {
        self.lines("reboots").len()
    }

    pub(crate) async fn wait_reboots(&self, count: usize) {
        let id = self.member.machine.id();
        eventually(&format!("{id} has rebooted {count} times"), SOON, async || {
            let reboots = self.reboots();
            if reboots == count { Ok(()) } else { Err(reboots) }
        })
        .await
        .unwrap();
    }

    pub(crate) async fn wait_file(&self, name: &str) {
        eventually(
            name,
            SOON,
            async || {
                if self.path(name).exists() { Ok(()) } else { Err("not there") }
            },
        )
        .await
        .unwrap();
    }

    /// `run --once`, as a program reads it.
    pub(crate) async fn once(&self) -> Ran {
        let mut command = self.member.command().unwrap();
        command.args(["--once", "--output", "json"]);
        ran(command).await
    }

    /// `status`, beside a daemon or without one.
    pub(crate) fn status_command(&self, store: &Store, flags: &[&str]) -> Command {
        let machine = &self.member.machine;
        let mut command = machine.command(&binaries::path("rebootlockd").unwrap());
        command.arg("status").arg("--config").arg(self.path("rebootlock.toml"));
        command.arg("--machine-id-file").arg(machine.machine_id_file());
        command.arg("--boot-id-file").arg(machine.boot_id_file());
        command.arg("--state-dir").arg(machine.state_dir());
        command.arg("--endpoint").arg(store.endpoints.join(",")).args(flags);
        command
    }

    /// What that says, as a program reads it.
    pub(crate) async fn status(&self, store: &Store, flags: &[&str]) -> Ran {
        let mut command = self.status_command(store, flags);
        command.args(["--output", "json"]);
        ran(command).await
    }
}

/// Runs a program to its end.
async fn ran(command: Command) -> Ran {
    let mut process = Process::spawn("pass", command).unwrap();
    let code = process.wait_exit(SOON).await.unwrap().code().unwrap();
    let (out, log) = (process.stdout().lines().join("\n"), process.stderr().lines().join("\n"));
    let said = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{code}: {out}\n{log}"));
    Ran { code, said, log }
}

pub(crate) fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Now, in seconds.
pub(crate) fn now() -> i64 {
    rebootlock::record::UnixTime::now().0
}
