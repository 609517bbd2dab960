//! Asking the detectors again and again, and at once when a watched file changes.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::time::Instant;

use super::watch::Watcher;
use super::{Finding, Latest};

/// Between two looks at a file that changes again and again, as a list does while packages are
/// being installed.
const BREATH: Duration = Duration::from_millis(50);

/// Asks every `interval`, a tenth more or less so that machines do not keep step, and those that
/// look at watched files at once when one changes, for as long as anybody wants to know. `heard` is told
/// each answer.
pub async fn follow(latest: Arc<Latest>, interval: Duration, heard: impl Fn(&Finding)) {
    let mut watcher = Watcher::new(&latest.detectors().watched());
    loop {
        // Before the look, so that nothing falls between.
        watcher.arm();
        let next = Instant::now() + interval.mul_f64(rand::rng().random_range(0.9..=1.1));
        tokio::select! {
            _ = latest.ask(&heard) => {}
            () = latest.closed() => return,
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => break,
                () = watcher.changed() => {}
                () = latest.closed() => return,
            }
            tokio::select! {
                _ = latest.ask_watched(&heard) => {}
                () = latest.closed() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(BREATH) => {}
                () = latest.closed() => return,
            }
        }
    }
}
