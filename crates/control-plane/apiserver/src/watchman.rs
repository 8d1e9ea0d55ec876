//! The end of answers that nobody reads: a body that is not asked for its next piece does not run, and would keep what it
//! holds for ever. So it is watched from outside.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::core::Core;

/// What a watchman looks at.
pub(crate) trait Watched: Send + Sync + 'static {
    /// How far it has come: any number that changes when the client reads. `None` when there is nothing left to watch.
    fn progress(&self) -> Option<u64>;

    /// Another interval has passed, whether or not something was read in it.
    fn waited(&self) {}

    /// Drops what is not read.
    fn cut(&self);
}

/// Kept by what is watched: when it is dropped, the watchman goes.
#[derive(Debug)]
pub(crate) struct OnDuty {
    _ended: oneshot::Sender<()>,
}

/// Cuts `watched` when it has not been read for `limit`.
pub(crate) fn post(core: &Core, watched: Arc<impl Watched>, limit: Duration) -> OnDuty {
    let (on_duty, rounds) = rounds(watched, limit);
    let shutdown = core.shutdown.clone();
    core.tracker.spawn(async move {
        tokio::select! { () = rounds => {}, () = shutdown.cancelled() => {} }
    });
    on_duty
}

/// The watchman himself.
pub(crate) fn rounds(
    watched: Arc<impl Watched>,
    limit: Duration,
) -> (OnDuty, impl Future<Output = ()> + Send) {
    let (sender, mut ended) = oneshot::channel();
    let watch = async move {
        let mut seen = watched.progress();
        while seen.is_some() {
            tokio::select! {
                _ = &mut ended => return,
                () = tokio::time::sleep(limit) => {}
            }
            watched.waited();
            let now = watched.progress();
            if now.is_some() && now == seen {
                watched.cut();
                return;
            }
            seen = now;
        }
    };
    (OnDuty { _ended: sender }, watch)
}
