//! Tests of whole decisions: short builders, one case per line.

mod decisions;
mod engine;
mod preemption;
mod properties;
mod queue;
mod scores;
mod shell;
mod volumes;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::*;

/// A node of `cpu` cores and `memory` (such as `8Gi`) for 110 pods.
pub(crate) fn node(name: &str, cpu: &str, memory: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "110"}}})
}

/// A waiting pod in namespace `ns`. An empty amount is left out.
pub(crate) fn pod(name: &str, cpu: &str, memory: &str) -> Value {
    let mut requests = serde_json::Map::new();
    for (resource, amount) in [("cpu", cpu), ("memory", memory)] {
        if !amount.is_empty() {
            requests.insert(resource.to_owned(), amount.into());
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "labels": {"app": "web"}},
        "spec": {"schedulerName": "default-scheduler",
            "containers": [{"name": "c", "image": "web:v1", "resources": {"requests": requests}}]}})
}

/// `object` with `change` merged in.
pub(crate) fn with(mut object: Value, change: Value) -> Value {
    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }
    merge(&mut object, change);
    object
}

pub(crate) fn on(pod: Value, node: &str) -> Value {
    with(pod, json!({"spec": {"nodeName": node}}))
}

pub(crate) fn facts(node: &Value) -> Arc<NodeFacts> {
    let node: Node = serde_json::from_value(node.clone()).unwrap();
    Arc::new(NodeFacts::from_node(&node))
}

pub(crate) fn info(pod: &Value) -> Arc<PodInfo> {
    let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
    Arc::new(PodInfo::from_pod(&pod))
}

pub(crate) fn snapshot(nodes: &[Value], pods: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.put_node(facts(node));
    }
    for pod in pods {
        snapshot.put_pod(info(pod));
    }
    assert_eq!(snapshot.faults(), Vec::<String>::new());
    snapshot
}

pub(crate) fn decision(snapshot: &Snapshot, pod: &Value) -> Decision {
    decide(snapshot, &info(pod), &Nothing, 0, &mut Cursor::default(), &mut fastrand::Rng::with_seed(7))
}

/// The node's name, or the message.
pub(crate) fn outcome(snapshot: &Snapshot, pod: &Value) -> String {
    match decision(snapshot, pod) {
        Decision::Place { node, .. } => node.to_string(),
        Decision::Wait(wait) => wait.message,
    }
}
