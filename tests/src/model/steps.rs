//! What can happen in the model, and what comes of it.

use rebootlockd::policy::{Action, Event, State as Process, step};

use super::production::{
    Answer, Changes, FLEET_PAUSED, GROUPS, Keys, MACHINES, PAUSES, Question, Record, Stage, paused,
    place, record, semaphore,
};
use super::{Flight, Protocol, Purpose, Step, Violation, World};

impl Protocol {
    pub(super) fn every_step(&self, world: &World, steps: &mut Vec<Step>) {
        self.fair_steps(world, steps);
        for (n, flight) in world.flights.iter().enumerate() {
            if flight.awaited && world.faults > 0 {
                steps.push(Step::GiveUp(n));
            }
            if !flight.awaited {
                steps.push(Step::Arrive(n));
            }
        }
        for m in 0..MACHINES {
            if world.faults > 0 {
                steps.extend([
                    Step::CrashAgent(m),
                    Step::CrashMachine(m),
                    Step::Expire(m),
                    Step::EnterLate(m),
                    Step::StayUp(m),
                ]);
            }
            if world.interventions > 0 {
                steps.extend([Step::Cancel(m), Step::CloseWindow(m), Step::Lock(m)]);
                steps.push(Step::Unlock(m));
            }
        }
        if world.interventions > 0 {
            steps.extend([FLEET_PAUSED, paused(0)].map(Step::Pause));
        }
    }

    /// What happens sooner or later without a fault and without anybody's doing, and the ends of
    /// what operators began: pauses are resumed, operators' locks unlocked.
    pub(super) fn fair_steps(&self, world: &World, steps: &mut Vec<Step>) {
        for m in 0..MACHINES {
            steps.extend([Step::Act(m), Step::GoDown(m), Step::Boot(m)]);
            if world.machines[m].process != Process::Queued && world.queue.contains(&(m as u8)) {
                steps.push(Step::Expire(m));
            }
            if locked_by_operator(world, m) {
                steps.push(Step::Unlock(m));
            }
        }
        for (n, flight) in world.flights.iter().enumerate() {
            if flight.awaited {
                steps.push(Step::Arrive(n));
            }
        }
        for bit in (0..16).map(|n| 1 << n).filter(|bit| PAUSES & bit != 0) {
            steps.push(Step::Resume(bit));
        }
    }

    pub(super) fn take(&self, before: &World, step: Step) -> Option<World> {
        if before.violated.is_some() {
            return None;
        }
        let mut world = before.clone();
        match step {
            Step::Act(m) => self.act(&mut world, m)?,
            Step::Arrive(n) => self.arrive(&mut world, n)?,
            Step::GiveUp(n) => {
                world.faults -= 1;
                world.flights[n].awaited = false;
            }
            Step::CrashAgent(m) => {
                let machine = world.machines[m];
                if machine.down || machine.process == Process::Starting && machine.token.is_none() {
                    return None;
                }
                world.faults -= 1;
                abandon(&mut world, m);
                world.machines[m].looked = self.without.looking;
                start(&mut world, m);
            }
            Step::CrashMachine(m) => {
                if world.machines[m].down {
                    return None;
                }
                world.faults -= 1;
                world.machines[m].looked = self.without.looking;
                boot(&mut world, m);
            }
            Step::Expire(m) => {
                if !world.queue.contains(&(m as u8)) {
                    return None;
                }
                if world.machines[m].process == Process::Queued {
                    world.faults = world.faults.checked_sub(1)?;
                }
                leave_queue(&mut world, m);
            }
            Step::EnterLate(m) => {
                // Only while the lease may still live, whose process was waiting.
                if world.queue.contains(&(m as u8)) || world.machines[m].process == Process::Queued
                {
                    return None;
                }
                world.faults -= 1;
                world.queue.push(m as u8);
            }
            Step::GoDown(m) => {
                let machine = &mut world.machines[m];
                if machine.down || !machine.ordered {
                    return None;
                }
                machine.down = true;
                // By an order for a slot that was unlocked it may go down while it asks for another.
                machine.looked = self.without.looking;
                abandon(&mut world, m);
            }
            Step::Boot(m) => {
                if !world.machines[m].down {
                    return None;
                }
                boot(&mut world, m);
                world.machines[m].wants = false;
            }
            Step::StayUp(m) => {
                let machine = &mut world.machines[m];
                if !machine.ordered || machine.down || machine.process != Process::Rebooting {
                    return None;
                }
                world.faults -= 1;
                machine.ordered = false;
                let event = if machine.wants { Event::StillUp } else { Event::StillUpUnwanted };
                self.hear(&mut world, m, event);
            }
            Step::Cancel(m) => {
                let awaits = awaits(&world, m);
                let machine = &mut world.machines[m];
                // Leaving waits for the answer of what is under way.
                if !machine.wants || machine.down || awaits {
                    return None;
                }
                world.interventions -= 1;
                machine.wants = false;
                if machine.process == Process::Queued {
                    // Its place may stay until the lease ends: taking it away can fail.
                    machine.looked = self.without.looking;
                    machine.token = None;
                    self.hear(&mut world, m, Event::Unwanted);
                }
            }
            Step::CloseWindow(m) => {
                let closes =
                    world.machines[m].process == Process::Permitting && !world.machines[m].down;
                if !closes || awaits(&world, m) {
                    return None;
                }
                world.interventions -= 1;
                self.hear(&mut world, m, Event::GatesClosed);
            }
            Step::Unlock(m) => {
                if !locked_by_operator(&world, m) {
                    world.interventions = world.interventions.checked_sub(1)?;
                }
                let answer = self.ask(&world, m, Question::Release { token: None });
                let Answer::Commit(changes) = answer else { return None };
                apply(&mut world, m, &changes);
                world.machines[m].unlocked = true;
            }
            Step::Lock(m) => {
                let token = fresh_token(&world, m);
                let question = Question::Acquire { token, by_operator: true };
                let Answer::Commit(changes) = self.ask(&world, m, question) else { return None };
                world.interventions -= 1;
                apply(&mut world, m, &changes);
            }
            Step::Pause(scope) => {
                if world.pauses & scope != 0 {
                    return None;
                }
                world.interventions -= 1;
                world.pauses |= scope;
                kill(&mut world, scope);
            }
            Step::Resume(scope) => {
                if world.pauses & scope == 0 {
                    return None;
                }
                world.pauses &= !scope;
                kill(&mut world, scope);
            }
        }
        world.flights.sort_unstable();
        Some(world)
    }

    /// The agent does what its state asks for.
    fn act(&self, world: &mut World, m: usize) -> Option<()> {
        let machine = world.machines[m];
        if machine.down || awaits(world, m) {
            return None;
        }
        match machine.process {
            Process::Starting => self.look_at_slot(world, m),
            Process::Idle if !machine.looked && self.own_record(world, m).is_some_and(ours) => {
                self.hear(world, m, Event::SlotFound)
            }
            Process::Idle if machine.wants => self.hear(world, m, Event::Wanted),
            Process::Queued => self.wait(world, m)?,
            Process::Permitting => self.ask_for_permit(world, m),
            Process::Rebooting if !machine.ordered => {
                world.machines[m].ordered = true;
                self.hear(world, m, Event::Ordered);
            }
            Process::Releasing => {
                let question = Question::Release { token: machine.token };
                match self.ask(world, m, question) {
                    Answer::Commit(changes) => send(world, m, Purpose::Release, changes),
                    _ => self.hear(world, m, Event::Released),
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn own_record(&self, world: &World, m: usize) -> Option<Record> {
        (0..GROUPS).filter(|g| world.holders[*g] & (1 << m) != 0).find_map(|g| world.records[g][m])
    }

    fn look_at_slot(&self, world: &mut World, m: usize) {
        let groups = (0..GROUPS).filter(|g| world.holders[*g] & (1 << m) != 0);
        let groups = groups.fold(0, |all, g| all | 1 << g);
        let found = self.own_record(world, m);
        if groups == 0 || found.is_some_and(|found| !ours(found)) {
            return self.hear(world, m, Event::HoldsNothing);
        }
        let (stage, this_boot) = match found {
            Some(found) if found.this_boot => (found.stage, true),
            _ => (Stage::Verifying, false),
        };
        let token = *world.machines[m].token.get_or_insert(fresh_token(world, m));
        let answer = if found.is_some_and(|found| found.token == token) {
            Answer::Done
        } else {
            self.ask(world, m, Question::Adopt { token, found, groups, stage })
        };
        match answer {
            Answer::Commit(changes) => send(world, m, Purpose::Adopt, changes),
            Answer::Done => {
                let event = match stage {
                    _ if !this_boot => Event::CameBack,
                    _ if groups != self.fleet.groups[m] => Event::CameBack,
                    Stage::Rebooting if world.machines[m].ordered => Event::GoingDown,
                    Stage::Rebooting => Event::HoldsPermit,
                    _ => Event::HoldsStill,
                };
                self.hear(world, m, event);
            }
            _ => {}
        }
    }

    /// One round of `rebootlock::wait`. `None`: nothing to do but to wait.
    fn wait(&self, world: &mut World, m: usize) -> Option<()> {
        let token = world.machines[m].token?;
        let question = Question::Acquire { token, by_operator: false };
        let in_queue = world.queue.contains(&(m as u8));
        if !in_queue {
            let mine = self.fleet.groups[m];
            // Who holds already asks at once, by whatever acquisition it does.
            let holds = world.holders.iter().any(|holders| holders & (1 << m) != 0);
            if !holds
                && world
                    .queue
                    .iter()
                    .any(|other| self.fleet.groups[usize::from(*other)] & mine != 0)
            {
                world.queue.push(m as u8);
                return Some(());
            }
        } else if !self.is_paused(world, m) && !self.holds(world, m) && !self.has_turn(world, m) {
            return None;
        }
        match self.ask(world, m, question) {
            Answer::Commit(mut changes) => {
                if in_queue && !self.without.place {
                    changes.unchanged |= place(m);
                }
                let purpose = if in_queue { Purpose::AcquireInTurn } else { Purpose::Acquire };
                send(world, m, purpose, changes);
            }
            Answer::Full if !in_queue => world.queue.push(m as u8),
            Answer::Paused if in_queue => leave_queue(world, m),
            Answer::Done => {
                leave_queue(world, m);
                self.hear(world, m, Event::SlotGranted);
            }
            Answer::Already => {
                leave_queue(world, m);
                self.hear(world, m, Event::SlotOccupied);
            }
            _ => return None,
        }
        Some(())
    }

    fn ask_for_permit(&self, world: &mut World, m: usize) {
        let machine = world.machines[m];
        if !machine.wants {
            return self.hear(world, m, Event::Unwanted);
        }
        let Some(token) = machine.token else { return self.hear(world, m, Event::SlotLost) };
        let in_record = self.own_record(world, m).map(|record| record.token);
        let shown = if self.without.token { in_record.unwrap_or(token) } else { token };
        match self.ask(world, m, Question::Permit { token: shown }) {
            Answer::Commit(changes) => send(world, m, Purpose::Permit(token), changes),
            Answer::Done => self.hear(world, m, Event::Permitted),
            Answer::Paused => self.hear(world, m, Event::Paused),
            _ => self.hear(world, m, Event::SlotLost),
        }
    }

    /// The policy hears an event; what needs nothing but the agent itself happens at once.
    fn hear(&self, world: &mut World, m: usize, mut event: Event) {
        loop {
            let machine = &mut world.machines[m];
            let (next, action) =
                step(machine.process, event).unwrap_or_else(|unexpected| panic!("{unexpected}"));
            if matches!(
                event,
                Event::SlotLost | Event::Released | Event::SlotOccupied | Event::HoldsNothing
            ) {
                machine.token = None;
            }
            // What has been given back was settled before.
            machine.looked |= event == Event::Released;
            machine.process = next;
            event = match action {
                Action::AwaitGates => Event::GatesOpen,
                Action::CheckAgain => Event::Clear,
                Action::Drain => Event::Drained,
                Action::Verify => Event::Well,
                Action::BackOff => Event::PauseOver,
                Action::Release if machine.token.is_none() => Event::Released,
                Action::AskForSlot => {
                    let token = fresh_token(world, m);
                    let machine = &mut world.machines[m];
                    machine.token = Some(token);
                    machine.unlocked &= machine.ordered;
                    return;
                }
                _ => return,
            };
        }
    }

    /// A transaction reaches the store.
    fn arrive(&self, world: &mut World, n: usize) -> Option<()> {
        let flight = world.flights[n];
        let m = usize::from(flight.machine);
        if !self.absences_hold(world, &flight.changes) {
            // One that nobody waits for may still come when what is in its way has gone.
            return flight.awaited.then(|| {
                world.flights.remove(n);
            });
        }
        world.flights.remove(n);
        self.look_for_violations(world, &flight);
        apply(world, m, &flight.changes);
        if !flight.awaited {
            return Some(());
        }
        match flight.purpose {
            Purpose::Acquire | Purpose::AcquireInTurn => self.hear(world, m, Event::SlotGranted),
            Purpose::Permit(_) => self.hear(world, m, Event::Permitted),
            Purpose::Release => self.hear(world, m, Event::Released),
            // It reads on, and finds the slot to be its own.
            Purpose::Adopt => {}
        }
        Some(())
    }

    /// What was present and changed has ended the flight already ([`kill`]).
    fn absences_hold(&self, world: &World, changes: &Changes) -> bool {
        let mut present = world.pauses;
        for g in 0..GROUPS {
            for m in (0..MACHINES).filter(|m| world.records[g][*m].is_some()) {
                present |= record(g, m);
            }
        }
        changes.absent & present == 0
    }

    fn look_for_violations(&self, world: &mut World, flight: &Flight) {
        let m = usize::from(flight.machine);
        let gives = matches!(
            flight.purpose,
            Purpose::Acquire | Purpose::AcquireInTurn | Purpose::Permit(_)
        );
        world.violated = match flight.purpose {
            _ if gives && self.is_paused(world, m) => Some(Violation::InSpiteOfPause),
            Purpose::AcquireInTurn if !world.queue.contains(&flight.machine) => {
                Some(Violation::OutOfTurn)
            }
            Purpose::Permit(token) if !self.holds_by(world, m, token) => {
                Some(Violation::ForeignPermit)
            }
            _ => None,
        };
    }
}

fn ours(record: Record) -> bool {
    !record.by_operator
}

fn locked_by_operator(world: &World, m: usize) -> bool {
    world.records.iter().any(|records| records[m].is_some_and(|record| record.by_operator))
}

fn awaits(world: &World, m: usize) -> bool {
    world.flights.iter().any(|flight| flight.awaited && usize::from(flight.machine) == m)
}

fn send(world: &mut World, m: usize, purpose: Purpose, changes: Changes) {
    world.flights.push(Flight { machine: m as u8, purpose, awaited: true, changes });
}

/// Nobody waits any more for what the machine has under way.
fn abandon(world: &mut World, m: usize) {
    for flight in world.flights.iter_mut().filter(|flight| usize::from(flight.machine) == m) {
        flight.awaited = false;
    }
}

fn start(world: &mut World, m: usize) {
    let machine = &mut world.machines[m];
    machine.process = Process::Starting;
    machine.token = None;
    machine.unlocked &= machine.ordered;
}

fn boot(world: &mut World, m: usize) {
    abandon(world, m);
    let machine = &mut world.machines[m];
    (machine.ordered, machine.down) = (false, false);
    start(world, m);
    let old = |record: &mut Option<Record>| {
        if let Some(record) = record {
            record.this_boot = record.by_operator;
        }
    };
    for g in 0..GROUPS {
        old(&mut world.records[g][m]);
        for flight in world.flights.iter_mut().filter(|flight| usize::from(flight.machine) == m) {
            flight.changes.records[g].iter_mut().for_each(old);
        }
    }
}

fn leave_queue(world: &mut World, m: usize) {
    world.queue.retain(|waiter| usize::from(*waiter) != m);
    kill(world, place(m));
}

/// The lowest token of this machine that nothing remembers.
fn fresh_token(world: &World, m: usize) -> u8 {
    let of_flight = |flight: &Flight| {
        let written = flight.changes.records.iter().flatten().flatten().map(|record| record.token);
        written.collect::<Vec<_>>()
    };
    let flights = world.flights.iter().filter(|flight| usize::from(flight.machine) == m);
    let mut known: Vec<u8> = flights.flat_map(of_flight).collect();
    known.extend(world.records.iter().filter_map(|records| records[m]).map(|record| record.token));
    known.extend(world.machines[m].token);
    (0..=u8::MAX).find(|token| !known.contains(token)).unwrap_or(u8::MAX)
}

/// What requires one of `keys` to be as it was read can never happen any more.
fn kill(world: &mut World, keys: Keys) {
    world.flights.retain(|flight| flight.changes.unchanged & keys == 0);
}

fn apply(world: &mut World, m: usize, changes: &Changes) {
    let mut written = 0;
    for g in 0..GROUPS {
        if let Some(holders) = changes.holders[g] {
            world.holders[g] = holders;
            written |= semaphore(g);
        }
        if let Some(now) = changes.records[g] {
            let known = &mut world.records[g][m];
            if known.is_some() || now.is_some() {
                written |= record(g, m);
            }
            *known = now;
        }
    }
    if changes.leaves_queue {
        world.queue.retain(|waiter| usize::from(*waiter) != m);
        written |= place(m);
    }
    kill(world, written);
}
