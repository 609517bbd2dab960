//! Who may ask: passwords and tokens out of a file of hashes, and client certificates.
//!
//! Nobody has to prove anything unless something is configured. Then everybody has to, by one of
//! them; who shows both a certificate and a password needs both to be right. Clients of machines need
//! not if `anonymous_machines` says so: many cannot. They stay what anybody is without credentials, and
//! what the credentials of a machine name is not for them.

mod credentials;
mod failures;
mod passwords;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rebootlock::config::{ConfigError, GatewaySettings};
use rebootlock::id::{Group, MachineId};

pub use self::credentials::{Credential, Role, Secret, new_token, read, token_digest};
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
    /// So many wrong passwords came from the address that this one was not looked at.
    #[error("too many wrong passwords came from your address; wait a minute")]
    Guessing,
}

/// Who asks, as far as is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// What the file calls it; for logs.
    pub name: Option<String>,
    /// What a person may do with these credentials.
    pub role: Option<Role>,
    groups: Option<BTreeSet<Group>>,
    ids: Option<BTreeSet<MachineId>>,
    certificate: Option<CertificateNames>,
    /// It is nobody that the file knows, where others are: these are not for it.
    barred: Option<Arc<Named>>,
}

/// What the credentials of machines are for, by name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    ids: BTreeSet<MachineId>,
    groups: BTreeSet<Group>,
}

impl Named {
    /// A machine that may prove who it is, by these, is nobody else's to speak for. Credentials for
    /// some groups and any machine in them keep others out of these. An agent's groups are everybody's:
    /// others wait there for the same slots.
    fn add(&mut self, credential: &Credential) {
        let Credential { groups, ids, role, .. } = credential;
        if !matches!(role, None | Some(Role::Agent)) {
            return;
        }
        match (ids, groups) {
            (Some(ids), _) => self.ids.extend(ids.iter().cloned()),
            (None, Some(groups)) if role.is_none() => self.groups.extend(groups.iter().cloned()),
            (None, _) => {}
        }
    }
}

impl Caller {
    /// Whether it may speak for `machine` in `group`.
    ///
    /// # Errors
    /// What stands against it, in words.
    pub fn may(&self, group: &Group, machine: &MachineId) -> Result<(), String> {
        if self.role == Some(Role::Viewer) {
            return Err("these credentials are for looking only".to_owned());
        }
        if let Some(named) = &self.barred {
            // Its name in a certificate that has to name it proves the machine as well.
            let proved = self.certificate.as_ref().is_some_and(|c| c.contains(machine.as_str()));
            if named.ids.contains(machine) && !proved {
                return Err(format!("{machine} has credentials here, and they were not shown"));
            }
            if named.groups.contains(group) {
                return Err(format!("group {group} takes credentials, and they were not shown"));
            }
        }
        self.reaches(Some(group), Some(machine))?;
        self.is_named(machine)
    }

    /// Whether its certificate names this machine, where it has to.
    ///
    /// # Errors
    /// What stands against it, in words.
    pub fn is_named(&self, machine: &MachineId) -> Result<(), String> {
        if self.certificate.as_ref().is_some_and(|names| !names.contains(machine.as_str())) {
            return Err(format!("the client certificate does not name {machine}"));
        }
        Ok(())
    }

    /// Whether its credentials are not for everything.
    pub fn is_limited(&self) -> bool {
        self.groups.is_some() || self.ids.is_some()
    }

    /// Whether its credentials are for these, or if there is none, for all of them.
    ///
    /// # Errors
    /// What stands against it, in words.
    pub fn reaches(
        &self,
        group: Option<&Group>,
        machine: Option<&MachineId>,
    ) -> Result<(), String> {
        self.reaches_group(group)?;
        self.reaches_machine(machine)
    }

    /// Whether its credentials are for this group, or without one, for all of them.
    ///
    /// # Errors
    /// What stands against it, in words.
    pub fn reaches_group(&self, group: Option<&Group>) -> Result<(), String> {
        if let Some(groups) = &self.groups
            && !group.is_some_and(|group| groups.contains(group))
        {
            return Err(match group {
                Some(group) => format!("these credentials are not for group {group}"),
                None => "these credentials are for some groups only".to_owned(),
            });
        }
        Ok(())
    }

    /// Whether its credentials are for this machine, or without one, for all of them.
    ///
    /// # Errors
    /// What stands against it, in words.
    pub fn reaches_machine(&self, machine: Option<&MachineId>) -> Result<(), String> {
        if let Some(ids) = &self.ids
            && !machine.is_some_and(|machine| ids.contains(machine))
        {
            return Err(match machine {
                Some(machine) => format!("these credentials are not for id {machine}"),
                None => "these credentials are for some machines only".to_owned(),
            });
        }
        Ok(())
    }
}

impl Caller {
    /// Whether it may sign in at a page: people do.
    pub fn may_sign_in(&self) -> bool {
        self.role.is_some_and(Role::is_a_persons)
    }

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
    /// By a name in their certificates.
    shown: BTreeMap<String, Credential>,
    passwords: Passwords,
    /// Whether a certificate that the handshake has checked is enough.
    certificates: bool,
    name_is_id: bool,
    /// Whether clients of machines may show nothing. If nothing is said, only where nobody has to.
    anonymous: Option<bool>,
    named: Arc<Named>,
}

impl Auth {
    /// What `settings` say, with the file with credentials.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and the place in it.
    pub fn of(settings: &GatewaySettings) -> Result<Self, ConfigError> {
        let mut auth = Self { anonymous: settings.anonymous_machines, ..Self::default() };
        let mut named = Named::default();
        if let Some(tls) = &settings.tls {
            auth.certificates = tls.client_ca_file.is_some();
            auth.name_is_id = tls.client_name_is_id;
        }
        let Some(path) = &settings.credentials_file else { return Ok(auth) };
        for (credential, secret) in read(path)? {
            named.add(&credential);
            match secret {
                Secret::Password(hash) => {
                    auth.users.insert(credential.name.clone(), (credential, hash));
                }
                Secret::Token(digest) => {
                    auth.tokens.insert(digest, credential);
                }
                Secret::Certificate(name) if !auth.certificates => {
                    let problem = format!(
                        "client {:?} shows certificate {name:?}, but there is no client_ca_file to \
                         check it by",
                        credential.name
                    );
                    let setting = "gateway.credentials_file";
                    return Err(ConfigError::of_setting(setting, problem));
                }
                Secret::Certificate(name) => {
                    auth.shown.insert(name, credential);
                }
            }
        }
        auth.named = Arc::new(named);
        Ok(auth)
    }

    /// Says in the log who may ask for slots, where that may not be what was meant.
    pub fn explain(&self) {
        let known = self.users.values().map(|(user, _)| user);
        let mut known = known.chain(self.tokens.values()).chain(self.shown.values());
        let person = |c: &Credential| c.role.is_some_and(Role::is_a_persons);
        match self.anonymous {
            Some(true) if self.is_needed() => tracing::info!(
                "machines may ask without credentials (anonymous_machines = true); people need theirs"
            ),
            None if self.is_needed() && !self.certificates && known.all(person) => tracing::warn!(
                "the credentials_file names people only, and so every machine that asks is refused: \
                 set gateway.anonymous_machines = true to serve machines without credentials, or give \
                 them some; = false keeps it as it is, and this line out of the log"
            ),
            _ => {}
        }
    }

    /// Whether anybody has to prove anything.
    pub fn is_needed(&self) -> bool {
        self.certificates
            || !self.users.is_empty()
            || !self.tokens.is_empty()
            || !self.shown.is_empty()
    }

    /// Whether there is anybody who can sign in at a page.
    pub fn has_people(&self) -> bool {
        let mut known = self.users.values().map(|(user, _)| user).chain(self.tokens.values());
        known.any(|credential| credential.role.is_some_and(Role::is_a_persons))
    }

    /// Finds out who asks for a slot, which a machine may do without being known where the settings
    /// say so. Wrong credentials are wrong all the same.
    ///
    /// # Errors
    /// [`Refused`] says why it is not let in.
    pub async fn for_a_machine(
        &self,
        headers: &HeaderMap,
        certificate: Option<&CertificateNames>,
        address: IpAddr,
    ) -> Result<Caller, Refused> {
        if self.anonymous == Some(false) && !self.is_needed() {
            return Err(Refused::Missing);
        }
        match self.caller(headers, certificate, address).await {
            Err(Refused::Missing) if self.anonymous == Some(true) => Ok(self.unknown()),
            caller => caller,
        }
    }

    /// Finds out who asks.
    ///
    /// # Errors
    /// [`Refused`] says why it is not let in.
    pub async fn caller(
        &self,
        headers: &HeaderMap,
        certificate: Option<&CertificateNames>,
        address: IpAddr,
    ) -> Result<Caller, Refused> {
        if !self.is_needed() {
            return Ok(Caller::default());
        }
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let caller = match (shown.next(), shown.next()) {
            (Some(value), None) => {
                // A certificate alone is enough; where no passwords are known one is of no matter.
                if self.users.is_empty() && self.tokens.is_empty() && certificate.is_some() {
                    self.by_certificate(certificate)?
                } else {
                    let text = value.to_str().map_err(|_| Refused::Wrong)?;
                    self.credential(text, address).await?
                }
            }
            (Some(_), Some(_)) => return Err(Refused::Wrong),
            (None, _) if self.certificates && certificate.is_some() => {
                self.by_certificate(certificate)?
            }
            (None, _) => return Err(Refused::Missing),
        };
        let certificate = certificate.filter(|_| self.name_is_id).cloned();
        Ok(Caller { certificate, ..caller })
    }

    /// Somebody that the file does not know.
    fn unknown(&self) -> Caller {
        Caller { barred: Some(self.named.clone()), ..Caller::default() }
    }

    /// Who shows a certificate that the handshake has checked: a client that the file knows by one of
    /// its names, or a machine, which may do no more than a stranger where others have credentials.
    fn by_certificate(&self, certificate: Option<&CertificateNames>) -> Result<Caller, Refused> {
        let names = certificate.iter().flat_map(|names| names.iter());
        let mut known = names.filter_map(|name| self.shown.get(name));
        match (known.next(), known.next()) {
            (None, _) => Ok(self.unknown()),
            (Some(credential), None) => Ok(credential.caller()),
            // Which of them it is nobody can tell.
            (Some(_), Some(_)) => Err(Refused::Wrong),
        }
    }

    /// Whether a password from `address` is looked at now.
    ///
    /// # Errors
    /// [`Refused::Guessing`] if too many were wrong.
    pub fn allow(&self, address: IpAddr) -> Result<(), Refused> {
        self.passwords.allow(address)
    }

    /// Who has this name and this password; or this token, which people may type as one.
    ///
    /// # Errors
    /// [`Refused`] if nobody has.
    pub async fn user(
        &self,
        name: &str,
        password: &str,
        address: IpAddr,
    ) -> Result<Caller, Refused> {
        let by_token = self.tokens.get(&token_digest(password));
        if let Some(credential) = by_token.filter(|credential| credential.name == name) {
            return Ok(credential.caller());
        }
        let known = self.users.get(name);
        let hash = known.map(|(_, hash)| hash.as_str());
        if self.passwords.is_right(name, password, hash, address).await? {
            return known.map(|(credential, _)| credential.caller()).ok_or(Refused::Wrong);
        }
        Err(Refused::Wrong)
    }

    /// What is known now of `name`, who has proved to be it before; and what stands for the password or
    /// token that would prove it now.
    pub fn still_knows(&self, name: &str) -> Option<(Caller, [u8; 32])> {
        if let Some((credential, hash)) = self.users.get(name) {
            return Some((credential.caller(), token_digest(hash)));
        }
        let mut tokens = self.tokens.iter();
        let (digest, credential) = tokens.find(|(_, credential)| credential.name == name)?;
        Some((credential.caller(), *digest))
    }

    async fn credential(&self, text: &str, address: IpAddr) -> Result<Caller, Refused> {
        let (scheme, rest) = text.split_once(' ').ok_or(Refused::Wrong)?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            // Whoever can measure how long this takes learns about a digest, not about a token.
            let known = self.tokens.get(&token_digest(rest));
            return known.map(Credential::caller).ok_or(Refused::Wrong);
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(Refused::Wrong);
        }
        let (name, password) = basic(rest).ok_or(Refused::Wrong)?;
        self.user(&name, &password, address).await
    }
}

/// Name and password behind the word `Basic`.
fn basic(text: &str) -> Option<(String, String)> {
    let decoded = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

/// The name that somebody who is not let in has said, for logs.
pub(crate) fn said(headers: &HeaderMap) -> Option<String> {
    let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let (name, _) = basic(rest).filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    Some(name)
}

impl Credential {
    fn caller(&self) -> Caller {
        Caller {
            name: Some(self.name.clone()),
            groups: self.groups.clone(),
            ids: self.ids.clone(),
            role: self.role,
            certificate: None,
            barred: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

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
        let caller = Auth::default().caller(&HeaderMap::new(), None, HERE).await.unwrap();
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
            let caller = auth.caller(&basic("lb", "s3cret:"), None, HERE).await.unwrap();
            let may = |group, id| {
                caller.may(&Group::new(group).unwrap(), &MachineId::new(id).unwrap()).is_ok()
            };
            assert!(may("lb", "a") && !may("lb", "b") && !may("default", "a"));
        }
        for (name, password) in [("lb", "s3cret"), ("lb", ""), ("other", "s3cret:"), ("", "")] {
            let refused = auth.caller(&basic(name, password), None, HERE).await;
            assert_eq!(refused, Err(Refused::Wrong), "{name}:{password}");
        }
        assert_eq!(auth.caller(&HeaderMap::new(), None, HERE).await, Err(Refused::Missing));
        for odd in ["Basic", "Basic !", "Digest x", "Basic eA==", "Bearer "] {
            let headers = [(AUTHORIZATION, odd.parse().unwrap())].into_iter().collect();
            assert_eq!(auth.caller(&headers, None, HERE).await, Err(Refused::Wrong), "{odd}");
        }
        let mut two = basic("lb", "s3cret:");
        two.append(AUTHORIZATION, two[AUTHORIZATION].clone());
        assert_eq!(auth.caller(&two, None, HERE).await, Err(Refused::Wrong));
    }

    #[tokio::test]
    async fn a_token_is_known_by_its_digest() {
        let (token, line) = new_token();
        let auth = auth(&format!("[[client]]\nname = \"t\"\n{line}"));
        let caller = auth.caller(&bearer(&token), None, HERE).await.unwrap();
        assert_eq!(caller.name.as_deref(), Some("t"));
        assert_eq!(auth.caller(&bearer("x"), None, HERE).await, Err(Refused::Wrong));
    }

    /// What somebody may do who shows nothing.
    async fn without(auth: &Auth) -> Result<Caller, Refused> {
        auth.for_a_machine(&HeaderMap::new(), None, HERE).await
    }

    fn speaks(caller: &Caller, group: &str, id: &str) -> bool {
        caller.may(&Group::new(group).unwrap(), &MachineId::new(id).unwrap()).is_ok()
    }

    #[tokio::test]
    async fn people_in_the_file_open_nothing_to_machines_unless_that_is_said() {
        let (token, line) = new_token();
        let file = format!("[[client]]\nname = \"alice\"\nrole = \"operator\"\n{line}");
        for anonymous in [None, Some(false)] {
            let auth = Auth { anonymous, ..auth(&file) };
            assert_eq!(without(&auth).await, Err(Refused::Missing));
        }
        let auth = Auth { anonymous: Some(true), ..auth(&file) };
        let caller = without(&auth).await.unwrap();
        assert!(speaks(&caller, "default", "a"));
        // It is nobody, and for people it is still needed to be somebody.
        assert_eq!((&caller.name, caller.role), (&None, None));
        assert_eq!(auth.caller(&HeaderMap::new(), None, HERE).await, Err(Refused::Missing));
        // Who shows something is who it is, or wrong.
        let alice = auth.for_a_machine(&bearer(&token), None, HERE).await.unwrap();
        assert_eq!(alice.name.as_deref(), Some("alice"));
        for wrong in [bearer("x"), basic("alice", ""), basic("", "")] {
            assert_eq!(auth.for_a_machine(&wrong, None, HERE).await, Err(Refused::Wrong));
        }
        let nothing = Auth { anonymous: Some(false), ..Auth::default() };
        assert_eq!(without(&nothing).await, Err(Refused::Missing));
    }

    #[tokio::test]
    async fn what_credentials_of_machines_name_takes_credentials() {
        let client = |name: &str, what: &str| {
            format!("[[client]]\nname = \"{name}\"\n{what}\n{}\n", new_token().1)
        };
        let file = [
            client("one", "ids = [\"a\"]\ngroups = [\"ops\"]"),
            client("db", "groups = [\"db\"]"),
            client("all", ""),
            client("agent", "role = \"agent\"\nids = [\"b\"]\ngroups = [\"web\"]"),
            client("olga", "role = \"operator\"\nids = [\"c\"]\ngroups = [\"lb\"]"),
        ];
        let auth = Auth { anonymous: Some(true), ..auth(&file.concat()) };
        let caller = without(&auth).await.unwrap();
        for (group, id) in [("ops", "a"), ("default", "a"), ("web", "b"), ("db", "x")] {
            assert!(!speaks(&caller, group, id), "{group} {id}");
        }
        for (group, id) in [("ops", "x"), ("web", "x"), ("lb", "c"), ("default", "x")] {
            assert!(speaks(&caller, group, id), "{group} {id}");
        }
    }

    #[tokio::test]
    async fn a_certificate_that_the_file_does_not_know_opens_no_more_than_none() {
        let (db, web) = (new_token(), new_token());
        let file = format!(
            "[[client]]\nname = \"db-1\"\nids = [\"db-1\"]\n{}\n\
             [[client]]\nname = \"web\"\ngroups = [\"web\"]\n{}\n",
            db.1, web.1
        );
        for anonymous in [None, Some(true)] {
            let auth = Auth { anonymous, certificates: true, ..auth(&file) };
            let of_m2 = names("m2");
            let m2 = auth.for_a_machine(&HeaderMap::new(), Some(&of_m2), HERE).await.unwrap();
            assert!(speaks(&m2, "default", "m2") && speaks(&m2, "default", "m3"));
            assert!(!speaks(&m2, "default", "db-1") && !speaks(&m2, "web", "m2"));
            // Neither takes anything from who shows what is asked for.
            let db_1 = auth.for_a_machine(&bearer(&db.0), Some(&of_m2), HERE).await.unwrap();
            assert!(speaks(&db_1, "default", "db-1"));
        }
        // A certificate that has to name the machine is its credentials too.
        let auth = Auth { certificates: true, name_is_id: true, ..auth(&file) };
        let own = auth.for_a_machine(&HeaderMap::new(), Some(&names("db-1")), HERE).await.unwrap();
        assert!(speaks(&own, "default", "db-1") && !speaks(&own, "web", "db-1"));
    }

    #[tokio::test]
    async fn a_certificate_may_be_a_persons() {
        let person = |name: &str, role| Credential {
            name: name.to_owned(),
            groups: None,
            ids: None,
            role: Some(role),
        };
        let shown = [
            ("alice.example".to_owned(), person("alice", Role::Operator)),
            ("screen.example".to_owned(), person("screen", Role::Viewer)),
        ];
        let auth = Auth { certificates: true, shown: shown.into(), ..Auth::default() };
        let caller = async |names: &[&str]| {
            let names = Arc::new(names.iter().map(ToString::to_string).collect());
            auth.caller(&HeaderMap::new(), Some(&names), HERE).await
        };
        let alice = caller(&["alice.example", "x"]).await.unwrap();
        assert_eq!((alice.name.as_deref(), alice.role), (Some("alice"), Some(Role::Operator)));
        let machine = caller(&["x"]).await.unwrap();
        assert_eq!((&machine.name, machine.role), (&None, None));
        assert!(speaks(&machine, "default", "a"));
        let both = caller(&["alice.example", "screen.example"]).await;
        assert_eq!(both, Err(Refused::Wrong));
        let viewer = caller(&["screen.example"]).await.unwrap();
        assert!(viewer.may(&Group::default(), &MachineId::new("a").unwrap()).is_err());
    }

    #[test]
    fn a_certificate_that_nobody_checks_is_no_credential() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[[client]]\nname = \"a\"\ncertificate = \"b\"").unwrap();
        let text = format!("[gateway]\ncredentials_file = {:?}", file.path());
        let path = std::path::Path::new("test.toml");
        let fragment = rebootlock::config::Fragment::parse(path, &text).unwrap();
        let settings = rebootlock::config::Settings::decide(fragment).unwrap();
        let error = Auth::of(&settings.gateway).unwrap_err().to_string();
        assert!(error.contains("there is no client_ca_file to check it by"), "{error}");
    }

    #[tokio::test]
    async fn a_certificate_speaks_for_its_names_if_that_is_wanted() {
        for name_is_id in [false, true] {
            let auth = Auth { certificates: true, name_is_id, ..Auth::default() };
            let caller = auth.caller(&HeaderMap::new(), Some(&names("a")), HERE).await.unwrap();
            let may = |id| caller.may(&Group::default(), &MachineId::new(id).unwrap()).is_ok();
            assert!(may("a"));
            assert_eq!(may("b"), !name_is_id);
            assert_eq!(auth.caller(&HeaderMap::new(), None, HERE).await, Err(Refused::Missing));
        }
    }
}
