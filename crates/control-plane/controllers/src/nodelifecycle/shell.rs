//! Watches nodes and their leases, decides, and carries it out.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use podium_client::{Change, EventType, Informer, ObjectKey, Scope, WorkQueue, is_not_found};
use serde_json::json;

use super::decide::{Decision, Observed, Zone, decide};
use super::zones::{Fares, Zones};
use crate::clock;
use crate::context::{Context, Error};
use crate::metrics;
use crate::nodes;
use crate::owner;
use crate::pods;

/// Where the leases of nodes are.
const LEASES: &str = "kube-node-lease";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let pods = context.informers.of::<Pod>();
    pods::index_by_node(&pods);
    let scope = Scope { namespace: Some(LEASES.to_owned()), ..Scope::default() };
    let controller = Arc::new(Controller {
        nodes: context.informers.of::<Node>(),
        leases: context.informers.scoped::<Lease>(scope),
        pods,
        queue: WorkQueue::new("node_lifecycle_controller"),
        health: Mutex::default(),
        zones: Mutex::new(Zones::new(context.settings.node_eviction)),
        evictions: Mutex::default(),
        context: context.clone(),
    });
    controller.clone().watch();
    let (nodes, leases, pods) = (&controller.nodes, &controller.leases, &controller.pods);
    context.ready([nodes.synced().boxed(), leases.synced().boxed(), pods.synced().boxed()]).await;
    let queue = controller.queue.clone();
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    /// Signs of life by node.
    health: Mutex<HashMap<String, Health>>,
    zones: Mutex<Zones>,
    /// When a node was last tainted, by failure domain.
    evictions: Mutex<HashMap<String, Timestamp>>,
}

/// When a node last gave a sign of life, by our clock, and what it was.
#[derive(Clone, Debug)]
struct Health {
    seen: Timestamp,
    renewed: Option<MicroTime>,
    heartbeat: Option<Time>,
}

impl Controller {
    fn watch(self: Arc<Self>) {
        let controller = self.clone();
        self.nodes.on_event(move |change| controller.node_changed(change));
        let controller = self.clone();
        self.leases.on_event(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                let renewed = change.object().spec.as_ref().and_then(|spec| spec.renew_time.clone());
                controller.sign_of_life(owner::name(&change.object().metadata), renewed, None);
            }
        });
        // A pod that comes to a silent node must not pass for ready.
        let (queue, nodes) = (self.queue.clone(), self.nodes.clone());
        self.pods.on_event(move |change| {
            let pod = change.object();
            if let (Change::Added(_), Some(node)) = (change, pods::node_name(pod))
                && pods::is_ready(pod)
                && nodes::get(&nodes, node).is_some_and(|node| !nodes::is_ready(&node))
            {
                queue.add(ObjectKey::cluster(node));
            }
        });
    }

    fn node_changed(&self, change: &Change<Node>) {
        let node = change.object();
        let name = owner::name(&node.metadata);
        let event = |reason: &str, what: String| {
            nodes::event(
                &self.context,
                node,
                EventType::Normal,
                reason,
                format!("Node {name} event: {what}"),
            );
        };
        match change {
            Change::Added(_) => event("RegisteredNode", format!("Registered Node {name} in Controller")),
            Change::Deleted(_) => event("RemovingNode", format!("Removing Node {name} from Controller")),
            Change::Modified { .. } => {}
        }
        // One node's recovery or loss can change what is right for all others of its failure domain.
        let concerned = if matches!(change, Change::Deleted(_)) {
            self.zones.lock().remove(name)
        } else {
            let excluded = node.metadata.labels.as_ref().is_some_and(|it| it.contains_key(EXCLUDED));
            let ready = nodes::is_ready(node);
            let heartbeat = nodes::condition(node, "Ready").and_then(|it| it.last_heartbeat_time.clone());
            self.sign_of_life(name, None, heartbeat);
            self.zones.lock().put(name, nodes::zone(node), ready, excluded)
        };
        concerned.into_iter().for_each(|name| self.queue.add(ObjectKey::cluster(name)));
        self.queue.add(ObjectKey::of(node.as_ref()));
    }

    /// Notes a renewal of the lease or the status, if it is one.
    fn sign_of_life(&self, node: &str, renewed: Option<MicroTime>, heartbeat: Option<Time>) {
        let now = self.context.now();
        let mut health = self.health.lock();
        let Some(known) = health.get_mut(node) else {
            health.insert(node.to_owned(), Health { seen: now, renewed, heartbeat });
            return;
        };
        if renewed.is_some() && known.renewed < renewed {
            known.renewed = renewed;
            known.seen = now;
        }
        if heartbeat.is_some() && known.heartbeat != heartbeat {
            known.heartbeat = heartbeat;
            known.seen = now;
        }
    }

    fn last_sign(&self, node: &Node) -> Timestamp {
        let name = owner::name(&node.metadata);
        self.health.lock().get(name).map_or_else(|| self.context.now(), |health| health.seen)
    }

    /// How the node's failure domain fares.
    fn zone(&self, node: &Node) -> Zone {
        let own = nodes::zone(node);
        let Fares { state, nodes, all_dark } = self.zones.lock().fares(&own);
        Zone { state, nodes, all_dark, last_eviction: self.evictions.lock().get(&own).copied() }
    }

    /// Takes the domain's turn to have a node evicted, unless another took it since it was looked at.
    fn take_turn(&self, node: &Node, last: Option<Timestamp>) -> bool {
        let zone = nodes::zone(node);
        let mut evictions = self.evictions.lock();
        if evictions.get(&zone).copied() != last {
            return false;
        }
        metrics::EVICTIONS.with([&zone]).increment();
        evictions.insert(zone, self.context.now());
        true
    }
}

/// Leaves a node out when failure domains are judged.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(node) = controller.nodes.get(&key) else {
        controller.health.lock().remove(&key.name);
        return Ok(());
    };
    let started = std::time::Instant::now();
    let outcome = look_after(&controller, &node, key).await;
    metrics::NODE_SECONDS.with([]).observe(started.elapsed().as_secs_f64());
    outcome
}

async fn look_after(controller: &Controller, node: &Node, key: ObjectKey) -> Result<(), Error> {
    let now = controller.context.now();
    let settings = &controller.context.settings;
    let spoke = nodes::condition(node, "Ready").is_some();
    let seen = Observed {
        node,
        last_sign: controller.last_sign(node),
        grace: if spoke { settings.node_monitor_grace } else { settings.node_startup_grace },
        zone: controller.zone(node),
        rates: settings.node_eviction,
    };
    let decision = decide(&seen, now);
    if decision.evicts && !controller.take_turn(node, seen.zone.last_eviction) {
        controller.queue.add(key);
        return Ok(());
    }
    if let Some(moment) = decision.next_check {
        controller.queue.add_after(key, clock::until(moment, now));
    }
    controller.apply(node, decision).await
}

impl Controller {
    async fn apply(&self, node: &Node, decision: Decision) -> Result<(), Error> {
        let name = owner::name(&node.metadata);
        let api: Api<Node> = Api::all(self.context.client.clone());
        if let Some(status) = &decision.status {
            let updated = Node { status: Some(status.clone()), ..node.clone() };
            api.replace_status(name, &PostParams::default(), &updated)
                .await
                .map_err(Error::call("update status of node", name))?;
            if decision.lost {
                nodes::status_event(&self.context, node, "NodeNotReady");
            }
        }
        if decision.taints.is_some() || !decision.labels.is_empty() {
            self.mark(&api, node, &decision).await?;
        }
        if decision.pods_not_ready {
            self.mark_pods(name).await?;
        }
        Ok(())
    }

    /// Writes taints and labels.
    async fn mark(&self, api: &Api<Node>, node: &Node, decision: &Decision) -> Result<(), Error> {
        let name = owner::name(&node.metadata);
        let mut patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version, "labels": decision.labels},
        });
        if let Some(taints) = &decision.taints {
            patch["spec"] = json!({"taints": taints});
        }
        match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Error::call("patch node", name)(error)),
        }
    }

    /// Nobody can say whether the pods of a silent node serve, so they do not count as ready.
    async fn mark_pods(&self, node: &str) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        for pod in self.pods.by_index(pods::BY_NODE, node) {
            if !pods::is_ready(&pod) || !seen.insert(ObjectKey::of(pod.as_ref())) {
                continue;
            }
            let mut changed = Pod::clone(&pod);
            let conditions = changed.status.as_mut().and_then(|status| status.conditions.as_mut());
            for condition in conditions.into_iter().flatten().filter(|it| it.type_ == "Ready") {
                condition.status = "False".to_owned();
                condition.last_transition_time = Some(clock::time(self.context.now()));
            }
            let name = owner::name(&pod.metadata);
            let api: Api<Pod> = Api::namespaced(self.context.client.clone(), owner::namespace(&pod.metadata));
            match api.replace_status(name, &PostParams::default(), &changed).await {
                Ok(_) => self.context.warning(pod.as_ref(), "NodeNotReady", "Node is not ready"),
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(Error::call("update status of pod", name)(error)),
            }
        }
        Ok(())
    }
}
