//! `rebootlock-gateway` as a process, and FleetLock clients on connections that they keep.

mod client;

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rebootlock_tests::{binaries, eventually};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use self::client::{Answers, Client, Path};
use crate::figures::{Table, Times, show};
use crate::latency;
use crate::programs::resident_kib;
use crate::rig::Rig;

/// Connections at once, each of a machine of its own.
const CONNECTIONS: [usize; 4] = [1, 4, 16, 64];

/// How long each part is measured, and how long it runs before that.
const MEASURED: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_millis(500);

/// How long the reference is measured before and after each part.
const REFERENCE: Duration = Duration::from_millis(1000);

/// Longest time for the gateway to listen.
const SOON: Duration = Duration::from_secs(20);

/// What every client has to be told: nothing but this.
const EXPECTED: [&str; 2] = ["success", "failed_lock_semaphore_full"];

/// Cycles, requests that need no write, memory.
pub(crate) async fn measure(rig: &Rig) -> Result<Vec<Table>> {
    let mut cycles = Table::new(
        "Through the gateway: a slot is taken and given back, by so many connections at once",
        &[
            "",
            "cycles a second",
            "median",
            "p99",
            "granted",
            "full",
            "other",
            "beside writes in a row",
        ],
    );
    let mut memory = Table::new("rebootlock-gateway", &["", "figure", "goal"]);
    let endpoints = rig.etcd.endpoints().join(",");
    let mut raw = rig.raw().await?;
    let puts = async || puts_a_second(&mut raw).await;
    on_store("etcd", &endpoints, puts, &mut cycles, &mut memory).await?;

    let folder = TempDir::with_prefix("bench-")?;
    let at = |name: &str| folder.path().join(name);
    let raw = latency::raw_sqlite(&at("reference.db"))?;
    let endpoint = format!("sqlite:{}", at("lock.db").display());
    on_store("sqlite", &endpoint, async || updates_a_second(&raw), &mut cycles, &mut memory)
        .await?;
    Ok(vec![cycles, memory])
}

async fn on_store(
    store: &str,
    endpoint: &str,
    mut reference: impl AsyncFnMut() -> Result<f64>,
    cycles: &mut Table,
    memory: &mut Table,
) -> Result<()> {
    let gateway = Gateway::start(endpoint).await?;
    let idle = resident_kib(gateway.pid)?;
    // As many slots as connections, and one for all of them.
    let most = CONNECTIONS.iter().map(|connections| (*connections, "roomy"));
    for (connections, group) in most.chain([(64, "narrow")]) {
        let before = reference().await?;
        let measured = gateway.cycles(connections, group).await?;
        let writes = (before + reference().await?) / 2.0;
        let rate = measured.times.count() as f64 / MEASURED.as_secs_f64();
        let slots = if group == "narrow" { ", one slot" } else { "" };
        cycles.add(vec![
            format!("{store}: {connections} connections{slots}"),
            format!("{rate:.0}"),
            show(measured.times.median()),
            show(measured.times.percentile(99)),
            measured.answers.of(EXPECTED[0]).to_string(),
            measured.answers.of(EXPECTED[1]).to_string(),
            measured.answers.but(&EXPECTED).to_string(),
            format!("{:.2} of {writes:.0} a second", rate / writes),
        ]);
    }
    let loaded = resident_kib(gateway.pid)?;
    let repeated = gateway.repeats(64).await?;
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    for (what, figure, goal) in [
        ("resident when idle", mib(idle), ""),
        ("resident under load", mib(loaded.max(resident_kib(gateway.pid)?)), ""),
        (
            "pre-reboot again by 64 holders, a second",
            format!("{:.0}", repeated.of(EXPECTED[0]) as f64 / MEASURED.as_secs_f64()),
            "20,000 or more",
        ),
        ("of those, answered otherwise", repeated.but(&EXPECTED[..1]).to_string(), "none"),
    ] {
        memory.add(vec![format!("{store}: {what}"), figure, goal.to_owned()]);
    }
    Ok(())
}

/// A gateway that is killed when this is dropped.
struct Gateway {
    pid: u32,
    address: String,
    _child: Child,
    _dir: TempDir,
}

#[derive(Default)]
struct Measured {
    times: Times,
    answers: Answers,
}

impl Gateway {
    async fn start(endpoint: &str) -> Result<Self> {
        let dir = TempDir::with_prefix("bench-")?;
        let config = dir.path().join("rebootlock.toml");
        std::fs::write(
            &config,
            "[gateway]\naccess_log = false\nreserve_secs = 5\n\
             [[group]]\nname = \"roomy\"\nslots = 64\n\
             [[group]]\nname = \"narrow\"\nslots = 1\n",
        )?;
        // Not a pipe, whose reading would be measured too.
        let log = dir.path().join("log");
        let child = Command::new(binaries::path("rebootlock-gateway")?)
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .arg("--config")
            .arg(&config)
            .args(["--endpoint", endpoint])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).context("cannot log")?)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start rebootlock-gateway")?;
        let pid = child.id().context("the gateway ended at once")?;
        let address = eventually("the gateway listens", SOON, async || {
            let logged = std::fs::read_to_string(&log)?;
            let lines = logged.lines().map(serde_json::from_str::<serde_json::Value>);
            let listening = lines.flatten().find(|line| line["message"] == "listening");
            let address = listening.and_then(|line| Some(line["address"].as_str()?.to_owned()));
            address.with_context(|| format!("it says: {logged}"))
        })
        .await?;
        let gateway = Self { pid, address, _child: child, _dir: dir };
        let mut first = gateway.client("first", "roomy").await?;
        ensure!(first.ask(Path::Take).await? == "success", "the gateway grants nothing");
        ensure!(first.ask(Path::GiveBack).await? == "success", "the gateway takes nothing back");
        Ok(gateway)
    }

    async fn client(&self, machine: &str, group: &str) -> Result<Client> {
        Client::connect(&self.address, machine, group).await
    }

    /// Slots taken and given back.
    async fn cycles(&self, connections: usize, group: &str) -> Result<Measured> {
        let mut tasks = JoinSet::new();
        let begin = Instant::now() + WARM_UP;
        let end = begin + MEASURED;
        for n in 0..connections {
            let mut client = self.client(&format!("machine-{n:04}"), group).await?;
            tasks.spawn(async move {
                let mut measured = Measured::default();
                while Instant::now() < end {
                    let asked = Instant::now();
                    let kind = client.ask(Path::Take).await?;
                    let granted = kind == "success";
                    measured.answers.add(kind);
                    if granted {
                        let kind = client.ask(Path::GiveBack).await?;
                        if asked >= begin && kind == "success" {
                            measured.times.add(asked.elapsed());
                        }
                        measured.answers.add(kind);
                    }
                }
                Ok::<_, anyhow::Error>(measured)
            });
        }
        let mut all = Measured::default();
        while let Some(ended) = tasks.join_next().await {
            let ended = ended??;
            all.times.join(ended.times);
            all.answers.join(ended.answers);
        }
        Ok(all)
    }

    /// Holders that ask again.
    async fn repeats(&self, connections: usize) -> Result<Answers> {
        let mut clients = Vec::new();
        for n in 0..connections {
            let mut client = self.client(&format!("machine-{n:04}"), "roomy").await?;
            ensure!(client.ask(Path::Take).await? == "success", "no slot for holder {n}");
            clients.push(client);
        }
        let mut tasks = JoinSet::new();
        let end = Instant::now() + MEASURED;
        for mut client in clients {
            tasks.spawn(async move {
                let mut answers = Answers::default();
                while Instant::now() < end {
                    answers.add(client.ask(Path::Take).await?);
                }
                Ok::<_, anyhow::Error>(answers)
            });
        }
        let mut all = Answers::default();
        while let Some(ended) = tasks.join_next().await {
            all.join(ended??);
        }
        Ok(all)
    }
}

async fn puts_a_second(raw: &mut etcd_client::Client) -> Result<f64> {
    let (begin, mut puts) = (Instant::now(), 0_u32);
    while begin.elapsed() < REFERENCE {
        raw.put("reference", latency::VALUE, None).await.context("cannot put")?;
        puts += 1;
    }
    Ok(f64::from(puts) / begin.elapsed().as_secs_f64())
}

fn updates_a_second(raw: &Connection) -> Result<f64> {
    let (begin, mut updates) = (Instant::now(), 0_u32);
    let mut value = latency::VALUE.to_vec();
    while begin.elapsed() < REFERENCE {
        value[0] = value[0].wrapping_add(1);
        raw.prepare_cached("UPDATE reference SET value = ?1 WHERE id = 1")?.execute([&value])?;
        updates += 1;
    }
    Ok(f64::from(updates) / begin.elapsed().as_secs_f64())
}
