//! A stand-in for systemd's manager as far as its state goes: what `systemctl is-system-running` and
//! `systemctl --failed` would say.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use zbus::{Connection, ObjectPath, OwnedObjectPath};

use super::bus;

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";

type UnitRow =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// The stand-in, on the bus until it is dropped.
#[derive(Debug)]
pub struct ServiceManager {
    told: Arc<Mutex<Told>>,
    _connection: Connection,
}

#[derive(Debug)]
struct Told {
    state: String,
    failed: Vec<String>,
}

impl ServiceManager {
    /// One that is `running` without failed units, on the bus at `address`.
    pub async fn start(address: &str) -> Result<Self> {
        let told = Told { state: "running".to_owned(), failed: Vec::new() };
        let told = Arc::new(Mutex::new(told));
        let connection = bus::connect(address).await?;
        connection.object_server().at(PATH, Manager { told: told.clone() }).await?;
        connection.request_name(NAME).await.with_context(|| format!("cannot own {NAME}"))?;
        Ok(Self { told, _connection: connection })
    }

    /// From now on it says this.
    pub fn say(&self, state: &str, failed: &[&str]) {
        let failed = failed.iter().map(|unit| (*unit).to_owned()).collect();
        *lock(&self.told) = Told { state: state.to_owned(), failed };
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Manager {
    told: Arc<Mutex<Told>>,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    #[zbus(property(emits_changed_signal = "false"))]
    fn system_state(&self) -> String {
        lock(&self.told).state.clone()
    }

    #[zbus(out_args("units"))]
    fn list_units_filtered(&self, states: Vec<String>) -> zbus::fdo::Result<Vec<UnitRow>> {
        if states != ["failed"] {
            return Err(zbus::fdo::Error::NotSupported(format!("states {states:?}")));
        }
        let none = || OwnedObjectPath::from(ObjectPath::from_static_str_unchecked("/"));
        let text = str::to_owned;
        let row = |unit: &String| {
            let (load, active, sub) = (text("loaded"), text("failed"), text("failed"));
            let name = unit.clone();
            (name, text("A unit"), load, active, sub, text(""), none(), 0, text(""), none())
        };
        Ok(lock(&self.told).failed.iter().map(row).collect())
    }
}
