//! update-engine on the system bus: an update is installed and wants a reboot.
//!
//! It may start after us, restart, or be absent; the bus may go and come. What it said last stands
//! until it says something else. See `proto-docs/dbus.md`.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::timeout;
use zbus::message::Type;
use zbus::names::{BusName, WellKnownName};
use zbus::{Connection, MatchRule, Message, MessageStream};

use crate::bus;
use crate::want::Want;

const SERVICE: &str = "com.coreos.update1";
const PATH: &str = "/com/coreos/update1";
const INTERFACE: &str = "com.coreos.update1.Manager";
const NEED_REBOOT: &str = "UPDATE_STATUS_UPDATED_NEED_REBOOT";

/// Between two tries to reach the bus, or to get an answer out of update-engine.
const RETRY: Duration = Duration::from_secs(2);

/// last_checked_time, progress, current_operation, new_version, new_size
type Status = (i64, f64, String, String, i64);

/// Follows update-engine for as long as anybody wants to know.
pub async fn follow(want: watch::Sender<Want>) {
    let mut follower = Follower { want, said: None };
    loop {
        let ended = match bus::connect().await {
            Ok(connection) => follower.listen(&connection).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => follower.say("the system bus closed the connection".into()),
            Err(error) => follower.say(format!("the system bus does not answer: {error}")),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = follower.want.closed() => return,
        }
    }
}

struct Follower {
    want: watch::Sender<Want>,
    /// What was logged last: each thing is said once.
    said: Option<String>,
}

impl Follower {
    fn say(&mut self, what: String) {
        if self.said.as_ref() != Some(&what) {
            tracing::warn!(source = "update-engine", "{what}; requests still work");
            self.said = Some(what);
        }
    }

    /// Until the bus goes.
    async fn listen(&mut self, connection: &Connection) -> zbus::Result<()> {
        // Both before the first question, so that nothing falls between.
        let signals = MatchRule::builder()
            .msg_type(Type::Signal)
            .interface(INTERFACE)
            .member("StatusUpdate")
            .build()?;
        let mut signals = MessageStream::for_match_rule(signals, connection, None).await?;
        let bus = zbus::fdo::DBusProxy::new(connection).await?;
        let mut owners = bus.receive_name_owner_changed_with_args(&[(0, SERVICE)]).await?;
        let name = BusName::WellKnown(WellKnownName::from_static_str(SERVICE)?);
        let mut present = bus.name_has_owner(name).await?;
        if !present {
            if self.said.is_none() {
                self.say("update-engine is not on the bus".into());
            }
            self.want.send_if_modified(|want| {
                let unknown = *want == Want::Unknown;
                if unknown {
                    *want = Want::Nothing;
                }
                unknown
            });
        }
        let mut ask = present;
        loop {
            if ask {
                ask = !self.ask(connection).await;
            }
            tokio::select! {
                signal = signals.next() => match signal {
                    Some(signal) => self.hear(&bus, &signal?).await,
                    None => return Ok(()),
                },
                owner = owners.next() => {
                    let Some(owner) = owner else { return Ok(()) };
                    present = owner.args()?.new_owner().is_some();
                    ask = present;
                    if present {
                        tracing::info!(source = "update-engine", "update-engine is on the bus");
                        self.said = None;
                    } else {
                        self.say("update-engine has left the bus".into());
                    }
                }
                () = tokio::time::sleep(RETRY), if ask && present => {}
                () = self.want.closed() => return Ok(()),
            }
        }
    }

    /// Asks for the status; whether there was an answer.
    async fn ask(&mut self, connection: &Connection) -> bool {
        let call = connection.call_method(Some(SERVICE), PATH, Some(INTERFACE), "GetStatus", &());
        let answer = match timeout(bus::CALL_TIMEOUT, call).await {
            Ok(Ok(reply)) => reply.body().deserialize::<Status>().map_err(|e| e.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        };
        match answer {
            Ok(status) => {
                self.take(status);
                true
            }
            Err(error) => {
                self.say(format!("update-engine does not tell its status: {error}"));
                false
            }
        }
    }

    /// Takes a signal from update-engine, or from an administrator who tries a set-up. Anybody on
    /// the bus can emit one, and an ordinary user must not be able to reboot the machine.
    async fn hear(&mut self, bus: &zbus::fdo::DBusProxy<'_>, signal: &Message) {
        let header = signal.header();
        let Some(sender) = header.sender() else { return };
        let ours = rustix::process::geteuid().as_raw();
        match bus.get_connection_unix_user(BusName::Unique(sender.clone())).await {
            Ok(user) if user == 0 || user == ours => {}
            Ok(user) => {
                tracing::warn!(user, "ignored: a StatusUpdate signal from an ordinary user");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "ignored: a StatusUpdate signal whose sender has left");
                return;
            }
        }
        match signal.body().deserialize::<Status>() {
            Ok(status) => self.take(status),
            Err(error) => self.say(format!("ignored: a StatusUpdate signal that is none: {error}")),
        }
    }

    fn take(&self, (_, _, operation, version, _): Status) {
        let want = if operation == NEED_REBOOT {
            let version = if version.is_empty() { String::new() } else { format!(" to {version}") };
            Want::Reboot {
                reason: format!("update-engine installed an update{version}"),
                priority: 0,
            }
        } else {
            Want::Nothing
        };
        self.want.send_if_modified(|now| {
            let changed = *now != want;
            *now = want;
            changed
        });
    }
}
