//! `exec`: holds a slot while a command runs.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rebootlock::cli::exit;
use rebootlock::lock::{Acquired, Ended, LockManager, Release, Released};
use rebootlock::record::{Claim, Via};
use rebootlock::store::{LeaseKeeper, Txn};
use rebootlock::view::words::in_groups;
use rustix::process::Signal;
use tokio::process::{Child, Command};

use super::{lock, trim_history, waiting};
use crate::cli::Exec;
use crate::output::say;
use crate::session::Session;
use crate::signals::Signals;

/// A command that dies without giving its slot back is shown as orphaned after this long.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// How often the release is tried while the store is away, each time for the manager's deadline.
const RELEASE_TRIES: u32 = 20;

/// How long it is tried yet once somebody wants an end of it. A signal that was meant for the command
/// may come after its end.
const HURRIED: Duration = Duration::from_secs(2);

/// What a shell answers for a command that it cannot start.
const CANNOT_START: u8 = 127;

pub(super) async fn run(session: Session, args: Exec) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let reason = args.reason.unwrap_or_else(|| args.command.join(" "));
    let claim = session.own_claim(Via::Exec, Some(reason))?;
    let alive = tokio::select! {
        alive = Alive::start(&session.locks, &claim) => alive?,
        _ = signals.next() => bail!("interrupted before it asked for a slot; not run"),
    };
    let acquired = waiting::acquire(&session, &claim, args.wait.wait, &mut signals).await?;
    if let Acquired::Already(record) = acquired {
        let missing = tokio::select! {
            missing = lock::missing(&session, &claim) => missing?,
            _ = signals.next() => bail!("interrupted; not run"),
        };
        let why = missing.unwrap_or_else(|| {
            let (machine, groups) = (&claim.machine, in_groups(claim.groups()));
            format!("{machine} holds a slot in {groups} already{}", lock::by(record.as_deref()))
        });
        say(format_args!("error: {why}; not run"));
        return Ok(exit::NO_SLOT.into());
    }
    if signals.came().await {
        release(&session.locks, &claim, Ended::GivenBack, &mut signals).await?;
        bail!("interrupted; not run");
    }
    let ended = supervise(&claim, &args.command, &mut signals).await;
    let released = release(&session.locks, &claim, Ended::ExecEnded, &mut signals).await;
    drop(alive);
    let code = match ended {
        Ok(status) => code_of(status),
        Err(error) => {
            say(format_args!("error: {error:#}"));
            CANNOT_START.into()
        }
    };
    released?;
    tokio::select! {
        () = trim_history(&session, claim.groups()) => {}
        _ = signals.next() => {}
    }
    Ok(code)
}

/// Runs the command to its end. What stops us is passed on to it, and its end is waited for: the
/// slot is not free while it runs.
async fn supervise(
    claim: &Claim,
    words: &[String],
    signals: &mut Signals,
) -> anyhow::Result<ExitStatus> {
    let [program, arguments @ ..] = words else { bail!("no command") };
    let groups: Vec<_> = claim.groups().iter().map(ToString::to_string).collect();
    let mut child = Command::new(program)
        .args(arguments)
        .env("REBOOTLOCK_MACHINE_ID", claim.machine.as_str())
        .env("REBOOTLOCK_GROUPS", groups.join(","))
        .env("REBOOTLOCK_TOKEN", claim.token.to_string())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    loop {
        tokio::select! {
            status = child.wait() => return status.context("cannot wait for the command"),
            signal = signals.next() => match signal {
                // A terminal sends this one to the command too.
                Signal::INT => {}
                signal => pass_on(&child, signal),
            },
        }
    }
}

fn pass_on(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw)
        && let Err(error) = rustix::process::kill_process(pid, signal)
    {
        say(format_args!("cannot pass a signal on: {error}"));
    }
}

/// As a shell has it: the command's own, or 128 and its signal.
fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::FAILED).into()
}

/// Gives the slot back, however long the store is away, unless it is hurried.
async fn release(
    locks: &LockManager,
    claim: &Claim,
    ended: Ended,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let hurried = async {
        signals.next().await;
        tokio::time::sleep(HURRIED).await;
    };
    let machine = &claim.machine;
    tokio::select! {
        biased;
        released = try_to_release(locks, claim, ended) => released,
        () = hurried => bail!(
            "interrupted; the slot may still be held: rebootlockctl status tells once the store \
             answers, and rebootlockctl unlock {machine} frees it"
        ),
    }
}

async fn try_to_release(locks: &LockManager, claim: &Claim, ended: Ended) -> anyhow::Result<()> {
    let mut tries = 0;
    let release = Release::of(claim.token, ended);
    loop {
        match locks.release(claim.groups(), &claim.machine, &release).await {
            Ok(Released::Freed(_)) => return Ok(()),
            Ok(Released::NotHeld) => {
                say(format_args!("somebody else freed the slot while the command ran"));
                return Ok(());
            }
            Err(error) if error.is_transient() && tries < RELEASE_TRIES => {
                if tries == 0 {
                    say(format_args!(
                        "cannot give the slot back yet: {error}; trying on, Ctrl-C ends it"
                    ));
                }
                tries += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => {
                let machine = &claim.machine;
                return Err(error).with_context(|| {
                    format!("the slot is still held; free it with rebootlockctl unlock {machine}")
                });
            }
        }
    }
}

/// A key on a lease that says that this process lives. It keeps no slot; `status` shows a slot of a
/// command without one as orphaned.
struct Alive {
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Alive {
    async fn start(locks: &LockManager, claim: &Claim) -> anyhow::Result<Self> {
        let mut keeper = say_alive(locks, claim).await?;
        let (locks, claim) = (locks.clone(), claim.clone());
        let task = tokio::spawn(async move {
            loop {
                // After a freeze or a long absence of the store.
                keeper.gone().await;
                while let Err(error) = say_alive(&locks, &claim).await.map(|new| keeper = new) {
                    tracing::debug!(%error, "cannot say that this command lives");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        });
        Ok(Self { _task: tokio_util::task::AbortOnDropHandle::new(task) })
    }
}

async fn say_alive(locks: &LockManager, claim: &Claim) -> rebootlock::store::Result<LeaseKeeper> {
    let keeper = LeaseKeeper::start(locks.store().clone(), SIGN_OF_LIFE).await?;
    let key = locks.keys().alive(claim.token);
    let document = claim.machine.as_str().as_bytes().to_vec();
    locks.store().commit(&Txn::new().put_leased(key, document, keeper.id())).await?;
    Ok(keeper)
}
