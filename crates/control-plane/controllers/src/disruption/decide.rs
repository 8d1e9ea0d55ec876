//! How many pods a budget expects and wants.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::clock;
use crate::deployment::scaled;
use crate::owner::{self, controller_of};
use crate::pods;

/// How long an evicted pod may take to be seen in deletion. Source: `DeletionTimeout`.
const DELETION_SECONDS: i64 = 120;

/// Pods in all, and how many of them are to be healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) pods: i32,
    pub(crate) healthy: i32,
}

/// What a budget adds up to. `scale` tells how many pods a controller is to have, by its uid; `None` when nobody knows.
///
/// # Errors
///
/// The name of a pod whose controller's scale is not known.
pub(crate) fn expected<'a>(
    budget: &PodDisruptionBudget,
    selected: impl Iterator<Item = &'a Pod> + Clone,
    scale: impl Fn(&Pod) -> Option<i32>,
) -> Result<Expected, String> {
    let spec = budget.spec.clone().unwrap_or_default();
    let total = || total(selected.clone(), &scale);
    if let Some(most) = &spec.max_unavailable {
        let pods = total()?;
        return Ok(Expected { pods, healthy: (pods - scaled(most, pods, true)).max(0) });
    }
    match &spec.min_available {
        Some(IntOrString::Int(healthy)) => {
            let pods = i32::try_from(selected.count()).unwrap_or(i32::MAX);
            Ok(Expected { pods, healthy: *healthy })
        }
        Some(percentage) => {
            let pods = total()?;
            Ok(Expected { pods, healthy: scaled(percentage, pods, true) })
        }
        None => Ok(Expected { pods: 0, healthy: 0 }),
    }
}

/// The sum over the controllers of the pods. Pods without one are not counted.
fn total<'a>(
    selected: impl Iterator<Item = &'a Pod>,
    scale: impl Fn(&Pod) -> Option<i32>,
) -> Result<i32, String> {
    let mut scales = BTreeMap::new();
    for pod in selected {
        let Some(reference) = controller_of(&pod.metadata) else { continue };
        if !scales.contains_key(reference.uid.as_str()) {
            let known = scale(pod).ok_or_else(|| owner::name(&pod.metadata).to_owned())?;
            scales.insert(reference.uid.as_str(), known);
        }
    }
    Ok(scales.values().sum())
}

/// Pods that were evicted a moment ago and may not have been seen in deletion yet, and when to look again.
pub(crate) fn disrupted<'a>(
    budget: &PodDisruptionBudget,
    selected: impl Iterator<Item = &'a Pod>,
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Timestamp>) {
    let known = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    let mut still = BTreeMap::new();
    let mut next: Option<Timestamp> = None;
    for pod in selected.filter(|pod| !pods::is_terminating(pod)) {
        let name = owner::name(&pod.metadata);
        let Some(time) = known.and_then(|known| known.get(name)) else { continue };
        let due = clock::after(time.0, DELETION_SECONDS);
        if due >= now {
            still.insert(name.to_owned(), time.clone());
            next = Some(next.map_or(due, |next| next.min(due)));
        }
    }
    (still, next)
}

/// The pods that serve and are not about to go.
pub(crate) fn healthy<'a>(
    selected: impl Iterator<Item = &'a Pod>,
    disrupted: &BTreeMap<String, Time>,
) -> i32 {
    let counts = |pod: &&Pod| {
        !pods::is_terminating(pod)
            && pods::is_ready(pod)
            && !disrupted.contains_key(owner::name(&pod.metadata))
    };
    i32::try_from(selected.filter(counts).count()).unwrap_or(i32::MAX)
}
