//! Two gateways on one store, one of which stands still at each step that it takes, while the other goes on.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use rebootlock::record::Disruption;
use rebootlock::store::{
    Commit, Key, LeaseId, MemoryStore, Result, Revision, Select, Snapshot, Span, Store, Txn, Watch,
};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::disruption::end::{Proof, finish};

/// A store that lets so many calls pass, and keeps the next one waiting.
#[derive(Debug)]
struct Slow {
    store: MemoryStore,
    passing: AtomicUsize,
    stands: Semaphore,
    goes_on: Semaphore,
}

impl Slow {
    async fn pass(&self) {
        let left = self.passing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
            Some(n.checked_sub(1).unwrap_or(usize::MAX))
        });
        if left == Ok(0) {
            self.stands.add_permits(1);
            self.goes_on.acquire().await.unwrap().forget();
        }
    }
}

#[async_trait]
impl Store for Slow {
    async fn load(&self, keys: &[Key]) -> Result<Snapshot> {
        self.pass().await;
        self.store.load(keys).await
    }
    async fn list(&self, prefix: &Key, select: Select) -> Result<Snapshot> {
        self.pass().await;
        self.store.list(prefix, select).await
    }
    async fn read(&self, keys: &[Key], below: &[(Key, Select)]) -> Result<Snapshot> {
        self.pass().await;
        self.store.read(keys, below).await
    }
    async fn commit(&self, txn: &Txn) -> Result<Commit> {
        self.pass().await;
        self.store.commit(txn).await
    }
    fn watch(&self, span: &Span, after: Revision) -> Watch {
        self.store.watch(span, after)
    }
    fn watch_from_now(&self, spans: &[Span]) -> Watch {
        self.store.watch_from_now(spans)
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.pass().await;
        self.store.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.pass().await;
        self.store.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.pass().await;
        self.store.revoke(lease).await
    }
    fn location(&self) -> String {
        self.store.location()
    }
}

/// The gateway that stands still, and the other one.
struct Two {
    slow: Arc<Slow>,
    late: Arc<App>,
    app: Arc<App>,
}

impl Two {
    fn new() -> Self {
        let store = MemoryStore::new();
        let slow = Arc::new(Slow {
            store: store.clone(),
            passing: AtomicUsize::new(usize::MAX),
            stands: Semaphore::new(0),
            goes_on: Semaphore::new(0),
        });
        let late = idle("", slow.clone());
        Self { slow, late, app: idle("", Arc::new(store)) }
    }

    /// Lets the slow one begin with something, and stand still before its call of the store number `n`.
    /// `None`: it has ended before that.
    async fn begins<T: Send + 'static>(
        &self,
        n: usize,
        what: impl Future<Output = T> + Send + 'static,
    ) -> Option<JoinHandle<T>> {
        self.slow.passing.store(n, Ordering::SeqCst);
        let mut begun = tokio::spawn(what);
        tokio::select! {
            stands = self.slow.stands.acquire() => {
                stands.unwrap().forget();
                Some(begun)
            }
            ended = &mut begun => {
                ended.unwrap();
                None
            }
        }
    }

    async fn goes_on<T>(&self, late: JoinHandle<T>) -> T {
        self.slow.goes_on.add_permits(1);
        late.await.unwrap()
    }

    async fn document(&self, n: u8) -> Option<Disruption> {
        let known = self.app.live().locks.disruption(&id(n)).await.unwrap();
        known.map(|timed| timed.disruption)
    }

    /// A machine that has cancelled, and has still to prove that it is ready.
    async fn proving(&self) -> Disruption {
        assert_eq!(told(&self.app, 2, "request").await, "permitted");
        tagged(&self.app, 2, "cancel", &[(READY_TIMEOUT, "10m")]).await;
        self.document(2).await.unwrap()
    }
}

/// At each of the steps of something, of which there are a few.
async fn at_each_step(first: usize, test: impl AsyncFn(usize) -> bool) {
    let mut n = first;
    while test(n).await {
        n += 1;
        assert!(n < 100, "it never ends");
    }
    assert!(n > first + 1, "it was stopped nowhere");
}

#[tokio::test(start_paused = true)]
async fn a_proof_that_comes_late_frees_nothing_that_the_machine_got_since() {
    at_each_step(0, async |n| {
        let two = Two::new();
        let proving = two.proving().await;
        let (late, proves) = (two.late.clone(), proving.clone());
        let late = two
            .begins(n, async move { finish(&late.live(), &id(2), &proves, Proof::Ready).await })
            .await;
        let Some(late) = late else { return false };
        finish(&two.app.live(), &id(2), &proving, Proof::TimeOver).await.unwrap();
        // All of it within the second in which the first proof began.
        assert_eq!(told(&two.app, 2, "request").await, "permitted");
        two.goes_on(late).await.unwrap();
        assert_eq!(told(&two.app, 3, "request").await, "requested", "step {n}");
        assert_eq!(told(&two.app, 2, "check").await, "permitted", "step {n}");
        // The next proof is not the last one's either.
        tagged(&two.app, 2, "cancel", &[(READY_TIMEOUT, "10m")]).await;
        finish(&two.app.live(), &id(2), &proving, Proof::Ready).await.unwrap();
        assert_eq!(told(&two.app, 3, "check").await, "requested", "step {n}");
        true
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_comes_late_takes_nothing_back_that_was_asked_for_since() {
    for (had_one, tags) in [(true, &[][..]), (true, &[(READY_TIMEOUT, "10m")]), (false, &[])] {
        // Before it has looked, it is one that was sent late.
        at_each_step(1, async |n| {
            let two = Two::new();
            if had_one {
                assert_eq!(told(&two.app, 2, "request").await, "permitted");
            }
            let (late, owned) = (two.late.clone(), tags.to_vec());
            let late = async move { tagged(&late, 2, "cancel", &owned).await };
            let Some(late) = two.begins(n, late).await else { return false };
            assert_eq!(told(&two.app, 2, "cancel").await, "denied");
            if let Some(proving) = two.document(2).await {
                finish(&two.app.live(), &id(2), &proving, Proof::TimeOver).await.unwrap();
            }
            assert_eq!(told(&two.app, 2, "request").await, "permitted", "step {n}");
            assert_eq!(two.goes_on(late).await, "denied");
            assert_eq!(told(&two.app, 3, "request").await, "requested", "step {n}, {tags:?}");
            assert_eq!(told(&two.app, 2, "check").await, "permitted", "step {n}, {tags:?}");
            true
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_not_lost_because_a_proof_ends_at_that_moment() {
    at_each_step(0, async |n| {
        let two = Two::new();
        let proving = two.proving().await;
        assert_eq!(told(&two.app, 2, "request").await, "requested");
        let late = two.late.clone();
        let late = async move { told(&late, 2, "cancel").await };
        let Some(late) = two.begins(n, late).await else { return false };
        finish(&two.app.live(), &id(2), &proving, Proof::Ready).await.unwrap();
        assert_eq!(two.goes_on(late).await, "denied");
        finish(&two.app.live(), &id(2), &proving, Proof::Ready).await.unwrap();
        assert_eq!(two.document(2).await, None, "step {n}");
        assert_eq!(holders(&two.app, ".").await, [], "step {n}");
        true
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_late_leaves_no_slot_that_nobody_knows_about() {
    for wants_again in [false, true] {
        at_each_step(0, async |n| {
            let two = Two::new();
            let late = two.late.clone();
            let late = async move { told(&late, 2, "request").await };
            let Some(late) = two.begins(n, late).await else { return false };
            assert_eq!(told(&two.app, 2, "request").await, "permitted");
            assert_eq!(told(&two.app, 2, "cancel").await, "denied");
            assert_eq!(told(&two.app, 3, "request").await, "permitted");
            if wants_again {
                assert_eq!(told(&two.app, 2, "request").await, "requested");
            }
            let word = two.goes_on(late).await;
            assert_ne!(word, "permitted", "step {n}");
            assert_eq!(holders(&two.app, ".").await, [id(3)], "step {n}");
            assert!(!wants_again || two.document(2).await.is_some());
            assert_eq!(told(&two.app, 3, "cancel").await, "denied");
            let holder = told(&two.app, 2, "check").await == "permitted";
            assert_eq!(holder, two.document(2).await.is_some(), "step {n}");
            assert_eq!(holder, holders(&two.app, ".").await == [id(2)], "step {n}");
            true
        })
        .await;
    }
}
