//! The Endpoints of one Service.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::decide::{CAPACITY, decide};
use super::{MANAGED_BY, MANAGER};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, labels, meta, pod};

const LABELS: &[(&str, &str)] = &[("app", "web")];

fn service(ports: &[(&str, i32)]) -> Service {
    let port = |(name, number): &(&str, i32)| ServicePort {
        name: Some((*name).to_owned()),
        port: *number,
        target_port: Some(IntOrString::Int(number + 1000)),
        ..ServicePort::default()
    };
    Service {
        metadata: meta("web"),
        spec: Some(ServiceSpec {
            cluster_ip: Some("10.96.0.7".to_owned()),
            selector: Some(labels(LABELS)),
            ports: Some(ports.iter().map(port).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn backend(index: usize) -> Pod {
    let ip = format!("10.244.{}.{}", index / 250, index % 250 + 1);
    pod(&format!("p{index:04}")).labelled(LABELS).on("n1").ip(&ip).ready(100)
}

fn decided(service: &Service, pods: &[Pod], current: Option<&Endpoints>) -> Option<Endpoints> {
    let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
    decide(service, &pods, current, None)
}

/// Ready and not ready addresses, and ports, of each subset.
fn shape(endpoints: &Endpoints) -> Vec<(usize, usize, Vec<i32>)> {
    let subsets = endpoints.subsets.iter().flatten();
    subsets
        .map(|subset| {
            (
                subset.addresses.as_ref().map(Vec::len).unwrap_or_default(),
                subset.not_ready_addresses.as_ref().map(Vec::len).unwrap_or_default(),
                subset.ports.iter().flatten().map(|port| port.port).collect(),
            )
        })
        .collect()
}

#[test]
fn addresses_are_sorted_by_readiness() {
    let unready = || backend(2).condition("Ready", "False", 1);
    let all = [backend(1), backend(0), unready(), backend(3).deleting(), backend(4).phase("Failed")];
    let service = service(&[("http", 80), ("tls", 443)]);
    let endpoints = decided(&service, &all, None).unwrap();
    assert_eq!(shape(&endpoints), [(2, 1, vec![1080, 1443])]);
    assert_eq!(endpoints.metadata.labels.as_ref().unwrap()[MANAGED_BY], MANAGER);
    let first = &endpoints.subsets.as_ref().unwrap()[0].addresses.as_ref().unwrap()[0];
    assert_eq!((first.ip.as_str(), first.node_name.as_deref()), ("10.244.0.1", Some("n1")));
    assert_eq!(decided(&service, &all, Some(&endpoints)), None, "the same again");
    let mut tolerant = service;
    tolerant.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    let endpoints = decided(&tolerant, &all, None).unwrap();
    assert_eq!(shape(&endpoints), [(4, 0, vec![1080, 1443])], "terminating ones too");
}

#[test]
fn services_without_ports_or_pods() {
    assert_eq!(shape(&decided(&service(&[("http", 80)]), &[], None).unwrap()), []);
    let mut headless = service(&[]);
    headless.spec.as_mut().unwrap().cluster_ip = Some("None".to_owned());
    let endpoints = decided(&headless, &[backend(0)], None).unwrap();
    assert_eq!(shape(&endpoints), [(1, 0, vec![])]);
    assert!(endpoints.metadata.labels.unwrap().contains_key("service.kubernetes.io/headless"));
}

#[test]
fn too_many_addresses_are_cut_and_marked() {
    let many: Vec<Pod> = (0..CAPACITY + 50).map(backend).collect();
    let service = service(&[("http", 80)]);
    let cut = decided(&service, &many, None).unwrap();
    assert_eq!(shape(&cut), [(CAPACITY, 0, vec![1080])]);
    assert_eq!(
        cut.metadata.annotations.as_ref().unwrap()["endpoints.kubernetes.io/over-capacity"],
        "truncated"
    );
    assert_eq!(decided(&service, &many, Some(&cut)), None);
    let fits = decided(&service, &many[..CAPACITY], Some(&cut)).unwrap();
    assert!(!fits.metadata.annotations.unwrap().contains_key("endpoints.kubernetes.io/over-capacity"));
    let mut mixed = many;
    for pod in &mut mixed[..100] {
        *pod = pod.clone().condition("Ready", "False", 1);
    }
    assert_eq!(shape(&decided(&service, &mixed, None).unwrap()), [(950, 50, vec![1080])], "ready ones first");
}

#[tokio::test(start_paused = true)]
async fn endpoints_follow_their_service_and_its_pods() {
    const ENDPOINTS: &str = "/endpoints";
    let api = FakeApi::default();
    let old = |name: &str, annotations: serde_json::Value| serde_json::json!({"metadata": {"name": name, "namespace": "ns", "annotations": annotations}});
    // Left behind while nobody watched, and a lock.
    api.create(ENDPOINTS, &old("stale", serde_json::json!({})));
    let lock = serde_json::json!({"control-plane.alpha.kubernetes.io/leader": "x"});
    api.create(ENDPOINTS, &old("lock", lock));
    let running = Running::start(&api, &["endpoints-controller"]);
    let there = |api: &FakeApi, name: &str| api.get::<Endpoints>(ENDPOINTS, "ns", name).is_some();
    api.until("what is stale goes", |_| {}, |api| !there(api, "stale")).await;
    api.create("/services", &service(&[("http", 80)]));
    let addresses = |api: &FakeApi| {
        let endpoints: Option<Endpoints> = api.get(ENDPOINTS, "ns", "web");
        let subsets = endpoints.and_then(|it| it.subsets).unwrap_or_default();
        let count = |ready: bool| {
            let of = |it: &k8s_openapi::api::core::v1::EndpointSubset| {
                let list = if ready { &it.addresses } else { &it.not_ready_addresses };
                list.as_ref().map_or(0, Vec::len)
            };
            subsets.iter().map(of).sum::<usize>()
        };
        (count(true), count(false))
    };
    api.until("there is an empty one", |_| {}, |api| there(api, "web")).await;
    for index in 0..3 {
        let pod = serde_json::to_value(backend(index)).unwrap();
        api.create("/pods", &pod);
        let name = pod["metadata"]["name"].as_str().unwrap();
        api.edit("/pods", "ns", name, |it| it["status"] = pod["status"].clone());
    }
    api.until("all serve", |_| {}, |api| addresses(api) == (3, 0)).await;
    api.edit("/pods", "ns", "p0001", |pod| pod["status"]["conditions"][0]["status"] = "False".into());
    api.until("one does not", |_| {}, |api| addresses(api) == (2, 1)).await;
    api.edit(ENDPOINTS, "ns", "web", |endpoints| endpoints["subsets"] = serde_json::json!([]));
    api.until("an edit is undone", |_| {}, |api| addresses(api) == (2, 1)).await;
    api.delete(ENDPOINTS, "ns", "web", "Background");
    api.until("a deletion too", |_| {}, |api| addresses(api) == (2, 1)).await;
    api.delete("/pods", "ns", "p0000", "Background");
    api.until("one is leaving", |_| {}, |api| addresses(api) == (1, 1)).await;
    api.delete("/services", "ns", "web", "Background");
    api.until("they go with the Service", |_| {}, |api| !there(api, "web")).await;
    api.settle().await;
    assert!(there(&api, "lock"));
    running.stop().await;
}
