//! Watches pods and nodes, and removes.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_conflict, is_not_found, run_workers};
use serde_json::json;

use super::decide::{QUARANTINE, excess, is_out_of_service, is_unscheduled_and_terminating, last_words};
use crate::context::{Context, Error};
use crate::metrics;
use crate::nodes;
use crate::owner;
use crate::pods;

/// Why pods are removed, by the names that upstream's metrics have.
const TERMINATED: &str = "terminated";
const OUT_OF_SERVICE: &str = "out-of-service";
const ORPHANED: &str = "orphaned";
const UNSCHEDULED: &str = "unscheduled";

/// Index of pods that have ended.
const ENDED: &str = "controllers/ended";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let pods = context.informers.of::<Pod>();
    pods::index_by_node(&pods);
    pods.add_index(ENDED, |pod| if pods::is_finished(pod) { vec!["ended".to_owned()] } else { Vec::new() });
    let controller = Arc::new(Controller {
        nodes: context.informers.of::<Node>(),
        pods,
        queue: WorkQueue::new("orphaned_pods_nodes"),
        context: context.clone(),
    });
    context.ready([controller.nodes.synced().boxed(), controller.pods.synced().boxed()]).await;
    controller.clone().watch();
    let queue = controller.queue.clone();
    let reconcile = move |task| reconcile(controller.clone(), task);
    run_workers(queue, context.workers, context.shutdown.clone(), reconcile).await;
}

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Task {
    /// Is this pod past help?
    Pod(ObjectKey),
    /// Is this node gone, or off, and has pods?
    Node(String),
    /// Are there too many ended pods?
    Ended,
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    queue: WorkQueue<Task>,
}

impl Controller {
    fn watch(self: Arc<Self>) {
        let (queue, nodes) = (self.queue.clone(), self.nodes.clone());
        let ended = self.clone();
        self.pods.on_event(move |change| {
            if matches!(change, Change::Deleted(_)) {
                return;
            }
            let pod = change.object();
            if pods::is_terminating(pod) {
                queue.add(Task::Pod(ObjectKey::of(pod.as_ref())));
            }
            if let Some(node) = pods::node_name(pod)
                && !nodes.contains(&ObjectKey::cluster(node))
            {
                queue.add_after(Task::Node(node.to_owned()), QUARANTINE);
            }
            // Counting is cheap once the pod at hand has ended; looking for excess is not.
            if pods::is_finished(pod) && ended.has_excess() {
                queue.add(Task::Ended);
            }
        });
        let queue = self.queue.clone();
        self.nodes.on_event(move |change| {
            let name = owner::name(&change.object().metadata).to_owned();
            match change {
                Change::Deleted(_) => queue.add_after(Task::Node(name), QUARANTINE),
                Change::Modified { old, new } if nodes::taints(old) != nodes::taints(new) => {
                    queue.add(Task::Node(name));
                }
                Change::Added(_) | Change::Modified { .. } => {}
            }
        });
    }

    fn has_excess(&self) -> bool {
        let kept = self.context.settings.terminated_pods_kept;
        kept > 0 && self.pods.len() > kept && self.pods.keys_by_index(ENDED, "ended").len() > kept
    }

    async fn node_is_gone(&self, name: &str) -> Result<bool, Error> {
        if nodes::get(&self.nodes, name).is_some() {
            return Ok(false);
        }
        let api: Api<Node> = Api::all(self.context.client.clone());
        let live = api.get_opt(name).await.map_err(Error::call("get node", name))?;
        Ok(live.is_none())
    }

    /// Removes a pod for one of upstream's reasons, and counts it.
    async fn remove(&self, pod: &Pod, reason: &str) -> Result<(), Error> {
        let outcome = self.delete(pod, reason == ORPHANED).await;
        let labels = [owner::namespace(&pod.metadata), reason];
        metrics::FORCED.with(labels).increment();
        if outcome.is_err() {
            metrics::FORCED_ERRORS.with(labels).increment();
        }
        outcome
    }

    async fn delete(&self, pod: &Pod, node_is_gone: bool) -> Result<(), Error> {
        let key = ObjectKey::of(pod);
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let words = last_words(pod, node_is_gone);
        if words.failed {
            let now = self.context.now();
            let marked = match words.condition {
                Some(condition) => pods::patch_condition(&api, pod, condition, Some("Failed"), now).await,
                None => {
                    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed"}});
                    api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
                        .await
                        .map(drop)
                }
            };
            if let Err(error) = marked {
                if is_not_found(&error) || is_conflict(&error) {
                    return Ok(());
                }
                return Err(Error::call("patch status of pod", key.to_string())(error));
            }
        }
        let precondition = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::default().grace_period(0).preconditions(precondition);
        match api.delete(&key.name, &params).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(Error::call("delete pod", key.to_string())(error)),
        }
    }
}

async fn reconcile(controller: Arc<Controller>, task: Task) -> Result<(), Error> {
    match task {
        Task::Pod(key) => {
            let Some(pod) = controller.pods.get(&key) else { return Ok(()) };
            let node = pods::node_name(&pod).and_then(|name| nodes::get(&controller.nodes, name));
            let reason = if is_unscheduled_and_terminating(&pod) {
                UNSCHEDULED
            } else if node.is_some_and(|node| is_out_of_service(&pod, &node)) {
                OUT_OF_SERVICE
            } else {
                return Ok(());
            };
            controller.remove(&pod, reason).await
        }
        Task::Node(name) => {
            let gone = controller.node_is_gone(&name).await?;
            let node = nodes::get(&controller.nodes, &name);
            for pod in controller.pods.by_index(pods::BY_NODE, &name) {
                if gone {
                    controller.remove(&pod, ORPHANED).await?;
                } else if node.as_ref().is_some_and(|node| is_out_of_service(&pod, node)) {
                    controller.remove(&pod, OUT_OF_SERVICE).await?;
                }
            }
            Ok(())
        }
        Task::Ended => {
            let ended = controller.pods.by_index(ENDED, "ended");
            for pod in excess(ended, controller.context.settings.terminated_pods_kept) {
                controller.remove(&pod, TERMINATED).await?;
            }
            Ok(())
        }
    }
}
