//! Answers: objects in the encoding asked for, and refusals as `Status`.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::Value;

use podium_api::codec::{self, Encoding, InOrder};
use podium_api::status::ApiError;

use crate::body::Body;
use crate::negotiate::{self, Output};

/// An answer.
pub(crate) type Reply = Response<Body>;

/// An object, encoded now.
pub(crate) fn object(code: StatusCode, value: &Value, output: Output) -> Reply {
    if output.encoding == Encoding::Json && output.pretty {
        return bytes(code, "application/json", indented(value));
    }
    bytes(code, negotiate::content_type(output.encoding), codec::encode(value, output.encoding))
}

/// Indented JSON, which as upstream's has no line's end.
pub(crate) fn indented(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(&InOrder(value)).expect("a JSON tree always encodes")
}

/// Bytes of a known media type.
pub(crate) fn bytes(code: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Reply {
    with_body(code, content_type, Body::full(content))
}

/// Plain text.
pub(crate) fn text(code: StatusCode, content: impl Into<String>) -> Reply {
    let mut reply = bytes(code, "text/plain; charset=utf-8", content.into());
    reply.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    reply
}

/// A body of a media type; the length is announced when it is known.
pub(crate) fn with_body(code: StatusCode, content_type: &'static str, body: Body) -> Reply {
    let length = body.length();
    let mut reply = Response::new(body);
    *reply.status_mut() = code;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(length) = length {
        reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    reply.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    reply
}

/// A refusal, in what the client takes; `None` where that is nothing we have: indented JSON then.
pub(crate) fn error(error: &ApiError, output: Option<Output>) -> Reply {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let status = error.to_status();
    let output = output.unwrap_or(Output { pretty: true, ..Output::JSON });
    let mut reply = object(code, &status, output);
    if let Some(seconds) = status["details"]["retryAfterSeconds"].as_u64() {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    reply
}

/// 404 for a path that no API group has.
pub(crate) fn no_page() -> Reply {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// 404 for a path below an API group that nothing is served at.
pub(crate) fn unknown_path() -> ApiError {
    let mut error = ApiError::new(404, "NotFound", "the server could not find the requested resource");
    error.details = Some(serde_json::json!({}));
    error
}

/// 405 for a verb that a resource does not have.
pub(crate) fn method_not_allowed() -> ApiError {
    let mut error = ApiError::new(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    );
    error.details = Some(serde_json::json!({}));
    error
}

/// 415 for a body that a route without one does not take.
pub(crate) fn unsupported_content() -> ApiError {
    let mut error = ApiError::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
    error.details = Some(serde_json::json!({}));
    error
}

/// 429: try again in `seconds`.
pub(crate) fn too_many_requests(message: &str, seconds: u64) -> ApiError {
    let mut error = ApiError::new(429, "TooManyRequests", message);
    error.details = Some(serde_json::json!({"retryAfterSeconds": seconds}));
    error
}

/// 504: not done in time.
pub(crate) fn timeout(message: impl Into<String>, seconds: u64) -> ApiError {
    let mut error = ApiError::new(504, "Timeout", message);
    error.details = Some(serde_json::json!({"retryAfterSeconds": seconds}));
    error
}

/// 504: the request took longer than it may.
pub(crate) fn timed_out() -> ApiError {
    let text = "Timeout: request did not complete within the allotted timeout";
    let mut error = ApiError::new(504, "Timeout", text);
    error.details = Some(serde_json::json!({}));
    error
}

/// 503.
pub(crate) fn unavailable(message: impl Into<String>) -> ApiError {
    ApiError::new(503, "ServiceUnavailable", message)
}

/// The answer to a delete that removed an object for good, or a review without a body of its own.
pub(crate) fn success_status(details: &Value) -> Value {
    serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    })
}

/// A `Warning` header's value: RFC 7234 code 299, quoted; control characters are dropped.
pub(crate) fn warning_header(text: &str) -> Option<HeaderValue> {
    let mut quoted = String::with_capacity(text.len() + 8);
    for c in text.chars().filter(|c| !c.is_control()) {
        if c == '"' || c == '\\' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()).ok()
}
