//! Which pod goes first when the node runs short, and what it is told. Pure; order and messages are upstream's: for memory
//! and disk those that use more than they asked for, then the lower priority, then the larger excess; for processes the
//! lower priority, then the larger number.

pub(crate) mod state;
pub(crate) mod thresholds;

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;

use crate::{
    pod, resources,
    status::{EVICTED, Verdict},
};
use state::Observed;
use thresholds::{Signal, Threshold};

/// A pod with what it uses of the scarce resource: bytes, inodes or processes.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) pod: Arc<Pod>,
    pub(crate) used: i64,
    /// The same by container, where it is known.
    pub(crate) containers: BTreeMap<String, i64>,
}

/// The grace period of a pod that is evicted for a hard threshold.
const IMMEDIATE_SECONDS: i64 = 1;

/// How long an evicted pod may take to end. `most`: `evictionMaxPodGracePeriod`.
pub(crate) fn grace_seconds(threshold: &Threshold, pod: &Pod, most: i64) -> i64 {
    if threshold.grace.is_none() {
        return IMMEDIATE_SECONDS;
    }
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    own.map_or(most, |own| own.min(most))
}

/// How long an evicted pod is waited for before another has to go: half as long again as its grace, and the runtime's own
/// time at least. Source: upstream's `killPodNow`.
pub(crate) fn patience(grace_seconds: i64) -> Duration {
    let seconds = u64::try_from(grace_seconds).unwrap_or(0);
    Duration::from_secs(seconds.saturating_add(seconds / 2).max(10))
}

/// The pod to evict, and why, None if no pod may be.
pub(crate) fn choose(
    candidates: &[Candidate],
    threshold: &Threshold,
    observed: Observed,
) -> Option<(Arc<Pod>, Verdict)> {
    let signal = threshold.signal;
    let resource = signal.resource();
    let priority = |one: &Candidate| one.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    let asked = |one: &Candidate| match resource {
        // Nobody asks for inodes or processes.
        "inodes" | "pids" => 0,
        _ => resources::pod_request(&one.pod, resource).value(),
    };
    let excess = |one: &Candidate| one.used - asked(one);
    let within = |one: &Candidate| signal != Signal::Pids && excess(one) <= 0;
    let first = candidates
        .iter()
        .filter(|one| !pod::is_critical(&one.pod) && !pod::is_deleting(&one.pod))
        .min_by_key(|one| (within(one), priority(one), Reverse(excess(one))))?;
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        shown(signal, threshold.level.of(observed.capacity)),
        shown(signal, observed.available)
    );
    if matches!(resource, "memory" | "ephemeral-storage") {
        for container in pod::containers(&first.pod).iter().chain(pod::init_containers(&first.pod)) {
            let Some(used) = first.containers.get(&container.name) else { continue };
            let request = resources::request(container.resources.as_ref(), resource);
            if request.as_ref().is_some_and(|request| request.value() >= *used) {
                continue;
            }
            let request = request.map_or_else(|| "0".to_owned(), |request| request.to_string());
            message.push_str(&format!(
                "Container {} was using {}, request is {request}, has larger consumption of {resource}. ",
                container.name,
                shown(signal, *used)
            ));
        }
    }
    Some((first.pod.clone(), Verdict::disrupting(EVICTED, message)))
}

/// A number as upstream's quantities write it: bytes in the largest unit that divides them.
fn shown(signal: Signal, amount: i64) -> String {
    if matches!(signal, Signal::NodeFsInodes | Signal::ImageFsInodes | Signal::Pids) {
        return amount.to_string();
    }
    let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let fits = units.into_iter().find(|(_, bits)| amount != 0 && amount % (1 << bits) == 0);
    fits.map_or_else(|| amount.to_string(), |(unit, bits)| format!("{}{unit}", amount >> bits))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{thresholds::Level, *};

    fn candidate(name: &str, priority: i32, asked: &str, used: i64) -> Candidate {
        let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"priority": priority,
            "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "c", "resources": {"requests": {"memory": asked}}}]}}))
        .unwrap();
        Candidate { pod: Arc::new(pod), used, containers: BTreeMap::from([("c".to_owned(), used)]) }
    }

    fn short(signal: Signal) -> Threshold {
        Threshold { signal, level: Level::Amount(100 << 20), grace: None, reclaim: None }
    }

    const SEEN: Observed = Observed { available: 50 << 20, capacity: 1 << 30 };

    #[track_caller]
    fn check(signal: Signal, candidates: &[Candidate], expected: Option<&str>) {
        let chosen = choose(candidates, &short(signal), SEEN);
        assert_eq!(chosen.map(|(pod, _)| pod::name(&pod).to_owned()).as_deref(), expected);
    }

    #[test]
    fn the_order() {
        let polite = candidate("polite", 0, "100", 50);
        let greedy = candidate("greedy", 10, "100", 5000);
        let worse = candidate("worse", 10, "100", 9000);
        let cheap = candidate("cheap", 1, "100", 200);
        let memory = Signal::Memory;
        check(memory, &[polite.clone(), greedy.clone()], Some("greedy"));
        check(memory, &[greedy.clone(), worse.clone()], Some("worse"));
        check(memory, &[worse.clone(), cheap, greedy.clone()], Some("cheap"));
        check(Signal::Pids, &[greedy.clone(), polite.clone()], Some("polite"));
        check(Signal::Pids, &[greedy, worse.clone()], Some("worse"));
        check(memory, &[polite.clone(), candidate("system", 2_000_000_000, "0", 9000)], Some("polite"));
        check(memory, &[candidate("system", 2_000_000_000, "0", 9000)], None);
        let (_, verdict) = choose(&[polite], &short(memory), SEEN).unwrap();
        assert_eq!(
            verdict.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
        );
        let (_, verdict) = choose(&[worse], &short(memory), SEEN).unwrap();
        assert!(
            verdict
                .message
                .ends_with("Container c was using 9000, request is 100, has larger consumption of memory. "),
            "{}",
            verdict.message
        );
    }

    #[test]
    fn how_long_an_evicted_pod_has() {
        let pod = candidate("p", 0, "0", 0).pod;
        let soft = Threshold { grace: Some(Duration::ZERO), ..short(Signal::Memory) };
        assert_eq!(grace_seconds(&short(Signal::Memory), &pod, 60), 1);
        assert_eq!((grace_seconds(&soft, &pod, 60), grace_seconds(&soft, &pod, 10)), (30, 10));
        assert_eq!((patience(1).as_secs(), patience(30).as_secs()), (10, 45));
    }
}
