//! A holder's way from its slot to the reboot and back, written down as it goes.

use super::{Decision, LockError, LockManager, Result};
use crate::id::{Group, MachineId, Token};
use crate::record::{Claim, Document, HolderRecord, HolderState, UnixTime};
use crate::store::{Snapshot, Txn};

/// The next step of a holder.
#[derive(Debug, Clone, PartialEq)]
pub struct Advance {
    /// Where it goes.
    pub state: HolderState,
    /// When it should be back, if it says so now.
    pub expected_back: Option<UnixTime>,
    /// A pause or a hold in force forbids it. Only steps towards the reboot are forbidden.
    pub unless_paused: bool,
}

impl Advance {
    /// The permit: the last step before the reboot. Whoever has it may be down at any moment.
    pub fn permit(expected_back: UnixTime) -> Self {
        Self {
            state: HolderState::Rebooting,
            expected_back: Some(expected_back),
            unless_paused: true,
        }
    }

    /// Any other step.
    pub fn to(state: HolderState) -> Self {
        Self { state, expected_back: None, unless_paused: false }
    }
}

impl LockManager {
    /// Writes down that the holder of `token` takes a step, if the slots are still its own: in the
    /// semaphore and by its token. Taking the same step again is fine.
    ///
    /// # Errors
    /// [`LockError::NotOurs`], [`LockError::Paused`], [`LockError::Held`], [`LockError::Damaged`],
    /// or what the store says; then the step may have been written all the same.
    pub async fn advance(
        &self,
        groups: &[Group],
        machine: &MachineId,
        token: Token,
        step: &Advance,
    ) -> Result<()> {
        let action = format!("marking {machine} as {} below {}", step.state, self.keys);
        // Its record is not as the acquisition left it any more.
        self.recent.take(machine);
        let keys = self.keys_of(groups, machine);
        self.settle(&action, &keys, |before| {
            self.decide_advance(groups, machine, token, step, before)
        })
        .await
    }

    fn decide_advance(
        &self,
        groups: &[Group],
        machine: &MachineId,
        token: Token,
        step: &Advance,
        before: &Snapshot,
    ) -> Result<Decision<()>> {
        let mut txn = Txn::new();
        let mut unwritten = false;
        for group in groups {
            let record = self.held_by(before, group, machine, token)?;
            let (place, holder) = (self.keys.semaphore(group), self.keys.holder(group, machine));
            txn = txn.when(before.unchanged(&place)).when(before.unchanged(&holder));
            if record.state.as_ref() != Some(&step.state) {
                unwritten = true;
                let now = Some(self.now());
                let record = HolderRecord {
                    down_since: match step.state {
                        HolderState::Rebooting => now,
                        _ => record.down_since(),
                    },
                    expected_back: step.expected_back.or(record.expected_back),
                    state: Some(step.state.clone()),
                    state_since: now,
                    ..record
                };
                txn = txn.put(holder, record.to_json());
            }
        }
        if step.unless_paused {
            if let Some(stop) = self.stop_in_force(before, groups, machine) {
                return Err(stop);
            }
            txn = self.when_not_stopped(txn, groups, machine);
        }
        Ok(if unwritten { Decision::Commit(txn, ()) } else { Decision::Done(()) })
    }

    /// Makes the slots that `found` describes this claim's: after a reboot or a restart the agent
    /// goes on under a token of its own, so that an older process cannot act on the old one.
    /// `found` is `None` where a program that writes no records took the slot.
    ///
    /// # Errors
    /// [`LockError::NotOurs`] if the slots or the record are no longer as `found`, or as for
    /// [`LockManager::advance`].
    pub async fn adopt(
        &self,
        claim: &Claim,
        found: Option<&HolderRecord>,
        state: HolderState,
    ) -> Result<()> {
        let machine = &claim.machine;
        let action = format!("taking over the slot of {machine} below {}", self.keys);
        let keys = self.keys_of(claim.groups(), machine);
        self.settle(&action, &keys, |before| {
            let mut txn = Txn::new();
            for group in claim.groups() {
                let not_ours = |what| LockError::NotOurs {
                    machine: machine.clone(),
                    group: group.clone(),
                    what,
                };
                if !self.semaphore(before, group)?.holds(machine) {
                    return Err(not_ours("the semaphore does not list it"));
                }
                let record = self.record(before, group, machine)?;
                if record.as_ref().is_some_and(|record| record.is_of(claim.token)) {
                    return Ok(Decision::Done(()));
                }
                if record.as_ref().and_then(|record| record.token)
                    != found.and_then(|found| found.token)
                {
                    return Err(not_ours("its record is another's"));
                }
                let now = self.now();
                let fresh = claim.record(now);
                let record = match record {
                    None => HolderRecord { state: Some(state.clone()), ..fresh },
                    Some(old) => HolderRecord {
                        token: fresh.token,
                        down_since: old.down_since(),
                        groups: fresh.groups,
                        boot_id: old.boot_id.or(fresh.boot_id),
                        hostname: fresh.hostname.or(old.hostname),
                        state: Some(state.clone()),
                        state_since: if old.state.as_ref() == Some(&state) {
                            old.state_since
                        } else {
                            Some(now)
                        },
                        ..old
                    },
                };
                let (place, holder) =
                    (self.keys.semaphore(group), self.keys.holder(group, machine));
                txn = txn
                    .when(before.unchanged(&place))
                    .when(before.unchanged(&holder))
                    .put(holder, record.to_json());
            }
            Ok(Decision::Commit(txn, ()))
        })
        .await
    }

    /// The record of `machine`, if it holds its slot in `group` by `token`.
    pub(super) fn held_by(
        &self,
        before: &Snapshot,
        group: &Group,
        machine: &MachineId,
        token: Token,
    ) -> Result<HolderRecord> {
        let not_ours =
            |what| LockError::NotOurs { machine: machine.clone(), group: group.clone(), what };
        if !self.semaphore(before, group)?.holds(machine) {
            return Err(not_ours("the semaphore does not list it"));
        }
        match self.record(before, group, machine)? {
            Some(record) if record.is_of(token) => Ok(record),
            Some(_) => Err(not_ours("its record is another's")),
            None => Err(not_ours("its record is gone")),
        }
    }
}
