//! Topology spread: how evenly a pod's like is to be spread over the values of a node label.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{PodSpec, TopologySpreadConstraint};
use podium_api::selector::{LabelSelector, Operator, Requirement};

use crate::affinity::Labels;
use crate::pod::PodInfo;
use crate::snapshot::{NodeFacts, NodeInfo, Snapshot};
use crate::taints::admits;

/// The label that makes every node its own domain.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label of zones.
const ZONE: &str = "topology.kubernetes.io/zone";

/// One constraint of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct SpreadConstraint {
    /// The largest difference allowed between a domain and the emptiest one.
    pub max_skew: i64,
    /// The node label.
    pub topology_key: String,
    /// Must hold, rather than should.
    pub hard: bool,
    /// The pods that count.
    pub selector: LabelSelector,
    /// With fewer domains than this the emptiest counts as empty.
    pub min_domains: usize,
    /// Nodes the pod may not be on by its affinity do not count.
    pub honors_affinity: bool,
    /// Nodes whose taints the pod does not tolerate do not count.
    pub honors_taints: bool,
}

impl SpreadConstraint {
    /// Reads the constraints of a pod with those labels.
    pub fn from_spec(spec: &PodSpec, labels: &Labels) -> Vec<Self> {
        let constraints = spec.topology_spread_constraints.iter().flatten();
        constraints.map(|constraint| Self::from_wire(constraint, labels)).collect()
    }

    fn from_wire(wire: &TopologySpreadConstraint, labels: &Labels) -> Self {
        let selector =
            LabelSelector::from_option(wire.label_selector.as_ref()).unwrap_or(LabelSelector::nothing());
        let own_values = wire
            .match_label_keys
            .iter()
            .flatten()
            .filter_map(|key| Requirement::new(key, Operator::In, vec![labels.get(key)?.clone()]).ok());
        let more: Vec<Requirement> = own_values.collect();
        let selector = if more.is_empty() || selector.is_nothing() {
            selector
        } else {
            LabelSelector::new(selector.requirements().iter().cloned().chain(more).collect())
        };
        Self {
            max_skew: wire.max_skew.into(),
            topology_key: wire.topology_key.clone(),
            hard: wire.when_unsatisfiable == "DoNotSchedule",
            selector,
            min_domains: usize::try_from(wire.min_domains.unwrap_or(1)).unwrap_or(1),
            honors_affinity: wire.node_affinity_policy.as_deref() != Some("Ignore"),
            honors_taints: wire.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// Upstream's constraints for pods that have none of their own but belong to something that
    /// selects them: hosts first, zones second, both as wishes.
    fn defaults(selector: &LabelSelector) -> Vec<Self> {
        let soft = |topology_key: &str, max_skew| Self {
            max_skew,
            topology_key: topology_key.to_owned(),
            hard: false,
            selector: selector.clone(),
            min_domains: 1,
            honors_affinity: true,
            honors_taints: false,
        };
        vec![soft(HOSTNAME, 3), soft(ZONE, 5)]
    }

    /// Whether pods on that node count.
    fn counts_on(&self, pod: &PodInfo, node: &NodeFacts) -> bool {
        let affine =
            || pod.node_affinity.as_ref().is_none_or(|affinity| affinity.admits(&node.name, &node.labels));
        (!self.honors_affinity || affine()) && (!self.honors_taints || admits(&node.taints, &pod.tolerations))
    }

    fn counts(&self, namespace: &str, pod: &PodInfo) -> bool {
        !pod.terminating && pod.key.namespace == namespace && self.selector.matches(&pod.labels)
    }

    fn count(&self, namespace: &str, node: &NodeInfo) -> i64 {
        if self.selector.is_everything() || self.selector.is_nothing() {
            // Upstream counts nothing for an empty selector.
            return 0;
        }
        node.pods.iter().filter(|pod| self.counts(namespace, pod)).count() as i64
    }
}

fn has_all_keys(constraints: &[&SpreadConstraint], labels: &Labels) -> bool {
    constraints.iter().all(|constraint| labels.contains_key(&constraint.topology_key))
}

/// The hard constraints of a pod against the pods there are.
#[derive(Clone, Debug)]
pub(crate) struct SpreadFilter<'a> {
    pod: &'a PodInfo,
    constraints: Vec<&'a SpreadConstraint>,
    /// For each constraint, matching pods by label value, for every value that counts.
    domains: Vec<HashMap<String, i64, ahash::RandomState>>,
}

/// Why a node does not meet a hard constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpreadRefusal {
    /// The node lacks the label: no other pod's end changes that.
    MissingLabel,
    /// The skew would be too large.
    Skew,
}

impl<'a> SpreadFilter<'a> {
    /// `None` when the pod has no hard constraints.
    pub(crate) fn new(pod: &'a PodInfo, snapshot: &Snapshot) -> Option<Self> {
        let constraints: Vec<_> = pod.spread.iter().filter(|constraint| constraint.hard).collect();
        if constraints.is_empty() {
            return None;
        }
        let mut filter = Self { pod, domains: vec![HashMap::default(); constraints.len()], constraints };
        for node in snapshot.nodes() {
            if !has_all_keys(&filter.constraints, &node.facts.labels) {
                continue;
            }
            for (constraint, domains) in filter.constraints.iter().zip(&mut filter.domains) {
                if constraint.counts_on(pod, &node.facts) {
                    let value = &node.facts.labels[&constraint.topology_key];
                    *domains.entry(value.clone()).or_insert(0) += constraint.count(&pod.key.namespace, node);
                }
            }
        }
        Some(filter)
    }

    /// As if `other` were put on (`+1`) or taken off (`-1`) the node.
    pub(crate) fn shift(&mut self, other: &PodInfo, node: &NodeFacts, by: i64) {
        if !has_all_keys(&self.constraints, &node.labels) {
            return;
        }
        for (constraint, domains) in self.constraints.iter().zip(&mut self.domains) {
            if constraint.counts(&self.pod.key.namespace, other) && constraint.counts_on(self.pod, node) {
                *domains.entry(node.labels[&constraint.topology_key].clone()).or_insert(0) += by;
            }
        }
    }

    pub(crate) fn check(&self, node: &NodeFacts) -> Result<(), SpreadRefusal> {
        for (constraint, domains) in self.constraints.iter().zip(&self.domains) {
            let value = node.labels.get(&constraint.topology_key).ok_or(SpreadRefusal::MissingLabel)?;
            let least = if domains.len() < constraint.min_domains {
                0
            } else {
                domains.values().min().copied().unwrap_or(i64::from(i32::MAX))
            };
            let own = i64::from(constraint.selector.matches(&self.pod.labels));
            let here = domains.get(value).copied().unwrap_or(0);
            if here + own - least > constraint.max_skew {
                return Err(SpreadRefusal::Skew);
            }
        }
        Ok(())
    }
}

/// Scores nodes by how evenly the pod's like would be spread, 0 to 100. Adds `weight` times the score
/// to `totals`, which go with `feasible` (positions in the snapshot). `default_selector` is the
/// selector of the Services and owner of a pod without constraints.
pub(crate) fn score(
    pod: &PodInfo,
    default_selector: Option<&LabelSelector>,
    snapshot: &Snapshot,
    feasible: &[usize],
    weight: i64,
    totals: &mut [i64],
) {
    let defaults;
    let constraints: Vec<&SpreadConstraint> = if pod.spread.is_empty() {
        let selector =
            default_selector.filter(|selector| !selector.is_everything() && !selector.is_nothing());
        let Some(selector) = selector else { return };
        defaults = SpreadConstraint::defaults(selector);
        defaults.iter().collect()
    } else {
        pod.spread.iter().filter(|constraint| !constraint.hard).collect()
    };
    if constraints.is_empty() {
        return;
    }
    let all_keys_needed = !pod.spread.is_empty();
    let counted = |node: &NodeInfo| !all_keys_needed || has_all_keys(&constraints, &node.facts.labels);
    let nodes = snapshot.nodes();
    let considered = feasible.iter().filter(|at| counted(&nodes[**at])).count();

    // Matching pods by label value; the hostname needs no map, each node is a domain of its own.
    let mut domains: Vec<HashMap<&str, i64, ahash::RandomState>> =
        vec![HashMap::default(); constraints.len()];
    let value = |node: &'_ NodeInfo, constraint: &SpreadConstraint| -> Option<String> {
        node.facts.labels.get(&constraint.topology_key).cloned()
    };
    for at in feasible.iter().filter(|at| counted(&nodes[**at])) {
        for (constraint, domains) in constraints.iter().zip(&mut domains) {
            if constraint.topology_key != HOSTNAME {
                let value = nodes[*at].facts.labels.get(&constraint.topology_key);
                domains.entry(value.map_or("", String::as_str)).or_insert(0);
            }
        }
    }
    let zoned = constraints.iter().zip(&domains).any(|(constraint, domains)| {
        // One domain without a name is no domain: nothing can be counted in it that would matter.
        constraint.topology_key != HOSTNAME && domains.keys().any(|value| !value.is_empty())
    });
    if zoned {
        for node in nodes.iter().filter(|node| counted(node)) {
            for (constraint, domains) in constraints.iter().zip(&mut domains) {
                if constraint.topology_key == HOSTNAME || !constraint.counts_on(pod, &node.facts) {
                    continue;
                }
                let Some(value) = value(node, constraint) else { continue };
                if let Some(count) = domains.get_mut(value.as_str()) {
                    *count += constraint.count(&pod.key.namespace, node);
                }
            }
        }
    }
    let weights: Vec<f64> = constraints
        .iter()
        .zip(&domains)
        .map(|(constraint, domains)| {
            let size = if constraint.topology_key == HOSTNAME { considered } else { domains.len() };
            ((size + 2) as f64).ln()
        })
        .collect();

    let raw: Vec<Option<i64>> = feasible
        .iter()
        .map(|at| {
            let node = &nodes[*at];
            if !counted(node) {
                return None;
            }
            let mut score = 0.0;
            for ((constraint, domains), weight) in constraints.iter().zip(&domains).zip(&weights) {
                let Some(value) = node.facts.labels.get(&constraint.topology_key) else { continue };
                let count = if constraint.topology_key == HOSTNAME {
                    constraint.count(&pod.key.namespace, node)
                } else {
                    domains.get(value.as_str()).copied().unwrap_or(0)
                };
                score += count as f64 * weight + (constraint.max_skew - 1) as f64;
            }
            Some(score.round() as i64)
        })
        .collect();
    let most = raw.iter().flatten().max().copied().unwrap_or(0);
    let least = raw.iter().flatten().min().copied().unwrap_or(0);
    for (total, raw) in totals.iter_mut().zip(raw) {
        *total += weight
            * match raw {
                None => 0,
                Some(_) if most == 0 => 100,
                Some(raw) => 100 * (most + least - raw) / most,
            };
    }
}
