//! How long pods may stay.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::decide::{Decision, Since, decide, tolerates};
use crate::testing::{PodExt, at, pod};

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
