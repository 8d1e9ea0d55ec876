//! Watches ClusterRoles.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, PostParams};
use podium_client::{Informer, ObjectKey, WorkQueue, is_not_found};

use super::decide::{decide, is_aggregated};
use crate::context::{Context, Error};

/// Index of the roles that are made up of others.
const AGGREGATED: &str = "controllers/aggregated";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let roles = context.informers.of::<ClusterRole>();
    roles.add_index(AGGREGATED, |role| if is_aggregated(role) { vec!["yes".to_owned()] } else { Vec::new() });
    let queue = WorkQueue::new("ClusterRoleAggregator");
    let (to, all) = (queue.clone(), roles.clone());
    roles.on_event(move |_| all.keys_by_index(AGGREGATED, "yes").into_iter().for_each(|key| to.add(key)));
    context.ready([roles.synced().boxed()]).await;
    let controller = Arc::new(Controller { context: context.clone(), roles });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    roles: Informer<ClusterRole>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(role) = controller.roles.get(&key) else { return Ok(()) };
    let rules = decide(&role, &controller.roles.list()).map_err(|error| Error::Unusable {
        object: format!("cluster role {}", key.name),
        why: error.to_string(),
    })?;
    let Some(rules) = rules else { return Ok(()) };
    let api: Api<ClusterRole> = Api::all(controller.context.client.clone());
    let updated = ClusterRole { rules: Some(rules), ..ClusterRole::clone(&role) };
    match api.replace(&key.name, &PostParams::default(), &updated).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::call("update cluster role", key.name)(error)),
    }
}
