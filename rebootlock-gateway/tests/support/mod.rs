//! The real binary on a free port, and clients that write bytes to a socket.

pub mod etcd;
pub mod store;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use rebootlock::store::Txn;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use self::store::{Outage, Store, key};

pub const BINARY: &str = env!("CARGO_BIN_EXE_rebootlock-gateway");
const PATIENCE: Duration = Duration::from_secs(20);

/// Looks at a condition that nothing announces until it gives something. `what` says what is waited
/// for, and what was seen instead.
#[track_caller]
pub fn until<T>(what: impl Fn() -> String, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {}", what());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A gateway that is killed when this is dropped.
pub struct Gateway {
    child: Child,
    pub address: SocketAddr,
    pub log: Arc<Mutex<Vec<String>>>,
}

/// A folder with a configuration file, and a store.
pub struct Fleet {
    pub dir: TempDir,
    store: Store,
}

impl Fleet {
    pub fn new(config: &str) -> Self {
        let fleet = Self { dir: tempfile::tempdir().unwrap(), store: Store::default() };
        fleet.configure(config);
        fleet
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("rebootlock.toml")
    }

    /// The file of the store, where it is one.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("lock.db")
    }

    pub fn configure(&self, config: &str) {
        std::fs::write(self.config(), config).unwrap();
    }

    /// Of the store, for a command line.
    pub fn endpoint(&self) -> String {
        self.store.endpoint(&self.store())
    }

    pub fn command(&self, flags: &[&str]) -> Command {
        self.command_on(&self.endpoint(), flags)
    }

    pub fn command_on(&self, endpoint: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(["--config", self.config().to_str().unwrap()])
            .args(["--endpoint", endpoint])
            .args(flags)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    pub fn start(&self) -> Gateway {
        Gateway::start(self.command(&[]))
    }

    /// When the store was last written to; 0 if nothing is in it.
    pub fn revision(&self) -> u64 {
        let all = self.store.all(&self.store());
        all.entries.values().map(|entry| entry.modified.0).max().unwrap_or(0)
    }

    pub fn document(&self, place: &str) -> Option<String> {
        let all = self.store.all(&self.store());
        all.get(&key(place)).map(|entry| String::from_utf8(entry.value.clone()).unwrap())
    }

    /// Where something is whose place has `part` in it, in order.
    pub fn places(&self, part: &str) -> Vec<String> {
        let all = self.store.all(&self.store());
        let prefix = key("").as_str().to_owned();
        let places = all.entries.keys().filter_map(|key| key.as_str().strip_prefix(&prefix));
        places.filter(|place| place.contains(part)).map(ToOwned::to_owned).collect()
    }

    /// Writes a document by hand.
    pub fn put(&self, place: &str, text: &str) {
        self.store.commit(&self.store(), &Txn::new().put(key(place), text.into()));
    }

    /// Takes a document away by hand.
    pub fn take_away(&self, place: &str) {
        self.store.commit(&self.store(), &Txn::new().delete(key(place)));
    }

    /// Nobody has a store until this is dropped.
    pub fn without_store(&self) -> Outage<'_> {
        self.store.take_away(&self.store())
    }

    pub fn semaphore(&self) -> String {
        self.document("semaphore").unwrap_or_default()
    }
}

impl Gateway {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let mut gateway = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), log };
        let line = gateway.logged("\"message\":\"listening\"");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        gateway.address = line["address"].as_str().unwrap().parse().unwrap();
        gateway
    }

    /// The first line with `text` in it, once there is one.
    pub fn logged(&self, text: &str) -> String {
        let log = || self.log.lock().unwrap();
        until(
            || format!("{text:?} in {:#?}", log()),
            || log().iter().find(|line| line.contains(text)).cloned(),
        )
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit code, once there is one.
    pub fn ended(mut self) -> Option<i32> {
        until(|| "the end of the process".to_owned(), || self.child.try_wait().unwrap()).code()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes on a new connection and reads one answer.
    pub fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // Who is refused early may find that nobody reads on.
        let _ = stream.write_all(bytes);
        Answer::read(&mut stream, false).expect("an answer")
    }

    pub fn post(&self, path: &str, headers: &str, body: &str) -> Answer {
        self.send(request("POST", path, headers, body).as_bytes())
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, "", "").as_bytes())
    }

    pub fn pre_reboot(&self, id: &str) -> Answer {
        self.post("/v1/pre-reboot", PROTOCOL, &params(id, "default"))
    }

    pub fn steady_state(&self, id: &str) -> Answer {
        self.post("/v1/steady-state", PROTOCOL, &params(id, "default"))
    }

    /// Asks until the answer has this status.
    pub fn until(&self, status: u16, ask: impl Fn(&Self) -> Answer) -> Answer {
        until(
            || format!("{status} instead of {:?}", ask(self)),
            || Some(ask(self)).filter(|answer| answer.status == status),
        )
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub const PROTOCOL: &str = "fleet-lock-protocol: true\r\n";

/// Every client at the same moment, spread over the gateways.
pub fn at_once(gateways: &[&Gateway], clients: usize, path: &'static str) -> Vec<Answer> {
    let ready = Arc::new(Barrier::new(clients));
    let asking: Vec<_> = (0..clients)
        .map(|n| {
            let ready = ready.clone();
            let mut stream = gateways[n % gateways.len()].connect();
            std::thread::spawn(move || {
                let text = request("POST", path, PROTOCOL, &params(&format!("m{n}"), "default"));
                ready.wait();
                stream.write_all(text.as_bytes()).unwrap();
                Answer::read(&mut stream, false).expect("an answer")
            })
        })
        .collect();
    asking.into_iter().map(|asking| asking.join().unwrap()).collect()
}

pub fn sockets(pid: u32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// Once there are no more sockets than this.
pub fn until_sockets(pid: u32, at_most: usize) {
    until(
        || format!("{at_most} sockets instead of {}", sockets(pid)),
        || (sockets(pid) <= at_most).then_some(()),
    );
}

/// Resident memory, in KiB.
pub fn resident_kib(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

pub fn params(id: &str, group: &str) -> String {
    serde_json::json!({"client_params": {"id": id, "group": group}}).to_string()
}

pub fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Reads one answer; `None` if the connection is closed instead.
    pub fn read(stream: &mut impl Read, head_only: bool) -> Option<Self> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.split("content-length: ").nth(1);
        let length: usize =
            length.map_or(0, |rest| rest.split("\r\n").next().unwrap_or_default().parse().unwrap());
        let mut body = vec![0; if head_only { 0 } else { length }];
        stream.read_exact(&mut body).ok()?;
        Some(Self { status, head, body: String::from_utf8(body).unwrap() })
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn kind(&self) -> String {
        self.json()["kind"].as_str().unwrap().to_owned()
    }

    pub fn value(&self) -> String {
        self.json()["value"].as_str().unwrap().to_owned()
    }

    /// An object of exactly two strings that are not empty, with this status and kind.
    #[track_caller]
    pub fn is(&self, status: u16, kind: &str) -> &Self {
        assert_eq!((self.status, self.kind().as_str()), (status, kind), "{self:?}");
        assert_eq!(self.json().as_object().unwrap().len(), 2, "{self:?}");
        assert!(!self.value().is_empty(), "{self:?}");
        assert!(self.head.contains("content-type: application/json\r\n"), "{self:?}");
        assert!(!self.head.contains("location:"), "{self:?}");
        self
    }

    #[track_caller]
    pub fn is_granted(&self) -> &Self {
        self.is(200, "success")
    }

    #[track_caller]
    pub fn is_full(&self) -> &Self {
        self.is(423, "failed_lock_semaphore_full")
    }
}

/// Writes a file beside the others and gives its path.
pub fn file(fleet: &Fleet, name: &str, text: &str) -> String {
    let path = fleet.dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    Path::to_str(&path).unwrap().to_owned()
}
