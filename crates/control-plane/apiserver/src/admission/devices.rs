//! Access to devices that others use: only in namespaces that an administrator has marked for it. Upstream checks this in
//! its strategies of claims (`AuthorizedForAdmin`); here it is with everything else that looks at other objects.

use podium_api::field::{Errors, Path};
use podium_api::status::ApiError;
use serde_json::Value;

use super::{Operation, Request};
use crate::objects::{Objects, items};

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
