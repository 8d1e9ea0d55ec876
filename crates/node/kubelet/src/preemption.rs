//! Which pods go so that a critical one has room. Pure; the order is upstream's (`preemption.go`): as few guaranteed pods as
//! can be, then as few burstable ones, then best-effort ones; of each class those that bring most of what is missing.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;

use crate::{
    admission::{Shortage, taken},
    pod,
    resources::{self, Qos},
    status::Verdict,
};

/// The reason of pods that have gone, and of the event that says so.
const PREEMPTING: &str = "Preempting";

/// What a pod that has to go is told.
pub(crate) fn verdict() -> Verdict {
    Verdict {
        disruption: Some("Pod was preempted by Kubelet to accommodate a critical pod.".to_owned()),
        ..Verdict::plain(PREEMPTING, "Preempted in order to admit critical pod".to_owned())
    }
}

/// What is still missing, by resource; all amounts are above zero.
type Missing = BTreeMap<String, i64>;

/// The pods to end for `wanted`, empty if those that end anyway do. The error says what nobody can give, in upstream's words.
pub(crate) fn choose(wanted: &Pod, others: &[Arc<Pod>], short: &[Shortage]) -> Result<Vec<Arc<Pod>>, String> {
    let missing = short.iter().map(|short| (short.resource.clone(), short.missing())).collect();
    let (leaving, staying): (Vec<_>, Vec<_>) =
        others.iter().cloned().partition(|other| pod::is_deleting(other));
    let missing = without(&missing, &leaving);
    let of = |class: Qos| -> Vec<Arc<Pod>> {
        let mut pods = staying.clone();
        pods.retain(|other| yields(wanted, other) && resources::qos(other) == class);
        pods
    };
    let (best_effort, burstable, guaranteed) = (of(Qos::BestEffort), of(Qos::Burstable), of(Qos::Guaranteed));
    let all = [best_effort.clone(), burstable.clone(), guaranteed.clone()].concat();
    let unmet = without(&missing, &all);
    if !unmet.is_empty() {
        let list: String = unmet.iter().map(|(name, left)| format!("(res: {name}, q: {left}), ")).collect();
        return Err(format!("no set of running pods found to reclaim resources: [{list}]"));
    }
    // Of each class what is missing once all lower ones, and those chosen of higher ones, are gone.
    let lower = [best_effort.clone(), burstable.clone()].concat();
    let guaranteed = nearest(guaranteed, without(&missing, &lower));
    let others = [best_effort.clone(), guaranteed.clone()].concat();
    let burstable = nearest(burstable, without(&missing, &others));
    let others = [burstable.clone(), guaranteed.clone()].concat();
    let best_effort = nearest(best_effort, without(&missing, &others));
    Ok([best_effort, burstable, guaranteed].concat())
}

/// Whether a pod goes for another.
fn yields(wanted: &Pod, other: &Pod) -> bool {
    let priority = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.priority);
    if pod::is_critical(wanted) && !pod::is_critical(other) {
        return true;
    }
    matches!((priority(wanted), priority(other)), (Some(wanted), Some(other)) if wanted > other)
}

fn without(missing: &Missing, pods: &[Arc<Pod>]) -> Missing {
    let left = |(name, amount): (&String, &i64)| {
        let freed: i64 = pods.iter().map(|pod| taken(pod, name)).sum();
        (amount - freed > 0).then(|| (name.clone(), amount - freed))
    };
    missing.iter().filter_map(left).collect()
}

/// Takes pods until nothing is missing: each time the one that leaves least, and of equals the one that asks for least.
fn nearest(mut pods: Vec<Arc<Pod>>, mut missing: Missing) -> Vec<Arc<Pod>> {
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let best = pods.iter().enumerate().min_by(|(_, a), (_, b)| {
            let size = |pod: &Pod| (taken(pod, "memory"), taken(pod, "cpu"));
            distance(&missing, a).total_cmp(&distance(&missing, b)).then_with(|| size(a).cmp(&size(b)))
        });
        let Some((index, _)) = best else { break };
        let pod = pods.swap_remove(index);
        missing = without(&missing, std::slice::from_ref(&pod));
        chosen.push(pod);
    }
    chosen
}

/// How much would still be missing: the sum over resources of the square of the part that is left.
fn distance(missing: &Missing, pod: &Pod) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "only the order counts")]
    let part = |(name, amount): (&String, &i64)| {
        let left = (amount - taken(pod, name)).max(0) as f64 / *amount as f64;
        left * left
    };
    missing.iter().map(part).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::{Value, json};

    use super::*;
    use crate::admission::shortages;

    fn pod(name: &str, resources: Value) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": 0,
            "containers": [{"name": "c", "resources": resources}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn guaranteed(name: &str, cpu: &str, memory: &str) -> Arc<Pod> {
        let amounts = json!({"cpu": cpu, "memory": memory});
        pod(name, json!({"requests": amounts, "limits": amounts}))
    }

    fn burstable(name: &str, cpu: &str, memory: &str) -> Arc<Pod> {
        pod(name, json!({"requests": {"cpu": cpu, "memory": memory}}))
    }

    fn critical(cpu: &str, memory: &str) -> Pod {
        let mut pod = (*burstable("critical", cpu, memory)).clone();
        pod.spec.as_mut().unwrap().priority = Some(2_000_000_000);
        pod
    }

    /// On a node with 4 CPUs, 4Gi of memory and room for 4 pods.
    #[track_caller]
    fn check(wanted: &Pod, others: &[Arc<Pod>], expected: Result<&[&str], &str>) {
        let allocatable: BTreeMap<String, Quantity> = [("cpu", "4"), ("memory", "4Gi"), ("pods", "4")]
            .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
            .into();
        let short = shortages(wanted, others, &allocatable);
        let chosen = choose(wanted, others, &short);
        let names = chosen.map(|pods| pods.iter().map(|pod| pod::name(pod).to_owned()).collect::<Vec<_>>());
        let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(names, expected.map_err(str::to_owned));
    }

    #[test]
    fn lower_classes_go_first_and_as_few_as_can_be() {
        let (small, large) = (burstable("small", "1", "1Gi"), burstable("large", "2", "1Gi"));
        let fixed = guaranteed("fixed", "1", "1Gi");
        let idle = pod("idle", json!({}));
        let all = [small.clone(), large.clone(), fixed.clone()];
        check(&critical("1", "1"), &all, Ok(&["small"]));
        check(&critical("2", "1"), &all, Ok(&["large"]));
        check(&critical("3", "1"), &all, Ok(&["large", "small"]));
        check(&critical("4", "1"), &all, Ok(&["large", "small", "fixed"]));
        let full = [idle, small, large, fixed];
        check(&critical("0", "1"), &full, Ok(&["idle"]));
        check(&critical("1", "1"), &full, Ok(&["small"]));
    }

    #[test]
    fn who_does_not_go() {
        let one = burstable("one", "2", "1Gi");
        let mut kept = critical("2", "1Gi");
        kept.spec.as_mut().unwrap().priority = Some(2_000_001_000);
        let unmet = "no set of running pods found to reclaim resources: [(res: cpu, q: 1000), ]";
        check(&critical("3", "1"), &[one.clone(), Arc::new(kept)], Err(unmet));
        // One that ends anyway is waited for.
        let mut leaving = (*one).clone();
        leaving.metadata.deletion_timestamp = crate::status::time(jiff::Timestamp::UNIX_EPOCH);
        check(&critical("2", "1"), &[one, Arc::new(leaving)], Ok(&[]));
    }
}
