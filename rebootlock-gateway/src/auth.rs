//! Who may ask: passwords and tokens out of a file of hashes, and client certificates.
//!
//! Nobody has to prove anything unless something is configured. Then everybody has to, by one of
//! them; who shows both a certificate and a password needs both to be right.

mod credentials;
mod passwords;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rebootlock::config::{ConfigError, GatewaySettings};
use rebootlock::id::{Group, MachineId};

pub use self::credentials::{Credential, Secret, new_token, read, token_digest};
use self::passwords::Passwords;
pub use self::passwords::hash;

/// The names in a client's certificate, which the TLS handshake has checked.
pub type CertificateNames = Arc<BTreeSet<String>>;

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing was shown.
    #[error(
        "credentials are needed: a user and a password, a bearer token or a client certificate"
    )]
    Missing,
    /// Something was shown that is not known here.
    #[error("the credentials are not known here")]
    Wrong,
    /// So many passwords are being checked that this one had to wait too long.
    #[error("too many passwords are being checked; ask again")]
    Busy,
}

/// Who asks, as far as is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// What the file calls it; for logs.
    pub name: Option<String>,
    groups: Option<BTreeSet<Group>>,
    ids: Option<BTreeSet<MachineId>>,
    certificate: Option<CertificateNames>,
}

impl Caller {
    /// Whether it may speak for `machine` in `group`.
    ///
    /// # Errors
    /// What stands against it, in words.
    pub fn may(&self, group: &Group, machine: &MachineId) -> Result<(), String> {
        if self.groups.as_ref().is_some_and(|groups| !groups.contains(group)) {
            return Err(format!("these credentials are not for group {group}"));
        }
        if self.ids.as_ref().is_some_and(|ids| !ids.contains(machine)) {
            return Err(format!("these credentials are not for id {machine}"));
        }
        if self.certificate.as_ref().is_some_and(|names| !names.contains(machine.as_str())) {
            return Err(format!("the client certificate does not name {machine}"));
        }
        Ok(())
    }
}

impl Caller {
    /// Whether its credentials, or its certificate, are for this machine by name.
    pub fn is_for(&self, machine: &MachineId) -> bool {
        self.ids.as_ref().is_some_and(|ids| ids.contains(machine))
            || self.certificate.as_ref().is_some_and(|names| names.contains(machine.as_str()))
    }
}

/// Everybody who may ask.
#[derive(Debug, Default)]
pub struct Auth {
    users: BTreeMap<String, (Credential, String)>,
    tokens: BTreeMap<[u8; 32], Credential>,
    passwords: Passwords,
    /// Whether a certificate that the handshake has checked is enough.
    certificates: bool,
    name_is_id: bool,
}

impl Auth {
    /// What `settings` say, with the file with credentials.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and the place in it.
    pub fn of(settings: &GatewaySettings) -> Result<Self, ConfigError> {
        let mut auth = Self::default();
        if let Some(tls) = &settings.tls {
            auth.certificates = tls.client_ca_file.is_some();
            auth.name_is_id = tls.client_name_is_id;
        }
        let Some(path) = &settings.credentials_file else { return Ok(auth) };
        for (credential, secret) in read(path)? {
            match secret {
                Secret::Password(hash) => {
                    auth.users.insert(credential.name.clone(), (credential, hash));
                }
                Secret::Token(digest) => {
                    auth.tokens.insert(digest, credential);
                }
            }
        }
        Ok(auth)
    }

    /// Whether anybody has to prove anything.
    pub fn is_needed(&self) -> bool {
        self.certificates || !self.users.is_empty() || !self.tokens.is_empty()
    }

    /// Finds out who asks.
    ///
    /// # Errors
    /// [`Refused`] says why it is not let in.
    pub async fn caller(
        &self,
        headers: &HeaderMap,
        certificate: Option<&CertificateNames>,
    ) -> Result<Caller, Refused> {
        if !self.is_needed() {
            return Ok(Caller::default());
        }
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let caller = match (shown.next(), shown.next()) {
            (Some(value), None) => {
                // A certificate alone is enough; where no passwords are known one is of no matter.
                if self.users.is_empty() && self.tokens.is_empty() && certificate.is_some() {
                    Caller::default()
                } else {
                    let text = value.to_str().map_err(|_| Refused::Wrong)?;
                    self.credential(text).await?.caller()
                }
            }
            (Some(_), Some(_)) => return Err(Refused::Wrong),
            (None, _) if self.certificates && certificate.is_some() => Caller::default(),
            (None, _) => return Err(Refused::Missing),
        };
        let certificate = certificate.filter(|_| self.name_is_id).cloned();
        Ok(Caller { certificate, ..caller })
    }

    async fn credential(&self, text: &str) -> Result<&Credential, Refused> {
        let (scheme, rest) = text.split_once(' ').ok_or(Refused::Wrong)?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            // Whoever can measure how long this takes learns about a digest, not about a token.
            return self.tokens.get(&token_digest(rest)).ok_or(Refused::Wrong);
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(Refused::Wrong);
        }
        let decoded = STANDARD.decode(rest).map_err(|_| Refused::Wrong)?;
        let decoded = String::from_utf8(decoded).map_err(|_| Refused::Wrong)?;
        let (name, password) = decoded.split_once(':').ok_or(Refused::Wrong)?;
        let known = self.users.get(name);
        let hash = known.map(|(_, hash)| hash.as_str());
        if self.passwords.is_right(name, password, hash).await? {
            return known.map(|(credential, _)| credential).ok_or(Refused::Wrong);
        }
        Err(Refused::Wrong)
    }
}

impl Credential {
    fn caller(&self) -> Caller {
        Caller {
            name: Some(self.name.clone()),
            groups: self.groups.clone(),
            ids: self.ids.clone(),
            certificate: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn auth(entries: &str) -> Auth {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), entries).unwrap();
        let text = format!("[gateway]\ncredentials_file = {:?}", file.path());
        let path = std::path::Path::new("test.toml");
        let fragment = rebootlock::config::Fragment::parse(path, &text).unwrap();
        Auth::of(&rebootlock::config::Settings::decide(fragment).unwrap().gateway).unwrap()
    }

    fn basic(name: &str, password: &str) -> HeaderMap {
        let value = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        [(AUTHORIZATION, value.parse().unwrap())].into_iter().collect()
    }

    fn bearer(token: &str) -> HeaderMap {
        [(AUTHORIZATION, format!("Bearer {token}").parse().unwrap())].into_iter().collect()
    }

    fn names(name: &str) -> CertificateNames {
        Arc::new([name.to_owned()].into())
    }

    #[tokio::test]
    async fn without_anything_configured_everybody_may() {
        let caller = Auth::default().caller(&HeaderMap::new(), None).await.unwrap();
        assert!(caller.may(&Group::default(), &MachineId::new("a").unwrap()).is_ok());
    }

    #[tokio::test]
    async fn a_password_is_for_its_groups_and_ids() {
        let hash = hash("s3cret:").unwrap();
        let auth = auth(&format!(
            "[[client]]\nname = \"lb\"\npassword_hash = \"{hash}\"\ngroups = [\"lb\"]\nids = [\"a\"]"
        ));
        // The second time it is remembered.
        for _ in 0..2 {
            let caller = auth.caller(&basic("lb", "s3cret:"), None).await.unwrap();
            let may = |group, id| {
                caller.may(&Group::new(group).unwrap(), &MachineId::new(id).unwrap()).is_ok()
            };
            assert!(may("lb", "a") && !may("lb", "b") && !may("default", "a"));
        }
        for (name, password) in [("lb", "s3cret"), ("lb", ""), ("other", "s3cret:"), ("", "")] {
            let refused = auth.caller(&basic(name, password), None).await;
            assert_eq!(refused, Err(Refused::Wrong), "{name}:{password}");
        }
        assert_eq!(auth.caller(&HeaderMap::new(), None).await, Err(Refused::Missing));
        for odd in ["Basic", "Basic !", "Digest x", "Basic eA==", "Bearer "] {
            let headers = [(AUTHORIZATION, odd.parse().unwrap())].into_iter().collect();
            assert_eq!(auth.caller(&headers, None).await, Err(Refused::Wrong), "{odd}");
        }
        let mut two = basic("lb", "s3cret:");
        two.append(AUTHORIZATION, two[AUTHORIZATION].clone());
        assert_eq!(auth.caller(&two, None).await, Err(Refused::Wrong));
    }

    #[tokio::test]
    async fn a_token_is_known_by_its_digest() {
        let (token, line) = new_token();
        let auth = auth(&format!("[[client]]\nname = \"t\"\n{line}"));
        let caller = auth.caller(&bearer(&token), None).await.unwrap();
        assert_eq!(caller.name.as_deref(), Some("t"));
        assert_eq!(auth.caller(&bearer("x"), None).await, Err(Refused::Wrong));
    }

    #[tokio::test]
    async fn a_certificate_speaks_for_its_names_if_that_is_wanted() {
        for name_is_id in [false, true] {
            let auth = Auth { certificates: true, name_is_id, ..Auth::default() };
            let caller = auth.caller(&HeaderMap::new(), Some(&names("a"))).await.unwrap();
            let may = |id| caller.may(&Group::default(), &MachineId::new(id).unwrap()).is_ok();
            assert!(may("a"));
            assert_eq!(may("b"), !name_is_id);
            assert_eq!(auth.caller(&HeaderMap::new(), None).await, Err(Refused::Missing));
        }
    }
}
