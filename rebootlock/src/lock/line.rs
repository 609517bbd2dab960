//! Taking a place in the queues of several groups, alike in each of them. Pure.
//!
//! Places count by the revision at which the store saw them come. Two machines in the same groups must
//! stand in the same order in all of them, so all places of a machine come at one revision: those
//! that an earlier life left are taken over whole, or taken away first.

use super::LockManager;
use crate::queue::{self, Queue};
use crate::record::{Claim, Document, UnixTime, Waiter};
use crate::store::{Key, LeaseId, Revision, Snapshot, Txn};

/// What entering takes.
pub(crate) enum Entering {
    /// This puts the machine in line.
    Takes {
        /// To be committed.
        txn: Txn,
        /// When its places came, if it has them already and keeps them.
        came: Option<Revision>,
    },
    /// It has places that do not stand alike, of which this takes away every one.
    Clears(Txn),
}

impl LockManager {
    /// Everything that entering depends on, but for what may stop it.
    pub(crate) fn own_keys(&self, claim: &Claim) -> Vec<Key> {
        let machine = &claim.machine;
        let of_group = |group| {
            let (place, urgent) =
                (self.keys.waiter(group, machine), self.keys.urgent(group, machine));
            [self.keys.semaphore(group), self.keys.holder(group, machine), place, urgent]
        };
        claim.groups().iter().flat_map(of_group).collect()
    }

    /// The ticket of the claim's machine, if it enters these queues now.
    pub(crate) fn ticket(&self, claim: &Claim, since: UnixTime, queues: &[Queue]) -> Waiter {
        let overtakes_from =
            (claim.priority > 0).then(|| queue::overtakes_from(queues, claim, self.now()));
        Waiter { overtakes_from, ..claim.waiter(since) }
    }

    /// Puts the claim's machine in line in all its groups, or keeps the places it has, as long as the
    /// lease lasts: nothing if one of them, or its record as a holder, is not as it was in `own`.
    pub(crate) fn enter(
        &self,
        claim: &Claim,
        own: &Snapshot,
        ticket: Waiter,
        lease: LeaseId,
    ) -> Entering {
        let (groups, machine) = (claim.groups(), &claim.machine);
        let places: Vec<_> = groups.iter().map(|group| self.keys.waiter(group, machine)).collect();
        let urgent: Vec<_> = groups.iter().map(|group| self.keys.urgent(group, machine)).collect();
        let came = |key: &Key| own.get(key).map(|entry| entry.created);
        let wanted: Vec<_> = match claim.priority {
            0 => places.iter().collect(),
            _ => places.iter().chain(&urgent).collect(),
        };
        let unchanged = places.iter().fold(Txn::new(), |txn, place| txn.when(own.unchanged(place)));
        // Who came when decides, so that all of them have come together.
        let first = came(&places[0]);
        let alike = wanted.iter().all(|key| came(key) == first);
        let is_left = |key: &&Key| own.get(key).is_some();
        if !alike || (first.is_none() && urgent.iter().any(|key| is_left(&key))) {
            let left = places.iter().chain(&urgent).filter(is_left);
            return Entering::Clears(left.fold(unchanged, |txn, key| txn.delete(key.clone())));
        }
        let earlier = own.get(&places[0]).and_then(|entry| Waiter::from_json(&entry.value).ok());
        let since = earlier.map_or(ticket.since, |earlier| earlier.since);
        let document = Waiter { since, ..ticket }.to_json();
        // Whoever got the slots meanwhile must not stand in line again.
        let holders = groups.iter().map(|group| self.keys.holder(group, machine));
        let mut txn = holders.fold(unchanged, |txn, holder| txn.when(own.unchanged(&holder)));
        for key in &wanted {
            txn = txn.put_leased((*key).clone(), document.clone(), lease);
        }
        if claim.priority == 0 {
            txn = urgent.iter().filter(is_left).fold(txn, |txn, key| txn.delete(key.clone()));
        }
        Entering::Takes { txn, came: first }
    }
}
