//! A watch that finds its way back: over other endpoints, after a restart, a stall, a compaction.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, GetOptions, WatchOptions, WatchStream};
use tokio::time::{Instant, sleep_until};

use super::cluster::{Cluster, Connection, within};
use super::failure::{Failure, Task, understand};
use super::{signed, unsigned};
use crate::store::feed::{self, End, Outlet};
use crate::store::shared::SharedWatches;
use crate::store::{Entry, Event, Key, Revision, Span, StoreError, Watch};

/// How long nothing may come before the server is asked whether it is still there.
const QUIET_FOR: Duration = Duration::from_secs(10);

/// How long it may take to say so.
const PROGRESS_WITHIN: Duration = Duration::from_secs(5);

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

/// Several spans: it is the stream that costs, so they share one.
pub(super) fn from_now(cluster: Arc<Cluster>, watches: &SharedWatches, spans: &[Span]) -> Watch {
    feed::share(watches, spans, |events| Feeder::of(cluster, spans.to_vec(), None, events))
}

struct Feeder {
    cluster: Arc<Cluster>,
    spans: Vec<Span>,
    /// Everything up to here has been told. `None`: the watch has yet to begin, with what comes.
    seen: Option<Revision>,
    /// The cluster that the revisions are of; restored from a backup it has another id.
    cluster_id: Option<u64>,
    /// Whether the reader believes that the store is out of reach.
    interrupted: bool,
    events: Outlet,
}

impl feed::Feeder for Feeder {
    type Failure = Failure;

    fn events(&self) -> &Outlet {
        &self.events
    }

    async fn round(&mut self) -> Result<(), End<Failure>> {
        let limit = self.attempt_limit();
        let mut failures = Vec::new();
        let mut order = self.cluster.order().into_iter();
        let mut last = None;
        while let Some(index) = order.next() {
            if self.spans.len() > 1 {
                // Each has seen a past of its own: everything has to be read again.
                self.seen = None;
            }
            let opened = within(limit, self.connect(index)).await;
            let failure = match opened {
                Ok((connection, revision)) => {
                    let began = Instant::now();
                    match self.follow(&connection, revision, index).await {
                        End::Unread => return Ok(()),
                        End::Failed(failure) => {
                            self.cluster.failed(index, Some(&connection));
                            // One that has worked is worth trying again, and at once, but not
                            // one that hangs up as soon as it is opened.
                            if began.elapsed() > Duration::from_secs(1) {
                                failures.clear();
                                order = self.cluster.order().into_iter();
                            }
                            failure
                        }
                    }
                }
                Err(failure) => {
                    self.cluster.failed(index, None);
                    failure
                }
            };
            failures.push((index, failure.clone()));
            last = Some(failure);
        }
        if !self.interrupted {
            self.interrupted = true;
            let reason = self.cluster.summary(&failures).to_string();
            self.events.send(Event::Interrupted { reason }).await?;
        }
        Err(End::Failed(last.unwrap_or_else(|| Failure::Unreached("no endpoint".to_owned()))))
    }
}

impl Feeder {
    fn of(cluster: Arc<Cluster>, spans: Vec<Span>, seen: Option<Revision>, events: Outlet) -> Self {
        Self { cluster, spans, seen, cluster_id: None, interrupted: false, events }
    }

    fn attempt_limit(&self) -> Duration {
        let share = self.cluster.timeout() / u32::try_from(self.cluster.len()).unwrap_or(1);
        share.clamp(Duration::from_millis(500), Duration::from_secs(3))
    }

    /// A connection whose server answers, and the revision that the store is at: a linearizable
    /// read, so no member that lags behind looks like a store that went back in time.
    /// Nothing is read for a watch that has no past.
    async fn connect(&mut self, index: usize) -> Result<(Connection, Option<Reached>), Failure> {
        let (connection, _) = self.cluster.connect(index).await?;
        if self.seen.is_none() {
            return Ok((connection, None));
        }
        let options = self.glance();
        let reached = self.read(index, &connection, options).await?;
        Ok((connection, Some(reached)))
    }

    async fn read(
        &self,
        index: usize,
        connection: &Connection,
        options: GetOptions,
    ) -> Result<Reached, Failure> {
        let answer = connection.kv().get(self.first(), Some(options)).await;
        let answer = answer.map_err(|error| {
            let failure = self.understand(index, error);
            if !matches!(failure, Failure::Settled(_)) {
                self.cluster.forget(index, connection);
            }
            failure
        })?;
        let header = answer.header();
        Ok(Reached {
            revision: unsigned(header.map_or(0, |header| header.revision())),
            cluster_id: header.map_or(0, |header| header.cluster_id()),
        })
    }

    async fn follow(
        &mut self,
        connection: &Connection,
        reached: Option<Reached>,
        index: usize,
    ) -> End<Failure> {
        match self.try_follow(connection, reached, index).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_follow(
        &mut self,
        connection: &Connection,
        reached: Option<Reached>,
        index: usize,
    ) -> Result<std::convert::Infallible, End<Failure>> {
        let limit = self.attempt_limit();
        if let (Some(seen), Some(reached)) = (self.seen, reached) {
            let moved = self.cluster_id.is_some_and(|id| id != reached.cluster_id);
            self.cluster_id = Some(reached.cluster_id);
            if moved || reached.revision < seen {
                self.lost(reached.revision).await?;
            } else if reached.revision > seen && self.interrupted {
                // Told apart now, so that "nothing was missed" is true when it is said.
                let next = self.glance().with_revision(after(seen));
                match within(limit, self.read(index, connection, next)).await {
                    Ok(_) => {}
                    Err(failure) if is_compaction(&failure) => self.lost(reached.revision).await?,
                    Err(failure) => return Err(failure.into()),
                }
            }
        }
        let mut stream = self.open(connection, index).await?;
        self.cluster.worked(index);
        if self.interrupted {
            self.interrupted = false;
            self.events.send(Event::Resumed).await?;
        }
        let mut asked = false;
        let mut patience = Instant::now() + QUIET_FOR;
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = sleep_until(patience) => {
                    if asked {
                        let quiet = QUIET_FOR + PROGRESS_WITHIN;
                        let reason = format!("the server has been silent for {quiet:?}");
                        return Err(Failure::Unknown(reason).into());
                    }
                    asked = true;
                    patience = Instant::now() + PROGRESS_WITHIN;
                    stream.request_progress().await.map_err(|e| self.understand(index, e))?;
                    continue;
                }
                () = self.events.closed() => return Err(End::Unread),
            };
            let message = message.map_err(|error| self.understand(index, error))?;
            let Some(message) = message else {
                return Err(Failure::Unknown("the server closed the watch".to_owned()).into());
            };
            if message.canceled() {
                if message.compact_revision() > 0 && self.spans.len() == 1 {
                    let options = self.glance();
                    let now = within(limit, self.read(index, connection, options)).await?;
                    self.lost(now.revision).await?;
                    stream = self.open(connection, index).await?;
                    continue;
                }
                return Err(self.cancelled(index, message.cancel_reason()).into());
            }
            self.take(&message).await?;
            asked = false;
            patience = Instant::now() + QUIET_FOR;
        }
    }

    /// A stream that the server has confirmed.
    async fn open(
        &mut self,
        connection: &Connection,
        index: usize,
    ) -> Result<WatchStream, End<Failure>> {
        let opening = async {
            let stream = connection.watcher().watch(self.first(), Some(self.options(0))).await;
            let mut stream = stream.map_err(|error| self.understand(index, error))?;
            for (n, span) in self.spans.iter().enumerate().skip(1) {
                let asked = stream.watch(span.first().as_str(), Some(self.options(n))).await;
                asked.map_err(|error| self.understand(index, error))?;
            }
            let (mut confirmed, mut early) = (Vec::new(), Vec::new());
            while confirmed.len() < self.spans.len() {
                let message = stream.message().await;
                match message.map_err(|error| self.understand(index, error))? {
                    Some(message) if message.canceled() => {
                        return Err(self.cancelled(index, message.cancel_reason()));
                    }
                    Some(message) if message.created() => confirmed.push(message),
                    // What one tells while the server confirms the next.
                    Some(message) => early.push(message),
                    None => return Err(Failure::Unknown("the server closed the watch".to_owned())),
                }
            }
            Ok((stream, confirmed, early))
        };
        let (stream, confirmed, early) = within(self.attempt_limit(), opening).await?;
        if self.seen.is_none() {
            let headers = confirmed.iter().filter_map(etcd_client::WatchResponse::header);
            self.cluster_id = headers.clone().next().map(etcd_client::ResponseHeader::cluster_id);
            let began = headers.map(etcd_client::ResponseHeader::revision).min();
            self.lost(unsigned(began.unwrap_or(0))).await?;
        }
        for message in early {
            self.take(&message).await?;
        }
        Ok(stream)
    }

    fn options(&self, n: usize) -> WatchOptions {
        let options = match self.seen {
            Some(seen) => WatchOptions::new().with_start_revision(after(seen)),
            None => WatchOptions::new(),
        };
        match &self.spans[n] {
            Span::Only(_) => options,
            Span::Below(_) => options.with_prefix(),
            Span::Between(_, end) => options.with_range(end.as_str()),
        }
    }

    async fn take(&mut self, message: &etcd_client::WatchResponse) -> Result<(), End<Failure>> {
        for event in message.events() {
            self.tell(event).await?;
        }
        // etcd puts all of one revision in one message, so this one is complete.
        if let Some(last) = message.events().last().and_then(|event| event.kv()) {
            self.seen = self.seen.max(Some(unsigned(last.mod_revision())));
        }
        Ok(())
    }

    async fn tell(&self, event: &etcd_client::Event) -> Result<(), End<Failure>> {
        let Some(found) = event.kv() else { return Ok(()) };
        let revision = unsigned(found.mod_revision());
        let entry = (event.event_type() == EventType::Put).then(|| Entry {
            value: found.value().to_vec(),
            modified: revision,
            created: unsigned(found.create_revision()),
        });
        let key = Key::new(String::from_utf8_lossy(found.key()));
        self.events.send(Event::Changed { key, entry, revision }).await?;
        Ok(())
    }

    async fn lost(&mut self, revision: Revision) -> Result<(), End<Failure>> {
        self.seen = Some(revision);
        self.events.send(Event::Lost { revision }).await?;
        Ok(())
    }

    /// The cheapest read that needs the rights of the watch.
    fn glance(&self) -> GetOptions {
        let options = GetOptions::new().with_keys_only().with_limit(1);
        match self.spans.first() {
            Some(Span::Only(_)) => options,
            Some(Span::Between(_, end)) => options.with_range(end.as_str()),
            _ => options.with_prefix(),
        }
    }

    fn first(&self) -> &str {
        self.spans.first().map_or("", |span| span.first().as_str())
    }

    fn task(&self) -> Task {
        Task::of("watch", &self.spans)
    }

    fn understand(&self, index: usize, error: etcd_client::Error) -> Failure {
        understand(error, self.cluster.url(index), self.cluster.identity(), &self.task())
    }

    /// What the server says when it ends a watch: 3.4 gives the error as text.
    fn cancelled(&self, index: usize, reason: &str) -> Failure {
        if reason.contains("permission denied") {
            let status = tonic::Status::permission_denied(reason);
            return self.understand(index, etcd_client::Error::GRpcStatus(status));
        }
        Failure::Unknown(format!("the server ended the watch: {reason}"))
    }
}

/// Where the store is.
#[derive(Debug, Clone, Copy)]
struct Reached {
    revision: Revision,
    cluster_id: u64,
}

/// The revision after this one.
fn after(revision: Revision) -> i64 {
    signed(revision.0.saturating_add(1))
}

fn is_compaction(failure: &Failure) -> bool {
    matches!(failure, Failure::Settled(StoreError::Broken(why)) if why.contains("compacted"))
}
