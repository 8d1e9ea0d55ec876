//! Whether one volume is held, and should be.

use k8s_openapi::api::core::v1::PersistentVolume;

use crate::finalizers;

/// Holds a volume while a claim is bound to it.
pub(crate) const FINALIZER: &str = "kubernetes.io/pv-protection";

/// What a volume needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Keep,
    Hold,
    Release,
}

/// Decides about one volume.
pub(crate) fn decide(volume: &PersistentVolume) -> Decision {
    let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    match (volume.metadata.deletion_timestamp.is_some(), finalizers::has(volume, FINALIZER)) {
        (false, false) => Decision::Hold,
        (true, true) if !bound => Decision::Release,
        _ => Decision::Keep,
    }
}
