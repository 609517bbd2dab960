//! The protocol in every order of events: see `rebootlock_tests::model`.
//!
//! Checked in full, over two fleets of three machines in two groups, each with one fault (an answer
//! lost, an agent or a machine fallen over, a lease ended, a reboot that came to nothing) and one
//! intervention (a pause, an unlock, a lock, a wish cancelled, a window closed), wherever in
//! between: in the first two machines need both slots and one group has two, in the second they are
//! a chain, and its last overtakes. `make model` goes deeper.
//!
//! Nobody waits far behind: for that a queue has to be longer than three. The simulation has that.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use rebootlock_tests::model::fair::every_state_reaches_the_end;
use rebootlock_tests::model::fleets::{FLEETS, broken, check, protocol};
use rebootlock_tests::model::production::Fleet;
use rebootlock_tests::model::{Bounds, Protocol, Without};

/// What the suite has time for.
const BOUNDS: Bounds = Bounds { faults: 1, interventions: 1 };

/// Where a part left out has to show, at the price of searching wider than the suite can in full.
const BROKEN_BOUNDS: Bounds = Bounds { faults: 2, interventions: 1 };

/// Two acquisitions for one machine are an operator's unlock and then his lock.
const TWO_ACQUISITIONS: Bounds = Bounds { faults: 0, interventions: 2 };

#[test]
fn the_limit_holds_in_every_state_where_two_want_two() {
    let states = check(FLEETS[0], BOUNDS).unwrap();
    assert!(states > 100_000, "only {states} states: the model has lost its steps");
}

#[test]
fn the_limit_holds_in_every_state_of_a_chain() {
    let states = check(FLEETS[1], BOUNDS).unwrap();
    assert!(states > 100_000, "only {states} states: the model has lost its steps");
}

fn every_slot_comes_free_and_every_waiter_gets_its_turn(fleet: Fleet) {
    let reached = every_state_reaches_the_end(&protocol(fleet, BOUNDS));
    assert!(reached.ends > 0);
    assert!(reached.stuck.is_none(), "{:#?}", reached.stuck);
}

#[test]
fn every_slot_comes_free_where_two_want_two() {
    every_slot_comes_free_and_every_waiter_gets_its_turn(FLEETS[0]);
}

#[test]
fn every_slot_comes_free_in_a_chain() {
    every_slot_comes_free_and_every_waiter_gets_its_turn(FLEETS[1]);
}

fn shows(bounds: Bounds, without: Without) -> &'static str {
    let (property, steps) = broken(FLEETS[0], bounds, without)
        .unwrap_or_else(|| panic!("{without:?} breaks nothing: is it needed?"));
    println!("{without:?}: {property:?} is broken after {steps} steps");
    property
}

#[test]
fn without_the_semaphore_unchanged_slots_are_lost() {
    shows(BROKEN_BOUNDS, Without { semaphore: true, ..Without::default() });
}

#[test]
fn without_the_record_unchanged_old_permits_come_back() {
    shows(BROKEN_BOUNDS, Without { record: true, ..Without::default() });
}

#[test]
fn without_the_absence_of_pauses_a_pause_is_overtaken() {
    let property = shows(BROKEN_BOUNDS, Without { pause: true, ..Without::default() });
    assert_eq!(property, "nothing is given in spite of a pause");
}

#[test]
fn without_its_own_place_a_lost_place_takes_a_slot() {
    let property = shows(BROKEN_BOUNDS, Without { place: true, ..Without::default() });
    assert_eq!(property, "a lost place takes no slot");
}

#[test]
fn without_the_token_a_permit_is_anothers() {
    let property = shows(TWO_ACQUISITIONS, Without { token: true, ..Without::default() });
    assert_eq!(property, "a permit is its own acquisition's");
}

#[test]
fn an_agent_that_does_not_look_again_leaves_a_late_slot_to_nobody() {
    let without = Without { looking: true, ..Without::default() };
    let protocol = Protocol::new(FLEETS[0], BOUNDS, without);
    let (steps, world) = every_state_reaches_the_end(&protocol).stuck.unwrap();
    println!("after {steps:?}");
    assert_ne!(world.holders, [0, 0]);
}
