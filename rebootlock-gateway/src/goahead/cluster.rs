//! Which cluster a machine is in. Pure.

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

/// What is wrong with several patterns in one name: the first alone counts.
pub(super) fn also_in<'a>(
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
