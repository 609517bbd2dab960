//! Those who watch a single key, within what others of their process watch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Now, Source};
use crate::store::{Event, Key, Revision, Watch};

/// Of one shared watch.
#[derive(Debug, Default)]
pub(super) struct Parts {
    listeners: BTreeMap<Key, Vec<Listener>>,
    /// What was told last, for who has read before it came.
    recent: VecDeque<(Key, Revision, Event)>,
    /// All that was told after this revision is in there.
    recent_after: Revision,
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
                self.remember(key, *revision, event);
                if let Some(listeners) = self.listeners.get_mut(key) {
                    listeners.retain(|one| *revision <= one.after || one.tell(event.clone()));
                }
            }
            Event::Lost { revision } => {
                self.recent.clear();
                self.recent_after = *revision;
                self.tell_all(event, |one| one.after = *revision);
            }
            Event::Interrupted { .. } | Event::Resumed => self.tell_all(event, |_| {}),
        }
    }

    fn tell_all(&mut self, event: &Event, with: impl Fn(&mut Listener)) {
        for listeners in self.listeners.values_mut() {
            listeners.retain_mut(|one| {
                with(one);
                one.tell(event.clone())
            });
        }
    }

    fn remember(&mut self, key: &Key, revision: Revision, event: &Event) {
        if self.recent.len() == Watch::BUFFER
            && let Some((_, oldest, _)) = self.recent.pop_front()
        {
            self.recent_after = oldest;
        }
        self.recent.push_back((key.clone(), revision, event.clone()));
    }

    /// From now on `key` is listened to, and from before as far as that came after `after`.
    fn listen(&mut self, key: &Key, after: Revision) -> mpsc::Receiver<Event> {
        let (events, receiver) = mpsc::channel(Watch::BUFFER);
        let listener = Listener { after, events };
        let mut past = self.recent.iter().filter(|(of, at, _)| of == key && *at > after);
        if past.all(|(_, _, event)| listener.tell(event.clone())) {
            self.listeners.entry(key.clone()).or_default().push(listener);
        }
        receiver
    }

    #[cfg(test)]
    pub(super) fn listened_to(&self) -> Vec<Key> {
        self.listeners.keys().cloned().collect()
    }

    /// Forgets those of `key` who have gone.
    fn forget(&mut self, key: &Key) {
        if let Some(listeners) = self.listeners.get_mut(key) {
            listeners.retain(|one| !one.events.is_closed());
            if listeners.is_empty() {
                self.listeners.remove(key);
            }
        }
    }
}

/// One who watches a single key.
#[derive(Debug)]
pub(in crate::store) struct Part {
    key: Key,
    events: mpsc::Receiver<Event>,
    source: Arc<Source>,
}

impl Part {
    /// `None`: not all that came after `after` is known there.
    pub(super) fn of(source: Arc<Source>, key: Key, after: Revision) -> Option<Self> {
        let mut now = source.channel.now();
        let is_told = now.told.is_some() && now.interrupted.is_none();
        if !is_told || after < now.parts.recent_after {
            return None;
        }
        let events = now.parts.listen(&key, after);
        drop(now);
        Some(Self { key, events, source })
    }

    /// See [`Watch::next`].
    pub(in crate::store) async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.events.recv().await {
            return Some(event);
        }
        // It read too slowly, and others do not wait for it.
        let mut now = self.source.channel.now();
        let Now { told: Some((revision, _)), parts, .. } = &mut *now else { return None };
        self.events = parts.listen(&self.key, *revision);
        Some(Event::Lost { revision: *revision })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.events.close();
        self.source.channel.now().parts.forget(&self.key);
    }
}
