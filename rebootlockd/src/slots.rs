//! Where the agent gets its slots from: the lock manager on a store, or a FleetLock server.
//!
//! An enum and no trait: there are these two, and what they can tell differs too much to be called
//! the same. A store says who holds, since which boot and how far they have come, and wakes who
//! waits; a server says yes or no to who asks. What the agent does with either is beside each
//! other in `agent/store.rs` and `agent/server.rs`; the policy knows of neither.

use std::sync::Arc;

use rebootlock::config::Settings;
use rebootlock::fleetlock::FleetLock;
use rebootlock::lock::LockManager;
use rebootlock::store::{self, StoreError};

/// What gives slots and takes them back.
#[derive(Debug, Clone)]
pub enum Slots {
    /// The lock manager on a store.
    Store(Arc<LockManager>),
    /// A FleetLock server.
    Server(Arc<FleetLock>),
}

impl Slots {
    /// What `settings` describe. Nothing is asked yet. Call it inside the runtime.
    ///
    /// # Errors
    /// A store that cannot be opened.
    pub fn open(settings: &Settings) -> Result<Self, StoreError> {
        if let Some(server) = FleetLock::new(&settings.store) {
            return Ok(Self::Server(Arc::new(server)));
        }
        let locks = LockManager::new(store::open(&settings.store)?, settings.store.keys.clone());
        Ok(Self::Store(Arc::new(locks.with_cooldowns(settings.cooldowns()))))
    }

    /// Where it is, for logs.
    pub fn location(&self) -> String {
        match self {
            Self::Store(locks) => locks.store().location(),
            Self::Server(server) => server.location(),
        }
    }

    /// The lock manager, if there is a store: for what only a store has, such as requests and the
    /// presence of machines.
    pub fn locks(&self) -> Option<&Arc<LockManager>> {
        match self {
            Self::Store(locks) => Some(locks),
            Self::Server(_) => None,
        }
    }
}
