//! Faults of admission policies and their bindings, but for the expressions in them, which are judged where they are
//! compiled. Source: `pkg/apis/admissionregistration/validation`.

use ahash::AHashSet;
use serde_json::Value;

use super::webhooks::{match_conditions, rule_with_operations};
use crate::field::{Errors, Path};
use crate::kinds::pod::{choice, optional_choice};
use crate::kinds::tree::{has, list, same, text, value};
use crate::kinds::validate::{self, label_selector};
use crate::resources::parse_api_version;

/// Audit annotations of a policy at most.
const MOST_ANNOTATIONS: usize = 20;

pub(super) fn validating(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    common(spec, &path, errors);
    match_conditions(spec, &path, errors);
    variables(spec, &path, errors);
    let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        for field in ["validations", "auditAnnotations"] {
            let fault = "validations or auditAnnotations must contain at least one item";
            errors.required(&path.child(field), fault);
        }
        return;
    }
    for (index, one) in validations.iter().enumerate() {
        let at = path.child("validations");
        validation(one, &at.index(index), errors);
    }
    let at = path.child("auditAnnotations");
    if annotations.len() > MOST_ANNOTATIONS {
        let fault = format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations");
        errors.invalid(&at, annotations, &fault);
    }
    let policy = text(value(object, "metadata"), "name");
    let mut keys = AHashSet::new();
    for (index, annotation) in annotations.iter().enumerate() {
        let at = at.index(index);
        let key = text(annotation, "key");
        if policy.is_empty() {
            errors.invalid(&at.child("key"), key, "requires metadata.name be non-empty");
        } else {
            let full = format!("{policy}/{key}");
            for fault in validate::qualified_name(&full) {
                errors.invalid(&at.child("key"), full.as_str(), &fault);
            }
        }
        if text(annotation, "valueExpression").trim().is_empty() {
            errors.required(&at.child("valueExpression"), "valueExpression is not specified");
        }
        if !keys.insert(key) {
            errors.duplicate(&at.child("key"), key);
        }
    }
}

/// What both kinds of policies have before their conditions.
fn common(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    required_choice(spec, "failurePolicy", &["Fail", "Ignore"], path, errors);
    if has(spec, "paramKind") {
        parameter_kind(value(spec, "paramKind"), &path.child("paramKind"), errors);
    }
    let at = path.child("matchConstraints");
    if has(spec, "matchConstraints") {
        let constraints = value(spec, "matchConstraints");
        match_resources(constraints, &at, errors);
        if list(constraints, "resourceRules").is_empty() {
            errors.required(&at.child("resourceRules"), "");
        }
    } else {
        errors.required(&at, "");
    }
}

/// Expressions that the others may refer to by a name.
fn variables(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (index, variable) in list(spec, "variables").iter().enumerate() {
        let at = path.child("variables");
        let at = at.index(index);
        let name = text(variable, "name");
        if name.trim().is_empty() {
            errors.required(&at.child("name"), "name is not specified");
        } else if !identifier(name) {
            errors.invalid(&at.child("name"), name, "must be a valid CEL identifier");
        }
        if text(variable, "expression").trim().is_empty() {
            errors.required(&at.child("expression"), "expression is not specified");
        }
    }
}

/// Faults of a mutating policy. `old`: what is stored, null for a new one, whose conditions may stay as they are.
pub(super) fn mutating(object: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (spec, before) = (value(object, "spec"), value(old, "spec"));
    common(spec, &path, errors);
    mutable_operations(spec, "matchConstraints", &path, errors);
    let unchanged = |field: &str| same(value(spec, field), value(before, field));
    if old.is_null() || !unchanged("paramKind") || !unchanged("matchConditions") {
        match_conditions(spec, &path, errors);
    }
    variables(spec, &path, errors);
    let at = path.child("mutations");
    let mutations = list(spec, "mutations");
    if mutations.is_empty() {
        errors.required(&at, "mutations must contain at least one item");
    }
    for (index, one) in mutations.iter().enumerate() {
        mutation(one, &at.index(index), errors);
    }
    match text(spec, "reinvocationPolicy") {
        "" => errors.required(&path.child("reinvocationPolicy"), ""),
        _ => optional_choice(spec, "reinvocationPolicy", &["IfNeeded", "Never"], &path, errors),
    }
}

/// Requests that change nothing cannot be mutated.
fn mutable_operations(spec: &Value, resources: &str, path: &Path<'_>, errors: &mut Errors) {
    const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
    let at = path.child(resources);
    let at = at.child("resourceRules");
    let rules = list(value(spec, resources), "resourceRules").iter();
    for operation in rules.flat_map(|rule| list(rule, "operations")).filter_map(Value::as_str) {
        if !OPERATIONS.contains(&operation) {
            errors.not_supported(&at.child("operations"), operation, OPERATIONS);
        }
    }
}

/// A patch of the type that it says it has, and of no other.
fn mutation(mutation: &Value, path: &Path<'_>, errors: &mut Errors) {
    const TYPES: &[&str] = &["ApplyConfiguration", "JSONPatch"];
    let kind = text(mutation, "patchType");
    let (own, other) = match kind {
        "" => return errors.required(&path.child("patchType"), ""),
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        _ => return errors.not_supported(&path.child("patchType"), kind, TYPES),
    };
    let at = path.child(own);
    if !has(mutation, own) {
        errors.required(&at, &format!("must be specified when patchType is {kind}"));
    } else if text(value(mutation, own), "expression").trim().is_empty() {
        errors.required(&at.child("expression"), "");
    }
    if has(mutation, other) {
        let fault = format!("must not be specified when patchType is {kind}");
        errors.invalid(&path.child(other), format!("{{{other}}}"), &fault);
    }
}

/// A field that must be there, with a closed set of values that may include none of length zero.
fn required_choice(object: &Value, field: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if has(object, field) {
        optional_choice(object, field, allowed, path, errors);
    } else {
        errors.required(&path.child(field), "");
    }
}

/// Whether a name can be a variable in an expression.
fn identifier(name: &str) -> bool {
    const RESERVED: &[&str] = &[
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    !RESERVED.contains(&name) && validate::c_identifier(name).is_empty()
}

fn parameter_kind(kind: &Value, path: &Path<'_>, errors: &mut Errors) {
    let api_version = text(kind, "apiVersion");
    let at = path.child("apiVersion");
    match parse_api_version(api_version) {
        _ if api_version.is_empty() => errors.required(&at, ""),
        Err(fault) => errors.invalid(&at, api_version, &fault),
        Ok((group, version)) => {
            if !group.is_empty() {
                one_fault(group, &validate::subdomain(group), "", &at, errors);
            }
            if version.is_empty() {
                errors.invalid(&at, api_version, "version must be specified");
            } else {
                one_fault(version, &validate::label_1035(version), "", &at, errors);
            }
        }
    }
    let name = text(kind, "kind");
    let at = path.child("kind");
    if name.is_empty() {
        errors.required(&at, "");
    } else {
        let faults = validate::label_1035(&name.to_lowercase());
        one_fault(name, &faults, "may have mixed case, but should otherwise match: ", &at, errors);
    }
}

/// All faults of a value as one.
fn one_fault(value: &str, faults: &[String], prefix: &str, path: &Path<'_>, errors: &mut Errors) {
    if !faults.is_empty() {
        errors.invalid(path, value, &format!("{prefix}{}", faults.join(",")));
    }
}

fn match_resources(resources: &Value, path: &Path<'_>, errors: &mut Errors) {
    required_choice(resources, "matchPolicy", &["Equivalent", "Exact"], path, errors);
    for field in ["namespaceSelector", "objectSelector"] {
        if has(resources, field) {
            label_selector(value(resources, field), &path.child(field), errors);
        } else {
            errors.required(&path.child(field), "");
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let at = path.child(field);
        for (index, rule) in list(resources, field).iter().enumerate() {
            let at = at.index(index);
            let names: Vec<&str> = list(rule, "resourceNames").iter().filter_map(Value::as_str).collect();
            for (number, name) in names.iter().enumerate() {
                let at = at.child("resourceNames");
                for fault in validate::path_segment(name, false) {
                    errors.invalid(&at.index(number), *name, &fault);
                }
                if names[..number].contains(name) {
                    errors.duplicate(&at.index(number), *name);
                }
            }
            rule_with_operations(rule, true, &at, errors);
        }
    }
}

fn validation(validation: &Value, path: &Path<'_>, errors: &mut Errors) {
    const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
    if text(validation, "expression").trim().is_empty() {
        errors.required(&path.child("expression"), "expression is not specified");
    }
    for field in ["messageExpression", "message"] {
        let content = text(validation, field);
        if !content.is_empty() && content.trim().is_empty() {
            errors.invalid(&path.child(field), content, "must be non-empty if specified");
        } else if field == "message" && content.trim().contains(['\n', '\r']) {
            errors.invalid(&path.child(field), content, "must not contain line breaks");
        }
    }
    optional_choice(validation, "reason", REASONS, path, errors);
}

/// Faults of a mutating policy's binding, which has no actions.
pub(super) fn mutating_binding(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    binding(value(object, "spec"), &path, errors);
    mutable_operations(value(object, "spec"), "matchResources", &path, errors);
}

/// What both kinds of bindings have.
fn binding(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let policy = text(spec, "policyName");
    if policy.is_empty() {
        errors.required(&path.child("policyName"), "");
    }
    validate::optional_subdomain(policy, &path.child("policyName"), errors);
    if has(spec, "paramRef") {
        parameter(value(spec, "paramRef"), &path.child("paramRef"), errors);
    }
    if has(spec, "matchResources") {
        match_resources(value(spec, "matchResources"), &path.child("matchResources"), errors);
    }
}

/// Faults of a validating policy's binding.
pub(super) fn validating_binding(object: &Value, errors: &mut Errors) {
    const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];
    let path = Path::new("spec");
    let spec = value(object, "spec");
    binding(spec, &path, errors);
    let actions: Vec<&str> = list(spec, "validationActions").iter().filter_map(Value::as_str).collect();
    let at = path.child("validationActions");
    for (index, action) in actions.iter().enumerate() {
        if !ACTIONS.contains(action) {
            errors.not_supported(&at.index(index), *action, ACTIONS);
        }
        if actions[..index].contains(action) {
            errors.duplicate(&at.index(index), *action);
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let fault = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.invalid(&at, value(spec, "validationActions").clone(), fault);
    }
    if actions.is_empty() {
        errors.required(&at, "at least one validation action is required");
    }
}

fn parameter(reference: &Value, path: &Path<'_>, errors: &mut Errors) {
    const BOTH: &str = "name and selector are mutually exclusive";
    let name = text(reference, "name");
    let selector = value(reference, "selector");
    // An empty name has no faults, and a selector that is null none either.
    for fault in validate::path_segment(name, false) {
        errors.invalid(&path.child("name"), name, &fault);
    }
    match (!name.is_empty(), !selector.is_null()) {
        (true, true) => {
            errors.forbidden(&path.child("name"), BOTH);
            label_selector(selector, &path.child("selector"), errors);
            errors.forbidden(&path.child("selector"), BOTH);
        }
        (false, false) => errors.required(path, "one of name or selector must be specified"),
        _ => label_selector(selector, &path.child("selector"), errors),
    }
    choice(reference, "parameterNotFoundAction", &["Deny", "Allow"], path, errors);
}

/// Faults of a validating policy's status.
pub(super) fn status(new: &Value, _old: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    let status = value(new, "status");
    let checking = path.child("typeChecking");
    let at = checking.child("expressionWarnings");
    for (index, warning) in list(value(status, "typeChecking"), "expressionWarnings").iter().enumerate() {
        for field in ["warning", "fieldRef"] {
            if text(warning, field).trim().is_empty() {
                errors.required(&at.index(index).child(field), "");
            }
        }
    }
    validate::meta::conditions(list(status, "conditions"), &path.child("conditions"), errors);
}
