//! The scheduler's picture of the cluster: every node with what is on it, kept as sums so that a
//! decision compares integers.
//!
//! It is changed one event at a time and never copied: the scheduling loop owns it. Pods that were
//! just placed are *assumed* to be there until the API says so.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use podium_api::quantity::Quantity;

use crate::affinity::Labels;
use crate::pod::PodInfo;
use crate::ports::HostPort;
use crate::resources::Resources;
use crate::taints::Taint;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// What a node says about itself, as far as scheduling goes. Heartbeats do not change it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// The node's name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// It takes no new pods.
    pub unschedulable: bool,
    /// What pods may take.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub max_pods: i64,
    /// Images it has, by every name, with their sizes in bytes.
    pub images: Map<Arc<str>, i64>,
    /// What it says it can do for pods that ask for it.
    pub features: Vec<String>,
}

impl NodeFacts {
    /// Whether the node says that it has all of these.
    pub fn has_features(&self, wanted: &[&str]) -> bool {
        wanted.iter().all(|feature| self.features.iter().any(|have| have == feature))
    }

    /// Reads a node.
    pub fn from_node(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        let max_pods = allocatable.and_then(|list| list.get("pods"));
        let images =
            status.and_then(|status| status.images.as_ref()).into_iter().flatten().flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image.names.iter().flatten().map(move |name| (name.as_str().into(), size))
            });
        Self {
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec
                .and_then(|spec| spec.taints.as_ref())
                .into_iter()
                .flatten()
                .filter_map(Taint::from_wire)
                .collect(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            allocatable: allocatable.map(Resources::from_wire).unwrap_or_default(),
            max_pods: max_pods
                .and_then(|pods| pods.0.parse::<Quantity>().ok())
                .map_or(0, |pods| pods.value()),
            images: images.collect(),
            features: status.and_then(|status| status.declared_features.clone()).unwrap_or_default(),
        }
    }
}

/// A node and what is on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// What the node says.
    pub facts: Arc<NodeFacts>,
    /// What its pods request together.
    pub requested: Resources,
    /// The same with the scorers' assumptions for pods that request nothing.
    pub assumed_requested: Resources,
    /// The pods on it, in no particular order.
    pub pods: Vec<Arc<PodInfo>>,
    /// Host ports that are taken.
    pub ports: Vec<HostPort>,
    /// How many of the pods have any pod affinity.
    pub with_affinity: usize,
    /// How many of the pods require to be away from others.
    pub with_required_anti: usize,
}

impl NodeInfo {
    /// An empty node.
    pub fn new(facts: Arc<NodeFacts>) -> Self {
        Self {
            facts,
            requested: Resources::default(),
            assumed_requested: Resources::default(),
            pods: Vec::new(),
            ports: Vec::new(),
            with_affinity: 0,
            with_required_anti: 0,
        }
    }

    /// Puts a pod on the node.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests.exact);
        self.assumed_requested.add(&pod.requests.assumed);
        self.ports.extend(pod.host_ports.iter().cloned());
        self.with_affinity += usize::from(pod.pod_affinity.is_some());
        self.with_required_anti += usize::from(requires_distance(&pod));
        self.pods.push(pod);
    }

    /// Takes a pod off the node.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|pod| pod.uid == uid)?;
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.requests.exact);
        self.assumed_requested.subtract(&pod.requests.assumed);
        for port in &pod.host_ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
        self.with_affinity -= usize::from(pod.pod_affinity.is_some());
        self.with_required_anti -= usize::from(requires_distance(&pod));
        Some(pod)
    }
}

fn requires_distance(pod: &PodInfo) -> bool {
    pod.pod_affinity.as_ref().is_some_and(|affinity| !affinity.required_anti.is_empty())
}

/// Where a pod is.
#[derive(Clone, Debug)]
struct Placed {
    node: Arc<str>,
    pod: Arc<PodInfo>,
    /// Placed by us; the API has not confirmed it yet.
    assumed: bool,
}

/// All nodes and the pods on them.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: Map<Arc<str>, usize>,
    pods: Map<String, Placed>,
    /// Pods of nodes that are not known (yet, or any more), by node name.
    strays: Map<Arc<str>, Vec<Arc<PodInfo>>>,
    /// How many nodes have an image, by image name.
    image_nodes: Map<Arc<str>, usize>,
    /// Pods that preemption made room for, by the node where.
    nominated: Map<Arc<str>, Vec<Arc<PodInfo>>>,
}

impl Snapshot {
    /// All nodes, in a stable order as long as none is removed.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|at| &self.nodes[*at])
    }

    /// A node's position in [`Snapshot::nodes`].
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// How many nodes have that image.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    /// Adds a node or takes over what it says now. Returns what it said before, or `None` for a new
    /// node; the same facts again change nothing.
    pub fn put_node(&mut self, facts: Arc<NodeFacts>) -> Option<Arc<NodeFacts>> {
        let name = facts.name.clone();
        if let Some(at) = self.by_name.get(&name).copied() {
            if self.nodes[at].facts == facts {
                return Some(facts);
            }
            self.count_images(&facts, true);
            let before = std::mem::replace(&mut self.nodes[at].facts, facts);
            self.count_images(&before, false);
            return Some(before);
        }
        self.count_images(&facts, true);
        let mut node = NodeInfo::new(facts);
        for pod in self.strays.remove(&name).into_iter().flatten() {
            node.add(pod);
        }
        self.by_name.insert(name, self.nodes.len());
        self.nodes.push(node);
        None
    }

    /// Forgets a node. Its pods are kept aside: they may be told deleted later, or the node may return.
    pub fn remove_node(&mut self, name: &str) -> Option<Arc<NodeFacts>> {
        let at = self.by_name.remove(name)?;
        let node = self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.by_name.insert(moved.facts.name.clone(), at);
        }
        self.count_images(&node.facts, false);
        if !node.pods.is_empty() {
            self.strays.insert(node.facts.name.clone(), node.pods);
        }
        Some(node.facts)
    }

    /// The pod of that uid, if it is on a node.
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|placed| &placed.pod)
    }

    /// Whether the pod was placed by us and is not confirmed.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|placed| placed.assumed)
    }

    /// The number of pods on nodes.
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// Takes over what the API says about a pod that has a node. Confirms it if it was assumed, moves
    /// it if it is somewhere else than assumed. Returns what was known of it.
    pub fn put_pod(&mut self, pod: Arc<PodInfo>) -> Option<Arc<PodInfo>> {
        let before = self.remove_pod(&pod.uid);
        let node: Arc<str> = pod.node_name.as_deref().unwrap_or_default().into();
        self.place(node, pod, false);
        before
    }

    /// Puts a pod on a node before the API knows.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &Arc<str>) {
        self.remove_pod(&pod.uid);
        self.place(node.clone(), pod, true);
    }

    /// Takes a pod off its node: it was deleted, has ended, or could not be bound.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let placed = self.pods.remove(uid)?;
        match self.by_name.get(&placed.node) {
            Some(at) => {
                self.nodes[*at].remove(uid);
            }
            None => {
                if let Some(strays) = self.strays.get_mut(&placed.node) {
                    strays.retain(|stray| stray.uid != uid);
                    if strays.is_empty() {
                        self.strays.remove(&placed.node);
                    }
                }
            }
        }
        Some(placed.pod)
    }

    /// Remembers that room is being made on a node for a pod; replaces an earlier nomination.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.withdraw(&pod.uid);
        self.nominated.entry(node.into()).or_default().push(pod);
    }

    /// Forgets a pod's nomination.
    pub fn withdraw(&mut self, uid: &str) {
        self.nominated.retain(|_, pods| {
            pods.retain(|pod| pod.uid != uid);
            !pods.is_empty()
        });
    }

    /// Pods that room is being made for on that node.
    pub fn nominated_on(&self, node: &str) -> &[Arc<PodInfo>] {
        if self.nominated.is_empty() {
            return &[];
        }
        self.nominated.get(node).map_or(&[], Vec::as_slice)
    }

    fn place(&mut self, node: Arc<str>, pod: Arc<PodInfo>, assumed: bool) {
        self.pods.insert(pod.uid.clone(), Placed { node: node.clone(), pod: pod.clone(), assumed });
        match self.by_name.get(&node) {
            Some(at) => self.nodes[*at].add(pod),
            None => self.strays.entry(node).or_default().push(pod),
        }
    }

    fn count_images(&mut self, facts: &NodeFacts, more: bool) {
        for name in facts.images.keys() {
            if more {
                *self.image_nodes.entry(name.clone()).or_insert(0) += 1;
            } else if let Some(count) = self.image_nodes.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.image_nodes.remove(name);
                }
            }
        }
    }

    /// Names broken invariants, for tests: sums that do not equal their parts, pods in the wrong
    /// place, nodes that take more than they have.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut on_nodes = 0;
        for (at, node) in self.nodes.iter().enumerate() {
            let name = &node.facts.name;
            let mut fresh = NodeInfo::new(node.facts.clone());
            for pod in &node.pods {
                on_nodes += 1;
                fresh.add(pod.clone());
                if self.pods.get(&pod.uid).is_none_or(|placed| placed.node != *name) {
                    faults.push(format!("{name} holds {} which is placed elsewhere", pod.key));
                }
            }
            if fresh.requested != node.requested || fresh.assumed_requested != node.assumed_requested {
                faults.push(format!("sums of {name} are wrong"));
            }
            if fresh.ports.len() != node.ports.len() || fresh.with_affinity != node.with_affinity {
                faults.push(format!("counts of {name} are wrong"));
            }
            if self.by_name.get(name) != Some(&at) {
                faults.push(format!("{name} is not found at its place"));
            }
        }
        let strays: usize = self.strays.values().map(Vec::len).sum();
        if on_nodes + strays != self.pods.len() {
            faults.push(format!("{} pods placed, {on_nodes} on nodes, {strays} strays", self.pods.len()));
        }
        faults
    }
}
