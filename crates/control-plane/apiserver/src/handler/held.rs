//! Bodies that hold something while they are sent: seats, a place in a gauge. And the end of those that nobody reads.
//!
//! A client that opens a large list and then does not read would keep its seats and the objects of its list for ever,
//! since a body that is not asked for its next piece does not run. So a body is watched from outside.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::body::{Body, BoxError};
use crate::core::Core;
use crate::flowcontrol::Seats;
use crate::metrics::Series;

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// An answer that was not read in time.
#[derive(Debug, thiserror::Error)]
#[error("the answer was not read in time")]
struct NotRead;

/// What the body and its watchman share.
struct Shared {
    pieces: Mutex<Option<Pieces>>,
    seats: Mutex<Option<Seats>>,
    /// How often a piece was taken.
    taken: AtomicU64,
}

/// Pieces that end early if nobody takes them.
struct Watched {
    shared: Arc<Shared>,
    /// Its end is how the watchman learns that the body ended.
    _ended: oneshot::Sender<()>,
}

impl Stream for Watched {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut pieces = self.shared.pieces.lock();
        let Some(stream) = pieces.as_mut() else { return Poll::Ready(Some(Err(NotRead.into()))) };
        let polled = stream.as_mut().poll_next(cx);
        if polled.is_ready() {
            self.shared.taken.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

/// The body, with the seats it holds while it is sent. Cut when it has not been read for `limit`; its seats are given back
/// after that time in any case, so that slow readers do not keep others from being served.
pub(super) fn with_seats(
    core: &Arc<Core>,
    series: &Arc<Series>,
    body: Body,
    seats: Seats,
    limit: Duration,
) -> Body {
    let Body::Stream { pieces, length } = body else { return body };
    let (sender, ended) = oneshot::channel::<()>();
    let shared = Arc::new(Shared {
        pieces: Mutex::new(Some(pieces)),
        seats: Mutex::new(Some(seats)),
        taken: AtomicU64::new(0),
    });
    let watchman = watch(Arc::clone(&shared), Arc::clone(series), ended, limit);
    let shutdown = core.shutdown.clone();
    core.tracker.spawn(async move {
        tokio::select! { () = watchman => {}, () = shutdown.cancelled() => {} }
    });
    Body::Stream { pieces: Box::pin(Watched { shared, _ended: sender }), length }
}

async fn watch(shared: Arc<Shared>, series: Arc<Series>, mut ended: oneshot::Receiver<()>, limit: Duration) {
    let mut seen = 0;
    loop {
        let later = tokio::time::sleep_until(Instant::now() + limit);
        tokio::select! {
            _ = &mut ended => break,
            () = later => {}
        }
        drop(shared.seats.lock().take());
        let taken = shared.taken.load(Ordering::Relaxed);
        if taken == seen {
            // Dropped outside of the lock: it may hold a lot.
            let cut = shared.pieces.lock().take();
            drop(cut);
            series.aborted();
            return;
        }
        seen = taken;
    }
    drop(shared.seats.lock().take());
}

/// Keeps `held` for as long as the body lives.
pub(super) fn holding<T: Send + 'static>(body: Body, held: T) -> Body {
    use futures::StreamExt;
    use http_body_util::BodyExt;
    let (pieces, length): (Pieces, _) = match body {
        Body::Stream { pieces, length } => (pieces, length),
        Body::Foreign(body) => (body.into_data_stream().boxed(), None),
        ready @ Body::Ready(_) => return ready,
    };
    // The closure owns what is held for as long as the stream lives.
    let pieces = pieces.inspect(move |_| {
        let _ = &held;
    });
    Body::Stream { pieces: Box::pin(pieces), length }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use futures::{StreamExt, stream};

    use super::*;
    use crate::metrics::{Labels, Metrics};

    struct Flag(Arc<AtomicBool>);

    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn series() -> Arc<Series> {
        let labels =
            Labels { verb: "LIST", resource: None, subresource: None, path: "", scope: "", dry_run: "" };
        Metrics::default().series(&labels)
    }

    /// A body of endless pieces, whether it has been dropped, and what it is watched by.
    fn endless() -> (Watched, Arc<AtomicBool>, impl Future<Output = ()>) {
        let dropped = Arc::new(AtomicBool::new(false));
        let flag = Flag(Arc::clone(&dropped));
        let pieces = stream::repeat_with(move || {
            let _ = &flag;
            Ok(Bytes::from_static(b"piece"))
        });
        let (sender, ended) = oneshot::channel();
        let shared = Arc::new(Shared {
            pieces: Mutex::new(Some(Box::pin(pieces))),
            seats: Mutex::new(Some(Seats::none())),
            taken: AtomicU64::new(0),
        });
        let watchman = watch(Arc::clone(&shared), series(), ended, Duration::from_secs(60));
        (Watched { shared, _ended: sender }, dropped, watchman)
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_is_dropped() {
        let (mut body, dropped, watchman) = endless();
        assert!(body.next().await.unwrap().is_ok());
        let watchman = tokio::spawn(watchman);
        // One piece was taken before the first look, none before the second.
        watchman.await.unwrap();
        assert!(dropped.load(Ordering::SeqCst));
        assert!(body.shared.seats.lock().is_none());
        assert!(body.next().await.unwrap().is_err(), "who comes back is told");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_slowly_goes_on_without_its_seats() {
        let (mut body, dropped, watchman) = endless();
        let watchman = tokio::spawn(watchman);
        for _ in 0..10 {
            assert!(body.next().await.unwrap().is_ok());
            tokio::time::advance(Duration::from_secs(40)).await;
            tokio::task::yield_now().await;
        }
        assert!(!dropped.load(Ordering::SeqCst));
        assert!(body.shared.seats.lock().is_none());
        drop(body);
        watchman.await.unwrap();
        assert!(dropped.load(Ordering::SeqCst));
    }
}
