//! PriorityClasses, and Leases of coordination, which schedulers and nodes hold.

use serde_json::Value;

use super::Metadata;
use super::kind::Kind;
use super::pod::choice;
use super::print::{AGE, NAME, age, boolean, integer, name, string};
use super::tree::{child, default, flag, has, int, opt_int, remove, text, value};
use super::validate::{NEGATIVE, meta::immutable};
use crate::field::{Errors, Path};

pub(super) static PRIORITY_CLASS: Kind = Kind {
    default: |object| default(object, "preemptionPolicy", "PreemptLowerPriority"),
    // Only what stays is looked at again.
    validate_create: priority_class,
    validate_update: |new, old, errors| {
        if int(new, "value") != int(old, "value") {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        let path = Path::new("preemptionPolicy");
        immutable(value(new, "preemptionPolicy"), value(old, "preemptionPolicy"), &path, errors);
    },
    columns: &[NAME, integer("Value"), boolean("Global-Default"), AGE, string("PreemptionPolicy")],
    row: |object, now| {
        vec![
            name(object),
            int(object, "value").into(),
            flag(object, "globalDefault").into(),
            age(object, now),
            text(object, "preemptionPolicy").into(),
        ]
    },
    generation: true,
    // Upstream sets the generation once and never raises it.
    changed: |_, _| false,
    ..Kind::BASE
};

/// The highest priority that users may define.
const HIGHEST: i64 = 1_000_000_000;

fn priority_class(object: &Value, errors: &mut Errors) {
    let class = text(value(object, "metadata"), "name");
    let priority = int(object, "value");
    if class.starts_with("system-") {
        let fault = match class {
            "system-cluster-critical" => system_class(object, class, 2_000_000_000),
            "system-node-critical" => system_class(object, class, 2_000_001_000),
            _ => Some(format!("{class} is not a known system priority class")),
        };
        if let Some(fault) = fault {
            let meta = Path::new("metadata");
            errors.forbidden(
                &meta.child("name"),
                &format!("priority class names with 'system-' prefix are reserved for system use only. error: {fault}"),
            );
        }
    } else if priority > HIGHEST {
        errors.forbidden(
            &Path::new("value"),
            &format!("maximum allowed value of a user defined priority is {HIGHEST}"),
        );
    }
    if has(object, "preemptionPolicy") {
        choice(object, "preemptionPolicy", &["PreemptLowerPriority", "Never"], &Path::new(""), errors);
    }
}

fn system_class(object: &Value, class: &str, expected: i64) -> Option<String> {
    if int(object, "value") != expected {
        return Some(format!("value of {class} PriorityClass must be {expected}"));
    }
    flag(object, "globalDefault").then(|| format!("globalDefault of {class} PriorityClass must be false"))
}

pub(super) static LEASE: Kind = Kind {
    validate: |object, errors| {
        let spec = value(object, "spec");
        let path = Path::new("spec");
        if let Some(seconds) = opt_int(spec, "leaseDurationSeconds").filter(|s| *s <= 0) {
            errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(count) = opt_int(spec, "leaseTransitions").filter(|c| *c < 0) {
            errors.invalid(&path.child("leaseTransitions"), count, NEGATIVE);
        }
    },
    prepare: |object| drop_coordination(object, &Value::Null),
    prepare_update: drop_coordination,
    columns: &[NAME, string("Holder"), AGE],
    row: |object, now| {
        vec![name(object), text(value(object, "spec"), "holderIdentity").into(), age(object, now)]
    },
    create_on_update: true,
    unconditional_update: false,
    metadata: Metadata::EXTENSION,
    ..Kind::BASE
};

/// Takes out the fields of CoordinatedLeaderElection, which is off, where the stored Lease does not have them already.
fn drop_coordination(new: &mut Value, old: &Value) {
    let Some(spec) = child(new, "spec") else { return };
    for field in ["strategy", "preferredHolder"] {
        if !has(value(old, "spec"), field) {
            remove(spec, field);
        }
    }
}

/// LeaseCandidates of coordinated leader election.
pub(super) static LEASE_CANDIDATE: Kind = Kind {
    validate: |object, errors| {
        let path = Path::new("spec");
        for field in ["leaseName", "binaryVersion", "strategy"] {
            if text(value(object, "spec"), field).is_empty() {
                errors.required(&path.child(field), "");
            }
        }
    },
    validate_update: |new, old, errors| {
        let path = Path::new("spec");
        let lease = |o| value(value(o, "spec"), "leaseName");
        immutable(lease(new), lease(old), &path.child("leaseName"), errors);
    },
    name: |name, _| super::validate::config_key(name),
    fields: |object| vec![("spec.leaseName", text(value(object, "spec"), "leaseName").to_owned())],
    columns: &[NAME, string("LeaseName"), string("BinaryVersion"), string("EmulationVersion"), AGE],
    row: |object, now| {
        let spec = value(object, "spec");
        let cell = |field: &str| -> Value { text(spec, field).into() };
        vec![
            name(object),
            cell("leaseName"),
            cell("binaryVersion"),
            cell("emulationVersion"),
            age(object, now),
        ]
    },
    create_on_update: true,
    unconditional_update: false,
    metadata: Metadata::EXTENSION,
    ..Kind::BASE
};
