//! A simulated machine: an agent that dies, and what goes down and comes back around it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rebootlock::id::{BootId, Group, MachineId, Token};
use rebootlock::lock::{Acquired, Advance, Ended, LockError, LockManager, Release, Released};
use rebootlock::record::{Claim, HolderRecord, HolderState, UnixTime, Via};
use rebootlock::wait::{Progress, WaitOptions, Waiting};
use rebootlockd::policy::{Action, Event, START, State, step};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::clock::WallClock;
use super::{Dice, Trace};

/// As in the agent: a permit older than this is asked for again.
const PERMIT_IS_FRESH: Duration = Duration::from_secs(5);

/// How often a content agent that may have a slot of its own coming looks for it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How long a machine may take to go down before its agent orders it again.
const REBOOT_DEADLINE: Duration = Duration::from_secs(60);

/// What outlives the agent's process.
#[derive(Debug)]
pub struct Body {
    /// The boot it is in.
    pub boot: u64,
    /// Whether a reboot is wanted.
    pub wants: bool,
    /// Whether its windows and gates allow one now.
    pub gates_open: bool,
    /// Whether the reboot was ordered, and is under way.
    pub ordered: bool,
    /// Whether it is down by its agent's order.
    pub down: bool,
    /// How often it went down by its agent's order.
    pub reboots: u32,
    /// The token its agent holds or claims by; on disk, as the agent keeps it.
    pub token: Option<Token>,
    /// Whether an operator has freed its slot since the agent got it: the exception.
    pub unlocked: bool,
    /// Where its agent is.
    pub state: State,
}

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    /// Its groups.
    pub groups: Vec<Group>,
    /// Its place among those who wait: higher goes first.
    pub priority: u32,
    /// What it takes for the time.
    pub clock: WallClock,
    body: Mutex<Body>,
    /// Something about the body has changed.
    pub changed: Notify,
    dice: Dice,
    trace: Trace,
}

impl Machine {
    /// One that wants to be rebooted.
    pub fn new(
        id: MachineId,
        groups: Vec<Group>,
        priority: u32,
        dice: Dice,
        trace: Trace,
    ) -> Arc<Self> {
        let body = Mutex::new(Body {
            boot: 1,
            wants: true,
            gates_open: true,
            ordered: false,
            down: false,
            reboots: 0,
            token: None,
            unlocked: false,
            state: State::Starting,
        });
        let clock = WallClock::new(&dice);
        Arc::new(Self { id, groups, priority, clock, body, changed: Notify::new(), dice, trace })
    }

    /// What outlives the agent.
    pub fn body(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn boot_id(&self) -> Option<BootId> {
        BootId::new(&Uuid::from_u128(u128::from(self.body().boot)).to_string()).ok()
    }

    fn claim(&self, groups: Vec<Group>) -> Claim {
        let mut claim = Claim::new(self.id.clone(), groups, Via::Agent);
        claim.token = Token::from(Uuid::from_u128(u128::from(self.dice.any())));
        claim.boot_id = self.boot_id();
        claim.priority = self.priority;
        self.body().token = Some(claim.token);
        claim
    }

    /// Opens or closes what has to be open for a reboot.
    pub fn set_gates(&self, open: bool) {
        let before = std::mem::replace(&mut self.body().gates_open, open);
        if before != open {
            self.trace.say(&self.id, if open { "gates open" } else { "gates close" });
            self.changed.notify_waiters();
        }
    }

    /// Goes down, if that is still ordered.
    pub fn go_down(&self) {
        let mut body = self.body();
        (body.down, body.ordered) = (true, false);
        body.reboots += 1;
        drop(body);
        self.trace.say(&self.id, "down");
    }

    /// Is back in a new boot.
    pub fn boot(&self, wants: bool) {
        let mut body = self.body();
        body.boot += 1;
        (body.down, body.ordered, body.wants) = (false, false, wants);
        body.state = State::Starting;
        drop(body);
        self.trace.say(&self.id, "up");
    }
}

/// One life of an agent: the loop of `rebootlockd::agent` around the same policy, with a machine
/// that is simulated where the agent asks logind.
pub struct Agent {
    machine: Arc<Machine>,
    locks: LockManager,
    /// The groups it holds in.
    held: Vec<Group>,
    /// Whether no slot of its own can come late.
    looked: bool,
}

impl Agent {
    /// A new process.
    pub fn new(machine: Arc<Machine>, locks: LockManager) -> Self {
        Self { machine, locks, held: Vec::new(), looked: true }
    }

    /// Until it is aborted.
    pub async fn run(mut self) {
        let (mut state, mut action) = START;
        self.machine.body().state = state;
        // A claim that an earlier life made may still be under way.
        self.looked = self.machine.body().token.is_none();
        loop {
            let event = self.act(action).await;
            self.machine.trace.say(&self.machine.id, &format!("{event:?}"));
            (state, action) = match step(state, event) {
                Ok(next) => next,
                Err(unexpected) => panic!("{unexpected}"),
            };
            self.machine.body().state = state;
        }
    }

    async fn act(&mut self, action: Action) -> Event {
        match action {
            Action::LookAtSlot => self.look_at_slot().await,
            Action::AwaitWant => self.await_want().await,
            Action::AwaitGates => self.await_gates().await,
            Action::AskForSlot => self.ask_for_slot().await,
            Action::CheckAgain => {
                self.pause(500).await;
                self.stands_in_the_way().unwrap_or(Event::Clear)
            }
            Action::Drain => self.tell_users().await,
            Action::AskForPermit => self.ask_for_permit().await,
            Action::Reboot => {
                self.machine.body().ordered = true;
                self.machine.changed.notify_waiters();
                Event::Ordered
            }
            Action::AwaitEnd => loop {
                sleep(REBOOT_DEADLINE).await;
                let body = self.machine.body();
                if !body.ordered {
                    break if body.wants { Event::StillUp } else { Event::StillUpUnwanted };
                }
            },
            Action::Verify => {
                self.pause(2000).await;
                Event::Well
            }
            Action::Release => self.release().await,
            Action::BackOff => {
                self.pause(5000).await;
                Event::PauseOver
            }
        }
    }

    async fn pause(&self, longest: u32) {
        sleep(Duration::from_millis(u64::from(self.machine.dice.below(longest)))).await;
    }

    async fn look_at_slot(&mut self) -> Event {
        loop {
            let Ok(held) = self.locks.holding(&self.machine.groups, &self.machine.id).await else {
                self.pause(750).await;
                continue;
            };
            if held.is_empty() {
                if self.machine.body().token.is_some() {
                    // An earlier life asked for a slot, and that may be on its way.
                    let (groups, id) = (&self.machine.groups, &self.machine.id);
                    match self.locks.settle_unanswered(groups, id).await {
                        Ok(false) => {}
                        Ok(true) => continue,
                        Err(_) => {
                            self.pause(750).await;
                            continue;
                        }
                    }
                }
                self.held.clear();
                self.looked = true;
                self.machine.body().token = None;
                return Event::HoldsNothing;
            }
            let groups: Vec<_> = held.keys().cloned().collect();
            let record = held.into_values().flatten().next();
            let this_boot =
                record.as_ref().is_some_and(|record| record.boot_id == self.machine.boot_id());
            let state = match record.as_ref().and_then(|record| record.state.clone()) {
                Some(state) if this_boot => state,
                _ => HolderState::Verifying,
            };
            let permitted = state == HolderState::Rebooting;
            if !self.take_over(&groups, record.as_ref(), state).await {
                continue;
            }
            return match this_boot {
                false => Event::CameBack,
                true if permitted && self.machine.body().ordered => Event::GoingDown,
                true if permitted => Event::HoldsPermit,
                true => Event::HoldsStill,
            };
        }
    }

    async fn take_over(
        &mut self,
        groups: &[Group],
        record: Option<&HolderRecord>,
        state: HolderState,
    ) -> bool {
        let claim = self.machine.claim(groups.to_vec());
        loop {
            match self.locks.adopt(&claim, record, state.clone()).await {
                Ok(()) => break,
                Err(LockError::NotOurs { .. }) => return false,
                Err(_) => self.pause(750).await,
            }
        }
        self.held = groups.to_vec();
        true
    }

    /// What a look at the machine finds that speaks against a reboot.
    fn stands_in_the_way(&self) -> Option<Event> {
        let body = self.machine.body();
        match (body.wants, body.gates_open) {
            (false, _) => Some(Event::Unwanted),
            (true, false) => Some(Event::GatesClosed),
            (true, true) => None,
        }
    }

    async fn await_want(&mut self) -> Event {
        loop {
            if self.machine.body().wants {
                return Event::Wanted;
            }
            if let Some(event) = self.something_happens().await {
                return event;
            }
        }
    }

    async fn await_gates(&mut self) -> Event {
        loop {
            match self.stands_in_the_way() {
                None => return Event::GatesOpen,
                Some(Event::Unwanted) => return Event::Unwanted,
                Some(_) => {}
            }
            if let Some(event) = self.something_happens().await {
                return event;
            }
        }
    }

    /// Until the machine has news, or a slot turns up that was given up on.
    async fn something_happens(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            () = self.machine.changed.notified() => {}
            () = sleep(LOOK_AGAIN), if !self.looked => {
                let (groups, id) = (&self.machine.groups, &self.machine.id);
                match self.locks.settle_unanswered(groups, id).await {
                    Ok(true) => return Some(Event::SlotFound),
                    Ok(false) => self.looked = true,
                    Err(_) => {}
                }
            }
        }
        None
    }

    async fn ask_for_slot(&mut self) -> Event {
        let claim = self.machine.claim(self.machine.groups.clone());
        let ordered = self.machine.body().ordered;
        self.machine.body().unlocked &= ordered;
        let mut waiting = Waiting::start(self.locks.clone(), claim, WaitOptions::default());
        let acquired = loop {
            tokio::select! {
                biased;
                progress = waiting.next() => if let Progress::Granted(acquired) = progress {
                    break Ok(acquired);
                },
                () = self.machine.changed.notified() => if let Some(why) = self.stands_in_the_way() {
                    break Err(why);
                },
            }
        };
        match acquired {
            Ok(Acquired::Granted) => {
                self.held = self.machine.groups.clone();
                Event::SlotGranted
            }
            Ok(Acquired::Already(_)) => Event::SlotOccupied,
            Err(why) => {
                let late = waiting.leave().await;
                self.looked &= late.is_some() || !waiting.is_unsettled();
                if late == Some(Acquired::Granted) {
                    self.held = self.machine.groups.clone();
                    self.release().await;
                }
                why
            }
        }
    }

    async fn tell_users(&mut self) -> Event {
        if self.machine.dice.below(2) == 0 {
            let draining = Advance::to(HolderState::Draining);
            if let Err(LockError::NotOurs { .. }) = self.mark(&draining).await {
                return Event::SlotLost;
            }
            self.pause(5000).await;
        }
        Event::Drained
    }

    async fn ask_for_permit(&mut self) -> Event {
        loop {
            if let Some(why) = self.stands_in_the_way() {
                return why;
            }
            let permit = Advance::permit(UnixTime(1));
            let asked = Instant::now();
            match self.mark(&permit).await {
                Ok(()) if asked.elapsed() < PERMIT_IS_FRESH => return Event::Permitted,
                Ok(()) => {}
                Err(LockError::NotOurs { .. }) => {
                    self.held.clear();
                    return Event::SlotLost;
                }
                Err(LockError::Paused { .. }) => return Event::Paused,
                Err(_) => self.pause(750).await,
            }
        }
    }

    async fn mark(&self, step: &Advance) -> Result<(), LockError> {
        let Some(token) = self.machine.body().token else { return Ok(()) };
        self.locks.advance(&self.held, &self.machine.id, token, step).await
    }

    async fn release(&mut self) -> Event {
        let token = self.machine.body().token;
        while let (Some(token), false) = (token, self.held.is_empty()) {
            let release = Release::of(token, Ended::GivenBack);
            match self.locks.release(&self.held, &self.machine.id, &release).await {
                Ok(Released::Freed(_) | Released::NotHeld) => break,
                Err(_) => self.pause(750).await,
            }
        }
        self.held.clear();
        self.machine.body().token = None;
        Event::Released
    }
}
