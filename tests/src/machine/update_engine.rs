//! A stand-in for update-engine: owns its name and speaks its interface, and does as it is told.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use zbus::object_server::SignalEmitter;
use zbus::{Connection, fdo};

use super::bus;

/// The name update-engine owns on the system bus.
pub const NAME: &str = "com.coreos.update1";
/// Its only object.
pub const PATH: &str = "/com/coreos/update1";
/// That object's interface.
pub const INTERFACE: &str = "com.coreos.update1.Manager";
/// The operation that says: reboot to finish the update.
pub const NEED_REBOOT: &str = "UPDATE_STATUS_UPDATED_NEED_REBOOT";
/// The operation of an update-engine with nothing to do.
pub const IDLE: &str = "UPDATE_STATUS_IDLE";

/// What `GetStatus` returns and `StatusUpdate` carries: seconds since the epoch of the last check, the
/// progress from 0 to 1, the operation, the new version, its size in bytes.
pub type Status = (i64, f64, String, String, i64);

/// How `GetStatus` answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    /// With the status.
    #[default]
    Truly,
    /// With an error.
    Failing,
    /// With a body of another type than the interface promises.
    Mistyped,
    /// Never.
    Never,
}

/// The stand-in. It may start late, stop and start again; what it knows survives that, as
/// update-engine's marker of a finished update does.
#[derive(Debug)]
pub struct UpdateEngine {
    address: String,
    shared: Arc<Mutex<Status>>,
    answers: Arc<Mutex<Answers>>,
    connection: tokio::sync::Mutex<Option<Connection>>,
}

impl UpdateEngine {
    /// An idle update-engine for the bus at `address`, not started yet.
    pub fn new(address: &str) -> Self {
        let status = (1_700_000_000, 0.0, IDLE.to_owned(), "0.0.0".to_owned(), 0);
        Self {
            address: address.to_owned(),
            shared: Arc::new(Mutex::new(status)),
            answers: Arc::default(),
            connection: tokio::sync::Mutex::default(),
        }
    }

    /// Connects, takes the name and announces the status, as update-engine does when it starts.
    pub async fn start(&self) -> Result<()> {
        self.stop().await;
        let connection = bus::connect(&self.address).await?;
        serve(&connection, &self.shared, self.answers()).await?;
        connection.request_name(NAME).await.with_context(|| format!("cannot own {NAME}"))?;
        *self.connection.lock().await = Some(connection);
        self.announce().await
    }

    /// Goes away: name and object are gone. Stopped already is fine.
    pub async fn stop(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            // On a dead bus there is nothing to release and nothing to close.
            let _ = connection.release_name(NAME).await;
            let _ = connection.close().await;
        }
    }

    /// An update is installed and waits for a reboot.
    pub async fn need_reboot(&self) -> Result<()> {
        self.set_status(NEED_REBOOT).await
    }

    /// Nothing to do.
    pub async fn idle(&self) -> Result<()> {
        self.set_status(IDLE).await
    }

    /// Changes the operation and announces it. Stopped, it only remembers.
    pub async fn set_status(&self, operation: &str) -> Result<()> {
        let (progress, version) =
            if operation == NEED_REBOOT { (1.0, "9999.0.0") } else { (0.0, "0.0.0") };
        self.set_full_status((1_700_000_000, progress, operation.to_owned(), version.to_owned(), 0))
            .await
    }

    /// Changes all five values and announces them. Stopped, it only remembers.
    pub async fn set_full_status(&self, status: Status) -> Result<()> {
        *lock(&self.shared) = status;
        self.announce().await
    }

    /// What it would tell now.
    pub fn status(&self) -> Status {
        lock(&self.shared).clone()
    }

    /// Changes how `GetStatus` answers from now on. Signals stay true.
    pub async fn set_answers(&self, answers: Answers) -> Result<()> {
        *lock(&self.answers) = answers;
        if let Some(connection) = &*self.connection.lock().await {
            serve(connection, &self.shared, answers).await?;
        }
        Ok(())
    }

    fn answers(&self) -> Answers {
        *lock(&self.answers)
    }

    async fn announce(&self) -> Result<()> {
        let guard = self.connection.lock().await;
        let Some(connection) = &*guard else { return Ok(()) };
        let (checked, progress, operation, version, size) = self.status();
        let emitter = SignalEmitter::new(connection, PATH)?;
        Manager::status_update(&emitter, checked, progress, &operation, &version, size)
            .await
            .context("cannot emit StatusUpdate")
    }
}

/// Puts the object in place that answers as told; the two have one interface name, so one replaces the
/// other.
async fn serve(
    connection: &Connection,
    shared: &Arc<Mutex<Status>>,
    answers: Answers,
) -> Result<()> {
    let server = connection.object_server();
    // The first time there is nothing to remove.
    let _ = server.remove::<Manager, _>(PATH).await;
    let added = match answers {
        Answers::Mistyped => server.at(PATH, Mistyped).await?.is_none(),
        _ => server.at(PATH, Manager { status: shared.clone(), answers }).await?.is_none(),
    };
    ensure!(added, "another object is in the way at {PATH}");
    Ok(())
}

struct Manager {
    status: Arc<Mutex<Status>>,
    answers: Answers,
}

#[zbus::interface(name = "com.coreos.update1.Manager")]
impl Manager {
    #[zbus(out_args(
        "last_checked_time",
        "progress",
        "current_operation",
        "new_version",
        "new_size"
    ))]
    // Spelled out, not `Status`: only then does introspection tell of five values, not of one struct.
    async fn get_status(&self) -> fdo::Result<(i64, f64, String, String, i64)> {
        match self.answers {
            Answers::Failing => Err(fdo::Error::Failed("update-engine was told to fail".into())),
            Answers::Never => std::future::pending().await,
            Answers::Truly | Answers::Mistyped => Ok(lock(&self.status).clone()),
        }
    }

    #[zbus(signal)]
    async fn status_update(
        emitter: &SignalEmitter<'_>,
        last_checked_time: i64,
        progress: f64,
        current_operation: &str,
        new_version: &str,
        new_size: i64,
    ) -> zbus::Result<()>;
}

struct Mistyped;

#[zbus::interface(name = "com.coreos.update1.Manager")]
impl Mistyped {
    fn get_status(&self) -> (String, u32) {
        (NEED_REBOOT.to_owned(), 7)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
