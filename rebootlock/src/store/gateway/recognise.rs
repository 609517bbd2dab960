//! What answers at `http(s)://host:port`: an etcd or a gateway. For people, who write a URL; the
//! daemon is told.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::wire;
use crate::config::StoreSettings;
use crate::http::{self, Access, ClientCertificate};
use crate::store::open::with_etcd_port;
use crate::store::{Endpoint, Result, StoreError};

/// After so long it is left to the etcd client, which says what is wrong.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where etcds are.
const ETCD_PORT: &str = ":2379";

/// Both answer in less.
const MAX_ANSWER_BYTES: usize = 4 << 10;

/// What answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answers {
    /// An etcd, or something that answers no such questions and may be one.
    Etcd,
    /// A gateway.
    Gateway,
    /// Certainly neither.
    Neither(StatusCode),
}

/// Makes gateways out of those endpoints of `settings` that are written as an etcd's and turn out to
/// be gateways. All are asked at once and the first that knows what it is speaks for all. No
/// passwords and no tokens are sent. Where nobody answers, they stay what they are, and so do those
/// that are written with etcd's own port. A single one without a port is an etcd at that port or, if nobody
/// listens there, a gateway at the port of web servers.
///
/// # Errors
/// [`StoreError::Broken`] if what answers is neither.
pub async fn recognise(settings: &mut StoreSettings) -> Result<()> {
    let url = |endpoint: &Endpoint| match endpoint {
        Endpoint::Etcd(url) => Some(url.clone()),
        _ => None,
    };
    let urls: Option<Vec<_>> = settings.endpoints.iter().map(url).collect();
    let Some(urls) = urls else { return Ok(()) };
    // Where etcds always are nobody has to wait for the answer.
    if urls.iter().all(|url| url.ends_with(ETCD_PORT)) {
        return Ok(());
    }
    // A certificate is no secret; it is shown to whoever proves to be trusted.
    let certificate = match (&settings.cert_file, &settings.key_file) {
        (Some(cert_file), Some(key_file)) => {
            Some(ClientCertificate { cert_file: cert_file.clone(), key_file: key_file.clone() })
        }
        _ => None,
    };
    let access = Access { ca_file: settings.ca_file.clone(), certificate, ..Access::default() };
    let mut asked: FuturesUnordered<_> =
        urls.iter().map(|url| ask_as_written(url, &access, urls.len() == 1)).collect();
    let answers = async {
        let mut neither = None;
        while let Some(answer) = asked.next().await {
            match answer {
                Some((_, Answers::Etcd | Answers::Gateway)) => return answer,
                Some(_) => neither = answer,
                None => {}
            }
        }
        neither
    };
    match tokio::time::timeout(PATIENCE, answers).await {
        Ok(Some((_, Answers::Gateway))) => {
            settings.endpoints = urls.iter().cloned().map(Endpoint::Gateway).collect();
            Ok(())
        }
        Ok(Some((url, Answers::Neither(status)))) => Err(StoreError::Broken(format!(
            "{url} is neither an etcd nor a rebootlock gateway: it answers {status}; look at the \
             host and the port"
        ))),
        Ok(Some((_, Answers::Etcd)) | None) | Err(_) => Ok(()),
    }
}

/// One without a port is an etcd at etcd's port, and asked nothing, unless nobody listens there.
async fn ask_as_written<'a>(
    url: &'a str,
    access: &Access,
    alone: bool,
) -> Option<(&'a str, Answers)> {
    let at_etcds_port = with_etcd_port(url);
    if at_etcds_port == url {
        return ask(url, access).await;
    }
    if !alone || !is_refused(&at_etcds_port).await {
        return Some((url, Answers::Etcd));
    }
    // Whatever else is at the port of web servers says nothing.
    ask(url, access).await.filter(|(_, answers)| *answers == Answers::Gateway)
}

/// Whether the host is there and certainly has nothing at this port.
async fn is_refused(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let connected =
        TcpStream::connect((http::host(&uri), uri.port_u16().unwrap_or_default())).await;
    connected.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

async fn ask<'a>(url: &'a str, access: &Access) -> Option<(&'a str, Answers)> {
    let uri: Uri = url.parse().ok()?;
    let connection = http::connect(&uri, access).await.ok()?;
    let (mut sender, connection) = handshake(TokioIo::new(connection)).await.ok()?;
    let _running = AbortOnDropHandle::new(tokio::spawn(connection));
    // An etcd is asked once, as it is the usual case.
    let Some((first, body)) = get(&mut sender, url, "/version").await else {
        // One whose client port speaks nothing but gRPC hangs up.
        return Some((url, Answers::Etcd));
    };
    if body.get("etcdserver").is_some() {
        return Some((url, Answers::Etcd));
    }
    let (_, body) = get(&mut sender, url, wire::HELLO).await.unwrap_or_default();
    match body.get("name").and_then(Value::as_str) {
        Some(wire::SERVICE) => Some((url, Answers::Gateway)),
        _ => Some((url, Answers::Neither(first))),
    }
}

/// `None`: no answer that could be understood. A body that is no JSON counts as `null`.
async fn get(
    sender: &mut SendRequest<Empty<Bytes>>,
    url: &str,
    path: &str,
) -> Option<(StatusCode, Value)> {
    let mut request = Request::get(format!("{url}{path}")).body(Empty::new()).ok()?;
    http::prepare(&mut request, None).ok()?;
    sender.ready().await.ok()?;
    let answer = sender.send_request(request).await.ok()?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Some((status, serde_json::from_slice(&body).unwrap_or_default()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_port_is_refused_only_if_nobody_listens_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        assert!(!is_refused(&url).await);
        drop(listener);
        assert!(is_refused(&url).await);
        assert!(!is_refused("http://no host").await);
    }
}
