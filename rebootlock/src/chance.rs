//! Chance, for pauses of which no two should be equal.
//!
//! Seeded by the operating system, unless a simulation has said [`seed`] on its thread: then the
//! same seed gives the same course of events.

use std::cell::RefCell;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From here on, chance on this thread follows `seed`.
pub fn seed(seed: u64) {
    SEEDED.set(Some(StdRng::seed_from_u64(seed)));
}

/// A duration from `shortest` to `longest`.
pub(crate) fn between(shortest: Duration, longest: Duration) -> Duration {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(rng) => rng.random_range(shortest..=longest),
        None => rand::rng().random_range(shortest..=longest),
    })
}
