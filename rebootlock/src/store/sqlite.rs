//! One SQLite file, shared by several processes of one machine.
//!
//! In WAL mode with `synchronous = FULL`: what was answered survives a power cut, because a slot
//! that was granted and then forgotten would be granted twice. Every write transaction begins
//! `IMMEDIATE`, so deciding and writing are one. Writes that come at the same time share a
//! transaction; reads come after what was to be written before them, on a connection of their own.
//!
//! Other processes' commits are noticed by inotify on the folder of the file: each one touches the
//! file once it can be read. Leases end by the machine's clock since boot, which no one sets; those of
//! an earlier boot begin anew.

mod schema;
mod watch;
mod writer;

use std::fmt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, Transaction, params};

use self::schema::{Clock, end_leases, next_revision, revision};
use self::writer::{Writer, locked};
use super::{
    Change, Commit, Entry, Key, LeaseId, Result, Revision, Select, Snapshot, Span, Store,
    StoreError, Txn, Watch,
};

/// Changes kept for watches that begin in the past.
const KEPT_REVISIONS: u64 = 10_000;

/// More than there are, so that each is prepared once.
const STATEMENTS: usize = 64;

/// A store in one file.
#[derive(Clone)]
pub struct SqliteStore {
    path: PathBuf,
    writer: Arc<Writer>,
    reader: Arc<Mutex<Connection>>,
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
        let open = || -> rusqlite::Result<_> {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(timeout)?;
            connection.set_prepared_statement_cache_capacity(STATEMENTS);
            Ok(connection)
        };
        let writer = open().map_err(|error| broken(&error))?;
        schema::prepare(&writer).map_err(|error| broken(&error))?;
        let clock = Arc::new(Clock::of_this_boot());
        schema::renew_earlier_leases(&writer, &clock).map_err(|error| broken(&error))?;
        let reader = open().map_err(|error| broken(&error))?;
        reader.pragma_update(None, "query_only", true).map_err(|error| broken(&error))?;
        let (wake, _) = tokio::sync::watch::channel(());
        let watcher = watch::FolderWatcher::start(&path, wake.clone()).map_err(|e| broken(&e))?;
        Ok(Self {
            writer: Writer::new(path.clone(), writer, clock.clone(), wake.clone()),
            reader: Arc::new(Mutex::new(reader)),
            clock,
            wake,
            _watcher: Arc::new(watcher),
            path,
        })
    }

    /// Runs `look` on what is there at one moment, off the runtime's own threads. No lease that has
    /// ended is left then: if there is one, what hangs on it is taken away first.
    async fn see<T: Send + 'static>(
        &self,
        look: impl Fn(&Transaction<'_>, &Clock) -> rusqlite::Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let look = Arc::new(look);
        self.writer.settled().await?;
        loop {
            let (reader, clock, look) = (self.reader.clone(), self.clock.clone(), look.clone());
            let seen = tokio::task::spawn_blocking(move || {
                let mut reader = locked(&reader);
                let txn = reader.transaction()?;
                if schema::any_ended(&txn, &clock)? {
                    return Ok(None);
                }
                let seen = look(&txn, &clock)?;
                txn.commit()?;
                Ok(Some(seen))
            });
            match seen.await {
                Ok(Ok(Some(seen))) => return Ok(seen),
                Ok(Ok(None)) => self.writer.write(|_, _| Ok(())).await?,
                Ok(Err(error)) => return Err(store_error(&self.path, &error)),
                Err(join) => {
                    return Err(StoreError::Broken(format!("{}: {join}", self.location())));
                }
            }
        }
    }
}

fn store_error(path: &Path, error: &rusqlite::Error) -> StoreError {
    let text = format!("sqlite:{}: {error}", path.display());
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Unavailable(text),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::Forbidden(text),
        _ => StoreError::Broken(text),
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
        self.see(move |txn, _| {
            let mut snapshot = Snapshot { revision: revision(txn)?, ..Snapshot::default() };
            let mut select = txn
                .prepare_cached("SELECT key, value, modified, created FROM entry WHERE key = ?1")?;
            for key in &keys {
                if let Some((key, entry)) = select.query_row([key.as_str()], entry).optional()? {
                    snapshot.entries.insert(key, entry);
                }
            }
            drop(select);
            for (prefix, select) in &below {
                let value = if *select == Select::Keys { "x''" } else { "value" };
                let (before, order, limit) = match select {
                    Select::All | Select::Keys => (i64::MAX, "key", -1),
                    Select::Oldest(limit) => (i64::MAX, "created", to_i64(*limit as u64)),
                    Select::NewestBefore(before, limit) => {
                        (to_i64(before.0), "created DESC", to_i64(*limit as u64))
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
            Ok(snapshot)
        })
        .await
    }

    async fn commit(&self, txn: &Txn) -> Result<Commit> {
        let wanted = txn.clone();
        let outcome = self.writer.write(move |txn, _| commit(txn, &wanted)).await?;
        outcome.ok_or(StoreError::LeaseGone)
    }

    fn watch(&self, span: &Span, after: Revision) -> Watch {
        watch::start(self.clone(), vec![span.clone()], Some(after))
    }

    fn watch_from_now(&self, spans: &[Span]) -> Watch {
        watch::start(self.clone(), spans.to_vec(), None)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        let granted = self.writer.write(move |txn, clock| {
            txn.prepare_cached("INSERT INTO lease (boot, ttl_ms, ends_ms) VALUES (?1, ?2, ?3)")?
                .insert(params![clock.boot, millis(ttl), clock.after(ttl)])
        });
        Ok(LeaseId(granted.await?))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let keeping = self.writer.write(move |txn, clock| {
            txn.prepare_cached("UPDATE lease SET ends_ms = ?1 + ttl_ms WHERE id = ?2")?
                .execute(params![clock.now(), lease.0])
        });
        let kept = keeping.await?;
        if kept == 0 { Err(StoreError::LeaseGone) } else { Ok(()) }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let revoking = self.writer.write(move |txn, clock| {
            txn.prepare_cached("UPDATE lease SET ends_ms = -1 WHERE id = ?1")?
                .execute([lease.0])?;
            end_leases(txn, clock)
        });
        revoking.await
    }

    fn location(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }
}

/// `None`: a lease that a change should hang on has ended. It, or that it is lost, is known before
/// anything is written: others' writes are in the same transaction.
fn commit(txn: &Transaction<'_>, wanted: &Txn) -> rusqlite::Result<Option<Commit>> {
    let modified = |key: &Key| {
        txn.prepare_cached("SELECT modified FROM entry WHERE key = ?1")?
            .query_row([key.as_str()], |row| Ok(Revision(row.get::<_, i64>(0)? as u64)))
            .optional()
    };
    for precondition in &wanted.preconditions {
        if modified(&precondition.key)? != precondition.modified {
            return Ok(Some(Commit::Lost));
        }
    }
    let mut effective = Vec::new();
    for change in &wanted.changes {
        match change {
            Change::Put { lease: Some(lease), .. } => {
                let mut find = txn.prepare_cached("SELECT 1 FROM lease WHERE id = ?1")?;
                if !find.exists([lease.0])? {
                    return Ok(None);
                }
                effective.push(change);
            }
            Change::Put { .. } => effective.push(change),
            Change::Delete { key } if modified(key)?.is_some() => effective.push(change),
            Change::Delete { .. } => {}
        }
    }
    let at = if effective.is_empty() { revision(txn)? } else { next_revision(txn)? };
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
                schema::log(txn, at, key.as_str())?;
            }
            Change::Delete { key } => schema::delete(txn, at, key.as_str())?,
        }
    }
    schema::forget_before(txn, at.0.saturating_sub(KEPT_REVISIONS))?;
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
