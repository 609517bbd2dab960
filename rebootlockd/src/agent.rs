//! The loop around the policy: one action at a time, each answered with one event.

mod health;
mod overdue;
mod reboot;
mod release;
mod server;
mod slot;
mod store;
mod tried;

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rebootlock::cli::exit;
use rebootlock::config::gate::Phase;
use rebootlock::config::{DetectorSettings, Strategy};
use rebootlock::host;
use rebootlock::id::{BootId, Group, MachineId, Token};
use rebootlock::lock::{LockError, Scope};
use rebootlock::notify;
use rebootlock::record::{Blocked, Claim, HolderRecord, Presence, UnixTime, Via};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::coordinator::{Coordinator, CoordinatorState};
use crate::detect::{self, Detectors};
use crate::hooks::Hooks;
use crate::line::{Line, Pace};
use crate::logind::Logind;
use crate::lookout::{Closed, Lookout};
use crate::memento::MementoFile;
use crate::method::Method;
use crate::metrics::{Metrics, Required};
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
    boot_id: BootId,
    hostname: String,
    coordinator: Coordinator,
    memento: MementoFile,
    wants: Wants,
    /// They end when the agent does.
    sources: Vec<AbortOnDropHandle<()>>,
    /// Where requests will be told, until they are listened to.
    requests: Option<watch::Sender<Want>>,
    /// What the others see of us.
    shown: Arc<watch::Sender<Shown>>,
    /// What speaks against a reboot.
    lookout: Arc<Lookout>,
    detectors: Arc<Detectors>,
    /// Where the detectors' wish is told.
    detected: watch::Sender<Want>,
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
    /// Whether the next one passes over inhibitors.
    force: bool,
    /// Whether the machine is back from a reboot, and well.
    verified: bool,
    /// Since when a reboot has been wanted without a break.
    wanted_since: Option<UnixTime>,
    back_off: BackOff,
    /// Why nothing goes on, as said last: each thing is said once.
    trouble: Option<String>,
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
        boot_id: BootId,
        coordinator: Coordinator,
        metrics: Metrics,
    ) -> Self {
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
        let detectors = Arc::new(Detectors::new(&settings.detectors));
        let (detected, receiver) = watch::channel(match off || detectors.is_empty() {
            true => Want::Nothing,
            false => Want::Unknown,
        });
        receivers.push(receiver);
        // A single pass asks them itself, and only after the kill switch and the windows.
        if !off && !detectors.is_empty() && !options.run.once {
            let interval = settings.agent.check_interval;
            let follow = detect::follow(detectors.clone(), interval, detected.clone());
            sources.push(AbortOnDropHandle::new(tokio::spawn(follow)));
        }
        let (shown, changes) =
            watch::channel(Shown { state: START.0, health: None, blocked: None });
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
        let mut presence = None;
        // Requests come through the store, and so need a strategy that has one.
        if let Some(locks) = locks {
            let initially = match options.settings.agent.strategy {
                Strategy::BestEffort => Want::Nothing,
                _ => Want::Unknown,
            };
            let (want, receiver) = watch::channel(initially);
            receivers.push(receiver);
            requests = Some(want);
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
                let keep = presence::keep(locks, machine.clone(), groups, present, changes);
                sources.push(AbortOnDropHandle::new(tokio::spawn(keep)));
            }
        }
        let mut agent = Self {
            memento: MementoFile::new(&options.run.state_dir),
            hostname: host::hostname(),
            wants: Wants::new(receivers),
            sources,
            requests,
            shown,
            lookout,
            detectors,
            detected,
            hooks: Hooks::new(&options.settings.hooks),
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
            force: false,
            verified: false,
            wanted_since: None,
            back_off: BackOff::None,
            trouble: None,
            spent_on: None,
            outcome: None,
            report: Report::default(),
            presence,
            options,
            slots,
            machine,
            boot_id,
            coordinator,
        };
        agent.begin_heartbeat();
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
        let (mut state, mut action) = START;
        let code = loop {
            if self.pass_is_over(action) {
                break Some(self.code());
            }
            let event = tokio::select! {
                answer = self.act(action) => match answer {
                    Ok(event) => event,
                    Err(PassOver::Failed(why)) => {
                        tracing::error!(why, "the pass failed");
                        self.outcome = None;
                        self.report.why = why;
                        break Some(exit::FAILED);
                    }
                    Err(PassOver::Concluded) => break Some(self.code()),
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
                    self.show_state(state);
                    self.coordinate(coordinator_state(state, self.options.settings.agent.strategy));
                }
                Err(unexpected) => {
                    tracing::error!(%unexpected, "starting over");
                    (state, action) = START;
                }
            }
        };
        if self.stop_waiting().await {
            tracing::info!(
                "a slot came at the last moment; it is kept, and found at the next start"
            );
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
        let told = presence::once(locks, &self.machine, presence, shown);
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
            Action::Verify => self.verify().await,
            Action::Release => self.release().await,
            Action::BackOff => self.back_off().await,
        })
    }

    /// Only after the request that this boot has fulfilled is gone: it must not be fulfilled twice.
    fn listen_to_requests(&mut self) {
        if let Some(locks) = self.slots.locks()
            && let Some(want) = self.requests.take()
        {
            let follow = requests::follow(locks.clone(), self.machine.clone(), want);
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
        action == Action::BackOff && self.outcome.is_some()
    }

    /// What a single pass ends with.
    fn code(&self) -> u8 {
        self.outcome.as_ref().map_or(exit::FAILED, |closed| closed.outcome.exit_code())
    }

    /// Says how the present pass ends: in the log when it is news, to the others, and in figures.
    fn conclude(&mut self, closed: Closed) {
        self.metrics.pass_ended(closed.outcome);
        let news = self
            .outcome
            .as_ref()
            .is_none_or(|before| (before.outcome, &before.why) != (closed.outcome, &closed.why));
        let (status, why) = (closed.outcome.as_str(), closed.why.as_str());
        if news {
            let dry_run = self.options.run.dry_run;
            let usual = matches!(
                closed.outcome,
                Outcome::LockUnavailable | Outcome::WindowOutsideAllow | Outcome::CooldownActive
            );
            if usual || closed.outcome.exit_code() == 0 {
                tracing::info!(status, why, dry_run, "pass ended");
            } else {
                tracing::warn!(status, why, dry_run, "pass ended");
            }
        }
        self.metrics.set_still_required(closed.outcome == Outcome::StillRequired);
        self.metrics.set_held(Some(closed.outcome == Outcome::Held));
        let idle = matches!(closed.outcome, Outcome::NoAction | Outcome::Ready);
        let wanted = match self.wants.now() {
            Want::Reboot { reason, .. } => Some(reason),
            _ => None,
        };
        self.shown.send_if_modified(|shown| {
            let before = shown.blocked.as_ref();
            let same = before.is_some_and(|b| b.outcome == status && b.why == why);
            let blocked = (!idle).then(|| Blocked {
                outcome: status.to_owned(),
                why: why.to_owned(),
                since: before.filter(|_| same).map_or_else(UnixTime::now, |b| b.since),
                wanted,
            });
            let changed = blocked != shown.blocked;
            shown.blocked = blocked;
            changed
        });
        self.outcome = Some(closed);
    }

    /// Nothing keeps this machine any more.
    fn go_on(&mut self) {
        self.outcome = None;
        self.tell_pauses(None);
        self.shown.send_if_modified(|shown| shown.blocked.take().is_some());
    }

    /// In figures: what is paused, as far as this agent was stopped by it.
    pub(super) fn tell_pauses(&self, paused: Option<&Scope>) {
        let groups = self.options.settings.machine.groups.iter().cloned().map(Scope::Group);
        let since = |scope: &Scope| (paused == Some(scope)).then(UnixTime::now);
        let all = groups.chain([Scope::Fleet]).map(|scope| {
            let since = since(&scope);
            (scope, since)
        });
        self.metrics.set_pauses(all);
    }

    fn show_state(&self, state: State) {
        self.metrics.set_state(state, UnixTime::now());
        self.shown.send_if_modified(|shown| std::mem::replace(&mut shown.state, state) != state);
    }

    async fn await_want(&mut self) -> Result<Event, PassOver> {
        if self.options.settings.agent.strategy == Strategy::Off {
            self.say("switched off; this machine is never rebooted");
        } else {
            self.say("no reboot is wanted");
        }
        self.clear_trouble();
        // Of an earlier life that ended before it could.
        self.undo_hooks().await;
        let mut failure = "a detector failed".to_owned();
        if self.options.run.once {
            // First what may speak against it, as the detectors need not run then.
            if let Some(closed) = self.lookout.glance(Phase::PreLock) {
                self.conclude(closed);
                return Err(PassOver::Concluded);
            }
            if let Some(failed) = self.ask_detectors(Phase::PreLock).await {
                failure = failed.why;
            }
        }
        let give_up = tokio::time::sleep(ONCE_PATIENCE);
        tokio::pin!(give_up);
        let mut monitor = tokio::time::Instant::now();
        loop {
            match self.wants.now() {
                Want::Reboot { reason, .. } => {
                    tracing::info!(reason, "a reboot is wanted");
                    let since = *self.wanted_since.get_or_insert_with(UnixTime::now);
                    self.metrics.set_required(Required::Since(since));
                    return Ok(Event::Wanted);
                }
                Want::Nothing => {
                    self.wanted_since = None;
                    self.metrics.set_required(Required::No);
                    self.forget_tried();
                    if self.options.run.once || tokio::time::Instant::now() >= monitor {
                        self.monitor().await;
                        monitor = tokio::time::Instant::now() + self.check_interval();
                    }
                    if self.options.run.once {
                        return Err(PassOver::Concluded);
                    }
                }
                Want::Unknown => {
                    self.metrics.set_required(Required::Unknown);
                    if self.options.run.once && *self.detected.borrow() == Want::Unknown {
                        return Err(PassOver::Failed(failure));
                    }
                }
            }
            let look_again = self.look_again_after();
            let monitored = self.lookout.has_gates(Phase::Monitor);
            tokio::select! {
                () = self.wants.changed() => {}
                () = tokio::time::sleep_until(monitor), if monitored => {}
                // The store was away, or an answer was lost: a slot may wait to be freed.
                () = tokio::time::sleep(look_again), if !self.looked => {
                    if let Some(found) = self.look_again().await {
                        return Ok(found);
                    }
                }
                () = &mut give_up, if self.options.run.once => {
                    let why = "whether a reboot is wanted is not known: update-engine or the \
                               store does not answer";
                    return Err(PassOver::Failed(why.to_owned()));
                }
            }
        }
    }

    /// Until windows and gates are open.
    async fn await_gates(&mut self) -> Result<Event, PassOver> {
        loop {
            if self.wants.now() == Want::Nothing {
                self.go_on();
                return Ok(Event::Unwanted);
            }
            let closed = match (self.still_required(), self.method.check().await) {
                (Some(closed), _) => Some(closed),
                (None, Err(error)) => Some(Closed::new(Outcome::HealthBlocked, error.to_string())),
                (None, Ok(())) => self.look(Phase::PreLock).await,
            };
            let Some(closed) = closed else {
                self.go_on();
                return Ok(Event::GatesOpen);
            };
            let sentence = format!("a reboot is wanted; {}", closed.why);
            let until = closed.until;
            let left = until.map(|at| at.duration_since(jiff::Timestamp::now()).unsigned_abs());
            let pause = match closed.outcome {
                // Not for long at a time: clocks are set, and machines sleep.
                Outcome::WindowDenied | Outcome::WindowOutsideAllow | Outcome::KillSwitchActive => {
                    left.unwrap_or(WINDOW_TICK).min(WINDOW_TICK).min(self.check_interval())
                }
                _ => self.check_interval(),
            };
            self.conclude(closed);
            self.say(&sentence);
            if self.options.run.once {
                return Err(PassOver::Concluded);
            }
            let look_again = self.look_again_after();
            tokio::select! {
                () = tokio::time::sleep(pause.max(Duration::from_millis(10))) => {}
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
        // A slot that was taken away is not given back, but what was drained is needed again.
        self.undo_hooks().await;
        match self.back_off {
            BackOff::None => {}
            BackOff::AWhile => tokio::time::sleep(self.poll()).await,
            BackOff::UntilWishesChange => {
                // A source that only now says that it wants nothing changes nothing.
                let before = self.wants.now();
                while self.wants.now() == before {
                    self.wants.changed().await;
                }
            }
        }
        Event::PauseOver
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
        self.complain(doing, error.to_string());
        let longest = if error.is_transient() { 750 } else { 5000 };
        let pause = rand::rng().random_range(longest / 3..=longest);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    fn complain(&mut self, doing: &str, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!(error = why, "{doing}");
            self.say(&format!("{doing}: {why}"));
            self.trouble = Some(why);
        }
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
