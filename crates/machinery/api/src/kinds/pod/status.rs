//! The status part of a pod: what a status update may change and what it must obey.

mod resources;

use serde_json::{Value, json};

use crate::field::{Errors, Path, Reason};
use crate::kinds::go;
use crate::kinds::tree::{carry, default, ensure_map, has, int, items_mut, list, remove, set, text, value};
use crate::kinds::validate::{self, meta::immutable, qualified_name};

/// A status update keeps everything but the status, and of the status what an old kubelet does not know.
pub(super) fn prepare(new: &mut Value, old: &Value) {
    carry(new, old, "spec");
    if let Some(meta) = new.get_mut("metadata") {
        let old_meta = value(old, "metadata");
        carry(meta, old_meta, "deletionTimestamp");
        carry(meta, old_meta, "ownerReferences");
    }
    let Some(status) = ensure_map(new, "status") else { return };
    let old_status = value(old, "status");
    if text(status, "qosClass").is_empty() && has(old_status, "qosClass") {
        carry(status, old_status, "qosClass");
    }
    let observed = int(old_status, "observedGeneration");
    if observed != 0 && int(status, "observedGeneration") == 0 {
        set(status, "observedGeneration", observed);
    }
    for condition in items_mut(status, "conditions") {
        let kind = text(condition, "type");
        let old = list(old_status, "conditions").iter().find(|c| text(c, "type") == kind);
        let observed = old.map_or(0, |c| int(c, "observedGeneration"));
        if observed != 0 && int(condition, "observedGeneration") == 0 {
            set(condition, "observedGeneration", observed);
        }
    }
    drop_volume_status(status, old_status);
}

const STATUSES: [&str; 3] = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];

/// Takes out the digests of image volumes: ImageVolumeWithDigest is off. Where the stored status has one already they stay.
fn drop_volume_status(status: &mut Value, old: &Value) {
    let used = STATUSES
        .iter()
        .flat_map(|field| list(old, field))
        .flat_map(|container| list(container, "volumeMounts"))
        .any(|mount| has(mount, "volumeStatus"));
    if used {
        return;
    }
    for field in STATUSES {
        for container in items_mut(status, field) {
            for mount in items_mut(container, "volumeMounts") {
                remove(mount, "volumeStatus");
            }
        }
    }
}

/// Sets a condition of a pod's status; the transition time moves only when the condition's status does.
pub(super) fn set_condition(status: &mut Value, kind: &str, state: &str, now: &str) {
    default(status, "conditions", Value::Array(Vec::new()));
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    match conditions.iter_mut().find(|c| text(c, "type") == kind) {
        Some(condition) => {
            if text(condition, "status") != state {
                set(condition, "lastTransitionTime", now);
            }
            set(condition, "status", state);
            remove(condition, "reason");
            remove(condition, "message");
        }
        None => conditions
            .push(json!({"type": kind, "status": state, "lastProbeTime": null, "lastTransitionTime": now})),
    }
}

/// Validates a status update.
pub(super) fn validate(new: &Value, old: &Value, errors: &mut Errors) {
    super::update::annotations(new, old, errors);
    let path = Path::new("status");
    let (status, before) = (value(new, "status"), value(old, "status"));
    let spec = value(old, "spec");
    conditions(status, &path.child("conditions"), errors);
    let nominated = text(status, "nominatedNodeName");
    if nominated != text(before, "nominatedNodeName") && !nominated.is_empty() {
        let at = path.child("nominatedNodeName");
        validate::optional_subdomain(nominated, &at, errors);
        if !text(spec, "nodeName").is_empty() {
            errors.forbidden(&at, "may not be set on pods that are already bound to a node");
        }
    }
    if int(status, "observedGeneration") < 0 {
        errors.invalid(
            &path.child("observedGeneration"),
            int(status, "observedGeneration"),
            "must be a non-negative integer",
        );
    }
    immutable(value(status, "qosClass"), value(before, "qosClass"), &path.child("qosClass"), errors);
    for field in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        transitions(field, status, before, spec, &path.child(field), errors);
    }
    resources::claims(status, spec, &path, errors);
    ips(status, before, "podIPs", &path, errors);
    let hosts = list(status, "hostIPs");
    if let Some(first) = hosts.first()
        && text(first, "ip") != text(status, "hostIP")
    {
        errors.invalid(
            &path.child("hostIPs").index(0).child("ip"),
            text(first, "ip"),
            "must be equal to `hostIP`",
        );
    }
    ips(status, before, "hostIPs", &path, errors);
    resources::containers(status, spec, &path, errors);
}

/// Warnings about addresses that are not written as they should be.
pub(super) fn warnings(object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for field in ["podIPs", "hostIPs"] {
        for (index, ip) in list(value(object, "status"), field).iter().enumerate() {
            let at = format!("status.{field}[{index}].ip");
            warnings.extend(validate::ip_warning(&at, text(ip, "ip")));
        }
    }
    warnings
}

fn conditions(status: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (index, condition) in list(status, "conditions").iter().enumerate() {
        let at = path.index(index);
        if int(condition, "observedGeneration") < 0 {
            errors.invalid(
                &at.child("observedGeneration"),
                int(condition, "observedGeneration"),
                "must be a non-negative integer",
            );
        }
        let kind = text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            for fault in qualified_name(kind) {
                errors.invalid(&at.child("Type"), kind, &fault);
            }
        }
    }
}

/// A container that ended and may not restart stays ended.
fn transitions(field: &str, new: &Value, old: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let containers = match field {
        "containerStatuses" => list(spec, "containers"),
        "initContainerStatuses" => list(spec, "initContainers"),
        _ => &[],
    };
    for (index, before) in list(old, field).iter().enumerate() {
        let ended = value(value(before, "state"), "terminated");
        if ended.is_null() {
            continue;
        }
        let name = text(before, "name");
        let container = containers.iter().find(|c| text(c, "name") == name);
        if container.is_some_and(|container| restarts(container, spec, int(ended, "exitCode"))) {
            continue;
        }
        let goes_on =
            |after: &&Value| text(after, "name") == name && !has(value(after, "state"), "terminated");
        if list(new, field).iter().any(|after| goes_on(&after)) {
            errors.forbidden(
                &path.index(index).child("state"),
                "may not be transitioned to non-terminated state",
            );
        }
    }
}

/// Whether a container restarts after this exit code: by its own rules, its own policy, then the pod's.
fn restarts(container: &Value, spec: &Value, exit_code: i64) -> bool {
    for rule in list(container, "restartPolicyRules") {
        let codes = value(rule, "exitCodes");
        let listed = list(codes, "values").iter().any(|code| code.as_i64() == Some(exit_code));
        if !codes.is_null() && listed == (text(codes, "operator") == "In") {
            return true;
        }
    }
    // A rule of any container may restart all of them.
    let all = ["containers", "initContainers"];
    let restart_all =
        |c: &Value| list(c, "restartPolicyRules").iter().any(|r| text(r, "action") == "RestartAllContainers");
    if all.iter().any(|field| list(spec, field).iter().any(restart_all)) {
        return true;
    }
    let policy = match text(container, "restartPolicy") {
        "" => text(spec, "restartPolicy"),
        own => own,
    };
    match policy {
        "Always" => true,
        "OnFailure" => exit_code != 0,
        _ => false,
    }
}

fn ips(status: &Value, before: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    let all = list(status, field);
    let at = path.child(field);
    for (index, ip) in all.iter().enumerate() {
        let ip = text(ip, "ip");
        let known = list(before, field).iter().any(|old| text(old, "ip") == ip);
        if let Err(fault) = validate::ip(ip)
            && !known
        {
            errors.invalid(&at.index(index), ip, fault);
        }
    }
    let family = |ip: &Value| text(ip, "ip").contains(':');
    if all.len() > 2 || all.len() == 2 && family(&all[0]) == family(&all[1]) {
        if let Some((index, unread)) =
            all.iter().map(|ip| text(ip, "ip")).enumerate().find(|(_, ip)| validate::ip(ip).is_err())
        {
            let why = format!("failed to check for dual stack with error:invalid IP[{index}]: {unread}");
            errors.push(Reason::Internal, &at, format!("Internal error: {why}"));
        }
        let kind = if field == "podIPs" { "core.v1.PodIP" } else { "core.v1.HostIP" };
        let shown = go::shown_list(kind, all);
        let fault = "may specify no more than one IP for each IP family";
        errors.push(Reason::Invalid, &at, format!("Invalid value: {shown}: {fault}"));
    }
}
