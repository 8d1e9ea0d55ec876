//! Whether one claim is held, and should be.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::pods;
use crate::protection;
pub(crate) use crate::protection::Decision;

/// Holds a claim while pods use it.
pub(crate) const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// Decides about one claim. `used` is only asked when it matters.
pub(crate) fn decide(claim: &PersistentVolumeClaim, used: impl FnOnce() -> bool) -> Decision {
    protection::decide(claim, FINALIZER, used)
}

/// The claims of a pod, by name. Pods that no kubelet knows yet use none: it would not start them with a claim in deletion. Nor
/// does one that its kubelet is done with use those made for its ephemeral volumes: where it is deleted in the foreground, it
/// waits for them.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    if pods::node_name(pod).is_none() {
        return Vec::new();
    }
    let done =
        pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0);
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let made = |name: &String| {
        volumes.iter().any(|volume| {
            volume.ephemeral.is_some() && pods::ephemeral_claim_name(pod, &volume.name) == *name
        })
    };
    pods::claim_names(pod).filter(|name| !(done && made(name))).collect()
}
