//! Ingresses, their classes, network policies, and the addresses Services take.

use serde_json::{Value, json};

use super::Metadata;
use super::go;
use super::kind::Kind;
use super::pod::given_choice;
use super::print::{self, AGE, NAME, age, name, or, string};
use super::service::{ingress_addresses, ingress_balancer_status};
use super::tree::{child, default, has, is_empty, items_mut, list, opt_int, set, text, value};
use super::validate::{self, label_selector, meta::immutable};
use crate::field::{Errors, Path, Reason};

pub(super) static INGRESS: Kind = Kind {
    // An empty list of rules means something only where nothing else says where to go.
    default: |object| {
        if let Some(spec) = child(object, "spec").filter(|spec| has(spec, "defaultBackend"))
            && is_empty(spec, "rules")
        {
            super::tree::remove(spec, "rules");
        }
    },
    status: Some(|_| json!({"loadBalancer": {}})),
    validate: ingress,
    validate_status: |new, old, errors| {
        let path = Path::new("status");
        let balancer = |object| value(value(object, "status"), "loadBalancer");
        ingress_balancer_status(balancer(new), balancer(old), &path.child("loadBalancer"), errors);
    },
    columns: &[NAME, string("Class"), string("Hosts"), string("Address"), string("Ports"), AGE],
    row: |object, now| {
        let spec = value(object, "spec");
        let balancer = value(value(object, "status"), "loadBalancer");
        let ports = if list(spec, "tls").is_empty() { "80" } else { "80, 443" };
        vec![
            name(object),
            or(text(spec, "ingressClassName"), "<none>").into(),
            hosts(list(spec, "rules")).into(),
            ingress_addresses(balancer).join(",").into(),
            ports.into(),
            age(object, now),
        ]
    },
    generation: true,
    warnings: |object, _| {
        if has(value(value(object, "metadata"), "annotations"), "kubernetes.io/ingress.class") {
            vec!["annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead".to_owned()]
        } else {
            Vec::new()
        }
    },
    metadata: Metadata::CHANGE_NEW,
    ..Kind::BASE
};

fn hosts(rules: &[Value]) -> String {
    const MOST: usize = 3;
    let mut shown: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= shown.len() == MOST;
        if !more && !text(rule, "host").is_empty() {
            shown.push(text(rule, "host"));
        }
    }
    match shown.join(",") {
        none if none.is_empty() => "*".to_owned(),
        some if more => format!("{some} + {} more...", rules.len() - MOST),
        some => some,
    }
}

fn ingress(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    let rules = list(spec, "rules");
    if rules.is_empty() && !has(spec, "defaultBackend") {
        let fault = "either `defaultBackend` or `rules` must be specified";
        errors.invalid(&path, value(spec, "rules").clone(), fault);
    }
    if has(spec, "defaultBackend") {
        backend(value(spec, "defaultBackend"), &path.child("defaultBackend"), errors);
    }
    if has(spec, "ingressClassName") {
        let class = text(spec, "ingressClassName");
        for fault in validate::subdomain(class) {
            errors.invalid(&path.child("ingressClassName"), class, &fault);
        }
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = path.child("rules");
        let at = at.index(index);
        let host = text(rule, "host");
        if !host.is_empty() {
            if host.parse::<std::net::IpAddr>().is_ok() {
                errors.invalid(&at.child("host"), host, "must be a DNS name, not an IP address");
            }
            for fault in host_faults(host) {
                errors.invalid(&at.child("host"), host, &fault);
            }
        }
        if has(rule, "http") {
            let at = at.child("http");
            paths(list(value(rule, "http"), "paths"), &at.child("paths"), errors);
        }
    }
    for (index, tls) in list(spec, "tls").iter().enumerate() {
        let at = path.child("tls");
        let at = at.index(index);
        for (number, host) in list(tls, "hosts").iter().filter_map(Value::as_str).enumerate() {
            for fault in host_faults(host) {
                errors.invalid(&at.child("hosts").index(number), host, &fault);
            }
        }
        validate::optional_subdomain(text(tls, "secretName"), &at.child("secretName"), errors);
    }
}

fn paths(paths: &[Value], path: &Path<'_>, errors: &mut Errors) {
    if paths.is_empty() {
        errors.required(path, "");
    }
    for (index, one) in paths.iter().enumerate() {
        let at = path.index(index);
        let (kind, prefix) = (text(one, "pathType"), text(one, "path"));
        if !has(one, "pathType") {
            errors.required(&at.child("pathType"), "pathType must be specified");
            continue;
        }
        match kind {
            "Exact" | "Prefix" => {
                if !prefix.starts_with('/') {
                    errors.invalid(&at.child("path"), prefix, "must be an absolute path");
                }
                const PARTS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
                for part in PARTS.iter().filter(|part| prefix.contains(**part)) {
                    errors.invalid(&at.child("path"), prefix, &format!("must not contain '{part}'"));
                }
                for end in ["/..", "/."].iter().filter(|end| prefix.ends_with(**end)) {
                    errors.invalid(&at.child("path"), prefix, &format!("cannot end with '{end}'"));
                }
            }
            "ImplementationSpecific" => {
                if !prefix.is_empty() && !prefix.starts_with('/') {
                    errors.invalid(&at.child("path"), prefix, "must be an absolute path");
                }
            }
            other => errors.not_supported(
                &at.child("pathType"),
                other,
                &["Exact", "ImplementationSpecific", "Prefix"],
            ),
        }
        backend(value(one, "backend"), &at.child("backend"), errors);
    }
}

fn backend(backend: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (service, resource) = (value(backend, "service"), value(backend, "resource"));
    match (service.is_null(), resource.is_null()) {
        (true, true) => errors.invalid(path, "", "resource or service backend is required"),
        (false, false) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (true, false) => typed_reference(resource, &path.child("resource"), errors),
        (false, true) => {
            let at = path.child("service");
            let service_name = text(service, "name");
            if service_name.is_empty() {
                errors.required(&at.child("name"), "");
            } else {
                for fault in validate::label(service_name) {
                    errors.invalid(&at.child("name"), service_name, &fault);
                }
            }
            let port = value(service, "port");
            let at = at.child("port");
            match (text(port, "name"), opt_int(port, "number").unwrap_or(0)) {
                ("", 0) => errors.required(path, "port name or number is required"),
                ("", number) => {
                    if let Some(fault) = validate::port_number(number) {
                        errors.invalid(&at.child("number"), number, &fault);
                    }
                }
                (port, 0) => {
                    for fault in validate::port_name(port) {
                        errors.invalid(&at.child("name"), port, &fault);
                    }
                }
                _ => errors.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}

/// Faults of a host, which may stand for all below a domain.
fn host_faults(host: &str) -> Vec<String> {
    if host.contains('*') { validate::wildcard_subdomain(host) } else { validate::subdomain(host) }
}

/// A reference to an object of another group; its group may be absent.
fn typed_reference(reference: &Value, path: &Path<'_>, errors: &mut Errors) {
    if has(reference, "apiGroup") {
        let group = text(reference, "apiGroup");
        for fault in validate::subdomain(group) {
            errors.invalid(&path.child("apiGroup"), group, &fault);
        }
    }
    for field in ["kind", "name"] {
        validate::required_segment(text(reference, field), "", &path.child(field), errors);
    }
}

pub(super) static INGRESS_CLASS: Kind = Kind {
    default: |object| {
        if let Some(parameters) = child(object, "spec").and_then(|s| child(s, "parameters")) {
            default(parameters, "scope", "Cluster");
        }
    },
    validate: |object, errors| {
        let spec = value(object, "spec");
        let path = Path::new("spec");
        let controller = text(spec, "controller");
        let at = path.child("controller");
        if controller.len() > 250 {
            errors.too_long(&at, 250);
        }
        validate::domain_prefixed_path(controller, &at, errors);
        if has(spec, "parameters") {
            class_parameters(value(spec, "parameters"), &path.child("parameters"), errors);
        }
    },
    validate_update: |new, old, errors| {
        let path = Path::new("spec");
        let (new, old) = (value(new, "spec"), value(old, "spec"));
        let at = path.child("controller");
        go::immutable("networking.v1.IngressClassSpec", "controller", new, old, &at, errors);
    },
    columns: &[NAME, string("Controller"), string("Parameters"), AGE],
    row: |object, now| {
        let spec = value(object, "spec");
        let parameters = value(spec, "parameters");
        let shown = if parameters.is_null() {
            "<none>".to_owned()
        } else {
            let group = text(parameters, "apiGroup");
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", text(parameters, "kind"), text(parameters, "name"))
        };
        vec![
            default_marked(object, "ingressclass.kubernetes.io/is-default-class").into(),
            text(spec, "controller").into(),
            shown.into(),
            age(object, now),
        ]
    },
    generation: true,
    metadata: Metadata::CHANGE_NEW,
    ..Kind::BASE
};

fn class_parameters(parameters: &Value, path: &Path<'_>, errors: &mut Errors) {
    typed_reference(parameters, path, errors);
    let namespace = text(parameters, "namespace");
    let at = path.child("namespace");
    match (has(parameters, "scope"), text(parameters, "scope")) {
        (false, _) => errors.required(&path.child("scope"), ""),
        (true, "Cluster") if has(parameters, "namespace") => {
            errors.forbidden(&at, "`parameters.scope` is set to 'Cluster'");
        }
        (true, "Cluster") => {}
        (true, "Namespace") if namespace.is_empty() => {
            errors.required(&at, "`parameters.scope` is set to 'Namespace'");
        }
        (true, "Namespace") => {
            validate::label(namespace).iter().for_each(|fault| errors.invalid(&at, namespace, fault));
        }
        (true, other) => errors.not_supported(&path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

/// The name, with ` (default)` where an annotation says so.
pub(super) fn default_marked(object: &Value, annotation: &str) -> String {
    let meta = value(object, "metadata");
    let is_default = text(value(meta, "annotations"), annotation) == "true";
    format!("{}{}", text(meta, "name"), if is_default { " (default)" } else { "" })
}

pub(super) static NETWORK_POLICY: Kind = Kind {
    default: |object| {
        let Some(spec) = child(object, "spec") else { return };
        super::tree::ensure_map(spec, "podSelector");
        if is_empty(spec, "policyTypes") {
            let egress = !list(spec, "egress").is_empty();
            set(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
        }
        for direction in ["ingress", "egress"] {
            for rule in items_mut(spec, direction) {
                for port in items_mut(rule, "ports") {
                    default(port, "protocol", "TCP");
                }
            }
        }
    },
    validate: network_policy,
    columns: &[NAME, string("Pod-Selector"), AGE],
    row: |object, now| {
        let selector = value(value(object, "spec"), "podSelector");
        vec![name(object), print::selector(selector).into(), age(object, now)]
    },
    generation: true,
    ..Kind::BASE
};

fn network_policy(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    label_selector(value(spec, "podSelector"), &path.child("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(spec, direction).iter().enumerate() {
            let at = path.child(direction);
            let at = at.index(index);
            for (number, port) in list(rule, "ports").iter().enumerate() {
                let at = at.child("ports");
                let at = at.index(number);
                given_choice(port, "protocol", &["TCP", "UDP", "SCTP"], &at, errors);
                if has(port, "port") {
                    super::pod::port_or_name(value(port, "port"), &at.child("port"), errors);
                }
                if let Some(end) = opt_int(port, "endPort") {
                    match value(port, "port").as_i64() {
                        Some(first) => {
                            if end < first {
                                // Upstream shows the other number.
                                let why = "must be greater than or equal to `port`";
                                errors.invalid(&at.child("endPort"), first, why);
                            }
                            if let Some(fault) = validate::port_number(end) {
                                errors.invalid(&at.child("endPort"), end, &fault);
                            }
                        }
                        None if has(port, "port") => errors.invalid(
                            &at.child("endPort"),
                            end,
                            "may not be specified when `port` is non-numeric",
                        ),
                        None => errors.invalid(
                            &at.child("endPort"),
                            end,
                            "may not be specified when `port` is not specified",
                        ),
                    }
                }
            }
            for (number, peer) in list(rule, peers).iter().enumerate() {
                let at = at.child(peers);
                policy_peer(peer, &at.index(number), errors);
            }
        }
    }
    let types = list(spec, "policyTypes");
    let at = path.child("policyTypes");
    if types.len() > 2 {
        errors.invalid(&at, value(spec, "policyTypes").clone(), "may not specify more than two policyTypes");
        return;
    }
    for (index, kind) in types.iter().filter_map(Value::as_str).enumerate() {
        if !matches!(kind, "Ingress" | "Egress") {
            errors.not_supported(&at.index(index), kind, &["Ingress", "Egress"]);
        }
    }
}

fn policy_peer(peer: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut kinds = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if has(peer, field) {
            kinds += 1;
            label_selector(value(peer, field), &path.child(field), errors);
        }
    }
    let block = value(peer, "ipBlock");
    if !block.is_null() {
        let at = path.child("ipBlock");
        if kinds > 0 {
            errors.forbidden(path, "may not specify both ipBlock and another peer");
        }
        kinds += 1;
        let cidr = text(block, "cidr");
        if cidr.is_empty() {
            errors.required(&at.child("cidr"), "");
        } else if let Err(fault) = validate::cidr(cidr) {
            errors.invalid(&at.child("cidr"), cidr, fault);
        }
        for (index, except) in list(block, "except").iter().filter_map(Value::as_str).enumerate() {
            let at = at.child("except");
            // Without a range there is nothing that they could be in.
            match (validate::cidr(except), validate::cidr(cidr)) {
                (_, Err(_)) => {}
                (Err(fault), _) => errors.invalid(&at.index(index), except, fault),
                (Ok(inner), Ok(outer)) if !within(inner, outer) => {
                    errors.invalid(&at.index(index), except, "must be a strict subset of `cidr`");
                }
                _ => {}
            }
        }
    }
    if kinds == 0 {
        errors.required(path, "must specify a peer");
    }
}

/// Whether one network is a smaller part of another.
fn within(inner: (std::net::IpAddr, u8), outer: (std::net::IpAddr, u8)) -> bool {
    use std::net::IpAddr::{V4, V6};
    let (longer, bits) = (inner.1 > outer.1, outer.1);
    longer
        && match (inner.0, outer.0) {
            (V4(a), V4(b)) => bits == 0 || u32::from(a) >> (32 - bits) == u32::from(b) >> (32 - bits),
            (V6(a), V6(b)) => bits == 0 || u128::from(a) >> (128 - bits) == u128::from(b) >> (128 - bits),
            _ => false,
        }
}

pub(super) static IP_ADDRESS: Kind = Kind {
    validate: |object, errors| {
        let path = Path::new("spec");
        let parent = value(value(object, "spec"), "parentRef");
        if parent.is_null() {
            errors.required(&path.child("parentRef"), "");
            return;
        }
        let at = path.child("parentRef");
        validate::optional_subdomain(text(parent, "group"), &at.child("group"), errors);
        for field in ["resource", "name"] {
            validate::required_segment(text(parent, field), "", &at.child(field), errors);
        }
        let namespace = text(parent, "namespace");
        for fault in validate::path_segment(namespace, false) {
            errors.invalid(&at.child("namespace"), namespace, &fault);
        }
    },
    validate_late: |new, old, errors| {
        let path = Path::new("spec");
        let (new, old) = (value(new, "spec"), value(old, "spec"));
        go::immutable("networking.v1.IPAddressSpec", "parentRef", new, old, &path.child("parentRef"), errors);
    },
    name: |name, _| match validate::ip(name) {
        Ok(ip) if ip.to_string() == name => Vec::new(),
        Ok(ip) => vec![format!("must be in canonical form ({:?})", ip.to_string())],
        Err(fault) => vec![fault.to_owned()],
    },
    columns: &[NAME, string("ParentRef")],
    row: |object, _| address_row(object),
    metadata: Metadata::NEW_CHANGE,
    ..Kind::BASE
};

fn address_row(object: &Value) -> Vec<Value> {
    let parent = value(value(object, "spec"), "parentRef");
    let shown = if parent.is_null() {
        "<none>".to_owned()
    } else {
        let mut shown = text(parent, "resource").to_lowercase();
        for (separator, field) in [(".", "group"), ("/", "namespace"), ("/", "name")] {
            if !text(parent, field).is_empty() {
                shown = format!("{shown}{separator}{}", text(parent, field));
            }
        }
        shown
    };
    vec![name(object), shown.into()]
}

fn service_cidrs(object: &Value, errors: &mut Errors) {
    let spec = Path::new("spec");
    let path = spec.child("cidrs");
    let cidrs = list(value(object, "spec"), "cidrs");
    if cidrs.is_empty() {
        errors.required(&path, "at least one CIDR required");
        return;
    }
    if cidrs.len() > 2 {
        let spec = value(object, "spec");
        go::invalid("networking.v1.ServiceCIDRSpec", spec, "may only hold up to 2 values", &path, errors);
        return;
    }
    for (index, cidr) in cidrs.iter().filter_map(Value::as_str).enumerate() {
        if let Err(fault) = validate::cidr(cidr) {
            errors.invalid(&path.index(index), cidr, fault);
        }
    }
    let family =
        |cidr: &Value| cidr.as_str().and_then(|c| validate::cidr(c).ok()).map(|(ip, _)| ip.is_ipv4());
    if let [first, second] = cidrs
        && family(first).is_some()
        && family(first) == family(second)
    {
        let fault =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(&path, cidrs, fault);
    }
}

pub(super) static SERVICE_CIDR: Kind = Kind {
    status: Some(|_| json!({})),
    status_keeps_metadata: true,
    validate_create: service_cidrs,
    validate_late: |new, old, errors| {
        let spec = Path::new("spec");
        let path = spec.child("cidrs");
        let (after, before) = (list(value(new, "spec"), "cidrs"), list(value(old, "spec"), "cidrs"));
        // A second family may be added, nothing else changes.
        if after.len() != before.len() && !(before.len() == 1 && after.len() == 2) {
            errors.invalid(&path, value(value(new, "spec"), "cidrs").clone(), validate::IMMUTABLE);
            return;
        }
        let grows = after.len() > before.len();
        for (index, (after, before)) in after.iter().zip(before).enumerate() {
            immutable(after, before, &path.index(index), errors);
        }
        // What it grew by is new.
        if grows {
            service_cidrs(new, errors);
        }
    },
    columns: &[NAME, string("CIDRs"), AGE],
    row: |object, now| {
        let cidrs: Vec<&str> =
            list(value(object, "spec"), "cidrs").iter().filter_map(Value::as_str).collect();
        vec![name(object), cidrs.join(",").into(), age(object, now)]
    },
    ..Kind::BASE
};

/// RuntimeClasses.
pub(super) static RUNTIME_CLASS: Kind = Kind {
    validate: |object, errors| {
        let handler = text(object, "handler");
        if handler.is_empty() {
            errors.required(&Path::new("handler"), "");
        }
        for fault in if handler.is_empty() { Vec::new() } else { validate::label(handler) } {
            errors.invalid(&Path::new("handler"), handler, &fault);
        }
        let scheduling = value(object, "scheduling");
        let path = Path::new("scheduling");
        validate::labels(value(scheduling, "nodeSelector"), &path.child("nodeSelector"), errors);
        let tolerations = list(scheduling, "tolerations");
        super::pod::tolerations(tolerations, &path.child("tolerations"), errors);
        for (index, one) in tolerations.iter().enumerate() {
            if tolerations[..index].iter().any(|other| super::tree::same(other, one)) {
                let shown = go::shown("core.v1.Toleration", one);
                let at = path.child("tolerations");
                errors.push(Reason::Duplicate, &at.index(index), format!("Duplicate value: {shown}"));
            }
        }
        for (resource, raw) in super::tree::entries(value(object, "overhead"), "podFixed") {
            let path = Path::new("overhead");
            let at = path.child("limits");
            let at = at.key(resource);
            super::pod::container_resource_name(resource, &at, errors);
            super::pod::amount(resource, raw, &at, errors);
        }
    },
    validate_late: |new, old, errors| {
        immutable(value(new, "handler"), value(old, "handler"), &Path::new("handler"), errors);
    },
    columns: &[NAME, string("Handler"), AGE],
    row: |object, now| vec![name(object), text(object, "handler").into(), age(object, now)],
    create_on_update: true,
    unconditional_update: false,
    metadata: Metadata { change: Metadata::NEW_CHANGE.change, ..Metadata::EXTENSION },
    ..Kind::BASE
};
