//! Bodies that hold something while they are sent: seats, a place in a gauge. A client that opens a large list and then
//! does not read keeps neither its seats nor the objects of its list.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;

use crate::body::{Body, BoxError};
use crate::core::Core;
use crate::flowcontrol::Seats;
use crate::metrics::Series;
use crate::watchman::{self, OnDuty};

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
    series: Arc<Series>,
}

impl Shared {
    fn of(pieces: Pieces, seats: Seats, series: &Arc<Series>) -> Arc<Shared> {
        Arc::new(Shared {
            pieces: Mutex::new(Some(pieces)),
            seats: Mutex::new(Some(seats)),
            taken: AtomicU64::new(0),
            series: Arc::clone(series),
        })
    }
}

impl watchman::Watched for Shared {
    fn progress(&self) -> Option<u64> {
        Some(self.taken.load(Ordering::Relaxed))
    }

    fn waited(&self) {
        drop(self.seats.lock().take());
    }

    fn cut(&self) {
        // Dropped outside of the lock: it may hold a lot.
        let cut = self.pieces.lock().take();
        drop(cut);
        self.series.aborted();
    }
}

/// Pieces that end early if nobody takes them.
struct Watched {
    shared: Arc<Shared>,
    _watchman: OnDuty,
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
    let shared = Shared::of(pieces, seats, series);
    let watchman = watchman::post(core, Arc::clone(&shared), limit);
    Body::Stream { pieces: Box::pin(Watched { shared, _watchman: watchman }), length }
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
        let shared = Shared::of(Box::pin(pieces), Seats::none(), &series());
        let (on_duty, watchman) = watchman::rounds(Arc::clone(&shared), Duration::from_secs(60));
        (Watched { shared, _watchman: on_duty }, dropped, watchman)
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_is_dropped() {
        let (mut body, dropped, watchman) = endless();
        let watchman = tokio::spawn(watchman);
        tokio::task::yield_now().await;
        // One piece is taken before the first look, none before the second.
        assert!(body.next().await.unwrap().is_ok());
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
