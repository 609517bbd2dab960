//! Which cluster a machine is in.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use rebootlock::config::ClusterSettings;
use rebootlock::id::MachineId;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Found<'a> {
    /// The first cluster whose pattern is in its name, and none of whose exceptions is.
    Cluster(&'a ClusterSettings),
    /// None, and this exception is why.
    Excepted(&'a str),
    /// None.
    Nowhere,
}

/// Looks through `clusters` in their order.
pub(super) fn find<'a>(clusters: &'a [ClusterSettings], machine: &MachineId) -> Found<'a> {
    let fqdn = machine.as_str();
    let mut found = Found::Nowhere;
    for cluster in clusters.iter().filter(|cluster| cluster.pattern.is_in(fqdn)) {
        match cluster.except.iter().find(|pattern| pattern.is_in(fqdn)) {
            None => return Found::Cluster(cluster),
            Some(pattern) => {
                if found == Found::Nowhere {
                    found = Found::Excepted(pattern.as_str());
                }
            }
        }
    }
    found
}

/// Pairs of clusters of which it was said that they have a machine in common.
static SAID: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// Says once of two clusters that their patterns are in one name: the first alone counts.
pub(super) fn warn_of_overlap(
    clusters: &[ClusterSettings],
    first: &ClusterSettings,
    machine: &MachineId,
) {
    let Some(other) = also_in(clusters, first, machine) else { return };
    let pair = (first.name.clone(), other.to_owned());
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(pair) {
        tracing::warn!(
            id = %machine, cluster = first.name, other,
            "the patterns of two clusters are in one name; the first of them counts, for all such names"
        );
    }
}

fn also_in<'a>(
    clusters: &'a [ClusterSettings],
    first: &ClusterSettings,
    machine: &MachineId,
) -> Option<&'a str> {
    let fqdn = machine.as_str();
    let matches = |cluster: &&ClusterSettings| {
        cluster.name != first.name
            && cluster.pattern.is_in(fqdn)
            && !cluster.except.iter().any(|pattern| pattern.is_in(fqdn))
    };
    clusters.iter().find(matches).map(|cluster| cluster.name.as_str())
}
