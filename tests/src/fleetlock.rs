//! FleetLock servers: our gateway as a process, and one of another kind that also misbehaves.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::fleet::{Onlooker, SOON};
use crate::process::Process;
use crate::{binaries, eventually};

/// Our gateway on a file of its own. It can be killed and started again at the same address.
#[derive(Debug)]
pub struct Gateway {
    dir: TempDir,
    process: Option<Process>,
    address: SocketAddr,
}

impl Gateway {
    /// Starts one on a free port.
    pub async fn start() -> Result<Self> {
        Self::with_config("").await
    }

    /// Starts one that is configured so.
    pub async fn with_config(config: &str) -> Result<Self> {
        let dir = TempDir::with_prefix("gateway-").context("cannot make a folder")?;
        std::fs::write(dir.path().join("rebootlock.toml"), config)?;
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let mut gateway = Self { dir, process: None, address };
        gateway.resume().await?;
        Ok(gateway)
    }

    /// Starts it again where it was.
    pub async fn resume(&mut self) -> Result<()> {
        let mut command = Command::new(binaries::path("rebootlock-gateway")?);
        command
            .args(["serve", "--log-format", "json", "--endpoint", &self.store()])
            .arg("--config")
            .arg(self.dir.path().join("rebootlock.toml"))
            .args(["--listen", &self.address.to_string()])
            .env_clear();
        let process = Process::spawn("gateway", command)?;
        let line = process.wait_line("\"message\":\"listening\"", SOON).await?;
        let line: serde_json::Value = serde_json::from_str(&line)?;
        let address = line["address"].as_str().context("the gateway does not say where it is")?;
        self.address = address.parse()?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it as a power cut would.
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// What agents are told.
    pub fn endpoint(&self) -> Vec<String> {
        vec![format!("fleetlock+http://{}/", self.address)]
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its store.
    pub fn store(&self) -> String {
        format!("sqlite:{}", self.database().display())
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("lock.db")
    }

    /// Looks at its store.
    pub fn look(&self) -> Result<Onlooker> {
        Onlooker::new(&[self.store()])
    }
}

/// What a server does instead of what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misdeed {
    /// Says this, to the byte, and does nothing.
    Says(&'static str),
    /// Does what it is asked for, and hangs up.
    CutsOff,
    /// Does nothing and says nothing.
    Hangs,
}

/// A FleetLock server that knows no more than the protocol: one group, so many slots, and a status of
/// 500 for everything but yes.
#[derive(Debug)]
pub struct Plain {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _acceptor: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    slots: usize,
    holders: BTreeSet<String>,
    /// Who was granted what was free, in this order.
    grants: Vec<String>,
    /// What was asked, as `pre-reboot web-1`.
    asked: Vec<String>,
    misdeed: Option<(&'static str, Misdeed)>,
}

impl Plain {
    /// One with so many slots.
    pub async fn start(slots: usize) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State { slots, ..State::default() }));
        let shared = state.clone();
        let mut acceptor = JoinSet::new();
        acceptor.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                conversations.spawn(async move { drop(converse(stream, &state).await) });
            }
        });
        Ok(Self { address, state, _acceptor: acceptor })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What agents are told.
    pub fn endpoint(&self) -> Vec<String> {
        vec![format!("fleetlock+http://{}/base", self.address)]
    }

    /// From here on, requests of this kind (`pre-reboot`, `steady-state`) are answered so.
    pub fn misbehave(&self, call: &'static str, misdeed: Misdeed) {
        self.state().misdeed = Some((call, misdeed));
    }

    /// Forgets who holds what.
    pub fn forget(&self) {
        self.state().holders.clear();
    }

    /// Does again what it should.
    pub fn behave(&self) {
        self.state().misdeed = None;
    }

    /// Who holds a slot.
    pub fn holders(&self) -> Vec<String> {
        self.state().holders.iter().cloned().collect()
    }

    /// Who got a slot, in this order.
    pub fn grants(&self) -> Vec<String> {
        self.state().grants.clone()
    }

    /// How often this was asked, as `pre-reboot web-1`.
    pub fn asked(&self, what: &str) -> usize {
        self.state().asked.iter().filter(|asked| *asked == what).count()
    }

    /// Waits until this was asked so many times more.
    pub async fn wait_asked(&self, what: &str, more: usize) -> Result<()> {
        let before = self.asked(what);
        eventually(&format!("{what} {more} times more"), SOON, async || {
            match self.asked(what) - before {
                times if times >= more => Ok(()),
                times => Err(format!("{times} times")),
            }
        })
        .await
    }

    /// Waits until nobody holds a slot.
    pub async fn wait_free(&self) -> Result<()> {
        eventually("all slots are free", SOON, async || {
            let holders = self.holders();
            if holders.is_empty() { Ok(()) } else { Err(format!("{holders:?} hold")) }
        })
        .await
    }
}

/// One request and its answer.
async fn converse(mut stream: TcpStream, state: &Mutex<State>) -> Result<()> {
    let mut text = String::new();
    while !text.ends_with("}}") {
        let mut bytes = vec![0; 4096];
        let length = stream.read(&mut bytes).await?;
        anyhow::ensure!(length > 0, "hung up");
        text.push_str(std::str::from_utf8(&bytes[..length])?);
    }
    let (head, body) = text.split_once("\r\n\r\n").context("no head")?;
    let call = head.strip_prefix("POST /base/v1/").and_then(|rest| rest.split(' ').next());
    let body: serde_json::Value = serde_json::from_str(body)?;
    let id = body["client_params"]["id"].as_str().unwrap_or_default();
    let group = body["client_params"]["group"].as_str();
    let known = head.to_lowercase().contains("\r\nfleet-lock-protocol: true");
    let refusal = r#"{"kind":"failed_lock","value":"semaphore currently full"}"#;
    let answer = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let call = call.filter(|_| known && group == Some("default")).unwrap_or("nonsense");
        state.asked.push(format!("{call} {id}"));
        let misdeed = state.misdeed.filter(|(of, _)| *of == call).map(|(_, misdeed)| misdeed);
        match misdeed {
            Some(Misdeed::Says(answer)) => Some(answer.to_owned()),
            Some(Misdeed::Hangs) => None,
            misdeed => {
                let done = state.obey(call, id);
                let answer = match done {
                    true => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
                    false => format!(
                        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: {}\r\n\r\n{refusal}",
                        refusal.len()
                    ),
                };
                if misdeed == Some(Misdeed::CutsOff) { Some(String::new()) } else { Some(answer) }
            }
        }
    };
    match answer {
        Some(answer) => {
            stream.write_all(answer.as_bytes()).await?;
            Ok(stream.shutdown().await?)
        }
        None => std::future::pending().await,
    }
}

impl State {
    fn obey(&mut self, call: &str, id: &str) -> bool {
        match call {
            "pre-reboot" if self.holders.contains(id) => true,
            "pre-reboot" if self.holders.len() < self.slots => {
                self.grants.push(id.to_owned());
                self.holders.insert(id.to_owned())
            }
            "steady-state" => {
                self.holders.remove(id);
                true
            }
            _ => false,
        }
    }
}
