//! When tainted devices end pods, and when they do not.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use serde_json::{Value, json};

use super::decide::decide;
use crate::metrics;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, pass, pod};

const CLAIMS: &str = "resource.k8s.io/resourceclaims";
const SLICES: &str = "resource.k8s.io/resourceslices";

fn slice(generation: i64, taints: &Value) -> Value {
    json!({"metadata": {"name": format!("s{generation}")}, "spec": {"driver": "d", "nodeName": "n",
        "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
        "devices": [{"name": "gpu-0", "taints": taints}, {"name": "gpu-1"}]}})
}

fn taint(effect: &str) -> Value {
    json!([{"key": "sick", "value": "very", "effect": effect, "timeAdded": at(1_000_000).to_string()}])
}

fn claim(user: &str, device: &str, tolerations: &Value) -> Value {
    json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {}, "status": {
        "allocation": {"devices": {"results": [
            {"request": "r", "driver": "d", "pool": "p", "device": device, "tolerations": tolerations}]}},
        "reservedFor": [{"resource": "pods", "name": "user", "uid": user}]}})
}

fn user() -> Pod {
    let claims = json!([{"name": "gpu", "resourceClaimName": "c"}]);
    pod("user")
        .on("n")
        .edit(|pod| pod.spec.as_mut().unwrap().resource_claims = serde_json::from_value(claims).unwrap())
}

#[test]
fn only_what_a_pod_uses_and_does_not_tolerate_ends_it() {
    let exists = |seconds: Option<i64>| {
        let mut toleration = json!({"operator": "Exists", "effect": "NoExecute"});
        if let Some(seconds) = seconds {
            toleration["tolerationSeconds"] = json!(seconds);
        }
        toleration
    };
    let ill = || vec![slice(1, &taint("NoExecute"))];
    let other_value = json!([{"key": "sick", "value": "a bit", "effect": "NoExecute"}]);
    for (case, pod, claim, slices, expected) in [
        ("tainted", user(), claim("user-uid", "gpu-0", &json!([])), ill(), Some(1_000_000)),
        ("another device", user(), claim("user-uid", "gpu-1", &json!([])), ill(), None),
        (
            "another effect",
            user(),
            claim("user-uid", "gpu-0", &json!([])),
            vec![slice(1, &taint("NoSchedule"))],
            None,
        ),
        ("reserved for another", user(), claim("x", "gpu-0", &json!([])), ill(), None),
        ("on no node", pod("user"), claim("user-uid", "gpu-0", &json!([])), ill(), None),
        ("going", user().deleting(), claim("user-uid", "gpu-0", &json!([])), ill(), None),
        (
            "tolerated",
            user(),
            claim("user-uid", "gpu-0", &json!([exists(None), exists(Some(5))])),
            ill(),
            None,
        ),
        (
            "for a while",
            user(),
            claim("user-uid", "gpu-0", &json!([exists(Some(60)), exists(Some(30))])),
            ill(),
            Some(1_000_030),
        ),
        ("something else is", user(), claim("user-uid", "gpu-0", &other_value), ill(), Some(1_000_000)),
        (
            "well since",
            user(),
            claim("user-uid", "gpu-0", &json!([])),
            vec![slice(1, &taint("NoExecute")), slice(2, &json!([]))],
            None,
        ),
    ] {
        let claim: Arc<ResourceClaim> = Arc::new(serde_json::from_value(claim).unwrap());
        let slices: Vec<Arc<ResourceSlice>> =
            slices.into_iter().map(|slice| Arc::new(serde_json::from_value(slice).unwrap())).collect();
        let when = decide(&pod, |_| Some(claim.clone()), |_, _| slices.clone());
        assert_eq!(when, expected.map(at), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_goes_when_its_time_is_up_unless_its_device_recovers() {
    let api = FakeApi::default();
    let running = Running::start(&api, &["device-taint-eviction-controller"]);
    let uid = api.create("/pods", &user())["metadata"]["uid"].as_str().unwrap().to_owned();
    let patient = json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
    api.create(CLAIMS, &claim(&uid, "gpu-0", &patient));
    api.create(SLICES, &slice(1, &taint("NoExecute")));
    pass(60).await;
    api.edit(SLICES, "", "s1", |slice| slice["spec"]["devices"][0]["taints"] = json!([]));
    let told = |api: &FakeApi| api.events("DeviceTaintManagerEviction");
    api.until("it is spared", |_| {}, |api| told(api) == ["Cancelling deletion"]).await;
    pass(600).await;
    let stored = |api: &FakeApi| api.get::<Pod>("/pods", "ns", "user");
    assert!(!crate::pods::is_terminating(&stored(&api).unwrap()));
    let counted = || (metrics::DEVICE_TAINT_DELETIONS.with([]).value(), late());
    let before = counted();
    // The cache does not learn what became of the pod, but is asked about it again.
    api.hold("/pods");
    api.edit(SLICES, "", "s1", |slice| slice["spec"]["devices"][0]["taints"] = taint("NoExecute"));
    api.until("it goes", |_| {}, |api| stored(api).is_none_or(|pod| crate::pods::is_terminating(&pod))).await;
    let gone = stored(&api).unwrap();
    let condition = crate::pods::condition(&gone, "DisruptionTarget").unwrap();
    assert_eq!(condition.reason.as_deref(), Some("DeletionByDeviceTaintManager"));
    assert_eq!(condition.message.as_deref(), Some("Device Taint manager: deleting due to NoExecute taint"));
    api.until("that is told", |_| {}, |api| told(api).contains(&"Marking for deletion".to_owned())).await;
    api.edit(SLICES, "", "s1", |slice| slice["spec"]["devices"][0]["taints"][0]["value"] = json!("dying"));
    api.settle().await;
    // The condition comes first, and looks like a pod that is to go.
    api.release("/pods");
    api.settle().await;
    // Other tests of this process count too; that it was done once is what the Event says.
    let after = counted();
    assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");
    assert_eq!(api.times_told("Marking for deletion"), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_condition_is_told_before_its_deletion_goes_once() {
    let api = FakeApi::default();
    let running = Running::start(&api, &["device-taint-eviction-controller"]);
    let uid = api.create("/pods", &user())["metadata"]["uid"].as_str().unwrap().to_owned();
    api.create(CLAIMS, &claim(&uid, "gpu-0", &json!([])));
    api.create(SLICES, &slice(1, &taint("NoExecute")));
    let goes = |api: &FakeApi| {
        api.get::<Pod>("/pods", "ns", "user").is_none_or(|pod| crate::pods::is_terminating(&pod))
    };
    api.until("it goes", |_| {}, goes).await;
    api.settle().await;
    assert_eq!(api.times_told("Marking for deletion"), 1);
    running.stop().await;
}

/// How many deletions have been timed.
fn late() -> u64 {
    let mut text = String::new();
    metrics::collect(&mut text);
    let row = "device_taint_eviction_controller_pod_deletion_duration_seconds_count ";
    text.lines().find_map(|line| line.strip_prefix(row)).map_or(0, |count| count.parse().unwrap())
}
