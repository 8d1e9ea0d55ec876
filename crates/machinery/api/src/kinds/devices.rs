//! Dynamic resource allocation: device classes, claims, slices, taints.

mod check;
mod claim;
mod slice;

use serde_json::Value;

use super::Metadata;
use super::go;
use super::kind::{Kind, empty_status};
use super::print::{AGE, NAME, age, name, string};
use super::tree::{child, default_int, default_text, has, items_mut, list, text, value};
use super::validate;
use crate::field::Path;

/// DeviceClasses of dynamic resource allocation.
pub(super) static DEVICE_CLASS: Kind = Kind {
    name: validate::long_name,
    validate: |object, errors| claim::class(value(object, "spec"), &Path::new("spec"), errors),
    generation: true,
    metadata: Metadata { prefix: false, ..Metadata::NEW_CHANGE },
    ..Kind::BASE
};

pub(super) static RESOURCE_CLAIM: Kind = Kind {
    default: |object| claim_requests(child(object, "spec")),
    status: Some(empty_status),
    status_keeps_metadata: true,
    prepare_status: claim::forget_deallocated,
    // An update is asked for one thing only: that the spec stays as it is.
    validate_create: |object, errors| claim::spec(value(object, "spec"), &Path::new("spec"), errors),
    validate_late: |new, old, errors| {
        go::immutable("resource.v1.ResourceClaim", "spec", new, old, &Path::new("spec"), errors);
    },
    validate_status: claim::status,
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
    metadata: Metadata::NEW_CHANGE,
    ..Kind::BASE
};

pub(super) static RESOURCE_CLAIM_TEMPLATE: Kind = Kind {
    default: |object| claim_requests(child(object, "spec").and_then(|s| child(s, "spec"))),
    validate_create: |object, errors| {
        let path = Path::new("spec");
        let spec = value(object, "spec");
        let meta = value(spec, "metadata");
        let at = path.child("metadata");
        validate::labels(value(meta, "labels"), &at.child("labels"), errors);
        validate::annotations(value(meta, "annotations"), &at.child("annotations"), errors);
        claim::spec(value(spec, "spec"), &path.child("spec"), errors);
    },
    validate_late: |new, old, errors| {
        go::immutable("resource.v1.ResourceClaimTemplate", "spec", new, old, &Path::new("spec"), errors);
    },
    metadata: Metadata::NEW_CHANGE,
    ..Kind::BASE
};

/// Conditions of a taint rule, and of an allocated device.
const MOST_CONDITIONS: usize = 8;

fn claim_requests(spec: Option<&mut Value>) {
    let Some(devices) = spec.and_then(|s| child(s, "devices")) else { return };
    let fill = |request: &mut Value| {
        default_text(request, "allocationMode", "ExactCount");
        if text(request, "allocationMode") == "ExactCount" {
            default_int(request, "count", 1);
        }
        for toleration in items_mut(request, "tolerations") {
            default_text(toleration, "operator", "Equal");
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
    prepare: slice::drop_gated,
    prepare_update: |new, _| slice::drop_gated(new),
    validate: |object, errors| slice::spec(value(object, "spec"), &Path::new("spec"), errors),
    validate_late: |new, old, errors| {
        let path = Path::new("spec");
        let (spec, before) = (value(new, "spec"), value(old, "spec"));
        let pool = path.child("pool");
        let at = pool.child("name");
        let (named, known) = (value(spec, "pool"), value(before, "pool"));
        go::immutable("resource.v1.ResourcePool", "name", named, known, &at, errors);
        for field in ["driver", "nodeName"] {
            go::immutable("resource.v1.ResourceSliceSpec", field, spec, before, &path.child(field), errors);
        }
    },
    warnings: |object, _| {
        let driver = text(value(object, "spec"), "driver");
        if *driver == driver.to_lowercase() {
            return Vec::new();
        }
        vec![format!(
            "spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters"
        )]
    },
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
    validate: |object, errors| {
        let path = Path::new("spec");
        let spec = value(object, "spec");
        let chosen = value(spec, "deviceSelector");
        let at = path.child("deviceSelector");
        if has(chosen, "driver") {
            check::driver(text(chosen, "driver"), &at.child("driver"), errors);
        }
        if has(chosen, "pool") {
            check::pool(text(chosen, "pool"), &at.child("pool"), errors);
        }
        if has(chosen, "device") {
            check::label(text(chosen, "device"), &at.child("device"), errors);
        }
        check::taint(value(spec, "taint"), &path.child("taint"), errors);
    },
    validate_status: |new, _, errors| {
        let conditions = list(value(new, "status"), "conditions");
        let path = Path::new("status");
        let at = path.child("conditions");
        validate::meta::conditions(conditions, &at, errors);
        if conditions.len() > MOST_CONDITIONS {
            errors.too_many(&at, conditions.len(), MOST_CONDITIONS);
        }
    },
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
