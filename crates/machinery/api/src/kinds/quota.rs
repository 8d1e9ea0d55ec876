//! ResourceQuotas and LimitRanges.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Metadata;
use super::kind::Kind;
use super::pod::{amount, limit_range_name, overcommit, quota_name};
use super::print::{AGE, CREATED_AT, NAME, age, created_at_row, name, string};
use super::tree::{default, ensure_map, entries, items_mut, list, text, value};
use super::validate::{IMMUTABLE, qualified_name};
use crate::field::{Errors, Path};
use crate::quantity::Quantity;

pub(super) static RESOURCE_QUOTA: Kind = Kind {
    status: Some(|_| json!({})),
    validate: |object, errors| {
        let path = Path::new("spec");
        let spec = value(object, "spec");
        amounts(spec, "hard", &path, errors);
        scopes(spec, &path, errors);
        scope_selector(spec, &path, errors);
    },
    validate_late: |new, old, errors| {
        let sorted = |object: &Value| {
            let mut scopes = list(value(object, "spec"), "scopes").to_vec();
            scopes.sort_by_key(ToString::to_string);
            scopes.dedup();
            scopes
        };
        if sorted(new) != sorted(old) {
            let path = Path::new("spec");
            errors.invalid(&path.child("scopes"), value(value(new, "spec"), "scopes").clone(), IMMUTABLE);
        }
    },
    validate_status: |new, _, errors| {
        let path = Path::new("status");
        amounts(value(new, "status"), "hard", &path, errors);
        amounts(value(new, "status"), "used", &path, errors);
    },
    columns: &[NAME, string("Request"), string("Limit"), AGE],
    row: quota_row,
    ..Kind::BASE
};

fn amounts(object: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child(field);
    for (resource, raw) in entries(object, field) {
        quota_name(resource, &at.key(resource), errors);
        amount(resource, raw, &at.key(resource), errors);
    }
}

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];

/// Whether a scope can say anything about a resource; custom resources' counts are not judged.
fn applies(scope: &str, resource: &str) -> bool {
    let pods = resource == "pods";
    let compute = matches!(
        resource,
        "cpu" | "memory" | "limits.cpu" | "limits.memory" | "requests.cpu" | "requests.memory"
    );
    let judged = !resource.contains('/');
    match scope {
        "BestEffort" => pods || !judged,
        "VolumeAttributesClass" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage") || !judged
        }
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => pods || compute || !judged,
        _ => true,
    }
}

fn conflicting(scopes: &[&str]) -> usize {
    let has = |scope: &str| scopes.contains(&scope);
    usize::from(has("BestEffort") && has("NotBestEffort"))
        + usize::from(has("Terminating") && has("NotTerminating"))
}

fn scopes(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("scopes");
    let shown = value(spec, "scopes");
    let scopes: Vec<&str> = list(spec, "scopes").iter().filter_map(Value::as_str).collect();
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid(&at, shown.clone(), "unsupported scope");
        }
        for _ in entries(spec, "hard").filter(|(resource, _)| !applies(scope, resource)) {
            errors.invalid(&at, shown.clone(), "unsupported scope applied to resource");
        }
    }
    for _ in 0..conflicting(&scopes) {
        errors.invalid(&at, shown.clone(), "conflicting scopes");
    }
}

fn scope_selector(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let selector = value(spec, "scopeSelector");
    let selector_path = path.child("scopeSelector");
    let at = selector_path.child("matchExpressions");
    let requirements = list(selector, "matchExpressions");
    for requirement in requirements {
        let (scope, operator) = (text(requirement, "scopeName"), text(requirement, "operator"));
        let values = list(requirement, "values");
        if !SCOPES.contains(&scope) {
            errors.invalid(&at.child("scopeName"), scope, "unsupported scope");
        }
        for _ in entries(spec, "hard").filter(|(resource, _)| !applies(scope, resource)) {
            errors.invalid(&at, selector.clone(), "unsupported scope applied to resource");
        }
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass")
            && SCOPES.contains(&scope)
            && operator != "Exists"
        {
            errors.invalid(
                &at.child("operator"),
                operator,
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            );
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.required(
                &at.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
                &at.child("values"),
                value(requirement, "values").clone(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&at.child("operator"), other, "not a valid selector operator"),
        }
    }
    let named: Vec<&str> = requirements.iter().map(|r| text(r, "scopeName")).collect();
    for _ in 0..conflicting(&named) {
        errors.invalid(&at, value(spec, "scopes").clone(), "conflicting scopes");
    }
}

fn quota_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = value(object, "status");
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in entries(status, "hard") {
        let amount = |raw: &Value| Quantity::from_value(raw).unwrap_or_default();
        let used = amount(value(value(status, "used"), resource));
        let cell = format!("{resource}: {used}/{}", amount(hard));
        if resource.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
}

pub(super) static LIMIT_RANGE: Kind = Kind {
    // The only kind whose strategy does so upstream.
    name_may_be_absent: true,
    default: |object| {
        let Some(spec) = super::tree::child(object, "spec") else { return };
        for item in items_mut(spec, "limits").filter(|item| text(item, "type") == "Container") {
            fill_limits(item);
        }
    },
    validate: |object, errors| {
        let mut seen = ahash::AHashSet::new();
        let spec = Path::new("spec");
        let path = spec.child("limits");
        for (index, item) in list(value(object, "spec"), "limits").iter().enumerate() {
            let at = path.index(index);
            let kind = text(item, "type");
            limit_type(kind, &at.child("type"), errors);
            if !seen.insert(kind) {
                errors.duplicate(&at.child("type"), kind);
            }
            limits(item, kind, &at, errors);
        }
    },
    create_on_update: true,
    columns: CREATED_AT,
    row: created_at_row,
    metadata: Metadata::NEW,
    ..Kind::BASE
};

/// For containers, the default limit is the maximum, the default request the default limit, or else the minimum.
fn fill_limits(item: &mut Value) {
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let amounts = value(item, from).as_object().cloned().unwrap_or_else(Map::new);
        if let Some(target) = ensure_map(item, to) {
            for (resource, amount) in amounts {
                default(target, &resource, amount);
            }
        }
    }
}

fn limit_type(kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let faults = qualified_name(kind);
    for fault in &faults {
        errors.invalid(path, kind, fault);
    }
    if faults.is_empty()
        && !kind.contains('/')
        && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim")
    {
        errors.invalid(path, kind, "must be a standard limit type or fully qualified");
    }
}

fn limits(item: &Value, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let pod = kind == "Pod";
    let mut names = std::collections::BTreeSet::new();
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let at = path.child(field);
        if pod && matches!(field, "default" | "defaultRequest") {
            if entries(item, field).next().is_some() {
                errors.forbidden(&at, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (resource, _) in entries(item, field) {
            limit_range_name(kind, resource, &at.key(resource), errors);
            names.insert(resource);
        }
    }
    let get = |field: &str, resource: &str| -> Option<Quantity> {
        if pod && matches!(field, "default" | "defaultRequest") {
            return None;
        }
        Quantity::from_value(value(item, field).get(resource)?).ok()
    };
    if kind == "PersistentVolumeClaim" && get("min", "storage").is_none() && get("max", "storage").is_none() {
        errors.required(
            &path.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    for resource in names {
        let (min, max) = (get("min", resource), get("max", resource));
        let (default, request) = (get("default", resource), get("defaultRequest", resource));
        let mut above = |low: Option<Quantity>,
                         high: Option<Quantity>,
                         at: &str,
                         shown: Option<Quantity>,
                         words: &str| {
            if let (Some(low), Some(high), Some(shown)) = (low, high, shown)
                && low > high
            {
                let why = words.replacen("{}", &low.to_string(), 1).replacen("{}", &high.to_string(), 1);
                errors.invalid(&path.child(at).key(resource), shown.to_string(), &why);
            }
        };
        above(min, max, "min", min, "min value {} is greater than max value {}");
        above(
            min,
            request,
            "defaultRequest",
            request,
            "min value {} is greater than default request value {}",
        );
        above(
            request,
            max,
            "defaultRequest",
            request,
            "default request value {} is greater than max value {}",
        );
        above(
            request,
            default,
            "defaultRequest",
            request,
            "default request value {} is greater than default limit value {}",
        );
        above(min, default, "default", min, "min value {} is greater than default value {}");
        above(default, max, "default", max, "default value {} is greater than max value {}");
        if let Some(ratio) = get("maxLimitRequestRatio", resource) {
            ratio_fits(ratio, min, max, &path.child("maxLimitRequestRatio").key(resource), errors);
        }
        if let (Some(default), Some(request)) = (default, request)
            && default != request
            && !overcommit(resource)
        {
            errors.invalid(
                &path.child("defaultRequest").key(resource),
                request.to_string(),
                &format!(
                    "default value {default} must equal to defaultRequest value {request} in {resource}"
                ),
            );
        }
    }
}

fn ratio_fits(
    ratio: Quantity,
    min: Option<Quantity>,
    max: Option<Quantity>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if ratio.milli_value() < 1000 {
        errors.invalid(path, ratio.to_string(), &format!("ratio {ratio} is less than 1"));
    }
    if let (Some(min), Some(max)) = (min, max) {
        let most = max.as_f64() / min.as_f64();
        if ratio.as_f64() > most {
            errors.invalid(
                path,
                ratio.to_string(),
                &format!("ratio {ratio} is greater than max/min = {most:.6}"),
            );
        }
    }
}
