//! Watches claims and pods.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams};
use podium_client::{Change, Informer, ObjectKey, WorkQueue};

use super::decide::{Decision, FINALIZER, claims_of, decide};
use crate::context::{Context, Error};
use crate::owner;
use crate::protection;

/// Index of pods by the keys of their claims.
const BY_CLAIM: &str = "controllers/claim";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let pods = context.informers.of::<Pod>();
    pods.add_index(BY_CLAIM, |pod| keys(pod).iter().map(ToString::to_string).collect());
    let queue = WorkQueue::new("pvcprotection");
    let to = queue.clone();
    claims.on_event(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    let to = queue.clone();
    pods.on_event(move |change| {
        let (before, now) = match change {
            Change::Added(_) => return,
            Change::Modified { old, new } => (keys(old), keys(new)),
            Change::Deleted(pod) => (keys(pod), Vec::new()),
        };
        before.into_iter().filter(|key| !now.contains(key)).for_each(|key| to.add(key));
    });
    context.ready([claims.synced().boxed(), pods.synced().boxed()]).await;
    let controller = Arc::new(Controller { context: context.clone(), claims, pods });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

fn keys(pod: &Pod) -> Vec<ObjectKey> {
    let namespace = owner::namespace(&pod.metadata);
    claims_of(pod).into_iter().map(|name| ObjectKey::new(namespace, name)).collect()
}

struct Controller {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(claim) = controller.claims.get(&key) else { return Ok(()) };
    let used = || !controller.pods.keys_by_index(BY_CLAIM, &key.to_string()).is_empty();
    let decision = decide(&claim, used);
    // A volume pulled from under a pod cannot be given back, so the cache's word is not enough.
    if decision == Decision::Release && controller.is_used_live(&key).await? {
        return Ok(());
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(controller.context.client.clone(), &key.namespace);
    protection::apply(&api, claim.as_ref(), FINALIZER, decision).await
}

impl Controller {
    async fn is_used_live(&self, key: &ObjectKey) -> Result<bool, Error> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let pods = api
            .list(&ListParams::default())
            .await
            .map_err(Error::call("list the pods of", key.namespace.as_str()))?;
        Ok(pods.items.iter().any(|pod| claims_of(pod).contains(&key.name)))
    }
}
