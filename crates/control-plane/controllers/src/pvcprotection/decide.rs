//! Whether one claim is held, and should be.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::owner;
use crate::pods;
use crate::protection;
pub(crate) use crate::protection::Decision;

/// Holds a claim while pods use it.
pub(crate) const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// Decides about one claim. `used` is only asked when it matters.
pub(crate) fn decide(claim: &PersistentVolumeClaim, used: impl FnOnce() -> bool) -> Decision {
    protection::decide(claim, FINALIZER, used)
}

/// The claims of a pod, by name. Pods that no kubelet knows yet use none: it would not start them with a claim in deletion.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    if pods::node_name(pod).is_none() {
        return Vec::new();
    }
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let name = |volume: &k8s_openapi::api::core::v1::Volume| {
        if let Some(claim) = &volume.persistent_volume_claim {
            return Some(claim.claim_name.clone());
        }
        volume.ephemeral.as_ref().map(|_| format!("{}-{}", owner::name(&pod.metadata), volume.name))
    };
    volumes.iter().filter_map(name).collect()
}
