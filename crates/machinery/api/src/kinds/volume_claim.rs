//! PersistentVolumeClaims, and the claim templates of pods and stateful sets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kind::Kind;
use super::print::{AGE, NAME, age, name, or, string, wide};
use super::tree::{carry, child, default, default_text, entries, has, list, same, text, value};
use super::validate::{self, label_selector, meta::immutable};
use crate::field::{Errors, Path};
use crate::quantity::Quantity;

pub(super) static RULES: Kind = Kind {
    default: defaults,
    status: Some(|_| json!({"phase": "Pending"})),
    validate: |object, errors| {
        let path = Path::new("spec");
        validate_spec(value(object, "spec"), &path, errors);
    },
    validate_update: update,
    validate_status,
    columns: &[
        NAME,
        string("Status"),
        string("Volume"),
        string("Capacity"),
        string("Access Modes"),
        string("StorageClass"),
        string("VolumeAttributesClass"),
        AGE,
        wide("VolumeMode"),
    ],
    row,
    ..Kind::BASE
};

/// The access modes of volumes, sorted as upstream lists them.
pub(super) const ACCESS_MODES: &[&str] =
    &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn defaults(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        default(spec, "volumeMode", "Filesystem");
    }
    if let Some(status) = super::tree::ensure_map(object, "status") {
        default_text(status, "phase", "Pending");
    }
}

/// Validates a claim's `spec`.
pub(crate) fn validate_spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let modes = list(spec, "accessModes");
    let at = path.child("accessModes");
    if modes.is_empty() {
        errors.required(&at, "at least 1 access mode is required");
    }
    label_selector(value(spec, "selector"), &path.child("selector"), errors);
    for mode in modes.iter().filter_map(Value::as_str).filter(|mode| !ACCESS_MODES.contains(mode)) {
        errors.not_supported(&at, mode, ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
    let storage = value(value(value(spec, "resources"), "requests"), "storage");
    let resources = path.child("resources");
    let at = resources.key("storage");
    match Quantity::from_value(storage) {
        _ if storage.is_null() => errors.required(&at, ""),
        Ok(amount) if amount <= Quantity::ZERO => {
            errors.invalid(&at, amount.to_string(), "must be greater than zero");
        }
        Ok(_) => {}
        Err(_) => errors.invalid(&at, storage.clone(), "must be a valid resource quantity"),
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        validate::optional_subdomain(text(spec, field), &path.child(field), errors);
    }
    super::pod::optional_choice(spec, "volumeMode", &["Block", "Filesystem"], path, errors);
    for field in ["dataSource", "dataSourceRef"] {
        if has(spec, field) {
            data_source(value(spec, field), &path.child(field), errors);
        }
    }
}

fn data_source(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["name", "kind"] {
        if text(source, field).is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    validate::optional_subdomain(group, &path.child("apiGroup"), errors);
}

fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let (spec, before) = (value(new, "spec"), value(old, "spec"));
    let mut rest = spec.clone();
    if text(before, "volumeName").is_empty() {
        super::tree::remove(&mut rest, "volumeName");
    }
    let bound = text(value(new, "status"), "phase") == "Bound";
    let requested = |spec: &Value| {
        Quantity::from_value(value(value(value(spec, "resources"), "requests"), "storage"))
            .unwrap_or_default()
    };
    if bound {
        carry(&mut rest, before, "volumeAttributesClassName");
        if let Some(requests) = child(&mut rest, "resources").and_then(|r| child(r, "requests")) {
            carry(requests, value(value(before, "resources"), "requests"), "storage");
        }
    }
    let path = Path::new("spec");
    if !same(&rest, before) {
        errors.forbidden(
            &path,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n",
        );
    }
    let size = requested(spec);
    if size < requested(before) {
        let capacity = Quantity::from_value(value(value(value(old, "status"), "capacity"), "storage"));
        if size <= capacity.unwrap_or_default() {
            let resources = path.child("resources");
            let requests = resources.child("requests");
            errors.forbidden(&requests.child("storage"), "field can not be less than status.capacity");
        }
    }
    immutable(value(spec, "volumeMode"), value(before, "volumeMode"), &Path::new("volumeMode"), errors);
}

fn validate_status(new: &Value, _old: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    for (name, raw) in entries(value(new, "status"), "capacity") {
        let capacity = status.child("capacity");
        if let Ok(amount) = Quantity::from_value(raw)
            && amount.value() < 0
        {
            errors.invalid(&capacity.key(name), amount.value(), "must be a valid resource quantity");
        }
    }
}

/// Access modes as the tables abbreviate them: `RWO,ROX`.
pub(super) fn modes_text(object: &Value) -> String {
    let has = |mode: &str| list(object, "accessModes").iter().any(|m| m == mode);
    let shown: Vec<&str> = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .into_iter()
    .filter(|(mode, _)| has(mode))
    .map(|(_, short)| short)
    .collect();
    shown.join(",")
}

/// The storage class of a volume or claim: the annotation of old, or the field.
pub(super) fn class(object: &Value) -> &str {
    let annotations = value(value(object, "metadata"), "annotations");
    match text(annotations, "volume.beta.kubernetes.io/storage-class") {
        "" => text(value(object, "spec"), "storageClassName"),
        class => class,
    }
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let (meta, spec, status) = (value(object, "metadata"), value(object, "spec"), value(object, "status"));
    let phase = if has(meta, "deletionTimestamp") { "Terminating" } else { text(status, "phase") };
    let volume = text(spec, "volumeName");
    let (capacity, modes) = if volume.is_empty() {
        (String::new(), String::new())
    } else {
        let capacity = Quantity::from_value(value(value(status, "capacity"), "storage")).unwrap_or_default();
        (capacity.to_string(), modes_text(status))
    };
    vec![
        name(object),
        phase.into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        class(object).into(),
        or(text(spec, "volumeAttributesClassName"), "<unset>").into(),
        age(object, now),
        or(text(spec, "volumeMode"), "<unset>").into(),
    ]
}
