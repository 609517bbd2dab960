//! The D-Bus face of the stand-in: `org.freedesktop.login1.Manager`.

use std::io;
use std::os::fd::OwnedFd as StdFd;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath, OwnedFd, OwnedObjectPath, fdo};

use super::inhibitor::{Inhibitor, InhibitorId};
use super::reboot::{Outcome, RebootCall, Refusal};
use super::{PATH, Shared};

type SessionRow = (String, u32, String, String, OwnedObjectPath);
type InhibitorRow = (String, String, String, String, u32, u32);

pub(super) struct Manager {
    pub(super) shared: Arc<Shared>,
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    async fn reboot(
        &self,
        interactive: bool,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<(), Refusal> {
        self.go_down(call(&header, 0, interactive), &emitter).await
    }

    async fn reboot_with_flags(
        &self,
        flags: u64,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<(), Refusal> {
        self.go_down(call(&header, flags, false), &emitter).await
    }

    #[zbus(out_args("result"))]
    fn can_reboot(&self) -> String {
        "yes".to_owned()
    }

    #[zbus(out_args("inhibitors"))]
    fn list_inhibitors(&self) -> Vec<InhibitorRow> {
        self.shared.state().inhibitors.iter().map(Inhibitor::row).collect()
    }

    #[zbus(out_args("pipe_fd"))]
    async fn inhibit(
        &self,
        what: &str,
        who: &str,
        why: &str,
        mode: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<OwnedFd> {
        let caller = async |question| -> zbus::Result<u32> {
            let bus = "org.freedesktop.DBus";
            let sender = header.sender().map(|name| name.to_string()).unwrap_or_default();
            let reply =
                connection.call_method(Some(bus), "/", Some(bus), question, &sender).await?;
            reply.body().deserialize()
        };
        let uid = caller("GetConnectionUnixUser").await?;
        let pid = caller("GetConnectionUnixProcessID").await?;
        let inhibitor = Inhibitor::new(what, who, why, mode, uid, pid)
            .map_err(|err| fdo::Error::InvalidArgs(err.to_string()))?;
        let (ours, theirs) = lifeline().map_err(|err| fdo::Error::IOError(err.to_string()))?;
        let id = self.shared.add_inhibitor(inhibitor);
        announce_inhibitors(connection).await?;
        tokio::spawn(remove_when_closed(self.shared.clone(), id, ours, connection.clone()));
        Ok(StdFd::from(theirs).into())
    }

    #[zbus(out_args("sessions"))]
    fn list_sessions(&self) -> fdo::Result<Vec<SessionRow>> {
        let state = self.shared.state();
        let rows = state.sessions.iter().map(super::Session::row).collect::<Result<_, _>>();
        rows.map_err(|err| fdo::Error::Failed(err.to_string()))
    }

    fn schedule_shutdown(&self, what: &str, at_usec: u64) -> Result<(), Refusal> {
        self.shared.schedule(what, at_usec)
    }

    #[zbus(out_args("cancelled"))]
    fn cancel_scheduled_shutdown(&self) -> bool {
        self.shared.cancel()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn scheduled_shutdown(&self) -> (String, u64) {
        self.shared.scheduled()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn enable_wall_messages(&self) -> bool {
        self.shared.state().wall.1
    }

    fn set_wall_message(&self, wall_message: String, enable: bool) {
        self.shared.state().wall = (wall_message, enable);
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn preparing_for_shutdown(&self) -> bool {
        self.shared.state().preparing
    }

    #[zbus(property)]
    fn block_inhibited(&self) -> String {
        self.shared.inhibited(&["block", "block-weak"])
    }

    #[zbus(property)]
    fn delay_inhibited(&self) -> String {
        self.shared.inhibited(&["delay"])
    }

    #[zbus(signal)]
    pub(super) async fn prepare_for_shutdown(
        emitter: &SignalEmitter<'_>,
        start: bool,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn session_new(
        emitter: &SignalEmitter<'_>,
        session_id: &str,
        object_path: ObjectPath<'_>,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn session_removed(
        emitter: &SignalEmitter<'_>,
        session_id: &str,
        object_path: ObjectPath<'_>,
    ) -> zbus::Result<()>;
}

impl Manager {
    async fn go_down(&self, call: RebootCall, emitter: &SignalEmitter<'_>) -> Result<(), Refusal> {
        match self.shared.decide(call) {
            Outcome::Reboots => {
                announce_shutdown(emitter).await;
                Ok(())
            }
            Outcome::RebootsThenFails(refusal) => {
                announce_shutdown(emitter).await;
                Err(refusal)
            }
            Outcome::RebootsThenHangs => {
                announce_shutdown(emitter).await;
                std::future::pending().await
            }
            Outcome::Hangs => std::future::pending().await,
            Outcome::Refused(refusal) => Err(refusal),
        }
    }
}

/// Tells everybody, before the caller has its answer, as logind does.
async fn announce_shutdown(emitter: &SignalEmitter<'_>) {
    // The reboot goes on whether or not anybody can be told.
    let _ = Manager::prepare_for_shutdown(emitter, true).await;
}

/// Tells everybody that the two properties about inhibitors may have changed.
pub(super) async fn announce_inhibitors(connection: &Connection) -> zbus::Result<()> {
    let manager = connection.object_server().interface::<_, Manager>(PATH).await?;
    let emitter = manager.signal_emitter();
    let manager = manager.get().await;
    manager.block_inhibited_changed(emitter).await?;
    manager.delay_inhibited_changed(emitter).await
}

fn call(header: &Header<'_>, flags: u64, interactive: bool) -> RebootCall {
    RebootCall {
        at: SystemTime::now(),
        sender: header.sender().map(|name| name.to_string()).unwrap_or_default(),
        method: header.member().map(|name| name.to_string()).unwrap_or_default(),
        flags,
        interactive,
        wall_message: None,
    }
}

/// A pipe whose far end is given away; when every copy of that is closed, ours reads its end.
fn lifeline() -> io::Result<(pipe::Receiver, io::PipeWriter)> {
    let (ours, theirs) = io::pipe()?;
    Ok((pipe::Receiver::from_owned_fd(ours.into())?, theirs))
}

async fn remove_when_closed(
    shared: Arc<Shared>,
    id: InhibitorId,
    mut lifeline: pipe::Receiver,
    connection: Connection,
) {
    let mut ignored = [0; 64];
    while let Ok(1..) = lifeline.read(&mut ignored).await {}
    shared.remove_inhibitor(id);
    // Nobody is left to be told once the stand-in has stopped.
    let _ = announce_inhibitors(&connection).await;
}
