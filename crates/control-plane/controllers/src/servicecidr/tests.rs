//! When ranges are ready, held and let go.

use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR, ServiceCIDRSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::{FINALIZER, decide, overlap};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{at, labels, meta, time};

fn range(name: &str, cidr: &str) -> ServiceCIDR {
    ServiceCIDR {
        metadata: ObjectMeta { namespace: None, ..meta(name) },
        spec: Some(ServiceCIDRSpec { cidrs: Some(vec![cidr.to_owned()]) }),
        status: None,
    }
}

fn deleting(mut range: ServiceCIDR) -> ServiceCIDR {
    range.metadata.deletion_timestamp = Some(time(100));
    range.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    range
}

fn address(ip: &str) -> IPAddress {
    let labels = labels(&[("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io")]);
    IPAddress {
        metadata: ObjectMeta { namespace: None, labels: Some(labels), ..meta(ip) },
        ..IPAddress::default()
    }
}

#[test]
fn a_new_range_is_held_and_ready() {
    let range = range("a", "10.96.0.0/16");
    let decision = decide(&range, &[&range], &[], at(5));
    assert!(decision.hold && !decision.release);
    let condition = decision.condition.unwrap();
    assert_eq!((condition.type_.as_str(), condition.status.as_str()), ("Ready", "True"));
    assert_eq!(condition.message, "Kubernetes Service CIDR is ready");
}

#[test]
fn a_range_stays_while_an_address_has_no_other() {
    let going = deleting(range("a", "10.96.0.0/16"));
    let inside = address("10.96.0.7");
    let held = decide(&going, &[&going], &[&inside], at(200));
    assert!(!held.release);
    assert_eq!(held.condition.unwrap().reason, "Terminating");
    for (other, addresses) in [
        (range("b", "10.96.0.0/12"), vec![&inside]),
        (range("c", "10.96.0.0/24"), vec![&inside]),
        (range("d", "10.0.0.0/24"), vec![]),
        (range("e", "fd00::/112"), vec![]),
    ] {
        let decision = decide(&going, &[&going, &other], &addresses, at(200));
        assert!(decision.release, "{other:?}");
    }
    let foreign = range("f", "fd00::/112");
    assert!(!decide(&going, &[&going, &foreign], &[&inside], at(200)).release);
    let early = decide(&going, &[&going], &[], at(105));
    assert!(!early.release, "the API servers may not have heard of it yet");
    assert_eq!(early.next_check, Some(at(110)));
}

#[test]
fn overlaps_are_seen_both_ways() {
    assert!(overlap(&range("a", "10.0.0.0/8"), &range("b", "10.96.0.0/12")));
    assert!(overlap(&range("b", "10.96.0.0/12"), &range("a", "10.0.0.0/8")));
    assert!(overlap(&range("a", "0.0.0.0/0"), &range("b", "10.96.0.0/12")));
    assert!(!overlap(&range("a", "11.0.0.0/8"), &range("b", "10.96.0.0/12")));
    assert!(!overlap(&range("a", "::/0"), &range("b", "10.96.0.0/12")));
}

#[tokio::test(start_paused = true)]
async fn a_range_goes_after_its_last_address() {
    const RANGES: &str = "networking.k8s.io/servicecidrs";
    let api = FakeApi::default();
    api.create(RANGES, &range("a", "10.96.0.0/16"));
    api.create("networking.k8s.io/ipaddresses", &address("10.96.0.7"));
    let running = Running::start(&api, &["service-cidr-controller"]);
    let stored = |api: &FakeApi| api.get::<ServiceCIDR>(RANGES, "", "a");
    let reason = |api: &FakeApi| {
        let status = stored(api)?.status?;
        Some(status.conditions?.first()?.reason.clone())
    };
    api.until("it is ready", |_| {}, |api| reason(api).as_deref() == Some("")).await;
    api.delete(RANGES, "", "a", "Background");
    api.until("it says what holds it", |_| {}, |api| reason(api).as_deref() == Some("Terminating")).await;
    api.delete("networking.k8s.io/ipaddresses", "", "10.96.0.7", "Background");
    api.until("it goes", |_| {}, |api| stored(api).is_none()).await;
    running.stop().await;
}
