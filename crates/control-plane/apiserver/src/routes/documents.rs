//! OpenAPI.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{EXPIRES, VARY};
use http::{HeaderValue, StatusCode};
use jiff::{Span, Timestamp};
use podium_api::accept;
use podium_api::openapi;
use podium_api::resources::Selection;
use podium_api::status::ApiError;

use super::{Asked, with_etag};
use crate::core::Core;
use crate::response::{self, Reply};

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Protobuf,
}

/// What a client takes; `None` for nothing that there is. The list of documents is always JSON.
///
/// Source: `k8s.io/kube-openapi/pkg/handler` and `.../handler3`.
fn form(path: &str, accept: &str) -> Option<Form> {
    if path == "v3" || accept.is_empty() {
        return Some(Form::Json);
    }
    let protobuf = if path == "v2" { openapi::V2_PROTOBUF_NAMES } else { openapi::V3_PROTOBUF_NAMES };
    accept::clauses(accept).iter().find_map(|clause| {
        if clause.takes("application/json") {
            return Some(Form::Json);
        }
        protobuf.iter().any(|media| clause.takes(media)).then_some(Form::Protobuf)
    })
}

/// Says that the answer depends on what was accepted, where it does.
fn vary(mut reply: Reply, path: &str) -> Reply {
    if path != "v3" {
        reply.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    }
    reply
}

/// OpenAPI documents, each made once, when it is first asked for, and away from the threads that serve requests.
pub(super) async fn serve(core: &Arc<Core>, path: &str, asked: Asked<'_>) -> Result<Reply, ApiError> {
    let Some(form) = form(path, asked.accept()) else {
        // As upstream's, which says no more than that.
        return Ok(response::bytes(StatusCode::NOT_ACCEPTABLE, "text/plain; charset=utf-8", ""));
    };
    let protobuf = form == Form::Protobuf;
    // No document's path ends so.
    let name = if protobuf { format!("{path}{PROTOBUF}") } else { path.to_owned() };
    let known = core.documents.lock().get(&name).cloned();
    let document = match known {
        Some(document) => document,
        None => {
            let made = tokio::task::spawn_blocking({
                let (core, name) = (Arc::clone(core), name.clone());
                move || make_document(&core.config.served, &name)
            });
            let made = made.await.map_err(|error| ApiError::internal(error.to_string()))?;
            let Some(document) = made else { return Ok(response::no_page()) };
            core.documents.lock().insert(name, document.clone());
            document
        }
    };
    let media = match (protobuf, path) {
        (true, "v2") => openapi::V2_PROTOBUF_TYPE,
        (true, _) => openapi::V3_PROTOBUF_TYPE,
        _ => "application/json",
    };
    let hash = asked.query.first("hash").filter(|hash| !hash.is_empty());
    let (Some(wanted), Some(of)) = (hash, path.strip_prefix("v3/")) else {
        return Ok(vary(with_etag(asked.headers, media, document), path));
    };
    let hash = openapi::hash(&core.config.served, of);
    if wanted != hash {
        // Another server's document, or an older one's: its address must not come to name this one.
        let mut reply = response::text(StatusCode::MOVED_PERMANENTLY, "Moved Permanently\n");
        let address = HeaderValue::from_str(&format!("/openapi/{path}?hash={hash}"));
        let address = address.map_err(|error| ApiError::internal(error.to_string()))?;
        reply.headers_mut().insert(http::header::LOCATION, address);
        return Ok(reply);
    }
    let mut reply = vary(with_etag(asked.headers, media, document), path);
    // The hash in the address names the content, so it never changes.
    let forever = HeaderValue::from_static("public, immutable");
    reply.headers_mut().insert(http::header::CACHE_CONTROL, forever);
    // HTTP has no later date to say than a year ahead.
    let year = Timestamp::now() + Span::new().hours(365 * 24);
    let expires = HeaderValue::from_str(&year.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string());
    reply.headers_mut().insert(EXPIRES, expires.map_err(|error| ApiError::internal(error.to_string()))?);
    Ok(reply)
}

/// The end of the names under which the protobuf forms are kept.
const PROTOBUF: &str = " protobuf";

fn make_document(served: &Selection, name: &str) -> Option<Bytes> {
    let bytes = |document: Arc<[u8]>| Bytes::from_owner(document);
    let (path, protobuf) = name.strip_suffix(PROTOBUF).map_or((name, false), |path| (path, true));
    match (path, protobuf) {
        ("v2", false) => Some(bytes(openapi::v2(served))),
        ("v2", true) => Some(bytes(openapi::v2_protobuf(served))),
        ("v3", _) => serde_json::to_vec(&openapi::v3_index(served)).ok().map(Bytes::from),
        (path, false) => openapi::v3(served, path.strip_prefix("v3/")?).map(bytes),
        (path, true) => openapi::v3_protobuf(served, path.strip_prefix("v3/")?).map(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (path, accept, wanted) in [
            ("v2", "", Some(Form::Json)),
            ("v2", "application/*", Some(Form::Json)),
            ("v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", Some(Form::Protobuf)),
            ("v2", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf, */*", Some(Form::Protobuf)),
            ("v2", "text/csv", None),
            ("v3", "text/csv", Some(Form::Json)),
            ("v3/api/v1", "text/csv", None),
            ("v3/api/v1", "*/*", Some(Form::Json)),
            ("v3/api/v1", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf", Some(Form::Protobuf)),
            ("v3", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf", Some(Form::Json)),
        ] {
            assert_eq!(form(path, accept), wanted, "{path} {accept}");
        }
    }
}
