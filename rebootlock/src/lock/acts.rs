//! What operators did. An act is written in the transaction that it is about, or not at all.

use super::history::newest;
use super::{LockManager, Result};
use crate::id::Token;
use crate::record::{Act, Document, UnixTime};
use crate::semaphore::json::Damage;
use crate::store::Key;

/// How many are kept.
pub const ACTS_KEPT: usize = 1000;

/// One act as it was found.
pub type Done = std::result::Result<Act, Damage>;

/// A document that goes along with whatever is committed next.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) key: Key,
    pub(super) value: Vec<u8>,
}

impl LockManager {
    /// The same manager, for one operation that `act` is about: what it commits, it commits together
    /// with the act. If nothing has to be changed, there was no act.
    #[must_use]
    pub fn doing(&self, act: &Act) -> Self {
        let key = self.keys.act(act.at, Token::random());
        Self { note: Some(Note { key, value: act.to_json() }), ..self.clone() }
    }

    /// What operators did at `since` or later, newest last; the newest `most` of it at the most. What
    /// cannot be read is told as such.
    ///
    /// # Errors
    /// What the store says.
    pub async fn acts(&self, since: Option<UnixTime>, most: usize) -> Result<Vec<Done>> {
        let listed = self.list(&self.keys.acts(), newest(most)).await?;
        let mut found: Vec<_> = listed.entries.into_values().collect();
        found.sort_by_key(|entry| entry.created);
        let acts = found.into_iter().map(|entry| Act::from_json(&entry.value));
        let late = |act: &Done| !matches!((act, since), (Ok(act), Some(since)) if act.at < since);
        Ok(acts.filter(late).collect())
    }

    /// Takes away all but the newest [`ACTS_KEPT`] acts. Several may do it at once.
    ///
    /// # Errors
    /// What the store says; trying again later is fine.
    pub async fn trim_acts(&self) -> Result<usize> {
        self.trim_below(&self.keys.acts(), ACTS_KEPT).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::id::{Group, MachineId};
    use crate::keys::Keyspace;
    use crate::lock::{Release, Released, Resumed, Scope};
    use crate::record::{Claim, Deed, Pause, Via};
    use crate::store::{Forgetful, MemoryStore};
    use std::sync::Arc;

    fn act(at: i64, deed: Deed) -> Act {
        Act { reason: Some("why".to_owned()), ..Act::new(UnixTime(at), "alice", deed) }
    }

    fn pause(by: &str) -> Pause {
        let unknown = serde_json::Map::new();
        Pause { by: by.to_owned(), reason: None, since: UnixTime(1), until: None, unknown }
    }

    async fn deeds(locks: &LockManager) -> Vec<String> {
        let acts = locks.acts(None, ACTS_KEPT).await.unwrap();
        acts.into_iter().map(|act| act.unwrap().deed.to_string()).collect()
    }

    #[tokio::test]
    async fn what_is_done_is_written_down_with_it_and_what_is_not_done_is_not() {
        let locks = LockManager::new(Arc::new(MemoryStore::new()), Keyspace::default());
        let group = Group::default();
        assert_eq!(locks.doing(&act(1, Deed::SetMax)).set_max(&group, 3).await.unwrap(), 1);
        assert_eq!(locks.doing(&act(2, Deed::SetMax)).set_max(&group, 3).await.unwrap(), 3);
        let resumed = locks.doing(&act(3, Deed::Resume)).resume(&Scope::Fleet).await.unwrap();
        assert_eq!(resumed, Resumed::NotPaused);
        let before = locks.doing(&act(4, Deed::Pause)).pause(&Scope::Fleet, &pause("a")).await;
        assert_eq!(before.unwrap(), None);
        let before = locks.doing(&act(5, Deed::Pause)).pause(&Scope::Fleet, &pause("b")).await;
        assert_eq!(before.unwrap(), Some(pause("a")));
        assert_eq!(deeds(&locks).await, ["set-max", "pause", "pause"]);
        let late = locks.acts(Some(UnixTime(5)), 10).await.unwrap();
        assert_eq!(late, [Ok(act(5, Deed::Pause))]);
        assert_eq!(locks.acts(None, 1).await.unwrap(), [Ok(act(5, Deed::Pause))]);
        assert_eq!(locks.trim_below(&locks.keys().acts(), 1).await.unwrap(), 2);
        assert_eq!(deeds(&locks).await, ["pause"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_gets_lost_is_found_by_the_act() {
        let store = Arc::new(Forgetful::default());
        let locks = LockManager::new(store.clone(), Keyspace::default());
        let machine = MachineId::new("a").unwrap();
        let claim = Claim::new(machine.clone(), [], Via::Agent);
        locks.acquire(&claim).await.unwrap();
        store.forget(1);
        let unlock = locks.doing(&act(1, Deed::Unlock));
        let freed = unlock.release(claim.groups(), &machine, &Release::by_operator("alice")).await;
        assert!(matches!(freed.unwrap(), Released::Freed(Some(_))), "and not that it held nothing");
        store.forget(1);
        let old = locks.doing(&act(2, Deed::SetMax)).set_max(&Group::default(), 7).await.unwrap();
        assert_eq!(old, 1, "and not what was just written");
        assert_eq!(deeds(&locks).await, ["unlock", "set-max"]);
        assert_eq!(locks.history(claim.groups(), None).await.unwrap().len(), 1);
    }
}
