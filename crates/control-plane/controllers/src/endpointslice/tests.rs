//! The slices of one Service, and the controller against a server.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Node, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::decide::{Counts, Decision, Observed, decide};
use super::topology::Capacity;
use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::names::CountedNames;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, labels, meta, pod, time};

const LABELS: &[(&str, &str)] = &[("app", "web")];

fn service() -> Service {
    Service {
        metadata: ObjectMeta { labels: Some(labels(&[("team", "a")])), ..meta("web") },
        spec: Some(ServiceSpec {
            cluster_ip: Some("10.96.0.7".to_owned()),
            ip_families: Some(vec!["IPv4".to_owned()]),
            selector: Some(labels(LABELS)),
            ports: Some(vec![port("http", 80, IntOrString::Int(3000))]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn port(name: &str, port: i32, target: IntOrString) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()).filter(|name| !name.is_empty()),
        port,
        target_port: Some(target),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}

fn edited(edit: impl FnOnce(&mut ServiceSpec)) -> Service {
    let mut service = service();
    edit(service.spec.as_mut().unwrap());
    service
}

fn backend(index: usize) -> Pod {
    let ip = format!("10.244.{}.{}", index / 250, index % 250 + 1);
    pod(&format!("p{index:04}")).labelled(LABELS).on("n1").ip(&ip).ready(100)
}

fn decided(service: &Service, pods: &[Pod], slices: &[EndpointSlice]) -> Decision {
    decided_with(100, service, pods, slices)
}

fn decided_with(most: usize, service: &Service, pods: &[Pod], slices: &[EndpointSlice]) -> Decision {
    let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
    let slices: Vec<_> = slices.iter().cloned().map(Arc::new).collect();
    let nodes = BTreeMap::from([("n1".to_owned(), Some("zone-a".to_owned())), ("n2".to_owned(), None)]);
    let seen = Observed {
        service,
        pods: &pods,
        slices: &slices,
        nodes: &nodes,
        shares: None,
        most,
        news: Some(at(100)),
    };
    decide(&seen, &CountedNames::default())
}

/// Three endpoints in zone a and one in b, with processors as the shares say.
fn hinted(slices: &[EndpointSlice], shares: Option<&[(&str, f64)]>, in_b: usize) -> Decision {
    let mut service = service();
    service.metadata.annotations = Some(labels(&[("service.kubernetes.io/topology-mode", "Auto")]));
    let pods: Vec<_> =
        (0..4 + in_b).map(|index| Arc::new(backend(index).on(if index < 3 { "a1" } else { "b1" }))).collect();
    let slices: Vec<_> = slices.iter().cloned().map(Arc::new).collect();
    let nodes = BTreeMap::from([("a1", "a"), ("b1", "b")]);
    let nodes = nodes.into_iter().map(|(node, zone)| (node.to_owned(), Some(zone.to_owned()))).collect();
    let shares: Option<BTreeMap<String, f64>> =
        shares.map(|shares| shares.iter().map(|(zone, share)| ((*zone).to_owned(), *share)).collect());
    let seen = Observed {
        service: &service,
        pods: &pods,
        slices: &slices,
        nodes: &nodes,
        shares: shares.as_ref(),
        most: 100,
        news: None,
    };
    decide(&seen, &CountedNames::default())
}

#[test]
fn zones_get_endpoints_as_they_have_processors() {
    let hints = |slices: &[EndpointSlice]| -> String {
        let zone = |endpoint: &Endpoint| {
            endpoint
                .hints
                .as_ref()
                .map_or("-".to_owned(), |it| it.for_zones.as_ref().unwrap()[0].name.clone())
        };
        endpoints(slices).into_iter().map(zone).collect()
    };
    let half: &[(&str, f64)] = &[("a", 0.5), ("b", 0.5)];
    let first = hinted(&[], Some(half), 0);
    let stored = applied(&[], &first, 0);
    assert_eq!(hints(&stored), "baab", "one of three works for the other zone");
    assert_eq!(first.events[0].1, "TopologyAwareHintsEnabled");
    assert_eq!(first.events[0].2, "Topology Aware Hints has been enabled, addressType: IPv4");
    let again = hinted(&stored, Some(half), 0);
    assert!(again.update.is_empty() && again.events.is_empty(), "and so it stays: {again:?}");
    // With 45 % and 55 % what there is, is within the limit; with 75 % for a it is not.
    let near: &[(&str, f64)] = &[("a", 0.45), ("b", 0.55)];
    assert!(hinted(&stored, Some(near), 0).update.is_empty());
    let mostly: &[(&str, f64)] = &[("a", 0.75), ("b", 0.25)];
    assert_eq!(hints(&hinted(&stored, Some(mostly), 0).update), "aaab");
    for (case, shares, why) in [
        (
            "nothing known",
            None,
            "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes",
        ),
        (
            "too few endpoints",
            Some(&[("a", 0.2), ("b", 0.2), ("c", 0.2), ("d", 0.2), ("e", 0.2)][..]),
            "Insufficient number of endpoints (4 endpoints, 5 zones)",
        ),
        (
            "too uneven",
            Some(&[("a", 0.32), ("b", 0.32), ("c", 0.36)][..]),
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (4 endpoints, 3 zones)",
        ),
    ] {
        let decision = hinted(&stored, shares, 0);
        assert_eq!(hints(&decision.update), "----", "{case}");
        assert_eq!(decision.events[0].2, format!("{why}, addressType: IPv4"), "{case}");
    }
    let gone = decided(&service(), &[backend(0).on("n1")], &stored);
    assert_eq!(gone.events[0].1, "TopologyAwareHintsDisabled", "the annotation was taken off");
}

#[test]
fn zones_have_what_their_ready_nodes_have() {
    let node = |name: &str, zone: &str, cpu: &str, ready: &str| -> Node {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
            "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    };
    let mut capacity = Capacity::default();
    assert!(capacity.put(&node("a1", "a", "3", "True")));
    assert!(!capacity.put(&node("a1", "a", "3", "True")), "no news");
    assert_eq!(capacity.shares(), None, "one zone is no choice");
    capacity.put(&node("b1", "b", "500m", "True"));
    capacity.put(&node("b2", "b", "500m", "True"));
    let shares = BTreeMap::from([("a".to_owned(), 0.75), ("b".to_owned(), 0.25)]);
    assert_eq!(capacity.shares(), Some(shares.clone()));
    capacity.put(&node("c1", "", "8", "True"));
    assert_eq!(capacity.shares(), None, "a node without a zone spoils it");
    assert!(capacity.put(&node("c1", "", "8", "False")), "unless it is not ready");
    assert_eq!(capacity.shares(), Some(shares));
    assert!(capacity.remove("b1") && !capacity.remove("b1"));
}

/// What the server has after the decision is carried out. New names must be new.
fn applied(slices: &[EndpointSlice], decision: &Decision, round: usize) -> Vec<EndpointSlice> {
    let mut after: BTreeMap<String, EndpointSlice> =
        slices.iter().map(|it| (it.metadata.name.clone().unwrap(), it.clone())).collect();
    for slice in &decision.create {
        let mut slice = slice.clone();
        let name = format!("{}-{round}", slice.metadata.name.as_ref().unwrap());
        slice.metadata.name = Some(name.clone());
        slice.metadata.uid = Some(name.clone());
        assert!(after.insert(name, slice).is_none());
    }
    for slice in &decision.update {
        let name = slice.metadata.name.clone().unwrap();
        assert!(after.insert(name, slice.clone()).is_some(), "updates what exists");
    }
    for slice in &decision.delete {
        assert!(after.remove(slice.metadata.name.as_ref().unwrap()).is_some(), "deletes what exists");
    }
    after.into_values().collect()
}

fn endpoints(slices: &[EndpointSlice]) -> Vec<&Endpoint> {
    slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).collect()
}

fn only(decision: &Decision) -> &EndpointSlice {
    let [slice] = &decision.create[..] else { panic!("one slice: {decision:?}") };
    slice
}

#[test]
fn a_slice_says_all_there_is_to_say() {
    let named = backend(0).edit(|pod| {
        let spec = pod.spec.as_mut().unwrap();
        spec.hostname = Some("web-0".to_owned());
        spec.subdomain = Some("web".to_owned());
    });
    let decision = decided(&service(), &[named], &[]);
    let slice = only(&decision);
    let expected = [("team", "a"), (SERVICE_NAME, "web"), (MANAGED_BY, MANAGER)];
    assert_eq!(slice.metadata.labels.as_ref().unwrap(), &labels(&expected));
    assert_eq!(slice.metadata.generate_name.as_deref(), Some("web-"));
    assert_eq!(slice.metadata.owner_references.as_ref().unwrap()[0].kind, "Service");
    let annotation =
        &slice.metadata.annotations.as_ref().unwrap()["endpoints.kubernetes.io/last-change-trigger-time"];
    assert_eq!(annotation, "1970-01-01T00:01:40Z");
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!(
        (port.name.as_deref(), port.port, port.protocol.as_deref()),
        (Some("http"), Some(3000), Some("TCP"))
    );
    let endpoint = &slice.endpoints.as_ref().unwrap()[0];
    assert_eq!(endpoint.addresses, ["10.244.0.1"]);
    assert_eq!((endpoint.node_name.as_deref(), endpoint.zone.as_deref()), (Some("n1"), Some("zone-a")));
    assert_eq!(endpoint.hostname.as_deref(), Some("web-0"));
    assert_eq!(endpoint.target_ref.as_ref().unwrap().name.as_deref(), Some("p0000"));
}

#[test]
fn conditions_follow_readiness_and_termination() {
    let not_ready = |pod: Pod| pod.condition("Ready", "False", 1);
    let tolerant = edited(|spec| spec.publish_not_ready_addresses = Some(true));
    for (case, service, pod, expected) in [
        ("ready", service(), backend(0), Some((true, true, false))),
        ("not ready", service(), not_ready(backend(0)), Some((false, false, false))),
        ("draining", service(), backend(0).deleting(), Some((false, true, true))),
        ("dead but not gone", service(), not_ready(backend(0)).deleting(), Some((false, false, true))),
        ("published anyway", tolerant.clone(), not_ready(backend(0)), Some((true, false, false))),
        ("published draining", tolerant, backend(0).deleting(), Some((true, true, true))),
        ("finished", service(), backend(0).phase("Succeeded"), None),
        ("no address yet", service(), pod("x").labelled(LABELS).on("n1"), None),
    ] {
        let decision = decided(&service, &[pod], &[]);
        let conditions = endpoints(&decision.create).first().map(|endpoint| {
            let conditions = endpoint.conditions.as_ref().unwrap();
            (conditions.ready.unwrap(), conditions.serving.unwrap(), conditions.terminating.unwrap())
        });
        assert_eq!(conditions, expected, "{case}");
    }
}

#[test]
fn no_endpoints_are_one_empty_slice() {
    let decision = decided(&service(), &[], &[]);
    let slice = only(&decision);
    assert_eq!((slice.endpoints.as_ref().unwrap().len(), slice.ports.as_ref().unwrap().len()), (0, 0));
    let slices = applied(&[], &decision, 0);
    assert_eq!(decided(&service(), &[], &slices).writes(), [0; 3], "and it stays");
    let filled = decided(&service(), &[backend(0)], &slices);
    assert_eq!(
        (filled.create.len(), filled.update.len(), filled.delete.len()),
        (0, 1, 0),
        "the empty one is reused"
    );
    let emptied = decided(&service(), &[], &applied(&slices, &filled, 1));
    assert_eq!((emptied.create.len(), emptied.update.len(), emptied.delete.len()), (0, 1, 0));
}

#[test]
fn named_ports_may_differ_between_pods() {
    let listening = |index: usize, number: i32| {
        backend(index).edit(|pod| {
            let port = ContainerPort {
                name: Some("web".to_owned()),
                container_port: number,
                protocol: Some("TCP".to_owned()),
                ..ContainerPort::default()
            };
            let container = Container { ports: Some(vec![port]), ..Container::default() };
            pod.spec.as_mut().unwrap().containers = vec![container];
        })
    };
    let service =
        edited(|spec| spec.ports = Some(vec![port("http", 80, IntOrString::String("web".to_owned()))]));
    let decision =
        decided(&service, &[listening(0, 3000), listening(1, 4000), listening(2, 3000), backend(3)], &[]);
    let mut sizes: Vec<_> = decision
        .create
        .iter()
        .map(|slice| {
            let port = slice.ports.as_ref().unwrap().first().and_then(|port| port.port);
            (port, slice.endpoints.as_ref().unwrap().len())
        })
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [(None, 1), (Some(3000), 2), (Some(4000), 1)]);
}

#[test]
fn headless_and_dual_stack_services() {
    let headless = edited(|spec| {
        spec.cluster_ip = Some("None".to_owned());
        spec.ports = None;
    });
    let decision = decided(&headless, &[backend(0)], &[]);
    let slice = only(&decision);
    assert_eq!(slice.metadata.labels.as_ref().unwrap()["service.kubernetes.io/headless"], "");
    assert_eq!((slice.ports.as_ref().unwrap().len(), slice.endpoints.as_ref().unwrap().len()), (0, 1));
    let dual = edited(|spec| spec.ip_families = Some(vec!["IPv4".to_owned(), "IPv6".to_owned()]));
    let decision = decided(&dual, &[backend(0).ip("fd00::1")], &[]);
    let families: Vec<_> = decision
        .create
        .iter()
        .map(|slice| {
            (slice.address_type.as_str(), slice.endpoints.as_ref().unwrap()[0].addresses[0].as_str())
        })
        .collect();
    assert_eq!(families, [("IPv4", "10.244.0.1"), ("IPv6", "fd00::1")]);
    let slices = applied(&[], &decision, 0);
    let single = decided(&service(), &[backend(0).ip("fd00::1")], &slices);
    assert_eq!((single.create.len(), single.update.len(), single.delete.len()), (0, 0, 1), "IPv6 is dropped");
}

#[test]
fn hints_follow_the_preference() {
    for (preference, zones, nodes) in [
        (None, 0, 0),
        (Some("PreferClose"), 1, 0),
        (Some("PreferSameZone"), 1, 0),
        (Some("PreferSameNode"), 1, 1),
    ] {
        let service = edited(|spec| spec.traffic_distribution = preference.map(str::to_owned));
        let decision = decided(&service, &[backend(0)], &[]);
        let hints = endpoints(&decision.create)[0].hints.clone().unwrap_or_default();
        let count = (hints.for_zones.unwrap_or_default().len(), hints.for_nodes.unwrap_or_default().len());
        assert_eq!(count, (zones, nodes), "{preference:?}");
    }
}

#[test]
fn a_pod_on_an_unknown_node_waits() {
    let decision = decided(&service(), &[backend(0).on("new"), backend(1)], &[]);
    assert_eq!(decision.homeless, ["p0000"]);
    assert_eq!(endpoints(&decision.create).len(), 1);
}

#[test]
fn changes_touch_as_little_as_possible() {
    let many: Vec<Pod> = (0..250).map(backend).collect();
    let slices = applied(&[], &decided(&service(), &many, &[]), 0);
    let mut sizes: Vec<_> = slices.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    assert_eq!(decided(&service(), &many, &slices).writes(), [0; 3], "nothing to do");
    assert_eq!(decided_with(200, &service(), &[], &[]).create.len(), 1);
    assert_eq!(decided_with(200, &service(), &many, &[]).create.len(), 2, "as large as the operator says");
    let counts = |decision: &Decision| (decision.create.len(), decision.update.len(), decision.delete.len());
    let mut one_more = many.clone();
    one_more.push(backend(250));
    assert_eq!(counts(&decided(&service(), &one_more, &slices)), (0, 1, 0), "it joins the one with room");
    let mut one_unready = many.clone();
    one_unready[5] = one_unready[5].clone().condition("Ready", "False", 5);
    assert_eq!(counts(&decided(&service(), &one_unready, &slices)), (0, 1, 0));
    let fewer = &many[..249];
    assert_eq!(counts(&decided(&service(), fewer, &slices)), (0, 1, 0));
    let mut relabelled = service();
    relabelled.metadata.labels = None;
    assert_eq!(counts(&decided(&relabelled, &many, &slices)), (0, 3, 0));
}

#[test]
fn slices_of_an_earlier_service_are_replaced() {
    let slices = applied(&[], &decided(&service(), &[backend(0)], &[]), 0);
    let mut reborn = service();
    reborn.metadata.uid = Some("other".to_owned());
    let decision = decided(&reborn, &[backend(0)], &slices);
    assert_eq!((decision.create.len(), decision.update.len(), decision.delete.len()), (1, 0, 1));
    let mut leaving = service();
    leaving.metadata.deletion_timestamp = Some(time(1));
    assert!(decided(&leaving, &[backend(0)], &[]).create.is_empty());
}

proptest! {
    /// From any slices to any pods in one step: every pod exactly once, no slice too full, and a second look changes nothing.
    #[test]
    fn one_step_reaches_the_goal(
        rounds in proptest::collection::vec(proptest::collection::btree_map(0..260usize, any::<bool>(), 0..260), 1..4),
    ) {
        let mut slices = Vec::new();
        for (round, pods) in rounds.into_iter().enumerate() {
            let pods: Vec<Pod> = pods
                .into_iter()
                .map(|(index, ready)| if ready { backend(index) } else { backend(index).condition("Ready", "False", 1) })
                .collect();
            let decision = decided(&service(), &pods, &slices);
            slices = applied(&slices, &decision, round);
            let mut shown: Vec<_> =
                endpoints(&slices).iter().map(|it| it.target_ref.as_ref().unwrap().name.clone().unwrap()).collect();
            shown.sort();
            let mut expected: Vec<_> = pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
            expected.sort();
            prop_assert_eq!(shown, expected);
            prop_assert!(slices.iter().all(|slice| slice.endpoints.as_ref().unwrap().len() <= 100));
            prop_assert!(!slices.is_empty());
            let decision = decided(&service(), &pods, &slices);
            prop_assert_eq!(decision.writes(), [0; 3]);
            prop_assert!(decision.homeless.is_empty() && decision.events.is_empty());
            let expected = Counts {
                endpoints: pods.len(),
                slices: slices.len(),
                fewest: pods.len().div_ceil(100).max(1),
                ..Counts::default()
            };
            prop_assert_eq!(decision.counts, [expected]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slices_and_endpoints_follow_the_pods() {
    let api = FakeApi::default();
    api.create(
        "/nodes",
        &Node { metadata: ObjectMeta { namespace: None, ..meta("node") }, ..Node::default() },
    );
    api.create("/services", &service());
    let running = Running::start(&api, &["endpointslice-controller", "endpoints-controller"]);
    for name in ["a", "b"] {
        api.create("/pods", &pod(name).labelled(LABELS));
    }
    let shown = |api: &FakeApi| {
        let slices: Vec<EndpointSlice> = api.list("discovery.k8s.io/endpointslices");
        let ready = |it: &&Endpoint| it.conditions.as_ref().unwrap().ready == Some(true);
        let of_slices = endpoints(&slices).into_iter().filter(ready).count();
        let endpoints: Vec<k8s_openapi::api::core::v1::Endpoints> = api.list("/endpoints");
        let of_endpoints: usize = endpoints
            .iter()
            .flat_map(|it| it.subsets.iter().flatten())
            .map(|subset| subset.addresses.as_ref().map(Vec::len).unwrap_or_default())
            .sum();
        (of_slices, of_endpoints)
    };
    api.until("both pods", FakeApi::run_pods, |api| shown(api) == (2, 2)).await;
    api.edit("/pods", "ns", "a", |pod| pod["status"]["conditions"][0]["status"] = "False".into());
    api.until("one is not ready", |_| {}, |api| shown(api) == (1, 1)).await;
    api.edit("/pods", "ns", "b", |pod| pod["metadata"]["labels"] = serde_json::json!({"app": "other"}));
    api.until("one left", |_| {}, |api| shown(api) == (0, 0)).await;
    api.settle().await;
    assert_eq!(api.list::<EndpointSlice>("discovery.k8s.io/endpointslices").len(), 1);
    api.delete("/services", "ns", "web", "Background");
    api.until(
        "Endpoints are removed",
        |_| {},
        |api| api.list::<k8s_openapi::api::core::v1::Endpoints>("/endpoints").is_empty(),
    )
    .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changed_slices_are_counted_by_how_traffic_is_spread() {
    let api = FakeApi::default();
    // A name, a mode and a distribution of Services; what no Service of another test has tells these apart.
    for (name, mode, distribution) in [
        ("node", "Disabled", "PreferSameNode"),
        ("zone", "", "PreferSameZone"),
        ("hints", "Auto", "PreferSameNode"),
        ("odd", "", "Somehow"),
    ] {
        let mut service = service();
        service.metadata.name = Some(name.to_owned());
        service.metadata.annotations = Some(labels(&[("service.kubernetes.io/topology-mode", mode)]));
        service.spec.as_mut().unwrap().traffic_distribution = Some(distribution.to_owned());
        api.create("/services", &service);
    }
    let running = Running::start(&api, &["endpointslice-controller"]);
    let slices = |api: &FakeApi| api.list::<EndpointSlice>("discovery.k8s.io/endpointslices").len();
    api.until("all have slices", |_| {}, |api| slices(api) == 4).await;
    running.stop().await;
    let mut text = String::new();
    crate::collect_metrics(&mut text);
    let name = "endpoint_slice_controller_endpointslices_changed_per_sync";
    for (topology, distribution, seen) in [
        ("Disabled", "PreferSameNode", true),
        ("Disabled", "PreferSameZone", true),
        ("Auto", "", true),
        ("Auto", "PreferSameNode", false),
        ("Disabled", "Somehow", false),
    ] {
        let labels = format!("topology=\"{topology}\",traffic_distribution=\"{distribution}\"");
        assert_eq!(text.contains(&format!("{name}_count{{{labels}}}")), seen, "{labels}");
    }
}
