//! What scripts are told: the variables of clusterrebootd, so that its health scripts work
//! unchanged, and our own. Pure.

use std::path::PathBuf;

use rebootlock::config::gate::{ClusterRules, MinHealthy, Phase};

/// What is true now, as far as scripts are concerned. The caller knows all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// This machine's id.
    pub machine_id: String,
    /// Its name.
    pub hostname: String,
    /// The boot it is in.
    pub boot_id: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Why a reboot is wanted; empty if none is.
    pub reason: String,
    /// Nothing is done, it is only said.
    pub dry_run: bool,
    /// Of the slot that is held.
    pub token: Option<String>,
    /// The key of the semaphore.
    pub lock_key: String,
    /// Where the store is.
    pub endpoints: Vec<String>,
    /// While this file is there, nothing reboots.
    pub kill_switch_file: Option<PathBuf>,
    /// How well the other machines must be.
    pub cluster: Option<ClusterRules>,
    /// Windows in which reboots may begin, as written.
    pub windows_allow: Vec<String>,
    /// Windows in which they may not.
    pub windows_deny: Vec<String>,
    /// Where the metrics are.
    pub metrics_endpoint: Option<String>,
    /// Gates are not asked.
    pub skip_health: bool,
    /// No slot is asked for.
    pub skip_lock: bool,
    /// A slot is needed for a reboot.
    pub lock_enabled: bool,
    /// A slot is held.
    pub lock_held: bool,
    /// Tries until it was held: 1, as waiting in the queue is one try however long it takes; 0 before.
    pub lock_attempts: u32,
}

/// The variables of a script that runs in `phase`, each once. Lists are comma-separated, as
/// clusterrebootd's are, windows too, though they may have commas themselves.
pub fn variables(phase: Phase, facts: &Facts) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("REBOOTLOCK_PHASE", phase.to_string()),
        ("REBOOTLOCK_MACHINE_ID", facts.machine_id.clone()),
        ("REBOOTLOCK_HOSTNAME", facts.hostname.clone()),
        ("REBOOTLOCK_BOOT_ID", facts.boot_id.clone()),
        ("REBOOTLOCK_GROUPS", facts.groups.join(",")),
        ("REBOOTLOCK_REASON", facts.reason.clone()),
        ("REBOOTLOCK_DRY_RUN", facts.dry_run.to_string()),
        ("REBOOTLOCK_TOKEN", facts.token.clone().unwrap_or_default()),
        ("RC_NODE_NAME", facts.hostname.clone()),
        ("RC_DRY_RUN", facts.dry_run.to_string()),
        ("RC_LOCK_KEY", facts.lock_key.clone()),
        ("RC_ETCD_ENDPOINTS", facts.endpoints.join(",")),
        ("RC_PHASE", phase.to_string()),
        ("RC_LOCK_ENABLED", facts.lock_enabled.to_string()),
        ("RC_LOCK_HELD", facts.lock_held.to_string()),
        ("RC_LOCK_ATTEMPTS", facts.lock_attempts.to_string()),
    ];
    let fallback = facts.cluster.as_ref().map_or(&[][..], |cluster| &cluster.fallback);
    all.push(("RC_CLUSTER_FORBID_IF_ONLY_FALLBACK_LEFT", (!fallback.is_empty()).to_string()));
    let mut add = |name, value: String| {
        if !value.is_empty() {
            all.push((name, value));
        }
    };
    add("RC_CLUSTER_FALLBACK_NODES", fallback.join(","));
    match facts.cluster.as_ref().and_then(|cluster| cluster.min_healthy) {
        Some(MinHealthy::Percent(percent)) => {
            add("RC_CLUSTER_MIN_HEALTHY_FRACTION", fraction(percent));
        }
        Some(MinHealthy::Count(count)) => {
            add("RC_CLUSTER_MIN_HEALTHY_ABSOLUTE", count.to_string());
        }
        None => {}
    }
    if let Some(file) = &facts.kill_switch_file {
        add("RC_KILL_SWITCH_FILE", file.display().to_string());
    }
    add("RC_WINDOWS_ALLOW", facts.windows_allow.join(","));
    add("RC_WINDOWS_DENY", facts.windows_deny.join(","));
    add("RC_METRICS_ENDPOINT", facts.metrics_endpoint.clone().unwrap_or_default());
    for (name, skipped) in
        [("RC_SKIP_HEALTH", facts.skip_health), ("RC_SKIP_LOCK", facts.skip_lock)]
    {
        add(name, if skipped { "true".to_owned() } else { String::new() });
    }
    for (_, value) in &mut all {
        // No variable can have one, and with one the script would not start at all.
        value.retain(|c| c != '\0');
    }
    all
}

/// Hundredths as a fraction, in its shortest form.
fn fraction(percent: u8) -> String {
    match percent {
        100.. => "1".to_owned(),
        _ => format!("0.{percent:02}").trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use rebootlock::config::variables::VARIABLES;

    use super::*;

    fn everything() -> Facts {
        let text = str::to_owned;
        Facts {
            machine_id: text("m1"),
            hostname: text("web-1"),
            boot_id: text("b1"),
            groups: vec![text("lb"), text("rack-7")],
            reason: text("kernel\0"),
            dry_run: true,
            token: Some(text("t1")),
            lock_key: text("p/semaphore"),
            endpoints: vec![text("http://a:1"), text("http://b:1")],
            kill_switch_file: Some("/etc/off".into()),
            cluster: Some(ClusterRules {
                min_healthy: Some(MinHealthy::Percent(60)),
                fallback: vec![text("x"), text("y")],
                ..ClusterRules::default()
            }),
            windows_allow: vec![text("Fri 18:00-Mon 08:00"), text("* 23:00-06:00")],
            windows_deny: vec![text("Mon,Tue 1:00")],
            metrics_endpoint: Some(text("127.0.0.1:9977")),
            skip_health: true,
            skip_lock: true,
            lock_enabled: true,
            lock_held: true,
            lock_attempts: 3,
        }
    }

    fn value<'a>(all: &'a [(&str, String)], name: &str) -> Option<&'a str> {
        all.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn every_variable_is_known_and_every_known_one_is_given() {
        let mut facts = everything();
        let mut names: Vec<_> = variables(Phase::PostLock, &facts).iter().map(|v| v.0).collect();
        facts.cluster.as_mut().unwrap().min_healthy = Some(MinHealthy::Count(3));
        let absolute = variables(Phase::PostLock, &facts);
        assert_eq!(value(&absolute, "RC_CLUSTER_MIN_HEALTHY_ABSOLUTE"), Some("3"));
        let once: BTreeSet<_> = names.iter().copied().collect();
        assert_eq!(once.len(), names.len());
        names.push("RC_CLUSTER_MIN_HEALTHY_ABSOLUTE");
        let known: BTreeSet<_> = VARIABLES.into_iter().collect();
        assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), known);
    }

    #[test]
    fn the_values_are_those_of_clusterrebootd() {
        let all = variables(Phase::PostLock, &everything());
        for (name, said) in [
            ("RC_NODE_NAME", "web-1"),
            ("RC_DRY_RUN", "true"),
            ("RC_LOCK_KEY", "p/semaphore"),
            ("RC_ETCD_ENDPOINTS", "http://a:1,http://b:1"),
            ("RC_KILL_SWITCH_FILE", "/etc/off"),
            ("RC_CLUSTER_MIN_HEALTHY_FRACTION", "0.6"),
            ("RC_CLUSTER_FORBID_IF_ONLY_FALLBACK_LEFT", "true"),
            ("RC_CLUSTER_FALLBACK_NODES", "x,y"),
            ("RC_WINDOWS_ALLOW", "Fri 18:00-Mon 08:00,* 23:00-06:00"),
            ("RC_WINDOWS_DENY", "Mon,Tue 1:00"),
            ("RC_METRICS_ENDPOINT", "127.0.0.1:9977"),
            ("RC_SKIP_HEALTH", "true"),
            ("RC_PHASE", "post-lock"),
            ("RC_LOCK_HELD", "true"),
            ("RC_LOCK_ATTEMPTS", "3"),
            ("REBOOTLOCK_GROUPS", "lb,rack-7"),
            ("REBOOTLOCK_REASON", "kernel"),
            ("REBOOTLOCK_TOKEN", "t1"),
        ] {
            assert_eq!(value(&all, name), Some(said), "{name}");
        }
        assert_eq!([1, 5, 50, 99, 100].map(fraction), ["0.01", "0.05", "0.5", "0.99", "1"]);
    }

    #[test]
    fn what_is_not_configured_is_not_there() {
        let all = variables(Phase::Heartbeat, &Facts::default());
        assert_eq!(value(&all, "RC_PHASE"), Some("heartbeat"));
        assert_eq!(value(&all, "RC_LOCK_HELD"), Some("false"));
        assert_eq!(value(&all, "RC_LOCK_ATTEMPTS"), Some("0"));
        assert_eq!(value(&all, "RC_CLUSTER_FORBID_IF_ONLY_FALLBACK_LEFT"), Some("false"));
        for name in [
            "RC_KILL_SWITCH_FILE",
            "RC_CLUSTER_MIN_HEALTHY_FRACTION",
            "RC_CLUSTER_MIN_HEALTHY_ABSOLUTE",
            "RC_CLUSTER_FALLBACK_NODES",
            "RC_WINDOWS_ALLOW",
            "RC_WINDOWS_DENY",
            "RC_METRICS_ENDPOINT",
            "RC_SKIP_HEALTH",
            "RC_SKIP_LOCK",
        ] {
            assert_eq!(value(&all, name), None, "{name}");
        }
    }
}
