//! systemd-logind: who is logged in, what inhibits a shutdown, and the reboot itself. See
//! `proto-docs/dbus.md`.

mod announcement;
mod terminal;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rebootlock::notify::printable;
use zbus::{Connection, OwnedObjectPath};

pub use self::announcement::Scheduled;
pub use self::terminal::tell;
use crate::bus;

/// what, who, why, mode, user, process
type InhibitorRow = (String, String, String, String, u32, u32);

/// id, user's number, user's name, seat, object
type SessionRow = (String, u32, String, String, OwnedObjectPath);

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Manager {
    fn reboot(&self, interactive: bool) -> zbus::Result<()>;
    fn reboot_with_flags(&self, flags: u64) -> zbus::Result<()>;
    fn can_reboot(&self) -> zbus::Result<String>;
    fn list_inhibitors(&self) -> zbus::Result<Vec<InhibitorRow>>;
    fn list_sessions(&self) -> zbus::Result<Vec<SessionRow>>;
    fn set_wall_message(&self, message: &str, enable: bool) -> zbus::Result<()>;
    fn schedule_shutdown(&self, what: &str, at_usec: u64) -> zbus::Result<()>;
    fn cancel_scheduled_shutdown(&self) -> zbus::Result<bool>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn preparing_for_shutdown(&self) -> zbus::Result<bool>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn scheduled_shutdown(&self) -> zbus::Result<(String, u64)>;
    #[zbus(signal)]
    fn session_removed(&self, id: String, path: OwnedObjectPath) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.login1.Session",
    default_service = "org.freedesktop.login1"
)]
trait Session {
    #[zbus(property(emits_changed_signal = "false"), name = "TTY")]
    fn tty(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn class(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn idle_hint(&self) -> zbus::Result<bool>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn idle_since_hint_monotonic(&self) -> zbus::Result<u64>;
}

/// `SD_LOGIND_ROOT_CHECK_INHIBITORS`: without it, logind before systemd 257 lets root pass an
/// inhibitor that came between our look at them and the order.
const ROOT_CHECK_INHIBITORS: u64 = 1;
/// `SD_LOGIND_REBOOT_VIA_KEXEC`: without a kernel loaded for it, logind reboots by the firmware.
const REBOOT_VIA_KEXEC: u64 = 1 << 1;
/// `SD_LOGIND_SOFT_REBOOT`, known since systemd 254.
const SOFT_REBOOT: u64 = 1 << 2;
/// `SD_LOGIND_SKIP_INHIBITORS`, known since systemd 257. Before, root is not asked about them.
const SKIP_INHIBITORS: u64 = 1 << 4;

/// How far down a machine goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All the way, firmware included.
    Full,
    /// The kernel that was loaded takes over.
    Kexec,
    /// Everything but the kernel starts anew.
    Soft,
}

/// Why logind did not take an order. It may go down all the same.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Asking again changes nothing.
    #[error("this logind cannot do a {0}; it came with systemd {1}")]
    TooOld(&'static str, u32),
    /// A shutdown, or a sleep, is under way.
    #[error("logind did not take the order")]
    UnderWay(#[source] zbus::Error),
    /// What else it answers, or that it does not.
    #[error("logind did not take the order")]
    Refused(#[from] zbus::Error),
}

impl Depth {
    fn flag(self) -> u64 {
        match self {
            Self::Full => 0,
            Self::Kexec => REBOOT_VIA_KEXEC,
            Self::Soft => SOFT_REBOOT,
        }
    }

    /// Its name, and the systemd that brought it.
    fn since(self) -> (&'static str, u32) {
        match self {
            Self::Full => ("reboot", 1),
            Self::Kexec => ("reboot by kexec", 246),
            Self::Soft => ("soft reboot", 254),
        }
    }
}

fn is_invalid_args(error: &zbus::Error) -> bool {
    bus::is_named(error, "org.freedesktop.DBus.Error.InvalidArgs")
}

fn is_unknown_method(error: &zbus::Error) -> bool {
    bus::is_named(error, "org.freedesktop.DBus.Error.UnknownMethod")
}

fn is_unknown_property(error: &zbus::Error) -> bool {
    bus::is_named(error, "org.freedesktop.DBus.Error.UnknownProperty")
}

/// Somebody who is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    /// Their name.
    pub user: String,
    /// Their terminal, as `pts/0`; empty without one.
    pub tty: String,
}

/// Somebody who does not want a shutdown now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inhibitor {
    /// The program.
    pub who: String,
    /// Its reason.
    pub why: String,
}

/// Who stands in the way and why, in a sentence.
pub fn held_up_by(inhibitors: &[Inhibitor]) -> String {
    let named = inhibitors.iter().map(|i| format!("inhibited by {}: {}", i.who, i.why));
    named.collect::<Vec<_>>().join("; ")
}

/// An inhibitor of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inhibiting {
    /// What it inhibits: `shutdown`, `sleep` and others, several separated by colons.
    pub what: String,
    /// The program.
    pub who: String,
    /// Its reason.
    pub why: String,
    /// `block`, `block-weak` or `delay`.
    pub mode: String,
}

/// A session, and since when nobody has used it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Whose session it is.
    pub by: LoggedIn,
    /// On the monotonic clock; nothing while it is in use.
    pub idle_since: Option<Duration>,
}

/// logind on the system bus.
#[derive(Debug, Clone)]
pub struct Logind {
    manager: ManagerProxy<'static>,
}

impl Logind {
    /// Connects to the bus; that logind answers is not asked yet.
    ///
    /// # Errors
    /// Why there is no bus.
    pub async fn connect() -> zbus::Result<Self> {
        Self::on(bus::connect().await?).await
    }

    /// On this bus; that logind answers is not asked yet.
    ///
    /// # Errors
    /// Why there is no bus.
    pub async fn on(connection: Connection) -> zbus::Result<Self> {
        let manager = ManagerProxy::builder(&connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        Ok(Self { manager })
    }

    /// The bus it is on.
    pub fn connection(&self) -> &Connection {
        self.manager.inner().connection()
    }

    /// Users who are logged in, each session once. Greeters and background sessions do not count.
    ///
    /// # Errors
    /// What logind answers.
    pub async fn logged_in(&self) -> zbus::Result<Vec<LoggedIn>> {
        Ok(self.in_use().await?.into_iter().map(|session| session.by).collect())
    }

    /// Returns when somebody logs out, or the bus goes.
    pub async fn somebody_left(&self) {
        use futures::StreamExt as _;
        match self.manager.receive_session_removed().await {
            Ok(mut removed) => {
                removed.next().await;
            }
            Err(_) => std::future::pending().await,
        }
    }

    /// What blocks a shutdown. Inhibitors that only delay it are logind's to wait for.
    ///
    /// # Errors
    /// What logind answers.
    pub async fn inhibitors(&self) -> zbus::Result<Vec<Inhibitor>> {
        Ok(in_the_way(self.manager.list_inhibitors().await?))
    }

    /// Everything that is inhibited, in whatever mode.
    ///
    /// # Errors
    /// What logind answers.
    pub async fn inhibiting(&self) -> zbus::Result<Vec<Inhibiting>> {
        let all = self.manager.list_inhibitors().await?;
        let all = all.into_iter();
        Ok(all.map(|(what, who, why, mode, ..)| Inhibiting { what, who, why, mode }).collect())
    }

    /// Sessions of users, and which of them are idle. None is left out that is still there.
    ///
    /// # Errors
    /// What logind answers.
    pub async fn in_use(&self) -> zbus::Result<Vec<Used>> {
        let mut found = Vec::new();
        for (id, _, user, _, path) in self.manager.list_sessions().await? {
            match self.used(user, path).await {
                Ok(session) => found.extend(session),
                Err(error) => {
                    // Did it end between the two questions?
                    let now = self.manager.list_sessions().await?;
                    if now.iter().any(|(known, ..)| *known == id) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(found)
    }

    async fn used(&self, user: String, path: OwnedObjectPath) -> zbus::Result<Option<Used>> {
        let session = SessionProxy::builder(self.connection())
            .path(path)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        if !is_somebody(&session.class().await?, &session.state().await?) {
            return Ok(None);
        }
        let mut idle_since = None;
        if session.idle_hint().await? {
            let since = Duration::from_micros(session.idle_since_hint_monotonic().await?);
            // Zero is "not known".
            idle_since = Some(since).filter(|since| !since.is_zero());
        }
        let by = LoggedIn { user: printable(&user), tty: session.tty().await? };
        Ok(Some(Used { by, idle_since }))
    }

    /// Whether we may order a reboot: `yes`, or why not.
    ///
    /// # Errors
    /// What logind answers.
    pub async fn can_reboot(&self) -> zbus::Result<String> {
        self.manager.can_reboot().await
    }

    /// Orders the reboot, with `message` for everybody's terminal.
    ///
    /// # Errors
    /// What logind answers. It may go down all the same.
    pub async fn reboot(&self, message: &str) -> zbus::Result<()> {
        self.say_why(message).await;
        match self.order(Depth::Full, false).await {
            Err(OrderError::UnderWay(error) | OrderError::Refused(error)) => Err(error),
            Err(error) => Err(zbus::Error::Failure(error.to_string())),
            Ok(()) => Ok(()),
        }
    }

    /// Has logind put `message` on everybody's terminal when it goes down. A courtesy.
    pub async fn say_why(&self, message: &str) {
        if let Err(error) = self.manager.set_wall_message(&printable(message), true).await {
            tracing::debug!(%error, "logind takes no wall message");
        }
    }

    /// Orders a reboot of this depth. With `force` nobody's inhibitor counts, if logind lets us: since
    /// systemd 257 it asks polkit, of root too, and without one refuses.
    ///
    /// # Errors
    /// [`OrderError`] says why not. It may go down all the same.
    pub async fn order(&self, depth: Depth, force: bool) -> Result<(), OrderError> {
        let about_inhibitors = if force { SKIP_INHIBITORS } else { ROOT_CHECK_INHIBITORS };
        let mut answer = self.manager.reboot_with_flags(depth.flag() | about_inhibitors).await;
        if force && answer.as_ref().is_err_and(is_invalid_args) {
            answer = self.manager.reboot_with_flags(depth.flag()).await;
        }
        match answer {
            // Old ones have only this.
            Err(error) if is_unknown_method(&error) && depth == Depth::Full => {
                Ok(self.manager.reboot(false).await?)
            }
            Err(error) if is_unknown_method(&error) || is_invalid_args(&error) => {
                let (what, version) = depth.since();
                Err(OrderError::TooOld(what, version))
            }
            Err(error) if bus::is_named(&error, "org.freedesktop.login1.OperationInProgress") => {
                Err(OrderError::UnderWay(error))
            }
            answer => Ok(answer?),
        }
    }
}

/// Those that block a shutdown. Any user may call an inhibitor whatever he likes.
fn in_the_way(all: Vec<InhibitorRow>) -> Vec<Inhibitor> {
    let blocks = |what: &str, mode: &str| {
        mode.starts_with("block") && what.split(':').any(|what| what == "shutdown")
    };
    all.into_iter()
        .filter(|(what, _, _, mode, ..)| blocks(what, mode))
        .map(|(_, who, why, ..)| Inhibitor { who: printable(&who), why: printable(&why) })
        .collect()
}

/// Whether a session is a person's and not over: `user`, and since systemd 256 `user-early` and
/// `user-light` too.
fn is_somebody(class: &str, state: &str) -> bool {
    class.starts_with("user") && state != "closing"
}
