//! One SQLite file, shared by several processes of one machine.
//!
//! In WAL mode with `synchronous = FULL`: what was answered survives a power cut, because a slot
//! that was granted and then forgotten would be granted twice. Every write transaction begins
//! `IMMEDIATE`, so deciding and writing are one.
//!
//! Other processes' commits are noticed by inotify on the folder of the file: each one touches the
//! file once it can be read. Leases end by the machine's clock since boot, which no one sets; a lease of
//! an earlier boot has ended.

mod schema;
mod watch;

use std::fmt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, TransactionBehavior, params};

use self::schema::{Clock, end_leases, next_revision, revision};
use super::{
    Change, Commit, Entry, Key, LeaseId, Result, Revision, Select, Snapshot, Span, Store,
    StoreError, Txn, Watch,
};

/// Changes kept for watches that begin in the past.
const KEPT_REVISIONS: u64 = 10_000;

/// A store in one file.
#[derive(Clone)]
pub struct SqliteStore {
    path: PathBuf,
    connection: Arc<Mutex<Connection>>,
    clock: Arc<Clock>,
    wake: tokio::sync::watch::Sender<()>,
    _watcher: Arc<watch::FolderWatcher>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the file, making it with mode 0600 if it is not there. A call waits for at most
    /// `timeout` while another process writes.
    ///
    /// # Errors
    /// [`StoreError::Broken`] says what is wrong with the file or its folder.
    pub fn open(path: &Path, timeout: Duration) -> Result<Self> {
        let broken = |what: &dyn fmt::Display| {
            StoreError::Broken(format!("cannot open sqlite:{}: {what}", path.display()))
        };
        // SQLite gives the log and the index beside the file the mode of the file. One that is there
        // is not opened here: closing it would drop the locks of another store of this process.
        let made = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
        if let Err(error) = made
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(broken(&error));
        }
        let path = path.canonicalize().map_err(|error| broken(&error))?;
        let connection = Connection::open(&path).map_err(|error| broken(&error))?;
        connection.busy_timeout(timeout).map_err(|error| broken(&error))?;
        schema::prepare(&connection).map_err(|error| broken(&error))?;
        let clock = Clock::of_this_boot();
        schema::renew_earlier_leases(&connection, &clock).map_err(|error| broken(&error))?;
        let (wake, _) = tokio::sync::watch::channel(());
        let watcher = watch::FolderWatcher::start(&path, wake.clone()).map_err(|e| broken(&e))?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            clock: Arc::new(clock),
            wake,
            _watcher: Arc::new(watcher),
            path,
        })
    }

    /// Runs `work` on the connection, off the runtime's own threads.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection, &Clock) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (connection, clock) = (self.connection.clone(), self.clock.clone());
        let outcome = tokio::task::spawn_blocking(move || {
            // A panic while it was held rolled its transaction back.
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut connection, &clock)
        })
        .await;
        match outcome {
            Ok(outcome) => outcome.map_err(|error| self.store_error(&error)),
            Err(join) => Err(StoreError::Broken(format!("{}: {join}", self.location()))),
        }
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

    fn store_error(&self, error: &rusqlite::Error) -> StoreError {
        let text = format!("{}: {error}", self.location());
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                StoreError::Unavailable(text)
            }
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::Forbidden(text),
            _ => StoreError::Broken(text),
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn load(&self, keys: &[Key]) -> Result<Snapshot> {
        self.read(keys, &[]).await
    }

    async fn list(&self, prefix: &Key, select: Select) -> Result<Snapshot> {
        self.read(&[], &[(prefix.clone(), select)]).await
    }

    async fn read(&self, keys: &[Key], below: &[(Key, Select)]) -> Result<Snapshot> {
        let (keys, below) = (keys.to_vec(), below.to_vec());
        self.with(move |connection, clock| {
            let txn = ended(connection, clock)?;
            let mut snapshot = Snapshot { revision: revision(&txn)?, ..Snapshot::default() };
            let mut select = txn
                .prepare_cached("SELECT key, value, modified, created FROM entry WHERE key = ?1")?;
            for key in keys {
                if let Some((key, entry)) = select.query_row([key.as_str()], entry).optional()? {
                    snapshot.entries.insert(key, entry);
                }
            }
            drop(select);
            for (prefix, select) in below {
                let value = if select == Select::Keys { "x''" } else { "value" };
                let (before, order, limit) = match select {
                    Select::All | Select::Keys => (i64::MAX, "key", -1),
                    Select::Oldest(limit) => (i64::MAX, "created", to_i64(limit as u64)),
                    Select::NewestBefore(before, limit) => {
                        (to_i64(before.0), "created DESC", to_i64(limit as u64))
                    }
                };
                let mut statement = txn.prepare_cached(&format!(
                    "SELECT key, {value}, modified, created FROM entry
                     WHERE key >= ?1 AND substr(key, 1, length(?1)) = ?1 AND created < ?2
                     ORDER BY {order} LIMIT ?3"
                ))?;
                for found in statement.query_map(params![prefix.as_str(), before, limit], entry)? {
                    let (key, entry) = found?;
                    snapshot.entries.insert(key, entry);
                }
            }
            txn.commit()?;
            Ok(snapshot)
        })
        .await
    }

    async fn commit(&self, txn: &Txn) -> Result<Commit> {
        let wanted = txn.clone();
        let outcome =
            self.with(move |connection, clock| commit(connection, clock, &wanted)).await?;
        let Some(commit) = outcome else { return Err(StoreError::LeaseGone) };
        self.announce();
        Ok(commit)
    }

    fn watch(&self, span: &Span, after: Revision) -> Watch {
        watch::start(self.clone(), vec![span.clone()], Some(after))
    }

    fn watch_from_now(&self, spans: &[Span]) -> Watch {
        watch::start(self.clone(), spans.to_vec(), None)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.with(move |connection, clock| {
            let ends = clock.after(ttl);
            connection.execute(
                "INSERT INTO lease (boot, ttl_ms, ends_ms) VALUES (?1, ?2, ?3)",
                params![clock.boot, millis(ttl), ends],
            )?;
            Ok(LeaseId(connection.last_insert_rowid()))
        })
        .await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let kept = self
            .with(move |connection, clock| {
                let txn = ended(connection, clock)?;
                let kept = txn.execute(
                    "UPDATE lease SET ends_ms = ?1 + ttl_ms WHERE id = ?2",
                    params![clock.now(), lease.0],
                )?;
                txn.commit()?;
                Ok(kept)
            })
            .await?;
        if kept == 0 { Err(StoreError::LeaseGone) } else { Ok(()) }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.with(move |connection, clock| {
            connection.execute("UPDATE lease SET ends_ms = -1 WHERE id = ?1", [lease.0])?;
            ended(connection, clock)?.commit()
        })
        .await?;
        self.announce();
        Ok(())
    }

    fn location(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }
}

/// A transaction in which no lease that has ended is left. It only writes, and so only waits for
/// other writers, if there is one.
fn ended<'c>(
    connection: &'c mut Connection,
    clock: &Clock,
) -> rusqlite::Result<rusqlite::Transaction<'c>> {
    if schema::any_ended(connection, clock)? {
        let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        end_leases(&txn, clock)?;
        txn.commit()?;
    }
    connection.transaction()
}

/// `None`: a lease that a change should hang on has ended.
fn commit(
    connection: &mut Connection,
    clock: &Clock,
    wanted: &Txn,
) -> rusqlite::Result<Option<Commit>> {
    let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    end_leases(&txn, clock)?;
    let modified = |key: &Key| {
        txn.prepare_cached("SELECT modified FROM entry WHERE key = ?1")?
            .query_row([key.as_str()], |row| Ok(Revision(row.get::<_, i64>(0)? as u64)))
            .optional()
    };
    for precondition in &wanted.preconditions {
        if modified(&precondition.key)? != precondition.modified {
            txn.commit()?;
            return Ok(Some(Commit::Lost));
        }
    }
    let mut effective = Vec::new();
    for change in &wanted.changes {
        match change {
            Change::Put { lease: Some(lease), .. } => {
                let mut find = txn.prepare_cached("SELECT 1 FROM lease WHERE id = ?1")?;
                if !find.exists([lease.0])? {
                    drop(find);
                    txn.rollback()?;
                    return Ok(None);
                }
                effective.push(change);
            }
            Change::Put { .. } => effective.push(change),
            Change::Delete { key } if modified(key)?.is_some() => effective.push(change),
            Change::Delete { .. } => {}
        }
    }
    let at = if effective.is_empty() { revision(&txn)? } else { next_revision(&txn)? };
    for change in effective {
        match change {
            Change::Put { key, value, lease } => {
                txn.prepare_cached(
                    "INSERT INTO entry (key, value, modified, created, lease)
                     VALUES (?1, ?2, ?3, ?3, ?4)
                     ON CONFLICT (key) DO UPDATE
                     SET value = ?2, modified = ?3, lease = ?4",
                )?
                .execute(params![
                    key.as_str(),
                    value,
                    to_i64(at.0),
                    lease.map(|l| l.0)
                ])?;
                schema::log(&txn, at, key.as_str())?;
            }
            Change::Delete { key } => schema::delete(&txn, at, key.as_str())?,
        }
    }
    schema::forget_before(&txn, at.0.saturating_sub(KEPT_REVISIONS))?;
    txn.commit()?;
    Ok(Some(Commit::Won(at)))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<(Key, Entry)> {
    let revision = |column| Ok::<_, rusqlite::Error>(Revision(row.get::<_, i64>(column)? as u64));
    let entry = Entry { value: row.get(1)?, modified: revision(2)?, created: revision(3)? };
    Ok((Key::new(row.get::<_, String>(0)?), entry))
}

/// SQLite's integers are signed; revisions do not come near the end of either.
fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
