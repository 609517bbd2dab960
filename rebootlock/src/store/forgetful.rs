//! A store that does not answer, or as if it had been asked twice, for tests.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Change, Commit, Key, LeaseId, MemoryStore, Result, Revision, Select, Snapshot, Span, Store,
    StoreError, Txn, Watch,
};

/// What goes wrong.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Fault {
    /// The answer is lost.
    #[default]
    Forget,
    /// That, and the commit is on its way until it is delivered.
    Delay,
    /// The commit is sent twice, and the answer is that to the second.
    Repeat,
}

/// Something goes wrong with the next so many commits, of those that change a certain key.
#[derive(Debug, Default)]
pub(crate) struct Forgetful {
    store: MemoryStore,
    forgets: AtomicU32,
    /// Any, if there is none.
    about: Mutex<Option<Key>>,
    fault: Mutex<Fault>,
    /// Whether readings of more than some keys fail.
    is_mute: AtomicBool,
    on_the_way: Mutex<Vec<Txn>>,
}

impl Forgetful {
    /// The next so many commits happen, and nobody hears of it.
    pub(crate) fn forget(&self, next: u32) {
        *self.about.lock().unwrap() = None;
        *self.fault.lock().unwrap() = Fault::Forget;
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
        *self.fault.lock().unwrap() = Fault::Delay;
    }

    /// The next commit that changes `key` is sent twice, as by a proxy that tries again.
    pub(crate) fn repeat(&self, key: Key) {
        self.forget_about(key);
        *self.fault.lock().unwrap() = Fault::Repeat;
    }

    /// From now on no queue can be read.
    pub(crate) fn be_mute(&self) {
        self.is_mute.store(true, Ordering::SeqCst);
    }

    /// From now on queues can be read again.
    pub(crate) fn answer_again(&self) {
        self.is_mute.store(false, Ordering::SeqCst);
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
        if self.is_mute.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("it does not answer".to_owned()));
        }
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
        let fault = *self.fault.lock().unwrap();
        match fault {
            Fault::Delay => self.on_the_way.lock().unwrap().push(txn.clone()),
            Fault::Forget => drop(self.store.commit(txn).await?),
            Fault::Repeat => {
                self.store.commit(txn).await?;
                return self.store.commit(txn).await;
            }
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
