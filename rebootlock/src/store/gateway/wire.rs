//! What goes over the wire between a gateway and the programs that use it as their store; see
//! `proto-docs/gateway-store.md`. Both sides read and write it here.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::store::{self, Key, LeaseId, Revision, Snapshot, Span, Txn};

/// What a gateway says it is at [`HELLO`].
pub const SERVICE: &str = "rebootlock-gateway";

/// Who answers here; no credentials are needed.
pub const HELLO: &str = "/api/v1";
/// Takes a [`Read`], gives a [`Found`].
pub const READ: &str = "/api/v1/store/read";
/// Takes a [`Commit`], gives an [`Outcome`].
pub const COMMIT: &str = "/api/v1/store/commit";
/// Takes a [`Watch`], gives [`Line`]s for as long as somebody reads them.
pub const WATCH: &str = "/api/v1/store/watch";
/// Takes a [`Grant`], gives a [`Lease`].
pub const GRANT: &str = "/api/v1/store/lease/grant";
/// Takes and gives a [`Lease`].
pub const KEEP_ALIVE: &str = "/api/v1/store/lease/keep-alive";
/// Takes and gives a [`Lease`].
pub const REVOKE: &str = "/api/v1/store/lease/revoke";

/// Takes an empty object, gives a [`Me`].
pub const ME: &str = "/api/v1/store/me";

/// The longest time, in seconds, in which a watch says nothing.
pub const HEARTBEAT_SECS: u64 = 5;

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`SERVICE`], or something else answers.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Whom the gateway takes the client for that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    /// What its file with credentials calls it. What a person writes is signed with this name.
    pub name: String,
}

/// Bytes: as a text where they are one, else in base64. A flattened member `value` or `base64`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
enum Written<'a> {
    #[serde(rename = "value")]
    Text(std::borrow::Cow<'a, str>),
    #[serde(rename = "base64")]
    Encoded(std::borrow::Cow<'a, str>),
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Written::Text(text.into()),
            Err(_) => Written::Encoded(BASE64_STANDARD.encode(&self.0).into()),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Text(text) => text.into_owned().into_bytes(),
            Written::Encoded(text) => BASE64_STANDARD
                .decode(&*text)
                .map_err(|error| D::Error::custom(format!("`base64`: {error}")))?,
        }))
    }
}

/// A question: these keys, and what is below these prefixes, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Read {
    /// Keys.
    pub keys: Vec<String>,
    /// Prefixes.
    pub below: Vec<Below>,
}

/// What is below a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Below {
    /// Which.
    pub prefix: String,
    /// Which of them.
    #[serde(default)]
    pub select: Select,
}

/// [`store::Select`]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Select {
    /// All of them.
    #[default]
    All,
    /// The keys only.
    Keys,
    /// So many, those created first.
    Oldest(usize),
    /// So many of those created before a revision, those created last.
    #[serde(rename_all = "camelCase")]
    NewestBefore {
        /// The revision.
        revision: u64,
        /// So many.
        limit: usize,
    },
}

/// An answer to [`Read`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The moment.
    pub revision: u64,
    /// What was there, in the order of the keys.
    pub entries: Vec<Entry>,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where.
    pub key: String,
    /// When the value was put.
    pub modified: u64,
    /// When the key was put that had been absent before.
    pub created: u64,
    /// What.
    #[serde(flatten)]
    pub value: Bytes,
}

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Commit {
    /// What must still be so.
    pub when: Vec<When>,
    /// What then happens.
    pub changes: Vec<Change>,
}

/// A precondition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Of which key.
    pub key: String,
    /// The revision its value must have; `null`: it must be absent. Left out is a mistake.
    #[serde(deserialize_with = "Option::deserialize")]
    pub modified: Option<u64>,
}

/// A change. Without a value the key goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A value under a key.
    Put(Put),
    /// A key that goes.
    Delete(String),
}

/// A value under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// Where.
    pub key: String,
    /// The lease it hangs on, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Number>,
    /// What.
    #[serde(flatten)]
    pub value: Bytes,
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It happened, at this revision.
    Won(u64),
    /// A precondition did not hold; nothing happened.
    Lost {},
}

/// What is to be watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Which keys.
    pub spans: Vec<Keys>,
    /// What came after this revision; from now on without one. Several spans have none.
    #[serde(default)]
    pub after: Option<u64>,
}

/// [`Span`]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keys {
    /// This one.
    Only(String),
    /// All that begin with this one.
    Below(String),
    /// From the first, and up to but without the second.
    Between(String, String),
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// The first line: the store was at this revision when it was opened.
    Opened(u64),
    /// A key has a value.
    Put(Entry),
    /// A key is gone.
    Gone {
        /// Which.
        key: String,
        /// Since when.
        revision: u64,
    },
    /// Changes before this revision may have been missed.
    Lost(u64),
    /// Nothing has happened.
    Heartbeat {},
    /// The last line, and why.
    End(String),
}

/// A wish for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Grant {
    /// How long it lasts after it was last kept alive.
    pub ttl_millis: u64,
}

/// A lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Which.
    pub lease: Number,
}

/// A number that not every reader of JSON could keep whole, hence a text of digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number(pub i64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| D::Error::custom("a lease is a text of digits"))
    }
}

impl From<LeaseId> for Lease {
    fn from(lease: LeaseId) -> Self {
        Self { lease: Number(lease.0) }
    }
}

impl From<Lease> for LeaseId {
    fn from(lease: Lease) -> Self {
        Self(lease.lease.0)
    }
}

impl From<store::Select> for Select {
    fn from(select: store::Select) -> Self {
        match select {
            store::Select::All => Self::All,
            store::Select::Keys => Self::Keys,
            store::Select::Oldest(limit) => Self::Oldest(limit),
            store::Select::NewestBefore(Revision(revision), limit) => {
                Self::NewestBefore { revision, limit }
            }
        }
    }
}

impl From<Select> for store::Select {
    fn from(select: Select) -> Self {
        match select {
            Select::All => Self::All,
            Select::Keys => Self::Keys,
            Select::Oldest(limit) => Self::Oldest(limit),
            Select::NewestBefore { revision, limit } => {
                Self::NewestBefore(Revision(revision), limit)
            }
        }
    }
}

impl From<&Span> for Keys {
    fn from(span: &Span) -> Self {
        match span {
            Span::Only(key) => Self::Only(key.to_string()),
            Span::Below(prefix) => Self::Below(prefix.to_string()),
            Span::Between(first, end) => Self::Between(first.to_string(), end.to_string()),
        }
    }
}

impl From<Keys> for Span {
    fn from(keys: Keys) -> Self {
        match keys {
            Keys::Only(key) => Self::Only(Key::new(key)),
            Keys::Below(prefix) => Self::Below(Key::new(prefix)),
            Keys::Between(first, end) => Self::Between(Key::new(first), Key::new(end)),
        }
    }
}

impl Entry {
    /// A key with what is under it.
    pub fn new(key: Key, entry: store::Entry) -> Self {
        let (modified, created) = (entry.modified.0, entry.created.0);
        Self { key: key.0, modified, created, value: Bytes(entry.value) }
    }

    /// The same, apart.
    pub fn into_parts(self) -> (Key, store::Entry) {
        let (modified, created) = (Revision(self.modified), Revision(self.created));
        (Key(self.key), store::Entry { value: self.value.0, modified, created })
    }
}

impl From<Snapshot> for Found {
    fn from(snapshot: Snapshot) -> Self {
        let entries = snapshot.entries.into_iter().map(|(key, entry)| Entry::new(key, entry));
        Self { revision: snapshot.revision.0, entries: entries.collect() }
    }
}

impl From<Found> for Snapshot {
    fn from(found: Found) -> Self {
        let entries: BTreeMap<_, _> = found.entries.into_iter().map(Entry::into_parts).collect();
        Self { revision: Revision(found.revision), entries }
    }
}

impl From<&Txn> for Commit {
    fn from(txn: &Txn) -> Self {
        let when = |p: &store::Precondition| When {
            key: p.key.to_string(),
            modified: p.modified.map(|revision| revision.0),
        };
        let change = |change: &store::Change| match change {
            store::Change::Put { key, value, lease } => Change::Put(Put {
                key: key.to_string(),
                lease: lease.map(|lease| Number(lease.0)),
                value: Bytes(value.clone()),
            }),
            store::Change::Delete { key } => Change::Delete(key.to_string()),
        };
        Self {
            when: txn.preconditions.iter().map(when).collect(),
            changes: txn.changes.iter().map(change).collect(),
        }
    }
}

impl From<Commit> for Txn {
    fn from(commit: Commit) -> Self {
        let when = |when: When| store::Precondition {
            key: Key(when.key),
            modified: when.modified.map(Revision),
        };
        let change = |change| match change {
            Change::Put(Put { key, lease, value }) => store::Change::Put {
                key: Key(key),
                value: value.0,
                lease: lease.map(|lease| LeaseId(lease.0)),
            },
            Change::Delete(key) => store::Change::Delete { key: Key(key) },
        };
        Self {
            preconditions: commit.when.into_iter().map(when).collect(),
            changes: commit.changes.into_iter().map(change).collect(),
        }
    }
}

impl From<store::Commit> for Outcome {
    fn from(commit: store::Commit) -> Self {
        match commit {
            store::Commit::Won(revision) => Self::Won(revision.0),
            store::Commit::Lost => Self::Lost {},
        }
    }
}

impl From<Outcome> for store::Commit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Won(revision) => Self::Won(Revision(revision)),
            Outcome::Lost {} => Self::Lost,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_left_out_is_not_guessed() {
        for (text, fine) in [
            (r#"{"when":[{"key":"a","modified":null}]}"#, true),
            (r#"{"when":[{"key":"a","modified":7}]}"#, true),
            // Taken for "absent", a forgotten revision would be a blind write.
            (r#"{"when":[{"key":"a"}]}"#, false),
            (r#"{"changes":[{"put":{"key":"a","value":"x"}}]}"#, true),
            (r#"{"changes":[{"put":{"key":"a","base64":"/w=="}}]}"#, true),
            (r#"{"changes":[{"put":{"key":"a","base64":"*"}}]}"#, false),
            (r#"{"changes":[{"put":{"key":"a"}}]}"#, false),
            (r#"{"changes":[{"put":{"key":"a","value":"x","lease":7}}]}"#, false),
            (r#"{"changes":[{"delete":"a"}]}"#, true),
            (r#"{"changes":[{}]}"#, false),
            (r#"{"condition":[]}"#, false),
        ] {
            assert_eq!(serde_json::from_str::<Commit>(text).is_ok(), fine, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_transaction_arrives_as_it_was_sent(
            value in prop::collection::vec(any::<u8>(), 0..40),
            key in "[a-z/ü\"]{0,9}", lease in any::<Option<i64>>(), modified in any::<Option<u64>>(),
        ) {
            let key = Key::new(key);
            let precondition = store::Precondition { key: key.clone(), modified: modified.map(Revision) };
            let put = store::Change::Put { key: key.clone(), value, lease: lease.map(LeaseId) };
            let changes = vec![put, store::Change::Delete { key }];
            let txn = Txn { preconditions: vec![precondition], changes };
            let sent = serde_json::to_string(&Commit::from(&txn)).unwrap();
            let arrived: Commit = serde_json::from_str(&sent).unwrap();
            prop_assert_eq!(Txn::from(arrived), txn);
        }
    }
}
