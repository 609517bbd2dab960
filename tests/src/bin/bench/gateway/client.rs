//! A FleetLock client that costs as little as can be: what is measured is the other end.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path {
    Take,
    GiveBack,
}

/// One machine on one connection.
pub(crate) struct Client {
    stream: TcpStream,
    take: Vec<u8>,
    give_back: Vec<u8>,
    read: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: &str, machine: &str, group: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("cannot connect to the gateway")?;
        stream.set_nodelay(true)?;
        let body =
            serde_json::json!({"client_params": {"id": machine, "group": group}}).to_string();
        let request = |path: &str| {
            let length = body.len();
            format!(
                "POST {path} HTTP/1.1\r\nhost: {address}\r\nfleet-lock-protocol: true\r\n\
                 content-length: {length}\r\n\r\n{body}"
            )
            .into_bytes()
        };
        let (take, give_back) = (request("/v1/pre-reboot"), request("/v1/steady-state"));
        Ok(Self { stream, take, give_back, read: Vec::new() })
    }

    /// Asks, and gives the kind of the answer. A grant that is not 200, or a 200 that is none, is
    /// of no kind.
    pub(crate) async fn ask(&mut self, path: Path) -> Result<String> {
        let request = match path {
            Path::Take => &self.take,
            Path::GiveBack => &self.give_back,
        };
        self.stream.write_all(request).await?;
        self.read.clear();
        let (head, length) = loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                bail!("the gateway closed the connection");
            }
            let end = self.read.windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(end) = end {
                let head = std::str::from_utf8(&self.read[..end])?.to_owned();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.context("no content-length")?.parse()?;
                break (head, end + 4 + length);
            }
        };
        while self.read.len() < length {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                bail!("the gateway closed the connection");
            }
        }
        let body = &self.read[head.len() + 4..length];
        let answer: serde_json::Value = serde_json::from_slice(body)?;
        let kind = answer["kind"].as_str().context("an answer without a kind")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        match (status == "200") == (kind == "success") {
            true => Ok(kind.to_owned()),
            false => Ok(format!("{kind} with {status}")),
        }
    }
}

/// How often each kind was answered.
#[derive(Debug, Default)]
pub(crate) struct Answers(BTreeMap<String, usize>);

impl Answers {
    pub(crate) fn add(&mut self, kind: String) {
        *self.0.entry(kind).or_default() += 1;
    }

    pub(crate) fn join(&mut self, other: Self) {
        for (kind, count) in other.0 {
            *self.0.entry(kind).or_default() += count;
        }
    }

    /// How often it was this.
    pub(crate) fn of(&self, kind: &str) -> usize {
        self.0.get(kind).copied().unwrap_or_default()
    }

    /// How often none of these.
    pub(crate) fn but(&self, kinds: &[&str]) -> usize {
        self.0.iter().filter(|(kind, _)| !kinds.contains(&kind.as_str())).map(|(_, n)| n).sum()
    }
}
