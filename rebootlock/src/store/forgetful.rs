//! A store that does not answer, for tests.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Change, Commit, Key, LeaseId, MemoryStore, Result, Revision, Select, Snapshot, Span, Store,
    StoreError, Txn, Watch,
};

/// Gives no answer to the next so many commits, of those that change a certain key.
#[derive(Debug, Default)]
pub(crate) struct Forgetful {
    store: MemoryStore,
    forgets: AtomicU32,
    /// Any, if there is none.
    about: Mutex<Option<Key>>,
    /// Whether those commits do not happen either until they are delivered.
    is_slow: Mutex<bool>,
    on_the_way: Mutex<Vec<Txn>>,
}

impl Forgetful {
    /// The next so many commits happen, and nobody hears of it.
    pub(crate) fn forget(&self, next: u32) {
        *self.about.lock().unwrap() = None;
        *self.is_slow.lock().unwrap() = false;
        self.forgets.store(next, Ordering::SeqCst);
    }

    /// The same for the next commit that changes `key`.
    pub(crate) fn forget_about(&self, key: Key) {
        self.forget(1);
        *self.about.lock().unwrap() = Some(key);
    }

    /// The next commit that changes `key` is not answered, and happens when it is delivered.
    pub(crate) fn delay(&self, key: Key) {
        self.forget_about(key);
        *self.is_slow.lock().unwrap() = true;
    }

    /// Whether it has gone wrong as often as it was to.
    pub(crate) fn is_done(&self) -> bool {
        self.forgets.load(Ordering::SeqCst) == 0
    }

    /// What was delayed arrives.
    pub(crate) async fn deliver(&self) -> Vec<Commit> {
        let late = std::mem::take(&mut *self.on_the_way.lock().unwrap());
        let mut ended = Vec::new();
        for txn in late {
            ended.push(self.store.commit(&txn).await.unwrap());
        }
        ended
    }
}

#[async_trait]
impl Store for Forgetful {
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
        let about = self.about.lock().unwrap().clone();
        let is_meant =
            about.is_none_or(|key| txn.changes.iter().map(Change::key).any(|k| *k == key));
        let one_less = |left: u32| left.checked_sub(1);
        if !is_meant
            || self.forgets.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_err()
        {
            return self.store.commit(txn).await;
        }
        if *self.is_slow.lock().unwrap() {
            self.on_the_way.lock().unwrap().push(txn.clone());
        } else {
            self.store.commit(txn).await?;
        }
        Err(StoreError::Unavailable("the answer got lost".to_owned()))
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
        "forgetful".to_owned()
    }
}
