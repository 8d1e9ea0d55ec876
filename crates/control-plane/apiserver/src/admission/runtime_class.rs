//! RuntimeClass: a pod gets its class's overhead, node selector and tolerations; nobody sets an overhead by hand.

use std::sync::Arc;

use podium_api::quantity::Quantity;
use podium_api::status::ApiError;
use serde_json::{Map, Value};

use super::{Operation, Request, list_mut};
use crate::authorization::go_quote;
use crate::objects::{Objects, items, text};

const GROUP: &str = "node.k8s.io";

fn class_of(request: &Request<'_>, objects: &Objects) -> Result<Option<Arc<Value>>, ApiError> {
    let name = text(request.object, "/spec/runtimeClassName");
    if name.is_empty() {
        return Ok(None);
    }
    match objects.get(GROUP, "runtimeclasses", "", name) {
        Some(class) => Ok(Some(class)),
        None => Err(request.forbidden(&format!("pod rejected: RuntimeClass {} not found", go_quote(name)))),
    }
}

fn applies(request: &Request<'_>) -> bool {
    request.operation == Operation::Create && request.is("", "pods")
}

pub(super) fn mutate(request: &mut Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    if !applies(request) {
        return Ok(());
    }
    let Some(class) = class_of(request, objects)? else { return Ok(()) };
    if let Some(fixed) = overhead(&class) {
        let given = request.object["spec"]["overhead"].as_object();
        if given.is_some_and(|given| !given.is_empty() && !same(given, fixed)) {
            return Err(mismatch(request));
        }
        request.object["spec"]["overhead"] = Value::Object(fixed.clone());
    }
    for (key, value) in
        class.pointer("/scheduling/nodeSelector").and_then(Value::as_object).into_iter().flatten()
    {
        let (wanted, given) =
            (value.as_str().unwrap_or_default(), request.object["spec"]["nodeSelector"].get(key));
        if let Some(given) = given.and_then(Value::as_str)
            && given != wanted
        {
            return Err(request.forbidden(&format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {given}"
            )));
        }
        request.object["spec"]["nodeSelector"][key] = value.clone();
    }
    for toleration in items(&class, "/scheduling/tolerations") {
        let tolerations = list_mut(&mut request.object["spec"], "tolerations");
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    Ok(())
}

pub(super) fn validate(request: &Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    if !applies(request) {
        return Ok(());
    }
    let class = class_of(request, objects)?;
    let given = request.object["spec"]["overhead"].as_object();
    match class.as_deref().and_then(overhead) {
        Some(fixed) if given.is_none_or(|given| !same(given, fixed)) => Err(mismatch(request)),
        None if given.is_some() => Err(request
            .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
        _ => Ok(()),
    }
}

fn mismatch(request: &Request<'_>) -> ApiError {
    request.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
}

fn overhead(class: &Value) -> Option<&Map<String, Value>> {
    class.pointer("/overhead/podFixed").and_then(Value::as_object)
}

/// Equal as amounts, whatever the spelling.
fn same(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let amount = |value: &Value| Quantity::from_value(value).ok();
    a.len() == b.len()
        && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| amount(other) == amount(value)))
}
