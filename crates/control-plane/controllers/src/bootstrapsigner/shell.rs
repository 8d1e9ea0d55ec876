//! Watches the ConfigMap and bootstrap tokens.

use futures::FutureExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, PostParams};
use podium_client::{ObjectKey, Scope, WorkQueue, is_not_found};

use super::decide::{NAME, NAMESPACE, decide};
use crate::bootstraptokens;
use crate::context::{Context, Error};

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let maps = context.informers.scoped::<ConfigMap>(Scope {
        namespace: Some(NAMESPACE.to_owned()),
        fields: Some(format!("metadata.name={NAME}")),
        ..Scope::default()
    });
    let secrets = context.informers.of::<Secret>();
    let queue = WorkQueue::new("bootstrap_signer_queue");
    let the_map = ObjectKey::new(NAMESPACE, NAME);
    let (to, key) = (queue.clone(), the_map.clone());
    maps.on_event(move |_| to.add(key.clone()));
    let (to, key) = (queue.clone(), the_map);
    secrets.on_event(move |change| {
        if bootstraptokens::is_token(change.object()) {
            to.add(key.clone());
        }
    });
    context.ready([maps.synced().boxed(), secrets.synced().boxed()]).await;
    let outer = context.clone();
    context
        .work(queue, move |key| {
            let (context, maps, secrets) = (outer.clone(), maps.clone(), secrets.clone());
            async move {
                let Some(map) = maps.get(&key) else { return Ok(()) };
                let secrets = secrets.list_namespace(bootstraptokens::NAMESPACE);
                let secrets: Vec<&Secret> = secrets.iter().map(AsRef::as_ref).collect();
                let Some(signed) = decide(&map, &secrets, context.now()) else { return Ok(()) };
                let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), NAMESPACE);
                match api.replace(NAME, &PostParams::default(), &signed).await {
                    Ok(_) => Ok(()),
                    Err(error) if is_not_found(&error) => Ok(()),
                    Err(error) => Err(Error::call("sign", NAME)(error)),
                }
            }
        })
        .await;
}
