//! Tables, revisions, the change log and the end of leases.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::{Key, Revision, Span, millis, to_i64};

/// "rbtl": tells our files from others'.
const APPLICATION_ID: i64 = 0x7262_746c;

/// Version of the tables below.
const SCHEMA_VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE revision (current INTEGER NOT NULL, compacted INTEGER NOT NULL);
    INSERT INTO revision VALUES (0, 0);
    CREATE TABLE entry (
        key TEXT PRIMARY KEY,
        value BLOB NOT NULL,
        modified INTEGER NOT NULL,
        created INTEGER NOT NULL,
        lease INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX entry_lease ON entry (lease) WHERE lease IS NOT NULL;
    CREATE TABLE lease (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        boot TEXT NOT NULL,
        ttl_ms INTEGER NOT NULL,
        ends_ms INTEGER NOT NULL
    );
    CREATE TABLE log (
        revision INTEGER NOT NULL,
        key TEXT NOT NULL,
        value BLOB,
        created INTEGER,
        PRIMARY KEY (revision, key)
    ) WITHOUT ROWID;
";

/// What may be missing in files of earlier builds, and is only for speed.
const INDICES: &str = "CREATE INDEX IF NOT EXISTS lease_end ON lease (ends_ms);";

/// The time since boot, with the boot it belongs to: the kernel's, whose clock it is, and not what
/// `machine.boot_id_file` says. In containers, which share both, leases outlive a restart of one of them
/// by their time.
#[derive(Debug)]
pub(super) struct Clock {
    pub(super) boot: String,
}

impl Clock {
    pub(super) fn of_this_boot() -> Self {
        // Without a boot id (not Linux) all boots look like one, and leases end late, never early.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { boot: boot.trim().to_owned() }
    }

    /// Milliseconds since boot, suspended or not.
    pub(super) fn now(&self) -> i64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.tv_sec * 1000 + now.tv_nsec / 1_000_000
    }

    pub(super) fn after(&self, span: Duration) -> i64 {
        self.now().saturating_add(millis(span))
    }
}

/// Sets the file up, or checks that it is one of ours.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let txn = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let pragma = |name| txn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let tables: i64 = txn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (pragma("application_id")?, pragma("user_version")?) {
        (0, 0) if tables == 0 => {
            txn.execute_batch(TABLES)?;
            txn.pragma_update(None, "application_id", APPLICATION_ID)?;
            txn.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        (APPLICATION_ID, SCHEMA_VERSION) => {}
        (APPLICATION_ID, version) => {
            return Err(refused(format!(
                "it has version {version}, this program knows {SCHEMA_VERSION}"
            )));
        }
        _ => return Err(refused("it belongs to another program; nothing was changed".to_owned())),
    }
    txn.execute_batch(INDICES)?;
    txn.commit()
}

fn refused(why: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB),
        Some(why),
    )
}

pub(super) fn revision(connection: &Connection) -> rusqlite::Result<Revision> {
    let mut select = connection.prepare_cached("SELECT current FROM revision")?;
    select.query_row([], |row| Ok(Revision(row.get::<_, i64>(0)? as u64)))
}

pub(super) fn next_revision(txn: &Transaction<'_>) -> rusqlite::Result<Revision> {
    txn.prepare_cached("UPDATE revision SET current = current + 1")?.execute([])?;
    revision(txn)
}

/// Writes down that `key` was put at `at`; call it after the put.
pub(super) fn log(txn: &Transaction<'_>, at: Revision, key: &str) -> rusqlite::Result<()> {
    txn.prepare_cached(
        "INSERT OR REPLACE INTO log (revision, key, value, created)
         SELECT ?1, key, value, created FROM entry WHERE key = ?2",
    )?
    .execute(params![to_i64(at.0), key])?;
    Ok(())
}

/// Deletes `key` and writes it down.
pub(super) fn delete(txn: &Transaction<'_>, at: Revision, key: &str) -> rusqlite::Result<()> {
    txn.prepare_cached("DELETE FROM entry WHERE key = ?1")?.execute([key])?;
    txn.prepare_cached(
        "INSERT OR REPLACE INTO log (revision, key, value, created) VALUES (?1, ?2, NULL, NULL)",
    )?
    .execute(params![to_i64(at.0), key])?;
    Ok(())
}

pub(super) fn forget_before(txn: &Transaction<'_>, revision: u64) -> rusqlite::Result<()> {
    let mut delete = txn.prepare_cached("DELETE FROM log WHERE revision <= ?1")?;
    if delete.execute([to_i64(revision)])? > 0 {
        txn.prepare_cached("UPDATE revision SET compacted = ?1")?.execute([to_i64(revision)])?;
    }
    Ok(())
}

/// Begins the leases of earlier boots anew, as etcd does after the election of a leader: how long
/// the machine was down nobody knows, and what somebody stopped for hours must not go on at once.
pub(super) fn renew_earlier_leases(
    connection: &Connection,
    clock: &Clock,
) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE lease SET boot = ?1, ends_ms = ?2 + ttl_ms WHERE boot <> ?1 AND ends_ms >= 0",
        params![clock.boot, clock.now()],
    )
}

/// Whether a lease has ended whose keys are still there.
pub(super) fn any_ended(connection: &Connection, clock: &Clock) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM lease WHERE ends_ms <= ?1")?.exists([clock.now()])
}

/// Milliseconds until the next lease ends, if there is one.
pub(super) fn next_end(connection: &Connection, clock: &Clock) -> rusqlite::Result<Option<i64>> {
    let mut select = connection.prepare_cached("SELECT min(ends_ms) FROM lease")?;
    let ends: Option<i64> = select.query_row([], |row| row.get(0))?;
    Ok(ends.map(|ends| (ends - clock.now()).max(0)))
}

/// Takes the keys of leases that have ended away, and the leases.
pub(super) fn end_leases(txn: &Transaction<'_>, clock: &Clock) -> rusqlite::Result<()> {
    if !any_ended(txn, clock)? {
        return Ok(());
    }
    let now = clock.now();
    let keys: Vec<String> = txn
        .prepare_cached(
            "SELECT key FROM entry WHERE lease IN (SELECT id FROM lease WHERE ends_ms <= ?1)",
        )?
        .query_map([now], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    if !keys.is_empty() {
        let at = next_revision(txn)?;
        for key in keys {
            delete(txn, at, &key)?;
        }
    }
    txn.prepare_cached("DELETE FROM lease WHERE ends_ms <= ?1")?.execute([now])?;
    Ok(())
}

/// One change out of the log.
pub(super) struct Logged {
    pub(super) revision: Revision,
    pub(super) key: Key,
    /// The value and when its key was created; `None`: deleted.
    pub(super) put: Option<(Vec<u8>, Revision)>,
}

/// Changes of the keys of `spans` after `after`, oldest first.
pub(super) fn changes(
    connection: &Connection,
    spans: &[Span],
    after: Revision,
) -> rusqlite::Result<Vec<Logged>> {
    let first = spans.iter().map(Span::first).min();
    let mut select = connection.prepare_cached(
        "SELECT revision, key, value, created FROM log
         WHERE revision > ?1 AND key >= ?2 ORDER BY revision, key",
    )?;
    let logged =
        select.query_map(params![to_i64(after.0), first.map_or("", Key::as_str)], |row| {
            let value: Option<Vec<u8>> = row.get(2)?;
            let created: Option<i64> = row.get(3)?;
            Ok(Logged {
                revision: Revision(row.get::<_, i64>(0)? as u64),
                key: Key::new(row.get::<_, String>(1)?),
                put: value.zip(created.map(|created| Revision(created as u64))),
            })
        })?;
    let wanted = |change: &rusqlite::Result<Logged>| {
        change.as_ref().map_or(true, |change| spans.iter().any(|span| span.contains(&change.key)))
    };
    logged.filter(wanted).collect()
}

/// The revision up to which changes are no longer in the log, and the current one.
pub(super) fn bounds(connection: &Connection) -> rusqlite::Result<(Revision, Revision)> {
    let bounds = connection
        .query_row("SELECT compacted, current FROM revision", [], |row| {
            Ok((Revision(row.get::<_, i64>(0)? as u64), Revision(row.get::<_, i64>(1)? as u64)))
        })
        .optional()?;
    Ok(bounds.unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_outlived_its_boot_ends_late_and_not_early() {
        let mut connection = Connection::open_in_memory().unwrap();
        prepare(&connection).unwrap();
        let clock = Clock { boot: "this".to_owned() };
        for (boot, ttl, ends) in [("earlier", 60_000, 5), ("earlier", 60_000, -1), ("this", 9, 1)] {
            connection
                .execute(
                    "INSERT INTO lease (boot, ttl_ms, ends_ms) VALUES (?1, ?2, ?3)",
                    params![boot, ttl, ends],
                )
                .unwrap();
        }
        assert_eq!(renew_earlier_leases(&connection, &clock).unwrap(), 1);
        let txn = connection.transaction().unwrap();
        end_leases(&txn, &clock).unwrap();
        txn.commit().unwrap();
        let next = next_end(&connection, &clock).unwrap().unwrap();
        assert!((59_000..=60_000).contains(&next), "{next}");
    }
}
