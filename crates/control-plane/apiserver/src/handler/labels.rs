//! What a request is counted under, and how long it may take. Pure.

use std::sync::Arc;
use std::time::Duration;

use podium_api::status::ApiError;

use crate::catalogue::Served;
use crate::connect;
use crate::metrics::{Labels, Resource};
use crate::request::{Query, RequestInfo};

/// Paths that are counted by name; all others share one series.
const PATHS: &[&str] = &[
    "/",
    "/api",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/readyz",
    "/version",
];

/// Only what is served becomes a label, so clients cannot make new ones.
pub(super) fn labels(
    info: &RequestInfo,
    served: Option<&Arc<Served>>,
    content_type: Option<&str>,
    query: &Query,
) -> Labels {
    let verb = match info.verb {
        _ if connect::handles(info) => "CONNECT",
        "get" | "head" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if content_type == Some("application/apply-patch+yaml") => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    };
    let dry_run = if query.has("dryRun") { "All" } else { "" };
    let Some(served) = served else {
        let path = PATHS.iter().find(|path| **path == info.path).copied().unwrap_or_default();
        return Labels { verb, resource: None, subresource: None, path, scope: "", dry_run };
    };
    let scope = if !info.name.is_empty() || verb == "POST" {
        "resource"
    } else if info.namespace.is_empty() {
        "cluster"
    } else {
        "namespace"
    };
    Labels {
        verb,
        resource: Some(Resource(Arc::clone(served))),
        subresource: served.subresources.iter().position(|sub| sub.name == info.subresource),
        path: "",
        scope,
        dry_run,
    }
}

/// How long a request may take: what the client says in `timeout`, but never longer than the server allows.
///
/// Errors: 400 if it is not a duration. Source: upstream's `endpoints/filters/request_deadline.go`.
pub(super) fn allotted(query: &Query, most: Duration) -> Result<Duration, ApiError> {
    let Some(text) = query.first("timeout").filter(|text| !text.is_empty()) else { return Ok(most) };
    match podium_api::duration::parse(text) {
        Some(wanted) if wanted.is_positive() => Ok(wanted.unsigned_abs().min(most)),
        Some(_) => Ok(most),
        None => Err(ApiError::bad_request(format!(
            "invalid timeout specified in the request URL - time: {} {text:?}",
            if text.ends_with(|c: char| c.is_ascii_digit()) {
                "missing unit in duration"
            } else {
                "invalid duration"
            }
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, expected: Option<u64>) {
        let found = allotted(&Query::parse(query), Duration::from_secs(60));
        assert_eq!(found.ok(), expected.map(Duration::from_millis), "{query}");
    }

    #[test]
    fn timeouts() {
        check("", Some(60_000));
        check("timeout=1s", Some(1_000));
        check("timeout=1.5s", Some(1_500));
        check("timeout=1s500ms", Some(1_500));
        check("timeout=2h", Some(60_000));
        check("timeout=0", Some(60_000));
        check("timeout=0s", Some(60_000));
        check("timeout=-3s", Some(60_000));
        check("timeout=5", None);
        check("timeout=soon", None);
        check("timeout=1x", None);
        check("timeout=.s", None);
        check("timeout=99999999999h", None);
        let error = allotted(&Query::parse("timeout=5"), Duration::from_secs(60)).unwrap_err();
        assert_eq!(
            error.message,
            "invalid timeout specified in the request URL - time: missing unit in duration \"5\""
        );
    }
}
