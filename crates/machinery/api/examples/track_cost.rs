//! What the tracking of managed fields costs per write: `cargo run --release -p podium-api --example track_cost`.
//!
//! Models the API benchmark's writes: creates of 2 KB pods, and a merge patch that changes one annotation of such a pod.
//! Prints microseconds per operation beside the cost of encoding and parsing the same object, which every write pays.
#![allow(clippy::print_stdout, missing_docs, reason = "a measurement")]

use std::time::Instant;

use podium_api::codec::{self, FieldValidation};
use podium_api::patch::apply::{self, Writer};
use podium_api::schema::by_name;
use serde_json::{Value, json};

const ROUNDS: u32 = 20_000;

fn measure(name: &str, mut work: impl FnMut()) {
    for _ in 0..ROUNDS / 10 {
        work();
    }
    let start = Instant::now();
    for _ in 0..ROUNDS {
        work();
    }
    println!("{name}: {:.2} us", start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
}

fn pod() -> Value {
    let env: Vec<Value> = (0..20)
        .map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "some value of a variable"}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "labels": {"app": "a", "tier": "b"},
            "annotations": {"note": "0", "padding": "x".repeat(300)}},
        "spec": {"containers": [{"name": "c", "image": "registry.example/image:1", "env": env,
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            "imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log"}],
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"},
        "status": {"phase": "Pending"},
    })
}

fn main() {
    let ty = by_name("core.v1.Pod").expect("pods are known");
    let writer =
        Writer { manager: "bench", subresource: "", now: "2026-01-01T00:00:00Z", reset: &[&["status"]] };
    let new = codec::check(pod(), ty, FieldValidation::Strict).expect("a pod").object;
    let mut live = new.clone();
    apply::track(&Value::Null, &mut live, ty, &writer);
    println!("{} bytes, {} with managed fields", new.to_string().len(), live.to_string().len());
    measure("clone", || drop(std::hint::black_box(new.clone())));
    measure("track a create (and a clone)", || {
        let mut object = new.clone();
        apply::track(&Value::Null, &mut object, ty, &writer);
        std::hint::black_box(object);
    });
    measure("clone with managed fields", || drop(std::hint::black_box(live.clone())));
    measure("track a patch (and a clone)", || {
        let mut object = live.clone();
        object["metadata"]["annotations"]["note"] = json!("1");
        apply::track(&live, &mut object, ty, &writer);
        std::hint::black_box(object);
    });
    for (name, object) in [("without", &new), ("with", &live)] {
        let text = object.to_string();
        measure(&format!("encode {name}"), || drop(std::hint::black_box(object.to_string())));
        measure(&format!("parse {name}"), || {
            drop(std::hint::black_box(serde_json::from_str::<Value>(&text).expect("our own text")));
        });
    }
}
