//! The scheduler's hands: feeds the engine from the informers and does what it decides.
//!
//! One task owns the engine. Bindings and status writes run beside it, a bounded number at once, and
//! report back; nothing else is shared.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use podium_client::kube::{Api, Client};
use podium_client::{
    Change, EventRecorder, EventType, SharedInformers, Shutdown, error_chain, is_conflict, is_not_found,
};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::engine::{Action, Engine, Event};
use crate::metrics::{self, Stopwatch};
use crate::owners::Cluster;
use crate::pod::{POD_SCHEDULED, PREEMPTED, PodInfo};
use crate::preempt::Preemption;
use crate::snapshot::NodeFacts;
use crate::surroundings::Point;

/// Writes in flight. Enough to keep a server busy whose writes share an fsync, few enough not to crowd
/// out everybody else's requests.
const WRITING: usize = 64;
/// Decisions in a row before others get the thread.
const BURST: usize = 32;
/// A write that takes longer counts as failed; the engine then tries the pod again.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// An event's message may not be longer.
const MESSAGE_LIMIT: usize = 1024;

/// What a finished task tells the engine.
#[derive(Debug)]
enum Done {
    Bound { uid: String, success: bool, started: Instant, bound_in: Duration },
    Written,
}

/// Feeds events of nodes and pods to the channel; must be called before anything is scheduled.
pub(crate) fn follow(
    informers: &SharedInformers,
    profile: &str,
) -> (Cluster, mpsc::UnboundedReceiver<Event>) {
    // Unbounded: handlers must not block, and what waits here is smaller than what the informers keep.
    let (sender, events) = mpsc::unbounded_channel();
    let tell = move |sender: &mpsc::UnboundedSender<Event>, event| {
        // Nobody listens any more: the scheduler has stopped.
        let _ = sender.send(event);
    };
    let nodes = sender.clone();
    informers.of::<Node>().on_event(move |change| {
        tell(
            &nodes,
            match change {
                Change::Added(node) | Change::Modified { new: node, .. } => {
                    Event::Node(Arc::new(NodeFacts::from_node(node)))
                }
                Change::Deleted(node) => Event::NodeGone(node.metadata.name.clone().unwrap_or_default()),
            },
        );
    });
    let pods = sender.clone();
    informers.of::<Pod>().on_event(move |change| {
        let pod = change.object();
        let info = Arc::new(PodInfo::from_pod(pod));
        let gone = matches!(change, Change::Deleted(_)) || PodInfo::has_ended(pod);
        tell(&pods, if gone { Event::PodGone(info) } else { Event::Pod(info) });
    });
    let cluster = Cluster::new(informers, profile, move || tell(&sender, Event::Volumes));
    (cluster, events)
}

/// The loop and what it needs.
pub(crate) struct Shell {
    pub(crate) client: Client,
    pub(crate) recorder: EventRecorder,
    pub(crate) scheduler_name: String,
    pub(crate) engine: Engine,
    pub(crate) cluster: Cluster,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
}

impl Shell {
    /// Follows the cluster until shutdown and schedules while `leading` is true; waits for the writes in
    /// flight before it returns.
    pub(crate) async fn run(mut self, shutdown: &Shutdown, mut leading: watch::Receiver<bool>) {
        let start = Instant::now();
        let mut writing = JoinSet::new();
        // Pods whose volumes are being bound or made. That may take minutes and must not keep others from being bound, so
        // their number has no limit but that of the pods.
        let mut waiting = JoinSet::new();
        while !shutdown.is_cancelled() {
            while let Ok(event) = self.events.try_recv() {
                self.engine.apply(event, start.elapsed());
            }
            while let Some(done) = writing.try_join_next().or_else(|| waiting.try_join_next()) {
                self.finish(done, start.elapsed());
            }
            let mut idle = !*leading.borrow_and_update();
            for _ in 0..BURST {
                if idle || writing.len() >= WRITING {
                    break;
                }
                let began = self.cluster.watch.start();
                match self.engine.next(start.elapsed(), &self.cluster) {
                    Some(action) => self.act(action, began, &mut writing, &mut waiting),
                    None => idle = true,
                }
            }
            self.measure();
            if !idle && writing.len() < WRITING {
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.engine.queue().next_due().filter(|_| idle).map(|due| start + due);
            tokio::select! {
                () = shutdown.cancelled() => {}
                Ok(()) = leading.changed() => {}
                Some(done) = writing.join_next(), if !writing.is_empty() => self.finish(done, start.elapsed()),
                Some(done) = waiting.join_next(), if !waiting.is_empty() => self.finish(done, start.elapsed()),
                Some(event) = self.events.recv(), if idle => self.engine.apply(event, start.elapsed()),
                () = sleep_until(due.unwrap_or(start)), if due.is_some() => {}
            }
        }
        // Whoever waits for volumes is left: the next scheduler decides again, with what is bound by then.
        waiting.shutdown().await;
        while let Some(done) = writing.join_next().await {
            self.finish(done, start.elapsed());
        }
    }

    fn finish(&mut self, done: Result<Done, tokio::task::JoinError>, now: Duration) {
        match done {
            Ok(Done::Bound { uid, success, started, bound_in }) => {
                self.cluster.volumes.release(&uid);
                self.cluster.watch.took(Point::Bind, success, bound_in);
                let result = if success { "scheduled" } else { "error" };
                metrics::attempted(&self.scheduler_name, result, started.elapsed());
                if let Some(scheduled) = self.engine.bound(&uid, success, now) {
                    metrics::scheduled(scheduled.tries, scheduled.since_first);
                }
            }
            Ok(Done::Written) => {}
            Err(error) => tracing::error!(%error, "a scheduler task ended badly"),
        }
    }

    fn measure(&self) {
        let snapshot = self.engine.snapshot();
        let (nodes, pods) = (snapshot.nodes().len(), snapshot.pod_count());
        metrics::sizes(self.engine.queue().waiting(), nodes, pods, self.engine.being_bound());
    }

    /// Starts what is to be done: writes in `writing`, what waits for others before it writes in `waiting`. `began` is when the
    /// engine was asked.
    fn act(
        &self,
        action: Action,
        began: std::time::Instant,
        writing: &mut JoinSet<Done>,
        waiting: &mut JoinSet<Done>,
    ) {
        Stopwatch::decided(began);
        let started = Instant::from_std(began);
        let client = self.client.clone();
        let recorder = self.recorder.clone();
        match action {
            Action::Bind { pod, node, volumes } if !volumes.is_empty() => {
                // Decisions that follow must count with these, so they are reserved before the task first runs.
                let binder = Arc::clone(&self.cluster.volumes);
                binder.reserve(&pod, &node, &volumes);
                waiting.spawn(async move {
                    let bound = binder.bind(&client, &node, &volumes).await;
                    if let Err(why) = &bound {
                        let message =
                            format!("running PreBind plugin \"VolumeBinding\": binding volumes: {why}");
                        recorder.event(&reference(&pod), EventType::Warning, "FailedScheduling", message);
                    }
                    let asked = Instant::now();
                    let success = bound.is_ok() && bind(&client, &recorder, &pod, &node).await;
                    Done::Bound { uid: pod.uid.clone(), success, started, bound_in: asked.elapsed() }
                });
            }
            Action::Bind { pod, node, .. } => {
                writing.spawn(async move {
                    let asked = Instant::now();
                    let success = bind(&client, &recorder, &pod, &node).await;
                    Done::Bound { uid: pod.uid.clone(), success, started, bound_in: asked.elapsed() }
                });
            }
            Action::Refuse { pod, message, preemption } => {
                metrics::attempted(&self.scheduler_name, "unschedulable", started.elapsed());
                if let Some(preemption) = &preemption {
                    metrics::preempted(preemption.victims.len());
                }
                let short = truncated(&message);
                recorder.event(&reference(&pod), EventType::Warning, "FailedScheduling", short);
                let scheduler_name = self.scheduler_name.clone();
                writing.spawn(async move {
                    refuse(&client, &pod, &message, preemption.as_ref()).await;
                    if let Some(preemption) = preemption {
                        make_room(&client, &recorder, &scheduler_name, &pod, &preemption).await;
                    }
                    Done::Written
                });
            }
            Action::Skip { pod } => {
                let message = format!("skip schedule deleting pod: {}", slashed(&pod));
                recorder.event(&reference(&pod), EventType::Warning, "FailedScheduling", message);
            }
        }
    }
}

fn slashed(pod: &PodInfo) -> String {
    format!("{}/{}", pod.key.namespace, pod.key.name)
}

fn reference(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.key.namespace.clone()),
        name: Some(pod.key.name.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}

fn truncated(message: &str) -> String {
    if message.len() <= MESSAGE_LIMIT {
        return message.to_owned();
    }
    let suffix = " ...";
    let mut end = MESSAGE_LIMIT - suffix.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &message[..end])
}

fn pods(client: &Client, pod: &PodInfo) -> Api<Pod> {
    Api::namespaced(client.clone(), &pod.key.namespace)
}

/// Binds the pod and tells it; true when it is bound.
async fn bind(client: &Client, recorder: &EventRecorder, pod: &PodInfo, node: &str) -> bool {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"namespace": pod.key.namespace, "name": pod.key.name, "uid": pod.uid},
        "target": {"kind": "Node", "name": node},
    });
    let path = format!("/api/v1/namespaces/{}/pods/{}/binding", pod.key.namespace, pod.key.name);
    let request = http_request(&path, binding.to_string().into_bytes());
    match timeout(WRITE_WITHIN, client.request::<serde_json::Value>(request)).await {
        Ok(Ok(_)) => {
            let message = format!("Successfully assigned {} to {node}", slashed(pod));
            recorder.event(&reference(pod), EventType::Normal, "Scheduled", message);
            true
        }
        Ok(Err(error)) if is_not_found(&error) || is_conflict(&error) => {
            tracing::debug!(pod = %pod.key, node, cause = error_chain(&error), "not bound: the pod has changed");
            false
        }
        Ok(Err(error)) => {
            tracing::warn!(pod = %pod.key, node, cause = error_chain(&error), "not bound");
            false
        }
        Err(_) => {
            tracing::warn!(pod = %pod.key, node, "not bound: no answer");
            false
        }
    }
}

fn http_request(path: &str, body: Vec<u8>) -> http::Request<Vec<u8>> {
    http::Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .expect("names of objects make valid paths")
}

/// Writes the PodScheduled condition, unless the pod says the same already, and the node where room
/// is made for it.
async fn refuse(client: &Client, pod: &PodInfo, message: &str, preemption: Option<&Preemption>) {
    let known = pod.refusal.as_ref();
    let same = known.is_some_and(|known| known.reason == "Unschedulable" && known.message == message);
    let nominated = preemption.map(|preemption| &*preemption.node);
    if same && (nominated.is_none() || nominated == pod.nominated_node.as_deref()) {
        return;
    }
    let since = known.and_then(|known| known.since).unwrap_or_else(Timestamp::now);
    let mut condition = json!({
        "type": POD_SCHEDULED, "status": "False", "reason": "Unschedulable", "message": message,
        "lastProbeTime": null, "lastTransitionTime": whole_seconds(since),
    });
    if let Some(generation) = pod.generation.filter(|generation| *generation > 0) {
        condition["observedGeneration"] = generation.into();
    }
    let mut patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
    if let Some(node) = nominated {
        patch["status"]["nominatedNodeName"] = node.into();
    }
    patch_status(client, pod, &patch, "condition not written").await;
}

fn whole_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns whether the patch was taken.
async fn patch_status(client: &Client, pod: &PodInfo, patch: &serde_json::Value, what: &str) -> bool {
    let pods = pods(client, pod);
    let parameters = PatchParams::default();
    let patch = Patch::Strategic(patch);
    let patched = pods.patch_status(&pod.key.name, &parameters, &patch);
    match timeout(WRITE_WITHIN, patched).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) if is_not_found(&error) || is_conflict(&error) => false,
        Ok(Err(error)) => {
            tracing::warn!(pod = %pod.key, cause = error_chain(&error), "{what}");
            false
        }
        Err(_) => {
            tracing::warn!(pod = %pod.key, "{what}: no answer");
            false
        }
    }
}

/// Marks and deletes the victims. Each is marked first, so that it can be told why it ended.
async fn make_room(
    client: &Client,
    recorder: &EventRecorder,
    scheduler_name: &str,
    pod: &PodInfo,
    preemption: &Preemption,
) {
    for victim in preemption.victims.iter().filter(|victim| !victim.terminating) {
        let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": PREEMPTED,
            "message": format!("{scheduler_name}: preempting to accommodate a higher priority pod"),
            "lastProbeTime": null, "lastTransitionTime": whole_seconds(Timestamp::now()),
        }]}});
        if !patch_status(client, victim, &patch, "victim not marked").await {
            continue;
        }
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(victim.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        match timeout(WRITE_WITHIN, pods(client, victim).delete(&victim.key.name, &parameters)).await {
            Ok(Ok(_)) => {
                let message = format!("Preempted by pod {} on node {}", pod.uid, preemption.node);
                recorder.event(&reference(victim), EventType::Normal, "Preempted", message);
            }
            Ok(Err(error)) if is_not_found(&error) || is_conflict(&error) => {}
            Ok(Err(error)) => {
                tracing::warn!(pod = %victim.key, cause = error_chain(&error), "victim not deleted");
            }
            Err(_) => tracing::warn!(pod = %victim.key, "victim not deleted: no answer"),
        }
    }
}
