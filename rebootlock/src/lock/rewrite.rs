//! A holder's record, written anew by whoever looks after the holder.

use super::{Decision, LockManager, Result};
use crate::id::{Group, MachineId, Token};
use crate::record::{Document, HolderRecord};
use crate::store::Txn;

impl LockManager {
    /// Changes what the record of the holder of `token` says, and returns it as it is then. Where
    /// `change` changes nothing, nothing is written. It may be asked several times, each time about
    /// the record as it then is.
    ///
    /// # Errors
    /// [`super::LockError::NotOurs`] if nobody holds the slot by `token`, [`super::LockError::Damaged`],
    /// or what the store says; then it may have been written all the same.
    pub async fn rewrite(
        &self,
        group: &Group,
        machine: &MachineId,
        token: Token,
        change: impl Fn(&mut HolderRecord),
    ) -> Result<HolderRecord> {
        self.rewrite_as(group, machine, token, token, change).await
    }

    /// The same, and makes it another acquisition: whoever knows only the old token can neither write
    /// nor release any more.
    ///
    /// # Errors
    /// As for [`LockManager::rewrite`].
    pub async fn rewrite_as(
        &self,
        group: &Group,
        machine: &MachineId,
        old: Token,
        new: Token,
        change: impl Fn(&mut HolderRecord),
    ) -> Result<HolderRecord> {
        let holder = self.keys.holder(group, machine);
        let action = format!("writing {holder}");
        // It is not as the acquisition left it any more.
        self.recent.take(machine);
        let keys = [self.keys.semaphore(group), holder.clone()];
        self.settle(&action, &keys, |before| {
            if old != new
                && let Ok(written) = self.held_by(before, group, machine, new)
            {
                return Ok(Decision::Done(written));
            }
            let known = self.held_by(before, group, machine, old)?;
            let mut record = HolderRecord { token: Some(new), ..known.clone() };
            change(&mut record);
            if record == known {
                return Ok(Decision::Done(known));
            }
            let txn = Txn::new()
                .when(before.unchanged(&keys[0]))
                .when(before.unchanged(&holder))
                .put(holder.clone(), record.to_json());
            Ok(Decision::Commit(txn, record))
        })
        .await
    }
}
