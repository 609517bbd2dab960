//! What etcd counts of itself.

use anyhow::{Context, Result, ensure};
use rebootlock_tests::etcd::EtcdCluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Requests that clients have sent to it since its start, and streams that they have opened, but for those
/// that keep leases alive: they come by the clock, however often a slot changes hands.
pub(crate) async fn requests(etcd: &EtcdCluster) -> Result<f64> {
    let port = etcd.members.first().context("a cluster without members")?.port();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let counts = answer
        .lines()
        .filter(|line| line.starts_with("grpc_server_started_total"))
        .filter(|line| !line.contains("\"LeaseKeepAlive\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    let counts: Vec<_> = counts.collect();
    ensure!(!counts.is_empty(), "etcd tells no number of requests");
    Ok(counts.iter().sum())
}
