//! Whose leases are whose. Their numbers can be guessed, and what hangs on them are pauses, holds and
//! other machines' places.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rebootlock::store::LeaseId;
use tokio::time::Instant;

use super::LONGEST_LEASE;

/// The leases that this gateway has granted, with the name of whom it granted each to.
#[derive(Debug, Default)]
pub struct Leases(Mutex<HashMap<LeaseId, (String, Instant)>>);

impl Leases {
    /// As many as are remembered; a waiter has one.
    const MOST: usize = 100_000;

    /// Remembers that `lease` is `name`'s.
    pub(super) fn granted(&self, lease: LeaseId, name: &str) {
        let (now, mut known) = (Instant::now(), self.known());
        if known.len() >= Self::MOST {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < Self::MOST {
            known.insert(lease, (name.to_owned(), now + LONGEST_LEASE));
        }
    }

    /// Forgets one that has ended.
    pub(super) fn ended(&self, lease: LeaseId) {
        self.known().remove(&lease);
    }

    /// Whether it is known to be `name`'s.
    pub(super) fn is_of(&self, lease: LeaseId, name: &str) -> bool {
        self.known().get(&lease).is_some_and(|(whose, _)| whose == name)
    }

    /// Whether it is known to be somebody else's.
    pub(super) fn is_of_another(&self, lease: LeaseId, name: &str) -> bool {
        self.known().get(&lease).is_some_and(|(whose, _)| whose != name)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<LeaseId, (String, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_belongs_to_whom_it_was_granted_to() {
        let leases = Leases::default();
        let (one, other) = (LeaseId(1), LeaseId(2));
        leases.granted(one, "web");
        assert!(leases.is_of(one, "web") && !leases.is_of(one, "db"));
        assert!(leases.is_of_another(one, "db") && !leases.is_of_another(one, "web"));
        assert!(!leases.is_of(other, "web") && !leases.is_of_another(other, "web"));
        leases.ended(one);
        assert!(!leases.is_of(one, "web"));
    }
}
