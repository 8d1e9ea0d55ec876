//! `metadata` of every object: names, labels, annotations, owners, finalizers, and what may not change.

use serde_json::Value;

use super::{IMMUTABLE, NEGATIVE, dns_label, label_value, pattern_fault, qualified_name};
use crate::field::{Errors, Path};
use crate::kinds::tree::{entries, flag, int, list, same, text, value};
use crate::resources::parse_api_version;

/// Annotations of one object, keys and values together.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// What is wrong with a name, or with the beginning of one.
type Names<'n> = &'n dyn Fn(&str, bool) -> Vec<String>;

/// Validates `metadata` of a new object, whose name is already generated. `prefix`: whether `generateName` is held to the
/// rules of names.
pub(crate) fn metadata(
    names: Names<'_>,
    prefix: bool,
    namespaced: bool,
    object: &Value,
    errors: &mut Errors,
) {
    metadata_names(names, prefix, object, errors);
    let meta = value(object, "metadata");
    let path = Path::new("metadata");
    let namespace = text(meta, "namespace");
    if namespaced && namespace.is_empty() {
        errors.required(&path.child("namespace"), "");
    } else if namespaced {
        for fault in dns_label(namespace, false) {
            errors.invalid(&path.child("namespace"), namespace, &fault);
        }
    } else if !namespace.is_empty() {
        errors.forbidden(&path.child("namespace"), "not allowed on this type");
    }
    if int(meta, "generation") < 0 {
        errors.invalid(&path.child("generation"), int(meta, "generation"), NEGATIVE);
    }
    keys_and_owners(meta, &path, errors);
    finalizers(meta, &path.child("finalizers"), errors);
    all_managed_fields(meta, &path, errors);
}

/// Validates the name of an object, and what it was generated from.
pub(crate) fn metadata_names(names: Names<'_>, prefix: bool, object: &Value, errors: &mut Errors) {
    let meta = value(object, "metadata");
    let path = Path::new("metadata");
    let base = text(meta, "generateName");
    if prefix && !base.is_empty() {
        for fault in names(base, true) {
            errors.invalid(&path.child("generateName"), base, &fault);
        }
    }
    let name = text(meta, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        for fault in names(name, false) {
            errors.invalid(&path.child("name"), name, &fault);
        }
    }
}

/// Validates a change of `metadata`: what may not change, and the new labels, annotations and owners.
pub(crate) fn metadata_update(object: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (value(object, "metadata"), value(old, "metadata"));
    let path = Path::new("metadata");
    if !value(old, "deletionTimestamp").is_null() {
        let known = list(old, "finalizers");
        let mut added: Vec<&str> =
            list(new, "finalizers").iter().filter(|f| !known.contains(f)).filter_map(Value::as_str).collect();
        added.sort_unstable();
        added.dedup();
        if !added.is_empty() {
            let shown: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            errors.forbidden(
                &path.child("finalizers"),
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    shown.join(", ")
                ),
            );
        }
    }
    if text(new, "resourceVersion").is_empty() {
        errors.invalid(&path.child("resourceVersion"), "", "must be specified for an update");
    }
    if int(new, "generation") < int(old, "generation") {
        errors.invalid(&path.child("generation"), int(new, "generation"), "must not be decremented");
    }
    for name in ["name", "namespace", "uid"] {
        if text(new, name) != text(old, name) {
            errors.invalid(&path.child(name), text(new, name), IMMUTABLE);
        }
    }
    for name in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if value(new, name) != value(old, name) {
            errors.invalid(&path.child(name), value(new, name).clone(), IMMUTABLE);
        }
    }
    keys_and_owners(new, &path, errors);
    all_managed_fields(new, &path, errors);
}

fn keys_and_owners(meta: &Value, path: &Path<'_>, errors: &mut Errors) {
    labels(value(meta, "labels"), &path.child("labels"), errors);
    annotations(value(meta, "annotations"), &path.child("annotations"), errors);
    owners(meta, &path.child("ownerReferences"), errors);
}

fn all_managed_fields(meta: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (index, entry) in list(meta, "managedFields").iter().enumerate() {
        managed_fields(entry, &path.child("managedFields").index(index), errors);
    }
}

/// Validates a map of labels.
pub fn labels(labels: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for fault in qualified_name(key) {
            errors.invalid(path, key.as_str(), &fault);
        }
        let value = value.as_str().unwrap_or_default();
        for fault in label_value(value) {
            errors.invalid(path, value, &fault);
        }
    }
}

/// Validates a map of annotations: the keys, whatever their case, and the size of all.
pub fn annotations(annotations: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        // Only a domain prefix minds its case; the lower-case copy is needed only when there is one.
        let faults = if key.bytes().any(|b| b.is_ascii_uppercase()) {
            qualified_name(&key.to_lowercase())
        } else {
            qualified_name(key)
        };
        for fault in faults {
            errors.invalid(path, key.as_str(), &fault);
        }
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(path, ANNOTATIONS_MAX);
    }
}

fn owners(meta: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    for owner in list(meta, "ownerReferences") {
        let api_version = text(owner, "apiVersion");
        // `v1` is a version without group; `g/` and more than one slash have no version.
        if parse_api_version(api_version).map_or("", |(_, version)| version).is_empty() {
            errors.invalid(&path.child("apiVersion"), api_version, "version must not be empty");
        }
        for name in ["kind", "name", "uid"] {
            if text(owner, name).is_empty() {
                errors.invalid(&path.child(name), "", "must not be empty");
            }
        }
        if api_version == "v1" && text(owner, "kind") == "Event" {
            errors.invalid(path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if flag(owner, "controller") {
            let this = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
            match &controller {
                Some(first) => errors.invalid(
                    path,
                    value(meta, "ownerReferences").clone(),
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    ),
                ),
                None => controller = Some(this),
            }
        }
    }
}

/// Finalizers of Kubernetes' own kinds are among the standard ones, or have a domain.
pub(crate) fn finalizer_domains(object: &Value, errors: &mut Errors) {
    let meta = Path::new("metadata");
    let path = meta.child("finalizers");
    let all = list(value(object, "metadata"), "finalizers");
    for (index, finalizer) in all.iter().filter_map(Value::as_str).enumerate() {
        named_finalizer(finalizer, &path.index(index), errors);
    }
}

/// One error if a finalizer is none of the standard ones and has no domain.
pub(crate) fn named_finalizer(finalizer: &str, path: &Path<'_>, errors: &mut Errors) {
    if !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
        let fault = "name is neither a standard finalizer name nor is it fully qualified";
        errors.invalid(path, finalizer, fault);
    }
}

fn finalizers(meta: &Value, path: &Path<'_>, errors: &mut Errors) {
    let all = list(meta, "finalizers");
    for finalizer in all.iter().filter_map(Value::as_str) {
        for fault in qualified_name(finalizer) {
            errors.invalid(path, finalizer, &fault);
        }
    }
    let has = |name: &str| all.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.invalid(
            path,
            value(meta, "finalizers").clone(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

fn managed_fields(entry: &Value, path: &Path<'_>, errors: &mut Errors) {
    let operation = text(entry, "operation");
    if operation != "Apply" && operation != "Update" {
        errors.invalid(&path.child("operation"), operation, "must be `Apply` or `Update`");
    }
    let kind = text(entry, "fieldsType");
    if !kind.is_empty() && kind != "FieldsV1" {
        errors.invalid(&path.child("fieldsType"), kind, "must be `FieldsV1`");
    }
    if text(entry, "manager").len() > 128 {
        errors.too_long(&path.child("manager"), 128);
    }
    if text(entry, "subresource").len() > 256 {
        errors.too_long(&path.child("subresource"), 256);
    }
}

/// Validates a list of `Condition`s of a status. Source: `ValidateConditions` of the meta types.
pub(crate) fn conditions(conditions: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let mut seen = ahash::AHashSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = path.index(index);
        let kind = text(condition, "type");
        if !seen.insert(kind) {
            errors.duplicate(&at.child("type"), kind);
        }
        for fault in qualified_name(kind) {
            errors.invalid(&at.child("type"), kind, &fault);
        }
        let state = text(condition, "status");
        if !matches!(state, "False" | "True" | "Unknown") {
            errors.not_supported(&at.child("status"), state, &["False", "True", "Unknown"]);
        }
        let observed = int(condition, "observedGeneration");
        if observed < 0 {
            errors.invalid(
                &at.child("observedGeneration"),
                observed,
                "must be greater than or equal to zero",
            );
        }
        if value(condition, "lastTransitionTime").is_null() {
            errors.required(&at.child("lastTransitionTime"), "");
        }
        reason(text(condition, "reason"), &at.child("reason"), errors);
        if text(condition, "message").len() > MESSAGE_MAX {
            errors.too_long(&at.child("message"), MESSAGE_MAX);
        }
    }
}

/// Bytes of a condition's reason.
const REASON_MAX: usize = 1024;
/// Bytes of a condition's message.
const MESSAGE_MAX: usize = 32 * 1024;

fn reason(reason: &str, path: &Path<'_>, errors: &mut Errors) {
    if reason.is_empty() {
        errors.required(path, "");
        return;
    }
    let bytes = reason.as_bytes();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let good = bytes[0].is_ascii_alphabetic()
        && word(bytes[bytes.len() - 1])
        && bytes.iter().all(|byte| word(*byte) || matches!(byte, b',' | b':'));
    if !good {
        let fault = pattern_fault(
            "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
            "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
            &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
        );
        errors.invalid(path, reason, &fault);
    }
    if reason.len() > REASON_MAX {
        errors.too_long(path, REASON_MAX);
    }
}

/// Validates a `LabelSelector` object; null is fine.
pub fn label_selector(selector: &Value, path: &Path<'_>, errors: &mut Errors) {
    labels(value(selector, "matchLabels"), &path.child("matchLabels"), errors);
    for (index, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let list_path = path.child("matchExpressions");
        label_selector_at(expression, &list_path.index(index), errors);
    }
}

/// Validates one of a selector's `matchExpressions`.
pub fn label_selector_at(expression: &Value, path: &Path<'_>, errors: &mut Errors) {
    let values = list(expression, "values");
    match text(expression, "operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors
                    .required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                errors.forbidden(
                    &path.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
        }
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    let key = text(expression, "key");
    for fault in qualified_name(key) {
        errors.invalid(&path.child("key"), key, &fault);
    }
    for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
        for fault in label_value(value) {
            errors.invalid(&path.child("values").index(index), value, &fault);
        }
    }
}

/// Whether a selector selects everything because it says nothing.
pub(crate) fn is_empty_selector(selector: &Value) -> bool {
    entries(selector, "matchLabels").next().is_none() && list(selector, "matchExpressions").is_empty()
}

/// One error if a field's meaning changed.
pub(crate) fn immutable(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !same(new, old) {
        errors.invalid(path, new.clone(), IMMUTABLE);
    }
}
