//! Watches pods and claims.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, PostParams};
use podium_client::{Change, Informer, ObjectKey, WorkQueue};

use super::decide::{Need, claim_name, decide, volumes};
use crate::context::{self, Context, Error};
use crate::metrics;
use crate::owner;
use crate::pods;

/// Index of pods by the keys of the claims that are made for them.
const BY_CLAIM: &str = "controllers/ephemeralClaim";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let pods = context.informers.of::<Pod>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    pods.add_index(BY_CLAIM, |pod| {
        let key =
            |volume| ObjectKey::new(owner::namespace(&pod.metadata), claim_name(pod, volume)).to_string();
        volumes(pod).map(key).collect()
    });
    let queue = WorkQueue::new("ephemeral_volume");
    let to = queue.clone();
    pods.on_event(move |change| {
        // The volumes of a pod do not change, so its appearance is all there is to be told.
        if let Change::Added(pod) = change
            && volumes(pod).next().is_some()
        {
            to.add(ObjectKey::of(pod.as_ref()));
        }
    });
    let (to, of) = (queue.clone(), pods.clone());
    claims.on_event(move |change| {
        if let Change::Deleted(claim) = change {
            let users = of.keys_by_index(BY_CLAIM, &ObjectKey::of(claim.as_ref()).to_string());
            users.into_iter().for_each(|key| to.add(key));
        }
    });
    context.ready([pods.synced().boxed(), claims.synced().boxed()]).await;
    let controller = Arc::new(Controller { context: context.clone(), pods, claims });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(pod) = controller.pods.get(&key).filter(|pod| !pods::is_terminating(pod)) else { return Ok(()) };
    for volume in volumes(&pod) {
        let name = claim_name(&pod, volume);
        let existing = controller.claims.get(&ObjectKey::new(key.namespace.as_str(), name.as_str()));
        let failed = |why: &str| {
            let message = format!("ephemeral volume {}: {why}", volume.name);
            controller.context.warning(pod.as_ref(), "FailedBinding", message);
        };
        match decide(&pod, volume, existing.as_deref()) {
            Need::Nothing => {}
            Need::Taken(why) => {
                failed(&why);
                return Err(Error::Unusable { object: key.to_string(), why });
            }
            Need::Create(claim) => {
                let api: Api<PersistentVolumeClaim> =
                    Api::namespaced(controller.context.client.clone(), &key.namespace);
                metrics::CLAIMS_CREATED.with([]).increment();
                if let Err(error) = api.create(&PostParams::default(), &claim).await {
                    metrics::CLAIMS_FAILED.with([]).increment();
                    failed(&format!("create PVC {name}: {}", context::words(&error)));
                    return Err(Error::call("create claim", name)(error));
                }
            }
        }
    }
    Ok(())
}
