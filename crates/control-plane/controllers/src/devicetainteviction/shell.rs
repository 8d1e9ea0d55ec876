//! Watches pods, claims and slices, and deletes the pods whose time is up.

use std::collections::HashSet;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use parking_lot::Mutex;
use podium_client::{Change, Informer, ObjectKey, WorkQueue};

use super::decide::{decide, devices};
use crate::clock;
use crate::context::{Context, Error};
use crate::eviction::{Eviction, Evictions};
use crate::metrics;
use crate::owner;
use crate::pods;
use crate::resourceclaim::{claims_of, is_pod};

/// Index of slices by driver and pool, and of claims by those of their devices.
const BY_POOL: &str = "controllers/devicePool";
const EVENT: &str = "DeviceTaintManagerEviction";

fn pool(driver: &str, pool: &str) -> String {
    format!("{driver}/{pool}")
}

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let pods = context.informers.of::<Pod>();
    let claims = context.informers.of::<ResourceClaim>();
    let slices = context.informers.of::<ResourceSlice>();
    slices.add_index(BY_POOL, |slice| vec![pool(&slice.spec.driver, &slice.spec.pool.name)]);
    claims.add_index(BY_POOL, |claim| devices(claim).iter().map(|it| pool(&it.driver, &it.pool)).collect());
    let queue = WorkQueue::new("device_taint_eviction");
    let evictions = Arc::<Evictions>::default();
    let (to, of) = (queue.clone(), Arc::clone(&evictions));
    pods.on_event(move |change| {
        if let Change::Deleted(pod) = change {
            of.forget(&ObjectKey::of(pod.as_ref()));
        }
        if !claims_of(change.object()).is_empty() {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    let to = queue.clone();
    claims.on_event(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            users(change.object()).for_each(|pod| to.add(pod));
        }
    });
    let (to, of) = (queue.clone(), claims.clone());
    slices.on_event(move |change| {
        let slice = change.object();
        let using = of.by_index(BY_POOL, &pool(&slice.spec.driver, &slice.spec.pool.name));
        using.iter().flat_map(|claim| users(claim).collect::<Vec<_>>()).for_each(|pod| to.add(pod));
    });
    context.ready([pods.synced().boxed(), claims.synced().boxed(), slices.synced().boxed()]).await;
    let controller = Arc::new(Controller {
        context: context.clone(),
        pods,
        claims,
        slices,
        queue: queue.clone(),
        evictions,
        doomed: Mutex::default(),
    });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

/// The pods that a claim is reserved for.
fn users(claim: &ResourceClaim) -> impl Iterator<Item = ObjectKey> {
    let namespace = owner::namespace(&claim.metadata);
    let users = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default();
    let pods = users.iter().filter(|user| is_pod(user));
    pods.map(move |user| ObjectKey::new(namespace, user.name.as_str()))
}

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    slices: Informer<ResourceSlice>,
    queue: WorkQueue<ObjectKey>,
    evictions: Arc<Evictions>,
    /// Pods that have a time.
    doomed: Mutex<HashSet<ObjectKey>>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(pod) = controller.pods.get(&key) else {
        controller.doomed.lock().remove(&key);
        return Ok(());
    };
    let context = &controller.context;
    let when = decide(
        &pod,
        |name| controller.claims.get(&ObjectKey::new(key.namespace.as_str(), name)),
        |driver, name| controller.slices.by_index(BY_POOL, &pool(driver, name)),
    );
    let now = context.now();
    match when {
        None => {
            let was_doomed = controller.doomed.lock().remove(&key);
            controller.evictions.cancel(&key);
            if was_doomed && !pods::is_terminating(&pod) {
                context.normal(pod.as_ref(), EVENT, "Cancelling deletion");
            }
            Ok(())
        }
        Some(moment) if moment > now => {
            controller.doomed.lock().insert(key.clone());
            controller.queue.add_after(key, clock::until(moment, now));
            Ok(())
        }
        Some(moment) => {
            let eviction = Eviction {
                event: EVENT,
                told: "Marking for deletion".to_owned(),
                reason: "DeletionByDeviceTaintManager",
                message: "Device Taint manager: deleting due to NoExecute taint",
            };
            let deleted = controller.evictions.evict(context, &pod, &eviction).await?;
            controller.doomed.lock().remove(&key);
            if deleted {
                metrics::DEVICE_TAINT_DELETIONS.with([]).increment();
                let late = context.now().duration_since(moment);
                metrics::DEVICE_TAINT_LATE.with([]).observe(late.as_secs_f64());
            }
            Ok(())
        }
    }
}
