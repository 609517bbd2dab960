//! Connections that listen to what the server says last.
//!
//! A server that does not accept our certificate says so right before it hangs up. By then we have
//! sent our first request, and the error of that would be all we report. So errors of sending are
//! left to be found by receiving, after the last words.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::Uri;
use tower::Service;

use crate::http;

/// Connects to the host and port of a URL.
pub(super) fn connector()
-> impl Service<Uri, Response = TokioIo<Listening>, Error = io::Error, Future: Send + 'static>
+ Send
+ 'static {
    tower::service_fn(|uri: Uri| async move {
        let stream = TcpStream::connect((http::host(&uri), uri.port_u16().unwrap_or(2379))).await?;
        stream.set_nodelay(true)?;
        Ok::<_, io::Error>(TokioIo::new(Listening { stream }))
    })
}

/// A TCP connection on which only receiving fails.
#[derive(Debug)]
pub(super) struct Listening {
    stream: TcpStream,
}

impl AsyncRead for Listening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Listening {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes).map(|sent| match sent {
            Err(error) if is_hang_up(&error) => Ok(bytes.len()),
            sent => sent,
        })
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
