//! Slots from a store: it knows who holds, since which boot, and how far they have come.

use std::collections::BTreeMap;
use std::sync::Arc;

use rebootlock::id::Group;
use rebootlock::lock::{LockError, LockManager};
use rebootlock::record::{HolderRecord, HolderState, Via, sorted_groups};
use rebootlock::wait::forget_places;

use super::{Agent, Held};
use crate::memento::{Asked, Memento};
use crate::policy::Event;
use crate::requests;

impl Agent {
    /// Whether this machine holds a slot from an earlier life of its agent, and from which boot.
    pub(super) async fn look_at_store(&mut self, locks: &Arc<LockManager>) -> Event {
        let memento = self.memento.load();
        if let Some(asked) = &memento.asked {
            let Asked { server, id, group, .. } = asked;
            tracing::error!(
                server, id, %group,
                "this machine may have a slot at a FleetLock server that it does not use any more; \
                 somebody should give it back there"
            );
        }
        if memento.boot_id.is_some() && !self.is_of_this_boot(&memento) {
            self.request_is_fulfilled().await;
            let groups = sorted_groups(memento.groups.clone());
            if let Err(error) = forget_places(locks, &groups, &self.machine).await {
                tracing::debug!(%error, "a place in the queue may be left until its lease ends");
            }
        }
        let groups = self.options.settings.machine.groups.iter().cloned();
        let groups = sorted_groups(groups.chain(memento.groups.clone()));
        loop {
            match locks.holding(&groups, &self.machine).await {
                Ok(held) => {
                    self.clear_trouble();
                    if held.is_empty() && memento.token.is_some() {
                        // An earlier life asked for a slot, and the answer may be on its way.
                        match locks.settle_unanswered(&groups, &self.machine).await {
                            Ok(true) => continue,
                            Ok(false) => {}
                            Err(error) => {
                                self.stuck("cannot settle what was asked for before", &error).await;
                                continue;
                            }
                        }
                    }
                    self.looked = true;
                    if let Some(event) = self.judge(locks, held, &memento).await {
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
        locks: &LockManager,
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
            Origin::ThisBoot => self.carry_on(locks, groups, record).await,
            Origin::EarlierBoot => {
                // Without a boot id it cannot be told from one taken in this boot by a program
                // that writes no records and may be rebooting just now.
                if record.as_ref().is_none_or(|record| record.boot_id.is_none())
                    && !self.is_certainly_up().await
                {
                    let why = "this machine may be going down; its slot is left alone";
                    tracing::info!("{why}");
                    self.lose_patience(why).await;
                    tokio::time::sleep(self.poll()).await;
                    return None;
                }
                // One that has failed stays failed until it is well.
                let failed = record.as_ref().and_then(|record| record.state.clone());
                let failed = failed.filter(|state| *state == HolderState::Failed);
                let state = failed.unwrap_or(HolderState::Verifying);
                self.take_over(locks, groups, record, state).await.then_some(Event::CameBack)
            }
        }
    }

    /// No slot is held: but the machine may have rebooted without one, or be unlocked meanwhile, and
    /// then it has to be looked at all the same.
    pub(super) fn without_slot(&self, memento: &Memento) -> Event {
        if self.is_back(memento) {
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
        locks: &LockManager,
        groups: Vec<Group>,
        record: Option<HolderRecord>,
    ) -> Option<Event> {
        let state = record.as_ref().and_then(|record| record.state.clone());
        let permitted = state == Some(HolderState::Rebooting);
        let whole = groups == self.options.settings.machine.groups;
        let state = state.unwrap_or(HolderState::Holding);
        if !self.take_over(locks, groups, record, state).await {
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
        locks: &LockManager,
        groups: Vec<Group>,
        record: Option<HolderRecord>,
        state: HolderState,
    ) -> bool {
        let claim = self.claim(groups);
        loop {
            match locks.adopt(&claim, record.as_ref(), state.clone()).await {
                Ok(()) => break,
                Err(LockError::NotOurs { .. }) => return false,
                Err(error) => self.stuck("cannot take over this machine's slot", &error).await,
            }
        }
        self.clear_trouble();
        let since = record.as_ref().map(|record| record.start_time);
        let held = Held { since, ..Held::of(&claim) };
        self.remember(Some(&held));
        self.held = Some(held);
        self.found = record;
        true
    }

    /// Whether a slot of this machine's has turned up that could not be seen before; and makes
    /// sure that none can from here on. `None`: the store does not tell yet.
    pub(super) async fn look_again_at_store(&mut self, locks: &LockManager) -> Option<Event> {
        let groups = self.options.settings.machine.groups.clone();
        let held = if self.needs_slot() {
            locks.settle_unanswered(&groups, &self.machine).await
        } else {
            // Nothing was asked for, so there is nothing to settle.
            locks.holding(&groups, &self.machine).await.map(|held| !held.is_empty())
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

    /// A new boot fulfils the request that there was before. A request that stayed would be
    /// fulfilled twice, so this goes on trying where requests count.
    pub(super) async fn request_is_fulfilled(&mut self) {
        let Some(locks) = self.slots.locks().cloned() else { return };
        while let Err(source) = requests::fulfil(&locks, &self.machine).await {
            if !self.needs_slot() || self.may_do_without() {
                tracing::info!(error = %source, "a request for this machine may still be there");
                return;
            }
            let action = format!("reading {}", locks.keys().request(&self.machine));
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
