//! Looks through all tokens once a day.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use podium_client::{Informer, ObjectKey, WorkQueue, is_conflict, is_not_found};
use podium_pki::token::legacy::{ACCOUNT_NAME, INVALID_SINCE, SECRET_TYPE};
use serde_json::json;

use super::decide::{Decision, decide, is_known_long_enough, secrets_of};
use crate::context::{Context, Error};
use crate::labels;
use crate::owner;

/// What decides changes by the day.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        secrets: context.informers.of::<Secret>(),
        accounts: context.informers.of::<ServiceAccount>(),
        pods: context.informers.of::<Pod>(),
        context: context.clone(),
    });
    let caches = [
        controller.secrets.synced().boxed(),
        controller.accounts.synced().boxed(),
        controller.pods.synced().boxed(),
    ];
    context.ready(caches).await;
    let queue = WorkQueue::new("legacy_serviceaccount_token_cleaner");
    let round = ObjectKey::cluster("round");
    queue.add(round);
    let again = queue.clone();
    context
        .work(queue, move |key| {
            again.add_after(key, INTERVAL);
            controller.clone().look_through()
        })
        .await;
}

struct Controller {
    context: Context,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    pods: Informer<Pod>,
}

impl Controller {
    async fn look_through(self: Arc<Self>) -> Result<(), Error> {
        let maps: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), "kube-system");
        let tracking = maps.get_opt(TRACKING).await.map_err(Error::call("get", TRACKING))?;
        let now = self.context.now();
        let period = self.context.settings.legacy_token_period;
        let unused_seconds = i64::try_from(period.as_secs()).unwrap_or(i64::MAX);
        if !tracking.is_some_and(|tracking| is_known_long_enough(&tracking, unused_seconds, now)) {
            return Ok(());
        }
        let mut mounted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for secret in self.secrets.list() {
            if secret.type_.as_deref() != Some(SECRET_TYPE) {
                continue;
            }
            let namespace = owner::namespace(&secret.metadata);
            let mounted = mounted.entry(namespace.to_owned()).or_insert_with(|| {
                self.pods.list_namespace(namespace).iter().flat_map(|pod| secrets_of(pod)).collect()
            });
            let account =
                labels::value(secret.metadata.annotations.as_ref(), ACCOUNT_NAME).unwrap_or_default();
            let account = self.accounts.get(&ObjectKey::new(namespace, account));
            let decision = decide(&secret, account.as_deref(), mounted, unused_seconds, now);
            if let Err(error) = self.apply(&secret, decision).await {
                // Every other token is still to be looked at, and this one tomorrow.
                let cause = podium_client::error_chain(&error);
                tracing::warn!(secret = %ObjectKey::of(secret.as_ref()), cause, "legacy token not retired");
            }
        }
        Ok(())
    }

    async fn apply(&self, secret: &Secret, decision: Decision) -> Result<(), kube::Error> {
        let meta = &secret.metadata;
        let (name, api) = (owner::name(meta), owner::namespace(meta));
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), api);
        let answer = match decision {
            Decision::Keep => return Ok(()),
            Decision::Invalidate(date) => {
                let labels = json!({INVALID_SINCE: date.to_string()});
                let patch = json!({"metadata": {"uid": meta.uid, "labels": labels}});
                api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
            Decision::Delete => {
                let preconditions =
                    Preconditions { uid: None, resource_version: meta.resource_version.clone() };
                api.delete(name, &DeleteParams::default().preconditions(preconditions)).await.map(drop)
            }
        };
        match answer {
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            other => other,
        }
    }
}
