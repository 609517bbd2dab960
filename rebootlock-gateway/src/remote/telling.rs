//! A watch as an answer that goes on: a line for each change, and one now and then when there is none,
//! so that a gateway that has gone is noticed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::stream::unfold;
use rebootlock::store::wire::{Entry, HEARTBEAT_SECS, Line};
use rebootlock::store::{Event, Revision, Watch};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// The first heartbeat comes earlier: who has been away waits for it to know that nothing was missed.
const FIRST_HEARTBEAT: Duration = Duration::from_millis(500);

/// Then the watch is to be opened anew: who has lost its credentials since does not get another one.
const LONGEST: Duration = Duration::from_secs(3_600);

/// One watch of one client. It ends when its connection does.
pub(super) struct Telling {
    app: Arc<App>,
    watch: Watch,
    opened: Option<Revision>,
    heartbeat: Duration,
    ends: Instant,
    /// Somebody else may have vouched for the client since.
    replaced: CancellationToken,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Telling {
    /// A watch on a store that was at `now` before it was opened.
    pub(super) fn new(
        app: Arc<App>,
        watch: Watch,
        now: Revision,
        replaced: CancellationToken,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        app.metrics.watching(1);
        Self {
            app,
            watch,
            opened: Some(now),
            heartbeat: FIRST_HEARTBEAT,
            ends: Instant::now() + LONGEST,
            replaced,
            over: false,
            _permit: permit,
        }
    }

    /// Nothing is asked of the store before the client has taken what came earlier.
    pub(super) fn into_body(self) -> Body {
        Body::from_stream(unfold(self, |mut telling| async move {
            let line = telling.next().await?;
            // A line always has a JSON form.
            let mut text = serde_json::to_vec(&line).unwrap_or_default();
            text.push(b'\n');
            Some((Ok::<_, Infallible>(Bytes::from(text)), telling))
        }))
    }

    async fn next(&mut self) -> Option<Line> {
        if self.over {
            return None;
        }
        if let Some(Revision(revision)) = self.opened.take() {
            return Some(Line::Opened(revision));
        }
        let (stop, replaced) = (self.app.stop.clone(), self.replaced.clone());
        let line = tokio::select! {
            biased;
            () = stop.cancelled() => Line::End("the gateway stops".to_owned()),
            () = replaced.cancelled() => {
                Line::End("the gateway's certificates have changed; connect again".to_owned())
            }
            event = self.watch.next() => match event {
                Some(event) => line(event),
                None => Line::End("the gateway stops".to_owned()),
            },
            () = tokio::time::sleep_until(self.ends) => {
                Line::End("the watch has been open for long enough; open it again".to_owned())
            }
            () = sleep(self.heartbeat) => Line::Heartbeat {},
        };
        self.heartbeat = Duration::from_secs(HEARTBEAT_SECS);
        self.over = matches!(line, Line::End(_));
        Some(line)
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.app.metrics.watching(-1);
    }
}

fn line(event: Event) -> Line {
    match event {
        Event::Changed { key, entry: Some(entry), .. } => Line::Put(Entry::new(key, entry)),
        Event::Changed { key, entry: None, revision } => {
            Line::Gone { key: key.to_string(), revision: revision.0 }
        }
        Event::Lost { revision } => Line::Lost(revision.0),
        // Another gateway may see more. The log here says why.
        Event::Interrupted { reason } => {
            tracing::warn!(reason, "a watch is interrupted");
            Line::End("the gateway's store is out of reach".to_owned())
        }
        Event::Resumed => Line::Heartbeat {},
    }
}
