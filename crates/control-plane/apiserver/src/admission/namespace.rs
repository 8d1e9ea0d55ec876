//! NamespaceLifecycle: nothing new in a namespace that is going away or was never there; the system's namespaces stay.

use podium_api::status::ApiError;
use serde_json::json;

use super::{Operation, Request};
use crate::objects::{Objects, text};

const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

pub(super) fn check(request: &Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    if request.group.is_empty() && request.resource == "namespaces" {
        if request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
            return Err(ApiError::forbidden(
                "",
                "namespaces",
                request.name,
                "this namespace may not be deleted",
            ));
        }
        return Ok(());
    }
    // An access review in a namespace must not tell whether there is such a namespace.
    let review = request.group == "authorization.k8s.io" && request.resource == "localsubjectaccessreviews";
    let exempt = matches!(request.operation, Operation::Delete | Operation::Connect) || review;
    if request.namespace.is_empty() || exempt {
        return Ok(());
    }
    let Some(namespace) = objects.get("", "namespaces", "", request.namespace) else {
        return Err(ApiError::not_found("", "namespaces", request.namespace));
    };
    if request.operation == Operation::Create && text(&namespace, "/status/phase") == "Terminating" {
        let name = request.namespace;
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut error = request.forbidden(&why);
        if let Some(details) = &mut error.details {
            details["causes"] = json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {name} is being terminated"),
                "field": "metadata.namespace",
            }]);
        }
        return Err(error);
    }
    Ok(())
}
