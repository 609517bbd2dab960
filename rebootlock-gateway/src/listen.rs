//! Sockets to listen on: those that systemd hands over, or else of our own.

use std::io;
use std::net::SocketAddr;

use listenfd::ListenFd;
use rebootlock::config::GatewaySettings;
use rustix::net::sockopt::socket_acceptconn;
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
    /// A socket of systemd's that nobody can connect to.
    #[error(
        "socket {number} of those that systemd handed over does not listen; a socket unit for it needs \
         ListenStream and Accept=no"
    )]
    Deaf {
        /// From 1.
        number: usize,
    },
    /// An address of the settings that systemd hands over no socket for.
    #[error(
        "nobody could reach {address} of [gateway] listen: systemd handed over {sockets} instead; disable \
         rebootlock-gateway.socket, or have it listen there (systemctl edit rebootlock-gateway.socket)"
    )]
    NotHandedOver {
        /// Where nobody listens.
        address: SocketAddr,
        /// Where it listens.
        sockets: String,
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

impl ListenError {
    /// Whether it stays so however often it is tried.
    pub fn is_configured(&self) -> bool {
        matches!(self, Self::NotHandedOver { .. } | Self::TooOpen { .. } | Self::Deaf { .. })
    }
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
    let sockets: Vec<_> = handed_over.iter().filter_map(|s| s.local_addr().ok()).collect();
    let missing = |address: &&SocketAddr| !sockets.iter().any(|socket| covers(*socket, **address));
    match settings.listen.iter().filter(|_| settings.says_where()).find(missing) {
        None => Ok(handed_over),
        Some(address) => {
            let sockets: Vec<_> = sockets.iter().map(ToString::to_string).collect();
            Err(ListenError::NotHandedOver { address: *address, sockets: sockets.join(", ") })
        }
    }
}

/// Whether who asks at `address` is heard at `socket`. One for all addresses is mostly for those of both
/// families.
fn covers(socket: SocketAddr, address: SocketAddr) -> bool {
    let ip = socket.ip();
    let all = ip.is_unspecified() && (ip.is_ipv6() || address.is_ipv4());
    (all || ip == address.ip()) && (address.port() == 0 || socket.port() == address.port())
}

fn handed_over(settings: &GatewaySettings) -> Result<Vec<TcpListener>, ListenError> {
    let mut sockets = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..sockets.len() {
        let fault = |source| ListenError::HandedOver { number: index + 1, source };
        let Some(socket) = sockets.take_tcp_listener(index).map_err(fault)? else { continue };
        if !socket_acceptconn(&socket).map_err(|error| fault(error.into()))? {
            return Err(ListenError::Deaf { number: index + 1 });
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_its_own_address_or_for_all() {
        for (socket, address, wanted) in [
            ("127.0.0.1:9090", "127.0.0.1:9090", true),
            ("127.0.0.1:9090", "127.0.0.1:0", true),
            ("127.0.0.1:9090", "0.0.0.0:9090", false),
            ("127.0.0.1:9090", "127.0.0.1:9091", false),
            ("[::]:9090", "0.0.0.0:9090", true),
            ("[::]:9090", "10.0.0.5:9090", true),
            ("0.0.0.0:9090", "[::]:9090", false),
            ("0.0.0.0:9090", "10.0.0.5:9090", true),
        ] {
            let found = covers(socket.parse().unwrap(), address.parse().unwrap());
            assert_eq!(found, wanted, "{socket} for {address}");
        }
    }
}
