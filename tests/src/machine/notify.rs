//! The socket a service manager listens on: collects what a daemon tells with `sd_notify`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;

use crate::process::Transcript;

/// A bound `NOTIFY_SOCKET`. One message is one datagram, such as `READY=1\nSTATUS=idle`.
#[derive(Debug)]
pub struct NotifySocket {
    path: PathBuf,
    messages: Transcript,
    reader: JoinHandle<()>,
}

impl NotifySocket {
    /// Binds the socket at `path`, which must not exist yet.
    pub fn bind(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)
            .with_context(|| format!("cannot bind the notify socket {}", path.display()))?;
        let messages = Transcript::default();
        let reader = tokio::spawn(collect(socket, messages.clone()));
        Ok(Self { path: path.to_owned(), messages, reader })
    }

    /// The value for `NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every message so far.
    pub fn messages(&self) -> Vec<String> {
        self.messages.lines()
    }

    /// How many messages have arrived, for [`NotifySocket::wait_after`].
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    /// The newest `STATUS=` sentence.
    pub fn status(&self) -> Option<String> {
        let messages = self.messages();
        let mut lines = messages.iter().rev().flat_map(|message| message.lines().rev());
        lines.find_map(|line| line.strip_prefix("STATUS=").map(str::to_owned))
    }

    /// The first message, past or future, that `wanted` accepts.
    pub async fn wait_for(
        &self,
        wanted: impl Fn(&str) -> bool,
        deadline: Duration,
    ) -> Result<String> {
        self.wait_after(0, wanted, deadline).await
    }

    /// The first message that `wanted` accepts, not counting the first `skipped`.
    pub async fn wait_after(
        &self,
        skipped: usize,
        wanted: impl Fn(&str) -> bool,
        deadline: Duration,
    ) -> Result<String> {
        let waited = self.messages.wait_after(skipped, deadline, wanted).await;
        waited.context("the daemon sent no such notification")
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn collect(socket: UnixDatagram, messages: Transcript) {
    let mut buffer = vec![0; 64 * 1024];
    // An error here means that the socket is of no more use; the waiters say what they missed.
    while let Ok(len) = socket.recv(&mut buffer).await {
        messages.push(String::from_utf8_lossy(&buffer[..len]));
    }
}
