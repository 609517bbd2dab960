//! A child process of a test: what it says is kept, and it never outlives the test.

mod transcript;

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

pub use rustix::process::Signal;
pub use transcript::Transcript;

/// How long the output of a process that has ended may take to be read to its end. Only a grandchild
/// that keeps the pipe open makes it last that long.
const DRAIN: Duration = Duration::from_secs(1);

/// A running program. Dropped, it is killed; dropped by a failing test, it prints what it said.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Child,
    stdout: Transcript,
    stderr: Transcript,
    readers: Vec<JoinHandle<()>>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`, known as `name` in messages. Its standard streams become pipes.
    pub fn spawn(name: &str, mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name} as {:?}", command.as_std()))?;
        let pid = child.id().with_context(|| format!("{name} ended before it had an id"))?;
        let (stdout, stderr) = (Transcript::default(), Transcript::default());
        let mut readers = Vec::new();
        if let Some(stream) = child.stdout.take() {
            readers.push(tokio::spawn(collect(stream, stdout.clone())));
        }
        if let Some(stream) = child.stderr.take() {
            readers.push(tokio::spawn(collect(stream, stderr.clone())));
        }
        Ok(Self { name: name.to_owned(), pid, child, stdout, stderr, readers, ended: None })
    }

    /// The process id, also after its end.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it printed on standard output.
    pub fn stdout(&self) -> &Transcript {
        &self.stdout
    }

    /// What it printed on standard error: its log.
    pub fn stderr(&self) -> &Transcript {
        &self.stderr
    }

    /// The first log line, past or future, that contains `text`.
    pub async fn wait_line(&self, text: &str, deadline: Duration) -> Result<String> {
        let waited = self.stderr.wait_for(deadline, |line| line.contains(text)).await;
        waited.with_context(|| format!("{} never logged {text:?}", self.name))
    }

    /// Writes a line to its standard input.
    pub async fn send_line(&mut self, line: &str) -> Result<()> {
        let stdin =
            self.child.stdin.as_mut().with_context(|| format!("{} has no stdin", self.name))?;
        stdin.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(stdin.flush().await?)
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.ended.is_none() && matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end, then for the last of its output.
    pub async fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let Ok(status) = tokio::time::timeout(deadline, self.child.wait()).await else {
            bail!("{} still runs after {deadline:?}; it said:\n{}", self.name, self.said());
        };
        let status = status.with_context(|| format!("cannot wait for {}", self.name))?;
        self.ended = Some(status);
        for reader in self.readers.drain(..) {
            // Whatever was read until then counts.
            let _ = tokio::time::timeout(DRAIN, reader).await;
        }
        Ok(status)
    }

    /// Sends `signal` to this process, and to no other: an ended one gets none.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // `Child::id` is gone once the process was reaped, so the number cannot be someone else's by now.
        let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) else {
            bail!("{} has ended, no signal can reach it", self.name);
        };
        let pid = rustix::process::Pid::from_raw(pid).context("a child's id is never zero")?;
        rustix::process::kill_process(pid, signal)
            .with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// Stops it in its tracks (SIGSTOP): it still holds its connections, and answers nothing.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let pid = self.child.id().with_context(|| format!("{} has ended", self.name))?;
        wait_until_still(pid).with_context(|| self.name.clone())
    }

    /// Kills it as a power cut would (SIGKILL), and waits until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        self.child.start_kill().with_context(|| format!("cannot kill {}", self.name))?;
        let status = self.wait_exit(Duration::from_secs(10)).await?;
        match status.signal() {
            None | Some(9) => Ok(()),
            Some(other) => bail!("{} died of signal {other} before it was killed", self.name),
        }
    }

    fn said(&self) -> String {
        let mut said = Vec::new();
        said.extend(self.stdout.lines().into_iter().map(|line| format!("  out: {line}")));
        said.extend(self.stderr.lines().into_iter().map(|line| format!("  err: {line}")));
        said.join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} ({}) said:\n{}\n---", self.name, self.pid, self.said());
        }
        // Gone already is as good.
        let _: io::Result<()> = self.child.start_kill();
    }
}

async fn collect(stream: impl AsyncRead + Unpin, transcript: Transcript) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    // A read error ends the transcript as the end of the stream does.
    while let Ok(1..) = reader.read_until(b'\n', &mut line).await {
        transcript.push(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        line.clear();
    }
}

/// Longest time until a process that was told to stops in its tracks.
const FROZEN_WITHIN: Duration = Duration::from_secs(5);

/// SIGSTOP is only noted at first: a thread that runs may still answer somebody.
pub(crate) fn wait_until_still(pid: u32) -> Result<()> {
    let deadline = Instant::now() + FROZEN_WITHIN;
    while !stands_still(pid)? {
        ensure!(Instant::now() < deadline, "it does not stand still");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether no thread of a process runs.
fn stands_still(pid: u32) -> Result<bool> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that has just ended does not run.
        let Ok(stat) = std::fs::read_to_string(task?.path().join("stat")) else { continue };
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        if !state.starts_with('T') {
            return Ok(false);
        }
    }
    Ok(true)
}
