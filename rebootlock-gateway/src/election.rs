//! Which of several gateways does what one of them is to do.
//!
//! It hangs on a lease, and is thrift: nothing may depend on there being only one.

use std::time::Duration;

use rebootlock::record::UnixTime;
use rebootlock::store::{Commit, Key, LeaseKeeper, SharedStore, StoreError, Txn};

/// Makes this gateway the one that `key` is about, unless there is one. When it dies, there is none after
/// `resigned_after`.
pub(crate) async fn elect(
    store: &SharedStore,
    key: Key,
    resigned_after: Duration,
) -> Result<Option<LeaseKeeper>, StoreError> {
    if store.load(std::slice::from_ref(&key)).await?.get(&key).is_some() {
        return Ok(None);
    }
    let term = LeaseKeeper::start(store.clone(), resigned_after).await?;
    // For people: what counts is that it is there.
    let document = serde_json::json!({
        "by": format!("process {}", std::process::id()),
        "since": UnixTime::now(),
    });
    let value = document.to_string().into_bytes();
    let txn = Txn::new().when_absent(key.clone()).put_leased(key, value, term.id());
    match store.commit(&txn).await? {
        Commit::Won(_) => Ok(Some(term)),
        Commit::Lost => {
            let _ = term.end().await;
            Ok(None)
        }
    }
}
