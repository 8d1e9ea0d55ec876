//! Watches nodes and writes their ranges.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use podium_client::{Informer, ObjectKey, WorkQueue, is_not_found};
use serde_json::json;

use super::decide::{InvalidRange, Range};
use crate::context::{Context, Error};
use crate::nodes;

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
    let queue = WorkQueue::new("nodeipam");
    let to = queue.clone();
    nodes.on_event(move |change| to.add(ObjectKey::of(change.object().as_ref())));
    context.ready([nodes.synced().boxed()]).await;
    let last = Mutex::new(vec![None; ranges.len()]);
    let controller =
        Arc::new(Controller { context: context.clone(), nodes, ranges, last, given: Mutex::default() });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    ranges: Vec<Range>,
    /// The part given last of each range: freed parts are used again as late as possible.
    last: Mutex<Vec<Option<u32>>>,
    /// What was given to which node and the cache may not show yet.
    given: Mutex<HashMap<ObjectKey, Vec<u32>>>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(node) = controller.nodes.get(&key) else {
        controller.given.lock().remove(&key);
        return Ok(());
    };
    if !cidrs(&node).is_empty() {
        controller.given.lock().remove(&key);
        return Ok(());
    }
    if controller.ranges.is_empty() || controller.given.lock().contains_key(&key) {
        return Ok(());
    }
    let Some(parts) = controller.choose() else {
        nodes::status_event(&controller.context, &node, "CIDRNotAvailable");
        let why = "no part of the cluster's address range is left".to_owned();
        return Err(Error::Unusable { object: format!("node {}", key.name), why });
    };
    let cidrs: Vec<String> =
        controller.ranges.iter().zip(&parts).map(|(range, part)| range.part(*part)).collect();
    // Known as given before the write: an answer may be lost although the write was made.
    controller.given.lock().insert(key.clone(), parts);
    let api: Api<Node> = Api::all(controller.context.client.clone());
    let patch = json!({
        "metadata": {"uid": node.metadata.uid},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
    });
    match api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => {
            controller.given.lock().remove(&key);
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

impl Controller {
    /// One free part of each range. There is one worker, so nobody else chooses meanwhile.
    fn choose(&self) -> Option<Vec<u32>> {
        let taken: Vec<String> = self.nodes.list().iter().flat_map(|node| cidrs(node)).collect();
        let given = self.given.lock();
        let mut last = self.last.lock();
        let mut parts = Vec::new();
        for (index, range) in self.ranges.iter().enumerate() {
            let mut used: BTreeSet<u32> = taken.iter().flat_map(|cidr| range.covered(cidr)).collect();
            used.extend(given.values().filter_map(|parts| parts.get(index)));
            parts.push(range.free(&used, last[index])?);
        }
        for (last, part) in last.iter_mut().zip(&parts) {
            *last = Some(*part);
        }
        Some(parts)
    }
}
