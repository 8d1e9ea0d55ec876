//! Addresses of Services: what is refused, what a change of type keeps, blocks that are added, and repair.

use std::time::Duration;

use podium_store::{KeyRange, WatchOptions, WatchStart};
use serde_json::{Value, json};

use crate::support::{Server, call};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const BLOCKS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn service(name: &str, mut spec: Value) -> Value {
    if spec["ports"].is_null() {
        spec["ports"] = json!([{"port": 80}]);
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

/// Reads until what is read is as wanted, again after each change in the store.
async fn until(server: &Server, uri: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let start = WatchStart::Now;
    let mut watcher = server.store.watch(KeyRange::all(), start, WatchOptions::default()).unwrap();
    let mut last = Value::Null;
    let waiting = async {
        loop {
            last = call(server, "GET", uri, Value::Null).await.json();
            if wanted(&last) {
                return last.clone();
            }
            watcher.next().await.unwrap();
        }
    };
    match tokio::time::timeout(Duration::from_secs(60), waiting).await {
        Ok(found) => found,
        Err(_) => panic!("{uri} never got as wanted"),
    }
}

#[tokio::test]
async fn what_a_type_has_no_use_for_is_refused() {
    let server = Server::start().await;
    for (spec, fault) in [
        (
            json!({"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.0.9"}),
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
        ),
        (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
        (
            json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30001}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"type": "LoadBalancer", "healthCheckNodePort": 30001}),
            "spec.healthCheckNodePort: Invalid value: 30001: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
        (
            json!({"clusterIPs": ["10.96.0.9"]}),
            "spec.clusterIPs: Invalid value: [\"10.96.0.9\"]: must be empty when `clusterIP` is not specified",
        ),
        (
            json!({"clusterIP": "10.96.0.0"}),
            "spec.clusterIPs: Invalid value: [\"10.96.0.0\"]: failed to allocate IP 10.96.0.0: the provided IP (10.96.0.0) is not in the valid range. The range of valid IPs is 10.96.0.0/16",
        ),
    ] {
        let answer = call(&server, "POST", SERVICES, service("a", spec)).await;
        let expected = format!("Service \"a\" is invalid: {fault}");
        assert_eq!((answer.status, answer.json()["message"].as_str()), (422, Some(expected.as_str())));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_service_that_becomes_a_name_lets_go_and_gets_an_address_again() {
    let server = Server::start().await;
    let made = call(&server, "POST", SERVICES, service("a", json!({"type": "NodePort"}))).await.json();
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let path = format!("{SERVICES}/a");
    let name = json!({"spec": {"type": "ExternalName", "externalName": "a.b"}});
    let named = call(&server, "PATCH", &path, name).await;
    assert_eq!(named.status, 200, "{}", named.text());
    let spec = &named.json()["spec"];
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert!(spec[field].is_null(), "{spec}");
    }
    assert!(spec["ports"][0]["nodePort"].is_null(), "{spec}");
    let at = format!("{ADDRESSES}/{address}");
    assert_eq!(call(&server, "GET", &at, Value::Null).await.status, 404, "it is given back");
    let again = json!({"spec": {"type": "ClusterIP", "externalName": null}});
    let again = call(&server, "PATCH", &path, again).await;
    assert_eq!(again.status, 200, "{}", again.text());
    let given = again.json()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert_eq!(call(&server, "GET", &format!("{ADDRESSES}/{given}"), Value::Null).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn addresses_come_from_every_block_that_is_ready() {
    let server = Server::start().await;
    let block = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/24"]}});
    assert_eq!(call(&server, "POST", BLOCKS, block).await.status, 201);
    let wanted = || service("a", json!({"clusterIP": "10.200.0.9"}));
    let early = call(&server, "POST", SERVICES, wanted()).await;
    assert_eq!(early.status, 422, "nobody has said that the block is ready");
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let ready = call(&server, "PATCH", &format!("{BLOCKS}/more/status"), ready).await;
    assert_eq!(ready.status, 200, "{}", ready.text());
    let made = call(&server, "POST", SERVICES, wanted()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    server.stop().await;
}

#[tokio::test]
async fn an_address_that_somebody_removes_is_made_again() {
    let server = Server::start().await;
    let made = call(&server, "POST", SERVICES, service("a", json!({}))).await.json();
    let address = made["spec"]["clusterIP"].as_str().unwrap();
    let path = format!("{ADDRESSES}/{address}");
    let first = call(&server, "GET", &path, Value::Null).await.json();
    call(&server, "DELETE", &path, Value::Null).await;
    let again = until(&server, &path, |it| it["metadata"]["uid"].is_string()).await;
    assert_ne!(again["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(again["spec"], first["spec"]);
    let events = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Da";
    let told = until(&server, events, |it| !it["items"].as_array().unwrap().is_empty()).await;
    let event = &told["items"][0];
    assert_eq!((&event["reason"], &event["type"]), (&json!("ClusterIPNotAllocated"), &json!("Warning")));
    let why = format!("Cluster IP [IPv4]: {address} is not allocated; repairing");
    assert_eq!(event["message"], why);
    assert_eq!(event["reportingComponent"], "ipallocator-repair-controller");
    // An address whose Service is removed with it is not.
    call(&server, "DELETE", &format!("{SERVICES}/a"), Value::Null).await;
    until(&server, &path, |it| it["code"] == 404).await;
    server.stop().await;
}

#[tokio::test]
async fn what_a_start_finds_wrong_is_put_right() {
    let server = Server::start().await;
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]});
    let made = call(&server, "POST", SERVICES, service("a", spec)).await.json();
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let orphan = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": "10.96.77.7", "creationTimestamp": "2026-01-01T00:00:00Z", "uid": "u",
            "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io", "ipaddress.kubernetes.io/ip-family": "IPv4"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "gone"}},
    });
    let (store, directory) = (server.store.clone(), server.directory.clone());
    let kept = tempfile::tempdir().unwrap();
    let pki = directory.join("pki");
    for file in std::fs::read_dir(&pki).unwrap() {
        let file = file.unwrap();
        std::fs::create_dir_all(kept.path().join("pki")).unwrap();
        std::fs::copy(file.path(), kept.path().join("pki").join(file.file_name())).unwrap();
    }
    server.stop().await;
    // What a crash between two writes would leave elsewhere.
    let key = |text: String| podium_store::Key::from(text);
    for name in [
        format!("/registry/networking.k8s.io/ipaddresses/{address}"),
        "/registry/allocations.podium/nodeports/30001".to_owned(),
    ] {
        store.commit(key(name), podium_store::Expect::Exists, podium_store::Change::Delete).await.unwrap();
    }
    let stray = podium_store::Change::put(orphan.to_string().as_str());
    let at = key("/registry/networking.k8s.io/ipaddresses/10.96.77.7".to_owned());
    store.commit(at, podium_store::Expect::Absent, stray).await.unwrap();
    let path = kept.path().to_owned();
    let server = Server::start_over(&path, Some(kept), store, 0, |_| {}).await;
    until(&server, &format!("{ADDRESSES}/{address}"), |it| it["kind"] == "IPAddress").await;
    until(&server, &format!("{ADDRESSES}/10.96.77.7"), |it| it["code"] == 404).await;
    let events = "/api/v1/namespaces/default/events?fieldSelector=reason%3DPortNotAllocated";
    let told = until(&server, events, |it| !it["items"].as_array().unwrap().is_empty()).await;
    assert_eq!(told["items"][0]["message"], "Port 30001 is not allocated; repairing");
    let taken = service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}));
    assert_eq!(call(&server, "POST", SERVICES, taken).await.status, 422);
    server.stop().await;
}
