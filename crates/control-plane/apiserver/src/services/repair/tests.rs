//! What is found wrong, and what becomes of it.

use serde_json::json;

use super::*;

const NOW: i64 = 1_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn service(name: &str, ip: &str) -> Value {
    json!({"metadata": {"namespace": "ns", "name": name},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]}})
}

fn address(ip: &str, service: &str, age: i64) -> Value {
    let created = crate::clock::format(Timestamp::from_second(NOW - age).unwrap());
    json!({"metadata": {"name": ip, "creationTimestamp": created, "labels": {IP_FAMILY: "IPv4", MANAGED_BY: MANAGER}},
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "ns", "name": service}}})
}

#[track_caller]
fn check(services: &[Value], stored: &[Value], expected: &[(&str, &str, &str)]) {
    let seen = Seen {
        services: services.to_vec(),
        addresses: stored
            .iter()
            .map(|it| (it["metadata"]["name"].as_str().unwrap().to_owned(), it.clone()))
            .collect(),
        ports: BTreeMap::new(),
        blocks: vec!["10.96.0.0/16".parse().unwrap()],
    };
    let found: Vec<(String, String, &str)> = addresses(&seen, now())
        .into_iter()
        .map(|finding| {
            let (reason, message) =
                finding.event.map_or_else(Default::default, |(_, reason, message)| (reason, message));
            let act = match finding.act {
                Act::Tell => "tell",
                Act::Give(..) => "give",
                Act::Remove(_) => "remove",
                Act::Take(..) | Act::Free(_) => "port",
            };
            (reason.to_owned(), message, act)
        })
        .collect();
    let found: Vec<(&str, &str, &str)> =
        found.iter().map(|(reason, message, act)| (reason.as_str(), message.as_str(), *act)).collect();
    assert_eq!(found, expected);
}

#[test]
fn addresses_that_fit_are_left_alone() {
    let old = address("10.96.0.9", "a", 900);
    check(&[service("a", "10.96.0.9")], std::slice::from_ref(&old), &[]);
    check(&[service("a", "None"), json!({"spec": {"type": "ExternalName"}})], &[], &[]);
    // Those of others are not ours to judge.
    let mut others = address("10.96.0.9", "gone", 900);
    others["metadata"]["labels"][MANAGED_BY] = json!("somebody");
    check(&[], &[others], &[]);
    check(&[], &[address("10.96.0.9", "coming", 60)], &[]);
    let name = json!({"metadata": {"namespace": "ns", "name": "a"}, "spec": {"type": "ExternalName"}});
    check(&[name], &[address("10.96.0.9", "a", 3)], &[]);
}

#[test]
fn addresses_of_services_are_made_again() {
    let a = service("a", "10.96.0.9");
    check(
        std::slice::from_ref(&a),
        &[],
        &[("ClusterIPNotAllocated", "Cluster IP [IPv4]: 10.96.0.9 is not allocated; repairing", "give")],
    );
    let wrong = "the ClusterIP [IPv4]: 10.96.0.9 for Service ns/a has a wrong reference; repairing";
    let mut gateway = address("10.96.0.9", "a", 900);
    gateway["spec"]["parentRef"]["resource"] = json!("gateways");
    check(std::slice::from_ref(&a), &[gateway], &[("ClusterIPNotAllocated", wrong, "give")]);
    let gone = address("10.96.0.9", "gone", 900);
    check(std::slice::from_ref(&a), &[gone], &[("ClusterIPNotAllocated", wrong, "give")]);
    let mut bare = address("10.96.0.9", "a", 900);
    bare["metadata"]["labels"] = json!({});
    check(std::slice::from_ref(&a), &[bare], &[("", "", "give")]);
    // Two claim what nobody has: one gets it, once.
    check(
        &[a, service("b", "10.96.0.9")],
        &[],
        &[("ClusterIPNotAllocated", "Cluster IP [IPv4]: 10.96.0.9 is not allocated; repairing", "give")],
    );
}

#[test]
fn what_cannot_be_repaired_is_told() {
    check(
        &[service("a", "10.97.0.9"), service("b", "nonsense")],
        &[],
        &[
            (
                "ClusterIPOutOfRange",
                "Cluster IP [IPv4]: 10.97.0.9 is not within any configured Service CIDR; please recreate service",
                "tell",
            ),
            ("ClusterIPNotValid", "Cluster IP nonsense is not a valid IP; please recreate Service", "tell"),
        ],
    );
    check(
        &[service("a", "10.96.0.9"), service("b", "10.96.0.9")],
        &[address("10.96.0.9", "a", 900)],
        &[(
            "ClusterIPAlreadyAllocated",
            "Cluster IP [IPv4]:10.96.0.9 was assigned to multiple services; please recreate service",
            "tell",
        )],
    );
}

#[test]
fn leaked_addresses_go() {
    check(
        &[],
        &[address("10.96.0.9", "gone", 61)],
        &[(
            "IPAddressNotAllocated",
            "IPAddress: 10.96.0.9 for Service ns/gone appears to have leaked: cleaning up",
            "remove",
        )],
    );
    check(
        &[service("a", "10.96.0.8")],
        &[address("10.96.0.8", "a", 900), address("10.96.0.9", "a", 900)],
        &[(
            "IPAddressWrongReference",
            "IPAddress: 10.96.0.9 for Service ns/a has a wrong reference; cleaning up",
            "remove",
        )],
    );
    let mut odd = address("10.96.0.9", "a", 3);
    odd["spec"]["parentRef"] = json!({"group": "x"});
    check(
        &[],
        &[odd],
        &[(
            "IPAddressNotAllocated",
            "IPAddress 10.96.0.9 appears to have been modified, not referencing a Service {\"group\":\"x\"}: cleaning up",
            "remove",
        )],
    );
}

#[test]
fn ports_are_noted_told_and_freed() {
    let node_port = |name: &str, ports: Value| json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"type": "NodePort", "ports": ports}});
    let seen = Seen {
        services: vec![
            node_port(
                "a",
                json!([{"nodePort": 30001}, {"nodePort": 30001, "protocol": "UDP"}, {"nodePort": 30002}]),
            ),
            node_port("b", json!([{"nodePort": 30002}, {"nodePort": 20000}])),
        ],
        ports: BTreeMap::from([
            (30002, "ns/a".to_owned()),
            (30007, "ns/gone".to_owned()),
            (20000, "ns/b".to_owned()),
        ]),
        ..Seen::default()
    };
    let mut leaks = BTreeMap::new();
    let told = |found: &[Finding]| -> Vec<String> {
        found
            .iter()
            .filter_map(|it| it.event.as_ref().map(|(_, reason, why)| format!("{reason}: {why}")))
            .collect()
    };
    let expected = [
        "PortNotAllocated: Port 30001 is not allocated; repairing",
        "PortOutOfRange: Port 20000 is not within the port range 30000-32767; please recreate service",
        "PortAlreadyAllocated: Port 30002 was assigned to multiple services; please recreate service",
    ];
    for round in 1..=4 {
        let found = ports(&seen, &(30000..=32767), &mut leaks);
        assert_eq!(told(&found), expected);
        let freed: Vec<&Act> =
            found.iter().map(|it| &it.act).filter(|act| matches!(act, Act::Free(_))).collect();
        let due: &[&Act] = if round > LEAKED_ROUNDS { &[&Act::Free(30007)] } else { &[] };
        assert_eq!(freed, due, "round {round}");
    }
    // One that is used again was no leak.
    let mut used = seen;
    used.services.push(node_port("c", json!([{"nodePort": 30007}])));
    ports(&used, &(30000..=32767), &mut leaks);
    assert_eq!(leaks, BTreeMap::new());
}
