//! Claims of pods from their making to their end.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use serde_json::{Value, json};

use super::decide::{FINALIZER, Needs, decide, generate, reserved_for, tell};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, pod};

const CONTROLLER: &str = "resourceclaim-controller";
const CLAIMS: &str = "resource.k8s.io/resourceclaims";
const TEMPLATES: &str = "resource.k8s.io/resourceclaimtemplates";

fn template() -> ResourceClaimTemplate {
    serde_json::from_value(json!({"metadata": {"name": "t", "namespace": "ns"},
        "spec": {"metadata": {"labels": {"a": "b"}}, "spec": {"devices": {"requests": [
            {"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}}}))
    .unwrap()
}

fn user(name: &str) -> Pod {
    let claims = json!([{"name": "gpu", "resourceClaimTemplateName": "t"}]);
    pod(name).edit(|pod| pod.spec.as_mut().unwrap().resource_claims = serde_json::from_value(claims).unwrap())
}

fn claim(change: impl FnOnce(&mut Value)) -> ResourceClaim {
    let mut claim = serde_json::to_value(generate(&user("p"), "gpu", &template(), None)).unwrap();
    change(&mut claim);
    serde_json::from_value(claim).unwrap()
}

fn reservation(name: &str) -> Value {
    json!({"resource": "pods", "name": name, "uid": format!("{name}-uid")})
}

#[test]
fn generated_claims_are_named_after_pod_and_claim() {
    let made = claim(|_| {});
    assert!(made.metadata.name.as_deref().unwrap().starts_with("p-gpu-"), "{:?}", made.metadata.name);
    assert_eq!(made.metadata.annotations.unwrap()["resource.kubernetes.io/pod-claim-name"], "gpu");
    assert_eq!(made.metadata.labels.unwrap()["a"], "b");
    let other =
        generate(&user("p").edit(|pod| pod.metadata.uid = Some("x".to_owned())), "gpu", &template(), None);
    assert_ne!(made.metadata.name, other.metadata.name, "another life of the name has a claim of its own");
    let long = generate(&user(&"p".repeat(200)), &"c".repeat(63), &template(), Some(1));
    let name = long.metadata.name.unwrap();
    assert!(name.len() <= 63 && name.contains("pp-cc"), "{name}");
}

#[test]
fn claims_are_counted_by_what_they_are() {
    let by_hand = claim(|claim| claim["metadata"]["annotations"] = Value::Null);
    let extended = claim(|claim| {
        claim["metadata"]["annotations"]["resource.kubernetes.io/extended-resource-claim"] = json!("true");
        claim["status"] = json!({"allocation": {}});
    });
    let for_administrators =
        claim(|claim| claim["spec"]["devices"]["requests"][0]["exactly"]["adminAccess"] = json!(true));
    let mut out = String::new();
    tell(&mut out, &[claim(|_| {}), by_hand.clone(), extended, for_administrators, by_hand].map(Arc::new));
    let rows: Vec<_> = out.lines().filter_map(|row| row.strip_prefix("resourceclaim_controller_")).collect();
    assert_eq!(
        rows,
        [
            r#"resource_claims{allocated="false",admin_access="false",source=""} 2"#,
            r#"resource_claims{allocated="false",admin_access="false",source="resource_claim_template"} 1"#,
            r#"resource_claims{allocated="false",admin_access="true",source="resource_claim_template"} 1"#,
            r#"resource_claims{allocated="true",admin_access="false",source="extended_resource"} 1"#,
        ]
    );
}

#[test]
fn a_claim_is_let_go_when_its_last_user_is_gone() {
    let allocated = |users: &[&str], held: bool, going: bool| {
        claim(|claim| {
            let users: Vec<_> = users.iter().map(|name| reservation(name)).collect();
            claim["status"] = json!({"allocation": {}, "reservedFor": users});
            if held {
                claim["metadata"]["finalizers"] = json!([FINALIZER]);
            }
            if going {
                claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
        })
    };
    let outcome = |needs: &Needs| {
        let status = needs.status.as_ref().map_or("same".to_owned(), |status| {
            let users = status.reserved_for.as_ref().map_or(0, Vec::len);
            format!("{users} {}", if status.allocation.is_some() { "allocated" } else { "free" })
        });
        (status, needs.release, needs.delete)
    };
    let done = user("p").phase("Succeeded");
    for (case, claim, remaining, pod, expected) in [
        ("in use", allocated(&["p"], true, false), vec!["p"], Some(user("p")), ("same", false, false)),
        (
            "one of two is gone",
            allocated(&["p", "q"], true, false),
            vec!["q"],
            None,
            ("1 allocated", false, false),
        ),
        ("the last is gone", allocated(&["p"], true, false), vec![], None, ("0 free", true, false)),
        ("its pod has ended", allocated(&["p"], true, false), vec![], Some(done), ("0 free", true, true)),
        (
            "allocated by another",
            allocated(&["p"], false, false),
            vec![],
            None,
            ("0 allocated", false, false),
        ),
        ("deleted while allocated", allocated(&[], true, true), vec![], None, ("0 free", true, false)),
        ("deleted in use", allocated(&["p"], true, true), vec!["p"], None, ("same", false, false)),
        ("never used", allocated(&[], true, false), vec![], Some(user("p")), ("same", false, false)),
        (
            "of an earlier life",
            allocated(&[], true, false),
            vec![],
            Some(user("p").edit(|pod| pod.metadata.uid = Some("x".to_owned()))),
            ("same", false, true),
        ),
    ] {
        let remaining =
            remaining.iter().map(|name| serde_json::from_value(reservation(name)).unwrap()).collect();
        let needs = decide(&claim, remaining, pod.as_ref());
        let (status, release, delete) = outcome(&needs);
        assert_eq!((status.as_str(), release, delete), expected, "{case}");
    }
}

#[test]
fn only_a_claim_with_devices_and_room_is_reserved() {
    let with = |status: Value| claim(|claim| claim["status"] = status);
    let users = |count: usize| (0..count).map(|n| reservation(&format!("u{n}"))).collect::<Vec<_>>();
    assert_eq!(reserved_for(&with(json!({})), &user("p")), None);
    assert_eq!(
        reserved_for(&with(json!({"allocation": {}, "reservedFor": [reservation("p")]})), &user("p")),
        None
    );
    assert_eq!(reserved_for(&with(json!({"allocation": {}, "reservedFor": users(256)})), &user("p")), None);
    let status = reserved_for(&with(json!({"allocation": {}, "reservedFor": users(1)})), &user("p")).unwrap();
    assert_eq!(status.reserved_for.unwrap()[1].uid, "p-uid");
}

#[tokio::test(start_paused = true)]
async fn a_pod_gets_its_claim_and_the_claim_ends_with_it() {
    let api = FakeApi::default();
    let running = Running::start(&api, &[CONTROLLER]);
    api.create("/pods", &user("p"));
    let told = |api: &FakeApi| !api.events("FailedResourceClaimCreation").is_empty();
    api.until("it is told that the template is missing", |_| {}, told).await;
    let message = &api.events("FailedResourceClaimCreation")[0];
    assert!(message.starts_with("PodResourceClaim gpu: resource claim template \"t\": "), "{message}");
    // The caches show none of our writes, and still there is one claim.
    api.hold(CLAIMS);
    api.hold("/pods");
    api.create(TEMPLATES, &template());
    api.settle().await;
    api.release("/pods");
    let name = |api: &FakeApi| {
        let pod: Pod = api.get("/pods", "ns", "p")?;
        pod.status?.resource_claim_statuses?.first()?.resource_claim_name.clone()
    };
    api.until("the pod says which", |_| {}, |api| name(api).is_some()).await;
    api.settle().await;
    let claims: Vec<ResourceClaim> = api.list(CLAIMS);
    assert_eq!(claims.iter().map(|claim| claim.metadata.name.clone()).collect::<Vec<_>>(), [name(&api)]);
    api.release(CLAIMS);
    let name = name(&api).unwrap();
    // Placed by hand: nobody has reserved it.
    api.edit(CLAIMS, "ns", &name, |claim| {
        claim["metadata"]["finalizers"] = json!([FINALIZER]);
        claim["status"] = json!({"allocation": {}});
    });
    api.edit("/pods", "ns", "p", |pod| pod["spec"]["nodeName"] = json!("n"));
    let users = |api: &FakeApi| {
        let claim: Option<ResourceClaim> = api.get(CLAIMS, "ns", &name);
        claim.and_then(|claim| claim.status).and_then(|status| status.reserved_for).unwrap_or_default().len()
    };
    api.until("it is reserved", |_| {}, |api| users(api) == 1).await;
    api.edit("/pods", "ns", "p", |pod| pod["status"]["phase"] = json!("Succeeded"));
    api.until("it is gone", |_| {}, |api| api.list::<ResourceClaim>(CLAIMS).is_empty()).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_somebody_else_has_is_not_taken() {
    let api = FakeApi::default();
    let running = Running::start(&api, &[CONTROLLER]);
    api.create(TEMPLATES, &template());
    let created = api.create("/pods", &user("p"));
    let pod: Pod = serde_json::from_value(created).unwrap();
    api.settle().await;
    let first = generate(&pod, "gpu", &template(), None).metadata.name;
    let claims: Vec<ResourceClaim> = api.list(CLAIMS);
    assert_eq!(claims[0].metadata.name, first);
    // It is replaced by another's under its name.
    api.hold("/pods");
    let name = first.unwrap();
    api.delete(CLAIMS, "ns", &name, "Background");
    api.create(CLAIMS, &json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {}}));
    api.release("/pods");
    let renamed = |api: &FakeApi| {
        let pod: Pod = api.get("/pods", "ns", "p").unwrap();
        let statuses = pod.status.unwrap().resource_claim_statuses.unwrap();
        statuses.len() == 1 && statuses[0].resource_claim_name.as_ref() != Some(&name)
    };
    api.until("the pod has another", |_| {}, renamed).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn claims_that_are_asked_for_are_counted() {
    let counts = || {
        let mut text = String::new();
        crate::collect_metrics(&mut text);
        ["success", "failure"].map(|status| {
            let row = format!(
                "resourceclaim_controller_creates_total{{status=\"{status}\",admin_access=\"true\"}} "
            );
            text.lines().find_map(|line| line.strip_prefix(&row)).map_or(0, |count| count.parse().unwrap())
        })
    };
    // Only this test has claims of administrators.
    let mut own = serde_json::to_value(template()).unwrap();
    own["spec"]["spec"]["devices"]["requests"][0]["exactly"]["adminAccess"] = json!(true);
    let api = FakeApi::default();
    api.create(TEMPLATES, &own);
    let running = Running::start(&api, &[CONTROLLER]);
    api.refuse(CLAIMS, "no room");
    api.create("/pods", &user("p"));
    let told = |api: &FakeApi| !api.events("FailedResourceClaimCreation").is_empty();
    api.until("it is told", |_| {}, told).await;
    assert_eq!(counts()[0], 0);
    let failed: u64 = counts()[1];
    assert!(failed > 0);
    api.accept();
    api.until("it is made", |_| {}, |api| !api.list::<ResourceClaim>(CLAIMS).is_empty()).await;
    api.settle().await;
    running.stop().await;
    assert_eq!(counts()[0], 1);
}
