//! Parts of sentences that the command and the gateway both say.

use std::fmt;

use crate::id::{Group, MachineId};
use crate::lock::Forgotten;
use crate::record::{HolderRecord, Via};

/// `a`, or `a, b`.
pub fn names(groups: &[Group]) -> String {
    groups.iter().map(Group::as_str).collect::<Vec<_>>().join(", ")
}

/// `group a`, or `groups a, b`.
pub fn in_groups(groups: &[Group]) -> String {
    format!("group{} {}", if groups.len() == 1 { "" } else { "s" }, names(groups))
}

/// `, taken by its agent`, or nothing if nobody wrote down how a slot was taken.
pub fn taken_by(record: Option<&HolderRecord>) -> String {
    match record.and_then(|record| record.via.as_ref()) {
        None => String::new(),
        Some(Via::Agent) => ", taken by its agent".to_owned(),
        Some(via) => format!(", taken via {via}"),
    }
}

/// What is to be said of a machine that has a slot already, in the groups `held`, and wants one in
/// each of `wanted`: `None` if it has them all. A machine that somebody else gave a slot in some of
/// its groups has not got one in the others.
pub fn shortfall(machine: &MachineId, wanted: &[Group], held: &[Group]) -> Option<String> {
    let missing: Vec<_> = wanted.iter().filter(|group| !held.contains(group)).cloned().collect();
    if missing.is_empty() {
        return None;
    }
    if held.is_empty() {
        return Some(format!("{machine} has given the slot it had back just now; try again"));
    }
    let (held, missing) = (in_groups(held), in_groups(&missing));
    Some(format!(
        "{machine} holds a slot in {held} from elsewhere, but none in {missing}; unlock it first"
    ))
}

/// `the request to reboot, its hold`
impl fmt::Display for Forgotten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        words.extend(self.roster.then(|| "its place in the roster".to_owned()));
        words.extend(self.request.then(|| "the request to reboot".to_owned()));
        words.extend(self.hold.then(|| "its hold".to_owned()));
        words.extend(self.disruption.then(|| "its wish to be disrupted".to_owned()));
        if !self.places.is_empty() {
            words.push(format!("its place in the queue of {}", in_groups(&self.places)));
        }
        words.extend(self.presence.then(|| "what its agent said".to_owned()));
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn groups(names: &[&str]) -> Vec<Group> {
        names.iter().map(|name| Group::new(*name).unwrap()).collect()
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_not_is_no_news() {
        let machine = MachineId::new("web-1").unwrap();
        let both = groups(&["lb", "rack-7"]);
        assert_eq!(shortfall(&machine, &both, &both), None);
        assert_eq!(
            shortfall(&machine, &both, &both[..1]).unwrap(),
            "web-1 holds a slot in group lb from elsewhere, but none in group rack-7; unlock it first"
        );
    }

    #[test]
    fn what_was_forgotten_is_told_as_a_list() {
        let gone = Forgotten { request: true, places: groups(&["a", "b"]), ..Forgotten::default() };
        assert_eq!(
            gone.to_string(),
            "the request to reboot, its place in the queue of groups a, b"
        );
    }
}
