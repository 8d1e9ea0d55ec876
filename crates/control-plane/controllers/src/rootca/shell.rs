//! Watches namespaces and the ConfigMaps of that one name.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, PostParams};
use podium_client::{Change, Informer, ObjectKey, Scope, WorkQueue, is_already_exists, status_of};

use super::decide::{Decision, NAME, decide};
use crate::context::{self, Context, Error};
use crate::metrics;
use crate::owner;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let namespaces = context.informers.of::<Namespace>();
    // Not all ConfigMaps: they can be large, and only these matter.
    let scope = Scope { fields: Some(format!("metadata.name={NAME}")), ..Scope::default() };
    let config_maps = context.informers.scoped::<ConfigMap>(scope);
    let queue = WorkQueue::new("root_ca_cert_publisher");
    watch(&namespaces, &config_maps, &queue);
    context.ready([namespaces.synced().boxed(), config_maps.synced().boxed()]).await;
    let controller = Arc::new(Controller { context: context.clone(), namespaces, config_maps });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

#[derive(Debug)]
struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    config_maps: Informer<ConfigMap>,
}

fn watch(namespaces: &Informer<Namespace>, config_maps: &Informer<ConfigMap>, queue: &WorkQueue<ObjectKey>) {
    let to = queue.clone();
    namespaces.on_event(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    let to = queue.clone();
    config_maps.on_event(move |change| {
        let meta = &change.object().metadata;
        if owner::name(meta) == NAME {
            to.add(ObjectKey::cluster(owner::namespace(meta)));
        }
    });
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let started = std::time::Instant::now();
    let outcome = publish(&controller, &key).await;
    let code = match &outcome {
        Ok(()) => 200,
        Err(error) => status_of(error).map(|status| status.code).filter(|code| *code != 0).unwrap_or(500),
    };
    metrics::root_ca_published(code, started.elapsed());
    outcome.map_err(Error::call("publish the root certificates in", key.name))
}

async fn publish(controller: &Controller, key: &ObjectKey) -> Result<(), kube::Error> {
    let Some(namespace) = controller.namespaces.get(key) else { return Ok(()) };
    let current = controller.config_maps.get(&ObjectKey::new(key.name.as_str(), NAME));
    let api: Api<ConfigMap> = Api::namespaced(controller.context.client.clone(), &key.name);
    let answer = match decide(&namespace, current.as_deref(), &controller.context.settings.root_ca_pem) {
        Decision::Keep => return Ok(()),
        Decision::Create(config_map) => api.create(&PostParams::default(), &config_map).await,
        Decision::Update(config_map) => api.replace(NAME, &PostParams::default(), &config_map).await,
    };
    match answer {
        Ok(_) => Ok(()),
        Err(error) if is_already_exists(&error) || context::namespace_is_terminating(&error) => Ok(()),
        Err(error) => Err(error),
    }
}
