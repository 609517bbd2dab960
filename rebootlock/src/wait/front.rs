//! Among the first of a queue: a copy of all that counts, kept by watching.

use std::collections::BTreeMap;

use futures::future::{FutureExt as _, select_all};

use super::{Obstacle, Round, Waiter};
use crate::id::Group;
use crate::lock::{Acquired, LockError};
use crate::queue::Queue;
use crate::store::{Entry, Event, Key, Precondition, Revision, Select, Snapshot, Watch};

/// What counts, as last heard.
struct View {
    /// Semaphores, pauses and our own holder records.
    documents: Snapshot,
    queues: BTreeMap<Group, Queue>,
    /// All of it was read at this revision or later.
    after: Revision,
}

/// What can be done about a view.
enum Turn {
    Granted(Acquired),
    /// What was believed is not so any more.
    Lost,
    /// It is not known how it ended.
    Unsettled,
    Wait(Obstacle),
}

impl Waiter {
    /// Among the first: until it is our turn and the slots are ours.
    pub(super) async fn front(&mut self) -> Result<Round, LockError> {
        let mut view = self.view().await?;
        if self.place_is_gone(&view) {
            return Ok(Round::PlaceLost);
        }
        let mut watches = self.watches(view.after);
        let poll = tokio::time::sleep(self.poll_interval());
        tokio::pin!(poll);
        let mut heard = true;
        loop {
            match self.turn(&view).await? {
                Turn::Granted(acquired) => return Ok(Round::Granted(acquired)),
                // One commit may be heard in parts, as each watch goes its own way. The watches stay:
                // a new one of etcd may hear its first changes only after a tenth of a second.
                Turn::Lost if std::mem::take(&mut heard) => {
                    view = self.view().await?;
                    if self.place_is_gone(&view) {
                        return Ok(Round::PlaceLost);
                    }
                    continue;
                }
                Turn::Lost | Turn::Unsettled => return Ok(Round::Again),
                Turn::Wait(Obstacle::Paused { .. }) => {
                    // Outside the queue one waits for the end of a pause.
                    self.leave_queue().await;
                    return Ok(Round::Again);
                }
                Turn::Wait(obstacle) => self.report(obstacle),
            }
            let Some(place) = &mut self.place else { return Ok(Round::PlaceLost) };
            let event = tokio::select! {
                // Changes may come without end: what ends the round comes first.
                biased;
                () = place.lease.gone() => return Ok(Round::PlaceLost),
                () = self.cancel.cancelled() => return Ok(Round::Cancelled),
                (event, ..) = select_all(watches.iter_mut().map(|watch| watch.next().boxed())) => event,
                () = &mut poll => return Ok(Round::Again),
            };
            heard = true;
            match event {
                Some(Event::Changed { key, entry, revision }) => {
                    self.hear(&mut view, &key, entry, revision);
                    if self.place_is_gone(&view) {
                        return Ok(Round::PlaceLost);
                    }
                }
                Some(Event::Interrupted { reason }) => {
                    self.report(Obstacle::Failing { why: reason, out_of_reach: true });
                    self.until_resumed(&mut watches).await;
                    return Ok(Round::Again);
                }
                Some(Event::Lost { .. } | Event::Resumed) | None => return Ok(Round::Again),
            }
        }
    }

    async fn until_resumed(&self, watches: &mut [Watch]) {
        let any = select_all(watches.iter_mut().map(|watch| watch.next().boxed()));
        tokio::select! {
            biased;
            _ = any => {}
            () = self.cancel.cancelled() => {}
            () = tokio::time::sleep(self.options.poll) => {}
        }
    }

    /// Reads everything.
    async fn view(&self) -> Result<View, LockError> {
        let (store, groups) = (self.locks.store(), self.claim.groups());
        let keys = self.locks.keys_of(groups, &self.claim.machine);
        let documents = self.store_call("reading", &keys[0], store.load(&keys)).await?;
        let mut after = documents.revision;
        let mut queues = BTreeMap::new();
        for group in groups {
            let below = self.locks.keys().queue(group);
            let listing =
                self.store_call("listing", &below, store.list(&below, Select::All)).await?;
            after = after.min(listing.revision);
            queues.insert(group.clone(), Queue::of(&listing));
        }
        Ok(View { documents, queues, after })
    }

    fn watches(&self, after: Revision) -> Vec<Watch> {
        let keys = self.locks.keys();
        let of_group =
            |group: &Group| [keys.semaphore(group), keys.queue(group), keys.paused(group)];
        let mut watched: Vec<_> = self.claim.groups().iter().flat_map(of_group).collect();
        watched.push(keys.fleet_paused());
        watched.iter().map(|key| self.locks.store().watch(key, after)).collect()
    }

    /// Takes a change into account, unless it is older than what is known.
    fn hear(&self, view: &mut View, key: &Key, entry: Option<Entry>, revision: Revision) {
        if revision <= view.after {
            return;
        }
        for (group, queue) in &mut view.queues {
            if key.as_str().starts_with(self.locks.keys().queue(group).as_str()) {
                queue.changed(key, entry.as_ref(), revision);
                return;
            }
        }
        let documents = &mut view.documents.entries;
        if documents.get(key).is_some_and(|known| known.modified > revision) {
            return;
        }
        match entry {
            Some(entry) => documents.insert(key.clone(), entry),
            None => documents.remove(key),
        };
    }

    /// Whether our place ended with its lease, or another process waits for the same machine.
    fn place_is_gone(&self, view: &View) -> bool {
        let kept = |(key, _, modified): &(Key, Revision, Revision)| {
            view.queues.values().any(|queue| queue.keeps(key, *modified))
        };
        !self.place.as_ref().is_some_and(|place| place.tickets.iter().all(kept))
    }

    /// Takes the slots if it is our turn.
    async fn turn(&self, view: &View) -> Result<Turn, LockError> {
        let now = self.locks.now();
        for (group, queue) in &view.queues {
            let Some(ahead) = queue.ahead_of(&self.claim.machine, now) else {
                return Ok(Turn::Unsettled);
            };
            let free = self.locks.semaphore(&view.documents, group)?.available();
            let holds = self.locks.semaphore(&view.documents, group)?.holds(&self.claim.machine);
            if !holds
                && free <= ahead as i64
                && self.locks.pause_in_force(&view.documents, self.claim.groups()).is_none()
            {
                let group = group.clone();
                return Ok(Turn::Wait(Obstacle::Queued { group, ahead: Some(ahead) }));
            }
        }
        let places =
            self.place.iter().flat_map(|place| &place.tickets).map(|(key, _, modified)| {
                Precondition { key: key.clone(), modified: Some(*modified) }
            });
        let asked = self.locks.acquire_from(&self.claim, &view.documents, places).await;
        match self.answered(asked) {
            Ok(Some(acquired)) => Ok(Turn::Granted(acquired)),
            Ok(None) => Ok(Turn::Lost),
            Err(LockError::Full { group, .. }) => {
                Ok(Turn::Wait(Obstacle::Queued { group, ahead: Some(0) }))
            }
            Err(paused @ LockError::Paused { .. }) => {
                let why = paused.to_string();
                let LockError::Paused { scope, .. } = paused else { return Ok(Turn::Unsettled) };
                Ok(Turn::Wait(Obstacle::Paused { scope, why }))
            }
            Err(error) => Err(error),
        }
    }
}
