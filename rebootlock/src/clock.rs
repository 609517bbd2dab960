//! The wall clock, by which documents are dated.
//!
//! It may be wrong and may jump: no decision about a slot hangs on it but one that has to be
//! configured ([`crate::lock::LockManager::release_overdue`]), and what else does is said where it
//! is ([`crate::queue`]). Each lock manager asks its own, which is the system's unless a
//! simulation gives it another.

use std::fmt;
use std::sync::Arc;

use crate::record::UnixTime;

/// Where the time comes from.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<dyn Fn() -> UnixTime + Send + Sync>>);

impl Clock {
    /// One that says what `now` says.
    pub fn new(now: impl Fn() -> UnixTime + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(now)))
    }

    /// What it says.
    pub fn now(&self) -> UnixTime {
        self.0.as_ref().map_or_else(UnixTime::now, |now| now())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_none() { "Clock(system)" } else { "Clock(given)" })
    }
}
