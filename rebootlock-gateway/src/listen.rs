//! Sockets to listen on: those that systemd hands over, or else of our own.

use std::io;
use std::net::SocketAddr;

use listenfd::ListenFd;
use rebootlock::config::GatewaySettings;
use tokio::net::{TcpListener, TcpSocket};

/// How many connections the kernel keeps for us while we are busy with others.
const BACKLOG: u32 = 1024;

/// Why nothing is listened to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address that somebody else has, or that is not ours.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A socket of systemd's that is none of ours.
    #[error("cannot use socket {number} of those that systemd handed over; expected a TCP one")]
    HandedOver {
        /// From 1.
        number: usize,
        /// Why not.
        source: io::Error,
    },
    /// A socket of systemd's that is open to others without their having been asked for.
    #[error(
        "socket {address} of those that systemd handed over can be reached from other machines; set \
         tls_cert_file and tls_key_file, or plain_http = true (--plain-http)"
    )]
    TooOpen {
        /// Where it listens.
        address: SocketAddr,
    },
}

/// Takes the sockets that systemd hands over. Without any, binds the addresses of the settings. To be
/// called inside the runtime, before anything else has opened a file.
///
/// # Errors
/// [`ListenError`] names the address.
pub fn listen(settings: &GatewaySettings) -> Result<Vec<TcpListener>, ListenError> {
    let handed_over = handed_over(settings)?;
    if handed_over.is_empty() {
        return settings.listen.iter().map(|address| bind(*address)).collect();
    }
    Ok(handed_over)
}

fn handed_over(settings: &GatewaySettings) -> Result<Vec<TcpListener>, ListenError> {
    let mut sockets = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..sockets.len() {
        let fault = |source| ListenError::HandedOver { number: index + 1, source };
        let Some(socket) = sockets.take_tcp_listener(index).map_err(fault)? else { continue };
        socket.set_nonblocking(true).map_err(fault)?;
        let address = socket.local_addr().map_err(fault)?;
        if !settings.may_listen(address) {
            return Err(ListenError::TooOpen { address });
        }
        listeners.push(TcpListener::from_std(socket).map_err(fault)?);
    }
    Ok(listeners)
}

fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for the connections of the one before.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| ListenError::Bind { address, source })
}
