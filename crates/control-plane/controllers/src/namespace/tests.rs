//! What empties a namespace, and what its conditions say meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, NamespaceSpec, NamespaceStatus, Pod};
use podium_client::ResourcePath;
use serde_json::{Value, json};

use super::decide::{FINALIZER, Findings, Remaining, finalized, needs_emptying, patience, stages};
use super::status::status;
use crate::discovery::Served;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, namespace, pass, pod, time};

fn terminating(finalizers: &[&str]) -> Namespace {
    let mut namespace = namespace("n");
    namespace.metadata.deletion_timestamp = Some(time(100));
    let finalizers = finalizers.iter().map(|it| (*it).to_owned()).collect();
    namespace.spec = Some(NamespaceSpec { finalizers: Some(finalizers) });
    namespace
}

#[test]
fn only_our_own_hold_on_a_deleted_namespace_counts() {
    let mut alive = terminating(&[FINALIZER]);
    alive.metadata.deletion_timestamp = None;
    for (namespace, needs) in [
        (alive, false),
        (terminating(&[FINALIZER]), true),
        (terminating(&[FINALIZER, "other"]), true),
        (terminating(&["other"]), false),
        (terminating(&[]), false),
    ] {
        assert_eq!(needs_emptying(&namespace), needs, "{namespace:?}");
    }
    let left = finalized(&terminating(&[FINALIZER, "other"]));
    assert_eq!(left.spec.unwrap().finalizers.unwrap(), ["other"]);
}

fn served(group: &str, plural: &str, namespaced: bool, verbs: &[&str]) -> Served {
    Served {
        scalable: false,
        path: ResourcePath { group: group.to_owned(), version: "v1".to_owned(), plural: plural.to_owned() },
        versions: vec!["v1".to_owned()],
        kind: plural.to_owned(),
        namespaced,
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
    }
}

#[test]
fn pods_go_first_and_what_cannot_be_deleted_is_left_out() {
    let (pods, others) = stages(vec![
        served("", "configmaps", true, &["delete", "list"]),
        served("", "nodes", false, &["delete", "list"]),
        served("", "pods", true, &["delete", "list"]),
        served("metrics.k8s.io", "pods", true, &["get", "list"]),
        served("x.example", "pods", true, &["delete"]),
    ]);
    assert_eq!(pods.unwrap().path.group, "");
    let others: Vec<_> = others.iter().map(|it| (it.path.group.as_str(), it.path.plural.as_str())).collect();
    assert_eq!(others, [("", "configmaps"), ("x.example", "pods")]);
}

fn conditions(findings: &Findings) -> BTreeMap<String, (String, String, String)> {
    let status = status(&NamespaceStatus::default(), findings, at(0)).expect("new conditions");
    let text = |it: Option<String>| it.unwrap_or_default();
    status
        .conditions
        .unwrap()
        .into_iter()
        .map(|it| (it.type_, (it.status, text(it.reason), text(it.message))))
        .collect()
}

#[test]
fn conditions_name_what_holds_the_namespace() {
    let remaining = |resource: &str, objects, finalizers: &[(&str, usize)]| Remaining {
        resource: resource.to_owned(),
        objects,
        finalizers: finalizers.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
    };
    let all = conditions(&Findings {
        undiscovered: vec!["metrics.k8s.io/v1beta1: down".to_owned()],
        errors: vec!["b".to_owned(), "a".to_owned()],
        remaining: vec![
            remaining("pods.", 2, &[("x/y", 1)]),
            remaining("jobs.batch", 1, &[("x/y", 1), ("a/b", 1)]),
        ],
    });
    let of = |type_: &str| {
        let (status, reason, message) = &all[type_];
        (status.as_str(), reason.as_str(), message.as_str())
    };
    assert_eq!(all.len(), 5);
    assert_eq!(of("NamespaceDeletionDiscoveryFailure").1, "DiscoveryFailed");
    assert_eq!(
        of("NamespaceDeletionContentFailure"),
        ("True", "ContentDeletionFailed", "Failed to delete all resource types, 2 remaining: a, b")
    );
    assert_eq!(
        of("NamespaceContentRemaining"),
        (
            "True",
            "SomeResourcesRemain",
            "Some resources are remaining: jobs.batch has 1 resource instances, pods. has 2 resource instances"
        )
    );
    assert_eq!(
        of("NamespaceFinalizersRemaining"),
        (
            "True",
            "SomeFinalizersRemain",
            "Some content in the namespace has finalizers remaining: a/b in 1 resource instances, x/y in 2 resource instances"
        )
    );
    let good = conditions(&Findings::default());
    assert!(good.values().all(|(status, _, _)| status == "False"));
}

#[test]
fn unchanged_conditions_are_not_written_again() {
    let first = status(&NamespaceStatus::default(), &Findings::default(), at(0)).unwrap();
    assert!(status(&first, &Findings::default(), at(50)).is_none());
    let held = Findings {
        remaining: vec![Remaining { resource: "pods.".to_owned(), objects: 1, ..Remaining::default() }],
        ..Findings::default()
    };
    let second = status(&first, &held, at(50)).unwrap();
    let times: Vec<_> = second
        .conditions
        .unwrap()
        .into_iter()
        .map(|it| (it.type_, it.last_transition_time.unwrap().0))
        .collect();
    for (type_, time) in times {
        let changed = type_ == "NamespaceContentRemaining";
        assert_eq!(time, at(if changed { 50 } else { 0 }), "{type_}");
    }
}

#[test]
fn patience_follows_the_pods_grace() {
    let mut slow = pod("a");
    slow.spec.as_mut().unwrap().termination_grace_period_seconds = Some(30);
    let namespace = terminating(&[FINALIZER]);
    assert_eq!(patience(&namespace, [&slow], at(100)), Duration::from_secs(16));
    assert_eq!(patience(&namespace, [&slow], at(120)), Duration::from_secs(6));
    assert_eq!(patience(&namespace, [&slow], at(130)), Duration::from_secs(8), "overdue: as for finalizers");
    assert_eq!(patience(&namespace, [], at(100)), Duration::from_secs(8));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_says_what_holds_it_and_goes_when_nothing_does() {
    const MAPS: &str = "/configmaps";
    let api = FakeApi::default();
    let map = |namespace: &str, name: &str, finalizers: Value| json!({"metadata": {"name": name, "namespace": namespace, "finalizers": finalizers}});
    for name in ["gone", "other"] {
        api.create("/namespaces", &namespace(name));
        api.create(MAPS, &map(name, "plain", json!([])));
        api.create("/pods", &pod("p").edit(|pod| pod.metadata.namespace = Some(name.to_owned())));
    }
    api.create(MAPS, &map("gone", "held", json!(["example.com/hold"])));
    let running = Running::start(&api, &["namespace-controller"]);
    api.settle().await;
    assert_eq!(api.list::<ConfigMap>(MAPS).len(), 3, "nobody has deleted anything");
    api.delete("/namespaces", "", "gone", "Background");
    let condition = |api: &FakeApi, type_: &str| {
        let namespace: Namespace = api.get("/namespaces", "", "gone")?;
        let found = namespace.status?.conditions?.into_iter().find(|it| it.type_ == type_)?;
        Some((found.status, found.message.unwrap_or_default()))
    };
    let says = |api: &FakeApi, type_: &str, text: &str| {
        condition(api, type_).is_some_and(|(status, message)| status == "True" && message.contains(text))
    };
    api.until(
        "it says what holds it",
        |_| {},
        |api| {
            says(api, "NamespaceFinalizersRemaining", "example.com/hold in 1 resource instances")
                && says(api, "NamespaceContentRemaining", "configmaps. has 1 resource instances")
        },
    )
    .await;
    let left = |api: &FakeApi, namespace: &str| {
        let maps: Vec<ConfigMap> = api.list(MAPS);
        let of = maps.into_iter().filter(|map| map.metadata.namespace.as_deref() == Some(namespace));
        of.filter_map(|map| map.metadata.name).collect::<Vec<_>>()
    };
    assert_eq!(left(&api, "gone"), ["held"]);
    assert!(api.get::<Pod>("/pods", "gone", "p").is_none());
    pass(3600).await;
    assert_eq!(left(&api, "gone"), ["held"], "nobody takes another's hold away");
    api.edit(MAPS, "gone", "held", |map| map["metadata"]["finalizers"] = json!([]));
    api.until("it goes", |_| {}, |api| api.get::<Namespace>("/namespaces", "", "gone").is_none()).await;
    api.settle().await;
    assert_eq!((left(&api, "gone"), left(&api, "other")), (vec![], vec!["plain".to_owned()]));
    assert!(api.get::<Pod>("/pods", "other", "p").is_some());
    running.stop().await;
}
