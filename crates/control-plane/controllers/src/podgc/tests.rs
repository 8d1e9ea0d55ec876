//! Which pods are removed, and when.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSpec, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::{excess, is_out_of_service, is_unscheduled_and_terminating, last_words};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, meta, pod};

#[test]
fn the_lost_are_told_from_the_living() {
    assert!(is_unscheduled_and_terminating(&pod("p").deleting()));
    assert!(!is_unscheduled_and_terminating(&pod("p").deleting().on("n")));
    assert!(!is_unscheduled_and_terminating(&pod("p")));
    let off = |key: &str| Node {
        spec: Some(NodeSpec {
            taints: Some(vec![Taint { key: key.to_owned(), ..Taint::default() }]),
            ..NodeSpec::default()
        }),
        ..Node::default()
    };
    let marked = off("node.kubernetes.io/out-of-service");
    assert!(is_out_of_service(&pod("p").on("n").deleting(), &marked));
    assert!(!is_out_of_service(&pod("p").on("n"), &marked));
    assert!(!is_out_of_service(&pod("p").on("n").deleting(), &off("other")));
}

#[test]
fn the_evicted_and_the_oldest_go_first() {
    let ended = |name: &str, created: i64| Arc::new(pod(name).phase("Succeeded").created(created));
    let evicted = Arc::new(
        pod("evicted")
            .phase("Failed")
            .created(99)
            .edit(|it| it.status.as_mut().unwrap().reason = Some("Evicted".to_owned())),
    );
    let all = vec![ended("young", 50), ended("old", 1), evicted, ended("middle", 20)];
    let names =
        |pods: Vec<Arc<Pod>>| pods.iter().map(|it| it.metadata.name.clone().unwrap()).collect::<Vec<_>>();
    assert_eq!(names(excess(all.clone(), 2)), ["evicted", "old"]);
    assert_eq!(names(excess(all.clone(), 4)), Vec::<String>::new());
    assert_eq!(names(excess(all, 0)), Vec::<String>::new(), "0 keeps all");
}

#[test]
fn last_words_tell_why() {
    let words = last_words(&pod("p").ready(1), true);
    assert_eq!(words.condition.unwrap().reason.as_deref(), Some("DeletionByPodGC"));
    assert!(words.failed);
    assert!(last_words(&pod("p").ready(1), false).condition.is_none());
    assert!(!last_words(&pod("p").phase("Succeeded"), true).failed, "it ended well");
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_vanished_node_go_after_the_quarantine() {
    let api = FakeApi::default();
    api.create("/nodes", &Node { metadata: ObjectMeta { namespace: None, ..meta("n1") }, ..Node::default() });
    for name in ["stays", "goes"] {
        api.create("/pods", &pod(name));
        let node = if name == "stays" { "n1" } else { "n2" };
        api.edit("/pods", "ns", name, |pod| pod["spec"]["nodeName"] = node.into());
    }
    let running = Running::start(&api, &["pod-garbage-collector-controller"]);
    crate::testing::pass(35).await;
    assert_eq!(api.list::<Pod>("/pods").len(), 2, "n2 may still come");
    let going = |api: &FakeApi| {
        api.get::<Pod>("/pods", "ns", "goes")
            .is_none_or(|pod| crate::pods::is_terminating(&pod) && crate::pods::phase(&pod) == "Failed")
    };
    crate::testing::pass(10).await;
    api.until("it is removed", |_| {}, going).await;
    assert!(!crate::pods::is_terminating(&api.get::<Pod>("/pods", "ns", "stays").unwrap()));
    running.stop().await;
}
