//! Facts about nodes that several controllers need.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference, Taint};
use podium_client::{EventType, Informer, ObjectKey};

use crate::context::Context;
use crate::labels;
use crate::owner;

/// Forbids pods that do not tolerate the taint, and ends those that run.
pub(crate) const NO_EXECUTE: &str = "NoExecute";
/// Keeps new pods away.
pub(crate) const NO_SCHEDULE: &str = "NoSchedule";

/// One condition of the node's status.
pub(crate) fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Whether the node takes pods.
pub(crate) fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|condition| condition.status == "True")
}

/// The node's taints.
pub(crate) fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// Region and zone, which together are one failure domain. Empty for nodes that have neither.
pub(crate) fn zone(node: &Node) -> String {
    let label = |key: &str, old: &str| {
        let labels = node.metadata.labels.as_ref();
        labels::value(labels, key).or_else(|| labels::value(labels, old)).unwrap_or_default()
    };
    let region = label("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region");
    let zone = label("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone");
    if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:\0:{zone}") }
}

/// The node of that name.
pub(crate) fn get(nodes: &Informer<Node>, name: &str) -> Option<Arc<Node>> {
    nodes.get(&ObjectKey::cluster(name))
}

/// Records an event about a node, which as upstream has it carries the node's name for a uid where that is not known.
pub(crate) fn event(context: &Context, node: &Node, type_: EventType, reason: &str, message: String) {
    let about = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        ..ObjectReference::default()
    };
    context.event_about(&about, type_, reason, message);
}

/// Records that the node's state is now `status`, in upstream's words.
pub(crate) fn status_event(context: &Context, node: &Node, status: &str) {
    let message = format!("Node {} status is now: {status}", owner::name(&node.metadata));
    event(context, node, EventType::Normal, status, message);
}
