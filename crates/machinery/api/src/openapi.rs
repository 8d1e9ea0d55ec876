//! OpenAPI documents, made from the schema and resource tables when they are asked for.
//!
//! Nothing is kept here: a document is a few hundred kilobytes of text, which the server may cache. Parameter and
//! operation descriptions are brief; those of types and fields are upstream's, because `kubectl explain` shows them.
//! Left out: the deprecated `watch` paths and the unions extension.

mod gnostic;
mod paths;
mod schemas;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::Digest as _;

use crate::resources::Selection;

/// The content type that [`v2_protobuf`] is answered with. Clients ask for it with an `@` (or a dot) before `v1.0`, but
/// Go cannot parse a media type with an `@` in it, so upstream answers with the dot.
pub const V2_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What it is asked for as: by its name, and by the one that older clients know, which is no media type.
pub const V2_PROTOBUF_NAMES: [&str; 2] =
    [V2_PROTOBUF_TYPE, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"];

/// Which version of OpenAPI a document is in; they differ in where things are and how references are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavor {
    V2,
    V3,
}

/// The document's own version, as upstream's servers say it.
const VERSION: &str = "v1.36.0";

/// `/openapi/v2` as JSON.
pub fn v2(served: &Selection) -> Arc<[u8]> {
    let mut text = String::with_capacity(3 << 20);
    let head = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "security": [{"BearerToken": []}],
        "securityDefinitions": {"BearerToken": bearer_token()},
    });
    open(&mut text, &head);
    text.push_str(",\"definitions\":{");
    members(
        &mut text,
        schemas::served(served)
            .into_iter()
            .map(|ty| (ty.openapi_name(), schemas::definition(Flavor::V2, served, ty))),
    );
    text.push_str("},\"paths\":{");
    let groups = served.groups();
    let versions = groups.iter().flat_map(|(group, versions)| versions.iter().map(move |v| (*group, *v)));
    members(&mut text, versions.flat_map(|(group, version)| paths::of(Flavor::V2, served, group, version)));
    text.push_str("}}");
    Arc::from(text.into_bytes())
}

/// `/openapi/v2` in the protobuf form that older clients ask for.
pub fn v2_protobuf(served: &Selection) -> Arc<[u8]> {
    Arc::from(gnostic::encode(served))
}

/// `/openapi/v3`: the paths and their hashed URLs.
pub fn v3_index(served: &Selection) -> Value {
    let mut paths = Map::new();
    for (group, versions) in served.groups() {
        for version in versions {
            let path = paths::root(group, version);
            let path = path.trim_start_matches('/');
            let url = format!("/openapi/v3/{path}?hash={}", hash(served, path));
            paths.insert(path.to_owned(), json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// The hash of a document in [`v3_index`]: equal hashes mean equal documents. Documents depend on nothing but this
/// build's tables and what is served of them, so those are hashed instead of documents that nobody may ask for.
pub fn hash(served: &Selection, path: &str) -> String {
    let mut hasher = sha2::Sha256::new();
    hasher.update(env!("CARGO_PKG_VERSION"));
    hasher.update(VERSION);
    hasher.update(crate::schema::table_text());
    hasher.update(served.to_string());
    hasher.update(path);
    hasher.finalize().iter().map(|b| format!("{b:02X}")).collect()
}

/// The document of one group version; `path` is `api/v1` or `apis/apps/v1`.
pub fn v3(served: &Selection, path: &str) -> Option<Arc<[u8]>> {
    let (group, version) = match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return None,
    };
    served.of(group, version).next()?;
    let mut text = String::with_capacity(1 << 20);
    let head = json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": VERSION}});
    open(&mut text, &head);
    text.push_str(",\"paths\":{");
    members(&mut text, paths::of(Flavor::V3, served, group, version));
    text.push_str("},\"components\":{\"securitySchemes\":");
    text.push_str(&json!({"BearerToken": bearer_token()}).to_string());
    text.push_str(",\"schemas\":{");
    let types = schemas::closure(served, group, version);
    members(
        &mut text,
        types.into_iter().map(|ty| (ty.openapi_name(), schemas::definition(Flavor::V3, served, ty))),
    );
    text.push_str("}}}");
    Some(Arc::from(text.into_bytes()))
}

fn bearer_token() -> Value {
    json!({"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"})
}

/// Writes an object without its closing brace.
fn open(text: &mut String, head: &Value) {
    let head = head.to_string();
    text.push_str(head.strip_suffix('}').unwrap_or(&head));
}

/// Writes the members of an object one at a time, so that the document is never held as a tree.
fn members(text: &mut String, members: impl IntoIterator<Item = (String, Value)>) {
    for (index, (name, value)) in members.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&Value::String(name).to_string());
        text.push(':');
        text.push_str(&value.to_string());
    }
}
