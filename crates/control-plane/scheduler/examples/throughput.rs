//! How many pods per second the engine decides and assumes, without an API: 5,000 nodes and 10,000
//! pods by default, as upstream's benchmark "basic" has.
//!
//! `cargo run --release -p podium-scheduler --example throughput [nodes] [pods]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use podium_scheduler::{Action, Engine, Event, NodeFacts, Nothing, PodInfo};
use serde_json::json;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>().expect("a number"));
    let nodes = arguments.next().unwrap_or(5_000);
    let pods = arguments.next().unwrap_or(10_000);
    let mut engine = Engine::new("default-scheduler", 0, 1);
    for number in 0..nodes {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": format!("node-{number}"), "labels": {"kubernetes.io/hostname": format!("node-{number}"),
                "topology.kubernetes.io/zone": format!("zone-{}", number % 3)}},
            "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
        }))
        .expect("a node");
        engine.apply(Event::Node(Arc::new(NodeFacts::from_node(&node))), Duration::ZERO);
    }
    let waiting: Vec<Pod> = (0..pods)
        .map(|number| {
            serde_json::from_value(json!({
                "metadata": {"name": format!("pod-{number}"), "namespace": "bench", "uid": format!("uid-{number}")},
                "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "image": "pause",
                    "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]},
            }))
            .expect("a pod")
        })
        .collect();
    let start = Instant::now();
    for pod in &waiting {
        engine.apply(Event::Pod(Arc::new(PodInfo::from_pod(pod))), start.elapsed());
    }
    let queued = start.elapsed();
    let mut placed = 0;
    while let Some(action) = engine.next(start.elapsed(), &Nothing) {
        let Action::Bind { pod, .. } = action else { panic!("every pod fits") };
        engine.bound(&pod.uid, true, start.elapsed());
        placed += 1;
    }
    let took = start.elapsed() - queued;
    assert_eq!(placed, pods, "every pod is placed before anything is timed");
    assert!(engine.snapshot().faults().is_empty());
    println!(
        "{nodes} nodes, {pods} pods: queued in {} ms, placed in {} ms, {:.0} pods/s",
        queued.as_millis(),
        took.as_millis(),
        placed as f64 / took.as_secs_f64()
    );
}
