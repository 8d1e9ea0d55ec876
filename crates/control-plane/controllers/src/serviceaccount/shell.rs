//! Watches namespaces and ServiceAccounts.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, PostParams};
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_already_exists};

use super::decide::{NAME, decide};
use crate::context::{self, Context, Error};
use crate::owner;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let namespaces = context.informers.of::<Namespace>();
    let accounts = context.informers.of::<ServiceAccount>();
    let queue = WorkQueue::new("serviceaccount");
    watch(&namespaces, &accounts, &queue);
    context.ready([namespaces.synced().boxed(), accounts.synced().boxed()]).await;
    let controller = Arc::new(Controller { context: context.clone(), namespaces, accounts });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

#[derive(Debug)]
struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

fn watch(
    namespaces: &Informer<Namespace>,
    accounts: &Informer<ServiceAccount>,
    queue: &WorkQueue<ObjectKey>,
) {
    let to = queue.clone();
    namespaces.on_event(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    let to = queue.clone();
    accounts.on_event(move |change| {
        let meta = &change.object().metadata;
        if matches!(change, Change::Deleted(_)) && owner::name(meta) == NAME {
            to.add(ObjectKey::cluster(owner::namespace(meta)));
        }
    });
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(namespace) = controller.namespaces.get(&key) else { return Ok(()) };
    let exists = controller.accounts.contains(&ObjectKey::new(key.name.as_str(), NAME));
    let Some(account) = decide(&namespace, exists) else { return Ok(()) };
    let api: Api<ServiceAccount> = Api::namespaced(controller.context.client.clone(), &key.name);
    match api.create(&PostParams::default(), &account).await {
        Ok(_) => Ok(()),
        Err(error) if is_already_exists(&error) || context::namespace_is_terminating(&error) => Ok(()),
        Err(error) => Err(Error::call("create service account default in", key.name)(error)),
    }
}
