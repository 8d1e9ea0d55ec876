//! Decisions about one ReplicaSet, and the controller against a server.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;

use super::Replicated;
use super::decide::{BURST, Decision, Observed, Scale, age_ratios, decide};
use super::status::status;
use crate::children::Target;
use crate::labels::Selector;
use crate::metrics;
use crate::names::CountedNames;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, controlled_by, labels, meta, pod, selector, template, time};

const LABELS: &[(&str, &str)] = &[("app", "web")];

fn set(replicas: i32) -> ReplicaSet {
    ReplicaSet {
        metadata: meta("web"),
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            selector: selector(LABELS),
            template: Some(template(LABELS, "v1")),
            min_ready_seconds: None,
        }),
        status: None,
    }
}

fn ours(name: &str) -> Pod {
    pod(name).labelled(LABELS).owned_by(controlled_by("apps/v1", "ReplicaSet", "web"))
}

fn decided(set: &ReplicaSet, pods: Vec<Pod>, caught_up: bool) -> Decision {
    decided_among(set, pods, Vec::new(), caught_up)
}

fn decided_among(set: &ReplicaSet, pods: Vec<Pod>, related: Vec<Pod>, caught_up: bool) -> Decision {
    let view = set.view();
    let selector = Selector::new(&view.selector).unwrap();
    let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    let related: Vec<_> = related.into_iter().map(Arc::new).collect();
    let deleted = HashSet::from(["known-gone-uid".to_owned()]);
    let seen = Observed {
        view: &view,
        selector: &selector,
        pods: &pods,
        related: &related,
        deleted: &deleted,
        caught_up,
    };
    decide(&seen, at(1000), &CountedNames::default())
}

fn deleted(decision: &Decision) -> Vec<&str> {
    match &decision.scale {
        Scale::Delete(targets) => targets.iter().map(|target| target.key.name.as_str()).collect(),
        _ => Vec::new(),
    }
}

fn created(decision: &Decision) -> usize {
    match &decision.scale {
        Scale::Create(names) => names.len(),
        _ => 0,
    }
}

#[test]
fn the_number_of_pods_is_made_right() {
    let many = |count: usize| (0..count).map(|index| ours(&format!("p{index}"))).collect::<Vec<_>>();
    for (case, replicas, pods, create, delete) in [
        ("none yet", 3, vec![], 3, 0),
        ("some missing", 3, many(1), 2, 0),
        ("right", 3, many(3), 0, 0),
        ("too many", 1, many(3), 0, 2),
        ("to nothing", 0, many(3), 0, 3),
        (
            "finished ones do not count",
            2,
            vec![ours("a").phase("Succeeded"), ours("b").phase("Failed")],
            2,
            0,
        ),
        ("deleted ones do not count", 2, vec![ours("a").deleting(), ours("b")], 1, 0),
        ("what we deleted does not count", 2, vec![ours("known-gone"), ours("b")], 1, 0),
        ("burst up", 2000, vec![], BURST, 0),
        ("burst down", 0, many(700), 0, BURST),
    ] {
        let decision = decided(&set(replicas), pods, true);
        assert_eq!((created(&decision), deleted(&decision).len()), (create, delete), "{case}");
    }
}

#[test]
fn names_are_prefixed_and_distinct() {
    let Scale::Create(names) = decided(&set(3), vec![], true).scale else { panic!("creates") };
    assert_eq!(names, ["web-bbbbb", "web-bbbbc", "web-bbbbd"]);
}

#[test]
fn a_stale_cache_and_deletion_stop_scaling_but_not_claims() {
    let orphan = || pod("o").labelled(LABELS);
    let stale = decided(&set(3), vec![orphan()], false);
    assert_eq!(stale.scale, Scale::Keep);
    assert_eq!(stale.adopt.len(), 1);
    let mut deleting = set(3);
    deleting.metadata.deletion_timestamp = Some(time(1));
    let decision = decided(&deleting, vec![orphan(), ours("a")], true);
    assert_eq!((decision.scale, decision.adopt.len()), (Scale::Keep, 0));
}

#[test]
fn ownership_follows_the_selector() {
    let other = controlled_by("apps/v1", "ReplicaSet", "other");
    let decision = decided(
        &set(2),
        vec![
            pod("orphan").labelled(LABELS),
            pod("foreign").labelled(LABELS).owned_by(other),
            pod("unlabelled"),
            ours("relabelled").labelled(&[("app", "other")]),
            pod("dying").labelled(LABELS).deleting(),
        ],
        true,
    );
    let names = |targets: &[crate::children::Target]| {
        targets.iter().map(|target| target.key.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&decision.adopt), ["orphan"]);
    assert_eq!(names(&decision.release), ["relabelled"]);
    assert_eq!(created(&decision), 1, "the adopted one counts");
}

/// Each pair: the first is deleted before the second.
#[test]
fn the_most_dispensable_go_first() {
    let running = |name: &str| ours(name).on("n").ready(500);
    let cost = |pod: Pod, cost: &str| {
        pod.edit(|pod| {
            pod.metadata.annotations = Some(labels(&[("controller.kubernetes.io/pod-deletion-cost", cost)]));
        })
    };
    let restarted = |pod: Pod, count: i32| {
        pod.edit(|pod| {
            let container =
                k8s_openapi::api::core::v1::ContainerStatus { restart_count: count, ..Default::default() };
            pod.status.as_mut().unwrap().container_statuses = Some(vec![container]);
        })
    };
    for (case, first, second) in [
        ("unassigned", ours("a"), ours("b").on("n")),
        ("pending", ours("a").on("n"), running("b")),
        ("unknown before running", ours("a").on("n").phase("Unknown"), ours("b").on("n").phase("Running")),
        ("not ready", ours("a").on("n").phase("Running"), running("b")),
        ("cheap", cost(running("a"), "-5"), running("b")),
        ("cost does not beat readiness", cost(ours("a").on("n").phase("Running"), "99"), running("b")),
        ("ready for less time", ours("a").on("n").ready(990), running("b")),
        ("restarted more", restarted(running("a"), 3), restarted(running("b"), 1)),
        ("younger", running("a").created(990), running("b").created(0)),
        ("by uid when the same age counts", running("a").created(400), running("b").created(300)),
    ] {
        for pods in [vec![first.clone(), second.clone()], vec![second.clone(), first.clone()]] {
            assert_eq!(deleted(&decided(&set(1), pods, true)), ["a"], "{case}");
        }
    }
}

#[test]
fn crowded_nodes_are_thinned_out() {
    let on = |name: &str, node: &str| ours(name).on(node).ready(500);
    let pods = vec![on("a", "quiet"), on("b", "busy"), on("c", "busy")];
    let decision = decided_among(&set(2), pods.clone(), pods, true);
    assert_eq!(deleted(&decision), ["b"]);
}

#[test]
fn pods_that_are_not_available_go_before_those_that_are() {
    let mut slow = set(1);
    slow.spec.as_mut().unwrap().min_ready_seconds = Some(100);
    let pods = vec![ours("a").on("n").ready(899), ours("b").on("n").ready(901)];
    assert_eq!(deleted(&decided(&slow, pods, true)), ["b"], "same power of two, and a has the lower uid");
}

fn status_of(set: &ReplicaSet, pods: Vec<Pod>, failure: Option<&str>) -> Option<ReplicaSetStatus> {
    let decision = decided(set, pods, true);
    status(&set.view(), &decision.active, decision.terminating, failure, decision.caught_up, at(1000))
}

#[test]
fn a_size_counts_as_observed_when_the_cache_shows_what_it_led_to() {
    let mut set = set(0);
    set.metadata.generation = Some(2);
    set.status = Some(ReplicaSetStatus {
        observed_generation: Some(1),
        terminating_replicas: Some(0),
        ..ReplicaSetStatus::default()
    });
    for (caught_up, observed) in [(false, Some(1)), (true, Some(2))] {
        let decision = decided(&set, vec![ours("a")], caught_up);
        let new = status(&set.view(), &decision.active, 0, None, caught_up, at(1000)).expect("a pod more");
        assert_eq!((new.observed_generation, new.replicas), (observed, 1), "{caught_up}");
    }
    assert!(status(&set.view(), &[], 0, None, false, at(1000)).is_none(), "nothing to say yet");
}

#[test]
fn the_status_counts() {
    let mut set = set(4);
    set.spec.as_mut().unwrap().min_ready_seconds = Some(10);
    set.spec.as_mut().unwrap().template = Some(template(&[("app", "web"), ("tier", "front")], "v1"));
    let full = |name: &str| ours(name).labelled(&[("app", "web"), ("tier", "front")]);
    let pods = vec![
        full("a").ready(1),
        full("b").ready(995),
        ours("c"),
        full("d").deleting(),
        full("e").phase("Failed"),
    ];
    let status = status_of(&set, pods.clone(), None).unwrap();
    assert_eq!(
        status,
        ReplicaSetStatus {
            replicas: 3,
            fully_labeled_replicas: Some(2),
            ready_replicas: Some(2),
            available_replicas: Some(1),
            terminating_replicas: Some(1),
            observed_generation: Some(1),
            conditions: None,
        }
    );
    set.status = Some(status);
    assert_eq!(status_of(&set, pods.clone(), None), None, "unchanged");
    set.metadata.generation = Some(2);
    assert_eq!(status_of(&set, pods, None).unwrap().observed_generation, Some(2));
}

#[test]
fn a_failure_is_a_condition_while_it_lasts() {
    let mut set = set(1);
    let failed = status_of(&set, vec![], Some("no quota")).unwrap();
    let condition = &failed.conditions.as_ref().unwrap()[0];
    assert_eq!(
        (
            condition.type_.as_str(),
            condition.status.as_str(),
            condition.reason.as_deref(),
            condition.message.as_deref()
        ),
        ("ReplicaFailure", "True", Some("FailedCreate"), Some("no quota"))
    );
    set.status = Some(failed);
    assert_eq!(status_of(&set, vec![], Some("other words")), None, "the first message stays");
    assert_eq!(status_of(&set, vec![], None).unwrap().conditions, None);
}

fn any_pod() -> impl Strategy<Value = Pod> {
    (0..40u32, 0..4u8, any::<bool>(), any::<bool>(), 0..1200i64).prop_map(
        |(id, phase, deleting, owned, since)| {
            let name = format!("p{id}");
            let pod = if owned { ours(&name) } else { pod(&name).labelled(LABELS) };
            let pod = match phase {
                0 => pod,
                1 => pod.on("n").ready(since),
                2 => pod.on("n").phase("Running"),
                _ => pod.phase("Failed"),
            };
            if deleting { pod.deleting() } else { pod }
        },
    )
}

proptest! {
    /// After what is decided is done there are exactly as many pods as wanted, no serving pod has gone while one that does not
    /// serve stays, and nothing is decided twice.
    #[test]
    fn one_step_reaches_the_goal(replicas in 0..30i32, pods in proptest::collection::vec(any_pod(), 0..30)) {
        let mut seen = std::collections::BTreeSet::new();
        let pods: Vec<Pod> = pods.into_iter().filter(|pod| seen.insert(pod.metadata.name.clone())).collect();
        let decision = decided(&set(replicas), pods, true);
        let wanted = usize::try_from(replicas).unwrap();
        let gone = deleted(&decision);
        prop_assert_eq!(decision.active.len() + created(&decision) - gone.len(), wanted);
        let ready = |gone_ones: bool| {
            decision.active.iter()
                .filter(|pod| gone.contains(&pod.metadata.name.as_deref().unwrap()) == gone_ones)
                .filter(|pod| crate::pods::is_ready(pod)).count()
        };
        let kept = decision.active.len() - gone.len();
        prop_assert!(ready(true) == 0 || ready(false) == kept, "a serving pod went although another did not serve");
    }
}

const CONTROLLER: &[&str] = &["replicaset-controller"];

#[test]
fn the_age_of_those_chosen_is_compared_with_the_youngest() {
    let ready = |name: &str, created: i64| ours(name).created(created).ready(created + 1);
    let pods = [ready("old", 0), ready("young", 900), ours("unready").created(990), ready("mid", 700)];
    let active: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
    let of = |chosen: &[usize]| {
        let chosen: Vec<_> = chosen.iter().map(|at| Target::of(&pods[*at])).collect();
        age_ratios(&active, &chosen, at(1_000))
    };
    assert_eq!(of(&[0, 2]), [10.0]);
    assert_eq!(of(&[1, 3]), [1.0, 3.0]);
    assert_eq!(of(&[0, 1, 2, 3]), [0.0; 0], "no choice");
    let newborn = [Arc::new(ready("newborn", 1_000)), Arc::new(ready("old", 0))];
    assert_eq!(age_ratios(&newborn, &[Target::of(&newborn[1])], at(1_000)), [0.0; 0]);
}

#[tokio::test(start_paused = true)]
async fn pods_are_created_replaced_and_deleted() {
    let api = FakeApi::default();
    api.create("apps/replicasets", &set(3));
    let running = Running::start(&api, CONTROLLER);
    let ready = |count: i32| {
        move |api: &FakeApi| {
            let set: ReplicaSet = api.get("apps/replicasets", "ns", "web").unwrap();
            set.status.unwrap_or_default().available_replicas == Some(count)
        }
    };
    api.until("three pods serve", FakeApi::run_pods, ready(3)).await;
    let pods: Vec<Pod> = api.list("/pods");
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|pod| pod.metadata.generate_name.as_deref() == Some("web-")));
    let victim = pods[0].metadata.name.clone().unwrap();
    api.delete("/pods", "ns", &victim, "Background");
    api.until("it is replaced", FakeApi::run_pods, |api| {
        let pods: Vec<Pod> = api.list("/pods");
        pods.len() == 3 && pods.iter().all(|pod| pod.metadata.name.as_ref() != Some(&victim)) && ready(3)(api)
    })
    .await;
    api.edit("apps/replicasets", "ns", "web", |set| set["spec"]["replicas"] = 1.into());
    api.until("two go", FakeApi::run_pods, |api| api.list::<Pod>("/pods").len() == 1 && ready(1)(api)).await;
    api.settle().await;
    assert_eq!(api.events("SuccessfulCreate").len(), 4);
    assert!(api.events("SuccessfulCreate").iter().all(|message| message.starts_with("Created pod: web-")));
    assert_eq!(api.events("SuccessfulDelete").len(), 2);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stale_cache_never_leads_to_more_pods() {
    let api = FakeApi::default();
    let running = Running::start(&api, CONTROLLER);
    api.settle().await;
    api.hold("/pods");
    api.create("apps/replicasets", &set(3));
    api.until("pods", |_| {}, |api| api.list::<Pod>("/pods").len() == 3).await;
    // Other tests of this process may count too.
    let put_off = || metrics::REPLICA_SETS_STALE.with(["", "pods"]).value();
    let before = put_off();
    // Whatever wakes the controller, it knows that its cache lags.
    for label in 0..5 {
        api.edit("apps/replicasets", "ns", "web", |set| {
            set["metadata"]["labels"] = serde_json::json!({"n": label.to_string()});
        });
        api.settle().await;
    }
    assert_eq!(api.list::<Pod>("/pods").len(), 3);
    assert!(put_off() >= before + 5, "{before} {}", put_off());
    api.release("/pods");
    api.until("the status follows", FakeApi::run_pods, |api| {
        let set: ReplicaSet = api.get("apps/replicasets", "ns", "web").unwrap();
        set.status.unwrap_or_default().available_replicas == Some(3)
    })
    .await;
    api.settle().await;
    assert_eq!(api.list::<Pod>("/pods").len(), 3);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_once_per_round_and_overcome() {
    let api = FakeApi::default();
    api.refuse("/pods", "exceeded quota");
    api.create("apps/replicasets", &set(40));
    let running = Running::start(&api, CONTROLLER);
    let failing = |api: &FakeApi| {
        let set: ReplicaSet = api.get("apps/replicasets", "ns", "web").unwrap();
        let conditions = set.status.and_then(|status| status.conditions).unwrap_or_default();
        conditions.first().and_then(|condition| condition.message.clone())
            == Some("exceeded quota".to_owned())
    };
    api.until("the condition", |_| {}, failing).await;
    api.until("the event", |_| {}, |api| !api.events("FailedCreate").is_empty()).await;
    assert_eq!(
        api.events("FailedCreate"),
        ["Error creating: exceeded quota"],
        "slow start asked for one pod only"
    );
    api.accept();
    api.until("all pods", FakeApi::run_pods, |api| api.list::<Pod>("/pods").len() == 40 && !failing(api))
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn orphans_are_adopted_and_strays_released() {
    let api = FakeApi::default();
    let orphan = Pod {
        metadata: ObjectMeta { uid: None, ..pod("orphan").labelled(LABELS).metadata },
        ..pod("orphan")
    };
    api.create("/pods", &orphan);
    let created = api.create("apps/replicasets", &set(1));
    let running = Running::start(&api, CONTROLLER);
    let owner = |api: &FakeApi| {
        let pod: Pod = api.get("/pods", "ns", "orphan").unwrap();
        pod.metadata.owner_references.and_then(|owners| owners.first().map(|owner| owner.uid.clone()))
    };
    let uid = created["metadata"]["uid"].as_str().map(str::to_owned);
    api.until("adoption", |_| {}, |api| owner(api) == uid).await;
    api.settle().await;
    assert_eq!(api.list::<Pod>("/pods").len(), 1, "the adopted pod is enough");
    api.edit("/pods", "ns", "orphan", |pod| pod["metadata"]["labels"] = serde_json::json!({"app": "debug"}));
    api.until(
        "release and replacement",
        |_| {},
        |api| owner(api).is_none() && api.list::<Pod>("/pods").len() == 2,
    )
    .await;
    running.stop().await;
}
