//! How each gateway is, for `rebootlockctl doctor`.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::cluster::Cluster;
use super::failure::{Failure, summary};
use super::wire;
use crate::store::{Result, Revision};

/// One gateway.
#[derive(Debug, Clone)]
pub struct GatewayReport {
    /// Its URL.
    pub url: String,
    /// How it is, or why that is not known.
    pub status: Result<GatewayStatus>,
}

/// How a gateway is.
#[derive(Debug, Clone)]
pub struct GatewayStatus {
    /// Its version.
    pub version: String,
    /// How long an answer takes that needs its store.
    pub round_trip: Duration,
    /// Where its store is.
    pub revision: Revision,
}

pub(super) async fn check(cluster: &Cluster) -> Vec<GatewayReport> {
    join_all((0..cluster.len()).map(|index| one(cluster, index))).await
}

async fn one(cluster: &Cluster, index: usize) -> GatewayReport {
    let url = cluster.shown(index).to_owned();
    let asked = timeout(cluster.timeout(), ask(cluster, index)).await;
    let late = || Err(Failure::Undone(format!("no answer within {:?}", cluster.timeout())));
    let status = asked.unwrap_or_else(|_| late()).map_err(|failure| match failure {
        Failure::Settled(error) => error,
        failure => summary(&[(&*url, failure)]),
    });
    GatewayReport { url, status }
}

async fn ask(cluster: &Cluster, index: usize) -> std::result::Result<GatewayStatus, Failure> {
    let mut link = cluster.connect(index).await?;
    let version = link.probe().await?.version;
    let nothing = super::ask(wire::READ, &wire::Read::default()).map_err(Failure::Settled)?;
    let asked = Instant::now();
    let found: wire::Found = link.ask(&nothing).await?;
    Ok(GatewayStatus { version, round_trip: asked.elapsed(), revision: Revision(found.revision) })
}
