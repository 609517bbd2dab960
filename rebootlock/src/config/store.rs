//! `[store]`: where the lock lives, and what needs one that can be read.

use std::path::Path;

use super::gate::GateKind;
use super::{ConfigError, Places, Settings, StoreFragment, StoreSettings};
use crate::fleetlock;
use crate::http::{Access, ClientCertificate, Credentials, SecretFile};
use crate::store::Endpoint;

impl StoreSettings {
    pub(super) fn decide(store: StoreFragment) -> Result<Self, ConfigError> {
        let given = |endpoints: Vec<Endpoint>| (!endpoints.is_empty()).then_some(endpoints);
        let endpoints = store
            .endpoints
            .clone()
            .and_then(given)
            .unwrap_or_else(|| vec![Endpoint::Etcd("http://127.0.0.1:2379".to_owned())]);
        let all = |kind: fn(&Endpoint) -> bool| endpoints.iter().all(kind);
        let fleetlock = all(|endpoint| matches!(endpoint, Endpoint::FleetLock(_)));
        let alike = fleetlock
            || all(|endpoint| matches!(endpoint, Endpoint::Etcd(_)))
            || all(|endpoint| matches!(endpoint, Endpoint::Gateway(_)));
        if endpoints.len() > 1 && !alike {
            let problem = "several endpoints must all be etcd's, all gateways of one store, or all of \
                           one FleetLock service; a sqlite: or memory: one stands alone";
            return Err(fault("store.endpoints", problem));
        }
        if store.cert_file.is_some() != store.key_file.is_some() {
            let problem = "a client certificate needs both cert_file and key_file";
            let key_alone = store.cert_file.is_none();
            return Err(fault(
                if key_alone { "store.key_file" } else { "store.cert_file" },
                problem,
            ));
        }
        if store.username.is_some() && store.password_file.is_none() && store.password.is_none() {
            return Err(fault("store.username", "a user name needs a password_file"));
        }
        let access = if fleetlock { web_access(&store)? } else { Access::default() };
        if !fleetlock && store.username.is_some() && store.token_file.is_some() {
            let problem = "stands for who we are, and so do username and password_file; only one \
                           of both can be sent";
            return Err(fault("store.token_file", problem));
        }
        let password = match (store.password, &store.password_file) {
            // Read when it is sent, and anew each time.
            _ if fleetlock => None,
            (Some(password), _) => Some(password),
            (None, Some(path)) => Some(read_password(path)?),
            (None, None) => None,
        };
        Ok(Self {
            endpoints,
            ca_file: store.ca_file,
            cert_file: store.cert_file,
            key_file: store.key_file,
            username: store.username,
            password,
            access,
            password_file: store.password_file,
            token_file: store.token_file,
            keys: store.prefix.unwrap_or_default(),
            timeout: super::secs(store.timeout_secs, 5),
        })
    }

    /// Whether slots come from a FleetLock server and there is no store.
    pub fn is_fleetlock(&self) -> bool {
        matches!(self.endpoints.first(), Some(Endpoint::FleetLock(_)))
    }
}

/// How a web server is talked to that `store` names.
fn web_access(store: &StoreFragment) -> Result<Access, ConfigError> {
    let file = |setting, path: &Path| SecretFile { setting, path: path.to_owned() };
    let credentials = match (&store.username, &store.password_file, &store.token_file) {
        (None, None, None) => Credentials::None,
        (None, None, Some(path)) => Credentials::Bearer(file("token_file", path)),
        (Some(username), Some(path), None) if !username.contains(':') => {
            Credentials::Basic { username: username.clone(), password: file("password_file", path) }
        }
        (Some(_), Some(_), None) => {
            return Err(fault("store.username", "a name that is sent as such has no colon in it"));
        }
        (Some(_), None, None) => {
            return Err(fault("store.username", "a user name needs a password_file"));
        }
        (None, Some(_), _) => {
            return Err(fault("store.password_file", "a password needs a username"));
        }
        (Some(_), _, Some(_)) => {
            let problem = "a server is shown either a token or a username with a password_file";
            return Err(fault("store.token_file", problem));
        }
    };
    let certificate = store.cert_file.clone().zip(store.key_file.clone());
    Ok(Access {
        ca_file: store.ca_file.clone(),
        certificate: certificate
            .map(|(cert_file, key_file)| ClientCertificate { cert_file, key_file }),
        credentials,
    })
}

/// What is asked of a store although there is only a FleetLock server.
pub(super) fn check_without_store(settings: &Settings, places: &Places) -> Result<(), ConfigError> {
    if !settings.store.is_fleetlock() {
        return Ok(());
    }
    match settings.machine.groups.as_slice() {
        [group] if fleetlock::is_group(group) => {}
        [group] => {
            let problem = format!(
                "{group:?} cannot be sent to a FleetLock server, whose groups have letters, digits, \
                 dots and hyphens only",
                group = group.as_str()
            );
            return Err(fault("machine.groups", problem));
        }
        _ => {
            let problem = "a FleetLock server gives slots in one group at a time; name one group, or \
                           let store.endpoints name a store";
            return Err(fault("machine.groups", problem));
        }
    }
    let mut gates = settings.gates.iter().filter(|gate| gate.enabled);
    match gates.find(|gate| matches!(gate.kind, GateKind::Cluster(_))) {
        Some(gate) => {
            let problem = format!(
                "gate `{}` asks how the other machines are, which only a store can tell and not a \
                 FleetLock server; take it out, or let store.endpoints name a store",
                gate.name
            );
            let place = places.get(&format!("gate.{}", gate.name)).cloned();
            Err(ConfigError::Setting { setting: "gate", problem, place })
        }
        None => Ok(()),
    }
}

fn fault(setting: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::of_setting(setting, problem)
}

/// The first line of the file: editors end it with a newline that is not part of the password.
fn read_password(path: &Path) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Fragment;
    use super::*;

    fn decide(text: &str) -> Result<Settings, String> {
        let fragment = Fragment::parse(Path::new("test.toml"), text).unwrap();
        Settings::decide(fragment).map_err(|error| error.to_string())
    }

    const SERVER: &str = "[store]\nendpoints = [\"fleetlock+https://gw\"]\n";

    #[test]
    fn a_fleetlock_server_is_shown_what_is_configured_and_files_are_not_read_yet() {
        let none = decide(SERVER).unwrap().store;
        assert!(none.is_fleetlock() && none.access == Access::default());
        let basic = format!(
            "{SERVER}username = \"web\"\npassword_file = \"/none\"\nca_file = \"/ca\"\n\
             cert_file = \"/cert\"\nkey_file = \"/key\"\n"
        );
        let access = decide(&basic).unwrap().store.access;
        let file = |setting, path: &str| SecretFile { setting, path: path.into() };
        let password = file("password_file", "/none");
        assert_eq!(access.credentials, Credentials::Basic { username: "web".to_owned(), password });
        assert_eq!(access.ca_file.as_deref(), Some(Path::new("/ca")));
        assert_eq!(access.certificate.unwrap().key_file, Path::new("/key"));
        let token = decide(&format!("{SERVER}token_file = \"/t\"\n")).unwrap().store.access;
        assert_eq!(token.credentials, Credentials::Bearer(file("token_file", "/t")));
    }

    #[test]
    fn what_contradicts_itself_or_needs_a_store_is_named() {
        for (more, said) in [
            ("username = \"a\"", "store.username: a user name needs a password_file"),
            ("password_file = \"/p\"", "store.password_file: a password needs a username"),
            (
                "username = \"a:b\"\npassword_file = \"/p\"",
                "store.username: a name that is sent as such has no colon in it",
            ),
            (
                "username = \"a\"\npassword_file = \"/p\"\ntoken_file = \"/t\"",
                "store.token_file: a server is shown either a token or",
            ),
            (
                "[machine]\ngroups = [\"a\", \"b\"]",
                "machine.groups: a FleetLock server gives slots in one group at a time; name one",
            ),
            (
                "[machine]\ngroups = [\"a_b\"]",
                "machine.groups: \"a_b\" cannot be sent to a FleetLock server, whose groups have",
            ),
            (
                "[[gate]]\ntype = \"cluster\"",
                "gate: gate `cluster` asks how the other machines are, which only a store can",
            ),
        ] {
            let error = decide(&format!("{SERVER}{more}\n")).unwrap_err();
            assert!(error.starts_with("test.toml:") && error.contains(said), "{more}: {error}");
        }
        for (endpoints, said) in [
            ("[\"fleetlock+http://a\", \"http://b\"]", Some("store.endpoints: several endpoints")),
            ("[\"memory:\", \"fleetlock+http://a\"]", Some("store.endpoints: several endpoints")),
            ("[\"fleetlock+http://a\", \"fleetlock+https://b/c\"]", None),
        ] {
            let decided = decide(&format!("[store]\nendpoints = {endpoints}\n"));
            match said {
                None => assert!(decided.is_ok(), "{decided:?}"),
                Some(said) => assert!(decided.unwrap_err().contains(said), "{endpoints}"),
            }
        }
        // Whether it is a gateway that answers is not known yet.
        assert!(decide("[store]\ntoken_file = \"/t\"").is_ok());
    }
}
