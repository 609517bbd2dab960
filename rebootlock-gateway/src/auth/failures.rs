//! Wrong passwords, by the address that they came from. There is one count for all doors.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::rate::client;

/// So many may be wrong at once, and as many in each minute.
const PER_MINUTE: u32 = 10;

/// What each one takes of the time.
const EACH: Duration = Duration::from_secs(60 / PER_MINUTE as u64);

/// Above so many addresses, those whose time is over are looked for.
const MANY: usize = 1024;

/// When all wrong passwords of an address will have been forgotten.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<IpAddr, Instant>>);

impl Failures {
    /// One more came from `address`.
    pub(super) fn add(&self, address: IpAddr) {
        let now = Instant::now();
        let mut known = self.known();
        if known.len() >= MANY {
            known.retain(|_, over| *over > now);
        }
        let over = known.entry(client(address)).or_insert(now);
        *over = (*over).max(now) + EACH;
    }

    /// Whether another password of `address` is to be looked at.
    ///
    /// # Errors
    /// How long it has to wait until then.
    pub(super) fn allow(&self, address: IpAddr) -> Result<(), Duration> {
        let known = self.known();
        let Some(over) = known.get(&client(address)) else { return Ok(()) };
        let left = over.saturating_duration_since(Instant::now());
        match left.checked_sub(EACH * (PER_MINUTE - 1)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_has_ten_wrong_passwords_a_minute() {
        let failures = Failures::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (one, other) = (address("2001:db8::1"), address("10.0.0.1"));
        for _ in 0..PER_MINUTE {
            assert_eq!(failures.allow(one), Ok(()));
            failures.add(one);
        }
        assert_eq!(failures.allow(address("2001:db8::2")), Err(EACH), "the same /64");
        assert_eq!(failures.allow(other), Ok(()));
        tokio::time::advance(EACH).await;
        assert_eq!(failures.allow(one), Ok(()));
        failures.add(one);
        assert_eq!(failures.allow(one), Err(EACH));
        tokio::time::advance(2 * EACH * PER_MINUTE).await;
        for _ in 0..MANY {
            failures.add(other);
        }
        assert_eq!(failures.allow(one), Ok(()));
    }
}
