//! PersistentVolumeClaims, and the claim templates of pods and stateful sets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Metadata;
use super::kind::Kind;
use super::print::{AGE, NAME, age, name, or, string, wide};
use super::tree::{carry, child, default, default_text, entries, has, list, remove, same, set, text, value};
use super::validate::{self, label_selector, meta::immutable};
use crate::field::{Errors, Path};
use crate::quantity::Quantity;

pub(super) static RULES: Kind = Kind {
    default: defaults,
    status: Some(|_| json!({"phase": "Pending"})),
    prepare: |object| {
        if let Some(spec) = child(object, "spec") {
            data_sources(spec, &Value::Null);
        }
    },
    prepare_update: |new, old| {
        if let Some(spec) = child(new, "spec") {
            data_sources(spec, value(old, "spec"));
        }
    },
    validate: |object, errors| {
        let path = Path::new("spec");
        validate_spec(value(object, "spec"), &path, errors);
    },
    validate_late: update,
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
    metadata: Metadata::CHANGE_NEW,
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

/// `dataSource` and `dataSourceRef` say the same, the first only of claims and snapshots. What is not understood there is
/// dropped, as ever; a reference into another namespace is not supported.
fn data_sources(spec: &mut Value, before: &Value) {
    let namespaced = !text(value(spec, "dataSourceRef"), "namespace").is_empty();
    if namespaced && !has(before, "dataSourceRef") {
        remove(spec, "dataSourceRef");
    }
    let used = has(before, "dataSource") || has(before, "dataSourceRef");
    if !used && !has(spec, "dataSourceRef") && has(spec, "dataSource") {
        let source = value(spec, "dataSource");
        let known = matches!(
            (text(source, "apiGroup"), text(source, "kind")),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        );
        if !known {
            remove(spec, "dataSource");
        }
    }
    let (from, to) = match (has(spec, "dataSource"), has(spec, "dataSourceRef")) {
        (true, false) => ("dataSource", "dataSourceRef"),
        (false, true) if text(value(spec, "dataSourceRef"), "namespace").is_empty() => {
            ("dataSourceRef", "dataSource")
        }
        _ => return,
    };
    let mut copy = value(spec, from).clone();
    remove(&mut copy, "namespace");
    set(spec, to, copy);
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
    let (source, reference) = (value(spec, "dataSource"), value(spec, "dataSourceRef"));
    if source.is_null() || reference.is_null() {
        return;
    }
    // Upstream shows the path of the field as the value, which has no fields of its own to show.
    if !text(reference, "namespace").is_empty() {
        errors.invalid(path, json!({}), "may not be specified when dataSourceRef.namespace is specified");
    } else if ["apiGroup", "kind", "name"].iter().any(|f| text(source, f) != text(reference, f)) {
        errors.invalid(path, json!({}), "must match dataSourceRef");
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
        remove(&mut rest, "volumeName");
    }
    storage_class(new, old, &mut rest, errors);
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
        let difference = super::go::difference("core.v1.PersistentVolumeClaimSpec", before, &rest);
        let why = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{difference}"
        );
        errors.forbidden(&path, &why);
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
    let class = "volumeAttributesClassName";
    if has(value(old, "status"), "currentVolumeAttributesClassName")
        && value(spec, class) != value(before, class)
        && text(spec, class).is_empty()
    {
        let to = if has(spec, class) { "empty string" } else { "nil" };
        errors.forbidden(
            &path.child(class),
            &format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil"),
        );
    }
}

/// A class may be set where there was none, and may move from the annotation of old to its field; else it stays.
fn storage_class(new: &Value, old: &Value, rest: &mut Value, errors: &mut Errors) {
    let annotation =
        |object: &Value| value(value(value(object, "metadata"), "annotations"), BETA_CLASS).clone();
    let (was, is) = (annotation(old), annotation(new));
    let (spec, before) = (value(new, "spec"), value(old, "spec"));
    let chosen = value(spec, "storageClassName");
    let newly = has(spec, "storageClassName") && !has(before, "storageClassName");
    let moves = newly && *chosen == was && (is.is_null() || is == was);
    if !moves && was.as_str().unwrap_or_default() != is.as_str().unwrap_or_default() {
        let metadata = Path::new("metadata");
        let at = metadata.child("annotations");
        errors.invalid(&at.child(BETA_CLASS), is.as_str().unwrap_or_default(), validate::IMMUTABLE);
    }
    if moves || newly && (was.is_null() || *chosen == was) {
        remove(rest, "storageClassName");
    }
}

/// How far a resize may be, sorted as upstream lists them.
const RESIZES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

fn validate_status(new: &Value, _old: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    let shown = value(new, "status");
    let amount = |raw: &Value, at: &Path<'_>, errors: &mut Errors| match Quantity::from_value(raw) {
        Ok(amount) if amount.value() < 0 => {
            errors.invalid(at, amount.value(), "must be a valid resource quantity");
        }
        _ => {}
    };
    for (name, raw) in entries(shown, "capacity") {
        amount(raw, &status.child("capacity").key(name), errors);
    }
    let at = status.child("allocatedResourceStatuses");
    for (name, state) in entries(shown, "allocatedResourceStatuses") {
        resource_key(name, &at, errors);
        if !state.as_str().is_some_and(|state| RESIZES.contains(&state)) {
            errors.not_supported(&at, name, RESIZES);
        }
    }
    let at = status.child("allocatedResources");
    for (name, raw) in entries(shown, "allocatedResources") {
        if resource_key(name, &at, errors) {
            amount(raw, &at.key(name), errors);
        }
    }
}

/// Of Kubernetes' own resources a claim has only storage. Whether the name is good.
fn resource_key(name: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let faults = validate::qualified_name(name);
    for fault in &faults {
        errors.invalid(path, name, fault);
    }
    let known = !super::pod::native(name) || name == "storage";
    if faults.is_empty() && !known {
        errors.not_supported(path, name, &["storage"]);
    }
    faults.is_empty() && known
}

/// Where claims named their class before there was a field.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

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
    match text(annotations, BETA_CLASS) {
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
