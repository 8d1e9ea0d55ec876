//! How many pods a budget expects and wants.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::clock;
use crate::deployment::scaled;
use crate::owner::{self, controller_of};
use crate::pods;

/// How long an evicted pod may take to be seen in deletion. Source: `DeletionTimeout`.
const DELETION_SECONDS: i64 = 120;

/// How long a pod may say that it is about to be disrupted while nobody deletes it. Source: `stalePodDisruptionTimeout`.
const ANNOUNCED_SECONDS: i64 = 120;
const DISRUPTION_TARGET: &str = "DisruptionTarget";
/// The kubelet's reason: it may take any time until such a pod is in deletion.
const BY_KUBELET: &str = "TerminationByKubelet";

/// Pods in all, and how many of them are to be healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) pods: i32,
    pub(crate) healthy: i32,
    /// Whether there are pods that no controller has, so that nobody knows how many there are to be.
    pub(crate) unmanaged: bool,
}

/// What is known of the controllers of pods, by the uid that pods know theirs by: whose number of pods it is, by uid, and the number.
/// A Deployment's is that of all its ReplicaSets together.
pub(crate) type Scales = BTreeMap<String, (String, i32)>;

/// Whether it matters to the budget how many pods there are to be.
pub(crate) fn counts_scales(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().is_some_and(|spec| {
        spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
    })
}

/// What a budget adds up to. `scales` has to be complete where [`counts_scales`].
///
/// # Errors
///
/// The name of a pod whose controller is not among `scales`.
pub(crate) fn expected<'a>(
    budget: &PodDisruptionBudget,
    selected: impl Iterator<Item = &'a Pod> + Clone,
    scales: &Scales,
) -> Result<Expected, String> {
    let spec = budget.spec.clone().unwrap_or_default();
    let total = || total(selected.clone(), scales);
    let unmanaged =
        counts_scales(budget) && selected.clone().any(|pod| controller_of(&pod.metadata).is_none());
    if let Some(most) = &spec.max_unavailable {
        let pods = total()?;
        return Ok(Expected { pods, healthy: (pods - scaled(most, pods, true)).max(0), unmanaged });
    }
    match &spec.min_available {
        Some(IntOrString::Int(healthy)) => {
            let pods = i32::try_from(selected.count()).unwrap_or(i32::MAX);
            Ok(Expected { pods, healthy: *healthy, unmanaged })
        }
        Some(percentage) => {
            let pods = total()?;
            Ok(Expected { pods, healthy: scaled(percentage, pods, true), unmanaged })
        }
        None => Ok(Expected { pods: 0, healthy: 0, unmanaged }),
    }
}

/// The sum over the controllers of the pods. Pods without one are not counted.
fn total<'a>(selected: impl Iterator<Item = &'a Pod>, scales: &Scales) -> Result<i32, String> {
    let mut found = BTreeMap::new();
    for pod in selected {
        let Some(reference) = controller_of(&pod.metadata) else { continue };
        let (uid, replicas) =
            scales.get(&reference.uid).ok_or_else(|| owner::name(&pod.metadata).to_owned())?;
        found.insert(uid, *replicas);
    }
    Ok(found.values().fold(0, |sum, replicas| sum.saturating_add(*replicas)))
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

/// When it is wrong to go on saying that the pod is about to be disrupted; `None` when it does not say so, or is right.
pub(crate) fn stale_at(pod: &Pod) -> Option<Timestamp> {
    let announced = pods::condition(pod, DISRUPTION_TARGET)
        .filter(|it| it.status == "True" && it.reason.as_deref() != Some(BY_KUBELET))
        .filter(|_| !pods::is_terminating(pod) && !pods::is_finished(pod))?;
    let since = announced.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Some(clock::after(since, ANNOUNCED_SECONDS))
}

/// The pod, saying no longer that it is about to be disrupted, nor why.
pub(crate) fn undisturbed(pod: &Pod, now: Timestamp) -> Pod {
    let mut pod = pod.clone();
    let generation = pod.metadata.generation;
    let Some(status) = &mut pod.status else { return pod };
    let observed = status.observed_generation;
    let conditions = status.conditions.iter_mut().flatten();
    for condition in conditions.filter(|condition| condition.type_ == DISRUPTION_TARGET) {
        *condition = PodCondition {
            type_: DISRUPTION_TARGET.to_owned(),
            status: "False".to_owned(),
            last_transition_time: Some(clock::time(now)),
            // Told only where somebody has told one before. Source: `CalculatePodConditionObservedGeneration`.
            observed_generation: condition.observed_generation.or(observed).and(generation),
            ..PodCondition::default()
        };
    }
    pod
}

/// What a budget says of pods that no controller has.
pub(crate) fn unmanaged(budget: &PodDisruptionBudget) -> String {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB \
         cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \
         \".spec.minAvailable\" field of the PDB to an integer value.",
        selector.map_or("nil".to_owned(), printed)
    )
}

/// A selector as Go prints one.
fn printed(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels.map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions = selector.match_expressions.iter().flatten();
    let expressions: String = expressions
        .map(|it| {
            let values = it.values.clone().unwrap_or_default().join(" ");
            let (key, operator) = (&it.key, &it.operator);
            format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},\
         MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}
