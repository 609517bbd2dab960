//! What asks a command to stop: Ctrl-C, the end of its terminal, somebody who ends it.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

/// From here on these signals do no more than be told here. One set of them has to do for all of a
/// command, as what nobody listens to any more is lost. A signal that was ignored before, as after
/// `nohup`, stays ignored, also by what the command starts.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Option<unix::Signal>,
    terminate: Option<unix::Signal>,
    hangup: Option<unix::Signal>,
}

impl Signals {
    /// Begins to listen.
    pub(crate) fn catch() -> io::Result<Self> {
        let ignored = ignored();
        let listen = |kind: SignalKind| match ignored >> (kind.as_raw_value() - 1) & 1 {
            1 => Ok(None),
            _ => unix::signal(kind).map(Some),
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next one. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            () = recv(&mut self.interrupt) => Signal::INT,
            () = recv(&mut self.terminate) => Signal::TERM,
            () = recv(&mut self.hangup) => Signal::HUP,
        }
    }

    /// Whether one has come already.
    pub(crate) async fn came(&mut self) -> bool {
        // They are noticed between two steps of the runtime.
        tokio::task::yield_now().await;
        tokio::select! {
            biased;
            _ = self.next() => true,
            () = std::future::ready(()) => false,
        }
    }
}

async fn recv(signal: &mut Option<unix::Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// The signals that whoever started us wants ignored, a bit each. None if that cannot be told.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default()
}
