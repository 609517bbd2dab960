//! From what a user writes to a store.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use hyper::Uri;
use serde::Deserialize;

use super::{
    EtcdOptions, EtcdStore, GatewayOptions, GatewayStore, MemoryStore, Result, SharedStore,
    SqliteStore, StoreError,
};
use crate::config::StoreSettings;

/// Where etcd listens unless told otherwise.
const ETCD_PORT: u16 = 2379;

/// Where a store is, as a user writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Endpoint {
    /// `http(s)://host:port`, or without the port, which is then etcd's own.
    Etcd(String),
    /// `gateway+http(s)://host:port`, kept without `gateway+`.
    Gateway(String),
    /// `sqlite:PATH`.
    Sqlite(PathBuf),
    /// `memory:`.
    Memory,
    /// `fleetlock+http(s)://host:port/base`, without the beginning and without a slash at its end. No
    /// store: it gives slots and takes them back, see [`crate::fleetlock`].
    FleetLock(String),
}

/// What is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "endpoint {endpoint:?} {problem}; expected http://host:2379, https://host:2379, \
     gateway+https://host, sqlite:/path, memory: or fleetlock+https://host/path"
)]
pub struct InvalidEndpoint {
    endpoint: String,
    problem: &'static str,
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidEndpoint> {
        let invalid = |problem| InvalidEndpoint { endpoint: text.to_owned(), problem };
        let text = text.trim();
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                "" => Err(invalid("names no file")),
                path => Ok(Self::Sqlite(path.into())),
            };
        }
        if let Some(url) = text.strip_prefix("fleetlock+") {
            return fleetlock(url);
        }
        let (url, is_gateway) = match text.strip_prefix("gateway+") {
            Some(url) => (url, true),
            None => (text, false),
        };
        let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))
        else {
            return Err(invalid("has no scheme that is known"));
        };
        let authority = rest.trim_end_matches('/');
        if authority.contains('/') {
            return Err(invalid("has a path"));
        }
        if authority.contains('@') {
            return Err(InvalidEndpoint {
                // The password stays out of logs.
                endpoint: "…@…".to_owned(),
                problem: match is_gateway {
                    true => "holds credentials (use username and password_file in [store])",
                    false => "holds credentials (use --etcd-username and --etcd-password-file)",
                },
            });
        }
        let host = authority.rsplit_once(':').map_or(authority, |(host, port)| {
            match port.parse::<u16>() {
                Ok(_) => host,
                Err(_) if authority.ends_with(']') => authority,
                Err(_) => "",
            }
        });
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(invalid("has no host or no valid port"));
        }
        let url = url.trim_end_matches('/').to_owned();
        // Web servers have ports that go without saying.
        Ok(if is_gateway { Self::Gateway(url) } else { Self::Etcd(url) })
    }
}

/// The URL with etcd's port, if it has none.
pub(super) fn with_etcd_port(url: &str) -> String {
    let has_no_port = url.parse::<Uri>().is_ok_and(|url| url.port().is_none());
    if has_no_port { format!("{url}:{ETCD_PORT}") } else { url.to_owned() }
}

/// A web address, whole but for what is asked there.
fn fleetlock(url: &str) -> std::result::Result<Endpoint, InvalidEndpoint> {
    let invalid = |problem| InvalidEndpoint { endpoint: format!("fleetlock+{url}"), problem };
    if url.contains('@') {
        return Err(InvalidEndpoint {
            // The password stays out of logs.
            endpoint: "fleetlock+…@…".to_owned(),
            problem: "holds credentials (use username and password_file, or token_file)",
        });
    }
    let parsed: Uri = url.parse().map_err(|_| invalid("is no web address"))?;
    if !matches!(parsed.scheme_str(), Some("http" | "https")) {
        return Err(invalid("is neither fleetlock+http:// nor fleetlock+https://"));
    }
    let authority = parsed.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let port_is_fine = authority.ends_with(']')
        || authority.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok());
    if parsed.host().unwrap_or_default().is_empty() || !port_is_fine {
        return Err(invalid("has no host or no valid port"));
    }
    if parsed.query().is_some() || url.contains('#') {
        return Err(invalid("has more behind its path"));
    }
    let base = url.trim_end_matches('/');
    if base.ends_with("/v1") || base.ends_with("/pre-reboot") || base.ends_with("/steady-state") {
        return Err(invalid("goes too far: /v1/pre-reboot is put behind it"));
    }
    Ok(Endpoint::FleetLock(base.to_owned()))
}

impl TryFrom<String> for Endpoint {
    type Error = InvalidEndpoint;

    fn try_from(text: String) -> std::result::Result<Self, InvalidEndpoint> {
        text.parse()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd(url) => f.write_str(&with_etcd_port(url)),
            Self::Gateway(url) => write!(f, "gateway+{url}"),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Memory => f.write_str("memory:"),
            Self::FleetLock(url) => write!(f, "fleetlock+{url}"),
        }
    }
}

/// How to reach the etcd that `settings` describe, if that is where they lead.
pub fn etcd_options(settings: &StoreSettings) -> Option<EtcdOptions> {
    let etcd = |endpoint: &Endpoint| match endpoint {
        Endpoint::Etcd(url) => Some(with_etcd_port(url)),
        _ => None,
    };
    Some(EtcdOptions {
        endpoints: settings.endpoints.iter().map(etcd).collect::<Option<Vec<_>>>()?,
        ca_file: settings.ca_file.clone(),
        cert_file: settings.cert_file.clone(),
        key_file: settings.key_file.clone(),
        username: settings.username.clone(),
        password: settings.password.clone(),
        timeout: settings.timeout,
    })
}

/// How to reach the gateways that `settings` describe, if that is where they lead.
pub fn gateway_options(settings: &StoreSettings) -> Option<GatewayOptions> {
    let gateway = |endpoint: &Endpoint| match endpoint {
        Endpoint::Gateway(url) => Some(url.clone()),
        _ => None,
    };
    Some(GatewayOptions {
        endpoints: settings.endpoints.iter().map(gateway).collect::<Option<Vec<_>>>()?,
        ca_file: settings.ca_file.clone(),
        cert_file: settings.cert_file.clone(),
        key_file: settings.key_file.clone(),
        username: settings.username.clone(),
        password_file: settings.password_file.clone(),
        token_file: settings.token_file.clone(),
        timeout: settings.timeout,
    })
}

/// Opens the store that `settings` describe. An etcd or a gateway need not answer yet. Call it inside the
/// runtime that will use the store.
///
/// # Errors
/// A file that cannot be read or opened, or credentials that contradict each other.
pub fn open(settings: &StoreSettings) -> Result<SharedStore> {
    if let Some(options) = gateway_options(settings) {
        return Ok(Arc::new(GatewayStore::new(&options)?));
    }
    if settings.token_file.is_some() {
        let problem = "a token_file is for gateways only, and no gateway was recognised there: write \
                       gateway+https://HOST:PORT for one, and set ca_file if its certificate is signed \
                       by an authority that this machine does not know";
        return Err(StoreError::Broken(problem.to_owned()));
    }
    if let Some(options) = etcd_options(settings) {
        return Ok(Arc::new(EtcdStore::new(options)?));
    }
    Ok(match settings.endpoints.first() {
        Some(endpoint @ Endpoint::FleetLock(_)) => {
            return Err(StoreError::Broken(format!(
                "{endpoint} is a FleetLock server, which gives slots and takes them back, and no store; \
                 name the store behind it"
            )));
        }
        Some(Endpoint::Sqlite(path)) => Arc::new(SqliteStore::open(path, settings.timeout)?),
        // Settings hold endpoints of one kind only, and one at least.
        _ => Arc::new(MemoryStore::new()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_users_write_them() {
        for (text, shown) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("https://etcd.example:2379/", "https://etcd.example:2379"),
            ("http://[::1]:2379", "http://[::1]:2379"),
            ("http://etcd", "http://etcd:2379"),
            ("http://[::1]", "http://[::1]:2379"),
            ("http://bücher:2379", "http://bücher:2379"),
            ("gateway+https://gw.example", "gateway+https://gw.example"),
            ("gateway+http://127.0.0.1:9090/", "gateway+http://127.0.0.1:9090"),
            ("sqlite:/var/lib/rebootlock.db", "sqlite:/var/lib/rebootlock.db"),
            ("sqlite:relative.db", "sqlite:relative.db"),
            ("memory:", "memory:"),
            ("fleetlock+https://gw.example/", "fleetlock+https://gw.example"),
            ("fleetlock+http://[::1]:9090/lock/", "fleetlock+http://[::1]:9090/lock"),
        ] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(shown.to_owned()));
        }
    }

    #[test]
    fn what_is_not_an_endpoint_is_refused_without_showing_passwords() {
        for text in [
            "",
            "127.0.0.1:2379",
            "ftp://x",
            "http://",
            "http://:2379",
            "http://h:port",
            "sqlite:",
            "http://h/v2",
            "gateway+ftp://x",
            "gateway+sqlite:/x",
            "gateway+http://h/v2",
            "fleetlock+",
            "fleetlock+gw:1",
            "fleetlock+ftp://gw",
            "fleetlock+http://",
            "fleetlock+http://gw:port",
            "fleetlock+http://gw/?group=a",
            "fleetlock+http://gw/v1/pre-reboot",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
        }
        let error = "http://u:secret@h:1".parse::<Endpoint>().map_err(|e| e.to_string());
        assert!(
            error.is_err_and(|said| !said.contains("secret") && said.contains("--etcd-username"))
        );
        let error = "fleetlock+http://u:secret@h".parse::<Endpoint>().map_err(|e| e.to_string());
        assert!(error.is_err_and(|said| !said.contains("secret") && said.contains("token_file")));
    }
}
