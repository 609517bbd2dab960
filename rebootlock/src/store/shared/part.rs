//! Those who watch a single key, within what others of their process watch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Now, Source};
use crate::store::{Event, Key, Revision, Watch};

/// How much of what was told last is kept, in bytes of keys and values.
const MOST_KEPT: usize = 64 << 10;

/// Of one shared watch.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// By number.
    listeners: BTreeMap<Key, BTreeMap<u64, Listener>>,
    last_number: u64,
    recent: Recent,
}

/// What was told last, for who has read before it came.
#[derive(Debug, Default)]
struct Recent {
    /// Nothing but changes.
    changes: VecDeque<Event>,
    /// Of all of them.
    bytes: usize,
    /// All that was told after this revision is in there.
    after: Revision,
}

impl Recent {
    fn add(&mut self, change: &Event) {
        self.changes.push_back(change.clone());
        self.bytes += size(change);
        while self.changes.len() > Watch::BUFFER || self.bytes > MOST_KEPT {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= size(&oldest);
            if let Event::Changed { revision, .. } = oldest {
                self.after = revision;
            }
        }
    }

    /// Those of `key` that came after `after`.
    fn of(&self, key: &Key, after: Revision) -> impl Iterator<Item = &Event> {
        self.changes.iter().filter(move |event| match event {
            Event::Changed { key: of, revision, .. } => of == key && *revision > after,
            _ => false,
        })
    }

    fn clear(&mut self, after: Revision) {
        *self = Self { after, ..Self::default() };
    }
}

fn size(event: &Event) -> usize {
    match event {
        Event::Changed { key, entry, .. } => {
            key.as_str().len() + entry.as_ref().map_or(0, |entry| entry.value.len())
        }
        _ => 0,
    }
}

#[derive(Debug)]
struct Listener {
    /// Of what came before it knows already.
    after: Revision,
    events: mpsc::Sender<Event>,
}

impl Listener {
    /// Whether it still listens, and was quick enough: who was not finds its channel closed.
    fn tell(&self, event: Event) -> bool {
        self.events.try_send(event).is_ok()
    }
}

impl Parts {
    pub(super) fn tell(&mut self, event: &Event) {
        match event {
            Event::Changed { key, revision, .. } => {
                self.recent.add(event);
                if let Some(listeners) = self.listeners.get_mut(key) {
                    listeners.retain(|_, one| *revision <= one.after || one.tell(event.clone()));
                }
            }
            Event::Lost { revision } => {
                self.recent.clear(*revision);
                self.tell_all(event, |one| one.after = *revision);
            }
            Event::Interrupted { .. } | Event::Resumed => self.tell_all(event, |_| {}),
        }
    }

    fn tell_all(&mut self, event: &Event, with: impl Fn(&mut Listener)) {
        for listeners in self.listeners.values_mut() {
            listeners.retain(|_, one| {
                with(one);
                one.tell(event.clone())
            });
        }
    }

    /// From now on `key` is listened to, and from before as far as that came after `after`, and that
    /// nothing can be told, if so. Also the number of who listens.
    fn listen(
        &mut self,
        key: &Key,
        after: Revision,
        interrupted: Option<&String>,
    ) -> (mpsc::Receiver<Event>, u64) {
        // All that is kept, and one more.
        let (events, receiver) = mpsc::channel(Watch::BUFFER + 1);
        let listener = Listener { after, events };
        let past = self.recent.of(key, after).cloned();
        let interrupted = interrupted.map(|reason| Event::Interrupted { reason: reason.clone() });
        self.last_number += 1;
        if past.chain(interrupted).all(|event| listener.tell(event)) {
            self.listeners.entry(key.clone()).or_default().insert(self.last_number, listener);
        }
        (receiver, self.last_number)
    }

    fn forget(&mut self, key: &Key, number: u64) {
        if let Some(listeners) = self.listeners.get_mut(key) {
            listeners.remove(&number);
            if listeners.is_empty() {
                self.listeners.remove(key);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn listened_to(&self) -> Vec<Key> {
        self.listeners.keys().cloned().collect()
    }
}

/// One who watches a single key.
#[derive(Debug)]
pub(in crate::store) struct Part {
    key: Key,
    number: u64,
    events: mpsc::Receiver<Event>,
    source: Arc<Source>,
}

impl Part {
    /// `None`: not all that came after `after` is known there.
    pub(super) fn of(source: Arc<Source>, key: Key, after: Revision) -> Option<Self> {
        let mut now = source.channel.now();
        let Now { told: Some(_), interrupted, parts } = &mut *now else { return None };
        if after < parts.recent.after {
            return None;
        }
        let (events, number) = parts.listen(&key, after, interrupted.as_ref());
        drop(now);
        Some(Self { key, number, events, source })
    }

    /// See [`Watch::next`].
    pub(in crate::store) async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.events.recv().await {
            return Some(event);
        }
        // It read too slowly, and others do not wait for it.
        let mut now = self.source.channel.now();
        let Now { told: Some((revision, _)), interrupted, parts } = &mut *now else { return None };
        (self.events, self.number) = parts.listen(&self.key, *revision, interrupted.as_ref());
        Some(Event::Lost { revision: *revision })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.source.channel.now().parts.forget(&self.key, self.number);
    }
}
