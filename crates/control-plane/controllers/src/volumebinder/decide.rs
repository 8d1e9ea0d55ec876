//! What one volume needs.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use podium_api::volumes::{
    BOUND_BY_CONTROLLER, MIGRATED_TO, PROVISIONED_BY, annotation, claim_ref, modes_differ, phase, volume_name,
};

use super::claims::Event;
use super::plugins::{self, Remover};
use super::status::{AVAILABLE, BOUND, FAILED, RELEASED};
use crate::owner;

/// What one volume needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Needs {
    Nothing,
    /// Its metadata as it is to be.
    Write(Box<PersistentVolume>),
    /// Its phase; the event is told with the change.
    Phase(&'static str, Option<Event>),
    /// Its claim is to be looked at, which will finish the binding.
    FinishClaim,
    /// The two do not fit: what to tell the volume and the claim.
    Mismatch {
        volume: Event,
        claim: Event,
    },
    /// Its claim has another volume: it is let go.
    Unbind(Box<PersistentVolume>),
    /// Its contents are to be removed from this host, and then the volume.
    Remove(String),
    /// Its contents are to be scrubbed by a pod, after which it is free again.
    Recycle,
}

/// Whether a volume's end has begun.
pub(crate) fn is_over(volume: &PersistentVolume) -> bool {
    matches!(phase(volume), RELEASED | FAILED)
}

/// Decides about one volume. `claim` is the claim it refers to, in the life that it refers to, if that is still there.
pub(crate) fn decide(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Needs {
    if let Some(metadata) = plugins::migrated_volume(volume) {
        return Needs::Write(Box::new(PersistentVolume { metadata, ..volume.clone() }));
    }
    let reference = claim_ref(volume);
    // Reserved by a person for a claim that has not asked for it yet.
    if reference.and_then(|reference| reference.uid.as_deref()).unwrap_or_default().is_empty() {
        return enter(volume, AVAILABLE, None);
    }
    let Some(claim) = claim else { return reclaim(volume) };
    let name = owner::name(&volume.metadata);
    match volume_name(claim) {
        None if modes_differ(claim, volume) => {
            let event = |text: String| Event::warning("VolumeMismatch", text);
            Needs::Mismatch {
                volume: event(format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
                    owner::name(&claim.metadata)
                )),
                claim: event(format!(
                    "Cannot bind PersistentVolume {name:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
                )),
            }
        }
        None => Needs::FinishClaim,
        Some(bound) if bound == name => enter(volume, BOUND, None),
        // Made for a claim that has found another since.
        Some(_) if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(volume) == "Delete" => {
            reclaim(volume)
        }
        Some(_) => Needs::Unbind(Box::new(unbound(volume))),
    }
}

pub(crate) fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

fn enter(volume: &PersistentVolume, wanted: &'static str, event: Option<Event>) -> Needs {
    if phase(volume) == wanted { Needs::Nothing } else { Needs::Phase(wanted, event) }
}

/// A volume whose claim is gone: first it says so, then its policy decides.
fn reclaim(volume: &PersistentVolume) -> Needs {
    if !is_over(volume) {
        return Needs::Phase(RELEASED, None);
    }
    if annotation(&volume.metadata, MIGRATED_TO).is_some_and(|driver| !driver.is_empty()) {
        return Needs::Nothing;
    }
    match policy(volume) {
        "Retain" => Needs::Nothing,
        "Recycle" if super::recycle::is_possible(volume) => Needs::Recycle,
        "Recycle" => {
            let message = "No recycler plugin found for the volume!";
            enter(volume, FAILED, Some(Event::warning("VolumeFailedRecycle", message)))
        }
        "Delete" => match plugins::remover(volume) {
            Remover::External => Needs::Nothing,
            Remover::HostPath(path) => Needs::Remove(path),
            Remover::Nobody(why) => enter(volume, FAILED, Some(Event::warning("VolumeFailedDelete", why))),
        },
        _ => {
            let message = "Volume has unrecognized PersistentVolumeReclaimPolicy";
            enter(volume, FAILED, Some(Event::warning("VolumeUnknownReclaimPolicy", message)))
        }
    }
}

/// The volume without its claim: what the controller wrote goes, and of what a person wrote only the uid.
pub(crate) fn unbound(volume: &PersistentVolume) -> PersistentVolume {
    let mut free = volume.clone();
    let spec = free.spec.get_or_insert_default();
    let annotations = free.metadata.annotations.as_mut();
    if annotations.and_then(|annotations| annotations.remove(BOUND_BY_CONTROLLER)).is_some() {
        spec.claim_ref = None;
        free.metadata.annotations = free.metadata.annotations.filter(|annotations| !annotations.is_empty());
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
    }
    free
}
