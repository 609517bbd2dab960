//! A watch that finds its way back: over other gateways, after a restart, a stall, a gap.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use super::cluster::Cluster;
use super::failure::{Failure, summary};
use super::link::Link;
use super::wire::{self, HEARTBEAT_SECS, Line};
use crate::store::feed::{self, End, Outlet};
use crate::store::shared::SharedWatches;
use crate::store::{Event, Key, Revision, Span, Watch};

/// How long nothing may come, not even a heartbeat, before a gateway counts as gone.
const PATIENCE: Duration = Duration::from_secs(3 * HEARTBEAT_SECS);

/// A value and its key are far shorter.
const MAX_LINE_BYTES: usize = 64 << 20;

pub(super) fn open(
    cluster: Arc<Cluster>,
    watches: &SharedWatches,
    span: Span,
    after: Revision,
) -> Watch {
    feed::start(watches, &span, after, |events| {
        Feeder::of(cluster, vec![span.clone()], Some(after), events)
    })
}

/// Several spans: it is the connection that costs, so they share one.
pub(super) fn from_now(cluster: Arc<Cluster>, watches: &SharedWatches, spans: &[Span]) -> Watch {
    feed::share(watches, spans, |events| Feeder::of(cluster, spans.to_vec(), None, events))
}

struct Feeder {
    cluster: Arc<Cluster>,
    spans: Vec<Span>,
    told: Told,
    /// Whether the reader believes that the store is out of reach.
    interrupted: bool,
    events: Outlet,
}

/// What the reader has been told.
#[derive(Debug)]
struct Told {
    /// Everything up to here. `None`: the watch has yet to begin, with what comes.
    seen: Option<Revision>,
    /// The revision that is being told, of which more may come.
    at: Revision,
    /// What has been told of it, so that it is not told again to who asks for all of it again.
    keys: BTreeSet<Key>,
}

impl Told {
    /// Whether a change has yet to be told; it counts as told from now on.
    fn is_news(&mut self, key: &Key, revision: Revision) -> bool {
        if revision < self.at || self.seen.is_some_and(|seen| revision <= seen) {
            return false;
        }
        if revision > self.at {
            self.at = revision;
            self.keys.clear();
            // Of what came before there is no more to come.
            self.seen = Some(Revision(revision.0.saturating_sub(1)));
        }
        self.keys.insert(key.clone())
    }

    fn all_up_to(&mut self, revision: Revision) {
        *self = Self { seen: Some(revision), at: Revision(0), keys: BTreeSet::new() };
    }
}

impl feed::Feeder for Feeder {
    type Failure = Failure;

    fn events(&self) -> &Outlet {
        &self.events
    }

    async fn round(&mut self) -> Result<(), End<Failure>> {
        let mut failures = Vec::new();
        let mut order = self.cluster.order().into_iter();
        while let Some(index) = order.next() {
            if self.spans.len() > 1 {
                // Each has seen a past of its own: everything has to be read again.
                self.told.seen = None;
            }
            let limit = self.attempt_limit();
            let late = || Failure::Unknown(format!("no answer within {limit:.1?}"));
            let opened = timeout(limit, self.open(index)).await.unwrap_or_else(|_| Err(late()));
            let failure = match opened {
                Ok((link, mut lines, revision)) => {
                    self.cluster.worked(index);
                    let began = Instant::now();
                    let ended = self.follow(&mut lines, revision).await;
                    drop(link);
                    let Err(End::Failed(failure)) = ended else { return Ok(()) };
                    // One that has worked is worth trying again, and at once, but not one that
                    // hangs up as soon as it is opened.
                    if began.elapsed() > Duration::from_secs(1) {
                        self.cluster.failed(index);
                        failures.clear();
                        order = self.cluster.order().into_iter();
                    }
                    failure
                }
                Err(failure) => failure,
            };
            self.cluster.failed(index);
            failures.push((index, failure));
        }
        let named: Vec<_> = failures
            .iter()
            .map(|(index, failure)| (self.cluster.shown(*index), failure.clone()))
            .collect();
        if !self.interrupted {
            self.interrupted = true;
            let reason = summary(&named).to_string();
            self.events.send(Event::Interrupted { reason }).await?;
        }
        let last = failures.pop().map(|(_, failure)| failure);
        Err(End::Failed(last.unwrap_or_else(|| Failure::Undone("no gateway".to_owned()))))
    }
}

impl Feeder {
    fn of(cluster: Arc<Cluster>, spans: Vec<Span>, seen: Option<Revision>, events: Outlet) -> Self {
        let told = Told { seen, at: Revision(0), keys: BTreeSet::new() };
        Self { cluster, spans, told, interrupted: false, events }
    }

    fn attempt_limit(&self) -> Duration {
        let share = self.cluster.timeout() / u32::try_from(self.cluster.len()).unwrap_or(1);
        share.max(Duration::from_millis(500))
    }

    /// An answer that goes on, and the revision at which the store was when it began.
    async fn open(&self, index: usize) -> Result<(Link, Lines, Revision), Failure> {
        let watch = wire::Watch {
            spans: self.spans.iter().map(Into::into).collect(),
            after: self.told.seen.map(|seen| seen.0),
        };
        let ask = super::ask(wire::WATCH, &watch).map_err(Failure::Settled)?;
        let mut link = self.cluster.connect(index).await?;
        let mut lines = Lines { body: link.open(&ask).await?, rest: Vec::new(), looked: 0 };
        match lines.next().await? {
            Line::Opened(revision) => Ok((link, lines, Revision(revision))),
            Line::End(reason) => Err(Failure::Undone(reason)),
            other => Err(Failure::Unknown(format!("the watch does not begin, but says {other:?}"))),
        }
    }

    async fn follow(
        &mut self,
        lines: &mut Lines,
        revision: Revision,
    ) -> Result<std::convert::Infallible, End<Failure>> {
        if self.told.seen == Some(revision) {
            self.resumed().await?;
        }
        loop {
            let line = tokio::select! {
                line = timeout(PATIENCE, lines.next()) => line,
                () = self.events.closed() => return Err(End::Unread),
            };
            let line = line.unwrap_or_else(|_| {
                Err(Failure::Unknown(format!("the gateway has been silent for {PATIENCE:?}")))
            })?;
            let (key, entry, revision) = match line {
                Line::Put(entry) => {
                    let (key, entry) = entry.into_parts();
                    let revision = entry.modified;
                    (key, Some(entry), revision)
                }
                Line::Gone { key, revision } => (Key::new(key), None, Revision(revision)),
                Line::Lost(revision) => {
                    let revision = Revision(revision);
                    self.told.all_up_to(revision);
                    self.events.send(Event::Lost { revision }).await?;
                    self.resumed().await?;
                    continue;
                }
                Line::Heartbeat {} => {
                    self.resumed().await?;
                    continue;
                }
                // The store is away, or the gateway stops: another one may know more.
                Line::End(reason) => return Err(Failure::Undone(reason).into()),
                Line::Opened(_) => continue,
            };
            self.resumed().await?;
            // Several spans may be told of apart from each other.
            if self.spans.len() > 1 || self.told.is_news(&key, revision) {
                self.events.send(Event::Changed { key, entry, revision }).await?;
            }
        }
    }

    /// Says once that the store answers again, as soon as it is known that nothing was missed, or
    /// after it was said that something was.
    async fn resumed(&mut self) -> Result<(), End<Failure>> {
        if std::mem::take(&mut self.interrupted) {
            self.events.send(Event::Resumed).await?;
        }
        Ok(())
    }
}

/// The lines of an answer, as they come.
struct Lines {
    body: Incoming,
    rest: Vec<u8>,
    /// So many bytes of the rest have no end of a line in them.
    looked: usize,
}

impl Lines {
    /// The next line. Safe to cancel.
    async fn next(&mut self) -> Result<Line, Failure> {
        loop {
            let new = self.rest.get(self.looked..).unwrap_or_default();
            if let Some(at) = new.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=self.looked + at).collect();
                self.looked = 0;
                return serde_json::from_slice(&line).map_err(|error| {
                    Failure::Unknown(format!(
                        "the gateway says what is no line of a watch: {error}"
                    ))
                });
            }
            self.looked = self.rest.len();
            if self.looked > MAX_LINE_BYTES {
                return Err(Failure::Unknown("the gateway says a line without end".to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(Failure::Unknown(format!("the connection broke: {error}")));
                }
                None => return Err(Failure::Unknown("the gateway ended the watch".to_owned())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_again_is_told_once() {
        let (a, b) = (Key::new("a"), Key::new("b"));
        let mut told = Told { seen: Some(Revision(3)), at: Revision(0), keys: BTreeSet::new() };
        assert!(!told.is_news(&a, Revision(3)), "asked for is what comes after");
        assert!(told.is_news(&a, Revision(5)));
        // Cut off in the middle of a commit: all of it is asked for again.
        assert_eq!(told.seen, Some(Revision(4)));
        assert!(!told.is_news(&a, Revision(5)) && told.is_news(&b, Revision(5)));
        assert!(told.is_news(&a, Revision(6)) && !told.is_news(&b, Revision(5)));
        told.all_up_to(Revision(2));
        assert!(told.is_news(&a, Revision(3)), "the store was restored to an earlier state");
    }
}
