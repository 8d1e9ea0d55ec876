//! Services, endpoints, ingresses, policies.

use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec})
}

#[test]
fn services() {
    let object = created("", "Service", service(json!({"ports": [{"port": 80}], "selector": {"a": "b"}})));
    assert_eq!(
        object["spec"],
        json!({
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "selector": {"a": "b"},
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        })
    );
    assert_eq!(object["status"], json!({"loadBalancer": {}}));
    check("", "Service", service(json!({"ports": [{"port": 80}]})), &[]);
    check("", "Service", service(json!({"clusterIP": "None"})), &[]);
    check("", "Service", service(json!({})), &["spec.ports: Required value"]);
    check(
        "",
        "Service",
        service(json!({"ports": [{"port": 80, "nodePort": 30000}, {"port": 80, "name": "b"}]})),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
        ],
    );
    check(
        "",
        "Service",
        service(
            json!({"ports": [{"port": 0}], "type": "Odd", "sessionAffinity": "Odd", "clusterIP": "10.0.0.300"}),
        ),
        &[
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.sessionAffinity: Unsupported value: \"Odd\": supported values: \"ClientIP\", \"None\"",
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.300\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ],
    );
    check("", "Service", service(json!({"type": "ExternalName"})), &["spec.externalName: Required value"]);
    check(
        "",
        "Service",
        service(json!({"ports": [{"port": 1}], "externalIPs": ["127.0.0.1"]})),
        &[
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ],
    );
    assert_eq!(rules("", "Service").validate_name("a.b", false), ["must not contain dots"]);
}

#[test]
fn services_keep_what_was_allocated() {
    let old = service(json!({
        "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}],
        "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
    }));
    let update = |change: Value| {
        let rules = rules("", "Service");
        let old = created("", "Service", old.clone());
        let mut new = service(change);
        rules.default(&mut new);
        rules.prepare_update(&mut new, &old, &context(Part::Main));
        let mut errors = Errors::new();
        rules.validate_update(&new, &old, &context(Part::Main), &mut errors);
        (new["spec"].clone(), errors.0.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let (spec, faults) = update(json!({"type": "NodePort", "ports": [{"port": 81}]}));
    assert_eq!((&spec["clusterIP"], &spec["clusterIPs"]), (&json!("10.96.0.5"), &json!(["10.96.0.5"])));
    assert_eq!((&spec["ports"][0]["nodePort"], &spec["ipFamilies"]), (&json!(30080), &json!(["IPv4"])));
    assert!(faults.is_empty(), "{faults:?}");
    let (_, faults) = update(
        json!({"type": "NodePort", "ports": [{"port": 80}], "clusterIP": "10.96.0.6", "clusterIPs": ["10.96.0.5"]}),
    );
    assert_eq!(faults, ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.6\"]: may not change once set"]);
    let (spec, faults) = update(json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30080}],
        "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "externalTrafficPolicy": "Cluster"}));
    assert!(spec["ports"][0].get("nodePort").is_none() && spec.get("externalTrafficPolicy").is_none());
    assert!(faults.is_empty(), "{faults:?}");
    let (spec, faults) = update(json!({"type": "ExternalName", "externalName": "a.b",
        "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}));
    assert!(spec.get("clusterIP").is_none() && spec.get("ipFamilies").is_none());
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn service_rows() {
    let row = |spec: Value, status: Value, expected: &str| {
        check_row("", "Service", json!({"metadata": {}, "spec": spec, "status": status}), expected);
    };
    row(
        json!({"type": "ClusterIP", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "protocol": "TCP"}], "selector": {"a": "b"}}),
        json!({}),
        "x | ClusterIP | 10.0.0.1 | <none> | 80/TCP | 5m | a=b",
    );
    row(
        json!({"type": "NodePort", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
        json!({}),
        "x | NodePort | 10.0.0.1 | <none> | 80:30000/TCP,53/UDP | 5m | <none>",
    );
    row(
        json!({"type": "LoadBalancer"}),
        json!({}),
        "x | LoadBalancer | <none> | <pending> | <none> | 5m | <none>",
    );
    row(
        json!({"type": "LoadBalancer", "clusterIP": "None"}),
        json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}),
        "x | LoadBalancer | None | 1.2.3.4 | <none> | 5m | <none>",
    );
    row(
        json!({"type": "ExternalName", "externalName": "a.b"}),
        json!({}),
        "x | ExternalName | <none> | a.b | <none> | 5m | <none>",
    );
}

#[test]
fn endpoints_and_slices() {
    check(
        "",
        "Endpoints",
        json!({"metadata": {}, "subsets": [{"addresses": [{"ip": "169.254.0.1"}], "ports": [{"port": 0}]}, {}]}),
        &[
            "subsets[0].addresses[0].ip: Invalid value: \"169.254.0.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
            "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
        ],
    );
    let addresses: Vec<Value> = (1..6).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
    check_row(
        "",
        "Endpoints",
        json!({"metadata": {}, "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]}),
        "x | 10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more... | 5m",
    );
    check_row("", "Endpoints", json!({"metadata": {}}), "x | <none> | 5m");
    let slice = json!({"metadata": {}, "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
    assert_eq!(
        created("discovery.k8s.io", "EndpointSlice", slice.clone())["ports"],
        json!([{"port": 80, "name": "", "protocol": "TCP"}])
    );
    check("discovery.k8s.io", "EndpointSlice", slice.clone(), &[]);
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"metadata": {}, "addressType": "IPv4", "endpoints": [{"addresses": []}, {"addresses": ["::2"]}]}),
        &[
            "endpoints[0].addresses: Required value: must contain at least 1 address",
            "endpoints[1].addresses: Invalid value: \"::2\": must be an IPv4 address",
        ],
    );
    check_update(
        "discovery.k8s.io",
        "EndpointSlice",
        slice.clone(),
        |new| {
            new["addressType"] = json!("FQDN");
            new["endpoints"] = json!([]);
        },
        &["addressType: Invalid value: \"FQDN\": field is immutable"],
    );
    check_row("discovery.k8s.io", "EndpointSlice", slice, "x | IPv4 | 80 | 10.0.0.1 | 5m");
    check_row(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"metadata": {}, "addressType": "IPv4"}),
        "x | IPv4 | <unset> | <unset> | 5m",
    );
}

#[test]
fn networks() {
    let policy = created(
        "networking.k8s.io",
        "NetworkPolicy",
        json!({"metadata": {}, "spec": {"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]}}),
    );
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    check(
        "networking.k8s.io",
        "NetworkPolicy",
        json!({"metadata": {}, "spec": {"ingress": [{"from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}}),
        &[
            "spec.ingress[0].from[0]: Required value: must specify a peer",
            "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
        ],
    );
    check(
        "networking.k8s.io",
        "NetworkPolicy",
        json!({"metadata": {}, "spec": {"ingress": [{
            "ports": [{"port": "http", "endPort": -1}, {"port": 80, "endPort": -1}],
            "from": [{"ipBlock": {"cidr": "", "except": ["x"]}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}],
        }]}}),
        &[
            "spec.ingress[0].ports[0].endPort: Invalid value: -1: may not be specified when `port` is non-numeric",
            "spec.ingress[0].ports[1].endPort: Invalid value: 80: must be greater than or equal to `port`",
            "spec.ingress[0].ports[1].endPort: Invalid value: -1: must be between 1 and 65535, inclusive",
            "spec.ingress[0].from[0].ipBlock.cidr: Required value",
            "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ],
    );
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    check("networking.k8s.io", "Ingress", json!({"metadata": {}, "spec": {"defaultBackend": backend}}), &[]);
    check(
        "networking.k8s.io",
        "Ingress",
        json!({"metadata": {}, "spec": {"rules": [{"host": "1.2.3.4", "http": {"paths": [{"path": "a", "pathType": "Prefix", "backend": {}}]}}]}}),
        &[
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path",
            "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is required",
        ],
    );
    let rules: Vec<Value> = ["a", "b", "c", "d"].iter().map(|host| json!({"host": host})).collect();
    check_row(
        "networking.k8s.io",
        "Ingress",
        json!({"metadata": {}, "spec": {"ingressClassName": "nginx", "rules": rules, "tls": [{}]}}),
        "x | nginx | a,b,c + 1 more... |  | 80, 443 | 5m",
    );
}
