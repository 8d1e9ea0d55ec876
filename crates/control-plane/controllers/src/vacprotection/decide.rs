//! Whether one class is held, and should be.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;

use crate::protection;
pub(crate) use crate::protection::Decision;

/// Holds a class while anything names it.
pub(crate) const FINALIZER: &str = "kubernetes.io/vac-protection";

/// Decides about one class. `used` is only asked when it matters.
pub(crate) fn decide(class: &VolumeAttributesClass, used: impl FnOnce() -> bool) -> Decision {
    protection::decide(class, FINALIZER, used)
}

/// The class that a volume has.
pub(crate) fn class_of(volume: &PersistentVolume) -> Vec<String> {
    let class = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    class.into_iter().filter(|name| !name.is_empty()).collect()
}

/// The classes that a claim asks for, has, and is on its way to.
pub(crate) fn classes_of(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let current = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target = status
        .and_then(|status| status.modify_volume_status.as_ref())
        .and_then(|modify| modify.target_volume_attributes_class_name.clone());
    let mut classes: Vec<String> = [wanted, current, target].into_iter().flatten().collect();
    classes.retain(|name| !name.is_empty());
    classes.sort();
    classes.dedup();
    classes
}
