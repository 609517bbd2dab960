//! From a socket to a request: connections, their limits, and their end.
//!
//! HTTP/1.1 alone. A client has so long for its TLS handshake and for each request's headers, and a
//! connection that asks for nothing is closed after that time too. More connections than the limit
//! wait in the kernel.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::auth::CertificateNames;
use crate::disruption::srpc;
use crate::patience::Patient;
use crate::reply::{Kind, Reply};
use crate::routes;
use crate::tls::{self, Tls};

/// Request line and headers of one request.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Before the next connection, when the system could not give one: it lacks file descriptors or
/// memory, and asking at once would only make it busy too.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// To a client that wrote `http://` instead of `https://`, in the words that web servers written in
/// Go have for it.
const WITHOUT_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\n\
    Client sent an HTTP request to an HTTPS server.\n";

/// How long a client may take to hear what it does wrong.
const READ_ON: Duration = Duration::from_secs(1);

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    /// From where.
    pub address: SocketAddr,
    /// The names in its certificate, if it showed one that counts.
    pub certificate: Option<CertificateNames>,
    /// Whether somebody on this machine asks. Of a connection: this gateway can be reached from its own
    /// machine alone.
    pub within: bool,
    /// Ends what goes on for long: that the certificate counts, or ours, may be so no more.
    pub replaced: CancellationToken,
}

impl Default for Peer {
    fn default() -> Self {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let replaced = CancellationToken::new();
        Self { address, certificate: None, within: false, replaced }
    }
}

/// What a connection needs.
#[derive(Clone)]
struct Service {
    app: Arc<App>,
    router: Router,
    tls: Option<Arc<Tls>>,
    /// Whether all sockets are for this machine alone.
    within: bool,
}

/// Serves until the app is told to stop, and then until all requests have ended or had the time that
/// the settings give them.
pub async fn serve(app: Arc<App>, listeners: Vec<TcpListener>, tls: Option<Arc<Tls>>) {
    let within = listeners
        .iter()
        .all(|listener| listener.local_addr().is_ok_and(|address| address.ip().is_loopback()));
    let service = Service { router: routes::router(app.clone()), app: app.clone(), tls, within };
    let free = Arc::new(Semaphore::new(app.live().settings.max_connections));
    let (accepting, connections) = (TaskTracker::new(), TaskTracker::new());
    // Ends what the drain has not.
    let abort = CancellationToken::new();
    for listener in listeners {
        let (service, free) = (service.clone(), free.clone());
        let accept = accept(listener, service, free, connections.clone(), abort.clone());
        accepting.spawn(accept);
    }
    accepting.close();
    accepting.wait().await;
    connections.close();
    let drain = app.live().settings.drain;
    if tokio::time::timeout(drain, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are cut off");
        abort.cancel();
        connections.wait().await;
    }
}

async fn accept(
    listener: TcpListener,
    service: Service,
    free: Arc<Semaphore>,
    connections: TaskTracker,
    abort: CancellationToken,
) {
    let stop = service.app.stop.clone();
    loop {
        let permit = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            permit = free.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (service, abort) = (service.clone(), abort.clone());
        connections.spawn(async move {
            service.app.metrics.connected();
            let app = service.app.clone();
            tokio::select! {
                () = connection(stream, address, service) => {}
                () = abort.cancelled() => {}
            }
            app.metrics.disconnected();
            drop(permit);
        });
    }
}

async fn connection(mut stream: TcpStream, address: SocketAddr, service: Service) {
    // Answers are small, and each is waited for.
    let _ = stream.set_nodelay(true);
    let peer = Peer { address, within: service.within, ..Peer::default() };
    let Some(tls) = service.tls.clone() else { return greet(stream, peer, service).await };
    let within = service.app.live().settings.header_timeout;
    match tokio::time::timeout(within, without_tls(&mut stream)).await {
        Ok(Ok(false)) => {}
        Ok(Ok(true)) => return tracing::debug!(%address, "plain HTTP at the port for TLS"),
        Ok(Err(error)) => return tracing::debug!(%address, %error, "the connection broke"),
        Err(_) => return tracing::debug!(%address, "the client says nothing"),
    }
    let (acceptor, replaced) = tls.acceptor();
    match tokio::time::timeout(within, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = shown.map(tls::names);
            greet(stream, Peer { certificate, replaced, ..peer }, service).await;
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "no TLS"),
        Err(_) => tracing::debug!(%address, "the TLS handshake took too long"),
    }
}

/// Whether a client speaks without TLS, which begins with no letter. It is told so.
async fn without_tls(stream: &mut TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let said = stream.peek(&mut first).await?;
    if said == 0 || !first[0].is_ascii_alphabetic() {
        return Ok(false);
    }
    tell(stream, WITHOUT_TLS).await;
    Ok(true)
}

/// The last that a client is told which does not speak as it should.
pub(crate) async fn tell(mut stream: impl AsyncRead + AsyncWrite + Unpin, words: &[u8]) {
    // Nobody is left to be told about a client that hangs up.
    let _ = stream.write_all(words).await;
    let _ = stream.shutdown().await;
    // What is closed with something unread in it may take the answer with it.
    let mut rest = stream.take(MAX_HEADER_BYTES as u64);
    let _ = tokio::time::timeout(READ_ON, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

/// Hears what a client says first, and whether that is HTTP.
async fn greet<S>(mut stream: S, peer: Peer, service: Service)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (address, stop) = (peer.address, service.app.stop.clone());
    let within = service.app.live().settings.header_timeout;
    let began = tokio::select! {
        biased;
        began = tokio::time::timeout(within, srpc::something_else(&mut stream)) => began,
        // Who has asked for nothing yet is not waited for.
        () = stop.cancelled() => return,
        () = peer.replaced.cancelled() => return,
    };
    match began {
        Ok(Ok(Some(said))) => converse(stream, said, peer, service).await,
        Ok(Ok(None)) => srpc::refuse(stream, address).await,
        Ok(Err(error)) => tracing::debug!(%address, %error, "the connection broke"),
        Err(_) => tracing::debug!(%address, "the client says nothing"),
    }
}

async fn converse<S>(stream: S, said: Vec<u8>, peer: Peer, service: Service)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (app, router) = (service.app, service.router);
    let stop = app.stop.clone();
    let live = app.live();
    let (within, patience) = (live.settings.header_timeout, live.settings.body_timeout);
    drop(live);
    let (address, replaced) = (peer.address, peer.replaced.clone());
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let (app, router, peer) = (app.clone(), router.clone(), peer.clone());
        async move {
            // It was under way already when that happened.
            if peer.replaced.is_cancelled() {
                return Ok(connect_again(&app));
            }
            let request = request.map(Body::new);
            Ok::<_, Infallible>(routes::answer(&app, router, &peer, request).await)
        }
    });
    let stream = Patient::new(stream, patience).having_said(said);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(within)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(2 * MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    let over = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = replaced.cancelled() => {}
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = over => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // Nobody is left to be told about a client that hangs up or is too slow.
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "the connection broke");
    }
}

/// To a client whose certificate another authority vouched for than does now, or that knows another one of
/// ours.
fn connect_again(app: &App) -> Response<Body> {
    let reply = Reply::new(Kind::Overloaded, "the certificates have changed; connect again");
    let reply = reply.with(CONNECTION, HeaderValue::from_static("close"));
    reply.into_response(app.live().settings.airlock_kinds)
}
