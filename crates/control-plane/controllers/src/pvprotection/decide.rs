//! Whether one volume is held, and should be.

use k8s_openapi::api::core::v1::PersistentVolume;

use crate::protection;
pub(crate) use crate::protection::Decision;

/// Holds a volume while a claim is bound to it.
pub(crate) const FINALIZER: &str = "kubernetes.io/pv-protection";

/// Decides about one volume.
pub(crate) fn decide(volume: &PersistentVolume) -> Decision {
    let bound = || volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    protection::decide(volume, FINALIZER, bound)
}
