//! The network between the members of a cluster and to their clients, where it runs through proxies.

use anyhow::{Context, Result};

use super::EtcdCluster;
use crate::proxy::Proxy;

/// What stands in front of one member.
#[derive(Debug)]
pub(super) struct Link {
    /// Before its port for the other members.
    pub(super) peers: Proxy,
    /// Before its port for clients.
    pub(super) clients: Proxy,
}

impl Link {
    pub(super) async fn start(peer_port: u16, client_port: u16) -> Result<Self> {
        let (peers, clients) = (Proxy::start(peer_port).await?, Proxy::start(client_port).await?);
        Ok(Self { peers, clients })
    }
}

/// Who does not reach a member that is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The other members. Its clients do, and hear from it what it believes.
    FromPeers,
    /// Nobody.
    FromAll,
}

impl EtcdCluster {
    /// Cuts the network around a member, in both directions, as a switch does that has lost its
    /// power: nothing is refused, and nothing arrives. The cluster must be behind proxies.
    ///
    /// # Errors
    /// If the member does not say who it is.
    pub async fn cut_off(&self, member: usize, cut: Cut) -> Result<()> {
        let id = self.member_id(member).await?;
        for (n, link) in self.links.iter().enumerate() {
            match n == member {
                true => link.peers.freeze(),
                false => link.peers.freeze_from_member(&id),
            }
        }
        if cut == Cut::FromAll {
            self.links[member].clients.freeze();
        }
        Ok(())
    }

    /// Cuts every member off from every other.
    pub fn cut_all_apart(&self) {
        self.links.iter().for_each(|link| link.peers.freeze());
    }

    /// The network is whole again; what was on its way arrives late.
    pub fn mend_network(&self) {
        self.links.iter().for_each(|link| {
            link.peers.resume();
            link.clients.resume();
        });
    }

    /// The URL of each member, by way of its proxy if it is behind one.
    pub fn endpoints_of_clients(&self) -> Vec<String> {
        match self.links.is_empty() {
            true => self.endpoints(),
            false => self.links.iter().map(|link| link.clients.endpoint()).collect(),
        }
    }

    /// As members name each other.
    async fn member_id(&self, member: usize) -> Result<String> {
        let args = ["endpoint", "status", "--write-out=json"];
        let json = self.etcdctl_at(&self.members[member].endpoint, &args).await?;
        let answer: serde_json::Value = serde_json::from_str(&json)?;
        let id = answer[0]["Status"]["header"]["member_id"].as_u64();
        Ok(format!("{:x}", id.with_context(|| format!("no id in {json}"))?))
    }
}
