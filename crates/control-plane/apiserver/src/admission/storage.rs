//! StorageObjectInUseProtection and PersistentVolumeClaimResize.

use podium_api::quantity::Quantity;
use podium_api::status::ApiError;
use serde_json::Value;

use super::{Operation, Request, list_mut};
use crate::objects::{Objects, text};

const STORAGE: &str = "storage.k8s.io";

/// New claims and volumes carry a finalizer, so that what is in use is not taken away.
pub(super) fn protect(request: &mut Request<'_>) {
    if request.operation != Operation::Create || !request.subresource.is_empty() {
        return;
    }
    let finalizer = match (request.group, request.resource) {
        ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
        ("", "persistentvolumes") => "kubernetes.io/pv-protection",
        (STORAGE, "volumeattributesclasses") => "kubernetes.io/vac-protection",
        _ => return,
    };
    let finalizers = list_mut(&mut request.object["metadata"], "finalizers");
    if !finalizers.iter().any(|f| f == finalizer) {
        finalizers.push(Value::from(finalizer));
    }
}

/// A claim grows only while bound, and only if its class allows it.
pub(super) fn check_resize(request: &Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    let Some(old) = request.old else { return Ok(()) };
    if request.operation != Operation::Update || !request.is("", "persistentvolumeclaims") {
        return Ok(());
    }
    let size = |claim: &Value| {
        claim
            .pointer("/spec/resources/requests/storage")
            .and_then(|size| Quantity::from_value(size).ok())
            .unwrap_or_default()
    };
    if size(request.object) <= size(old) {
        return Ok(());
    }
    if text(old, "/status/phase") != "Bound" {
        return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let class_of = |claim: &Value| {
        let annotated = text(claim, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
        let class = if annotated.is_empty() { text(claim, "/spec/storageClassName") } else { annotated };
        class.to_owned()
    };
    let class = class_of(request.object);
    let allowed = !class.is_empty()
        && class == class_of(old)
        && objects
            .get(STORAGE, "storageclasses", "", &class)
            .is_some_and(|class| class["allowVolumeExpansion"] == true);
    if allowed {
        return Ok(());
    }
    Err(request.forbidden(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support \
         resize",
    ))
}
