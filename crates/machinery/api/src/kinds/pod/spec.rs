//! `PodSpec`, in pods and in the templates of workloads: the top-level rules. Lists of things have modules of their own.

use ahash::AHashSet;
use serde_json::Value;

use super::containers::{self, Scope, choice};
pub(crate) use super::defaults::template as default_template;
use super::{affinity, resources, security, volumes, windows};
use crate::field::{Errors, Path};
use crate::kinds::tree::{entries, flag, has, int, list, opt_int, text, value};
use crate::kinds::validate::{self, labels};

/// Everything about a pod but its `ObjectMeta`, on create and on update.
pub(super) fn validate_pod(pod: &Value, errors: &mut Errors) {
    validate_annotations(pod, errors);
    validate_spec(pod, errors);
}

/// The part of it that is about annotations.
pub(super) fn validate_annotations(pod: &Value, errors: &mut Errors) {
    let at = Path::new("metadata");
    annotations(
        value(value(pod, "metadata"), "annotations"),
        value(pod, "spec"),
        &at.child("annotations"),
        errors,
    );
}

fn validate_spec(pod: &Value, errors: &mut Errors) {
    let (meta, spec) = (value(pod, "metadata"), value(pod, "spec"));
    let path = Path::new("spec");
    pod_spec(spec, text(meta, "name"), true, &path, errors);
    if text(spec, "serviceAccountName").is_empty() {
        for (index, volume) in list(spec, "volumes").iter().enumerate() {
            for (number, source) in list(value(volume, "projected"), "sources").iter().enumerate() {
                if has(source, "serviceAccountToken") {
                    let (at, sources) = (path.child("volumes"), "sources");
                    let at = at.index(index);
                    let at = at.child("projected");
                    errors.forbidden(
                        &at.child(sources).index(number).child("serviceAccountToken"),
                        "must not be specified when serviceAccountName is not set",
                    );
                }
            }
        }
    }
    for field in ["containers", "initContainers"] {
        for (index, container) in list(spec, field).iter().enumerate() {
            containers::image_whitespace(container, &path.child(field).index(index), errors);
        }
    }
}

/// A pod template of a workload: its labels, annotations and spec.
pub(crate) fn validate_template(template: &Value, path: &Path<'_>, errors: &mut Errors) {
    let meta = value(template, "metadata");
    labels(value(meta, "labels"), &path.child("labels"), errors);
    validate::annotations(value(meta, "annotations"), &path.child("annotations"), errors);
    let spec = value(template, "spec");
    annotations(value(meta, "annotations"), spec, &path.child("annotations"), errors);
    let at = path.child("spec");
    pod_spec(spec, "", false, &at, errors);
    if !list(spec, "ephemeralContainers").is_empty() {
        errors
            .forbidden(&at.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

fn annotations(annotations: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if has(annotations, MIRROR) && text(spec, "nodeName").is_empty() {
        errors.invalid(
            &path.key(MIRROR),
            text(annotations, MIRROR),
            "must set spec.nodeName if mirror pod annotation is set",
        );
    }
    if has(annotations, COST) {
        let cost = text(annotations, COST);
        // `+5` and `05` would not read back the same and are refused upstream too.
        if cost.parse::<i32>().is_err() || cost.starts_with('+') || cost.len() > 1 && cost.starts_with('0') {
            errors.invalid(&path.key(COST), cost, "must be a 32bit integer");
        }
    }
}

fn pod_spec(spec: &Value, pod_name: &str, is_pod: bool, path: &Path<'_>, errors: &mut Errors) {
    if !has(spec, "terminationGracePeriodSeconds") {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let valid = volumes::validate(spec, pod_name, &path.child("volumes"), errors);
    let scope = Scope { spec, volumes: &valid };
    resource_claims(spec, &path.child("resourceClaims"), errors);
    containers::regular(scope, &path.child("containers"), errors);
    containers::init(scope, &path.child("initContainers"), errors);
    containers::ephemeral(scope, &path.child("ephemeralContainers"), errors);
    resources::of_pod(spec, &path.child("resources"), errors);
    host_network_ports(spec, is_pod, path, errors);
    choice(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, errors);
    const DNS: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    choice(spec, "dnsPolicy", DNS, path, errors);
    labels(value(spec, "nodeSelector"), &path.child("nodeSelector"), errors);
    security::of_pod(spec, &path.child("securityContext"), errors);
    affinity::validate(value(spec, "affinity"), &path.child("affinity"), errors);
    dns_config(spec, &path.child("dnsConfig"), errors);
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let at = path.child("readinessGates");
        affinity::label_key(text(gate, "conditionType"), &at.index(index).child("conditionType"), errors);
    }
    scheduling_gates(spec, &path.child("schedulingGates"), errors);
    affinity::spread(spec, &path.child("topologySpreadConstraints"), errors);
    windows::host_process(spec, path, errors);
    host_users(spec, path, errors);
    host_name(spec, path, errors);
    names(spec, &["serviceAccountName", "nodeName"], path, errors);
    if let Some(seconds) =
        opt_int(spec, "activeDeadlineSeconds").filter(|s| !(1..=i64::from(i32::MAX)).contains(s))
    {
        errors.invalid(
            &path.child("activeDeadlineSeconds"),
            seconds,
            &validate::range_fault(1, i64::from(i32::MAX)),
        );
    }
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            for fault in validate::label(name) {
                errors.invalid(&path.child(field), name, &fault);
            }
        }
    }
    affinity::tolerations(list(spec, "tolerations"), &path.child("tolerations"), errors);
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let at = path.child("hostAliases");
        let at = at.index(index);
        if let Err(fault) = validate::ip(text(alias, "ip")) {
            errors.invalid(&at.child("ip"), text(alias, "ip"), fault);
        }
        for (number, name) in list(alias, "hostnames").iter().filter_map(Value::as_str).enumerate() {
            for fault in validate::subdomain(name) {
                errors.invalid(&at.child("hostnames").index(number), name, &fault);
            }
        }
    }
    names(spec, &["priorityClassName", "runtimeClassName"], path, errors);
    if has(spec, "preemptionPolicy") {
        choice(spec, "preemptionPolicy", &["PreemptLowerPriority", "Never"], path, errors);
    }
    for (name, raw) in entries(spec, "overhead") {
        let at = path.child("overhead");
        resources::container_name(name, &at.child("limits").key(name), errors);
        resources::amount(name, raw, &at.child("limits").key(name), errors);
    }
    windows::operating_system(spec, path, errors);
    file_keys(spec, path, errors);
}

/// Names that refer to other objects.
fn names(spec: &Value, fields: &[&str], path: &Path<'_>, errors: &mut Errors) {
    for &field in fields {
        let name = text(spec, field);
        // Only the runtime class has a pointer upstream, where an empty name is a fault.
        if !name.is_empty() || field == "runtimeClassName" && has(spec, field) {
            for fault in validate::subdomain(name) {
                errors.invalid(&path.child(field), name, &fault);
            }
        }
    }
}

fn resource_claims(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = AHashSet::new();
    for (index, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let at = path.index(index);
        let name = text(claim, "name");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        } else {
            for fault in validate::label(name) {
                errors.invalid(&at.child("name"), name, &fault);
            }
        }
        match (has(claim, "resourceClaimName"), has(claim, "resourceClaimTemplateName")) {
            (true, true) => errors.invalid(
                &at,
                claim.clone(),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => crate::kinds::go::invalid(
                "core.v1.PodResourceClaim",
                claim,
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
                &at,
                errors,
            ),
            _ => {}
        }
        for field in ["resourceClaimName", "resourceClaimTemplateName"] {
            if has(claim, field) {
                for fault in validate::subdomain(text(claim, field)) {
                    errors.invalid(&at.child(field), text(claim, field), &fault);
                }
            }
        }
    }
}

fn host_network_ports(spec: &Value, is_pod: bool, path: &Path<'_>, errors: &mut Errors) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    for (index, container) in list(spec, "containers").iter().enumerate() {
        for (number, port) in list(container, "ports").iter().enumerate() {
            let host = int(port, "hostPort");
            if (is_pod || host != 0) && host != int(port, "containerPort") {
                let at = path.child("containers");
                let at = at.index(index);
                errors.invalid(
                    &at.child("ports").index(number).child("hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn dns_config(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let config = value(spec, "dnsConfig");
    let servers = list(config, "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            errors.required(
                &path.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
            return;
        }
    }
    let at = path.child("nameservers");
    if servers.len() > 3 {
        errors.invalid(&at, value(config, "nameservers").clone(), "must not have more than 3 nameservers");
    }
    for (index, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        if let Err(fault) = validate::ip(server) {
            errors.invalid(&at.index(index), server, fault);
        }
    }
    let searches = list(config, "searches");
    let at = path.child("searches");
    if searches.len() > 32 {
        errors.invalid(&at, value(config, "searches").clone(), "must not have more than 32 search paths");
    }
    let length: usize = searches.iter().filter_map(Value::as_str).map(|s| s.len() + 1).sum();
    if length.saturating_sub(1) > 2048 {
        errors.invalid(
            &at,
            value(config, "searches").clone(),
            "must not have more than 2048 characters (including spaces) in the search list",
        );
    }
    for (index, search) in searches.iter().filter_map(Value::as_str).enumerate().filter(|(_, s)| *s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        for fault in validate::subdomain_with_underscore(search) {
            errors.invalid(&at.index(index), search, &fault);
        }
    }
    for (index, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.required(&path.child("options").index(index), "must not be empty");
        }
    }
}

fn scheduling_gates(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = AHashSet::new();
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        affinity::label_key(name, &path.index(index), errors);
        if !seen.insert(name) {
            errors.duplicate(&path.index(index), name);
        }
    }
}

fn host_users(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if value(spec, "hostUsers") != &Value::Bool(false) {
        return;
    }
    // The last two are written so upstream.
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(spec, field) {
            errors.forbidden(&path.child(shown), "when `hostUsers` is false");
        }
    }
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in list(spec, field).iter().enumerate() {
            if !list(container, "volumeDevices").is_empty() {
                errors.forbidden(
                    &path.child(field).index(index).child("volumeDevices"),
                    "when `hostUsers` is false",
                );
            }
        }
    }
}

fn host_name(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !has(spec, "hostnameOverride") {
        return;
    }
    let name = text(spec, "hostnameOverride");
    let at = path.child("hostnameOverride");
    if flag(spec, "setHostnameAsFQDN") {
        errors.forbidden(&at, "may not be specified when setHostnameAsFQDN is true");
    }
    if flag(spec, "hostNetwork") {
        errors.forbidden(&at, "may not be specified when hostNetwork is true");
    }
    if name.len() > 64 {
        errors.too_long(&at, 64);
    }
    for fault in validate::subdomain(name) {
        errors.invalid(&at, name, &fault);
    }
}

/// A `fileKeyRef` names an emptyDir of the pod.
fn file_keys(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in list(spec, field).iter().enumerate() {
            for (number, variable) in list(container, "env").iter().enumerate() {
                let reference = value(value(variable, "valueFrom"), "fileKeyRef");
                if reference.is_null() {
                    continue;
                }
                let (at, name) = (path.child(field), text(reference, "volumeName"));
                let at = at.index(index);
                let at = at.child("env");
                let at = at.index(number);
                let at = at.child("valueFrom");
                let at = at.child("fileKeyRef");
                let volume = list(spec, "volumes").iter().find(|v| text(v, "name") == name);
                match volume {
                    None => errors.not_found(&at.child("volumeName"), name),
                    Some(volume) if !has(volume, "emptyDir") => {
                        errors.invalid(
                            &at.child("volumeName"),
                            name,
                            "referenced volume must be of type emptyDir",
                        );
                    }
                    Some(_) => {}
                }
            }
        }
    }
}
