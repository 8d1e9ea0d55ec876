//! Watches Jobs.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, DeleteParams, Preconditions};
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_conflict, is_not_found};

use super::decide::expires_at;
use crate::clock;
use crate::context::{Context, Error};
use crate::metrics;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let jobs = context.informers.of::<Job>();
    let queue = WorkQueue::new("ttl_jobs_to_delete");
    let to = queue.clone();
    jobs.on_event(move |change| {
        if !matches!(change, Change::Deleted(_)) && expires_at(change.object()).is_some() {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    context.ready([jobs.synced().boxed()]).await;
    let controller = Arc::new(Controller { context: context.clone(), jobs, queue: queue.clone() });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    jobs: Informer<Job>,
    queue: WorkQueue<ObjectKey>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let now = controller.context.now();
    let Some(moment) = controller.jobs.get(&key).and_then(|job| expires_at(&job)) else { return Ok(()) };
    if moment > now {
        controller.queue.add_after(key, clock::until(moment, now));
        return Ok(());
    }
    let api: Api<Job> = Api::namespaced(controller.context.client.clone(), &key.namespace);
    // The live object: its time may have been prolonged.
    let live = api.get_opt(&key.name).await.map_err(Error::call("get job", key.to_string()))?;
    let Some(live) = live.filter(|job| expires_at(job).is_some_and(|moment| moment <= now)) else {
        return Ok(());
    };
    let preconditions =
        Preconditions { uid: live.metadata.uid, resource_version: live.metadata.resource_version };
    match api.delete(&key.name, &DeleteParams::foreground().preconditions(preconditions)).await {
        Ok(_) => {
            metrics::TTL_LATE.with([]).observe(now.duration_since(moment).as_secs_f64());
            Ok(())
        }
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) if is_conflict(&error) => {
            controller.queue.add(key);
            Ok(())
        }
        Err(error) => Err(Error::call("delete job", key.to_string())(error)),
    }
}
