//! Watches claims, templates and pods.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate,
};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_already_exists, is_not_found, run_workers};
use serde_json::json;

use super::decide::{
    self, FINALIZER, Name, claims_of, decide, foreign, generate, is_done, is_for_administrators, is_own,
    is_pod, name_of, tell, used_by,
};
use crate::context::{Context, Error, words};
use crate::metrics;
use crate::owner;
use crate::pods;

/// Index of pods by the keys of the claims they are known to use.
const BY_CLAIM: &str = "controllers/resourceClaim";
/// Index of pods by the keys of the templates of their claims.
const BY_TEMPLATE: &str = "controllers/resourceClaimTemplate";
const FIELD_MANAGER: &str = "ResourceClaimController";
/// Names that are tried for a generated claim before its pod is told.
const NAMES: i32 = 3;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Pod(ObjectKey),
    Claim(ObjectKey),
}

fn claim_keys(pod: &Pod) -> Vec<ObjectKey> {
    let namespace = owner::namespace(&pod.metadata);
    used_by(pod).into_iter().map(|name| ObjectKey::new(namespace, name)).collect()
}

fn template_keys(pod: &Pod) -> Vec<String> {
    let namespace = owner::namespace(&pod.metadata);
    let templates = claims_of(pod).iter().filter_map(|claim| claim.resource_claim_template_name.as_deref());
    templates.map(|name| ObjectKey::new(namespace, name).to_string()).collect()
}

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let pods = context.informers.of::<Pod>();
    let claims = context.informers.of::<ResourceClaim>();
    let templates = context.informers.of::<ResourceClaimTemplate>();
    pods.add_index(BY_CLAIM, |pod| claim_keys(pod).iter().map(ToString::to_string).collect());
    pods.add_index(BY_TEMPLATE, template_keys);
    let queue = WorkQueue::new("resource_claim");
    let to = queue.clone();
    pods.on_event(move |change| {
        let pod = change.object();
        let gone = matches!(change, Change::Deleted(_));
        if gone || is_done(pod) {
            claim_keys(pod).into_iter().for_each(|claim| to.add(Key::Claim(claim)));
        }
        if !gone && !claims_of(pod).is_empty() {
            to.add(Key::Pod(ObjectKey::of(pod.as_ref())));
        }
    });
    let (to, of) = (queue.clone(), pods.clone());
    claims.on_event(move |change| {
        let key = ObjectKey::of(change.object().as_ref());
        let users = of.keys_by_index(BY_CLAIM, &key.to_string());
        users.into_iter().for_each(|pod| to.add(Key::Pod(pod)));
        if !matches!(change, Change::Deleted(_)) {
            to.add(Key::Claim(key));
        }
    });
    let (to, of) = (queue.clone(), pods.clone());
    templates.on_event(move |change| {
        let key = ObjectKey::of(change.object().as_ref()).to_string();
        of.keys_by_index(BY_TEMPLATE, &key).into_iter().for_each(|pod| to.add(Key::Pod(pod)));
    });
    let synced = [pods.synced().boxed(), claims.synced().boxed(), templates.synced().boxed()];
    context.ready(synced).await;
    let counted = claims.clone();
    let _telling = metrics::tell("resourceclaim", move |out| tell(out, &counted.list()));
    let controller = Arc::new(Controller { context: context.clone(), pods, claims, templates });
    run_workers(queue, context.workers, context.shutdown.clone(), move |key| {
        reconcile(Arc::clone(&controller), key)
    })
    .await;
}

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    templates: Informer<ResourceClaimTemplate>,
}

async fn reconcile(controller: Arc<Controller>, key: Key) -> Result<(), Error> {
    match key {
        Key::Pod(key) => {
            let pod = controller.pods.get(&key).filter(|pod| !pods::is_terminating(pod) && !is_done(pod));
            let Some(pod) = pod else { return Ok(()) };
            controller.pod(&pod, &key).await
        }
        Key::Claim(key) => {
            let Some(claim) = controller.claims.get(&key) else { return Ok(()) };
            controller.claim(&claim, &key).await
        }
    }
}

impl Controller {
    fn api(&self, namespace: &str) -> Api<ResourceClaim> {
        Api::namespaced(self.context.client.clone(), namespace)
    }

    async fn pod(&self, pod: &Pod, key: &ObjectKey) -> Result<(), Error> {
        let mut made = Vec::new();
        for claim in claims_of(pod) {
            match self.own_claim(pod, claim).await {
                Ok(Some(name)) => made.push(json!({"name": claim.name, "resourceClaimName": name})),
                Ok(None) => {}
                Err(why) => {
                    let message = format!("PodResourceClaim {}: {why}", claim.name);
                    self.context.warning(pod, "FailedResourceClaimCreation", message.clone());
                    return Err(Error::Unusable { object: key.to_string(), why: message });
                }
            }
        }
        if !made.is_empty() {
            // Merged by name; the uid keeps it from another life of the pod's name.
            let patch =
                json!({"metadata": {"uid": pod.metadata.uid}, "status": {"resourceClaimStatuses": made}});
            let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
            let parameters =
                PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let patched = api.patch_status(&key.name, &parameters, &Patch::Strategic(patch)).await;
            patched.map_err(Error::call("update resourceClaimStatuses of pod", key.to_string()))?;
            // Comes again with the new status.
            return Ok(());
        }
        self.reserve(pod, key).await
    }

    /// The name of one of the pod's own claims that its status does not tell, or tells wrongly: found, or made now.
    async fn own_claim(&self, pod: &Pod, wanted: &PodResourceClaim) -> Result<Option<String>, String> {
        let namespace = owner::namespace(&pod.metadata);
        let cached = |name: &str| self.claims.get(&ObjectKey::new(namespace, name));
        let template = match name_of(pod, wanted) {
            Name::Known { own: false, .. } | Name::None => return Ok(None),
            Name::Known { name, own: true } => {
                // As upstream: one that is gone is made again.
                if cached(name).is_some_and(|claim| is_own(&claim, pod)) {
                    return Ok(None);
                }
                wanted.resource_claim_template_name.as_deref().unwrap_or_default()
            }
            Name::Unknown { template } => template,
        };
        let template = self
            .templates
            .get(&ObjectKey::new(namespace, template))
            .ok_or_else(|| {
                format!(
                    "resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found"
                )
            })?;
        let api = self.api(namespace);
        let mut why = String::new();
        for attempt in 0..NAMES {
            let claim = generate(pod, &wanted.name, &template, (attempt > 0).then_some(attempt));
            let name = owner::name(&claim.metadata);
            let created = match cached(name) {
                Some(there) if is_own(&there, pod) => return Ok(Some(name.to_owned())),
                Some(_) => None,
                None => {
                    let created = api.create(&PostParams::default(), &claim).await;
                    metrics::resource_claim_created(created.is_ok(), is_for_administrators(&claim));
                    Some(created)
                }
            };
            match created {
                Some(Ok(_)) => return Ok(Some(name.to_owned())),
                Some(Err(error)) if !is_already_exists(&error) => {
                    return Err(format!("create ResourceClaim {name}: {}", words(&error)));
                }
                Some(Err(_)) | None => {}
            }
            // Made by us a moment ago, or somebody else's.
            let live = api.get_opt(name).await.map_err(|error| words(&error))?;
            match live {
                Some(live) if is_own(&live, pod) => return Ok(Some(name.to_owned())),
                Some(live) => why = foreign(&live, pod),
                None => why = format!("ResourceClaim {namespace}/{name} came and went"),
            }
        }
        Err(why)
    }

    /// Reserves claims that have devices for a pod that has a node: one that no scheduler placed.
    async fn reserve(&self, pod: &Pod, key: &ObjectKey) -> Result<(), Error> {
        if pods::node_name(pod).is_none() {
            return Ok(());
        }
        for wanted in claims_of(pod) {
            let Name::Known { name, own } = name_of(pod, wanted) else { continue };
            let Some(claim) = self.claims.get(&ObjectKey::new(key.namespace.as_str(), name)) else {
                return Ok(());
            };
            if own && !is_own(&claim, pod) {
                return Err(Error::Unusable { object: key.to_string(), why: foreign(&claim, pod) });
            }
            if let Some(status) = decide::reserved_for(&claim, pod) {
                self.write_status(&claim, status).await?;
            }
        }
        Ok(())
    }

    async fn claim(&self, claim: &ResourceClaim, key: &ObjectKey) -> Result<(), Error> {
        let mut remaining = Vec::new();
        let users = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref());
        for user in users.unwrap_or_default() {
            if !is_pod(user) || self.is_there(user, key).await? {
                remaining.push(user.clone());
            }
        }
        let owner =
            owner::controller_of(&claim.metadata).map(|owner| owner.name.as_str()).unwrap_or_default();
        let pod = self.pods.get(&ObjectKey::new(key.namespace.as_str(), owner));
        let needs = decide(claim, remaining, pod.as_deref());
        let mut current = claim.clone();
        if let Some(status) = needs.status {
            current = self.write_status(claim, status).await?;
        }
        if needs.release {
            let mut finalizers = current.metadata.finalizers.take().unwrap_or_default();
            finalizers.retain(|it| it != FINALIZER);
            current.metadata.finalizers = Some(finalizers);
            let written = self.api(&key.namespace).replace(&key.name, &PostParams::default(), &current).await;
            match written {
                Err(error) if !is_not_found(&error) => {
                    return Err(Error::call("update claim", key.to_string())(error));
                }
                _ => {}
            }
        }
        if needs.delete {
            let preconditions = Preconditions { uid: claim.metadata.uid.clone(), resource_version: None };
            let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match self.api(&key.namespace).delete(&key.name, &options).await {
                Err(error) if !is_not_found(&error) => {
                    return Err(Error::call("delete unused generated claim", key.to_string())(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a pod still uses the claim. That it is gone is believed only of the API itself: the cache may not have it yet.
    async fn is_there(
        &self,
        user: &ResourceClaimConsumerReference,
        claim: &ObjectKey,
    ) -> Result<bool, Error> {
        let uses = |pod: &Pod| pod.metadata.uid.as_deref() == Some(&user.uid) && !is_done(pod);
        if let Some(pod) = self.pods.get(&ObjectKey::new(claim.namespace.as_str(), user.name.as_str()))
            && pod.metadata.uid.as_deref() == Some(&user.uid)
        {
            return Ok(uses(&pod));
        }
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &claim.namespace);
        let live = api.get_opt(&user.name).await.map_err(Error::call("get pod", user.name.as_str()))?;
        Ok(live.is_some_and(|pod| uses(&pod)))
    }

    async fn write_status(
        &self,
        claim: &ResourceClaim,
        status: ResourceClaimStatus,
    ) -> Result<ResourceClaim, Error> {
        let (namespace, name) = (owner::namespace(&claim.metadata), owner::name(&claim.metadata));
        let updated = ResourceClaim { status: Some(status), ..claim.clone() };
        let written = self.api(namespace).replace_status(name, &PostParams::default(), &updated).await;
        written.map_err(Error::call("update status of claim", name))
    }
}
