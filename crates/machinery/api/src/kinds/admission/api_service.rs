//! Faults of APIServices. Source: `kube-aggregator/pkg/apis/apiregistration/validation`.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::tree::{flag, has, int, list, text, value};
use crate::kinds::validate;

pub(super) fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let name = text(value(object, "metadata"), "name");
    let required = format!("{version}.{group}");
    if name != required && validate::path_segment(name, false).is_empty() {
        let meta = Path::new("metadata");
        let fault = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
        errors.invalid(&meta.child("name"), name, &fault);
    }
    if group.is_empty() && version != "v1" {
        errors.required(&path.child("group"), "only v1 may have an empty group and it better be legacy kube");
    }
    validate::optional_subdomain(group, &path.child("group"), errors);
    for fault in validate::label_1035(version) {
        errors.invalid(&path.child("version"), version, &fault);
    }
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = int(spec, field);
        if !(1..=most).contains(&priority) {
            errors.invalid(&path.child(field), priority, &format!("must be positive and less than {most}"));
        }
    }
    let bundle = text(spec, "caBundle");
    let insecure = flag(spec, "insecureSkipTLSVerify");
    if !has(spec, "service") {
        if !bundle.is_empty() {
            let bytes = bundle.trim_end_matches('=').len() * 3 / 4;
            let fault = "local APIServices may not have a caBundle";
            errors.invalid(&path.child("caBundle"), format!("{bytes} bytes"), fault);
        }
        if insecure {
            let fault = "local APIServices may not have insecureSkipTLSVerify";
            errors.invalid(&path.child("insecureSkipTLSVerify"), true, fault);
        }
        return;
    }
    let service = value(spec, "service");
    let at = path.child("service");
    for field in ["namespace", "name"].iter().filter(|field| text(service, field).is_empty()) {
        errors.required(&at.child(field), "");
    }
    let port = int(service, "port");
    if let Some(fault) = validate::port_number(port) {
        errors.invalid(&at.child("port"), port, &format!("port is not valid: {fault}"));
    }
    if insecure && !bundle.is_empty() {
        let fault = "may not be true if caBundle is present";
        errors.invalid(&path.child("insecureSkipTLSVerify"), true, fault);
    }
}

pub(super) fn status(object: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    let path = path.child("conditions");
    for (index, condition) in list(value(object, "status"), "conditions").iter().enumerate() {
        let state = text(condition, "status");
        if !matches!(state, "True" | "False" | "Unknown") {
            errors.not_supported(&path.index(index).child("status"), state, &["True", "False", "Unknown"]);
        }
    }
}
