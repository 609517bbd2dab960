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
use tokio_util::task::AbortOnDropHandle;

use super::wire;
use crate::config::StoreSettings;
use crate::http::{self, Access, ClientCertificate};
use crate::store::open::with_etcd_port;
use crate::store::{Endpoint, Result, StoreError};

/// After so long it is left to the etcd client, which says what is wrong.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long an etcd has to answer at its own port once a gateway did at that of a web server.
const GRACE: Duration = Duration::from_millis(250);

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
/// that are written with etcd's own port. One without a port is an etcd at that port, or else a gateway at
/// the port of web servers.
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
        urls.iter().map(|url| ask_as_written(url, &access)).collect();
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

async fn ask_as_written<'a>(url: &'a str, access: &Access) -> Option<(&'a str, Answers)> {
    let at_etcds_port = with_etcd_port(url);
    if at_etcds_port == url {
        return ask(url, access).await;
    }
    let answers = either(ask(&at_etcds_port, access), ask(url, access)).await;
    answers.map(|answers| (url, answers))
}

/// Who answers at the port of an etcd, or else at that of a web server, if it is a gateway: what else is on
/// such a host says nothing.
async fn either<'a>(
    at_etcds_port: impl Future<Output = Option<(&'a str, Answers)>>,
    at_webs_port: impl Future<Output = Option<(&'a str, Answers)>>,
) -> Option<Answers> {
    let is_etcd = async { Some(at_etcds_port.await?.1).filter(|it| *it == Answers::Etcd) };
    let is_gateway = async { Some(at_webs_port.await?.1).filter(|it| *it == Answers::Gateway) };
    tokio::pin!(is_etcd, is_gateway);
    tokio::select! {
        biased;
        etcd = &mut is_etcd => match etcd {
            Some(etcd) => Some(etcd),
            None => is_gateway.await,
        },
        gateway = &mut is_gateway => {
            let patience = if gateway.is_some() { GRACE } else { PATIENCE };
            let etcd = tokio::time::timeout(patience, is_etcd).await.ok().flatten();
            etcd.or(gateway)
        }
    }
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
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// Answers after so many milliseconds.
    async fn says(after: u64, answers: Option<Answers>) -> Option<(&'static str, Answers)> {
        sleep(Duration::from_millis(after)).await;
        answers.map(|answers| ("http://host", answers))
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_without_a_port_is_an_etcd_or_else_a_gateway() {
        let neither = || Some(Answers::Neither(StatusCode::NOT_FOUND));
        let (etcd, gateway) = (|| Some(Answers::Etcd), || Some(Answers::Gateway));
        let never = 3_600_000;
        for (at_etcds_port, at_webs_port, expected, within) in [
            ((5, etcd()), (never, None), etcd(), 5),
            ((5, None), (9, gateway()), gateway(), 9),
            ((9, None), (5, gateway()), gateway(), 9),
            // On the same host. The etcd is slower, or much slower, or kept out by a firewall.
            ((9, etcd()), (5, gateway()), etcd(), 9),
            ((200, etcd()), (5, gateway()), etcd(), 200),
            ((never, None), (5, gateway()), gateway(), 255),
            // Web pages are no reason to believe anything.
            ((9, etcd()), (5, neither()), etcd(), 9),
            ((9, None), (5, neither()), None, 9),
            ((9, neither()), (5, gateway()), gateway(), 9),
            ((5, None), (9, None), None, 9),
            ((never, None), (5, None), None, 2005),
        ] {
            let case = format!("{at_etcds_port:?} {at_webs_port:?}");
            let began = tokio::time::Instant::now();
            let found = either(
                says(at_etcds_port.0, at_etcds_port.1),
                says(at_webs_port.0, at_webs_port.1),
            );
            assert_eq!(found.await, expected, "{case}");
            assert_eq!(began.elapsed().as_millis(), within, "{case}");
        }
    }
}
