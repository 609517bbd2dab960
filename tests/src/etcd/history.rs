//! Every version of one document, as the members of a cluster have seen it.
//!
//! The store forgets what is compacted, so it is written down as it happens, by one watch at each
//! member: what one of them misses while it is dead, frozen or cut off, another has seen. The store
//! counts the versions of a key, so that it is plain whether one is missing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcd_client::{Client, WatchOptions};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::EtcdCluster;
use crate::eventually;

/// Longest time until a watch has caught up.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(30);

/// One version of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The revision of the store at which it was written.
    pub revision: i64,
    /// What was written; empty if it was deleted.
    pub value: Vec<u8>,
}

type Seen = Arc<Mutex<BTreeMap<i64, Version>>>;

/// What is written down. Dropped, nothing more is.
#[derive(Debug)]
pub struct History {
    key: String,
    seen: Seen,
    endpoints: Vec<String>,
    _watches: JoinSet<()>,
}

impl History {
    /// Begins to write down `key`, from its first version.
    pub fn record(cluster: &EtcdCluster, key: &str) -> Self {
        let (seen, endpoints) = (Seen::default(), cluster.endpoints());
        let mut watches = JoinSet::new();
        for endpoint in &endpoints {
            watches.spawn(follow(endpoint.clone(), key.to_owned(), seen.clone()));
        }
        Self { key: key.to_owned(), seen, endpoints, _watches: watches }
    }

    /// Every version from the first to the present one, which was not deleted in between.
    ///
    /// # Errors
    /// Names the versions that nobody has seen.
    pub async fn whole(&self) -> Result<Vec<Version>> {
        let mut client = Client::connect(&self.endpoints, None).await?;
        let now = client.get(self.key.as_str(), None).await?;
        let last = now.kvs().first().with_context(|| format!("{} is gone", self.key))?.version();
        eventually("the watches catch up", CAUGHT_UP_WITHIN, async || {
            let seen = self.seen().last_key_value().map_or(0, |(version, _)| *version);
            ensure!(seen >= last, "version {seen} of {last}");
            Ok(())
        })
        .await?;
        let seen = self.seen();
        let missing: Vec<_> = (1..=last).filter(|version| !seen.contains_key(version)).collect();
        ensure!(missing.is_empty(), "nobody has seen the versions {missing:?} of {last}");
        Ok(seen.values().cloned().collect())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, BTreeMap<i64, Version>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn follow(endpoint: String, key: String, seen: Seen) {
    let mut from = 1;
    loop {
        // It ends when the member does, or when it was behind a compaction.
        let _ = follow_once(&endpoint, &key, &mut from, &seen).await;
        sleep(Duration::from_millis(100)).await;
    }
}

async fn follow_once(endpoint: &str, key: &str, from: &mut i64, seen: &Seen) -> Result<()> {
    let mut client = Client::connect([endpoint], None).await?;
    let mut changes =
        client.watch(key, Some(WatchOptions::new().with_start_revision(*from))).await?;
    while let Some(news) = changes.message().await? {
        for kv in news.events().iter().filter_map(|event| event.kv()) {
            let version = Version { revision: kv.mod_revision(), value: kv.value().to_vec() };
            *from = version.revision + 1;
            seen.lock().unwrap_or_else(PoisonError::into_inner).insert(kv.version(), version);
        }
        if news.compact_revision() > 0 {
            *from = news.compact_revision();
        }
        if news.canceled() {
            break;
        }
    }
    Ok(())
}
