//! Somebody logged in: one object on the bus.

use std::time::Duration;

use anyhow::Result;
use zbus::{Connection, ObjectPath, OwnedObjectPath};

use super::object_path;

/// A login session with the properties that matter to a reboot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// logind's name for it: `1`, `c2`.
    pub id: String,
    /// The user's number.
    pub uid: u32,
    /// The user's name.
    pub user: String,
    /// `pts/3`, `tty1`, or nothing.
    pub tty: String,
    /// The seat: `seat0`, or nothing.
    pub seat: String,
    /// Whether somebody sits elsewhere.
    pub remote: bool,
    /// `user`, `greeter`, `lock-screen`, `background`, `manager`.
    pub class: String,
    /// `tty`, `x11`, `wayland`, `unspecified`.
    pub kind: String,
    /// `online`, `active`, `closing`.
    pub state: String,
    /// Since when nobody has used it, on the monotonic clock; nothing while it is in use.
    pub idle_since: Option<Duration>,
}

impl Session {
    /// A person logged in over ssh.
    pub fn ssh(user: &str, tty: &str) -> Self {
        let kind = if tty.is_empty() { "unspecified" } else { "tty" };
        Self {
            id: String::new(),
            uid: if user == "root" { 0 } else { 1000 },
            user: user.to_owned(),
            tty: tty.to_owned(),
            seat: String::new(),
            remote: true,
            class: "user".to_owned(),
            kind: kind.to_owned(),
            state: "active".to_owned(),
            idle_since: None,
        }
    }

    /// Its object's path.
    pub fn path(&self) -> Result<ObjectPath<'static>> {
        object_path("/org/freedesktop/login1/session", &self.id)
    }

    fn user_path(&self) -> Result<ObjectPath<'static>> {
        // logind writes the user's number behind an underscore, unescaped.
        let path = format!("/org/freedesktop/login1/user/_{}", self.uid);
        Ok(ObjectPath::try_from(path)?)
    }

    /// Its row in `ListSessions`.
    pub(super) fn row(&self) -> Result<(String, u32, String, String, OwnedObjectPath)> {
        let path = self.path()?.into();
        Ok((self.id.clone(), self.uid, self.user.clone(), self.seat.clone(), path))
    }
}

/// Puts the session's object in place.
pub(super) async fn serve(connection: &Connection, session: Session) -> Result<()> {
    let path = session.path()?;
    let user = session.user_path()?.into();
    connection.object_server().at(path, Served { session, user }).await?;
    Ok(())
}

/// Takes the session's object away.
pub(super) async fn withdraw(connection: &Connection, path: ObjectPath<'static>) -> Result<()> {
    connection.object_server().remove::<Served, _>(path).await?;
    Ok(())
}

struct Served {
    session: Session,
    user: OwnedObjectPath,
}

#[zbus::interface(name = "org.freedesktop.login1.Session")]
impl Served {
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> String {
        self.session.id.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn user(&self) -> (u32, OwnedObjectPath) {
        (self.session.uid, self.user.clone())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.session.user.clone()
    }

    #[zbus(property(emits_changed_signal = "const"), name = "TTY")]
    fn tty(&self) -> String {
        self.session.tty.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn remote(&self) -> bool {
        self.session.remote
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn class(&self) -> String {
        self.session.class.clone()
    }

    #[zbus(property)]
    fn r#type(&self) -> String {
        self.session.kind.clone()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn state(&self) -> String {
        self.session.state.clone()
    }

    #[zbus(property)]
    fn idle_hint(&self) -> bool {
        self.session.idle_since.is_some()
    }

    #[zbus(property)]
    fn idle_since_hint_monotonic(&self) -> u64 {
        let since = self.session.idle_since.unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    #[zbus(property)]
    fn active(&self) -> bool {
        self.session.state == "active"
    }
}
