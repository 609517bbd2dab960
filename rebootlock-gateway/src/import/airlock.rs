//! airlock's `config.toml`.
//!
//! It is TOML with four tables. airlock ignores keys that it does not know; they are named here. Those that it
//! knows it takes in whatever case.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use rebootlock::id::Group;
use rebootlock::store::Endpoint;
use serde::Deserialize;
use toml::de::{DeTable, DeValue, Deserializer};
use toml::{Spanned, Table, Value};

use crate::fold::folded;

/// airlock's own.
const DEFAULT_PORT: u16 = 9090;
const DEFAULT_TIMEOUT_MS: u64 = 3000;

/// Larger limits are none of ours.
const MOST_SLOTS: u64 = 1_000_000;

/// What airlock knows, by table.
const KEYS: [(&str, &[&str]); 6] = [
    ("", &["service", "status", "etcd3", "lock"]),
    ("service", &["address", "port", "tls"]),
    ("status", &["enabled", "address", "port", "tls"]),
    (
        "etcd3",
        &["endpoints", "transaction_timeout_ms", "client_cert_pub_path", "client_cert_key_path"],
    ),
    ("lock", &["default_group_name", "default_slots", "groups"]),
    ("lock.groups", &["name", "slots"]),
];

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
    default_slots: Option<u64>,
    groups: Vec<OneGroup>,
    #[serde(flatten)]
    unknown: Table,
}

#[derive(Debug, Deserialize)]
struct OneGroup {
    name: String,
    slots: Option<u64>,
    #[serde(flatten)]
    unknown: Table,
}

pub(super) fn convert(text: &str) -> Result<String, String> {
    let config = read(text)?;
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

fn read(text: &str) -> Result<Config, String> {
    let said = |mut error: toml::de::Error| {
        error.set_input(Some(text));
        error.to_string()
    };
    let parsed = DeTable::parse(text).map_err(said)?;
    let whole = parsed.span();
    let table = spelled("", parsed.into_inner(), text)?;
    Config::deserialize(Deserializer::from(Spanned::new(whole, table))).map_err(said)
}

/// The table with the keys that airlock knows in the spelling that they have here.
fn spelled<'i>(at: &str, table: DeTable<'i>, text: &str) -> Result<DeTable<'i>, String> {
    let known = KEYS.iter().find(|(place, _)| *place == at).map_or(&[][..], |(_, keys)| keys);
    let mut all = DeTable::new();
    for (mut key, mut value) in table {
        if let Some(name) = known.iter().find(|name| **name == folded(key.get_ref())) {
            let below = if at.is_empty() { (*name).to_owned() } else { format!("{at}.{name}") };
            if all.contains_key(*name) {
                let before = text.get(..key.span().start).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                return Err(format!(
                    "`{below}` is there in two spellings, which airlock takes for one key (line {line})"
                ));
            }
            *key.get_mut() = Cow::Borrowed(*name);
            respell(&below, value.get_mut(), text)?;
        }
        all.insert(key, value);
    }
    Ok(all)
}

fn respell(at: &str, value: &mut DeValue<'_>, text: &str) -> Result<(), String> {
    match value {
        DeValue::Table(table) => *table = spelled(at, std::mem::take(table), text)?,
        DeValue::Array(values) => {
            for value in values.iter_mut() {
                respell(at, value.get_mut(), text)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn store(etcd: &Etcd, out: &mut Out) -> Result<(), String> {
    if etcd.endpoints.is_empty() {
        return Err(
            "`etcd3.endpoints` names no etcd; airlock does not start without one".to_owned()
        );
    }
    // An empty one is airlock's way to say that there is none.
    let given = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
    let files = (given(&etcd.client_cert_pub_path), given(&etcd.client_cert_key_path));
    let scheme = if files.0.is_some() { "https" } else { "http" };
    let mut endpoints = Vec::new();
    for given in &etcd.endpoints {
        let endpoint = match given.contains("://") {
            true => given.clone(),
            false => format!("{scheme}://{given}"),
        };
        let is_http = endpoint.starts_with("http://") || endpoint.starts_with("https://");
        if !is_http || endpoint.parse::<Endpoint>().is_err() {
            return Err(format!(
                "`etcd3.endpoints` {given:?} is no address of an etcd, such as https://etcd:2379"
            ));
        }
        endpoints.push(endpoint);
    }
    out.line("\n[store]");
    out.set("endpoints", endpoints);
    match files {
        (Some(cert), Some(key)) => {
            out.comment(
                "airlock trusts the system's authorities for etcd's certificate, as this does; one \
                 of your own goes into ca_file, which airlock does not have.",
            );
            for (ours, theirs, path) in [
                ("cert_file", "client_cert_pub_path", cert),
                ("key_file", "client_cert_key_path", key),
            ] {
                if !path.starts_with('/') {
                    return Err(format!("`etcd3.{theirs}` {path:?} does not begin at the root"));
                }
                out.set(ours, path);
            }
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
    if u128::from(millis) != u128::try_from(seconds(millis)).unwrap_or_default() * 1000 {
        out.comment(&format!(
            "etcd3.transaction_timeout_ms was {millis}; here it is whole seconds from 1 to 60, below too."
        ));
    }
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
    let (ip, note) = match address {
        "" => (
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Some("service.address was empty: all addresses. Those of IPv6 too are [::]."),
        ),
        "localhost" => (IpAddr::from(Ipv4Addr::LOCALHOST), Some("service.address was localhost.")),
        _ => {
            let ip = address.parse().map_err(|_| {
                format!(
                    "`service.address` {address:?} is not the number of an address, such as 0.0.0.0"
                )
            })?;
            (ip, None)
        }
    };
    out.line("\n[gateway]");
    note.iter().for_each(|note| out.comment(note));
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
    let mut slots: BTreeMap<&str, u64> = BTreeMap::new();
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
        let Some(ours) = i64::try_from(slots).ok().filter(|_| slots <= MOST_SLOTS) else {
            return Err(format!("group {name:?}: {slots} slots; at most {MOST_SLOTS} here"));
        };
        out.set("slots", ours);
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
    fn keys_count_whatever_their_case_as_they_do_for_airlock() {
        let text = "[Service]\nPort = 3333\nADDRESS = \"127.0.0.1\"\ntls = false\n\
                    [ETCD3]\nEndpoints = [\"http://etcd:2379\"]\n\
                    [LOCK]\nDefault_Slots = 5\n\
                    [[Lock.Groups]]\nname = \"x\"\n";
        // Two tables of one name, in two spellings.
        assert!(fault(text).contains("`lock` is there in two spellings"), "{}", fault(text));
        let text = text.replace("LOCK", "Lock");
        let text = format!("{text}[[Lock.Groups]]\nName = \"db\"\nSlots=0\n\"\u{17f}lot\"=1\n");
        let settings = settings(&text);
        assert_eq!(settings.gateway.listen, ["127.0.0.1:3333".parse().unwrap()]);
        let groups: Vec<_> =
            settings.groups.iter().map(|group| (group.name.as_str(), group.slots)).collect();
        assert_eq!(groups, [("db", Some(0)), ("default", Some(5)), ("x", Some(5))]);
        let ignored = ours(&text).replace("\n# ", " ");
        assert!(ignored.contains("so does this: lock.groups.\u{17f}lot"), "{ignored}");
        for (twice, said) in [
            ("slots = 1\nSlots = 0", "`lock.groups.slots` is there in two spellings"),
            ("slots = 1\n\"\u{17f}lots\" = 0", "`lock.groups.slots` is there in two spellings"),
        ] {
            let fault = fault(&format!("{ETCD}[[lock.groups]]\nname = \"a\"\n{twice}\n"));
            assert!(fault.contains(said), "{fault}");
        }
    }

    #[test]
    fn what_airlock_runs_with_is_not_refused() {
        let text = format!(
            "{ETCD}client_cert_pub_path = \"\"\nclient_cert_key_path = \"\"\n[service]\naddress = "
        );
        for (address, ip, said) in [
            ("localhost", "127.0.0.1:9090", "service.address was localhost"),
            ("", "0.0.0.0:9090", "service.address was empty: all addresses"),
        ] {
            let text = format!("{text}{address:?}\n");
            assert_eq!(settings(&text).gateway.listen, [ip.parse().unwrap()]);
            assert!(ours(&text).contains(said) && !ours(&text).contains("cert_file ="), "{text}");
        }
        let slow = ours(&format!("{ETCD}transaction_timeout_ms = 90000\n"));
        assert!(slow.contains("transaction_timeout_ms was 90000"), "{slow}");
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
            (&format!("{ETCD}[lock]\ndefault_slots = 1000001"), "group \"default\": 1000001 slots"),
            ("[etcd3]\nendpoints = [\"memory:\"]", "`etcd3.endpoints` \"memory:\" is no address"),
            ("[etcd3]\nendpoints = [\"unix:///x\"]", "\"unix:///x\" is no address"),
            (
                &format!("{ETCD}client_cert_pub_path = \"c\"\nclient_cert_key_path = \"/k\""),
                "`etcd3.client_cert_pub_path` \"c\" does not begin at the root",
            ),
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
