//! Scores by number: the formulas are upstream's, worked out by hand.

use podium_api::selector::LabelSelector;

use super::*;
use crate::score::{balanced, images, least_allocated};

#[test]
fn the_emptier_node_scores_higher() {
    // Requested with the pod: cpu 3000 of 4000, memory 5000 of 10000 -> (25 + 50) / 2.
    let one = snapshot(&[node("n", "4", "10000")], &[on(pod("a", "0", "0"), "n")]);
    assert_eq!(least_allocated(&info(&pod("p", "3", "5000")), &one.nodes()[0]), 37);
    // More than there is scores nothing for that resource.
    let full = snapshot(&[node("n", "4", "10000")], &[on(pod("a", "3", "9000"), "n")]);
    assert_eq!(least_allocated(&info(&pod("p", "3", "5000")), &full.nodes()[0]), 0);
    // Pods that request nothing count with an assumed 100m and 200Mi.
    let idle = snapshot(&[node("n", "1", "1000Mi")], &[]);
    assert_eq!(least_allocated(&info(&pod("p", "", "")), &idle.nodes()[0]), (90 + 80) / 2);
}

#[test]
fn a_pod_that_evens_out_a_node_scores_higher() {
    let uneven = snapshot(&[node("n", "4", "10000")], &[on(pod("a", "3", "0"), "n")]);
    let node = &uneven.nodes()[0];
    // Before: |0.75 - 0| / 2 = 0.375 -> 62. With memory 7500: 0 -> 100. 50 + (50 + 38) / 2.
    assert_eq!(balanced(&info(&pod("p", "0", "7500")), node), 94);
    // With cpu 1000: 0.5 -> 50. 50 + (50 - 12) / 2.
    assert_eq!(balanced(&info(&pod("p", "1", "0")), node), 69);
    assert_eq!(balanced(&info(&pod("p", "", "")), node), 0, "indifferent");
}

#[test]
fn images_that_are_there_count_by_size_and_spread() {
    let having = |name: &str, bytes: i64| {
        with(
            node(name, "4", "8Gi"),
            json!({"status": {"images": [{"names": ["web:v1", "web@sha256:0"], "sizeBytes": bytes}]}}),
        )
    };
    let mebibyte = 1i64 << 20;
    let nodes = [having("a", 523 * mebibyte), node("b", "4", "8Gi")];
    let one_of_two = snapshot(&nodes, &[]);
    let pod_ = info(&pod("p", "", ""));
    // 523 MiB on one of two nodes: 261.5 MiB; (261.5 - 23) / (1000 - 23) = 24 %.
    assert_eq!(images(&pod_, &one_of_two.nodes()[0], &one_of_two), 24);
    assert_eq!(images(&pod_, &one_of_two.nodes()[1], &one_of_two), 0);
    let everywhere = snapshot(&[having("a", 523 * mebibyte), having("b", 523 * mebibyte)], &[]);
    assert_eq!(images(&pod_, &everywhere.nodes()[0], &everywhere), 51);
    let untagged =
        with(pod("p", "", ""), json!({"spec": {"containers": [{"name": "c", "image": "host:5000/web"}]}}));
    assert_eq!(info(&untagged).images, ["host:5000/web:latest"]);
}

#[test]
fn preferences_decide_between_equal_nodes() {
    let preferring = with(
        pod("p", "", ""),
        json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}}]}}}}),
    );
    let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    let names = ["a", "b", "c"];
    let plain = names.map(|name| node(name, "4", "8Gi"));
    assert_eq!(outcome(&snapshot(&plain, &[]), &preferring), "b");
    let tainted = names.map(|name| {
        if name == "c" { node(name, "4", "8Gi") } else { with(node(name, "4", "8Gi"), soft.clone()) }
    });
    assert_eq!(outcome(&snapshot(&tainted, &[]), &pod("p", "", "")), "c");
    // Taints weigh 3, affinity 2.
    assert_eq!(outcome(&snapshot(&tainted, &[]), &preferring), "c");
    let near = with(
        pod("p", "", ""),
        json!({"spec": {"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100,
            "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}}]}}}}),
    );
    assert_eq!(outcome(&snapshot(&plain, &[on(pod("x", "", ""), "a")]), &near), "a");
}

/// What a Service or ReplicaSet selects is spread over hosts, without anybody asking for it.
#[test]
fn replicas_are_spread_over_equal_nodes() {
    struct Selected;
    impl Surroundings for Selected {
        fn default_selector(&self, _: &PodInfo) -> Option<LabelSelector> {
            LabelSelector::parse("app=web").ok()
        }
        fn namespace_labels(&self, _: &str) -> Option<Labels> {
            None
        }
        fn volumes(&self, _: &PodInfo) -> Volumes {
            Volumes::Ready(VolumeNeeds::default())
        }
    }
    let nodes: Vec<Value> = (0..5).map(|n| node(&format!("n{n}"), "64", "64Gi")).collect();
    let mut snapshot = snapshot(&nodes, &[]);
    let mut random = fastrand::Rng::with_seed(11);
    for number in 0..20 {
        let replica = info(&pod(&format!("p{number}"), "10m", "1Mi"));
        match decide(&snapshot, &replica, &Selected, 0, &mut Cursor::default(), &mut random) {
            Decision::Place { node, .. } => snapshot.assume(replica, &node),
            Decision::Wait(wait) => panic!("{}", wait.message),
        }
    }
    let counts: Vec<usize> = snapshot.nodes().iter().map(|node| node.pods.len()).collect();
    assert_eq!(counts, [4; 5]);
}

#[test]
fn equal_nodes_are_chosen_evenly_and_by_seed() {
    let nodes: Vec<Value> = (0..4).map(|n| node(&format!("n{n}"), "4", "8Gi")).collect();
    let snapshot = snapshot(&nodes, &[]);
    let waiting = info(&pod("p", "1", "1Gi"));
    let choices = |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut counts = [0; 4];
        for _ in 0..400 {
            match decide(&snapshot, &waiting, &Nothing, 0, &mut Cursor::default(), &mut random) {
                Decision::Place { node, .. } => counts[node[1..].parse::<usize>().unwrap()] += 1,
                Decision::Wait(wait) => panic!("{}", wait.message),
            }
        }
        counts
    };
    assert_eq!(choices(5), choices(5));
    assert!(choices(5).iter().all(|count| (60..140).contains(count)), "{:?}", choices(5));
}
