//! What every backend must do, as checks that its tests run: [`run_all`] against a real store.
//!
//! A check panics with what was wrong. Each works below a prefix of its own, so they can share a
//! store; `open` opens one more client of it, as another process would.

// These are tests, for all that they live in the library.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod leases;
mod listing;
mod transactions;
mod watches;

use std::fmt::Debug;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};

use super::{Commit, Event, Key, Result, Revision, SharedStore, Snapshot, Store, Txn, Watch};

/// Opens one more client of the store under test.
pub type Open<'a> = &'a (dyn Fn() -> SharedStore + Sync);

/// A claim about a store, and how to check it.
#[derive(Clone, Copy)]
pub struct Check {
    /// The claim.
    pub name: &'static str,
    run: for<'a> fn(Place<'a>) -> BoxFuture<'a, ()>,
}

impl Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Check {
    /// Checks the claim below `prefix`, which nothing else may use.
    ///
    /// # Panics
    /// If the claim does not hold.
    pub async fn run(&self, open: Open<'_>, prefix: &str) {
        let prefix = format!("{prefix}/{}", self.name.replace(' ', "-"));
        let limit = Duration::from_secs(60);
        let done = tokio::time::timeout(limit, (self.run)(Place { open, prefix })).await;
        assert!(done.is_ok(), "not done within {limit:?}: {}", self.name);
    }
}

/// Runs all checks below `prefix`, at the same time: most of them wait for leases to end.
///
/// # Panics
/// If one does not hold.
pub async fn run_all(open: Open<'_>, prefix: &str) {
    join_all(CHECKS.iter().map(|check| check.run(open, prefix))).await;
}

macro_rules! checks {
    ($($name:literal: $check:path,)*) => {
        /// Every check.
        pub const CHECKS: &[Check] =
            &[$(Check { name: $name, run: |place| Box::pin($check(place)) },)*];
    };
}

checks! {
    "many keys are loaded at one moment": transactions::many_keys_are_loaded_at_one_moment,
    "missing keys are just not there": transactions::missing_keys_are_just_not_there,
    "a key is created only if absent": transactions::a_key_is_created_only_if_absent,
    "a value is replaced only if unchanged": transactions::a_value_is_replaced_only_if_unchanged,
    "all or nothing happens": transactions::all_or_nothing_happens,
    "preconditions alone are a transaction": transactions::preconditions_alone_are_a_transaction,
    "revisions tell when": transactions::revisions_tell_when,
    "keys created together say so": transactions::keys_created_together_say_so,
    "deleting what is absent is fine": transactions::deleting_what_is_absent_is_fine,
    "any bytes come back": transactions::any_bytes_come_back,
    "eight writers count exactly": transactions::eight_writers_count_exactly,
    "another client sees a commit at once": transactions::another_client_sees_a_commit_at_once,
    "a list holds what begins with the prefix": listing::a_list_holds_what_begins_with_the_prefix,
    "keys are listed without values": listing::keys_are_listed_without_values,
    "the oldest are listed": listing::the_oldest_are_listed,
    "the newest before a moment are listed": listing::the_newest_before_a_moment_are_listed,
    "a large list is whole": listing::a_large_list_is_whole,
    "keys and listings are read together": listing::keys_and_listings_are_read_together,
    "a watch tells every change in order": watches::a_watch_tells_every_change_in_order,
    "a watch begins in the past": watches::a_watch_begins_in_the_past,
    "a watch after a snapshot misses nothing": watches::a_watch_after_a_snapshot_misses_nothing,
    "a watch tells deletions": watches::a_watch_tells_deletions,
    "a watch keeps to its prefix": watches::a_watch_keeps_to_its_prefix,
    "a watch from now tells when it began, and what came after": watches::a_watch_from_now_tells_when_it_began_and_what_came_after,
    "who watches the same from now on is told the same": watches::who_watches_the_same_from_now_on_is_told_the_same,
    "a watch of one key tells of no other": watches::a_watch_of_one_key_tells_of_no_other,
    "a watch between two keys tells of those between": watches::a_watch_between_two_keys_tells_of_those_between,
    "a dropped watch harms nobody": watches::a_dropped_watch_harms_nobody,
    "keys go with their lease": leases::keys_go_with_their_lease,
    "a lease kept alive stays": leases::a_lease_kept_alive_stays,
    "a revoked lease goes at once": leases::a_revoked_lease_goes_at_once,
    "an ended lease stays ended": leases::an_ended_lease_stays_ended,
    "nothing is put on an ended lease": leases::nothing_is_put_on_an_ended_lease,
    "a key put again without a lease stays": leases::a_key_put_again_without_a_lease_stays,
    "a watch tells that a lease ended": leases::a_watch_tells_that_a_lease_ended,
}

/// Where a check works.
struct Place<'a> {
    open: Open<'a>,
    prefix: String,
}

impl Place<'_> {
    fn open(&self) -> SharedStore {
        (self.open)()
    }

    fn key(&self, name: impl std::fmt::Display) -> Key {
        Key::new(format!("{}/{name}", self.prefix))
    }
}

/// Commits, and it must happen.
async fn win(store: &dyn Store, txn: Txn) -> Revision {
    match store.commit(&txn).await {
        Ok(Commit::Won(revision)) => revision,
        other => panic!("{txn:?} should have been won, but: {other:?}"),
    }
}

/// Commits, and a precondition must be in the way.
async fn lose(store: &dyn Store, txn: Txn) {
    match store.commit(&txn).await {
        Ok(Commit::Lost) => {}
        other => panic!("{txn:?} should have been lost, but: {other:?}"),
    }
}

async fn put(store: &dyn Store, key: &Key, value: &str) -> Revision {
    win(store, Txn::new().put(key.clone(), value.into())).await
}

async fn load(store: &dyn Store, keys: &[Key]) -> Snapshot {
    good(store.load(keys).await)
}

/// The value of a key as text.
async fn value(store: &dyn Store, key: &Key) -> Option<String> {
    let snapshot = load(store, std::slice::from_ref(key)).await;
    snapshot.get(key).map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
}

fn good<T: Debug>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the store should have answered, but: {error}"),
    }
}

/// The next change of a watch. Interruptions are no fault of it.
async fn next_change(watch: &mut Watch) -> Event {
    let limit = Duration::from_secs(20);
    loop {
        match tokio::time::timeout(limit, watch.next()).await {
            Ok(Some(Event::Interrupted { .. } | Event::Resumed)) => {}
            Ok(Some(event)) => return event,
            Ok(None) => panic!("the watch ended by itself"),
            Err(_) => panic!("the watch told nothing for {limit:?}"),
        }
    }
}
