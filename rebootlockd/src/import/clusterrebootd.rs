//! clusterrebootd's YAML.

mod command;
mod detectors;
mod file;

use rebootlock::window::WeekRange;

use self::file::{At, Config, Metrics, Policies, Tls, Windows};
use super::Fault;
use super::draft::{Draft, list, quoted};

/// Its default, which is what people have got used to touching.
const KILL_SWITCH: &str = "/etc/clusterrebootd/disable";

/// Longest cooldown we know: a year.
const LONGEST_COOLDOWN: u64 = 365 * 86_400;

/// A place and what is wrong there.
fn fault<T>(at: &At<T>, problem: impl Into<String>) -> Fault {
    Fault::new(at.referenced.line(), at.referenced.column(), problem)
}

pub(super) fn convert(text: &str) -> Result<Draft, Fault> {
    let config = Config::parse(text)?;
    let mut draft = Draft::new("clusterrebootd");
    let missing = |key: &str, why: &str| Fault::new(1, 1, format!("`{key}` is missing: {why}"));

    store(&mut draft, &config)?;
    agent(&mut draft, &config)?;
    windows(&mut draft, config.windows.as_ref())?;
    let detectors = config.reboot_required_detectors.as_deref().unwrap_or_default();
    if detectors.is_empty() {
        return Err(missing("reboot_required_detectors", "clusterrebootd wants one at least"));
    }
    detectors::convert(&mut draft, detectors)?;
    let script = config.health_script.as_ref();
    let script = script.ok_or_else(|| missing("health_script", "clusterrebootd wants one"))?;
    health(&mut draft, script, config.health_timeout_sec.as_ref())?;
    cluster(&mut draft, config.cluster_policies.as_ref())?;
    if let Some(interval) = config.min_reboot_interval_sec.as_ref().filter(|at| at.value > 0) {
        if interval.value > LONGEST_COOLDOWN {
            let problem = format!("`min_reboot_interval_sec`: at most {LONGEST_COOLDOWN} here");
            return Err(fault(interval, problem));
        }
        draft
            .add("group")
            .set("name", "default")
            .note(
                "min_reboot_interval_sec. Counted here from the moment a machine is back and gives \
                 its slot up, not from its reboot command, and checked in the transaction that \
                 takes a slot.",
            )
            .set("cooldown_secs", number(interval.value));
    }
    match &config.reboot_command {
        Some(command) if !command.value.is_empty() => command::convert(&mut draft, command)?,
        _ => draft.note(
            "reboot_command was not set: its `shutdown -r now` becomes systemd-logind, which \
             reboots too, but first asks programs that inhibit a shutdown and warns users",
        ),
    }
    metrics(&mut draft, config.metrics.as_ref())?;
    rest(&mut draft, &config);
    Ok(draft)
}

fn store(draft: &mut Draft, config: &Config) -> Result<(), Fault> {
    let tls = config.etcd_tls.as_ref();
    let is_on = tls.is_some_and(|tls| tls.enabled.unwrap_or(false));
    let mut endpoints = Vec::new();
    let store = draft.table("store");
    for endpoint in config.etcd_endpoints.as_deref().unwrap_or_default() {
        let text = endpoint.value.trim();
        if text.is_empty() {
            store.note("clusterrebootd took an empty endpoint; it is left out");
            continue;
        }
        let url = if text.contains("://") {
            if is_on && text.starts_with("http://") {
                store.note(format!(
                    "etcd_tls is on, and {} is plain HTTP all the same, without certificates; \
                     write https:// if etcd speaks TLS",
                    quoted(text)
                ));
            }
            text.to_owned()
        } else {
            let scheme = if is_on { "https" } else { "http" };
            format!("{scheme}://{text}")
        };
        url.parse::<rebootlock::store::Endpoint>()
            .map_err(|error| fault(endpoint, format!("`etcd_endpoints`: {error}")))?;
        endpoints.push(url);
    }
    if endpoints.is_empty() {
        return Err(Fault::new(1, 1, "`etcd_endpoints` is missing: clusterrebootd wants one"));
    }
    store.set("endpoints", list(endpoints));
    if let Some(tls) = tls {
        certificates(draft, tls)?;
    }
    Ok(())
}

fn certificates(draft: &mut Draft, tls: &Tls) -> Result<(), Fault> {
    let files =
        [("ca_file", &tls.ca_file), ("cert_file", &tls.cert_file), ("key_file", &tls.key_file)];
    if !tls.enabled.unwrap_or(false) {
        for (key, file) in files {
            if let Some(file) = file {
                let file = quoted(&file.value);
                draft.note(format!("etcd_tls.{key}: {file} was not used, as etcd_tls was off"));
            }
        }
        return Ok(());
    }
    for (key, file) in files {
        let Some(file) = file else {
            return Err(Fault::new(1, 1, format!("`etcd_tls.{key}` is missing")));
        };
        let path = absolute(&format!("etcd_tls.{key}"), file)?;
        draft.table("store").set(key, path);
    }
    if tls.insecure_skip_verify.unwrap_or(false) {
        draft.table("store").note(
            "etcd_tls.insecure_skip_verify has no equal: the server's certificate must be signed by \
             ca_file and be for the host name in its endpoint",
        );
    }
    Ok(())
}

fn agent(draft: &mut Draft, config: &Config) -> Result<(), Fault> {
    let agent = draft.table("agent");
    if config.dry_run.unwrap_or(false) {
        agent
            .note(
                "dry_run was on. Here that is a flag, `rebootlockd run --dry-run`; until you decide, \
                 nothing reboots. Take this out when you are ready.",
            )
            .set("strategy", "off");
    }
    let check = config.check_interval_sec.as_ref().map_or(0, |at| at.value);
    let heartbeat = config.health_publish_interval_sec.as_ref().map_or(0, |at| at.value);
    for (theirs, ours, value, default, most) in [
        ("check_interval_sec", "check_interval_secs", check, 60, 86_400),
        ("health_publish_interval_sec", "heartbeat_secs", heartbeat, 15, 3_600),
    ] {
        let value = if value == 0 { default } else { value };
        if value > most {
            agent.note(format!("{theirs} was {value}; {most} is the most here"));
        }
        agent.set(ours, number(value.min(most)));
    }
    match &config.kill_switch_file {
        Some(file) if !file.value.is_empty() && file.value.trim().is_empty() => {
            agent.note(
                "kill_switch_file was blank, which switched it off. Here there always is one: \
                 /etc/rebootlock/disable",
            );
        }
        Some(file) if !file.value.is_empty() => {
            let path = absolute("kill_switch_file", file)?;
            agent.set("kill_switch_file", path);
        }
        _ => {
            agent
                .note("clusterrebootd's default, so that a file that is there goes on counting")
                .set("kill_switch_file", KILL_SWITCH);
        }
    }
    agent.note(
        "The kill switch is looked at before each step and right before the reboot. For the whole \
         fleet there is `rebootlockctl pause`.",
    );
    Ok(())
}

fn windows(draft: &mut Draft, windows: Option<&Windows>) -> Result<(), Fault> {
    let Some(windows) = windows else { return Ok(()) };
    let mut any = false;
    for (action, list) in [("deny", &windows.deny), ("allow", &windows.allow)] {
        for range in list.as_deref().unwrap_or_default() {
            WeekRange::parse(&range.value)
                .map_err(|error| fault(range, format!("`windows.{action}`: {error}")))?;
            draft.add("window").set("action", action).set("range", range.value.trim());
            any = true;
        }
    }
    if any {
        draft.note(
            "windows: in this machine's time zone, as before; `timezone` names another. They are \
             looked at again with the slot held and right before the reboot. What they mean when \
             clocks change is in docs/windows.md",
        );
    }
    Ok(())
}

fn health(draft: &mut Draft, script: &At<String>, timeout: Option<&At<u64>>) -> Result<(), Fault> {
    let path = absolute("health_script", script)?;
    let timeout = timeout.map_or(30, |at| if at.value == 0 { 30 } else { at.value });
    let gate = draft.add("gate");
    gate.set("name", "health_script").set("type", "script").set("command", list([path]));
    if timeout > 3_600 {
        gate.note(format!("health_timeout_sec was {timeout}; 3600 is the most here"));
    }
    gate.note(
        "Longer than this is unhealthy here, and the script is killed with all it has started; \
         clusterrebootd gave the pass up with an error.",
    )
    .set("timeout_secs", number(timeout.min(3_600)))
    .note(
        "\"verify\" is new: after the reboot the slot is given back only once the script passes. \
         RC_PHASE is \"verify\" then. If it cannot bear that, take it out.",
    )
    .set("phases", list(["monitor", "heartbeat", "pre-lock", "post-lock", "verify"]));
    Ok(())
}

fn cluster(draft: &mut Draft, policies: Option<&Policies>) -> Result<(), Fault> {
    let gate = draft.add("gate");
    gate.set("type", "cluster").note(
        "Any other machine that is unhealthy keeps this one from rebooting, as in clusterrebootd; \
         here one that is silent counts as unhealthy too, see `rebootlockctl machines` and `forget`.",
    );
    gate.set("max_unhealthy", 0);
    let Some(policies) = policies else { return Ok(()) };
    let absolute = policies.min_healthy_absolute.as_ref();
    if let Some(count) = absolute {
        if count.value > 1_000_000 {
            return Err(fault(count, "`min_healthy_absolute`: at most 1000000 here"));
        }
        if count.value == 0 {
            gate.note("min_healthy_absolute was 0, which asks for nothing");
        } else {
            gate.note(format!(
                "min_healthy_absolute was {0}, counted with this machine up. Here it is counted as \
                 if this machine were down already, so {0} is one machine stricter.",
                count.value
            ))
            .set("min_healthy", number(count.value));
        }
    }
    if let Some(fraction) = &policies.min_healthy_fraction {
        let value = fraction.value;
        if !(value > 0.0 && value <= 1.0) {
            let problem = format!("`min_healthy_fraction`: {value} is not above 0 and up to 1");
            return Err(fault(fraction, problem));
        }
        let percent = percent_at_least(value);
        if absolute.is_some_and(|count| count.value > 0) {
            gate.note(format!(
                "min_healthy_fraction was {value}, which would be min_healthy = \"{percent}%\"; one \
                 of the two can be said. In clusterrebootd it never decided anything, as any \
                 unhealthy machine was enough, and max_unhealthy = 0 keeps it so."
            ));
        } else if percent == 100 {
            gate.note(format!(
                "min_healthy_fraction was {value}: all others must be healthy, which max_unhealthy = \
                 0 says. min_healthy = \"100%\" is counted without this machine and would never let \
                 it go."
            ));
        } else {
            gate.note(format!(
                "min_healthy_fraction was {value}, rounded up to whole percents. Here it is counted \
                 as if this machine were down already."
            ))
            .set("min_healthy", format!("{percent}%"));
        }
    }
    let (mut fallback, mut blanks) = (Vec::new(), 0);
    for name in policies.fallback_nodes.as_deref().unwrap_or_default() {
        match name.value.trim() {
            "" => blanks += 1,
            name => fallback.push(name.to_owned()),
        }
    }
    if blanks > 0 {
        gate.note("fallback_nodes: blank names did not count and are left out");
    }
    match (policies.forbid_if_only_fallback_left.unwrap_or(false), fallback.is_empty()) {
        (true, false) => {
            gate.note(
                "fallback_nodes with forbid_if_only_fallback_left. A machine is named here by its \
                 machine-id or its host name; if a node_name was neither, change it.",
            )
            .set("fallback", list(fallback));
        }
        (true, true) => {
            gate.note("forbid_if_only_fallback_left did nothing without fallback_nodes");
        }
        (false, false) => {
            let names = fallback.join(", ");
            gate.note(format!(
                "fallback_nodes ({names}) did nothing without forbid_if_only_fallback_left. To have \
                 them count, list them as `fallback`."
            ));
        }
        (false, true) => {}
    }
    Ok(())
}

/// The fewest whole percents that are no less than `fraction`, which is above 0 and up to 1.
fn percent_at_least(fraction: f64) -> u8 {
    // Division rounds to the nearest double, as reading 0.28 did; multiplying would make it 28.0…04.
    (1..=100).find(|percent| f64::from(*percent) / 100.0 >= fraction).unwrap_or(100)
}

fn metrics(draft: &mut Draft, metrics: Option<&Metrics>) -> Result<(), Fault> {
    let Some(metrics) = metrics else { return Ok(()) };
    let listen = metrics.listen.as_ref();
    let text = listen.map_or("127.0.0.1:9090", |at| at.value.trim());
    if !metrics.enabled.unwrap_or(false) {
        if listen.is_some() {
            draft.note(format!("metrics.listen ({}) was not used: metrics were off", quoted(text)));
        }
        return Ok(());
    }
    let address = match text.split_once(':') {
        Some(("", port)) => format!("[::]:{port}"),
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        _ => text.to_owned(),
    };
    let Ok(address) = address.parse::<std::net::SocketAddr>() else {
        let problem = format!("`metrics.listen`: {text:?} is not ADDRESS:PORT with numbers");
        return Err(listen.map_or_else(|| Fault::new(1, 1, &*problem), |at| fault(at, &*problem)));
    };
    let table = draft.table("metrics");
    table
        .note("The figures have other names here: docs/metrics.md.")
        .set("listen", address.to_string());
    if !address.ip().is_loopback() {
        table
            .note("Other machines can reach this address. Plain HTTP, as it was.")
            .set("allow_remote", true);
    }
    Ok(())
}

/// What nothing here is equal to.
fn rest(draft: &mut Draft, config: &Config) {
    if let Some(name) = &config.node_name {
        draft.note(format!(
            "node_name was {}: machines are known by their machine-id, and shown with their host \
             name, which RC_NODE_NAME is too",
            quoted(&name.value)
        ));
    }
    if let Some(key) = &config.lock_key {
        draft.note(format!(
            "lock_key was {}: there is one semaphore per group, below `prefix` in [store]",
            quoted(&key.value)
        ));
    }
    if let Some(namespace) = config.etcd_namespace.as_ref().filter(|at| !at.value.is_empty()) {
        draft.note(format!(
            "etcd_namespace was {}: fleets that share one etcd are kept apart by `prefix` in \
             [store] or by `groups` in [machine]. Without either they share one limit",
            quoted(&namespace.value)
        ));
    }
    if let Some(ttl) = &config.lock_ttl_sec {
        draft.note(format!(
            "lock_ttl_sec was {}: a slot does not run out. It is freed by the machine that is back \
             and healthy, or by a person",
            ttl.value
        ));
    }
    for (key, value) in
        [("backoff_min_sec", &config.backoff_min_sec), ("backoff_max_sec", &config.backoff_max_sec)]
    {
        if let Some(value) = value {
            draft.note(format!(
                "{key} was {}: a machine without a slot waits in a queue and is woken when it is \
                 its turn",
                value.value
            ));
        }
    }
    draft.note(
        "how many machines may be down at once is kept in the store: 1, until `rebootlockctl \
         set-max` says otherwise. clusterrebootd's lock let in one, too",
    );
}

/// Systemd starts a service at the root, and ours has no other place either.
fn absolute(key: &str, path: &At<String>) -> Result<String, Fault> {
    let text = path.value.trim();
    if !text.starts_with('/') {
        let problem = format!("`{key}`: {text:?} is not a full path; write one that begins with /");
        return Err(fault(path, problem));
    }
    Ok(text.to_owned())
}

/// All numbers here are bounded far below where this matters.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
