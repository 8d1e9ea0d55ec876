//! Where a pod may run: node selectors, affinity, tolerations, spread constraints.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::tree::{child, entries, has, int, items_mut, list, opt_int, text, value};
use crate::kinds::validate::{self, label_selector};

/// `affinity`.
pub(super) fn validate(affinity: &Value, path: &Path<'_>, errors: &mut Errors) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = value(affinity, "nodeAffinity");
    let at = path.child("nodeAffinity");
    if has(node, REQUIRED) {
        node_selector(value(node, REQUIRED), &at.child(REQUIRED), errors);
    }
    for (index, term) in list(node, PREFERRED).iter().enumerate() {
        let at = at.child(PREFERRED);
        let at = at.index(index);
        weight(term, &at, errors);
        node_selector_term(value(term, "preference"), false, &at.child("preference"), errors);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let terms = value(affinity, field);
        let at = path.child(field);
        for (index, term) in list(terms, REQUIRED).iter().enumerate() {
            pod_term(term, &at.child(REQUIRED).index(index), errors);
        }
        for (index, term) in list(terms, PREFERRED).iter().enumerate() {
            let at = at.child(PREFERRED);
            let at = at.index(index);
            weight(term, &at, errors);
            pod_term(value(term, "podAffinityTerm"), &at.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    let weight = int(term, "weight");
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A `NodeSelector` object.
pub(crate) fn node_selector(selector: &Value, path: &Path<'_>, errors: &mut Errors) {
    let terms = list(selector, "nodeSelectorTerms");
    let at = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&at, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        node_selector_term(term, true, &at.index(index), errors);
    }
}

fn node_selector_term(term: &Value, check_values: bool, path: &Path<'_>, errors: &mut Errors) {
    for (index, requirement) in list(term, "matchExpressions").iter().enumerate() {
        let at = path.child("matchExpressions");
        let at = at.index(index);
        let values = list(requirement, "values");
        match text(requirement, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
                &at.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "Gt" | "Lt" if values.len() != 1 => errors.required(
                &at.child("values"),
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid(&at.child("operator"), other, "not a valid selector operator"),
        }
        label_key(text(requirement, "key"), &at.child("key"), errors);
        for (index, value) in values.iter().filter_map(Value::as_str).enumerate().filter(|_| check_values) {
            for fault in validate::label_value(value) {
                errors.invalid(&at.child("values").index(index), value, &fault);
            }
        }
    }
    for (index, requirement) in list(term, "matchFields").iter().enumerate() {
        let at = path.child("matchFields");
        let at = at.index(index);
        let values = list(requirement, "values");
        match text(requirement, "operator") {
            "In" | "NotIn" if values.len() != 1 => errors.required(
                &at.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            ),
            "In" | "NotIn" => {}
            other => errors.invalid(&at.child("operator"), other, "not a valid selector operator"),
        }
        if text(requirement, "key") != "metadata.name" {
            errors.invalid(&at.child("key"), text(requirement, "key"), "not a valid field selector key");
        } else {
            for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
                for fault in validate::subdomain(value) {
                    errors.invalid(&at.child("values").index(index), value, &fault);
                }
            }
        }
    }
}

/// Faults of a label's key.
pub(crate) fn label_key(key: &str, path: &Path<'_>, errors: &mut Errors) {
    for fault in validate::qualified_name(key) {
        errors.invalid(path, key, &fault);
    }
}

fn pod_term(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    label_selector(value(term, "labelSelector"), &path.child("labelSelector"), errors);
    label_selector(value(term, "namespaceSelector"), &path.child("namespaceSelector"), errors);
    for namespace in list(term, "namespaces").iter().filter_map(Value::as_str) {
        for fault in validate::label(namespace) {
            errors.invalid(&path.child("namespace"), namespace, &fault);
        }
    }
    match_label_keys(term, path, errors);
    let topology = text(term, "topologyKey");
    if topology.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    label_key(topology, &path.child("topologyKey"), errors);
}

fn match_label_keys(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    let selector = value(term, "labelSelector");
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = list(term, field);
        let at = path.child(field);
        if !keys.is_empty() && selector.is_null() {
            errors.forbidden(&at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (index, key) in keys.iter().filter_map(Value::as_str).enumerate() {
            label_key(key, &at.index(index), errors);
        }
    }
    let keys = list(term, "matchLabelKeys");
    for (index, key) in keys.iter().enumerate() {
        let key = key.as_str().unwrap_or_default();
        let expressions = list(selector, "matchExpressions").iter().filter(|e| text(e, "key") == key).count();
        let named = entries(selector, "matchLabels").any(|(name, _)| name == key);
        // One expression is what this very key is merged into on create.
        if expressions > 1 || expressions == 1 && named {
            errors.invalid(&path.index(index), key, "exists in both matchLabelKeys and labelSelector");
        }
        if list(term, "mismatchLabelKeys").iter().any(|k| k == key) {
            errors.invalid(
                &path.child("matchLabelKeys").index(index),
                key,
                "exists in both matchLabelKeys and mismatchLabelKeys",
            );
        }
    }
}

/// `topologySpreadConstraints`.
pub(super) fn spread(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let constraints = list(spec, "topologySpreadConstraints");
    for (index, constraint) in constraints.iter().enumerate() {
        let at = path.index(index);
        positive(int(constraint, "maxSkew"), &at.child("maxSkew"), errors);
        let (topology, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if topology.is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        }
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(
                &at.child("whenUnsatisfiable"),
                action,
                &["DoNotSchedule", "ScheduleAnyway"],
            );
        }
        let same = |c: &Value| text(c, "topologyKey") == topology && text(c, "whenUnsatisfiable") == action;
        if constraints[index + 1..].iter().any(same) {
            errors.duplicate(
                &at.child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{topology}, {action}}}"),
            );
        }
        if let Some(domains) = opt_int(constraint, "minDomains") {
            positive(domains, &at.child("minDomains"), errors);
            if action != "DoNotSchedule" {
                errors.invalid(
                    &at.child("minDomains"),
                    domains,
                    &format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"),
                );
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            super::security::optional_choice(constraint, field, &["Honor", "Ignore"], &at, errors);
        }
        match_label_keys(constraint, &at, errors);
        label_selector(value(constraint, "labelSelector"), &at.child("labelSelector"), errors);
    }
}

fn positive(number: i64, path: &Path<'_>, errors: &mut Errors) {
    if number <= 0 {
        errors.invalid(path, number, "must be greater than zero");
    }
}

/// `tolerations`.
pub(crate) fn tolerations(tolerations: &[Value], path: &Path<'_>, errors: &mut Errors) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let at = path.index(index);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            label_key(key, &at.child("key"), errors);
        } else if operator != "Exists" {
            errors.invalid(
                &at.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if has(toleration, "tolerationSeconds") && effect != "NoExecute" {
            errors.invalid(
                &at.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator {
            "Equal" | "" => {
                let faults = validate::label_value(value);
                if !faults.is_empty() {
                    errors.invalid(&at.child("operator"), value, &faults.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errors.invalid(
                        &at.child("operator"),
                        value,
                        "value must be empty when `operator` is 'Exists'",
                    );
                }
            }
            // Comparisons are behind a gate that is off by default, which lists them all the same.
            "Lt" | "Gt" => {
                errors.not_supported(&at.child("operator"), operator, &["Equal", "Exists", "Lt", "Gt"]);
            }
            other => errors.not_supported(&at.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            taint_effect(effect, &at.child("effect"), errors);
        }
    }
}

/// A taint's effect.
pub(crate) fn taint_effect(effect: &str, path: &Path<'_>, errors: &mut Errors) {
    const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if !EFFECTS.contains(&effect) {
        errors.not_supported(path, effect, EFFECTS);
    }
}

/// On create, the pod's own values of `matchLabelKeys` and `mismatchLabelKeys` become part of the selectors.
pub(super) fn merge_label_keys(pod: &mut Value) {
    let labels = value(value(pod, "metadata"), "labels").clone();
    let Some(spec) = child(pod, "spec") else { return };
    if let Some(affinity) = child(spec, "affinity") {
        for field in ["podAffinity", "podAntiAffinity"] {
            let Some(terms) = child(affinity, field) else { continue };
            for term in items_mut(terms, "requiredDuringSchedulingIgnoredDuringExecution") {
                merge(term, &labels);
            }
            for term in items_mut(terms, "preferredDuringSchedulingIgnoredDuringExecution") {
                if let Some(term) = child(term, "podAffinityTerm") {
                    merge(term, &labels);
                }
            }
        }
    }
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        merge(constraint, &labels);
    }
}

fn merge(term: &mut Value, labels: &Value) {
    let mut added = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in list(term, field).iter().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key).and_then(Value::as_str) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    let Some(selector) = child(term, "labelSelector").filter(|_| !added.is_empty()) else { return };
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(expressions) => expressions.extend(added),
        None => crate::kinds::tree::set(selector, "matchExpressions", added),
    }
}
