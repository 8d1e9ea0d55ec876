//! Who is waited for, and that it is told once.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::{Value, json};

use super::decide::{Decision, concerns, decide};
use crate::testing::api::{FakeApi, Running};

const EXPANDER: &str = "persistentvolume-expander-controller";
const WAITING: &str = "waiting for an external controller to expand this PVC";

fn claim(requested: &str, capacity: &str) -> Value {
    json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"},
        "spec": {"volumeName": "v", "resources": {"requests": {"storage": requested}}},
        "status": {"phase": "Bound", "capacity": {"storage": capacity}}})
}

fn volume(source: &str, claim: &str) -> Value {
    json!({"metadata": {"name": "v"}, "spec": {
        "claimRef": {"namespace": "ns", "name": "c", "uid": claim}, source: {}}})
}

fn read<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn external(message: &str, resizer: Option<&'static str>) -> Decision {
    Decision::External { message: message.to_owned(), resizer }
}

#[track_caller]
fn check(claim: Value, mut volume: Value, expected: &Decision) {
    // Sources have fields that must be there; none of them matters.
    for (source, field, value) in [
        ("csi", "driver", json!("d")),
        ("csi", "volumeHandle", json!("h")),
        ("hostPath", "path", json!("/x")),
        ("awsElasticBlockStore", "volumeID", json!("v")),
        ("vsphereVolume", "volumePath", json!("v")),
    ] {
        if volume["spec"][source].is_object() {
            volume["spec"][source][field] = value;
        }
    }
    assert_eq!(decide(&read(claim), &read::<PersistentVolume>(volume)), *expected);
}

#[test]
fn a_claim_waits_for_whoever_resizes_its_volume() {
    check(claim("1Gi", "1Gi"), volume("csi", "u"), &Decision::Nothing);
    check(claim("1Gi", "2Gi"), volume("csi", "u"), &Decision::Nothing);
    check(claim("1025Mi", "1Gi"), volume("csi", "u"), &external(WAITING, None));
    check(claim("2Gi", "1Gi"), volume("hostPath", "u"), &external(WAITING, None));
    check(claim("2Gi", "1Gi"), volume("csi", "another"), &Decision::NotBound);
    let told =
        "CSI migration enabled for kubernetes.io/aws-ebs; waiting for external resizer to expand the pvc";
    let moved = volume("awsElasticBlockStore", "u");
    check(claim("2Gi", "1Gi"), moved.clone(), &external(told, Some("ebs.csi.aws.com")));
    let mut known = claim("2Gi", "1Gi");
    known["metadata"]["annotations"] = json!({"volume.kubernetes.io/storage-resizer": "ebs.csi.aws.com"});
    check(known, moved, &external(told, None));
    let told = "CSI migration enabled for kubernetes.io/vsphere-volume; waiting for external resizer to expand the pvc";
    let moved = volume("vsphereVolume", "u");
    check(claim("2Gi", "1Gi"), moved, &external(told, Some("csi.vsphere.vmware.com")));
    // A node has the file system still to grow.
    let mut growing = volume("csi", "u");
    growing["metadata"]["annotations"] = json!({"volume.alpha.kubernetes.io/pre-resize-capacity": "1Gi"});
    check(claim("2Gi", "2Gi"), growing, &external(WAITING, None));
    // A name alone is not enough: the namespace must be the claim's.
    let mut elsewhere = volume("csi", "u");
    elsewhere["spec"]["claimRef"]["namespace"] = json!("other");
    check(claim("2Gi", "1Gi"), elsewhere, &Decision::NotBound);
}

#[test]
fn only_growth_of_bound_claims_is_looked_at() {
    let is = |old: Option<(&str, &str)>, new: (&str, &str)| {
        let old = old.map(|(requested, capacity)| read(claim(requested, capacity)));
        concerns(old.as_ref(), &read(claim(new.0, new.1)))
    };
    assert!(is(None, ("1Gi", "1Gi")));
    assert!(!is(Some(("1Gi", "1Gi")), ("1024Mi", "1Gi")));
    assert!(is(Some(("1Gi", "1Gi")), ("1.5Gi", "1Gi")));
    assert!(!is(Some(("2Gi", "1Gi")), ("1Gi", "1Gi")));
    assert!(is(Some(("2Gi", "1Gi")), ("2Gi", "2Gi")));
    let mut pending = claim("2Gi", "1Gi");
    pending["status"]["phase"] = json!("Pending");
    assert!(!concerns(None, &read(pending)));
}

const CLAIMS: &str = "/persistentvolumeclaims";

fn bound(api: &FakeApi, source: &Value) {
    let mut claim = claim("1Gi", "1Gi");
    claim["metadata"]["uid"] = Value::Null;
    let uid = api.create(CLAIMS, &claim)["metadata"]["uid"].clone();
    api.create(
        "/persistentvolumes",
        &json!({"metadata": {"name": "v"}, "spec": {
            "claimRef": {"namespace": "ns", "name": "c", "uid": uid},
            "awsElasticBlockStore": source["aws"], "csi": source["csi"]}}),
    );
}

fn grow(api: &FakeApi, to: &str) {
    api.edit(CLAIMS, "ns", "c", |claim| claim["spec"]["resources"]["requests"]["storage"] = json!(to));
}

#[tokio::test(start_paused = true)]
async fn growth_is_told_and_nothing_else_is_written() {
    let api = FakeApi::default();
    bound(&api, &json!({"csi": {"driver": "d", "volumeHandle": "h"}}));
    let running = Running::start(&api, &[EXPANDER]);
    api.settle().await;
    assert_eq!(api.events("ExternalExpanding"), [""; 0]);
    grow(&api, "2Gi");
    api.until("it is told", |_| {}, |api| api.events("ExternalExpanding") == [WAITING]).await;
    let events: Vec<Value> = api.list("/events");
    assert_eq!(events[0]["type"], "Normal");
    assert_eq!(events[0]["source"]["component"], "volume_expand");
    let claim: PersistentVolumeClaim = api.get(CLAIMS, "ns", "c").unwrap();
    assert_eq!(claim.metadata.annotations, None);
    let status = claim.status.unwrap();
    assert_eq!(status.capacity.unwrap()["storage"].0, "1Gi");
    assert_eq!((status.conditions, status.allocated_resources), (None, None));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_migrated_volume_is_handed_to_its_driver_once_the_volume_is_known() {
    let api = FakeApi::default();
    let running = Running::start(&api, &[EXPANDER]);
    api.settle().await;
    // The claim is seen to grow before its volume is seen at all.
    api.hold("/persistentvolumes");
    bound(&api, &json!({"aws": {"volumeID": "x"}}));
    grow(&api, "2Gi");
    api.settle().await;
    assert_eq!(api.events("ExternalExpanding"), [""; 0]);
    api.release("/persistentvolumes");
    let resizer = |api: &FakeApi| {
        let claim: PersistentVolumeClaim = api.get(CLAIMS, "ns", "c").unwrap();
        claim.metadata.annotations.unwrap_or_default().get("volume.kubernetes.io/storage-resizer").cloned()
    };
    api.until("it is handed over", |_| {}, |api| resizer(api).as_deref() == Some("ebs.csi.aws.com")).await;
    let told =
        "CSI migration enabled for kubernetes.io/aws-ebs; waiting for external resizer to expand the pvc";
    api.until("that is told", |_| {}, |api| api.events("ExternalExpanding") == [told]).await;
    running.stop().await;
}
