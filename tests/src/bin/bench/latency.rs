//! One machine takes a slot and gives it back, over and over, and in between the reference writes.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rebootlock::id::Group;
use rebootlock::lock::{Ended, LockManager, Release};
use rebootlock_tests::fleet::Onlooker;
use rusqlite::Connection;

use crate::figures::{TIMES, Table, Times};
use crate::rig::{Rig, claim};

/// Rounds that are not counted, for connections and caches.
const WARM_UP: usize = 20;

/// How often a sync is timed.
const SYNCS: usize = 200;

/// As long as the larger of the two documents that an acquisition writes.
pub(crate) const VALUE: &[u8] = &[b'x'; 200];

/// What a sync takes where etcd and SQLite keep their files: the median of some.
pub(crate) fn sync() -> Result<Duration> {
    let mut file = tempfile::tempfile().context("cannot make a file")?;
    let mut times = Times::default();
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(VALUE)?;
        file.sync_data()?;
        times.add(start.elapsed());
    }
    Ok(times.median())
}

/// Times on etcd, SQLite and in memory.
pub(crate) async fn measure(rig: &Rig, rounds: usize) -> Result<Table> {
    let mut table = Table::new("Taking a slot and giving it back", &TIMES);

    let (locks, mut raw) = (rig.locks()?, rig.raw().await?);
    let times = times(&locks, rounds, async || {
        let start = Instant::now();
        raw.put("reference", VALUE, None).await.context("cannot put")?;
        Ok(start.elapsed())
    });
    add(&mut table, "etcd", Some("a put"), &times.await?);

    let folder = tempfile::TempDir::with_prefix("bench-").context("cannot make a folder")?;
    let path = folder.path().join("lock.db");
    let locks = Onlooker::new(&[format!("sqlite:{}", path.display())])?.locks;
    let raw = raw_sqlite(&folder.path().join("reference.db"))?;
    let mut value = VALUE.to_vec();
    let times_sqlite = self::times(&locks, rounds, async || {
        // SQLite writes nothing for a value that is there already.
        value.rotate_left(1);
        value[0] = value[0].wrapping_add(1);
        let start = Instant::now();
        raw.prepare_cached("UPDATE reference SET value = ?1 WHERE id = 1")?.execute([&value])?;
        Ok(start.elapsed())
    });
    add(&mut table, "sqlite", Some("an update"), &times_sqlite.await?);

    let locks = Onlooker::new(&["memory:".to_owned()])?.locks;
    let times_memory = self::times(&locks, rounds, async || Ok(Duration::ZERO));
    add(&mut table, "memory", None, &times_memory.await?);
    Ok(table)
}

struct Measured {
    acquire: Times,
    release: Times,
    reference: Times,
}

fn add(table: &mut Table, store: &str, reference: Option<&str>, measured: &Measured) {
    let Measured { acquire, release, reference: times } = measured;
    if let Some(name) = reference {
        table.add(times.row(&format!("{store}: {}", bare(name)), None));
    }
    for (what, of) in [("acquire", acquire), ("release", release)] {
        let mut row = of.row(&format!("{store}: {what}"), reference.map(|name| (name, times)));
        if reference.is_none()
            && let Some(last) = row.last_mut()
        {
            *last = "-".to_owned();
        }
        table.add(row);
    }
}

fn bare(name: &str) -> String {
    let bare = name.trim_start_matches("an ").trim_start_matches("a ");
    format!("bare {bare}")
}

async fn times(
    locks: &LockManager,
    rounds: usize,
    mut reference: impl AsyncFnMut() -> Result<Duration>,
) -> Result<Measured> {
    let mut measured = Measured {
        acquire: Times::default(),
        release: Times::default(),
        reference: Times::default(),
    };
    let group = Group::default();
    for round in 0..WARM_UP + rounds {
        let claim = claim(&group, 0)?;
        let start = Instant::now();
        locks.acquire(&claim).await?;
        let acquired = start.elapsed();
        let write = reference().await?;
        let start = Instant::now();
        locks
            .release(claim.groups(), &claim.machine, &Release::of(claim.token, Ended::GivenBack))
            .await?;
        let released = start.elapsed();
        if round >= WARM_UP {
            measured.acquire.add(acquired);
            measured.release.add(released);
            measured.reference.add(write);
        }
    }
    Ok(measured)
}

/// A table of one row, as durable as ours.
pub(crate) fn raw_sqlite(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE reference (id INTEGER PRIMARY KEY, value BLOB NOT NULL);
         INSERT INTO reference VALUES (1, x'');",
    )?;
    Ok(connection)
}
