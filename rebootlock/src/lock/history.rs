//! What came of earlier acquisitions. Entries are written with the release; old ones are taken away
//! later, so that a hand-over does not wait for it.

use std::collections::BTreeMap;

use super::{LockError, LockManager, MOST_KEYS, Result};
use crate::id::Group;
use crate::keys::last_segment;
use crate::record::{Document, Past, UnixTime};
use crate::semaphore::json::Damage;
use crate::store::{Key, Revision, Select, Txn};

/// How many entries a group keeps.
pub const HISTORY_KEPT: usize = 1000;

/// One entry as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Remembered {
    /// Where; of an entry in several groups, where it was found first.
    pub key: Key,
    /// What it says.
    pub past: std::result::Result<Past, Damage>,
}

impl LockManager {
    /// What came of the acquisitions in `groups` that ended at `since` or later, newest last. One
    /// in several groups is told once. What cannot be read is told as such, first of all.
    ///
    /// # Errors
    /// What the store says.
    pub async fn history(
        &self,
        groups: &[Group],
        since: Option<UnixTime>,
    ) -> Result<Vec<Remembered>> {
        self.history_of(groups, since, Select::All).await
    }

    /// The newest `most` acquisitions in `groups` that ended, in the same order. Unlike
    /// [`LockManager::history`] it costs the same however many are remembered.
    ///
    /// # Errors
    /// What the store says.
    pub async fn newest_history(&self, groups: &[Group], most: usize) -> Result<Vec<Remembered>> {
        let mut found = self.history_of(groups, None, newest(most)).await?;
        Ok(found.split_off(found.len().saturating_sub(most)))
    }

    async fn history_of(
        &self,
        groups: &[Group],
        since: Option<UnixTime>,
        select: Select,
    ) -> Result<Vec<Remembered>> {
        let mut entries: BTreeMap<String, (Revision, Remembered)> = BTreeMap::new();
        for group in groups {
            for (key, entry) in self.list(&self.keys.history(group), select).await?.entries {
                let past = Past::from_json(&entry.value);
                if let (Ok(past), Some(since)) = (&past, since)
                    && past.ended_at < since
                {
                    continue;
                }
                entries
                    .entry(last_segment(&key).to_owned())
                    .or_insert((entry.created, Remembered { key, past }));
            }
        }
        let mut entries: Vec<_> = entries.into_values().collect();
        // Stable where clocks disagree: the store knows in which order they came.
        entries.sort_by_key(|(created, entry)| {
            (entry.past.as_ref().map_or(UnixTime(i64::MIN), |past| past.ended_at), *created)
        });
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    /// Takes away all but the newest [`HISTORY_KEPT`] entries of each group, by the order in which
    /// the store saw them come. Returns how many went. Several may do it at once.
    ///
    /// # Errors
    /// What the store says; trying again later is fine.
    pub async fn trim_history(&self, groups: &[Group]) -> Result<usize> {
        self.trim_history_to(groups, HISTORY_KEPT).await
    }

    pub(super) async fn trim_history_to(&self, groups: &[Group], kept: usize) -> Result<usize> {
        let mut gone = 0;
        for group in groups {
            gone += self.trim_below(&self.keys.history(group), kept).await?;
        }
        Ok(gone)
    }

    /// Takes away all but the newest `kept` of the keys below one.
    pub(super) async fn trim_below(&self, below: &Key, kept: usize) -> Result<usize> {
        let listed = self.list(below, Select::Keys).await?;
        let mut keys: Vec<_> =
            listed.entries.into_iter().map(|(key, entry)| (entry.created, key)).collect();
        keys.sort();
        let surplus = keys.len().saturating_sub(kept);
        for some in keys[..surplus].chunks(MOST_KEYS) {
            let txn = some.iter().fold(Txn::new(), |txn, (_, key)| txn.delete(key.clone()));
            let committed = self.store.commit(&txn).await;
            let action = || format!("trimming what is remembered below {below}");
            committed.map_err(|source| LockError::Store { action: action(), source })?;
        }
        Ok(surplus)
    }
}

/// The keys that came last.
pub(super) fn newest(most: usize) -> Select {
    // Stores count revisions by signed numbers.
    Select::NewestBefore(Revision(i64::MAX as u64), most)
}
