//! `streamingConnectionIdleTimeout`: a stream on which nothing comes and goes for so long is ended.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// When something last went by a stream.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Mutex<Instant>>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn seen(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Returns once nothing has gone by for `limit`.
    pub(super) async fn none_for(&self, limit: Duration) {
        loop {
            let last = *self.0.lock();
            // A limit beyond what a clock can say is none.
            let Some(end) = last.checked_add(limit) else { return std::future::pending().await };
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// A stream that tells when bytes go by it.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    activity: Activity,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, activity: Activity) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_read(cx, buf);
        if done.is_ready() {
            self.activity.seen();
        }
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        if done.is_ready() {
            self.activity.seen();
        }
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_lives_while_bytes_go_by() {
        let limit = Duration::from_secs(60);
        let activity = Activity::new();
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut ours = Watched::new(ours, activity.clone());
        let begun = Instant::now();
        let talk = async {
            // Neither side's bytes alone are idleness.
            tokio::time::sleep(Duration::from_secs(50)).await;
            theirs.write_all(b"a").await.unwrap();
            ours.read_u8().await.unwrap();
            tokio::time::sleep(Duration::from_secs(50)).await;
            ours.write_all(b"b").await.unwrap();
            // Waiting for bytes is.
            ours.read_u8().await.unwrap();
        };
        tokio::select! {
            () = talk => unreachable!("nobody writes any more"),
            () = activity.none_for(limit) => {}
        }
        assert_eq!(begun.elapsed(), Duration::from_secs(50 + 50 + 60));
    }
}
