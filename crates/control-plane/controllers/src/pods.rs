//! Facts about pods that several controllers need.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams};
use podium_client::{Informer, ObjectKey};

use crate::clock;

use crate::owner::{controller_of, namespace};

/// Name of the index of pods by the uid of their controller; see [`index_by_controller`].
pub(crate) const BY_CONTROLLER: &str = "controllers/controller";
/// Name of the index of pods by node; see [`index_by_node`].
pub(crate) const BY_NODE: &str = "controllers/node";

/// Name of the index of pods by the keys of their claims; see [`index_by_claim`].
pub(crate) const BY_CLAIM: &str = "controllers/anyClaim";

/// Indexes pods by the keys of the claims they use.
pub(crate) fn index_by_claim(pods: &Informer<Pod>) {
    pods.add_index(BY_CLAIM, |pod| claim_keys(pod).iter().map(ToString::to_string).collect());
}

/// Indexes pods by their controller's uid, those without one by [`orphans_of`] their namespace.
pub(crate) fn index_by_controller(pods: &Informer<Pod>) {
    pods.add_index(BY_CONTROLLER, |pod| {
        vec![match controller_of(&pod.metadata) {
            Some(owner) => owner.uid.clone(),
            None => orphans_of(namespace(&pod.metadata)),
        }]
    });
}

/// The index value under which a namespace's pods without a controller stand. No uid has a slash.
pub(crate) fn orphans_of(namespace: &str) -> String {
    format!("orphans/{namespace}")
}

/// Indexes pods by the node they are bound to; unbound pods have no entry.
pub(crate) fn index_by_node(pods: &Informer<Pod>) {
    pods.add_index(BY_NODE, |pod| node_name(pod).map(str::to_owned).into_iter().collect());
}

/// The node the pod is bound to.
pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
}

/// The pod's phase; empty before the API server has set one.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The names of the claims the pod uses, those made for its ephemeral volumes included.
pub(crate) fn claim_names(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().filter_map(|volume| match &volume.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| ephemeral_claim_name(pod, &volume.name)),
    })
}

/// The keys of the claims the pod uses.
pub(crate) fn claim_keys(pod: &Pod) -> Vec<ObjectKey> {
    let namespace = namespace(&pod.metadata);
    claim_names(pod).map(|name| ObjectKey::new(namespace, name)).collect()
}

/// The name of the claim made for an ephemeral volume.
pub(crate) fn ephemeral_claim_name(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.metadata.name.as_deref().unwrap_or_default())
}

/// Whether all containers have ended for good.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether deletion has begun.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod counts towards its controller's replicas.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// One condition of the pod's status.
pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Whether the pod serves requests.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Since when the pod is ready; `None` when it is not, or when the kubelet did not say.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready")
        .filter(|condition| condition.status == "True")
        .and_then(|condition| condition.last_transition_time.as_ref())
        .map(|time| time.0)
}

/// Whether the pod has been ready for `min_ready_seconds` at `now`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_ready(pod)
        && (min_ready_seconds <= 0
            || ready_since(pod).is_some_and(|since| clock::after(since, i64::from(min_ready_seconds)) <= now))
}

/// When the first of the pods that are ready but not yet available becomes so.
pub(crate) fn next_available<'a>(
    pods: impl IntoIterator<Item = &'a Pod>,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Option<Timestamp> {
    pods.into_iter()
        .filter(|pod| !is_available(pod, min_ready_seconds, now))
        .filter_map(ready_since)
        .map(|since| clock::after(since, i64::from(min_ready_seconds)))
        .min()
}

/// A pod made from a template. It has both the name we chose and the prefix it was generated from.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    generate_name: Option<String>,
    name: String,
    owner: OwnerReference,
) -> Pod {
    let source = template.metadata.as_ref();
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            generate_name,
            namespace: Some(namespace.to_owned()),
            labels: source.and_then(|meta| meta.labels.clone()),
            annotations: source.and_then(|meta| meta.annotations.clone()),
            finalizers: source.and_then(|meta| meta.finalizers.clone()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Sets a condition, and the phase if given, on a live pod, unless they are set already.
pub(crate) async fn patch_condition(
    api: &Api<Pod>,
    pod: &Pod,
    mut new: PodCondition,
    new_phase: Option<&str>,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let old = condition(pod, &new.type_);
    let known = old.is_some_and(|old| {
        old.status == new.status && old.reason == new.reason && old.message == new.message
    });
    if known && new_phase.is_none_or(|new| phase(pod) == new) {
        return Ok(());
    }
    new.last_transition_time = match old {
        Some(old) if old.status == new.status => old.last_transition_time.clone(),
        _ => Some(clock::time(now)),
    };
    let mut status = serde_json::json!({"conditions": [new]});
    if let Some(phase) = new_phase {
        status["phase"] = phase.into();
    }
    // Conditions merge by their type in a strategic patch; the uid keeps it from another life of the name.
    let patch = serde_json::json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(()),
        Err(error) if podium_client::is_not_found(&error) || podium_client::is_conflict(&error) => Ok(()),
        Err(error) => Err(error),
    }
}
