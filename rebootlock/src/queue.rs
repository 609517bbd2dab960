//! Who is next: the order of a queue. Pure.
//!
//! First come, first served, by the revision at which the store saw a waiter come. A higher
//! priority goes before a lower one, but nobody overtakes the first in the queue who says that it
//! came [`PATIENCE`] or more after it: so the first is overtaken by the few who came within that
//! time and by nobody after, and nobody starves.
//!
//! The order follows from what is in the queue and from nothing else. Did it depend on the clock of
//! whoever looks, two machines whose clocks differ could each think it the other's turn, and leave
//! a free slot to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::MachineId;
use crate::keys::last_segment;
use crate::record::{Document, Waiter};
use crate::store::{Entry, Key, Revision, Snapshot};

/// Whoever comes so much later overtakes nobody, whatever its priority.
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

    /// Whether its priority lets it go before `first`, had it come after it.
    fn may_overtake(&self, first: &Self) -> bool {
        // What cannot be read is overtaken by nobody: its lease will end.
        let Some((own, other)) = self.waiter.as_ref().zip(first.waiter.as_ref()) else {
            return false;
        };
        own.since.0.saturating_sub(other.since.0) < PATIENCE.as_secs() as i64
    }
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
        let mut arrived: Vec<_> = self.places.values().collect();
        arrived.sort_by_key(|ticket| (ticket.created, &ticket.machine));
        // The urgent among themselves go by when they were seen to be: all who wait know that,
        // but only some know when they took their places.
        let listed = arrived.iter().copied().filter(|ticket| ticket.priority() > 0);
        let mut known = BTreeSet::new();
        let mut urgent: Vec<_> = self.urgent.values().chain(listed).collect();
        urgent.retain(|ticket| known.insert(&ticket.machine));
        urgent.sort_by_key(|ticket| {
            (u32::MAX - ticket.priority(), ticket.created, ticket.machine.clone())
        });
        let mut order = Vec::with_capacity(arrived.len().max(urgent.len()));
        let mut placed = BTreeSet::new();
        for first in arrived {
            while !placed.contains(&first.machine) {
                let overtakes = |ticket: &&Ticket| {
                    ticket.priority() > first.priority() && ticket.may_overtake(first)
                };
                let next = match urgent.iter().position(overtakes) {
                    Some(at) => urgent.remove(at),
                    None => first,
                };
                // Who is in both lists is one.
                if placed.insert(&next.machine) {
                    order.push(next);
                }
            }
        }
        urgent.retain(|ticket| placed.insert(&ticket.machine));
        order.extend(urgent);
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
    use crate::record::{Claim, UnixTime, Via};

    const NOW: UnixTime = UnixTime(1_000_000);

    /// Waiters as (seconds waited by their own clock, priority), in the order they arrived.
    fn queue(waiters: &[(i64, u32)]) -> Queue {
        let mut queue = Queue::default();
        for (n, (waited, priority)) in waiters.iter().enumerate() {
            let machine = MachineId::new(format!("m{n}")).unwrap();
            let mut claim = Claim::new(machine, [], Via::Agent);
            claim.priority = *priority;
            let value = claim.waiter(UnixTime(NOW.0 - waited)).to_json();
            let revision = Revision(n as u64 + 1);
            let entry = Entry { value, modified: revision, created: revision };
            queue.changed(&Key::new(format!("q/queue/m{n}")), Some(&entry), revision);
        }
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
        // m2 may overtake m1 and not m0, m1 may overtake m0.
        assert_eq!(names(&queue(&[(4000, 0), (2000, 1), (100, 2)])), ["m1", "m0", "m2"]);
    }

    #[test]
    fn clocks_that_lie_at_their_worst_concern_their_own_machine() {
        // The year 9999 lets itself be overtaken, 1970 is overtaken by nobody.
        assert_eq!(names(&queue(&[(-250_000_000_000, 0), (10, 1)])), ["m1", "m0"]);
        assert_eq!(names(&queue(&[(NOW.0, 0), (10, 1)])), ["m0", "m1"]);
        assert_eq!(names(&queue(&[(i64::MIN / 2, 0), (i64::MAX / 2, 1)])), ["m1", "m0"]);
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
