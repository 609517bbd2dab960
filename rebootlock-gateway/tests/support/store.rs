//! The store that a test runs on, and what is in it, by the store's own contract.
//!
//! Which one that is the name of the test's crate says: `…_on_etcd`, `…_on_three`, or SQLite.

use std::path::Path;
use std::sync::OnceLock;

use rebootlock::config::{Fragment, Settings};
use rebootlock::keys::Keyspace;
use rebootlock::store::{Key, Select, SharedStore, Snapshot, Txn};
use rustix::process::Signal;
use tokio::runtime::Runtime;

use super::etcd::Etcd;

/// How many members of an etcd there are; none is SQLite.
fn members() -> usize {
    match env!("CARGO_CRATE_NAME") {
        name if name.ends_with("_on_etcd") => 1,
        name if name.ends_with("_on_three") => 3,
        _ => 0,
    }
}

/// A store that is there once somebody wants something of it.
#[derive(Default)]
pub struct Store {
    etcd: OnceLock<Etcd>,
    opened: OnceLock<(Runtime, SharedStore)>,
}

impl Store {
    /// For the command line of a gateway. In `file`, unless it is an etcd.
    pub fn endpoint(&self, file: &Path) -> String {
        if members() == 0 {
            return format!("sqlite:{}", file.display());
        }
        let etcd = self.etcd.get_or_init(|| {
            let etcd = Etcd::of_members(members());
            super::until(|| "an answer of etcd".to_owned(), || etcd.is_up().then_some(()));
            etcd
        });
        etcd.endpoints.clone()
    }

    fn opened(&self, file: &Path) -> &(Runtime, SharedStore) {
        self.opened.get_or_init(|| {
            let endpoints: Vec<_> =
                self.endpoint(file).split(',').map(|one| format!("{one:?}")).collect();
            let text = format!("[store]\nendpoints = [{}]", endpoints.join(","));
            let settings =
                Settings::decide(Fragment::parse(Path::new("test.toml"), &text).unwrap()).unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            // It watches its folder from the start.
            let context = runtime.enter();
            let store = rebootlock::store::open(&settings.store).unwrap();
            drop(context);
            (runtime, store)
        })
    }

    /// All there is below the prefix.
    pub fn all(&self, file: &Path) -> Snapshot {
        let (runtime, store) = self.opened(file);
        let below = Key::new(format!("{}/", Keyspace::default()));
        runtime.block_on(store.list(&below, Select::All)).unwrap()
    }

    /// As a person does, by hand.
    pub fn commit(&self, file: &Path, txn: &Txn) {
        let (runtime, store) = self.opened(file);
        runtime.block_on(store.commit(txn)).unwrap();
    }

    /// Takes the store away from everybody until what is returned is dropped: no read of it comes to
    /// anything, nor any write.
    pub fn take_away(&self, file: &Path) -> Outage<'_> {
        self.endpoint(file);
        match self.etcd.get() {
            Some(etcd) => {
                (0..members()).for_each(|member| etcd.signal(member, Signal::STOP));
                Outage::Etcd(etcd)
            }
            None => {
                let store = rusqlite::Connection::open(file).unwrap();
                store.busy_timeout(super::PATIENCE).unwrap();
                store.execute_batch("ALTER TABLE entry RENAME TO elsewhere").unwrap();
                Outage::Sqlite(store)
            }
        }
    }
}

/// A time without a store, which ends with this.
pub enum Outage<'a> {
    Etcd(&'a Etcd),
    Sqlite(rusqlite::Connection),
}

impl Outage<'_> {
    /// What clients are told: etcd says nothing, and a file without its table is there and of no use.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Etcd(_) => "store_unavailable",
            Self::Sqlite(_) => "store_failed",
        }
    }
}

impl Drop for Outage<'_> {
    fn drop(&mut self) {
        match self {
            Self::Etcd(etcd) => {
                (0..members()).for_each(|member| etcd.signal(member, Signal::CONT));
            }
            Self::Sqlite(store) => {
                let _ = store.execute_batch("ALTER TABLE elsewhere RENAME TO entry");
            }
        }
    }
}

/// A key by its place below the prefix.
pub fn key(place: &str) -> Key {
    Key::new(format!("{}/{place}", Keyspace::default()))
}
