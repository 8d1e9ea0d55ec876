//! Dynamic resource allocation: device classes, claims, slices, taints.

use serde_json::Value;

use super::kind::{Kind, empty_status};
use super::print::{AGE, NAME, age, name, string};
use super::tree::{child, default_int, has, items_mut, list, text, value};
use super::validate;
use crate::field::Path;

/// DeviceClasses of dynamic resource allocation.
pub(super) static DEVICE_CLASS: Kind = Kind { generation: true, ..Kind::BASE };

pub(super) static RESOURCE_CLAIM: Kind = Kind {
    default: |object| claim_requests(child(object, "spec")),
    status: Some(empty_status),
    validate_update: |new, old, errors| {
        validate::meta::immutable(value(new, "spec"), value(old, "spec"), &Path::new("spec"), errors);
    },
    columns: &[NAME, string("State"), AGE],
    row: |object, now| {
        let status = value(object, "status");
        let deleted = has(value(object, "metadata"), "deletionTimestamp");
        let mut states = Vec::new();
        if deleted {
            states.push("deleted");
        }
        if has(status, "allocation") {
            states.push("allocated");
            if !list(status, "reservedFor").is_empty() {
                states.push("reserved");
            }
        } else if !deleted {
            states.push("pending");
        }
        vec![name(object), states.join(",").into(), age(object, now)]
    },
    ..Kind::BASE
};

pub(super) static RESOURCE_CLAIM_TEMPLATE: Kind = Kind {
    default: |object| claim_requests(child(object, "spec").and_then(|s| child(s, "spec"))),
    validate_update: |new, old, errors| {
        validate::meta::immutable(value(new, "spec"), value(old, "spec"), &Path::new("spec"), errors);
    },
    ..Kind::BASE
};

fn claim_requests(spec: Option<&mut Value>) {
    let Some(devices) = spec.and_then(|s| child(s, "devices")) else { return };
    let fill = |request: &mut Value| {
        super::tree::default_text(request, "allocationMode", "ExactCount");
        if text(request, "allocationMode") == "ExactCount" {
            default_int(request, "count", 1);
        }
    };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = child(request, "exactly") {
            fill(exactly);
        }
        items_mut(request, "firstAvailable").for_each(fill);
    }
}

pub(super) static RESOURCE_SLICE: Kind = Kind {
    columns: &[NAME, string("Node"), string("Driver"), string("Pool"), AGE],
    fields: |object| {
        let spec = value(object, "spec");
        vec![
            ("spec.nodeName", text(spec, "nodeName").to_owned()),
            ("spec.driver", text(spec, "driver").to_owned()),
        ]
    },
    row: |object, now| {
        let spec = value(object, "spec");
        vec![
            name(object),
            text(spec, "nodeName").into(),
            text(spec, "driver").into(),
            text(value(spec, "pool"), "name").into(),
            age(object, now),
        ]
    },
    generation: true,
    ..Kind::BASE
};

/// DeviceTaintRules.
pub(super) static DEVICE_TAINT: Kind = Kind {
    status: Some(empty_status),
    columns: &[NAME, string("Key"), string("Value"), string("Effect"), string("TimeAdded"), AGE],
    row: |object, now| {
        let taint = value(value(object, "spec"), "taint");
        let added = value(taint, "timeAdded");
        let added = if added.is_null() { String::new() } else { super::print::since(added, now) };
        vec![
            name(object),
            text(taint, "key").into(),
            text(taint, "value").into(),
            text(taint, "effect").into(),
            added.into(),
            age(object, now),
        ]
    },
    generation: true,
    ..Kind::BASE
};
