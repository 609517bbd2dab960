//! Among the first of a queue: a copy of all that counts, kept by watching.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::FutureExt as _;
use tokio::time::Instant;

use super::{FRONT, Neighbours, Obstacle, Round, Waiter};
use crate::id::{Group, MachineId};
use crate::lock::{Acquired, LockError};
use crate::queue::Queue;
use crate::store::{Entry, Event, Key, Precondition, Revision, Select, Snapshot, Span, Watch};

/// How much of a queue is read. Not only those before the last of the first: where there are several
/// slots they do not go one after the other, and a store sorts all of a queue to give any part of it.
const HEAD: usize = 32;

/// Who lost a commit hears within this time why, or looks.
const HEARD_WITHIN: Duration = Duration::from_millis(100);

/// Who has not seen the whole head of the queue looks at it after this long.
const SEEN_WITHIN: Duration = Duration::from_millis(5);

/// Who has read nothing at all reads after this long: one of those it believes to be before it may have
/// left before it heard of anything.
const READ_WITHIN: Duration = Duration::from_millis(50);

/// Who is among the first for longer than this watches what hardly ever changes too. A watch costs a
/// store as much as a hand-over does, and whoever moves up through a fast queue needs none: what it
/// has not heard of its transaction finds out.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Whether a watch that has just begun may be late. etcd decides from which revision on a watch tells
/// before it registers it. One that a write overtakes in between is in its own past, and hears of
/// everything at etcd's next round for such watches, up to 100 ms later. From outside this looks like
/// quiet, so quiet is not believed until something was heard or that time is over.
struct Doubt {
    /// The groups whose watch has told nothing yet.
    unheard: BTreeSet<Group>,
    /// Until when it may be late.
    until: Instant,
    /// When to look next, and how long after that again.
    look: Instant,
    pause: Duration,
}

impl Doubt {
    /// Twice the time between two of etcd's rounds.
    const LASTS: Duration = Duration::from_millis(200);

    const FIRST_PAUSE: Duration = Duration::from_millis(3);

    /// After a watch was confirmed at `begun` and everything was read at `read`: without any write
    /// between the two, none can have overtaken it.
    fn of(groups: &[Group], begun: Revision, read: Revision) -> Self {
        let doubtful = groups.iter().filter(|_| read > begun);
        let (now, pause) = (Instant::now(), Self::FIRST_PAUSE);
        let unheard = doubtful.cloned().collect();
        Self { unheard, until: now + Self::LASTS, look: now + pause, pause }
    }

    /// Returns when it is time to look, if it ever is.
    async fn time_to_look(&self) {
        if self.unheard.is_empty() || self.look > self.until {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(self.look).await;
    }

    fn looked(&mut self) {
        self.pause *= 2;
        self.look = Instant::now() + self.pause;
    }
}

/// What counts, as last heard.
struct View {
    /// Semaphores, what stops us, and our own holder records.
    documents: Snapshot,
    queues: BTreeMap<Group, Queue>,
    /// The queues of which no more than the head is known, and our own place behind it.
    far_behind: BTreeSet<Group>,
    /// Nothing was read of the only queue yet, but this is believed.
    believed: Option<Believed>,
    /// What was heard of up to this revision is part of it.
    after: Revision,
}

/// Who was right before us when we last looked, and may have left before we heard of anything.
struct Believed {
    /// Their places and ours, and when they came.
    came: BTreeMap<Key, Revision>,
    /// Whether somebody may be before them.
    is_headless: bool,
}

impl View {
    /// Whether it is not known yet who is at the head of the queue.
    fn is_headless(&self) -> bool {
        self.believed.as_ref().is_some_and(|believed| believed.is_headless)
    }

    /// What is known before anything was read.
    fn believed(group: &Group, known: Neighbours, begun: Revision) -> Self {
        let places = Snapshot { revision: begun, entries: known.places };
        let came = places.entries.iter().map(|(key, entry)| (key.clone(), entry.created)).collect();
        let queue = Queue::of_head(&places, &Snapshot::default());
        Self {
            documents: Snapshot { revision: begun, ..Snapshot::default() },
            queues: BTreeMap::from([(group.clone(), queue)]),
            far_behind: BTreeSet::new(),
            believed: Some(Believed { came, is_headless: true }),
            after: begun,
        }
    }

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
    /// Our place is not in the queue.
    Misplaced,
    /// This machine has a slot, from this acquisition or another.
    Holds,
    Wait(Obstacle),
}

impl Waiter {
    /// Among the first: until it is our turn and the slots are ours.
    ///
    /// Who has just moved up knows those between the one that went and itself, and hears of all that
    /// happens from now on. While the queue moves fast it reads nothing.
    pub(super) async fn front(&mut self, known: Option<Neighbours>) -> Result<Round, LockError> {
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
        let begun = match begun {
            Some(Event::Lost { revision }) => revision,
            Some(Event::Interrupted { reason }) => return self.interrupted(reason, changes).await,
            _ => return Ok(Round::Again),
        };
        let settled_watch =
            changes.told_since().is_some_and(|since| since.elapsed() > Doubt::LASTS);
        let mut view = match known {
            Some(known) if known.only_slot => View::believed(&self.claim.groups()[0], known, begun),
            _ => self.view().await?,
        };
        let see = tokio::time::sleep(SEEN_WITHIN);
        tokio::pin!(see);
        let read = tokio::time::sleep(READ_WITHIN);
        tokio::pin!(read);
        let settled = tokio::time::sleep(SETTLED_AFTER);
        tokio::pin!(settled);
        let mut rare: Option<Watch> = None;
        if self.place_is_gone(&view) {
            return Ok(Round::PlaceLost);
        }
        if self.claim.priority == 0 && !view.far_behind.is_empty() {
            return Ok(Round::Again);
        }
        let groups = self.claim.groups().to_vec();
        let doubt_of =
            |view: &View| Doubt::of(if settled_watch { &[] } else { &groups }, begun, view.after);
        let mut doubt = doubt_of(&view);
        let poll = tokio::time::sleep(self.poll_interval());
        tokio::pin!(poll);
        let mut heard = true;
        loop {
            self.see_head(&mut view).await?;
            let lost = match self.turn(&view).await? {
                Turn::Granted(acquired) => return Ok(Round::Granted(acquired)),
                Turn::Lost if std::mem::take(&mut heard) => true,
                Turn::Lost | Turn::Misplaced => return Ok(Round::Again),
                Turn::Holds => {
                    // Who holds does not wait, and finds out outside the queue by which acquisition.
                    self.unsettled.store(true, Ordering::SeqCst);
                    self.leave_queue().await;
                    return Ok(Round::Again);
                }
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
                event = next_of(&mut rare) => match event {
                    Some(Event::Lost { .. } | Event::Resumed) => {
                        // First the watch and then the reading, here too.
                        view = self.view().await?;
                        None
                    }
                    heard => Some(heard),
                },
                () = &mut settled, if rare.is_none() => {
                    rare = Some(self.rare_changes());
                    None
                }
                () = &mut poll => return Ok(Round::Again),
                // What came before us is not watched, or on its way for too long.
                () = tokio::time::sleep(HEARD_WITHIN), if lost => {
                    view = self.view().await?;
                    None
                }
                () = &mut see, if view.is_headless() => {
                    view = self.view().await?;
                    doubt = doubt_of(&view);
                    None
                }
                () = &mut read, if view.believed.is_some() => {
                    view = self.view().await?;
                    doubt = doubt_of(&view);
                    None
                }
                () = doubt.time_to_look() => {
                    view = self.view().await?;
                    doubt.looked();
                    None
                }
            };
            // All that has been heard of counts as one piece of news.
            while let Some(event) = next {
                match event {
                    Some(Event::Changed { key, entry, revision }) => {
                        heard = true;
                        let keys = self.locks.keys();
                        doubt.unheard.retain(|group| !keys.waited_for(group).contains(&key));
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

    /// Whether those whom we know are the head of the queue: one of them was heard to leave it and has
    /// the only slot, which it got in its turn. So nobody was before it then, and of whoever came
    /// before us since we have heard. If somebody seems to be before it still, what we believe is
    /// not so, and everything has to be read.
    async fn see_head(&self, view: &mut View) -> Result<(), LockError> {
        let Some(believed) = &mut view.believed else { return Ok(()) };
        let group = &self.claim.groups()[0];
        let semaphore = self.locks.semaphore(&view.documents, group)?;
        let Some(queue) = view.queues.get(group) else { return Ok(()) };
        let took_its_turn = |machine: &MachineId| {
            let place = self.locks.keys().waiter(group, machine);
            believed.came.get(&place).copied().filter(|_| !queue.has(&place))
        };
        if semaphore.max() == 1
            && let Some(came) = semaphore.holders().iter().find_map(took_its_turn)
        {
            match queue.has_from_before(came) {
                true => *view = self.view().await?,
                false => believed.is_headless = false,
            }
        }
        Ok(())
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
            let (head, urgent) = (
                part(&mut documents, &Span::Below(self.locks.keys().queue(group))),
                part(&mut documents, &Span::Below(self.locks.keys().all_urgent(group))),
            );
            // Our own place is read by its key, and so comes on top if it is not at the head.
            if head.entries.len() > HEAD {
                far_behind.insert(group.clone());
            }
            queues.insert(group.clone(), Queue::of_head(&head, &urgent));
        }
        Ok(View { documents, queues, far_behind, believed: None, after })
    }

    fn changes(&self) -> Watch {
        let of_group = |group| self.locks.keys().waited_for(group);
        let watched: Vec<_> = self.claim.groups().iter().map(of_group).collect();
        self.locks.store().watch_from_now(&watched)
    }

    fn rare_changes(&self) -> Watch {
        let keys = self.locks.keys();
        let cooldowns = self.claim.groups().iter().map(|group| keys.cooldown(group));
        let others = [keys.fleet_paused(), keys.hold(&self.claim.machine)];
        let watched: Vec<_> = cooldowns.chain(others).map(Span::Below).collect();
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
    async fn turn(&mut self, view: &View) -> Result<Turn, LockError> {
        if view.is_headless() {
            let group = self.claim.groups()[0].clone();
            return Ok(Turn::Wait(Obstacle::Queued { group, ahead: None }));
        }
        for group in self.claim.groups() {
            if self.locks.semaphore(&view.documents, group)?.holds(&self.claim.machine) {
                return Ok(Turn::Holds);
            }
        }
        self.believe_loss(view);
        let (groups, machine) = (self.claim.groups(), &self.claim.machine);
        for (group, queue) in &view.queues {
            let Some(ahead) = queue.ahead_of(machine) else { return Ok(Turn::Misplaced) };
            if view.far_behind.contains(group) && queue.is_behind_the_head(machine) {
                let group = group.clone();
                return Ok(Turn::Wait(Obstacle::Queued { group, ahead: None }));
            }
            let free = self.locks.semaphore(&view.documents, group)?.available();
            if free <= ahead as i64
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
            Ok(None) => {
                self.set_lost_to(Some(self.required(view)));
                Ok(Turn::Lost)
            }
            Err(error) => Obstacle::of(&error).map(Turn::Wait).ok_or(error),
        }
    }

    /// The semaphores that an acquisition requires.
    fn required(&self, view: &View) -> Vec<Option<Revision>> {
        let of_group = |group| view.documents.get(&self.locks.keys().semaphore(group));
        self.claim
            .groups()
            .iter()
            .map(|group| of_group(group).map(|found| found.modified))
            .collect()
    }

    /// Once this machine has no slot, and the semaphores are not those any more that the acquisition
    /// required, it has lost indeed and will never happen.
    fn believe_loss(&mut self, view: &View) {
        if self.lost_to.as_ref().is_some_and(|required| *required != self.required(view)) {
            self.set_lost_to(None);
        }
    }

    fn set_lost_to(&mut self, required: Option<Vec<Option<Revision>>>) {
        self.unsettled.store(required.is_some(), Ordering::SeqCst);
        self.lost_to = required;
    }
}

async fn next_of(watch: &mut Option<Watch>) -> Option<Event> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// Takes what is within `span` out of `read`.
fn part(read: &mut Snapshot, span: &Span) -> Snapshot {
    let entries = read.entries.extract_if(.., |key, _| span.contains(key)).collect();
    Snapshot { revision: read.revision, entries }
}
