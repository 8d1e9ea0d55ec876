//! ResourceClaims and DeviceClasses. Source: `pkg/apis/resource/validation`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::MOST_CONDITIONS;
use super::check::{self, as_text, items, set};
use crate::field::{Errors, Path};
use crate::kinds::go;
use crate::kinds::pod::{choice, node_selector};
use crate::kinds::tree::{child, has, int, list, same, text, value};
use crate::kinds::validate::{self, meta};

/// Requests, constraints and configurations of a claim, each; results of an allocation.
const MANY: usize = 32;
/// Alternatives of one request.
const ALTERNATIVES: usize = 8;
/// Who may use a claim at once.
const RESERVED: usize = 256;

/// Names of requests, with those of their alternatives.
type Requests<'a> = BTreeMap<&'a str, Vec<&'a str>>;

fn requests(spec: &Value) -> Requests<'_> {
    let requests = list(value(spec, "devices"), "requests").iter();
    let names = |request| list(request, "firstAvailable").iter().map(|sub| text(sub, "name")).collect();
    requests.map(|request| (text(request, "name"), names(request))).collect()
}

/// Validates what a claim asks for.
pub(super) fn spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let known = requests(spec);
    let devices = value(spec, "devices");
    let at = path.child("devices");
    let name = |item: &Value| text(item, "name").to_owned();
    set(list(devices, "requests"), MANY, name, &at.child("requests"), errors, request);
    items(list(devices, "constraints"), MANY, &at.child("constraints"), errors, |one, at, errors| {
        names_of_requests(one, &known, at, errors);
        constraint(one, at, errors);
    });
    items(list(devices, "config"), MANY, &at.child("config"), errors, |one, at, errors| {
        names_of_requests(one, &known, at, errors);
        check::configuration(one, at, errors);
    });
}

fn request(request: &Value, path: &Path<'_>, errors: &mut Errors) {
    check::label(text(request, "name"), &path.child("name"), errors);
    let alternatives = list(request, "firstAvailable");
    let why = "exactly one of `exactly` or `firstAvailable` is required";
    match (has(request, "exactly"), alternatives.is_empty()) {
        (false, true) => errors.required(path, why),
        (true, false) => errors.invalid(path, Value::Null, &format!("{why}, but multiple fields are set")),
        (true, true) => exact(value(request, "exactly"), &path.child("exactly"), errors),
        (false, false) => {
            let name = |item: &Value| text(item, "name").to_owned();
            let at = path.child("firstAvailable");
            set(alternatives, ALTERNATIVES, name, &at, errors, |one, at, errors| {
                check::label(text(one, "name"), &at.child("name"), errors);
                exact(one, at, errors);
            });
        }
    }
}

fn exact(request: &Value, path: &Path<'_>, errors: &mut Errors) {
    let class = text(request, "deviceClassName");
    if class.is_empty() {
        errors.required(&path.child("deviceClassName"), "");
    } else {
        validate::optional_subdomain(class, &path.child("deviceClassName"), errors);
    }
    check::selectors(list(request, "selectors"), &path.child("selectors"), errors);
    let count = int(request, "count");
    match text(request, "allocationMode") {
        "All" if count != 0 => {
            let why = "must not be specified when allocationMode is 'All'";
            errors.invalid(&path.child("count"), count, why);
        }
        "ExactCount" if count <= 0 => {
            errors.invalid(&path.child("count"), count, "must be greater than zero");
        }
        "All" | "ExactCount" => {}
        other => errors.not_supported(&path.child("allocationMode"), other, &["All", "ExactCount"]),
    }
    for (index, one) in list(request, "tolerations").iter().enumerate() {
        let at = path.child("tolerations");
        check::toleration(one, &at.index(index), errors);
    }
}

fn constraint(constraint: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["matchAttribute", "distinctAttribute"] {
        if has(constraint, field) {
            let name = text(constraint, field);
            let at = path.child(field);
            super::slice::attribute_name(name, &at, errors);
            if !name.contains('/') {
                let why = "a fully qualified name must be a domain and a name separated by a slash";
                errors.invalid(&at, name, why);
            }
            return;
        }
    }
    errors.required(
        path,
        r#"exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#,
    );
}

/// `requests` of a constraint or configuration name requests of the claim.
fn names_of_requests(object: &Value, known: &Requests<'_>, path: &Path<'_>, errors: &mut Errors) {
    set(list(object, "requests"), MANY, as_text, &path.child("requests"), errors, |name, at, errors| {
        request_name(name.as_str().unwrap_or_default(), known, at, errors);
    });
}

fn request_name(name: &str, known: &Requests<'_>, path: &Path<'_>, errors: &mut Errors) {
    const WHY: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 2 {
        errors.invalid(path, name, WHY);
        return;
    }
    for part in &parts {
        check::label(part, path, errors);
    }
    let found = known.get(parts[0]).is_some_and(|subs| parts.get(1).is_none_or(|sub| subs.contains(sub)));
    if !found {
        errors.invalid(path, name, WHY);
    }
}

/// Validates a DeviceClass.
pub(super) fn class(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    check::selectors(list(spec, "selectors"), &path.child("selectors"), errors);
    items(list(spec, "config"), MANY, &path.child("config"), errors, check::configuration);
    let extended = text(spec, "extendedResourceName");
    if has(spec, "extendedResourceName") && !crate::kinds::pod::extended(extended) {
        let at = path.child("extendedResourceName");
        errors.invalid(&at, extended, "must be a valid extended resource name");
    }
}

/// One device, or one share of it, as drivers name them.
fn device(object: &Value) -> String {
    let device = ["driver", "pool", "device"].map(|field| text(object, field)).join("/");
    match text(object, "shareID") {
        "" => device,
        share => format!("{device}/{share}"),
    }
}

fn allocated(status: &Value) -> Vec<String> {
    let devices = value(value(status, "allocation"), "devices");
    list(devices, "results").iter().map(device).collect()
}

/// What drivers said about devices goes with their allocation.
pub(super) fn forget_deallocated(new: &mut Value, old: &Value) {
    let before = allocated(value(old, "status"));
    let Some(status) = child(new, "status") else { return };
    let now = allocated(status);
    if let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) {
        devices.retain(|it| {
            let device = device(it);
            now.contains(&device) || !before.contains(&device)
        });
    }
}

/// Faults of a status update.
pub(super) fn status(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    let (status, before) = (value(new, "status"), value(old, "status"));
    let reserved = list(status, "reservedFor");
    let at = path.child("reservedFor");
    let uid = |item: &Value| text(item, "uid").to_owned();
    set(reserved, RESERVED, uid, &at, errors, |one, at, errors| {
        for field in ["resource", "name", "uid"] {
            if text(one, field).is_empty() {
                errors.required(&at.child(field), "");
            }
        }
    });
    let devices = allocated(status);
    set(list(status, "devices"), usize::MAX, device, &path.child("devices"), errors, |one, at, errors| {
        device_status(one, &devices, at, errors);
    });
    let allocation = value(status, "allocation");
    if !reserved.is_empty() && allocation.is_null() {
        errors.forbidden(&at, "may not be specified when `allocated` is not set");
    } else if has(value(new, "metadata"), "deletionTimestamp")
        && reserved.iter().any(|one| !list(before, "reservedFor").contains(one))
    {
        let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden(&at, why);
    }
    let at = path.child("allocation");
    if !allocation.is_null() && has(before, "allocation") {
        if !same(allocation, value(before, "allocation")) {
            go::immutable("resource.v1.ResourceClaimStatus", "allocation", status, before, &at, errors);
        }
    } else if !allocation.is_null() {
        allocation_result(allocation, &requests(value(new, "spec")), &at, errors);
    }
}

fn allocation_result(allocation: &Value, known: &Requests<'_>, path: &Path<'_>, errors: &mut Errors) {
    let devices = value(allocation, "devices");
    let at = path.child("devices");
    items(list(devices, "results"), MANY, &at.child("results"), errors, |one, at, errors| {
        request_name(text(one, "request"), known, &at.child("request"), errors);
        named(one, at, errors);
        check::binding(one, at, errors);
        share_id(one, at, errors);
    });
    // As many as a claim and a class have together.
    items(list(devices, "config"), 2 * MANY, &at.child("config"), errors, |one, at, errors| {
        choice(one, "source", &["FromClaim", "FromClass"], at, errors);
        names_of_requests(one, known, at, errors);
        check::configuration(one, at, errors);
    });
    if has(allocation, "nodeSelector") {
        node_selector(value(allocation, "nodeSelector"), &path.child("nodeSelector"), errors);
    }
}

/// Driver, pool and device.
fn named(object: &Value, path: &Path<'_>, errors: &mut Errors) {
    check::driver(text(object, "driver"), &path.child("driver"), errors);
    check::pool(text(object, "pool"), &path.child("pool"), errors);
    check::label(text(object, "device"), &path.child("device"), errors);
}

fn share_id(object: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !has(object, "shareID") {
        return;
    }
    let id = text(object, "shareID");
    let normal = id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        });
    if !normal {
        let why = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
        errors.invalid(&path.child("shareID"), id, why);
    }
}

fn device_status(object: &Value, allocated: &[String], path: &Path<'_>, errors: &mut Errors) {
    named(object, path, errors);
    share_id(object, path, errors);
    let id = device(object);
    if !allocated.contains(&id) {
        errors.invalid(path, id, "must be an allocated device in the claim");
    }
    let conditions = list(object, "conditions");
    let at = path.child("conditions");
    if conditions.len() > MOST_CONDITIONS {
        errors.too_many(&at, conditions.len(), MOST_CONDITIONS);
    }
    meta::conditions(conditions, &at, errors);
    if has(object, "data") {
        check::raw(value(object, "data"), &path.child("data"), errors);
    }
    network(value(object, "networkData"), &path.child("networkData"), errors);
}

fn network(data: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (field, most) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if text(data, field).len() > most {
            errors.too_long(&path.child(field), most);
        }
    }
    set(list(data, "ips"), 16, as_text, &path.child("ips"), errors, |one, at, errors| {
        let address = one.as_str().unwrap_or_default();
        if !is_interface_address(address) {
            let why = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
            errors.invalid(at, address, why);
        }
    });
}

/// An address with the length of its network.
fn is_interface_address(text: &str) -> bool {
    let Some((ip, length)) = text.split_once('/') else { return false };
    let Ok(ip) = validate::ip(ip) else { return false };
    let most = if ip.is_ipv4() { 32 } else { 128 };
    length.parse::<u8>().is_ok_and(|bits| bits <= most && length == bits.to_string())
}
