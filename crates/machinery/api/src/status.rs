//! The one error type of the API boundary: it becomes a Kubernetes `Status`.

use serde_json::{Value, json};

use crate::field::Errors;

/// A refusal, as a client sees it. `Display` is the message.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub code: u16,
    /// The `reason`, for example `NotFound`.
    pub reason: &'static str,
    /// In words.
    pub message: String,
    /// `details`, when there are any.
    pub details: Option<Value>,
}

impl ApiError {
    /// An error without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError { code, reason, message: message.into(), details: None }
    }

    /// 404: `pods "x" not found`. `resource` is the plural; a group is appended as upstream does (`deployments.apps "x" not found`).
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        ApiError {
            code: 404,
            reason: "NotFound",
            message: format!("{} {name:?} not found", qualified(group, resource)),
            details: Some(details(group, resource, name)),
        }
    }

    /// 409: the name is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        ApiError {
            code: 409,
            reason: "AlreadyExists",
            message: format!("{} {name:?} already exists", qualified(group, resource)),
            details: Some(details(group, resource, name)),
        }
    }

    /// 409: a precondition or the resourceVersion does not hold. `why` is upstream's inner error text.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        ApiError {
            code: 409,
            reason: "Conflict",
            message: format!(
                "Operation cannot be fulfilled on {} {name:?}: {why}",
                qualified(group, resource)
            ),
            details: Some(details(group, resource, name)),
        }
    }

    /// 422: the object is not valid; one cause per field error.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &Errors) -> Self {
        // The same fault may be found twice, by the kind and by what is common to all; the message says it once.
        let mut texts: Vec<String> = Vec::with_capacity(errors.0.len());
        for text in errors.0.iter().map(ToString::to_string) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let joined = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes: Vec<Value> = errors
            .0
            .iter()
            .map(|e| json!({"reason": e.reason.cause(), "message": e.message, "field": e.field}))
            .collect();
        let mut details = details(group, kind, name);
        details["causes"] = Value::Array(causes);
        ApiError {
            code: 422,
            reason: "Invalid",
            message: format!("{} {name:?} is invalid: {joined}", qualified(group, kind)),
            details: Some(details),
        }
    }

    /// 403 from authorisation or admission. `why` follows the colon.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let target = if name.is_empty() {
            format!("{} is forbidden", qualified(group, resource))
        } else {
            format!("{} {name:?} is forbidden", qualified(group, resource))
        };
        ApiError {
            code: 403,
            reason: "Forbidden",
            message: format!("{target}: {why}"),
            details: Some(details(group, resource, name)),
        }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        ApiError::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        ApiError::new(401, "Unauthorized", "Unauthorized")
    }

    /// 500. The cause goes to the log, not here, unless it is safe to show.
    pub fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        ApiError {
            code: 500,
            reason: "InternalError",
            details: Some(json!({"causes": [{"message": message}]})),
            message: format!("Internal error occurred: {message}"),
        }
    }

    /// 410: the revision asked for is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        ApiError::new(410, "Expired", message)
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = Value::String(self.reason.to_owned());
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

/// `resource` or `resource.group`.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = json!({});
    if !kind.is_empty() {
        details["kind"] = Value::String(kind.to_owned());
    }
    if !name.is_empty() {
        details["name"] = Value::String(name.to_owned());
    }
    if !group.is_empty() {
        details["group"] = Value::String(group.to_owned());
    }
    details
}
