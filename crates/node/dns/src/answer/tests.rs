//! Questions and answers, as `dig` would print them.

use podium_client::ObjectKey;
use serde_json::json;

use super::*;
use crate::zone;

fn sample() -> Zone {
    let mut zone = Zone::default();
    let mut put = |namespace: &str, name: &str, spec: serde_json::Value, slices: serde_json::Value| {
        let service =
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec}))
                .unwrap();
        let slices: Vec<k8s_openapi::api::discovery::v1::EndpointSlice> =
            serde_json::from_value(slices).unwrap();
        let slices: Vec<_> = slices.iter().collect();
        let key = ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() };
        zone.set(&key, zone::entry(&service, &slices).as_ref());
    };
    put(
        "production",
        "web",
        json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
        json!([]),
    );
    put(
        "production",
        "db",
        json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}),
        json!([{"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432}], "endpoints": [
            {"addresses": ["10.244.0.5"], "hostname": "db-0"}, {"addresses": ["10.244.0.6"]},
            {"addresses": ["10.244.0.9"], "conditions": {"ready": false}},
        ]}]),
    );
    put("production", "none", json!({"clusterIP": "None"}), json!([]));
    put("production", "out", json!({"type": "ExternalName", "externalName": "example.com"}), json!([]));
    zone
}

#[track_caller]
fn check(question: &str, kind: RecordType, expected: &[&str]) {
    let domain = Domain::parse("cluster.local").unwrap();
    let mut name = Name::from_ascii(question).unwrap();
    name.set_fqdn(true);
    let text = match answer(&sample(), &domain, &name, kind, Some("10.244.0.1".parse().unwrap())) {
        Answer::NotOurs => vec!["not ours".to_owned()],
        Answer::Alias { target, .. } => vec![format!("alias {target}")],
        Answer::Reply { code: ResponseCode::NXDomain, .. } => vec!["no such name".to_owned()],
        Answer::Reply { answers, .. } => answers.iter().map(|r| r.data.to_string()).collect(),
    };
    assert_eq!(text, expected, "{question} {kind}");
}

#[test]
fn cluster_ip_services() {
    check("web.production.svc.cluster.local", RecordType::A, &["10.96.0.7"]);
    check("WEB.Production.SVC.cluster.LOCAL", RecordType::A, &["10.96.0.7"]);
    check("web.production.svc.cluster.local", RecordType::AAAA, &["fd00::7"]);
    check("web.production.svc.cluster.local", RecordType::TXT, &[]);
    check(
        "_http._tcp.web.production.svc.cluster.local",
        RecordType::SRV,
        &["0 100 80 web.production.svc.cluster.local."],
    );
    check("_http._udp.web.production.svc.cluster.local", RecordType::SRV, &["no such name"]);
    check("_http._tcp.web.production.svc.cluster.local", RecordType::A, &[]);
    check("x.web.production.svc.cluster.local", RecordType::A, &["no such name"]);
}

#[test]
fn headless_services() {
    check("db.production.svc.cluster.local", RecordType::A, &["10.244.0.6", "10.244.0.5"]);
    check("db-0.db.production.svc.cluster.local", RecordType::A, &["10.244.0.5"]);
    check("10-244-0-6.db.production.svc.cluster.local", RecordType::A, &["10.244.0.6"]);
    check("10-244-0-9.db.production.svc.cluster.local", RecordType::A, &["no such name"]);
    check(
        "_sql._tcp.db.production.svc.cluster.local",
        RecordType::SRV,
        &[
            "0 50 5432 10-244-0-6.db.production.svc.cluster.local.",
            "0 50 5432 db-0.db.production.svc.cluster.local.",
        ],
    );
    check("none.production.svc.cluster.local", RecordType::A, &["no such name"]);
}

#[test]
fn other_names() {
    check("out.production.svc.cluster.local", RecordType::A, &["alias example.com."]);
    check("out.production.svc.cluster.local", RecordType::CNAME, &["example.com."]);
    check("10-1-2-3.production.pod.cluster.local", RecordType::A, &["10.1.2.3"]);
    check("10-1-2-3.nowhere.pod.cluster.local", RecordType::A, &["no such name"]);
    check("missing.production.svc.cluster.local", RecordType::A, &["no such name"]);
    check("cluster.local", RecordType::A, &[]);
    check("cluster.local", RecordType::NS, &["ns.dns.cluster.local."]);
    check("ns.dns.cluster.local", RecordType::A, &["10.244.0.1"]);
    check("dns-version.cluster.local", RecordType::TXT, &["1.1.0"]);
    check("example.com", RecordType::A, &["not ours"]);
    check("notcluster.local", RecordType::A, &["not ours"]);
    check("local", RecordType::A, &["not ours"]);
}

#[test]
fn reverse_names() {
    check("7.0.96.10.in-addr.arpa", RecordType::PTR, &["web.production.svc.cluster.local."]);
    check("5.0.244.10.in-addr.arpa", RecordType::PTR, &["db-0.db.production.svc.cluster.local."]);
    check("9.9.9.9.in-addr.arpa", RecordType::PTR, &["not ours"]);
    check("96.10.in-addr.arpa", RecordType::PTR, &["not ours"]);
}

#[test]
fn a_removed_service_takes_its_names_along() {
    let mut zone = sample();
    zone.set(&ObjectKey { namespace: "production".to_owned(), name: "web".to_owned() }, None);
    assert!(zone.service("production", "web").is_none());
    assert_eq!(zone.names_of("10.96.0.7".parse().unwrap()).count(), 0);
}
