//! Far behind in a queue: watching the one who came so many places before.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{FRONT, Obstacle, Round, Waiter};
use crate::id::Group;
use crate::lock::LockError;
use crate::store::{Entry, Event, Key, Revision, Select};

/// Whom a waiter watches.
pub(super) enum Guard {
    /// Nobody: it is among the first.
    None,
    /// It has no place of its own.
    Gone,
    /// The one so far before it in this group, present at that revision, and those who came after it.
    Behind(Group, Key, Neighbours, Revision),
}

/// Who waits right before us in a group.
#[derive(Debug)]
pub(super) struct Neighbours {
    /// The places of those who came between the one whom we watched and ourselves, and ours, as they were
    /// when that one was still there.
    pub(super) places: BTreeMap<Key, Entry>,
    /// Whether they waited for the only slot: who has one of several says little of whose turn it was.
    pub(super) only_slot: bool,
}

impl Waiter {
    /// Whom to watch while far behind.
    pub(super) async fn guard(&self) -> Result<Guard, LockError> {
        let Some(place) = &self.place else { return Ok(Guard::Gone) };
        if self.claim.priority > 0 {
            return Ok(Guard::None);
        }
        // All places came at one revision.
        let Some((_, came, _)) = place.tickets.first() else { return Ok(Guard::Gone) };
        let (keys, own) = (self.locks.keys(), self.locks.own_keys(&self.claim));
        let before: Vec<_> = self
            .claim
            .groups()
            .iter()
            .map(|group| (keys.queue(group), Select::NewestBefore(*came, FRONT)))
            .collect();
        let reading = self.locks.store().read(&own, &before);
        let seen = self.store_call("looking at", &before[0].0, reading).await?;
        let is_kept = |(key, _, modified): &(Key, Revision, Revision)| {
            seen.get(key).is_some_and(|entry| entry.modified == *modified)
        };
        if !place.tickets.iter().all(is_kept) {
            return Ok(Guard::Gone);
        }
        for (group, (own, _, _)) in self.claim.groups().iter().zip(&place.tickets) {
            let mut places = seen.below(&keys.queue(group)).entries;
            let ours = places.remove(own);
            if places.len() == FRONT
                && let Some((guard, _)) = places.iter().min_by_key(|(_, e)| e.created)
            {
                let guard = guard.clone();
                places.remove(&guard);
                places.extend(ours.map(|ours| (own.clone(), ours)));
                let only_slot =
                    self.locks.semaphore(&seen, group).is_ok_and(|semaphore| semaphore.max() == 1);
                let neighbours = Neighbours { places, only_slot };
                return Ok(Guard::Behind(group.clone(), guard, neighbours, seen.revision));
            }
        }
        Ok(Guard::None)
    }

    /// Far behind: until the guard is gone.
    pub(super) async fn behind(
        &mut self,
        group: Group,
        guard: Key,
        neighbours: Neighbours,
        after: Revision,
    ) -> Result<Round, LockError> {
        let queued = Obstacle::Queued { group, ahead: None };
        self.report(queued.clone());
        let guard = &guard;
        let mut changes = self.locks.store().watch(&guard.into(), after);
        let poll = tokio::time::sleep(self.poll_interval());
        tokio::pin!(poll);
        loop {
            let Some(place) = &mut self.place else { return Ok(Round::PlaceLost) };
            tokio::select! {
                biased;
                () = place.lease.gone() => return Ok(Round::PlaceLost),
                () = self.cancel.cancelled() => return Ok(Round::Cancelled),
                event = changes.next() => match event {
                    Some(Event::Changed { entry: None, .. }) => {
                        // Nobody can have come in between, so if all before the guard are gone
                        // too this one is among the first; if not, it will see.
                        if self.claim.groups().len() == 1 {
                            self.moved_up = Some(neighbours);
                        }
                        return Ok(Round::Again);
                    }
                    Some(Event::Changed { .. }) => continue,
                    Some(Event::Interrupted { reason }) => {
                        let why = reason;
                        self.obstacles.send_replace(Obstacle::Failing { why, out_of_reach: true });
                        continue;
                    }
                    Some(Event::Lost { .. } | Event::Resumed) | None => {}
                },
                () = &mut poll => {}
            }
            let seen = loop {
                match self.stands_behind(guard).await {
                    Ok(seen) => break seen,
                    // Not everything anew: all who are far behind are in this, and at one time.
                    Err(error) => match self.failed(&error).await {
                        Round::Again => {}
                        ended => return Ok(ended),
                    },
                }
            };
            let Some(seen) = seen else { return Ok(Round::Again) };
            self.report(queued.clone());
            changes = self.locks.store().watch(&guard.into(), seen);
            poll.as_mut().reset(Instant::now() + self.poll_interval());
        }
    }

    /// Whether our place is still behind that of the guard, and when that was seen. Looks at no more
    /// than these: a store sorts all of a queue to give any part of it, and many look.
    async fn stands_behind(&self, guard: &Key) -> Result<Option<Revision>, LockError> {
        let Some(place) = &self.place else { return Ok(None) };
        let mut keys: Vec<_> = place.tickets.iter().map(|(key, ..)| key.clone()).collect();
        keys.push(guard.clone());
        let looking = self.locks.store().load(&keys);
        let seen = self.store_call("looking at", guard, looking).await?;
        let is_behind = |(key, came, modified): &(Key, Revision, Revision)| {
            let own = seen.get(key).is_some_and(|own| own.modified == *modified);
            // Else it went, and came back behind us.
            own && seen.get(guard).is_some_and(|guard| guard.created < *came)
        };
        Ok(place.tickets.iter().all(is_behind).then_some(seen.revision))
    }
}
