//! Watches ranges and addresses.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{Api, Patch, PatchParams};
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_conflict, is_not_found};
use serde_json::json;

use super::decide::{FINALIZER, covers, decide, handed_out, overlap};
use crate::clock;
use crate::context::{Context, Error};
use crate::finalizers;
use crate::owner;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let ranges = context.informers.of::<ServiceCIDR>();
    let addresses = context.informers.of::<IPAddress>();
    let queue = WorkQueue::new("servicecidrs");
    let (to, all) = (queue.clone(), ranges.clone());
    ranges.on_event(move |change| {
        let range = change.object();
        to.add(ObjectKey::of(range.as_ref()));
        // A range that appears can free those it overlaps.
        if matches!(change, Change::Added(_)) {
            let others = all.list().into_iter().filter(|other| overlap(range, other));
            others.for_each(|other| to.add(ObjectKey::of(other.as_ref())));
        }
    });
    let (to, all) = (queue.clone(), ranges.clone());
    addresses.on_event(move |change| {
        let Some(address) =
            handed_out(change.object()).filter(|_| !matches!(change, Change::Modified { .. }))
        else {
            return;
        };
        let holders = all.list().into_iter().filter(|range| covers(range, address));
        holders.for_each(|range| to.add(ObjectKey::of(range.as_ref())));
    });
    context.ready([ranges.synced().boxed(), addresses.synced().boxed()]).await;
    let controller =
        Arc::new(Controller { context: context.clone(), ranges, addresses, queue: queue.clone() });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
    queue: WorkQueue<ObjectKey>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(range) = controller.ranges.get(&key) else { return Ok(()) };
    let (ranges, addresses) = (
        controller.ranges.list(),
        if range.metadata.deletion_timestamp.is_some() { controller.addresses.list() } else { Vec::new() },
    );
    let now = controller.context.now();
    let all: Vec<&ServiceCIDR> = ranges.iter().map(AsRef::as_ref).collect();
    let addresses: Vec<&IPAddress> = addresses.iter().map(AsRef::as_ref).collect();
    let decision = decide(&range, &all, &addresses, now);
    if decision.hold {
        controller.patch(&key, finalizers::add(owner::uid(&range.metadata), FINALIZER)).await?;
    }
    if let Some(condition) = decision.condition {
        let api: Api<ServiceCIDR> = Api::all(controller.context.client.clone());
        let ready = condition.status == "True";
        let patch = json!({"metadata": {"uid": range.metadata.uid}, "status": {"conditions": [condition]}});
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            Err(error) => {
                if ready {
                    let message = "The ServiceCIDR Status can not be set to Ready=True";
                    controller.context.warning(range.as_ref(), "KubernetesServiceCIDRError", message);
                }
                return Err(Error::call("update status of range", key.name)(error));
            }
        }
    }
    if decision.release {
        controller.patch(&key, finalizers::remove(owner::uid(&range.metadata), FINALIZER)).await?;
    }
    if let Some(moment) = decision.next_check {
        controller.queue.add_after(key, clock::until(moment, now));
    }
    Ok(())
}

impl Controller {
    async fn patch(&self, key: &ObjectKey, patch: serde_json::Value) -> Result<(), Error> {
        let api: Api<ServiceCIDR> = Api::all(self.context.client.clone());
        match api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(Error::call("update range", key.name.as_str())(error)),
        }
    }
}
