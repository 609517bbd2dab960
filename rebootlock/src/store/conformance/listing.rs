//! Listing what is below a prefix.

use super::{Place, good, put, win};
use crate::store::{Key, Revision, Select, Snapshot, Store, Txn};

fn names(place: &Place<'_>, snapshot: &Snapshot) -> Vec<String> {
    let start = format!("{}/", place.prefix);
    let name = |key: &Key| key.as_str().trim_start_matches(&start).to_owned();
    snapshot.entries.keys().map(name).collect()
}

async fn list(store: &dyn Store, prefix: &Key, select: Select) -> Snapshot {
    good(store.list(prefix, select).await)
}

pub(super) async fn a_list_holds_what_begins_with_the_prefix(place: Place<'_>) {
    let store = place.open();
    // 0 comes right after the slash, and ÿ is the last character of one byte in Latin 1.
    for name in ["a", "a/", "a/1", "a/2", "a/2/3", "a/ÿ", "a0", "ab", "A/1", "b/1"] {
        put(&*store, &place.key(name), name).await;
    }
    let snapshot = list(&*store, &place.key("a/"), Select::All).await;
    assert_eq!(names(&place, &snapshot), ["a/", "a/1", "a/2", "a/2/3", "a/ÿ"]);
    for (key, entry) in &snapshot.entries {
        assert!(key.as_str().ends_with(&*String::from_utf8_lossy(&entry.value)), "{key}");
        assert!(entry.created == entry.modified && entry.modified <= snapshot.revision, "{key}");
    }
    let snapshot = list(&*store, &place.key("a"), Select::All).await;
    assert_eq!(names(&place, &snapshot).len(), 8, "{snapshot:?}");
    // Signs that mean something in patterns mean nothing here.
    for pattern in ["_/", "%", "*", "a?", "a/[12]"] {
        let snapshot = list(&*store, &place.key(pattern), Select::All).await;
        assert!(snapshot.entries.is_empty(), "{pattern}: {snapshot:?}");
        assert!(snapshot.revision > Revision(0), "{pattern}: no revision");
    }
}

pub(super) async fn keys_are_listed_without_values(place: Place<'_>) {
    let store = place.open();
    let first = put(&*store, &place.key("a"), "1").await;
    let second = put(&*store, &place.key("a"), "2").await;
    put(&*store, &place.key("b"), "3").await;
    let snapshot = list(&*store, &place.key(""), Select::Keys).await;
    assert_eq!(names(&place, &snapshot), ["a", "b"]);
    assert!(snapshot.entries.values().all(|entry| entry.value.is_empty()), "{snapshot:?}");
    let entry = snapshot.get(&place.key("a")).expect("it is listed");
    assert_eq!((entry.created, entry.modified), (first, second));
}

/// `a` to `e` in an order that is not theirs, some of them changed since. The revisions at which
/// they were created.
async fn five(place: &Place<'_>, store: &dyn Store) -> Vec<(&'static str, Revision)> {
    let mut created = Vec::new();
    for name in ["d", "a", "e", "b", "c"] {
        created.push((name, put(store, &place.key(name), name).await));
    }
    put(store, &place.key("d"), "d").await;
    put(store, &place.key("a"), "a").await;
    created
}

pub(super) async fn the_oldest_are_listed(place: Place<'_>) {
    let store = place.open();
    five(&place, &*store).await;
    let oldest = async |limit| {
        let snapshot = list(&*store, &place.key(""), Select::Oldest(limit)).await;
        assert!(snapshot.revision > Revision(0), "no revision");
        assert!(snapshot.entries.values().all(|entry| !entry.value.is_empty()), "{snapshot:?}");
        names(&place, &snapshot)
    };
    assert_eq!(oldest(0).await, Vec::<String>::new());
    assert_eq!(oldest(1).await, ["d"]);
    assert_eq!(oldest(3).await, ["a", "d", "e"]);
    assert_eq!(oldest(5).await.len(), 5);
    assert_eq!(oldest(500).await.len(), 5);
    win(&*store, Txn::new().delete(place.key("d"))).await;
    assert_eq!(oldest(1).await, ["a"]);
    put(&*store, &place.key("d"), "created anew").await;
    assert_eq!(oldest(4).await, ["a", "b", "c", "e"]);
}

pub(super) async fn the_newest_before_a_moment_are_listed(place: Place<'_>) {
    let store = place.open();
    let created = five(&place, &*store).await;
    let before = async |revision, limit| {
        let select = Select::NewestBefore(revision, limit);
        let snapshot = list(&*store, &place.key(""), select).await;
        assert!(snapshot.revision > Revision(0), "no revision");
        names(&place, &snapshot)
    };
    let at = |name: &str| {
        created.iter().find(|(known, _)| *known == name).map(|(_, at)| *at).expect("one of five")
    };
    assert_eq!(before(at("b"), 1).await, ["e"], "the one right before");
    assert_eq!(before(at("b"), 2).await, ["a", "e"]);
    assert_eq!(before(at("b"), 20).await, ["a", "d", "e"]);
    assert_eq!(before(at("b"), 0).await, Vec::<String>::new());
    assert_eq!(before(at("d"), 3).await, Vec::<String>::new(), "nothing was before the first");
    assert_eq!(before(Revision(0), 3).await, Vec::<String>::new());
    assert_eq!(before(Revision(1), 3).await, Vec::<String>::new());
    assert_eq!(before(Revision(i64::MAX as u64), 1).await, ["c"]);
}

pub(super) async fn a_large_list_is_whole(place: Place<'_>) {
    let store = place.open();
    let value = vec![b'x'; 100_000];
    for n in 0..60 {
        win(&*store, Txn::new().put(place.key(format!("{n:03}")), value.clone())).await;
    }
    let snapshot = list(&*store, &place.key(""), Select::All).await;
    assert_eq!(snapshot.entries.len(), 60, "some are missing");
    assert!(snapshot.entries.values().all(|entry| entry.value == value), "some are cut");
}

pub(super) async fn keys_and_listings_are_read_together(place: Place<'_>) {
    let store = place.open();
    for name in ["a/3", "a/1", "a/2", "b/1", "k", "l"] {
        put(&*store, &place.key(name), name).await;
    }
    let below = [
        (place.key("a/"), Select::Oldest(2)),
        (place.key("b/"), Select::All),
        (place.key("c/"), Select::All),
        (place.key("a/"), Select::Oldest(0)),
    ];
    let read = good(store.read(&[place.key("k"), place.key("none")], &below).await);
    let keys: Vec<_> = read.entries.keys().cloned().collect();
    assert_eq!(keys, ["a/1", "a/3", "b/1", "k"].map(|name| place.key(name)));
    assert_eq!(read.get(&place.key("k")).map(|entry| &entry.value[..]), Some(&b"k"[..]));
    let next = put(&*store, &place.key("k"), "later").await;
    assert!(read.revision < next);
}
