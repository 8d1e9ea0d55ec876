//! Pods of this node and their workers: who is here, who is new, who is gone, and what nobody knows.

mod beside;
mod bounds;
pub(crate) mod clean;
mod leave;
mod memory_notice;
mod orphans;
pub(crate) mod relief;
mod statics;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use podium_client::{Change, Informer, ObjectKey};
use podium_cri::v1;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use crate::{
    container_gc,
    context::Shared,
    metrics, pod,
    record::label,
    worker::{Mailbox, Worker},
};

/// The look over everything: what no event told is found here. Where the runtime tells of changes it is the safety net only.
const RELIST_EVERY: Duration = Duration::from_secs(5);
const RELIST_BESIDE_EVENTS: Duration = Duration::from_secs(60);
/// Pause before the runtime's event stream is opened again.
const EVENTS_RETRY: Duration = Duration::from_secs(2);

/// One pod of this node.
struct Entry {
    pod: Arc<Pod>,
    mailbox: Arc<Mailbox>,
    task: Option<JoinHandle<()>>,
    /// Its worker has been told that the pod is gone: from the API, or a static pod's file.
    leaving: bool,
}

/// All pods of this node.
pub(crate) struct Pods {
    shared: Shared,
    entries: Mutex<HashMap<String, Entry>>,
    /// What the API has of static pods.
    mirrors: Mutex<HashMap<ObjectKey, Arc<Pod>>>,
    /// Mirrors or workers of static pods have changed.
    statics_wake: Notify,
    /// When the look over the runtime last began.
    looked: Mutex<Instant>,
    /// The API and the sources of static pods have said what they know: what is not here is nobody's.
    complete: watch::Sender<bool>,
    /// How many that nobody knows are being ended.
    orphans: AtomicUsize,
}

impl std::fmt::Debug for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pods").field("pods", &self.entries.lock().len()).finish_non_exhaustive()
    }
}

impl Pods {
    pub(crate) fn new(shared: Shared) -> Arc<Self> {
        Arc::new(Self {
            shared,
            entries: Mutex::default(),
            mirrors: Mutex::default(),
            statics_wake: Notify::new(),
            looked: Mutex::new(Instant::now()),
            complete: watch::Sender::new(false),
            orphans: AtomicUsize::new(0),
        })
    }

    /// Follows the informer of this node's pods.
    pub(crate) fn follow(self: &Arc<Self>, informer: &Informer<Pod>) {
        let this = Arc::downgrade(self);
        let runtime = tokio::runtime::Handle::current();
        informer.on_event(move |change| {
            let Some(this) = this.upgrade() else { return };
            match change {
                Change::Added(pod) => this.shown(pod, &runtime),
                Change::Modified { old, new } => {
                    if pod::uid(old) != pod::uid(new) {
                        this.gone(old);
                    }
                    this.shown(new, &runtime);
                }
                Change::Deleted(pod) => this.gone(pod),
            }
        });
    }

    /// The API has this pod.
    fn shown(self: &Arc<Self>, pod: &Arc<Pod>, runtime: &tokio::runtime::Handle) {
        if pod::is_mirror(pod) { self.mirror_changed(pod) } else { self.put(pod, runtime) }
    }

    fn put(self: &Arc<Self>, pod: &Arc<Pod>, runtime: &tokio::runtime::Handle) {
        let uid = pod::uid(pod).to_owned();
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&uid) {
            entry.pod = pod.clone();
            entry.mailbox.pod(pod.clone());
            return;
        }
        let others = beside::Beside { pods: Arc::downgrade(self), uid: uid.clone() };
        let mailbox = Arc::new(Mailbox::new(Box::new(others)));
        let worker = Worker::new(self.shared.clone(), pod.clone(), mailbox.clone());
        let this = Arc::downgrade(self);
        let task = runtime.spawn(async move {
            worker.run().await;
            // A successor of a static pod may wait for this end.
            if let Some(this) = this.upgrade() {
                this.statics_wake.notify_one();
            }
        });
        entries.insert(uid, Entry { pod: pod.clone(), mailbox, task: Some(task), leaving: false });
    }

    fn gone(&self, pod: &Arc<Pod>) {
        if pod::is_mirror(pod) {
            return self.mirror_gone(pod);
        }
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(pod::uid(pod)) else { return };
        // The last state need not be one of a pod that is being deleted: without grace it goes at once.
        entry.pod = pod.clone();
        entry.leaving = true;
        entry.mailbox.removed(pod.clone());
        if entry.task.as_ref().is_none_or(JoinHandle::is_finished) {
            entries.remove(pod::uid(pod));
        }
    }

    /// Wakes the worker of a pod.
    pub(crate) fn wake(&self, uid: &str) {
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.mailbox.wake();
        }
    }

    /// Tells a worker that something its pod refers to has changed.
    pub(crate) fn references_changed(&self, uid: &str) {
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.mailbox.references_changed();
        }
    }

    /// Whether the runtime is still looked over; the text says since when it is not.
    pub(crate) fn is_looking(&self) -> Result<(), String> {
        let (since, calls) =
            (self.looked.lock().elapsed(), self.shared.config.settings.runtime_request_timeout.0);
        // A runtime that does not answer is the node's trouble, not the kubelet's: its calls may take all their time.
        let limit = 2 * RELIST_BESIDE_EVENTS + calls;
        if since <= limit { Ok(()) } else { Err(format!("the runtime was last looked over {since:?} ago")) }
    }

    fn is_complete(&self) -> bool {
        *self.complete.borrow()
    }

    /// Whether nothing of a pod in the runtime is worth keeping, so far as garbage collection goes.
    pub(crate) fn loses_all(&self, uid: &str, scope: container_gc::Scope) -> bool {
        match self.entries.lock().get(uid) {
            None => self.is_complete(),
            Some(entry) if entry.mailbox.is_active() => false,
            Some(entry) => {
                scope == container_gc::Scope::Over
                    || entry.mailbox.is_evicted()
                    || pod::is_deleting(&entry.pod)
            }
        }
    }

    /// How many pods are at each point of their lives: upstream's words for that and for who wants them, whether they are static,
    /// and the number.
    pub(crate) fn working(&self) -> Vec<([&'static str; 3], usize)> {
        let lives = ["sync", "terminating", "terminated"];
        let kinds = [("desired", ""), ("desired", "true"), ("orphan", ""), ("orphan", "true")];
        let mut counts: BTreeMap<[&'static str; 3], usize> = kinds
            .into_iter()
            .chain([("runtime_only", "unknown")])
            .flat_map(|(config, is_static)| lives.map(|life| ([life, config, is_static], 0)))
            .collect();
        for entry in self.entries.lock().values() {
            let ending = entry.leaving || pod::is_deleting(&entry.pod) || is_over(&entry.pod);
            let life = match (entry.mailbox.is_active(), ending || entry.mailbox.is_evicted()) {
                (false, _) => "terminated",
                (true, true) => "terminating",
                (true, false) => "sync",
            };
            let config = if entry.leaving { "orphan" } else { "desired" };
            let is_static = if pod::is_static(&entry.pod) { "true" } else { "" };
            *counts.entry([life, config, is_static]).or_default() += 1;
        }
        counts.insert(["terminating", "runtime_only", "unknown"], self.orphans.load(Ordering::Relaxed));
        counts.into_iter().collect()
    }

    /// Every pod of this node, ordered by namespace and name.
    pub(crate) fn list(&self) -> Vec<Arc<Pod>> {
        let mut pods: Vec<Arc<Pod>> = self.entries.lock().values().map(|entry| entry.pod.clone()).collect();
        pods.sort_by_key(|pod| ObjectKey::of(&**pod));
        pods
    }

    /// The pods that take something of the node, in the same order.
    pub(crate) fn active(&self) -> Vec<Arc<Pod>> {
        self.active_if(|_| true)
    }

    /// Those among them that nobody has told to go yet.
    pub(crate) fn staying(&self) -> Vec<Arc<Pod>> {
        self.active_if(|mailbox| !mailbox.is_evicted())
    }

    fn active_if(&self, wanted: impl Fn(&Mailbox) -> bool) -> Vec<Arc<Pod>> {
        let entries = self.entries.lock();
        let active = entries
            .values()
            .filter(|entry| entry.mailbox.is_active() && !is_over(&entry.pod) && wanted(&entry.mailbox));
        let mut pods: Vec<Arc<Pod>> = active.map(|entry| entry.pod.clone()).collect();
        pods.sort_by_key(|pod| ObjectKey::of(&**pod));
        pods
    }

    /// A pod by name.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>> {
        let entries = self.entries.lock();
        let matching = entries.values().map(|entry| &entry.pod).filter(|found| {
            pod::namespace(found) == namespace
                && pod::name(found) == name
                && uid.is_none_or(|uid| uid == pod::uid(found))
        });
        matching.max_by_key(|found| found.metadata.creation_timestamp.clone()).cloned()
    }

    /// Looks over the runtime now and then, listens to its events where it has any, and clears away what
    /// belongs to nobody. Runs until shutdown, then waits for all workers.
    pub(crate) async fn run(self: &Arc<Self>, informer: &Informer<Pod>) {
        let shutdown = self.shared.shutdown.clone();
        // What a static pod replaces may have a hook that takes its time.
        let Some(statics) = shutdown.run_until_cancelled(self.first_statics()).await else { return };
        let heard = watch::Sender::new(self.shared.config.settings.static_pod_url.is_none());
        let mut all_heard = heard.subscribe();
        let clean = async {
            // Until the API and the sources of static pods have said what they know, nothing is an orphan.
            informer.synced().await;
            all_heard.wait_for(|heard| *heard).await.ok();
            self.complete.send_replace(true);
            tokio::join!(self.clean(), container_gc::run(&self.shared, self));
        };
        let (tell, telling) = watch::channel(false);
        let work = async {
            tokio::join!(
                self.keep_statics(statics, &heard, informer),
                self.relist(telling),
                self.listen(tell),
                clean,
                self.share_cpu(),
                self.reap(),
                self.relieve(),
                self.bound_disk()
            );
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
        self.stopped().await;
    }

    async fn stopped(&self) {
        let tasks: Vec<_> = self.entries.lock().values_mut().filter_map(|entry| entry.task.take()).collect();
        // An error would be a panic of a worker, which has been reported where it happened.
        futures::future::join_all(tasks).await;
    }

    /// Lets entries go whose worker has ended and whose pod is gone.
    async fn reap(&self) {
        loop {
            tokio::time::sleep(RELIST_EVERY).await;
            self.entries.lock().retain(|_, entry| {
                let ended = entry.task.as_ref().is_none_or(JoinHandle::is_finished);
                !(ended && (entry.leaving || pod::is_deleting(&entry.pod)))
            });
        }
    }

    /// `telling`: whether the runtime's events are being heard. A change of that is a cause to look: something may have been
    /// missed.
    async fn relist(&self, mut telling: watch::Receiver<bool>) {
        let mut before: BTreeMap<String, (String, i32)> = BTreeMap::new();
        let mut began = None;
        loop {
            let pause = if *telling.borrow_and_update() { RELIST_BESIDE_EVENTS } else { RELIST_EVERY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = telling.changed() => {}
            }
            let (metrics, begins) = (&self.shared.metrics, Instant::now());
            *self.looked.lock() = begins;
            if let Some(last) = began.replace(begins) {
                metrics.took(&metrics::RELIST_INTERVAL, &[], begins - last);
            }
            let Some(now) = self.states().await else { continue };
            metrics.since(&metrics::RELIST_DURATION, &[], begins);
            metrics.moment(&metrics::RELIST_SEEN, jiff::Timestamp::now());
            let changed: BTreeSet<&String> = now
                .iter()
                .filter(|(id, state)| before.get(*id) != Some(state))
                .chain(before.iter().filter(|(id, _)| !now.contains_key(*id)))
                .map(|(_, (uid, _))| uid)
                .collect();
            for uid in changed {
                self.wake(uid);
            }
            before = now;
        }
    }

    /// The state of everything in the runtime by id, with the pod it belongs to.
    async fn states(&self) -> Option<BTreeMap<String, (String, i32)>> {
        let cri = &self.shared.cri;
        let (sandboxes, containers) = tokio::try_join!(
            cri.list_pod_sandbox(v1::ListPodSandboxRequest::default()),
            cri.list_containers(v1::ListContainersRequest::default())
        )
        .ok()?;
        let uid = |labels: &HashMap<String, String>| labels.get(label::POD_UID).cloned().unwrap_or_default();
        let sandboxes = sandboxes.items.iter().map(|one| (one.id.clone(), (uid(&one.labels), one.state)));
        let containers =
            containers.containers.iter().map(|one| (one.id.clone(), (uid(&one.labels), one.state)));
        Some(sandboxes.chain(containers).collect())
    }

    /// The runtime's own events. Runtimes without them say so, and then the others have to do.
    async fn listen(&self, telling: watch::Sender<bool>) {
        let metrics = &self.shared.metrics;
        loop {
            match self.shared.cri.container_events().await {
                Ok(mut events) => {
                    telling.send_replace(true);
                    metrics.count(&metrics::EVENTS_HEARD, &[]);
                    while let Ok(Some(event)) = events.message().await {
                        metrics.took(&metrics::EVENTS_LATENCY, &[], age(event.created_at));
                        let status = event.pod_sandbox_status.unwrap_or_default();
                        if let Some(metadata) = status.metadata {
                            self.wake(&metadata.uid);
                        }
                    }
                    telling.send_replace(false);
                }
                Err(error) if error.is_unimplemented() => {
                    tracing::debug!("the runtime has no event stream; ends are noticed by process");
                    return std::future::pending().await;
                }
                Err(error) => {
                    metrics.count(&metrics::EVENTS_FAILED, &[]);
                    tracing::debug!(%error, "the runtime's event stream could not be opened");
                }
            }
            tokio::time::sleep(EVENTS_RETRY).await;
        }
    }

    /// The burstable class gets the CPU its pods ask for together.
    async fn share_cpu(&self) {
        let mut last = None;
        loop {
            let total: i64 = self
                .list()
                .iter()
                .filter(|pod| crate::resources::qos(pod) == crate::resources::Qos::Burstable && !is_over(pod))
                .map(|pod| crate::resources::pod_request(pod, "cpu").milli_value())
                .sum();
            if last != Some(total) {
                let cgroups = self.shared.cgroups.clone();
                match tokio::task::spawn_blocking(move || cgroups.share_burstable(total)).await {
                    Ok(Ok(())) => last = Some(total),
                    Ok(Err(error)) => tracing::warn!(%error, "sharing CPU out failed"),
                    Err(error) => tracing::warn!(%error, "sharing CPU out failed"),
                }
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
}

/// How long ago that was, in nanoseconds since 1970.
fn age(nanoseconds: i64) -> Duration {
    let since = jiff::Timestamp::now().as_nanosecond() - i128::from(nanoseconds);
    u64::try_from(since).map_or(Duration::ZERO, Duration::from_nanos)
}

fn is_over(pod: &Pod) -> bool {
    pod::is_terminal_phase(pod.status.as_ref().and_then(|status| status.phase.as_deref()))
}
