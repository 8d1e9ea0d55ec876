//! A pod as the scheduler sees it: everything a decision needs, parsed once, and nothing else.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use podium_api::node_features;
use podium_client::ObjectKey;

use crate::affinity::{NodeAffinity, PodAffinity};
use crate::ports::{HostPort, host_ports};
use crate::resources::{Requests, requests_of};
use crate::spread::SpreadConstraint;
use crate::taints::Toleration;

/// The pod condition that tells whether a pod has a node.
pub(crate) const POD_SCHEDULED: &str = "PodScheduled";
/// Reason of the condition that preemption sets on its victims.
pub(crate) const PREEMPTED: &str = "PreemptionByScheduler";

/// One pod, waiting or on a node.
#[derive(Clone, Debug, Default)]
pub struct PodInfo {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The pod's uid: a pod deleted and made again is another pod.
    pub uid: String,
    /// Empty for pods without.
    pub labels: BTreeMap<String, String>,
    /// Higher goes first and may displace lower.
    pub priority: i32,
    /// False when its preemptionPolicy is Never.
    pub may_preempt: bool,
    /// The scheduler that is to place it.
    pub scheduler_name: String,
    /// The node it is on, or asks for by name; `None` while it waits.
    pub node_name: Option<String>,
    /// The node that preemption made room on for it.
    pub nominated_node: Option<String>,
    /// What it takes of a node.
    pub requests: Requests,
    /// Ports it takes of a node.
    pub host_ports: Vec<HostPort>,
    /// Empty: it tolerates no taint.
    pub tolerations: Vec<Toleration>,
    /// Where it may and would like to go; `None` when it does not care.
    pub node_affinity: Option<Box<NodeAffinity>>,
    /// Which pods it wants to be with or away from; `None` when it does not care.
    pub pod_affinity: Option<Box<PodAffinity>>,
    /// How it wants its like to be spread, hard and soft.
    pub spread: Vec<SpreadConstraint>,
    /// Its containers' images, with a tag.
    pub images: Vec<String>,
    /// Its containers, init containers included: the scale of the image score.
    pub container_count: usize,
    /// Names of its scheduling gates; while there are any it must wait.
    pub gates: Vec<String>,
    /// Persistent volume claims it uses, by name.
    pub claims: Vec<String>,
    /// Those of them that are made for the pod's ephemeral volumes.
    pub ephemeral_claims: Vec<String>,
    /// It is being deleted.
    pub terminating: bool,
    /// It is being deleted to make room for another.
    pub preempted: bool,
    /// When it started, or was made.
    pub started: Option<Timestamp>,
    /// Its PodScheduled condition, when that is False.
    pub refusal: Option<Refusal>,
    /// What controls it, such as a ReplicaSet.
    pub owner: Option<Owner>,
    /// The generation of its spec, when the server counts them.
    pub generation: Option<i64>,
    /// What its node has to be able to do for it, by the names that nodes declare.
    pub features: Vec<&'static str>,
}

/// The controller of a pod, in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// `group/version`, or `v1`.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Owner {
    fn from_reference(reference: &OwnerReference) -> Self {
        Self {
            api_version: reference.api_version.clone(),
            kind: reference.kind.clone(),
            name: reference.name.clone(),
        }
    }
}

/// A PodScheduled condition that is False.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Such as `Unschedulable`.
    pub reason: String,
    /// What upstream's message says.
    pub message: String,
    /// Since when the condition is False.
    pub since: Option<Timestamp>,
}

impl PodInfo {
    /// Reads a pod.
    pub fn from_pod(pod: &Pod) -> Self {
        let mut info = Self {
            key: ObjectKey::of(pod),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            started: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            requests: requests_of(pod),
            may_preempt: true,
            generation: pod.metadata.generation,
            ..Self::default()
        };
        let owners = pod.metadata.owner_references.iter().flatten();
        info.owner = owners.filter(|owner| owner.controller == Some(true)).map(Owner::from_reference).next();
        if let Some(spec) = &pod.spec {
            info.priority = spec.priority.unwrap_or(0);
            info.may_preempt = spec.preemption_policy.as_deref() != Some("Never");
            info.scheduler_name =
                spec.scheduler_name.clone().unwrap_or_else(|| "default-scheduler".to_owned());
            info.node_name = spec.node_name.clone().filter(|name| !name.is_empty());
            info.host_ports = host_ports(spec);
            info.tolerations = spec.tolerations.iter().flatten().map(Toleration::from_wire).collect();
            info.node_affinity = NodeAffinity::from_spec(spec).map(Box::new);
            info.pod_affinity = PodAffinity::from_spec(spec, &info.key.namespace).map(Box::new);
            info.spread = SpreadConstraint::from_spec(spec, &info.labels);
            info.gates = spec.scheduling_gates.iter().flatten().map(|gate| gate.name.clone()).collect();
            let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
            info.container_count = containers().count();
            info.features = features(spec);
            info.images =
                containers().filter_map(|container| container.image.as_deref()).map(with_tag).collect();
            for volume in spec.volumes.iter().flatten() {
                if let Some(claim) = &volume.persistent_volume_claim {
                    info.claims.push(claim.claim_name.clone());
                } else if volume.ephemeral.is_some() {
                    let name = format!("{}-{}", info.key.name, volume.name);
                    info.claims.push(name.clone());
                    info.ephemeral_claims.push(name);
                }
            }
        }
        if let Some(status) = &pod.status {
            info.nominated_node = status.nominated_node_name.clone().filter(|name| !name.is_empty());
            info.started = status.start_time.as_ref().map(|time| time.0).or(info.started);
            for condition in status
                .conditions
                .iter()
                .flatten()
                .filter(|condition| condition.type_ == POD_SCHEDULED && condition.status == "False")
            {
                info.refusal = Some(Refusal {
                    reason: condition.reason.clone().unwrap_or_default(),
                    message: condition.message.clone().unwrap_or_default(),
                    since: condition.last_transition_time.as_ref().map(|time| time.0),
                });
            }
            info.preempted = status.conditions.iter().flatten().any(|condition| {
                condition.type_ == "DisruptionTarget"
                    && condition.status == "True"
                    && condition.reason.as_deref() == Some(PREEMPTED)
            });
        }
        info
    }

    /// Whether another state of the same pod asks for the same. What may change in a waiting pod is
    /// compared; the rest of its spec is immutable.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.labels == other.labels
            && self.tolerations == other.tolerations
            && self.gates == other.gates
            && self.requests == other.requests
            && self.node_affinity == other.node_affinity
    }

    /// Whether the pod's containers have all ended: it takes nothing of its node any more.
    pub fn has_ended(pod: &Pod) -> bool {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }
}

/// What a node has to declare before the pod may go there.
fn features(spec: &PodSpec) -> Vec<&'static str> {
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut rules = containers().flat_map(|container| container.restart_policy_rules.iter().flatten());
    let restarts_all = rules.any(|rule| rule.action == "RestartAllContainers");
    let users = spec.host_network == Some(true) && spec.host_users == Some(false);
    [(restarts_all, node_features::RESTART_ALL), (users, node_features::HOST_NETWORK_USERS)]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .map(|(_, feature)| feature)
        .collect()
}

/// An image name as nodes report it: with a tag.
pub(crate) fn with_tag(image: &str) -> String {
    let tagged = match (image.rfind(':'), image.rfind('/')) {
        (Some(colon), Some(slash)) => colon > slash,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if tagged { image.to_owned() } else { format!("{image}:latest") }
}
