//! Who may change which keys.

use std::net::IpAddr;

use axum::http::HeaderMap;
use rebootlock::id::{Group, MachineId};
use rebootlock::keys::Keyspace;
use rebootlock::store::{Change, Key};

use crate::app::Live;
use crate::auth::{Caller, Role};
use crate::operators;
use crate::reply::{Kind, Reply};
use crate::serve::Peer;

/// Somebody who may change something.
#[derive(Debug)]
pub(super) struct Writer {
    /// What the file with credentials calls it.
    pub(super) name: String,
    /// Where from.
    pub(super) address: IpAddr,
    role: Role,
    caller: Caller,
}

/// Finds out who wants to change something.
pub(super) async fn writer(live: &Live, headers: &HeaderMap, peer: &Peer) -> Result<Writer, Reply> {
    if !live.auth.is_needed() {
        let text = "nobody may change anything through this gateway: its credentials_file has no \
                    client with role = \"operator\" or \"agent\"";
        return Err(Reply::new(Kind::Unauthorized, text));
    }
    let caller = operators::caller(live, headers, peer).await;
    let caller = caller.map_err(|refusal| Reply::new(refusal.kind, refusal.text))?;
    let address = peer.address.ip();
    match (caller.name.clone(), caller.role) {
        (Some(name), Some(role @ (Role::Operator | Role::Agent))) => {
            Ok(Writer { name, address, role, caller })
        }
        (name, role) => {
            let what = match role {
                Some(_) => {
                    "these credentials are for looking only; changes take role = \"operator\""
                }
                None => {
                    "these credentials are for FleetLock clients; the store takes role = \"operator\" \
                     or \"agent\""
                }
            };
            tracing::info!(
                target: "rebootlock_gateway::audit",
                event = "forbidden", client = name, %address, "{what}"
            );
            Err(Reply::new(Kind::Forbidden, what))
        }
    }
}

impl Writer {
    /// Whether nothing is kept from it but what gateways alone write.
    pub(super) fn may_all(&self) -> bool {
        self.role == Role::Operator && !self.caller.is_limited()
    }
}

/// What is after the prefix, if that is where `key` is.
pub(super) fn below<'a>(keys: &Keyspace, key: &'a str) -> Option<&'a str> {
    key.strip_prefix(&keys.to_string())?.strip_prefix('/')
}

/// Who is said to have done something.
#[derive(serde::Deserialize)]
struct Signed {
    by: Option<String>,
    ended: Option<String>,
}

/// What a key is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum About {
    /// All of a group.
    Group(Group),
    /// A machine in a group.
    Member(Group, String),
    /// A group's pause.
    Pause(Group),
    /// A machine.
    Machine(String),
    /// A wish that a machine reboot, or be disrupted.
    Request(String),
    /// That a machine must not.
    Hold(String),
    /// That a command lives.
    Alive,
    /// What gateways alone write: who is signed in, and what was done by whom.
    Gateways,
    /// The fleet, or what nobody knows.
    Fleet,
}

fn about(keys: &Keyspace, key: &str) -> About {
    let Some(path) = below(keys, key) else { return About::Fleet };
    let (group, path) = match path.strip_prefix("groups/").and_then(|rest| rest.split_once('/')) {
        None => (Group::default(), path),
        Some((segment, rest)) => {
            let semaphore = Key::new(format!("{keys}/groups/{segment}/semaphore"));
            match keys.group_of_semaphore(&semaphore) {
                Some(group) => (group, rest),
                None => return About::Fleet,
            }
        }
    };
    let of_a_group = !group.is_default();
    match path.split_once('/') {
        None if path == "semaphore" || path == "cooldown" || path == "overdue-releases" => {
            About::Group(group)
        }
        None if path == "paused" => About::Pause(group),
        Some(("history", _)) => About::Group(group),
        Some(("holders" | "queue" | "urgent", id)) => About::Member(group, id.to_owned()),
        _ if of_a_group => About::Fleet,
        Some(("machines" | "roster", id)) => About::Machine(id.to_owned()),
        Some(("requests" | "disruption" | "disruption-time", id)) => About::Request(id.to_owned()),
        Some(("holds", id)) => About::Hold(id.to_owned()),
        Some(("alive", _)) => About::Alive,
        Some(("sessions" | "acts", _)) => About::Gateways,
        _ => About::Fleet,
    }
}

impl Writer {
    /// Whether all of this may be changed by it.
    pub(super) fn may(&self, keys: &Keyspace, changes: &[Change]) -> Result<(), Reply> {
        for change in changes {
            let (key, about) = (change.key(), about(keys, change.key().as_str()));
            let deleted = matches!(change, Change::Delete { .. });
            if self.role == Role::Agent && !is_for_agents(&about, deleted) {
                let text =
                    format!("{key} is not for agents to change; that takes role = \"operator\"");
                return Err(Reply::new(Kind::Forbidden, text));
            }
            self.reaches(&about).and_then(|()| self.signs(keys, change, &about)).map_err(
                |why| Reply::new(Kind::Forbidden, format!("{key} cannot be changed: {why}")),
            )?;
        }
        Ok(())
    }

    /// Whether what a person writes says that it was they who did it, where it says who did.
    fn signs(&self, keys: &Keyspace, change: &Change, about: &About) -> Result<(), String> {
        let Change::Put { key, value, .. } = change else { return Ok(()) };
        let is_past = key.as_str().contains("/history/");
        let is_signed = is_past
            || matches!(about, About::Pause(_) | About::Hold(_) | About::Request(_))
            || *key == keys.fleet_paused();
        if self.role != Role::Operator || !is_signed {
            return Ok(());
        }
        let by = match serde_json::from_slice::<Signed>(value) {
            // What waits and gives back the slot of another is a machine, whoever's its credentials are.
            Ok(Signed { ended: Some(ended), .. }) if is_past && ended != "unlocked" => {
                return Ok(());
            }
            Ok(Signed { by, .. }) => by,
            // Nobody reads a name in it.
            Err(_) => return Ok(()),
        };
        match by {
            Some(by) if by != self.name => Err(format!(
                "it says that {by:?} did it, and these are the credentials of {:?}",
                self.name
            )),
            _ => Ok(()),
        }
    }

    fn reaches(&self, about: &About) -> Result<(), String> {
        let (group, machine) = match about {
            About::Group(group) => (Some(group), None),
            About::Pause(group) => (Some(group), Some(None)),
            About::Member(group, id) => (Some(group), Some(Some(id))),
            // A machine may be in any group. An agent is named with its own.
            About::Machine(id) | About::Request(id) | About::Hold(id) => {
                if self.role == Role::Operator {
                    self.caller.reaches_group(None)?;
                }
                (None, Some(Some(id)))
            }
            About::Alive => (None, None),
            About::Gateways => return Err("only gateways write it".to_owned()),
            About::Fleet => return self.caller.reaches(None, None),
        };
        if let Some(group) = group {
            self.caller.reaches_group(Some(group))?;
        }
        match machine {
            None => Ok(()),
            Some(None) => self.caller.reaches_machine(None),
            Some(Some(id)) => {
                let id = match MachineId::new(id.clone()) {
                    Ok(id) => id,
                    Err(error) if self.role == Role::Agent => return Err(error.to_string()),
                    // Others have written it, and an operator may take it away.
                    Err(_) => return self.caller.reaches_machine(None),
                };
                self.caller.reaches_machine(Some(&id))?;
                match self.role {
                    Role::Agent => self.caller.is_named(&id),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// What an agent does by itself. It takes wishes back that were fulfilled.
fn is_for_agents(about: &About, deleted: bool) -> bool {
    match about {
        About::Group(_) | About::Member(..) | About::Machine(_) | About::Alive => true,
        About::Request(_) => deleted,
        About::Pause(_) | About::Hold(_) | About::Gateways | About::Fleet => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rebootlock::id::Token;
    use rebootlock::record::UnixTime;

    use super::*;

    #[test]
    fn every_key_is_about_something() {
        let keys = Keyspace::default();
        let machine = MachineId::new("a").unwrap();
        for group in ["default", "rack/7"] {
            let group = Group::new(group).unwrap();
            let of = |key: Key| about(&keys, key.as_str());
            assert_eq!(of(keys.semaphore(&group)), About::Group(group.clone()));
            assert_eq!(of(keys.cooldown(&group)), About::Group(group.clone()));
            assert_eq!(of(keys.overdue_releases(&group)), About::Group(group.clone()));
            assert_eq!(of(keys.paused(&group)), About::Pause(group.clone()));
            let member = About::Member(group.clone(), "a".to_owned());
            assert_eq!(of(keys.holder(&group, &machine)), member);
            assert_eq!(of(keys.waiter(&group, &machine)), member);
            assert_eq!(of(keys.urgent(&group, &machine)), member);
            // For gateways, and operators who may do everything.
            assert_eq!(of(keys.said_limit(&group)), About::Fleet);
        }
        let of = |key: Key| about(&keys, key.as_str());
        assert_eq!(of(keys.machine(&machine)), About::Machine("a".to_owned()));
        assert_eq!(of(keys.roster_entry(&machine)), About::Machine("a".to_owned()));
        assert_eq!(of(keys.request(&machine)), About::Request("a".to_owned()));
        assert_eq!(of(keys.disruption(&machine)), About::Request("a".to_owned()));
        assert_eq!(of(keys.disruption_timer(&machine)), About::Request("a".to_owned()));
        assert_eq!(of(keys.hold(&machine)), About::Hold("a".to_owned()));
        assert_eq!(of(keys.fleet_paused()), About::Fleet);
        assert_eq!(of(keys.disruption_keeper()), About::Fleet);
        assert_eq!(of(keys.session(&[7; 32])), About::Gateways);
        assert_eq!(of(keys.act(UnixTime(1), Token::random())), About::Gateways);
        for odd in ["x", "groups/%zz/semaphore", "groups/a/holds/x", "groups", "semaphore/x", ""] {
            assert_eq!(of(Key::new(format!("{keys}/{odd}"))), About::Fleet, "{odd}");
        }
    }
}
