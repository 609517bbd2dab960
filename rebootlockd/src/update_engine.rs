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
            Ok(Ok(reply)) => wish(&reply).map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        };
        match answer {
            Ok(want) => {
                self.take(want);
                true
            }
            Err(error) => {
                self.say(format!("update-engine does not tell its status: {error}"));
                false
            }
        }
    }

    /// Takes a signal from update-engine, or from an administrator who tries a set-up.
    async fn hear(&mut self, bus: &zbus::fdo::DBusProxy<'_>, signal: &Message) {
        let header = signal.header();
        let Some(sender) = header.sender() else { return };
        let ours = rustix::process::geteuid().as_raw();
        let heard = match bus.get_connection_unix_user(BusName::Unique(sender.clone())).await {
            Ok(user) => heard(signal, user, ours),
            Err(error) => {
                tracing::warn!(%error, "ignored: a StatusUpdate signal whose sender has left");
                return;
            }
        };
        match heard {
            Ok(want) => self.take(want),
            Err(Ignored::OrdinaryUser(user)) => {
                tracing::warn!(user, "ignored: a StatusUpdate signal from an ordinary user");
            }
            Err(Ignored::NoStatus(error)) => {
                self.say(format!("ignored: a StatusUpdate signal that is none: {error}"));
            }
        }
    }

    fn take(&self, want: Want) {
        self.want.send_if_modified(|now| {
            let changed = *now != want;
            *now = want;
            changed
        });
    }
}

/// Why a signal counts for nothing.
#[derive(Debug)]
enum Ignored {
    /// Anybody on the bus can emit one, and an ordinary user must not be able to reboot the machine.
    OrdinaryUser(u32),
    /// Its body is something else.
    NoStatus(zbus::Error),
}

/// What a signal says that `user` sent; `ours` is who this agent runs as.
fn heard(signal: &Message, user: u32, ours: u32) -> Result<Want, Ignored> {
    if user != 0 && user != ours {
        return Err(Ignored::OrdinaryUser(user));
    }
    wish(signal).map_err(Ignored::NoStatus)
}

/// What update-engine wants, by the status in the body of a signal or a reply.
fn wish(message: &Message) -> zbus::Result<Want> {
    let (_, _, operation, version, _) = message.body().deserialize::<Status>()?;
    if operation != NEED_REBOOT {
        return Ok(Want::Nothing);
    }
    let version = if version.is_empty() { String::new() } else { format!(" to {version}") };
    let reason = format!("update-engine installed an update{version}");
    Ok(Want::Reboot { reason, priority: 0, requested: false })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bus::foreign::{Foreign, anything, body, text};

    fn signal(values: &[Foreign]) -> Message {
        body(Message::signal(PATH, INTERFACE, "StatusUpdate"), values)
    }

    fn operation() -> impl Strategy<Value = String> {
        prop_oneof![Just(NEED_REBOOT.to_owned()), Just(format!("{NEED_REBOOT} ")), text()]
    }

    fn status() -> impl Strategy<Value = Vec<Foreign>> {
        (any::<i64>(), any::<f64>(), operation(), text(), any::<i64>()).prop_map(
            |(checked, progress, operation, version, size)| {
                vec![
                    Foreign::Number(checked),
                    Foreign::Real(progress),
                    Foreign::Text(operation),
                    Foreign::Text(version),
                    Foreign::Number(size),
                ]
            },
        )
    }

    /// A status with one value of another type, one too many, or one too few.
    fn nearly_a_status() -> impl Strategy<Value = Vec<Foreign>> {
        (status(), 0..6_usize, anything(), 0..3).prop_map(|(mut values, at, other, how)| {
            match how {
                0 => values.insert(at.min(values.len()), other),
                1 => drop(values.remove(at.min(4))),
                _ => values[at.min(4)] = other,
            }
            values
        })
    }

    fn wants_reboot(values: &[Foreign]) -> bool {
        matches!(values, [_, _, Foreign::Text(operation), ..] if operation == NEED_REBOOT)
    }

    fn is_status(values: &[Foreign]) -> bool {
        use Foreign::{Number, Real, Text};
        matches!(values, [Number(_), Real(_), Text(_), Text(_), Number(_)])
    }

    proptest! {
        #[test]
        fn only_the_one_operation_wants_a_reboot(values in status()) {
            let want = wish(&signal(&values)).unwrap();
            prop_assert_eq!(matches!(want, Want::Reboot { .. }), wants_reboot(&values));
            prop_assert!(want != Want::Unknown);
        }

        #[test]
        fn what_is_no_status_wants_nothing_and_panics_nowhere(
            values in prop_oneof![nearly_a_status(), prop::collection::vec(anything(), 0..7)]
        ) {
            let heard = heard(&signal(&values), 0, 0);
            prop_assert_eq!(heard.is_ok(), is_status(&values), "{:?}", heard);
        }

        #[test]
        fn ordinary_users_are_not_listened_to_whatever_they_say(
            values in prop_oneof![status(), prop::collection::vec(anything(), 0..7)],
            user in 1..u32::MAX, ours in prop_oneof![Just(0), any::<u32>()],
        ) {
            let ignored = heard(&signal(&values), user, ours);
            let ordinary = matches!(ignored, Err(Ignored::OrdinaryUser(who)) if who == user);
            prop_assert_eq!(ordinary, user != ours);
        }
    }
}
