//! What keeps a watch over several servers going for as long as somebody reads it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::{Event, Watch};

/// Between two rounds over all servers: one that returns is found within a second, and a fleet does
/// not come in step.
const RETRY_MILLIS: std::ops::RangeInclusive<u64> = 250..=750;

/// The same when the answer is no, which only a person can change.
const REFUSED_MILLIS: std::ops::RangeInclusive<u64> = 4_000..=6_000;

/// What went wrong at a server.
pub(super) trait Failed: Send {
    /// Whether only a person can change it.
    fn is_for_a_person(&self) -> bool;
}

/// Why a watch at one server, or a round over all of them, ended.
pub(super) enum End<F> {
    /// Nobody reads it any more.
    Unread,
    /// It has to be opened again.
    Failed(F),
}

impl<F: Failed> From<F> for End<F> {
    fn from(failure: F) -> Self {
        Self::Failed(failure)
    }
}

impl<F> From<mpsc::error::SendError<Event>> for End<F> {
    fn from(_: mpsc::error::SendError<Event>) -> Self {
        Self::Unread
    }
}

/// Where events come from.
pub(super) trait Feeder: Send + 'static {
    /// What can go wrong.
    type Failure: Failed;

    /// Tries all servers, and follows the first that works for as long as it does. Ends well only
    /// with the reader.
    fn round(&mut self) -> impl Future<Output = Result<(), End<Self::Failure>>> + Send;

    /// Where they go.
    fn events(&self) -> &mpsc::Sender<Event>;
}

/// A watch that is fed by what `feeder` makes.
pub(super) fn start<F: Feeder>(feeder: impl FnOnce(mpsc::Sender<Event>) -> F) -> Watch {
    let (events, receiver) = mpsc::channel(Watch::BUFFER);
    let feeder = feeder(events);
    Watch::new(receiver, AbortOnDropHandle::new(tokio::spawn(run(feeder))))
}

async fn run(mut feeder: impl Feeder) {
    while let Err(End::Failed(failure)) = feeder.round().await {
        let pause = if failure.is_for_a_person() { REFUSED_MILLIS } else { RETRY_MILLIS };
        tokio::select! {
            () = sleep(Duration::from_millis(rand::random_range(pause))) => {}
            () = feeder.events().closed() => return,
        }
    }
}
