//! Who is next: the order of a queue. Pure.
//!
//! First come, first served, by the revision at which the store saw a waiter come. A higher
//! priority goes before a lower one that came later than its ticket's `overtakesFrom`, a revision
//! that whoever enters chooses so that it overtakes nobody who has waited [`PATIENCE`] already
//! ([`overtakes_from`]). So each is overtaken by the few who come within that time and by nobody
//! after, and nobody starves.
//!
//! The place of a ticket follows from what it says itself and from nothing else ([`Rank`]): two
//! tickets stand in the same order in every queue that has both, whoever looks, whoever else waits
//! there, and whatever any clock says. Did it not, two machines in the same groups could each wait for
//! the other, and leave a free slot to nobody.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::MachineId;
use crate::keys::last_segment;
use crate::record::{Claim, Document, UnixTime, Waiter};
use crate::store::{Entry, Key, Revision, Snapshot};

/// Whoever has waited so long is overtaken by nobody who comes now, whatever its priority.
pub const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// One place in a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    /// Whose.
    pub machine: MachineId,
    /// When the store saw it come.
    pub created: Revision,
    /// When it was last written.
    pub modified: Revision,
    /// What it says of itself; `None` if that cannot be read. Its place counts all the same.
    pub waiter: Option<Waiter>,
}

impl Ticket {
    fn priority(&self) -> u32 {
        self.waiter.as_ref().map_or(0, |waiter| waiter.priority)
    }

    fn rank(&self) -> Rank<'_> {
        let from = self.waiter.as_ref().and_then(|waiter| waiter.overtakes_from);
        let from = from.filter(|_| self.priority() > 0).map_or(self.created, Revision);
        (from.min(self.created), Reverse(self.priority()), self.created, &self.machine)
    }

    /// Whether it says that it came [`PATIENCE`] before `now`. What cannot be read does: it is
    /// overtaken by nobody, as its lease will end.
    fn has_waited_long(&self, now: UnixTime) -> bool {
        let since = self.waiter.as_ref().map(|waiter| waiter.since);
        since.is_none_or(|since| now.0.saturating_sub(since.0) >= PATIENCE.as_secs() as i64)
    }
}

/// What the place of a ticket follows from: before whom it goes, whose priority is higher, who came first.
type Rank<'a> = (Revision, Reverse<u32>, Revision, &'a MachineId);

/// What whoever enters these queues with this claim has to overtake from: all of less priority who
/// came at this revision or later, which are those who have not waited long in any of them.
pub fn overtakes_from(queues: &[Queue], claim: &Claim, now: UnixTime) -> u64 {
    let others = queues.iter().flat_map(|queue| queue.places.values());
    let others = others.filter(|ticket| ticket.machine != claim.machine);
    let after = others.filter_map(|ticket| {
        let Revision(from) = ticket.rank().0;
        match ticket.has_waited_long(now) {
            true => Some(from.saturating_add(1)),
            // Its equals go in the order in which they came, whoever has left since.
            false => (ticket.priority() >= claim.priority).then_some(from),
        }
    });
    after.max().unwrap_or(0)
}

/// A queue as last seen: all of it, or its head and those in it who have a priority, which is
/// enough to know who goes before a machine at its head.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Queue {
    places: BTreeMap<Key, Ticket>,
    urgent: BTreeMap<Key, Ticket>,
}

impl Queue {
    /// The queue that a listing of its places shows.
    pub fn of(listing: &Snapshot) -> Self {
        Self { places: tickets(listing), urgent: BTreeMap::new() }
    }

    /// The head of a queue, and all who wait in it with a priority.
    pub fn of_head(oldest: &Snapshot, urgent: &Snapshot) -> Self {
        Self { places: tickets(oldest), urgent: tickets(urgent) }
    }

    /// Takes a change of one place into account, unless it is older than what is known.
    pub fn changed(&mut self, key: &Key, entry: Option<&Entry>, revision: Revision) {
        change(&mut self.places, key, entry, revision);
    }

    /// The same, for a queue of which only the head is known: who comes now comes behind it.
    pub fn head_changed(&mut self, key: &Key, entry: Option<&Entry>, revision: Revision) {
        if self.places.contains_key(key) {
            self.changed(key, entry, revision);
        }
    }

    /// Takes a change of one who waits with a priority into account.
    pub fn urgent_changed(&mut self, key: &Key, entry: Option<&Entry>, revision: Revision) {
        change(&mut self.urgent, key, entry, revision);
    }

    /// Whether the place under `key` is still the one that was written at `modified`.
    pub fn keeps(&self, key: &Key, modified: Revision) -> bool {
        self.places.get(key).is_some_and(|ticket| ticket.modified == modified)
    }

    /// Whether somebody waits in the place under `key`.
    pub fn has(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    /// Whether somebody waits who came before that revision.
    pub fn has_from_before(&self, revision: Revision) -> bool {
        self.places.values().any(|ticket| ticket.created < revision)
    }

    /// How many places are known.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nobody is known to wait.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// All tickets, the next one first.
    pub fn in_order(&self) -> Vec<Ticket> {
        self.order().into_iter().cloned().collect()
    }

    /// How many go before `machine`; `None` if it does not wait here.
    pub fn ahead_of(&self, machine: &MachineId) -> Option<usize> {
        self.order().iter().position(|ticket| ticket.machine == *machine)
    }

    /// Whether everybody known to have come before `machine` also goes before it. Where only the
    /// head of a queue is known, those who came after the head may go before it too then.
    pub fn is_behind_the_head(&self, machine: &MachineId) -> bool {
        let before = self.order().into_iter().take_while(|ticket| ticket.machine != *machine);
        let before: BTreeSet<_> = before.map(|ticket| &ticket.machine).collect();
        let others = self.places.values().filter(|ticket| ticket.machine != *machine);
        others.map(|ticket| &ticket.machine).all(|other| before.contains(other))
    }

    fn order(&self) -> Vec<&Ticket> {
        let mut order: Vec<_> = self.places.values().collect();
        // Who is in both lists is one.
        let listed: BTreeSet<_> = order.iter().map(|ticket| &ticket.machine).collect();
        order.extend(self.urgent.values().filter(|ticket| !listed.contains(&ticket.machine)));
        order.sort_by_key(|ticket| ticket.rank());
        order
    }
}

fn tickets(listing: &Snapshot) -> BTreeMap<Key, Ticket> {
    let mut tickets = BTreeMap::new();
    for (key, entry) in &listing.entries {
        change(&mut tickets, key, Some(entry), entry.modified);
    }
    tickets
}

fn change(
    tickets: &mut BTreeMap<Key, Ticket>,
    key: &Key,
    entry: Option<&Entry>,
    revision: Revision,
) {
    if tickets.get(key).is_some_and(|known| known.modified > revision) {
        return;
    }
    match (entry, MachineId::new(last_segment(key))) {
        (Some(entry), Ok(machine)) => {
            let ticket = Ticket {
                machine,
                created: entry.created,
                modified: entry.modified,
                waiter: Waiter::from_json(&entry.value).ok(),
            };
            tickets.insert(key.clone(), ticket);
        }
        _ => {
            tickets.remove(key);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Via;

    const NOW: UnixTime = UnixTime(1_000_000);

    /// One who enters queues now, having waited so long by its own clock, with that priority.
    fn enter(queues: &mut [Queue], name: &str, revision: u64, waited: i64, priority: u32) {
        let machine = MachineId::new(name).unwrap();
        let mut claim = Claim::new(machine, [], Via::Agent);
        claim.priority = priority;
        let mut waiter = claim.waiter(UnixTime(NOW.0.saturating_sub(waited)));
        if priority > 0 {
            // As long after the others as it has waited less than they.
            let entered = UnixTime(NOW.0.saturating_sub(waited));
            waiter.overtakes_from = Some(overtakes_from(queues, &claim, entered));
        }
        let revision = Revision(revision);
        let entry = Entry { value: waiter.to_json(), modified: revision, created: revision };
        for queue in queues {
            queue.changed(&Key::new(format!("q/queue/{name}")), Some(&entry), revision);
        }
    }

    /// Waiters as (seconds waited by their own clock, priority), in the order they arrived.
    fn queue(waiters: &[(i64, u32)]) -> Queue {
        let mut queue = [Queue::default()];
        for (n, (waited, priority)) in waiters.iter().enumerate() {
            enter(&mut queue, &format!("m{n}"), n as u64 + 1, *waited, *priority);
        }
        let [queue] = queue;
        queue
    }

    fn names(queue: &Queue) -> Vec<String> {
        queue.in_order().iter().map(|ticket| ticket.machine.to_string()).collect()
    }

    #[test]
    fn first_come_first_served_whatever_the_clocks_say() {
        assert_eq!(names(&queue(&[(5, 0), (3000, 0), (-90, 0)])), ["m0", "m1", "m2"]);
    }

    #[test]
    fn a_higher_priority_goes_first_but_not_before_those_who_came_long_before() {
        assert_eq!(names(&queue(&[(60, 0), (50, 1), (40, 2), (30, 1)])), ["m2", "m1", "m3", "m0"]);
        assert_eq!(names(&queue(&[(3650, 0), (51, 9)])), ["m1", "m0"]);
        assert_eq!(names(&queue(&[(3650, 0), (50, 9)])), ["m0", "m1"]);
        // Whom m1 overtook in time m2 no longer may, so it stays behind m1 too.
        assert_eq!(names(&queue(&[(4000, 0), (2000, 1), (100, 2)])), ["m1", "m0", "m2"]);
        // Of those who overtake the same, the higher goes first.
        assert_eq!(
            names(&queue(&[(5000, 0), (900, 0), (800, 1), (100, 2)])),
            ["m0", "m3", "m2", "m1"]
        );
    }

    #[test]
    fn clocks_that_lie_at_their_worst_concern_their_own_machine() {
        // The year 9999 lets itself be overtaken, 1970 is overtaken by nobody.
        assert_eq!(names(&queue(&[(-250_000_000_000, 0), (10, 1)])), ["m1", "m0"]);
        assert_eq!(names(&queue(&[(NOW.0, 0), (10, 1)])), ["m0", "m1"]);
        assert_eq!(names(&queue(&[(i64::MIN / 2, 0), (i64::MAX / 2, 1)])), ["m1", "m0"]);
        // Nobody who enters with a priority overtakes those before one who says 1970.
        assert_eq!(
            names(&queue(&[(60, 0), (NOW.0, 0), (50, 0), (10, 1)])),
            ["m0", "m1", "m3", "m2"]
        );
    }

    #[test]
    fn an_unreadable_place_counts_by_its_arrival() {
        let mut queue = queue(&[(60, 0), (50, 0)]);
        let entry = Entry { value: b"?".to_vec(), modified: Revision(9), created: Revision(1) };
        queue.changed(&Key::new("q/queue/m0"), Some(&entry), Revision(9));
        assert_eq!(names(&queue), ["m0", "m1"]);
    }

    #[test]
    fn an_old_change_does_not_undo_a_newer_one() {
        let mut queue = queue(&[(1, 0), (1, 0)]);
        queue.changed(&Key::new("q/queue/m1"), None, Revision(1));
        assert_eq!(queue.len(), 2);
        queue.changed(&Key::new("q/queue/m1"), None, Revision(3));
        assert_eq!(names(&queue), ["m0"]);
    }

    proptest! {
        /// Each enters some of three queues, all of those at once; nobody else's coming or going moves
        /// one before another, so whoever is first of all has nobody to wait for.
        #[test]
        fn two_stand_in_the_same_order_in_every_queue_that_has_both(
            waiters in prop::collection::vec((0..8000_i64, 0..4_u32, 1..8_u8), 1..20),
            gone in any::<u32>(),
        ) {
            let mut queues = [Queue::default(), Queue::default(), Queue::default()];
            for (n, (waited, priority, groups)) in waiters.iter().enumerate() {
                let (name, revision) = (format!("m{n}"), n as u64 + 1);
                let mut own: Vec<_> = (0..3).filter(|group| groups & (1 << group) != 0)
                    .map(|group| queues[group].clone()).collect();
                enter(&mut own, &name, revision, *waited, *priority);
                for (group, entered) in (0..3).filter(|group| groups & (1 << group) != 0).zip(own) {
                    queues[group] = entered;
                }
                if gone & (1 << n) != 0 && n > 0 {
                    let key = Key::new(format!("q/queue/m{}", n / 2));
                    queues.iter_mut().for_each(|queue| queue.changed(&key, None, Revision(99)));
                }
            }
            let orders: Vec<_> = queues.iter().map(names).collect();
            for (one, other) in [(0, 1), (0, 2), (1, 2)] {
                let both = |order: &[String], other: &[String]| -> Vec<String> {
                    order.iter().filter(|name| other.contains(name)).cloned().collect()
                };
                prop_assert_eq!(
                    both(&orders[one], &orders[other]),
                    both(&orders[other], &orders[one])
                );
            }
        }

        #[test]
        fn nobody_is_overtaken_by_those_who_came_long_after(
            mut waiters in prop::collection::vec((0..8000_i64, 0..5_u32), 1..20),
            later in prop::collection::vec((0..4400_i64, 0..5_u32), 0..20),
        ) {
            // However many come, and whatever they are worth.
            waiters.iter_mut().for_each(|(waited, _)| *waited += 8000);
            let before = names(&queue(&waiters));
            waiters.extend(later);
            prop_assert_eq!(&names(&queue(&waiters))[..before.len()], &before[..]);
        }

        #[test]
        fn equals_go_in_the_order_in_which_they_came(
            waited in prop::collection::vec(any::<i32>(), 0..20)
        ) {
            let waiters: Vec<_> = waited.iter().map(|waited| (i64::from(*waited), 1)).collect();
            let expected: Vec<_> = (0..waiters.len()).map(|n| format!("m{n}")).collect();
            prop_assert_eq!(names(&queue(&waiters)), expected);
        }

        #[test]
        fn the_head_and_the_urgent_are_enough_to_know_who_goes_first(
            waiters in prop::collection::vec((0..8000_i64, 0..3_u32), 1..40),
            head in 1..12_usize,
        ) {
            let whole = queue(&waiters);
            let known = Queue {
                places: whole.places.values().filter(|t| t.created.0 <= head as u64)
                    .map(|t| (Key::new(format!("q/queue/{}", t.machine)), t.clone())).collect(),
                urgent: whole.places.values().filter(|t| t.priority() > 0)
                    .map(|t| (Key::new(format!("q/urgent/{}", t.machine)), t.clone())).collect(),
            };
            for (n, (_, priority)) in waiters.iter().enumerate() {
                let machine = MachineId::new(format!("m{n}")).unwrap();
                let ahead = whole.ahead_of(&machine).unwrap();
                if n < head {
                    prop_assert_eq!(known.ahead_of(&machine), Some(ahead));
                } else if *priority > 0 && !known.is_behind_the_head(&machine) {
                    prop_assert_eq!(known.ahead_of(&machine), Some(ahead));
                }
            }
        }

        #[test]
        fn every_waiter_has_exactly_one_place(
            waiters in prop::collection::vec((-8000..8000_i64, any::<u32>()), 0..20)
        ) {
            let queue = queue(&waiters);
            let mut places: Vec<_> = (0..waiters.len())
                .map(|n| queue.ahead_of(&MachineId::new(format!("m{n}")).unwrap()).unwrap())
                .collect();
            places.sort_unstable();
            prop_assert_eq!(places, (0..waiters.len()).collect::<Vec<_>>());
        }
    }
}
