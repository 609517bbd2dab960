//! etcd v3 through its gRPC API.
//!
//! The client library balances over endpoints but neither notices a frozen one nor says whether a
//! request was sent; `cluster` does both, with one connection per endpoint. `watch` heals watches,
//! `failure` turns what went wrong into words, `report` is for `doctor`.

mod cluster;
mod failure;
mod listening;
mod report;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Compare, CompareOp, GetOptions, GetResponse, KeyValue, PutOptions, ResponseHeader, SortOrder,
    SortTarget, TxnOp, TxnOpResponse,
};

use self::cluster::{Cluster, Repeat};
use self::failure::Task;
pub use self::report::{EndpointReport, EndpointStatus};
use super::shared::SharedWatches;
use super::{
    Change, Commit, Entry, Key, LeaseId, Precondition, Result, Revision, Select, Snapshot, Span,
    Store, StoreError, Txn, Watch,
};

/// How to reach an etcd.
#[derive(Clone)]
pub struct EtcdOptions {
    /// `http(s)://host:port`, tried in this order.
    pub endpoints: Vec<String>,
    /// PEM file with the authorities to trust; without it the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file with its key.
    pub key_file: Option<PathBuf>,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Longest time one call may take, all endpoints together.
    pub timeout: Duration,
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Options end up in logs; passwords must not.
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "(hidden)"))
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// How many operations a transaction may have on an etcd with default settings.
const MAX_TXN_OPS: usize = 128;

/// A store on an etcd cluster.
#[derive(Debug, Clone)]
pub struct EtcdStore {
    cluster: Arc<Cluster>,
    watches: Arc<SharedWatches>,
}

impl EtcdStore {
    /// Reads the certificates and checks the options. The servers need not be up: each is
    /// connected to when it is first needed.
    ///
    /// # Errors
    /// [`StoreError::Broken`] for options that cannot work; it names the file or endpoint.
    pub fn new(options: EtcdOptions) -> Result<Self> {
        Ok(Self { cluster: Arc::new(Cluster::new(options)?), watches: Arc::default() })
    }

    /// Asks every endpoint, all at once, how it is.
    pub async fn check_endpoints(&self) -> Vec<EndpointReport> {
        report::check(&self.cluster).await
    }
}

/// Whether it cannot be asked of etcd: zero and one mean "no limit" there, and no key is as old as that.
fn is_nothing(select: Select) -> bool {
    match select {
        Select::Oldest(limit) => limit == 0,
        Select::NewestBefore(before, limit) => limit == 0 || before.0 <= 1,
        Select::All | Select::Keys => false,
    }
}

fn selecting(select: Select) -> GetOptions {
    let options = GetOptions::new().with_prefix();
    match select {
        _ if is_nothing(select) => options.with_limit(1).with_keys_only(),
        Select::All => options,
        Select::Keys => options.with_keys_only(),
        Select::Oldest(limit) => {
            options.with_sort(SortTarget::Create, SortOrder::Ascend).with_limit(signed(limit))
        }
        Select::NewestBefore(before, limit) => options
            .with_max_create_revision(signed(before.0 - 1))
            .with_sort(SortTarget::Create, SortOrder::Descend)
            .with_limit(signed(limit)),
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn load(&self, keys: &[Key]) -> Result<Snapshot> {
        self.read(keys, &[]).await
    }

    async fn list(&self, prefix: &Key, select: Select) -> Result<Snapshot> {
        let task = Task::below("list", prefix);
        let mut found = self.get(&task, prefix, selecting(select)).await?;
        let revision = revision(found.header())?;
        let entries = found.take_kvs().into_iter().map(key_and_entry);
        let entries = entries.filter(|_| !is_nothing(select)).collect();
        Ok(Snapshot { revision, entries })
    }

    async fn read(&self, keys: &[Key], below: &[(Key, Select)]) -> Result<Snapshot> {
        check_size("keys to load at once", keys.len() + below.len())?;
        let gets = keys.iter().map(|key| TxnOp::get(key.as_str(), None));
        let lists = below.iter().filter(|(_, select)| !is_nothing(*select));
        let lists =
            lists.map(|(prefix, select)| TxnOp::get(prefix.as_str(), Some(selecting(*select))));
        let txn = etcd_client::Txn::new().and_then(gets.chain(lists).collect::<Vec<_>>());
        let task = Task::new("read", keys);
        let answer = self
            .cluster
            .call(Repeat::Freely, &task, |connection| {
                let txn = txn.clone();
                async move { connection.kv().txn(txn).await }
            })
            .await?;
        let mut entries = BTreeMap::new();
        for answer in answer.op_responses() {
            if let TxnOpResponse::Get(mut found) = answer {
                entries.extend(found.take_kvs().into_iter().map(key_and_entry));
            }
        }
        Ok(Snapshot { revision: revision(answer.header())?, entries })
    }

    async fn commit(&self, txn: &Txn) -> Result<Commit> {
        check_size("preconditions of a transaction", txn.preconditions.len())?;
        check_size("changes of a transaction", txn.changes.len())?;
        let compares: Vec<_> = txn.preconditions.iter().map(compare).collect();
        let mut changes: Vec<_> = txn.changes.iter().map(operation).collect();
        if changes.is_empty() {
            // Without any operation etcd would compare with what this member has, however old.
            let key = txn.preconditions.first().map_or("\0", |p| p.key.as_str());
            changes.push(TxnOp::get(key, Some(GetOptions::new().with_count_only())));
        }
        let request = etcd_client::Txn::new().when(compares).and_then(changes);
        let keys: Vec<_> = txn.changes.iter().map(|change| change.key().clone()).collect();
        let task = Task::new("write", &keys);
        let answer = self
            .cluster
            .call(Repeat::OnlyIfUnsent, &task, |connection| {
                let request = request.clone();
                async move { connection.kv().txn(request).await }
            })
            .await?;
        if !answer.succeeded() {
            return Ok(Commit::Lost);
        }
        Ok(Commit::Won(revision(answer.header())?))
    }

    fn watch(&self, span: &Span, after: Revision) -> Watch {
        watch::open(self.cluster.clone(), &self.watches, span.clone(), after)
    }

    fn watch_from_now(&self, spans: &[Span]) -> Watch {
        watch::from_now(self.cluster.clone(), &self.watches, spans)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        let secs = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let secs = signed(secs.max(1));
        let task = Task::plain("start a lease");
        // One granted twice ends by itself.
        let answer = self
            .cluster
            .call(Repeat::Freely, &task, |connection| async move {
                connection.client().lease_client().grant(secs, None).await
            })
            .await?;
        Ok(LeaseId(answer.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let task = Task::plain("keep a lease alive");
        self.cluster
            .call(Repeat::Freely, &task, |connection| async move {
                connection.client().lease_client().keep_alive(lease.0).await
            })
            .await
            .map(drop)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let task = Task::plain("end a lease");
        let answer = self
            .cluster
            .call(Repeat::Freely, &task, |connection| async move {
                connection.client().lease_client().revoke(lease.0).await
            })
            .await;
        match answer {
            Ok(_) | Err(StoreError::LeaseGone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn location(&self) -> String {
        self.cluster.location()
    }
}

impl EtcdStore {
    async fn get(&self, task: &Task, key: &Key, options: GetOptions) -> Result<GetResponse> {
        self.cluster
            .call(Repeat::Freely, task, |connection| {
                let options = options.clone();
                async move { connection.kv().get(key.as_str(), Some(options)).await }
            })
            .await
    }
}

fn check_size(what: &str, count: usize) -> Result<()> {
    if count <= MAX_TXN_OPS {
        return Ok(());
    }
    Err(StoreError::Broken(format!(
        "{count} {what} are more than the {MAX_TXN_OPS} that etcd allows"
    )))
}

fn compare(precondition: &Precondition) -> Compare {
    let revision = precondition.modified.map_or(0, |revision| signed(revision.0));
    Compare::mod_revision(precondition.key.as_str(), CompareOp::Equal, revision)
}

fn operation(change: &Change) -> TxnOp {
    match change {
        Change::Put { key, value, lease } => {
            let lease = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value.clone(), lease)
        }
        Change::Delete { key } => TxnOp::delete(key.as_str(), None),
    }
}

/// etcd counts with a sign; what is larger than that exists nowhere.
fn signed<T: TryInto<i64>>(count: T) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

fn unsigned(revision: i64) -> Revision {
    Revision(revision.try_into().unwrap_or(0))
}

fn revision(header: Option<&ResponseHeader>) -> Result<Revision> {
    let header =
        header.ok_or_else(|| StoreError::Broken("etcd's answer has no revision".into()))?;
    Ok(unsigned(header.revision()))
}

fn key_and_entry(found: KeyValue) -> (Key, Entry) {
    let (modified, created) = (unsigned(found.mod_revision()), unsigned(found.create_revision()));
    let (key, value) = found.into_key_value();
    (Key::new(String::from_utf8_lossy(&key)), Entry { value, modified, created })
}
