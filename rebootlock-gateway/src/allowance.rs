//! How long the store may keep one request from being answered: so long in all, however many questions
//! the answer takes.
//!
//! Only time that is spent on the store counts. A client that sends its body slowly, a password that is
//! checked, or a check of goahead's that runs leave it as it is.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{Instant, timeout};

tokio::task_local! {
    /// What is left of it for the request of this task.
    static LEFT: Cell<Duration>;
}

/// Answers a request for which the store may take `time`.
pub(crate) async fn with<F: Future>(time: Duration, answering: F) -> F::Output {
    LEFT.scope(Cell::new(time), answering).await
}

/// What `asked` of the store comes to. `None`: it takes longer than `each`, or than is left for this
/// request. Outside of requests each question has its whole time.
pub(crate) async fn within<F: Future>(each: Duration, asked: F) -> Option<F::Output> {
    let left = LEFT.try_with(Cell::get).unwrap_or(each).min(each);
    // A timer that has ended would let the question begin all the same.
    if left.is_zero() {
        return None;
    }
    let began = Instant::now();
    let answer = timeout(left, asked).await.ok();
    let _ = LEFT.try_with(|left| left.set(left.get().saturating_sub(began.elapsed())));
    answer
}

/// Begins anew with `time`, for a client that has waited because it asked to be held.
pub(crate) fn renew(time: Duration) {
    let _ = LEFT.try_with(|left| left.set(time));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn takes(time: Duration) {
        tokio::time::sleep(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn questions_of_one_request_share_its_time() {
        let began = Instant::now();
        with(5 * SECOND, async {
            assert!(within(5 * SECOND, takes(3 * SECOND)).await.is_some());
            // The store has no part in this.
            takes(60 * SECOND).await;
            assert!(within(5 * SECOND, takes(3 * SECOND)).await.is_none());
            let never = async { unreachable!("nothing is asked any more") };
            let never: Option<()> = within(5 * SECOND, never).await;
            assert!(never.is_none());
            renew(5 * SECOND);
            assert!(within(5 * SECOND, takes(4 * SECOND)).await.is_some());
        })
        .await;
        assert_eq!(began.elapsed(), 69 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_request_has_the_whole_time_each_time() {
        for _ in 0..3 {
            assert!(within(5 * SECOND, takes(4 * SECOND)).await.is_some());
        }
        assert!(within(5 * SECOND, takes(6 * SECOND)).await.is_none());
    }
}
