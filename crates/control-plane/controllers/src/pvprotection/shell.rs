//! Watches volumes.

use futures::FutureExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, Patch, PatchParams};
use podium_client::{Change, ObjectKey, WorkQueue, is_conflict, is_not_found};

use super::decide::{Decision, FINALIZER, decide};
use crate::context::{Context, Error};
use crate::finalizers;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let volumes = context.informers.of::<PersistentVolume>();
    let queue = WorkQueue::new("pvprotection");
    let to = queue.clone();
    volumes.on_event(move |change| {
        if !matches!(change, Change::Deleted(_)) && decide(change.object()) != Decision::Keep {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    context.ready([volumes.synced().boxed()]).await;
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    context
        .work(queue, move |key| {
            let (api, volumes) = (api.clone(), volumes.clone());
            async move {
                let Some(volume) = volumes.get(&key) else { return Ok(()) };
                let patch = match decide(&volume) {
                    Decision::Keep => return Ok(()),
                    Decision::Hold => finalizers::add(volume.as_ref(), FINALIZER),
                    Decision::Release => finalizers::remove(volume.as_ref(), FINALIZER),
                };
                match api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                    Ok(_) => Ok(()),
                    Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
                    Err(error) => Err(Error::call("update volume", key.name)(error)),
                }
            }
        })
        .await;
}
