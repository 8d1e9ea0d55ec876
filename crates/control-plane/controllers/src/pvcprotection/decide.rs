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

/// The claims of a pod, by name. Pods that no kubelet knows yet use none: it would not start them with a claim in deletion.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    if pods::node_name(pod).is_none() {
        return Vec::new();
    }
    pods::claim_names(pod).collect()
}
