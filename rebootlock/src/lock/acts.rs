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
