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

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathered bytes that are sent without waiting for the turn's end: four full TLS records.
const ENOUGH: usize = 64 * 1024;

/// Buffers that are kept for whoever gathers next. One that was just emptied is still in the processor's cache, and there
/// are only as many busy connections at a moment as there are threads.
static EMPTY: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// How many.
const KEPT: usize = 16;

/// Where in a page what is gathered begins. A TLS record is made by copying this into memory that begins with a page and
/// five bytes of head. The processor's copy instruction crawls, at a tenth of its speed, when source and target lie a few
/// bytes apart in their pages: it took more time than the encryption.
const OFFSET: usize = 2048;
const PAGE: usize = 4096;

/// A stream whose small writes are gathered. The other half of it is a [`Flusher`].
pub(super) struct Coalesce<S>(Arc<Mutex<Shared<S>>>);

/// Sends what was gathered at the end of a turn.
pub(super) struct Flusher<S>(Arc<Mutex<Shared<S>>>);

struct Shared<S> {
    stream: S,
    /// Has no capacity while nothing is gathered: a connection that is quiet keeps no buffer.
    gathered: Vec<u8>,
    /// Where in it what is gathered begins.
    start: usize,
    /// How far it is sent.
    sent: usize,
    /// Something is gathered or the stream itself has to be flushed.
    pending: bool,
    /// Nobody ends turns any more: flushes flush.
    eager: bool,
}

/// The two halves of a stream.
pub(super) fn coalesce<S>(stream: S) -> (Coalesce<S>, Flusher<S>) {
    let shared = Shared { stream, gathered: Vec::new(), start: 0, sent: 0, pending: false, eager: false };
    let shared = Arc::new(Mutex::new(shared));
    (Coalesce(Arc::clone(&shared)), Flusher(shared))
}

impl<S> Shared<S> {
    fn is_full(&self) -> bool {
        self.gathered.len() - self.start >= ENOUGH
    }

    /// Takes as much as there is room for.
    fn gather(&mut self, bytes: &[u8]) -> usize {
        if self.gathered.capacity() == 0 {
            self.gathered = EMPTY.lock().pop().unwrap_or_else(|| Vec::with_capacity(ENOUGH + PAGE));
            self.start = (PAGE + OFFSET - self.gathered.as_ptr().addr() % PAGE) % PAGE;
            self.sent = self.start;
            self.gathered.resize(self.start, 0);
        }
        let part = &bytes[..bytes.len().min(self.start + ENOUGH - self.gathered.len())];
        self.gathered.extend_from_slice(part);
        part.len()
    }

    fn release(&mut self) {
        let buffer = std::mem::take(&mut self.gathered);
        (self.start, self.sent) = (0, 0);
        let mut kept = EMPTY.lock();
        if buffer.capacity() > 0 && kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}

impl<S: AsyncWrite + Unpin> Shared<S> {
    /// Writes what is gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let rest = &self.gathered[self.sent..];
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.gathered.truncate(self.start);
        self.sent = self.start;
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.pending {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.pending = false;
        self.release();
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
        if shared.is_full() {
            ready!(shared.poll_drain(cx))?;
        }
        let mut taken = 0;
        for slice in slices {
            let part = shared.gather(slice);
            taken += part;
            if part < slice.len() {
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

    #[test]
    fn what_is_gathered_begins_in_the_middle_of_a_page() {
        let (_, flusher) = coalesce(());
        let mut shared = flusher.0.lock();
        for _ in 0..2 {
            assert_eq!((shared.gather(b"one"), shared.gather(&[7; ENOUGH])), (3, ENOUGH - 3));
            assert!(shared.is_full());
            assert_eq!(shared.gathered[shared.sent..][..3].as_ptr().addr() % PAGE, OFFSET);
            // Used again by whoever comes next.
            shared.release();
        }
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
