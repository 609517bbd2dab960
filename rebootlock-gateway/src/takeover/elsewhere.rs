//! Slots that airlock has given out in the same store and that nobody has taken over: until then nobody
//! gets one of the same group here, and nobody who has one there is told that it was given back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{LockError, LockManager};

use super::airlock;

/// Those of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    group: Group,
    /// `None`: that cannot be read.
    holders: Option<BTreeSet<String>>,
}

impl Held {
    /// Whether `machine` may hold one of them.
    pub fn may_be_of(&self, machine: &MachineId) -> bool {
        self.holders.as_ref().is_none_or(|holders| holders.contains(machine.as_str()))
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = &self.group;
        match &self.holders {
            None => write!(f, "airlock's document of group {group} cannot be read")?,
            Some(holders) => {
                let first: Vec<_> = holders.iter().take(3).map(String::as_str).collect();
                let more = if holders.len() > first.len() { " and others" } else { "" };
                let first = first.join(", ");
                write!(f, "slots of group {group} are held through airlock, by {first}{more}")?;
            }
        }
        f.write_str(
            ", and do not count here; nobody gets one until somebody has run `rebootlock-gateway take-over \
             --from airlock`",
        )
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
        let found = airlock::pending(locks).await?;
        let held = |(group, holders): (Group, _)| (group.clone(), Held { group, holders });
        let found: All = Arc::new(found.into_iter().map(held).collect());
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
