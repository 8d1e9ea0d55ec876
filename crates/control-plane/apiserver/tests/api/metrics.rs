//! `/metrics` after some requests: who came in, what admission did, what was read and written.

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::support::{Server, call, raw};

/// The value of a row.
fn value(text: &str, row: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn requests_leave_their_marks() {
    let server = Server::start().await;
    let before = call(&server, "GET", "/metrics", Value::Null).await.text();
    let maps = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b", "c"] {
        let map = json!({"metadata": {"name": name, "labels": {"name": name}}});
        assert_eq!(call(&server, "POST", maps, map).await.status, 201);
    }
    let map = json!({"metadata": {"name": "late", "namespace": "nowhere"}});
    assert_eq!(call(&server, "POST", "/api/v1/namespaces/nowhere/configmaps", map).await.status, 404);
    // Over the network, with a certificate.
    let remote = server.remote().await;
    let listed = Api::<ConfigMap>::namespaced(remote.clone(), "default");
    let found = listed.list(&ListParams::default().labels("name=b")).await.unwrap();
    assert_eq!(found.items.len(), 1);
    let services = Api::<Service>::namespaced(remote, "default");
    services.list(&ListParams::default()).await.unwrap();
    let request = http::Request::get(maps).body(Vec::new()).unwrap();
    assert_eq!(raw(&server.server, "bob", &["system:authenticated"], request).await.status, 403);
    let newest = call(&server, "GET", maps, Value::Null).await.json();
    let version = newest["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let waits = format!("{maps}?resourceVersion={version}&resourceVersionMatch=NotOlderThan");
    assert_eq!(call(&server, "GET", &waits, Value::Null).await.status, 200);

    let text = call(&server, "GET", "/metrics", Value::Null).await.text();
    let controller = "apiserver_admission_controller_admission_duration_seconds_count";
    let configmaps = "group=\"\",resource=\"configmaps\"";
    for (row, expected) in [
        ("authentication_attempts{result=\"success\"}".to_owned(), 2.0),
        ("authentication_duration_seconds_count{result=\"success\"}".to_owned(), 2.0),
        ("apiserver_client_certificate_expiration_seconds_count".to_owned(), 2.0),
        ("authorization_attempts_total{result=\"no-opinion\"}".to_owned(), 1.0),
        ("apiserver_request_filter_duration_seconds_count{filter=\"priorityandfairness\"}".to_owned(), 2.0),
        (format!("{controller}{{name=\"NamespaceLifecycle\",operation=\"CREATE\",rejected=\"true\",type=\"admit\"}}"), 1.0),
        (format!("{controller}{{name=\"ResourceQuota\",operation=\"CREATE\",rejected=\"false\",type=\"validate\"}}"), 3.0),
        ("apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"false\",type=\"validate\"}".to_owned(), 3.0),
        (format!("apiserver_request_body_size_bytes_count{{{configmaps},verb=\"create\"}}"), 4.0),
        ("apiserver_cache_list_total{group=\"\",index=\"\",resource=\"configmaps\"}".to_owned(), 3.0),
        (format!("apiserver_cache_list_returned_objects_total{{{configmaps}}}"), 7.0),
        (format!("apiserver_watch_cache_read_wait_seconds_count{{{configmaps}}}"), 1.0),
        ("etcd_requests_total{group=\"\",operation=\"create\",resource=\"configmaps\"}".to_owned(), 3.0),
        // What is made here, and the question for the numbers themselves.
        ("authorization_attempts_total{result=\"allowed\"}".to_owned(), 9.0),
    ] {
        let grown = value(&text, &row).map(|now| now - value(&before, &row).unwrap_or_default());
        assert_eq!(grown, Some(expected), "{row} in\n{text}");
    }
    for (row, expected) in [
        ("kube_apiserver_clusterip_allocator_allocated_ips{cidr=\"10.96.0.0/16\"}", 1.0),
        ("kube_apiserver_clusterip_allocator_available_ips{cidr=\"10.96.0.0/16\"}", 65_533.0),
        ("kube_apiserver_nodeport_allocator_available_ports", 2768.0),
        ("serviceaccount_valid_tokens_total", 0.0),
    ] {
        assert_eq!(value(&text, row), Some(expected), "{row} in\n{text}");
    }
    let reached = value(&text, &format!("apiserver_watch_cache_resource_version{{{configmaps}}}"));
    assert!(reached >= Some(version.parse().unwrap()), "{reached:?} is before {version}");
    // Nobody's text has a metric twice, whichever part wrote it.
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_services_and_pods_are_given_and_held_to_is_counted() {
    let server = Server::start().await;
    let before = call(&server, "GET", "/metrics", Value::Null).await.text();
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let chosen = json!({"type": "NodePort", "ports": [{"port": 80}]});
    assert_eq!(call(&server, "POST", services, service("a", chosen.clone())).await.status, 201);
    // Nothing is given out by a dry run, nor to what has it.
    let path = format!("{services}?dryRun=All");
    assert_eq!(call(&server, "POST", &path, service("b", chosen)).await.status, 201);
    let mut stored = call(&server, "GET", &format!("{services}/a"), Value::Null).await.json();
    stored["spec"]["ports"][0]["port"] = json!(81);
    assert_eq!(call(&server, "PUT", &format!("{services}/a"), stored).await.status, 200);
    let asked = |port: u64| json!({"clusterIP": "10.96.0.77", "type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    assert_eq!(call(&server, "POST", services, service("c", asked(30007))).await.status, 201);
    assert_eq!(call(&server, "POST", services, service("d", asked(30008))).await.status, 422);
    let other = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30007}]});
    assert_eq!(call(&server, "POST", services, service("e", other)).await.status, 422);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(call(&server, "POST", "/api/v1/namespaces/default/pods", pod).await.status, 201);

    let text = call(&server, "GET", "/metrics", Value::Null).await.text();
    let cidr = "cidr=\"10.96.0.0/16\"";
    for (row, expected) in [
        (format!("kube_apiserver_clusterip_allocator_allocation_total{{{cidr},scope=\"dynamic\"}}"), 1.0),
        (format!("kube_apiserver_clusterip_allocator_allocation_total{{{cidr},scope=\"static\"}}"), 1.0),
        (
            format!("kube_apiserver_clusterip_allocator_allocation_errors_total{{{cidr},scope=\"static\"}}"),
            1.0,
        ),
        ("kube_apiserver_nodeport_allocator_allocation_total{scope=\"dynamic\"}".to_owned(), 1.0),
        ("kube_apiserver_nodeport_allocator_allocation_total{scope=\"static\"}".to_owned(), 1.0),
        ("kube_apiserver_nodeport_allocator_allocation_errors_total{scope=\"static\"}".to_owned(), 1.0),
        (
            "pod_security_evaluations_total{decision=\"allow\",mode=\"enforce\",policy_level=\"privileged\",\
             policy_version=\"latest\",request_operation=\"create\",resource=\"pod\",subresource=\"\"}"
                .to_owned(),
            1.0,
        ),
    ] {
        let grown = value(&text, &row).map(|now| now - value(&before, &row).unwrap_or_default());
        assert_eq!(grown, Some(expected), "{row} in\n{text}");
    }
    server.stop().await;
}
