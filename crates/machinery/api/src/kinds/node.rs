//! Nodes.

use jiff::Timestamp;
use serde_json::Value;

use super::Metadata;
use super::go;
use super::kind::Kind;
use super::pod::{amount, taint_effect};
use super::print::{AGE, NAME, age, name, or, string, wide};
use super::tree::{carry, child, entries, flag, has, list, opt_int, remove, set, text, value};
use super::validate::{self, label_value, qualified_name};
use crate::field::{Errors, Path, Reason};

pub(super) static RULES: Kind = Kind {
    default: defaults,
    // Nodes register with their status, which upstream keeps on create.
    status: None,
    prepare: drop_config,
    prepare_update: |new, old| {
        carry(new, old, "status");
        drop_config(new);
    },
    prepare_status: |new, _| drop_config(new),
    validate: |object, errors| {
        taints(object, errors);
        resources(object, errors);
        swap(object, errors);
        declared_features(object, errors);
        pod_cidrs(object, errors);
    },
    validate_late: update,
    validate_status: |new, _, errors| {
        resources(new, errors);
        declared_features(new, errors);
        addresses(new, errors);
        taints(new, errors);
    },
    fields: |object| vec![("spec.unschedulable", flag(value(object, "spec"), "unschedulable").to_string())],
    columns: &[
        NAME,
        string("Status"),
        string("Roles"),
        AGE,
        string("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    row,
    metadata: Metadata::NEW_CHANGE,
    ..Kind::BASE
};

/// What kubelets were once configured by; long gone, and not kept.
fn drop_config(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        remove(spec, "configSource");
    }
    if let Some(status) = child(object, "status") {
        remove(status, "config");
    }
}

fn defaults(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        // Two names of one thing: the older one is the first of the newer.
        let first = text(spec, "podCIDR").to_owned();
        let known = list(spec, "podCIDRs").first().and_then(Value::as_str).unwrap_or_default().to_owned();
        if !first.is_empty() && first != known {
            set(spec, "podCIDRs", serde_json::json!([first]));
        } else if first.is_empty() && !known.is_empty() {
            set(spec, "podCIDR", known);
        }
    }
    if let Some(status) = child(object, "status")
        && !has(status, "allocatable")
        && has(status, "capacity")
    {
        let capacity = value(status, "capacity").clone();
        set(status, "allocatable", capacity);
    }
}

fn taints(object: &Value, errors: &mut Errors) {
    let metadata = Path::new("metadata");
    // Upstream looks for them below metadata in its messages.
    let path = metadata.child("taints");
    let taints = list(value(object, "spec"), "taints");
    let mut seen = ahash::AHashSet::new();
    for (index, taint) in taints.iter().enumerate() {
        let at = path.index(index);
        let (key, effect) = (text(taint, "key"), text(taint, "effect"));
        for fault in qualified_name(key) {
            errors.invalid(&at.child("key"), key, &fault);
        }
        let faults = label_value(text(taint, "value"));
        if !faults.is_empty() {
            errors.invalid(&at.child("value"), text(taint, "value"), &faults.join(";"));
        }
        if effect.is_empty() {
            errors.required(&at.child("effect"), "");
        } else {
            taint_effect(effect, &at.child("effect"), errors);
        }
        if !seen.insert((key, effect)) {
            errors.push(
                Reason::Duplicate,
                &at,
                format!(
                    "Duplicate value: {}: taints must be unique by key and effect pair",
                    go::shown("core.v1.Taint", taint)
                ),
            );
        }
    }
}

fn resources(object: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    for field in ["capacity", "allocatable"] {
        for (resource, raw) in entries(value(object, "status"), field) {
            let at = status.child(field);
            // A name is a field's there, as upstream has it; where there is none it says so.
            let named = if resource.is_empty() { at.key(resource) } else { at.child(resource) };
            amount(resource, raw, &named, errors);
        }
    }
}

fn swap(object: &Value, errors: &mut Errors) {
    let info = value(value(object, "status"), "nodeInfo");
    let capacity = opt_int(value(info, "swap"), "capacity");
    if let Some(capacity) = capacity.filter(|capacity| *capacity <= 0) {
        // Upstream looks for it below metadata in its messages.
        let metadata = Path::new("metadata");
        let at = metadata.child("nodeSwapStatus");
        errors.invalid(&at.child("capacity"), capacity, "must be greater than 0");
    }
}

fn declared_features(object: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    let path = status.child("declaredFeatures");
    let features: Vec<&str> =
        list(value(object, "status"), "declaredFeatures").iter().filter_map(Value::as_str).collect();
    for (index, name) in features.iter().enumerate() {
        if name.len() > 253 {
            let why = format!("invalid feature name {name:?}: must be no more than 253 characters");
            errors.invalid(&path.index(index), *name, &why);
        } else if !is_feature(name) {
            let why = format!(
                "invalid feature name {name:?}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
            );
            errors.invalid(&path.index(index), *name, &why);
        }
        match features.get(index + 1) {
            Some(next) if name == next => errors.duplicate(&path.index(index + 1), *next),
            Some(next) if name > next => {
                errors.invalid(&path.index(index + 1), *next, "list must be sorted alphabetically");
            }
            _ => {}
        }
    }
}

fn is_feature(name: &str) -> bool {
    let segment = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(segment)
}

fn pod_cidrs(object: &Value, errors: &mut Errors) {
    let spec = Path::new("spec");
    let path = spec.child("podCIDRs");
    let cidrs = value(value(object, "spec"), "podCIDRs");
    let all: Vec<&str> = cidrs.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (index, cidr) in all.iter().enumerate() {
        if let Err(fault) = validate::cidr(cidr) {
            errors.invalid(&path.index(index), *cidr, fault);
        }
    }
    if all.len() > 2 || all.len() == 2 && all[0].contains(':') == all[1].contains(':') {
        errors.invalid(&path, cidrs.clone(), "may specify no more than one CIDR for each IP family");
    }
}

fn addresses(object: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    let all = list(value(object, "status"), "addresses");
    for (index, address) in all.iter().enumerate() {
        if all[..index].contains(address) {
            let shown = go::shown("core.v1.NodeAddress", address);
            let at = status.child("addresses");
            errors.push(Reason::Duplicate, &at.index(index), format!("Duplicate value: {shown}"));
        }
    }
}

fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (spec, before) = (value(new, "spec"), value(old, "spec"));
    // Told a second time, as upstream does: causes are told as often as they are found, messages once.
    resources(new, errors);
    declared_features(new, errors);
    addresses(new, errors);
    let (cidrs, known) = (list(spec, "podCIDRs"), list(before, "podCIDRs"));
    let changes = match known.len() {
        0 => 0,
        length if length != cidrs.len() => 1,
        _ => cidrs.iter().zip(known).filter(|(new, old)| new != old).count(),
    };
    // One fault for each that differs, all about the list.
    for _ in 0..changes {
        errors.forbidden(
            &path.child("podCIDRs"),
            "node updates may not change podCIDR except from \"\" to valid",
        );
    }
    let provider = text(before, "providerID");
    if !provider.is_empty() && text(spec, "providerID") != provider {
        errors.forbidden(
            &path.child("providerID"),
            "node updates may not change providerID except from \"\" to valid",
        );
    }
    taints(new, errors);
    if text(spec, "externalID") != text(before, "externalID") {
        errors.forbidden(&path.child("externalID"), "may not be updated");
    }
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (value(object, "spec"), value(object, "status"));
    let info = value(status, "nodeInfo");
    let ready = list(status, "conditions").iter().rfind(|c| text(c, "type") == "Ready");
    let mut state = match ready.map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if flag(spec, "unschedulable") {
        state.push_str(",SchedulingDisabled");
    }
    let mut kernel = or(text(info, "kernelVersion"), "<unknown>").to_owned();
    if !text(info, "architecture").is_empty() {
        kernel = format!("{kernel} ({})", text(info, "architecture"));
    }
    let address = |kind: &str| {
        let found = list(status, "addresses").iter().find(|a| text(a, "type") == kind);
        found.map_or("<none>", |a| text(a, "address"))
    };
    vec![
        name(object),
        state.into(),
        or(&roles(object).join(","), "<none>").into(),
        age(object, now),
        text(info, "kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        or(text(info, "osImage"), "<unknown>").into(),
        kernel.into(),
        or(text(info, "containerRuntimeVersion"), "<unknown>").into(),
    ]
}

/// The roles that labels give, sorted.
fn roles(object: &Value) -> Vec<&str> {
    let mut roles: Vec<&str> = entries(value(object, "metadata"), "labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}
