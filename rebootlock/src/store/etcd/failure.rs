//! What went wrong, in words for a person, and what it means for the other endpoints.

use std::error::Error as _;
use std::path::Path;

use tonic::{Code, Status};

use crate::store::feed::Failed;
use crate::store::{Key, Span, StoreError};

/// What is being done, for messages.
#[derive(Debug, Clone)]
pub(super) struct Task {
    verb: &'static str,
    object: String,
}

impl Task {
    /// Something done to keys.
    pub(super) fn new(verb: &'static str, keys: &[Key]) -> Self {
        const NAMED: usize = 3;
        let mut object = keys.iter().take(NAMED).map(Key::as_str).collect::<Vec<_>>().join(", ");
        if keys.len() > NAMED {
            object += &format!(" and {} more keys", keys.len() - NAMED);
        }
        Self { verb, object }
    }

    /// Something done to all keys below a prefix.
    pub(super) fn below(verb: &'static str, prefix: &Key) -> Self {
        Self { verb, object: format!("the keys that begin with {prefix}") }
    }

    /// Something done to all keys of some spans.
    pub(super) fn of(verb: &'static str, spans: &[Span]) -> Self {
        let spans: Vec<_> = spans.iter().map(ToString::to_string).collect();
        Self { verb, object: spans.join(" and ") }
    }

    /// Something that concerns no key.
    pub(super) fn plain(verb: &'static str) -> Self {
        Self { verb, object: String::new() }
    }

    fn text(&self) -> String {
        format!("{} {}", self.verb, self.object).trim_end().to_owned()
    }
}

/// How we appear to the servers, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) user: Option<&'a str>,
    pub(super) ca_file: Option<&'a Path>,
    pub(super) cert_file: Option<&'a Path>,
}

/// What a failure at one endpoint means.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The cluster has answered; another endpoint would say the same.
    Settled(StoreError),
    /// This endpoint does not accept us, or we do not trust it.
    Refused(String),
    /// Nothing was done: there is no connection.
    Unreached(String),
    /// Nothing was done: the member sees no leader right now.
    Leaderless(String),
    /// Nothing was done: the token or the connection without one is out of date.
    Outdated(StoreError),
    /// It may have been done: the connection broke.
    Broken(String),
    /// It may have been done: no answer in time, or one that says so.
    Unknown(String),
}

impl Failed for Failure {
    fn is_for_a_person(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Settled(_))
    }
}

impl Failure {
    /// Whether the request certainly had no effect.
    pub(super) fn is_without_effect(&self) -> bool {
        match self {
            Self::Settled(_) | Self::Broken(_) | Self::Unknown(_) => false,
            Self::Refused(_) | Self::Unreached(_) | Self::Leaderless(_) | Self::Outdated(_) => true,
        }
    }

    /// Why, for a list of endpoints.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Settled(error) | Self::Outdated(error) => error.to_string(),
            Self::Refused(reason)
            | Self::Unreached(reason)
            | Self::Leaderless(reason)
            | Self::Broken(reason)
            | Self::Unknown(reason) => reason.clone(),
        }
    }
}

/// What an error of the client library at `url` means.
pub(super) fn understand(
    error: etcd_client::Error,
    url: &str,
    identity: Identity<'_>,
    task: &Task,
) -> Failure {
    match error {
        etcd_client::Error::GRpcStatus(status) => from_status(&status, url, identity, task),
        etcd_client::Error::TransportError(error) => from_transport(&error, identity),
        etcd_client::Error::LeaseKeepAliveError(_) => Failure::Settled(StoreError::LeaseGone),
        other => Failure::Unknown(other.to_string()),
    }
}

/// What a connection that did not come about means.
pub(super) fn from_transport(
    error: &(dyn std::error::Error + 'static),
    identity: Identity<'_>,
) -> Failure {
    let reason = root_cause(error);
    match tls_refusal(&reason, identity) {
        Some(refusal) => Failure::Refused(refusal),
        None => Failure::Unreached(reason),
    }
}

fn from_status(status: &Status, url: &str, identity: Identity<'_>, task: &Task) -> Failure {
    let message = status.message().trim_start_matches("etcdserver: ");
    if let Some(source) = status.source() {
        return from_broken_connection(source, identity);
    }
    let user = identity.user.unwrap_or("(none)");
    let (doing, broken) = (task.text(), |why: String| Failure::Settled(StoreError::Broken(why)));
    match status.code() {
        Code::NotFound if message.contains("lease not found") => {
            Failure::Settled(StoreError::LeaseGone)
        }
        Code::InvalidArgument if message.contains("authentication failed") => {
            Failure::Settled(StoreError::Refused(format!(
                "{url}: etcd does not accept the user name or password of user {user}"
            )))
        }
        Code::InvalidArgument if message.contains("user name is empty") => {
            Failure::Outdated(StoreError::Refused(format!(
                "{url}: etcd demands a user name and password, and none is configured"
            )))
        }
        Code::Unauthenticated => Failure::Outdated(StoreError::Refused(format!(
            "{url}: etcd does not accept the token of user {user}: {message}"
        ))),
        Code::InvalidArgument if message.contains("revision of auth store is old") => {
            // Users or roles have just been changed; that is over in a moment.
            Failure::Outdated(StoreError::Unavailable(format!("{url}: {message}")))
        }
        Code::PermissionDenied => Failure::Settled(StoreError::Forbidden(format!(
            "{url}: user {user} may not {doing}: {message}"
        ))),
        // Said by the member before it passes anything on.
        Code::Unavailable if message == "no leader" => {
            Failure::Leaderless("the member sees no leader".to_owned())
        }
        Code::ResourceExhausted if message.contains("space exceeded") => broken(format!(
            "{url}: cannot {doing}: {message}: compact and defragment etcd, then disarm its alarm"
        )),
        Code::ResourceExhausted if message.contains("too many requests") => {
            Failure::Unknown(message.to_owned())
        }
        Code::Unimplemented => {
            broken(format!("{url}: cannot {doing}: this is no etcd with the v3 API: {message}"))
        }
        Code::InvalidArgument
        | Code::NotFound
        | Code::OutOfRange
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::DataLoss
        | Code::AlreadyExists => broken(format!("{url}: cannot {doing}: {message}")),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable => Failure::Unknown(message.to_owned()),
    }
}

fn from_broken_connection(
    source: &(dyn std::error::Error + 'static),
    identity: Identity<'_>,
) -> Failure {
    let mut error = Some(source);
    while let Some(this) = error {
        if this.is::<tonic::ConnectError>() {
            return from_transport(this, identity);
        }
        error = this.source();
    }
    let reason = root_cause(source);
    match tls_refusal(&reason, identity) {
        Some(refusal) => Failure::Refused(refusal),
        None => Failure::Broken(format!("the connection broke: {reason}")),
    }
}

/// The innermost error, the one that says something.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    loop {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            match io.kind() {
                std::io::ErrorKind::ConnectionRefused => return "connection refused".to_owned(),
                std::io::ErrorKind::ConnectionReset => return "connection reset".to_owned(),
                _ => {}
            }
            // An I/O error that wraps another one skips it as its source.
            if let Some(inner) = io.get_ref() {
                error = inner;
                continue;
            }
        }
        match error.source() {
            Some(source) => error = source,
            None => return error.to_string(),
        }
    }
}

/// A sentence for a failed TLS handshake. The TLS library is not ours to name, hence by its words.
fn tls_refusal(cause: &str, identity: Identity<'_>) -> Option<String> {
    let authorities = match identity.ca_file {
        Some(file) => format!("an authority in {}", file.display()),
        None => "an authority of this system (name yours as ca_file)".to_owned(),
    };
    if cause.contains("invalid peer certificate") {
        return Some(match cause.contains("UnknownIssuer") || cause.contains("BadSignature") {
            true => format!("the server's certificate is not signed by {authorities}: {cause}"),
            false => format!("the server's certificate is not good: {cause}"),
        });
    }
    if cause.contains("received fatal alert") {
        return Some(match identity.cert_file {
            Some(file) => format!(
                "the server does not accept the client certificate in {}: {cause}",
                file.display()
            ),
            None => {
                format!("the server demands a client certificate (cert_file, key_file): {cause}")
            }
        });
    }
    cause
        .contains("corrupt message of type InvalidContentType")
        .then(|| format!("the server does not speak TLS, use http:// for it: {cause}"))
}
