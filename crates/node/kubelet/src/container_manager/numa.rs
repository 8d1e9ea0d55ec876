//! Sets of NUMA nodes, and the hints made of them: where a resource could come from, and whether it could do with less.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// A set of NUMA nodes by number. Nodes above 63 are in no set: upstream's topology manager stops at eight.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct NodeMask(u64);

impl fmt::Debug for NodeMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.nodes()).finish()
    }
}

impl FromIterator<usize> for NodeMask {
    fn from_iter<I: IntoIterator<Item = usize>>(nodes: I) -> Self {
        Self(nodes.into_iter().filter(|node| *node < 64).fold(0, |mask, node| mask | 1 << node))
    }
}

impl NodeMask {
    pub(crate) fn has(self, node: usize) -> bool {
        node < 64 && self.0 >> node & 1 == 1
    }

    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        !self.and(other).is_empty()
    }

    /// In ascending order.
    pub(crate) fn nodes(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |node| self.has(*node))
    }

    /// Every set that can be made of these nodes but the empty one, small sets first.
    pub(crate) fn subsets(self) -> Vec<Self> {
        let mut found = Vec::new();
        let mut part = self.0;
        while part != 0 {
            found.push(Self(part));
            part = (part - 1) & self.0;
        }
        found.sort_by_key(|mask| (mask.count(), mask.0));
        found
    }
}

/// One way to provide a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hint {
    /// From these nodes; None means that it does not matter.
    pub(crate) nodes: Option<NodeMask>,
    /// It cannot be done with fewer nodes.
    pub(crate) preferred: bool,
}

/// The hints of one provider by resource. None: it does not matter where the resource comes from. An empty list: it cannot be
/// provided in any way.
pub(crate) type Hints = BTreeMap<String, Option<Vec<Hint>>>;

/// The hints for a resource that is spread over nodes. `machine`: all nodes there are. `whole`: whether a set of nodes could
/// provide it if nothing were taken. `free`: whether it can provide it now. Preferred are those of the smallest size that could.
pub(crate) fn hints(
    machine: NodeMask,
    whole: impl Fn(NodeMask) -> bool,
    free: impl Fn(NodeMask) -> bool,
) -> Vec<Hint> {
    let subsets = machine.subsets();
    let least = subsets.iter().find(|mask| whole(**mask)).map_or(machine.count(), |mask| mask.count());
    subsets
        .into_iter()
        .filter(|mask| free(*mask))
        .map(|mask| Hint { nodes: Some(mask), preferred: mask.count() == least })
        .collect()
}

#[cfg(test)]
pub(crate) fn mask(nodes: &[usize]) -> NodeMask {
    nodes.iter().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        let both = mask(&[0, 1, 64]);
        assert_eq!(both.nodes().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(mask(&[0, 2]).subsets(), [mask(&[0]), mask(&[2]), mask(&[0, 2])]);
        assert_eq!(format!("{both:?}"), "{0, 1}");
    }

    #[test]
    fn the_smallest_sets_that_could_are_preferred() {
        let machine = mask(&[0, 1]);
        // One node could, but the first is taken.
        let found = hints(machine, |_| true, |nodes| nodes.has(1));
        let hint = |nodes: &[usize], preferred| Hint { nodes: Some(mask(nodes)), preferred };
        assert_eq!(found, [hint(&[1], true), hint(&[0, 1], false)]);
        let found = hints(machine, |nodes| nodes.count() == 2, |nodes| nodes.count() == 2);
        assert_eq!(found, [hint(&[0, 1], true)]);
        assert_eq!(hints(machine, |_| false, |_| false), []);
    }
}
