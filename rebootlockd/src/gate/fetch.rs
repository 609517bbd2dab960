//! One question to a web server, as plainly as possible: no redirects, no proxies, no cookies, a
//! new connection each time.
//!
//! Errors are texts: whatever went wrong, the gate could not be checked. Deadlines are the
//! caller's, who drops the future.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::task::AbortOnDropHandle;

/// How a server is talked to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access<'a> {
    /// PEM file with the authorities to trust instead of the machine's.
    pub(super) ca_file: Option<&'a Path>,
    /// File whose first line is sent as a bearer token.
    pub(super) bearer_token_file: Option<&'a Path>,
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Empty if it was not wanted.
    pub(super) body: Bytes,
}

/// Asks for `url`. Of the body, nothing or at most `limit` bytes are read; a longer one is an error.
pub(super) async fn get(
    url: &Uri,
    access: Access<'_>,
    limit: Option<usize>,
) -> Result<Reply, String> {
    let tls = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let (connector, authorization) = prepare(tls, access).await?;
    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|error| format!("cannot connect to {host}:{port}: {error}"))?;
    let request = request(url, authorization)?;
    let Some(connector) = connector else { return exchange(stream, request, limit).await };
    let name = ServerName::try_from(host.clone())
        .map_err(|_| format!("{host} is no name that a certificate can have"))?;
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|error| format!("no TLS with {host}:{port}: {error}"))?;
    exchange(stream, request, limit).await
}

type Prepared = (Option<TlsConnector>, Option<HeaderValue>);

/// Reads what has to be read from files: anew each time, because certificates and tokens are
/// replaced while we run, and elsewhere, because a file system may hang.
async fn prepare(tls: bool, access: Access<'_>) -> Result<Prepared, String> {
    let ca_file = access.ca_file.map(Path::to_owned);
    let token_file = access.bearer_token_file.map(Path::to_owned);
    if !tls && token_file.is_none() {
        return Ok((None, None));
    }
    let reading = move || {
        let connector = if tls { Some(connector(ca_file)?) } else { None };
        Ok((connector, token_file.map(|file| bearer(&file)).transpose()?))
    };
    let read = tokio::task::spawn_blocking(reading).await;
    read.unwrap_or_else(|error| Err(error.to_string()))
}

fn connector(ca_file: Option<PathBuf>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let fault = |error| format!("ca_file {}: {error}", path.display());
            for certificate in
                CertificateDer::pem_file_iter(&path).map_err(|error| fault(error.to_string()))?
            {
                let certificate = certificate.map_err(|error| fault(error.to_string()))?;
                roots.add(certificate).map_err(|error| fault(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(fault("no certificate is in it".to_owned()));
            }
        }
        None => {
            // Some of a machine's authorities are often odd; what counts is whether ours is there.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this machine trusts no certificate authority; name a ca_file".into());
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn bearer(path: &Path) -> Result<HeaderValue, String> {
    let fault = |error: String| format!("bearer_token_file {}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() {
        return Err(fault("its first line is empty".to_owned()));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| fault("its first line has characters that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn request(url: &Uri, authorization: Option<HeaderValue>) -> Result<Request<Empty<Bytes>>, String> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path)
        .header(HOST, url.authority().map_or("", |authority| authority.as_str()))
        .header(USER_AGENT, concat!("rebootlockd/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close");
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    request.body(Empty::new()).map_err(|error| format!("cannot ask for {url}: {error}"))
}

async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
    limit: Option<usize>,
) -> Result<Reply, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error: hyper::Error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        match cause {
            Some(cause) => format!("no answer: {error}: {cause}"),
            None => format!("no answer: {error}"),
        }
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let _running = AbortOnDropHandle::new(tokio::spawn(connection));
    let reply = sender.send_request(request).await.map_err(broken)?;
    let status = reply.status().as_u16();
    let body = match limit {
        None => Bytes::new(),
        Some(limit) => match Limited::new(reply.into_body(), limit).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(format!("the answer is longer than {limit} bytes"));
            }
            Err(error) => return Err(format!("the answer breaks off: {}", reason(&*error))),
        },
    };
    Ok(Reply { status, body })
}

fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    io.map_or_else(|| error.to_string(), ToString::to_string)
}
