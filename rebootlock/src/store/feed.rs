//! What keeps a watch over several servers going for as long as somebody reads it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::shared::{Channel, SharedWatches};
use super::{Event, Revision, Span, Watch};

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

impl<F> From<Unread> for End<F> {
    fn from(_: Unread) -> Self {
        Self::Unread
    }
}

/// Nobody reads it any more.
pub(super) struct Unread;

/// Where events go.
pub(super) enum Outlet {
    /// To one reader, for which the feeder waits.
    One(mpsc::Sender<Event>),
    /// To all who watch the same. The last of them ends the feeder.
    Shared(Arc<Channel>),
}

impl Outlet {
    /// Tells who reads.
    ///
    /// # Errors
    /// When nobody does any more.
    pub(super) async fn send(&self, event: Event) -> Result<(), Unread> {
        match self {
            Self::One(events) => events.send(event).await.map_err(|_| Unread),
            Self::Shared(channel) => {
                channel.tell(event);
                Ok(())
            }
        }
    }

    /// Returns when nobody reads any more.
    pub(super) async fn closed(&self) {
        match self {
            Self::One(events) => events.closed().await,
            Self::Shared(_) => std::future::pending().await,
        }
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
    fn events(&self) -> &Outlet;
}

/// The watch of `span` after `after`: a part of one that somebody has already, or one that is fed by
/// what `feeder` makes.
pub(super) fn start<F: Feeder>(
    watches: &SharedWatches,
    span: &Span,
    after: Revision,
    feeder: impl FnOnce(Outlet) -> F,
) -> Watch {
    watches.part(span, after).unwrap_or_else(|| {
        let (events, receiver) = mpsc::channel(Watch::BUFFER);
        Watch::new(receiver, spawn(feeder(Outlet::One(events))))
    })
}

/// The watch of `spans` from now on that somebody has already, or one that is fed by what `feeder` makes.
pub(super) fn share<F: Feeder>(
    watches: &SharedWatches,
    spans: &[Span],
    feeder: impl FnOnce(Outlet) -> F,
) -> Watch {
    watches.watch(spans, |channel| spawn(feeder(Outlet::Shared(channel))))
}

fn spawn(feeder: impl Feeder) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(run(feeder)))
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
