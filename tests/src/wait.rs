//! Waiting for a condition, never for a time.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep, timeout};

/// Pause between two looks at a condition that nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks at `condition` until it gives a value. Fails with `what` and the condition's last word once
/// `deadline` has passed, even in the middle of a look that hangs.
pub async fn eventually<T, E, F>(what: &str, deadline: Duration, mut condition: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T, E>,
    E: Display,
{
    let end = Instant::now() + deadline;
    let mut last = "the condition was never looked at to its end".to_owned();
    loop {
        match tokio::time::timeout_at(end, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => last = reason.to_string(),
            Err(_) => anyhow::bail!("not within {deadline:?}: {what}; last seen: {last}"),
        }
        sleep(LOOK_AGAIN.min(end.saturating_duration_since(Instant::now()))).await;
        if Instant::now() >= end {
            anyhow::bail!("not within {deadline:?}: {what}; last seen: {last}");
        }
    }
}

/// Awaits `future`, or fails with `what` once `deadline` has passed.
pub async fn within<T>(
    what: &str,
    deadline: Duration,
    future: impl Future<Output = T>,
) -> Result<T> {
    timeout(deadline, future).await.with_context(|| format!("not within {deadline:?}: {what}"))
}
