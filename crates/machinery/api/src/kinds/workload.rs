//! What kinds that make pods from a template share: the template, the selector, counts in the status, cells.

use jiff::Timestamp;
use serde_json::Value;

use super::go;
use super::pod::spec;
use super::print;
use super::tree::{ensure_map, has, int, list, opt_int, text, value};
use super::validate::{self, NEGATIVE, label_selector, meta::is_empty_selector};
use crate::field::{Errors, Path};
use crate::selector::LabelSelector;

/// Fills the template of an object whose `spec` has one, and `spec.template.metadata` as upstream shows it.
pub(crate) fn default_template(spec: &mut Value) {
    if let Some(template) = super::tree::child(spec, "template") {
        spec::default_template(template);
        ensure_map(template, "metadata");
    }
}

const SELECTOR: &str = "meta.v1.LabelSelector";

/// Validates a selector that must be there, select something, and select the template's pods.
/// `kind` is what upstream calls the kind in the message about an empty selector.
pub(crate) fn selector_and_template(
    object_spec: &Value,
    kind: &str,
    unsupported_in: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(selector) = selector(object_spec, kind, path, errors) {
        template(object_spec, &selector, unsupported_in, path, errors);
    }
}

/// Validates a required, non-empty `selector`, and reads it if it can be read.
pub(crate) fn selector(
    object_spec: &Value,
    kind: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) -> Option<LabelSelector> {
    let selector = value(object_spec, "selector");
    let at = path.child("selector");
    if selector.is_null() {
        errors.required(&at, "");
    } else {
        label_selector(selector, &at, errors);
        if is_empty_selector(selector) {
            go::invalid(SELECTOR, selector, &format!("empty selector is invalid for {kind}"), &at, errors);
        }
    }
    let read = LabelSelector::from_value(selector);
    if read.is_err() {
        // Upstream has no words for it there.
        let why = if kind == "statefulset" { "" } else { "invalid label selector" };
        go::invalid(SELECTOR, selector, why, &at, errors);
    }
    read.ok()
}

/// Validates `template` against the selector of its owner; pods of workloads restart always.
pub(crate) fn template(
    object_spec: &Value,
    selector: &LabelSelector,
    unsupported_in: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    selected(value(object_spec, "template"), selector, path, errors);
    spec::validate_template(value(object_spec, "template"), &path.child("template"), errors);
    always_restarts(value(object_spec, "template"), unsupported_in, path, errors);
}

/// The pods of a template are those that its owner selects.
pub(crate) fn selected(template: &Value, selector: &LabelSelector, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("template");
    let meta = at.child("metadata");
    if !selector.is_everything() && !selector.matches_value(template) {
        errors.invalid(
            &meta.child("labels"),
            value(value(template, "metadata"), "labels").clone(),
            "`selector` does not match template `labels`",
        );
    }
}

/// The pods of a template are restarted for ever.
pub(crate) fn always_restarts(template: &Value, unsupported_in: &str, path: &Path<'_>, errors: &mut Errors) {
    let pod = value(template, "spec");
    let at = path.child("template");
    let at = at.child("spec");
    if text(pod, "restartPolicy") != "Always" {
        errors.not_supported(&at.child("restartPolicy"), text(pod, "restartPolicy"), &["Always"]);
    }
    if has(pod, "activeDeadlineSeconds") {
        errors.forbidden(
            &at.child("activeDeadlineSeconds"),
            &format!("activeDeadlineSeconds in {unsupported_in} is not Supported"),
        );
    }
}

/// Each of these numbers is zero or more.
pub(crate) fn not_negative(object: &Value, fields: &[&str], path: &Path<'_>, errors: &mut Errors) {
    for field in fields.iter().filter(|field| int(object, field) < 0) {
        errors.invalid(&path.child(field), int(object, field), NEGATIVE);
    }
}

/// The counts of a status: none negative, none above `replicas`, and no more available than ready.
pub(crate) fn counts(status: &Value, fields: &[&str], ready: &str, errors: &mut Errors) {
    let path = Path::new("status");
    not_negative(status, fields, &path, errors);
    not_negative(status, &["replicas", "observedGeneration", "collisionCount"], &path, errors);
    for field in
        fields.iter().filter(|field| **field != "unavailableReplicas" && **field != "terminatingReplicas")
    {
        if int(status, field) > int(status, "replicas") {
            errors.invalid(&path.child(field), int(status, field), "cannot be greater than status.replicas");
        }
    }
    if int(status, "availableReplicas") > int(status, "readyReplicas") {
        errors.invalid(
            &path.child("availableReplicas"),
            int(status, "availableReplicas"),
            &format!("cannot be greater than {ready}"),
        );
    }
}

/// `collisionCount` only grows.
pub(crate) fn collisions(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (value(new, "status"), value(old, "status"));
    if opt_int(old, "collisionCount").is_some_and(|before| int(new, "collisionCount") < before) {
        let path = Path::new("status");
        errors.invalid(&path.child("collisionCount"), int(new, "collisionCount"), "cannot be decremented");
    }
}

/// A number or percentage, zero or more.
pub(crate) fn int_or_percent(amount: &Value, path: &Path<'_>, errors: &mut Errors) {
    match amount {
        Value::String(percent) => {
            if let Some(fault) = validate::percent(percent) {
                errors.invalid(path, percent.as_str(), &fault);
            }
        }
        other => {
            let number = other.as_i64().unwrap_or(0);
            if number < 0 {
                errors.invalid(path, number, NEGATIVE);
            }
        }
    }
}

/// The number before the percent sign, or the number itself; zero if unreadable.
pub(crate) fn amount_of(amount: &Value) -> i64 {
    match amount {
        Value::String(percent) => percent.strip_suffix('%').and_then(|n| n.parse().ok()).unwrap_or(0),
        other => other.as_i64().unwrap_or(0),
    }
}

/// A percentage of at most 100.
pub(crate) fn at_most_all(amount: &Value, path: &Path<'_>, errors: &mut Errors) {
    if amount.is_string() && amount_of(amount) > 100 {
        errors.invalid(path, amount.clone(), "must not be greater than 100%");
    }
}

/// Containers, images and selector: the wide cells of workloads.
pub(crate) fn wide_cells(object: &Value) -> [Value; 3] {
    let spec = value(object, "spec");
    let pod = value(value(spec, "template"), "spec");
    [
        print::containers(pod).into(),
        print::images(pod).into(),
        print::selector(value(spec, "selector")).into(),
    ]
}

/// Name, and Age behind the cells between them.
pub(crate) fn row(object: &Value, now: Timestamp, cells: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let mut row = vec![print::name(object)];
    row.extend(cells);
    row.push(print::age(object, now));
    row
}

/// Warnings about the name, which becomes part of pods' names, and about the template.
pub(crate) fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    // Upstream repeats itself only when the object means something new.
    if old.is_some_and(|old| value(old, "spec") == value(object, "spec")) {
        return warnings;
    }
    if old.is_none() {
        name_warning(object, &mut warnings);
    }
    let spec = Path::new("spec");
    let template = spec.child("template");
    super::pod::spec_warnings(
        value(value(value(object, "spec"), "template"), "spec"),
        &template.child("spec"),
        &mut warnings,
    );
    warnings
}

/// A warning where the names of pods are made of a name that is no label.
pub(crate) fn name_warning(object: &Value, warnings: &mut Vec<String>) {
    let faults = validate::label(text(value(object, "metadata"), "name"));
    if !faults.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            faults.join(" ")
        ));
    }
}

/// Whether some condition of this type is true.
pub(crate) fn condition(object: &Value, kind: &str) -> bool {
    list(value(object, "status"), "conditions")
        .iter()
        .find(|c| text(c, "type") == kind)
        .is_some_and(|c| text(c, "status") == "True")
}
