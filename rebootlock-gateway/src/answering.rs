//! A store whose answers to commits are noted. By them, one whose documents others keep changing is told
//! from one that is away: of an away store some machines may reboot without a slot.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rebootlock::store::{
    Commit, Key, LeaseId, Revision, Select, SharedStore, Snapshot, Span, Store, StoreError, Txn,
    Watch,
};
use tokio::time::Instant;

type Result<T> = std::result::Result<T, StoreError>;

/// When the last commit was sent that a store has answered, won or lost.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commits(Arc<Mutex<Option<Instant>>>);

impl Commits {
    /// Whether the store has answered one that was sent at `since` or later.
    pub(crate) fn answered(&self, since: Instant) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last >= since)
    }

    fn answer(&self, sent: Instant) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (*last).max(Some(sent));
    }
}

/// A store whose answers to commits are noted.
pub(crate) struct Noted {
    store: SharedStore,
    commits: Commits,
}

impl Noted {
    /// The same store, noting in `commits`.
    pub(crate) fn new(store: SharedStore, commits: Commits) -> Self {
        Self { store, commits }
    }
}

impl fmt::Debug for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl Store for Noted {
    async fn load(&self, keys: &[Key]) -> Result<Snapshot> {
        self.store.load(keys).await
    }

    async fn list(&self, prefix: &Key, select: Select) -> Result<Snapshot> {
        self.store.list(prefix, select).await
    }

    async fn read(&self, keys: &[Key], below: &[(Key, Select)]) -> Result<Snapshot> {
        self.store.read(keys, below).await
    }

    async fn commit(&self, txn: &Txn) -> Result<Commit> {
        let sent = Instant::now();
        let commit = self.store.commit(txn).await?;
        self.commits.answer(sent);
        Ok(commit)
    }

    fn watch(&self, span: &Span, after: Revision) -> Watch {
        self.store.watch(span, after)
    }

    fn watch_from_now(&self, spans: &[Span]) -> Watch {
        self.store.watch_from_now(spans)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.store.revoke(lease).await
    }

    fn location(&self) -> String {
        self.store.location()
    }
}
