//! Nodes.

use jiff::Timestamp;
use serde_json::Value;

use super::kind::Kind;
use super::pod::{amount, taint_effect};
use super::print::{AGE, NAME, age, name, or, string, wide};
use super::tree::{child, entries, flag, has, list, set, text, value};
use super::validate::{self, label_value, qualified_name};
use crate::field::{Errors, Path, Reason};

pub(super) static RULES: Kind = Kind {
    default: defaults,
    // Nodes register with their status, which upstream keeps on create.
    status: None,
    prepare_update: |new, old| super::tree::carry(new, old, "status"),
    validate: |object, errors| {
        taints(object, errors);
        resources(object, errors);
        pod_cidrs(object, errors);
    },
    validate_update: update,
    validate_status: |new, _, errors| {
        resources(new, errors);
        addresses(new, errors);
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
    ..Kind::BASE
};

fn defaults(object: &mut Value) {
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
                format!("Duplicate value: {taint}: taints must be unique by key and effect pair"),
            );
        }
    }
}

fn resources(object: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    for field in ["capacity", "allocatable"] {
        for (resource, raw) in entries(value(object, "status"), field) {
            let at = status.child(field);
            amount(resource, raw, &at.child(resource), errors);
        }
    }
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
            errors.duplicate(&status.child("addresses").index(index), address.clone());
        }
    }
}

fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (spec, before) = (value(new, "spec"), value(old, "spec"));
    if !list(before, "podCIDRs").is_empty() && value(spec, "podCIDRs") != value(before, "podCIDRs") {
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
