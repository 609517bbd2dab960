//! The loop around the policy: one action at a time, each answered with one event.

mod before;
mod draining;
mod figures;
mod health;
mod overdue;
mod reboot;
mod release;
mod server;
mod slot;
mod store;
mod telling;
mod tried;
mod users;

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rebootlock::cli::exit;
use rebootlock::config::{DetectorSettings, Strategy};
use rebootlock::host;
use rebootlock::id::{BootId, Group, MachineId, Token};
use rebootlock::record::{Claim, HolderRecord, Presence, UnixTime, Via};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::coordinator::{Coordinator, CoordinatorState};
use crate::detect::{self, Detectors, Latest};
use crate::hooks::Hooks;
use crate::line::{Line, Pace};
use crate::logind::Logind;
use crate::lookout::{Closed, Lookout};
use crate::memento::MementoFile;
use crate::method::{Boot, Method};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::outcome::Outcome;
use crate::pass::Report;
use crate::policy::{Action, Event, START, State, step};
use crate::presence::Shown;
use crate::slots::Slots;
use crate::want::{Want, Wants};
use crate::{presence, requests, update_engine};

pub(crate) use self::health::{configured, failure};
pub(crate) use self::tried::still_required;

/// How often closed windows are compared with the clock, and the kill switch is looked for, while
/// something else is being waited for.
const WINDOW_TICK: Duration = Duration::from_secs(15);

/// How long `--once` waits for update-engine and the store to say whether a reboot is wanted.
pub(crate) const ONCE_PATIENCE: Duration = Duration::from_secs(10);

/// The slots this agent has.
#[derive(Debug, Clone)]
struct Held {
    /// Under which name: at a FleetLock server it is not the machine's own.
    machine: MachineId,
    /// In which groups.
    groups: Vec<Group>,
    /// By which token.
    token: Token,
    /// Since when, if that is known.
    since: Option<UnixTime>,
}

/// How an agent ended.
#[derive(Debug)]
pub struct Ending {
    /// The process's exit code, if it is to end with it: a single pass is over.
    pub code: Option<u8>,
    /// What a single pass found, if it came to an end.
    pub report: Option<Report>,
    /// Handed back, so that the next agent of this process goes on with it.
    pub coordinator: Coordinator,
}

/// One machine's agent.
#[derive(Debug)]
pub struct Agent {
    options: Options,
    slots: Slots,
    machine: MachineId,
    boot: Boot,
    /// All of it in one.
    boot_id: BootId,
    hostname: String,
    coordinator: Coordinator,
    memento: MementoFile,
    wants: Wants,
    /// They end when the agent does.
    sources: Vec<AbortOnDropHandle<()>>,
    /// Where requests are told; nothing for a strategy without a store.
    requests: Option<Arc<watch::Sender<Want>>>,
    /// Whether they are listened to.
    listening: bool,
    /// What the others see of us.
    shown: Arc<watch::Sender<Shown>>,
    /// What speaks against a reboot.
    lookout: Arc<Lookout>,
    /// What the detectors found last.
    detected: Arc<Latest>,
    hooks: Hooks,
    method: Method,
    metrics: Metrics,
    logind: Option<Logind>,
    line: Option<Line>,
    held: Option<Held>,
    /// What was found at the start, to be taken over.
    found: Option<HolderRecord>,
    /// Whether it is known if this machine holds a slot, and none can come late.
    looked: bool,
    /// Until that is tried to be settled with a FleetLock server.
    settle_in: Duration,
    /// How often such a server is troubled.
    pace: Pace,
    /// Whether the last order to reboot was taken.
    ordered: bool,
    /// Since when, on the kernel's clock, the machine should be going down.
    ending_since: Option<Duration>,
    /// When the permit is too old to be used; never for one that nobody gives.
    permit_ends: Option<tokio::time::Instant>,
    /// Whether the next one passes over inhibitors.
    force: bool,
    /// Since when this agent lives.
    began: tokio::time::Instant,
    /// Since when inhibitors have been found in the way of what is wanted, each time it was looked.
    held_up_since: Option<tokio::time::Instant>,
    /// Whether the machine is back from a reboot, and well.
    verified: bool,
    /// Whether the figures of slots, pauses and holds come from the store itself.
    follows_store: bool,
    back_off: BackOff,
    /// Why nothing goes on, as said last: each thing is said once.
    trouble: Option<String>,
    /// Where a single pass says that it has waited for too long.
    gave_up: Option<mpsc::Sender<String>>,
    /// Since when it has been waiting for the same thing.
    stuck_since: Option<tokio::time::Instant>,
    /// Whose slot stays because enough were freed today.
    spent_on: Option<MachineId>,
    /// How the present pass ends, as said last.
    outcome: Option<Closed>,
    /// What a single pass found so far.
    report: Report,
    /// What a single pass shows the others at its end.
    presence: Option<Presence>,
}

/// A single pass is over.
enum PassOver {
    /// With the outcome that was said last.
    Concluded,
    /// Something could not be found out.
    Failed(String),
}

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
        slots: Slots,
        machine: MachineId,
        boot: Boot,
        memento: MementoFile,
        coordinator: Coordinator,
        metrics: Metrics,
    ) -> Self {
        let boot_id = boot.whole_id();
        let settings = &options.settings;
        let mut receivers = Vec::new();
        let mut sources = Vec::new();
        let mut requests = None;
        let off = settings.agent.strategy == Strategy::Off;
        if !off && DetectorSettings::update_engine_is_on(&settings.detectors) {
            let (want, receiver) = watch::channel(Want::Unknown);
            receivers.push(receiver);
            sources.push(AbortOnDropHandle::new(tokio::spawn(update_engine::follow(want))));
        }
        let detectors = Detectors::new(&settings.detectors);
        let (want, receiver) = watch::channel(match off || detectors.is_empty() {
            true => Want::Nothing,
            false => Want::Unknown,
        });
        receivers.push(receiver);
        let detected = Arc::new(Latest::new(detectors, want));
        let (shown, changes) =
            watch::channel(Shown { state: START.0, health: None, blocked: None });
        // A single pass asks them itself, and only after the kill switch and the windows.
        if !off && !detected.is_empty() && !options.run.once {
            let heard = health::counting(metrics.clone(), changes.clone());
            let follow = detect::follow(detected.clone(), settings.agent.check_interval, heard);
            sources.push(AbortOnDropHandle::new(tokio::spawn(follow)));
        }
        let shown = Arc::new(shown);
        let needs_slot =
            matches!(settings.agent.strategy, Strategy::EtcdLock | Strategy::BestEffort);
        let locks = slots.locks().filter(|_| needs_slot).cloned();
        let lookout = Arc::new(Lookout::new(
            settings,
            options.windows.clone(),
            machine.clone(),
            locks.clone(),
            metrics.clone(),
        ));
        lookout.show_windows();
        let mut presence = None;
        // Requests come through the store, and so need a strategy that has one.
        if let Some(locks) = locks {
            let initially = match options.settings.agent.strategy {
                Strategy::BestEffort => Want::Nothing,
                _ => Want::Unknown,
            };
            let (want, receiver) = watch::channel(initially);
            receivers.push(receiver);
            requests = Some(Arc::new(want));
            let groups = options.settings.machine.groups.clone();
            let present = Presence {
                machine_id: machine.to_string(),
                hostname: Some(host::hostname()),
                boot_id: Some(boot_id.clone()),
                groups: options.settings.machine.groups.iter().map(ToString::to_string).collect(),
                state: String::new(),
                state_since: UnixTime::now(),
                health: None,
                blocked: None,
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                unknown: serde_json::Map::new(),
            };
            if options.run.once {
                presence = Some(present);
            } else {
                let (machine, metrics) = (machine.clone(), metrics.clone());
                let keep = presence::keep(locks, machine, groups, present, changes, metrics);
                sources.push(AbortOnDropHandle::new(tokio::spawn(keep)));
            }
        }
        let mut agent = Self {
            memento,
            hostname: host::hostname(),
            wants: Wants::new(receivers),
            sources,
            requests,
            listening: false,
            shown,
            lookout,
            detected,
            hooks: Hooks::new(&options.settings.hooks, metrics.clone()),
            method: Method::new(options.settings.reboot.method.clone()),
            metrics,
            logind: None,
            line: None,
            held: None,
            found: None,
            looked: false,
            settle_in: server::SETTLE_FIRST,
            pace: Pace::new(options.settings.agent.poll),
            ordered: false,
            ending_since: None,
            permit_ends: None,
            force: false,
            began: tokio::time::Instant::now(),
            held_up_since: None,
            verified: false,
            follows_store: false,
            back_off: BackOff::None,
            trouble: None,
            gave_up: None,
            stuck_since: None,
            spent_on: None,
            outcome: None,
            report: Report::default(),
            presence,
            options,
            slots,
            machine,
            boot,
            boot_id,
            coordinator,
        };
        agent.begin_heartbeat();
        agent.begin_figures();
        agent.doubt_earlier_life();
        agent
    }

    /// Runs until `stop`, or to the end of a single pass. What it holds it keeps: a machine that
    /// goes down stops its daemon too.
    pub async fn run(mut self, stop: CancellationToken) -> Ending {
        self.coordinate(CoordinatorState::Starting);
        tracing::info!(
            machine = %self.machine,
            boot = %self.boot_id,
            store = self.slots.location(),
            strategy = self.options.settings.agent.strategy.as_str(),
            dry_run = self.options.run.dry_run,
            "started"
        );
        let (gave_up, mut given_up) = mpsc::channel(1);
        self.gave_up = self.options.run.once.then_some(gave_up);
        let (mut state, mut action) = START;
        self.show_state(state);
        let code = loop {
            if self.pass_is_over(action) {
                break Some(self.code());
            }
            let event = tokio::select! {
                answer = self.act(action) => answer,
                Some(why) = given_up.recv() => Err(PassOver::Failed(why)),
                () = stop.cancelled() => break None,
            };
            let event = match event {
                Ok(event) => event,
                Err(PassOver::Failed(why)) => {
                    tracing::error!(why, "the pass failed");
                    self.outcome = None;
                    self.report.why = why;
                    break Some(exit::FAILED);
                }
                Err(PassOver::Concluded) => break Some(self.code()),
            };
            match step(state, event) {
                Ok((next, then)) => {
                    if next != state {
                        tracing::info!(from = ?state, to = ?next, event = ?event, "transition");
                    }
                    self.prepare(event);
                    (state, action) = (next, then);
                    self.show_state(state);
                    self.tell_slots();
                    self.coordinate(telling::coordinator_state(
                        state,
                        self.options.settings.agent.strategy,
                    ));
                }
                Err(unexpected) => {
                    tracing::error!(%unexpected, "starting over");
                    (state, action) = START;
                    self.show_state(state);
                }
            }
        };
        if self.stop_waiting().await {
            tracing::info!(
                "a slot came at the last moment; it is kept, and found at the next start"
            );
        }
        if state == State::Rebooting {
            let why = "a reboot was ordered and is not confirmed; the slot is kept, and the next start \
                       looks what came of it";
            tracing::warn!("{why}");
            self.say(why);
        }
        if code.is_some() {
            self.show_once().await;
        }
        let report = code.is_some().then(|| self.take_report());
        Ending { code, report, coordinator: self.coordinator }
    }

    /// A single pass shows the others how this machine is, if it asked: until the lease ends.
    async fn show_once(&mut self) {
        let Some(presence) = self.presence.take() else { return };
        let shown = self.shown.borrow().clone();
        if shown.health.is_none() {
            return;
        }
        let Some(locks) = self.slots.locks() else { return };
        let told = presence::once(locks, &self.machine, presence, shown, &self.metrics);
        if let Err(error) = told.await {
            tracing::debug!(%error, "the others are not told how this machine is");
        }
    }

    fn take_report(&mut self) -> Report {
        let mut report = std::mem::take(&mut self.report);
        if let Some(closed) = self.outcome.take() {
            (report.outcome, report.why) = (Some(closed.outcome), closed.why);
        }
        report.dry_run = self.options.run.dry_run;
        report.want = self.wants.now();
        report.slot.groups = self.options.settings.machine.groups.clone();
        report
    }

    async fn act(&mut self, action: Action) -> Result<Event, PassOver> {
        if !matches!(action, Action::LookAtSlot | Action::Verify | Action::Release) {
            self.listen_to_requests();
        }
        Ok(match action {
            Action::LookAtSlot => self.look_at_slot().await,
            Action::AwaitWant => self.await_want().await?,
            Action::AwaitGates => self.await_gates().await?,
            Action::AskForSlot => self.ask_for_slot().await?,
            Action::CheckAgain => self.check_again().await,
            Action::Drain => self.drain().await,
            Action::AskForPermit => self.ask_for_permit().await,
            Action::Reboot => self.reboot().await,
            Action::AwaitEnd => self.await_end().await,
            Action::Verify => self.verify().await?,
            Action::Release => self.release().await,
            Action::BackOff => self.back_off().await,
        })
    }

    /// Only after the request that this boot has fulfilled is gone: it must not be fulfilled twice.
    fn listen_to_requests(&mut self) {
        if let Some(locks) = self.slots.locks()
            && let Some(want) = self.requests.as_ref().filter(|_| !self.listening)
        {
            self.listening = true;
            let follow = requests::follow(locks.clone(), self.machine.clone(), want.clone());
            self.sources.push(AbortOnDropHandle::new(tokio::spawn(follow)));
        }
    }

    /// What an event means for the round after this one.
    fn prepare(&mut self, event: Event) {
        self.back_off = match event {
            Event::Obstructed | Event::SlotLost | Event::SlotOccupied => BackOff::AWhile,
            Event::NotOrdered if self.options.run.dry_run => BackOff::UntilWishesChange,
            Event::NotOrdered => BackOff::AWhile,
            Event::Released => self.back_off,
            _ => BackOff::None,
        };
    }

    /// A single pass ends where the daemon would wait.
    fn pass_is_over(&mut self, action: Action) -> bool {
        if !self.options.run.once {
            return false;
        }
        if action == Action::AskForPermit {
            // Found with the permit of an earlier life: a single pass does not reboot, nor does it
            // take away what was permitted.
            self.conclude(Closed::new(Outcome::Ready, "the reboot is permitted already"));
            return true;
        }
        if action == Action::AwaitEnd {
            let why = "this machine may be going down: a reboot was ordered, a shutdown is under way, or \
                       logind does not say that none is";
            self.conclude(Closed::new(Outcome::HealthBlocked, why));
            return true;
        }
        action == Action::BackOff && self.outcome.is_some()
    }

    /// What a single pass ends with.
    fn code(&self) -> u8 {
        self.outcome.as_ref().map_or(exit::FAILED, |closed| closed.outcome.exit_code())
    }

    fn poll(&self) -> Duration {
        self.options.settings.agent.poll.mul_f64(rand::rng().random_range(1.0..1.2))
    }

    fn check_interval(&self) -> Duration {
        self.options.settings.agent.check_interval.mul_f64(rand::rng().random_range(0.9..1.1))
    }

    /// A claim of its own for every acquisition.
    fn claim(&self, groups: Vec<Group>) -> Claim {
        let (reason, wished) = match self.wants.now() {
            Want::Reboot { reason, priority, .. } => (Some(reason), priority),
            _ => (None, 0),
        };
        let mut claim = Claim::new(self.machine.clone(), groups, Via::Agent);
        claim.hostname = Some(self.hostname.clone());
        claim.boot_id = Some(self.boot_id.clone());
        claim.reason = reason;
        claim.priority = wished.max(self.options.settings.agent.priority);
        claim
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
