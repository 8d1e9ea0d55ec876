//! Endpoints and EndpointSlices.

use serde_json::Value;

use super::Metadata;
use super::kind::Kind;
use super::pod::{choice, given_choice};
use super::print::{AGE, NAME, age, name, or, string};
use super::service::{app_protocol, endpoint_ip};
use super::tree::{
    default, default_text, has, int, items_mut, list, opt_int, remove, same, set, text, value,
};
use super::validate::{self, meta::immutable};
use crate::field::{Errors, Path};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(super) static ENDPOINTS: Kind = Kind {
    default: |object| {
        for subset in items_mut(object, "subsets") {
            for port in items_mut(subset, "ports") {
                default_text(port, "protocol", "TCP");
            }
        }
    },
    validate: subsets,
    columns: &[NAME, string("Endpoints"), AGE],
    row: |object, now| vec![name(object), endpoints_cell(object).into(), age(object, now)],
    create_on_update: true,
    metadata: Metadata::CHANGE_NEW,
    ..Kind::BASE
};

pub(super) static SLICE: Kind = Kind {
    default: |object| {
        for port in items_mut(object, "ports") {
            default(port, "name", "");
            default(port, "protocol", "TCP");
        }
    },
    prepare: |object| drop_topology(object, &Value::Null),
    prepare_update: drop_topology,
    validate: slice,
    validate_late: |new, old, errors| {
        let path = Path::new("addressType");
        immutable(value(new, "addressType"), value(old, "addressType"), &path, errors);
    },
    columns: &[NAME, string("AddressType"), string("Ports"), string("Endpoints"), AGE],
    row: |object, now| {
        let addresses =
            list(object, "endpoints").iter().flat_map(|e| list(e, "addresses")).filter_map(Value::as_str);
        vec![
            name(object),
            text(object, "addressType").into(),
            slice_ports(object).into(),
            or(&shortened(addresses.map(str::to_owned)), "<unset>").into(),
            age(object, now),
        ]
    },
    generation: true,
    // Everything but metadata counts, and the labels too.
    changed: |new, old| {
        let labels = |o| value(value(o, "metadata"), "labels");
        ["endpoints", "ports", "addressType"].iter().any(|f| !same(value(new, f), value(old, f)))
            || !same(labels(new), labels(old))
    },
    metadata: Metadata::NEW,
    ..Kind::BASE
};

/// v1 does not take the topology of endpoints that it still shows. A node name that only stood there moves to its field.
fn drop_topology(new: &mut Value, old: &Value) {
    const HOSTNAME: &str = "kubernetes.io/hostname";
    if same(value(new, "endpoints"), value(old, "endpoints")) {
        return;
    }
    let host = |endpoint: &Value| text(value(endpoint, "deprecatedTopology"), HOSTNAME).to_owned();
    let known: Vec<String> =
        list(old, "endpoints").iter().map(host).filter(|name| !name.is_empty()).collect();
    for endpoint in items_mut(new, "endpoints") {
        let name = host(endpoint);
        if !has(endpoint, "nodeName") && known.contains(&name) && validate::subdomain(&name).is_empty() {
            set(endpoint, "nodeName", name);
        }
        remove(endpoint, "deprecatedTopology");
    }
}

fn subsets(object: &Value, errors: &mut Errors) {
    let path = Path::new("subsets");
    for (index, subset) in list(object, "subsets").iter().enumerate() {
        let at = path.index(index);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            errors.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (number, one) in list(subset, field).iter().enumerate() {
                address(one, &at.child(field).index(number), errors);
            }
        }
        let ports = list(subset, "ports");
        for (number, port) in ports.iter().enumerate() {
            let at = at.child("ports");
            let at = at.index(number);
            port_name(port, ports.len() > 1, &at, errors);
            if let Some(fault) = validate::port_number(int(port, "port")) {
                errors.invalid(&at.child("port"), int(port, "port"), &fault);
            }
            choice(port, "protocol", PROTOCOLS, &at, errors);
            app_protocol(port, &at, errors);
        }
    }
}

fn port_name(port: &Value, required: bool, path: &Path<'_>, errors: &mut Errors) {
    let name = text(port, "name");
    if name.is_empty() {
        if required {
            errors.required(&path.child("name"), "");
        }
        return;
    }
    for fault in validate::label(name) {
        errors.invalid(&path.child("name"), name, &fault);
    }
}

fn address(address: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (ip, host, node) = (text(address, "ip"), text(address, "hostname"), text(address, "nodeName"));
    let legacy = validate::ip(ip);
    if let Err(fault) = legacy {
        errors.invalid(&path.child("ip"), ip, fault);
    }
    if !host.is_empty() {
        for fault in validate::label(host) {
            errors.invalid(&path.child("hostname"), host, &fault);
        }
    }
    if has(address, "nodeName") {
        for fault in validate::subdomain(node) {
            errors.invalid(&path.child("nodeName"), node, &fault);
        }
    }
    // Told again, in older words, by the look at what kind of address it is.
    if legacy.is_err() {
        errors.invalid(&path.child("ip"), ip, "must be a valid IP address");
    }
    endpoint_ip(ip, &path.child("ip"), errors);
}

fn slice(object: &Value, errors: &mut Errors) {
    let kind = text(object, "addressType");
    choice(object, "addressType", &["FQDN", "IPv4", "IPv6"], &Path::new(""), errors);
    let path = Path::new("endpoints");
    let endpoints = list(object, "endpoints");
    if endpoints.len() > 1000 {
        errors.too_many(&path, endpoints.len(), 1000);
        return;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        slice_endpoint(endpoint, kind, &path.index(index), errors);
    }
    let path = Path::new("ports");
    let ports = list(object, "ports");
    if ports.len() > 20_000 {
        errors.too_many(&path, ports.len(), 20_000);
        return;
    }
    let mut names = ahash::AHashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = path.index(index);
        let name = text(port, "name");
        port_name(port, false, &at, errors);
        if !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        given_choice(port, "protocol", PROTOCOLS, &at, errors);
        app_protocol(port, &at, errors);
    }
}

fn slice_endpoint(endpoint: &Value, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let addresses = list(endpoint, "addresses");
    let at = path.child("addresses");
    if addresses.is_empty() {
        errors.required(&at, "must contain at least 1 address");
    } else if addresses.len() > 100 {
        errors.too_many(&at, addresses.len(), 100);
    }
    for (index, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        let at = at.index(index);
        match (kind, validate::ip(address)) {
            ("IPv4" | "IPv6", Ok(ip)) => {
                if ip.is_ipv4() != (kind == "IPv4") {
                    errors.invalid(&path.child("addresses"), address, &format!("must be an {kind} address"));
                }
                endpoint_ip(address, &at, errors);
            }
            ("IPv4" | "IPv6", Err(fault)) => errors.invalid(&at, address, fault),
            ("FQDN", _) => {
                for fault in validate::subdomain(address) {
                    errors.invalid(&at, address, &fault);
                }
            }
            _ => {}
        }
    }
    if has(endpoint, "nodeName") {
        for fault in validate::subdomain(text(endpoint, "nodeName")) {
            errors.invalid(&path.child("nodeName"), text(endpoint, "nodeName"), &fault);
        }
    }
    validate::labels(value(endpoint, "deprecatedTopology"), &path.child("deprecatedTopology"), errors);
    if has(endpoint, "hostname") {
        for fault in validate::label(text(endpoint, "hostname")) {
            errors.invalid(&path.child("hostname"), text(endpoint, "hostname"), &fault);
        }
    }
    hints(endpoint, path, errors);
}

/// Hints for zones and nodes: at most eight of each, every name once.
fn hints(endpoint: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["forZones", "forNodes"] {
        let all = list(value(endpoint, "hints"), field);
        let at = path.child("hints");
        let at = at.child(field);
        if all.len() > 8 {
            errors.too_many(&at, all.len(), 8);
            return;
        }
        for (index, hint) in all.iter().enumerate() {
            let at = at.index(index);
            let name = text(hint, "name");
            if all[..index].iter().any(|before| text(before, "name") == name) {
                errors.duplicate(&at.child("name"), name);
            }
            let faults =
                if field == "forZones" { validate::label_value(name) } else { validate::subdomain(name) };
            for fault in faults {
                errors.invalid(&at.child("name"), name, &fault);
            }
        }
    }
}

/// `10.0.0.1:80,10.0.0.2:80 + 3 more...`: for each port all addresses.
fn endpoints_cell(object: &Value) -> String {
    let subsets = list(object, "subsets");
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let all = subsets.iter().flat_map(|subset| {
        let ips = || list(subset, "addresses").iter().map(|a| text(a, "ip"));
        let with = |ip: &str, port: i64| {
            if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
        };
        let ports = list(subset, "ports");
        if ports.is_empty() {
            // Headless endpoints have no ports.
            ips().map(str::to_owned).collect::<Vec<_>>()
        } else {
            ports.iter().flat_map(|p| ips().map(move |ip| with(ip, int(p, "port")))).collect()
        }
    });
    shortened(all)
}

/// The first three, and how many more there are.
fn shortened(items: impl Iterator<Item = String>) -> String {
    const MOST: usize = 3;
    let mut shown = Vec::new();
    let mut count = 0;
    for item in items {
        count += 1;
        if shown.len() < MOST {
            shown.push(item);
        }
    }
    let text = shown.join(",");
    if count > MOST { format!("{text} + {} more...", count - MOST) } else { text }
}

fn slice_ports(object: &Value) -> String {
    let shown = shortened(list(object, "ports").iter().map(|port| match opt_int(port, "port") {
        Some(number) => number.to_string(),
        None if has(port, "name") => text(port, "name").to_owned(),
        None => "*".to_owned(),
    }));
    or(&shown, "<unset>").to_owned()
}
