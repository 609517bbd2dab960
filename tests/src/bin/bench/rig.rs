//! What is measured on: an etcd of the bench's own.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::LockManager;
use rebootlock::record::{Claim, Via};
use rebootlock_tests::etcd::{EtcdCluster, EtcdSetup, Version, versions};
use rebootlock_tests::fleet::Onlooker;

/// Which etcd to start.
#[derive(Debug, Clone, Args)]
pub(crate) struct Wanted {
    /// Use the etcd whose version begins like this [default: the newest there is]
    #[arg(long = "etcd", value_name = "VERSION")]
    version: Option<String>,
    /// Let each sync of etcd's disk take so much longer; needs strace
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) slower_sync: Option<u64>,
}

impl Wanted {
    /// The same on a slower disk.
    pub(crate) fn with_slower_sync(&self, micros: u64) -> Self {
        Self { slower_sync: Some(self.slower_sync.unwrap_or(0) + micros), ..self.clone() }
    }
}

/// A running etcd.
#[derive(Debug)]
pub(crate) struct Rig {
    version: Version,
    /// The server.
    pub(crate) etcd: EtcdCluster,
}

impl Rig {
    /// Starts the newest etcd that is wanted, with so many members.
    pub(crate) async fn start(wanted: &Wanted, members: usize) -> Result<Self> {
        let found = versions()?;
        let number = |version: &Version| {
            version.name.split('.').map(|n| n.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>()
        };
        let newest = found
            .iter()
            .filter(|version| {
                wanted.version.as_ref().is_none_or(|wanted| version.name.starts_with(wanted))
            })
            .max_by_key(|version| number(version));
        let names: Vec<_> = found.iter().map(|version| version.name.as_str()).collect();
        let version = newest.with_context(|| format!("no such etcd; there are {names:?}"))?.clone();
        let mut setup = EtcdSetup::new(&version);
        if members > 1 {
            setup = setup.members(members);
        }
        if let Some(micros) = wanted.slower_sync {
            setup = setup.slower_sync(Duration::from_micros(micros));
        }
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

    /// The URL of the member that leads.
    pub(crate) async fn leader(&self) -> Result<String> {
        let leader = self.etcd.leader().await?;
        Ok(self.etcd.members[leader].endpoint().to_owned())
    }

    /// A lock manager with a connection of its own.
    pub(crate) fn locks(&self) -> Result<LockManager> {
        Ok(Onlooker::new(&self.etcd.endpoints())?.locks)
    }

    /// The bare client, for references, at the member that leads.
    pub(crate) async fn raw(&self) -> Result<etcd_client::Client> {
        let client = etcd_client::Client::connect([self.leader().await?], None).await;
        client.context("cannot connect to etcd")
    }
}

/// A claim of machine number `n` on the slot of `group`.
pub(crate) fn claim(group: &Group, n: usize) -> Result<Claim> {
    let machine = MachineId::new(format!("machine-{n:04}"))?;
    Ok(Claim::new(machine, [group.clone()], Via::Agent))
}
