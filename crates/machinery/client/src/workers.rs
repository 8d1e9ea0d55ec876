//! Runs reconciles for the keys of a queue, a bounded number at once.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio::task::JoinSet;

use crate::{Shutdown, WorkQueue, error_chain, is_conflict};

/// A call could not decide because its cache does not show yet what is there: after a start, or when
/// a watch lags. As a source of an error that [`run_workers`] is given, it makes that a wait.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it exists, but the cache does not show it yet")]
pub struct CacheBehind;

/// Calls `reconcile` for each key of the queue, up to `concurrency` at once, until shutdown; then
/// takes no more keys, waits for the running calls and returns.
///
/// A key whose call fails is queued again with back-off; success resets the back-off. A conflict is
/// not worth a warning: someone else was first, and the next call sees what they did. Neither is
/// [`CacheBehind`]. A panic counts as a failure of that key and harms nobody else.
pub async fn run_workers<T, F, Fut, E>(
    queue: WorkQueue<T>,
    concurrency: usize,
    shutdown: Shutdown,
    reconcile: F,
) where
    T: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    let mut workers = JoinSet::new();
    for _ in 0..concurrency.max(1) {
        workers.spawn(work(queue.clone(), reconcile.clone()));
    }
    shutdown.cancelled().await;
    queue.shut_down();
    while let Some(ended) = workers.join_next().await {
        if let Err(error) = ended {
            tracing::error!(queue = queue.name(), %error, "a worker ended badly");
        }
    }
}

async fn work<T, F, Fut, E>(queue: WorkQueue<T>, reconcile: Arc<F>)
where
    T: Clone + Eq + Hash + fmt::Debug + Send + 'static,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    while let Some(key) = queue.next().await {
        let call = AssertUnwindSafe(async { reconcile(key.clone()).await });
        match call.catch_unwind().await {
            Ok(Ok(())) => queue.forget(&key),
            Ok(Err(error)) => {
                report(queue.name(), &key, &*error.into());
                queue.add_rate_limited(key.clone());
            }
            Err(_) => {
                tracing::error!(queue = queue.name(), ?key, "the reconcile panicked");
                queue.add_rate_limited(key.clone());
            }
        }
        queue.done(&key);
    }
}

fn report(queue: &str, key: &dyn fmt::Debug, error: &(dyn StdError + 'static)) {
    let cause = error_chain(error);
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<kube::Error>().is_some_and(is_conflict) {
            tracing::debug!(queue, ?key, cause, "conflict, trying again");
            return;
        }
        if error.is::<CacheBehind>() {
            tracing::debug!(queue, ?key, cause, "waiting for the cache");
            return;
        }
        next = error.source();
    }
    tracing::warn!(queue, ?key, cause, "reconcile failed, trying again");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_and_panics_are_tried_again() {
        let queue = WorkQueue::new("test");
        let shutdown = Shutdown::new();
        let calls = Arc::new(AtomicUsize::new(0));
        queue.add("a");
        let workers = tokio::spawn(run_workers(queue.clone(), 2, shutdown.clone(), {
            let (calls, shutdown) = (calls.clone(), shutdown.clone());
            move |_key| {
                let (calls, shutdown) = (calls.clone(), shutdown.clone());
                async move {
                    match calls.fetch_add(1, Ordering::SeqCst) {
                        0 => Err(std::io::Error::other("first")),
                        1 => panic!("second"),
                        _ => {
                            shutdown.cancel();
                            Ok(())
                        }
                    }
                }
            }
        }));
        tokio::time::timeout(Duration::from_secs(60), workers).await.unwrap().unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 3);
        assert_eq!(queue.retries(&"a"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_the_running_call() {
        let queue = WorkQueue::new("test");
        let shutdown = Shutdown::new();
        let finished = Arc::new(AtomicUsize::new(0));
        queue.add(1);
        let workers = tokio::spawn(run_workers(queue.clone(), 1, shutdown.clone(), {
            let (finished, shutdown) = (finished.clone(), shutdown.clone());
            move |_key| {
                let (finished, shutdown) = (finished.clone(), shutdown.clone());
                async move {
                    shutdown.cancel();
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    finished.fetch_add(1, Ordering::SeqCst);
                    Ok::<(), std::io::Error>(())
                }
            }
        }));
        workers.await.unwrap();
        assert_eq!(finished.load(Ordering::SeqCst), 1);
    }
}
