//! ResourceSlices: what a driver has to offer. Source: `pkg/apis/resource/validation`.

use serde_json::Value;

use super::check::{self, items, set};
use crate::field::{Errors, Path};
use crate::kinds::pod::node_selector;
use crate::kinds::tree::{child, entries, flag, has, int, items_mut, list, remove, text, value};
use crate::kinds::validate;
use crate::quantity::Quantity;

/// Devices of a slice; of one whose devices have taints or counters.
const DEVICES: (usize, usize) = (128, 64);
/// Sets of counters of a slice.
const COUNTER_SETS: usize = 8;
/// Counters of one set.
const COUNTERS: usize = 32;
/// Sets of counters that one device uses.
const CONSUMPTIONS: usize = 2;
/// Attributes and capacities of a device together.
const ATTRIBUTES: usize = 32;
/// Bytes of a value.
const VALUE_MAX: usize = 64;
/// Bytes of an attribute's name without its domain.
const ID_MAX: usize = 32;
/// Taints of a device.
const TAINTS: usize = 16;
/// Values that a policy lists.
const OPTIONS: usize = 10;
/// Fields of gates that are off: lists as attributes, and parts of the node that devices take.
pub(super) fn drop_gated(slice: &mut Value) {
    let Some(spec) = child(slice, "spec") else { return };
    for device in items_mut(spec, "devices") {
        remove(device, "nodeAllocatableResourceMappings");
        let attributes = child(device, "attributes").and_then(Value::as_object_mut);
        for attribute in attributes.into_iter().flat_map(serde_json::Map::values_mut) {
            for field in ["bools", "ints", "strings", "versions"] {
                remove(attribute, field);
            }
        }
    }
}

/// Validates a slice.
pub(super) fn spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    check::driver(text(spec, "driver"), &path.child("driver"), errors);
    let pool = value(spec, "pool");
    let at = path.child("pool");
    check::pool(text(pool, "name"), &at.child("name"), errors);
    let slices = int(pool, "resourceSliceCount");
    if slices <= 0 {
        errors.invalid(&at.child("resourceSliceCount"), slices, "must be greater than zero");
    }
    let generation = int(pool, "generation");
    if generation < 0 {
        errors.invalid(&at.child("generation"), generation, "must be greater than or equal to zero");
    }
    reach(spec, path, errors);
    if has(spec, "sharedCounters") && has(spec, "devices") {
        errors.invalid(path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let devices = list(spec, "devices");
    let most = if devices.iter().any(is_advanced) { DEVICES.1 } else { DEVICES.0 };
    let chosen_each = flag(spec, "perDeviceNodeSelection");
    let name = |item: &Value| text(item, "name").to_owned();
    set(devices, most, name, &path.child("devices"), errors, |one, at, errors| {
        device(one, chosen_each, at, errors);
    });
    let at = path.child("sharedCounters");
    set(list(spec, "sharedCounters"), COUNTER_SETS, name, &at, errors, |one, at, errors| {
        counters(one, "name", at, errors);
    });
}

fn is_advanced(device: &Value) -> bool {
    !list(device, "taints").is_empty() || !list(device, "consumesCounters").is_empty()
}

/// Which nodes can use the devices: said in exactly one way.
fn reach(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut said = Vec::new();
    if has(spec, "nodeName") {
        node_name(spec, "must be either unset or set to a non-empty string", &mut said, path, errors);
    }
    if has(spec, "nodeSelector") {
        said.push("`nodeSelector`");
        let selector = value(spec, "nodeSelector");
        let at = path.child("nodeSelector");
        node_selector(selector, &at, errors);
        let terms = value(selector, "nodeSelectorTerms");
        if list(selector, "nodeSelectorTerms").len() != 1 {
            let why = "must have exactly one node selector term";
            errors.invalid(&at.child("nodeSelectorTerms"), terms.clone(), why);
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        only_true(spec, field, shown, &mut said, path, errors);
    }
    let why = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match said.len() {
        0 => errors.required(path, why),
        1 => {}
        _ => {
            let why = format!("{why}, but multiple fields are set");
            errors.invalid(path, format!("{{{}}}", said.join(", ")), &why);
        }
    }
}

fn node_name(
    object: &Value,
    empty: &str,
    said: &mut Vec<&'static str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let name = text(object, "nodeName");
    if name.is_empty() {
        errors.invalid(&path.child("nodeName"), name, empty);
        return;
    }
    said.push("`nodeName`");
    for fault in validate::subdomain(name) {
        errors.invalid(&path.child("nodeName"), name, &fault);
    }
}

fn only_true(
    object: &Value,
    field: &str,
    shown: &'static str,
    said: &mut Vec<&'static str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if flag(object, field) {
        said.push(shown);
    } else if has(object, field) {
        errors.invalid(&path.child(field), false, "must be either unset or set to true");
    }
}

fn device(device: &Value, chosen_each: bool, path: &Path<'_>, errors: &mut Errors) {
    check::label(text(device, "name"), &path.child("name"), errors);
    let named = entries(device, "attributes").count() + entries(device, "capacity").count();
    if named > ATTRIBUTES {
        let why = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES}");
        errors.invalid(path, named, &why);
    }
    let at = path.child("attributes");
    for (name, one) in entries(device, "attributes") {
        attribute_name(name, &at, errors);
        attribute(one, &at.key(name), errors);
    }
    let at = path.child("capacity");
    for (name, one) in entries(device, "capacity") {
        attribute_name(name, &at, errors);
        capacity(one, flag(device, "allowMultipleAllocations"), &at.key(name), errors);
    }
    items(list(device, "taints"), TAINTS, &path.child("taints"), errors, check::taint);
    let set_name = |item: &Value| text(item, "counterSet").to_owned();
    let at = path.child("consumesCounters");
    set(list(device, "consumesCounters"), CONSUMPTIONS, set_name, &at, errors, |one, at, errors| {
        counters(one, "counterSet", at, errors);
    });
    device_reach(device, chosen_each, path, errors);
    check::binding(device, path, errors);
}

fn device_reach(device: &Value, chosen_each: bool, path: &Path<'_>, errors: &mut Errors) {
    if !chosen_each {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| has(device, field)) {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(path, Value::Null, why);
        }
        return;
    }
    let mut said = Vec::new();
    if has(device, "nodeName") {
        node_name(device, "must not be empty", &mut said, path, errors);
    }
    if has(device, "nodeSelector") {
        said.push("`nodeSelector`");
        node_selector(value(device, "nodeSelector"), &path.child("nodeSelector"), errors);
    }
    only_true(device, "allNodes", "`allNodes`", &mut said, path, errors);
    let why = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match said.len() {
        0 => errors.required(path, why),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", said.join(", ")), why),
    }
}

/// A set of counters, or what is used of one. Its name is in `field`.
fn counters(object: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    let name = text(object, field);
    if name.is_empty() {
        errors.required(&path.child(field), "");
    } else {
        check::label(name, &path.child(field), errors);
    }
    let at = path.child("counters");
    match entries(object, "counters").count() {
        0 => errors.required(&at, ""),
        many if many > COUNTERS => errors.too_many(&at, many, COUNTERS),
        _ => {
            for (name, _) in entries(object, "counters") {
                check::label(name, &at, errors);
            }
        }
    }
}

/// The name of an attribute or a capacity: an identifier, behind a domain where it is not the driver's own.
pub(super) fn attribute_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let parts: Vec<&str> = name.split('/').collect();
    let id = match parts.as_slice() {
        [id] => *id,
        [domain, id] => {
            if domain.is_empty() {
                errors.invalid(path, "", "the domain must not be empty");
            } else {
                check::driver(domain, path, errors);
            }
            if id.is_empty() {
                errors.invalid(path, "", "the name must not be empty");
                return;
            }
            *id
        }
        // Upstream lets more slashes pass.
        _ => return,
    };
    if id.len() > ID_MAX {
        errors.too_long(path, ID_MAX);
    }
    for fault in validate::c_identifier(id) {
        errors.invalid(path, id, &fault);
    }
}

fn attribute(attribute: &Value, path: &Path<'_>, errors: &mut Errors) {
    let string = |content: &str, at: &Path<'_>, errors: &mut Errors| {
        if content.len() > VALUE_MAX {
            errors.too_long(at, VALUE_MAX);
        }
    };
    if has(attribute, "string") {
        string(text(attribute, "string"), &path.child("string"), errors);
    }
    if has(attribute, "version") {
        let (version, at) = (text(attribute, "version"), path.child("version"));
        if !is_semantic_version(version) {
            errors.invalid(&at, version, "must be a string compatible with semver.org spec 2.0.0");
        }
        string(version, &at, errors);
    }
    let set = ["bool", "int", "string", "version"].iter().filter(|field| has(attribute, field)).count();
    let why = "exactly one value must be specified";
    match set {
        0 => errors.invalid(path, "", why),
        1 => {}
        _ => errors.invalid(path, attribute.clone(), why),
    }
}

/// Whether a text is a version as semver.org has them, 2.0.0.
fn is_semantic_version(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(head, build)| (head, Some(build)));
    let (core, release) = text.split_once('-').map_or((text, None), |(core, rest)| (core, Some(rest)));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let identifier =
        |part: &str| word(part) && (number(part) || part.bytes().any(|byte| !byte.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && release.is_none_or(|release| release.split('.').all(identifier))
        && build.is_none_or(|build| build.split('.').all(word))
}

/// A capacity that is shared may say which parts of it can be asked for.
fn capacity(capacity: &Value, shared: bool, path: &Path<'_>, errors: &mut Errors) {
    let policy = value(capacity, "requestPolicy");
    let at = path.child("requestPolicy");
    if policy.is_null() {
        return;
    }
    if !shared {
        errors.forbidden(&at, "allowMultipleAllocations must be true");
        return;
    }
    let values = list(policy, "validValues");
    if !values.is_empty() && has(policy, "validRange") {
        let why = r#"exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time"#;
        errors.forbidden(&at, why);
        return;
    }
    let field = if values.is_empty() { "validRange" } else { "validValues" };
    if !has(policy, field) {
        return;
    }
    let amount = |raw: &Value| Quantity::from_value(raw).unwrap_or_default();
    if !has(policy, "default") {
        errors.required(&at.child("default"), &format!("required when {field} is defined"));
        return;
    }
    let (whole, usual) = (amount(value(capacity, "value")), amount(value(policy, "default")));
    if values.is_empty() {
        range(value(policy, "validRange"), whole, usual, &at.child("validRange"), errors);
    } else {
        let values: Vec<Quantity> = values.iter().map(amount).collect();
        listed(&values, whole, usual, &at.child("validValues"), errors);
    }
}

fn listed(values: &[Quantity], whole: Quantity, usual: Quantity, path: &Path<'_>, errors: &mut Errors) {
    for (index, pair) in values.windows(2).enumerate().filter(|(_, pair)| pair[0] > pair[1]) {
        let why = "values must be sorted in ascending order";
        errors.invalid(&path.index(index + 1), pair[1].to_string(), why);
    }
    if values.len() > OPTIONS {
        errors.too_many(path, values.len(), OPTIONS);
    } else {
        for (index, option) in values.iter().enumerate().filter(|(_, option)| **option > whole) {
            let why = format!("option is larger than capacity value: {whole}");
            errors.invalid(&path.index(index), option.to_string(), &why);
        }
        for (index, option) in values.iter().enumerate() {
            if values[..index].iter().any(|before| before.value() == option.value()) {
                errors.duplicate(&path.index(index), option.value().to_string());
            }
        }
    }
    if !values.contains(&usual) {
        let why = "default value is not valid according to the requestPolicy";
        errors.invalid(path, usual.to_string(), why);
    }
}

fn range(range: &Value, whole: Quantity, usual: Quantity, path: &Path<'_>, errors: &mut Errors) {
    let amount =
        |field: &str| has(range, field).then(|| Quantity::from_value(value(range, field)).ok()).flatten();
    let Some(min) = amount("min") else {
        errors.required(&path.child("min"), "required when validRange is defined");
        return;
    };
    let mut fault = |field: &str, shown: Quantity, why: String| {
        errors.invalid(&path.child(field), shown.to_string(), &why);
    };
    if min > whole {
        fault("min", min, format!("min is larger than capacity value: {whole}"));
    }
    if usual < min {
        fault("min", usual, format!("default is less than min: {min}"));
    }
    let max = amount("max");
    if let Some(max) = max {
        if min > max {
            fault("max", min, format!("min is larger than max: {max}"));
        }
        if max > whole {
            fault("max", max, format!("max is larger than capacity value: {whole}"));
        }
        if usual > max {
            fault("max", usual, format!("default is more than max: {max}"));
        }
    }
    let Some(step) = amount("step") else { return };
    let first = min + step;
    if first > whole {
        fault("step", step, format!("one step {first} is larger than capacity value: {whole}"));
    }
    for end in [Some(usual), max].into_iter().flatten() {
        // No step leads nowhere: upstream would divide by zero.
        let apart = end.value().checked_sub(min.value()).and_then(|apart| apart.checked_rem(step.value()));
        if apart != Some(0) {
            fault("step", end, format!("value is not a multiple of a given step ({step}) from ({min})"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_semantic() {
        for good in ["1.2.3", "0.0.0", "1.0.0-alpha.1", "1.0.0-0a.b-c", "1.0.0+build.001", "1.0.0-rc.1+x"] {
            assert!(is_semantic_version(good), "{good}");
        }
        for bad in ["1.2", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "v1.2.3", "1.2.3-a..b", "1.2.3+a_b"] {
            assert!(!is_semantic_version(bad), "{bad}");
        }
    }
}
