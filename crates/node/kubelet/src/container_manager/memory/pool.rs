//! How much of each node is promised to whom. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use super::super::numa::{self, Hint, Hints, NodeMask};
use crate::{
    pod,
    resources::{self, Qos},
};

/// Bytes by resource: `memory` and `hugepages-SIZE`.
pub(crate) type Amounts = BTreeMap<String, u64>;

/// What a container is promised of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    /// From these nodes, which serve no other group meanwhile.
    pub(crate) nodes: NodeMask,
    pub(crate) resource: String,
    pub(crate) bytes: u64,
    /// How much of it is not what an init container of the same pod leaves.
    charged: u64,
}

/// What is kept in the checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kept {
    pub(crate) policy_name: String,
    /// By the pod's uid and the container's name.
    pub(crate) entries: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
}

/// The memory of the node under the static policy.
#[derive(Debug)]
pub(crate) struct Pool {
    /// What containers can be promised, by node: what there is but for what is reserved.
    allocatable: BTreeMap<usize, Amounts>,
    entries: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
}

/// What a container is to be promised: all it asks for if its pod is guaranteed. A pod whose resources are given for the whole
/// is promised nothing, as upstream has it.
pub(crate) fn wanted(of: &Pod, container: &Container) -> Amounts {
    let whole_pod = of.spec.as_ref().is_some_and(|spec| spec.resources.is_some());
    if whole_pod || resources::qos(of) != Qos::Guaranteed {
        return Amounts::new();
    }
    let resources = container.resources.as_ref();
    let names = resources.into_iter().flat_map(|all| all.requests.iter().chain(&all.limits));
    names
        .flat_map(BTreeMap::keys)
        .filter(|name| *name == "memory" || name.starts_with("hugepages-"))
        .filter_map(|name| {
            let bytes = u64::try_from(resources::request(resources, name)?.value()).ok()?;
            (bytes > 0).then(|| (name.clone(), bytes))
        })
        .collect()
}

/// What the pod's containers are to be promised together.
fn wanted_by_pod(of: &Pod) -> Amounts {
    let all = pod::containers(of).iter().chain(pod::init_containers(of));
    let names: std::collections::BTreeSet<String> =
        all.flat_map(|container| wanted(of, container).into_keys()).collect();
    names
        .into_iter()
        .map(|name| {
            let bytes = pod::peak(of, |one| wanted(of, one).get(&name).copied().unwrap_or(0));
            (name, bytes)
        })
        .collect()
}

impl Pool {
    /// `memory`: what there is by node. `reserved`: what is kept back of it.
    pub(crate) fn new(
        memory: &BTreeMap<usize, Amounts>,
        reserved: &BTreeMap<usize, Amounts>,
    ) -> Result<Self, String> {
        let kept_back = |node: usize, name: &str| {
            reserved.get(&node).and_then(|amounts| amounts.get(name)).copied().unwrap_or(0)
        };
        if reserved.values().filter_map(|amounts| amounts.get("memory")).sum::<u64>() == 0 {
            return Err("[memorymanager] you should specify the system reserved memory".to_owned());
        }
        if let Some(node) = reserved.keys().find(|node| !memory.contains_key(node)) {
            return Err(format!(
                "the reserved memory configuration references a NUMA node {node} that does not exist on this machine"
            ));
        }
        let own = |(node, amounts): (&usize, &Amounts)| {
            let left = amounts
                .iter()
                .map(|(name, bytes)| (name.clone(), bytes.saturating_sub(kept_back(*node, name))))
                .collect();
            (*node, left)
        };
        Ok(Self { allocatable: memory.iter().map(own).collect(), entries: BTreeMap::new() })
    }

    /// With what was promised before, if this machine can keep it.
    pub(crate) fn recall(&mut self, kept: Kept) -> Result<(), String> {
        self.entries = kept.entries;
        for block in self.blocks() {
            if block.nodes.is_empty() || block.nodes.nodes().any(|node| !self.allocatable.contains_key(&node))
            {
                return Err(
                    "[memorymanager] the memory assignment uses the NUMA that does not exist".to_owned()
                );
            }
            let charged: u64 = self.of_group(block.nodes, &block.resource).map(|one| one.charged).sum();
            if !self.may_group(block.nodes) || charged > self.room(block.nodes, &block.resource) {
                return Err(
                    "[memorymanager] the expected machine state is different from the real one".to_owned()
                );
            }
        }
        Ok(())
    }

    pub(crate) fn kept(&self) -> Kept {
        Kept { policy_name: "Static".to_owned(), entries: self.entries.clone() }
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.entries.values().flat_map(BTreeMap::values).flatten()
    }

    fn of_group<'a>(&'a self, nodes: NodeMask, resource: &'a str) -> impl Iterator<Item = &'a Block> {
        self.blocks().filter(move |block| block.nodes == nodes && block.resource == resource)
    }

    /// What nodes could promise of a resource.
    fn room(&self, nodes: NodeMask, resource: &str) -> u64 {
        let own = nodes.nodes().filter_map(|node| self.allocatable.get(&node)?.get(resource).copied());
        own.sum()
    }

    /// What they can still promise, if they may be a group.
    fn free(&self, nodes: NodeMask, resource: &str) -> u64 {
        let charged: u64 = self.of_group(nodes, resource).map(|block| block.charged).sum();
        self.room(nodes, resource).saturating_sub(charged)
    }

    /// Whether these nodes may serve together: none of them serves in another group.
    fn may_group(&self, nodes: NodeMask) -> bool {
        self.blocks().all(|block| block.nodes == nodes || !block.nodes.overlaps(nodes))
    }

    /// All nodes.
    fn machine(&self) -> NodeMask {
        self.allocatable.keys().copied().collect()
    }

    /// What a container has.
    pub(crate) fn entry(&self, uid: &str, container: &str) -> Option<&Vec<Block>> {
        self.entries.get(uid)?.get(container)
    }

    /// What init containers of the pod leave in a group, but for what others have taken over.
    fn reusable(&self, of: &Pod, container: &str, nodes: NodeMask, resource: &str) -> u64 {
        let own = |name: &str| {
            let blocks = self.entry(pod::uid(of), name).into_iter().flatten();
            blocks
                .filter(|block| block.nodes == nodes && block.resource == resource)
                .cloned()
                .collect::<Vec<_>>()
        };
        let inits = pod::init_containers(of);
        let passing =
            inits.iter().take_while(|init| init.name != container).filter(|init| !pod::is_sidecar(init));
        let left: u64 = passing.flat_map(|init| own(&init.name)).map(|block| block.charged).sum();
        let staying = inits.iter().filter(|init| pod::is_sidecar(init)).chain(pod::containers(of));
        let taken: u64 =
            staying.flat_map(|one| own(&one.name)).map(|block| block.bytes - block.charged).sum();
        left.saturating_sub(taken)
    }

    /// Whether these nodes have room for it all.
    fn suffices(&self, nodes: NodeMask, amounts: &Amounts, reusable: impl Fn(&str) -> u64) -> bool {
        amounts.iter().all(|(name, bytes)| self.free(nodes, name) + reusable(name) >= *bytes)
    }

    fn hints_for(&self, amounts: &Amounts, reusable: impl Fn(NodeMask, &str) -> u64) -> Vec<Hint> {
        numa::hints(
            self.machine(),
            |nodes| amounts.iter().all(|(name, bytes)| self.room(nodes, name) >= *bytes),
            |nodes| self.may_group(nodes) && self.suffices(nodes, amounts, |name| reusable(nodes, name)),
        )
    }

    /// Where a container's memory could come from.
    pub(crate) fn hints(&self, of: &Pod, container: &Container) -> Hints {
        let amounts = wanted(of, container);
        let hints = match self.entry(pod::uid(of), &container.name) {
            Some(have) => regenerated(have, &amounts),
            None => self.hints_for(&amounts, |nodes, name| self.reusable(of, &container.name, nodes, name)),
        };
        amounts.into_keys().map(|name| (name, Some(hints.clone()))).collect()
    }

    /// Where the memory of all the pod's containers could come from.
    pub(crate) fn pod_hints(&self, of: &Pod) -> Hints {
        let amounts = wanted_by_pod(of);
        let hints = match self.entries.get(pod::uid(of)).and_then(|own| own.values().flatten().next()) {
            Some(have) => vec![Hint { nodes: Some(have.nodes), preferred: true }],
            None => self.hints_for(&amounts, |_, _| 0),
        };
        amounts.into_keys().map(|name| (name, Some(hints.clone()))).collect()
    }

    /// Promises a container its memory; whether anything changed. `affinity`: the nodes, if that was decided, and whether they
    /// are the best there could be.
    pub(crate) fn allocate(
        &mut self,
        of: &Pod,
        container: &Container,
        affinity: Option<NodeMask>,
    ) -> Result<bool, String> {
        let amounts = wanted(of, container);
        if amounts.is_empty() || self.entry(pod::uid(of), &container.name).is_some() {
            return Ok(false);
        }
        let reusable = |nodes: NodeMask, name: &str| self.reusable(of, &container.name, nodes, name);
        let hints = self.hints_for(&amounts, reusable);
        let best = |among: &dyn Fn(NodeMask) -> bool| {
            let fitting = hints.iter().filter(|hint| hint.nodes.is_some_and(among));
            let narrowest =
                fitting.min_by_key(|hint| (!hint.preferred, hint.nodes.map(NodeMask::count), hint.nodes));
            narrowest.and_then(|hint| hint.nodes)
        };
        let nodes = match affinity {
            None => best(&|_| true).ok_or(
                "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available",
            )?,
            // The nodes of all resources may be too few for memory: then they are extended.
            Some(nodes) if !self.suffices(nodes, &amounts, |name| reusable(nodes, name)) => {
                best(&|wider| wider.and(nodes) == nodes)
                    .ok_or("[memorymanager] failed to find NUMA nodes to extend the current topology hint")?
            }
            Some(nodes) => nodes,
        };
        if !self.may_group(nodes) {
            return Err("[memorymanager] preferred hint violates NUMA node allocation".to_owned());
        }
        let blocks = amounts
            .into_iter()
            .map(|(resource, bytes)| {
                let charged = bytes.saturating_sub(reusable(nodes, &resource));
                Block { nodes, resource, bytes, charged }
            })
            .collect();
        let of_pod = self.entries.entry(pod::uid(of).to_owned()).or_default();
        of_pod.insert(container.name.clone(), blocks);
        Ok(true)
    }

    /// Takes back what a pod had; whether it had anything.
    pub(crate) fn release(&mut self, uid: &str) -> bool {
        self.entries.remove(uid).is_some()
    }

    /// Takes back what pods had that are not `known` any more; whether there was anything.
    pub(crate) fn retain(&mut self, known: &dyn Fn(&str) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(|uid, _| known(uid));
        self.entries.len() != before
    }

    /// What there is to promise, by node.
    pub(crate) fn allocatable(&self) -> &BTreeMap<usize, Amounts> {
        &self.allocatable
    }
}

/// The hint that a container has followed already; none if it asks for something else now.
fn regenerated(have: &[Block], amounts: &Amounts) -> Vec<Hint> {
    let same = have.len() == amounts.len()
        && have.iter().all(|block| amounts.get(&block.resource) == Some(&block.bytes));
    let nodes = have.first().filter(|_| same).map(|block| block.nodes);
    nodes.map(|nodes| Hint { nodes: Some(nodes), preferred: true }).into_iter().collect()
}
