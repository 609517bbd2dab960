//! Running a command so that nothing of it survives its deadline.
//!
//! A command is a program and its arguments, without a shell, in a process group of its own, with
//! nothing to read. At its deadline the group is asked to end, and killed two seconds later. When
//! the command itself has ended, whatever it left in its group is killed too: so do units of
//! systemd, and a script may not depend on which of the two runs it.
//!
//! A descendant may leave the group (`setsid`). Every process of a run inherits a variable with the
//! run's own id, so those that left are found in `/proc` by it, and killed through a handle that
//! cannot mean another process. What also drops its environment, changes its user, or runs on a
//! kernel without such handles (before 5.3) escapes; only a cgroup holds that.
//!
//! Nothing waits for the end of the output longer than a moment: it may be in the hands of somebody
//! who escaped.

mod output;
mod trace;
mod tree;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};

pub use self::output::Output;
pub use self::trace::Trace;
use self::tree::Tree;

/// From being asked to end until being killed.
const GRACE: Duration = Duration::from_secs(2);
/// For what is still in the pipe when everybody who wrote to it should be gone.
const DRAIN: Duration = Duration::from_millis(500);
/// For the kernel to let go of what was killed. Hung in a system call, it may take for ever.
const REAP: Duration = Duration::from_secs(1);
/// A timeout that cannot be added to a clock.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Where commands run that were not told otherwise.
const ROOT: &str = "/";
/// A program that is being replaced cannot be started for a moment.
const BUSY_ATTEMPTS: u32 = 5;
/// Between two attempts.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The program, looked up in `PATH` if it has no slash, and its arguments.
    pub argv: Vec<String>,
    /// Variables besides our own. Those of ours that look like secrets, and those by which systemd
    /// speaks to us alone, are not passed on.
    pub env: Vec<(String, String)>,
    /// When it must have ended.
    pub timeout: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// By itself, with this code.
    Exited(i32),
    /// Somebody else's signal ended it.
    Killed(i32),
    /// We ended it at its deadline. What it answered after being asked to end does not count.
    TimedOut,
    /// It never ran, or nobody knows what became of it: the text says which.
    NotStarted(String),
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Killed(signal) => write!(f, "killed by signal {signal}"),
            Self::TimedOut => f.write_str("did not end in time"),
            Self::NotStarted(why) => f.write_str(why),
        }
    }
}

impl Default for How {
    /// Not knowing is never a yes.
    fn default() -> Self {
        Self::NotStarted("it was not run".to_owned())
    }
}

/// A run that is over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub how: How,
    /// The end of what it printed, standard output and standard error as they came.
    pub output: Output,
    /// How long it took.
    pub took: Duration,
}

impl Finished {
    /// Whether it did what it was to do.
    pub fn succeeded(&self) -> bool {
        self.how == How::Exited(0)
    }
}

/// Standard output by itself, for commands whose answer is a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stdout {
    /// From its beginning.
    pub bytes: Vec<u8>,
    /// There was more than was to be kept: what is here is no document.
    pub truncated: bool,
}

/// What is told how a run is to be found: before it starts, and again once it has.
pub type Note<'a> = &'a mut (dyn FnMut(&Trace) + Send);

/// Runs a command to its end, or to its deadline. If the future is dropped the command is killed.
pub async fn run(spec: &Spec) -> Finished {
    run_in(Path::new(ROOT), spec).await
}

/// [`run`], in another folder than `/`.
pub async fn run_in(folder: &Path, spec: &Spec) -> Finished {
    run_with(spec, folder, None, &mut |_| ()).await
}

/// [`run`], telling `note` how to find the command should we be killed before it ends.
pub async fn run_noting(spec: &Spec, note: Note<'_>) -> Finished {
    run_with(spec, Path::new(ROOT), None, note).await
}

/// [`run`], and up to `limit` bytes of standard output by themselves. [`Finished::output`] has
/// them too, but there the two streams may be out of step by a line or so.
pub async fn run_for_stdout(spec: &Spec, limit: usize) -> (Finished, Stdout) {
    let mut stdout = Stdout::default();
    let finished = run_with(spec, Path::new(ROOT), Some((&mut stdout, limit)), &mut |_| ()).await;
    (finished, stdout)
}

/// Runs a command that belongs to itself: it goes on when the future is dropped or we
/// stop, and prints to where we do. At its deadline its group is killed, if anybody
/// still waits for it. `note` is told how to find it.
pub async fn run_apart(spec: &Spec, note: Note<'_>) -> Finished {
    let started = Instant::now();
    let how = match spawn_apart(spec, note) {
        Err(error) => How::NotStarted(cannot_run(spec, &error)),
        Ok((mut child, tree)) => {
            let ended = timeout(spec.timeout, child.wait()).await;
            match &ended {
                Ok(_) => how_it_ended(ended),
                Err(_) => {
                    tree.kill_group();
                    How::TimedOut
                }
            }
        }
    };
    Finished { how, output: Output::default(), took: started.elapsed() }
}

fn spawn_apart(spec: &Spec, note: Note<'_>) -> io::Result<(Child, Tree)> {
    let mut command = command(spec, Path::new(ROOT))?;
    let trace = Trace::new();
    command.env(tree::RUN_ID, trace.run_id().to_string());
    note(&trace);
    let child = command.spawn()?;
    note(&trace.led_by(child.id()));
    let mut tree = Tree::of(&child, trace.run_id()).ok_or_else(ended_too_early)?;
    tree.let_go();
    Ok((child, tree))
}

async fn run_with(
    spec: &Spec,
    folder: &Path,
    keep: Option<(&mut Stdout, usize)>,
    note: Note<'_>,
) -> Finished {
    let started = Instant::now();
    let mut output = Output::default();
    let how = match start(spec, folder, keep.is_some(), note).await {
        Ok(running) => {
            let deadline = started.checked_add(spec.timeout).unwrap_or(started + FOR_EVER);
            running.finish(deadline, &mut output, keep).await
        }
        Err(why) => How::NotStarted(why),
    };
    Finished { how, output, took: started.elapsed() }
}

/// A command under way. Dropping it kills it.
struct Running {
    // Before the child: once nobody waits for that, its number may be given away.
    tree: Tree,
    child: Child,
    ended: tokio::signal::unix::Signal,
    /// Both streams, or standard error alone.
    mixed: Option<pipe::Receiver>,
    stdout: Option<pipe::Receiver>,
}

async fn start(spec: &Spec, folder: &Path, apart: bool, note: Note<'_>) -> Result<Running, String> {
    let mut attempt = 1;
    let trace = Trace::new();
    note(&trace);
    loop {
        match spawn(spec, folder, apart, &trace) {
            Ok(running) => {
                note(&trace.led_by(running.child.id()));
                return Ok(running);
            }
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy && attempt < BUSY_ATTEMPTS =>
            {
                attempt += 1;
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            Err(error) => return Err(cannot_run(spec, &error)),
        }
    }
}

fn cannot_run(spec: &Spec, error: &io::Error) -> String {
    let program = spec.argv.first().map_or("", String::as_str);
    format!("cannot run {program:?}: {error}")
}

fn ended_too_early() -> io::Error {
    io::Error::other("it ended before it could be watched")
}

/// What all have in common.
fn command(spec: &Spec, folder: &Path) -> io::Result<Command> {
    let [program, arguments @ ..] = &spec.argv[..] else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program is named"));
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).process_group(0);
    command.env_clear().envs(environment(spec));
    Ok(command)
}

fn spawn(spec: &Spec, folder: &Path, apart: bool, trace: &Trace) -> io::Result<Running> {
    let mut command = command(spec, folder)?;
    // Before the child: none of its ends may go unnoticed.
    let ended = signal(SignalKind::child())?;
    let (mixed, writer) = io::pipe()?;
    let (stdout, stdout_writer) = if apart {
        let (stdout, writer) = io::pipe()?;
        (Some(stdout), writer)
    } else {
        (None, writer.try_clone()?)
    };
    let run_id = trace.run_id();
    command.stdout(stdout_writer).stderr(writer).kill_on_drop(true);
    command.env(tree::RUN_ID, run_id.to_string());
    let child = command.spawn()?;
    // Else our own ends of the pipes would keep them open.
    drop(command);
    let tree = Tree::of(&child, run_id).ok_or_else(ended_too_early)?;
    let receiver = |reader: io::PipeReader| pipe::Receiver::from_owned_fd(OwnedFd::from(reader));
    Ok(Running {
        tree,
        child,
        ended,
        mixed: Some(receiver(mixed)?),
        stdout: stdout.map(receiver).transpose()?,
    })
}

/// The variables a command is given: ours that are not private, and its own.
pub fn environment(spec: &Spec) -> Vec<(OsString, OsString)> {
    let ours = std::env::vars_os().filter(|(name, _)| !is_private(&name.to_string_lossy()));
    let own = spec.env.iter().map(|(name, value)| (name.into(), value.into()));
    // The later wins.
    ours.chain(own).collect()
}

/// Variables of ours that are none of a command's business.
fn is_private(name: &str) -> bool {
    const SECRETS: [&str; 4] = ["PASSWORD", "PASSWD", "SECRET", "CREDENTIAL"];
    const SYSTEMD: [&str; 12] = [
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "MEMORY_PRESSURE_WATCH",
        "MEMORY_PRESSURE_WRITE",
        "MAINPID",
        "SYSTEMD_EXEC_PID",
    ];
    let upper = name.to_ascii_uppercase();
    // A file with a password is named, not shown.
    let secret = !upper.ends_with("_FILE") && SECRETS.iter().any(|part| upper.contains(part));
    secret || SYSTEMD.contains(&name)
}

impl Running {
    async fn finish(
        mut self,
        mut deadline: Instant,
        output: &mut Output,
        mut keep: Option<(&mut Stdout, usize)>,
    ) -> How {
        let mut timed_out = false;
        let mut buffer = Box::new([0; 16 * 1024]);
        let mut stdout_buffer = Box::new([0; 16 * 1024]);
        while !self.tree.leader_ended() {
            tokio::select! {
                biased;
                () = sleep_until(deadline) => {
                    if timed_out {
                        break;
                    }
                    timed_out = true;
                    deadline = Instant::now() + GRACE;
                    self.tree.ask_to_end();
                }
                heard = self.ended.recv() => if heard.is_none() {
                    // The runtime is going.
                    break;
                },
                part = read(&mut self.mixed, &mut buffer[..]) => output.push(part),
                part = read(&mut self.stdout, &mut stdout_buffer[..]) => {
                    take(part, output, &mut keep);
                }
            }
        }
        self.tree.kill_group();
        self.tree.kill_escaped().await;
        let rest = async {
            while self.mixed.is_some() || self.stdout.is_some() {
                tokio::select! {
                    part = read(&mut self.mixed, &mut buffer[..]) => output.push(part),
                    part = read(&mut self.stdout, &mut stdout_buffer[..]) => {
                        take(part, output, &mut keep);
                    }
                }
            }
        };
        if timeout(DRAIN, rest).await.is_err() {
            tracing::debug!("somebody still holds the output of a command that has ended");
            if let Some((stdout, _)) = keep {
                stdout.truncated |= self.stdout.is_some();
            }
        }
        // The leader's number is ours until here: nobody else can have been killed.
        let status = timeout(REAP, self.child.wait()).await;
        self.tree.let_go();
        if timed_out { How::TimedOut } else { how_it_ended(status) }
    }
}

fn how_it_ended(
    status: Result<io::Result<std::process::ExitStatus>, tokio::time::error::Elapsed>,
) -> How {
    use std::os::unix::process::ExitStatusExt as _;
    match status {
        Ok(Ok(status)) => match (status.code(), status.signal()) {
            (Some(code), _) => How::Exited(code),
            (None, signal) => How::Killed(signal.unwrap_or(0)),
        },
        // Not knowing is never a yes.
        Ok(Err(_)) | Err(_) => How::TimedOut,
    }
}

/// Reads what is there, and lets go of the pipe at its end. Never returns without a pipe.
async fn read<'a>(from: &mut Option<pipe::Receiver>, buffer: &'a mut [u8]) -> &'a [u8] {
    let Some(receiver) = from else { return std::future::pending().await };
    match receiver.read(buffer).await {
        Ok(length) if length > 0 => &buffer[..length],
        _ => {
            *from = None;
            &[]
        }
    }
}

fn take(part: &[u8], output: &mut Output, keep: &mut Option<(&mut Stdout, usize)>) {
    output.push(part);
    if let Some((stdout, limit)) = keep {
        let room = limit.saturating_sub(stdout.bytes.len());
        stdout.truncated |= part.len() > room;
        stdout.bytes.extend(part.iter().take(room));
    }
}

#[cfg(test)]
mod tests;
