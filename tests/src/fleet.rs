//! Machines with their agents on one store, and the questions a test asks of them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rebootlock::config::StoreSettings;
use rebootlock::id::{Group, MachineId};
use rebootlock::keys::Keyspace;
use rebootlock::lock::{Acquired, LockManager, Release, Released, Scope};
use rebootlock::record::{Claim, HolderRecord, HolderState, Pause, UnixTime, Via};
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{Event, Key, Revision, Span, Txn, Watch, open};
use tokio::process::Command;

use crate::machine::Machine;
use crate::process::Process;
use crate::{binaries, eventually};

/// Longest time until something that must happen has happened, on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// One machine and how its agent is started.
#[derive(Debug)]
pub struct Member {
    /// The machine.
    pub machine: Machine,
    /// Its agent, while it runs.
    pub agent: Option<Process>,
    endpoints: String,
    config: PathBuf,
}

impl Member {
    /// A machine whose agent, once started, uses the store at `endpoints` and this configuration.
    pub async fn new(id: &str, endpoints: &[String], config: &str) -> Result<Self> {
        let machine = Machine::new(id).await?;
        let path = machine.dir().join("rebootlock.toml");
        std::fs::write(&path, config).context("cannot write the configuration")?;
        Ok(Self { machine, agent: None, endpoints: endpoints.join(","), config: path })
    }

    /// The command that starts the agent, for a test to add flags and variables to.
    pub fn command(&self) -> Result<Command> {
        let mut command = self.machine.daemon_command(&binaries::path("rebootlockd")?);
        command.arg("--config").arg(&self.config);
        if !self.endpoints.is_empty() {
            command.arg("--endpoint").arg(&self.endpoints);
        }
        Ok(command)
    }

    /// Starts the agent.
    pub async fn start(&mut self) -> Result<()> {
        let command = self.command()?;
        self.start_with(command).await
    }

    /// Starts the agent by this command, and waits until it has said something.
    pub async fn start_with(&mut self, command: Command) -> Result<()> {
        let mut process = Process::spawn(self.machine.id(), command)?;
        let started = process.stderr().clone();
        tokio::select! {
            line = started.wait_for(SOON, |line| line.contains("started")) => {
                line.context("the agent does not start")?;
            }
            status = process.wait_exit(SOON) => {
                let said = process.stderr().lines().join("\n");
                bail!("the agent ended at once, {}: {said}", status?);
            }
        }
        self.agent = Some(process);
        Ok(())
    }

    /// Changes what the agent reads when it starts next, or at its next SIGHUP.
    pub fn configure(&self, config: &str) -> Result<()> {
        std::fs::write(&self.config, config).context("cannot write the configuration")
    }

    /// Kills the agent as a power cut would, and starts it again in the same boot.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        self.start().await
    }

    /// The running agent.
    pub fn agent(&mut self) -> Result<&mut Process> {
        self.agent.as_mut().context("the agent was not started")
    }

    /// Kills the agent as a power cut would.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().await?;
        }
        Ok(())
    }

    /// The machine goes down, as it was ordered, and comes up again with its agent.
    pub async fn go_down_and_come_back(&mut self) -> Result<()> {
        self.kill().await?;
        self.machine.new_boot().await?;
        self.start().await
    }

    /// Reboots as ordered and gives its slot back: the second half of every good story.
    pub async fn reboot_and_give_back(&mut self) -> Result<()> {
        self.machine.logind.wait_reboot(SOON).await?;
        self.come_back_and_give_back().await
    }

    /// The same once the reboot was ordered.
    pub async fn come_back_and_give_back(&mut self) -> Result<()> {
        self.go_down_and_come_back().await?;
        self.wait_log("slot given back").await.map(drop)
    }

    /// Waits until the agent logs `text`.
    pub async fn wait_log(&mut self, text: &str) -> Result<String> {
        self.agent()?.wait_line(text, SOON).await
    }

    /// How many lines with `text` the running agent has logged.
    pub fn count_log(&mut self, text: &str) -> Result<usize> {
        let lines = self.agent()?.stderr().lines();
        Ok(lines.iter().filter(|line| line.contains(text)).count())
    }

    /// Waits until `systemctl status` would show a sentence with `text`.
    pub async fn wait_status(&self, text: &str) -> Result<String> {
        eventually(&format!("the status says {text:?}"), SOON, async || {
            let status = self.machine.notify.status().unwrap_or_default();
            if status.contains(text) { Ok(status) } else { Err(status) }
        })
        .await
    }
}

/// Runs `rebootlockctl` with these words, as an operator would.
///
/// # Errors
/// If it cannot be started.
pub async fn ctl(endpoints: &[String], words: &[&str]) -> Result<std::process::Output> {
    let mut command = Command::new(binaries::path("rebootlockctl")?);
    command.arg("--endpoint").arg(endpoints.join(",")).args(words);
    command.env_remove("LOCKSMITHCTL_ENDPOINT").env("REBOOTLOCK_CONFIG", "/dev/null");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command.output().await.context("cannot run rebootlockctl")
}

/// The store as an onlooker sees it.
#[derive(Debug, Clone)]
pub struct Onlooker {
    /// Reads and changes what a test wants to read and change.
    pub locks: LockManager,
}

impl Onlooker {
    /// Looks at the store at `endpoints`.
    pub fn new(endpoints: &[String]) -> Result<Self> {
        let endpoints = endpoints.iter().map(|e| e.parse()).collect::<Result<Vec<_>, _>>()?;
        let settings = StoreSettings {
            endpoints,
            ca_file: None,
            cert_file: None,
            key_file: None,
            username: None,
            password: None,
            password_file: None,
            token_file: None,
            access: Default::default(),
            keys: Keyspace::default(),
            timeout: Duration::from_secs(5),
        };
        Ok(Self { locks: LockManager::new(open(&settings)?, Keyspace::default()) })
    }

    /// The holder record of `machine` in the default group, if it holds.
    pub async fn record(&self, machine: &str) -> Result<Option<HolderRecord>> {
        let held = self.locks.holding(&[Group::default()], &MachineId::new(machine)?).await?;
        Ok(held.into_values().flatten().next())
    }

    /// Waits until `machine` holds a slot in this state.
    pub async fn wait_state(&self, machine: &str, state: &HolderState) -> Result<HolderRecord> {
        eventually(&format!("{machine} is {state}"), SOON, async || {
            let record = self.record(machine).await?.context("it holds no slot")?;
            ensure!(record.state.as_ref() == Some(state), "it is {:?}", record.state);
            Ok::<_, anyhow::Error>(record)
        })
        .await
    }

    /// Waits until nobody holds a slot in the default group, and no record is left.
    pub async fn wait_free(&self) -> Result<()> {
        eventually("all slots are free", SOON, async || {
            let status = self.locks.status(&Group::default()).await?;
            ensure!(status.holders.is_empty(), "held by {:?}", status.holders);
            let repairs = self.locks.repairs(&Group::default()).await?;
            ensure!(repairs.is_empty(), "left over: {repairs:?}");
            Ok::<_, anyhow::Error>(())
        })
        .await
    }

    /// Waits until so many machines wait in the default group.
    pub async fn wait_queue(&self, count: usize) -> Result<()> {
        eventually(&format!("{count} wait"), SOON, async || {
            let waiting = self.locks.status(&Group::default()).await?.queue.len();
            ensure!(waiting == count, "{waiting} wait");
            Ok::<_, anyhow::Error>(())
        })
        .await
    }

    /// Writes the semaphore's document down as it is, whatever it is.
    pub async fn put_semaphore(&self, text: &str) -> Result<()> {
        self.put(self.locks.keys().semaphore(&Group::default()), text).await
    }

    /// The semaphore's document as it is.
    pub async fn semaphore_text(&self) -> Result<String> {
        let key = self.locks.keys().semaphore(&Group::default());
        self.get(&key).await?.context("there is no semaphore")
    }

    /// Takes a slot for `machine`, as an operator would from another computer.
    pub async fn lock(&self, machine: &str) -> Result<Acquired> {
        let claim = Claim::new(MachineId::new(machine)?, [Group::default()], Via::Ctl);
        Ok(self.locks.acquire(&claim).await?)
    }

    /// Frees the slot of `machine`, as an operator would.
    pub async fn unlock(&self, machine: &str) -> Result<()> {
        let (groups, machine) = ([Group::default()], MachineId::new(machine)?);
        let released = self.locks.release(&groups, &machine, &Release::by_operator("op")).await?;
        ensure!(matches!(released, Released::Freed(_)), "{machine} held no slot");
        Ok(())
    }

    /// Pauses the whole fleet.
    pub async fn pause(&self, by: &str, reason: &str) -> Result<()> {
        let (since, unknown) = (UnixTime::now(), Default::default());
        let pause = Pause {
            by: by.to_owned(),
            reason: Some(reason.to_owned()),
            since,
            until: None,
            unknown,
        };
        self.locks.pause(&Scope::Fleet, &pause).await?;
        Ok(())
    }

    /// Ends that pause.
    pub async fn resume(&self) -> Result<()> {
        self.locks.resume(&Scope::Fleet).await?;
        Ok(())
    }

    /// Writes any document of the store down as it is, whatever it is.
    pub async fn put(&self, key: Key, text: &str) -> Result<()> {
        self.locks.store().commit(&Txn::new().put(key, text.into())).await?;
        Ok(())
    }

    /// Takes any document of the store away.
    pub async fn remove(&self, key: &Key) -> Result<()> {
        self.locks.store().commit(&Txn::new().delete(key.clone())).await?;
        Ok(())
    }

    /// Any document of the store as it is.
    pub async fn get(&self, key: &Key) -> Result<Option<String>> {
        let now = self.locks.store().load(std::slice::from_ref(key)).await?;
        Ok(now.get(key).map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
    }

    /// Begins to record every revision of the semaphore from the first on.
    pub fn record_revisions(&self) -> Revisions {
        let key = self.locks.keys().semaphore(&Group::default());
        Revisions { changes: self.locks.store().watch(&Span::Below(key.clone()), Revision(0)) }
    }
}

/// Every revision of the default group's semaphore, out of the store's own history.
#[derive(Debug)]
pub struct Revisions {
    changes: Watch,
}

impl Revisions {
    /// Reads up to the moment when the semaphore is wholly free and so many acquisitions were seen;
    /// fails if at any revision there were more holders than `max`. Gives the holders in the
    /// order in which they came.
    pub async fn replay(&mut self, max: u32, acquisitions: usize) -> Result<Vec<String>> {
        self.read(max, |_, holders, order| holders == 0 && order >= acquisitions).await
    }

    /// The same up to this moment: all there was, and not only what was expected.
    pub async fn replay_all(&mut self, max: u32, look: &Onlooker) -> Result<Vec<String>> {
        let key = look.locks.keys().semaphore(&Group::default());
        let now = look.locks.store().load(std::slice::from_ref(&key)).await?;
        let Some(last) = now.get(&key).map(|entry| entry.modified) else { return Ok(Vec::new()) };
        self.read(max, |revision, _, _| revision >= last).await
    }

    async fn read(
        &mut self,
        max: u32,
        done: impl Fn(Revision, usize, usize) -> bool,
    ) -> Result<Vec<String>> {
        let mut before: Vec<String> = Vec::new();
        let mut order = Vec::new();
        loop {
            let next = tokio::time::timeout(SOON, self.changes.next()).await;
            let event = next.with_context(|| format!("seen only {order:?}"))?;
            match event.context("the watch ended")? {
                Event::Changed { entry: Some(entry), revision, .. } => {
                    let semaphore = Semaphore::from_json(&entry.value)?;
                    let now: Vec<_> = semaphore.holders().iter().map(ToString::to_string).collect();
                    let limit = usize::try_from(max)?;
                    ensure!(now.len() <= limit, "{now:?} hold at revision {revision}");
                    order.extend(now.iter().filter(|id| !before.contains(id)).cloned());
                    before = now;
                    if done(revision, before.len(), order.len()) {
                        return Ok(order);
                    }
                }
                Event::Lost { revision } => bail!("history lost at {revision}"),
                _ => {}
            }
        }
    }
}
