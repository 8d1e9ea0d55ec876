//! The annotation of every node.

use k8s_openapi::api::core::v1::Node;

use crate::labels;

/// The annotation that kubelets read.
pub(crate) const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Fewest and most nodes of each step, and its seconds. They overlap, so that a cluster at a border does not go back and forth.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The step for that many nodes, coming from step `current`.
pub(crate) fn step(current: usize, nodes: usize) -> usize {
    let mut step = current;
    while nodes > STEPS[step].1 {
        step += 1;
    }
    while nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

/// The annotation's value, if the node has another.
pub(crate) fn decide(node: &Node, step: usize) -> Option<String> {
    let wanted = STEPS[step].2.to_string();
    (labels::value(node.metadata.annotations.as_ref(), ANNOTATION) != Some(&wanted)).then_some(wanted)
}
