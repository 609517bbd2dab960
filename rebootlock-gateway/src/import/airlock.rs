//! airlock's `config.toml`.
//!
//! It is TOML with four tables. airlock ignores keys that it does not know; they are named here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rebootlock::id::Group;
use serde::Deserialize;
use toml::{Table, Value};

/// airlock's own.
const DEFAULT_PORT: u16 = 9090;
const DEFAULT_TIMEOUT_MS: u64 = 3000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    service: Service,
    status: Status,
    etcd3: Etcd,
    lock: Lock,
    #[serde(flatten)]
    unknown: Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Service {
    address: Option<String>,
    port: Option<u16>,
    tls: Option<bool>,
    #[serde(flatten)]
    unknown: Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    enabled: bool,
    address: Option<String>,
    port: Option<u16>,
    tls: Option<bool>,
    #[serde(flatten)]
    unknown: Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Etcd {
    endpoints: Vec<String>,
    transaction_timeout_ms: Option<u64>,
    client_cert_pub_path: Option<String>,
    client_cert_key_path: Option<String>,
    #[serde(flatten)]
    unknown: Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Lock {
    default_group_name: Option<String>,
    default_slots: Option<u32>,
    groups: Vec<OneGroup>,
    #[serde(flatten)]
    unknown: Table,
}

#[derive(Debug, Deserialize)]
struct OneGroup {
    name: String,
    slots: Option<u32>,
    #[serde(flatten)]
    unknown: Table,
}

pub(super) fn convert(text: &str) -> Result<String, String> {
    let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut out = Out::default();
    out.comment(
        "Made from airlock's configuration by `rebootlock-gateway import`. Read the comments, put \
         it at /etc/rebootlock/rebootlock.toml, and try it with `rebootlock-gateway serve`. Slots \
         that are held through airlock now are taken over by `rebootlock-gateway take-over`.",
    );
    store(&config.etcd3, &mut out)?;
    gateway(&config, &mut out)?;
    groups(&config.lock, &mut out)?;
    let unknown = [
        ("", &config.unknown),
        ("service.", &config.service.unknown),
        ("status.", &config.status.unknown),
        ("etcd3.", &config.etcd3.unknown),
        ("lock.", &config.lock.unknown),
    ];
    let of_groups = config.lock.groups.iter().map(|group| ("lock.groups.", &group.unknown));
    let unknown = unknown.into_iter().chain(of_groups);
    let unknown: Vec<_> =
        unknown.flat_map(|(at, keys)| keys.keys().map(move |key| format!("{at}{key}"))).collect();
    if !unknown.is_empty() {
        out.line("");
        out.comment(&format!("airlock ignores these, and so does this: {}", unknown.join(", ")));
    }
    Ok(out.0)
}

fn store(etcd: &Etcd, out: &mut Out) -> Result<(), String> {
    if etcd.endpoints.is_empty() {
        return Err(
            "`etcd3.endpoints` names no etcd; airlock does not start without one".to_owned()
        );
    }
    let with_certificate = etcd.client_cert_pub_path.is_some();
    let scheme = if with_certificate { "https" } else { "http" };
    let endpoints: Vec<_> = etcd
        .endpoints
        .iter()
        .map(|endpoint| match endpoint.contains("://") {
            true => endpoint.clone(),
            false => format!("{scheme}://{endpoint}"),
        })
        .collect();
    out.line("\n[store]");
    out.set("endpoints", endpoints);
    match (&etcd.client_cert_pub_path, &etcd.client_cert_key_path) {
        (Some(cert), Some(key)) => {
            out.comment(
                "airlock trusts the system's authorities for etcd's certificate, as this does; one \
                 of your own goes into ca_file, which airlock does not have.",
            );
            out.set("cert_file", cert.as_str());
            out.set("key_file", key.as_str());
        }
        (None, None) => {}
        _ => {
            return Err(
                "of `etcd3.client_cert_pub_path` and `etcd3.client_cert_key_path` only one \
                        is there; a client certificate needs both"
                    .to_owned(),
            );
        }
    }
    let millis = etcd.transaction_timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS);
    out.set("timeout_secs", seconds(millis));
    Ok(())
}

/// Whole ones, and not none.
fn seconds(millis: u64) -> i64 {
    i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX).clamp(1, 60)
}

fn gateway(config: &Config, out: &mut Out) -> Result<(), String> {
    let Config { service, status, etcd3, .. } = config;
    let address = service.address.as_deref().unwrap_or("0.0.0.0");
    let port = service.port.unwrap_or(DEFAULT_PORT);
    let ip: std::net::IpAddr = address.parse().map_err(|_| {
        format!("`service.address` {address:?} is not the number of an address, such as 0.0.0.0")
    })?;
    out.line("\n[gateway]");
    if port == 0 {
        out.comment("airlock's port 0 is a free one, and another one each time.");
    }
    out.set("listen", std::net::SocketAddr::new(ip, port).to_string());
    if service.tls != Some(false) {
        out.comment(
            "airlock does not start unless service.tls is false: it speaks plain HTTP only, and so \
             does this.",
        );
    }
    if !ip.is_loopback() {
        out.comment(
            "Plain HTTP for other machines, as airlock serves it. With tls_cert_file and \
             tls_key_file in its place clients need https:// in their base_url.",
        );
        out.set("plain_http", true);
    }
    let millis = etcd3.transaction_timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS);
    out.set("answer_within_secs", seconds(millis));
    out.comment("Refusals are named as airlock names them, for dashboards of what clients log.");
    out.set("airlock_kinds", true);
    if status.enabled {
        let own = status.address.as_deref().unwrap_or_default();
        out.comment(&format!(
            "Figures under airlock's names too. They are served at /metrics of the address above, \
             and not at status.address {own:?}, status.port {}.",
            status.port.unwrap_or(0)
        ));
        out.set("airlock_metrics", true);
        if status.tls == Some(true) {
            out.comment("airlock reads status.tls, and serves plain HTTP all the same.");
        }
    } else {
        out.comment("airlock served no figures; this serves them at /metrics.");
    }
    Ok(())
}

fn groups(lock: &Lock, out: &mut Out) -> Result<(), String> {
    let default_slots = lock.default_slots.unwrap_or(1);
    let mut slots: BTreeMap<&str, u32> = BTreeMap::new();
    for (n, group) in lock.groups.iter().enumerate() {
        let known = slots.insert(&group.name, group.slots.unwrap_or(default_slots));
        if known.is_some() {
            let (n, name) = (n + 1, &group.name);
            return Err(format!("`lock.groups` number {n} is a second group {name:?}"));
        }
    }
    let default = lock.default_group_name.as_deref().unwrap_or("default");
    if slots.insert(default, default_slots).is_some() {
        out.line("");
        out.comment(&format!(
            "Group {default:?} is in lock.groups too; airlock goes by lock.default_slots for it."
        ));
    }
    for (name, slots) in slots {
        let group = Group::new(name).map_err(|error| format!("group {name:?}: {error}"))?;
        out.line("\n[[group]]");
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        if !group.as_str().chars().all(allowed) {
            out.comment(
                "FleetLock allows letters, digits, dots and hyphens only, and this holds clients \
                 to it: nobody can ask for this group.",
            );
        }
        out.set("name", name);
        if slots == 0 {
            out.comment("As in airlock: nobody in it may reboot.");
        }
        out.set("slots", i64::from(slots));
    }
    if default != "default" && !lock.groups.iter().any(|group| group.name == "default") {
        out.line("\n[[group]]");
        out.comment(
            "airlock does not know this group; here it is always there. Without slots nobody in it \
             reboots either.",
        );
        out.set("name", "default");
        out.set("slots", 0);
    }
    Ok(())
}

/// The file in the making.
#[derive(Default)]
struct Out(String);

impl Out {
    fn line(&mut self, text: &str) {
        // Writing into a string does not fail.
        let _ = writeln!(self.0, "{text}");
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.line(&format!("{key} = {}", value.into()));
    }

    /// Wrapped, and none of its lines ended by what came from outside.
    fn comment(&mut self, text: &str) {
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut line = "#".to_owned();
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            if line.len() + word.len() > 100 && line.len() > 1 {
                self.line(&line);
                line = "#".to_owned();
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(&line);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;
    use rebootlock::config::{Fragment, Settings};

    use super::super::{ImportError, Peer, convert};

    fn converted(text: &str) -> Result<String, ImportError> {
        convert(Peer::Airlock, &[(PathBuf::from("config.toml"), text.to_owned())])
            .map(|ours| ours.text)
    }

    fn settings(text: &str) -> Settings {
        let ours = converted(text).unwrap();
        Settings::decide(Fragment::parse(Path::new("ours"), &ours).unwrap()).unwrap()
    }

    fn ours(text: &str) -> String {
        converted(text).unwrap()
    }

    fn fault(text: &str) -> String {
        converted(text).unwrap_err().to_string()
    }

    const ETCD: &str = "[etcd3]\nendpoints = [\"http://etcd:2379\"]\n";

    #[test]
    fn all_that_airlock_knows_has_its_place_here() {
        let text = "[service]\naddress = \"127.0.0.1\"\nport = 3333\ntls = false\n\
                    [status]\nenabled = true\naddress = \"127.0.0.1\"\nport = 2222\n\
                    [etcd3]\nendpoints = [\"https://a:2379\", \"b:2379\"]\n\
                    transaction_timeout_ms = 1500\nclient_cert_pub_path = \"/c.pem\"\n\
                    client_cert_key_path = \"/c.key\"\n\
                    [lock]\ndefault_group_name = \"all\"\ndefault_slots = 2\n\
                    [[lock.groups]]\nname = \"db\"\nslots = 5\n[[lock.groups]]\nname = \"web\"\n";
        let settings = settings(text);
        let gateway = &settings.gateway;
        assert_eq!(gateway.listen, ["127.0.0.1:3333".parse().unwrap()]);
        assert!(!gateway.plain_http && gateway.airlock_kinds && gateway.airlock_metrics);
        assert_eq!(gateway.answer_within.as_secs(), 2);
        let groups: Vec<_> =
            settings.groups.iter().map(|group| (group.name.as_str(), group.slots)).collect();
        let expected = [("all", Some(2)), ("db", Some(5)), ("web", Some(2)), ("default", Some(0))];
        assert_eq!(groups, expected);
        let ours = ours(text);
        assert!(ours.contains("endpoints = [\"https://a:2379\", \"https://b:2379\"]"), "{ours}");
        assert!(ours.contains("status.port 2222"), "{ours}");
    }

    #[test]
    fn nothing_but_an_etcd_is_airlocks_defaults() {
        let settings = settings(ETCD);
        assert_eq!(settings.gateway.listen, ["0.0.0.0:9090".parse().unwrap()]);
        assert!(settings.gateway.plain_http && !settings.gateway.airlock_metrics);
        assert_eq!(settings.groups.len(), 1);
        assert_eq!(settings.groups[0].slots, Some(1));
        assert!(ours(ETCD).contains("does not start unless service.tls is false"));
    }

    #[test]
    fn what_airlock_ignores_or_overrules_is_said() {
        let text = format!(
            "{ETCD}prefix = \"x\"\n[lock]\ndefault_slots = 3\n[[lock.groups]]\nname = \"default\"\n\
             slots = 9\n[[lock.groups]]\nname = \"a_b\"\nwindow = \"Mon\"\n[hooks]\nx = 1\n"
        );
        let ours = ours(&text);
        assert!(ours.contains("so does this: hooks, etcd3.prefix, lock.groups.window"), "{ours}");
        assert!(ours.contains("airlock goes by lock.default_slots"), "{ours}");
        assert!(ours.contains("nobody can\n# ask for this group"), "{ours}");
        assert!(ours.contains("name = \"default\"\nslots = 3"), "{ours}");
    }

    #[test]
    fn what_cannot_be_understood_is_said_with_its_place() {
        for (text, said) in [
            ("", "config.toml: `etcd3.endpoints` names no etcd"),
            ("[etcd3]\nendpoints = 1", "line 2, column 13"),
            ("[lock", "line 1"),
            (&format!("{ETCD}client_cert_pub_path = \"/c\""), "needs both"),
            (&format!("{ETCD}[service]\naddress = \"gw\""), "`service.address` \"gw\" is not"),
            (&format!("{ETCD}[lock]\ndefault_slots = -1"), "line 4"),
            (
                &format!("{ETCD}[[lock.groups]]\nname = \"a\"\n[[lock.groups]]\nname = \"a\""),
                "number 2 is a second group \"a\"",
            ),
        ] {
            let fault = fault(text);
            assert!(fault.contains(said), "{text}: {fault}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}", name in ".{0,20}") {
            let _ = converted(&text);
            let quoted = toml::Value::from(name);
            let _ = converted(&format!(
                "{ETCD}[[lock.groups]]\nname = {quoted}\n[service]\naddress = {quoted}\n"
            ));
        }
    }
}
