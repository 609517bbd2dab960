//! The programs as they are installed: how fast, how large, how quiet.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rebootlock::id::Group;
use rebootlock::lock::{Ended, Release};
use rebootlock::wait::{WaitOptions, Waiting};
use rebootlock_tests::fleet::{Member, Onlooker, SOON, ctl};
use rebootlock_tests::process::Process;
use rebootlock_tests::{binaries, within};
use tokio::process::Command;

use crate::figures::{TIMES, Table, Times, show};
use crate::rig::{Rig, claim};

/// How often each command is run.
const RUNS: usize = 50;

/// How often the agent is started.
const STARTS: usize = 10;

/// How long the agent is watched doing nothing.
const IDLE: Duration = Duration::from_secs(20);

/// How long it may take to get there.
const SETTLE: Duration = Duration::from_secs(3);

/// `rebootlockctl exec -- true` beside `etcdctl lock NAME true`: taken, run, given back.
pub(crate) async fn exec(rig: &Rig) -> Result<Table> {
    let endpoints = rig.etcd.endpoints();
    let [mut ours, mut theirs] = [(); 2].map(|()| Times::default());
    let machine_id = tempfile::NamedTempFile::new()?;
    std::fs::write(machine_id.path(), "0123456789abcdef0123456789abcdef\n")?;
    let id_file = machine_id.path().display().to_string();
    for _ in 0..RUNS {
        let start = Instant::now();
        let exec = ["--group", "exec", "--machine-id-file", &id_file, "exec", "--", "true"];
        let output = ctl(&endpoints, &exec).await?;
        ours.add(start.elapsed());
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "rebootlockctl exec ended with {}: {said}", output.status);
        let start = Instant::now();
        let mut lock = Command::new(rig.etcdctl());
        lock.env("ETCDCTL_API", "3").arg("--endpoints").arg(endpoints.join(","));
        lock.args(["lock", "bench-lock", "true"]).stdin(Stdio::null()).kill_on_drop(true);
        let output = lock.output().await.context("cannot run etcdctl")?;
        theirs.add(start.elapsed());
        ensure!(output.status.success(), "etcdctl lock ended with {}", output.status);
    }
    let mut table = Table::new("A command under the lock", &TIMES);
    table.add(theirs.row("etcdctl lock NAME true", None));
    table.add(ours.row("rebootlockctl exec -- true", Some(("etcdctl lock", &theirs))));
    Ok(table)
}

/// `rebootlockctl status`, with one machine holding and three waiting, beside `etcdctl get`.
pub(crate) async fn status(rig: &Rig) -> Result<Table> {
    let (locks, group) = (rig.locks()?, Group::default());
    let holder = claim(&group, 0)?;
    locks.acquire(&holder).await?;
    let waiting: Vec<_> = (1..=3)
        .map(|n| Ok(Waiting::start(locks.clone(), claim(&group, n)?, WaitOptions::default())))
        .collect::<Result<_>>()?;
    let look = Onlooker::new(&rig.etcd.endpoints())?;
    look.wait_queue(waiting.len()).await?;

    let (endpoints, key) = (rig.etcd.endpoints(), locks.keys().semaphore(&group).to_string());
    let [mut ours, mut version, mut theirs] = [(); 3].map(|()| Times::default());
    for _ in 0..RUNS {
        let start = Instant::now();
        let output = ctl(&endpoints, &["status"]).await?;
        ours.add(start.elapsed());
        ensure!(output.status.success(), "rebootlockctl status ended with {}", output.status);
        let start = Instant::now();
        let output = ctl(&endpoints, &["--version"]).await?;
        version.add(start.elapsed());
        ensure!(output.status.success(), "rebootlockctl --version ended with {}", output.status);
        let start = Instant::now();
        let mut get = Command::new(rig.etcdctl());
        get.env("ETCDCTL_API", "3").arg("--endpoints").arg(endpoints.join(","));
        get.args(["get", &key]).stdin(Stdio::null()).kill_on_drop(true);
        let output = get.output().await.context("cannot run etcdctl")?;
        theirs.add(start.elapsed());
        ensure!(output.status.success(), "etcdctl get ended with {}", output.status);
    }
    for mut waiting in waiting {
        waiting.leave().await;
    }
    locks
        .release(holder.groups(), &holder.machine, &Release::of(holder.token, Ended::GivenBack))
        .await?;

    let mut table = Table::new("A command, from start to end", &TIMES);
    table.add(theirs.row("etcdctl get SEMAPHORE", None));
    table.add(ours.row("rebootlockctl status", Some(("etcdctl get", &theirs))));
    table.add(version.row("rebootlockctl --version", Some(("etcdctl get", &theirs))));
    Ok(table)
}

/// `rebootlockd` on a machine with a bus, update-engine and logind, and nothing to do.
pub(crate) async fn daemon(rig: &Rig) -> Result<Table> {
    let member = Member::new("idle", &rig.etcd.endpoints(), "").await?;
    let mut ready = Times::default();
    for _ in 1..STARTS {
        let (mut agent, took) = start(&member).await?;
        ready.add(took);
        agent.kill().await?;
    }
    let (mut agent, took) = start(&member).await?;
    ready.add(took);

    tokio::time::sleep(SETTLE).await;
    let before = Usage::of(agent.pid())?;
    tokio::time::sleep(IDLE).await;
    let after = Usage::of(agent.pid())?;
    ensure!(agent.is_running(), "rebootlockd ended by itself");
    agent.kill().await?;

    let per_minute = |count: u64| count as f64 * 60.0 / IDLE.as_secs_f64();
    let mut table = Table::new("rebootlockd with nothing to do, on etcd", &["", "figure", "goal"]);
    let mut add = |what: &str, figure: String, goal: &str| {
        table.add(vec![what.to_owned(), figure, goal.to_owned()]);
    };
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    add("resident memory", mib(after.resident), "at most 6 MiB");
    add("of which its own (anonymous)", mib(after.anonymous), "");
    add("threads", after.threads.to_string(), "");
    let voluntary = after.voluntary.saturating_sub(before.voluntary);
    let involuntary = after.involuntary.saturating_sub(before.involuntary);
    add("wake-ups a minute", format!("{:.0}", per_minute(voluntary)), "keep-alives only");
    add("preempted a minute", format!("{:.0}", per_minute(involuntary)), "");
    add("start to READY, median", show(ready.median()), "under 50 ms");
    add("start to READY, slowest", show(ready.percentile(100)), "");
    Ok(table)
}

/// Starts the agent, and says how long it took to tell systemd that it is ready.
async fn start(member: &Member) -> Result<(Process, Duration)> {
    let notify = &member.machine.notify;
    let (told, command) = (notify.count(), member.command()?);
    let start = Instant::now();
    let agent = Process::spawn("rebootlockd", command)?;
    let ready = notify.wait_after(told, |message| message.contains("READY=1"), SOON);
    within("rebootlockd is ready", SOON, ready).await??;
    Ok((agent, start.elapsed()))
}

/// What the kernel counts of a process.
#[derive(Debug)]
struct Usage {
    resident: u64,
    anonymous: u64,
    threads: u64,
    voluntary: u64,
    involuntary: u64,
}

impl Usage {
    fn of(pid: u32) -> Result<Self> {
        let folder = format!("/proc/{pid}");
        let whole = status_file(Path::new(&folder))?;
        let mut usage = Self {
            resident: field(&whole, "VmRSS")?,
            anonymous: field(&whole, "RssAnon")?,
            threads: field(&whole, "Threads")?,
            voluntary: 0,
            involuntary: 0,
        };
        // The process's own file counts its first thread only.
        for task in std::fs::read_dir(format!("{folder}/task"))? {
            let of_task = status_file(&task?.path())?;
            usage.voluntary += field(&of_task, "voluntary_ctxt_switches")?;
            usage.involuntary += field(&of_task, "nonvoluntary_ctxt_switches")?;
        }
        Ok(usage)
    }
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
    field(&status_file(Path::new(&format!("/proc/{pid}")))?, "VmRSS")
}

fn status_file(folder: &Path) -> Result<String> {
    let path = folder.join("status");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn field(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("the kernel tells no {name}"))
}

/// The programs on disk.
pub(crate) fn sizes() -> Result<Table> {
    let mut table = Table::new("Programs on disk", &["", "size"]);
    for program in ["rebootlockd", "rebootlockctl", "rebootlock-gateway"] {
        let bytes = std::fs::metadata(binaries::path(program)?)?.len();
        let size = format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0);
        table.add(vec![program.to_owned(), size]);
    }
    Ok(table)
}
