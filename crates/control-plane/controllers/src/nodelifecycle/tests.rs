//! When a node counts as lost, and what follows.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, NodeStatus, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use super::decide::{Decision, Observed, Rates, Zone, ZoneState, decide, zone_state};
use super::status;
use super::zones::{Fares, Zones};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, labels, meta, pod, time};

fn node(ready: &str) -> Node {
    Node {
        metadata: ObjectMeta { namespace: None, creation_timestamp: Some(time(0)), ..meta("n1") },
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus {
            conditions: (!ready.is_empty()).then(|| {
                ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
                    .map(|type_| NodeCondition {
                        type_: type_.to_owned(),
                        status: if type_ == "Ready" { ready } else { "False" }.to_owned(),
                        last_transition_time: Some(time(0)),
                        ..NodeCondition::default()
                    })
                    .to_vec()
            }),
            ..NodeStatus::default()
        }),
    }
}

fn taint(key: &str, effect: &str) -> Taint {
    Taint { key: format!("node.kubernetes.io/{key}"), effect: effect.to_owned(), ..Taint::default() }
}

fn tainted(mut node: Node, taints: &[Taint]) -> Node {
    node.spec.as_mut().unwrap().taints = Some(taints.to_vec());
    node
}

const WELL: Zone = Zone { state: ZoneState::Normal, nodes: 3, all_dark: false, last_eviction: None };

fn decided(node: &Node, zone: Zone, silent_for: i64) -> Decision {
    let seen =
        Observed { node, last_sign: at(1000), grace: Duration::from_secs(50), zone, rates: Rates::default() };
    decide(&seen, at(1000 + silent_for))
}

/// Keys and effects after the decision, without the common prefix.
fn taints(node: &Node, decision: &Decision) -> Vec<String> {
    let taints = decision.taints.clone().unwrap_or_else(|| crate::nodes::taints(node).to_vec());
    taints
        .iter()
        .map(|it| format!("{}:{}", it.key.trim_start_matches("node.kubernetes.io/"), it.effect))
        .collect()
}

#[test]
fn a_node_in_time_is_left_alone() {
    let decision = decided(&node("True"), WELL, 50);
    assert_eq!(decision, Decision { next_check: Some(at(1051)), ..Decision::default() });
}

#[test]
fn a_silent_node_becomes_unknown() {
    let decision = decided(&node("True"), WELL, 51);
    assert!(decision.lost && decision.taints.is_none(), "taints follow the stored status");
    let conditions = decision.status.unwrap().conditions.unwrap();
    assert_eq!(conditions.len(), 4);
    for condition in conditions {
        assert_eq!(condition.status, "Unknown");
        assert_eq!(condition.reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(condition.message.as_deref(), Some("Kubelet stopped posting node status."));
        assert_eq!(condition.last_transition_time, Some(time(1051)));
    }
    let never = decided(&node(""), WELL, 51);
    let condition = &never.status.unwrap().conditions.unwrap()[0];
    assert_eq!(condition.reason.as_deref(), Some("NodeStatusNeverUpdated"));
    assert!(!never.lost, "it was never there");
    let mut unknown = node("True");
    unknown.status = status::silent(&unknown, at(5));
    let decision = decided(&unknown, WELL, 100);
    assert!(decision.status.is_none() && decision.pods_not_ready);
}

#[test]
fn taints_follow_conditions() {
    let unschedulable = {
        let mut node = node("True");
        node.spec.as_mut().unwrap().unschedulable = Some(true);
        node
    };
    let pressed = {
        let mut node = node("True");
        node.status.as_mut().unwrap().conditions.as_mut().unwrap()[1].status = "True".to_owned();
        node
    };
    let own = Taint { key: "dedicated".to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
    let fresh = [taint("not-ready", "NoSchedule"), taint("not-ready", "NoExecute"), own];
    for (case, node, expected) in [
        ("ready", node("True"), vec![]),
        ("recovered", tainted(node("True"), &fresh), vec!["dedicated:NoExecute"]),
        ("not ready", node("False"), vec!["not-ready:NoSchedule", "not-ready:NoExecute"]),
        ("unknown", node("Unknown"), vec!["unreachable:NoSchedule", "unreachable:NoExecute"]),
        (
            "from not ready to unknown",
            tainted(node("Unknown"), &fresh),
            vec!["dedicated:NoExecute", "unreachable:NoSchedule", "unreachable:NoExecute"],
        ),
        ("cordoned", unschedulable, vec!["unschedulable:NoSchedule"]),
        ("under pressure", pressed, vec!["memory-pressure:NoSchedule"]),
        ("not heard of yet", node(""), vec![]),
    ] {
        let decision = decided(&node, WELL, 1);
        let after = taints(&node, &decision);
        assert_eq!(after, expected, "{case}");
    }
    let decision = decided(&node("Unknown"), WELL, 1);
    assert!(decision.evicts);
    assert!(decision.taints.unwrap().iter().all(|added| added.time_added == Some(time(1001))));
}

#[test]
fn older_labels_follow_the_stable_ones() {
    let (os, arch) = ("kubernetes.io/os", "kubernetes.io/arch");
    let (older_os, older_arch) = ("beta.kubernetes.io/os", "beta.kubernetes.io/arch");
    for (has, wanted) in [
        (labels(&[]), vec![]),
        (labels(&[(older_os, "linux")]), vec![]),
        (labels(&[(os, "linux"), (arch, "arm64")]), vec![(older_arch, "arm64"), (older_os, "linux")]),
        (labels(&[(os, "linux"), (older_os, "windows")]), vec![(older_os, "linux")]),
        (labels(&[(os, "linux"), (older_os, "linux")]), vec![]),
    ] {
        let mut node = node("True");
        node.metadata.labels = Some(has);
        let decision = decided(&node, WELL, 1);
        let set: Vec<_> = decision.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(set, wanted);
    }
}

#[test]
fn evictions_slow_down_and_stop_as_more_is_dark() {
    for (ready, not_ready, expected) in [
        (3, 0, ZoneState::Normal),
        (1, 1, ZoneState::Normal),
        (1, 2, ZoneState::Normal),
        (2, 3, ZoneState::PartialDisruption),
        (0, 1, ZoneState::FullDisruption),
    ] {
        assert_eq!(zone_state(ready, not_ready, &Rates::default()), expected, "{ready} {not_ready}");
    }
    let lost = node("Unknown");
    let evicted_at = |zone: Zone| {
        let decision = decided(&lost, zone, 1);
        (decision.evicts, decision.next_check)
    };
    let regular_check = Some(at(1051));
    let recently = Zone { last_eviction: Some(at(995)), ..WELL };
    let partial = Zone { state: ZoneState::PartialDisruption, ..WELL };
    assert_eq!(evicted_at(WELL), (true, regular_check));
    assert_eq!(evicted_at(recently), (false, Some(at(1005))), "one every ten seconds");
    assert_eq!(evicted_at(partial), (false, regular_check), "a small domain in trouble: nothing");
    assert_eq!(evicted_at(Zone { nodes: 51, ..partial }), (true, regular_check));
    let dark = Zone { state: ZoneState::FullDisruption, all_dark: true, ..WELL };
    assert_eq!(evicted_at(dark), (false, regular_check));
    let before =
        tainted(node("Unknown"), &[taint("unreachable", "NoSchedule"), taint("unreachable", "NoExecute")]);
    assert_eq!(
        taints(&before, &decided(&before, dark, 1)),
        ["unreachable:NoSchedule"],
        "and what was begun is undone"
    );
}

#[test]
fn domains_are_judged_as_their_nodes_come_and_go() {
    let mut zones = Zones::new(Rates::default());
    let mut put = |name: &str, zone: &str, ready: bool| {
        let mut concerned = zones.put(name, zone.to_owned(), ready, false);
        concerned.sort();
        (concerned.join(" "), zones.fares(zone))
    };
    let fares = |state, nodes, all_dark| Fares { state, nodes, all_dark };
    assert_eq!(put("a1", "a", true), (String::new(), fares(ZoneState::Normal, 1, false)));
    assert_eq!(put("b1", "b", false), ("b1".to_owned(), fares(ZoneState::FullDisruption, 1, false)));
    let dark = fares(ZoneState::FullDisruption, 1, true);
    assert_eq!(put("a1", "a", false), ("a1 b1".to_owned(), dark), "now nobody can judge any more");
    assert_eq!(put("a1", "a", false), (String::new(), dark), "nothing new");
    assert_eq!(put("b1", "b", true).0, "a1", "and with one of b ready it is a's trouble");
    assert_eq!(put("b1", "a", false).0, "a1 b1", "a node may move");
    zones.put("out", "a".to_owned(), false, true);
    assert_eq!(zones.fares("a").nodes, 2, "excluded nodes are not counted");
    zones.put("c1", "c".to_owned(), true, false);
    assert_eq!(
        zones.put("b1", "c".to_owned(), false, false),
        Vec::<String>::new(),
        "c is well, and a as dark as before"
    );
    zones.put("b1", "a".to_owned(), false, false);
    let mut concerned = zones.remove("c1");
    concerned.sort();
    assert_eq!(concerned, ["a1", "b1", "out"], "the last ready node is gone");
    zones.remove("a1");
    zones.remove("b1");
    assert_eq!(zones.fares("a"), fares(ZoneState::Normal, 0, false));
}

fn lease(renewed: i64) -> Lease {
    Lease {
        metadata: ObjectMeta { uid: None, namespace: Some("kube-node-lease".to_owned()), ..meta("n1") },
        spec: Some(LeaseSpec { renew_time: Some(MicroTime(at(renewed))), ..LeaseSpec::default() }),
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_renewing_is_lost_and_found_again() {
    let api = FakeApi::default();
    api.create("/nodes", &node("True"));
    let mut other = node("True");
    other.metadata.name = Some("n2".to_owned());
    api.create("/nodes", &other);
    api.create("coordination.k8s.io/leases", &lease(0));
    let running = Running::start(&api, &["node-lifecycle-controller", "taint-eviction-controller"]);
    let served = api.create("/pods", &pod("p"));
    assert!(served["metadata"]["name"].is_string());
    api.edit("/pods", "ns", "p", |stored| {
        let like = serde_json::to_value(pod("p").on("n1").ready(1)).unwrap();
        stored["spec"] = like["spec"].clone();
        stored["status"] = like["status"].clone();
    });
    let renew_both = |seconds: i64| {
        let renewed = serde_json::to_value(MicroTime(at(seconds))).unwrap();
        api.edit("coordination.k8s.io/leases", "kube-node-lease", "n1", |lease| {
            lease["spec"]["renewTime"] = renewed;
        });
        keep_other(&api, seconds);
    };
    for second in 1..10 {
        crate::testing::pass(10).await;
        renew_both(second);
    }
    let of = |api: &FakeApi, name: &str| api.get::<Node>("/nodes", "", name).unwrap();
    assert!(crate::nodes::is_ready(&of(&api, "n1")), "renewed in time for 90 seconds");
    for second in 10..17 {
        crate::testing::pass(10).await;
        keep_other(&api, second);
    }
    let lost = |api: &FakeApi| {
        let node = of(api, "n1");
        let keys: Vec<_> = crate::nodes::taints(&node).iter().map(|it| it.effect.as_str()).collect();
        status::readiness(&node) == "Unknown" && keys.contains(&"NoExecute") && keys.contains(&"NoSchedule")
    };
    api.until("the node is lost", |_| {}, lost).await;
    let unready =
        |api: &FakeApi| api.get::<Pod>("/pods", "ns", "p").is_none_or(|pod| !crate::pods::is_ready(&pod));
    api.until("its pod is not ready", |_| {}, unready).await;
    api.until(
        "its pod, which tolerates nothing, is deleted",
        |api| keep_other(api, 99),
        |api| api.get::<Pod>("/pods", "ns", "p").is_none_or(|pod| crate::pods::is_terminating(&pod)),
    )
    .await;
    api.edit("/nodes", "", "n1", |stored| {
        stored["status"] = serde_json::to_value(node("True").status).unwrap();
        stored["status"]["conditions"][0]["lastHeartbeatTime"] = serde_json::to_value(time(500)).unwrap();
    });
    api.until("the taints go", |_| {}, |api| crate::nodes::taints(&of(api, "n1")).is_empty()).await;
    api.until("events", |_| {}, |api| !api.events("TaintManagerEviction").is_empty()).await;
    assert_eq!(api.events("NodeNotReady")[0], "Node n1 status is now: NodeNotReady");
    assert_eq!(api.events("TaintManagerEviction"), ["Marking for deletion Pod ns/p"]);
    let mut text = String::new();
    crate::collect_metrics(&mut text);
    let name = "node_collector_update_node_health_duration_seconds";
    assert!(text.contains(&format!("{name}_bucket{{le=\"16.384\"}}")), "{text}");
    running.stop().await;
}

/// The second node keeps posting its status.
fn keep_other(api: &FakeApi, seconds: i64) {
    api.edit("/nodes", "", "n2", |node| {
        node["status"]["conditions"][0]["lastHeartbeatTime"] = serde_json::to_value(time(seconds)).unwrap();
    });
}
