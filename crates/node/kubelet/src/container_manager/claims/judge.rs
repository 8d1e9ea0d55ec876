//! Which claims a pod has, and whether it may use them. Pure; messages are upstream's.

use k8s_openapi::api::{
    core::v1::{Pod, PodResourceClaim},
    resource::v1::ResourceClaim,
};

use crate::pod;

/// The name of the claim behind an entry of the pod's spec, and whether it was made for this pod. None: the entry needs no claim.
pub(crate) fn name_of<'a>(
    wanted: &'a Pod,
    entry: &'a PodResourceClaim,
) -> Result<Option<(&'a str, bool)>, String> {
    if let Some(name) = &entry.resource_claim_name {
        return Ok(Some((name, false)));
    }
    let about = format!("pod \"{}/{}\"", pod::namespace(wanted), pod::name(wanted));
    if entry.resource_claim_template_name.is_none() {
        return Err(format!(
            "{about}, spec.resourceClaim {:?}: none of the supported fields are set",
            entry.name
        ));
    }
    let statuses = wanted.status.as_ref().and_then(|status| status.resource_claim_statuses.as_deref());
    let made = statuses.unwrap_or_default().iter().find(|status| status.name == entry.name);
    let made = made.ok_or_else(|| format!("{about}: ResourceClaim not found"))?;
    Ok(made.resource_claim_name.as_deref().map(|name| (name, true)))
}

/// The entries of the pod's spec.
pub(crate) fn entries(wanted: &Pod) -> &[PodResourceClaim] {
    wanted.spec.as_ref().and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default()
}

/// Whether the pod may use a claim; `made_for_it`: it was made from a template for this pod.
pub(crate) fn may_use(wanted: &Pod, claim: &ResourceClaim, made_for_it: bool) -> Result<(), String> {
    let (uid, name) = (pod::uid(wanted), claim.metadata.name.as_deref().unwrap_or_default());
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let owned = owners.iter().any(|owner| owner.controller == Some(true) && owner.uid == uid);
    if made_for_it && !owned {
        return Err(format!(
            "ResourceClaim {0}/{name} was not created for pod {0}/{1} (pod is not owner)",
            pod::namespace(wanted),
            pod::name(wanted)
        ));
    }
    let users = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default();
    if !users.iter().any(|user| user.resource == "pods" && user.uid == uid) {
        return Err(format!(
            "pod {} ({uid}) is not allowed to use ResourceClaim {name} ({})",
            pod::name(wanted),
            claim.metadata.uid.as_deref().unwrap_or_default()
        ));
    }
    Ok(())
}

/// The drivers that have to prepare a claim.
pub(crate) fn drivers(claim: &ResourceClaim) -> Result<Vec<String>, String> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let Some(allocation) = allocation else {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        return Err(format!("ResourceClaim {name}: not allocated"));
    };
    let results = allocation.devices.as_ref().and_then(|devices| devices.results.as_deref());
    let mut drivers: Vec<String> =
        results.unwrap_or_default().iter().map(|result| result.driver.clone()).collect();
    drivers.sort();
    drivers.dedup();
    Ok(drivers)
}
