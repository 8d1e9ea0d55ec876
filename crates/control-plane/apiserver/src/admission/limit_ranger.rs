//! LimitRanger: a namespace's limit ranges fill in requests and limits and bound them.

use std::collections::BTreeMap;

use podium_api::quantity::Quantity;
use podium_api::quota::{pod_limits, pod_requests};
use podium_api::status::ApiError;
use serde_json::{Map, Value, json};

use super::{Operation, Request};
use crate::objects::{Objects, items, text};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

fn applies(request: &Request<'_>) -> bool {
    if !request.group.is_empty()
        || request.old.is_some_and(|old| !text(old, "/metadata/deletionTimestamp").is_empty())
    {
        return false;
    }
    matches!(
        (request.resource, request.subresource, request.operation),
        ("pods", "", Operation::Create)
            | ("pods", "resize", Operation::Update)
            | ("persistentvolumeclaims", "", Operation::Create | Operation::Update)
    )
}

/// Fills in what containers leave out.
pub(super) fn mutate(request: &mut Request<'_>, objects: &Objects) {
    if !applies(request) || request.resource != "pods" {
        return;
    }
    for range in objects.list("", "limitranges", Some(request.namespace)).iter() {
        let mut defaults: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        for limit in items(range, "/spec/limits").iter().filter(|limit| text(limit, "/type") == "Container") {
            for (from, to) in [("defaultRequest", "requests"), ("default", "limits")] {
                let values = limit[from].as_object().cloned().unwrap_or_default();
                defaults.entry(to).or_default().extend(values);
            }
        }
        let notes = fill_in(request.object, &defaults);
        if !notes.is_empty() {
            let note = format!("LimitRanger plugin set: {}", notes.join("; "));
            if !request.object["metadata"]["annotations"].is_object() {
                request.object["metadata"]["annotations"] = json!({});
            }
            request.object["metadata"]["annotations"][ANNOTATION] = Value::from(note);
        }
    }
}

fn fill_in(pod: &mut Value, defaults: &BTreeMap<&str, Map<String, Value>>) -> Vec<String> {
    let mut notes = Vec::new();
    // By pointer: to index a list that is not there would put a null in its place.
    for (list, what) in [("/spec/containers", "container"), ("/spec/initContainers", "init container")] {
        for container in pod.pointer_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = text(container, "/name").to_owned();
            for (field, word) in [("requests", "request"), ("limits", "limit")] {
                let mut added: Vec<&str> = Vec::new();
                for (resource, amount) in defaults.get(field).into_iter().flatten() {
                    if container["resources"][field].get(resource).is_none() {
                        container["resources"][field][resource.as_str()] = amount.clone();
                        added.push(resource);
                    }
                }
                if !added.is_empty() {
                    notes.push(format!("{} {word} for {what} {name}", added.join(", ")));
                }
            }
        }
    }
    notes
}

/// Refuses what is out of bounds, with every reason.
pub(super) fn validate(request: &Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    if !applies(request) {
        return Ok(());
    }
    for range in objects.list("", "limitranges", Some(request.namespace)).iter() {
        let mut faults: Vec<String> = Vec::new();
        for limit in items(range, "/spec/limits") {
            let new = if request.resource == "pods" {
                check_pod(limit, request.object)
            } else {
                check_claim(limit, request.object)
            };
            for fault in new {
                if !faults.contains(&fault) {
                    faults.push(fault);
                }
            }
        }
        match faults.as_slice() {
            [] => {}
            [one] => return Err(request.forbidden(one)),
            many => return Err(request.forbidden(&format!("[{}]", many.join(", ")))),
        }
    }
    Ok(())
}

fn amounts(list: &Value) -> Amounts {
    list.as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::from_value(amount).ok()?)))
        .collect()
}

fn check_pod(limit: &Value, pod: &Value) -> Vec<String> {
    let kind = text(limit, "/type");
    let mut faults = Vec::new();
    match kind {
        "Container" => {
            for list in ["/spec/containers", "/spec/initContainers"] {
                for container in items(pod, list) {
                    let resources = &container["resources"];
                    check_bounds(
                        limit,
                        &amounts(&resources["requests"]),
                        &amounts(&resources["limits"]),
                        &mut faults,
                    );
                }
            }
        }
        "Pod" => check_bounds(limit, &pod_requests(pod), &pod_limits(pod), &mut faults),
        _ => {}
    }
    faults
}

fn check_claim(limit: &Value, claim: &Value) -> Vec<String> {
    let kind = text(limit, "/type");
    let mut faults = Vec::new();
    if kind != "PersistentVolumeClaim" {
        return faults;
    }
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    for (name, bound) in amounts(&limit["min"]) {
        faults.extend(below(kind, &name, bound, &requests, &Amounts::new()));
    }
    for (name, bound) in amounts(&limit["max"]) {
        match requests.get(&name) {
            None => {
                faults.push(format!("maximum {name} usage per {kind} is {bound}.  No request is specified"));
            }
            Some(request) if *request > bound => {
                faults.push(format!("maximum {name} usage per {kind} is {bound}, but request is {request}"));
            }
            Some(_) => {}
        }
    }
    faults
}

fn check_bounds(limit: &Value, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
    let kind = text(limit, "/type");
    for (name, bound) in amounts(&limit["min"]) {
        faults.extend(below(kind, &name, bound, requests, limits));
    }
    for (name, bound) in amounts(&limit["max"]) {
        faults.extend(above(kind, &name, bound, requests, limits));
    }
    for (name, bound) in amounts(&limit["maxLimitRequestRatio"]) {
        faults.extend(ratio(kind, &name, bound, requests, limits));
    }
}

fn below(kind: &str, name: &str, bound: Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let Some(request) = requests.get(name) else {
        return Some(format!("minimum {name} usage per {kind} is {bound}.  No request is specified"));
    };
    if *request < bound {
        return Some(format!("minimum {name} usage per {kind} is {bound}, but request is {request}"));
    }
    let limit = limits.get(name).filter(|limit| **limit < bound)?;
    Some(format!("minimum {name} usage per {kind} is {bound}, but limit is {limit}"))
}

fn above(kind: &str, name: &str, bound: Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let Some(limit) = limits.get(name) else {
        return Some(format!("maximum {name} usage per {kind} is {bound}.  No limit is specified"));
    };
    if *limit > bound {
        return Some(format!("maximum {name} usage per {kind} is {bound}, but limit is {limit}"));
    }
    let request = requests.get(name).filter(|request| **request > bound)?;
    Some(format!("maximum {name} usage per {kind} is {bound}, but request is {request}"))
}

fn ratio(kind: &str, name: &str, bound: Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let some = |amounts: &Amounts| amounts.get(name).copied().filter(|amount| *amount != Quantity::ZERO);
    let head = format!("{name} max limit to request ratio per {kind} is {bound}");
    let Some(request) = some(requests) else {
        return Some(format!("{head}, but no request is specified or request is 0"));
    };
    let Some(limit) = some(limits) else {
        return Some(format!("{head}, but no limit is specified or limit is 0"));
    };
    let actual = limit.as_f64() / request.as_f64();
    (actual > bound.as_f64()).then(|| format!("{head}, but provided ratio is {actual:.6}"))
}
