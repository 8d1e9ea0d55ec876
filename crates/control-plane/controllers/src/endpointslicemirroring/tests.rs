//! What is mirrored, and when it is not.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::MANAGER;
use super::decide::{Mirror, decide};
use crate::endpointslice::{Counts, Decision, MANAGED_BY, SERVICE_NAME};
use crate::names::CountedNames;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{labels, meta};

fn endpoints(ready: &[&str], others: &[&str]) -> Endpoints {
    let list = |ips: &[&str]| {
        let address = |ip: &&str| EndpointAddress { ip: (*ip).to_owned(), ..EndpointAddress::default() };
        Some(ips.iter().map(address).collect::<Vec<_>>()).filter(|it| !it.is_empty())
    };
    let mut metadata = meta("db");
    metadata.labels = Some(labels(&[("team", "a")]));
    metadata.annotations =
        Some(labels(&[("note", "x"), ("kubectl.kubernetes.io/last-applied-configuration", "{}")]));
    Endpoints {
        metadata,
        subsets: Some(vec![EndpointSubset {
            addresses: list(ready),
            not_ready_addresses: list(others),
            ports: Some(vec![EndpointPort { port: 5432, ..EndpointPort::default() }]),
        }]),
    }
}

fn service(selector: bool) -> Service {
    let selector = selector.then(|| labels(&[("app", "db")]));
    Service {
        metadata: meta("db"),
        spec: Some(ServiceSpec { selector, ..ServiceSpec::default() }),
        status: None,
    }
}

/// The most addresses of a subset by default.
const MOST: usize = 1000;

fn decided(endpoints: Option<&Endpoints>, service: Option<&Service>, slices: &[EndpointSlice]) -> Decision {
    decided_with(MOST, endpoints, service, slices)
}

fn decided_with(
    most: usize,
    endpoints: Option<&Endpoints>,
    service: Option<&Service>,
    slices: &[EndpointSlice],
) -> Decision {
    mirror(most, endpoints, service, slices).decision
}

fn mirror(
    most: usize,
    endpoints: Option<&Endpoints>,
    service: Option<&Service>,
    slices: &[EndpointSlice],
) -> Mirror {
    let slices: Vec<_> = slices.iter().cloned().map(Arc::new).collect();
    decide(endpoints, service, &slices, most, &CountedNames::default())
}

#[test]
fn what_is_left_out_is_told_and_counted() {
    let source = endpoints(&["10.0.0.1", "nonsense", "10.0.0.2"], &["10.0.0.3", "10.0.0.4"]);
    let told = |most: usize| {
        let Mirror { decision, skipped } = mirror(most, Some(&source), Some(&service(false)), &[]);
        let events: Vec<_> =
            decision.events.iter().map(|(_, reason, said)| format!("{reason}: {said}")).collect();
        (decision.counts[0].endpoints, skipped, events)
    };
    let invalid = "InvalidIPAddress: Skipped 1 invalid IP addresses when mirroring to EndpointSlices";
    assert_eq!(told(MOST), (4, Some(1), vec![invalid.to_owned()]));
    let many = "TooManyAddressesToMirror: A max of 3 addresses can be mirrored to EndpointSlices per Endpoints subset. 2 addresses were skipped";
    assert_eq!(told(3), (3, Some(2), vec![invalid.to_owned(), many.to_owned()]));
    // The first two: what comes after the limit is not looked at.
    assert_eq!(told(1).2.len(), 1);
    assert_eq!(mirror(MOST, Some(&source), None, &[]).skipped, None);
}

#[test]
fn changes_of_mirrors_are_counted() {
    let (old, new) = (endpoints(&["10.0.0.1", "10.0.0.2"], &[]), endpoints(&["10.0.0.3"], &["10.0.0.1"]));
    let stored = decided(Some(&old), Some(&service(false)), &[]);
    let nothing = Counts::default();
    let at_first = Counts { added: 2, endpoints: 2, slices: 1, fewest: 1, ..nothing };
    assert_eq!(stored.counts, [at_first, nothing]);
    let decision = decided(Some(&new), Some(&service(false)), &stored.create);
    let then = Counts { added: 1, updated: 1, removed: 1, endpoints: 2, slices: 1, fewest: 1 };
    assert_eq!(decision.counts, [then, nothing]);
}

#[test]
fn both_families_are_mirrored_with_labels_and_annotations() {
    let source = endpoints(&["10.0.0.1", "fd00::1"], &["10.0.0.2"]);
    let decision = decided(Some(&source), Some(&service(false)), &[]);
    let [v4, v6] = &decision.create[..] else { panic!("two slices: {decision:?}") };
    assert_eq!((v4.address_type.as_str(), v6.address_type.as_str()), ("IPv4", "IPv6"));
    let ready: Vec<_> =
        v4.endpoints.iter().flatten().map(|it| it.conditions.as_ref().unwrap().ready).collect();
    assert_eq!(ready, [Some(true), Some(false)]);
    let expected = [("team", "a"), (SERVICE_NAME, "db"), (MANAGED_BY, MANAGER)];
    assert_eq!(v4.metadata.labels.as_ref().unwrap(), &labels(&expected));
    assert_eq!(v4.metadata.annotations.as_ref().unwrap(), &labels(&[("note", "x")]));
    assert_eq!(v4.metadata.owner_references.as_ref().unwrap()[0].kind, "Endpoints");
    let stored = decision.create.clone();
    assert_eq!(decided(Some(&source), Some(&service(false)), &stored).writes(), [0; 3], "as it should be");
}

#[test]
fn what_is_not_to_be_mirrored_is_removed() {
    let source = endpoints(&["10.0.0.1"], &[]);
    let stored = decided(Some(&source), Some(&service(false)), &[]).create;
    let mut skipped = source.clone();
    skipped.metadata.labels = Some(labels(&[("endpointslice.kubernetes.io/skip-mirror", "true")]));
    let mut lock = source.clone();
    lock.metadata.annotations = Some(labels(&[("control-plane.alpha.kubernetes.io/leader", "{}")]));
    let empty = Endpoints { subsets: None, ..source.clone() };
    for (case, endpoints, service) in [
        ("no endpoints", None, Some(service(false))),
        ("no service", Some(source.clone()), None),
        ("a selector", Some(source), Some(service(true))),
        ("asked not to", Some(skipped), Some(service(false))),
        ("a lock", Some(lock), Some(service(false))),
        ("empty", Some(empty), Some(service(false))),
    ] {
        let decision = decided(endpoints.as_ref(), service.as_ref(), &stored);
        assert_eq!(
            (decision.create.len(), decision.update.len(), decision.delete.len()),
            (0, 0, 1),
            "{case}"
        );
    }
}

#[test]
fn subsets_are_cut() {
    let many: Vec<String> = (0..MOST + 9).map(|it| format!("10.0.{}.{}", it / 200, it % 200 + 1)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let (many, service) = (endpoints(&many, &[]), service(false));
    for most in [MOST, 50] {
        let decision = decided_with(most, Some(&many), Some(&service), &[]);
        let sizes: Vec<_> =
            decision.create.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [most], "one slice takes all");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hand_written_service_is_mirrored() {
    let api = FakeApi::default();
    // Other tests run beside this one and may count too: what is seen is that it grows.
    let counted =
        || ["create", "update", "delete"].map(|it| crate::metrics::slices::MIRROR_CHANGES.with([it]).value());
    let before = counted();
    let running = Running::start(&api, &["endpointslice-mirroring-controller"]);
    api.create("/endpoints", &endpoints(&["10.0.0.1"], &[]));
    api.settle().await;
    let slices = |api: &FakeApi| api.list::<EndpointSlice>("discovery.k8s.io/endpointslices");
    assert!(slices(&api).is_empty(), "no service yet");
    api.create("/services", &service(false));
    api.until("a mirror", |_| {}, |api| slices(api).len() == 1).await;
    api.edit("/endpoints", "ns", "db", |it| it["subsets"][0]["addresses"][0]["ip"] = "10.0.0.9".into());
    api.until(
        "it follows",
        |_| {},
        |api| {
            slices(api)
                .iter()
                .flat_map(|it| it.endpoints.clone().unwrap())
                .any(|it| it.addresses == ["10.0.0.9"])
        },
    )
    .await;
    api.delete("/endpoints", "ns", "db", "Background");
    api.until("it goes", |_| {}, |api| slices(api).is_empty()).await;
    running.stop().await;
    let after = counted();
    assert!(before.iter().zip(after).all(|(before, after)| *before < after), "{before:?} {after:?}");
    let mut text = String::new();
    crate::collect_metrics(&mut text);
    let name = "endpoint_slice_mirroring_controller_endpoints_sync_duration";
    assert!(text.contains(&format!("# TYPE {name} histogram")), "{text}");
    assert!(text.contains(&format!("{name}_bucket{{le=\"16.384\"}}")), "{text}");
}
