//! What is to be written while the disk is busy waits, and then goes there together: one transaction,
//! and one sync, for all who wait.
//!
//! Each sees what those before it have written, and has its own answer, which is given when all of it
//! is on the disk. If that fails, nothing of it is there, and all are told so.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::schema::{self, Clock};
use super::store_error;
use crate::store::{Result, StoreError};

/// The connection that writes, and who waits for it.
pub(super) struct Writer {
    path: PathBuf,
    connection: Mutex<Connection>,
    clock: Arc<Clock>,
    /// If there is anybody in it, a thread is on its way that will take all of them.
    waiting: Mutex<Vec<Box<dyn Work>>>,
    /// How many wait, or are being written.
    pending: AtomicUsize,
    /// Wakes this process's watches.
    wake: tokio::sync::watch::Sender<()>,
}

/// What one caller wants written.
trait Work: Send {
    fn run(&mut self, txn: &Transaction<'_>, clock: &Clock) -> rusqlite::Result<()>;

    /// Tells the caller what came of it: what it wrote is there, or nothing is.
    fn end(self: Box<Self>, failed: Option<&StoreError>);
}

struct Asked<F, T> {
    work: Option<F>,
    done: Option<T>,
    answer: oneshot::Sender<Result<T>>,
}

impl<T, F> Work for Asked<F, T>
where
    T: Send,
    F: FnOnce(&Transaction<'_>, &Clock) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, txn: &Transaction<'_>, clock: &Clock) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.done = Some(work(txn, clock)?);
        }
        Ok(())
    }

    fn end(self: Box<Self>, failed: Option<&StoreError>) {
        let Self { done, answer, .. } = *self;
        let outcome = match failed {
            None => done.ok_or_else(interrupted),
            Some(error) => Err(error.clone()),
        };
        // Who does not listen any more does not need to know.
        let _ = answer.send(outcome);
    }
}

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        connection: Connection,
        clock: Arc<Clock>,
        wake: tokio::sync::watch::Sender<()>,
    ) -> Arc<Self> {
        let connection = Mutex::new(connection);
        let (waiting, pending) = (Mutex::default(), AtomicUsize::new(0));
        Arc::new(Self { path, connection, clock, waiting, pending, wake })
    }

    /// Waits until all is written that this process wanted written before: also what its caller has
    /// stopped waiting for, which must not come after what is seen from now on.
    pub(super) async fn settled(self: &Arc<Self>) -> Result<()> {
        match self.pending.load(Ordering::SeqCst) {
            0 => Ok(()),
            _ => self.write(|_, _| Ok(())).await,
        }
    }

    /// Runs `work`, perhaps with others' before and after it, in a transaction in which no lease that
    /// has ended is left. If it fails, all of that is undone.
    pub(super) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Transaction<'_>, &Clock) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, told) = oneshot::channel();
        let asked = Box::new(Asked { work: Some(work), done: None, answer });
        self.pending.fetch_add(1, Ordering::SeqCst);
        let first = {
            let mut waiting = locked(&self.waiting);
            waiting.push(asked);
            waiting.len() == 1
        };
        if first {
            let writer = self.clone();
            // Its outcome is told to those who wait.
            drop(tokio::task::spawn_blocking(move || writer.write_all()));
        }
        told.await.unwrap_or_else(|_| Err(interrupted()))
    }

    fn write_all(&self) {
        // A panic while it was held rolled its transaction back.
        let mut connection = locked(&self.connection);
        let mut all = std::mem::take(&mut *locked(&self.waiting));
        let outcome = self.try_all(&mut connection, &mut all);
        drop(connection);
        if matches!(outcome, Ok(true)) {
            self.announce();
        }
        self.pending.fetch_sub(all.len(), Ordering::SeqCst);
        let failed = outcome.err().map(|error| store_error(&self.path, &error));
        for asked in all {
            asked.end(failed.as_ref());
        }
    }

    /// Whether any key has changed.
    fn try_all(
        &self,
        connection: &mut Connection,
        all: &mut [Box<dyn Work>],
    ) -> rusqlite::Result<bool> {
        let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = schema::revision(&txn)?;
        schema::end_leases(&txn, &self.clock)?;
        for asked in all {
            asked.run(&txn, &self.clock)?;
        }
        let now = schema::revision(&txn)?;
        txn.commit()?;
        Ok(now != before)
    }

    /// Wakes all watches, those of other processes too. Writing to the log is not enough: inotify
    /// tells of it before the commit can be read, so whoever looks then sees nothing new. By path,
    /// because closing a descriptor of the file would drop SQLite's locks on it.
    fn announce(&self) {
        self.wake.send_replace(());
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let now = rustix::fs::Timestamps { last_access: now, last_modification: now };
        let flags = rustix::fs::AtFlags::empty();
        // Where this fails they look again after a while by themselves.
        if let Err(error) = rustix::fs::utimensat(rustix::fs::CWD, &self.path, &now, flags) {
            tracing::debug!(%error, path = %self.path.display(), "cannot touch");
        }
    }
}

/// What was being done with it when somebody panicked is undone by who drops it.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn interrupted() -> StoreError {
    StoreError::Broken("the program stops, or what was written with it failed".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::mpsc;
    use std::time::Duration;

    use futures::future::join_all;

    use super::*;
    use crate::store::sqlite::SqliteStore;
    use crate::store::{Commit, Key, Store as _, Txn};

    /// Transactions in the log: a frame that ends one says how large the file is then.
    fn transactions(path: &Path) -> usize {
        let log = std::fs::read(path.with_extension("db-wal")).unwrap();
        let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
        let (page, salt) = (number(8) as usize, &log[16..24]);
        let frames = (32..log.len()).step_by(24 + page);
        frames.filter(|at| number(at + 4) > 0 && &log[at + 8..at + 16] == salt).count()
    }

    /// Keeps the writer busy until what it returns is dropped.
    #[must_use]
    fn keep_busy(store: &SqliteStore) -> mpsc::Sender<()> {
        let writer = store.writer.clone();
        let ((ready, is_ready), (end, ended)) = (mpsc::channel(), mpsc::channel());
        std::thread::spawn(move || {
            let _busy = locked(&writer.connection);
            ready.send(()).unwrap();
            // Nobody sends anything: it fails when the other end is dropped.
            assert!(ended.recv().is_err());
        });
        is_ready.recv().unwrap();
        end
    }

    async fn waiting(store: &SqliteStore, count: usize) {
        while locked(&store.writer.waiting).len() < count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn those_who_wait_for_the_disk_are_written_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks.db");
        let store = SqliteStore::open(&path, Duration::from_secs(30)).unwrap();
        let lease = store.grant(Duration::from_secs(60)).await.unwrap();
        let before = transactions(&path);

        let busy = keep_busy(&store);
        let put = |n: usize| {
            let txn = Txn::new().put(Key::new(format!("k/{n}")), vec![]);
            let store = store.clone();
            tokio::spawn(async move { store.commit(&txn).await.unwrap() })
        };
        let puts: Vec<_> = (0..20).map(put).collect();
        // Of two who want the same key one is too late, though nothing is on the disk yet.
        let again = Txn::new().when_absent(Key::new("k/one")).put(Key::new("k/one"), vec![]);
        let both = [(); 2].map(|()| {
            let (store, txn) = (store.clone(), again.clone());
            tokio::spawn(async move { store.commit(&txn).await.unwrap() })
        });
        let kept: Vec<_> = (0..20)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.keep_alive(lease).await.unwrap() })
            })
            .collect();
        waiting(&store, 42).await;
        drop(busy);

        let revision = |commit: Commit| match commit {
            Commit::Won(revision) => Some(revision),
            Commit::Lost => None,
        };
        let won: Vec<_> =
            join_all(puts).await.into_iter().map(|put| revision(put.unwrap())).collect();
        assert_eq!(
            won.iter().flatten().collect::<BTreeSet<_>>().len(),
            20,
            "each has its own revision"
        );
        let both: Vec<_> =
            join_all(both).await.into_iter().filter_map(|put| revision(put.unwrap())).collect();
        assert_eq!(both.len(), 1);
        for kept in kept {
            kept.await.unwrap();
        }
        assert_eq!(transactions(&path) - before, 1);
    }

    #[tokio::test]
    async fn what_is_seen_is_what_was_wanted_before_it_and_nothing_of_that_comes_later() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("locks.db"), Duration::from_secs(30));
        let (store, key) = (store.unwrap(), Key::new("k"));
        let busy = keep_busy(&store);
        let put = {
            let (store, txn) = (store.clone(), Txn::new().put(key.clone(), vec![]));
            tokio::spawn(async move { store.commit(&txn).await })
        };
        waiting(&store, 1).await;
        // Nobody waits for it any more.
        put.abort();
        assert!(put.await.unwrap_err().is_cancelled());
        let seen = {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move { store.load(&[key]).await.unwrap() })
        };
        waiting(&store, 2).await;
        drop(busy);
        assert!(seen.await.unwrap().get(&key).is_some());
    }

    #[tokio::test]
    async fn if_one_fails_nothing_is_written_and_all_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks.db");
        let store = SqliteStore::open(&path, Duration::from_secs(30)).unwrap();
        let key = Key::new("k");
        let busy = keep_busy(&store);
        let put = {
            let (store, txn) = (store.clone(), Txn::new().put(key.clone(), vec![]));
            tokio::spawn(async move { store.commit(&txn).await })
        };
        waiting(&store, 1).await;
        let fails = {
            let writer = store.writer.clone();
            tokio::spawn(async move {
                writer.write(|txn, _| txn.execute("INSERT INTO nowhere VALUES (1)", [])).await
            })
        };
        waiting(&store, 2).await;
        drop(busy);
        for told in [put.await.unwrap().map(drop), fails.await.unwrap().map(drop)] {
            let StoreError::Broken(text) = told.unwrap_err() else { panic!("not broken") };
            assert!(text.contains("no such table: nowhere"), "{text}");
        }
        assert!(store.load(std::slice::from_ref(&key)).await.unwrap().get(&key).is_none());
        let put = Txn::new().put(key, vec![]);
        assert!(matches!(store.commit(&put).await, Ok(Commit::Won(_))), "and it goes on");
    }
}
