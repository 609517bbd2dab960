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
use crate::rig::{Rig, Wanted};

/// Connections at once, each of a machine of its own, if nobody says how many.
const CONNECTIONS: [usize; 4] = [1, 4, 16, 64];

/// Cycles and reference take turns, so often and for so long: a shared machine may become slower or
/// faster within seconds.
const TURNS: usize = 11;
const CYCLES: Duration = Duration::from_millis(500);
const REFERENCE: Duration = Duration::from_millis(250);

/// How long holders ask again.
const REPEATED: Duration = Duration::from_secs(5);

/// Longest time for the gateway to listen.
const SOON: Duration = Duration::from_secs(20);

/// What every client has to be told: nothing but this.
const EXPECTED: [&str; 2] = ["success", "failed_lock_semaphore_full"];

/// How much longer a sync takes on the slower disk, in microseconds: as on many that lose nothing
/// when the power fails.
const SLOWER: u64 = 1000;

/// Cycles, requests that need no write, memory.
pub(crate) async fn measure(
    one: &Rig,
    wanted: &Wanted,
    connections: &[usize],
) -> Result<Vec<Table>> {
    let mut loads: Vec<_> = connections.iter().map(|number| (*number, "roomy")).collect();
    if loads.is_empty() {
        loads = CONNECTIONS.iter().map(|number| (*number, "roomy")).collect();
    }
    let mut all = loads.clone();
    all.extend(connections.is_empty().then_some((64, "narrow")));
    let mut tables = Tables::new();
    tables.on_etcd("etcd", one, &all).await?;
    let slower = wanted.with_slower_sync(SLOWER);
    for (name, wanted, members) in
        [("etcd, each sync 1 ms longer", &slower, 1), ("etcd of three members", wanted, 3)]
    {
        match Rig::start(wanted, members).await {
            Ok(rig) => tables.on_etcd(name, &rig, &loads).await?,
            Err(error) => eprintln!("bench: not measured: {name}: {error:#}"),
        }
    }

    let folder = TempDir::with_prefix("bench-")?;
    let at = |name: &str| folder.path().join(name);
    let raw = latency::raw_sqlite(&at("reference.db"))?;
    let gateway = Gateway::start(&format!("sqlite:{}", at("lock.db").display())).await?;
    tables.on_store("sqlite", &gateway, &all, async || updates_a_second(&raw)).await?;
    Ok(vec![tables.cycles, tables.memory])
}

/// What is measured.
struct Tables {
    cycles: Table,
    memory: Table,
}

impl Tables {
    fn new() -> Self {
        let cycles = [
            "",
            "cycles a second",
            "median",
            "p99",
            "granted",
            "full",
            "other",
            "beside writes in a row",
            "turns",
        ];
        Self {
            cycles: Table::new(
                "Through the gateway: a slot is taken and given back, by so many connections at once",
                &cycles,
            ),
            memory: Table::new("rebootlock-gateway", &["", "figure", "goal"]),
        }
    }

    /// Gateway and reference ask the same member.
    async fn on_etcd(&mut self, store: &str, rig: &Rig, loads: &[(usize, &str)]) -> Result<()> {
        let mut raw = rig.raw().await?;
        let gateway = Gateway::start(&rig.leader().await?).await?;
        self.on_store(store, &gateway, loads, async || puts_a_second(&mut raw).await).await
    }

    async fn on_store(
        &mut self,
        store: &str,
        gateway: &Gateway,
        loads: &[(usize, &str)],
        mut reference: impl AsyncFnMut() -> Result<f64>,
    ) -> Result<()> {
        let idle = resident_kib(gateway.pid)?;
        for &(connections, group) in loads {
            let mut load = Load::start(gateway, connections, group).await?;
            // Whatever is done once is done now.
            load.burst().await?;
            (load.measured, load.took) = (Measured::default(), Duration::ZERO);
            let mut turns = Vec::new();
            for _ in 0..TURNS {
                let writes = reference().await?;
                let rate = load.burst().await?;
                turns.push((rate / writes, writes));
            }
            self.cycles.add(load.row(store, group, turns));
        }
        let loaded = resident_kib(gateway.pid)?;
        let repeated = gateway.repeats(64).await?;
        let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
        for (what, figure, goal) in [
            ("resident when idle", mib(idle), ""),
            ("resident under load", mib(loaded.max(resident_kib(gateway.pid)?)), ""),
            (
                "pre-reboot again by 64 holders, a second",
                format!("{:.0}", repeated.of(EXPECTED[0]) as f64 / REPEATED.as_secs_f64()),
                "20,000 or more",
            ),
            ("of those, answered otherwise", repeated.but(&EXPECTED[..1]).to_string(), "none"),
        ] {
            self.memory.add(vec![format!("{store}: {what}"), figure, goal.to_owned()]);
        }
        Ok(())
    }
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

    /// Holders that ask again.
    async fn repeats(&self, connections: usize) -> Result<Answers> {
        let mut clients = Vec::new();
        for n in 0..connections {
            let mut client = self.client(&format!("machine-{n:04}"), "roomy").await?;
            ensure!(client.ask(Path::Take).await? == "success", "no slot for holder {n}");
            clients.push(client);
        }
        let mut tasks = JoinSet::new();
        let end = Instant::now() + REPEATED;
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

/// Clients that take slots and give them back.
struct Load {
    clients: Vec<Client>,
    measured: Measured,
    took: Duration,
}

impl Load {
    async fn start(gateway: &Gateway, connections: usize, group: &str) -> Result<Self> {
        let mut clients = Vec::new();
        for n in 0..connections {
            clients.push(gateway.client(&format!("machine-{n:04}"), group).await?);
        }
        Ok(Self { clients, measured: Measured::default(), took: Duration::ZERO })
    }

    /// What came of it. `turns`: by how much and beside how many writes a second.
    fn row(&self, store: &str, group: &str, mut turns: Vec<(f64, f64)>) -> Vec<String> {
        turns.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let (least, most) = (turns[0].0, turns[TURNS - 1].0);
        let (ratio, writes) = turns[TURNS / 2];
        let Measured { times, answers } = &self.measured;
        let slots = if group == "narrow" { ", one slot" } else { "" };
        vec![
            format!("{store}: {} connections{slots}", self.clients.len()),
            format!("{:.0}", times.count() as f64 / self.took.as_secs_f64()),
            show(times.median()),
            show(times.percentile(99)),
            answers.of(EXPECTED[0]).to_string(),
            answers.of(EXPECTED[1]).to_string(),
            answers.but(&EXPECTED).to_string(),
            format!("{ratio:.2} of {writes:.0} a second"),
            format!("{least:.2} to {most:.2}"),
        ]
    }

    /// All of them for a while. Gives cycles a second.
    async fn burst(&mut self) -> Result<f64> {
        let mut tasks = JoinSet::new();
        let begin = Instant::now();
        let end = begin + CYCLES;
        for client in self.clients.drain(..) {
            tasks.spawn(cycles(client, end));
        }
        let mut cycles = 0;
        while let Some(ended) = tasks.join_next().await {
            let (client, measured) = ended??;
            self.clients.push(client);
            cycles += measured.times.count();
            self.measured.times.join(measured.times);
            self.measured.answers.join(measured.answers);
        }
        let took = begin.elapsed();
        self.took += took;
        Ok(cycles as f64 / took.as_secs_f64())
    }
}

async fn cycles(mut client: Client, end: Instant) -> Result<(Client, Measured)> {
    let mut measured = Measured::default();
    while Instant::now() < end {
        let asked = Instant::now();
        let kind = client.ask(Path::Take).await?;
        let granted = kind == "success";
        measured.answers.add(kind);
        if granted {
            let kind = client.ask(Path::GiveBack).await?;
            if kind == "success" {
                measured.times.add(asked.elapsed());
            }
            measured.answers.add(kind);
        }
    }
    Ok((client, measured))
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
