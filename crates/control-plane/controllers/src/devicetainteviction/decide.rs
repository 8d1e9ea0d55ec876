//! When the devices of one pod end it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};

use crate::clock::after;
use crate::nodes::NO_EXECUTE;
use crate::owner;
use crate::pods;
use crate::resourceclaim::{Name, claims_of, is_own, name_of};

/// The devices of a claim.
pub(crate) fn devices(claim: &ResourceClaim) -> &[DeviceRequestAllocationResult] {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    devices.and_then(|devices| devices.results.as_deref()).unwrap_or_default()
}

/// When the pod must go; `None` when it may stay. `claim` finds claims of the pod's namespace, `slices` those of a driver and pool.
pub(crate) fn decide<C, S>(
    pod: &Pod,
    claim: impl Fn(&str) -> Option<C>,
    slices: impl Fn(&str, &str) -> Vec<S>,
) -> Option<Timestamp>
where
    C: AsRef<ResourceClaim>,
    S: AsRef<ResourceSlice>,
{
    if pods::node_name(pod).is_none() || pods::is_terminating(pod) {
        return None;
    }
    let uid = owner::uid(&pod.metadata);
    let used = claims_of(pod).iter().filter_map(|wanted| {
        let Name::Known { name, own } = name_of(pod, wanted) else { return None };
        let found = claim(name)?;
        let users = found.as_ref().status.as_ref().and_then(|status| status.reserved_for.as_deref());
        let reserved = users.unwrap_or_default().iter().any(|user| user.uid == uid);
        (reserved && (!own || is_own(found.as_ref(), pod))).then_some(found)
    });
    used.filter_map(|claim| ends(claim.as_ref(), &slices)).min()
}

/// When a claim ends its users.
fn ends<S: AsRef<ResourceSlice>>(
    claim: &ResourceClaim,
    slices: impl Fn(&str, &str) -> Vec<S>,
) -> Option<Timestamp> {
    let of_device = |device: &DeviceRequestAllocationResult| {
        let slices = slices(&device.driver, &device.pool);
        // Older generations of a pool count for nothing.
        let newest = slices.iter().map(|slice| slice.as_ref().spec.pool.generation).max()?;
        let current = slices.iter().filter(|slice| slice.as_ref().spec.pool.generation == newest);
        let found = current.flat_map(|slice| slice.as_ref().spec.devices.iter().flatten());
        let taints = found.filter(|it| it.name == device.device).flat_map(|it| it.taints.iter().flatten());
        let tolerations = device.tolerations.as_deref().unwrap_or_default();
        taints.filter_map(|taint| ends_by(taint, tolerations)).min()
    };
    devices(claim).iter().filter_map(of_device).min()
}

fn ends_by(taint: &DeviceTaint, tolerations: &[DeviceToleration]) -> Option<Timestamp> {
    if taint.effect != NO_EXECUTE {
        return None;
    }
    // The API server says when a taint was added; without that it always was.
    let since = taint.time_added.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let mut seconds: Option<i64> = None;
    for toleration in tolerations.iter().filter(|it| tolerates(it, taint)) {
        // Without a time it holds for ever.
        let own = toleration.toleration_seconds?.max(0);
        seconds = Some(seconds.map_or(own, |seconds| seconds.min(own)));
    }
    Some(seconds.map_or(since, |seconds| after(since, seconds)))
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let key = text(&toleration.key);
    toleration.effect.as_deref() == Some(NO_EXECUTE)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref() {
            None | Some("" | "Equal") => text(&toleration.value) == text(&taint.value),
            Some("Exists") => true,
            Some(_) => false,
        }
}
