//! What makes one pod of a StatefulSet that pod: number, names, labels and volumes.

use std::ops::Range;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{INDEX_LABEL, NAME_LABEL, REVISION_LABEL};
use crate::labels;
use crate::owner;
use crate::pods;

/// The number at the end of a pod's name, if the rest is the set's name.
pub(crate) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, ordinal) = owner::name(&pod.metadata).rsplit_once('-')?;
    (parent == owner::name(&set.metadata)).then(|| ordinal.parse().ok()).flatten()
}

/// The number of the first pod.
pub(crate) fn first(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or_default()
}

/// The numbers of the pods that are to be.
pub(crate) fn numbers(set: &StatefulSet) -> Range<i32> {
    let replicas = set.spec.as_ref().map_or(0, |spec| spec.replicas.unwrap_or(1));
    first(set)..first(set).saturating_add(replicas)
}

/// The name of the pod of that number.
pub(crate) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", owner::name(&set.metadata))
}

/// The pod of that number, from a template.
pub(crate) fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let name = pod_name(set, ordinal);
    let reference = owner::controller_reference(set);
    let generate_name = Some(format!("{}-", owner::name(&set.metadata)));
    let mut pod =
        pods::from_template(template, owner::namespace(&set.metadata), generate_name, name, reference);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = pod.metadata.name.clone();
    spec.subdomain =
        set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|name| !name.is_empty());
    identify(set, &mut pod, ordinal);
    pod.metadata.labels.get_or_insert_default().insert(REVISION_LABEL.to_owned(), revision.to_owned());
    pod
}

/// Gives a pod the labels and volumes of its number.
pub(crate) fn identify(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let name = pod_name(set, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.to_owned(), name);
    labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
    let claims: Vec<Volume> = claim_templates(set)
        .iter()
        .map(|template| Volume {
            name: owner::name(&template.metadata).to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, template, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    if claims.is_empty() {
        return;
    }
    let volumes = pod.spec.get_or_insert_default().volumes.get_or_insert_default();
    volumes.retain(|volume| !claims.iter().any(|claim| claim.name == volume.name));
    volumes.extend(claims);
}

/// Whether a pod has the labels of its number. Volumes of a stored pod cannot change.
pub(crate) fn is_identified(set: &StatefulSet, pod: &Pod, ordinal: i32) -> bool {
    let label = |key: &str| labels::value(pod.metadata.labels.as_ref(), key);
    label(NAME_LABEL) == Some(&pod_name(set, ordinal)) && label(INDEX_LABEL) == Some(&ordinal.to_string())
}

/// The revision a pod was made from.
pub(crate) fn revision(pod: &Pod) -> &str {
    labels::value(pod.metadata.labels.as_ref(), REVISION_LABEL).unwrap_or_default()
}

fn claim_templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default()
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}", owner::name(&template.metadata), pod_name(set, ordinal))
}

/// The names of the claims of the pod of that number.
pub(crate) fn claim_names(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = String> {
    claim_templates(set).iter().map(move |template| claim_name(set, template, ordinal))
}

/// Whether a claim of that name would be one of the set's, of whatever number.
pub(crate) fn is_claim_of(set: &StatefulSet, name: &str) -> bool {
    let number = |template: &PersistentVolumeClaim| {
        let rest = name.strip_prefix(owner::name(&template.metadata))?.strip_prefix('-')?;
        rest.strip_prefix(owner::name(&set.metadata))?.strip_prefix('-')?.parse::<i32>().ok()
    };
    claim_templates(set).iter().any(|template| number(template).is_some())
}

/// Why a claim must be gone before the pod of that number is made anew, if it must: what the pod writes would go with the claim.
///
/// Source: `PodClaimIsStale` and `createPersistentVolumeClaims`. Upstream looks for an earlier pod only where claims go with pods
/// that are too many, and not for an earlier set. But the garbage collector takes what an owner that is gone has left, whatever the
/// policy has become since; and where it finds another owner it takes the reference away, so the wait ends either way.
pub(crate) fn doom(set: &StatefulSet, ordinal: i32, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    if claim.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted");
    }
    let (pod, set_uid) = (pod_name(set, ordinal), owner::uid(&set.metadata));
    claim.metadata.owner_references.iter().flatten().find_map(|it| {
        match (it.api_version.as_str(), it.kind.as_str()) {
            ("v1", "Pod") if it.name == pod => Some("belongs to an earlier pod of that name"),
            ("apps/v1", "StatefulSet") if it.name == owner::name(&set.metadata) && it.uid != set_uid => {
                Some("belongs to an earlier stateful set of that name")
            }
            _ => None,
        }
    })
}

/// What becomes of claims when the set is deleted, and when it shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) delete_with_set: bool,
    pub(crate) delete_with_pod: bool,
}

/// Reads the set's retention policy.
pub(crate) fn retention(set: &StatefulSet) -> Retention {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    Retention {
        delete_with_set: policy.and_then(|it| it.when_deleted.as_deref()) == Some("Delete"),
        delete_with_pod: policy.and_then(|it| it.when_scaled.as_deref()) == Some("Delete"),
    }
}

/// The claims of the pod of that number.
pub(crate) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let selected = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone());
    let owners = retention(set).delete_with_set.then(|| vec![owner::controller_reference(set)]);
    let claim = |template: &PersistentVolumeClaim| {
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(selected.clone().unwrap_or_default());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name(set, template, ordinal)),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                owner_references: owners.clone(),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    };
    claim_templates(set).iter().map(claim).collect()
}

/// The owners that a claim of a pod should have, if they are others than it has: a pod that is to go takes its claims along where
/// the policy says so, and otherwise they go with the set or with nobody.
///
/// Source: `isClaimOwnerUpToDate` and `updateClaimOwnerRefForSetAndPod`.
pub(crate) fn claim_owners(
    set: &StatefulSet,
    claim: &PersistentVolumeClaim,
    pod: &Pod,
    condemned: bool,
) -> Option<Vec<OwnerReference>> {
    let own_set = owner::controller_reference(set);
    // A claim goes after its pod, by its protection. A pod that waited for the claim, as it would when its set is deleted in the
    // foreground, would wait for ever. Upstream's reference blocks.
    let own_pod = OwnerReference { block_owner_deletion: Some(false), ..owner::controller_reference(pod) };
    let names = |it: &OwnerReference, own: &OwnerReference| {
        (&it.api_version, &it.kind, &it.name) == (&own.api_version, &own.kind, &own.name)
    };
    let old = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let (ours, others): (Vec<_>, Vec<_>) =
        old.iter().cloned().partition(|it| names(it, &own_set) || names(it, &own_pod));
    // What an earlier set or pod of that name has left is the garbage collector's.
    if ours.iter().any(|it| it.uid != own_set.uid && it.uid != own_pod.uid) {
        return None;
    }
    let policy = retention(set);
    // There is one controller, and another one comes before the policy.
    let wanted = if others.iter().any(|it| it.controller == Some(true)) {
        None
    } else if condemned && policy.delete_with_pod {
        Some(own_pod)
    } else {
        policy.delete_with_set.then_some(own_set)
    };
    let controls = |it: &OwnerReference| (it.uid.clone(), it.controller == Some(true));
    let is_right = ours.iter().map(controls).eq(wanted.iter().map(controls));
    (!is_right).then(|| others.into_iter().chain(wanted).collect())
}
