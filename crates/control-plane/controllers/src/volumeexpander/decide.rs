//! Whether a claim waits for more room, and for whom.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use podium_api::quantity::Quantity;
use podium_api::volumes::{annotation, claim_ref};

use crate::owner;
use crate::volumebinder::plugins::migrated_from;

/// On claims: who is to resize the volume.
pub(crate) const RESIZER: &str = "volume.kubernetes.io/storage-resizer";
/// On volumes: what the claim had before the volume grew. There while a node has the file system still to grow.
const PRE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

/// What is to be done about one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It has what it asks for.
    Nothing,
    /// Its volume is another's, by what is known so far.
    NotBound,
    /// Somebody outside resizes it.
    External {
        /// What the claim's users are told.
        message: String,
        /// The CSI driver to be written on the claim, if that is news.
        resizer: Option<&'static str>,
    },
}

fn storage(of: Option<&BTreeMap<String, Text>>) -> Quantity {
    of.and_then(|of| of.get("storage")).and_then(|text| text.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// What a claim asks for; zero when it says nothing.
fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(resources.and_then(|resources| resources.requests.as_ref()))
}

/// What a claim has; zero before it has anything.
fn capacity(claim: &PersistentVolumeClaim) -> Quantity {
    storage(claim.status.as_ref().and_then(|status| status.capacity.as_ref()))
}

/// Whether a claim is worth a look: it is bound, and new or changed in a way that matters.
pub(crate) fn concerns(old: Option<&PersistentVolumeClaim>, new: &PersistentVolumeClaim) -> bool {
    let phase = new.status.as_ref().and_then(|status| status.phase.as_deref());
    let grew = |old: &PersistentVolumeClaim| requested(new) > requested(old) || capacity(new) > capacity(old);
    phase == Some("Bound") && old.is_none_or(grew)
}

/// Decides about one claim and the volume that it names.
pub(crate) fn decide(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Decision {
    let is_its_own = claim_ref(volume).is_some_and(|reference| {
        reference.namespace.as_deref() == Some(owner::namespace(&claim.metadata))
            && reference.uid == claim.metadata.uid
    });
    if !is_its_own {
        return Decision::NotBound;
    }
    if requested(claim) <= capacity(claim) && annotation(&volume.metadata, PRE_RESIZE).is_none() {
        return Decision::Nothing;
    }
    match migrated_from(volume) {
        Some((plugin, driver)) => Decision::External {
            message: format!(
                "CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc"
            ),
            resizer: (annotation(&claim.metadata, RESIZER) != Some(driver)).then_some(driver),
        },
        None => Decision::External {
            message: "waiting for an external controller to expand this PVC".to_owned(),
            resizer: None,
        },
    }
}
