//! Scores: which of the nodes a pod may go on is best. Every scorer gives 0 to 100, times its weight.
//!
//! Scorers, formulas and weights are upstream's defaults (v1.36), integer divisions included, so that
//! the same cluster gives the same placement.

use crate::affinity::NamespaceLabels;
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::surroundings::Surroundings;
use crate::taints::{Effect, tolerated};
use crate::{interpod, spread};

const TAINT_WEIGHT: i64 = 3;
const NODE_AFFINITY_WEIGHT: i64 = 2;
const SPREAD_WEIGHT: i64 = 2;
const POD_AFFINITY_WEIGHT: i64 = 2;

/// An image that small does not matter.
const LEAST_IMAGE_BYTES: i64 = 23 << 20;
/// Images count up to this size per container.
const MOST_IMAGE_BYTES: i64 = 1000 << 20;

/// The total score of each feasible node (positions in the snapshot), in the same order.
pub(crate) fn totals(
    pod: &PodInfo,
    snapshot: &Snapshot,
    feasible: &[usize],
    surroundings: &dyn Surroundings,
    namespaces: NamespaceLabels<'_>,
) -> Vec<i64> {
    let nodes = snapshot.nodes();
    let mut totals: Vec<i64> = feasible
        .iter()
        .map(|at| {
            least_allocated(pod, &nodes[*at])
                + balanced(pod, &nodes[*at])
                + images(pod, &nodes[*at], snapshot)
        })
        .collect();
    add_taints(pod, nodes, feasible, &mut totals);
    add_node_affinity(pod, nodes, feasible, &mut totals);
    let selector = if pod.spread.is_empty() { surroundings.default_selector(pod) } else { None };
    spread::score(pod, selector.as_ref(), snapshot, feasible, SPREAD_WEIGHT, &mut totals);
    interpod::score(pod, snapshot, namespaces, feasible, POD_AFFINITY_WEIGHT, &mut totals);
    totals
}

/// NodeResourcesFit, LeastAllocated: the emptier, the better. Mean over CPU and memory.
pub(crate) fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let wants = &pod.requests.assumed;
    let used = &node.assumed_requested;
    let has = &node.facts.allocatable;
    let amounts = [
        (wants.cpu_millis + used.cpu_millis, has.cpu_millis),
        (wants.memory_bytes + used.memory_bytes, has.memory_bytes),
    ];
    let (mut sum, mut counted) = (0, 0);
    for (requested, capacity) in amounts {
        if capacity == 0 {
            continue;
        }
        counted += 1;
        if requested <= capacity {
            sum += (i128::from(capacity - requested) * 100 / i128::from(capacity)) as i64;
        }
    }
    if counted == 0 { 0 } else { sum / counted }
}

/// NodeResourcesBalancedAllocation: better when the pod brings the used fractions of CPU and memory
/// closer together. Pods that request neither are indifferent.
pub(crate) fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let wants = &pod.requests.exact;
    if wants.cpu_millis == 0 && wants.memory_bytes == 0 {
        return 0;
    }
    let used = &node.requested;
    let has = &node.facts.allocatable;
    let fraction = |requested: i64, capacity: i64| {
        (capacity != 0).then(|| (requested as f64 / capacity as f64).min(1.0))
    };
    let evenness = |cpu: i64, memory: i64| -> i64 {
        let difference = match (fraction(cpu, has.cpu_millis), fraction(memory, has.memory_bytes)) {
            (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
            _ => 0.0,
        };
        ((1.0 - difference) * 100.0) as i64
    };
    let with = evenness(used.cpu_millis + wants.cpu_millis, used.memory_bytes + wants.memory_bytes);
    let without = evenness(used.cpu_millis, used.memory_bytes);
    50 + (50 + with - without) / 2
}

/// ImageLocality: better when the node has the pod's images, less so for images that few nodes have,
/// because otherwise everything would go where it already is.
pub(crate) fn images(pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> i64 {
    if node.facts.images.is_empty() || pod.images.is_empty() {
        return 0;
    }
    let all = snapshot.nodes().len() as f64;
    let present = pod.images.iter().filter_map(|image| {
        let size = node.facts.images.get(image.as_str())?;
        Some((*size as f64 * (snapshot.nodes_with_image(image) as f64 / all)) as i64)
    });
    let most = MOST_IMAGE_BYTES * pod.container_count as i64;
    let sum = present.sum::<i64>().clamp(LEAST_IMAGE_BYTES, most);
    100 * (sum - LEAST_IMAGE_BYTES) / (most - LEAST_IMAGE_BYTES)
}

/// TaintToleration: the fewer PreferNoSchedule taints the pod does not tolerate, the better.
fn add_taints(pod: &PodInfo, nodes: &[NodeInfo], feasible: &[usize], totals: &mut [i64]) {
    let unwanted = |node: &NodeInfo| {
        let soft = node.facts.taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule);
        soft.filter(|taint| !tolerated(&pod.tolerations, taint)).count() as i64
    };
    // Usually there are none, and then all nodes score the same.
    if feasible.iter().all(|at| nodes[*at].facts.taints.is_empty()) {
        totals.iter_mut().for_each(|total| *total += TAINT_WEIGHT * 100);
        return;
    }
    let counts: Vec<i64> = feasible.iter().map(|at| unwanted(&nodes[*at])).collect();
    let most = counts.iter().max().copied().unwrap_or(0);
    for (total, count) in totals.iter_mut().zip(counts) {
        let score = if most == 0 { 100 } else { 100 - 100 * count / most };
        *total += TAINT_WEIGHT * score;
    }
}

/// NodeAffinity: the more of the pod's preferences a node meets, the better.
fn add_node_affinity(pod: &PodInfo, nodes: &[NodeInfo], feasible: &[usize], totals: &mut [i64]) {
    let Some(affinity) = pod.node_affinity.as_ref().filter(|affinity| !affinity.preferred.is_empty()) else {
        return;
    };
    let met: Vec<i64> = feasible
        .iter()
        .map(|at| affinity.preference(&nodes[*at].facts.name, &nodes[*at].facts.labels))
        .collect();
    let most = met.iter().max().copied().unwrap_or(0);
    if most > 0 {
        for (total, met) in totals.iter_mut().zip(met) {
            *total += NODE_AFFINITY_WEIGHT * (100 * met / most);
        }
    }
}
