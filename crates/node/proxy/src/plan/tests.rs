//! Which endpoints are chosen, by case.

use serde_json::{Value, json};

use super::*;

fn service(spec: &Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n"}, "spec": spec})).unwrap()
}

fn slice(endpoints: &Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1"}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 3000, "protocol": "TCP"}], "endpoints": endpoints,
    }))
    .unwrap()
}

fn web() -> Value {
    json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]})
}

#[track_caller]
#[allow(clippy::needless_pass_by_value)] // a case reads better without ampersands
fn check(spec: Value, endpoints: Value, internal: &[&str], external: &[&str]) {
    let slice = slice(&endpoints);
    let plans = plan(&service(&spec), &[&slice], "node-a");
    let text =
        |list: &[Backend]| list.iter().map(|b| format!("{}:{}", b.address, b.port)).collect::<Vec<_>>();
    assert_eq!(plans.len(), 1);
    assert_eq!(text(&plans[0].internal), internal);
    assert_eq!(text(&plans[0].external), external);
}

#[test]
fn ready_endpoints_only_and_no_condition_means_ready() {
    check(
        web(),
        json!([
            {"addresses": ["10.244.0.3"], "conditions": {"ready": true}},
            {"addresses": ["10.244.0.2"]},
            {"addresses": ["10.244.0.4"], "conditions": {"ready": false, "serving": false}},
        ]),
        &["10.244.0.2:3000", "10.244.0.3:3000"],
        &["10.244.0.2:3000", "10.244.0.3:3000"],
    );
}

#[test]
fn draining_endpoints_serve_only_while_none_is_ready() {
    let draining = json!({"addresses": ["10.244.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}});
    check(web(), json!([draining]), &["10.244.0.4:3000"], &["10.244.0.4:3000"]);
    check(
        web(),
        json!([draining, {"addresses": ["10.244.0.5"]}]),
        &["10.244.0.5:3000"],
        &["10.244.0.5:3000"],
    );
}

#[test]
fn local_policies_keep_to_the_node() {
    let endpoints = json!([
        {"addresses": ["10.244.0.2"], "nodeName": "node-a"}, {"addresses": ["10.244.1.2"], "nodeName": "node-b"},
    ]);
    let mut spec = web();
    spec["internalTrafficPolicy"] = json!("Local");
    check(spec, endpoints.clone(), &["10.244.0.2:3000"], &["10.244.0.2:3000", "10.244.1.2:3000"]);
    let mut spec = web();
    spec["externalTrafficPolicy"] = json!("Local");
    check(spec, endpoints, &["10.244.0.2:3000", "10.244.1.2:3000"], &["10.244.0.2:3000"]);
}

#[test]
fn flows_may_stay_with_whatever_serves() {
    let mut spec = web();
    spec["internalTrafficPolicy"] = json!("Local");
    spec["externalTrafficPolicy"] = json!("Local");
    let slice = slice(&json!([
        {"addresses": ["10.244.1.5"], "nodeName": "node-b"},
        {"addresses": ["10.244.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": ["10.244.0.3"], "conditions": {"ready": false, "serving": false, "terminating": true}},
        {"addresses": ["10.244.0.2"], "conditions": {"ready": true, "serving": false}},
    ]));
    let plans = plan(&service(&spec), &[&slice], "node-a");
    let kept: Vec<String> = plans[0].serving.iter().map(|b| b.address.to_string()).collect();
    assert_eq!(kept, ["10.244.0.2", "10.244.0.4", "10.244.1.5"]);
}

#[test]
fn data_plane_trust_refuses_addresses_of_the_node_itself() {
    check(web(), json!([{"addresses": ["127.0.0.1"]}, {"addresses": ["169.254.169.254"]}]), &[], &[]);
}

#[test]
fn headless_external_name_and_foreign_proxies_are_left_alone() {
    for spec in [
        json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "x.y"}),
    ] {
        assert!(plan(&service(&spec), &[], "node-a").is_empty());
    }
    let mut foreign = service(&web());
    foreign.metadata.labels =
        Some([("service.kubernetes.io/service-proxy-name".to_owned(), "x".to_owned())].into());
    assert!(plan(&foreign, &[], "node-a").is_empty());
}

#[test]
fn affinity_and_load_balancer_addresses_are_carried() {
    let mut spec = web();
    spec["sessionAffinity"] = json!("ClientIP");
    spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 60}});
    let mut service = service(&spec);
    service.status = serde_json::from_value(
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}, {"ip": "192.0.2.11", "ipMode": "Proxy"}]}}),
    )
    .unwrap();
    let plans = plan(&service, &[], "node-a");
    assert_eq!(plans[0].affinity_seconds, Some(60));
    assert_eq!(plans[0].external_ips, [Ipv4Addr::new(192, 0, 2, 10)]);
}
