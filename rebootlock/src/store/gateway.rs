//! A store behind a gateway: for programs that cannot or should not reach the store themselves.
//!
//! The gateway keeps the promises, this passes them on. What HTTP adds is that a reply may be lost
//! on one more leg: a commit is sent once, to a gateway that has just answered, and what becomes of
//! it after that is for the caller to find out.

mod cluster;
mod failure;
mod link;
mod recognise;
mod report;
mod watch;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use self::cluster::{Cluster, Repeat};
use self::link::Ask;
pub use self::recognise::recognise;
pub use self::report::{GatewayReport, GatewayStatus};
use super::shared::SharedWatches;
use super::{
    Commit, Key, LeaseId, Result, Revision, Select, Snapshot, Span, Store, StoreError, Txn, Watch,
};
use crate::http::{Access, ClientCertificate, Credentials, SecretFile};

/// How to reach gateways.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// `http(s)://host:port`, tried in this order. All are gateways of one store.
    pub endpoints: Vec<String>,
    /// PEM file with the authorities to trust; without it the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file with its key.
    pub key_file: Option<PathBuf>,
    /// User name.
    pub username: Option<String>,
    /// File with its password.
    pub password_file: Option<PathBuf>,
    /// File with a token, instead of both.
    pub token_file: Option<PathBuf>,
    /// Longest time one call may take, all gateways together.
    pub timeout: Duration,
}

impl GatewayOptions {
    fn access(&self) -> Result<Access> {
        let wrong = |problem: &str| Err(StoreError::Broken(problem.to_owned()));
        let certificate = match (&self.cert_file, &self.key_file) {
            (Some(cert_file), Some(key_file)) => {
                Some(ClientCertificate { cert_file: cert_file.clone(), key_file: key_file.clone() })
            }
            (None, None) => None,
            _ => return wrong("a client certificate needs both cert_file and key_file"),
        };
        let secret = |setting, path: &PathBuf| SecretFile { setting, path: path.clone() };
        let credentials = match (&self.username, &self.password_file, &self.token_file) {
            (None, _, None) => Credentials::None,
            (None, _, Some(token)) => Credentials::Bearer(secret("token_file", token)),
            (Some(username), _, None) if username.contains(':') => {
                return wrong("the user name of a gateway cannot have a colon in it");
            }
            (Some(username), Some(file), None) => Credentials::Basic {
                username: username.clone(),
                password: secret("password_file", file),
            },
            (Some(_), None, None) => return wrong("a gateway needs a password_file for username"),
            (Some(_), _, Some(_)) => {
                return wrong("either username and password_file, or token_file, but not both");
            }
        };
        Ok(Access { ca_file: self.ca_file.clone(), certificate, credentials })
    }
}

/// A store behind one or several gateways.
#[derive(Debug, Clone)]
pub struct GatewayStore {
    cluster: Arc<Cluster>,
    watches: Arc<SharedWatches>,
}

impl GatewayStore {
    /// Checks the options. The gateways need not be up, and certificates and secrets are read when
    /// a connection is made.
    ///
    /// # Errors
    /// [`StoreError::Broken`] for options that cannot work.
    pub fn new(options: &GatewayOptions) -> Result<Self> {
        let cluster = Cluster::new(&options.endpoints, options.access()?, options.timeout)?;
        Ok(Self { cluster: Arc::new(cluster), watches: Arc::default() })
    }

    /// Asks for the name that the gateway knows us by. It lets nobody sign with another one.
    ///
    /// # Errors
    /// What keeps the gateway from saying so: wrong credentials, or none that may change anything.
    pub async fn own_name(&self) -> Result<String> {
        let ask = ask(wire::ME, &serde_json::Map::new())?;
        let me: wire::Me = self.cluster.call(Repeat::Freely, &ask).await?;
        Ok(me.name)
    }

    /// Asks every gateway, all at once, how it is.
    pub async fn check_endpoints(&self) -> Vec<GatewayReport> {
        report::check(&self.cluster).await
    }
}

fn ask(path: &'static str, what: &impl Serialize) -> Result<Ask> {
    // Every key of ours is a text and no number can fail, so this does not happen.
    let body = serde_json::to_vec(what)
        .map_err(|error| StoreError::Broken(format!("cannot be said to a gateway: {error}")))?;
    Ok(Ask { path, body: body.into() })
}

#[async_trait]
impl Store for GatewayStore {
    async fn load(&self, keys: &[Key]) -> Result<Snapshot> {
        self.read(keys, &[]).await
    }

    async fn list(&self, prefix: &Key, select: Select) -> Result<Snapshot> {
        self.read(&[], &[(prefix.clone(), select)]).await
    }

    async fn read(&self, keys: &[Key], below: &[(Key, Select)]) -> Result<Snapshot> {
        let listed = |(prefix, select): &(Key, Select)| wire::Below {
            prefix: prefix.to_string(),
            select: (*select).into(),
        };
        let read = wire::Read {
            keys: keys.iter().map(ToString::to_string).collect(),
            below: below.iter().map(listed).collect(),
        };
        let found: wire::Found =
            self.cluster.call(Repeat::Freely, &ask(wire::READ, &read)?).await?;
        Ok(found.into())
    }

    async fn commit(&self, txn: &Txn) -> Result<Commit> {
        let ask = ask(wire::COMMIT, &wire::Commit::from(txn))?;
        let outcome: wire::Outcome = self.cluster.call(Repeat::OnlyIfUnsent, &ask).await?;
        Ok(outcome.into())
    }

    fn watch(&self, span: &Span, after: Revision) -> Watch {
        watch::open(self.cluster.clone(), &self.watches, span.clone(), after)
    }

    fn watch_from_now(&self, spans: &[Span]) -> Watch {
        watch::from_now(self.cluster.clone(), &self.watches, spans)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        let ttl_millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        // One granted twice ends by itself.
        let ask = ask(wire::GRANT, &wire::Grant { ttl_millis })?;
        let lease: wire::Lease = self.cluster.call(Repeat::Freely, &ask).await?;
        Ok(lease.into())
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let ask = ask(wire::KEEP_ALIVE, &wire::Lease::from(lease))?;
        self.cluster.call::<wire::Lease>(Repeat::Freely, &ask).await.map(drop)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let ask = ask(wire::REVOKE, &wire::Lease::from(lease))?;
        self.cluster.call::<wire::Lease>(Repeat::Freely, &ask).await.map(drop)
    }

    fn location(&self) -> String {
        self.cluster.location()
    }
}
