//! Watches volumes.

use futures::FutureExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::Api;
use podium_client::{Change, ObjectKey, WorkQueue};

use super::decide::{Decision, FINALIZER, decide};
use crate::context::Context;
use crate::protection;

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
                protection::apply(&api, volume.as_ref(), FINALIZER, decide(&volume)).await
            }
        })
        .await;
}
