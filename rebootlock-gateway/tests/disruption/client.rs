//! Machines on addresses of their own, and a service that becomes ready when it is told to.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{Answer, Fleet, Gateway, request};

pub const PATH: &str = "/api/v1/request";
pub const LIMIT: &str = "DisruptionManagerGroupMaximumDisrupting";
pub const READY_TIMEOUT: &str = "DisruptionManagerReadyTimeout";
pub const READY_URL: &str = "DisruptionManagerReadyUrl";
const PATIENCE: Duration = Duration::from_secs(20);

/// One machine: an address on the loopback, and tags.
#[derive(Clone)]
pub struct Machine {
    pub address: IpAddr,
    pub record: Value,
}

impl Machine {
    /// In the group `web`, as `127.0.0.<n>`.
    pub fn new(n: u8) -> Self {
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, n));
        let tags = json!({"DisruptionManagerGroupIdentifier": "web"});
        Self { address, record: json!({"Hostname": address.to_string(), "Tags": tags}) }
    }

    pub fn tag(mut self, key: &str, value: &str) -> Self {
        self.record["Tags"][key] = json!(value);
        self
    }

    pub fn group(self, group: &str) -> Self {
        self.tag("DisruptionManagerGroupIdentifier", group)
    }

    pub fn id(&self) -> String {
        self.address.to_string()
    }

    /// Asks from its own address.
    pub fn ask(&self, gateway: &Gateway, operation: &str) -> Answer {
        let body = json!({"MDB": self.record, "Request": operation}).to_string();
        send_from(self.address, gateway, &request("POST", PATH, "", &body))
    }

    /// What it is told, in exactly the bytes that stock clients read.
    #[track_caller]
    pub fn told(&self, gateway: &Gateway, operation: &str) -> String {
        let answer = self.ask(gateway, operation);
        assert_eq!(answer.status, 200, "{answer:?}");
        let word = answer.json()["Response"].as_str().unwrap().to_owned();
        assert_eq!(answer.body, format!("{{\n    \"Response\": \"{word}\"\n}}\n"));
        assert!(answer.head.contains("content-type: text/plain; charset=utf-8\r\n"), "{answer:?}");
        word
    }

    #[track_caller]
    pub fn check(&self, gateway: &Gateway) -> String {
        self.told(gateway, "check")
    }

    #[track_caller]
    pub fn request(&self, gateway: &Gateway) -> String {
        self.told(gateway, "request")
    }

    #[track_caller]
    pub fn cancel(&self, gateway: &Gateway) {
        assert_eq!(self.told(gateway, "cancel"), "denied");
    }

    /// Checks until it is told this.
    #[track_caller]
    pub fn until(&self, gateway: &Gateway, word: &str) {
        poll(&format!("{} is never {word}", self.id()), || self.check(gateway) == word);
    }
}

/// Waits until it is so.
#[track_caller]
pub fn poll(otherwise: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{otherwise}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends bytes from an address of the loopback and reads one answer.
pub fn send_from(address: IpAddr, gateway: &Gateway, text: &str) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address, 0)).unwrap();
        socket.connect(gateway.address).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    let mut stream: TcpStream = stream;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Who is refused early may find that nobody reads on.
    let _ = stream.write_all(text.as_bytes());
    Answer::read(&mut stream, false).expect("an answer")
}

/// The slots of a group as the store has them.
pub fn semaphore(fleet: &Fleet, group: &str) -> Value {
    let key = match group {
        "default" => "semaphore".to_owned(),
        group => format!("groups/{group}/semaphore"),
    };
    fleet.document(&key).map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
}

/// Whose the slots of `web` are.
pub fn holders(fleet: &Fleet) -> Value {
    semaphore(fleet, "web")["holders"].clone()
}

/// A web server that answers every request with the status it is told to.
pub struct Service {
    pub address: SocketAddr,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

impl Service {
    /// Status 0: it takes the connection and says nothing.
    pub fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let service = Self { address, status: Arc::new(status.into()), asked: Arc::default() };
        let (status, asked) = (service.status.clone(), service.asked.clone());
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut bytes = [0; 1024];
                let read = stream.read(&mut bytes).unwrap_or(0);
                asked.fetch_add(1, Ordering::SeqCst);
                let elsewhere = bytes[..read].starts_with(b"GET /elsewhere");
                match status.load(Ordering::SeqCst) {
                    0 => silent.push(stream),
                    302 if !elsewhere => {
                        let head = "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
                        let _ = stream.write_all(head.as_bytes());
                    }
                    status => {
                        let status = if elsewhere { 200 } else { status };
                        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                        let _ = stream.write_all(head.as_bytes());
                    }
                }
            }
        });
        service
    }

    pub fn becomes(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn url(&self) -> String {
        format!("http://{}/ready", self.address)
    }
}
