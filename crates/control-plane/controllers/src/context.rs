//! What a controller is given to work with, and the loop that all of them share.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use podium_client::{
    CacheBehind, Client, EventRecorder, EventType, Object, ObjectKey, SharedInformers, Shutdown, WorkQueue,
    is_conflict, reference_of, run_workers, status_of,
};

use crate::clock::Clock;
use crate::manager::Settings;
use crate::names::NameSource;

/// How soon an owner is looked at again while its cache lags behind its own writes. The event that ends the lag normally
/// comes first, within milliseconds; this covers a cache that caught up by a new list and had no event to send.
pub(crate) const LAG_CHECK: Duration = Duration::from_secs(1);

/// A controller's identity and surroundings. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    /// Acts under the controller's own service account.
    pub(crate) client: Client,
    /// The process's caches.
    pub(crate) informers: SharedInformers,
    /// Writes Events under the controller's component name.
    pub(crate) recorder: Arc<EventRecorder>,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
    /// Names for new objects.
    pub(crate) names: Arc<dyn NameSource>,
    /// What the operator chose.
    pub(crate) settings: Arc<Settings>,
    /// Reconciles at once.
    pub(crate) workers: usize,
    /// Fires when the process is to end.
    pub(crate) shutdown: Shutdown,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl Context {
    /// The present moment.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Records a Normal event about `object`.
    pub(crate) fn normal<K: Object>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.recorder.event(&reference_of(object), EventType::Normal, reason, message);
    }

    /// Records a Warning event about `object`.
    pub(crate) fn warning<K: Object>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.recorder.event(&reference_of(object), EventType::Warning, reason, message);
    }

    /// Records an event about something known by reference only.
    pub(crate) fn event_about(
        &self,
        about: &ObjectReference,
        type_: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.recorder.event(about, type_, reason, message);
    }

    /// Waits for the caches a controller reads, or shutdown, after which [`Self::work`] ends at once.
    pub(crate) async fn ready<const N: usize>(&self, caches: [BoxFuture<'_, ()>; N]) {
        self.shutdown.run_until_cancelled(join_all(caches)).await;
    }

    /// Runs `reconcile` for the queue's keys until shutdown.
    pub(crate) async fn work<F, Fut>(&self, queue: WorkQueue<ObjectKey>, reconcile: F)
    where
        F: Fn(ObjectKey) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        run_workers(queue, self.workers, self.shutdown.clone(), reconcile).await;
    }
}

/// Why a reconcile did not finish. All of them are tried again with growing delays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API refused a call or could not be reached.
    #[error("{action} {object}")]
    Call {
        /// The verb.
        action: &'static str,
        /// The object's name.
        object: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// The object exists, but its watch has not told of it yet. No fault of anyone's.
    #[error("{object}")]
    Behind {
        /// The object's name.
        object: String,
        /// What the log goes by.
        #[source]
        source: CacheBehind,
    },
    /// The object in the cache cannot be worked with.
    #[error("{object}: {why}")]
    Unusable {
        /// The object's name.
        object: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// Makes a `map_err` argument that names the call.
    pub(crate) fn call(action: &'static str, object: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let object = object.into();
        move |source| Self::Call { action, object, source }
    }

    /// Whether the only trouble is that someone else wrote first.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Call { source, .. } if is_conflict(source))
    }
}

/// What the API said, in its own words: for conditions and events, which upstream fills with the same text.
pub(crate) fn words(error: &kube::Error) -> String {
    match status_of(error) {
        Some(status) => status.message.clone(),
        None => podium_client::error_chain(error),
    }
}

/// Whether the call failed because the namespace is going away, which is no fault of anyone's.
pub(crate) fn namespace_is_terminating(error: &kube::Error) -> bool {
    status_of(error)
        .and_then(|status| status.details.as_ref())
        .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
}

/// Whether the call may have taken effect although it failed: there was no answer from the API, or one that tells of its own
/// trouble.
pub(crate) fn is_uncertain(error: &kube::Error) -> bool {
    status_of(error).is_none_or(|status| matches!(status.code, 500 | 504))
}
