//! The status of claims, and the phases of claims and volumes.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use podium_api::quantity;
use podium_api::volumes::annotation;

use crate::owner;

pub(crate) const PENDING: &str = "Pending";
pub(crate) const BOUND: &str = "Bound";
pub(crate) const LOST: &str = "Lost";
pub(crate) const AVAILABLE: &str = "Available";
pub(crate) const RELEASED: &str = "Released";
pub(crate) const FAILED: &str = "Failed";

/// On volumes that were resized before their claim was bound: how large they were.
const PRE_RESIZE_CAPACITY: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
const STORAGE: &str = "storage";

/// The phase of a claim; empty before it has one.
pub(crate) fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The status of a claim in that phase with that volume; `None` when it has it already.
///
/// # Errors
///
/// When the volume does not say how large it is.
pub(crate) fn of_claim(
    claim: &PersistentVolumeClaim,
    new_phase: &str,
    volume: Option<&PersistentVolume>,
) -> Result<Option<PersistentVolumeClaimStatus>, String> {
    let old = claim.status.clone().unwrap_or_default();
    let mut new = old.clone();
    new.phase = Some(new_phase.to_owned());
    let Some(volume) = volume else {
        new.access_modes = None;
        new.capacity = None;
        new.current_volume_attributes_class_name = None;
        return Ok((new != old).then_some(new));
    };
    let spec = volume.spec.clone().unwrap_or_default();
    new.access_modes = spec.access_modes;
    // Later the size is a matter of resizing, and the class one of the resizer.
    if old.phase != new.phase {
        let capacity = spec.capacity.unwrap_or_default();
        let Some(size) = capacity.get(STORAGE) else {
            return Err(format!(
                "PersistentVolume {:?} is without a storage capacity",
                owner::name(&volume.metadata)
            ));
        };
        let read = |size: &Quantity| size.0.parse::<quantity::Quantity>().ok();
        let known = old.capacity.as_ref().and_then(|capacity| capacity.get(STORAGE));
        if let Some(before) = annotation(&volume.metadata, PRE_RESIZE_CAPACITY) {
            let before = Quantity(before.to_owned());
            let before = if read(&before).is_some() { before } else { size.clone() };
            new.capacity.get_or_insert_default().insert(STORAGE.to_owned(), before);
        } else if known.and_then(read) != read(size) {
            new.capacity = Some(capacity);
        }
        if old.phase.as_deref() == Some(PENDING) && new_phase == BOUND {
            new.current_volume_attributes_class_name = spec.volume_attributes_class_name;
        }
    }
    Ok((new != old).then_some(new))
}
