//! Who is next: the order of a queue. Pure.
//!
//! First come, first served, by the revision at which the store saw a waiter come, so no clock is
//! asked. A higher priority goes before a lower one, but only for so long: who has waited for
//! [`PATIENCE`] goes before all who have not, whatever their priority, so nobody starves. The
//! clocks of machines decide nothing but when that is, and a clock that lies can at the worst
//! make its own machine wait like one without patience or a priority.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::MachineId;
use crate::keys::last_segment;
use crate::record::{Document, UnixTime, Waiter};
use crate::store::{Entry, Key, Revision, Snapshot};

/// After this long, waiting counts for more than priority.
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
    pub fn in_order(&self, now: UnixTime) -> Vec<Ticket> {
        self.order(now).into_iter().cloned().collect()
    }

    /// How many go before `machine`; `None` if it does not wait here.
    pub fn ahead_of(&self, machine: &MachineId, now: UnixTime) -> Option<usize> {
        self.order(now).iter().position(|ticket| ticket.machine == *machine)
    }

    fn order(&self, now: UnixTime) -> Vec<&Ticket> {
        let mut arrived: Vec<_> = self.places.values().collect();
        arrived.sort_by_key(|ticket| (ticket.created, &ticket.machine));
        // Nobody can have waited longer than those who came before, whatever its clock says. So
        // those who have lost patience are the first to have come.
        let mut earliest = UnixTime(i64::MIN);
        let impatient = arrived.iter().take_while(|ticket| {
            let since = ticket.waiter.as_ref().map_or(now, |waiter| waiter.since);
            earliest = since.min(now).max(earliest);
            now.seconds_since(earliest) >= PATIENCE.as_secs()
        });
        let impatient = impatient.count();
        let patient = arrived.split_off(impatient);
        let mut order = arrived;
        // The urgent among themselves go by when they were seen to be: all who wait know that,
        // but only some know when they took their places.
        let listed = patient.iter().copied().filter(|ticket| ticket.priority() > 0);
        let mut urgent: Vec<_> = self.urgent.values().chain(listed).collect();
        let mut placed: BTreeSet<_> = order.iter().map(|ticket| &ticket.machine).collect();
        urgent.retain(|ticket| placed.insert(&ticket.machine));
        urgent.sort_by_key(|ticket| {
            (u32::MAX - ticket.priority(), ticket.created, ticket.machine.clone())
        });
        order.extend(urgent);
        order.extend(patient.into_iter().filter(|ticket| placed.insert(&ticket.machine)));
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
    use crate::record::{Claim, Via};

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
        queue.in_order(NOW).iter().map(|ticket| ticket.machine.to_string()).collect()
    }

    #[test]
    fn first_come_first_served_whatever_the_clocks_say() {
        assert_eq!(names(&queue(&[(5, 0), (3000, 0), (-90, 0)])), ["m0", "m1", "m2"]);
    }

    #[test]
    fn a_higher_priority_goes_first_until_patience_ends() {
        assert_eq!(names(&queue(&[(60, 0), (50, 1), (40, 2), (30, 1)])), ["m2", "m1", "m3", "m0"]);
        assert_eq!(names(&queue(&[(3600, 0), (50, 9)])), ["m0", "m1"]);
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
        fn nobody_is_overtaken_by_later_ones_for_ever(
            waiters in prop::collection::vec((0..8000_i64, 0..5_u32), 1..20)
        ) {
            // However long the others waited and whatever they are worth: once the first has
            // waited for its patience, nobody goes before it.
            let mut waiters = waiters;
            waiters[0].0 = 3600;
            prop_assert_eq!(&names(&queue(&waiters))[0], "m0");
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
                let ahead = whole.ahead_of(&machine, NOW).unwrap();
                if n < head {
                    prop_assert_eq!(known.ahead_of(&machine, NOW), Some(ahead));
                } else if *priority > 0 {
                    // Who is not at the head knows at the least that as many go first.
                    let known = known.ahead_of(&machine, NOW).unwrap();
                    prop_assert!(known == ahead || (ahead >= head && known >= head.min(ahead)));
                }
            }
        }

        #[test]
        fn every_waiter_has_exactly_one_place(
            waiters in prop::collection::vec((-8000..8000_i64, any::<u32>()), 0..20)
        ) {
            let queue = queue(&waiters);
            let mut places: Vec<_> = (0..waiters.len())
                .map(|n| queue.ahead_of(&MachineId::new(format!("m{n}")).unwrap(), NOW).unwrap())
                .collect();
            places.sort_unstable();
            prop_assert_eq!(places, (0..waiters.len()).collect::<Vec<_>>());
        }
    }
}
