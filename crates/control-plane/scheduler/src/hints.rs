//! Which changes can help which waiting pod: only then is it worth trying again.
//!
//! A filter that refused a pod names what it looks at. A change is worth a try when one of the filters
//! that refused could now decide otherwise. Saying yes too often costs a try, saying no wrongly costs
//! up to five minutes; so the answers lean to yes.

use std::sync::Arc;

use crate::filter::{Plugin, Plugins, fits};
use crate::pod::PodInfo;
use crate::snapshot::{NodeFacts, NodeInfo};
use crate::taints::{admits, tolerates_unschedulable};

/// A change in the cluster.
#[derive(Clone, Debug)]
pub enum Change {
    /// A node is there that was not.
    NodeAdded(Arc<NodeFacts>),
    /// A node says something else than before.
    NodeChanged {
        /// Before.
        before: Arc<NodeFacts>,
        /// Now.
        after: Arc<NodeFacts>,
    },
    /// A node is gone.
    NodeGone,
    /// A pod is on a node that was not.
    PodPlaced(Arc<PodInfo>),
    /// A pod on a node has other labels or requests.
    PodChanged {
        /// Before.
        before: Arc<PodInfo>,
        /// Now.
        after: Arc<PodInfo>,
    },
    /// A pod is off its node.
    PodGone(Arc<PodInfo>),
    /// A volume or a claim.
    Volumes,
}

impl Change {
    /// Upstream's name for it, in metrics. Changes of a node are not told apart by what changed.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NodeAdded(_) => "NodeAdd",
            Self::NodeChanged { .. } => "NodeUpdate",
            Self::NodeGone => "NodeDelete",
            Self::PodPlaced(_) => "AssignedPodAdd",
            Self::PodChanged { .. } => "AssignedPodUpdate",
            Self::PodGone(_) => "AssignedPodDelete",
            Self::Volumes => "PersistentVolumeUpdate",
        }
    }

    /// The filters that could decide otherwise after such a change; the others need not be asked.
    pub(crate) fn concerns(&self) -> impl Iterator<Item = Plugin> {
        let of_pods = matches!(self, Self::PodPlaced(_));
        let of_volumes = matches!(self, Self::Volumes);
        Plugin::ALL.into_iter().filter(move |plugin| match plugin {
            Plugin::PodTopologySpread | Plugin::InterPodAffinity => !of_volumes,
            Plugin::VolumeBinding | Plugin::VolumeZone => !of_pods,
            _ => !of_pods && !of_volumes,
        })
    }
}

/// Whether the change could help a pod that these filters refused. With no filters (there were no
/// nodes) everything could.
pub fn helps(change: &Change, pod: &PodInfo, refused_by: Plugins) -> bool {
    refused_by.is_empty()
        || Plugin::ALL
            .into_iter()
            .any(|plugin| refused_by.contains(plugin) && helps_with(plugin, change, pod))
}

fn helps_with(plugin: Plugin, change: &Change, pod: &PodInfo) -> bool {
    // What a filter says of a node by itself: help is a yes that was a no.
    let became = |says: &dyn Fn(&NodeFacts) -> bool| match change {
        Change::NodeAdded(node) => says(node),
        Change::NodeChanged { before, after } => !says(before) && says(after),
        _ => false,
    };
    match plugin {
        Plugin::NodeUnschedulable => {
            became(&|node| !node.unschedulable || tolerates_unschedulable(&pod.tolerations))
        }
        Plugin::NodeName => became(&|node| pod.node_name.as_deref().is_none_or(|name| name == &*node.name)),
        Plugin::TaintToleration => became(&|node| admits(&node.taints, &pod.tolerations)),
        Plugin::NodeAffinity => became(&|node| {
            pod.node_affinity.as_ref().is_none_or(|affinity| affinity.admits(&node.name, &node.labels))
        }),
        Plugin::NodePorts => match change {
            Change::NodeAdded(_) => true,
            Change::PodGone(other) => {
                let conflicts = |port| other.host_ports.iter().any(|taken| taken.conflicts_with(port));
                pod.host_ports.iter().any(conflicts)
            }
            _ => false,
        },
        Plugin::NodeResourcesFit => match change {
            Change::PodGone(_) => true,
            Change::PodChanged { before, after } => before.requests != after.requests,
            Change::NodeAdded(node) => fits(pod, &NodeInfo::new(node.clone())).is_ok(),
            Change::NodeChanged { before, after } => {
                (before.allocatable != after.allocatable || before.max_pods != after.max_pods)
                    && fits(pod, &NodeInfo::new(after.clone())).is_ok()
            }
            _ => false,
        },
        Plugin::VolumeRestrictions => match change {
            Change::PodGone(other) => {
                pod.key.namespace == other.key.namespace
                    && pod.claims.iter().any(|claim| other.claims.contains(claim))
            }
            _ => false,
        },
        Plugin::VolumeBinding | Plugin::VolumeZone => match change {
            Change::Volumes | Change::NodeAdded(_) => true,
            Change::NodeChanged { before, after } => before.labels != after.labels,
            _ => false,
        },
        Plugin::PodTopologySpread => match change {
            Change::NodeAdded(_) | Change::NodeGone => true,
            Change::NodeChanged { before, after } => {
                before.labels != after.labels || before.taints != after.taints
            }
            Change::PodPlaced(other) | Change::PodGone(other) => is_spread_among(pod, other),
            Change::PodChanged { before, after } => {
                before.labels != after.labels && (is_spread_among(pod, before) || is_spread_among(pod, after))
            }
            Change::Volumes => false,
        },
        Plugin::NodeDeclaredFeatures => became(&|node| node.has_features(&pod.features)),
        Plugin::InterPodAffinity => match change {
            Change::NodeAdded(_) => true,
            Change::NodeChanged { before, after } => before.labels != after.labels,
            Change::PodPlaced(_) => pod.pod_affinity.as_ref().is_some_and(|own| !own.required.is_empty()),
            Change::PodChanged { before, after } => before.labels != after.labels,
            Change::PodGone(other) => {
                pod.pod_affinity.as_ref().is_some_and(|own| !own.required_anti.is_empty())
                    || other.pod_affinity.as_ref().is_some_and(|theirs| !theirs.required_anti.is_empty())
            }
            Change::NodeGone | Change::Volumes => false,
        },
    }
}

fn is_spread_among(pod: &PodInfo, other: &PodInfo) -> bool {
    pod.key.namespace == other.key.namespace
        && pod.spread.iter().any(|constraint| constraint.hard && constraint.selector.matches(&other.labels))
}
