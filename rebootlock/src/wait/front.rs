//! Among the first of a queue: a copy of all that counts, kept by watching.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::FutureExt as _;

use super::{FRONT, Obstacle, Round, Waiter};
use crate::id::Group;
use crate::lock::{Acquired, LockError};
use crate::queue::Queue;
use crate::store::{Entry, Event, Key, Precondition, Revision, Select, Snapshot, Span, Watch};

/// How much of a queue is read: those before the last of the first, and that one.
const HEAD: usize = FRONT + 1;

/// Who lost a commit hears within this time why, or looks.
const HEARD_WITHIN: Duration = Duration::from_millis(100);

/// What counts, as last heard.
struct View {
    /// Semaphores, what stops us, and our own holder records.
    documents: Snapshot,
    queues: BTreeMap<Group, Queue>,
    /// The queues of which no more than the head is known, and our own place behind it.
    far_behind: BTreeSet<Group>,
    /// All of it was read at this revision or later.
    after: Revision,
}

impl View {
    /// Whether so many have left that the head of a queue has to be read again.
    fn is_worn(&self) -> bool {
        let worn = |group| self.queues.get(group).is_some_and(|queue| queue.len() <= FRONT / 2);
        self.far_behind.iter().any(worn)
    }
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
        // First the watches and then the reading: nothing falls between, and etcd need not catch
        // up with a past, which it does ten times a second only.
        let mut changes = self.changes();
        let place = match &mut self.place {
            Some(place) => place,
            None => return Ok(Round::PlaceLost),
        };
        let begun = tokio::select! {
            biased;
            () = place.lease.gone() => return Ok(Round::PlaceLost),
            () = self.cancel.cancelled() => return Ok(Round::Cancelled),
            event = changes.next() => event,
        };
        match begun {
            Some(Event::Lost { .. }) => {}
            Some(Event::Interrupted { reason }) => return self.interrupted(reason, changes).await,
            _ => return Ok(Round::Again),
        }
        let mut view = self.view().await?;
        if self.place_is_gone(&view) {
            return Ok(Round::PlaceLost);
        }
        if self.claim.priority == 0 && !view.far_behind.is_empty() {
            return Ok(Round::Again);
        }
        let poll = tokio::time::sleep(self.poll_interval());
        tokio::pin!(poll);
        let mut heard = true;
        loop {
            let lost = match self.turn(&view).await? {
                Turn::Granted(acquired) => return Ok(Round::Granted(acquired)),
                Turn::Lost if std::mem::take(&mut heard) => true,
                Turn::Lost | Turn::Unsettled => return Ok(Round::Again),
                Turn::Wait(Obstacle::Paused { .. } | Obstacle::Held { .. }) => {
                    // Outside the queue one waits for the end of a pause or a hold.
                    self.leave_queue().await;
                    return Ok(Round::Again);
                }
                Turn::Wait(obstacle) => {
                    self.report(obstacle);
                    false
                }
            };
            let Some(place) = &mut self.place else { return Ok(Round::PlaceLost) };
            let mut next = tokio::select! {
                // Changes may come without end: what ends the round comes first.
                biased;
                () = place.lease.gone() => return Ok(Round::PlaceLost),
                () = self.cancel.cancelled() => return Ok(Round::Cancelled),
                event = changes.next() => Some(event),
                () = &mut poll => return Ok(Round::Again),
                // What came before us is not watched, or on its way for too long.
                () = tokio::time::sleep(HEARD_WITHIN), if lost => {
                    view = self.view().await?;
                    None
                }
            };
            // All that has been heard of counts as one piece of news.
            while let Some(event) = next {
                match event {
                    Some(Event::Changed { key, entry, revision }) => {
                        heard = true;
                        self.hear(&mut view, &key, entry, revision);
                    }
                    Some(Event::Interrupted { reason }) => {
                        return self.interrupted(reason, changes).await;
                    }
                    Some(Event::Lost { .. } | Event::Resumed) | None => return Ok(Round::Again),
                }
                next = changes.next().now_or_never();
            }
            if view.is_worn() {
                view = self.view().await?;
            }
            if self.place_is_gone(&view) {
                return Ok(Round::PlaceLost);
            }
        }
    }

    /// Until the store answers again.
    async fn interrupted(&self, reason: String, mut changes: Watch) -> Result<Round, LockError> {
        self.report(Obstacle::Failing { why: reason, out_of_reach: true });
        tokio::select! {
            biased;
            _ = changes.next() => {}
            () = self.cancel.cancelled() => {}
            () = tokio::time::sleep(self.options.poll) => {}
        }
        Ok(Round::Again)
    }

    /// Reads everything.
    async fn view(&self) -> Result<View, LockError> {
        let (store, groups) = (self.locks.store(), self.claim.groups());
        let mut keys = self.locks.keys_of(groups, &self.claim.machine);
        let own = |group| self.locks.keys().waiter(group, &self.claim.machine);
        keys.extend(groups.iter().map(own));
        let below = groups.iter().flat_map(|group| {
            let keys = self.locks.keys();
            [(keys.queue(group), Select::Oldest(HEAD)), (keys.all_urgent(group), Select::All)]
        });
        let below: Vec<_> = below.collect();
        let mut documents = self.store_call("reading", &keys[0], store.read(&keys, &below)).await?;
        let after = documents.revision;
        let (mut queues, mut far_behind) = (BTreeMap::new(), BTreeSet::new());
        for group in groups {
            let mut below = |prefix: Key| {
                let below = documents
                    .entries
                    .extract_if(.., |key, _| Span::Below(prefix.clone()).contains(key));
                Snapshot { revision: after, entries: below.collect() }
            };
            let (head, urgent) =
                (below(self.locks.keys().queue(group)), below(self.locks.keys().all_urgent(group)));
            // Our own place is read by its key, and so comes on top if it is not at the head.
            if head.entries.len() > HEAD {
                far_behind.insert(group.clone());
            }
            queues.insert(group.clone(), Queue::of_head(&head, &urgent));
        }
        Ok(View { documents, queues, far_behind, after })
    }

    fn changes(&self) -> Watch {
        let keys = self.locks.keys();
        let mut watched: Vec<_> =
            self.claim.groups().iter().map(|group| keys.waited_for(group)).collect();
        let cooldowns = self.claim.groups().iter().map(|group| keys.cooldown(group));
        let others = [keys.fleet_paused(), keys.hold(&self.claim.machine)];
        watched.extend(cooldowns.chain(others).map(Span::Below));
        self.locks.store().watch_from_now(&watched)
    }

    /// Takes a change into account, unless it is older than what is known.
    fn hear(&self, view: &mut View, key: &Key, entry: Option<Entry>, revision: Revision) {
        if revision <= view.after {
            return;
        }
        for (group, queue) in &mut view.queues {
            if key.as_str().starts_with(self.locks.keys().queue(group).as_str()) {
                queue.head_changed(key, entry.as_ref(), revision);
                return;
            }
            if key.as_str().starts_with(self.locks.keys().all_urgent(group).as_str()) {
                queue.urgent_changed(key, entry.as_ref(), revision);
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
        let (groups, machine) = (self.claim.groups(), &self.claim.machine);
        for (group, queue) in &view.queues {
            let Some(ahead) = queue.ahead_of(machine) else { return Ok(Turn::Unsettled) };
            if view.far_behind.contains(group) && queue.is_behind_the_head(machine) {
                let group = group.clone();
                return Ok(Turn::Wait(Obstacle::Queued { group, ahead: None }));
            }
            let free = self.locks.semaphore(&view.documents, group)?.available();
            let holds = self.locks.semaphore(&view.documents, group)?.holds(&self.claim.machine);
            if !holds
                && free <= ahead as i64
                && self.locks.stop_in_force(&view.documents, groups, machine).is_none()
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
            Err(error) => Obstacle::of(&error).map(Turn::Wait).ok_or(error),
        }
    }
}
