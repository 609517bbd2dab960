//! Each endpoint by itself: a store may work while half of it is dead.

use std::time::Duration;

use rebootlock::config::StoreSettings;
use rebootlock::store::{
    EndpointReport, EndpointStatus, EtcdStore, GatewayOptions, GatewayReport, GatewayStore,
    StoreError, etcd_options, gateway_options,
};

use super::Finding;
use super::documents::GRANT;

/// A round trip longer than this makes hand-overs slow.
const SLOW: Duration = Duration::from_millis(100);

/// Clocks that differ by no more than this mislead nobody.
const TOLERABLE_SECS: i64 = 2;

pub(super) async fn check(settings: &StoreSettings) -> Vec<Finding> {
    if let Some(options) = gateway_options(settings) {
        return gateways(&options).await;
    }
    let Some(options) = etcd_options(settings) else {
        let shown = settings.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>();
        let found = "a store of this machine only; no server to check";
        return vec![Finding::ok(shown.join(", "), found)];
    };
    let store = match EtcdStore::new(options) {
        Ok(store) => store,
        Err(error) => {
            return vec![Finding::fail("endpoints", error.to_string(), "mend what it names")];
        }
    };
    let reports = store.check_endpoints().await;
    let mut findings: Vec<_> = reports.iter().flat_map(endpoint).collect();
    findings.extend(cluster(&reports));
    findings
}

async fn gateways(options: &GatewayOptions) -> Vec<Finding> {
    match GatewayStore::new(options) {
        Ok(store) => store.check_endpoints().await.iter().map(gateway).collect(),
        Err(error) => vec![Finding::fail("endpoints", error.to_string(), "mend what it names")],
    }
}

fn gateway(report: &GatewayReport) -> Finding {
    let about = &report.url;
    match &report.status {
        Ok(status) => {
            let tls = if about.starts_with("https://") { "TLS" } else { "no TLS" };
            let found = format!(
                "rebootlock-gateway {}, {tls}, round trip {:.1} ms, its store at revision {}",
                status.version,
                status.round_trip.as_secs_f64() * 1000.0,
                status.revision,
            );
            match status.round_trip > SLOW {
                true => Finding::warn(about, found, "slow: look at its store and at the network"),
                false => Finding::ok(about, found),
            }
        }
        Err(error) => {
            let mend = match error {
                StoreError::Unavailable(_) => {
                    "start the gateway there, see that its store answers (its /readyz), or take the \
                     endpoint out of the configuration"
                }
                StoreError::Refused(_) => {
                    "compare ca_file, cert_file, username, password_file and token_file in [store] \
                     with the gateway's certificate and its credentials_file"
                }
                StoreError::Forbidden(_) => {
                    "give these credentials a role in the gateway's credentials_file"
                }
                StoreError::LeaseGone | StoreError::Broken(_) => "look at the log of that gateway",
            };
            Finding::fail(about, error.to_string(), mend)
        }
    }
}

fn endpoint(report: &EndpointReport) -> Vec<Finding> {
    let about = &report.url;
    match &report.status {
        Err(error) => vec![Finding::fail(about, error.to_string(), advice(error))],
        Ok(status) => {
            let mut findings =
                vec![described(about, status), clock(about, status.clock_ahead_secs)];
            let alarm = |alarm: &String| {
                Finding::fail(about, format!("alarm: {alarm}"), advice_on_alarm(alarm))
            };
            findings.extend(status.errors.iter().map(alarm));
            if status.is_learner {
                let mend = "wait until it has caught up, or promote it: etcdctl member promote";
                findings.push(Finding::warn(about, "is a learner without a vote", mend));
            }
            findings
        }
    }
}

fn described(about: &str, status: &EndpointStatus) -> Finding {
    let tls = if about.starts_with("https://") { "TLS" } else { "no TLS" };
    let role = if status.is_leader { ", the leader" } else { "" };
    let found = format!(
        "etcd {}, {tls}{role}, round trip {:.1} ms, revision {}, {} KiB on disk",
        status.version,
        status.round_trip.as_secs_f64() * 1000.0,
        status.revision,
        status.database_bytes / 1024,
    );
    if status.round_trip > SLOW {
        return Finding::warn(about, found, "slow: look at its disk, its load and the network");
    }
    Finding::ok(about, found)
}

/// No decision depends on clocks, but people read times that several machines wrote.
pub(super) fn clock(about: &str, ahead: Option<i64>) -> Finding {
    match ahead {
        None => Finding::ok(about, "clock not compared: it does not tell the time"),
        Some(ahead) if ahead.abs() <= TOLERABLE_SECS => {
            Finding::ok(about, "clock agrees with ours")
        }
        Some(ahead) => {
            let side = if ahead > 0 { "ahead of" } else { "behind" };
            let found = format!("its clock is {} s {side} ours", ahead.abs());
            let mend = "let both follow the same time servers; slots are safe, times shown are not";
            Finding::warn(about, found, mend)
        }
    }
}

fn advice(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => {
            "start etcd there, open the way to its client port, or take the endpoint out of the \
             configuration"
        }
        StoreError::Refused(_) => {
            "compare --etcd-cafile, --etcd-certfile, --etcd-username and --etcd-password-file with \
             what the server expects"
        }
        StoreError::Forbidden(_) => GRANT,
        StoreError::LeaseGone | StoreError::Broken(_) => "look at the log of that etcd",
    }
}

fn advice_on_alarm(alarm: &str) -> &'static str {
    if alarm.to_uppercase().contains("NOSPACE") {
        "nothing can be written: compact and defragment, then etcdctl alarm disarm"
    } else {
        "look at the log of that etcd, then etcdctl alarm list"
    }
}

/// What only shows when all endpoints are looked at together.
fn cluster(reports: &[EndpointReport]) -> Vec<Finding> {
    let members: Vec<_> = reports.iter().filter_map(|report| report.status.as_ref().ok()).collect();
    let mut findings = Vec::new();
    let Some(first) = members.first() else { return findings };
    if members.iter().any(|member| member.cluster_id != first.cluster_id) {
        findings.push(Finding::fail(
            "endpoints",
            "belong to different clusters, which would be different locks",
            "name the members of one cluster only",
        ));
    }
    let leaders = members.iter().filter(|member| member.is_leader).count();
    if leaders == 0 && members.len() == reports.len() && reports.len() > 1 {
        findings.push(Finding::warn(
            "endpoints",
            "none of them leads the cluster",
            "if the cluster has more members than are named here that is fine; else it has lost \
             its quorum: start the others",
        ));
    }
    findings
}
