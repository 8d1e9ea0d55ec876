//! Gathers what a connection writes in one turn, so that it becomes few TLS records and few system calls.
//!
//! HTTP/2 asks for a flush after every frame of data. An event for fifty watchers of one connection would be fifty records
//! and fifty system calls, which cost more than everything else about it. So a flush only notes that something is to be
//! sent; it is sent when the connection, and whoever was woken with it, has nothing more to do for now, or when enough has
//! been gathered.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathered bytes that are sent without waiting for the turn's end: four full TLS records.
const ENOUGH: usize = 64 * 1024;

/// A stream whose small writes are gathered. The other half of it is a [`Flusher`].
pub(super) struct Coalesce<S>(Arc<Mutex<Shared<S>>>);

/// Sends what was gathered at the end of a turn.
pub(super) struct Flusher<S>(Arc<Mutex<Shared<S>>>);

struct Shared<S> {
    stream: S,
    gathered: BytesMut,
    /// Something is gathered or the stream itself has to be flushed.
    pending: bool,
    /// Nobody ends turns any more: flushes flush.
    eager: bool,
}

/// The two halves of a stream.
pub(super) fn coalesce<S>(stream: S) -> (Coalesce<S>, Flusher<S>) {
    let shared = Shared { stream, gathered: BytesMut::new(), pending: false, eager: false };
    let shared = Arc::new(Mutex::new(shared));
    (Coalesce(Arc::clone(&shared)), Flusher(shared))
}

impl<S: AsyncWrite + Unpin> Shared<S> {
    /// Writes until no more than this is gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>, rest: usize) -> Poll<io::Result<()>> {
        while self.gathered.len() > rest {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.pending {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx, 0))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.pending = false;
        // A connection that is quiet keeps no buffer.
        self.gathered = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Flusher<S> {
    /// Polls a connection for one turn, then sends what it has gathered. After its end everything is sent at once by whoever
    /// writes: the stream may live on as an upgraded one.
    pub(super) async fn drive<C: Future>(self, connection: C) -> C::Output {
        let mut connection = std::pin::pin!(connection);
        let mut waited = false;
        let output = std::future::poll_fn(|cx| {
            let turn = connection.as_mut().poll(cx);
            let mut shared = self.0.lock();
            // The streams that woke this connection are mostly one of many that an event woke: they come first, because
            // who wakes itself goes to the end of the queue.
            waited = turn.is_pending() && shared.pending && !waited;
            if waited {
                cx.waker().wake_by_ref();
            } else {
                // A failed write shows in the connection's own next write.
                let _ = shared.poll_send(cx);
            }
            turn
        })
        .await;
        self.0.lock().eager = true;
        let _ = std::future::poll_fn(|cx| self.0.lock().poll_send(cx)).await;
        output
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesce<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesce<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.0.lock();
        if shared.gathered.len() >= ENOUGH {
            ready!(shared.poll_drain(cx, 0))?;
        }
        let mut taken = 0;
        for slice in slices {
            let room = ENOUGH - shared.gathered.len();
            let part = &slice[..slice.len().min(room)];
            shared.gathered.extend_from_slice(part);
            taken += part.len();
            if part.len() < slice.len() {
                break;
            }
        }
        shared.pending = true;
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        if shared.eager { shared.poll_send(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        ready!(shared.poll_send(cx))?;
        Pin::new(&mut shared.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Counts the writes that reach it.
    struct Counting(Vec<usize>);

    impl AsyncWrite for Counting {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn two_turns_are_one_write() {
        let (mut stream, flusher) = coalesce(Counting(Vec::new()));
        let shared = Arc::clone(&flusher.0);
        flusher
            .drive(async move {
                for _ in 0..50 {
                    stream.write_all(&[7; 100]).await.unwrap();
                    stream.flush().await.unwrap();
                }
                tokio::task::yield_now().await;
                stream.write_all(&[7; 100]).await.unwrap();
                tokio::task::yield_now().await;
                stream.write_all(&[7; ENOUGH * 2 + 1]).await.unwrap();
            })
            .await;
        assert_eq!(shared.lock().stream.0, [5100, ENOUGH, ENOUGH, 1]);
    }

    #[tokio::test]
    async fn what_a_turn_leaves_is_sent_though_no_other_follows() {
        let (mut stream, flusher) = coalesce(Counting(Vec::new()));
        let shared = Arc::clone(&flusher.0);
        let connection = async move {
            stream.write_all(&[7; 100]).await.unwrap();
            std::future::pending::<()>().await;
        };
        let mut driven = std::pin::pin!(flusher.drive(connection));
        for sent in [&[][..], &[100]] {
            assert!(futures::poll!(&mut driven).is_pending());
            assert_eq!(shared.lock().stream.0, sent);
        }
    }

    #[tokio::test]
    async fn after_the_connection_a_flush_sends() {
        let (near, mut far) = tokio::io::duplex(16);
        let (mut stream, flusher) = coalesce(near);
        flusher.drive(async {}).await;
        let sent = tokio::spawn(async move {
            stream.write_all(b"more than the pipe holds at once").await.unwrap();
            stream.flush().await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        sent.await.unwrap();
        assert_eq!(text, "more than the pipe holds at once");
    }
}
