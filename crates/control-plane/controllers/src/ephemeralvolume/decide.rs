//! Which claims one pod lacks.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::owner;
use crate::pods;

/// What one volume needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Need {
    /// Its claim is there.
    Nothing,
    Create(Box<PersistentVolumeClaim>),
    /// A claim of that name is somebody else's; why, in upstream's words.
    Taken(String),
}

/// The volumes that are made from a template.
pub(crate) fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    volumes.into_iter().flatten().filter(|volume| volume.ephemeral.is_some())
}

/// The name of a volume's claim.
pub(crate) fn claim_name(pod: &Pod, volume: &Volume) -> String {
    pods::ephemeral_claim_name(pod, &volume.name)
}

/// Decides about one volume of a pod that is not being deleted. `existing` is the claim of its name.
pub(crate) fn decide(pod: &Pod, volume: &Volume, existing: Option<&PersistentVolumeClaim>) -> Need {
    if let Some(existing) = existing {
        if owner::is_controlled_by(&existing.metadata, owner::uid(&pod.metadata)) {
            return Need::Nothing;
        }
        let (namespace, name) = (owner::namespace(&pod.metadata), owner::name(&existing.metadata));
        return Need::Taken(format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
            owner::name(&pod.metadata)
        ));
    }
    let template = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref());
    let Some(template) = template else { return Need::Nothing };
    let source = template.metadata.as_ref();
    Need::Create(Box::new(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim_name(pod, volume)),
            namespace: pod.metadata.namespace.clone(),
            labels: source.and_then(|meta| meta.labels.clone()),
            annotations: source.and_then(|meta| meta.annotations.clone()),
            owner_references: Some(vec![owner::controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    }))
}
