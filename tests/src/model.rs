//! A model of the protocol as implemented, for a checker that tries every order of events.
//!
//! Three machines in two groups. What a machine reads and what it then wants to commit is one
//! step, and that the commit reaches the store is another: in between anything may happen, and
//! any number of steps later. A commit that is not answered ([`Step::GiveUp`]) stays under way
//! and may still happen whenever its preconditions hold, after its process has died too.
//!
//! Every transaction and every refusal is the real lock manager's ([`production`]), every
//! transition of an agent is `rebootlockd::policy::step`, every order in a queue is
//! `rebootlock::queue::Queue`. The model's own is what lies between: when an agent looks at what,
//! and what a reboot, a lease and a lost message are. Revisions are not counted: of a precondition
//! "still as it was read" only whether it still holds is kept, and a transaction whose
//! precondition can never hold again is forgotten. So the states are finitely many.
//!
//! Left out: draining (a note in a record that nothing depends on), changes of the limit, damaged
//! documents, holds and cooldowns, reads that mix moments (each document has a precondition of its
//! own), and who waits far behind: three machines are all among the first, and see the whole queue.
//! The simulation has those reads and such queues. Priorities are there, and by all clocks
//! everybody has just come.

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod fair;
pub mod fleets;
pub mod production;
mod steps;

use rebootlockd::policy::State as Process;
use stateright::{Model, Property};

use self::production::{
    Answer, Changes, Documents, FLEET_PAUSED, Fleet, GROUPS, Keys, MACHINES, Production, Question,
    Record, paused, record, semaphore,
};

/// What the checker tries beyond the ordinary course of things, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Unanswered commits, crashes, lost leases, failed reboots: together.
    pub faults: u8,
    /// Pauses, unlocks, locks, cancelled wishes, closing windows: together.
    pub interventions: u8,
}

/// Preconditions of production that the model can leave away, to show that each is needed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Without {
    /// The semaphores are as read.
    pub semaphore: bool,
    /// The machine's own records are as read.
    pub record: bool,
    /// No pause is in force.
    pub pause: bool,
    /// The place in the queue is still our own.
    pub place: bool,
    /// The permit goes to who holds by its token.
    pub token: bool,
    /// An agent that left the queue goes on looking for a slot that comes late.
    pub looking: bool,
}

/// The model.
#[derive(Debug)]
pub struct Protocol {
    fleet: Fleet,
    bounds: Bounds,
    without: Without,
    production: Production,
}

/// Everything there is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// Each semaphore's holders, a bit per machine.
    pub holders: [u8; GROUPS],
    /// The holder records.
    pub records: [[Option<Record>; MACHINES]; GROUPS],
    /// The pauses in force.
    pub pauses: Keys,
    /// Who waits, in the order of arrival, in the queues of all its groups.
    pub queue: Vec<u8>,
    /// Transactions under way.
    pub flights: Vec<Flight>,
    /// The machines.
    pub machines: [Machine; MACHINES],
    /// How many faults may still happen.
    pub faults: u8,
    /// How many interventions may still happen.
    pub interventions: u8,
    /// What happened that must not.
    pub violated: Option<Violation>,
}

/// One machine and its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Where its agent is.
    pub process: Process,
    /// The token the agent holds or claims by.
    pub token: Option<u8>,
    /// Whether a reboot is wanted.
    pub wants: bool,
    /// Whether the agent knows that no slot of its own can come late.
    pub looked: bool,
    /// Whether the reboot was ordered.
    pub ordered: bool,
    /// Whether it is down by its agent's order.
    pub down: bool,
    /// Whether an operator has unlocked it since it last began to ask for a slot: the exception.
    pub unlocked: bool,
}

/// A transaction on its way to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flight {
    /// The machine it is about.
    pub machine: u8,
    /// What for.
    pub purpose: Purpose,
    /// Whether its process still waits for the answer.
    pub awaited: bool,
    /// What it requires and changes.
    pub changes: Changes,
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// A slot, without a place in the queue.
    Acquire,
    /// A slot out of the queue.
    AcquireInTurn,
    /// Taking over the slot of an earlier life.
    Adopt,
    /// The permit, for the holder of this token.
    Permit(u8),
    /// Giving the slot back.
    Release,
}

/// What must never happen, where a single state does not show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A slot or a permit was given in spite of a pause.
    InSpiteOfPause,
    /// Somebody took a slot by a place in the queue that was gone.
    OutOfTurn,
    /// A permit was written into another acquisition's record.
    ForeignPermit,
}

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A machine's agent does what comes next: it reads and decides.
    Act(usize),
    /// A transaction reaches the store; whoever waits for it is answered.
    Arrive(usize),
    /// Its process waits no longer; it may arrive all the same.
    GiveUp(usize),
    /// The agent dies and starts anew in the same boot.
    CrashAgent(usize),
    /// The machine falls over, and is back in a new boot.
    CrashMachine(usize),
    /// The lease of a place ends.
    Expire(usize),
    /// An entry into the queue that was given up long ago arrives.
    EnterLate(usize),
    /// The machine goes down, as ordered.
    GoDown(usize),
    /// It comes back.
    Boot(usize),
    /// The order to reboot comes to nothing.
    StayUp(usize),
    /// Nothing wants the machine to reboot any more.
    Cancel(usize),
    /// Its window closes while it has the slot.
    CloseWindow(usize),
    /// An operator frees its slot.
    Unlock(usize),
    /// An operator takes its slot.
    Lock(usize),
    /// An operator pauses one scope.
    Pause(Keys),
    /// An operator resumes it.
    Resume(Keys),
}

impl Protocol {
    /// The protocol in this fleet, within these bounds.
    pub fn new(fleet: Fleet, bounds: Bounds, without: Without) -> Self {
        Self { fleet, bounds, without, production: Production::new(fleet) }
    }

    fn ask(&self, world: &World, machine: usize, question: Question) -> Answer {
        let documents = Documents {
            holders: world.holders,
            records: [0, 1].map(|group| world.records[group][machine]),
            pauses: world.pauses,
        };
        let mut answer = self.production.ask(machine, question, &documents);
        if let Answer::Commit(changes) = &mut answer {
            let mut dropped = 0;
            for group in 0..GROUPS {
                dropped |= if self.without.semaphore { semaphore(group) } else { 0 };
                dropped |= if self.without.record { record(group, machine) } else { 0 };
            }
            dropped |= if self.without.pause { production::PAUSES } else { 0 };
            changes.unchanged &= !dropped;
            changes.absent &= !dropped;
        }
        answer
    }

    /// Whether it is the machine's turn in the queue of each of its groups.
    fn has_turn(&self, world: &World, machine: usize) -> bool {
        self.fleet.groups_of(machine).all(|group| {
            let waits = |waiter: &u8| self.fleet.groups[usize::from(*waiter)] & (1 << group) != 0;
            let waiting: Vec<u8> = world.queue.iter().copied().filter(waits).collect();
            let ahead = self.production.ahead_of(&waiting, machine);
            let holders = i64::from(world.holders[group].count_ones());
            ahead.is_some_and(|ahead| i64::from(self.fleet.max[group]) - holders > ahead as i64)
        })
    }

    fn is_paused(&self, world: &World, machine: usize) -> bool {
        let scopes = self.fleet.groups_of(machine).fold(FLEET_PAUSED, |all, g| all | paused(g));
        world.pauses & scopes != 0
    }

    /// Whether the machine holds a slot in each of its groups.
    fn holds(&self, world: &World, machine: usize) -> bool {
        self.fleet.groups_of(machine).all(|group| world.holders[group] & (1 << machine) != 0)
    }

    /// Whether its records in all groups are of this token.
    fn holds_by(&self, world: &World, machine: usize, token: u8) -> bool {
        self.holds(world, machine)
            && self.fleet.groups_of(machine).all(|group| {
                world.records[group][machine].is_some_and(|record| record.token == token)
            })
    }

    /// Whether nothing is left to do: every machine up, well and content, and nothing of anybody
    /// in the store.
    pub fn is_done(&self, world: &World) -> bool {
        world.holders == [0; GROUPS]
            && world.records.iter().flatten().all(Option::is_none)
            && world.queue.is_empty()
            && world.machines.iter().all(|machine| {
                !machine.down
                    && !machine.wants
                    && !machine.ordered
                    && machine.process == Process::Idle
            })
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let machine = Machine {
            process: Process::Starting,
            token: None,
            wants: true,
            looked: true,
            ordered: false,
            down: false,
            unlocked: false,
        };
        vec![World {
            holders: [0; GROUPS],
            records: Default::default(),
            pauses: 0,
            queue: Vec::new(),
            flights: Vec::new(),
            machines: [machine; MACHINES],
            faults: self.bounds.faults,
            interventions: self.bounds.interventions,
            violated: None,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.every_step(world, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        self.take(world, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never over the limit", |this: &Self, world: &World| {
                (0..GROUPS).all(|group| world.holders[group].count_ones() <= this.fleet.max[group])
            }),
            Property::always("never more down than the limit", |this: &Self, world: &World| {
                (0..GROUPS).all(|group| {
                    let down = |m: &usize| {
                        let machine = world.machines[*m];
                        machine.down
                            && !machine.unlocked
                            && this.fleet.groups[*m] & (1 << group) != 0
                    };
                    (0..MACHINES).filter(down).count() as u32 <= this.fleet.max[group]
                })
            }),
            Property::always(
                "no machine is down without its slots",
                |this: &Self, world: &World| {
                    (0..MACHINES).all(|m| {
                        let machine = world.machines[m];
                        !machine.down || machine.unlocked || this.holds(world, m)
                    })
                },
            ),
            Property::always(
                "nobody loses its slot but by an operator",
                |this: &Self, world: &World| {
                    (0..MACHINES).all(|m| {
                        let machine = world.machines[m];
                        let going =
                            matches!(machine.process, Process::Permitting | Process::Rebooting);
                        !going
                            || machine.unlocked
                            || machine.token.is_some_and(|token| this.holds_by(world, m, token))
                    })
                },
            ),
            Property::always(
                "a slot and its record come and go together",
                |_: &Self, world: &World| {
                    (0..GROUPS).all(|group| {
                        (0..MACHINES).all(|m| {
                            (world.holders[group] & (1 << m) != 0)
                                == world.records[group][m].is_some()
                        })
                    })
                },
            ),
            Property::always(
                "a machine holds all its slots or none",
                |this: &Self, world: &World| {
                    (0..MACHINES).all(|m| {
                        this.holds(world, m)
                            || (0..GROUPS).all(|g| world.holders[g] & (1 << m) == 0)
                    })
                },
            ),
            Property::always("nothing is given in spite of a pause", |_: &Self, world: &World| {
                world.violated != Some(Violation::InSpiteOfPause)
            }),
            Property::always("a lost place takes no slot", |_: &Self, world: &World| {
                world.violated != Some(Violation::OutOfTurn)
            }),
            Property::always("a permit is its own acquisition's", |_: &Self, world: &World| {
                world.violated != Some(Violation::ForeignPermit)
            }),
            Property::always(
                "whose turn it is takes the free slot",
                |this: &Self, world: &World| (0..MACHINES).all(|m| this.takes_its_turn(world, m)),
            ),
            Property::sometimes("two are down at once", |_: &Self, world: &World| {
                world.machines.iter().filter(|machine| machine.down).count() == 2
            }),
            Property::sometimes("all have rebooted", |this: &Self, world: &World| {
                this.is_done(world)
            }),
        ]
    }
}

impl Protocol {
    /// A live waiter whose turn it is, in the queue, without anything under way, gets a
    /// transaction that takes the slot, and nothing but another change can make it lose.
    fn takes_its_turn(&self, world: &World, machine: usize) -> bool {
        let state = world.machines[machine];
        let waits = state.process == Process::Queued && world.queue.contains(&(machine as u8));
        let awaited = world.flights.iter().any(|f| f.awaited && usize::from(f.machine) == machine);
        if !waits
            || awaited
            || state.down
            || self.is_paused(world, machine)
            || self.holds(world, machine)
            || !self.has_turn(world, machine)
        {
            return true;
        }
        let Some(token) = state.token else { return false };
        let question = Question::Acquire { token, by_operator: false };
        matches!(self.ask(world, machine, question), Answer::Commit(_))
    }
}
