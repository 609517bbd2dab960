//! A TCP proxy that misbehaves on demand: it loses replies, holds bytes back, hangs up.

mod frames;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::frames::{DATA, END_STREAM, Frame, Frames, HEADERS};

/// A proxy on a port of its own. Dropped, it is gone with all its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _acceptor: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    mode: watch::Sender<Mode>,
    loss: Mutex<Loss>,
    lost: watch::Sender<u32>,
    /// What to do as soon as a reply was lost.
    then: Mutex<Mode>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Pass,
    Frozen,
    /// Only connections of this member of etcd's cluster.
    FrozenFrom(String),
    Refusing,
}

impl Mode {
    fn holds_back(&self, caller: Option<&String>) -> bool {
        match self {
            Self::Frozen => true,
            Self::FrozenFrom(member) => caller == Some(member),
            Self::Pass | Self::Refusing => false,
        }
    }
}

/// How members of an etcd cluster say who they are when they call each other.
const CALLER: &[u8] = b"X-Server-From: ";

/// Which member of etcd's cluster a connection is of, once it has said so.
type Caller = OnceLock<String>;

/// How far the loss of a reply has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// None is wanted.
    Idle,
    /// The next request is the one.
    Armed,
    /// The next request whose body contains this is the one.
    ArmedFor(&'static str),
    /// The reply on this HTTP/2 stream of this connection is the one.
    Awaited { connection: u32, stream: u32 },
    /// The next HTTP/1.1 request with this in it is the one.
    ArmedForPlain(&'static str),
    /// Whatever comes next on this connection is the reply.
    AwaitedPlain { connection: u32 },
}

impl Proxy {
    /// A proxy in front of a port of this machine.
    pub async fn start(target_port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            mode: watch::Sender::new(Mode::Pass),
            loss: Mutex::new(Loss::Idle),
            lost: watch::Sender::new(0),
            then: Mutex::new(Mode::Pass),
        });
        let mut acceptor = JoinSet::new();
        acceptor.spawn(accept(listener, (Ipv4Addr::LOCALHOST, target_port).into(), shared.clone()));
        Ok(Self { port, shared, _acceptor: acceptor })
    }

    /// Its own port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Loses one reply: the next HTTP/2 request (without TLS) reaches the server, which answers it
    /// in full; the client gets none of that but a closed connection.
    pub fn cut_after_request(&self) {
        *self.shared.loss() = Loss::Armed;
    }

    /// Loses the reply to the next HTTP/2 request (without TLS) whose body contains `text`, in one
    /// frame and not compressed, in the same way.
    pub fn cut_after_request_with(&self, text: &'static str) {
        *self.shared.loss() = Loss::ArmedFor(text);
    }

    /// Loses the reply to the next HTTP/1.1 request (without TLS) that has `text` in it, in the same
    /// way.
    pub fn cut_after_plain_request_with(&self, text: &'static str) {
        *self.shared.loss() = Loss::ArmedForPlain(text);
    }

    /// [`Proxy::cut_after_request_with`], and from that moment on [`Proxy::refuse`].
    pub fn cut_after_request_with_and_refuse(&self, text: &'static str) {
        *self.shared.then() = Mode::Refusing;
        self.cut_after_request_with(text);
    }

    /// [`Proxy::cut_after_request_with`], and from that moment on [`Proxy::freeze`].
    pub fn cut_after_request_with_and_freeze(&self, text: &'static str) {
        *self.shared.then() = Mode::Frozen;
        self.cut_after_request_with(text);
    }

    /// How many replies were lost so far.
    pub fn replies_lost(&self) -> u32 {
        *self.shared.lost.borrow()
    }

    /// Holds all bytes back, in both directions.
    pub fn freeze(&self) {
        self.shared.mode.send_replace(Mode::Frozen);
    }

    /// Holds back, in both directions, what is on the connections of one member of etcd's cluster.
    pub fn freeze_from_member(&self, id: &str) {
        self.shared.mode.send_replace(Mode::FrozenFrom(id.to_owned()));
    }

    /// Closes all connections, and new ones as soon as they are made.
    pub fn refuse(&self) {
        self.shared.mode.send_replace(Mode::Refusing);
    }

    /// Passes everything again; what was held back first.
    pub fn resume(&self) {
        self.shared.mode.send_replace(Mode::Pass);
    }
}

impl Shared {
    fn loss(&self) -> std::sync::MutexGuard<'_, Loss> {
        self.loss.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn then(&self) -> std::sync::MutexGuard<'_, Mode> {
        self.then.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn a_reply_is_lost(&self) {
        match std::mem::replace(&mut *self.then(), Mode::Pass) {
            Mode::Pass => {}
            mode => drop(self.mode.send_replace(mode)),
        }
        self.lost.send_modify(|lost| *lost += 1);
    }

    /// Whether bytes may go on; waits while frozen.
    async fn passing(&self, caller: &Caller) -> bool {
        let mut mode = self.mode.subscribe();
        match mode.wait_for(|mode| !mode.holds_back(caller.get())).await {
            Ok(mode) => *mode != Mode::Refusing,
            Err(_) => false,
        }
    }

    async fn refusing(&self) {
        let mut mode = self.mode.subscribe();
        let _ = mode.wait_for(|mode| *mode == Mode::Refusing).await;
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        number += 1;
        if *shared.mode.borrow() == Mode::Refusing {
            continue;
        }
        let shared = shared.clone();
        connections.spawn(async move {
            let caller = Caller::new();
            if !shared.passing(&caller).await {
                return;
            }
            let Ok(server) = TcpStream::connect(target).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            // Whichever ends first takes the connection with it.
            tokio::select! {
                () = upward(from_client, to_server, &shared, number, &caller) => {}
                () = downward(from_server, to_client, &shared, number, &caller) => {}
                () = shared.refusing() => {}
            }
        });
    }
}

/// From the client to the server: all of it, noting the request whose reply is to be lost.
async fn upward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    number: u32,
    caller: &Caller,
) {
    let mut frames = Frames::of_client();
    let mut body = Body::default();
    let mut plain = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if caller.get().is_none()
            && let Some(member) = caller_in(&buffer[..read])
        {
            let _ = caller.set(member);
        }
        // One at a time, to know which bytes are a body's.
        for byte in &buffer[..read] {
            let frame = frames.feed(std::slice::from_ref(byte)).pop();
            body.take(frame, *byte);
            let mut loss = shared.loss();
            if let Loss::ArmedForPlain(text) = *loss {
                plain.push(*byte);
                if plain.ends_with(text.as_bytes()) {
                    *loss = Loss::AwaitedPlain { connection: number };
                }
                continue;
            }
            let wanted = match *loss {
                Loss::Armed => frame.filter(|frame| frame.kind == HEADERS).map(|f| f.stream),
                Loss::ArmedFor(text) => body.stream_if_it_ends_with(text),
                _ => None,
            };
            if let Some(stream) = wanted {
                *loss = Loss::Awaited { connection: number, stream };
            }
        }
        if !shared.passing(caller).await || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Who says so in this request, if it is one of a member of etcd's cluster.
fn caller_in(bytes: &[u8]) -> Option<String> {
    let at = bytes.windows(CALLER.len()).position(|window| window == CALLER)?;
    let id = bytes[at + CALLER.len()..].split(|byte| *byte == b'\r').next()?;
    Some(String::from_utf8_lossy(id).into_owned())
}

/// What has come so far of one frame of a request's body.
#[derive(Debug, Default)]
struct Body {
    stream: Option<u32>,
    bytes: Vec<u8>,
}

impl Body {
    fn take(&mut self, frame: Option<Frame>, byte: u8) {
        match frame {
            Some(frame) => {
                self.stream = (frame.kind == DATA).then_some(frame.stream);
                self.bytes.clear();
            }
            None if self.stream.is_some() => self.bytes.push(byte),
            None => {}
        }
    }

    fn stream_if_it_ends_with(&self, text: &str) -> Option<u32> {
        self.stream.filter(|_| self.bytes.ends_with(text.as_bytes()))
    }
}

/// From the server to the client: all but the reply that is to be lost.
async fn downward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    number: u32,
    caller: &Caller,
) {
    let mut frames = Frames::of_server();
    let mut buffer = vec![0; 64 << 10];
    let mut withholding = false;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let plain = Loss::AwaitedPlain { connection: number };
        if *shared.loss() == plain {
            *shared.loss() = Loss::Idle;
            shared.a_reply_is_lost();
            return;
        }
        for frame in frames.feed(&buffer[..read]) {
            let awaited = Loss::Awaited { connection: number, stream: frame.stream };
            let mut loss = shared.loss();
            if *loss != awaited {
                continue;
            }
            withholding = true;
            if frame.kind == HEADERS && frame.flags & END_STREAM != 0 {
                *loss = Loss::Idle;
                shared.a_reply_is_lost();
                return;
            }
        }
        if withholding {
            continue;
        }
        if !shared.passing(caller).await || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
