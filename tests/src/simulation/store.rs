//! A store that goes wrong: late, lost, applied without an answer, applied long after, sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rebootlock::store::{
    Change, Commit, Event, Key, LeaseId, MemoryStore, Result, Revision, Select, Snapshot, Span,
    Store, StoreError, Txn, Watch,
};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::{Dice, LATEST};

/// Told of every commit that happened, at the moment it happens.
pub type OnCommit = Arc<dyn Fn(&Txn) + Send + Sync>;

/// A promise that is broken on purpose, to show that it is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    None,
    /// The store overlooks preconditions on keys that contain this.
    Overlook(&'static str),
}

impl Sabotage {
    fn spoil(self, mut txn: Txn) -> Txn {
        if let Self::Overlook(part) = self {
            txn.preconditions.retain(|precondition| !precondition.key.as_str().contains(part));
        }
        txn
    }
}

/// What the faulty stores of one simulation share.
#[derive(Debug, Clone)]
pub struct Faults {
    /// The store behind them.
    pub inner: MemoryStore,
    /// Chance.
    pub dice: Dice,
    /// Whether anything goes wrong at all.
    pub on: Arc<AtomicBool>,
    /// How many of a thousand calls go wrong.
    pub per_mille: u32,
    /// What the store is made to overlook.
    pub sabotage: Sabotage,
}

impl Faults {
    fn strikes(&self) -> bool {
        self.on.load(Ordering::Relaxed) && self.dice.below(1000) < self.per_mille
    }

    fn delay(&self) -> Duration {
        let longest = match self.dice.below(20) {
            0 if self.on.load(Ordering::Relaxed) => 4000,
            _ => 20,
        };
        Duration::from_millis(u64::from(self.dice.below(longest)))
    }

    /// A caller waits for an answer for so long, and gets none.
    async fn no_answer<T>(&self) -> Result<T> {
        sleep(Duration::from_millis(u64::from(100 + self.dice.below(5000)))).await;
        Err(StoreError::Unavailable("memory: no answer".to_owned()))
    }
}

/// The store as one program sees it.
pub struct FaultyStore {
    faults: Faults,
    on_commit: OnCommit,
}

impl std::fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyStore").field("faults", &self.faults).finish_non_exhaustive()
    }
}

impl FaultyStore {
    /// One that tells `on_commit`.
    pub fn new(faults: Faults, on_commit: OnCommit) -> Self {
        Self { faults, on_commit }
    }

    /// Sends a transaction on its way; it arrives even if whoever sent it dies meanwhile.
    fn send(&self, txn: &Txn, after: Duration) -> tokio::task::JoinHandle<Result<Commit>> {
        let (inner, txn, told) = (
            self.faults.inner.clone(),
            self.faults.sabotage.spoil(txn.clone()),
            self.on_commit.clone(),
        );
        tokio::spawn(async move {
            sleep(after).await;
            let committed = inner.commit(&txn).await;
            if let Ok(Commit::Won(_)) = committed {
                told(&txn);
            }
            committed
        })
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("memory: gone".to_owned())
}

/// Whether a transaction puts a place in a queue. Long after, its lease would be gone.
fn leased(txn: &Txn) -> bool {
    txn.changes.iter().any(|change| matches!(change, Change::Put { lease: Some(_), .. }))
}

impl FaultyStore {
    /// A moment at which nobody waits for it any more.
    fn late(&self, txn: &Txn) -> Duration {
        let latest = if leased(txn) { 5_000 } else { LATEST.as_millis() as u32 };
        Duration::from_millis(u64::from(self.faults.dice.below(latest)))
    }

    /// Something on the way sends a transaction twice: after the first was answered, as a network
    /// does that repeats itself, or instead of waiting for the first answer, as a proxy does that
    /// tries again and passes on what it hears last: that the second one lost, to its own first.
    async fn send_twice(&self, txn: &Txn, delay: Duration) -> Result<Commit> {
        let first = self.send(txn, delay).await;
        let answer = if self.faults.dice.below(2) == 0 {
            drop(self.send(txn, self.late(txn)));
            first
        } else {
            self.send(txn, self.faults.delay()).await
        };
        sleep(self.faults.delay()).await;
        answer.unwrap_or_else(|_| Err(gone()))
    }

    /// A watch that goes wrong.
    fn spoilt(&self, mut changes: Watch) -> Watch {
        let faults = self.faults.clone();
        let (sender, receiver) = mpsc::channel(Watch::BUFFER);
        let feeder = tokio::spawn(async move {
            while let Some(change) = changes.next().await {
                sleep(faults.delay()).await;
                if faults.strikes() {
                    let reason = "memory: interrupted".to_owned();
                    if sender.send(Event::Interrupted { reason }).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(u64::from(faults.dice.below(8000)))).await;
                    // Either nothing was missed, or that is all that can be said.
                    let event = match change {
                        Event::Changed { revision, .. } if faults.dice.below(2) == 0 => {
                            Event::Lost { revision }
                        }
                        _ => {
                            if sender.send(Event::Resumed).await.is_err() {
                                return;
                            }
                            change
                        }
                    };
                    if sender.send(event).await.is_err() {
                        return;
                    }
                } else if sender.send(change).await.is_err() {
                    return;
                }
            }
        });
        Watch::new(receiver, AbortOnDropHandle::new(feeder))
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn load(&self, keys: &[Key]) -> Result<Snapshot> {
        sleep(self.faults.delay()).await;
        if self.faults.strikes() {
            return self.faults.no_answer().await;
        }
        let loaded = self.faults.inner.load(keys).await;
        sleep(self.faults.delay()).await;
        loaded
    }

    async fn list(&self, prefix: &Key, select: Select) -> Result<Snapshot> {
        sleep(self.faults.delay()).await;
        if self.faults.strikes() {
            return self.faults.no_answer().await;
        }
        let listed = self.faults.inner.list(prefix, select).await;
        sleep(self.faults.delay()).await;
        listed
    }

    async fn read(&self, keys: &[Key], below: &[(Key, Select)]) -> Result<Snapshot> {
        sleep(self.faults.delay()).await;
        if self.faults.strikes() {
            return self.faults.no_answer().await;
        }
        let listed = self.faults.inner.read(keys, below).await;
        sleep(self.faults.delay()).await;
        listed
    }

    async fn commit(&self, txn: &Txn) -> Result<Commit> {
        let faults = &self.faults;
        let delay = faults.delay();
        if faults.strikes() {
            match faults.dice.below(4) {
                // The request is lost.
                0 => {}
                // The answer is.
                1 => drop(self.send(txn, delay)),
                // It arrives long after everybody has given up.
                2 => drop(self.send(txn, self.late(txn))),
                _ => return self.send_twice(txn, delay).await,
            }
            return faults.no_answer().await;
        }
        let answer = self.send(txn, delay).await;
        sleep(faults.delay()).await;
        answer.unwrap_or_else(|_| Err(gone()))
    }

    fn watch(&self, span: &Span, after: Revision) -> Watch {
        self.spoilt(self.faults.inner.watch(span, after))
    }

    fn watch_from_now(&self, spans: &[Span]) -> Watch {
        self.spoilt(self.faults.inner.watch_from_now(spans))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        sleep(self.faults.delay()).await;
        if self.faults.strikes() {
            return self.faults.no_answer().await;
        }
        self.faults.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        sleep(self.faults.delay()).await;
        if self.faults.strikes() {
            // Or the lease is lost.
            if self.faults.dice.below(4) == 0 {
                self.faults.inner.revoke(lease).await?;
            }
            return self.faults.no_answer().await;
        }
        self.faults.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        sleep(self.faults.delay()).await;
        if self.faults.strikes() {
            return self.faults.no_answer().await;
        }
        self.faults.inner.revoke(lease).await
    }

    fn location(&self) -> String {
        "memory:".to_owned()
    }
}
