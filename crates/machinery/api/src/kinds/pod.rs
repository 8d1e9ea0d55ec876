//! Pods: defaults, validation, what an update may change, status, binding, table.
//!
//! `spec` holds what pod templates share: `PodSpec` defaults and validation.
//! Source: `pkg/registry/core/pod/strategy.go`, `pkg/apis/core/v1/defaults.go`, `pkg/apis/core/validation`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::tree::{carry, flag, has, list, opt_int, same, set, text, value};
use super::{Column, Context, Metadata, Part, Rules};
use crate::field::{Errors, Path};
use crate::status::ApiError;

pub(crate) mod affinity;
pub(crate) mod containers;
mod defaults;
mod print;
mod qos;
mod resize;
pub(crate) mod resources;
mod security;
pub(crate) mod spec;
mod status;
mod update;
pub(crate) mod volumes;
mod warnings;
mod windows;

pub(crate) use affinity::{node_selector, taint_effect, tolerations};
pub(crate) use containers::{choice, port_or_name};
pub(crate) use defaults::lasting_source;
pub use qos::qos_class;
pub use resources::extended as is_extended_resource;
pub(crate) use resources::{
    amount, container_name as container_resource_name, extended, limit_range_name, native, overcommit,
    quota_name,
};
pub(crate) use security::{given_choice, optional_choice};
pub(crate) use spec::{default_template, validate_template};
pub(crate) use volumes::{csi_driver_name, no_backsteps, storage_os, volume_source};
pub(crate) use warnings::of_spec as spec_warnings;

/// The rules of Pods.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pod;

impl Rules for Pod {
    fn metadata(&self) -> Metadata {
        Metadata::CHANGE_NEW
    }

    fn default(&self, object: &mut Value) {
        defaults::pod(object);
    }

    fn prepare_create(&self, object: &mut Value, _ctx: &Context<'_>) {
        let mut status = json!({"phase": "Pending", "qosClass": qos_class(object)});
        if !list(value(object, "spec"), "schedulingGates").is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": null,
            }]);
        }
        set(object, "status", status);
        affinity::merge_label_keys(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Context<'_>) {
        match ctx.part {
            Part::Status => status::prepare(new, old),
            Part::Other("ephemeralcontainers") => update::keep_only_ephemeral(new, old),
            Part::Other("resize") => resize::keep_only_resize(new, old),
            Part::Main | Part::Scale => carry(new, old, "status"),
            // Made by the server itself: binding, eviction.
            Part::Other(_) => {}
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        spec::validate_pod(object, errors);
        let spec = value(object, "spec");
        let path = Path::new("spec");
        if !list(spec, "ephemeralContainers").is_empty() {
            errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
        }
        if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
            errors.forbidden(
                &path.child("nodeName"),
                "cannot be set until all schedulingGates have been cleared",
            );
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Context<'_>, errors: &mut Errors) {
        match ctx.part {
            Part::Status => status::validate(new, old, errors),
            Part::Other("ephemeralcontainers") => update::validate_ephemeral(new, old, errors),
            Part::Other("resize") => resize::validate(new, old, errors),
            Part::Other("binding") => {}
            _ => update::validate(new, old, errors),
        }
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        // Of updates only those of the status are warned about, and only they can change an address.
        match old {
            None => warnings::on_create(object),
            Some(old) if value(object, "status") == value(old, "status") => Vec::new(),
            Some(_) => status::warnings(object),
        }
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let (spec, status) = (value(object, "spec"), value(object, "status"));
        vec![
            ("spec.nodeName", text(spec, "nodeName").to_owned()),
            ("spec.restartPolicy", text(spec, "restartPolicy").to_owned()),
            ("spec.schedulerName", text(spec, "schedulerName").to_owned()),
            ("spec.serviceAccountName", text(spec, "serviceAccountName").to_owned()),
            ("spec.hostNetwork", flag(spec, "hostNetwork").to_string()),
            ("status.phase", text(status, "phase").to_owned()),
            ("status.podIP", text(status, "podIP").to_owned()),
            ("status.nominatedNodeName", text(status, "nominatedNodeName").to_owned()),
        ]
    }

    fn columns(&self) -> &'static [Column] {
        print::COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        print::row(object, now)
    }

    fn deletion_grace_seconds(&self, object: &Value, asked: Option<i64>) -> Option<i64> {
        let (spec, status) = (value(object, "spec"), value(object, "status"));
        let ended = matches!(text(status, "phase"), "Failed" | "Succeeded");
        if text(spec, "nodeName").is_empty() || ended {
            return Some(0);
        }
        let period = asked.or_else(|| opt_int(spec, "terminationGracePeriodSeconds")).unwrap_or(0);
        Some(if period < 0 { 1 } else { period })
    }

    fn spec_changed(&self, new: &Value, old: &Value) -> bool {
        !same(value(new, "spec"), value(old, "spec"))
    }
}

/// Validates a `Binding` sent to a pod.
pub fn validate_binding(binding: &Value, errors: &mut Errors) {
    let target = value(binding, "target");
    let path = Path::new("target");
    let kind = text(target, "kind");
    if !kind.is_empty() && kind != "Node" {
        errors.not_supported(&path.child("kind"), kind, &["Node", "<empty>"]);
    }
    if text(target, "name").is_empty() {
        errors.required(&path.child("name"), "");
    }
}

/// Assigns a pod to the node a validated `Binding` names: node, annotations and labels of the binding, and the
/// `PodScheduled` condition. Preconditions (uid, resourceVersion) are the caller's. 409 when the pod cannot be bound.
pub fn bind(pod: &mut Value, binding: &Value, now: &str) -> Result<(), ApiError> {
    let meta = value(pod, "metadata");
    let name = text(meta, "name").to_owned();
    let node = text(value(pod, "spec"), "nodeName");
    let refusal = if has(meta, "deletionTimestamp") {
        Some(format!("pod {name} is being deleted, cannot be assigned to a host"))
    } else if !node.is_empty() {
        Some(format!("pod {name} is already assigned to node {node:?}"))
    } else if !list(value(pod, "spec"), "schedulingGates").is_empty() {
        Some(format!("pod {name} has non-empty .spec.schedulingGates"))
    } else {
        None
    };
    if let Some(why) = refusal {
        return Err(ApiError::conflict("", "pods/binding", &name, &why));
    }
    set(&mut pod["spec"], "nodeName", text(value(binding, "target"), "name"));
    if let Some(status) = super::tree::ensure_map(pod, "status") {
        super::tree::remove(status, "nominatedNodeName");
        status::set_condition(status, "PodScheduled", "True", now);
    }
    for field in ["annotations", "labels"] {
        let added = super::tree::entries(value(binding, "metadata"), field);
        let Some(meta) = pod.get_mut("metadata") else { break };
        for (key, value) in added {
            if let Some(map) = super::tree::ensure_map(meta, field) {
                set(map, key, value.clone());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
