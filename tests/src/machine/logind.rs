//! A stand-in for systemd-logind: sessions, inhibitors, and a reboot that is only written down.

mod inhibitor;
mod manager;
mod reboot;
mod schedule;
mod session;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath};

pub use inhibitor::{Inhibitor, InhibitorId};
pub use reboot::{InhibitorRule, RebootCall, RebootFailure};
pub use session::Session;

use super::bus;
use manager::Manager;

/// The name logind owns on the system bus.
pub const NAME: &str = "org.freedesktop.login1";
/// Its manager's object.
pub const PATH: &str = "/org/freedesktop/login1";
/// That object's interface.
pub const INTERFACE: &str = "org.freedesktop.login1.Manager";

/// The stand-in. What it knows survives a stop and a start, as logind's state in `/run` does.
#[derive(Debug)]
pub struct Logind {
    address: String,
    shared: Arc<Shared>,
    connection: tokio::sync::Mutex<Option<Connection>>,
    waited: Mutex<usize>,
}

/// What the control side and the D-Bus side share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Reboots that took effect, in order.
    reboots: watch::Sender<Vec<RebootCall>>,
    /// Calls of `Reboot` and `RebootWithFlags`, whatever became of them.
    attempts: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    rule: InhibitorRule,
    failure: Option<RebootFailure>,
    failure_stays: bool,
    preparing: bool,
    wall: (String, bool),
    /// What, and when in microseconds since 1970.
    scheduled: Option<(String, u64)>,
    schedules_nothing: bool,
    /// What users were told in all.
    walls: Vec<String>,
    sessions: Vec<Session>,
    sessions_made: u32,
    inhibitors: Vec<Inhibitor>,
    inhibitors_made: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Logind {
    /// A logind for the bus at `address`, nobody logged in, not started yet.
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            shared: Arc::default(),
            connection: tokio::sync::Mutex::default(),
            waited: Mutex::default(),
        }
    }

    /// Connects, puts its objects in place and takes the name.
    pub async fn start(&self) -> Result<()> {
        self.stop().await;
        let connection = bus::connect(&self.address).await?;
        let server = connection.object_server();
        server.at(PATH, Manager { shared: self.shared.clone() }).await?;
        let sessions = self.sessions();
        for session in sessions {
            session::serve(&connection, session).await?;
        }
        connection.request_name(NAME).await.with_context(|| format!("cannot own {NAME}"))?;
        *self.connection.lock().await = Some(connection);
        Ok(())
    }

    /// Goes away: name and objects are gone. Stopped already is fine.
    pub async fn stop(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            // On a dead bus there is nothing to release and nothing to close.
            let _ = connection.release_name(NAME).await;
            let _ = connection.close().await;
        }
    }

    /// Every reboot that took effect since the start, oldest first.
    pub fn reboot_calls(&self) -> Vec<RebootCall> {
        self.shared.reboots.borrow().clone()
    }

    /// How many reboots took effect since the start.
    pub fn reboots(&self) -> usize {
        self.shared.reboots.borrow().len()
    }

    /// How often a reboot was asked for since the start, refused and failed ones included.
    pub fn attempts(&self) -> usize {
        *self.shared.attempts.borrow()
    }

    /// The growing list of reboots that took effect, to watch.
    pub fn watch_reboots(&self) -> watch::Receiver<Vec<RebootCall>> {
        self.shared.reboots.subscribe()
    }

    /// The next reboot that took effect: each is given once, in order, also when it is over already.
    pub async fn wait_reboot(&self, deadline: Duration) -> Result<RebootCall> {
        let number = *self.waited.lock().unwrap_or_else(PoisonError::into_inner);
        let mut receiver = self.shared.reboots.subscribe();
        let waited = receiver.wait_for(|calls| calls.len() > number);
        let call = match tokio::time::timeout(deadline, waited).await {
            Ok(Ok(calls)) => calls.get(number).cloned(),
            _ => None,
        };
        let call = call.with_context(|| {
            format!("no reboot within {deadline:?}, after {} asked for before", self.attempts())
        })?;
        *self.waited.lock().unwrap_or_else(PoisonError::into_inner) = number + 1;
        Ok(call)
    }

    /// Waits until a reboot was asked for `count` times in all, whatever became of it.
    pub async fn wait_attempts(&self, count: usize, deadline: Duration) -> Result<()> {
        let mut receiver = self.shared.attempts.subscribe();
        let waited = receiver.wait_for(|made| *made >= count);
        let waited = tokio::time::timeout(deadline, waited).await;
        waited
            .with_context(|| format!("{} of {count} within {deadline:?}", self.attempts()))
            .context("a reboot was not asked for often enough")?
            .map(drop)
            .context("logind is gone")
    }

    /// The next call of `Reboot` fails this way, later ones work.
    pub fn fail_next_reboot(&self, failure: RebootFailure) {
        let mut state = self.shared.state();
        (state.failure, state.failure_stays) = (Some(failure), false);
    }

    /// Every call of `Reboot` fails this way from now on; `None` ends that.
    pub fn fail_reboots(&self, failure: Option<RebootFailure>) {
        let mut state = self.shared.state();
        (state.failure, state.failure_stays) = (failure, true);
    }

    /// Which systemd's treatment of block inhibitors to follow.
    pub fn set_inhibitor_rule(&self, rule: InhibitorRule) {
        self.shared.state().rule = rule;
    }

    /// Logs `user` in on `tty` (`pts/3`; empty for none), over ssh. Gives the session's id.
    pub async fn add_session(&self, user: &str, tty: &str) -> Result<String> {
        self.add(Session::ssh(user, tty)).await
    }

    /// Adds a session of any kind. Gives its id, which replaces the one it came with.
    pub async fn add(&self, mut session: Session) -> Result<String> {
        {
            let mut state = self.shared.state();
            state.sessions_made += 1;
            session.id = state.sessions_made.to_string();
            state.sessions.push(session.clone());
        }
        if let Some(connection) = &*self.connection.lock().await {
            session::serve(connection, session.clone()).await?;
            let emitter = SignalEmitter::new(connection, PATH)?;
            Manager::session_new(&emitter, &session.id, session.path()?).await?;
        }
        Ok(session.id)
    }

    /// Logs a session out. An unknown id is an error.
    pub async fn remove_session(&self, id: &str) -> Result<()> {
        let session = {
            let mut state = self.shared.state();
            let found = state.sessions.iter().position(|session| session.id == id);
            state.sessions.remove(found.with_context(|| format!("no session {id:?}"))?)
        };
        if let Some(connection) = &*self.connection.lock().await {
            let path = session.path()?;
            session::withdraw(connection, path.clone()).await?;
            let emitter = SignalEmitter::new(connection, PATH)?;
            Manager::session_removed(&emitter, &session.id, path).await?;
        }
        Ok(())
    }

    /// Who is logged in.
    pub fn sessions(&self) -> Vec<Session> {
        self.shared.state().sessions.clone()
    }

    /// Takes an inhibitor for root, as a service would: `what` such as `shutdown` or `sleep:shutdown`,
    /// `mode` one of `block`, `block-weak` and `delay`.
    pub async fn add_inhibitor(
        &self,
        what: &str,
        who: &str,
        why: &str,
        mode: &str,
    ) -> Result<InhibitorId> {
        self.add_inhibitor_of(what, who, why, mode, 0).await
    }

    /// Takes an inhibitor for a user.
    pub async fn add_inhibitor_of(
        &self,
        what: &str,
        who: &str,
        why: &str,
        mode: &str,
        uid: u32,
    ) -> Result<InhibitorId> {
        let pid = std::process::id();
        let inhibitor = Inhibitor::new(what, who, why, mode, uid, pid)?;
        let id = self.shared.add_inhibitor(inhibitor);
        self.announce_inhibitors().await?;
        Ok(id)
    }

    /// Lets go of an inhibitor. One that is gone already is fine.
    pub async fn remove_inhibitor(&self, id: InhibitorId) -> Result<()> {
        self.shared.remove_inhibitor(id);
        self.announce_inhibitors().await
    }

    /// Who keeps the machine from what, clients' own inhibitors included.
    pub fn inhibitors(&self) -> Vec<Inhibitor> {
        self.shared.state().inhibitors.clone()
    }

    /// What is scheduled, and when in microseconds since 1970; nothing with an empty text.
    pub fn scheduled(&self) -> (String, u64) {
        self.shared.scheduled()
    }

    /// Whether users hear of what is scheduled and cancelled.
    pub fn tells_users(&self) -> bool {
        self.shared.state().wall.1
    }

    /// Somebody schedules this, as `shutdown` does.
    pub fn schedule(&self, what: &str, at_usec: u64) {
        self.shared.state().scheduled = Some((what.to_owned(), at_usec));
    }

    /// From now on it refuses to schedule anything.
    pub fn schedule_nothing(&self) {
        self.shared.state().schedules_nothing = true;
    }

    /// What users were told about what was scheduled, oldest first.
    pub fn walls(&self) -> Vec<String> {
        self.shared.state().walls.clone()
    }

    /// Whether a shutdown is under way.
    pub fn preparing_for_shutdown(&self) -> bool {
        self.shared.state().preparing
    }

    /// The shutdown that was announced does not come: `PrepareForShutdown(false)`, as logind says when
    /// its reboot job failed.
    pub async fn give_up_shutdown(&self) -> Result<()> {
        self.shared.state().preparing = false;
        if let Some(connection) = &*self.connection.lock().await {
            let emitter = SignalEmitter::new(connection, PATH)?;
            Manager::prepare_for_shutdown(&emitter, false).await?;
        }
        Ok(())
    }

    /// Forgets what a boot forgets: shutdown, wall message, sessions, inhibitors. What was counted for
    /// the test and how reboots are told to fail stays.
    pub async fn new_boot(&self) -> Result<()> {
        let sessions = {
            let mut state = self.shared.state();
            (state.preparing, state.wall) = (false, Default::default());
            state.scheduled = None;
            state.inhibitors.clear();
            std::mem::take(&mut state.sessions)
        };
        if let Some(connection) = &*self.connection.lock().await {
            for session in sessions {
                session::withdraw(connection, session.path()?).await?;
            }
        }
        Ok(())
    }

    async fn announce_inhibitors(&self) -> Result<()> {
        if let Some(connection) = &*self.connection.lock().await {
            manager::announce_inhibitors(connection).await?;
        }
        Ok(())
    }
}

/// The object path that logind, and systemd too, give to something with this id: `prefix` and the id with everything but
/// letters and (not leading) digits as `_xx`.
pub(super) fn object_path(prefix: &str, id: &str) -> Result<ObjectPath<'static>> {
    let mut path = format!("{prefix}/");
    for (index, byte) in id.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    ObjectPath::try_from(path).context("an id that fits into no object path")
}
