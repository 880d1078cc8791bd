//! A stream with limits of bytes and time.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::connection::{Connection, Stage};
use super::limits::Limits;

/// A stream that fails if its peer sends too much before it has authenticated, or does not read.
pub(super) struct LimitedStream<S> {
    stream: S,
    connection: Arc<Connection>,
    /// Bytes left before authentication.
    unauthenticated: usize,
    write_stall: Duration,
    /// The timeout while the peer does not read.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> LimitedStream<S> {
    pub(super) fn new(stream: S, connection: Arc<Connection>, limits: &Limits) -> Self {
        Self {
            stream,
            connection,
            unauthenticated: limits.unauthenticated_bytes,
            write_stall: limits.write_stall,
            stalled: None,
        }
    }

    /// Returns the result of a write, or an error after the timeout.
    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let stall = self.write_stall;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(stall)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(
            ErrorKind::TimedOut,
            "the peer does not read",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        if !this.connection.is_authenticated() {
            let read = buffer.filled().len().saturating_sub(before);
            if read > 0 {
                this.connection.reached(Stage::Speaking);
            }
            let Some(left) = this.unauthenticated.checked_sub(read) else {
                let problem = "the peer sent too much without authentication";
                return Poll::Ready(Err(io::Error::new(ErrorKind::QuotaExceeded, problem)));
            };
            this.unauthenticated = left;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.written(context, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.written(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_flush(context);
        // A flush without pending bytes is no progress.
        if matches!(result, Poll::Ready(Ok(()))) {
            return result;
        }
        this.written(context, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_shutdown(context);
        this.written(context, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    fn limited(
        buffer: usize,
    ) -> (
        LimitedStream<tokio::io::DuplexStream>,
        tokio::io::DuplexStream,
    ) {
        let (near, far) = duplex(buffer);
        let connection = Arc::new(Connection::new(4));
        let mut limits = Limits::facade();
        limits.unauthenticated_bytes = 100;
        limits.write_stall = Duration::from_secs(2);
        (LimitedStream::new(near, connection, &limits), far)
    }

    #[tokio::test]
    async fn only_the_authenticated_may_send_much() {
        let (mut stream, mut far) = limited(1000);
        far.write_all(&[0; 400]).await.unwrap();
        stream.read_exact(&mut [0; 100]).await.unwrap();
        let error = stream.read_exact(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
        stream.connection.authenticated();
        stream.read_exact(&mut [0; 200]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_slowly_is_waited_for_and_one_that_does_not_is_not() {
        let (mut stream, mut far) = limited(10);
        let start = Instant::now();
        let writes = async { stream.write_all(&[0; 100]).await };
        let reads = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(1900)).await;
                far.read_exact(&mut [0; 10]).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            result = writes => result.unwrap_err(),
            () = reads => unreachable!(),
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), Duration::from_millis(5 * 1900 + 2000));
    }
}
