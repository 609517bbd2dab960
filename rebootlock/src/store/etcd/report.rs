//! How each endpoint is, for `doctor`.

use std::time::{Duration, Instant};

use super::cluster::{Cluster, within};
use super::failure::{Failure, Task, understand};
use super::unsigned;
use crate::http;
use crate::store::{Result, Revision};

/// How one endpoint is.
#[derive(Debug, Clone)]
pub struct EndpointReport {
    /// Its URL.
    pub url: String,
    /// What it says, or why it says nothing.
    pub status: Result<EndpointStatus>,
    /// How long that took, connecting included.
    pub took: Duration,
}

/// What a member says about itself.
#[derive(Debug, Clone)]
pub struct EndpointStatus {
    /// The version of the server.
    pub version: String,
    /// The same for all members of a cluster.
    pub cluster_id: u64,
    /// Different for each member.
    pub member_id: u64,
    /// Whether it leads the cluster.
    pub is_leader: bool,
    /// Whether it does not vote yet.
    pub is_learner: bool,
    /// Size of its database file.
    pub database_bytes: u64,
    /// The newest revision it has.
    pub revision: Revision,
    /// How far its log goes.
    pub raft_index: u64,
    /// Alarms and errors in its own words.
    pub errors: Vec<String>,
    /// One request and its answer on an open connection.
    pub round_trip: Duration,
    /// How many seconds its clock is ahead of ours; negative: behind. `None` if it cannot be had.
    pub clock_ahead_secs: Option<i64>,
}

pub(super) async fn check(cluster: &Cluster) -> Vec<EndpointReport> {
    futures::future::join_all((0..cluster.len()).map(|index| check_one(cluster, index))).await
}

async fn check_one(cluster: &Cluster, index: usize) -> EndpointReport {
    let began = Instant::now();
    let status = within(cluster.timeout(), ask(cluster, index)).await;
    let status = status.map_err(|failure| cluster.summary(&[(index, failure)]));
    EndpointReport { url: cluster.url(index).to_owned(), status, took: began.elapsed() }
}

async fn ask(cluster: &Cluster, index: usize) -> std::result::Result<EndpointStatus, Failure> {
    let (connection, _) = cluster.connect(index).await?;
    let asked = Instant::now();
    let answer = connection.client().maintenance_client().status().await.map_err(|error| {
        cluster.forget(index, &connection);
        let task = Task::plain("ask for the status");
        understand(error, cluster.url(index), cluster.identity(), &task)
    })?;
    let round_trip = asked.elapsed();
    let header = answer.header();
    let member_id = header.map_or(0, |header| header.member_id());
    Ok(EndpointStatus {
        version: answer.version().to_owned(),
        cluster_id: header.map_or(0, |header| header.cluster_id()),
        member_id,
        is_leader: member_id != 0 && answer.leader() == member_id,
        is_learner: answer.is_learner(),
        database_bytes: answer.db_size().try_into().unwrap_or(0),
        revision: unsigned(header.map_or(0, |header| header.revision())),
        raft_index: answer.raft_index(),
        errors: answer.errors().to_vec(),
        round_trip,
        clock_ahead_secs: clock_ahead(cluster, index).await,
    })
}

async fn clock_ahead(cluster: &Cluster, index: usize) -> Option<i64> {
    let url = format!("{}/version", cluster.url(index)).parse().ok()?;
    http::seconds_ahead(&url, &cluster.access()).await
}
