//! Watches bootstrap tokens.

use futures::FutureExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Preconditions};
use podium_client::{Change, ObjectKey, WorkQueue, is_conflict, is_not_found};

use super::decide::{Decision, decide};
use crate::bootstraptokens;
use crate::clock;
use crate::context::{Context, Error};

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let secrets = context.informers.of::<Secret>();
    let queue = WorkQueue::new("token_cleaner");
    let to = queue.clone();
    secrets.on_event(move |change| {
        if !matches!(change, Change::Deleted(_)) && bootstraptokens::is_token(change.object()) {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    context.ready([secrets.synced().boxed()]).await;
    let (outer, again) = (context.clone(), queue.clone());
    context
        .work(queue, move |key| {
            let (context, secrets, queue) = (outer.clone(), secrets.clone(), again.clone());
            async move {
                let Some(secret) = secrets.get(&key) else { return Ok(()) };
                let now = context.now();
                match decide(&secret, now) {
                    Decision::Keep => return Ok(()),
                    Decision::LookAgain(moment) => {
                        queue.add_after(key, clock::until(moment, now));
                        return Ok(());
                    }
                    Decision::Delete => {}
                }
                let api: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
                let preconditions =
                    Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
                match api.delete(&key.name, &DeleteParams::default().preconditions(preconditions)).await {
                    Ok(_) => Ok(()),
                    Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
                    Err(error) => Err(Error::call("delete bootstrap token", key.name)(error)),
                }
            }
        })
        .await;
}
