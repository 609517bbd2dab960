//! Finding the slot of an earlier life, and getting a new one.

use std::collections::BTreeMap;
use std::time::Duration;

use rebootlock::config::Strategy;
use rebootlock::config::gate::Phase;
use rebootlock::id::Group;
use rebootlock::lock::{Acquired, LockError};
use rebootlock::record::{HolderRecord, HolderState, UnixTime, Via, sorted_groups};
use rebootlock::wait::{Obstacle, Progress, WaitOptions, Waiting, forget_places};

use tokio_util::task::AbortOnDropHandle;

use super::health::look_apart;
use super::{Agent, Held, PassOver, WINDOW_TICK};
use crate::failpoint;
use crate::lookout::Closed;
use crate::memento::Memento;
use crate::metrics::LockAttempt;
use crate::outcome::Outcome;
use crate::pass;
use crate::policy::Event;
use crate::requests;
use crate::want::Want;

/// Between two looks for a slot that was asked for and may come late.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

impl Agent {
    /// Whether this machine holds a slot from an earlier life of its agent, and from which boot.
    pub(super) async fn look_at_slot(&mut self) -> Event {
        let memento = self.memento.load();
        if memento.boot_id.is_some() && !self.is_of_this_boot(&memento) {
            self.request_is_fulfilled().await;
            let groups = sorted_groups(memento.groups.clone());
            if let Err(error) = forget_places(&self.locks, &groups, &self.machine).await {
                tracing::debug!(%error, "a place in the queue may be left until its lease ends");
            }
        }
        let groups = self.options.settings.machine.groups.iter().cloned();
        let groups = sorted_groups(groups.chain(memento.groups.clone()));
        loop {
            match self.locks.holding(&groups, &self.machine).await {
                Ok(held) => {
                    self.clear_trouble();
                    if held.is_empty() && memento.token.is_some() {
                        // An earlier life asked for a slot, and the answer may be on its way.
                        match self.locks.settle_unanswered(&groups, &self.machine).await {
                            Ok(true) => continue,
                            Ok(false) => {}
                            Err(error) => {
                                self.stuck("cannot settle what was asked for before", &error).await;
                                continue;
                            }
                        }
                    }
                    self.looked = true;
                    if let Some(event) = self.judge(held, &memento).await {
                        return event;
                    }
                }
                Err(error) if !self.needs_slot() || self.may_do_without() => {
                    tracing::info!(%error, "whether this machine holds a slot is not known");
                    return self.without_slot(&memento);
                }
                Err(error) => {
                    self.stuck("cannot see whether this machine holds a slot", &error).await;
                }
            }
        }
    }

    /// `None`: look again.
    async fn judge(
        &mut self,
        held: BTreeMap<Group, Option<HolderRecord>>,
        memento: &Memento,
    ) -> Option<Event> {
        self.held = None;
        if held.is_empty() {
            return Some(self.without_slot(memento));
        }
        let groups: Vec<Group> = held.keys().cloned().collect();
        let record = held.into_values().flatten().next();
        match self.origin(record.as_ref(), memento) {
            Origin::Another => {
                let record = record.as_ref();
                tracing::warn!(
                    via = record.and_then(|r| r.via.as_ref()).map(tracing::field::display),
                    hostname = record.and_then(|r| r.hostname.as_ref()),
                    "the slot of this machine was taken by somebody else and is left alone; \
                     rebootlockctl unlock frees it"
                );
                Some(Event::HoldsNothing)
            }
            Origin::ThisBoot => self.carry_on(groups, record).await,
            Origin::EarlierBoot => {
                // Without a boot id it cannot be told from one taken in this boot by a program
                // that writes no records and may be rebooting just now.
                if record.as_ref().is_none_or(|record| record.boot_id.is_none())
                    && !self.is_certainly_up().await
                {
                    tracing::info!("this machine may be going down; its slot is left alone");
                    tokio::time::sleep(self.poll()).await;
                    return None;
                }
                self.take_over(groups, record, HolderState::Verifying)
                    .await
                    .then_some(Event::CameBack)
            }
        }
    }

    /// No slot is held: but the machine may have rebooted without one, or be unlocked meanwhile, and
    /// then it has to be looked at all the same.
    fn without_slot(&self, memento: &Memento) -> Event {
        if memento.ordered && !self.is_of_this_boot(memento) {
            return Event::CameBack;
        }
        self.remember(None);
        Event::HoldsNothing
    }

    /// Whose slot it is, and from when.
    fn origin(&self, record: Option<&HolderRecord>, memento: &Memento) -> Origin {
        let Some(record) = record else { return Origin::EarlierBoot };
        // A machine-id may have been copied with a disk image.
        let same_token = record.token.is_some() && record.token == memento.token;
        let same_host = record.hostname.as_ref().is_none_or(|name| *name == self.hostname);
        // rebootlockctl counts no soft reboots.
        let counted = record.via == Some(Via::Agent);
        let this_boot = record.boot_id.as_ref().is_some_and(|boot| self.boot.is(boot, counted));
        if !this_boot && !same_token && !same_host {
            return Origin::Another;
        }
        match &record.via {
            Some(Via::Agent) if this_boot => Origin::ThisBoot,
            Some(Via::Agent | Via::CtlReboot) if !this_boot => Origin::EarlierBoot,
            // An operator's lock ends with the boot it was taken in, like locksmith's; one taken
            // from elsewhere does not say which boot that was.
            Some(Via::Ctl | Via::Exec) if !this_boot && record.boot_id.is_some() => {
                Origin::EarlierBoot
            }
            // rebootlockd's ancestor: nothing but an id and a time.
            None => Origin::EarlierBoot,
            _ => Origin::Another,
        }
    }

    /// The daemon was restarted within the boot.
    async fn carry_on(
        &mut self,
        groups: Vec<Group>,
        record: Option<HolderRecord>,
    ) -> Option<Event> {
        let state = record.as_ref().and_then(|record| record.state.clone());
        let permitted = state == Some(HolderState::Rebooting);
        let whole = groups == self.options.settings.machine.groups;
        let state = state.unwrap_or(HolderState::Holding);
        if !self.take_over(groups, record, state).await {
            return None;
        }
        Some(match permitted {
            true if !self.is_certainly_up().await => Event::GoingDown,
            true if whole => Event::HoldsPermit,
            false if whole => Event::HoldsStill,
            // Give back what it has, and ask anew.
            _ => Event::HoldsOthers,
        })
    }

    /// Goes on under a token of our own, so that nothing of an earlier life can act on the slot.
    async fn take_over(
        &mut self,
        groups: Vec<Group>,
        record: Option<HolderRecord>,
        state: HolderState,
    ) -> bool {
        let claim = self.claim(groups);
        loop {
            match self.locks.adopt(&claim, record.as_ref(), state.clone()).await {
                Ok(()) => break,
                Err(LockError::NotOurs { .. }) => return false,
                Err(error) => self.stuck("cannot take over this machine's slot", &error).await,
            }
        }
        self.clear_trouble();
        self.remember(Some((&claim.token, claim.groups())));
        self.held = Some(Held { groups: claim.groups().to_vec(), token: claim.token });
        self.found = record;
        true
    }

    /// Queues for the slots until they are ours.
    pub(super) async fn ask_for_slot(&mut self) -> Result<Event, PassOver> {
        if !self.needs_slot() {
            return Ok(Event::SlotGranted);
        }
        let claim = self.claim(self.options.settings.machine.groups.clone());
        let held = Held { groups: claim.groups().to_vec(), token: claim.token };
        // Before the slot, so that after a crash it is known to be ours.
        self.remember(Some((&claim.token, claim.groups())));
        if self.options.run.once {
            let asked = tokio::time::Instant::now();
            let acquired = match self.locks.acquire(&claim).await {
                Ok(acquired) => acquired,
                Err(error) => {
                    return self.pass_without_slot(&error, claim.groups(), asked.elapsed()).await;
                }
            };
            return Ok(self.acquired(acquired, held, asked.elapsed()));
        }
        self.waiting = Some(Waiting::start(
            (*self.locks).clone(),
            claim,
            WaitOptions { poll: self.options.settings.agent.poll, ..WaitOptions::default() },
        ));
        failpoint::reach("queued");
        let asked = tokio::time::Instant::now();
        let mut next_look = asked + self.check_interval();
        let mut next_overdue = asked + self.check_interval();
        let mut looking = None;
        let mut away_since = None;
        let mut last = Obstacle::Asking;
        loop {
            let Some(waiting) = &mut self.waiting else { return Ok(Event::SlotOccupied) };
            let give_up = self.options.settings.agent.best_effort_wait;
            let give_up = away_since
                .filter(|_| self.options.settings.agent.strategy == Strategy::BestEffort)
                .map(|since: tokio::time::Instant| since + give_up);
            let tick = self.options.settings.agent.poll.min(WINDOW_TICK);
            let mut look_again = false;
            let event = tokio::select! {
                progress = waiting.next() => match progress {
                    Progress::Granted(acquired) => {
                        self.waiting = None;
                        return Ok(self.acquired(acquired, held, asked.elapsed()));
                    }
                    Progress::Obstacle(_) => None,
                },
                () = self.wants.changed() => {
                    (self.wants.now() == Want::Nothing).then_some(Event::Unwanted)
                }
                // Gates take their time to answer, and a slot may come meanwhile.
                closed = looked(&mut looking) => {
                    looking = None;
                    next_look = tokio::time::Instant::now() + self.check_interval();
                    closed.map(|closed| self.closed_while_queued(closed))
                }
                () = tokio::time::sleep(tick) => {
                    look_again = true;
                    if looking.is_none() && tokio::time::Instant::now() >= next_look {
                        looking = Some(look_apart(self, Phase::PreLock));
                    }
                    let closed = self.lookout.glance(Phase::PreLock);
                    closed.map(|closed| self.closed_while_queued(closed))
                }
                () = at(give_up) => {
                    tracing::warn!("the store does not answer; rebooting without a slot, as best-effort says");
                    Some(Event::SlotGranted)
                }
            };
            if let Some(event) = event {
                self.metrics.lock_attempted(LockAttempt::Canceled, asked.elapsed());
                self.metrics.set_queues([]);
                if self.leave_queue(&held).await {
                    self.held = Some(held);
                    if event != Event::SlotGranted {
                        self.release().await;
                    }
                }
                return Ok(event);
            }
            let Some(obstacle) = self.waiting.as_ref().map(Waiting::obstacle) else { continue };
            let away = matches!(obstacle, Obstacle::Failing { out_of_reach: true, .. });
            away_since = away.then(|| away_since.unwrap_or_else(tokio::time::Instant::now));
            self.metrics.set_store_up(Some(!away));
            if look_again
                && tokio::time::Instant::now() >= next_overdue
                && let Obstacle::Queued { group, .. } = &obstacle
            {
                self.release_overdue(group).await;
                next_overdue = tokio::time::Instant::now() + self.check_interval();
            }
            if obstacle != last {
                self.say_obstacle(&obstacle).await;
                last = obstacle;
            } else if look_again && let Obstacle::Queued { group, ahead: Some(ahead) } = &last {
                // Who holds, and for how long, changes while the place in the queue does not.
                let sentence = self.queued(group, Some(*ahead)).await;
                self.say(&sentence);
            }
        }
    }

    fn closed_while_queued(&mut self, closed: Closed) -> Event {
        tracing::info!(why = closed.why, "out of the queue");
        self.conclude(closed);
        Event::GatesClosed
    }

    /// Leaves the queue; whether a slot came at that very moment.
    async fn leave_queue(&mut self, held: &Held) -> bool {
        let Some(mut waiting) = self.waiting.take() else { return false };
        let late = waiting.leave().await;
        tracing::debug!(token = %held.token, late = late.is_some(), "left the queue");
        if waiting.is_unsettled() && late.is_none() {
            // It may come later still, and then nobody would give it back.
            self.looked = false;
        }
        late == Some(Acquired::Granted)
    }

    /// Whether a slot of this machine's has turned up that could not be seen before; and makes
    /// sure that none can from here on. `None`: the store does not tell yet.
    pub(super) async fn look_again(&mut self) -> Option<Event> {
        let groups = self.options.settings.machine.groups.clone();
        let held = if self.needs_slot() {
            self.locks.settle_unanswered(&groups, &self.machine).await
        } else {
            // Nothing was asked for, so there is nothing to settle.
            self.locks.holding(&groups, &self.machine).await.map(|held| !held.is_empty())
        };
        match held {
            Ok(true) => Some(Event::SlotFound),
            Ok(false) => {
                self.looked = true;
                self.remember(None);
                None
            }
            Err(error) => {
                tracing::debug!(%error, "whether this machine holds a slot is not known yet");
                None
            }
        }
    }

    /// When to look again while that is not known.
    pub(super) fn look_again_after(&self) -> Duration {
        if self.needs_slot() { LOOK_AGAIN.min(self.poll()) } else { self.poll() }
    }

    fn acquired(&mut self, acquired: Acquired, held: Held, took: Duration) -> Event {
        failpoint::reach("slot-granted");
        self.clear_trouble();
        self.metrics.set_queues([]);
        match acquired {
            Acquired::Granted => {
                self.go_on();
                self.metrics.lock_attempted(LockAttempt::Success, took);
                let since = UnixTime::now();
                self.metrics.set_slots(held.groups.iter().map(|g| (g.clone(), Some(since))));
                tracing::info!(groups = ?names(&held.groups), token = %held.token, "slot taken");
                self.report.slot.taken = true;
                self.held = Some(held);
                Event::SlotGranted
            }
            Acquired::Already(record) => {
                let via = record.and_then(|record| record.via).map(|via| via.to_string());
                let sentence = "this machine's slot is held by somebody else; \
                                rebootlockctl status says by whom";
                tracing::warn!(via, "{sentence}");
                self.say(sentence);
                self.metrics.lock_attempted(LockAttempt::Contended, took);
                self.conclude(Closed::new(Outcome::LockUnavailable, sentence));
                Event::SlotOccupied
            }
        }
    }

    async fn pass_without_slot(
        &mut self,
        error: &LockError,
        groups: &[Group],
        took: Duration,
    ) -> Result<Event, PassOver> {
        if error.is_out_of_reach() && self.may_do_without() {
            return Ok(Event::SlotGranted);
        }
        let Some(closed) = pass::refused(&self.locks, error).await else {
            self.metrics.lock_attempted(LockAttempt::Error, took);
            return Err(PassOver::Failed(format!("no slot: {error}")));
        };
        self.metrics.lock_attempted(LockAttempt::Contended, took);
        self.report.slot.holders = pass::holders(&self.locks, groups).await;
        self.conclude(closed);
        Err(PassOver::Concluded)
    }

    async fn say_obstacle(&mut self, obstacle: &Obstacle) {
        match obstacle {
            Obstacle::Asking => self.say("asking for a slot"),
            Obstacle::Paused { scope, why } => {
                self.tell_pauses(Some(scope));
                self.say(&format!("a reboot is wanted; {why}"));
                self.conclude(Closed::new(Outcome::Paused, why));
            }
            Obstacle::Held { why } => {
                self.say(&format!("a reboot is wanted; {why}"));
                self.conclude(Closed::new(Outcome::Held, why));
            }
            Obstacle::CoolingDown { why, .. } => {
                self.say(&format!("next in the queue; {why}"));
                self.conclude(Closed::new(Outcome::CooldownActive, why));
            }
            Obstacle::Failing { why, .. } => {
                if self.trouble.as_ref() != Some(why) {
                    tracing::warn!(why, "waiting for a slot");
                    self.trouble = Some(why.clone());
                }
                self.say(&format!("waiting for a slot: {why}"));
            }
            Obstacle::Queued { group, ahead } => {
                if self.trouble.take().is_some() {
                    tracing::info!("the store answers again; waiting for a slot");
                }
                let sentence = self.queued(group, *ahead).await;
                self.say(&sentence);
                if let Some(ahead) = ahead {
                    self.metrics.set_queues([(group.clone(), *ahead as u64 + 1)]);
                }
                self.conclude(Closed::new(Outcome::LockUnavailable, sentence));
            }
        }
    }

    /// For whom this machine waits, in a sentence.
    async fn queued(&self, group: &Group, ahead: Option<usize>) -> String {
        let mut sentence = pass::waiting(&self.locks, group).await;
        match ahead {
            Some(0) => {}
            Some(ahead) => sentence.push_str(&format!("; {ahead} go first")),
            None => sentence.push_str("; many go first"),
        }
        sentence
    }

    pub(super) fn needs_slot(&self) -> bool {
        matches!(self.options.settings.agent.strategy, Strategy::EtcdLock | Strategy::BestEffort)
    }

    fn may_do_without(&self) -> bool {
        self.options.settings.agent.strategy == Strategy::BestEffort
    }

    pub(super) fn remember(&self, held: Option<(&rebootlock::id::Token, &[Group])>) {
        let before = self.memento.load();
        let same_boot = self.is_of_this_boot(&before);
        self.save(&Memento {
            boot_id: Some(self.boot_id.clone()),
            token: held.map(|(token, _)| *token),
            groups: held.map(|(_, groups)| groups.to_vec()).unwrap_or_default(),
            hooks_done: if same_boot { before.hooks_done } else { Vec::new() },
            ordered: same_boot && before.ordered,
            announced: before.announced.filter(|_| same_boot),
            counted: before.counted.filter(|_| same_boot),
            tried: before.tried,
        });
    }

    /// Whether this was written down in this boot.
    pub(super) fn is_of_this_boot(&self, memento: &Memento) -> bool {
        memento.boot_id.as_ref().is_some_and(|boot| self.boot.is(boot, true))
    }

    /// Why it could not be kept, if it could not.
    pub(super) fn save(&self, memento: &Memento) -> Option<std::io::Error> {
        let error = self.memento.save(memento).err()?;
        tracing::warn!(%error, dir = %self.options.run.state_dir.display(), "nothing can be kept in the state folder");
        Some(error)
    }

    /// A new boot fulfils the request that there was before. A request that stayed would be
    /// fulfilled twice, so this goes on trying where requests count.
    pub(super) async fn request_is_fulfilled(&mut self) {
        while let Err(source) = requests::fulfil(&self.locks, &self.machine).await {
            if !self.needs_slot() || self.may_do_without() {
                tracing::info!(error = %source, "a request for this machine may still be there");
                return;
            }
            let action = format!("reading {}", self.locks.keys().request(&self.machine));
            self.stuck("waiting for the store", &LockError::Store { action, source }).await;
        }
    }
}

/// Where a slot in this machine's name comes from.
enum Origin {
    /// Not from this machine's agent, or not for it to judge.
    Another,
    /// From this agent, in this boot.
    ThisBoot,
    /// From this machine, before this boot.
    EarlierBoot,
}

/// What a look in a task of its own found; for ever if there is none under way.
async fn looked(looking: &mut Option<AbortOnDropHandle<Option<Closed>>>) -> Option<Closed> {
    match looking {
        Some(looking) => looking.await.unwrap_or_else(|error| {
            Some(Closed::new(
                Outcome::HealthBlocked,
                format!("the gates could not be asked: {error}"),
            ))
        }),
        None => std::future::pending().await,
    }
}

pub(super) async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn names(groups: &[Group]) -> Vec<&str> {
    groups.iter().map(Group::as_str).collect()
}
