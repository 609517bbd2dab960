//! An operator's wish that a machine reboot.

use super::{LockManager, Result};
use crate::id::MachineId;
use crate::keys::last_segment;
use crate::record::{Document, Request};
use crate::store::Select;

/// How taking a wish back ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Cancelled {
    /// It is gone. With its document, if it could be read.
    Ended(Option<Request>),
    /// There was none.
    NotRequested,
}

/// A machine that is to reboot.
#[derive(Debug, Clone, PartialEq)]
pub struct Requested {
    /// Which.
    pub machine: MachineId,
    /// Who wishes it, and why; `None` where the document cannot be read.
    pub request: Option<Request>,
}

impl LockManager {
    /// Wishes that `machine` reboot. A wish already there is replaced and returned, if it can be
    /// read: the last word counts.
    ///
    /// # Errors
    /// What the store says.
    pub async fn request(&self, machine: &MachineId, request: &Request) -> Result<Option<Request>> {
        let key = self.keys.request(machine);
        let action = format!("requesting a reboot of {machine} at {key}");
        let before = self.stop(&action, key, request.to_json(), None).await?;
        Ok(before.and_then(|text| Request::from_json(&text).ok()))
    }

    /// Takes such a wish back. A slot that the machine holds already is not given back.
    ///
    /// # Errors
    /// What the store says.
    pub async fn cancel(&self, machine: &MachineId) -> Result<Cancelled> {
        let key = self.keys.request(machine);
        let ended = self.end_stop(&format!("cancelling the request at {key}"), key).await?;
        let read = |text: Vec<u8>| Cancelled::Ended(Request::from_json(&text).ok());
        Ok(ended.map_or(Cancelled::NotRequested, read))
    }

    /// All machines that are to reboot.
    ///
    /// # Errors
    /// What the store says.
    pub async fn requests(&self) -> Result<Vec<Requested>> {
        let listed = self.list(&self.keys.requests(), Select::All).await?;
        let requested = listed.entries.iter().filter_map(|(key, entry)| {
            let machine = MachineId::new(last_segment(key)).ok()?;
            Some(Requested { machine, request: Request::from_json(&entry.value).ok() })
        });
        Ok(requested.collect())
    }
}
