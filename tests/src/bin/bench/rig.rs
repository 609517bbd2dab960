//! What is measured on: an etcd of the bench's own.

use anyhow::{Context, Result};
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::LockManager;
use rebootlock::record::{Claim, Via};
use rebootlock_tests::etcd::{EtcdCluster, EtcdSetup, Version, versions};
use rebootlock_tests::fleet::Onlooker;

/// A running etcd with one member.
#[derive(Debug)]
pub(crate) struct Rig {
    version: Version,
    /// The server.
    pub(crate) etcd: EtcdCluster,
}

impl Rig {
    /// Starts the newest etcd there is, or the newest whose version begins like that.
    pub(crate) async fn start(wanted: Option<&str>) -> Result<Self> {
        let found = versions()?;
        let number = |version: &Version| {
            version.name.split('.').map(|n| n.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>()
        };
        let newest = found
            .iter()
            .filter(|version| wanted.is_none_or(|wanted| version.name.starts_with(wanted)))
            .max_by_key(|version| number(version));
        let names: Vec<_> = found.iter().map(|version| version.name.as_str()).collect();
        let version = newest.with_context(|| format!("no such etcd; there are {names:?}"))?.clone();
        let mut setup = EtcdSetup::new(&version);
        if version.is_at_least(3, 5) {
            // Tests need not survive a power cut, but figures are to be those of a server that does.
            setup = setup.flag("--unsafe-no-fsync=false");
        }
        Ok(Self { etcd: setup.start().await?, version })
    }

    /// Which etcd it is.
    pub(crate) fn version(&self) -> &str {
        &self.version.name
    }

    /// The client that came with the server.
    pub(crate) fn etcdctl(&self) -> std::path::PathBuf {
        self.version.etcdctl()
    }

    /// A lock manager with a connection of its own.
    pub(crate) fn locks(&self) -> Result<LockManager> {
        Ok(Onlooker::new(&self.etcd.endpoints())?.locks)
    }

    /// The bare client, for references.
    pub(crate) async fn raw(&self) -> Result<etcd_client::Client> {
        let client = etcd_client::Client::connect(self.etcd.endpoints(), None).await;
        client.context("cannot connect to etcd")
    }
}

/// A claim of machine number `n` on the slot of `group`.
pub(crate) fn claim(group: &Group, n: usize) -> Result<Claim> {
    let machine = MachineId::new(format!("machine-{n:04}"))?;
    Ok(Claim::new(machine, [group.clone()], Via::Agent))
}
