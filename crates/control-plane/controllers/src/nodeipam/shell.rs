//! Watches nodes and writes their ranges.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_not_found};
use serde_json::json;

use super::decide::{InvalidRange, Range};
use super::pool::Pool;
use crate::context::{Context, Error};
use crate::nodes;
use crate::owner;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let settings = &context.settings;
    let ranges: Result<Vec<Range>, InvalidRange> = settings
        .cluster_cidrs
        .iter()
        .map(|cidr| Range::new(cidr, settings.node_cidr_mask_v4, settings.node_cidr_mask_v6))
        .collect();
    let ranges = match ranges {
        Ok(ranges) => ranges,
        Err(error) => {
            tracing::error!(%error, "nodes get no pod addresses");
            Vec::new()
        }
    };
    let nodes = context.informers.of::<Node>();
    let queue = WorkQueue::new("cidrallocator_node");
    let pool = Arc::new(Mutex::new(Pool::new(ranges, &settings.service_cidrs)));
    let (to, seen) = (queue.clone(), pool.clone());
    nodes.on_event(move |change| {
        let node = change.object();
        let (name, has) = (owner::name(&node.metadata), cidrs(node));
        match change {
            Change::Deleted(_) => seen.lock().release(name),
            _ if has.is_empty() => to.add(ObjectKey::of(node.as_ref())),
            _ => seen.lock().hold(name, &has),
        }
    });
    context.ready([nodes.synced().boxed()]).await;
    let controller = Arc::new(Controller { context: context.clone(), nodes, pool });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    /// Also knows what was given and the cache may not show yet.
    pool: Arc<Mutex<Pool>>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(node) = controller.nodes.get(&key).filter(|node| cidrs(node).is_empty()) else { return Ok(()) };
    // Known as given before the write: an answer may be lost although the write was made.
    let given = {
        let mut pool = controller.pool.lock();
        if pool.is_empty() || pool.holds(&key.name) {
            return Ok(());
        }
        pool.give(&key.name)
    };
    let Some(cidrs) = given else {
        nodes::status_event(&controller.context, &node, "CIDRNotAvailable");
        let why = "no part of the cluster's address range is left".to_owned();
        return Err(Error::Unusable { object: format!("node {}", key.name), why });
    };
    let api: Api<Node> = Api::all(controller.context.client.clone());
    let patch = json!({
        "metadata": {"uid": node.metadata.uid},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
    });
    match api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(()),
        Err(error) => {
            controller.pool.lock().release(&key.name);
            if is_not_found(&error) {
                return Ok(());
            }
            nodes::status_event(&controller.context, &node, "CIDRAssignmentFailed");
            Err(Error::call("assign pod addresses to node", key.name)(error))
        }
    }
}

fn cidrs(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let single = spec.pod_cidr.clone().filter(|cidr| !cidr.is_empty());
    spec.pod_cidrs.clone().filter(|cidrs| !cidrs.is_empty()).unwrap_or_else(|| single.into_iter().collect())
}
