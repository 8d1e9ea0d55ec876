//! Faults of volumes, classes, attachments and CSI objects. Source: `pkg/apis/storage/validation`, and `core` for volumes.

use ahash::AHashSet;
use serde_json::Value;

use super::sources::one_source;
use crate::field::{Errors, Path};
use crate::kinds::pod::{csi_driver_name, node_selector, optional_choice};
use crate::kinds::tree::{entries, flag, has, is_empty, list, opt_int, text, value};
use crate::kinds::validate::{self, NEGATIVE, label_selector};
use crate::kinds::volume_claim::ACCESS_MODES;
use crate::quantity::Quantity;

/// A volume's spec. `inline`: within an attachment, where only CSI volumes without a life of their own may be.
pub(super) fn validate_volume(spec: &Value, inline: bool, path: &Path<'_>, errors: &mut Errors) {
    const FOREIGN: &str = "may not be specified in the context of inline volumes";
    if inline {
        for field in ["claimRef", "capacity"].iter().filter(|field| !is_empty(spec, field)) {
            errors.forbidden(&path.child(field), FOREIGN);
        }
        if !has(spec, "csi") {
            errors.required(&path.child("csi"), "has to be specified in the context of inline volumes");
        }
    }
    access_modes(spec, path, errors);
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    let at = path.child("persistentVolumeReclaimPolicy");
    if inline {
        if !matches!(policy, "" | "Retain") {
            errors.forbidden(&at, "may only be Retain in the context of inline volumes");
        }
    } else {
        capacity(spec, &path.child("capacity"), errors);
        if !matches!(policy, "" | "Delete" | "Recycle" | "Retain") {
            errors.not_supported(&at, policy, &["Delete", "Recycle", "Retain"]);
        }
    }
    if has(spec, "nodeAffinity") {
        let affinity = value(spec, "nodeAffinity");
        let at = path.child("nodeAffinity");
        if inline {
            errors.forbidden(&at, FOREIGN);
        } else if has(affinity, "required") {
            node_selector(value(affinity, "required"), &at.child("required"), errors);
        } else {
            errors.required(&at.child("required"), "must specify required node constraints");
        }
    }
    one_source(spec, path, errors);
    let directory = text(value(spec, "hostPath"), "path");
    if policy == "Recycle" && !directory.is_empty() && directory.split('/').all(|p| matches!(p, "" | ".")) {
        errors.forbidden(&at, "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        let at = path.child("storageClassName");
        if inline {
            errors.forbidden(&at, FOREIGN);
        } else {
            validate::optional_subdomain(class, &at, errors);
        }
    }
    if !inline {
        optional_choice(spec, "volumeMode", &["Block", "Filesystem"], path, errors);
    } else if has(spec, "volumeMode") && text(spec, "volumeMode") != "Filesystem" {
        let fault = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.forbidden(&path.child("volumeMode"), fault);
    }
    if has(spec, "volumeAttributesClassName") && !inline {
        let class = text(spec, "volumeAttributesClassName");
        let at = path.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.required(&at, "an empty string is disallowed");
        }
        validate::optional_subdomain(class, &at, errors);
        if !has(spec, "csi") {
            errors.required(&path.child("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

fn access_modes(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("accessModes");
    let modes: Vec<&str> = list(spec, "accessModes").iter().filter_map(Value::as_str).collect();
    if modes.is_empty() {
        errors.required(&at, "");
    }
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(*mode)) {
        errors.not_supported(&at, *mode, ACCESS_MODES);
    }
    let others = modes.iter().any(|mode| *mode != "ReadWriteOncePod" && ACCESS_MODES.contains(mode));
    if modes.contains(&"ReadWriteOncePod") && others {
        errors.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
}

fn capacity(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let capacity = value(spec, "capacity");
    if is_empty(spec, "capacity") {
        errors.required(path, "");
    }
    if !has(capacity, "storage") || entries(spec, "capacity").count() > 1 {
        errors.not_supported(path, capacity.clone(), &["storage"]);
    }
    for (resource, raw) in entries(spec, "capacity") {
        let at = path.key(resource);
        let Ok(amount) = Quantity::from_value(raw) else {
            errors.invalid(&at, raw.clone(), "must be a valid resource quantity");
            continue;
        };
        // Upstream looks at the amount twice, and shows it as a number first.
        if amount.is_negative() {
            errors.invalid(&at, amount.value(), "must be a valid resource quantity");
        }
        if amount <= Quantity::ZERO {
            errors.invalid(&at, amount.to_string(), "must be greater than zero");
        }
    }
}

pub(super) fn storage_class(object: &Value, errors: &mut Errors) {
    provisioner(text(object, "provisioner"), &Path::new("provisioner"), errors);
    parameters(object, true, errors);
    let root = Path::new("");
    if !text(object, "reclaimPolicy").is_empty() {
        optional_choice(object, "reclaimPolicy", &["Delete", "Retain"], &root, errors);
    }
    optional_choice(object, "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], &root, errors);
    let path = Path::new("allowedTopologies");
    let mut seen: Vec<Value> = Vec::new();
    for (index, term) in list(object, "allowedTopologies").iter().enumerate() {
        let at = path.index(index);
        let normal = topology_term(term, &at, errors);
        // As upstream's: a term that says nothing counts as said before.
        if normal.as_object().is_some_and(serde_json::Map::is_empty) {
            for _ in 0..list(object, "allowedTopologies").len() {
                errors.duplicate(&at.child("matchLabelExpressions"), "");
            }
        }
        for _ in seen.iter().filter(|other| **other == normal) {
            errors.duplicate(&at.child("matchLabelExpressions"), "");
        }
        seen.push(normal);
    }
}

/// The term as a map from keys to sets of values.
fn topology_term(term: &Value, path: &Path<'_>, errors: &mut Errors) -> Value {
    let at = path.child("matchLabelExpressions");
    let mut normal = serde_json::Map::new();
    for (index, expression) in list(term, "matchLabelExpressions").iter().enumerate() {
        let at = at.index(index);
        let (key, values) = (text(expression, "key"), list(expression, "values"));
        if values.is_empty() {
            errors.required(&at.child("values"), "");
        }
        let mut set: Vec<&str> = Vec::new();
        for (number, content) in values.iter().filter_map(Value::as_str).enumerate() {
            if set.contains(&content) {
                errors.duplicate(&at.child("values").index(number), content);
            } else {
                set.push(content);
            }
        }
        for fault in validate::qualified_name(key) {
            errors.invalid(&at.child("key"), key, &fault);
        }
        if normal.contains_key(key) {
            errors.duplicate(&at.child("key"), key);
        }
        set.sort_unstable();
        normal.insert(key.to_owned(), set.into());
    }
    Value::Object(normal)
}

/// The name of who makes volumes.
pub(super) fn provisioner(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let lower = name.to_lowercase();
    for fault in validate::qualified_name(&lower) {
        errors.invalid(path, lower.as_str(), &fault);
    }
}

/// Parameters of a class at most, and their bytes.
const MOST_PARAMETERS: usize = 512;
const LARGEST_PARAMETERS: usize = 256 * 1024;

pub(super) fn parameters(object: &Value, may_be_empty: bool, errors: &mut Errors) {
    let path = Path::new("parameters");
    let count = entries(object, "parameters").count();
    if count > MOST_PARAMETERS {
        errors.too_long(&path, MOST_PARAMETERS);
        return;
    }
    let mut size = 0;
    for (key, content) in entries(object, "parameters") {
        if key.is_empty() {
            errors.invalid(&path, key, "field can not be empty.");
        }
        size += key.len() + content.as_str().map_or(0, str::len);
    }
    if size > LARGEST_PARAMETERS {
        errors.too_long(&path, LARGEST_PARAMETERS);
    }
    if !may_be_empty && count == 0 {
        errors.required(&path, "must contain at least one key/value pair");
    }
}

/// Bytes of an attachment's metadata, and of an error's message.
const LARGEST_METADATA: usize = 256 * 1024;
const LONGEST_MESSAGE: usize = 1024;

pub(super) fn attachment(object: &Value, errors: &mut Errors) {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let path = Path::new("spec");
    let spec = value(object, "spec");
    csi_driver_name(text(spec, "attacher"), &path.child("attacher"), errors);
    let source = value(spec, "source");
    let at = path.child("source");
    match (has(source, "inlineVolumeSpec"), has(source, "persistentVolumeName")) {
        (false, false) => errors.required(&at, ONE),
        (true, true) => errors.forbidden(&at, ONE),
        (false, true) if text(source, "persistentVolumeName").is_empty() => {
            errors.required(&at.child("persistentVolumeName"), "must specify non empty persistentVolumeName");
        }
        (false, true) => {}
        (true, false) => {
            validate_volume(value(source, "inlineVolumeSpec"), true, &at.child("inlineVolumeSpec"), errors);
        }
    }
    let node = text(spec, "nodeName");
    validate::subdomain(node).iter().for_each(|f| errors.invalid(&path.child("nodeName"), node, f));
    let status = value(object, "status");
    let status_path = Path::new("status");
    let size: usize = entries(status, "attachmentMetadata")
        .map(|(key, content)| key.len() + content.as_str().map_or(0, str::len))
        .sum();
    if size > LARGEST_METADATA {
        errors.too_long(&status_path.child("attachmentMetadata"), LARGEST_METADATA);
    }
    for field in ["attachError", "detachError"] {
        let error = value(status, field);
        let at = status_path.child(field);
        if text(error, "message").len() > LONGEST_MESSAGE {
            errors.too_long(&at.child("message"), LARGEST_METADATA);
        }
        if let Some(code) = opt_int(error, "errorCode").filter(|code| *code < 0) {
            errors.invalid(&at.child("errorCode"), code, &validate::range_fault(0, i64::from(i32::MAX)));
        }
    }
    if has(source, "persistentVolumeName") {
        let volume = text(source, "persistentVolumeName");
        let at = at.child("persistentVolumeName");
        validate::subdomain(volume).iter().for_each(|fault| errors.invalid(&at, volume, fault));
    }
}

/// The longest id of a node at a driver.
const LONGEST_NODE_ID: usize = 256;

pub(super) fn csi_node(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let path = path.child("drivers");
    let mut names = AHashSet::new();
    for (index, driver) in list(value(object, "spec"), "drivers").iter().enumerate() {
        let at = path.index(index);
        let name = text(driver, "name");
        csi_driver_name(name, &at.child("name"), errors);
        let id = text(driver, "nodeID");
        if id.is_empty() {
            errors.required(&at.child("nodeID"), "");
        }
        if id.len() > LONGEST_NODE_ID {
            let fault = format!("must be {LONGEST_NODE_ID} characters or less");
            errors.invalid(&at.child("nodeID"), id, &fault);
        }
        if let Some(count) = opt_int(value(driver, "allocatable"), "count").filter(|count| *count < 0) {
            errors.invalid(&at.child("allocatable").child("count"), count, NEGATIVE);
        }
        if !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        let mut keys = AHashSet::new();
        for key in list(driver, "topologyKeys").iter().filter_map(Value::as_str) {
            if key.is_empty() {
                errors.required(&at, "");
            }
            if !keys.insert(key) {
                errors.duplicate(&at, key);
            }
            for fault in validate::qualified_name(key) {
                errors.invalid(&at, key, &fault);
            }
        }
    }
}

pub(super) fn csi_driver(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    let policies = &["File", "None", "ReadWriteOnceWithFSType"];
    optional_choice(spec, "fsGroupPolicy", policies, &path, errors);
    let requests = list(spec, "tokenRequests");
    let mut audiences = AHashSet::new();
    for (index, request) in requests.iter().enumerate() {
        let at = path.child("tokenRequests");
        let at = at.index(index);
        let audience = text(request, "audience");
        if !audiences.insert(audience) {
            errors.duplicate(&at.child("audience"), audience);
            continue;
        }
        let at = at.child("expirationSeconds");
        match opt_int(request, "expirationSeconds") {
            Some(seconds) if seconds < 600 => {
                errors.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
            }
            Some(seconds) if seconds > 1 << 32 => {
                errors.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
            }
            _ => {}
        }
    }
    let modes = list(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str);
    for mode in modes.filter(|mode| !matches!(*mode, "Persistent" | "Ephemeral")) {
        errors.not_supported(&path.child("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]);
    }
    if let Some(period) = opt_int(spec, "nodeAllocatableUpdatePeriodSeconds").filter(|period| *period < 10) {
        let at = path.child("nodeAllocatableUpdatePeriodSeconds");
        errors.invalid(&at, period, "must be greater than or equal to 10 seconds");
    }
    if has(spec, "serviceAccountTokenInSecrets") && requests.is_empty() {
        errors.invalid(
            &path.child("serviceAccountTokenInSecrets"),
            flag(spec, "serviceAccountTokenInSecrets"),
            "serviceAccountTokenInSecrets is set but no tokenRequests are specified",
        );
    }
}

pub(super) fn csi_capacity(object: &Value, errors: &mut Errors) {
    let class = text(object, "storageClassName");
    for fault in validate::subdomain(class) {
        errors.invalid(&Path::new("storageClassName"), class, &fault);
    }
    let size = value(object, "capacity");
    if !size.is_null() && Quantity::from_value(size).is_ok_and(|q| q.is_negative()) {
        errors.invalid(&Path::new("capacity"), size.clone(), NEGATIVE);
    }
    label_selector(value(object, "nodeTopology"), &Path::new("nodeTopology"), errors);
}
