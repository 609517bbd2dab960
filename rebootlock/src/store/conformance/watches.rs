//! Watching.

use std::time::Duration;

use super::{Place, load, next_change, put, win};
use crate::store::{Event, Key, Revision, Select, Span, Txn, Watch};

/// The next `count` changes: where, what (`None`: gone) and when.
async fn changes(watch: &mut Watch, count: usize) -> Vec<(Key, Option<String>, Revision)> {
    let mut changes = Vec::new();
    while changes.len() < count {
        match next_change(watch).await {
            Event::Changed { key, entry, revision } => {
                if let Some(entry) = &entry {
                    assert_eq!(entry.modified, revision, "of {key}");
                }
                let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                changes.push((key, entry.map(|entry| text(entry.value)), revision));
            }
            other => panic!("{other:?} instead of a change"),
        }
    }
    changes
}

pub(super) async fn a_watch_tells_every_change_in_order(place: Place<'_>) {
    let (store, writer) = (place.open(), place.open());
    let key = place.key("k");
    let start = put(&*writer, &key, "before").await;
    let mut watch = store.watch(&Span::Below(place.key("")), start);
    let write = async {
        let mut expected = Vec::new();
        for n in 0..200 {
            let revision = put(&*writer, &key, &n.to_string()).await;
            expected.push((key.clone(), Some(n.to_string()), revision));
        }
        expected
    };
    let (expected, told) = tokio::join!(write, changes(&mut watch, 200));
    assert_eq!(told, expected);

    let both = Txn::new().put(place.key("a"), "1".into()).put(place.key("b"), "2".into());
    let revision = win(&*writer, both).await;
    let mut told = changes(&mut watch, 2).await;
    told.sort();
    let expected = [("a", "1"), ("b", "2")];
    let expected = expected.map(|(key, value)| (place.key(key), Some(value.to_owned()), revision));
    assert_eq!(told, expected);
}

pub(super) async fn a_watch_begins_in_the_past(place: Place<'_>) {
    let store = place.open();
    let key = place.key("k");
    put(&*store, &key, "told to nobody").await;
    let after = put(&*store, &key, "neither is this").await;
    let mut expected = Vec::new();
    for n in 0..5 {
        expected.push((key.clone(), Some(n.to_string()), put(&*store, &key, &n.to_string()).await));
    }
    let mut watch = store.watch(&Span::Below(key.clone()), after);
    assert_eq!(changes(&mut watch, 5).await, expected);
    let next = put(&*store, &key, "now").await;
    assert_eq!(changes(&mut watch, 1).await, [(key, Some("now".to_owned()), next)]);
}

pub(super) async fn a_watch_after_a_snapshot_misses_nothing(place: Place<'_>) {
    const ROUNDS: u32 = 40;
    let (writer, reader) = (place.open(), place.open());
    let key = place.key("k");
    let write = async {
        for n in 0..ROUNDS {
            put(&*writer, &key, &n.to_string()).await;
        }
    };
    let read = async {
        for _ in 0..10 {
            let snapshot = super::good(reader.list(&place.key(""), Select::All).await);
            let seen = snapshot.get(&key).map(|entry| String::from_utf8_lossy(&entry.value));
            let mut next: u32 = seen.map_or(0, |seen| seen.parse::<u32>().expect("a number") + 1);
            let mut watch = reader.watch(&Span::Below(place.key("")), snapshot.revision);
            let last = (next + 3).min(ROUNDS);
            while next < last {
                let told = changes(&mut watch, 1).await;
                assert_eq!(told[0].1, Some(next.to_string()), "after {}", snapshot.revision);
                next += 1;
            }
        }
    };
    tokio::join!(write, read);
}

pub(super) async fn a_watch_tells_deletions(place: Place<'_>) {
    let store = place.open();
    let key = place.key("k");
    let first = put(&*store, &key, "x").await;
    let mut watch = store.watch(&Span::Below(key.clone()), first);
    let gone = win(&*store, Txn::new().delete(key.clone())).await;
    // Of what is absent there is nothing to tell.
    win(&*store, Txn::new().delete(key.clone())).await;
    let back = put(&*store, &key, "y").await;
    let told = changes(&mut watch, 2).await;
    assert_eq!(told, [(key.clone(), None, gone), (key, Some("y".to_owned()), back)]);
}

pub(super) async fn a_watch_keeps_to_its_prefix(place: Place<'_>) {
    let store = place.open();
    let start = load(&*store, &[place.key("a/")]).await.revision;
    let mut watch = store.watch(&Span::Below(place.key("a/")), start);
    for name in ["a", "a0", "ab/c", "A/x", "b/a/x"] {
        put(&*store, &place.key(name), "elsewhere").await;
    }
    let revision = put(&*store, &place.key("a/b"), "here").await;
    let told = changes(&mut watch, 1).await;
    assert_eq!(told, [(place.key("a/b"), Some("here".to_owned()), revision)]);
}

pub(super) async fn a_dropped_watch_harms_nobody(place: Place<'_>) {
    let store = place.open();
    let key = place.key("k");
    let start = put(&*store, &key, "x").await;
    let mut kept = store.watch(&Span::Below(key.clone()), start);
    for _ in 0..20 {
        drop(store.watch(&Span::Below(key.clone()), start));
    }
    let mut unread: Vec<_> =
        (0..3).map(|_| store.watch(&Span::Below(key.clone()), Revision(start.0 - 1))).collect();
    let next_told = tokio::time::timeout(Duration::from_secs(20), unread[0].next()).await;
    assert!(matches!(next_told, Ok(Some(_))), "{next_told:?}");
    drop(unread);
    // Nobody reads this one, and nobody waits for that.
    let _never_read = store.watch(&Span::Below(key.clone()), start);
    for n in 0..600 {
        put(&*store, &key, &n.to_string()).await;
    }
    let told = changes(&mut kept, 600).await;
    assert_eq!(told[599].1.as_deref(), Some("599"));
}

pub(super) async fn a_watch_between_two_keys_tells_of_those_between(place: Place<'_>) {
    let (store, writer) = (place.open(), place.open());
    let start = put(&*writer, &place.key("a"), "0").await;
    let span = Span::Between(place.key("b"), place.key("c0"));
    let mut watch = store.watch(&span, start);
    let mut expected = Vec::new();
    for name in ["a", "b", "b/x", "bb", "c/", "c/x", "c0", "d"] {
        let (key, value) = (place.key(name), format!("at {name}"));
        let revision = put(&*writer, &key, &value).await;
        if !["a", "c0", "d"].contains(&name) {
            expected.push((key, Some(value), revision));
        }
    }
    assert_eq!(changes(&mut watch, expected.len()).await, expected);
}

pub(super) async fn a_watch_from_now_tells_when_it_began_and_what_came_after(place: Place<'_>) {
    const LAST: u32 = 60;
    let (writer, reader) = (place.open(), place.open());
    let key = place.key("k");
    put(&*writer, &key, "told to nobody").await;
    let write = async {
        for n in 0..=LAST {
            put(&*writer, &key, &n.to_string()).await;
        }
    };
    let read = async {
        let mut watch =
            reader.watch_from_now(&[Span::Below(place.key("other")), Span::Below(key.clone())]);
        let Some(Event::Lost { revision: began }) = watch.next().await else {
            panic!("a watch from now begins with its moment")
        };
        let now = super::good(reader.load(std::slice::from_ref(&key)).await);
        assert!(now.revision >= began);
        // What was read and what was told after it are everything.
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let mut last = now.get(&key).map(|entry| text(&entry.value)).expect("it was put");
        while last != LAST.to_string() {
            let told = changes(&mut watch, 1).await;
            let (_, value, revision) = &told[0];
            assert!(*revision > began);
            if *revision > now.revision {
                let before = last.parse().unwrap_or(u32::MAX);
                last = value.clone().expect("a value");
                assert_eq!(last, before.wrapping_add(1).to_string());
            }
        }
    };
    tokio::join!(read, write);
}

pub(super) async fn a_watch_of_one_key_tells_of_no_other(place: Place<'_>) {
    let (writer, reader) = (place.open(), place.open());
    let (key, longer) = (place.key("k"), place.key("k/below"));
    let after = put(&*writer, &key, "1").await;
    // With and without somebody in the same process who watches more than that.
    let mut apart = reader.watch(&Span::Only(key.clone()), after);
    let mut around = reader.watch_from_now(&[Span::Below(place.key(""))]);
    let Some(Event::Lost { revision: began }) = around.next().await else {
        panic!("a watch from now begins with its moment")
    };
    let mut within = reader.watch(&Span::Only(key.clone()), began);
    put(&*writer, &longer, "1").await;
    let (second, text) = (put(&*writer, &key, "2").await, Some("2".to_owned()));
    changes(&mut around, 2).await;
    let mut late = reader.watch(&Span::Only(key.clone()), began);
    put(&*writer, &longer, "2").await;
    let gone = win(&*writer, Txn::new().delete(key.clone())).await;
    let expected = [(key.clone(), text, second), (key.clone(), None, gone)];
    for watch in [&mut apart, &mut within, &mut late] {
        assert_eq!(changes(watch, 2).await, expected);
    }
    drop(around);
    let last = put(&*writer, &key, "3").await;
    for watch in [&mut apart, &mut within, &mut late] {
        assert_eq!(changes(watch, 1).await, [(key.clone(), Some("3".to_owned()), last)]);
    }
}

pub(super) async fn who_watches_the_same_from_now_on_is_told_the_same(place: Place<'_>) {
    let (writer, reader) = (place.open(), place.open());
    let key = place.key("k");
    let began = async |watch: &mut Watch| match watch.next().await {
        Some(Event::Lost { revision }) => revision,
        other => panic!("a watch from now begins with its moment, not with {other:?}"),
    };
    let mut first = reader.watch_from_now(&[Span::Below(key.clone())]);
    began(&mut first).await;
    let one = put(&*writer, &key, "1").await;
    assert_eq!(changes(&mut first, 1).await[0].2, one);
    let mut second = reader.watch_from_now(&[Span::Below(key.clone())]);
    assert!(began(&mut second).await >= one);
    let rest = [put(&*writer, &key, "2").await, put(&*writer, &key, "3").await];
    for watch in [&mut first, &mut second] {
        let told: Vec<_> = changes(watch, 2).await.into_iter().map(|told| told.2).collect();
        assert_eq!(told, rest);
    }
    drop(first);
    let last = put(&*writer, &key, "4").await;
    assert_eq!(changes(&mut second, 1).await[0].2, last);
}
