//! A simulated fleet over a store that goes wrong, from one seed.
//!
//! What runs is the real lock manager, the real [`Waiting`](rebootlock::wait::Waiting) and the real
//! `rebootlockd::policy`, over the memory store behind a [`FaultyStore`]. What is simulated is the
//! machine ([`machine`]), and what goes wrong: requests and answers lost, commits that arrive twice
//! or when everybody has given up, slow and interrupted watches, lost leases, agents that die
//! between any two of their steps, machines that fall over, reboots that come to nothing, gates
//! that close and open, pauses, unlocks, cancelled wishes, and wall clocks, each machine its own,
//! that jump by hours, days or to another century ([`clock`]). One fleet in four is a crowd before
//! one slot, so that some wait far behind.
//!
//! Time is tokio's paused clock, chance is one seed's: the same seed gives the same trace. At each
//! fall of a machine its slot is looked for; at the end the store's history is replayed
//! ([`replay`]), and once nothing goes wrong any more, everything has to drain.
//!
//! Not simulated: more than one agent on a machine.

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod clock;
pub mod machine;
pub mod replay;
pub mod store;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rebootlock::chance;
use rebootlock::id::{Group, MachineId};
use rebootlock::keys::Keyspace;
use rebootlock::lock::{LockManager, Release, Scope};
use rebootlock::record::{Document as _, HolderRecord, Pause, UnixTime};
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{Change, Key, MemoryStore, Select, Store as _, Txn};
use rebootlockd::policy::State;
use tokio::time::{Instant, sleep};

use self::clock::WallClock;
use self::machine::{Agent, Machine};
pub use self::store::Sabotage;
use self::store::{Faults, FaultyStore, OnCommit};

/// How long things go wrong.
const ROUGH: Duration = Duration::from_secs(75);

/// How late a commit may arrive.
const LATEST: Duration = Duration::from_secs(25);

/// How long everything may take to drain afterwards.
const DRAINED_AFTER: Duration = Duration::from_secs(3600);

/// Chance, from the seed.
#[derive(Debug, Clone)]
pub struct Dice(Arc<Mutex<StdRng>>);

impl Dice {
    /// From 0 to below `sides`.
    pub fn below(&self, sides: u32) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..sides.max(1))
    }

    /// Any number.
    pub fn any(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    fn seconds(&self, longest: u32) -> Duration {
        Duration::from_millis(u64::from(self.below(longest * 1000)))
    }
}

/// What happened, a line each.
#[derive(Debug, Clone)]
pub struct Trace {
    began: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Trace {
    /// Adds a line.
    pub fn say(&self, who: &MachineId, what: &str) {
        let line = format!("{:>9.3} {who} {what}", self.began.elapsed().as_secs_f64());
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

/// How a simulation went.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// What happened.
    pub trace: Vec<String>,
    /// The promises that were broken.
    pub broken: Vec<String>,
    /// How often a machine went down by its agent's order.
    pub reboots: u32,
    /// How many revisions the store saw.
    pub revisions: u64,
}

/// Runs the schedule of a seed.
pub fn run(seed: u64) -> Outcome {
    run_sabotaged(seed, Sabotage::None)
}

/// Runs the schedule of a seed with a promise broken on purpose.
pub fn run_sabotaged(seed: u64, sabotage: Sabotage) -> Outcome {
    chance::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing from the system");
    runtime.block_on(Fleet::run(seed, sabotage))
}

struct Fleet {
    faults: Faults,
    dice: Dice,
    trace: Trace,
    groups: Vec<Group>,
    machines: Vec<Arc<Machine>>,
    /// Many machines and one slot in each group.
    crowd: bool,
    broken: Mutex<Vec<String>>,
}

impl Fleet {
    async fn run(seed: u64, sabotage: Sabotage) -> Outcome {
        let dice = Dice(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))));
        let trace = Trace { began: Instant::now(), lines: Arc::default() };
        let faults = Faults {
            inner: MemoryStore::new(),
            dice: dice.clone(),
            on: Arc::new(AtomicBool::new(true)),
            per_mille: [0, 20, 100, 300][dice.below(4) as usize],
            sabotage,
        };
        let groups: Vec<Group> =
            ["default", "lb"].iter().map(|name| Group::new(*name).unwrap()).collect();
        let crowd = dice.below(4) == 0;
        let count = if crowd { 6 + dice.below(5) } else { 2 + dice.below(3) };
        let machines = (0..count).map(|n| {
            let groups = match dice.below(3) {
                0 => groups.clone(),
                some => vec![groups[some as usize - 1].clone()],
            };
            Machine::new(
                MachineId::new(format!("m{n}")).unwrap(),
                groups,
                // Who has a priority never waits far behind.
                if crowd && dice.below(4) > 0 { 0 } else { dice.below(3) },
                dice.clone(),
                trace.clone(),
            )
        });
        let machines: Vec<_> = machines.collect();
        let broken = Mutex::default();
        let fleet = Arc::new(Self { faults, dice, trace, groups, machines, crowd, broken });
        fleet.play().await;
        let log = fleet.faults.inner.log(&Key::new(""));
        if let Err(broken) = replay::check(&log, &fleet.groups, &fleet.machines) {
            fleet.break_promise(broken);
        }
        let lines = fleet.trace.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let broken = fleet.broken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Outcome {
            trace: lines,
            broken,
            reboots: fleet.machines.iter().map(|machine| machine.body().reboots).sum(),
            revisions: log.last().map_or(0, |(revision, ..)| revision.0),
        }
    }

    fn break_promise(&self, what: String) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// The store as a program of this fleet sees it. An operator's commits leave a note on the
    /// machines they free.
    fn locks(self: &Arc<Self>, clock: &WallClock, operator: bool) -> LockManager {
        let fleet = self.clone();
        let on_commit: OnCommit = Arc::new(move |txn: &Txn| {
            if operator {
                fleet.note_unlocked(txn);
            }
        });
        let store = FaultyStore::new(self.faults.clone(), on_commit);
        LockManager::new(Arc::new(store), Keyspace::default()).with_clock(clock.clock())
    }

    fn note_unlocked(&self, txn: &Txn) {
        for machine in &self.machines {
            let freed = |group| {
                let record = Keyspace::default().holder(group, &machine.id);
                txn.changes.iter().any(|c| matches!(c, Change::Delete { key } if *key == record))
            };
            if machine.groups.iter().any(freed) {
                machine.body().unlocked = true;
                self.trace.say(&machine.id, "unlocked");
            }
        }
    }

    async fn play(self: &Arc<Self>) {
        let sure = LockManager::new(Arc::new(self.faults.inner.clone()), Keyspace::default());
        for group in &self.groups {
            let max = if self.crowd { 1 } else { 1 + self.dice.below(2) };
            sure.set_max(group, max).await.unwrap();
        }
        let mut tasks = tokio::task::JoinSet::new();
        for machine in &self.machines {
            tasks.spawn(self.clone().live(machine.clone()));
        }
        let operator = tokio::spawn(self.clone().operate());
        let clocks = tokio::spawn(self.clone().derange_clocks());
        let gates = tokio::spawn(self.clone().close_gates());
        sleep(ROUGH).await;
        operator.abort();
        clocks.abort();
        gates.abort();
        self.machines.iter().for_each(|machine| machine.set_gates(true));
        self.faults.on.store(false, Ordering::Relaxed);
        let calm = Instant::now();
        // What was given up on may still come for so long.
        while calm.elapsed() < LATEST || !self.is_drained().await {
            for scope in self.scopes() {
                let _ = sure.resume(&scope).await;
            }
            if calm.elapsed() > DRAINED_AFTER {
                self.break_promise(format!("it does not drain: {}", self.what_is_left().await));
                break;
            }
            sleep(Duration::from_secs(5)).await;
        }
        tasks.shutdown().await;
    }

    fn scopes(&self) -> Vec<Scope> {
        let groups = self.groups.iter().cloned().map(Scope::Group);
        std::iter::once(Scope::Fleet).chain(groups).collect()
    }

    /// One machine, through all lives of its agent.
    async fn live(self: Arc<Self>, machine: Arc<Machine>) {
        loop {
            let agent = Agent::new(machine.clone(), self.locks(&machine.clock, false)).run();
            let rough = self.faults.on.load(Ordering::Relaxed);
            let crash = match self.dice.below(3) {
                0 if rough => self.dice.seconds(40),
                _ => DRAINED_AFTER * 2,
            };
            tokio::select! {
                biased;
                () = self.end_of(&machine) => {
                    self.look_for_slot(&machine).await;
                    machine.go_down();
                    sleep(self.dice.seconds(30)).await;
                    machine.boot(false);
                }
                () = sleep(crash) => {
                    let (new_boot, wants) = (self.dice.below(2) == 0, machine.body().wants);
                    self.trace.say(&machine.id, if new_boot { "falls over" } else { "agent dies" });
                    if new_boot {
                        machine.boot(wants);
                    }
                }
                () = agent => {}
            }
        }
    }

    /// Until the machine goes down as ordered; sometimes the order comes to nothing.
    async fn end_of(&self, machine: &Machine) {
        loop {
            while !machine.body().ordered {
                machine.changed.notified().await;
            }
            sleep(self.dice.seconds(10)).await;
            if self.faults.on.load(Ordering::Relaxed) && self.dice.below(8) == 0 {
                self.trace.say(&machine.id, "stays up");
                machine.body().ordered = false;
                continue;
            }
            return;
        }
    }

    /// No machine goes down without its slots, by its own token, unless an operator unlocked it.
    async fn look_for_slot(&self, machine: &Machine) {
        let keys = Keyspace::default();
        let (token, unlocked, state) = {
            let body = machine.body();
            (body.token, body.unlocked, body.state)
        };
        for group in &machine.groups {
            let (place, holder) = (keys.semaphore(group), keys.holder(group, &machine.id));
            let now = self.faults.inner.load(&[place.clone(), holder.clone()]).await.unwrap();
            let semaphore =
                now.get(&place).map(|entry| Semaphore::from_json(&entry.value).unwrap());
            let record =
                now.get(&holder).map(|entry| HolderRecord::from_json(&entry.value).unwrap());
            let holds = semaphore.is_some_and(|semaphore| semaphore.holds(&machine.id));
            // An agent that started anew takes over under a new token, which it may not have yet.
            let starting = state == State::Starting;
            let by_token = record.is_some_and(|record| record.token == token || starting);
            if !(holds && by_token || unlocked) {
                self.break_promise(format!("{} went down without its slot in {group}", machine.id));
            }
        }
    }

    /// Clocks jump now and then; how they go at the end is how they stay.
    async fn derange_clocks(self: Arc<Self>) {
        loop {
            sleep(self.dice.seconds(20)).await;
            let machine = &self.machines[self.dice.below(self.machines.len() as u32) as usize];
            let jump = machine.clock.jump(&self.dice);
            self.trace.say(&machine.id, &format!("clock is wrong by {jump} s"));
        }
    }

    /// Gates close and open now and then.
    async fn close_gates(self: Arc<Self>) {
        loop {
            sleep(self.dice.seconds(20)).await;
            let machine = &self.machines[self.dice.below(self.machines.len() as u32) as usize];
            let open = machine.body().gates_open;
            machine.set_gates(!open);
        }
    }

    async fn operate(self: Arc<Self>) {
        loop {
            sleep(self.dice.seconds(40)).await;
            let machine = &self.machines[self.dice.below(self.machines.len() as u32) as usize];
            // From that machine, by its clock.
            let locks = self.locks(&machine.clock, true);
            let scope = self.scopes().swap_remove(self.dice.below(3) as usize);
            match self.dice.below(4) {
                0 => {
                    let pause = Pause {
                        by: "op".to_owned(),
                        reason: None,
                        since: UnixTime(1),
                        until: None,
                        unknown: Default::default(),
                    };
                    self.trace.say(&machine.id, "pause");
                    let _ = locks.pause(&scope, &pause).await;
                    sleep(self.dice.seconds(20)).await;
                    let _ = locks.resume(&scope).await;
                }
                1 => {
                    let _ = locks
                        .release(&machine.groups, &machine.id, &Release::by_operator("op"))
                        .await;
                }
                2 => {
                    self.trace.say(&machine.id, "wish cancelled");
                    machine.body().wants = false;
                    machine.changed.notify_waiters();
                    sleep(self.dice.seconds(20)).await;
                    if self.dice.below(2) == 0 {
                        machine.body().wants = true;
                        machine.changed.notify_waiters();
                    }
                }
                _ => {}
            }
        }
    }

    async fn is_drained(&self) -> bool {
        let content = self.machines.iter().all(|machine| {
            let body = machine.body();
            !body.wants && !body.down && !body.ordered && body.state == State::Idle
        });
        content && self.what_is_left().await.is_empty()
    }

    /// All but semaphores without holders and the history, and machines that are not content.
    async fn what_is_left(&self) -> String {
        let all = self.faults.inner.list(&Key::new(""), Select::All).await.unwrap();
        let mut left = String::new();
        for (key, entry) in &all.entries {
            if key.as_str().contains("/history/") {
                continue;
            }
            let semaphore = Semaphore::from_json(&entry.value);
            if !semaphore.is_ok_and(|semaphore| semaphore.holders().is_empty()) {
                left.push_str(&format!("{key} = {}; ", String::from_utf8_lossy(&entry.value)));
            }
        }
        if !left.is_empty() {
            left.push_str(&format!(
                "{:?}",
                self.machines.iter().map(|m| m.body().state).collect::<Vec<_>>()
            ));
        }
        left
    }
}
