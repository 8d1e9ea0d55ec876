//! Conversion between served versions of one kind. Most differ in name only.
//!
//! Source: upstream's conversion functions in `pkg/apis/{core,autoscaling,resource}`.

mod autoscaling;

use serde_json::{Map, Value};

use crate::resources;
use crate::status::ApiError;

/// Converts an object (or a list of them) to another served version, or for events to another group.
///
/// # Errors
/// 400 if there is no such conversion.
pub(super) fn convert(mut object: Value, to_group: &str, to_version: &str) -> Result<Value, ApiError> {
    let (api_version, kind) = super::kind_of(&object);
    let (group, version) = resources::split_api_version(api_version);
    if (group, version) == (to_group, to_version) {
        return Ok(object);
    }
    let item_kind = kind.strip_suffix("List").unwrap_or(kind);
    let served = |group: &str, version: &str| resources::by_kind(group, version, item_kind).is_some();
    let related = group == to_group || item_kind == "Event" && matches!(to_group, "" | "events.k8s.io");
    if !related || !served(group, version) || !served(to_group, to_version) {
        let to = resources::group_version(to_group, to_version);
        return Err(ApiError::bad_request(format!(
            "{kind} in version {api_version:?} cannot be converted to {to:?}"
        )));
    }
    let convert_one: fn(&mut Map<String, Value>) = match (group, version, item_kind, to_group, to_version) {
        (_, _, "Event", "", _) => event_to_core,
        (_, _, "Event", _, _) => event_from_core,
        ("autoscaling", "v1", _, _, _) => autoscaling::v1_to_v2,
        ("autoscaling", "v2", _, _, _) => autoscaling::v2_to_v1,
        ("resource.k8s.io", "v1beta1", _, _, _) => devices_from_v1beta1,
        ("resource.k8s.io", _, _, _, "v1beta1") => devices_to_v1beta1,
        _ => |_| {},
    };
    if item_kind == kind {
        object.as_object_mut().map(convert_one);
    } else if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().filter_map(Value::as_object_mut).for_each(convert_one);
    }
    object["apiVersion"] = Value::String(resources::group_version(to_group, to_version));
    Ok(object)
}

/// The names of an event's fields in core/v1 and in events.k8s.io/v1; the others are the same.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// What core/v1 writes also where it says nothing, and events.k8s.io/v1 does not.
const WRITTEN_IF_EMPTY: [&str; 2] = ["reportingComponent", "reportingInstance"];

fn event_to_core(event: &mut Map<String, Value>) {
    for (core, events) in EVENT_FIELDS {
        rename(event, events, core);
    }
    for field in WRITTEN_IF_EMPTY {
        event.entry(field).or_insert_with(|| Value::String(String::new()));
    }
}

fn event_from_core(event: &mut Map<String, Value>) {
    for field in WRITTEN_IF_EMPTY {
        if event.get(field).is_some_and(|value| value == "") {
            event.remove(field);
        }
    }
    for (core, events) in EVENT_FIELDS {
        rename(event, core, events);
    }
}

pub(super) fn rename(object: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = object.remove(from) {
        object.insert(to.to_owned(), value);
    }
}

/// The list at a path of fields, as objects.
fn items_at<'a>(
    object: &'a mut Map<String, Value>,
    path: &[&str],
) -> impl Iterator<Item = &'a mut Map<String, Value>> + use<'a> {
    let mut at = object.get_mut(path[0]);
    for step in &path[1..] {
        at = at.and_then(|v| v.get_mut(*step));
    }
    at.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

const CLAIM_REQUESTS: &[&str] = &["spec", "devices", "requests"];
const TEMPLATE_REQUESTS: &[&str] = &["spec", "spec", "devices", "requests"];
const SLICE_DEVICES: &[&str] = &["spec", "devices"];

/// v1beta1 keeps a device's data below `basic`, and has the fields of an exact request directly in the request.
fn devices_from_v1beta1(object: &mut Map<String, Value>) {
    for device in items_at(object, SLICE_DEVICES) {
        if let Some(Value::Object(basic)) = device.remove("basic") {
            device.extend(basic);
        }
    }
    for path in [CLAIM_REQUESTS, TEMPLATE_REQUESTS] {
        for request in items_at(object, path) {
            let exact: Map<String, Value> = std::mem::take(request);
            let mut exactly = Map::new();
            for (name, value) in exact {
                let target =
                    if name == "name" || name == "firstAvailable" { &mut *request } else { &mut exactly };
                target.insert(name, value);
            }
            if exactly.contains_key("deviceClassName") {
                request.insert("exactly".to_owned(), Value::Object(exactly));
            }
        }
    }
}

fn devices_to_v1beta1(object: &mut Map<String, Value>) {
    for device in items_at(object, SLICE_DEVICES) {
        let whole = std::mem::take(device);
        let mut basic = Map::new();
        for (name, value) in whole {
            let target = if name == "name" { &mut *device } else { &mut basic };
            target.insert(name, value);
        }
        device.insert("basic".to_owned(), Value::Object(basic));
    }
    for path in [CLAIM_REQUESTS, TEMPLATE_REQUESTS] {
        for request in items_at(object, path) {
            if let Some(Value::Object(exactly)) = request.remove("exactly") {
                request.extend(exactly);
            }
        }
    }
}
