//! How long pods may stay.

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use serde_json::{Value, json};

use super::decide::{Decision, Since, decide, tolerates};
use crate::metrics;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, pass, pod};

fn taint(key: &str, value: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        value: Some(value.to_owned()).filter(|it| !it.is_empty()),
        effect: "NoExecute".to_owned(),
        time_added: None,
    }
}

fn toleration(key: &str, operator: &str, value: &str, seconds: Option<i64>) -> Toleration {
    let text = |text: &str| Some(text.to_owned()).filter(|it| !it.is_empty());
    Toleration {
        key: text(key),
        operator: text(operator),
        value: text(value),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: seconds,
    }
}

#[test]
fn tolerations_match_as_upstream_does() {
    for (case, operator, key, value, expected) in [
        ("equal", "Equal", "k", "v", true),
        ("equal by default", "", "k", "v", true),
        ("another value", "Equal", "k", "w", false),
        ("another key", "Exists", "l", "", false),
        ("exists", "Exists", "k", "", true),
        ("everything", "Exists", "", "", true),
        ("numbers only", "Gt", "k", "5", false),
    ] {
        assert_eq!(tolerates(&toleration(key, operator, value, None), &taint("k", "v")), expected, "{case}");
    }
    assert!(tolerates(&toleration("k", "Gt", "5", None), &taint("k", "7")));
    assert!(tolerates(&toleration("k", "Lt", "9", None), &taint("k", "7")));
    let mut other = toleration("k", "Exists", "", None);
    other.effect = Some("NoSchedule".to_owned());
    assert!(!tolerates(&other, &taint("k", "v")));
}

#[test]
fn the_shortest_time_wins() {
    let (first, second) = (taint("a", ""), taint("b", ""));
    let both = [Since { taint: &first, since: at(100) }, Since { taint: &second, since: at(200) }];
    let exists = |key: &str, seconds| toleration(key, "Exists", "", seconds);
    for (case, tolerations, expected) in [
        ("nothing tolerated", vec![], Decision::Leave(at(100))),
        ("one not tolerated", vec![exists("a", None)], Decision::Leave(at(200))),
        ("for ever", vec![exists("a", None), exists("b", None)], Decision::Stay),
        ("for a while", vec![exists("a", Some(300)), exists("b", None)], Decision::Leave(at(400))),
        ("the shorter", vec![exists("a", Some(300)), exists("b", Some(10))], Decision::Leave(at(210))),
        (
            "the first of two for one",
            vec![exists("a", Some(300)), exists("a", Some(5)), exists("b", None)],
            Decision::Leave(at(400)),
        ),
        ("the first is for ever", vec![exists("", None), exists("a", Some(5))], Decision::Stay),
        ("the first is for all", vec![exists("", Some(30)), exists("a", None)], Decision::Leave(at(130))),
        ("negative", vec![exists("", Some(-1))], Decision::Leave(at(100))),
    ] {
        let pod = pod("p").edit(|pod| pod.spec.as_mut().unwrap().tolerations = Some(tolerations));
        assert_eq!(decide(&pod, &both), expected, "{case}");
    }
    let late = pod("p")
        .created(500)
        .edit(|pod| pod.spec.as_mut().unwrap().tolerations = Some(vec![exists("", Some(60))]));
    assert_eq!(decide(&late, &both), Decision::Leave(at(560)), "its time begins with itself");
    let waited = late.clone().condition("PodScheduled", "True", 900);
    assert_eq!(decide(&waited, &both), Decision::Leave(at(960)), "or when it came to the node");
    let unbound = late.clone().condition("PodScheduled", "False", 900);
    assert_eq!(decide(&unbound, &both), Decision::Leave(at(560)), "nobody says when");
    assert_eq!(decide(&late, &[]), Decision::Stay);
    assert_eq!(decide(&pod("p").deleting(), &both), Decision::Stay, "it goes already");
}

#[tokio::test(start_paused = true)]
async fn pods_go_when_their_time_is_up_unless_their_node_recovers() {
    let api = FakeApi::default();
    let taint = |node: &str, taints: Value| {
        api.edit("/nodes", "", node, |node| node["spec"]["taints"] = taints.clone());
    };
    let sick = |value: &str| json!([{"key": "sick", "value": value, "effect": "NoExecute"}]);
    for node in ["n", "m"] {
        api.create("/nodes", &json!({"metadata": {"name": node}, "spec": {}}));
    }
    let with = |name: &str, seconds| {
        pod(name).on("n").edit(|pod| {
            pod.spec.as_mut().unwrap().tolerations = Some(vec![toleration("sick", "Exists", "", seconds)]);
        })
    };
    for pod in [with("patient", Some(300)), with("tough", None), pod("meek").on("n"), pod("far").on("m")] {
        api.create("/pods", &pod);
    }
    let running = Running::start(&api, &["taint-eviction-controller"]);
    api.settle().await;
    let goes = |api: &FakeApi, name: &str| {
        api.get::<Pod>("/pods", "ns", name).is_none_or(|pod| crate::pods::is_terminating(&pod))
    };
    let going = |api: &FakeApi| ["far", "meek", "patient", "tough"].map(|name| goes(api, name));
    taint("n", sick("a bit"));
    api.until("the meek goes at once", |_| {}, |api| goes(api, "meek")).await;
    pass(200).await;
    assert_eq!(going(&api), [false, true, false, false]);
    taint("n", json!([]));
    let spared = || api.times_told("Cancelling deletion of Pod ns/patient");
    api.until("the patient is spared", |_| {}, |_| spared() == 1).await;
    pass(600).await;
    assert_eq!(going(&api), [false, true, false, false]);
    let before = metrics::TAINT_DELETIONS.with([]).value();
    taint("n", sick("a bit"));
    pass(200).await;
    assert!(!goes(&api, "patient"), "its time begins anew");
    // The cache does not learn what became of the pod, but is asked about it again.
    api.hold("/pods");
    api.until("it goes", |_| {}, |api| goes(api, "patient")).await;
    taint("n", json!([{"key": "dead", "effect": "NoExecute"}]));
    api.until("the tough goes with its taint", |_| {}, |api| goes(api, "tough")).await;
    api.settle().await;
    api.release("/pods");
    api.settle().await;
    assert_eq!(going(&api), [false, true, true, true]);
    for name in ["meek", "patient", "tough"] {
        assert_eq!(api.times_told(&format!("Marking for deletion Pod ns/{name}")), 1, "{name}");
    }
    let gone: Pod = api.get("/pods", "ns", "patient").unwrap();
    let condition = crate::pods::condition(&gone, "DisruptionTarget").unwrap();
    assert_eq!(condition.reason.as_deref(), Some("DeletionByTaintManager"));
    // Other tests of this process count too.
    assert!(metrics::TAINT_DELETIONS.with([]).value() >= before + 2);
    running.stop().await;
}
