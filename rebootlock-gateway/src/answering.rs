//! A store whose answers to commits are counted. By them, one whose documents others keep changing is told
//! from one that is away: of an away store some machines may reboot without a slot.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rebootlock::store::{
    Commit, Key, LeaseId, Revision, Select, SharedStore, Snapshot, Span, Store, StoreError, Txn,
    Watch,
};

type Result<T> = std::result::Result<T, StoreError>;

/// How many commits a store has answered, won or lost.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commits(Arc<AtomicU64>);

impl Commits {
    /// So many until now.
    pub(crate) fn answered(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A store whose answers to commits are counted.
pub(crate) struct Counted {
    store: SharedStore,
    commits: Commits,
}

impl Counted {
    /// The same store, counting in `commits`.
    pub(crate) fn new(store: SharedStore, commits: Commits) -> Self {
        Self { store, commits }
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl Store for Counted {
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
        let commit = self.store.commit(txn).await?;
        self.commits.0.fetch_add(1, Ordering::Relaxed);
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
