//! Filters and the messages they lead to.

use super::*;

const HELPLESS: &str = "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str = "no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";

/// One node and the pods on it, a pod, and the whole message.
#[track_caller]
fn refused(case: &str, nodes: &[Value], pods: &[Value], pod: &Value, reasons: &str, after: &str) {
    let snapshot = snapshot(nodes, pods);
    let expected = format!("0/{} nodes are available: {reasons}. {after}", nodes.len());
    assert_eq!(outcome(&snapshot, pod), expected, "{case}");
}

#[test]
fn of_three_nodes_with_2_4_and_6_gb_free_a_3_gb_pod_goes_to_the_third() {
    let nodes = ["first", "second", "third"].map(|name| node(name, "4", "8G"));
    let pods = [
        on(pod("a", "500m", "6G"), "first"),
        on(pod("b", "500m", "4G"), "second"),
        on(pod("c", "500m", "2G"), "third"),
    ];
    let snapshot = snapshot(&nodes, &pods);
    for (cpu, memory) in [("500m", "3G"), ("", "3G"), ("1", "3G")] {
        assert_eq!(outcome(&snapshot, &pod("p", cpu, memory)), "third", "{cpu} {memory}");
    }
    let too_much = outcome(&snapshot, &pod("p", "500m", "7G"));
    assert!(too_much.starts_with("0/3 nodes are available: 3 Insufficient memory. "), "{too_much}");
}

#[test]
fn each_filter_refuses_in_upstreams_words() {
    let plain = || node("n", "4", "8Gi");
    let spec = |spec: Value| with(pod("p", "", ""), json!({"spec": spec}));
    refused("cpu, ever", &[plain()], &[], &pod("p", "5", ""), "1 Insufficient cpu", HELPLESS);
    refused(
        "cpu, now",
        &[plain()],
        &[on(pod("a", "2", ""), "n")],
        &pod("p", "3", ""),
        "1 Insufficient cpu",
        NO_VICTIMS,
    );
    refused(
        "memory",
        &[plain()],
        &[on(pod("a", "", "6Gi"), "n")],
        &pod("p", "", "3Gi"),
        "1 Insufficient memory",
        NO_VICTIMS,
    );
    refused(
        "both",
        &[plain()],
        &[on(pod("a", "3", "6Gi"), "n")],
        &pod("p", "2", "3Gi"),
        "1 Insufficient cpu, 1 Insufficient memory",
        NO_VICTIMS,
    );
    let gpu = with(
        pod("p", "", ""),
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}}),
    );
    refused("extended", &[plain()], &[], &gpu, "1 Insufficient example.com/gpu", HELPLESS);
    let full = with(plain(), json!({"status": {"allocatable": {"pods": "1"}}}));
    refused("pods", &[full], &[on(pod("a", "", ""), "n")], &pod("p", "", ""), "1 Too many pods", NO_VICTIMS);
    let cordoned = with(plain(), json!({"spec": {"unschedulable": true}}));
    refused("cordoned", &[cordoned], &[], &pod("p", "", ""), "1 node(s) were unschedulable", HELPLESS);
    let tainted =
        with(plain(), json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}));
    refused("tainted", &[tainted], &[], &pod("p", "", ""), "1 node(s) had untolerated taint(s)", HELPLESS);
    refused(
        "selector",
        &[plain()],
        &[],
        &spec(json!({"nodeSelector": {"disk": "ssd"}})),
        "1 node(s) didn't match Pod's node affinity/selector",
        HELPLESS,
    );
    let port = |name: &str| {
        with(
            pod(name, "", ""),
            json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}}),
        )
    };
    refused(
        "host port",
        &[plain()],
        &[on(port("a"), "n")],
        &port("p"),
        "1 node(s) didn't have free ports for the requested pod ports",
        NO_VICTIMS,
    );
}

#[test]
fn nodes_declare_what_pods_need() {
    let declaring = |name: &str, features: Value| {
        with(node(name, "4", "8Gi"), json!({"status": {"declaredFeatures": features}}))
    };
    let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}});
    let restarts = |list: &str| {
        with(pod("p", "", ""), json!({"spec": {list: [{"name": "c", "restartPolicyRules": [rule.clone()]}]}}))
    };
    let nodes = [
        declaring("old", json!([])),
        declaring("new", json!(["ExtendWebSocketsToKubelet", "RestartAllContainersOnContainerExits"])),
    ];
    let all = snapshot(&nodes, &[]);
    for list in ["containers", "initContainers"] {
        assert_eq!(outcome(&all, &restarts(list)), "new", "{list}");
    }
    let text = "1 node(s) didn't match Pod's required features";
    refused("restarts", &nodes[..1], &[], &restarts("containers"), text, HELPLESS);
    let users = with(pod("p", "", ""), json!({"spec": {"hostNetwork": true, "hostUsers": false}}));
    refused("users", &nodes[1..], &[], &users, text, HELPLESS);
    // It is tried again when a node says that it can.
    let facts = |index: usize| all.nodes()[index].facts.clone();
    let at = |name: &str| (0..2).find(|index| &*facts(*index).name == name).unwrap();
    let change = |before, after| crate::hints::Change::NodeChanged {
        before: facts(at(before)),
        after: facts(at(after)),
    };
    let waiting = PodInfo::from_pod(&serde_json::from_value(restarts("containers")).unwrap());
    let by = [crate::filter::Plugin::NodeDeclaredFeatures].into_iter().collect();
    assert!(crate::hints::helps(&change("old", "new"), &waiting, by));
    assert!(!crate::hints::helps(&change("new", "old"), &waiting, by));
}

#[test]
fn a_pod_that_must_not_preempt_says_so() {
    let never = with(pod("p", "5", ""), json!({"spec": {"preemptionPolicy": "Never"}}));
    let message = outcome(&snapshot(&[node("n", "4", "8Gi")], &[]), &never);
    let expected = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.";
    assert_eq!(message, expected);
}

#[test]
fn reasons_are_counted_over_nodes_and_sorted_as_text() {
    let mut nodes: Vec<Value> = (0..10).map(|n| node(&format!("small-{n}"), "1", "8Gi")).collect();
    nodes.extend(
        (0..2).map(|n| {
            with(node(&format!("cordoned-{n}"), "4", "8Gi"), json!({"spec": {"unschedulable": true}}))
        }),
    );
    let message = outcome(&snapshot(&nodes, &[]), &pod("p", "2", ""));
    assert_eq!(
        message,
        "0/12 nodes are available: 10 Insufficient cpu, 2 node(s) were unschedulable. no new claims to deallocate, preemption: 0/12 nodes are available: 12 Preemption is not helpful for scheduling."
    );
}

#[test]
fn without_nodes_there_is_another_message() {
    assert_eq!(outcome(&Snapshot::default(), &pod("p", "", "")), "no nodes available to schedule pods");
}

#[test]
fn tolerations_open_tainted_and_cordoned_nodes() {
    let tainted = with(
        node("n", "4", "8Gi"),
        json!({"spec": {"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}),
    );
    let tolerant = with(pod("p", "", ""), json!({"spec": {"tolerations": [{"operator": "Exists"}]}}));
    assert_eq!(outcome(&snapshot(&[tainted], &[]), &tolerant), "n");
}

#[test]
fn a_daemon_pod_goes_to_the_node_it_names() {
    let daemon = |names: &[&str]| {
        with(
            pod("p", "2", ""),
            json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": names}]}]}}}}}),
        )
    };
    let nodes = ["a", "b", "c"].map(|name| node(name, "4", "8Gi"));
    let snapshot = snapshot(&nodes, &[on(pod("x", "3", ""), "c")]);
    assert_eq!(outcome(&snapshot, &daemon(&["b"])), "b");
    assert_eq!(
        outcome(&snapshot, &daemon(&["c"])),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
    );
    assert!(
        outcome(&snapshot, &daemon(&[]))
            .starts_with("0/3 nodes are available: pod affinity terms conflict. ")
    );
}

#[test]
fn hard_spreading_limits_the_skew() {
    let zoned = |name: &str, zone: &str| {
        with(node(name, "4", "8Gi"), json!({"metadata": {"labels": {"zone": zone}}}))
    };
    let spread = |name: &str| {
        with(
            pod(name, "", ""),
            json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}}),
        )
    };
    let nodes = [
        zoned("a1", "a"),
        zoned("a2", "a"),
        with(zoned("b1", "b"), json!({"status": {"allocatable": {"pods": "1"}}})),
    ];
    assert_eq!(outcome(&snapshot(&nodes, &[on(spread("x"), "a1")]), &spread("p")), "b1");
    let even = snapshot(&nodes, &[on(spread("x"), "a1"), on(spread("y"), "b1")]);
    assert!(outcome(&even, &spread("p")).starts_with('a'));
    let skewed = snapshot(&nodes, &[on(spread("x"), "a1"), on(spread("y"), "b1"), on(spread("z"), "a2")]);
    let message = outcome(&skewed, &spread("p"));
    assert!(
        message.starts_with(
            "0/3 nodes are available: 1 Too many pods, 2 node(s) didn't match pod topology spread constraints. "
        ),
        "{message}"
    );
    let unlabelled = snapshot(&[node("n", "4", "8Gi")], &[]);
    let message = outcome(&unlabelled, &spread("p"));
    assert!(
        message.starts_with(
            "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label). "
        ),
        "{message}"
    );
}

#[test]
fn pods_keep_away_from_each_other_and_come_together() {
    let term = |app: &str| json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]);
    let apart = |name: &str| {
        with(
            pod(name, "", ""),
            json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term("web")}}}}),
        )
    };
    let nodes = ["a", "b"].map(|name| node(name, "4", "8Gi"));
    let one = snapshot(&nodes, &[on(apart("x"), "a")]);
    assert_eq!(outcome(&one, &apart("p")), "b");
    assert_eq!(outcome(&one, &pod("p", "", "")), "b", "the pod that is there must be away from it");
    let both = snapshot(&nodes, &[on(apart("x"), "a"), on(pod("y", "", ""), "b")]);
    let message = outcome(&both, &apart("p"));
    assert!(
        message.starts_with("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules. "),
        "{message}"
    );
    let guarded = snapshot(&nodes, &[on(apart("x"), "a"), on(apart("y"), "b")]);
    let message = outcome(&guarded, &pod("p", "", ""));
    assert!(
        message.starts_with(
            "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules. "
        ),
        "{message}"
    );

    let together = |app: &str| {
        with(
            pod("p", "", ""),
            json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}}}}),
        )
    };
    let there = snapshot(&nodes, &[on(pod("x", "3", ""), "b")]);
    assert_eq!(outcome(&there, &together("web")), "b");
    let message = outcome(&there, &together("db"));
    assert!(
        message.starts_with("0/2 nodes are available: 2 node(s) didn't match pod affinity rules. "),
        "{message}"
    );
    assert!(
        ["a", "b"].contains(&outcome(&snapshot(&nodes, &[]), &together("web")).as_str()),
        "the first of a group"
    );
}

#[test]
fn volumes_keep_a_pod_waiting_or_near() {
    struct Answers(Volumes);
    impl Surroundings for Answers {
        fn default_selector(&self, _: &PodInfo) -> Option<podium_api::selector::LabelSelector> {
            None
        }
        fn namespace_labels(&self, _: &str) -> Option<Labels> {
            None
        }
        fn volumes(&self, _: &PodInfo) -> Volumes {
            self.0.clone()
        }
    }
    let claiming = with(
        pod("p", "", ""),
        json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}),
    );
    let nodes = ["a", "b"].map(|name| node(name, "4", "8Gi"));
    let snapshot = snapshot(&nodes, &[]);
    let decide = |volumes| {
        let answers = Answers(volumes);
        match decide(
            &snapshot,
            &info(&claiming),
            &answers,
            0,
            &mut Cursor::default(),
            &mut fastrand::Rng::with_seed(1),
        ) {
            Decision::Place { node, .. } => node.to_string(),
            Decision::Wait(wait) => wait.message,
        }
    };
    assert_eq!(
        decide(Volumes::Refused("persistentvolumeclaim \"c\" not found".into())),
        "0/2 nodes are available: persistentvolumeclaim \"c\" not found. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
    let only_b: k8s_openapi::api::core::v1::NodeSelectorTerm = serde_json::from_value(
        json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}),
    )
    .unwrap();
    let bound = |terms| Volumes::Ready(VolumeNeeds { bound: vec![terms], ..VolumeNeeds::default() });
    assert_eq!(decide(bound(vec![NodeTerm::from_wire(&only_b)])), "b");
    assert!(
        decide(bound(vec![])).starts_with(
            "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity. "
        )
    );
}

#[test]
fn large_clusters_are_looked_at_in_part_and_in_turn() {
    assert_eq!([50, 99, 100, 1000, 5000, 10_000].map(|nodes| enough(nodes, 0)), [50, 99, 100, 420, 500, 500]);
    assert_eq!([100, 1000].map(|nodes| enough(nodes, 20)), [100, 200]);
    let nodes: Vec<Value> = (0..300).map(|n| node(&format!("n{n}"), "4", "8Gi")).collect();
    let snapshot = snapshot(&nodes, &[]);
    let mut cursor = Cursor::default();
    let mut used = std::collections::BTreeSet::new();
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..60 {
        match decide(&snapshot, &info(&pod("p", "1", "1Gi")), &Nothing, 0, &mut cursor, &mut random) {
            Decision::Place { node, evaluated, feasible, .. } => {
                assert_eq!((evaluated, feasible), (144, 144));
                used.insert(node);
            }
            Decision::Wait(wait) => panic!("{}", wait.message),
        }
    }
    assert!(used.len() > 30, "only {} of 300 nodes in 60 placements", used.len());
}
