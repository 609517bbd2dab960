//! Watches that begin now, shared by all of a process who watch the same.
//!
//! To open and close a watch costs a store as much as a write does, and each that is open has every
//! change told to it apart from the others. Who comes second is told at once where the first one's
//! watch is, and from then on what it tells. Who watches a single key within what another watches
//! gets it from there too, by that key: of thousands, only those hear of a change whom it concerns.

mod part;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub(super) use self::part::Part;
use self::part::Parts;
use super::{Event, Revision, Span, Watch};

/// The watches of one store that are open, by what they watch.
#[derive(Debug, Default)]
pub(super) struct SharedWatches(Mutex<Opened>);

#[derive(Debug, Default)]
struct Opened {
    sources: BTreeMap<Vec<Span>, Weak<Source>>,
    /// With so many, those that have ended are thrown out: not each time, as there may be thousands.
    too_many: usize,
}

impl Opened {
    fn insert(&mut self, spans: &[Span], source: &Arc<Source>) {
        if self.sources.len() >= self.too_many {
            self.sources.retain(|_, source| source.strong_count() > 0);
            self.too_many = 2 * self.sources.len().max(16);
        }
        self.sources.insert(spans.to_vec(), Arc::downgrade(source));
    }
}

impl SharedWatches {
    /// The watch of `spans` that somebody has, or the one that `open` feeds from now on.
    pub(super) fn watch(
        &self,
        spans: &[Span],
        open: impl FnOnce(Arc<Channel>) -> AbortOnDropHandle<()>,
    ) -> Watch {
        let mut opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = opened.sources.get(spans).and_then(Weak::upgrade);
        let source = known.unwrap_or_else(|| {
            let channel = Arc::new(Channel::default());
            let source = Arc::new(Source { _feeder: open(channel.clone()), channel });
            opened.insert(spans, &source);
            source
        });
        drop(opened);
        Watch::shared(Reader::of(source))
    }

    /// The watch of the one key that `span` is, after `after`, if somebody watches more than that and
    /// has been told all that came since. Of several the narrowest, as it lasts for as long as this one.
    ///
    /// Only those of one span: they go on where they were interrupted, while others begin anew.
    pub(super) fn part(&self, span: &Span, after: Revision) -> Option<Watch> {
        let Span::Only(key) = span else { return None };
        let opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let around = opened.sources.iter().filter_map(|(spans, source)| match spans.as_slice() {
            [span] if span.contains(key) => Some((span.first(), source.upgrade()?)),
            _ => None,
        });
        let mut around: Vec<_> = around.collect();
        around.sort_by(|(first, _), (second, _)| second.cmp(first));
        let mut around = around.into_iter();
        around.find_map(|(_, source)| Part::of(source, key.clone(), after)).map(Watch::part)
    }
}

/// Ends the task that feeds it with its last reader.
#[derive(Debug)]
struct Source {
    channel: Arc<Channel>,
    _feeder: AbortOnDropHandle<()>,
}

/// Where the events of a shared watch go.
#[derive(Debug)]
pub(super) struct Channel {
    now: Mutex<Now>,
    readers: broadcast::Sender<Event>,
}

/// What one who comes now has to know first.
#[derive(Debug, Default)]
struct Now {
    /// Everything up to this revision has been told, without a gap since then. `None`: the watch
    /// has yet to begin.
    told: Option<(Revision, Instant)>,
    /// Why nothing can be told, if so.
    interrupted: Option<String>,
    /// Those who watch no more than one key.
    parts: Parts,
}

impl Default for Channel {
    fn default() -> Self {
        Self { now: Mutex::default(), readers: broadcast::Sender::new(Watch::BUFFER) }
    }
}

impl Channel {
    /// Tells everybody who reads.
    pub(super) fn tell(&self, event: Event) {
        // Held until all have it: nobody comes between what is told and what is known to be told.
        let mut now = self.now();
        match &event {
            Event::Lost { revision } => {
                now.told = Some((*revision, Instant::now()));
                now.interrupted = None;
            }
            Event::Changed { revision, .. } => {
                if let Some((told, _)) = &mut now.told {
                    *told = (*told).max(*revision);
                }
            }
            Event::Interrupted { reason } => now.interrupted = Some(reason.clone()),
            Event::Resumed => {
                now.interrupted = None;
                if let Some((_, since)) = &mut now.told {
                    *since = Instant::now();
                }
            }
        }
        now.parts.tell(&event);
        // That nobody reads is noticed by whoever left last.
        let _ = self.readers.send(event);
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of those who read a shared watch.
#[derive(Debug)]
pub(super) struct Reader {
    events: broadcast::Receiver<Event>,
    /// What is to be told before anything else.
    first: Option<Event>,
    /// Whether it was never told from where on it is told everything.
    owed: bool,
    /// From where on it is told everything: what came before it has to read.
    from: Revision,
    source: Arc<Source>,
}

impl Reader {
    fn of(source: Arc<Source>) -> Self {
        let now = source.channel.now();
        let events = source.channel.readers.subscribe();
        let (first, owed) = match (&now.interrupted, now.told) {
            (Some(reason), _) => (Some(Event::Interrupted { reason: reason.clone() }), true),
            (None, Some((revision, _))) => (Some(Event::Lost { revision }), false),
            (None, None) => (None, false),
        };
        drop(now);
        Self { events, first, owed, from: Revision(0), source }
    }

    /// See [`Watch::next`].
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            let event = match self.first.take() {
                Some(first) => first,
                None => match self.events.recv().await {
                    Ok(event) => event,
                    // It read too slowly, and others do not wait for it.
                    Err(RecvError::Lagged(_)) => {
                        *self = Self::of(self.source.clone());
                        continue;
                    }
                    Err(RecvError::Closed) => return None,
                },
            };
            match event {
                Event::Resumed if self.owed => {
                    let told = self.source.channel.now().told;
                    let revision = told.map_or(Revision(0), |(revision, _)| revision);
                    (self.owed, self.from, self.first) = (false, revision, Some(Event::Resumed));
                    return Some(Event::Lost { revision });
                }
                Event::Lost { revision } => {
                    (self.owed, self.from) = (false, revision);
                    return Some(event);
                }
                Event::Changed { revision, .. } if revision <= self.from => {}
                event => return Some(event),
            }
        }
    }

    /// See [`Watch::told_since`].
    pub(super) fn told_since(&self) -> Option<Instant> {
        self.source.channel.now().told.map(|(_, since)| since)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
