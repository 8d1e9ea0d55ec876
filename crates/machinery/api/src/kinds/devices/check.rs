//! What claims, classes and slices have in common: names, selectors, configuration, taints, lists with a limit.
//!
//! CEL expressions are held to their length only: there is no compiler of them here.

use ahash::AHashSet;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::tree::{has, list, text, value};
use crate::kinds::validate;

pub(super) use crate::kinds::pod::csi_driver_name as driver;

/// Bytes of an expression, and of opaque parameters.
const TEXT_MAX: usize = 10 * 1024;
/// Bytes of a pool's name.
const POOL_MAX: usize = 253;
/// Selectors of one request or class.
const SELECTORS_MAX: usize = 32;
/// Conditions of each kind for binding.
const BINDING_MAX: usize = 4;

/// Validates the items of a list that holds at most `most`; the size is told alone.
pub(super) fn items(
    items: &[Value],
    most: usize,
    path: &Path<'_>,
    errors: &mut Errors,
    mut item: impl FnMut(&Value, &Path<'_>, &mut Errors),
) {
    if items.len() > most {
        errors.too_many(path, items.len(), most);
        return;
    }
    for (index, one) in items.iter().enumerate() {
        item(one, &path.index(index), errors);
    }
}

/// [`items`] of which no two may have the same key.
pub(super) fn set(
    all: &[Value],
    most: usize,
    key: impl Fn(&Value) -> String,
    path: &Path<'_>,
    errors: &mut Errors,
    item: impl FnMut(&Value, &Path<'_>, &mut Errors),
) {
    items(all, most, path, errors, item);
    if all.len() > most {
        return;
    }
    let mut seen = AHashSet::new();
    for (index, one) in all.iter().enumerate() {
        let key = key(one);
        if seen.contains(&key) {
            errors.duplicate(&path.index(index), key);
        } else {
            seen.insert(key);
        }
    }
}

/// An item that is a text, as a key.
pub(super) fn as_text(item: &Value) -> String {
    item.as_str().unwrap_or_default().to_owned()
}

pub(super) fn label(name: &str, path: &Path<'_>, errors: &mut Errors) {
    for fault in validate::label(name) {
        errors.invalid(path, name, &fault);
    }
}

/// The name of a pool: subdomains between slashes.
pub(super) fn pool(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > POOL_MAX {
        errors.too_long(path, POOL_MAX);
    }
    for part in name.split('/') {
        for fault in validate::subdomain(part) {
            errors.invalid(path, part, &fault);
        }
    }
}

pub(super) fn selectors(selectors: &[Value], path: &Path<'_>, errors: &mut Errors) {
    items(selectors, SELECTORS_MAX, path, errors, |selector, at, errors| {
        let cel = value(selector, "cel");
        if cel.is_null() {
            errors.required(&at.child("cel"), "");
        } else if text(cel, "expression").len() > TEXT_MAX {
            errors.too_long(&at.child("cel").child("expression"), TEXT_MAX);
        }
    });
}

/// What is handed to a driver.
pub(super) fn configuration(config: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("opaque");
    let opaque = value(config, "opaque");
    if opaque.is_null() {
        errors.required(&at, "");
        return;
    }
    driver(text(opaque, "driver"), &at.child("driver"), errors);
    raw(value(opaque, "parameters"), &at.child("parameters"), errors);
}

/// An object of the driver's own.
pub(super) fn raw(object: &Value, path: &Path<'_>, errors: &mut Errors) {
    if object.is_null() {
        errors.required(path, "");
    } else if object.to_string().len() > TEXT_MAX {
        errors.too_long(path, TEXT_MAX);
    } else if !object.is_object() {
        errors.invalid(path, "<value omitted>", "must be a valid JSON object");
    }
}

pub(super) const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

pub(super) fn taint(taint: &Value, path: &Path<'_>, errors: &mut Errors) {
    qualified(text(taint, "key"), &path.child("key"), errors);
    label_value(text(taint, "value"), &path.child("value"), errors);
    crate::kinds::pod::choice(taint, "effect", EFFECTS, path, errors);
}

pub(super) fn toleration(toleration: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (key, content) = (text(toleration, "key"), text(toleration, "value"));
    if !key.is_empty() {
        qualified(key, &path.child("key"), errors);
    }
    match text(toleration, "operator") {
        "Exists" => {
            if !content.is_empty() {
                errors.invalid(&path.child("value"), content, "must be empty for operator `Exists`");
            }
        }
        "Equal" => label_value(content, &path.child("value"), errors),
        "" => errors.required(&path.child("operator"), ""),
        other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    if !text(toleration, "effect").is_empty() {
        crate::kinds::pod::choice(toleration, "effect", EFFECTS, path, errors);
    }
}

fn label_value(content: &str, path: &Path<'_>, errors: &mut Errors) {
    for fault in validate::label_value(content) {
        errors.invalid(path, content, &fault);
    }
}

pub(super) fn qualified(name: &str, path: &Path<'_>, errors: &mut Errors) {
    for fault in validate::qualified_name(name) {
        errors.invalid(path, name, &fault);
    }
}

/// The conditions that a device waits for, and those that end the waiting.
pub(super) fn binding(object: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (conditions, failures) = ("bindingConditions", "bindingFailureConditions");
    for field in [conditions, failures] {
        items(list(object, field), BINDING_MAX, &path.child(field), errors, |one, at, errors| {
            qualified(one.as_str().unwrap_or_default(), at, errors);
        });
    }
    let waits = list(object, conditions);
    for field in [conditions, failures] {
        let all = list(object, field);
        for (index, one) in all.iter().enumerate() {
            let at = path.child(field);
            if all[..index].contains(one) {
                errors.duplicate(&at.index(index), one.clone());
            }
            if field == failures && waits.contains(one) {
                let why = "bindingFailureConditions must not overlap with bindingConditions";
                errors.invalid(&at.index(index), one.clone(), why);
            }
        }
    }
    for (absent, present) in [(conditions, failures), (failures, conditions)] {
        if list(object, absent).is_empty() && !list(object, present).is_empty() {
            let why = format!("{absent} are required to use {present}");
            let shown = if has(object, absent) { value(object, absent).clone() } else { Value::Null };
            errors.invalid(&path.child(absent), shown, &why);
        }
    }
}
