//! What others tell a worker: the newest state of its pod, and that it should look.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::{admission::Refused, status::Verdict};

/// Is over when pods that were ended for another have gone.
pub(crate) type Departure = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The other pods of the node.
pub(crate) trait Neighbours: Send + Sync {
    /// Decides whether a pod may run beside them. `newer`: the node as the API has it at this moment, if it was asked.
    fn admit(&self, wanted: &Pod, newer: Option<&Node>) -> Result<(), Refused>;

    /// Whether there is room beside them.
    fn fits(&self, wanted: &Pod) -> Result<(), Refused>;

    /// Ends some of them for a critical pod.
    fn make_room(&self, wanted: &Pod) -> Result<Departure, Refused>;
}

/// The letters that have come since the last reading; only the newest of each kind counts.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) pod: Option<Arc<Pod>>,
    pub(crate) removed: bool,
    /// What shows a static pod to the API.
    pub(crate) mirror: Option<Arc<Pod>>,
    pub(crate) references_changed: bool,
    /// With the grace period in seconds.
    pub(crate) evict: Option<(Verdict, i64)>,
}

/// One worker's mailbox.
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    notify: Notify,
    active: watch::Sender<bool>,
    /// The pod has been told to go.
    evicted: AtomicBool,
    /// The pod with the resources it was granted.
    held: Mutex<Option<Arc<Pod>>>,
    neighbours: Box<dyn Neighbours>,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("mail", &self.mail).finish_non_exhaustive()
    }
}

impl Mailbox {
    pub(crate) fn new(neighbours: Box<dyn Neighbours>) -> Self {
        Self {
            mail: Mutex::default(),
            notify: Notify::new(),
            active: watch::Sender::new(true),
            evicted: AtomicBool::new(false),
            held: Mutex::default(),
            neighbours,
        }
    }

    /// The pod has changed in the API.
    pub(crate) fn pod(&self, pod: Arc<Pod>) {
        self.mail.lock().pod = Some(pod);
        self.notify.notify_one();
    }

    /// The pod is gone from the API; its last state says how much grace was left.
    pub(crate) fn removed(&self, last: Arc<Pod>) {
        let mut mail = self.mail.lock();
        mail.pod = Some(last);
        mail.removed = true;
        drop(mail);
        self.notify.notify_one();
    }

    /// The API's image of this static pod has changed.
    pub(crate) fn mirror(&self, mirror: Arc<Pod>) {
        self.mail.lock().mirror = Some(mirror);
        self.notify.notify_one();
    }

    /// A ConfigMap or Secret the pod refers to has changed.
    pub(crate) fn references_changed(&self) {
        self.mail.lock().references_changed = true;
        self.notify.notify_one();
    }

    /// The pod has to go: the node is short of something, or shuts down. True if it is told so for the first time.
    pub(crate) fn evict(&self, verdict: Verdict, grace_seconds: i64) -> bool {
        self.mail.lock().evict = Some((verdict, grace_seconds));
        self.notify.notify_one();
        !self.evicted.swap(true, Ordering::Relaxed)
    }

    /// Whether the pod has been told to go; it may need all its grace for that.
    pub(crate) fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Something in the runtime may have changed.
    pub(crate) fn wake(&self) {
        self.notify.notify_one();
    }

    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }

    pub(crate) fn take(&self) -> Mail {
        std::mem::take(&mut self.mail.lock())
    }

    pub(crate) fn neighbours(&self) -> &dyn Neighbours {
        &*self.neighbours
    }

    /// The pod with what it was granted, once its worker has looked at it.
    pub(crate) fn held(&self) -> Option<Arc<Pod>> {
        self.held.lock().clone()
    }

    pub(crate) fn set_held(&self, pod: &Arc<Pod>) {
        *self.held.lock() = Some(pod.clone());
    }

    /// Whether the pod still takes resources of the node.
    pub(crate) fn is_active(&self) -> bool {
        *self.active.borrow()
    }

    /// Returns when the pod does not take anything of the node any more; outlives the mailbox.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut active = self.active.subscribe();
        async move {
            // An error is that the worker is gone with its mailbox.
            active.wait_for(|active| !active).await.ok();
        }
    }

    pub(crate) fn set_active(&self, active: bool) {
        self.active.send_replace(active);
    }
}
