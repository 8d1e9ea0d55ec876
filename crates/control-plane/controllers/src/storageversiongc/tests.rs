//! Whose records are forgotten, and when.

use k8s_openapi::api::apiserverinternal::v1alpha1::StorageVersion;
use serde_json::{Value, json};

use super::decide::{Decision, decide};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{at, time};

const COLLECTOR: &str = "storageversion-garbage-collector-controller";
const VERSIONS: &str = "internal.apiserver.k8s.io/storageversions";
const LEASES: &str = "coordination.k8s.io/leases";

/// Of servers and the versions that they write.
fn version(records: &[(&str, &str)]) -> Value {
    let records: Vec<Value> = records
        .iter()
        .map(|(server, encoding)| {
            json!({"apiServerID": server, "encodingVersion": encoding, "decodableVersions": [encoding]})
        })
        .collect();
    json!({"metadata": {"name": "apps.deployments", "generation": 3}, "spec": {}, "status": {"storageVersions": records}})
}

#[track_caller]
fn check(version: Value, gone: &[&str], common: Option<&str>, condition: (&str, &str, i64)) {
    let version: StorageVersion = serde_json::from_value(version).unwrap();
    let gone: Vec<_> = gone.iter().map(|it| (*it).to_owned()).collect();
    let Decision::Update(status) = decide(&version, &gone, at(9)) else { panic!("nothing to write") };
    assert_eq!(status.common_encoding_version.as_deref(), common);
    let conditions = status.conditions.unwrap();
    let [found] = &conditions[..] else { panic!("{conditions:?}") };
    assert_eq!(found.type_, "AllEncodingVersionsEqual");
    assert_eq!((&*found.status, &*found.reason), (condition.0, condition.1));
    assert_eq!(found.last_transition_time, Some(time(condition.2)));
    assert_eq!(found.observed_generation, Some(3));
    let left = status.storage_versions.unwrap();
    assert!(left.iter().all(|record| !gone.contains(&record.api_server_id)));
}

#[test]
fn those_that_are_left_agree_or_not() {
    let set = "CommonEncodingVersionSet";
    let three = [("a", "v1"), ("b", "v2"), ("c", "v2")];
    check(version(&three), &["a"], Some("v2"), ("True", set, 9));
    check(version(&three), &["c"], None, ("False", "CommonEncodingVersionUnset", 9));
    let with = |mut version: Value, common: &str| {
        version["status"]["commonEncodingVersion"] = json!(common);
        version["status"]["conditions"] = json!([{"type": "AllEncodingVersionsEqual", "status": "True",
            "reason": set, "message": "", "lastTransitionTime": at(5).to_string()}]);
        version
    };
    // The time is that of the last change, and another common version is one.
    check(with(version(&three), "v2"), &["a"], Some("v2"), ("True", set, 5));
    check(with(version(&three), "v1"), &["a"], Some("v2"), ("True", set, 9));
    let version: StorageVersion = serde_json::from_value(version(&three)).unwrap();
    assert_eq!(decide(&version, &["d".to_owned()], at(9)), Decision::Keep);
    let all = ["a", "b", "c"].map(str::to_owned);
    assert_eq!(decide(&version, &all, at(9)), Decision::Delete);
}

fn lease(name: &str, of: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "kube-system", "labels": {"apiserver.kubernetes.io/identity": of}}, "spec": {}})
}

fn left(api: &FakeApi) -> Option<Vec<String>> {
    let version: Option<StorageVersion> = api.get(VERSIONS, "", "apps.deployments");
    version.map(|it| super::decide::servers(&it))
}

#[tokio::test(start_paused = true)]
async fn records_go_with_their_servers_and_the_object_with_the_last() {
    let api = FakeApi::default();
    api.serve("internal.apiserver.k8s.io", &["v1alpha1"]);
    api.create(LEASES, &lease("a", "kube-apiserver"));
    api.create(LEASES, &lease("b", "kube-apiserver"));
    // Of the same name, but no API server's.
    api.create(LEASES, &lease("impostor", "kube-scheduler"));
    api.create(VERSIONS, &version(&[("a", "v1"), ("b", "v1"), ("impostor", "v1"), ("never", "v1")]));
    let running = Running::start(&api, &[COLLECTOR]);
    api.until("strangers are gone", |_| {}, |api| left(api).unwrap() == ["a", "b"]).await;
    // A server that the cache does not show yet is not gone.
    api.hold(LEASES);
    api.create(LEASES, &lease("c", "kube-apiserver"));
    api.edit(VERSIONS, "", "apps.deployments", |it| {
        it["status"]["storageVersions"] =
            version(&[("a", "v1"), ("b", "v2"), ("c", "v2")])["status"]["storageVersions"].take();
    });
    api.settle().await;
    assert_eq!(left(&api).unwrap(), ["a", "b", "c"]);
    api.release(LEASES);
    api.delete(LEASES, "kube-system", "a", "Background");
    api.until("one is gone", |_| {}, |api| left(api).unwrap() == ["b", "c"]).await;
    let stored: StorageVersion = api.get(VERSIONS, "", "apps.deployments").unwrap();
    assert_eq!(stored.status.unwrap().common_encoding_version.as_deref(), Some("v2"));
    api.delete(LEASES, "kube-system", "b", "Background");
    api.delete(LEASES, "kube-system", "c", "Background");
    api.until("all are gone", |_| {}, |api| left(api).is_none()).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn where_storage_versions_are_not_served_nothing_happens() {
    let api = FakeApi::default();
    api.create(VERSIONS, &version(&[("never", "v1")]));
    // Beside one whose work shows that the others run on.
    let running = Running::start(&api, &[COLLECTOR, "serviceaccount-controller"]);
    api.create("/namespaces", &crate::testing::namespace("ns"));
    let works = |api: &FakeApi| api.contains("/serviceaccounts", "ns", "default");
    api.until("others work", |_| {}, works).await;
    api.settle().await;
    assert_eq!(left(&api).unwrap(), ["never"]);
    running.stop().await;
}
