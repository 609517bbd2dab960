//! A person at a shell, and the store behind.

use std::process::{Output, Stdio};
use std::time::Duration;

use rebootlock::config::{Fragment, Settings};
use rebootlock::id::{Group, MachineId};
use rebootlock::keys::Keyspace;
use rebootlock::store::{Commit, Key, SharedStore, Snapshot, SqliteStore, Store as _, Txn};
use rebootlock_tests::binaries;
use rebootlock_tests::process::Process;
use tempfile::TempDir;
use tokio::process::Command;

/// The longest that anything may take here.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What a command printed and exited with.
#[derive(Debug)]
pub(crate) struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let [out, err] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        let code = output.status.code().unwrap_or_else(|| panic!("{:?}: {err}", output.status));
        assert!(!err.contains("panicked"), "{err}");
        Self { code, out, err }
    }

    /// It did what was asked.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// It exited with `code`, printed no data, and said `words` on stderr.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, words: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
    }
}

/// An operator on a machine with files of its own.
pub(crate) struct Operator {
    dir: TempDir,
    endpoint: String,
    variables: Vec<(String, String)>,
}

impl Operator {
    /// On a fresh SQLite store, on the machine `aaaa…`.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = format!("sqlite:{}", dir.path().join("lock.db").display());
        Self::at(dir, endpoint)
    }

    /// On the store that `endpoints` name.
    pub(crate) fn on(endpoints: &[String]) -> Self {
        Self::at(tempfile::tempdir().unwrap(), endpoints.join(","))
    }

    fn at(dir: TempDir, endpoint: String) -> Self {
        std::fs::write(dir.path().join("machine-id"), format!("{}\n", "a".repeat(32))).unwrap();
        std::fs::write(dir.path().join("boot-id"), "9d2a2c6c-boot\n").unwrap();
        std::fs::write(dir.path().join("empty.toml"), "").unwrap();
        Self { dir, endpoint, variables: Vec::new() }
    }

    /// Sets a variable for all that follows.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A file of its own.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The command, ready to run, with nothing of the tester's own set-up.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binaries::path("rebootlockctl").unwrap());
        let file = |name| self.dir.path().join(name).into_os_string();
        command.env_clear();
        command.env("REBOOTLOCK_ENDPOINT", &self.endpoint);
        command.env("REBOOTLOCK_CONFIG", file("empty.toml"));
        command.env("REBOOTLOCK_MACHINE_ID_FILE", file("machine-id"));
        command.env("REBOOTLOCK_BOOT_ID_FILE", file("boot-id"));
        let no_bus = format!("unix:path={}", self.dir.path().join("no-bus").display());
        command.env("DBUS_SYSTEM_BUS_ADDRESS", no_bus);
        command.env("SUDO_USER", "alice");
        command.envs(self.variables.iter().cloned());
        command.args(args).kill_on_drop(true).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        let output = self.command(args).output();
        Ran::of(tokio::time::timeout(SOON, output).await.expect("it hangs").unwrap())
    }

    /// Runs it to its end with these words.
    pub(crate) async fn ctl(&self, line: &str) -> Ran {
        self.run(&line.split_whitespace().collect::<Vec<_>>()).await
    }

    /// Starts it.
    pub(crate) fn start(&self, line: &str) -> Process {
        let args: Vec<_> = line.split_whitespace().collect();
        Process::spawn(line, self.command(&args)).unwrap()
    }

    /// Its store, to look behind.
    pub(crate) fn store(&self) -> SqliteStore {
        let path = self.endpoint.strip_prefix("sqlite:").unwrap();
        SqliteStore::open(path.as_ref(), SOON).unwrap()
    }

    /// Its store, whichever it is.
    pub(crate) async fn open(&self) -> SharedStore {
        let text = format!("[store]\nendpoints = [\"{}\"]\n", self.endpoint.replace(',', "\",\""));
        let fragment = Fragment::parse("test.toml".as_ref(), &text).unwrap();
        rebootlock::store::open(&Settings::decide(fragment).unwrap().store).unwrap()
    }

    /// Writes a document as somebody else would.
    pub(crate) async fn put(&self, key: &Key, value: &str) {
        let txn = Txn::new().put(key.clone(), value.into());
        assert!(matches!(self.store().commit(&txn).await.unwrap(), Commit::Won(_)));
    }

    /// The document at `key`.
    pub(crate) async fn get(&self, key: &Key) -> Option<String> {
        let now = self.load().await;
        now.get(key).map(|entry| String::from_utf8(entry.value.clone()).unwrap())
    }

    /// How many documents there are, not counting the history.
    pub(crate) async fn left(&self) -> usize {
        let all = self.load().await;
        all.entries.keys().filter(|key| !key.as_str().contains("/history/")).count()
    }

    /// All there is.
    pub(crate) async fn load(&self) -> Snapshot {
        self.store().list(&Key::new(""), rebootlock::store::Select::All).await.unwrap()
    }
}

pub(crate) fn keys() -> Keyspace {
    Keyspace::default()
}

pub(crate) fn group(name: &str) -> Group {
    Group::new(name).unwrap()
}

pub(crate) fn machine(name: &str) -> MachineId {
    MachineId::new(name).unwrap()
}

/// The semaphore of the default group.
pub(crate) fn semaphore() -> Key {
    keys().semaphore(&Group::default())
}
