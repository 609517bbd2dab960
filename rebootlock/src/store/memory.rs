//! A store in this process: for tests and simulation. It is gone with the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Change, Commit, Entry, Event, Key, LeaseId, Result, Revision, Select, Snapshot, Span, Store,
    StoreError, Txn, Watch,
};

/// Values in memory, shared by all clones.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    entries: BTreeMap<Key, Stored>,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: i64,
    /// Every change ever, so that a watch can begin in the past. A simulation is short.
    log: Vec<(Revision, Key, Option<Entry>)>,
    watchers: Vec<Watcher>,
}

#[derive(Debug)]
struct Stored {
    entry: Entry,
    lease: Option<LeaseId>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
}

#[derive(Debug)]
struct Watcher {
    spans: Vec<Span>,
    events: mpsc::UnboundedSender<Event>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held leaves nothing half done: changes are applied last.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.end_leases();
        state
    }

    /// Every change of the keys that begin with `prefix`, oldest first: what a test replays.
    pub fn log(&self, prefix: &Key) -> Vec<(Revision, Key, Option<Entry>)> {
        let state = self.state();
        let below = |key: &Key| key.as_str().starts_with(prefix.as_str());
        state.log.iter().filter(|(_, key, _)| below(key)).cloned().collect()
    }
}

impl State {
    fn end_leases(&mut self) {
        let now = Instant::now();
        let ended: Vec<_> =
            self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        for lease in ended {
            self.end_lease(lease);
        }
    }

    fn end_lease(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let hanging = |stored: &&Stored| stored.lease == Some(lease);
        let keys: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, stored)| hanging(stored))
            .map(|(key, _)| key.clone())
            .collect();
        let changes: Vec<_> = keys.into_iter().map(|key| Change::Delete { key }).collect();
        self.apply(&changes);
    }

    fn apply(&mut self, changes: &[Change]) -> Revision {
        let effective = |change: &&Change| {
            matches!(change, Change::Put { .. }) || self.entries.contains_key(change.key())
        };
        let changes: Vec<_> = changes.iter().filter(effective).collect();
        if !changes.is_empty() {
            self.revision += 1;
        }
        let revision = Revision(self.revision);
        for change in changes {
            let (key, entry) = match change {
                Change::Delete { key } => {
                    self.entries.remove(key);
                    (key, None)
                }
                Change::Put { key, value, lease } => {
                    let created = self.entries.get(key).map_or(revision, |old| old.entry.created);
                    let entry = Entry { value: value.clone(), modified: revision, created };
                    let stored = Stored { entry: entry.clone(), lease: *lease };
                    self.entries.insert(key.clone(), stored);
                    (key, Some(entry))
                }
            };
            self.log.push((revision, key.clone(), entry.clone()));
            self.watchers.retain(|watcher| {
                !watcher.spans.iter().any(|span| span.contains(key))
                    || watcher
                        .events
                        .send(Event::Changed { key: key.clone(), entry: entry.clone(), revision })
                        .is_ok()
            });
        }
        revision
    }
}

impl MemoryStore {
    fn watch_after(&self, spans: &[Span], after: Option<Revision>) -> Watch {
        let (sender, receiver) = mpsc::channel(Watch::BUFFER);
        let (events, mut changes) = mpsc::unbounded_channel();
        let mut state = self.state();
        if after.is_none() {
            // The receiver is right here, so nothing is lost.
            let _ = events.send(Event::Lost { revision: Revision(state.revision) });
        }
        let after = after.unwrap_or(Revision(state.revision));
        for (revision, key, entry) in &state.log {
            if *revision > after && spans.iter().any(|span| span.contains(key)) {
                let (key, entry) = (key.clone(), entry.clone());
                // The receiver is right here, so nothing is lost.
                let _ = events.send(Event::Changed { key, entry, revision: *revision });
            }
        }
        state.watchers.push(Watcher { spans: spans.to_vec(), events });
        drop(state);
        let this = self.clone();
        let feeder = tokio::spawn(async move {
            loop {
                let next_end = this.state().leases.values().map(|lease| lease.ends).min();
                tokio::select! {
                    biased;
                    change = changes.recv() => {
                        let Some(change) = change else { return };
                        if sender.send(change).await.is_err() { return }
                    }
                    // Leases end by themselves: looking at the state is what makes them.
                    () = until(next_end) => {}
                    () = sender.closed() => return,
                }
            }
        });
        Watch::new(receiver, AbortOnDropHandle::new(feeder))
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn load(&self, keys: &[Key]) -> Result<Snapshot> {
        self.read(keys, &[]).await
    }

    async fn list(&self, prefix: &Key, select: Select) -> Result<Snapshot> {
        self.read(&[], &[(prefix.clone(), select)]).await
    }

    async fn read(&self, keys: &[Key], below: &[(Key, Select)]) -> Result<Snapshot> {
        let state = self.state();
        let find = |key: &Key| Some((key.clone(), state.entries.get(key)?.entry.clone()));
        let mut entries: BTreeMap<_, _> = keys.iter().filter_map(find).collect();
        for (prefix, select) in below {
            let listed = state
                .entries
                .range((Bound::Included(prefix.clone()), Bound::Unbounded))
                .take_while(|(key, _)| key.as_str().starts_with(prefix.as_str()))
                .map(|(key, stored)| (key.clone(), stored.entry.clone()));
            entries.extend(choose(listed, *select));
        }
        Ok(Snapshot { revision: Revision(state.revision), entries })
    }

    async fn commit(&self, txn: &Txn) -> Result<Commit> {
        let mut state = self.state();
        let holds = |p: &super::Precondition| {
            state.entries.get(&p.key).map(|stored| stored.entry.modified) == p.modified
        };
        if !txn.preconditions.iter().all(holds) {
            return Ok(Commit::Lost);
        }
        let lease_gone = |change: &Change| match change {
            Change::Put { lease: Some(lease), .. } => !state.leases.contains_key(lease),
            _ => false,
        };
        if txn.changes.iter().any(lease_gone) {
            return Err(StoreError::LeaseGone);
        }
        Ok(Commit::Won(state.apply(&txn.changes)))
    }

    fn watch(&self, span: &Span, after: Revision) -> Watch {
        self.watch_after(std::slice::from_ref(span), Some(after))
    }

    fn watch_from_now(&self, spans: &[Span]) -> Watch {
        self.watch_after(spans, None)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        let mut state = self.state();
        state.last_lease += 1;
        let id = LeaseId(state.last_lease);
        state.leases.insert(id, Lease { ttl, ends: Instant::now() + ttl });
        Ok(id)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let mut state = self.state();
        let lease = state.leases.get_mut(&lease).ok_or(StoreError::LeaseGone)?;
        lease.ends = Instant::now() + lease.ttl;
        Ok(())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.state().end_lease(lease);
        Ok(())
    }

    fn location(&self) -> String {
        "memory:".to_owned()
    }
}

/// Until `end`; without one, for a while, as leases may have come since.
async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => tokio::time::sleep(Duration::from_secs(1)).await,
    }
}

/// The entries that `select` asks for.
fn choose(entries: impl Iterator<Item = (Key, Entry)>, select: Select) -> BTreeMap<Key, Entry> {
    match select {
        Select::All => entries.collect(),
        Select::Keys => {
            entries.map(|(key, entry)| (key, Entry { value: Vec::new(), ..entry })).collect()
        }
        Select::Oldest(limit) => {
            let mut entries: Vec<_> = entries.collect();
            entries.sort_by_key(|(_, entry)| entry.created);
            entries.into_iter().take(limit).collect()
        }
        Select::NewestBefore(before, limit) => {
            let mut entries: Vec<_> = entries.filter(|(_, e)| e.created < before).collect();
            entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.created));
            entries.into_iter().take(limit).collect()
        }
    }
}
