//! HorizontalPodAutoscalers. Source: `pkg/registry/autoscaling`, `pkg/apis/autoscaling`.

use serde_json::{Value, json};

use super::kind::Kind;
use super::print::{AGE, NAME, age, name, string};
use super::tree::{child, default, ensure_map, has, int, is_empty, list, opt_int, set, text, value};
use super::validate::{self, NEGATIVE};
use super::workload::not_negative;
use crate::field::{Errors, Path};
use crate::quantity::Quantity;
use crate::resources::parse_api_version;

/// HorizontalPodAutoscalers, as stored: autoscaling/v2.
pub(super) static AUTOSCALER: Kind = Kind {
    default: |object| {
        let Some(spec) = child(object, "spec") else { return };
        default(spec, "minReplicas", 1);
        if is_empty(spec, "metrics") {
            set(
                spec,
                "metrics",
                json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
            );
        }
        if let Some(behavior) = child(spec, "behavior") {
            for (direction, policies, window) in [
                (
                    "scaleUp",
                    json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
                    Some(0),
                ),
                ("scaleDown", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]), None),
            ] {
                if let Some(rules) = ensure_map(behavior, direction) {
                    default(rules, "selectPolicy", "Max");
                    default(rules, "policies", policies);
                    if let Some(window) = window {
                        default(rules, "stabilizationWindowSeconds", window);
                    }
                }
            }
        }
    },
    status: Some(|_| json!({"desiredReplicas": 0, "currentMetrics": null})),
    validate_create: |object, errors| validate(object, &Value::Null, errors),
    validate_update: validate,
    validate_status: |new, _, errors| {
        const COUNTS: &[&str] = &["currentReplicas", "desiredReplicas"];
        not_negative(value(new, "status"), COUNTS, &Path::new("status"), errors);
    },
    columns: &[
        NAME,
        string("Reference"),
        string("Targets"),
        string("MinPods"),
        string("MaxPods"),
        string("Replicas"),
        AGE,
    ],
    row: |object, now| {
        let (spec, status) = (value(object, "spec"), value(object, "status"));
        let target = value(spec, "scaleTargetRef");
        vec![
            name(object),
            format!("{}/{}", text(target, "kind"), text(target, "name")).into(),
            metrics_cell(spec, status).into(),
            opt_int(spec, "minReplicas").map_or("<unset>".to_owned(), |n| n.to_string()).into(),
            int(spec, "maxReplicas").into(),
            int(status, "currentReplicas").into(),
            age(object, now),
        ]
    },
    ..Kind::BASE
};

/// `cpu: 35%/80%, 120m/200m + 1 more...`
fn metrics_cell(spec: &Value, status: &Value) -> String {
    let metrics = list(spec, "metrics");
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let amount = |object: &Value, field: &str| {
        has(object, field).then(|| {
            crate::quantity::Quantity::from_value(value(object, field)).unwrap_or_default().to_string()
        })
    };
    let unknown = || "<unknown>".to_owned();
    let mut cells = Vec::new();
    for (index, metric) in metrics.iter().enumerate() {
        let (field, resource) = match text(metric, "type") {
            "External" => ("external", false),
            "Pods" => ("pods", false),
            "Object" => ("object", false),
            "Resource" => ("resource", true),
            "ContainerResource" => ("containerResource", true),
            _ => {
                cells.push("<unknown type>".to_owned());
                continue;
            }
        };
        let source = value(metric, field);
        let target = value(source, "target");
        let now = list(status, "currentMetrics").get(index).map_or(&Value::Null, |m| value(m, field));
        let current = value(now, "current");
        let average = amount(target, "averageValue");
        let cell = if resource {
            let shown = match average {
                Some(target) => {
                    let current = if now.is_null() {
                        unknown()
                    } else {
                        amount(current, "averageValue").unwrap_or_else(|| "0".to_owned())
                    };
                    format!("{current}/{target}")
                }
                None => {
                    let percent =
                        |object: &Value| opt_int(object, "averageUtilization").map(|n| format!("{n}%"));
                    format!(
                        "{}/{}",
                        percent(current).unwrap_or_else(unknown),
                        percent(target).unwrap_or_else(|| "<auto>".to_owned())
                    )
                }
            };
            format!("{}: {shown}", text(source, "name"))
        } else {
            match average {
                Some(target) => {
                    let suffix = if field == "pods" { "" } else { " (avg)" };
                    format!("{}/{target}{suffix}", amount(current, "averageValue").unwrap_or_else(unknown))
                }
                None => format!(
                    "{}/{}",
                    amount(current, "value").unwrap_or_else(unknown),
                    amount(target, "value").unwrap_or_else(|| "0".to_owned())
                ),
            }
        };
        cells.push(cell);
    }
    let count = cells.len();
    cells.truncate(2);
    let shown = cells.join(", ");
    if count > 2 { format!("{shown} + {} more...", count - 2) } else { shown }
}

/// Faults of an autoscaler. `old`: what is stored, null for a new one; some faults that it has already may stay.
fn validate(object: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (spec, before) = (value(object, "spec"), value(old, "spec"));
    let low = opt_int(spec, "minReplicas");
    // HPAScaleToZero is off, but was not always.
    let lowest = if opt_int(before, "minReplicas") == Some(0) { 0 } else { 1 };
    if let Some(low) = low.filter(|low| *low < lowest) {
        let fault = format!("must be greater than or equal to {lowest}");
        errors.invalid(&path.child("minReplicas"), low, &fault);
    }
    let high = int(spec, "maxReplicas");
    let at = path.child("maxReplicas");
    if high == 0 {
        errors.required(&at, "must be set and greater than 0");
    } else if high < 0 {
        errors.invalid(&at, high, "must be greater than or equal to 1");
    }
    if low.is_some_and(|low| high < low) {
        errors.invalid(&at, high, "must be greater than or equal to `minReplicas`");
    }
    let (target, known) = (value(spec, "scaleTargetRef"), value(before, "scaleTargetRef"));
    let same = |field: &str| text(target, field) == text(known, field);
    let version = if !known.is_null() && same("apiVersion") && same("kind") {
        Version::Any
    } else if text(target, "kind") == "ReplicationController" {
        // The one kind of the core group that scales.
        Version::Parsed
    } else {
        Version::Grouped
    };
    reference(target, version, &path.child("scaleTargetRef"), errors);
    let metrics = list(spec, "metrics");
    let at = path.child("metrics");
    let described =
        |metric: &Value| text(value(value(metric, "object"), "describedObject"), "apiVersion").to_owned();
    let odd = list(before, "metrics").iter().any(|m| {
        text(m, "type") == "Object" && has(m, "object") && parse_api_version(&described(m)).is_err()
    });
    let version = if odd { Version::Any } else { Version::Parsed };
    for (index, one) in metrics.iter().enumerate() {
        metric(one, version, &at.index(index), errors);
    }
    if low == Some(0) && !metrics.iter().any(|m| matches!(text(m, "type"), "Object" | "External")) {
        errors.forbidden(
            &at,
            "must specify at least one Object or External metric to support scaling to zero replicas",
        );
    }
    let behavior = value(spec, "behavior");
    for direction in ["scaleUp", "scaleDown"] {
        if has(behavior, direction) {
            let at = path.child("behavior");
            scaling_rules(value(behavior, direction), &at.child(direction), errors);
        }
    }
}

/// What the version in a reference has to be.
#[derive(Clone, Copy)]
enum Version {
    /// One with a group.
    Grouped,
    /// One of any group.
    Parsed,
    /// Anything.
    Any,
}

/// A reference to an object of any kind.
fn reference(target: &Value, expected: Version, path: &Path<'_>, errors: &mut Errors) {
    for field in ["kind", "name"] {
        validate::required_segment(text(target, field), "", &path.child(field), errors);
    }
    let version = text(target, "apiVersion");
    let at = path.child("apiVersion");
    match (parse_api_version(version), expected) {
        (_, Version::Any) => {}
        (Ok(("", _)), Version::Grouped) => errors.invalid(&at, version, "apiVersion must specify API group"),
        (Ok(_), _) => {}
        (Err(fault), _) => errors.invalid(&at, version, &fault),
    }
}

/// Kinds of metrics and their fields, in the order in which upstream looks at the fields.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

/// `version`: what the version of the object that an Object metric describes has to be.
fn metric(metric: &Value, version: Version, path: &Path<'_>, errors: &mut Errors) {
    const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = text(metric, "type");
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
    }
    let expected = SOURCES.iter().find(|(known, _)| *known == kind).map(|(_, field)| *field);
    if expected.is_none() {
        // Upstream finds it twice.
        errors.not_supported(&path.child("type"), kind, TYPES);
        errors.not_supported(&path.child("type"), kind, TYPES);
    }
    let present: Vec<&str> = SOURCES.iter().map(|(_, field)| *field).filter(|f| has(metric, f)).collect();
    if let Some(first) = present.first() {
        source(first, value(metric, first), version, &path.child(first), errors);
    }
    if let Some(field) = expected.filter(|field| !present.contains(field)) {
        errors.required(&path.child(field), "must populate information for the given metric source");
    }
    if present.len() != 1 {
        for field in present.iter().filter(|field| expected != Some(**field)) {
            errors.forbidden(&path.child(field), "must populate the given metric source only");
        }
    }
}

fn source(kind: &str, source: &Value, version: Version, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("target");
    let wanted = value(source, "target");
    match kind {
        "object" => {
            reference(value(source, "describedObject"), version, &path.child("describedObject"), errors);
            identifier(source, path, errors);
            target(wanted, &at, errors);
            if !has(wanted, "value") && !has(wanted, "averageValue") {
                errors.required(&at.child("averageValue"), "must set either a target value or averageValue");
            }
        }
        "external" => {
            identifier(source, path, errors);
            target(wanted, &at, errors);
            match (has(wanted, "value"), has(wanted, "averageValue")) {
                (false, false) => errors.required(
                    &at.child("averageValue"),
                    "must set either a target value for metric or a per-pod target",
                ),
                (true, true) => errors.forbidden(
                    &at.child("value"),
                    "may not set both a target value for metric and a per-pod target",
                ),
                _ => {}
            }
        }
        "pods" => {
            identifier(source, path, errors);
            target(wanted, &at, errors);
            if !has(wanted, "averageValue") {
                errors.required(&at.child("averageValue"), "must specify a positive target averageValue");
            }
        }
        _ => {
            let resource = text(source, "name");
            if resource.is_empty() {
                errors.required(&path.child("name"), "must specify a resource name");
            } else if kind == "containerResource" {
                super::pod::container_resource_name(resource, &path.child("name"), errors);
            }
            if kind == "containerResource" {
                let container = text(source, "container");
                let at = path.child("container");
                if container.is_empty() {
                    errors.required(&at, "must specify a container");
                } else {
                    validate::label(container).iter().for_each(|fault| errors.invalid(&at, container, fault));
                }
            }
            target(wanted, &at, errors);
            match (has(wanted, "averageUtilization"), has(wanted, "averageValue")) {
                (false, false) => errors.required(
                    &at.child("averageUtilization"),
                    "must set either a target raw value or a target utilization",
                ),
                (true, true) => errors.forbidden(
                    &at.child("averageValue"),
                    "may not set both a target raw value and a target utilization",
                ),
                _ => {}
            }
        }
    }
}

fn identifier(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("metric");
    let name = text(value(source, "metric"), "name");
    validate::required_segment(name, "must specify a metric name", &at.child("name"), errors);
}

fn target(target: &Value, path: &Path<'_>, errors: &mut Errors) {
    let kind = text(target, "type");
    let at = path.child("type");
    if kind.is_empty() {
        errors.required(&at, "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errors.invalid(&at, kind, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        let amount = value(target, field);
        if !amount.is_null() && !Quantity::from_value(amount).is_ok_and(|q| q > Quantity::ZERO) {
            errors.invalid(&path.child(field), amount.clone(), "must be positive");
        }
    }
    if let Some(percent) = opt_int(target, "averageUtilization").filter(|percent| *percent < 1) {
        errors.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

/// The longest look back, and the longest period of a policy.
const LONGEST_WINDOW: i64 = 3600;
const LONGEST_PERIOD: i64 = 1800;

fn scaling_rules(rules: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(window) = opt_int(rules, "stabilizationWindowSeconds") {
        let at = path.child("stabilizationWindowSeconds");
        if window < 0 {
            errors.invalid(&at, window, "must be greater than or equal to zero");
        } else if window > LONGEST_WINDOW {
            errors.invalid(&at, window, &format!("must be less than or equal to {LONGEST_WINDOW}"));
        }
    }
    super::pod::optional_choice(rules, "selectPolicy", &["Disabled", "Max", "Min"], path, errors);
    let policies = list(rules, "policies");
    let at = path.child("policies");
    if policies.is_empty() {
        errors.required(&at, "must specify at least one Policy");
    }
    for (index, policy) in policies.iter().enumerate() {
        let at = at.index(index);
        if !matches!(text(policy, "type"), "Pods" | "Percent") {
            errors.not_supported(&at.child("type"), text(policy, "type"), &["Percent", "Pods"]);
        }
        for field in ["value", "periodSeconds"] {
            if int(policy, field) <= 0 {
                errors.invalid(&at.child(field), int(policy, field), "must be greater than zero");
            }
        }
        let period = int(policy, "periodSeconds");
        if period > LONGEST_PERIOD {
            let fault = format!("must be less than or equal to {LONGEST_PERIOD}");
            errors.invalid(&at.child("periodSeconds"), period, &fault);
        }
    }
    let tolerance = value(rules, "tolerance");
    if !tolerance.is_null() && Quantity::from_value(tolerance).is_ok_and(|q| q.is_negative()) {
        errors.invalid(&path.child("tolerance"), tolerance.clone(), NEGATIVE);
    }
}
