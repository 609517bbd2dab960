//! The stores that need no server pass every check that the others pass, and what is theirs alone.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use rebootlock::store::{
    Commit, Event, Key, MemoryStore, Revision, SharedStore, Span, SqliteStore, StoreError, Txn,
    conformance,
};

const TIMEOUT: Duration = Duration::from_secs(5);

fn open(path: &Path) -> SharedStore {
    Arc::new(SqliteStore::open(path, TIMEOUT).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_every_promise() {
    let store = MemoryStore::new();
    conformance::run_all(&|| Arc::new(store.clone()) as SharedStore, "conformance").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_every_promise() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock.db");
    let open: conformance::Open<'_> = &|| open(&path);
    // Leases of a second or two do not go together with thirty checks that each wait for the disk.
    let (leases, others): (Vec<&conformance::Check>, Vec<_>) =
        conformance::CHECKS.iter().partition(|check| check.name.contains("lease"));
    for checks in [others, leases] {
        join_all(checks.into_iter().map(|check| check.run(open, "conformance"))).await;
    }
}

#[tokio::test]
async fn only_the_owner_may_read_an_sqlite_file_and_what_is_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock.db");
    let store = open(&path);
    store.commit(&Txn::new().put(Key::new("a"), vec![1])).await.unwrap();
    let mut seen = 0;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        seen += 1;
    }
    assert_eq!(seen, 3, "the file, its log and the log's index");
}

#[tokio::test]
async fn an_sqlite_file_remembers_after_all_have_closed_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock.db");
    let won = open(&path).commit(&Txn::new().put(Key::new("a"), vec![1])).await.unwrap();
    let again = open(&path);
    let now = again.load(&[Key::new("a")]).await.unwrap();
    assert_eq!(won, Commit::Won(now.revision));
    assert_eq!(now.get(&Key::new("a")).unwrap().value, [1]);
    // What happened while nobody looked is told to who asks for it.
    let mut changes = again.watch(&Span::Below(Key::new("a")), Revision(0));
    assert!(matches!(changes.next().await, Some(Event::Changed { revision: Revision(1), .. })));
}

#[tokio::test]
async fn a_watch_on_sqlite_that_comes_too_late_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock.db");
    let store = open(&path);
    let key = Key::new("a");
    store.commit(&Txn::new().put(key.clone(), vec![0])).await.unwrap();
    // As if a hundred thousand commits had come since.
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("DELETE FROM log; UPDATE revision SET compacted = 1").unwrap();
    let mut changes = store.watch(&Span::Below(key.clone()), Revision(0));
    assert_eq!(changes.next().await, Some(Event::Lost { revision: Revision(1) }));
    store.commit(&Txn::new().put(key.clone(), vec![1])).await.unwrap();
    assert!(matches!(changes.next().await, Some(Event::Changed { revision: Revision(2), .. })));
}

#[tokio::test]
async fn a_file_of_another_program_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theirs.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    let error = SqliteStore::open(&path, TIMEOUT).unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");
    std::fs::write(folder.path().join("text"), "not a database, but long enough to be one")
        .unwrap();
    let error = SqliteStore::open(&folder.path().join("text"), TIMEOUT).unwrap_err();
    assert!(matches!(error, StoreError::Broken(_)), "{error}");
    let error = SqliteStore::open(&folder.path().join("none/lock.db"), TIMEOUT).unwrap_err();
    assert!(error.to_string().contains("none/lock.db"), "{error}");
}
