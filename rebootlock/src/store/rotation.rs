//! Which of the servers of one store is tried first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a server that failed is tried only after all others.
const BAD_FOR: Duration = Duration::from_secs(5);

/// Servers by number, one of them current.
#[derive(Debug)]
pub(super) struct Rotation {
    current: AtomicUsize,
    /// Those that failed just now, each until when that counts.
    bad_until: Mutex<Vec<Option<Instant>>>,
}

impl Rotation {
    /// So many servers, of which nothing is known yet.
    pub(super) fn of(servers: usize) -> Self {
        Self { current: AtomicUsize::new(0), bad_until: Mutex::new(vec![None; servers]) }
    }

    /// All of them in the order to try them: from the current one on, those that failed just now
    /// last.
    pub(super) fn order(&self) -> Vec<usize> {
        let (current, now, bad_until) =
            (self.current.load(Ordering::Relaxed), Instant::now(), self.bad_until());
        let servers = bad_until.len();
        let mut order: Vec<_> = (0..servers).map(|offset| (current + offset) % servers).collect();
        order.sort_by_key(|index| bad_until[*index].is_some_and(|until| now < until));
        order
    }

    /// Notes that a server works.
    pub(super) fn worked(&self, index: usize) {
        self.current.store(index, Ordering::Relaxed);
        self.set_bad_until(index, None);
    }

    /// Notes that a server does not work.
    pub(super) fn failed(&self, index: usize) {
        self.set_bad_until(index, Some(Instant::now() + BAD_FOR));
    }

    fn set_bad_until(&self, index: usize, until: Option<Instant>) {
        if let Some(known) = self.bad_until().get_mut(index) {
            *known = until;
        }
    }

    fn bad_until(&self) -> MutexGuard<'_, Vec<Option<Instant>>> {
        self.bad_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_one_that_worked_is_first_and_those_that_failed_are_last_for_a_while() {
        let rotation = Rotation::of(3);
        assert_eq!(rotation.order(), [0, 1, 2]);
        rotation.worked(1);
        assert_eq!(rotation.order(), [1, 2, 0]);
        rotation.failed(1);
        assert_eq!(rotation.order(), [2, 0, 1]);
        tokio::time::advance(BAD_FOR).await;
        assert_eq!(rotation.order(), [1, 2, 0]);
        rotation.failed(2);
        rotation.worked(2);
        assert_eq!(rotation.order(), [2, 0, 1]);
    }
}
