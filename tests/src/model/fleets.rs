//! The fleets that are checked, and how.

use stateright::{Checker, HasDiscoveries, Model as _};

use super::production::Fleet;
use super::{Bounds, Protocol, Without};

/// One slot in the first group and two in the second, two machines in both and one in the second.
/// And a chain: one slot in each group, one machine in each alone and one in both, which one of
/// those overtakes that came after it.
pub const FLEETS: [Fleet; 2] = [
    Fleet { max: [1, 2], groups: [0b11, 0b11, 0b10], priority: [0, 0, 0] },
    Fleet { max: [1, 1], groups: [0b01, 0b11, 0b10], priority: [0, 0, 1] },
];

/// The protocol as it is.
pub fn protocol(fleet: Fleet, bounds: Bounds) -> Protocol {
    Protocol::new(fleet, bounds, Without::default())
}

/// Checks every property in every state, and returns how many states there are.
///
/// # Errors
/// The properties that do not hold, each with the steps that lead to where it does not.
pub fn check(fleet: Fleet, bounds: Bounds) -> Result<usize, String> {
    let checker = protocol(fleet, bounds).checker().threads(2).spawn_bfs().join();
    let mut wrong = String::new();
    for (name, path) in checker.discoveries() {
        if checker.model().property(name).expectation.discovery_is_failure() {
            wrong.push_str(&format!("{name:?} does not hold after {:#?}\n", path.into_actions()));
        }
    }
    for property in checker.model().properties() {
        if !property.expectation.discovery_is_failure()
            && checker.discovery(property.name).is_none()
        {
            wrong.push_str(&format!("{:?} never happens\n", property.name));
        }
    }
    if wrong.is_empty() { Ok(checker.unique_state_count()) } else { Err(wrong) }
}

/// The first property that does not hold without some of the preconditions, if any.
pub fn broken(fleet: Fleet, bounds: Bounds, without: Without) -> Option<(&'static str, usize)> {
    let protocol = Protocol::new(fleet, bounds, without);
    let checker = protocol.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let failures = checker
        .discoveries()
        .into_iter()
        .filter(|(name, _)| checker.model().property(name).expectation.discovery_is_failure());
    failures.map(|(name, path)| (name, path.into_actions().len())).min_by_key(|(_, steps)| *steps)
}
