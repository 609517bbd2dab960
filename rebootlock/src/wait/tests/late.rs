//! A store whose watches are late at first, as etcd's are when a write overtakes them.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::super::*;
use crate::store::{LeaseId, MemoryStore, Result, Snapshot, Span, Store, Watch};

/// etcd looks after watches that begin in the past so often.
pub(super) const LATE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct LateStore(pub(super) MemoryStore);

#[async_trait]
impl Store for LateStore {
    async fn load(&self, keys: &[Key]) -> Result<Snapshot> {
        self.0.load(keys).await
    }

    async fn list(&self, prefix: &Key, select: Select) -> Result<Snapshot> {
        self.0.list(prefix, select).await
    }

    async fn read(&self, keys: &[Key], below: &[(Key, Select)]) -> Result<Snapshot> {
        self.0.read(keys, below).await
    }

    async fn commit(&self, txn: &Txn) -> Result<Commit> {
        self.0.commit(txn).await
    }

    fn watch(&self, span: &Span, after: Revision) -> Watch {
        self.0.watch(span, after)
    }

    fn watch_from_now(&self, spans: &[Span]) -> Watch {
        let (store, mut inner) = (self.0.clone(), self.0.watch_from_now(spans));
        let (events, receiver) = mpsc::channel(Watch::BUFFER);
        let feeder = tokio::spawn(async move {
            let Some(begun) = inner.next().await else { return };
            let late_until = Instant::now() + LATE;
            // What overtakes it, to do with nobody here.
            let elsewhere = Txn::new().put(Key::new("elsewhere"), Vec::new());
            store.commit(&elsewhere).await.unwrap();
            if events.send(begun).await.is_err() {
                return;
            }
            tokio::time::sleep_until(late_until).await;
            while let Some(event) = inner.next().await {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        });
        Watch::new(receiver, AbortOnDropHandle::new(feeder))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.0.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.0.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.0.revoke(lease).await
    }

    fn location(&self) -> String {
        self.0.location()
    }
}
