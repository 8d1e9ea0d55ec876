//! Dividing ranges, and handing out the parts.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::Range;
use super::pool::Pool;
use crate::metrics;
use crate::testing::api::{FakeApi, Running};
use crate::testing::meta;

fn range(cidr: &str) -> Range {
    Range::new(cidr, 24, 64).unwrap()
}

#[test]
fn parts_are_numbered() {
    let v4 = range("10.244.0.0/16");
    assert_eq!((v4.part(0), v4.part(255)), ("10.244.0.0/24".to_owned(), "10.244.255.0/24".to_owned()));
    assert_eq!(range("10.244.7.9/16").part(1), "10.244.1.0/24", "the host part does not matter");
    let v6 = range("fd00:10::/48");
    assert_eq!(v6.part(1), "fd00:10:0:1::/64");
    for bad in ["10.244.0.0", "10.244.0.0/33", "x/8", "10.0.0.0/25", "fd00::/32", "10.0.0.0/4"] {
        assert!(Range::new(bad, 24, 64).is_err(), "{bad}");
    }
}

#[test]
fn what_is_taken_is_known_whatever_its_size() {
    let v4 = range("10.244.0.0/16");
    for (cidr, covered) in [
        ("10.244.3.0/24", 3..4),
        ("10.244.4.0/22", 4..8),
        ("10.244.9.128/25", 9..10),
        ("10.0.0.0/8", 0..256),
        ("10.245.0.0/24", 0..0),
        ("fd00::/64", 0..0),
        ("nonsense", 0..0),
    ] {
        let expected = if cidr == "10.0.0.0/8" { v4.covered("10.244.0.0/16") } else { covered };
        let found = v4.covered(cidr);
        assert_eq!((found.is_empty(), found.len()), (expected.is_empty(), expected.len()), "{cidr}");
    }
}

#[test]
fn free_parts_are_found_going_round() {
    let small = range("10.0.0.0/22");
    let taken = |parts: &'static [u32]| |number: u32| parts.contains(&number);
    assert_eq!(small.free(taken(&[]), None), Some(0));
    assert_eq!(small.free(taken(&[0]), Some(0)), Some(1));
    assert_eq!(small.free(taken(&[1]), Some(0)), Some(2));
    assert_eq!(small.free(taken(&[]), Some(3)), Some(0));
    assert_eq!(small.free(taken(&[0, 1, 2, 3]), Some(1)), None);
}

#[test]
fn a_pool_gives_what_nobody_holds() {
    let mut pool = Pool::new(vec![range("10.0.0.0/21")], &["10.0.1.0/24".to_owned()]);
    let text = |cidr: &str| vec![cidr.to_owned()];
    // Two say that they have the same; it is free when both are gone.
    pool.hold("a", &text("10.0.2.0/23"));
    pool.hold("b", &text("10.0.3.0/24"));
    assert_eq!(pool.give("c"), Some(text("10.0.0.0/24")));
    assert_eq!(pool.give("d"), Some(text("10.0.4.0/24")), "1 is for Services, 2 and 3 are taken");
    assert!(pool.holds("d") && !pool.holds("e"));
    pool.hold("d", &text("10.0.4.0/24"));
    pool.release("a");
    for expected in ["10.0.5.0/24", "10.0.6.0/24", "10.0.7.0/24", "10.0.2.0/24"] {
        assert_eq!(pool.give(expected), Some(text(expected)));
    }
    assert_eq!(pool.give("late"), None, "b still has the last one");
    pool.release("b");
    assert_eq!(pool.give("late"), Some(text("10.0.3.0/24")));
}

#[tokio::test(start_paused = true)]
async fn every_node_gets_its_own_part() {
    let api = FakeApi::default();
    let node =
        |name: &str| Node { metadata: ObjectMeta { namespace: None, ..meta(name) }, ..Node::default() };
    let mut settled = serde_json::to_value(node("settled")).unwrap();
    settled["spec"] = serde_json::json!({"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]});
    api.create("/nodes", &settled);
    let running = Running::start(&api, &["node-ipam-controller"]);
    for index in 0..20 {
        api.create("/nodes", &node(&format!("n{index}")));
    }
    let parts = |api: &FakeApi| -> BTreeSet<String> {
        api.list::<Node>("/nodes")
            .into_iter()
            .filter_map(|it| it.spec.and_then(|spec| spec.pod_cidr))
            .collect()
    };
    api.until(
        "all have one",
        |_| {},
        |api| {
            api.list::<Node>("/nodes")
                .iter()
                .all(|it| it.spec.as_ref().is_some_and(|spec| spec.pod_cidr.is_some()))
        },
    )
    .await;
    assert_eq!(parts(&api).len(), 21, "no two have the same");
    running.stop().await;
}

#[test]
fn what_a_pool_gives_and_takes_back_is_counted() {
    // No other test has this range.
    let name = ["10.77.0.0/21"];
    let mut pool = Pool::new(vec![range("10.77.0.5/21")], &["10.77.1.0/24".to_owned()]);
    let counts = || {
        let (given, released) =
            (metrics::CIDRS_GIVEN.with(name).value(), metrics::CIDRS_RELEASED.with(name).value());
        (given, released, metrics::CIDRS_USED.with(name).value())
    };
    assert!((metrics::CIDRS_AT_MOST.with(name).value() - 8.0).abs() < f64::EPSILON);
    assert_eq!(counts(), (1, 0, 0.125), "the reserved one");
    pool.give("a").unwrap();
    pool.give("b").unwrap();
    assert_eq!(counts(), (3, 0, 0.375));
    pool.hold("c", &["10.77.2.0/24".to_owned()]);
    assert_eq!(counts(), (3, 0, 0.375), "b has that part too");
    pool.release("b");
    assert_eq!(counts(), (3, 0, 0.375), "c still has it");
    pool.release("c");
    assert_eq!(counts(), (3, 1, 0.25));
    assert_eq!(metrics::CIDR_TRIES.with(name).count(), 2);
    let mut text = String::new();
    metrics::collect(&mut text);
    // The second one passed by the reserved part.
    let row =
        "node_ipam_controller_cidrset_allocation_tries_per_request_sum{clusterCIDR=\"10.77.0.0/21\"} 1\n";
    assert!(text.contains(row), "{text}");
}
