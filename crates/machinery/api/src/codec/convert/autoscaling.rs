//! HorizontalPodAutoscaler v1 and v2: v1 has one CPU target; everything else travels in annotations.

use serde_json::{Map, Value, json};

use super::rename;

type Object = Map<String, Value>;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Removes an annotation and parses it; text that does not parse is dropped, as upstream does.
fn take_annotation(hpa: &mut Object, name: &str) -> Option<Value> {
    let metadata = hpa.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(name)?;
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    crate::codec::json::read_any(text.as_str()?).ok()
}

fn set_annotation(hpa: &mut Object, name: &str, value: &Value) {
    let metadata = hpa.entry("metadata").or_insert_with(|| json!({}));
    if let Some(metadata) = metadata.as_object_mut() {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(name.to_owned(), Value::String(value.to_string()));
        }
    }
}

fn part<'a>(hpa: &'a mut Object, name: &str) -> Option<&'a mut Object> {
    hpa.get_mut(name).and_then(Value::as_object_mut)
}

fn take_list(object: Option<&mut Object>, name: &str) -> Vec<Value> {
    match object.and_then(|o| o.remove(name)) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn cpu_utilization(metric: &Value, of: &str) -> Option<Value> {
    let resource = metric.get("resource")?;
    if metric.get("type")? != "Resource" || resource.get("name")? != "cpu" {
        return None;
    }
    resource.get(of)?.get("averageUtilization").cloned()
}

pub(super) fn v2_to_v1(hpa: &mut Object) {
    let mut metrics = take_list(part(hpa, "spec"), "metrics");
    if let Some(index) = metrics.iter().position(|m| cpu_utilization(m, "target").is_some()) {
        let metric = metrics.remove(index);
        if let (Some(target), Some(spec)) = (cpu_utilization(&metric, "target"), part(hpa, "spec")) {
            spec.insert("targetCPUUtilizationPercentage".to_owned(), target);
        }
    }
    if !metrics.is_empty() {
        let old: Vec<Value> = metrics.into_iter().map(metric_to_v1).collect();
        set_annotation(hpa, METRICS, &Value::Array(old));
    }
    if let Some(behavior) = part(hpa, "spec").and_then(|s| s.remove("behavior")) {
        set_annotation(hpa, BEHAVIOR, &behavior);
    }
    // v1 writes this also where there is none.
    if let Some(status) = part(hpa, "status") {
        status.entry("currentReplicas").or_insert_with(|| 0.into());
    }
    let current = take_list(part(hpa, "status"), "currentMetrics");
    if let (Some(value), Some(status)) =
        (current.iter().find_map(|m| cpu_utilization(m, "current")), part(hpa, "status"))
    {
        status.insert("currentCPUUtilizationPercentage".to_owned(), value);
    }
    if !current.is_empty() {
        let old: Vec<Value> = current.into_iter().map(metric_to_v1).collect();
        set_annotation(hpa, CURRENT_METRICS, &Value::Array(old));
    }
    let conditions = take_list(part(hpa, "status"), "conditions");
    if !conditions.is_empty() {
        set_annotation(hpa, CONDITIONS, &Value::Array(conditions));
    }
}

pub(super) fn v1_to_v2(hpa: &mut Object) {
    let mut metrics = match take_annotation(hpa, METRICS) {
        Some(Value::Array(items)) => items.into_iter().map(metric_to_v2).collect(),
        _ => Vec::new(),
    };
    let behavior = take_annotation(hpa, BEHAVIOR);
    let current = take_annotation(hpa, CURRENT_METRICS);
    let conditions = take_annotation(hpa, CONDITIONS);
    if let Some(spec) = part(hpa, "spec") {
        if let Some(target) = spec.remove("targetCPUUtilizationPercentage") {
            let target = json!({"type": "Utilization", "averageUtilization": target});
            metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if !metrics.is_empty() {
            spec.insert("metrics".to_owned(), Value::Array(metrics));
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    if let Some(status) = part(hpa, "status") {
        if status.get("currentReplicas").is_some_and(|replicas| replicas == 0) {
            status.remove("currentReplicas");
        }
        let cpu = status.remove("currentCPUUtilizationPercentage");
        if let Some(Value::Array(current)) = current {
            let current = current.into_iter().map(metric_to_v2).collect();
            status.insert("currentMetrics".to_owned(), Value::Array(current));
        } else if let Some(cpu) = cpu {
            let current = json!({"name": "cpu", "current": {"averageUtilization": cpu}});
            status.insert("currentMetrics".to_owned(), json!([{"type": "Resource", "resource": current}]));
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".to_owned(), conditions);
        }
    }
}

/// Where a source keeps its values: the field in v2, then the names in v1 of value, average value, utilisation.
const VALUES: &[(&str, &str, [&str; 3])] = &[
    ("object", "target", ["targetValue", "averageValue", ""]),
    ("object", "current", ["currentValue", "averageValue", ""]),
    ("pods", "target", ["", "targetAverageValue", ""]),
    ("pods", "current", ["", "currentAverageValue", ""]),
    ("resource", "target", ["", "targetAverageValue", "targetAverageUtilization"]),
    ("resource", "current", ["", "currentAverageValue", "currentAverageUtilization"]),
    ("containerResource", "target", ["", "targetAverageValue", "targetAverageUtilization"]),
    ("containerResource", "current", ["", "currentAverageValue", "currentAverageUtilization"]),
    ("external", "target", ["targetValue", "targetAverageValue", ""]),
    ("external", "current", ["currentValue", "currentAverageValue", ""]),
];

const V2_NAMES: [&str; 3] = ["value", "averageValue", "averageUtilization"];

fn metric_to_v1(mut metric: Value) -> Value {
    for (source, field, names) in VALUES {
        let Some(object) = metric.get_mut(*source).and_then(Value::as_object_mut) else { continue };
        let Some(Value::Object(mut values)) = object.remove(*field) else { continue };
        for (v2, v1) in V2_NAMES.iter().zip(names) {
            if let (false, Some(value)) = (v1.is_empty(), values.remove(*v2)) {
                object.insert((*v1).to_owned(), value);
            }
        }
    }
    for source in ["object", "pods", "external"] {
        let Some(object) = metric.get_mut(source).and_then(Value::as_object_mut) else { continue };
        if let Some(Value::Object(mut identifier)) = object.remove("metric") {
            if let Some(name) = identifier.remove("name") {
                object.insert("metricName".to_owned(), name);
            }
            if let Some(selector) = identifier.remove("selector") {
                let name = if source == "external" { "metricSelector" } else { "selector" };
                object.insert(name.to_owned(), selector);
            }
        }
        if source == "object" {
            rename(object, "describedObject", "target");
        }
    }
    metric
}

fn metric_to_v2(mut metric: Value) -> Value {
    for source in ["object", "pods", "external"] {
        let Some(object) = metric.get_mut(source).and_then(Value::as_object_mut) else { continue };
        let mut identifier = Map::new();
        if let Some(name) = object.remove("metricName") {
            identifier.insert("name".to_owned(), name);
        }
        let selector = if source == "external" { "metricSelector" } else { "selector" };
        if let Some(selector) = object.remove(selector) {
            identifier.insert("selector".to_owned(), selector);
        }
        object.insert("metric".to_owned(), Value::Object(identifier));
        if source == "object" {
            rename(object, "target", "describedObject");
        }
    }
    for (source, field, names) in VALUES {
        let Some(object) = metric.get_mut(*source).and_then(Value::as_object_mut) else { continue };
        // The average of an object metric has one name for target and current: it belongs to whichever has values.
        let prefix = if *field == "target" { "target" } else { "current" };
        let own = names.iter().any(|n| n.starts_with(prefix) && object.contains_key(*n));
        if !own {
            continue;
        }
        let mut values = Map::new();
        let mut ty = "";
        for (v2, v1) in V2_NAMES.iter().zip(names) {
            if let (false, Some(value)) = (v1.is_empty(), object.remove(*v1)) {
                ty = match *v2 {
                    "value" => "Value",
                    "averageValue" => "AverageValue",
                    _ => "Utilization",
                };
                values.insert((*v2).to_owned(), value);
            }
        }
        if *field == "target" {
            values.insert("type".to_owned(), Value::from(ty));
        }
        object.insert((*field).to_owned(), Value::Object(values));
    }
    metric
}
