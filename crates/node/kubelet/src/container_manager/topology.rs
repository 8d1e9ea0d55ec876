//! The topology manager: from where each resource could come, put together into the nodes that a container's resources are to
//! come from. Pure.
//!
//! Source of the behaviour: upstream's `cm/topologymanager` at v1.36. Upstream tries every combination of the providers' hints;
//! here combinations that come to the same are one, so that eight nodes and many resources stay cheap.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::{
    hardware::Hardware,
    numa::{Hint, Hints, NodeMask},
};
use crate::admission::Refused;

/// How much it matters that resources come from the same nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Policy {
    /// Not at all.
    #[default]
    None,
    /// As far as it can be had.
    BestEffort,
    /// A pod is refused that cannot have the best there could be.
    Restricted,
    /// A pod is refused that cannot have all from one node.
    SingleNumaNode,
}

/// What is put on the same nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Scope {
    /// Each container for itself.
    #[default]
    Container,
    /// All containers of a pod.
    Pod,
}

/// The refusal of a pod whose resources do not lie together.
pub(crate) fn refused() -> Refused {
    Refused {
        reason: "TopologyAffinityError".to_owned(),
        message: "Resources cannot be allocated with Topology locality".to_owned(),
    }
}

/// One hint for each resource of each provider.
type Choices = Vec<Vec<Hint>>;

const ANYWHERE: Hint = Hint { nodes: None, preferred: true };
const NOWHERE: Hint = Hint { nodes: None, preferred: false };

fn choices(providers: &[Hints]) -> Choices {
    let mut choices = Choices::new();
    for hints in providers {
        if hints.is_empty() {
            choices.push(vec![ANYWHERE]);
        }
        choices.extend(hints.values().map(|hints| match hints {
            None => vec![ANYWHERE],
            Some(hints) if hints.is_empty() => vec![NOWHERE],
            Some(hints) => hints.clone(),
        }));
    }
    choices
}

/// What combinations of the hints come to: the nodes they have in common, and whether it is preferred, which it is if all are
/// preferred and name the same nodes.
fn combinations(choices: &Choices, machine: NodeMask) -> BTreeSet<(NodeMask, bool)> {
    // With the nodes that all hints so far have named, if any did.
    let mut states = BTreeSet::from([(machine, None::<NodeMask>, true)]);
    for hints in choices {
        let mut next = BTreeSet::new();
        for (common, named, preferred) in &states {
            for hint in hints {
                let (common, named, preferred) = match (hint.nodes, named) {
                    (None, named) => (*common, *named, *preferred && hint.preferred),
                    (Some(nodes), None) => (common.and(nodes), Some(nodes), *preferred && hint.preferred),
                    (Some(nodes), Some(named)) => {
                        (common.and(nodes), Some(*named), *preferred && hint.preferred && nodes == *named)
                    }
                };
                // What is not preferred any more does not depend on what was named.
                next.insert((common, if preferred { named } else { Some(common) }, preferred));
            }
        }
        states = next;
    }
    states
        .into_iter()
        .filter(|(nodes, _, _)| !nodes.is_empty())
        .map(|(nodes, _, preferred)| (nodes, preferred))
        .collect()
}

/// The nodes for these hints, and whether the policy admits them. `closest`: of sets of the same size the one whose nodes are
/// near each other is better.
pub(crate) fn merge(
    policy: Policy,
    closest: bool,
    hardware: &Hardware,
    providers: &[Hints],
) -> (Option<NodeMask>, bool) {
    let machine = hardware.nodes();
    let mut choices = choices(providers);
    if policy == Policy::SingleNumaNode {
        for hints in &mut choices {
            hints.retain(|hint| hint.preferred && hint.nodes.is_none_or(|nodes| nodes.count() == 1));
        }
    }
    // The provider that needs the most nodes says how many an allocation that is not the best should have.
    let least = |hints: &Vec<Hint>| hints.iter().filter_map(|hint| Some(hint.nodes?.count())).min();
    let wanted = choices.iter().filter_map(least).max().unwrap_or(0);
    let distance = |nodes: NodeMask| {
        if closest && policy != Policy::SingleNumaNode { hardware.average_distance(nodes) } else { 0.0 }
    };
    let rank = |nodes: NodeMask, preferred: bool| {
        let count = nodes.count();
        match (preferred, count.cmp(&wanted)) {
            (true, _) => (0, count),
            (false, std::cmp::Ordering::Equal) => (1, count),
            (false, std::cmp::Ordering::Less) => (2, wanted - count),
            (false, std::cmp::Ordering::Greater) => (3, count),
        }
    };
    let better = |a: &(NodeMask, bool), b: &(NodeMask, bool)| {
        rank(a.0, a.1)
            .cmp(&rank(b.0, b.1))
            .then_with(|| distance(a.0).total_cmp(&distance(b.0)))
            .then_with(|| a.0.cmp(&b.0))
    };
    let best = combinations(&choices, machine).into_iter().min_by(better);
    let (nodes, preferred) = best.unwrap_or((machine, false));
    let admitted = preferred || matches!(policy, Policy::None | Policy::BestEffort);
    let everywhere = policy == Policy::SingleNumaNode && nodes == machine;
    ((!everywhere).then_some(nodes), admitted)
}
