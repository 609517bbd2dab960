//! The loop around the policy: one action at a time, each answered with one event.

mod reboot;
mod release;
mod slot;

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rebootlock::cli::exit;
use rebootlock::config::Strategy;
use rebootlock::host;
use rebootlock::id::{BootId, Group, MachineId, Token};
use rebootlock::lock::{LockError, LockManager};
use rebootlock::record::{Claim, HolderRecord, Presence, UnixTime, Via};
use rebootlock::wait::Waiting;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::coordinator::{Coordinator, CoordinatorState};
use crate::logind::Logind;
use crate::memento::MementoFile;
use crate::options::Options;
use crate::policy::{Action, Event, START, State, step};
use crate::want::{Want, Wants};
use crate::{notify, presence, requests, update_engine};

/// How often a closed window is compared with the clock while something else is being waited for.
const WINDOW_TICK: Duration = Duration::from_secs(15);

/// How long `--once` waits for update-engine and the store to say whether a reboot is wanted.
const ONCE_PATIENCE: Duration = Duration::from_secs(10);

/// The slots this agent has, in which groups and by which token.
#[derive(Debug, Clone)]
struct Held {
    groups: Vec<Group>,
    token: Token,
}

/// How an agent ended.
#[derive(Debug)]
pub struct Ending {
    /// The process's exit code, if it is to end with it: a single pass is over.
    pub code: Option<u8>,
    /// Handed back, so that the next agent of this process goes on with it.
    pub coordinator: Coordinator,
}

/// One machine's agent.
#[derive(Debug)]
pub struct Agent {
    options: Options,
    locks: Arc<LockManager>,
    machine: MachineId,
    boot_id: BootId,
    hostname: String,
    coordinator: Coordinator,
    memento: MementoFile,
    wants: Wants,
    /// They end when the agent does.
    sources: Vec<AbortOnDropHandle<()>>,
    /// Where requests will be told, until they are listened to.
    requests: Option<watch::Sender<Want>>,
    /// What the others see of us, where there is a store to show it.
    presence: Option<watch::Sender<State>>,
    logind: Option<Logind>,
    waiting: Option<Waiting>,
    held: Option<Held>,
    /// What was found at the start, to be taken over.
    found: Option<HolderRecord>,
    /// Whether the store has ever told if this machine holds a slot.
    looked: bool,
    /// Whether the last order to reboot was taken.
    ordered: bool,
    back_off: BackOff,
    /// Why nothing goes on, as said last: each thing is said once.
    trouble: Option<String>,
    /// What a single pass ends with.
    code: u8,
}

/// A single pass is over, and the process ends with this code.
struct PassOver(u8);

/// Before the agent starts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BackOff {
    None,
    AWhile,
    UntilWishesChange,
}

impl Agent {
    /// An agent for `machine`. Call it inside the runtime.
    pub fn new(
        options: Options,
        locks: Arc<LockManager>,
        machine: MachineId,
        boot_id: BootId,
        coordinator: Coordinator,
    ) -> Self {
        let mut receivers = Vec::new();
        let mut sources = Vec::new();
        let mut requests = None;
        let mut presence = None;
        if options.settings.agent.strategy != Strategy::Off {
            let (want, receiver) = watch::channel(Want::Unknown);
            receivers.push(receiver);
            sources.push(AbortOnDropHandle::new(tokio::spawn(update_engine::follow(want))));
        }
        // Requests come through the store, and so need a strategy that has one.
        if matches!(options.settings.agent.strategy, Strategy::EtcdLock | Strategy::BestEffort) {
            let initially = match options.settings.agent.strategy {
                Strategy::BestEffort => Want::Nothing,
                _ => Want::Unknown,
            };
            let (want, receiver) = watch::channel(initially);
            receivers.push(receiver);
            requests = Some(want);
            let (state, changes) = watch::channel(START.0);
            let present = Presence {
                machine_id: machine.to_string(),
                hostname: Some(host::hostname()),
                boot_id: Some(boot_id.clone()),
                groups: options.settings.machine.groups.iter().map(ToString::to_string).collect(),
                state: String::new(),
                state_since: UnixTime::now(),
                health: None,
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                unknown: serde_json::Map::new(),
            };
            let keep = presence::keep(locks.clone(), machine.clone(), present, changes);
            sources.push(AbortOnDropHandle::new(tokio::spawn(keep)));
            presence = Some(state);
        }
        Self {
            memento: MementoFile::new(&options.run.state_dir),
            hostname: host::hostname(),
            wants: Wants::new(receivers),
            sources,
            requests,
            presence,
            logind: None,
            waiting: None,
            held: None,
            found: None,
            looked: false,
            ordered: false,
            back_off: BackOff::None,
            trouble: None,
            code: 0,
            options,
            locks,
            machine,
            boot_id,
            coordinator,
        }
    }

    /// Runs until `stop`, or to the end of a single pass. What it holds it keeps: a machine that
    /// goes down stops its daemon too.
    pub async fn run(mut self, stop: CancellationToken) -> Ending {
        self.coordinate(CoordinatorState::Starting);
        tracing::info!(
            machine = %self.machine,
            boot = %self.boot_id,
            store = self.locks.store().location(),
            strategy = self.options.settings.agent.strategy.as_str(),
            dry_run = self.options.run.dry_run,
            "started"
        );
        let (mut state, mut action) = START;
        let code = loop {
            if let Some(code) = self.pass_is_over(action) {
                break Some(code);
            }
            let event = tokio::select! {
                answer = self.act(action) => match answer {
                    Ok(event) => event,
                    Err(PassOver(code)) => break Some(code),
                },
                () = stop.cancelled() => break None,
            };
            match step(state, event) {
                Ok((next, then)) => {
                    if next != state {
                        tracing::info!(from = ?state, to = ?next, event = ?event, "transition");
                    }
                    self.prepare(event);
                    (state, action) = (next, then);
                    if let Some(presence) = &self.presence {
                        presence.send_if_modified(|now| std::mem::replace(now, state) != state);
                    }
                    self.coordinate(coordinator_state(state, self.options.settings.agent.strategy));
                }
                Err(unexpected) => {
                    tracing::error!(%unexpected, "starting over");
                    (state, action) = START;
                }
            }
        };
        if let Some(mut waiting) = self.waiting.take()
            && waiting.leave().await.is_some()
        {
            tracing::info!(
                "a slot came at the last moment; it is kept, and found at the next start"
            );
        }
        Ending { code, coordinator: self.coordinator }
    }

    async fn act(&mut self, action: Action) -> Result<Event, PassOver> {
        if !matches!(action, Action::LookAtSlot | Action::Verify | Action::Release) {
            self.listen_to_requests();
        }
        Ok(match action {
            Action::LookAtSlot => self.look_at_slot().await,
            Action::AwaitWant => self.await_want().await?,
            Action::AwaitGates => self.await_window().await?,
            Action::AskForSlot => self.ask_for_slot().await?,
            Action::CheckAgain => self.check_again().await,
            Action::Drain => self.tell_users().await,
            Action::AskForPermit => self.ask_for_permit().await,
            Action::Reboot => self.reboot().await,
            Action::AwaitEnd => self.await_end().await,
            Action::Verify => self.verify().await,
            Action::Release => self.release().await,
            Action::BackOff => self.back_off().await,
        })
    }

    /// Only after the request that this boot has fulfilled is gone: it must not be fulfilled twice.
    fn listen_to_requests(&mut self) {
        if let Some(want) = self.requests.take() {
            let follow = requests::follow(self.locks.clone(), self.machine.clone(), want);
            self.sources.push(AbortOnDropHandle::new(tokio::spawn(follow)));
        }
    }

    /// What an event means for the round after this one.
    fn prepare(&mut self, event: Event) {
        self.back_off = match event {
            Event::Obstructed | Event::SlotLost | Event::SlotOccupied => BackOff::AWhile,
            Event::NotOrdered => BackOff::UntilWishesChange,
            Event::Released => self.back_off,
            _ => BackOff::None,
        };
        self.code = match event {
            Event::Obstructed | Event::GatesClosed => exit::GATE_CLOSED,
            Event::Paused => exit::PAUSED,
            Event::SlotLost | Event::SlotOccupied => exit::NO_SLOT,
            Event::Released => self.code,
            _ => 0,
        };
    }

    /// A single pass ends where the daemon would wait.
    fn pass_is_over(&self, action: Action) -> Option<u8> {
        if !self.options.run.once {
            return None;
        }
        match action {
            Action::AwaitEnd => Some(if self.ordered { 0 } else { exit::FAILED }),
            Action::BackOff if self.code != 0 || self.back_off == BackOff::UntilWishesChange => {
                Some(self.code)
            }
            _ => None,
        }
    }

    async fn await_want(&mut self) -> Result<Event, PassOver> {
        if self.options.settings.agent.strategy == Strategy::Off {
            self.say("switched off; this machine is never rebooted");
        } else {
            self.say("no reboot is wanted");
        }
        self.clear_trouble();
        let give_up = tokio::time::sleep(ONCE_PATIENCE);
        tokio::pin!(give_up);
        loop {
            match self.wants.now() {
                Want::Reboot { reason, .. } => {
                    tracing::info!(reason, "a reboot is wanted");
                    return Ok(Event::Wanted);
                }
                Want::Nothing if self.options.run.once => return Err(PassOver(0)),
                _ => {}
            }
            let look_again = self.look_again_after();
            tokio::select! {
                () = self.wants.changed() => {}
                // The store was away, or an answer was lost: a slot may wait to be freed.
                () = tokio::time::sleep(look_again), if !self.looked => {
                    if let Some(found) = self.look_again().await {
                        return Ok(found);
                    }
                }
                () = &mut give_up, if self.options.run.once => return Err(PassOver(exit::FAILED)),
            }
        }
    }

    async fn await_window(&mut self) -> Result<Event, PassOver> {
        loop {
            if self.wants.now() == Want::Nothing {
                return Ok(Event::Unwanted);
            }
            let now = jiff::Timestamp::now();
            let verdict = self.options.windows.judge(now, &self.machine);
            if verdict.is_open() {
                return Ok(Event::GatesOpen);
            }
            if self.options.run.once {
                return Err(PassOver(exit::GATE_CLOSED));
            }
            let why = verdict.sentence(&jiff::tz::TimeZone::system());
            self.say(&format!("a reboot is wanted; {why}"));
            let starts = self.options.windows.next_start(now, &self.machine);
            let left = starts.map_or(WINDOW_TICK, |at| now.duration_until(at).unsigned_abs());
            let look_again = self.look_again_after();
            // Not for long at a time: clocks are set, and machines sleep.
            tokio::select! {
                () = tokio::time::sleep(left.min(WINDOW_TICK)) => {}
                () = self.wants.changed() => {}
                () = tokio::time::sleep(look_again), if !self.looked => {
                    if let Some(found) = self.look_again().await {
                        return Ok(found);
                    }
                }
            }
        }
    }

    async fn back_off(&mut self) -> Event {
        match self.back_off {
            BackOff::None => {}
            BackOff::AWhile => tokio::time::sleep(self.poll()).await,
            BackOff::UntilWishesChange => self.wants.changed().await,
        }
        Event::PauseOver
    }

    fn poll(&self) -> Duration {
        self.options.settings.agent.poll.mul_f64(rand::rng().random_range(1.0..1.2))
    }

    fn window_is_open(&self) -> bool {
        self.options.windows.judge(jiff::Timestamp::now(), &self.machine).is_open()
    }

    /// A claim of its own for every acquisition.
    fn claim(&self, groups: Vec<Group>) -> Claim {
        let (reason, wished) = match self.wants.now() {
            Want::Reboot { reason, priority } => (Some(reason), priority),
            _ => (None, 0),
        };
        let mut claim = Claim::new(self.machine.clone(), groups, Via::Agent);
        claim.hostname = Some(self.hostname.clone());
        claim.boot_id = Some(self.boot_id.clone());
        claim.reason = reason;
        claim.priority = wished.max(self.options.settings.agent.priority);
        claim
    }

    /// Says what the agent is doing, in `systemctl status`.
    fn say(&self, sentence: &str) {
        tracing::debug!(sentence, "status");
        notify::status(sentence);
    }

    /// Says why nothing goes on, in the log only when it is news, and waits before the next try:
    /// less than a second where time may cure it, so that a store's return is noticed at once.
    async fn stuck(&mut self, doing: &str, error: &LockError) {
        let why = error.to_string();
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!(error = why, "{doing}");
            self.say(&format!("{doing}: {why}"));
            self.trouble = Some(why);
        }
        let longest = if error.is_transient() { 750 } else { 5000 };
        let pause = rand::rng().random_range(longest / 3..=longest);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    fn clear_trouble(&mut self) {
        self.trouble = None;
    }

    fn coordinate(&mut self, state: CoordinatorState) {
        if let Err(error) = self.coordinator.set(state) {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "update-engine's tools are not told"
            );
        }
    }

    async fn logind(&mut self) -> zbus::Result<Logind> {
        match &self.logind {
            Some(logind) => Ok(logind.clone()),
            None => {
                let logind = Logind::connect().await?;
                self.logind = Some(logind.clone());
                Ok(logind)
            }
        }
    }
}

fn coordinator_state(state: State, strategy: Strategy) -> CoordinatorState {
    match state {
        State::Starting => CoordinatorState::Starting,
        _ if strategy == Strategy::Off => CoordinatorState::Disabled,
        State::Idle | State::Verifying => CoordinatorState::Running,
        State::Rebooting => CoordinatorState::Rebooting,
        _ => CoordinatorState::RebootPlanned,
    }
}
