//! The protocol's other transport, calls over a connection that begins with `CONNECT /_…`, is not served.
//! It is no HTTP, so it is told before a request is read.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::serve::tell;

/// What it begins with, and no request to a web server does.
const BEGINNING: &[u8] = b"CONNECT /_";

/// To a client that has other ways to try, this is "not this one".
const ANSWER: &[u8] = b"HTTP/1.0 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 52\r\nConnection: close\r\n\r\n\
    SRPC is not served here; POST to /api/v1/request is\n";

/// What is read of a request at once, while it is not known whether it is one.
const AT_ONCE: usize = 1024;

static SAID: AtomicBool = AtomicBool::new(false);

/// Whether `bytes` is such a beginning; `None` if it may become one.
fn is_next(bytes: &[u8]) -> Option<bool> {
    let compared = bytes.len().min(BEGINNING.len());
    match bytes.get(..compared) == BEGINNING.get(..compared) {
        true if compared == BEGINNING.len() => Some(true),
        true => None,
        false => Some(false),
    }
}

/// Hears what a client says first, in however many pieces it comes. What it said, if it is not this.
///
/// # Errors
/// If the connection breaks.
pub(crate) async fn something_else(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<Vec<u8>>> {
    let mut said = Vec::with_capacity(AT_ONCE);
    loop {
        match is_next(&said) {
            Some(true) => return Ok(None),
            Some(false) => return Ok(Some(said)),
            None if stream.read_buf(&mut said).await? == 0 => return Ok(Some(said)),
            None => {}
        }
    }
}

/// Answers that it is not served, and says so in the log, once.
pub(crate) async fn refuse<S>(stream: S, address: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            %address,
            "a client speaks SRPC, which is not served; have it POST to /api/v1/request, as \
             `rebootlockctl disruption` does"
        );
    }
    tell(stream, ANSWER).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_beginning_is_taken_for_it() {
        for (bytes, is) in [
            ("CONNECT /_goSRPC_/ HTTP/1.0\n\n", Some(true)),
            ("CONNECT /_", Some(true)),
            ("CONNECT /", None),
            ("", None),
            ("CONNECT gw:443 HTTP/1.1\r\n", Some(false)),
            ("POST /_", Some(false)),
            ("connect /_", Some(false)),
        ] {
            assert_eq!(is_next(bytes.as_bytes()), is, "{bytes}");
        }
    }

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(ANSWER).unwrap_or_default();
        let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
        assert!(text.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }
}
