//! `[gateway]`: the HTTP service.

mod command;
mod goahead;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

pub use self::command::CommandLine;
use self::goahead::GoaheadTable;
pub use self::goahead::{ClusterSettings, GoaheadSettings, Pattern};
use super::ConfigError;
use super::network::Network;
use super::table::{Count, Secs, full_path};

/// Where the gateway listens unless told otherwise.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// `[gateway]` as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayFragment {
    /// Where to listen.
    #[serde(deserialize_with = "addresses")]
    pub listen: Option<Vec<SocketAddr>>,
    /// Whether other machines may be served without TLS.
    pub plain_http: Option<bool>,
    #[serde(deserialize_with = "prefixes")]
    prefixes: Option<Vec<String>>,
    reserve_secs: Option<Secs<1, 86_400>>,
    max_wait_secs: Option<Secs<0, 600>>,
    answer_within_secs: Option<Secs<1, 60>>,
    header_timeout_secs: Option<Secs<1, 300>>,
    body_timeout_secs: Option<Secs<1, 300>>,
    drain_secs: Option<Secs<0, 600>>,
    max_connections: Option<Count<1, 1_000_000>>,
    max_watches: Option<Count<1, 1_000_000>>,
    requests_per_minute: Option<Count<0, 1_000_000>>,
    trusted_proxies: Option<Vec<Network>>,
    disruption_permitted_secs: Option<Secs<1, 604_800>>,
    disruption_count_from: Option<CountFrom>,
    disruption_groups: Option<DisruptionGroups>,
    #[serde(deserialize_with = "hosts")]
    disruption_ready_hosts: Option<Vec<String>>,
    #[serde(deserialize_with = "full_path")]
    tls_cert_file: Option<PathBuf>,
    #[serde(deserialize_with = "full_path")]
    tls_key_file: Option<PathBuf>,
    #[serde(deserialize_with = "full_path")]
    client_ca_file: Option<PathBuf>,
    client_certificates: Option<ClientCertificates>,
    client_name_is_id: Option<bool>,
    #[serde(deserialize_with = "full_path")]
    credentials_file: Option<PathBuf>,
    anonymous_machines: Option<bool>,
    public_view: Option<bool>,
    airlock_kinds: Option<bool>,
    airlock_metrics: Option<bool>,
    release_silent_after_secs: Option<Secs<600, 604_800>>,
    release_budget: Option<Count<1, 1000>>,
    access_log: Option<bool>,
    goahead: Option<GoaheadTable>,
}

/// `[gateway]`, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Where to listen, at least one.
    pub listen: Vec<SocketAddr>,
    /// Whether other machines may be served without TLS.
    pub plain_http: bool,
    /// The paths under which everything is served besides the root, as `/a/b`.
    pub prefixes: Vec<String>,
    /// For how long whoever was refused is remembered, and a slot kept for it.
    pub reserve: Duration,
    /// The longest that a request may be held because its client asks for it.
    pub max_wait: Duration,
    /// A request whose answer takes longer is answered that the store is away.
    pub answer_within: Duration,
    /// From the first byte of a request, or the end of the one before, to the last of its headers.
    pub header_timeout: Duration,
    /// From then on to the last byte of its body.
    pub body_timeout: Duration,
    /// How long requests have to end when the gateway is told to stop.
    pub drain: Duration,
    /// So many connections at once; more wait in the kernel.
    pub max_connections: usize,
    /// So many of them may be watches on the store.
    pub max_watches: usize,
    /// So many requests of one address in a minute; any number if there is none.
    pub requests_per_minute: Option<u32>,
    /// Whose word counts on where a request comes from.
    pub trusted_proxies: Vec<Network>,
    /// Clients of disruption-manager.
    pub disruption: DisruptionSettings,
    /// TLS, and whose certificates are asked for.
    pub tls: Option<TlsSettings>,
    /// Who may ask for what, with hashes of passwords and tokens. Anybody for anything without.
    pub credentials_file: Option<PathBuf>,
    /// Whether clients of machines may ask for slots without credentials though there are some. If
    /// nothing is said, they may where there are none.
    pub anonymous_machines: Option<bool>,
    /// Whether anybody may look at the fleet. If nothing is said, whoever is on this machine, while
    /// the gateway serves it alone.
    pub public_view: Option<bool>,
    /// Refusals are named as airlock names them.
    pub airlock_kinds: bool,
    /// Figures have airlock's names too.
    pub airlock_metrics: bool,
    /// When the slot of a client that says nothing any more is given back without it; never if
    /// there is none.
    pub release_silent: Option<ReleaseSilent>,
    /// Whether every request is logged.
    pub access_log: bool,
    /// goahead clients, if they are served.
    pub goahead: Option<GoaheadSettings>,
}

/// Slots of clients that do not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseSilent {
    /// So long after it took its slot, and after it last asked for it again.
    pub after: Duration,
    /// So many in each group on one day.
    pub budget: u32,
}

/// What holds for clients of disruption-manager, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisruptionSettings {
    /// For how long a permission, or a wish for one, is good.
    pub permitted: Duration,
    /// From when on that time runs.
    pub count_from: CountFrom,
    /// Who says which groups there are, and what their limits are.
    pub groups: DisruptionGroups,
    /// The only hosts that are asked whether a machine is ready, if there is a list of them; `*.` before
    /// a name stands for all below it.
    pub ready_hosts: Option<Vec<String>>,
}

/// From when on the time of a permission runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CountFrom {
    /// From the last request, so that a machine that waited for a part of it has the rest.
    #[default]
    Request,
    /// From the moment it was granted.
    Grant,
}

/// Who says which groups there are, and what their limits are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DisruptionGroups {
    /// The tags of the machines that ask, where nobody else has said anything.
    #[default]
    Tags,
    /// The configuration and the store alone.
    Known,
}

/// TLS of the gateway, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM file with the certificate and those that sign it.
    pub cert_file: PathBuf,
    /// PEM file with its key.
    pub key_file: PathBuf,
    /// PEM file with the authorities whose client certificates count.
    pub client_ca_file: Option<PathBuf>,
    /// Whether there is no connection without one.
    pub client_certificates: ClientCertificates,
    /// Whether a client with a certificate may speak for the names in it only.
    pub client_name_is_id: bool,
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificates {
    /// There is no connection without.
    #[default]
    Required,
    /// One may come with a password or a token instead.
    Optional,
}

impl GatewayFragment {
    /// This layer with `over` laid on top of it.
    pub(super) fn overlaid(self, over: Self) -> Self {
        macro_rules! overlay {
            ($($member:ident),+) => { Self { $($member: over.$member.or(self.$member)),+ } };
        }
        let goahead = GoaheadTable::overlaid(self.goahead.clone(), over.goahead.clone());
        let whole = overlay!(
            listen,
            plain_http,
            prefixes,
            reserve_secs,
            max_wait_secs,
            answer_within_secs,
            header_timeout_secs,
            body_timeout_secs,
            drain_secs,
            max_connections,
            max_watches,
            requests_per_minute,
            trusted_proxies,
            disruption_permitted_secs,
            disruption_count_from,
            disruption_groups,
            disruption_ready_hosts,
            tls_cert_file,
            tls_key_file,
            client_ca_file,
            client_certificates,
            client_name_is_id,
            credentials_file,
            anonymous_machines,
            public_view,
            airlock_kinds,
            airlock_metrics,
            release_silent_after_secs,
            release_budget,
            access_log,
            goahead
        );
        Self { goahead, ..whole }
    }

    fn release_silent(&self) -> Result<Option<ReleaseSilent>, ConfigError> {
        let after = self.release_silent_after_secs.as_ref().map(|secs| secs.get());
        let budget = self.release_budget.as_ref().map(|count| count.get());
        match (after, budget) {
            (None, None) => Ok(None),
            // The bound is far below.
            (Some(after), budget) => Ok(Some(ReleaseSilent {
                after,
                budget: budget.map_or(1, |count| u32::try_from(count).unwrap_or(u32::MAX)),
            })),
            (None, Some(_)) => Err(ConfigError::of_setting(
                "gateway.release_budget",
                "says nothing without release_silent_after_secs",
            )),
        }
    }

    /// Whether what is said of machines without credentials fits what is asked of the others.
    fn check_anonymous(&self, tls: Option<&TlsSettings>) -> Result<(), ConfigError> {
        let by_certificate = tls.filter(|tls| tls.client_ca_file.is_some());
        let problem = match (self.anonymous_machines, by_certificate) {
            (Some(true), Some(tls)) if tls.client_name_is_id => {
                "true lets anybody ask in the name of a machine, by showing no certificate; that \
                 contradicts client_name_is_id = true"
            }
            (Some(true), Some(tls)) if tls.client_certificates == ClientCertificates::Required => {
                "true says nothing while there is no connection without a certificate; set \
                 client_certificates = \"optional\" too"
            }
            (Some(false), None) if self.credentials_file.is_none() => {
                "false lets nobody ask: there is neither a credentials_file nor a client_ca_file"
            }
            _ => return Ok(()),
        };
        Err(ConfigError::of_setting("gateway.anonymous_machines", problem))
    }

    fn tls(&self) -> Result<Option<TlsSettings>, ConfigError> {
        let fault = |setting, problem: &str| Err(ConfigError::of_setting(setting, problem));
        let client_ca_file = self.client_ca_file.clone();
        if client_ca_file.is_none() {
            let problem = "says nothing without a client_ca_file";
            if self.client_certificates.is_some() {
                return fault("gateway.client_certificates", problem);
            }
            if self.client_name_is_id == Some(true) {
                return fault("gateway.client_name_is_id", problem);
            }
        }
        match (self.tls_cert_file.clone(), self.tls_key_file.clone()) {
            (Some(cert_file), Some(key_file)) => Ok(Some(TlsSettings {
                cert_file,
                key_file,
                client_ca_file,
                client_certificates: self.client_certificates.unwrap_or_default(),
                client_name_is_id: self.client_name_is_id.unwrap_or(false),
            })),
            (None, None) if client_ca_file.is_none() => Ok(None),
            (None, None) => fault(
                "gateway.client_ca_file",
                "clients show certificates over TLS only; set tls_cert_file and tls_key_file",
            ),
            _ => fault("gateway.tls_cert_file", "TLS needs both tls_cert_file and tls_key_file"),
        }
    }
}

#[cfg(test)]
impl GatewayFragment {
    /// Without what has no default: the file for new machines shows an example of it.
    pub(super) fn without_examples(self) -> Self {
        assert!(self.tls_cert_file.is_some() && self.credentials_file.is_some());
        Self {
            prefixes: None,
            trusted_proxies: None,
            disruption_ready_hosts: None,
            tls_cert_file: None,
            tls_key_file: None,
            client_ca_file: None,
            client_certificates: None,
            credentials_file: None,
            anonymous_machines: None,
            goahead: None,
            public_view: None,
            release_silent_after_secs: None,
            release_budget: None,
            ..self
        }
    }
}

impl GatewaySettings {
    pub(super) fn decide(fragment: GatewayFragment) -> Result<Self, ConfigError> {
        let tls = fragment.tls()?;
        fragment.check_anonymous(tls.as_ref())?;
        let release_silent = fragment.release_silent()?;
        let listen = fragment.listen.unwrap_or_else(|| vec![LISTEN]);
        // The bound is far below.
        let count = |count: Count<1, 1_000_000>| usize::try_from(count.get()).unwrap_or(usize::MAX);
        let max_connections = fragment.max_connections.map_or(4096, count);
        let settings = Self {
            plain_http: fragment.plain_http.unwrap_or(false),
            prefixes: fragment.prefixes.unwrap_or_default(),
            reserve: fragment.reserve_secs.map_or(secs(330), Secs::get),
            max_wait: fragment.max_wait_secs.map_or(secs(60), Secs::get),
            answer_within: fragment.answer_within_secs.map_or(secs(5), Secs::get),
            header_timeout: fragment.header_timeout_secs.map_or(secs(20), Secs::get),
            body_timeout: fragment.body_timeout_secs.map_or(secs(10), Secs::get),
            drain: fragment.drain_secs.map_or(secs(10), Secs::get),
            max_connections,
            max_watches: fragment.max_watches.map_or(max_connections / 2, count),
            requests_per_minute: (fragment.requests_per_minute)
                .map(|count| u32::try_from(count.get()).unwrap_or(u32::MAX))
                .filter(|count| *count > 0),
            trusted_proxies: fragment.trusted_proxies.unwrap_or_default(),
            disruption: DisruptionSettings {
                permitted: fragment.disruption_permitted_secs.map_or(secs(3600), Secs::get),
                count_from: fragment.disruption_count_from.unwrap_or_default(),
                groups: fragment.disruption_groups.unwrap_or_default(),
                ready_hosts: fragment.disruption_ready_hosts,
            },
            tls,
            credentials_file: fragment.credentials_file,
            anonymous_machines: fragment.anonymous_machines,
            public_view: fragment.public_view,
            airlock_kinds: fragment.airlock_kinds.unwrap_or(false),
            airlock_metrics: fragment.airlock_metrics.unwrap_or(false),
            release_silent,
            access_log: fragment.access_log.unwrap_or(true),
            goahead: fragment.goahead.map(GoaheadSettings::decide),
            listen,
        };
        match settings.listen.iter().find(|address| !settings.may_listen(**address)) {
            None => Ok(settings),
            Some(address) => Err(ConfigError::of_setting(
                "gateway.listen",
                format!(
                    "{address} can be reached from other machines; expected an address in \
                     127.0.0.0/8 or [::1], or TLS by tls_cert_file and tls_key_file, or plain_http \
                     = true (--plain-http) where something else keeps strangers away"
                ),
            )),
        }
    }

    /// Whether somebody said where to listen, and it is not where it is anyway.
    pub fn says_where(&self) -> bool {
        self.listen != [LISTEN]
    }

    /// Whether nothing was asked for that makes `address` too open.
    pub fn may_listen(&self, address: SocketAddr) -> bool {
        self.plain_http || self.tls.is_some() || address.ip().is_loopback()
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// One address, or several.
fn addresses<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<SocketAddr>>, D::Error> {
    struct Visitor;
    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Vec<SocketAddr>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("ADDRESS:PORT or a list of them")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            // A name would have to be looked up before it could be told whether it is of this machine.
            let address = text.parse().map_err(|_| {
                E::custom(format!(
                    "`listen` {text:?} is not ADDRESS:PORT; expected one such as \
                     \"127.0.0.1:9090\" or \"[::1]:9090\""
                ))
            })?;
            Ok(vec![address])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut list: A,
        ) -> Result<Self::Value, A::Error> {
            let mut addresses = Vec::new();
            while let Some(text) = list.next_element::<String>()? {
                addresses.extend(Self.visit_str::<A::Error>(&text)?);
            }
            if addresses.is_empty() {
                return Err(A::Error::custom("`listen` must name an address"));
            }
            Ok(addresses)
        }
    }
    deserializer.deserialize_any(Visitor).map(Some)
}

/// Names or addresses of hosts, in small letters.
fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let mut written = Vec::<String>::deserialize(deserializer)?;
    for host in &mut written {
        *host = host.to_ascii_lowercase();
        let name = host.strip_prefix("*.").unwrap_or(host);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(D::Error::custom(format!(
                "{host:?} is not a host; expected one such as \"web-3.example\", \"*.example\" or \
                 \"10.0.0.5\""
            )));
        }
    }
    Ok(Some(written))
}

fn prefixes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let written = Vec::<String>::deserialize(deserializer)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    let segment = |segment: &str| {
        !segment.is_empty() && segment != "." && segment != ".." && segment.chars().all(plain)
    };
    for prefix in &written {
        if !prefix.strip_prefix('/').is_some_and(|rest| rest.split('/').all(segment)) {
            return Err(D::Error::custom(format!(
                "{prefix:?} is not a path; expected one such as \"/rebootlock\", of letters, \
                 digits and -._~, without a slash at its end"
            )));
        }
        if prefix.starts_with("/api/v1/") {
            return Err(D::Error::custom(format!(
                "nothing could be served below {prefix:?}: what is below /api/v1/ is the API's"
            )));
        }
    }
    Ok(Some(written))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::super::{Fragment, Settings};
    use super::*;

    fn decide(text: &str) -> Result<GatewaySettings, ConfigError> {
        let fragment = Fragment::parse(Path::new("test.toml"), &format!("[gateway]\n{text}"))?;
        Settings::decide(fragment).map(|settings| settings.gateway)
    }

    #[test]
    fn nothing_configured_serves_this_machine_alone() {
        let settings = decide("").unwrap();
        assert_eq!(settings.listen, [LISTEN]);
        assert_eq!(settings.reserve, secs(330));
        assert_eq!((settings.tls, settings.requests_per_minute), (None, None));
    }

    #[test]
    fn other_machines_are_served_without_tls_only_on_purpose() {
        for open in ["listen = \"0.0.0.0:80\"", "listen = [\"127.0.0.1:1\", \"[::]:80\"]"] {
            let error = decide(open).unwrap_err().to_string();
            assert!(error.contains("can be reached from other machines"), "{error}");
            assert!(decide(&format!("{open}\nplain_http = true")).is_ok());
            let tls = "tls_cert_file = \"/c\"\ntls_key_file = \"/k\"";
            assert!(decide(&format!("{open}\n{tls}")).unwrap().tls.is_some());
        }
    }

    #[test]
    fn a_bad_value_is_named_with_its_place_and_what_is_allowed() {
        for (line, said) in [
            ("listen = \"localhost:1\"", "2:10: `listen` \"localhost:1\" is not ADDRESS:PORT"),
            ("listen = []", "2:10: `listen` must name an address"),
            (
                "listen = 9090",
                "2:10: `listen`: invalid type: integer `9090`, expected ADDRESS:PORT or a",
            ),
            (
                "plain_http = \"yes\"",
                "2:14: `plain_http`: invalid type: string \"yes\", expected a boolean",
            ),
            ("prefixes = [\"x\"]", "2:12: `prefixes`: \"x\" is not a path; expected one such as"),
            ("prefixes = [\"/x/\"]", "2:12: `prefixes`: \"/x/\" is not a path"),
            ("prefixes = [\"/..\"]", "2:12: `prefixes`: \"/..\" is not a path"),
            (
                "prefixes = [\"/api/v1/store\"]",
                "2:12: `prefixes`: nothing could be served below \"/api/v1/store\"",
            ),
            ("reserve_secs = 0", "2:16: `reserve_secs`: 0 is not from 1 to 86400"),
            ("max_wait_secs = 601", "2:17: `max_wait_secs`: 601 is not from 0 to 600"),
            ("answer_within_secs = 0", "2:22: `answer_within_secs`: 0 is not from 1 to 60"),
            ("max_connections = 0", "2:19: `max_connections`: 0 is not from 1 to 1000000"),
            (
                "requests_per_minute = -1",
                "2:23: `requests_per_minute`: -1 is not from 0 to 1000000",
            ),
            (
                "trusted_proxies = [\"10.0.0.0/33\"]",
                "2:19: `trusted_proxies`: \"10.0.0.0/33\" is not a network; expected one such as",
            ),
            (
                "disruption_permitted_secs = 0",
                "2:29: `disruption_permitted_secs`: 0 is not from 1 to",
            ),
            (
                "disruption_groups = \"any\"",
                "2:21: `disruption_groups`: unknown value `any`; allowed are",
            ),
            (
                "disruption_ready_hosts = [\"a b\"]",
                "2:26: `disruption_ready_hosts`: \"a b\" is not a host; expected",
            ),
            ("tls_cert_file = \"c.pem\"", "2:17: `tls_cert_file`: \"c.pem\" is not a full path"),
            (
                "client_certificates = \"option\"",
                "2:23: `client_certificates`: unknown value `option`; did you mean",
            ),
            ("prefix = \"/x\"", "2:1: unknown key `prefix` in [gateway]; did you mean `prefixes`?"),
        ] {
            let error = decide(line).unwrap_err().to_string();
            assert!(error.starts_with(&format!("test.toml:{said}")), "{line}: {error}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for (text, setting) in [
            ("tls_cert_file = \"/c\"", "gateway.tls_cert_file"),
            ("tls_key_file = \"/k\"", "gateway.tls_cert_file"),
            ("client_ca_file = \"/a\"", "gateway.client_ca_file"),
            ("client_certificates = \"optional\"", "gateway.client_certificates"),
            ("client_name_is_id = true", "gateway.client_name_is_id"),
            ("anonymous_machines = false", "gateway.anonymous_machines"),
            (
                "anonymous_machines = true\nclient_ca_file = \"/a\"\ntls_cert_file = \"/c\"\n\
                 tls_key_file = \"/k\"",
                "gateway.anonymous_machines",
            ),
            (
                "anonymous_machines = true\nclient_ca_file = \"/a\"\ntls_cert_file = \"/c\"\n\
                 tls_key_file = \"/k\"\nclient_certificates = \"optional\"\nclient_name_is_id = true",
                "gateway.anonymous_machines",
            ),
            ("release_budget = 3", "gateway.release_budget"),
        ] {
            let error = decide(text).unwrap_err().to_string();
            assert!(
                error.contains(&format!(": {setting}: ")) && error.starts_with("test.toml:"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_group_has_the_slots_it_is_told_to() {
        let decide = |text| Settings::decide(Fragment::parse(Path::new("test.toml"), text)?);
        let text = "[[group]]\nname = \"lb\"\nslots = 0\n[[group]]\nname = \"db\"";
        let slots: Vec<_> = decide(text).unwrap().groups.iter().map(|group| group.slots).collect();
        assert_eq!(slots, [Some(0), None]);
        let error = decide("[[group]]\nname = \"a\"\nslots = -1").unwrap_err().to_string();
        assert_eq!(error, "test.toml:3:9: `slots`: -1 is not from 0 to 1000000");
    }
}
