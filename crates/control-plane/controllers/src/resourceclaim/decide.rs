//! What a pod needs of its claims, and what a claim needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use podium_client::metrics::gauges;

use crate::finalizers;
use crate::hash;
use crate::labels;
use crate::owner;
use crate::pods;

/// Holds a claim while it has devices.
pub(crate) const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// On generated claims: which of the pod's claims it is.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// On claims that the scheduler made for extended resources.
const EXTENDED_RESOURCE: &str = "resource.kubernetes.io/extended-resource-claim";
/// How many may use a claim at once. Source: `ResourceClaimReservedForMaxSize`.
const MOST_USERS: usize = 256;
/// What is left of 63 characters for the names of pod and claim with a dash after each.
const LONGEST_BASE: usize = 52;

/// Where one of a pod's claims is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// It has that name. `own`: it was made for this pod.
    Known { name: &'a str, own: bool },
    /// It is to be made from that template.
    Unknown { template: &'a str },
    /// The pod does without.
    None,
}

/// Finds one of a pod's claims.
pub(crate) fn name_of<'a>(pod: &'a Pod, claim: &'a PodResourceClaim) -> Name<'a> {
    if let Some(name) = &claim.resource_claim_name {
        return Name::Known { name, own: false };
    }
    let Some(template) = &claim.resource_claim_template_name else { return Name::None };
    let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_deref());
    match statuses.unwrap_or_default().iter().find(|status| status.name == claim.name) {
        Some(status) => {
            status.resource_claim_name.as_deref().map_or(Name::None, |name| Name::Known { name, own: true })
        }
        None => Name::Unknown { template },
    }
}

/// The claims of a pod's spec.
pub(crate) fn claims_of(pod: &Pod) -> &[PodResourceClaim] {
    pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default()
}

/// The names of all claims a pod is known to use.
pub(crate) fn used_by(pod: &Pod) -> Vec<String> {
    let named = claims_of(pod).iter().filter_map(|claim| match name_of(pod, claim) {
        Name::Known { name, .. } => Some(name.to_owned()),
        Name::Unknown { .. } | Name::None => None,
    });
    let extended = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    named.chain(extended.map(|status| status.resource_claim_name.clone())).collect()
}

/// Whether the pod will use no claim any more.
pub(crate) fn is_done(pod: &Pod) -> bool {
    pods::is_finished(pod) || (pods::is_terminating(pod) && pods::node_name(pod).is_none())
}

/// Whether the claim was made for the pod.
pub(crate) fn is_own(claim: &ResourceClaim, pod: &Pod) -> bool {
    owner::is_controlled_by(&claim.metadata, owner::uid(&pod.metadata))
}

/// Why a claim that should be the pod's own is not, in upstream's words.
pub(crate) fn foreign(claim: &ResourceClaim, pod: &Pod) -> String {
    let namespace = owner::namespace(&pod.metadata);
    format!(
        "ResourceClaim {namespace}/{} was not created for pod {namespace}/{} (pod is not owner)",
        owner::name(&claim.metadata),
        owner::name(&pod.metadata)
    )
}

/// The claim to be made for a pod. `collisions` counts names that turned out to be somebody else's.
pub(crate) fn generate(
    pod: &Pod,
    name: &str,
    template: &ResourceClaimTemplate,
    collisions: Option<i32>,
) -> ResourceClaim {
    let pod_name = owner::name(&pod.metadata);
    let prefix = prefix(pod_name, name);
    let suffix = hash::of(&(owner::uid(&pod.metadata), name), collisions);
    let source = template.spec.metadata.as_ref();
    let mut annotations = source.and_then(|meta| meta.annotations.clone()).unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), name.to_owned());
    ResourceClaim {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}{suffix}")),
            generate_name: Some(prefix),
            namespace: pod.metadata.namespace.clone(),
            labels: source.and_then(|meta| meta.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: pod_name.to_owned(),
                uid: owner::uid(&pod.metadata).to_owned(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// `<pod>-<claim>-`, both shortened in proportion where that is too long.
fn prefix(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= LONGEST_BASE {
        return whole;
    }
    let part =
        |text: &str| text.get(..text.len() * (LONGEST_BASE - 2) / whole.len()).unwrap_or(text).to_owned();
    format!("{}-{}-", part(pod), part(claim))
}

/// The claim's status with the pod among its users; `None` when it is, when the claim has no devices yet, or when it is full.
pub(crate) fn reserved_for(claim: &ResourceClaim, pod: &Pod) -> Option<ResourceClaimStatus> {
    let mut status = claim.status.clone().filter(|status| status.allocation.is_some())?;
    let users = status.reserved_for.get_or_insert_default();
    if users.len() >= MOST_USERS || users.iter().any(|user| user.uid == owner::uid(&pod.metadata)) {
        return None;
    }
    users.push(ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".to_owned(),
        name: owner::name(&pod.metadata).to_owned(),
        uid: owner::uid(&pod.metadata).to_owned(),
    });
    Some(status)
}

/// Whether a reference is to a pod; other users are not ours to judge.
pub(crate) fn is_pod(user: &ResourceClaimConsumerReference) -> bool {
    user.api_group.as_deref().unwrap_or_default().is_empty() && user.resource == "pods"
}

/// Whether some device is wanted as an administrator has it, whoever else uses it.
pub(crate) fn is_for_administrators(claim: &ResourceClaim) -> bool {
    let mut requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    requests.any(|request| request.exactly.as_ref().is_some_and(|it| it.admin_access == Some(true)))
}

/// Writes how many claims there are.
pub(crate) fn tell(out: &mut String, claims: &[Arc<ResourceClaim>]) {
    let mut counted: BTreeMap<[&str; 3], f64> = BTreeMap::new();
    for claim in claims {
        let allocated = claim.status.as_ref().is_some_and(|status| status.allocation.is_some());
        let annotation = |key| labels::value(claim.metadata.annotations.as_ref(), key);
        let source = if annotation(EXTENDED_RESOURCE) == Some("true") {
            "extended_resource"
        } else if annotation(POD_CLAIM).is_some_and(|name| !name.is_empty()) {
            "resource_claim_template"
        } else {
            ""
        };
        let text = |is_so| if is_so { "true" } else { "false" };
        *counted.entry([text(allocated), text(is_for_administrators(claim)), source]).or_default() += 1.0;
    }
    gauges(
        out,
        "resourceclaim_controller_resource_claims",
        "[ALPHA] Number of ResourceClaims, categorized by allocation status, admin access, and source. Source can be 'resource_claim_template' (created from a template), 'extended_resource' (extended resources), or empty (manually created by a user).",
        ["allocated", "admin_access", "source"],
        counted,
    );
}

/// What a claim needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Needs {
    /// Its status: without users that are gone, and without devices once the last is.
    pub(crate) status: Option<ResourceClaimStatus>,
    /// Its finalizer is to go, after the status.
    pub(crate) release: bool,
    /// It was made for a pod that needs it no longer.
    pub(crate) delete: bool,
}

/// Decides about one claim. `remaining` are its users that are still there; `pod` is the pod of the name of its owner.
pub(crate) fn decide(
    claim: &ResourceClaim,
    remaining: Vec<ResourceClaimConsumerReference>,
    pod: Option<&Pod>,
) -> Needs {
    let mut needs = Needs::default();
    let unused = remaining.is_empty();
    let held = finalizers::has(claim, FINALIZER);
    let old = claim.status.clone().unwrap_or_default();
    let users = old.reserved_for.as_ref().map_or(0, Vec::len);
    let changed = remaining.len() < users;
    if changed || (held && unused && claim.metadata.deletion_timestamp.is_some()) {
        // Only what our scheduler allocated, which the finalizer tells, is ours to take back.
        let allocation = if held && unused { None } else { old.allocation.clone() };
        needs.release = held && allocation.is_none();
        let devices = if allocation.is_some() { old.devices.clone() } else { None };
        let status = ResourceClaimStatus {
            allocation,
            devices,
            reserved_for: Some(remaining).filter(|users| !users.is_empty()),
        };
        needs.status = Some(status).filter(|status| *status != old);
    }
    let owner = owner::controller_of(&claim.metadata).filter(|it| it.api_version == "v1" && it.kind == "Pod");
    if let Some((owner, pod)) = owner.zip(pod) {
        needs.delete = unused
            && claim.metadata.deletion_timestamp.is_none()
            && (owner.uid != owner::uid(&pod.metadata) || is_done(pod));
    }
    needs
}
