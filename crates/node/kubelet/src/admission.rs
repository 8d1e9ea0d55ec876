//! The node's own check before a pod runs: the scheduler may have decided on an older view, or somebody
//! named the node directly. Pure; messages are upstream's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint},
    apimachinery::pkg::api::resource::Quantity as WireQuantity,
};
use podium_api::{kinds::pod::is_extended_resource, quantity::Quantity};

use crate::{
    eviction::state::Pressure,
    pod,
    resources::{self, Qos},
    status::EVICTED,
    sysctls,
};

/// The pod may not run here; both texts go into its status and its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: String,
    pub(crate) message: String,
}

const NODE_AFFINITY: &str = "NodeAffinity";
const TAINT_TOLERATION: &str = "TaintToleration";

impl Refused {
    /// Whether nothing but a lack of room is the reason, of a critical pod.
    pub(crate) fn is_shortage(&self) -> bool {
        self.reason.starts_with("OutOf")
    }

    /// Whether the node's labels or taints are the reason: the node's own copy of them may be older than the scheduler's.
    pub(crate) fn is_about_node(&self) -> bool {
        matches!(self.reason.as_str(), NODE_AFFINITY | TAINT_TOLERATION)
    }
}

fn predicate(name: &str, text: &str) -> Refused {
    Refused { reason: name.to_owned(), message: format!("Predicate {name} failed: {text}") }
}

/// A node that is short of something lets nobody in whom it would have to evict again: short of memory it refuses pods that
/// ask for none of it, short of anything else it refuses all. What holds the system together comes in always.
pub(crate) fn under_pressure(wanted: &Pod, pressures: &BTreeSet<Pressure>) -> Result<(), Refused> {
    if pressures.is_empty() || pod::is_critical(wanted) {
        return Ok(());
    }
    if pressures.iter().all(|one| *one == Pressure::Memory) {
        let taint = Taint {
            key: "node.kubernetes.io/memory-pressure".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        if resources::qos(wanted) != Qos::BestEffort || tolerates(wanted, &taint) {
            return Ok(());
        }
    }
    let names: Vec<&str> = pressures.iter().map(|one| one.condition()).collect();
    Err(Refused {
        reason: EVICTED.to_owned(),
        message: format!("The node had condition: [{}]. ", names.join(" ")),
    })
}

/// Judges a pod beside those that hold resources here already. `node`: the node as the API has it,
/// None if it has not been read yet.
pub(crate) fn admit(
    wanted: &Pod,
    others: &[Arc<Pod>],
    node: Option<&Node>,
    allocatable: &BTreeMap<String, WireQuantity>,
    unsafe_sysctls: &[String],
) -> Result<(), Refused> {
    if let Some(message) = sysctls::forbidden(wanted, unsafe_sysctls) {
        return Err(Refused { reason: sysctls::FORBIDDEN.to_owned(), message });
    }
    // Upstream looks at the pod's label here, not at its selector.
    if wanted
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("kubernetes.io/os"))
        .is_some_and(|os| os != "linux")
    {
        return Err(Refused {
            reason: "PodOSSelectorNodeLabelDoesNotMatch".to_owned(),
            message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"
                .to_owned(),
        });
    }
    if let Some(os) = wanted.spec.as_ref().and_then(|spec| spec.os.as_ref())
        && os.name != "linux"
    {
        return Err(Refused {
            reason: "PodOSNotSupported".to_owned(),
            message: "Failed to admit pod as the OS field doesn't match node OS".to_owned(),
        });
    }
    if strict_groups(wanted) && node.is_some_and(lacks_strict_groups) {
        return Err(Refused {
            reason: "SupplementalGroupsPolicyNotSupported".to_owned(),
            message: "SupplementalGroupsPolicy=Strict is not supported in this node".to_owned(),
        });
    }
    let fits = || fits(wanted, others, allocatable);
    // Room is made for a critical pod: a lack of it is all that may be wrong then.
    if pod::is_critical(wanted) {
        suits(wanted, others, node)?;
        return fits();
    }
    fits()?;
    suits(wanted, others, node)
}

fn strict_groups(wanted: &Pod) -> bool {
    let context = wanted.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    context.and_then(|context| context.supplemental_groups_policy.as_deref()) == Some("Strict")
}

/// Whether the node's status says that its runtime gives processes more groups than the pod lists. A node whose status
/// nobody has written yet says nothing.
fn lacks_strict_groups(node: &Node) -> bool {
    node.status.as_ref().is_some_and(|status| {
        let features = status.features.as_ref();
        status.node_info.is_some()
            && features.and_then(|features| features.supplemental_groups_policy) != Some(true)
    })
}

/// Whether the pod may be on this node, however much room there is.
fn suits(wanted: &Pod, others: &[Arc<Pod>], node: Option<&Node>) -> Result<(), Refused> {
    if let Some(node) = node
        && !matches_node(wanted, node)
    {
        return Err(predicate(NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector"));
    }
    ports(wanted, others)?;
    // Nobody chose this node for a static pod.
    if let Some(node) = node
        && !pod::is_static(wanted)
        && !tolerates_node(wanted, node)
    {
        return Err(predicate(TAINT_TOLERATION, "node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

/// Whether there is room for the pod.
pub(crate) fn fits(
    wanted: &Pod,
    others: &[Arc<Pod>],
    allocatable: &BTreeMap<String, WireQuantity>,
) -> Result<(), Refused> {
    shortages(wanted, others, allocatable).first().map_or(Ok(()), |short| Err(short.refused()))
}

/// A resource that a pod asks more of than is free; CPU in thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) resource: String,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl Shortage {
    /// How much more would have to be free.
    pub(crate) fn missing(&self) -> i64 {
        self.requested - (self.capacity - self.used)
    }

    fn refused(&self) -> Refused {
        let Self { resource, requested, used, capacity } = self;
        Refused {
            reason: format!("OutOf{resource}"),
            message: format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        }
    }
}

/// What a pod takes of a resource, in the numbers of [`Shortage`].
pub(crate) fn taken(pod: &Pod, resource: &str) -> i64 {
    match resource {
        "pods" => 1,
        "cpu" => resources::pod_request(pod, resource).milli_value(),
        _ => resources::pod_request(pod, resource).value(),
    }
}

/// All that there is too little of for the pod, in upstream's order. Extended resources that this node does not have are
/// somebody else's to give: the cluster's, or a driver's by way of a claim.
pub(crate) fn shortages(
    wanted: &Pod,
    others: &[Arc<Pod>],
    allocatable: &BTreeMap<String, WireQuantity>,
) -> Vec<Shortage> {
    let own = unclaimed(wanted);
    let wanted = own.as_ref().unwrap_or(wanted);
    let short = |resource: &str| {
        let requested = taken(wanted, resource);
        let number = |amount: Quantity| if resource == "cpu" { amount.milli_value() } else { amount.value() };
        let capacity = match resources::amount(Some(allocatable), resource).map(number) {
            Some(capacity) => capacity,
            // Nobody says how many there may be.
            None if resource == "pods" => return None,
            None => 0,
        };
        let used: i64 = others.iter().map(|other| taken(other, resource)).sum();
        (requested > 0 && used + requested > capacity).then(|| Shortage {
            resource: resource.to_owned(),
            requested,
            used,
            capacity,
        })
    };
    let named = resources::whole(wanted).requests.unwrap_or_default();
    let others = named.keys().map(String::as_str).filter(|name| {
        name.starts_with("hugepages-") || (is_extended_resource(name) && allocatable.contains_key(*name))
    });
    ["pods", "cpu", "memory", "ephemeral-storage"].into_iter().chain(others).filter_map(short).collect()
}

/// The pod without extended resources that its containers have by claims; None if there are none.
fn unclaimed(wanted: &Pod) -> Option<Pod> {
    let claimed = wanted.status.as_ref()?.extended_resource_claim_status.as_ref()?;
    let mut own = wanted.clone();
    let spec = own.spec.as_mut()?;
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let Some(resources) = &mut container.resources else { continue };
        let mine = |name: &String| {
            claimed
                .request_mappings
                .iter()
                .any(|one| one.container_name == container.name && one.resource_name == *name)
        };
        for list in [&mut resources.requests, &mut resources.limits].into_iter().flatten() {
            list.retain(|name, _| !mine(name));
        }
    }
    Some(own)
}

type HostPort = (String, i32, String);

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let all =
        pod::containers(pod).iter().chain(pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c)));
    all.flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|port| *port > 0)?;
            let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
            Some((port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), number, ip))
        })
        .collect()
}

fn ports(wanted: &Pod, others: &[Arc<Pod>]) -> Result<(), Refused> {
    let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
    let taken: Vec<HostPort> = others.iter().flat_map(|other| host_ports(other)).collect();
    let clash = host_ports(wanted).into_iter().any(|(protocol, port, ip)| {
        taken.iter().any(|(other_protocol, other_port, other_ip)| {
            protocol == *other_protocol
                && port == *other_port
                && (ip == *other_ip || any(&ip) || any(other_ip))
        })
    });
    if clash {
        return Err(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}

fn matches_node(wanted: &Pod, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let Some(spec) = &wanted.spec else { return true };
    if !spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| selects(required, node))
}

/// Whether a selector chooses this node.
pub(crate) fn selects(required: &NodeSelector, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let name = node.metadata.name.as_deref().unwrap_or_default();
    required.node_selector_terms.iter().any(|term| matches_term(term, labels, name))
}

fn matches_term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|one| matches_requirement(one, labels.get(&one.key).map(String::as_str)))
        && fields.iter().all(|one| one.key == "metadata.name" && matches_requirement(one, Some(name)))
}

fn matches_requirement(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|one| one == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match wanted.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(have, bound)| have > bound),
        "Lt" => numbers().is_some_and(|(have, bound)| have < bound),
        _ => false,
    }
}

/// Only taints that would evict the pod at once count here.
fn tolerates_node(wanted: &Pod, node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|taint| taint.effect == "NoExecute").all(|taint| tolerates(wanted, taint))
}

fn tolerates(wanted: &Pod, taint: &Taint) -> bool {
    let tolerations = wanted.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    tolerations.iter().any(|one| {
        let effect = one.effect.as_deref().unwrap_or_default();
        let key = one.key.as_deref().unwrap_or_default();
        let exists = one.operator.as_deref() == Some("Exists");
        let value = one.value.as_deref().unwrap_or_default();
        (effect.is_empty() || effect == taint.effect)
            && (key == taint.key || (key.is_empty() && exists))
            && (exists || value == taint.value.as_deref().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests;
