//! What objects use, and what the names of quotas count.

use serde_json::json;

use super::*;

fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(second).unwrap()
}

fn shown(amounts: &Amounts) -> Vec<String> {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
}

#[test]
fn pods_ask_for_what_they_need_at_most() {
    let of = |spec: Value| {
        let amounts = pod_requests(&json!({"spec": spec}));
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
    };
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
    let cases = [
        (json!({"containers": [{"resources": cpu("1")}, {"resources": cpu("500m")}]}), "cpu=1500m"),
        (
            json!({"containers": [{"resources": cpu("1")}], "initContainers": [{"resources": cpu("3")}]}),
            "cpu=3",
        ),
        (
            json!({"containers": [{"resources": cpu("1")}], "initContainers": [
                {"resources": cpu("1"), "restartPolicy": "Always"}, {"resources": cpu("3")}]}),
            "cpu=4",
        ),
        (
            json!({"containers": [{"resources": cpu("1")}], "overhead": {"cpu": "250m"}, "resources": cpu("2")}),
            "cpu=2250m",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(of(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn pods_count_under_the_names_that_quotas_have() {
    let mut pod = json!({"spec": {"containers": [
        {"resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"cpu": "1"}}},
        {"resources": {"requests": {"cpu": "250m", "example.com/gpu": "2"}}},
    ]}});
    let expected = [
        "count/pods=1",
        "cpu=500m",
        "limits.cpu=1",
        "memory=1Gi",
        "pods=1",
        "requests.cpu=500m",
        "requests.example.com/gpu=2",
        "requests.memory=1Gi",
    ];
    assert_eq!(shown(&usage("", "pods", &pod, at(0))), expected);
    pod["metadata"] = json!({"deletionTimestamp": "1970-01-01T00:01:40Z", "deletionGracePeriodSeconds": 30});
    assert_eq!(shown(&usage("", "pods", &pod, at(130))), expected);
    assert_eq!(shown(&usage("", "pods", &pod, at(131))), ["count/pods=1"], "it should have been gone");
    pod["metadata"] = json!({});
    pod["status"] = json!({"phase": "Failed"});
    assert_eq!(shown(&usage("", "pods", &pod, at(0))), ["count/pods=1"]);
}

#[test]
fn services_and_claims_use_more_than_one_thing() {
    for (kind, allocate, balancers, ports) in [
        ("ClusterIP", None, "0", "0"),
        ("NodePort", None, "0", "2"),
        ("LoadBalancer", None, "1", "2"),
        ("LoadBalancer", Some(false), "1", "1"),
    ] {
        let spec = json!({"type": kind, "ports": [{}, {"nodePort": 30000}], "allocateLoadBalancerNodePorts": allocate});
        let used = usage("", "services", &json!({"spec": spec}), at(0));
        let pair = (used["services.loadbalancers"].to_string(), used["services.nodeports"].to_string());
        assert_eq!(pair, (balancers.to_owned(), ports.to_owned()), "{kind}");
    }
    let claim = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "5Gi"}}}});
    let expected = [
        "count/persistentvolumeclaims=1",
        "fast.storageclass.storage.k8s.io/persistentvolumeclaims=1",
        "fast.storageclass.storage.k8s.io/requests.storage=5Gi",
        "persistentvolumeclaims=1",
        "requests.storage=5Gi",
    ];
    assert_eq!(shown(&usage("", "persistentvolumeclaims", &claim, at(0))), expected);
}

#[test]
fn names_say_what_they_count() {
    for (name, kind) in [
        ("pods", Some(("", "pods"))),
        ("requests.cpu", Some(("", "pods"))),
        ("limits.memory", Some(("", "pods"))),
        ("hugepages-2Mi", Some(("", "pods"))),
        ("requests.hugepages-2Mi", Some(("", "pods"))),
        ("requests.example.com/gpu", Some(("", "pods"))),
        ("example.com/gpu", None),
        ("requests.pods", None),
        ("requests.storage", Some(("", "persistentvolumeclaims"))),
        ("fast.storageclass.storage.k8s.io/requests.storage", Some(("", "persistentvolumeclaims"))),
        ("fast.storageclass.storage.k8s.io/pods", None),
        ("services.nodeports", Some(("", "services"))),
        ("secrets", Some(("", "secrets"))),
        ("count/deployments.apps", Some(("apps", "deployments"))),
        ("count/configmaps", Some(("", "configmaps"))),
        ("nonsense", None),
    ] {
        assert_eq!(kind_of(name), kind, "{name}");
    }
}

#[test]
fn a_tally_counts_what_is_in_scope() {
    let quota = |scopes: &[&str]| json!({"spec": {"hard": {"pods": "9", "secrets": "9", "count/secrets": "9"}, "scopes": scopes}});
    let burdened = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
    let brief = json!({"spec": {"containers": [{}], "activeDeadlineSeconds": 5}});
    for (scopes, expected) in [
        (&[][..], ["count/secrets=3", "pods=2", "secrets=3"]),
        (&["BestEffort"], ["count/secrets=0", "pods=1", "secrets=0"]),
        (&["NotBestEffort", "Terminating"], ["count/secrets=0", "pods=0", "secrets=0"]),
    ] {
        let quota = quota(scopes);
        let mut tally = Tally::new(&quota, at(0));
        tally.add("", "pods", &burdened);
        tally.add("", "pods", &brief);
        tally.add_number("", "secrets", 3);
        assert_eq!(shown(&tally.used()), expected, "{scopes:?}");
    }
}
