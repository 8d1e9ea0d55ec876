//! Answers in the forms that upstream's kubelet gives them.

use std::io;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, WARNING},
};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use k8s_openapi::api::core::v1::Pod;
use podium_api::zpages;
use serde::Serialize;
use serde_json::json;

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
/// An answer.
pub(crate) type Reply = Response<Body>;

fn with_type(status: u16, kind: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    reply
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Plain text, with any status.
pub(crate) fn text(status: u16, body: impl Into<Bytes>) -> Reply {
    with_type(status, "text/plain; charset=utf-8", full(body))
}

/// A JSON document.
pub(crate) fn json(value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(200, "application/json", full(body)),
        Err(error) => text(500, error.to_string()),
    }
}

/// Metrics in Prometheus' text format.
pub(crate) fn metrics(body: String) -> Reply {
    with_type(200, "text/plain; version=0.0.4; charset=utf-8", full(body))
}

/// Text that comes piece by piece.
pub(crate) fn stream(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Reply {
    with_type(200, "text/plain; charset=utf-8", StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync())
}

/// Bytes of no known kind that come piece by piece.
pub(crate) fn bytes(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Reply {
    with_type(200, "application/octet-stream", StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync())
}

/// A page. Nothing in it may run, whatever names of files it shows.
pub(crate) fn html(page: String) -> Reply {
    let mut reply = with_type(200, "text/html; charset=utf-8", full(page));
    let nothing = HeaderValue::from_static("default-src 'none'; sandbox");
    reply.headers_mut().insert(CONTENT_SECURITY_POLICY, nothing);
    reply
}

/// Sends the client to another place, relative to where it is.
pub(crate) fn moved(place: &str) -> Reply {
    match HeaderValue::from_str(place) {
        Ok(place) => {
            let mut reply = text(301, "");
            reply.headers_mut().insert(LOCATION, place);
            reply
        }
        Err(error) => text(500, error.to_string()),
    }
}

/// The head of a stream: everything after it is bytes.
pub(crate) fn switching() -> Reply {
    let mut reply = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply
}

/// A `PodList`.
pub(crate) fn pod_list<'a>(pods: impl Iterator<Item = &'a Pod>) -> Reply {
    let items: Vec<_> = pods.collect();
    json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// Bytes that upstream answers as JSON whatever they are.
pub(crate) fn raw_json(body: Vec<u8>) -> Reply {
    with_type(200, "application/json", full(body))
}

/// One of the pages about the component.
pub(crate) fn page(answer: zpages::Answer) -> Reply {
    let mut reply = with_type(answer.code, answer.content_type, full(answer.body));
    if let Some(warning) = answer.warning {
        reply.headers_mut().insert(WARNING, HeaderValue::from_static(warning));
    }
    reply
}
