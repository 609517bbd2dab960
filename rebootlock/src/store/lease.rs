//! Keeping a lease alive for as long as its owner lives.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{LeaseId, Result, SharedStore, StoreError};

/// A lease that is kept alive until this is dropped, and then ends by itself.
#[derive(Debug)]
pub struct LeaseKeeper {
    store: SharedStore,
    id: LeaseId,
    gone: watch::Receiver<bool>,
    _keeper: AbortOnDropHandle<()>,
}

impl LeaseKeeper {
    /// Starts a lease that ends `ttl` after its owner dies.
    ///
    /// # Errors
    /// What the store says when it cannot grant one.
    pub async fn start(store: SharedStore, ttl: Duration) -> Result<Self> {
        let id = store.grant(ttl).await?;
        let (sender, gone) = watch::channel(false);
        let keeper = tokio::spawn(keep(store.clone(), id, ttl, sender));
        Ok(Self { store, id, gone, _keeper: AbortOnDropHandle::new(keeper) })
    }

    /// The lease, to hang keys on.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Returns when the store says that the lease has ended. Safe to cancel.
    pub async fn gone(&mut self) {
        // The keeper only ends after it has said so, or with the runtime.
        if self.gone.wait_for(|gone| *gone).await.is_err() {
            std::future::pending().await
        }
    }

    /// Ends the lease now; its keys go at once.
    ///
    /// # Errors
    /// What the store says; the lease then ends by itself.
    pub async fn end(self) -> Result<()> {
        self.store.revoke(self.id).await
    }
}

async fn keep(store: SharedStore, id: LeaseId, ttl: Duration, gone: watch::Sender<bool>) {
    let interval = ttl / 3;
    // After a failure sooner, so that a short interruption does not cost the place in the queue.
    let retry = (ttl / 20).min(Duration::from_secs(1));
    let mut pause = interval;
    loop {
        tokio::time::sleep(pause).await;
        pause = match store.keep_alive(id).await {
            Ok(()) => interval,
            Err(StoreError::LeaseGone) => {
                gone.send_replace(true);
                return;
            }
            Err(_) => retry,
        };
    }
}
