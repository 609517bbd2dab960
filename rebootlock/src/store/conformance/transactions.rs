//! Loading and committing.

use futures::future::join_all;

use super::{Place, good, load, lose, put, value, win};
use crate::store::{Commit, Key, Precondition, Revision, Txn};

pub(super) async fn many_keys_are_loaded_at_one_moment(place: Place<'_>) {
    const ROUNDS: u32 = 50;
    let (writer, reader) = (place.open(), place.open());
    let keys: Vec<Key> = (0..20).map(|n| place.key(n)).collect();
    let all = |round: u32| {
        keys.iter().fold(Txn::new(), |txn, key| txn.put(key.clone(), round.to_string().into()))
    };
    win(&*writer, all(0)).await;
    let write = async {
        for round in 1..=ROUNDS {
            win(&*writer, all(round)).await;
        }
    };
    let read = async {
        for _ in 0..ROUNDS {
            let snapshot = load(&*reader, &keys).await;
            assert_eq!(snapshot.entries.len(), keys.len(), "keys are missing");
            let mut entries = snapshot.entries.values();
            let first = entries.next().expect("twenty keys");
            assert!(first.modified <= snapshot.revision, "from the future: {snapshot:?}");
            let same = entries.all(|entry| entry == first);
            assert!(same, "written together but read apart: {snapshot:?}");
        }
    };
    tokio::join!(write, read);
    assert_eq!(value(&*reader, &keys[7]).await, Some(ROUNDS.to_string()));
}

pub(super) async fn missing_keys_are_just_not_there(place: Place<'_>) {
    let store = place.open();
    let (here, missing) = (place.key("here"), place.key("missing"));
    let revision = put(&*store, &here, "x").await;
    let snapshot = load(&*store, &[missing.clone(), here.clone()]).await;
    assert!(snapshot.get(&missing).is_none(), "{snapshot:?}");
    assert!(snapshot.get(&here).is_some(), "{snapshot:?}");
    assert!(snapshot.revision >= revision, "older than the last commit: {snapshot:?}");
    let nothing = load(&*store, &[missing]).await;
    assert!(nothing.entries.is_empty() && nothing.revision >= revision, "{nothing:?}");
}

pub(super) async fn a_key_is_created_only_if_absent(place: Place<'_>) {
    let store = place.open();
    let key = place.key("k");
    let create = |text: &str| Txn::new().when_absent(key.clone()).put(key.clone(), text.into());
    win(&*store, create("first")).await;
    lose(&*store, create("second")).await;
    assert_eq!(value(&*store, &key).await.as_deref(), Some("first"));
    win(&*store, Txn::new().delete(key.clone())).await;
    win(&*store, create("third")).await;
    assert_eq!(value(&*store, &key).await.as_deref(), Some("third"));
}

pub(super) async fn a_value_is_replaced_only_if_unchanged(place: Place<'_>) {
    let store = place.open();
    let key = place.key("k");
    put(&*store, &key, "same").await;
    let before = load(&*store, std::slice::from_ref(&key)).await;
    let replace =
        |text: &str| Txn::new().when(before.unchanged(&key)).put(key.clone(), text.into());
    // The same value again is a change all the same.
    put(&*store, &key, "same").await;
    lose(&*store, replace("mine")).await;
    let before = load(&*store, std::slice::from_ref(&key)).await;
    let replace =
        |text: &str| Txn::new().when(before.unchanged(&key)).put(key.clone(), text.into());
    win(&*store, replace("mine")).await;
    lose(&*store, replace("again")).await;
    assert_eq!(value(&*store, &key).await.as_deref(), Some("mine"));
    win(&*store, Txn::new().delete(key.clone())).await;
    lose(&*store, replace("of a key that is gone")).await;
    assert_eq!(value(&*store, &key).await, None);
    let never = Precondition { key: place.key("never"), modified: Some(Revision(1)) };
    lose(&*store, Txn::new().when(never).put(key.clone(), "x".into())).await;
}

pub(super) async fn all_or_nothing_happens(place: Place<'_>) {
    let store = place.open();
    let keys: Vec<Key> = ["a", "b", "c", "new"].map(|name| place.key(name)).into();
    for key in &keys[..3] {
        put(&*store, key, "old").await;
    }
    let before = load(&*store, &keys).await;
    put(&*store, &keys[1], "changed").await;
    let txn = keys.iter().fold(Txn::new(), |txn, key| txn.when(before.unchanged(key)));
    let txn = txn
        .put(keys[0].clone(), "new".into())
        .put(keys[1].clone(), "new".into())
        .delete(keys[2].clone())
        .put(keys[3].clone(), "new".into());
    lose(&*store, txn.clone()).await;
    assert_eq!(value(&*store, &keys[0]).await.as_deref(), Some("old"), "half a transaction");
    assert_eq!(value(&*store, &keys[2]).await.as_deref(), Some("old"), "half a transaction");
    assert_eq!(value(&*store, &keys[3]).await, None, "half a transaction");

    let before = load(&*store, &keys).await;
    let conditions = keys.iter().map(|key| before.unchanged(key)).collect();
    let revision = win(&*store, Txn { preconditions: conditions, ..txn }).await;
    let after = load(&*store, &keys).await;
    for key in [&keys[0], &keys[1], &keys[3]] {
        let entry = after.get(key).unwrap_or_else(|| panic!("{key} was not put"));
        assert_eq!((entry.value.as_slice(), entry.modified), (&b"new"[..], revision), "{key}");
    }
    assert!(after.get(&keys[2]).is_none(), "{} was not deleted", keys[2]);
}

pub(super) async fn preconditions_alone_are_a_transaction(place: Place<'_>) {
    let store = place.open();
    let key = place.key("k");
    win(&*store, Txn::new().when_absent(key.clone())).await;
    let put_at = put(&*store, &key, "x").await;
    lose(&*store, Txn::new().when_absent(key.clone())).await;
    let now = load(&*store, std::slice::from_ref(&key)).await;
    let revision = win(&*store, Txn::new().when(now.unchanged(&key))).await;
    assert!(revision >= put_at, "won at {revision}, before {put_at}");
}

pub(super) async fn revisions_tell_when(place: Place<'_>) {
    let store = place.open();
    let key = place.key("k");
    let entry = async || {
        let snapshot = load(&*store, std::slice::from_ref(&key)).await;
        snapshot.get(&key).cloned().expect("the key was put")
    };
    let first = put(&*store, &key, "1").await;
    let found = entry().await;
    assert_eq!((found.created, found.modified), (first, first), "just created");
    let second = put(&*store, &key, "2").await;
    assert!(second > first, "{second} does not come after {first}");
    let found = entry().await;
    assert_eq!((found.created, found.modified), (first, second), "overwritten");
    let third = win(&*store, Txn::new().delete(key.clone())).await;
    assert!(third > second, "{third} does not come after {second}");
    let fourth = put(&*store, &key, "4").await;
    assert!(fourth > third, "{fourth} does not come after {third}");
    let found = entry().await;
    assert_eq!((found.created, found.modified), (fourth, fourth), "created anew");
}

pub(super) async fn keys_created_together_say_so(place: Place<'_>) {
    let store = place.open();
    let keys = [place.key("a"), place.key("b")];
    let both = Txn::new().put(keys[0].clone(), "1".into()).put(keys[1].clone(), "2".into());
    let revision = win(&*store, both).await;
    put(&*store, &keys[0], "3").await;
    let snapshot = load(&*store, &keys).await;
    let created: Vec<_> = snapshot.entries.values().map(|entry| entry.created).collect();
    assert_eq!(created, [revision, revision], "{snapshot:?}");
}

pub(super) async fn deleting_what_is_absent_is_fine(place: Place<'_>) {
    let store = place.open();
    let (absent, other) = (place.key("absent"), place.key("other"));
    win(&*store, Txn::new().delete(absent.clone())).await;
    win(&*store, Txn::new().delete(absent).put(other.clone(), "x".into())).await;
    assert_eq!(value(&*store, &other).await.as_deref(), Some("x"));
}

pub(super) async fn any_bytes_come_back(place: Place<'_>) {
    let store = place.open();
    let large: Vec<u8> =
        (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("every-byte", (0..=255).collect()),
        ("not-text", vec![0xff, 0xfe, 0, 0xc3, 0x28]),
        ("large", large),
        ("kéy ünïcode %2F+ x", b"x".to_vec()),
    ] {
        let key = place.key(name);
        win(&*store, Txn::new().put(key.clone(), bytes.clone())).await;
        let snapshot = load(&*store, std::slice::from_ref(&key)).await;
        let entry = snapshot.get(&key).unwrap_or_else(|| panic!("{name} is not there"));
        assert!(entry.value == bytes, "{name} came back different");
    }
}

pub(super) async fn eight_writers_count_exactly(place: Place<'_>) {
    const WRITERS: u32 = 8;
    const TIMES: u32 = 15;
    let key = place.key("counter");
    let count = async || {
        let store = place.open();
        for _ in 0..TIMES {
            loop {
                let before = load(&*store, std::slice::from_ref(&key)).await;
                let text = before.get(&key).map(|entry| String::from_utf8_lossy(&entry.value));
                let counted: u32 = text.map_or(0, |text| text.parse().expect("a number"));
                let next = (counted + 1).to_string().into_bytes();
                let txn = Txn::new().when(before.unchanged(&key)).put(key.clone(), next);
                if let Commit::Won(_) = good(store.commit(&txn).await) {
                    break;
                }
            }
        }
    };
    join_all((0..WRITERS).map(|_| count())).await;
    let counted = value(&*place.open(), &key).await;
    assert_eq!(counted, Some((WRITERS * TIMES).to_string()), "counted wrong");
}

pub(super) async fn another_client_sees_a_commit_at_once(place: Place<'_>) {
    let (one, other) = (place.open(), place.open());
    let key = place.key("k");
    for n in 0..20 {
        let revision = put(&*one, &key, &n.to_string()).await;
        let snapshot = load(&*other, std::slice::from_ref(&key)).await;
        let modified = snapshot.get(&key).map(|entry| entry.modified);
        assert_eq!(modified, Some(revision), "commit {n} was not seen");
        let listed = good(other.list(&key, crate::store::Select::All).await);
        assert_eq!(listed.entries, snapshot.entries, "list and load differ");
    }
}
