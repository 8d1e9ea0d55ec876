//! Priority: a pod's priority is its class's; there is one default class at most.

use std::sync::Arc;

use podium_api::status::ApiError;
use serde_json::Value;

use super::{Operation, Request};
use crate::objects::{Objects, text};

const GROUP: &str = "scheduling.k8s.io";
/// What a pod without class gets.
const PREEMPT: &str = "PreemptLowerPriority";

pub(super) fn mutate(request: &mut Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    if !request.is("", "pods") {
        return Ok(());
    }
    if request.operation == Operation::Update {
        // An update that leaves them out means no change.
        for field in ["priority", "preemptionPolicy"] {
            let kept = request.old.and_then(|old| old["spec"].get(field)).filter(|v| !v.is_null()).cloned();
            if let Some(kept) = kept
                && request.object["spec"].get(field).is_none_or(Value::is_null)
            {
                request.object["spec"][field] = kept;
            }
        }
        return Ok(());
    }
    let asked = text(request.object, "/spec/priorityClassName").to_owned();
    let class = if asked.is_empty() {
        default_class(objects)
    } else {
        Some(
            objects
                .get(GROUP, "priorityclasses", "", &asked)
                .ok_or_else(|| request.forbidden(&format!("no PriorityClass with name {asked} was found")))?,
        )
    };
    let (name, value, policy) = match &class {
        Some(class) => (
            text(class, "/metadata/name").to_owned(),
            class["value"].as_i64().unwrap_or_default(),
            class["preemptionPolicy"].as_str().map(str::to_owned),
        ),
        None => (String::new(), 0, Some(PREEMPT.to_owned())),
    };
    let spec = &mut request.object["spec"];
    if let Some(given) = spec["priority"].as_i64()
        && given != value
    {
        return Err(request.forbidden(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        )));
    }
    if let (Some(given), Some(policy)) = (spec["preemptionPolicy"].as_str(), &policy)
        && given != policy
    {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        );
        return Err(request.forbidden(&why));
    }
    spec["priority"] = Value::from(value);
    if !name.is_empty() {
        spec["priorityClassName"] = Value::from(name);
    }
    if let Some(policy) = policy {
        spec["preemptionPolicy"] = Value::from(policy);
    }
    Ok(())
}

pub(super) fn validate(request: &Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    if !request.is(GROUP, "priorityclasses") || request.object["globalDefault"] != true {
        return Ok(());
    }
    match default_class(objects) {
        Some(known)
            if request.operation == Operation::Create
                || text(&known, "/metadata/name") != text(request.object, "/metadata/name") =>
        {
            Err(request.forbidden(&format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                text(&known, "/metadata/name")
            )))
        }
        _ => Ok(()),
    }
}

/// The default class; of several, which a race can leave behind, the lowest.
fn default_class(objects: &Objects) -> Option<Arc<Value>> {
    objects
        .list(GROUP, "priorityclasses", None)
        .iter()
        .filter(|class| class["globalDefault"] == true)
        .min_by_key(|class| class["value"].as_i64().unwrap_or_default())
        .cloned()
}
