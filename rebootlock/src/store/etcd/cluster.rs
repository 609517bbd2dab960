//! The endpoints of one cluster: connecting to them, moving on from bad ones, sharing out time.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Channel, Client, ConnectOptions, GetOptions, TlsOptions};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::transport::{Endpoint as Dialer, Uri};

use super::failure::{Failure, Identity, Task, from_transport, understand};
use super::{EtcdOptions, listening};
use crate::http::{Access, ClientCertificate};
use crate::store::rotation::Rotation;
use crate::store::{Result, StoreError};

/// etcd hangs up on clients that ping more often than every 5 s, or without an open stream.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long after an answer an endpoint is trusted with a request that must not be sent twice.
const TRUSTED_FOR: Duration = Duration::from_secs(2);

/// The pause before asking a cluster again that is electing its leader.
const ELECTION_PAUSE: Duration = Duration::from_millis(100);

/// Larger answers than the client library takes by default: a fleet in one list.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Bytes a server may send ahead of its reader. A connection has room for many times that, so
/// watches that nobody reads do not hold up everything else.
const STREAM_WINDOW: u32 = 1 << 20;

/// Whether a request may be sent again when its outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Twice does no harm.
    Freely,
    /// Only if it certainly did not happen.
    OnlyIfUnsent,
}

/// All endpoints, one of them current.
#[derive(Debug)]
pub(super) struct Cluster {
    endpoints: Vec<Endpoint>,
    rotation: Rotation,
    options: EtcdOptions,
}

#[derive(Debug)]
struct Endpoint {
    url: String,
    dialer: Dialer,
    connection: Mutex<Option<Connection>>,
    /// Locked while connecting, so that there is one connection.
    dialing: tokio::sync::Mutex<()>,
}

/// A connection to one endpoint. Clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    client: Arc<Client>,
    answered: Arc<Mutex<Option<Instant>>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn kv(&self) -> etcd_client::KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(super) fn watcher(&self) -> etcd_client::WatchClient {
        self.client.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    fn has_answered(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_trusted(&self) -> bool {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.is_some_and(|at| at.elapsed() < TRUSTED_FOR)
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.client, &other.client)
    }
}

impl Cluster {
    pub(super) fn new(options: EtcdOptions) -> Result<Self> {
        if options.endpoints.is_empty() {
            return Err(StoreError::Broken("no etcd endpoint is configured".to_owned()));
        }
        if options.username.is_some() != options.password.is_some() {
            return Err(StoreError::Broken(
                "etcd needs a user name and a password, and only one is configured".to_owned(),
            ));
        }
        let encrypted = options.endpoints.iter().any(|url| url.starts_with("https://"));
        let tls = if encrypted { Some(tls_options(&options)?) } else { None };
        let endpoint = |url: &String| Endpoint::new(url, tls.as_ref());
        let endpoints: Vec<_> = options.endpoints.iter().map(endpoint).collect::<Result<_>>()?;
        Ok(Self { rotation: Rotation::of(endpoints.len()), endpoints, options })
    }

    pub(super) fn location(&self) -> String {
        self.endpoints.iter().map(|e| e.url.as_str()).collect::<Vec<_>>().join(",")
    }

    pub(super) fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub(super) fn url(&self, index: usize) -> &str {
        self.endpoints.get(index).map_or("", |endpoint| &endpoint.url)
    }

    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// For questions that are not etcd's own.
    pub(super) fn access(&self) -> Access {
        let EtcdOptions { ca_file, cert_file, key_file, .. } = &self.options;
        let pair = cert_file.clone().zip(key_file.clone());
        let certificate =
            pair.map(|(cert_file, key_file)| ClientCertificate { cert_file, key_file });
        Access { ca_file: ca_file.clone(), certificate, ..Access::default() }
    }

    pub(super) fn identity(&self) -> Identity<'_> {
        Identity {
            user: self.options.username.as_deref(),
            ca_file: self.options.ca_file.as_deref(),
            cert_file: self.options.cert_file.as_deref(),
        }
    }

    /// The endpoints in the order to try them.
    pub(super) fn order(&self) -> Vec<usize> {
        self.rotation.order()
    }

    /// Notes that an endpoint works.
    pub(super) fn worked(&self, index: usize) {
        self.rotation.worked(index);
    }

    /// Notes that an endpoint does not work; its connection is not used again.
    pub(super) fn failed(&self, index: usize, connection: Option<&Connection>) {
        self.rotation.failed(index);
        if let Some(connection) = connection {
            self.forget(index, connection);
        }
    }

    /// Does not use `connection` again.
    pub(super) fn forget(&self, index: usize, connection: &Connection) {
        if let Some(endpoint) = self.endpoints.get(index) {
            endpoint.forget(connection);
        }
    }

    /// The connection to an endpoint, made and logged in if need be. The flag: it is a new one.
    pub(super) async fn connect(
        &self,
        index: usize,
    ) -> std::result::Result<(Connection, bool), Failure> {
        let Some(endpoint) = self.endpoints.get(index) else {
            return Err(Failure::Unreached("no such endpoint".to_owned()));
        };
        if let Some(connection) = endpoint.slot().clone() {
            return Ok((connection, false));
        }
        let _dialing = endpoint.dialing.lock().await;
        if let Some(connection) = endpoint.slot().clone() {
            return Ok((connection, false));
        }
        let channel = match endpoint.is_encrypted() {
            true => endpoint.dialer.connect_with_connector(listening::connector()).await,
            false => endpoint.dialer.connect().await,
        };
        let channel = channel.map_err(|error| from_transport(&error, self.identity()))?;
        let client = self.log_in(&endpoint.url, Channel::Tonic(channel)).await?;
        let connection = Connection { client: Arc::new(client), answered: Arc::default() };
        *endpoint.slot() = Some(connection.clone());
        Ok((connection, true))
    }

    async fn log_in(&self, url: &str, channel: Channel) -> std::result::Result<Client, Failure> {
        let plain = ConnectOptions::new().with_require_leader(true);
        let options = match (&self.options.username, &self.options.password) {
            (Some(user), Some(password)) => {
                plain.clone().with_user(user, password).with_auto_token_refresh(true)
            }
            _ => plain.clone(),
        };
        let client = match Client::from_channel(channel.clone(), Some(options)).await {
            // Users may be configured before etcd's access control is switched on.
            Err(etcd_client::Error::GRpcStatus(status))
                if status.message().contains("authentication is not enabled") =>
            {
                Client::from_channel(channel, Some(plain)).await
            }
            other => other,
        };
        client.map_err(|error| {
            match understand(error, url, self.identity(), &Task::plain("log in")) {
                // Nothing but the login was sent.
                Failure::Broken(reason) | Failure::Unknown(reason) => Failure::Unreached(reason),
                failure => failure,
            }
        })
    }

    /// Has `request` done at some endpoint, within the time limit.
    pub(super) async fn call<T, F, Fut>(&self, repeat: Repeat, task: &Task, request: F) -> Result<T>
    where
        F: Fn(Connection) -> Fut + Send + Sync,
        Fut: Future<Output = std::result::Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        let deadline = Instant::now() + self.timeout();
        loop {
            let mut failures = Vec::new();
            let order = self.order();
            for (tried, index) in order.iter().enumerate() {
                let left = deadline.saturating_duration_since(Instant::now());
                let waiting = u32::try_from(order.len() - tried).unwrap_or(u32::MAX);
                let attempt = Attempt { cluster: self, index: *index, repeat, task };
                match attempt.run(&request, left / waiting, deadline).await {
                    Ok(answer) => {
                        self.worked(*index);
                        return Ok(answer);
                    }
                    Err(Failure::Settled(error)) => {
                        if !error.is_transient() {
                            self.worked(*index);
                        }
                        return Err(error);
                    }
                    Err(failure) => {
                        let ambiguous = !failure.is_without_effect();
                        failures.push((*index, failure));
                        if ambiguous && repeat == Repeat::OnlyIfUnsent {
                            return Err(self.summary(&failures));
                        }
                    }
                }
            }
            // A cluster that elects its leader is back within a second or two.
            let electing = failures.iter().any(|(_, f)| matches!(f, Failure::Leaderless(_)));
            if !electing || Instant::now() + ELECTION_PAUSE * 2 > deadline {
                return Err(self.summary(&failures));
            }
            sleep(ELECTION_PAUSE).await;
        }
    }

    /// One error out of those of all endpoints.
    pub(super) fn summary(&self, failures: &[(usize, Failure)]) -> StoreError {
        if let [(_, Failure::Outdated(error) | Failure::Settled(error))] = failures {
            return error.clone();
        }
        let each = |(index, failure): &(usize, Failure)| {
            format!("{}: {}", self.url(*index), failure.reason())
        };
        let text = failures.iter().map(each).collect::<Vec<_>>().join("; ");
        match failures.iter().all(|(_, failure)| matches!(failure, Failure::Refused(_))) {
            true => StoreError::Refused(text),
            false => StoreError::Unavailable(text),
        }
    }
}

/// One request at one endpoint.
struct Attempt<'a> {
    cluster: &'a Cluster,
    index: usize,
    repeat: Repeat,
    task: &'a Task,
}

impl Attempt<'_> {
    /// `share` is for what may be given up and tried elsewhere.
    async fn run<T, F, Fut>(
        &self,
        request: &F,
        share: Duration,
        deadline: Instant,
    ) -> std::result::Result<T, Failure>
    where
        F: Fn(Connection) -> Fut,
        Fut: Future<Output = std::result::Result<T, etcd_client::Error>>,
    {
        let give_up = Instant::now() + share;
        let mut renewed = false;
        loop {
            let connecting = timeout_at(give_up, self.cluster.connect(self.index)).await;
            let (connection, new) = match connecting.unwrap_or_else(|_| Err(unreached(share))) {
                Ok(found) => found,
                Err(failure) => {
                    self.cluster.failed(self.index, None);
                    return Err(failure);
                }
            };
            let (failure, sent) = match self.awake(&connection, give_up).await {
                Err(failure) => (failure, false),
                Ok(()) => {
                    // What cannot be repeated gets all the time there is.
                    let until = if self.repeat == Repeat::Freely { give_up } else { deadline };
                    match self.timed(until, request(connection.clone())).await {
                        Ok(answer) => {
                            connection.has_answered();
                            return Ok(answer);
                        }
                        Err(failure) => (failure, true),
                    }
                }
            };
            let harmless = !sent || self.repeat == Repeat::Freely;
            let again = match &failure {
                Failure::Settled(_) => return Err(failure),
                // The server may have been restarted since the connection was made.
                Failure::Broken(_) => harmless && !new && !renewed,
                Failure::Outdated(_) => !renewed,
                _ => false,
            };
            if again {
                renewed = true;
                self.cluster.forget(self.index, &connection);
                continue;
            }
            self.cluster.failed(self.index, Some(&connection));
            return Err(match failure {
                Failure::Outdated(error) => Failure::Settled(error),
                failure if sent => failure,
                failure => unsent(failure),
            });
        }
    }

    /// Makes sure that a request which cannot be repeated goes to a server that answers.
    async fn awake(
        &self,
        connection: &Connection,
        give_up: Instant,
    ) -> std::result::Result<(), Failure> {
        if self.repeat == Repeat::Freely || connection.is_trusted() {
            return Ok(());
        }
        let options = GetOptions::new().with_serializable().with_count_only();
        let mut kv = connection.kv();
        match self.timed(give_up, kv.get("\0", Some(options))).await {
            // Any answer will do, even that we may not read this key.
            Ok(_) | Err(Failure::Settled(_) | Failure::Outdated(_)) => {
                connection.has_answered();
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    async fn timed<T>(
        &self,
        until: Instant,
        request: impl Future<Output = std::result::Result<T, etcd_client::Error>>,
    ) -> std::result::Result<T, Failure> {
        let sent = Instant::now();
        match timeout_at(until, request).await {
            Ok(answer) => answer.map_err(|error| self.understand(error)),
            Err(_) => Err(Failure::Unknown(no_answer(sent.elapsed()))),
        }
    }

    fn understand(&self, error: etcd_client::Error) -> Failure {
        understand(error, self.cluster.url(self.index), self.cluster.identity(), self.task)
    }
}

fn unreached(share: Duration) -> Failure {
    Failure::Unreached(no_answer(share))
}

fn no_answer(within: Duration) -> String {
    format!("no answer within {within:.1?}")
}

/// What a failed probe means for the request that was to follow it.
fn unsent(failure: Failure) -> Failure {
    match failure {
        Failure::Broken(reason) | Failure::Unknown(reason) => Failure::Unreached(reason),
        failure => failure,
    }
}

impl Endpoint {
    fn new(url: &str, tls: Option<&TlsOptions>) -> Result<Self> {
        let wrong = |why: &str| {
            // Whatever is before an at sign may be a password.
            let shown = url.rsplit('@').next().unwrap_or_default();
            StoreError::Broken(format!("{shown} is not an etcd endpoint: {why}"))
        };
        let uri: Uri = url.parse().map_err(|_| wrong("write it as http(s)://HOST:PORT"))?;
        let authority = uri.authority().ok_or_else(|| wrong("write it as http(s)://HOST:PORT"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("user name and password have settings of their own"));
        }
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(wrong("it must begin with http:// or https://"));
        }
        if uri.port_u16().is_none() {
            return Err(wrong("it has no port (2379 by default)"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("nothing may follow the port"));
        }
        let dialer = Dialer::from(uri.clone())
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(false)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * 64);
        let dialer = match tls {
            Some(tls) if uri.scheme_str() == Some("https") => {
                dialer.tls_config(tls.clone()).map_err(|error| {
                    StoreError::Broken(format!(
                        "cannot set up TLS for {url}: {}",
                        from_transport(&error, NOBODY).reason()
                    ))
                })?
            }
            _ => dialer,
        };
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            dialer,
            connection: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
        })
    }

    fn is_encrypted(&self) -> bool {
        self.dialer.uri().scheme_str() == Some("https")
    }

    fn slot(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, connection: &Connection) {
        let mut slot = self.slot();
        // Somebody else may have connected anew since.
        if slot.as_ref().is_some_and(|current| current.is(connection)) {
            *slot = None;
        }
    }
}

const NOBODY: Identity<'static> = Identity { user: None, ca_file: None, cert_file: None };

fn tls_options(options: &EtcdOptions) -> Result<TlsOptions> {
    let tls = match &options.ca_file {
        Some(file) => {
            let pem = read_pem(file, "CERTIFICATE")?;
            TlsOptions::new().ca_certificate(Certificate::from_pem(pem))
        }
        None => TlsOptions::new().with_native_roots(),
    };
    match (&options.cert_file, &options.key_file) {
        (Some(cert), Some(key)) => {
            let cert = read_pem(cert, "CERTIFICATE")?;
            let key = read_pem(key, "PRIVATE KEY")?;
            Ok(tls.identity(etcd_client::Identity::from_pem(cert, key)))
        }
        (None, None) => Ok(tls),
        (Some(_), None) => Err(StoreError::Broken(
            "etcd's client certificate (cert_file) needs its key (key_file)".to_owned(),
        )),
        (None, Some(_)) => Err(StoreError::Broken(
            "etcd's client key (key_file) needs its certificate (cert_file)".to_owned(),
        )),
    }
}

fn read_pem(file: &Path, kind: &str) -> Result<Vec<u8>> {
    let pem = std::fs::read(file)
        .map_err(|error| StoreError::Broken(format!("cannot read {}: {error}", file.display())))?;
    let text = String::from_utf8_lossy(&pem);
    match text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(kind)) {
        true => Ok(pem),
        false => Err(StoreError::Broken(format!(
            "{} holds no {} in PEM form",
            file.display(),
            kind.to_lowercase()
        ))),
    }
}

/// Gives `work` up after `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = std::result::Result<T, Failure>>,
) -> std::result::Result<T, Failure> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(unreached(limit)))
}
