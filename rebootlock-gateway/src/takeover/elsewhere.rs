//! Slots that airlock has given out in the same store and that nobody has taken over: until then nobody
//! gets one of the same group here, and nobody who has one there is told that it was given back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{LockError, LockManager};
use rebootlock::store::Key;

use super::{airlock, shown};

/// Those of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    group: Group,
    documents: Documents,
}

/// What airlock's documents of a group say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Documents {
    /// These hold slots.
    HeldBy(BTreeSet<String>),
    /// Nothing that is understood, in this place.
    Unreadable(Key),
}

impl Held {
    pub(super) fn new(group: Group, documents: Documents) -> Self {
        Self { group, documents }
    }

    /// Another document of the same group. Who holds slots is not known if one of them cannot be read.
    pub(super) fn add(&mut self, more: Documents) {
        match (&mut self.documents, more) {
            (Documents::Unreadable(_), _) => {}
            (Documents::HeldBy(holders), Documents::HeldBy(more)) => holders.extend(more),
            (documents, more) => *documents = more,
        }
    }

    /// Whether `machine` may hold one of them.
    pub fn may_be_of(&self, machine: &MachineId) -> bool {
        match &self.documents {
            Documents::HeldBy(holders) => holders.contains(machine.as_str()),
            Documents::Unreadable(_) => true,
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = &self.group;
        match &self.documents {
            Documents::Unreadable(key) => write!(
                f,
                "airlock's document of group {group} cannot be read, so nobody knows who holds its slots, and \
                 nobody gets one here until {key} has been mended in etcd, or deleted there once nobody \
                 holds a slot through airlock"
            ),
            Documents::HeldBy(holders) => {
                let first: Vec<_> = holders.iter().take(3).map(|id| shown(id)).collect();
                let more = if holders.len() > first.len() { " and others" } else { "" };
                let first = first.join(", ");
                write!(
                    f,
                    "slots of group {group} are held through airlock, by {first}{more}, and do not count \
                     here; nobody gets one until somebody has run `rebootlock-gateway take-over --from \
                     airlock`"
                )
            }
        }
    }
}

type All = Arc<BTreeMap<Group, Held>>;

/// What was found at the last look.
#[derive(Debug, Default)]
pub struct Elsewhere(RwLock<Option<All>>);

impl Elsewhere {
    /// Those of `group`, if there are any. Looks if nobody has yet, and again before saying that there
    /// are.
    ///
    /// # Errors
    /// What the store says: then it is not known.
    pub async fn of(&self, locks: &LockManager, group: &Group) -> Result<Option<Held>, LockError> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_some_and(|all| !all.contains_key(group)) {
            return Ok(None);
        }
        Ok(self.look(locks).await?.get(group).cloned())
    }

    /// Looks, and says what it sees if that is another thing than before.
    ///
    /// # Errors
    /// What the store says; then what was known stays.
    pub async fn look(&self, locks: &LockManager) -> Result<All, LockError> {
        let found: All = Arc::new(airlock::pending(locks).await?);
        let before = {
            let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
            known.replace(found.clone()).unwrap_or_default()
        };
        for (group, held) in found.iter().filter(|(group, held)| before.get(*group) != Some(*held))
        {
            tracing::error!(%group, "{held}");
        }
        for group in before.keys().filter(|group| !found.contains_key(*group)) {
            tracing::info!(%group, "all slots that were held through airlock count here now");
        }
        Ok(found)
    }
}
