//! Services. Addresses and node ports are allocated by the API server; these are the rules around them.
//! Source: `pkg/registry/core/service`, `pkg/apis/core/validation`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kind::Kind;
use super::print::{self, AGE, NAME, age, name, or, string, wide};
use super::tree::{
    carry, child, default, default_text, has, int, items_mut, list, remove, same, set, text, value,
};
use super::validate::dns_label;

mod validate;

pub use validate::address_faults;
pub(crate) use validate::{app_protocol, endpoint_ip, ingress_balancer_status};

pub(super) static RULES: Kind = Kind {
    default: defaults,
    status: Some(|_| json!({"loadBalancer": {}})),
    prepare: |object| {
        normalize_ips(object, None);
        drop_internal_policy(object);
    },
    prepare_update: |new, old| {
        normalize_ips(new, Some(old));
        drop_what_the_type_does_not_use(new, old);
        drop_internal_policy(new);
    },
    validate: |object, errors| validate::service(object, None, errors),
    validate_update: validate::update,
    validate_status: validate::status,
    name: dns_label,
    fields: |object| {
        let spec = value(object, "spec");
        vec![
            ("spec.clusterIP", text(spec, "clusterIP").to_owned()),
            ("spec.type", text(spec, "type").to_owned()),
        ]
    },
    columns: &[
        NAME,
        string("Type"),
        string("Cluster-IP"),
        string("External-IP"),
        string("Port(s)"),
        AGE,
        wide("Selector"),
    ],
    row,
    create_on_update: true,
    warnings: |object, _| warnings(object),
    ..Kind::BASE
};

fn defaults(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        default_text(spec, "sessionAffinity", "None");
        match text(spec, "sessionAffinity") {
            "None" => remove(spec, "sessionAffinityConfig"),
            "ClientIP" => {
                let timeout =
                    value(value(value(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds");
                if timeout.is_null() {
                    set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
                }
            }
            _ => {}
        }
        default_text(spec, "type", "ClusterIP");
        for port in items_mut(spec, "ports") {
            default_text(port, "protocol", "TCP");
            let target = value(port, "targetPort");
            if target.is_null() || target == &json!(0) || target == &json!("") {
                let number = int(port, "port");
                set(port, "targetPort", number);
            }
        }
        if externally_accessible(spec) {
            default_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer") {
            default(spec, "internalTrafficPolicy", "Cluster");
        }
        if text(spec, "type") == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
    }
    if text(value(object, "spec"), "type") == "LoadBalancer"
        && let Some(balancer) = child(object, "status").and_then(|s| child(s, "loadBalancer"))
    {
        for ingress in items_mut(balancer, "ingress") {
            if !text(ingress, "ip").is_empty() {
                default(ingress, "ipMode", "VIP");
            }
        }
    }
}

/// Whether traffic from outside may reach the Service.
pub(super) fn externally_accessible(spec: &Value) -> bool {
    match text(spec, "type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !list(spec, "externalIPs").is_empty(),
        _ => false,
    }
}

/// Whether the Service is headless by its addresses.
pub fn headless(spec: &Value) -> bool {
    matches!(list(spec, "clusterIPs"), [only] if only == "None")
}

/// Whether a load balancer asks nodes for their health.
pub fn needs_health_check(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

/// `clusterIP` and `clusterIPs` are two names of one thing, and a client that sends an update without what the server
/// allocated does not mean to give it up.
fn normalize_ips(new: &mut Value, old: Option<&Value>) {
    let Some(spec) = child(new, "spec") else { return };
    let Some(old) = old.map(|old| value(old, "spec")) else {
        let ip = text(spec, "clusterIP").to_owned();
        if !ip.is_empty() && list(spec, "clusterIPs").is_empty() {
            set(spec, "clusterIPs", json!([ip]));
        }
        return;
    };
    let wants_ip = |spec: &Value| text(spec, "type") != "ExternalName";
    if wants_ip(old) && wants_ip(spec) {
        let before = text(old, "clusterIP");
        if text(spec, "clusterIP").is_empty() && !before.is_empty() {
            set(spec, "clusterIP", before);
        }
        if text(spec, "clusterIP") == before {
            if list(spec, "clusterIPs").is_empty() {
                carry(spec, old, "clusterIPs");
            }
            for field in ["ipFamilies", "ipFamilyPolicy"] {
                if !has(spec, field) {
                    carry(spec, old, field);
                }
            }
        }
    }
    if text(spec, "clusterIP") != text(old, "clusterIP")
        && value(spec, "clusterIPs") == value(old, "clusterIPs")
    {
        // A client that knows only the singular field changed it.
        let ip = text(spec, "clusterIP").to_owned();
        if ip.is_empty() {
            remove(spec, "clusterIPs");
        } else {
            set(spec, "clusterIPs", json!([ip]));
        }
    }
    keep_node_ports(spec, old);
    if needs_health_check(old) && needs_health_check(spec) && int(spec, "healthCheckNodePort") == 0 {
        carry(spec, old, "healthCheckNodePort");
    }
}

/// Ports without a node port get back the one that the port of that name had, unless another port has taken it.
fn keep_node_ports(spec: &mut Value, old: &Value) {
    if !has_node_ports(spec) || !has_node_ports(old) {
        return;
    }
    let mut taken: Vec<i64> = list(spec, "ports").iter().map(|p| int(p, "nodePort")).collect();
    for port in items_mut(spec, "ports").filter(|p| int(p, "nodePort") == 0) {
        let before = list(old, "ports").iter().rfind(|p| text(p, "name") == text(port, "name"));
        let number = before.map_or(0, |p| int(p, "nodePort"));
        if number != 0 && !taken.contains(&number) {
            taken.push(number);
            set(port, "nodePort", number);
        }
    }
}

/// Whether the Service is reached at ports of nodes.
pub fn has_node_ports(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

/// A change of type lets go of what only the old type used, unless the client changed that too (which is then refused).
fn drop_what_the_type_does_not_use(new: &mut Value, old: &Value) {
    let before = value(old, "spec");
    let Some(spec) = child(new, "spec") else { return };
    let kind = text(spec, "type").to_owned();
    let unchanged = |spec: &Value, field: &str| same(value(spec, field), value(before, field));
    if text(before, "type") != "ExternalName" && kind == "ExternalName" {
        if unchanged(spec, "clusterIP") && unchanged(spec, "clusterIPs") {
            remove(spec, "clusterIP");
            remove(spec, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if unchanged(spec, field) {
                remove(spec, field);
            }
        }
    }
    if has_node_ports(before) && !has_node_ports(spec) {
        let numbers =
            |spec: &Value| list(spec, "ports").iter().map(|p| int(p, "nodePort")).collect::<Vec<_>>();
        let known = numbers(before);
        // Ports may have been removed or reordered, but none may be new.
        if numbers(spec).iter().all(|port| *port == 0 || known.contains(port)) {
            for port in items_mut(spec, "ports") {
                remove(port, "nodePort");
            }
        }
    }
    if needs_health_check(before) && !needs_health_check(spec) && unchanged(spec, "healthCheckNodePort") {
        remove(spec, "healthCheckNodePort");
    }
    if text(before, "type") == "LoadBalancer" && kind != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if unchanged(spec, field) {
                remove(spec, field);
            }
        }
    }
    if externally_accessible(before)
        && !externally_accessible(spec)
        && unchanged(spec, "externalTrafficPolicy")
    {
        remove(spec, "externalTrafficPolicy");
    }
    if kind != "LoadBalancer" {
        set(new, "status", status_without_balancer(value(old, "status")));
    }
}

/// A mere name has no traffic inside of the cluster to speak of: upstream does not show the field there.
fn drop_internal_policy(object: &mut Value) {
    if let Some(spec) = child(object, "spec").filter(|spec| text(spec, "type") == "ExternalName") {
        remove(spec, "internalTrafficPolicy");
    }
}

fn status_without_balancer(status: &Value) -> Value {
    let mut status = if status.is_object() { status.clone() } else { json!({}) };
    set(&mut status, "loadBalancer", json!({}));
    status
}

fn warnings(object: &Value) -> Vec<String> {
    let spec = value(object, "spec");
    let mut warnings = Vec::new();
    let kind = text(spec, "type");
    let external_ips = !list(spec, "externalIPs").is_empty();
    let is_headless = kind == "ClusterIP" && text(spec, "clusterIP") == "None";
    if is_headless {
        if !text(spec, "loadBalancerIP").is_empty() {
            warnings.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if external_ips {
            warnings.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if text(spec, "sessionAffinity") != "None" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    } else if external_ips && kind != "ExternalName" {
        warnings.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    if kind == "ExternalName" && external_ips {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !text(spec, "externalName").is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(spec, "trafficDistribution") == "PreferClose" {
        warnings.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
    warnings
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = value(object, "spec");
    let ip =
        list(spec, "clusterIPs").first().and_then(Value::as_str).unwrap_or_else(|| text(spec, "clusterIP"));
    let ports: Vec<String> = list(spec, "ports").iter().map(port_text).collect();
    vec![
        name(object),
        text(spec, "type").into(),
        or(ip, "<none>").into(),
        external(object).into(),
        or(&ports.join(","), "<none>").into(),
        age(object, now),
        print::labels(spec, "selector").into(),
    ]
}

fn port_text(port: &Value) -> String {
    let (number, protocol) = (int(port, "port"), text(port, "protocol"));
    match int(port, "nodePort") {
        0 => format!("{number}/{protocol}"),
        node => format!("{number}:{node}/{protocol}"),
    }
}

fn external(object: &Value) -> String {
    let spec = value(object, "spec");
    let mut ips: Vec<&str> = list(spec, "externalIPs").iter().filter_map(Value::as_str).collect();
    match text(spec, "type") {
        "ClusterIP" | "NodePort" => or(&ips.join(","), "<none>").to_owned(),
        "LoadBalancer" => {
            let mut all = ingress_addresses(value(value(object, "status"), "loadBalancer"));
            all.append(&mut ips);
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(spec, "externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// The addresses of a load balancer's status, sorted and unique.
pub(super) fn ingress_addresses(balancer: &Value) -> Vec<&str> {
    let mut addresses: Vec<&str> =
        list(balancer, "ingress").iter().map(|i| or(text(i, "ip"), text(i, "hostname"))).collect();
    addresses.retain(|address| !address.is_empty());
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Whether a Service has an address of the cluster's: not headless, not only a name.
pub fn has_cluster_ip(service: &Value) -> bool {
    let spec = value(service, "spec");
    has(spec, "clusterIP") && !matches!(text(spec, "clusterIP"), "" | "None")
}
