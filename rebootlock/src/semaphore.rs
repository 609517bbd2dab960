//! The reboot semaphore: which machines may be down, and how many at once.
//!
//! Pure rules over one document; its JSON form is in [`json`], loading and committing it is the
//! job of [`crate::lock`].
//!
//! Invariant: a machine holds at most one slot. There may be more holders than slots after an
//! operator lowered the limit; nobody new gets in until enough of them have left.

pub mod json;

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::id::MachineId;

/// A group's slots and who has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Semaphore {
    max: u32,
    holders: BTreeSet<MachineId>,
    /// Members of the document that other programs put there.
    unknown: Map<String, Value>,
}

/// No slot is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {max} slots are taken")]
pub struct Full {
    /// The limit.
    pub max: u32,
}

/// The machine has no slot to give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the machine holds no slot")]
pub struct NotHolding;

impl Default for Semaphore {
    /// What a group begins with: one slot, free.
    fn default() -> Self {
        Self::new(1)
    }
}

impl Semaphore {
    /// A semaphore of `max` free slots. With 0, nobody reboots.
    pub fn new(max: u32) -> Self {
        Self { max, holders: BTreeSet::new(), unknown: Map::new() }
    }

    /// How many machines may be down at once.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// Machines that have a slot, sorted by byte.
    pub fn holders(&self) -> &BTreeSet<MachineId> {
        &self.holders
    }

    /// Whether `machine` has a slot.
    pub fn holds(&self, machine: &MachineId) -> bool {
        self.holders.contains(machine)
    }

    /// Slots nobody has; negative while there are more holders than the limit allows.
    pub fn available(&self) -> i64 {
        i64::from(self.max) - self.holders.len() as i64
    }

    /// Takes a slot for `machine`, or keeps the one it has: a retry after a lost reply is safe.
    ///
    /// # Errors
    /// [`Full`] if the machine has no slot and none is free.
    pub fn acquire(&mut self, machine: MachineId) -> Result<(), Full> {
        if !self.holds(&machine) && self.available() <= 0 {
            return Err(Full { max: self.max });
        }
        self.holders.insert(machine);
        Ok(())
    }

    /// Gives the slot of `machine` back.
    ///
    /// # Errors
    /// [`NotHolding`] if it has none.
    pub fn release(&mut self, machine: &MachineId) -> Result<(), NotHolding> {
        if self.holders.remove(machine) { Ok(()) } else { Err(NotHolding) }
    }

    /// Changes the limit and returns the old one. Nobody is thrown out.
    pub fn set_max(&mut self, max: u32) -> u32 {
        std::mem::replace(&mut self.max, max)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn machine(n: u32) -> MachineId {
        MachineId::new(format!("m{n}")).unwrap()
    }

    #[test]
    fn acquiring_again_changes_nothing() {
        let mut semaphore = Semaphore::default();
        semaphore.acquire(machine(1)).unwrap();
        let before = semaphore.clone();
        semaphore.acquire(machine(1)).unwrap();
        assert_eq!(semaphore, before);
        assert_eq!(semaphore.acquire(machine(2)), Err(Full { max: 1 }));
    }

    #[test]
    fn lowering_the_limit_throws_nobody_out_and_lets_nobody_in() {
        let mut semaphore = Semaphore::new(2);
        semaphore.acquire(machine(1)).unwrap();
        semaphore.acquire(machine(2)).unwrap();
        assert_eq!(semaphore.set_max(0), 2);
        assert_eq!(semaphore.available(), -2);
        semaphore.release(&machine(1)).unwrap();
        assert_eq!(semaphore.acquire(machine(3)), Err(Full { max: 0 }));
        assert_eq!(semaphore.release(&machine(1)), Err(NotHolding));
    }

    #[test]
    fn ten_thousand_holders_are_kept_and_written_sorted() {
        let mut semaphore = Semaphore::new(10_000);
        for n in 0..10_000 {
            semaphore.acquire(machine(n)).unwrap();
        }
        assert_eq!(semaphore.acquire(machine(10_000)), Err(Full { max: 10_000 }));
        let again = Semaphore::from_json(&semaphore.to_json()).unwrap();
        assert_eq!(again, semaphore);
        assert_eq!(again.available(), 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Acquire(u32),
        Release(u32),
        SetMax(u32),
        /// Someone edits the document by hand, consistently.
        Edit {
            max: u32,
            holders: BTreeSet<u32>,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..8_u32).prop_map(Step::Acquire),
            (0..8_u32).prop_map(Step::Release),
            (0..6_u32).prop_map(Step::SetMax),
            (0..6_u32, prop::collection::btree_set(0..8_u32, 0..8))
                .prop_map(|(max, holders)| Step::Edit { max, holders }),
        ];
        prop::collection::vec(step, 0..40)
    }

    proptest! {
        #[test]
        fn every_sequence_keeps_the_promises(steps in steps()) {
            let mut semaphore = Semaphore::default();
            for step in steps {
                let before = semaphore.clone();
                match step {
                    Step::Acquire(n) => {
                        let won = semaphore.acquire(machine(n)).is_ok();
                        prop_assert_eq!(won, before.holds(&machine(n)) || before.available() > 0);
                        // Whoever is new got in under the limit.
                        if semaphore != before {
                            prop_assert!(semaphore.available() >= 0);
                        }
                    }
                    Step::Release(n) => {
                        let freed = semaphore.release(&machine(n)).is_ok();
                        prop_assert_eq!(freed, before.holds(&machine(n)));
                        prop_assert!(!semaphore.holds(&machine(n)));
                    }
                    Step::SetMax(max) => {
                        prop_assert_eq!(semaphore.set_max(max), before.max());
                        prop_assert_eq!(semaphore.holders(), before.holders());
                    }
                    Step::Edit { max, holders } => {
                        let names: Vec<_> = holders.iter().map(|n| format!("m{n}")).collect();
                        let edited = serde_json::json!({
                            "semaphore": i64::from(max) - names.len() as i64,
                            "max": max,
                            "holders": names,
                            "comment": {"by": "hand"},
                        });
                        semaphore = Semaphore::from_json(edited.to_string().as_bytes()).unwrap();
                    }
                }
                // What is written is what CoreOS promised, and reads back as the same.
                let written: Value = serde_json::from_slice(&semaphore.to_json()).unwrap();
                let listed = written["holders"].as_array().unwrap();
                prop_assert_eq!(
                    written["semaphore"].as_i64().unwrap() + listed.len() as i64,
                    written["max"].as_i64().unwrap()
                );
                prop_assert_eq!(Semaphore::from_json(&semaphore.to_json()).unwrap(), semaphore.clone());
            }
        }
    }
}
