//! Requests to web servers, as plainly as possible: no redirects, no proxies, no cookies.
//!
//! [`send`] asks one question on a connection of its own. [`connect`] gives the connection alone,
//! secured and with the same rules, to clients that keep it. Files are read anew each time, because
//! certificates and tokens are replaced while we run, and elsewhere, because a file system may
//! hang. Deadlines are the caller's, who drops the future.

mod access;
mod clock;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod tls;

use std::io;

use http_body_util::{BodyExt as _, Full, Limited};
pub use hyper::Uri;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::task::AbortOnDropHandle;

pub use self::access::{Access, ClientCertificate, Credentials, SecretFile};
pub use self::clock::seconds_ahead;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// A person has to look: a file or an address is wrong. Nothing was sent.
    #[error("{0}")]
    Setup(String),
    /// The server cannot be reached. Nothing was sent.
    #[error("{0}")]
    Unreached(String),
    /// Whether the server did what it was asked for is not known.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// Only the beginning of the answer is there.
    #[error("{problem}")]
    Incomplete {
        /// What it began with.
        status: u16,
        /// What happened to the rest.
        problem: String,
    },
}

impl HttpError {
    /// Whether the server may have done what it was asked for.
    pub fn is_sent(&self) -> bool {
        matches!(self, Self::NoAnswer(_) | Self::Incomplete { .. })
    }
}

/// A connection to a web server, whether by TLS or not.
pub type Connection = Box<dyn ReadWrite>;

/// What can be read from and written to.
pub trait ReadWrite: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ReadWrite for T {}

/// Asks for `url`.
///
/// # Errors
/// As [`send`].
pub async fn get(
    url: &Uri,
    access: &Access,
    limit: Option<usize>,
) -> Result<Response<Bytes>, HttpError> {
    let request = Request::get(url.clone()).body(Bytes::new());
    let request = request.map_err(|error| HttpError::Setup(format!("{url}: {error}")))?;
    send(request, access, limit).await
}

/// Sends `request`, whose address is a whole one, and waits for the answer, whatever its status. Of
/// the body, nothing or at most `limit` bytes are read; a longer one is an error.
///
/// # Errors
/// [`HttpError`] says what, and whether the request may have been obeyed all the same.
pub async fn send(
    mut request: Request<Bytes>,
    access: &Access,
    limit: Option<usize>,
) -> Result<Response<Bytes>, HttpError> {
    let url = request.uri().clone();
    let authorization = access.authorization().await?;
    prepare(&mut request, authorization)?;
    let connection = connect(&url, access).await?;
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    exchange(connection, request.map(Full::new), limit).await
}

/// Makes a request to a whole address one for the connection to its server: path, host, who asks.
/// What the caller has set stays.
///
/// # Errors
/// [`HttpError::Setup`] for an address that names no host.
pub fn prepare<B>(
    request: &mut Request<B>,
    authorization: Option<HeaderValue>,
) -> Result<(), HttpError> {
    let url = request.uri().clone();
    let wrong = || HttpError::Setup(format!("{url} is no address of a web server"));
    // Whatever is before an at sign is not for the server's eyes.
    let authority = url.authority().ok_or_else(wrong)?.as_str();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let host = HeaderValue::from_str(authority).map_err(|_| wrong())?;
    let path = url.path_and_query().cloned();
    *request.uri_mut() = path.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    let us = HeaderValue::from_static(concat!("rebootlock/", env!("CARGO_PKG_VERSION")));
    headers.entry(USER_AGENT).or_insert(us);
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization);
    }
    Ok(())
}

/// The host of `url` as it is looked up: an IPv6 address without its brackets.
pub fn host(url: &Uri) -> &str {
    url.host().unwrap_or_default().trim_matches(['[', ']'])
}

/// The port of `url`: the one it names, else what goes without saying. `None`: what it names is none.
pub fn port(url: &Uri) -> Option<u16> {
    let authority = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let whom = authority.rsplit('@').next().unwrap_or_default();
    let rest = whom.strip_prefix(url.host().unwrap_or_default())?;
    match rest.strip_prefix(':').unwrap_or(rest) {
        "" if url.scheme_str() == Some("https") => Some(443),
        "" => Some(80),
        port => port.parse().ok(),
    }
}

/// Connects to the server of `url`, which is `http` or `https`.
///
/// # Errors
/// [`HttpError::Setup`] or [`HttpError::Unreached`].
pub async fn connect(url: &Uri, access: &Access) -> Result<Connection, HttpError> {
    let encrypted = match url.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(HttpError::Setup(format!("{url} is no address of a web server"))),
    };
    let host = host(url).to_owned();
    let port = port(url)
        .ok_or_else(|| HttpError::Setup(format!("{url}: its port is none from 0 to 65535")))?;
    // A wrong file is said rather than that nobody is there.
    let config = if encrypted { Some(access.tls().await?) } else { None };
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| {
        HttpError::Unreached(format!("cannot connect to {host}:{port}: {error}"))
    })?;
    // Questions are short and wait for an answer. Without it they are only slower.
    let _ = stream.set_nodelay(true);
    // What was given up must not arrive later, out of the kernel, when the network is back.
    let _ = stream.set_zero_linger();
    let Some(config) = config else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(host.clone())
        .map_err(|_| HttpError::Setup(format!("{host} is no name that a certificate can have")))?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| HttpError::Unreached(format!("no TLS with {host}:{port}: {error}")))?;
    Ok(Box::new(stream))
}

async fn exchange(
    connection: Connection,
    request: Request<Full<Bytes>>,
    limit: Option<usize>,
) -> Result<Response<Bytes>, HttpError> {
    let io = TokioIo::new(connection);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|error| no_answer(&error))?;
    let _running = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await.map_err(|error| no_answer(&error))?;
    let (head, body) = answer.into_parts();
    let Some(limit) = limit else { return Ok(Response::from_parts(head, Bytes::new())) };
    let incomplete = |problem| HttpError::Incomplete { status: head.status.as_u16(), problem };
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(incomplete(format!("the answer is longer than {limit} bytes")))
        }
        Err(error) => Err(incomplete(format!("the answer breaks off: {}", reason(&*error)))),
    }
}

fn no_answer(error: &hyper::Error) -> HttpError {
    HttpError::NoAnswer(match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    io.map_or_else(|| error.to_string(), ToString::to_string)
}
