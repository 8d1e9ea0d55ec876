//! Watches policies.

use futures::FutureExt;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::api::{Api, PostParams};
use podium_client::{Change, ObjectKey, WorkQueue, is_not_found};

use super::decide::decide;
use crate::context::{Context, Error};

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let policies = context.informers.of::<ValidatingAdmissionPolicy>();
    let queue = WorkQueue::new("validatingadmissionpolicy-status");
    let to = queue.clone();
    policies.on_event(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    context.ready([policies.synced().boxed()]).await;
    let api: Api<ValidatingAdmissionPolicy> = Api::all(context.client.clone());
    context
        .work(queue, move |key| {
            let (api, policies) = (api.clone(), policies.clone());
            async move {
                let Some(policy) = policies.get(&key) else { return Ok(()) };
                let Some(status) = decide(&policy) else { return Ok(()) };
                let updated = ValidatingAdmissionPolicy {
                    status: Some(status),
                    ..ValidatingAdmissionPolicy::clone(&policy)
                };
                match api.replace_status(&key.name, &PostParams::default(), &updated).await {
                    Err(error) if !is_not_found(&error) => {
                        Err(Error::call("update status of policy", key.name)(error))
                    }
                    _ => Ok(()),
                }
            }
        })
        .await;
}
