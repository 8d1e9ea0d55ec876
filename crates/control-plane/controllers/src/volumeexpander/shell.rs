//! Watches claims and volumes.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, Patch, PatchParams};
use podium_api::volumes::volume_name;
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_conflict, is_not_found};
use serde_json::json;

use super::decide::{Decision, RESIZER, concerns, decide};
use crate::context::{Context, Error, words};

const EXTERNAL_EXPANDING: &str = "ExternalExpanding";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    let queue = WorkQueue::new("volume_expand");
    let to = queue.clone();
    claims.on_event(move |change| {
        let concerned = match change {
            Change::Added(claim) => concerns(None, claim),
            Change::Modified { old, new } => concerns(Some(old), new),
            Change::Deleted(_) => false,
        };
        if concerned {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    context.ready([claims.synced().boxed(), volumes.synced().boxed()]).await;
    let controller = Arc::new(Controller { context: context.clone(), claims, volumes });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(claim) = controller.claims.get(&key) else { return Ok(()) };
    let name = volume_name(&claim).unwrap_or_default();
    let unusable = |why: String| Error::Unusable { object: format!("claim {key}"), why };
    // The cache of volumes may be behind that of claims: both faults are looked at again.
    let Some(volume) = controller.volumes.get(&ObjectKey::cluster(name)) else {
        return Err(unusable(format!("volume {name:?} is not there")));
    };
    match decide(&claim, &volume) {
        Decision::Nothing => Ok(()),
        Decision::NotBound => Err(unusable(format!("volume {name:?} is not bound to it"))),
        Decision::External { message, resizer } => {
            controller.context.normal(claim.as_ref(), EXTERNAL_EXPANDING, message);
            match resizer {
                Some(driver) => controller.hand_over(&claim, &key, driver).await,
                None => Ok(()),
            }
        }
    }
}

impl Controller {
    /// Writes on the claim which driver is to resize its volume, for the resizers that ask.
    async fn hand_over(
        &self,
        claim: &PersistentVolumeClaim,
        key: &ObjectKey,
        driver: &str,
    ) -> Result<(), Error> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let patch = json!({"metadata": {
            "resourceVersion": claim.metadata.resource_version,
            "annotations": {RESIZER: driver},
        }});
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => {
                // Somebody else wrote first: nothing that a user could do anything about.
                if !is_conflict(&error) {
                    let message = format!(
                        "error setting resizer annotation to pvc {key}, with error patchPVCStatus failed to patch PVC {:?}: {}",
                        key.name,
                        words(&error)
                    );
                    self.context.warning(claim, EXTERNAL_EXPANDING, message);
                }
                Err(Error::call("patch status of claim", key.to_string())(error))
            }
        }
    }
}
