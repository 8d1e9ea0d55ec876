//! Small changes to new objects: DefaultTolerationSeconds, TaintNodesByCondition, PodTopologyLabels.

use serde_json::{Value, json};

use super::{Operation, Request, list_mut};
use crate::objects::{Objects, items, text};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Upstream's `--default-not-ready-toleration-seconds` and its twin.
const TOLERATION_SECONDS: i64 = 300;
/// Labels that a pod takes over from its node when it is bound.
const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// DefaultTolerationSeconds: pods stay five minutes on a node that is not ready or not reachable.
pub(super) fn tolerations(request: &mut Request<'_>) {
    if !request.is("", "pods") {
        return;
    }
    for key in [NOT_READY, UNREACHABLE] {
        let tolerated = items(request.object, "/spec/tolerations").iter().any(|toleration| {
            let (its_key, effect) = (text(toleration, "/key"), text(toleration, "/effect"));
            (its_key == key || its_key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            list_mut(&mut request.object["spec"], "tolerations").push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
}

/// TaintNodesByCondition: a new node takes no pods until it has been seen to be ready.
pub(super) fn taint_new_node(request: &mut Request<'_>) {
    if request.operation != Operation::Create || !request.is("", "nodes") {
        return;
    }
    let there = items(request.object, "/spec/taints")
        .iter()
        .any(|taint| text(taint, "/key") == NOT_READY && text(taint, "/effect") == "NoSchedule");
    if !there {
        if !request.object["spec"].is_object() {
            request.object["spec"] = json!({});
        }
        list_mut(&mut request.object["spec"], "taints")
            .push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}

/// PodTopologyLabels: the binding carries the node's zone and region, which the bind puts on the pod.
pub(super) fn topology_of_binding(request: &mut Request<'_>, objects: &Objects) {
    let binding = request.operation == Operation::Create
        && request.group.is_empty()
        && request.resource == "pods"
        && request.subresource == "binding";
    if !binding || text(request.object, "/target/name").is_empty() {
        return;
    }
    let Some(node) = objects.get("", "nodes", "", text(request.object, "/target/name")) else { return };
    for label in TOPOLOGY {
        if let Some(value @ Value::String(_)) = node["metadata"]["labels"].get(label) {
            request.object["metadata"]["labels"][label] = value.clone();
        }
    }
}
