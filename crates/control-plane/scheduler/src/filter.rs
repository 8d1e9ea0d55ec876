//! Filters: whether one pod may go on one node, and if not, why, in upstream's words.
//!
//! Each filter is named as upstream's plugin of the same purpose and they run in upstream's order;
//! the first that refuses a node gives the reasons (`pkg/scheduler/framework/plugins`, v1.36).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::affinity::Labels;
use crate::interpod::{AffinityFilter, AffinityRefusal};
use crate::pod::PodInfo;
use crate::snapshot::{NodeFacts, NodeInfo, Snapshot};
use crate::spread::{SpreadFilter, SpreadRefusal};
use crate::surroundings::{Surroundings, Volumes};
use crate::taints::{admits, tolerates_unschedulable};
use crate::volumes::{Choice, VolumeNeeds};

/// The filters, for remembering which of them refused a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are upstream's plugin names")]
pub enum Plugin {
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    NodeDeclaredFeatures,
}

impl Plugin {
    pub(crate) const ALL: [Self; 12] = [
        Self::NodeUnschedulable,
        Self::NodeName,
        Self::TaintToleration,
        Self::NodeAffinity,
        Self::NodePorts,
        Self::NodeResourcesFit,
        Self::VolumeRestrictions,
        Self::VolumeBinding,
        Self::VolumeZone,
        Self::PodTopologySpread,
        Self::InterPodAffinity,
        Self::NodeDeclaredFeatures,
    ];
    pub(crate) const COUNT: usize = Self::ALL.len();
}

/// A set of filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plugins(u16);

impl Plugins {
    /// Adds one.
    pub fn insert(&mut self, plugin: Plugin) {
        self.0 |= 1 << plugin as u8;
    }

    /// Whether it is in the set.
    pub fn contains(self, plugin: Plugin) -> bool {
        self.0 & (1 << plugin as u8) != 0
    }

    /// Whether none is.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Plugin> for Plugins {
    fn from_iter<I: IntoIterator<Item = Plugin>>(plugins: I) -> Self {
        let mut set = Self::default();
        plugins.into_iter().for_each(|plugin| set.insert(plugin));
        set
    }
}

/// Reasons with a fixed text.
const REASONS: [&str; 20] = [
    "node(s) were unschedulable",
    "node(s) didn't match the requested node name",
    "node(s) had untolerated taint(s)",
    "node(s) didn't match Pod's node affinity/selector",
    "node(s) didn't have free ports for the requested pod ports",
    "Too many pods",
    "Insufficient cpu",
    "Insufficient memory",
    "Insufficient ephemeral-storage",
    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
    "node(s) didn't match PersistentVolume's node affinity",
    "node(s) didn't find available persistent volumes to bind",
    "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
    "node(s) had no available volume zone",
    "node(s) didn't match pod topology spread constraints (missing required label)",
    "node(s) didn't match pod topology spread constraints",
    "node(s) didn't match pod affinity rules",
    "node(s) didn't match pod anti-affinity rules",
    "node(s) didn't satisfy existing pods anti-affinity rules",
    "node(s) didn't match Pod's required features",
];

#[derive(Clone, Copy)]
enum Reason {
    Unschedulable,
    NodeName,
    Taints,
    NodeAffinity,
    Ports,
    TooManyPods,
    Cpu,
    Memory,
    Ephemeral,
    VolumeInUse,
    VolumeNode,
    VolumeOpen,
    VolumeMissing,
    VolumeZone,
    SpreadLabel,
    Spread,
    Affinity,
    AntiAffinity,
    ExistingAntiAffinity,
    Features,
}

/// A node refused. Small: when nothing fits there is one for every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The filter that refused.
    pub plugin: Plugin,
    /// Whether removing other pods from the node could change it.
    pub resolvable: bool,
    /// Bits of [`REASONS`].
    reasons: u32,
    /// Other resources there is not enough of.
    lacking: Vec<Arc<str>>,
}

impl Rejection {
    fn new(plugin: Plugin, reason: Reason, resolvable: bool) -> Self {
        Self { plugin, resolvable, reasons: 1 << reason as u8, lacking: Vec::new() }
    }

    /// Counts each reason once.
    pub(crate) fn tally(&self, histogram: &mut BTreeMap<String, usize>) {
        for (bit, text) in REASONS.iter().enumerate() {
            if self.reasons & (1 << bit) != 0 {
                match histogram.get_mut(*text) {
                    Some(count) => *count += 1,
                    None => {
                        histogram.insert((*text).to_owned(), 1);
                    }
                }
            }
        }
        for name in &self.lacking {
            *histogram.entry(format!("Insufficient {name}")).or_insert(0) += 1;
        }
    }
}

/// What is computed once for a pod before nodes are looked at.
pub(crate) struct Cycle<'a> {
    pub(crate) pod: &'a PodInfo,
    spread: Option<SpreadFilter<'a>>,
    affinity: Option<AffinityFilter<'a>>,
    volumes: Option<Arc<VolumeNeeds>>,
    /// How many others use claims that only one pod may use.
    in_use: i64,
}

/// A pod refused before any node is looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) plugin: Plugin,
    pub(crate) message: String,
}

impl<'a> Cycle<'a> {
    pub(crate) fn new(
        pod: &'a PodInfo,
        snapshot: &Snapshot,
        surroundings: &'a dyn Surroundings,
        namespaces: &'a dyn Fn(&str) -> Option<Labels>,
    ) -> Result<Self, Refused> {
        let volumes = if pod.claims.is_empty() {
            None
        } else {
            match surroundings.volumes(pod) {
                Volumes::Ready(needs) => Some(Arc::new(needs)),
                Volumes::Refused(message) => return Err(Refused { plugin: Plugin::VolumeBinding, message }),
            }
        };
        let exclusive = volumes.as_ref().map_or(&[][..], |needs| &needs.exclusive);
        let others = snapshot.nodes().iter().filter(|_| !exclusive.is_empty()).flat_map(|node| &node.pods);
        let in_use = others.map(|other| shared(exclusive, pod, other)).sum();
        Ok(Self {
            pod,
            spread: SpreadFilter::new(pod, snapshot),
            affinity: AffinityFilter::new(pod, snapshot, namespaces),
            volumes,
            in_use,
        })
    }

    /// A copy for trying what happens when pods leave or join nodes.
    pub(crate) fn fork(&self) -> Self {
        Self {
            pod: self.pod,
            spread: self.spread.clone(),
            affinity: self.affinity.clone(),
            volumes: self.volumes.clone(),
            in_use: self.in_use,
        }
    }

    /// As if `other` were put on (`+1`) or taken off (`-1`) the node.
    pub(crate) fn shift(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        if let Some(spread) = &mut self.spread {
            spread.shift(other, &node.facts, by);
        }
        if let Some(affinity) = &mut self.affinity {
            affinity.shift(other, &node.facts, by);
        }
        if let Some(needs) = &self.volumes {
            self.in_use += by * shared(&needs.exclusive, self.pod, other);
        }
    }

    /// What becomes of the pod's open claims on a node that passed.
    pub(crate) fn choices(&self, node: &NodeFacts) -> Vec<Choice> {
        self.volumes.as_ref().and_then(|needs| needs.check(node).ok()).unwrap_or_default()
    }

    /// Whether the pod may go on the node as it is.
    pub(crate) fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let pod = self.pod;
        let facts = &*node.facts;
        if facts.unschedulable && !tolerates_unschedulable(&pod.tolerations) {
            return Err(Rejection::new(Plugin::NodeUnschedulable, Reason::Unschedulable, false));
        }
        if pod.node_name.as_deref().is_some_and(|name| name != &*facts.name) {
            return Err(Rejection::new(Plugin::NodeName, Reason::NodeName, false));
        }
        if !facts.taints.is_empty() && !admits(&facts.taints, &pod.tolerations) {
            return Err(Rejection::new(Plugin::TaintToleration, Reason::Taints, false));
        }
        if let Some(affinity) = &pod.node_affinity
            && !affinity.admits(&facts.name, &facts.labels)
        {
            return Err(Rejection::new(Plugin::NodeAffinity, Reason::NodeAffinity, false));
        }
        let taken = |port| node.ports.iter().any(|taken| taken.conflicts_with(port));
        if pod.host_ports.iter().any(taken) {
            return Err(Rejection::new(Plugin::NodePorts, Reason::Ports, true));
        }
        fits(pod, node)?;
        if let Some(needs) = &self.volumes {
            self.check_volumes(needs, facts)?;
        }
        if let Some(spread) = &self.spread {
            spread.check(facts).map_err(|refusal| match refusal {
                SpreadRefusal::MissingLabel => {
                    Rejection::new(Plugin::PodTopologySpread, Reason::SpreadLabel, false)
                }
                SpreadRefusal::Skew => Rejection::new(Plugin::PodTopologySpread, Reason::Spread, true),
            })?;
        }
        if let Some(affinity) = &self.affinity {
            affinity.check(facts).map_err(|refusal| {
                let (reason, resolvable) = match refusal {
                    AffinityRefusal::Affinity => (Reason::Affinity, false),
                    AffinityRefusal::AntiAffinity => (Reason::AntiAffinity, true),
                    AffinityRefusal::ExistingAntiAffinity => (Reason::ExistingAntiAffinity, true),
                };
                Rejection::new(Plugin::InterPodAffinity, reason, resolvable)
            })?;
        }
        if !facts.has_features(&pod.features) {
            return Err(Rejection::new(Plugin::NodeDeclaredFeatures, Reason::Features, false));
        }
        Ok(())
    }

    fn check_volumes(&self, needs: &VolumeNeeds, node: &NodeFacts) -> Result<(), Rejection> {
        if self.in_use > 0 {
            return Err(Rejection::new(Plugin::VolumeRestrictions, Reason::VolumeInUse, true));
        }
        needs.check(node).map_err(|why| {
            let mut rejection =
                Rejection { reasons: 0, ..Rejection::new(Plugin::VolumeBinding, Reason::VolumeNode, false) };
            for (holds, reason) in [
                (why.bound, Reason::VolumeNode),
                (why.open, Reason::VolumeOpen),
                (why.missing, Reason::VolumeMissing),
            ] {
                rejection.reasons |= u32::from(holds) << reason as u8;
            }
            rejection
        })?;
        if !needs.is_in_zone(&node.labels) {
            return Err(Rejection::new(Plugin::VolumeZone, Reason::VolumeZone, false));
        }
        Ok(())
    }

    /// Whether the pod may go on the node, also when the pods that room is being made for come: those
    /// of at least its priority count as being there. It must fit both ways, because they may never come.
    pub(crate) fn check_with_nominated(&self, node: &NodeInfo, snapshot: &Snapshot) -> Result<(), Rejection> {
        let nominated = snapshot.nominated_on(&node.facts.name);
        let counts = |other: &&Arc<PodInfo>| other.priority >= self.pod.priority && other.uid != self.pod.uid;
        if nominated.iter().any(|other| counts(&other)) {
            let mut fuller = node.clone();
            let mut fork = self.fork();
            for other in nominated.iter().filter(counts) {
                fork.shift(other, node, 1);
                fuller.add(other.clone());
            }
            fork.check(&fuller)?;
        }
        self.check(node)
    }
}

/// How many of the claims, which are `pod`'s, another pod uses.
fn shared(claims: &[String], pod: &PodInfo, other: &PodInfo) -> i64 {
    if other.key.namespace != pod.key.namespace || other.uid == pod.uid {
        return 0;
    }
    claims.iter().filter(|claim| other.claims.contains(claim)).count() as i64
}

/// Whether the node has room. All that is lacking is named, not only the first.
pub(crate) fn fits(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let wants = &pod.requests.exact;
    let has = &node.facts.allocatable;
    let used = &node.requested;
    let mut reasons = 0;
    let mut lacking = Vec::new();
    // More than the node has even when empty: removing pods does not help.
    let mut resolvable = true;
    let mut refuse = |reason: Reason| reasons |= 1 << reason as u8;
    if node.pods.len() as i64 + 1 > node.facts.max_pods {
        refuse(Reason::TooManyPods);
    }
    let amounts = [
        (wants.cpu_millis, used.cpu_millis, has.cpu_millis, Reason::Cpu),
        (wants.memory_bytes, used.memory_bytes, has.memory_bytes, Reason::Memory),
        (wants.ephemeral_bytes, used.ephemeral_bytes, has.ephemeral_bytes, Reason::Ephemeral),
    ];
    for (wanted, used, allocatable, reason) in amounts {
        if wanted > 0 && wanted > allocatable - used {
            refuse(reason);
            resolvable &= wanted <= allocatable;
        }
    }
    for (name, wanted) in &wants.others {
        let allocatable = has.other(name);
        if *wanted > allocatable - used.other(name) {
            lacking.push(name.clone());
            resolvable &= *wanted <= allocatable;
        }
    }
    if reasons == 0 && lacking.is_empty() {
        return Ok(());
    }
    Err(Rejection { plugin: Plugin::NodeResourcesFit, resolvable, reasons, lacking })
}
