//! OpenAPI documents, made from the schema and resource tables when they are asked for.
//!
//! Nothing is kept here: a document is a few hundred kilobytes of text, which the server may cache. The tables say what types
//! and options are; `routes` makes operations of the resources, `pages` of all else, and `paths` and `schemas` write them in
//! the form of v2 or v3.

mod facts;
mod gnostic;
mod gnostic_v3;
mod pages;
mod parameters;
mod paths;
mod routes;
mod schemas;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::Digest as _;

use self::facts::Facts;
use self::parameters::Shared;
use self::routes::Route;
use self::schemas::Definer;
use crate::resources::Selection;

/// The content type that [`v2_protobuf`] is answered with. Clients ask for it with an `@` (or a dot) before `v1.0`, but
/// Go cannot parse a media type with an `@` in it, so upstream answers with the dot.
pub const V2_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What it is asked for as: by its name, and by the one that older clients know, which is no media type.
pub const V2_PROTOBUF_NAMES: [&str; 2] =
    [V2_PROTOBUF_TYPE, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"];

/// The same of [`v3_protobuf`].
pub const V3_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";

/// The same of [`v3_protobuf`].
pub const V3_PROTOBUF_NAMES: [&str; 2] =
    [V3_PROTOBUF_TYPE, "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"];

/// Which version of OpenAPI a document is in; they differ in where things are and how references are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavor {
    V2,
    V3,
}

/// The document's own version, as upstream's servers say it.
const VERSION: &str = "1.36";

/// `/openapi/v2` as JSON.
pub fn v2(served: &Selection) -> Arc<[u8]> {
    let (facts, routes) = all(served);
    let mut text = String::with_capacity(4 << 20);
    let head = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "security": [{"BearerToken": []}],
        "securityDefinitions": {"BearerToken": bearer_token()},
    });
    open(&mut text, &head);
    text.push_str(",\"definitions\":{");
    let definer = Definer { flavor: Flavor::V2, facts: &facts, scope: None };
    let types = schemas::closure(&routes);
    members(&mut text, types.into_iter().map(|ty| (ty.openapi_name(), definer.definition(ty))));
    text.push_str("},\"paths\":{");
    let mut shared = Shared::default();
    members(&mut text, paths::v2(&routes, &mut shared));
    text.push_str("},\"parameters\":");
    text.push_str(&Value::Object(shared.into_map()).to_string());
    text.push('}');
    Arc::from(text.into_bytes())
}

/// What `/openapi/v2` is made from.
fn all(served: &Selection) -> (Facts, Vec<Route>) {
    let facts = Facts::read();
    let mut routes: Vec<Route> = pages::all(served).into_iter().map(|(_, route)| route).collect();
    for (group, versions) in served.groups() {
        routes.extend(versions.iter().flat_map(|version| routes::of(&facts, served, group, version)));
    }
    (facts, routes)
}

/// `/openapi/v2` in the protobuf form that older clients ask for.
pub fn v2_protobuf(served: &Selection) -> Arc<[u8]> {
    Arc::from(gnostic::encode(served))
}

/// `/openapi/v3`: the paths and their hashed URLs.
pub fn v3_index(served: &Selection) -> Value {
    let versions = served.groups().into_iter().flat_map(|(group, versions)| {
        versions
            .into_iter()
            .map(move |version| routes::root(group, version).trim_start_matches('/').to_owned())
    });
    let hasher = hashed(served);
    let paths: Map<String, Value> = pages::all(served)
        .into_iter()
        .map(|(path, _)| path)
        .chain(versions)
        .map(|path| {
            let url = format!("/openapi/v3/{path}?hash={}", hash_of(hasher.clone(), &path));
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// The hash of a document in [`v3_index`]: equal hashes mean equal documents. Documents depend on nothing but this
/// build's tables and what is served of them, so those are hashed instead of documents that nobody may ask for.
pub fn hash(served: &Selection, path: &str) -> String {
    hash_of(hashed(served), path)
}

/// What all documents depend on.
fn hashed(served: &Selection) -> sha2::Sha512 {
    let mut hasher = sha2::Sha512::new();
    hasher.update(env!("CARGO_PKG_VERSION"));
    hasher.update(VERSION);
    hasher.update(crate::schema::table_text());
    hasher.update(facts::TEXT);
    hasher.update(served.to_string());
    hasher
}

fn hash_of(mut hasher: sha2::Sha512, path: &str) -> String {
    hasher.update(path);
    hasher.finalize().iter().map(|b| format!("{b:02X}")).collect()
}

/// The document of one group version or page; `path` is `api/v1`, `apis/apps/v1`, `apis/apps`, `version`.
pub fn v3(served: &Selection, path: &str) -> Option<Arc<[u8]>> {
    let (facts, scope, routes) = part(served, path)?;
    let mut text = String::with_capacity(1 << 20);
    let head = json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": VERSION}});
    open(&mut text, &head);
    text.push_str(",\"paths\":{");
    members(&mut text, paths::v3(&routes));
    text.push_str("},\"components\":{\"securitySchemes\":");
    text.push_str(&json!({"BearerToken": bearer_token()}).to_string());
    let types = schemas::closure(&routes);
    if !types.is_empty() {
        text.push_str(",\"schemas\":{");
        let definer = Definer { flavor: Flavor::V3, facts: &facts, scope: Some(scope) };
        members(&mut text, types.into_iter().map(|ty| (ty.openapi_name(), definer.definition(ty))));
        text.push('}');
    }
    text.push_str("}}");
    Some(Arc::from(text.into_bytes()))
}

/// [`v3`] in the protobuf form.
pub fn v3_protobuf(served: &Selection, path: &str) -> Option<Arc<[u8]>> {
    gnostic_v3::encode(served, path).map(Arc::from)
}

/// What a document of v3 is made from: group and version are empty for a page.
fn part<'a>(served: &Selection, path: &'a str) -> Option<(Facts, (&'a str, &'a str), Vec<Route>)> {
    let page = pages::all(served).into_iter().find(|(name, _)| name == path);
    if let Some((_, route)) = page {
        return Some((Facts::default(), ("", ""), vec![route]));
    }
    let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return None,
    };
    served.of(group, version).next()?;
    let facts = Facts::read();
    let routes = routes::of(&facts, served, group, version);
    Some((facts, (group, version), routes))
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
