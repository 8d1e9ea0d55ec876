//! What budgets add up to.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelectorRequirement, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::decide::{Expected, Scales, disrupted, expected, healthy, stale_at, undisturbed, unmanaged};
use super::status::status;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, controlled_by, meta, pod, selector, time};

const LABELS: &[(&str, &str)] = &[("app", "web")];

fn budget(min: Option<IntOrString>, max: Option<IntOrString>) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: meta("budget"),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: min,
            max_unavailable: max,
            selector: Some(selector(LABELS)),
            unhealthy_pod_eviction_policy: None,
        }),
        status: None,
    }
}

fn member(name: &str) -> Pod {
    pod(name).labelled(LABELS).owned_by(controlled_by("apps/v1", "ReplicaSet", "web")).ready(1)
}

/// By the uid that pods know: whose number it is, and the number.
fn scales(known: &[(&str, &str, i32)]) -> Scales {
    known.iter().map(|(pods, uid, count)| ((*pods).to_owned(), ((*uid).to_owned(), *count))).collect()
}

#[test]
fn budgets_count_what_controllers_want() {
    let pods = [member("a"), member("b"), pod("loner").labelled(LABELS)];
    let percent = |text: &str| Some(IntOrString::String(text.to_owned()));
    let int = |number| Some(IntOrString::Int(number));
    // The loner is nobody's: that matters where it is counted what controllers want.
    for (case, budget, expected_pods, expected_healthy, unmanaged) in [
        ("a number needs no scale", budget(int(2), None), 3, 2, false),
        ("a percentage", budget(percent("50%"), None), 5, 3, true),
        ("at most missing", budget(None, int(1)), 5, 4, true),
        ("at most missing in percent, rounded up", budget(None, percent("30%")), 5, 3, true),
        ("more than there are", budget(None, int(9)), 5, 0, true),
    ] {
        let found = expected(&budget, pods.iter(), &scales(&[("web-uid", "web-uid", 5)])).unwrap();
        assert_eq!(found, Expected { pods: expected_pods, healthy: expected_healthy, unmanaged }, "{case}");
    }
    let unknown = expected(&budget(None, int(1)), pods.iter(), &Scales::new());
    assert_eq!(unknown, Err("a".to_owned()));
    assert!(expected(&budget(int(1), None), pods.iter(), &Scales::new()).is_ok());
    // While a Deployment goes from one ReplicaSet to another, both have pods.
    let next = member("c").owned_by(controlled_by("apps/v1", "ReplicaSet", "next"));
    let both = scales(&[("web-uid", "deployment", 5), ("next-uid", "deployment", 5)]);
    let found = expected(&budget(None, int(1)), pods.iter().chain([&next]), &both);
    assert_eq!(found.unwrap().pods, 5);
    let apart = scales(&[("web-uid", "web-uid", 5), ("next-uid", "next-uid", 2)]);
    let found = expected(&budget(None, int(1)), pods.iter().chain([&next]), &apart);
    assert_eq!(found.unwrap().pods, 7);
}

#[test]
fn evicted_pods_do_not_count_for_two_minutes() {
    let mut current = budget(Some(IntOrString::Int(1)), None);
    let pods = [member("a"), member("b"), member("c").deleting()];
    current.status = Some(PodDisruptionBudgetStatus {
        disrupted_pods: Some(BTreeMap::from([("a".to_owned(), time(100)), ("c".to_owned(), time(100))])),
        ..PodDisruptionBudgetStatus::default()
    });
    let (still, next) = disrupted(&current, pods.iter(), at(150));
    assert_eq!((still.keys().map(String::as_str).collect::<Vec<_>>(), next), (vec!["a"], Some(at(220))));
    assert_eq!(healthy(pods.iter(), &still), 1);
    let (still, _) = disrupted(&current, pods.iter(), at(221));
    assert_eq!(healthy(pods.iter(), &still), 2);
}

#[test]
fn the_status_allows_what_is_beyond_the_minimum() {
    let current = budget(Some(IntOrString::Int(1)), None);
    let expected = Expected { pods: 3, healthy: 2, unmanaged: false };
    let counted = |healthy| Some((expected, healthy, BTreeMap::new()));
    let allowed = |status: PodDisruptionBudgetStatus| {
        let condition = status.conditions.unwrap().remove(0);
        (status.disruptions_allowed.unwrap(), condition.status, condition.reason)
    };
    let text = |status: &str, reason: &str, number| (number, status.to_owned(), reason.to_owned());
    assert_eq!(
        allowed(status(&current, counted(3), None, at(1)).unwrap()),
        text("True", "SufficientPods", 1)
    );
    assert_eq!(
        allowed(status(&current, counted(1), None, at(1)).unwrap()),
        text("False", "InsufficientPods", 0)
    );
    assert_eq!(allowed(status(&current, None, Some("why"), at(1)).unwrap()), text("False", "SyncFailed", 0));
    let same = PodDisruptionBudget { status: status(&current, counted(3), None, at(1)), ..current };
    assert_eq!(status(&same, counted(3), None, at(9)), None);
}

#[test]
fn announcements_go_stale_unless_they_come_true() {
    let reason = |reason: &str| {
        member("a").condition("DisruptionTarget", "True", 100).edit(|pod| {
            let conditions = pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
            conditions.last_mut().unwrap().reason = Some(reason.to_owned());
        })
    };
    let evicted = || reason("EvictionByEvictionAPI");
    for (case, pod, expected) in [
        ("evicted", evicted(), Some(at(220))),
        ("never", member("a"), None),
        ("taken back", evicted().condition("DisruptionTarget", "False", 150), None),
        ("the kubelet's", reason("TerminationByKubelet"), None),
        ("in deletion", evicted().deleting(), None),
        ("ended", evicted().phase("Failed"), None),
    ] {
        assert_eq!(stale_at(&pod), expected, "{case}");
    }
    let taken_back = undisturbed(&evicted(), at(300));
    let condition = crate::pods::condition(&taken_back, "DisruptionTarget").unwrap();
    assert_eq!((condition.status.as_str(), &condition.reason), ("False", &None));
    assert_eq!(condition.last_transition_time, Some(time(300)));
    assert!(crate::pods::is_ready(&taken_back), "the other conditions stay");
}

#[tokio::test(start_paused = true)]
async fn an_eviction_that_came_to_nothing_is_taken_back_without_any_budget() {
    let api = FakeApi::default();
    let running = Running::start(&api, &["disruption-controller"]);
    for name in ["a", "b"] {
        api.create("/pods", &pod(name));
        api.edit("/pods", "ns", name, |pod| {
            pod["status"]["conditions"] = serde_json::json!([{"type": "DisruptionTarget", "status": "True",
                "reason": "EvictionByEvictionAPI", "lastTransitionTime": at(1_000_000).to_string()}]);
        });
    }
    let says = |api: &FakeApi, name: &str| {
        let pod: Pod = api.get("/pods", "ns", name).unwrap();
        crate::pods::condition(&pod, "DisruptionTarget").unwrap().status.clone()
    };
    crate::testing::pass(110).await;
    assert_eq!((says(&api, "a"), says(&api, "b")), ("True".to_owned(), "True".to_owned()));
    api.edit("/pods", "ns", "b", |pod| {
        pod["status"]["conditions"][0]["lastTransitionTime"] = at(1_000_110).to_string().into();
    });
    api.until("it is taken back", |_| {}, |api| says(api, "a") == "False").await;
    assert_eq!(says(&api, "b"), "True", "it was said again");
    api.until("that too", |_| {}, |api| says(api, "b") == "False").await;
    running.stop().await;
}

#[test]
fn a_selector_is_printed_as_go_does() {
    let mut current = budget(None, Some(IntOrString::Int(1)));
    let requirement = LabelSelectorRequirement {
        key: "tier".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec!["a".to_owned(), "b".to_owned()]),
    };
    let spec = current.spec.as_mut().unwrap();
    let selector = spec.selector.as_mut().unwrap();
    selector.match_expressions = Some(vec![requirement]);
    let expected = "(selector: &LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:\
                    []LabelSelectorRequirement{LabelSelectorRequirement{Key:tier,Operator:In,Values:[a b],},},}) were found";
    assert!(unmanaged(&current).contains(expected), "{}", unmanaged(&current));
}

#[tokio::test(start_paused = true)]
async fn a_budget_follows_its_pods() {
    let api = FakeApi::default();
    let set = ReplicaSet {
        metadata: meta("web"),
        spec: Some(ReplicaSetSpec {
            replicas: Some(3),
            selector: selector(LABELS),
            ..ReplicaSetSpec::default()
        }),
        status: None,
    };
    let stored = api.create("apps/replicasets", &set);
    api.create("policy/poddisruptionbudgets", &budget(None, Some(IntOrString::Int(1))));
    let running = Running::start(&api, &["disruption-controller"]);
    let allowed = |api: &FakeApi| {
        let budget: PodDisruptionBudget = api.get("policy/poddisruptionbudgets", "ns", "budget").unwrap();
        budget.status.map(|status| {
            (status.expected_pods.unwrap_or_default(), status.disruptions_allowed.unwrap_or_default())
        })
    };
    for name in ["a", "b", "c"] {
        let mut pod = member(name);
        let owner = &mut pod.metadata.owner_references.as_mut().unwrap()[0];
        owner.uid = stored["metadata"]["uid"].as_str().unwrap().to_owned();
        api.create("/pods", &pod);
    }
    api.until("one may go", FakeApi::run_pods, |api| allowed(api) == Some((3, 1))).await;
    api.edit("/pods", "ns", "a", |pod| pod["status"]["conditions"][0]["status"] = "False".into());
    api.until("none may go", |_| {}, |api| allowed(api) == Some((3, 0))).await;
    assert_eq!(api.events("UnmanagedPods"), Vec::<String>::new());
    api.create("/pods", &pod("loner").labelled(LABELS));
    api.until("one is nobody's", |_| {}, |api| !api.events("UnmanagedPods").is_empty()).await;
    let message = api.events("UnmanagedPods").remove(0);
    let begin = "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: web,},\
                 MatchExpressions:[]LabelSelectorRequirement{},}) were found to be unmanaged. As a result, ";
    assert!(message.starts_with(begin), "{message}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_counts_pods_of_any_kind_that_has_a_scale() {
    let api = FakeApi::default();
    let of = |name: &str, kind: &str, uid: &str| {
        member(name)
            .owned_by(OwnerReference { uid: uid.to_owned(), ..controlled_by("example.com/v1", kind, "own") })
    };
    let crew = json!({"apiVersion": "example.com/v1", "kind": "Crew",
        "metadata": {"name": "own", "namespace": "ns", "generation": 1}, "spec": {"replicas": 4}});
    let uid = api.create("example.com/crews", &crew)["metadata"]["uid"].as_str().unwrap().to_owned();
    api.create("policy/poddisruptionbudgets", &budget(None, Some(IntOrString::Int(1))));
    for name in ["a", "b", "c", "d"] {
        api.create("/pods", &of(name, "Crew", &uid));
    }
    let running = Running::start(&api, &["disruption-controller"]);
    let said = |api: &FakeApi| {
        let budget: PodDisruptionBudget = api.get("policy/poddisruptionbudgets", "ns", "budget").unwrap();
        let status = budget.status.unwrap_or_default();
        let condition = status.conditions.unwrap_or_default().pop();
        let (reason, message) = condition.map(|it| (it.reason, it.message)).unwrap_or_default();
        (status.disruptions_allowed.unwrap_or_default(), reason, message)
    };
    let says = |allowed, reason: &str, message: &str| (allowed, reason.to_owned(), message.to_owned());
    api.until("one may go", FakeApi::run_pods, |api| said(api) == says(1, "SufficientPods", "")).await;
    // A kind without a scale, and one that nobody serves: nothing may go, and why is said.
    for (kind, why) in [
        ("Loner", "loners.example.com does not implement the scale subresource"),
        ("Stranger", "no matches for kind \"Stranger\" in group \"example.com\""),
    ] {
        api.create("/pods", &of("x", kind, "some-uid"));
        api.until(kind, |_| {}, |api| said(api) == says(0, "SyncFailed", why)).await;
        api.delete("/pods", "ns", "x", "Background");
        api.end_pod("ns", "x");
        api.until("that one is gone", |_| {}, |api| said(api) == says(1, "SufficientPods", "")).await;
    }
    // Another life of the controller's name is not the pod's controller.
    api.delete("example.com/crews", "ns", "own", "Background");
    api.edit("/pods", "ns", "a", |pod| pod["metadata"]["labels"]["new"] = "label".into());
    let why = "found no controllers for pod \"a\"";
    api.until("it is gone", |_| {}, |api| said(api) == says(0, "SyncFailed", why)).await;
    let uid = api.create("example.com/crews", &crew)["metadata"]["uid"].as_str().unwrap().to_owned();
    api.settle().await;
    assert_eq!(said(&api), says(0, "SyncFailed", why));
    for name in ["a", "b", "c", "d"] {
        api.edit("/pods", "ns", name, |pod| {
            pod["metadata"]["ownerReferences"][0]["uid"] = uid.as_str().into();
        });
    }
    api.until("one may go again", |_| {}, |api| said(api) == says(1, "SufficientPods", "")).await;
    running.stop().await;
}
