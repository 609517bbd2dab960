//! Figures over HTTP, for whoever can reach the address: `/metrics`, and `/healthz`.
//!
//! A connection serves one request and has ten seconds for it, and there are few at a time: nobody
//! on this machine can make the agent use more memory than a few pages for it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::{Format, Metrics};

/// More wait in the kernel until one of these is done.
const MAX_CONNECTIONS: usize = 16;

/// From being accepted to the last byte of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Request line and headers.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// Before an address that could not be had is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(30);

/// Before the next connection, when the system could not give one: it lacks file descriptors or
/// memory, and asking at once would only make it busy too.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

const PLAIN: &str = "text/plain; charset=utf-8";

/// Listens on `address` for ever, and says in `listening` once it does.
pub(super) async fn serve(
    metrics: Metrics,
    address: SocketAddr,
    listening: watch::Sender<Option<SocketAddr>>,
) {
    let listener = bind(address).await;
    let bound = listener.local_addr().unwrap_or(address);
    tracing::info!(address = %bound, "metrics are served");
    listening.send_replace(Some(bound));
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection for metrics");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let metrics = metrics.clone();
        connections.spawn(async move {
            // Nobody is left to be told about a client that hangs up or is too slow.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, converse(stream, metrics)).await;
            drop(permit);
        });
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    let mut last: Option<io::ErrorKind> = None;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                if last.replace(error.kind()) != Some(error.kind()) {
                    tracing::error!(
                        %address, %error,
                        "cannot listen for metrics; tried again every {} s until metrics.listen \
                         is changed or the address is free",
                        BIND_AGAIN.as_secs()
                    );
                }
                tokio::time::sleep(BIND_AGAIN).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, metrics: Metrics) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let response = answer(&metrics, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .keep_alive(false)
        // The connection's own limit is the shorter one, and needs no timer here.
        .header_read_timeout(None)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(2 * MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(metrics: &Metrics, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/healthz") {
        return page(StatusCode::NOT_FOUND, PLAIN, "not found; there are /metrics and /healthz\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if path == "/healthz" {
        return page(StatusCode::OK, PLAIN, "ok\n");
    }
    let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::liked(&accepted.collect::<Vec<_>>().join(","));
    page(StatusCode::OK, format.content_type(), metrics.text(format))
}

fn page(
    status: StatusCode,
    content_type: &'static str,
    text: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
