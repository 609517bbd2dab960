//! Who is signed in. Kept in the store, so that any gateway knows it and signing out is the end of it.

use super::{Decision, LockError, LockManager, Result};
use crate::record::{Document, Session};
use crate::store::Txn;

impl LockManager {
    /// Begins a session that is known by `digest`, until it says that it ends.
    ///
    /// # Errors
    /// What the store says.
    pub async fn begin_session(&self, digest: &[u8; 32], session: &Session) -> Result<()> {
        let key = self.keys.session(digest);
        let action = format!("beginning a session of {}", session.by);
        let lasting = std::time::Duration::from_secs(session.until.seconds_since(session.since));
        let lease = self.lease_of(&action, lasting).await?;
        let wanted = session.to_json();
        self.settle(&action, std::slice::from_ref(&key), |before| {
            if before.get(&key).is_some() {
                return Ok(Decision::Done(()));
            }
            let txn = Txn::new().when(before.unchanged(&key));
            Ok(Decision::Commit(txn.put_leased(key.clone(), wanted.clone(), lease), ()))
        })
        .await
    }

    /// The session that is known by `digest`, if there is one. What cannot be read is none.
    ///
    /// # Errors
    /// What the store says.
    pub async fn session(&self, digest: &[u8; 32]) -> Result<Option<Session>> {
        let key = self.keys.session(digest);
        // The key is not for logs.
        let failed =
            |source| LockError::Store { action: "looking for a session".to_owned(), source };
        let found = self.store.load(std::slice::from_ref(&key)).await.map_err(failed)?;
        Ok(found.get(&key).and_then(|entry| Session::from_json(&entry.value).ok()))
    }

    /// Ends it. Ended already is fine.
    ///
    /// # Errors
    /// What the store says.
    pub async fn end_session(&self, digest: &[u8; 32]) -> Result<()> {
        let key = self.keys.session(digest);
        self.settle("ending a session", std::slice::from_ref(&key), |before| {
            if before.get(&key).is_none() {
                return Ok(Decision::Done(()));
            }
            Ok(Decision::Commit(Txn::new().delete(key.clone()), ()))
        })
        .await
    }
}
