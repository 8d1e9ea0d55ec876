//! Watches nodes.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_not_found};
use serde_json::json;

use super::decide::{ANNOTATION, decide, step};
use crate::context::{Context, Error};

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let nodes = context.informers.of::<Node>();
    let queue = WorkQueue::new("ttlcontroller");
    let controller =
        Arc::new(Controller { context: context.clone(), nodes: nodes.clone(), step: Mutex::new(0) });
    context.ready([nodes.synced().boxed()]).await;
    let (to, counter) = (queue.clone(), controller.clone());
    nodes.on_event(move |change| {
        if !matches!(change, Change::Modified { .. }) && counter.count() {
            counter.nodes.keys().into_iter().for_each(|key| to.add(key));
        }
        to.add(ObjectKey::of(change.object().as_ref()));
    });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    step: Mutex<usize>,
}

impl Controller {
    /// Counts the nodes. Returns whether another step holds now.
    fn count(&self) -> bool {
        let mut current = self.step.lock();
        let next = step(*current, self.nodes.len());
        std::mem::replace(&mut *current, next) != next
    }
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(node) = controller.nodes.get(&key) else { return Ok(()) };
    let step = *controller.step.lock();
    let Some(value) = decide(&node, step) else { return Ok(()) };
    let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: value}}}));
    let api: Api<Node> = Api::all(controller.context.client.clone());
    match api.patch(&key.name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::call("annotate node", key.name)(error)),
    }
}
