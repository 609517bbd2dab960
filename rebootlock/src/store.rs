//! Values that change only together, and only while nobody else has changed them.
//!
//! Backends move bytes and know nothing of semaphores; each passes every check in
//! [`conformance`]. What all of them need sits above, in [`crate::lock`] and [`crate::wait`].

pub mod conformance;
mod etcd;
mod feed;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod forgetful;
mod gateway;
mod lease;
mod memory;
mod open;
mod rotation;
mod shared;
mod sqlite;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub use self::etcd::{EndpointReport, EndpointStatus, EtcdOptions, EtcdStore};
#[cfg(test)]
pub(crate) use self::forgetful::Forgetful;
pub use self::gateway::{
    GatewayOptions, GatewayReport, GatewayStatus, GatewayStore, recognise, wire,
};
pub use self::lease::LeaseKeeper;
pub use self::memory::MemoryStore;
pub use self::open::{Endpoint, InvalidEndpoint, etcd_options, gateway_options, open};
pub use self::sqlite::SqliteStore;

/// Where a value lives. Segments are joined by slashes, without a leading one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Takes the text as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Keys that are watched together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Span {
    /// This one.
    Only(Key),
    /// All that begin with this one.
    Below(Key),
    /// From the first, and up to but without the second, in the order of their bytes.
    Between(Key, Key),
}

impl Span {
    /// Whether `key` is one of them.
    pub fn contains(&self, key: &Key) -> bool {
        match self {
            Self::Only(only) => key == only,
            Self::Below(prefix) => key.as_str().starts_with(prefix.as_str()),
            Self::Between(first, end) => first <= key && key < end,
        }
    }

    /// The first key that may be in it.
    pub fn first(&self) -> &Key {
        match self {
            Self::Only(first) | Self::Below(first) | Self::Between(first, _) => first,
        }
    }
}

impl From<&Key> for Span {
    fn from(only: &Key) -> Self {
        Self::Only(only.clone())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only(key) => key.fmt(f),
            Self::Below(prefix) => write!(f, "the keys that begin with {prefix}"),
            Self::Between(first, end) => write!(f, "the keys from {first} to {end}"),
        }
    }
}

/// A moment in the life of a store: it grows with every commit that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease: keys that hang on it go when nobody keeps it alive any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A value and when it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The bytes as they were put.
    pub value: Vec<u8>,
    /// When this value was put.
    pub modified: Revision,
    /// When the key was put that had been absent before.
    pub created: Revision,
}

/// Keys as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// That moment. A watch after it misses nothing.
    pub revision: Revision,
    /// The keys that were present.
    pub entries: BTreeMap<Key, Entry>,
}

impl Snapshot {
    /// The entry under `key`, if it was present.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The precondition that `key` is still as it was here, absent or at its revision.
    pub fn unchanged(&self, key: &Key) -> Precondition {
        let modified = self.get(key).map(|entry| entry.modified);
        Precondition { key: key.clone(), modified }
    }

    /// What was present below `prefix`.
    pub fn below(&self, prefix: &Key) -> Self {
        let span = Span::Below(prefix.clone());
        let entries = self.entries.iter().filter(|(key, _)| span.contains(key));
        let entries = entries.map(|(key, entry)| (key.clone(), entry.clone())).collect();
        Self { revision: self.revision, entries }
    }
}

/// What must still be so for a transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// The key in question.
    pub key: Key,
    /// The revision its value must have, or `None`: it must be absent.
    pub modified: Option<Revision>,
}

/// One change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Puts a value under a key, hanging on a lease or on none.
    Put {
        /// Where.
        key: Key,
        /// What.
        value: Vec<u8>,
        /// The lease whose end takes the key away.
        lease: Option<LeaseId>,
    },
    /// Takes a key away. Absent is fine.
    Delete {
        /// Which.
        key: Key,
    },
}

impl Change {
    /// The key that changes.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Preconditions and changes, all or nothing. No key is changed twice in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// All must hold.
    pub preconditions: Vec<Precondition>,
    /// All happen at one revision.
    pub changes: Vec<Change>,
}

impl Txn {
    /// A transaction without conditions or changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a precondition.
    #[must_use]
    pub fn when(mut self, precondition: Precondition) -> Self {
        self.preconditions.push(precondition);
        self
    }

    /// Adds the precondition that `key` is absent.
    #[must_use]
    pub fn when_absent(self, key: Key) -> Self {
        self.when(Precondition { key, modified: None })
    }

    /// Adds a value that stays.
    #[must_use]
    pub fn put(mut self, key: Key, value: Vec<u8>) -> Self {
        self.changes.push(Change::Put { key, value, lease: None });
        self
    }

    /// Adds a value that goes with `lease`.
    #[must_use]
    pub fn put_leased(mut self, key: Key, value: Vec<u8>, lease: LeaseId) -> Self {
        self.changes.push(Change::Put { key, value, lease: Some(lease) });
        self
    }

    /// Adds a deletion.
    #[must_use]
    pub fn delete(mut self, key: Key) -> Self {
        self.changes.push(Change::Delete { key });
        self
    }
}

impl Txn {
    /// `before` as it is after this transaction, which won at `revision`.
    pub fn applied_to(&self, mut before: Snapshot, revision: Revision) -> Snapshot {
        for change in &self.changes {
            match change {
                Change::Put { key, value, .. } => {
                    let created = before.get(key).map_or(revision, |entry| entry.created);
                    let entry = Entry { value: value.clone(), modified: revision, created };
                    before.entries.insert(key.clone(), entry);
                }
                Change::Delete { key } => drop(before.entries.remove(key)),
            }
        }
        Snapshot { revision, ..before }
    }
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// It happened, at this revision.
    Won(Revision),
    /// A precondition did not hold; nothing happened.
    Lost,
}

/// Which keys of a prefix to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// All of them.
    All,
    /// The keys only, with empty values.
    Keys,
    /// At most so many, those created first.
    Oldest(usize),
    /// At most so many of those created before a revision, those created last.
    NewestBefore(Revision, usize),
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key changed, at `revision`. `None`: it is gone. Changes come in the order of revisions;
    /// within one commit, in any order.
    Changed {
        /// Which key.
        key: Key,
        /// What it is now.
        entry: Option<Entry>,
        /// When.
        revision: Revision,
    },
    /// Changes may have been missed for good (the store compacted them away, or this was read too slowly):
    /// read everything again, and take what comes after as changes since `revision`.
    Lost {
        /// Nothing after it was missed.
        revision: Revision,
    },
    /// The store cannot be reached for now; said once, not for every try.
    Interrupted {
        /// Why, in words for a person.
        reason: String,
    },
    /// The store answers again; nothing was missed.
    Resumed,
}

/// Changes of the keys of one span, from the moment it was opened until it is dropped. It heals itself.
#[derive(Debug)]
pub struct Watch(Source);

#[derive(Debug)]
enum Source {
    Own {
        events: mpsc::Receiver<Event>,
        /// Ends the task that feeds it.
        _feeder: AbortOnDropHandle<()>,
    },
    Shared(shared::Reader),
    Part(shared::Part),
}

impl Watch {
    /// How many events wait for a slow reader. Then the feeder waits for it, or, if others are told the same,
    /// goes on without it.
    pub const BUFFER: usize = 64;

    /// A watch fed by `feeder` through the other end of `events`.
    pub fn new(events: mpsc::Receiver<Event>, feeder: AbortOnDropHandle<()>) -> Self {
        Self(Source::Own { events, _feeder: feeder })
    }

    fn shared(reader: shared::Reader) -> Self {
        Self(Source::Shared(reader))
    }

    fn part(part: shared::Part) -> Self {
        Self(Source::Part(part))
    }

    /// The next event. `None` only when the runtime shuts down. Safe to cancel.
    pub async fn next(&mut self) -> Option<Event> {
        match &mut self.0 {
            Source::Own { events, .. } => events.recv().await,
            Source::Shared(reader) => reader.next().await,
            Source::Part(part) => part.next().await,
        }
    }

    /// Since when everything has been told, of one from now on that others in this process may have opened
    /// before.
    pub fn told_since(&self) -> Option<Instant> {
        match &self.0 {
            Source::Own { .. } | Source::Part(_) => None,
            Source::Shared(reader) => reader.told_since(),
        }
    }
}

/// Why a store did not answer. Each says at which endpoint.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Out of reach, too slow, without a leader. It may have happened, or happen yet.
    #[error("the store is out of reach: {0}")]
    Unavailable(String),
    /// The credentials or the certificate were refused. Trying again does not help.
    #[error("the store refused us: {0}")]
    Refused(String),
    /// The credentials are good but not for this key. Trying again does not help.
    #[error("no permission: {0}")]
    Forbidden(String),
    /// The lease is no more, and so are the keys that hung on it.
    #[error("the lease has ended")]
    LeaseGone,
    /// The store answered what it must not, or cannot do what was asked.
    #[error("the store failed: {0}")]
    Broken(String),
}

impl StoreError {
    /// Whether time may cure it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// What a store answers.
pub type Result<T> = std::result::Result<T, StoreError>;

/// The least that every backend promises, promised exactly. Every call ends within the store's
/// own time limit.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Reads `keys` as they were at one moment. Sees every commit finished before the call.
    async fn load(&self, keys: &[Key]) -> Result<Snapshot>;

    /// Reads what is below `prefix`, at one moment. Sees every commit finished before the call.
    async fn list(&self, prefix: &Key, select: Select) -> Result<Snapshot>;

    /// Both at one moment, and all in one: `keys`, and what is below each prefix.
    async fn read(&self, keys: &[Key], below: &[(Key, Select)]) -> Result<Snapshot>;

    /// Applies all of `txn` if all its preconditions hold, else none of it. After an error it may
    /// or may not have happened, and may still happen: load again, or commit something that its
    /// preconditions exclude.
    async fn commit(&self, txn: &Txn) -> Result<Commit>;

    /// Tells every change of a key of `span` made after `after`, all changes of one commit before
    /// any of a later one. Returns at once; a store out of reach is an event, not an error.
    fn watch(&self, span: &Span, after: Revision) -> Watch;

    /// The same of several spans, from the moment at which the watch is in place. The first thing it
    /// tells is [`Event::Lost`] with that moment: what is read after that is completed by what it
    /// tells then. Changes of one commit that are of different spans may be told apart from each
    /// other. A server may be slow to catch up with a past; here it has none.
    fn watch_from_now(&self, spans: &[Span]) -> Watch;

    /// Starts a lease that ends `ttl` after it was last kept alive, or a little later.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId>;

    /// Keeps a lease alive for another `ttl`.
    ///
    /// # Errors
    /// [`StoreError::LeaseGone`] if it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<()>;

    /// Ends a lease; its keys go at once. Ended already is fine.
    async fn revoke(&self, lease: LeaseId) -> Result<()>;

    /// Where the store is, for messages: its endpoints as the user wrote them, without secrets.
    fn location(&self) -> String;
}

/// A store shared by everything in a process.
pub type SharedStore = Arc<dyn Store>;
