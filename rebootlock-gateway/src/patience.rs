//! Hanging up on clients that take nothing of what they asked for: an answer that is never fetched
//! would keep its connection, and what is to be sent, for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A connection whose other end has so long to take something, each time.
#[derive(Debug)]
pub(crate) struct Patient<S> {
    stream: S,
    within: Duration,
    /// What was read of it before.
    said: Vec<u8>,
    /// Runs while the other end takes nothing.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// `stream`, which breaks when a write makes no headway for so long.
    pub(crate) fn new(stream: S, within: Duration) -> Self {
        Self { stream, within, said: Vec::new(), waiting: None }
    }

    /// The same, whose other end has said something already.
    pub(crate) fn having_said(self, said: Vec<u8>) -> Self {
        Self { said, ..self }
    }

    /// What a write has come to, unless it has waited for too long.
    fn judge<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let within = self.within;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(within)));
        ready!(waiting.as_mut().poll(context));
        // Should it be asked once more, it says the same.
        waiting.as_mut().reset(Instant::now());
        let text = "the client takes nothing of its answer";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.said.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let fits = self.said.len().min(buffer.remaining());
        let rest = self.said.split_off(fits);
        buffer.put_slice(&self.said);
        self.said = rest;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(shut, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.judge(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn what_was_said_before_comes_first() {
        let (ours, mut theirs) = duplex(64);
        let mut patient = Patient::new(ours, Duration::from_secs(1)).having_said(b"one".into());
        theirs.write_all(b" two").await.unwrap();
        drop(theirs);
        let mut two = [0; 2];
        patient.read_exact(&mut two).await.unwrap();
        let mut rest = String::new();
        patient.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&two, rest.as_str()), (b"on", "e two"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_hung_up_on_and_who_is_slow_is_not() {
        let within = Duration::from_secs(10);
        let (ours, mut theirs) = duplex(4);
        let mut patient = Patient::new(ours, within);
        let slow = tokio::spawn(async move {
            let mut taken = [0; 4];
            for _ in 0..3 {
                sleep(Duration::from_secs(9)).await;
                theirs.read_exact(&mut taken).await.unwrap();
            }
            theirs
        });
        patient.write_all(b"twelve bytes").await.unwrap();
        let _theirs = slow.await.unwrap();
        patient.write_all(b"four").await.unwrap();
        let began = Instant::now();
        let error = patient.write_all(b"more").await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed()), (io::ErrorKind::TimedOut, within));
    }
}
