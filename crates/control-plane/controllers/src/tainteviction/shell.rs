//! Watches nodes and pods, and deletes the pods whose time is up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use parking_lot::Mutex;
use podium_client::{Change, Informer, ObjectKey, WorkQueue};

use super::decide::{Decision, Since, decide, no_execute};
use crate::clock;
use crate::context::{Context, Error};
use crate::eviction::{Eviction, Evictions};
use crate::metrics;
use crate::nodes;
use crate::owner;
use crate::pods;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let pods = context.informers.of::<Pod>();
    pods::index_by_node(&pods);
    let controller = Arc::new(Controller {
        nodes: context.informers.of::<Node>(),
        pods,
        queue: WorkQueue::new("noexec_taint_pod"),
        first_seen: Arc::default(),
        evictions: Arc::default(),
        doomed: Mutex::default(),
        context: context.clone(),
    });
    controller.watch();
    context.ready([controller.nodes.synced().boxed(), controller.pods.synced().boxed()]).await;
    let queue = controller.queue.clone();
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    /// By node and taint: since when a taint is known that does not say itself when it was added.
    first_seen: Arc<Mutex<HashMap<(String, String), Timestamp>>>,
    evictions: Arc<Evictions>,
    /// Pods that have been told a time.
    doomed: Mutex<HashSet<ObjectKey>>,
}

impl Controller {
    fn watch(&self) {
        let (queue, pods, first_seen) = (self.queue.clone(), self.pods.clone(), self.first_seen.clone());
        self.nodes.on_event(move |change| {
            if let Change::Deleted(node) = change {
                let name = owner::name(&node.metadata);
                first_seen.lock().retain(|(of, _), _| of != name);
            }
            let tainted = |node: &Node| no_execute(nodes::taints(node)).cloned().collect::<Vec<Taint>>();
            let relevant = match change {
                Change::Added(node) | Change::Deleted(node) => !tainted(node).is_empty(),
                Change::Modified { old, new } => tainted(old) != tainted(new),
            };
            if relevant {
                let name = owner::name(&change.object().metadata);
                pods.keys_by_index(pods::BY_NODE, name).into_iter().for_each(|key| queue.add(key));
            }
        });
        let (queue, nodes, evictions) = (self.queue.clone(), self.nodes.clone(), Arc::clone(&self.evictions));
        self.pods.on_event(move |change| {
            let pod = change.object();
            if matches!(change, Change::Deleted(_)) {
                evictions.forget(&ObjectKey::of(pod.as_ref()));
            }
            let spec = |pod: &Pod| pod.spec.as_ref().map(|it| (it.node_name.clone(), it.tolerations.clone()));
            if matches!(change, Change::Modified { old, new } if spec(old) == spec(new)) {
                return;
            }
            let node = pods::node_name(pod).and_then(|name| nodes::get(&nodes, name));
            if node.is_some_and(|node| no_execute(nodes::taints(&node)).next().is_some()) {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        });
    }

    /// The node's taints, each with when its time began.
    fn taints<'n>(&self, node: &'n Node) -> Vec<Since<'n>> {
        let name = owner::name(&node.metadata);
        let mut first_seen = self.first_seen.lock();
        let id = |taint: &Taint| format!("{}={}", taint.key, taint.value.as_deref().unwrap_or_default());
        let present: Vec<String> = no_execute(nodes::taints(node)).map(id).collect();
        first_seen.retain(|(of, taint), _| of != name || present.contains(taint));
        no_execute(nodes::taints(node))
            .map(|taint| {
                let since = match &taint.time_added {
                    Some(time) => time.0,
                    None => {
                        *first_seen.entry((name.to_owned(), id(taint))).or_insert_with(|| self.context.now())
                    }
                };
                Since { taint, since }
            })
            .collect()
    }
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(pod) = controller.pods.get(&key) else {
        controller.doomed.lock().remove(&key);
        return Ok(());
    };
    let node = pods::node_name(&pod).and_then(|name| nodes::get(&controller.nodes, name));
    let taints = node.as_deref().map(|node| controller.taints(node)).unwrap_or_default();
    let now = controller.context.now();
    match decide(&pod, &taints) {
        Decision::Stay => {
            let was_doomed = controller.doomed.lock().remove(&key);
            controller.evictions.cancel(&key);
            if was_doomed && !pods::is_terminating(&pod) {
                let message = format!("Cancelling deletion of Pod {key}");
                controller.context.normal(pod.as_ref(), "TaintManagerEviction", message);
            }
            Ok(())
        }
        Decision::Leave(moment) if moment > now => {
            controller.doomed.lock().insert(key.clone());
            controller.queue.add_after(key, clock::until(moment, now));
            Ok(())
        }
        Decision::Leave(moment) => {
            let eviction = Eviction {
                event: "TaintManagerEviction",
                told: format!("Marking for deletion Pod {key}"),
                reason: "DeletionByTaintManager",
                message: "Taint manager: deleting due to NoExecute taint",
            };
            let deleted = controller.evictions.evict(&controller.context, &pod, &eviction).await?;
            controller.doomed.lock().remove(&key);
            if deleted {
                metrics::TAINT_DELETIONS.with([]).increment();
                metrics::TAINT_LATE.with([]).observe(now.duration_since(moment).as_secs_f64());
            }
            Ok(())
        }
    }
}
