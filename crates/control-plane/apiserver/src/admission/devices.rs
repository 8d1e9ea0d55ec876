//! Who may do what with claims of devices. Access to devices that others use: only in namespaces that an administrator has
//! marked for it. Parts of a claim's status: only who may bind claims, or is the driver's. Upstream checks this in its
//! strategies of claims (`pkg/registry/resource/utils.go`); here it is with everything else that looks at other objects.

use std::collections::{BTreeMap, BTreeSet};

use podium_api::field::{Errors, Path};
use podium_api::status::ApiError;
use serde_json::Value;

use super::{Operation, Request};
use crate::authentication::User;
use crate::authorization::{Attributes, Authorizer};
use crate::objects::{Objects, items, text};

const GROUP: &str = "resource.k8s.io";
const LABEL: &str = "resource.kubernetes.io/admin-access";

pub(super) fn check_admin_access(request: &Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    let create = request.operation == Operation::Create && request.subresource.is_empty();
    let asked = match (request.group, request.resource, request.subresource) {
        (GROUP, "resourceclaims", "") if create => asks(request.object, "/spec/devices/requests", "/exactly"),
        (GROUP, "resourceclaimtemplates", "") if create => {
            asks(request.object, "/spec/spec/devices/requests", "/exactly")
        }
        (GROUP, "resourceclaims", "status") => {
            let results = "/status/allocation/devices/results";
            // What was granted may go on: an allocation does not change.
            if request.old.is_some_and(|old| asks(old, results, "").is_some()) {
                return Ok(());
            }
            asks(request.object, results, "")
        }
        _ => None,
    };
    let Some(index) = asked else { return Ok(()) };
    let namespace = objects.get("", "namespaces", "", request.namespace);
    if namespace.is_some_and(|namespace| namespace["metadata"]["labels"][LABEL] == "true") {
        return Ok(());
    }
    let status = Path::new("status");
    let allocation = status.child("allocation");
    let allocated = allocation.child("devices");
    let results = allocated.child("results");
    let spec = Path::new("spec");
    let devices = spec.child("devices");
    let requests = devices.child("requests");
    let list = if request.subresource == "status" { results } else { requests };
    let why =
        format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    let mut errors = Errors::new();
    errors.forbidden(&list.index(index).child("adminAccess"), &why);
    Err(ApiError::invalid(request.group, request.kind, request.name, &errors))
}

/// The first item of a list that asks for such access.
fn asks(object: &Value, list: &str, within: &str) -> Option<usize> {
    let access = format!("{within}/adminAccess");
    items(object, list).iter().position(|item| item.pointer(&access) == Some(&Value::Bool(true)))
}

/// What the extra of a token that is bound to a pod on a node says.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Whether who writes a claim's status may write those parts of it: allocation and reservations are written by who may
/// `update` or `patch` `resourceclaims/binding`, the state of a driver's devices by who may do so with
/// `resourceclaims/driver`, from the claim's own node or from anywhere. Source: the gate
/// DRAResourceClaimGranularStatusAuthorization, on by default since v1.36.
pub(super) fn check_status(request: &Request<'_>, authorizer: &Authorizer) -> Result<(), ApiError> {
    if (request.group, request.resource, request.subresource) != (GROUP, "resourceclaims", "status") {
        return Ok(());
    }
    let old = request.old.unwrap_or(&Value::Null);
    let (now, before) = (&request.object["status"], &old["status"]);
    // Admission knows updates only, but what was asked for is in the options.
    let verb = if request.options["kind"] == "PatchOptions" { "patch" } else { "update" };
    let asked = Attributes {
        version: request.version,
        ..Attributes::resource(request.user, verb, GROUP, "resourceclaims")
    };
    let mut errors = Errors::new();
    let status = Path::new("status");
    if differs(now, before, "allocation") || differs(now, before, "reservedFor") {
        let attributes = Attributes { subresource: "binding", ..asked };
        if let Err(refusal) = authorizer.check(&attributes) {
            errors.forbidden(
                &status.child("allocation"),
                &format!(
                    "changing status.allocation or status.reservedFor requires \
                     resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {}",
                    refusal.message
                ),
            );
        }
    }
    if !now["allocation"].is_null() {
        let (own, any) = (format!("associated-node:{verb}"), format!("arbitrary-node:{verb}"));
        let own_node = is_on_node(request.user, &now["allocation"]);
        let verbs = if own_node { vec![own.as_str(), any.as_str()] } else { vec![any.as_str()] };
        for driver in changed_drivers(now, before) {
            let asked =
                Attributes { subresource: "driver", namespace: request.namespace, name: driver, ..asked };
            let refusal = |verb: &&str| authorizer.check(&Attributes { verb, ..asked }).err();
            let refusals: Vec<ApiError> = verbs.iter().map_while(refusal).collect();
            if refusals.len() == verbs.len() {
                errors.forbidden(
                    &status.child("devices"),
                    &format!(
                        "changing status.devices requires resource=\"resourceclaims/driver\", \
                         verb=\"[{}]\" permission: {}",
                        verbs.join(" "),
                        refusals[0].message
                    ),
                );
            }
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(request.group, request.kind, request.name, &errors))
}

/// Whether a part of a status differs; an empty one is none.
fn differs(now: &Value, before: &Value, field: &str) -> bool {
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let (now, before) = (&now[field], &before[field]);
    now != before && !(is_empty(now) && is_empty(before))
}

/// The drivers whose devices came, went or changed, sorted.
fn changed_drivers<'a>(now: &'a Value, before: &'a Value) -> BTreeSet<&'a str> {
    let mut old: BTreeMap<[&str; 4], &Value> =
        items(before, "/devices").iter().map(|device| (key(device), device)).collect();
    let mut drivers = BTreeSet::new();
    for device in items(now, "/devices") {
        if old.remove(&key(device)) != Some(device) {
            drivers.insert(text(device, "/driver"));
        }
    }
    drivers.extend(old.into_values().map(|device| text(device, "/driver")));
    drivers
}

fn key(device: &Value) -> [&str; 4] {
    ["/driver", "/pool", "/device", "/shareID"].map(|field| text(device, field))
}

/// Whether a service account runs on the one node that an allocation is for.
fn is_on_node(user: &User, allocation: &Value) -> bool {
    let [term] = items(allocation, "/nodeSelector/nodeSelectorTerms") else { return false };
    let [field] = items(term, "/matchFields") else { return false };
    let [Value::String(node)] = items(field, "/values") else { return false };
    let by_name = field["key"] == "metadata.name" && field["operator"] == "In";
    by_name
        && items(term, "/matchExpressions").is_empty()
        && user.name.starts_with("system:serviceaccount:")
        && user.extra.get(NODE_NAME).is_some_and(|names| names == std::slice::from_ref(node))
}
