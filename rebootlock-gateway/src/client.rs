//! Who asks for a machine: its client, or somebody in its stead.

use std::net::SocketAddr;

use axum::http::request::Parts;
use rebootlock::id::{Group, MachineId};

use crate::app::Live;
use crate::auth::{self, Caller};
use crate::operators;
use crate::reply::Kind;
use crate::serve::Peer;
use crate::slots::Refusal;

/// Somebody who was let in, and may ask for some machines, or for any.
#[derive(Debug)]
pub(crate) struct Client {
    /// From where.
    pub(crate) address: SocketAddr,
    caller: Caller,
}

/// Finds out who asks.
///
/// # Errors
/// [`Refusal`]: `unauthorized` without credentials where they are needed, or with wrong ones.
pub(crate) async fn of(live: &Live, head: &Parts) -> Result<Client, Refusal> {
    let peer = head.extensions.get::<Peer>().cloned().unwrap_or_default();
    let (shown, address) = (peer.certificate.as_ref(), peer.address.ip());
    let caller = live.auth.for_a_machine(&head.headers, shown, address).await;
    let caller = caller
        .map_err(|refused| operators::not_known(refused, &peer, auth::said(&head.headers)))?;
    Ok(Client { address: peer.address, caller })
}

impl Client {
    /// Whether it may ask for `machine` in `group`.
    ///
    /// # Errors
    /// [`Refusal`]: `forbidden` if that is for others.
    pub(crate) fn may(&self, group: &Group, machine: &MachineId) -> Result<(), Refusal> {
        self.caller.may(group, machine).map_err(|why| {
            tracing::info!(
                target: "rebootlock_gateway::audit",
                event = "forbidden", id = %machine, %group, client = self.caller.name,
                address = %self.address, "{why}"
            );
            Refusal::new(Kind::Forbidden, why)
        })
    }

    /// Whether its credentials, or its certificate, are for this machine by name.
    pub(crate) fn is_for(&self, machine: &MachineId) -> bool {
        self.caller.is_for(machine)
    }
}
