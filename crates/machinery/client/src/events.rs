//! Records core/v1 Events without making anybody wait for them.
//!
//! A component keeps an [`EventRecorder`] and one task of it runs the [`EventSink`], which decides
//! with `correlate` what each recorded event becomes and writes it. Events are best effort: when
//! more wait than [`QUEUED`], new ones are dropped.

mod correlate;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use self::correlate::{Correlator, Outcome};
use crate::{
    Object, Shutdown, TokenBucket, error_chain, is_already_exists, is_forbidden, is_not_found, is_retriable,
};

/// Events that may wait. Upstream allows 1000; a burst of pods is scheduled faster here.
const QUEUED: usize = 8192;
/// Writes in flight. Events about different objects do not wait for each other.
const WRITING: usize = 16;
/// Upstream tries an event 12 times, 10 s apart.
const TRIES: u32 = 12;
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// One write may take this long.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// Time to write what waits at shutdown.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Whether an event tells of something wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Information only.
    Normal,
    /// Something is wrong or may become so.
    Warning,
}

impl EventType {
    /// The value of the event's `type` field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Records events. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct EventRecorder {
    component: Arc<str>,
    host: Arc<str>,
    queue: mpsc::Sender<Event>,
    /// The last name suffix given out, so that no two events share a name.
    last_nanosecond: Arc<AtomicU64>,
}

/// Writes what its recorders record.
pub struct EventSink {
    client: Client,
    queue: mpsc::Receiver<Event>,
    rate: Option<TokenBucket>,
}

impl fmt::Debug for EventRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventRecorder({})", self.component)
    }
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventSink({} waiting)", self.queue.len())
    }
}

impl EventRecorder {
    /// A recorder and the sink that must run for its events to be written. `component` is the event's
    /// source, such as `kubelet`; `host` is the node's name, or empty for parts that belong to none.
    pub fn new(client: Client, component: &str, host: &str) -> (EventRecorder, EventSink) {
        let (sender, receiver) = mpsc::channel(QUEUED);
        let recorder = EventRecorder {
            component: component.into(),
            host: host.into(),
            queue: sender,
            last_nanosecond: Arc::default(),
        };
        (recorder, EventSink { client, queue: receiver, rate: None })
    }

    /// Records an event about an object. Dropped, with a log line, when too many wait.
    pub fn event(&self, about: &ObjectReference, type_: EventType, reason: &str, message: impl Into<String>) {
        let event = self.make(about, type_, reason, message.into(), Timestamp::now());
        if let Err(mpsc::error::TrySendError::Full(event)) = self.queue.try_send(event) {
            tracing::warn!(
                component = &*self.component,
                reason,
                object = event.involved_object.name,
                "too many events wait, one is dropped"
            );
        }
    }

    fn make(
        &self,
        about: &ObjectReference,
        type_: EventType,
        reason: &str,
        message: String,
        now: Timestamp,
    ) -> Event {
        let namespace = about.namespace.clone().filter(|namespace| !namespace.is_empty());
        let mut event = Event {
            involved_object: about.clone(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            type_: Some(type_.as_str().to_owned()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            source: Some(EventSource {
                component: Some(self.component.to_string()),
                host: (!self.host.is_empty()).then(|| self.host.to_string()),
            }),
            reporting_component: Some(self.component.to_string()),
            reporting_instance: Some(self.host.to_string()),
            ..Default::default()
        };
        event.metadata.namespace = Some(namespace.unwrap_or_else(|| "default".to_owned()));
        let name = about.name.as_deref().unwrap_or_default();
        event.metadata.name = Some(event_name(name, self.nanosecond(now)));
        event
    }

    fn nanosecond(&self, now: Timestamp) -> u64 {
        let now = u64::try_from(now.as_nanosecond()).unwrap_or_default();
        let before = self
            .last_nanosecond
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)))
            .expect("the update always gives a value");
        now.max(before + 1)
    }
}

/// `name.hex`, or something random when the object's name cannot be part of an event's name.
fn event_name(object: &str, nanosecond: u64) -> String {
    let fits = !object.is_empty()
        && object.len() + 17 <= 253
        && object.split('.').all(|label| {
            let edge = |byte: Option<u8>| {
                byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            };
            edge(label.bytes().next())
                && edge(label.bytes().next_back())
                && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        });
    if fits {
        format!("{object}.{nanosecond:x}")
    } else {
        format!("{:016x}{nanosecond:016x}", fastrand::u64(..))
    }
}

impl EventSink {
    /// Writes so many events a second in the long run, and so many at once; without a rate, as many as come.
    #[must_use]
    pub fn limited(mut self, per_second: u32, burst: u32) -> Self {
        self.rate = TokenBucket::new(per_second, burst, Instant::now());
        self
    }

    /// Writes events until shutdown, then what still waits, for two seconds at most.
    pub async fn run(mut self, shutdown: Shutdown) {
        let too_late = async {
            shutdown.cancelled().await;
            sleep(FLUSH_WITHIN).await;
        };
        let in_time = tokio::select! {
            biased;
            () = self.write_all(&shutdown) => true,
            () = too_late => false,
        };
        if !in_time {
            tracing::warn!(left = self.queue.len(), "events left unwritten at shutdown");
        }
    }

    /// Returns when all recorders are gone, or after shutdown when everything is written.
    async fn write_all(&mut self, shutdown: &Shutdown) {
        let mut correlator = Correlator::default();
        let mut writing = FuturesUnordered::new();
        let mut names = HashSet::new();
        let mut closed = false;
        loop {
            // In this order, so that a simulation can replay: what is finished makes room for what comes.
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !closed => {
                    self.queue.close();
                    closed = true;
                }
                Some(name) = writing.next(), if !writing.is_empty() => {
                    names.remove(&name);
                }
                event = self.queue.recv(), if writing.len() < WRITING => {
                    let Some(event) = event else { break };
                    let outcome = correlator.correlate(event, Timestamp::now());
                    let (Outcome::Create(whole) | Outcome::Patch { whole, .. }) = &outcome else { continue };
                    let name = format!("{:?}/{:?}", whole.metadata.namespace, whole.metadata.name);
                    // Writes of one event keep their order.
                    while names.contains(&name) {
                        let Some(done) = writing.next().await else { break };
                        names.remove(&done);
                    }
                    names.insert(name.clone());
                    let client = self.client.clone();
                    let turn = self.rate.as_mut().map(|rate| rate.reserve(Instant::now()));
                    writing.push(async move {
                        // Not even an instant without a limit: a simulation's order would change.
                        if let Some(turn) = turn {
                            sleep(turn).await;
                        }
                        write(client, outcome).await;
                        name
                    });
                }
            }
        }
        while writing.next().await.is_some() {}
    }
}

async fn write(client: Client, outcome: Outcome) {
    let (event, mut patch) = match outcome {
        Outcome::Skip => return,
        Outcome::Create(event) => (event, None),
        Outcome::Patch { patch, whole } => (whole, Some(patch)),
    };
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let name = event.metadata.name.clone().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client, &namespace);
    for attempt in 1..=TRIES {
        let written = timeout(WRITE_WITHIN, async {
            match &patch {
                Some(patch) => events.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await,
                None => events.create(&PostParams::default(), &event).await,
            }
        })
        .await;
        match written {
            Ok(Ok(_)) => return,
            // The counted event has expired: it starts anew.
            Ok(Err(error)) if patch.is_some() && is_not_found(&error) => {
                patch = None;
                continue;
            }
            Ok(Err(error)) if !is_retriable(&error) => {
                // Expected while a namespace is deleted, and after a create whose answer was lost.
                if is_already_exists(&error) || is_forbidden(&error) || is_not_found(&error) {
                    tracing::debug!(namespace, name, cause = error_chain(&error), "event refused");
                } else {
                    tracing::warn!(namespace, name, cause = error_chain(&error), "event refused");
                }
                return;
            }
            Ok(Err(error)) => {
                tracing::debug!(namespace, name, attempt, cause = error_chain(&error), "event not written");
            }
            Err(_) => tracing::debug!(namespace, name, attempt, "event not written: no answer"),
        }
        let wait = if attempt == 1 { RETRY_AFTER.mul_f64(fastrand::f64()) } else { RETRY_AFTER };
        sleep(wait).await;
    }
    tracing::warn!(namespace, name, "event given up after {TRIES} tries");
}

/// The reference that an event about this object carries.
pub fn reference_of<K: Object>(object: &K) -> ObjectReference {
    let mut reference = object.object_ref(&());
    reference.resource_version = object.meta().resource_version.clone();
    reference
}

#[cfg(test)]
mod tests;
