//! A stand-in for systemd's manager: transient service units that really run, the state of the whole,
//! and a count of soft reboots. Each unit is a process group, which is killed as a cgroup would be.

mod manager;
mod unit;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tokio::sync::watch;
use zbus::Connection;

pub use unit::{Started, State};

use super::bus;
use manager::Manager;

/// The name systemd owns on the system bus.
pub const NAME: &str = "org.freedesktop.systemd1";
/// Its manager's object.
pub const PATH: &str = "/org/freedesktop/systemd1";
/// That object's interface.
pub const INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// The stand-in. Not started with a [`super::Machine`]: most tests have no systemd.
#[derive(Debug)]
pub struct Systemd {
    address: String,
    shared: Arc<Shared>,
    connection: Mutex<Option<Connection>>,
}

/// What the control side and the D-Bus side share.
#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    /// Every unit ever started, in order.
    started: watch::Sender<Vec<Started>>,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: u32,
    /// What else was started, and how: unit and mode.
    targets: Vec<(String, String)>,
    units: BTreeMap<String, unit::Unit>,
    subscribers: BTreeSet<String>,
    refusal: Option<(String, String)>,
    soft_reboots: Option<u32>,
    signals_unsent: bool,
    /// What `systemctl is-system-running` and `systemctl --failed` say beside what units show.
    system_state: String,
    failed: Vec<String>,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Systemd {
    /// A systemd of version 254 for the bus at `address`, not started yet.
    pub fn new(address: &str) -> Self {
        let shared = Arc::<Shared>::default();
        {
            let mut inner = shared.inner();
            inner.soft_reboots = Some(0);
            inner.system_state = "running".to_owned();
        }
        Self { address: address.to_owned(), shared, connection: Mutex::default() }
    }

    /// Connects, puts its object in place and takes the name.
    pub async fn start(&self) -> Result<()> {
        let connection = bus::connect(&self.address).await?;
        connection.object_server().at(PATH, Manager::new(self.shared.clone())).await?;
        connection.request_name(NAME).await.with_context(|| format!("cannot own {NAME}"))?;
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(())
    }

    /// Goes away. Units go on.
    pub async fn stop(&self) {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(connection) = connection {
            let _ = connection.release_name(NAME).await;
            let _ = connection.close().await;
        }
    }

    /// Every unit that was started, in order.
    pub fn started(&self) -> Vec<Started> {
        self.shared.started.borrow().clone()
    }

    /// Every unit of the system's own that was started, in order, and the mode of its job.
    pub fn targets(&self) -> Vec<(String, String)> {
        self.shared.inner().targets.clone()
    }

    /// The growing list of units that were started, to watch.
    pub fn watch_started(&self) -> watch::Receiver<Vec<Started>> {
        self.shared.started.subscribe()
    }

    /// What a unit is doing; nothing if there is none of that name.
    pub fn state(&self, name: &str) -> Option<State> {
        self.shared.inner().units.get(name).map(|unit| unit.state)
    }

    /// The next unit is refused with this D-Bus error (name, text).
    pub fn refuse_next(&self, name: &str, text: &str) {
        self.shared.inner().refusal = Some((name.to_owned(), text.to_owned()));
    }

    /// From now on the ends of jobs are told to nobody, as while systemd executes itself anew.
    pub fn tell_nobody(&self) {
        self.shared.inner().signals_unsent = true;
    }

    /// From now on the system is in this state, and these units have failed besides those that were
    /// started here.
    pub fn say(&self, state: &str, failed: &[&str]) {
        let mut inner = self.shared.inner();
        inner.system_state = state.to_owned();
        inner.failed = failed.iter().map(|unit| (*unit).to_owned()).collect();
    }

    /// How often everything but the kernel was restarted; nothing for a systemd before 254.
    pub fn set_soft_reboots(&self, count: Option<u32>) {
        self.shared.inner().soft_reboots = count;
    }
}
