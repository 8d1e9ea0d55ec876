//! Everything that is not a resource: discovery, OpenAPI, health, metrics, version, keys.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{ACCEPT, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use podium_api::resources::Selection;
use podium_api::status::ApiError;
use podium_api::{discovery, openapi};
use podium_store::KeyRange;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::authorization::go_quote;
use crate::core::Core;
use crate::metrics::Stored;
use crate::negotiate::{self, Output};
use crate::request::{Query, RequestInfo};
use crate::response::{self, Reply};

/// Media types of the aggregated discovery document, as clients ask for it.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers a request for a path that is no resource.
pub(crate) async fn serve(
    core: &Arc<Core>,
    info: &RequestInfo,
    method: &Method,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Reply, ApiError> {
    if method != Method::GET && method != Method::HEAD {
        return Err(
            known(&info.path).map_or_else(response::unknown_path, |()| response::method_not_allowed())
        );
    }
    let path = info.path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(&info.path);
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let output = || document_output(headers, query);
    match segments.as_slice() {
        [""] => Ok(response::object(StatusCode::OK, &index(core), output()?)),
        ["api"] | ["apis"] => root(core, path, headers, output()),
        ["api", version] => {
            let list = discovery::resource_list(&core.config.served, "", version)
                .ok_or_else(response::unknown_path)?;
            Ok(response::object(StatusCode::OK, &list, output()?))
        }
        ["apis", group] => {
            let group = discovery::group(&core.config.served, group).ok_or_else(response::unknown_path)?;
            Ok(response::object(StatusCode::OK, &group, output()?))
        }
        ["apis", group, version] => {
            let list = discovery::resource_list(&core.config.served, group, version)
                .ok_or_else(response::unknown_path)?;
            Ok(response::object(StatusCode::OK, &list, output()?))
        }
        ["version"] => {
            Ok(response::object(StatusCode::OK, &version(), Output { pretty: true, ..Output::JSON }))
        }
        ["healthz" | "livez" | "readyz", check @ ..] => health(core, segments[0], &check.join("/"), query),
        ["metrics"] => Ok(metrics(core)),
        ["metrics", "slis"] => Ok(slis(core)),
        ["openapi", rest @ ..] => documents(core, &rest.join("/"), headers, query).await,
        [".well-known", "openid-configuration"] => openid_configuration(core),
        ["openid", "v1", "jwks"] => jwks(core),
        _ => Err(response::unknown_path()),
    }
}

/// Whether anything answers GET at this path, for telling 405 from 404.
fn known(path: &str) -> Option<()> {
    let first = path.split('/').nth(1).unwrap_or_default();
    let is =
        matches!(first, "api" | "apis" | "version" | "healthz" | "livez" | "readyz" | "metrics" | "openapi");
    is.then_some(())
}

/// Discovery documents know no tables; whatever else is asked for, JSON is what they are.
fn document_output(headers: &HeaderMap, query: &Query) -> Result<Output, ApiError> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let output = negotiate::output(accept)?;
    Ok(Output { encoding: output.encoding, pretty: query.truthy("pretty"), ..Output::JSON })
}

fn root(
    core: &Core,
    path: &str,
    headers: &HeaderMap,
    output: Result<Output, ApiError>,
) -> Result<Reply, ApiError> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if wants_aggregated(accept)
        && let Some(document) = discovery::aggregated(&core.config.served, path)
    {
        let bytes = serde_json::to_vec(&document).map_err(|error| ApiError::internal(error.to_string()))?;
        let mut reply = with_etag(headers, AGGREGATED, Bytes::from(bytes));
        reply.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
        return Ok(reply);
    }
    let document = if path == "/api" {
        let address = std::net::SocketAddr::new(core.config.advertise_address, core.advertised_port());
        discovery::api_versions(&address.to_string())
    } else {
        discovery::api_groups(&core.config.served)
    };
    let mut reply = response::object(StatusCode::OK, &document, output?);
    reply.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    Ok(reply)
}

/// Whether the first media type we know in the header is the aggregated document.
fn wants_aggregated(accept: &str) -> bool {
    for clause in accept.split(',') {
        let mut pieces = clause.split(';').map(str::trim);
        if pieces.next() != Some("application/json") {
            continue;
        }
        let parameters: Vec<&str> = pieces.collect();
        if !parameters.iter().any(|p| p.starts_with("as=")) {
            return false;
        }
        let has = |text| parameters.contains(&text);
        if has("as=APIGroupDiscoveryList") && has("g=apidiscovery.k8s.io") && has("v=v2") {
            return true;
        }
    }
    false
}

/// An answer that a client may keep: 304 if it has it already.
fn with_etag(headers: &HeaderMap, content_type: &'static str, bytes: Bytes) -> Reply {
    let tag = format!("\"{:X}\"", Sha256::digest(&bytes));
    let same = headers.get(IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == tag.as_bytes());
    let mut reply = if same {
        let mut reply = response::bytes(StatusCode::NOT_MODIFIED, content_type, Vec::new());
        reply.headers_mut().remove(http::header::CONTENT_LENGTH);
        reply
    } else {
        response::bytes(StatusCode::OK, content_type, bytes)
    };
    if let Ok(value) = HeaderValue::from_str(&tag) {
        reply.headers_mut().insert(ETAG, value);
    }
    reply
}

/// OpenAPI documents, each made once, when it is first asked for, and away from the threads that serve requests.
async fn documents(
    core: &Arc<Core>,
    path: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Reply, ApiError> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let protobuf = path == "v2" && accept.contains("proto-openapi.spec.v2");
    let name = if protobuf { "v2.protobuf".to_owned() } else { path.to_owned() };
    let known = core.documents.lock().get(&name).cloned();
    let document = match known {
        Some(document) => document,
        None => {
            let made = tokio::task::spawn_blocking({
                let (core, name) = (Arc::clone(core), name.clone());
                move || make_document(&core.config.served, &name)
            });
            let made = made.await.map_err(|error| ApiError::internal(error.to_string()))?;
            let document = made.ok_or_else(response::unknown_path)?;
            core.documents.lock().insert(name, document.clone());
            document
        }
    };
    let media = match (protobuf, path) {
        (true, _) => openapi::V2_PROTOBUF_TYPE,
        _ => "application/json",
    };
    let asked = query.first("hash").filter(|hash| !hash.is_empty());
    let (Some(asked), Some(of)) = (asked, path.strip_prefix("v3/")) else {
        return Ok(with_etag(headers, media, document));
    };
    let hash = openapi::hash(&core.config.served, of);
    if asked != hash {
        // Another server's document, or an older one's: its address must not come to name this one.
        let mut reply = response::text(StatusCode::MOVED_PERMANENTLY, "Moved Permanently\n");
        let address = HeaderValue::from_str(&format!("/openapi/{path}?hash={hash}"));
        let address = address.map_err(|error| ApiError::internal(error.to_string()))?;
        reply.headers_mut().insert(http::header::LOCATION, address);
        return Ok(reply);
    }
    let mut reply = with_etag(headers, media, document);
    // The hash in the address names the content, so it never changes.
    let forever = HeaderValue::from_static("public, immutable");
    reply.headers_mut().insert(http::header::CACHE_CONTROL, forever);
    Ok(reply)
}

fn make_document(served: &Selection, name: &str) -> Option<Bytes> {
    let bytes = |document: Arc<[u8]>| Bytes::from_owner(document);
    match name {
        "v2" => Some(bytes(openapi::v2(served))),
        "v2.protobuf" => Some(bytes(openapi::v2_protobuf(served))),
        "v3" => serde_json::to_vec(&openapi::v3_index(served)).ok().map(Bytes::from),
        path => openapi::v3(served, path.strip_prefix("v3/")?).map(bytes),
    }
}

/// `/version`. Source: `k8s.io/apimachinery/pkg/version.Info`.
fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "gitVersion": podium_api::VERSION,
        "gitCommit": option_env!("PODIUM_COMMIT").unwrap_or(""),
        "gitTreeState": "clean",
        "buildDate": option_env!("PODIUM_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z"),
        "goVersion": "none (Rust)",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// The checks of an endpoint, with whether each passes, in upstream's order.
fn checks(core: &Core, kind: &str) -> Vec<(&'static str, bool)> {
    let booted = core.booted.load(Ordering::Acquire);
    let mut checks = vec![("ping", true), ("log", true), ("etcd", core.store.revision() > 0)];
    if kind == "readyz" {
        checks.push(("etcd-readiness", core.store.revision() > 0));
        checks.push(("informer-sync", true));
    }
    checks.extend([
        ("poststarthook/start-apiserver-admission-initializer", true),
        ("poststarthook/generic-apiserver-start-informers", true),
        ("poststarthook/priority-and-fairness-config-consumer", true),
        ("poststarthook/priority-and-fairness-filter", true),
        ("poststarthook/storage-object-count-tracker-hook", true),
        ("poststarthook/rbac/bootstrap-roles", booted),
        ("poststarthook/scheduling/bootstrap-system-priority-classes", booted),
        ("poststarthook/priority-and-fairness-config-producer", booted),
        ("poststarthook/bootstrap-controller", booted),
        ("poststarthook/start-system-namespaces-controller", booted),
    ]);
    if kind == "readyz" {
        checks.push(("shutdown", !core.shutdown.is_cancelled()));
    }
    checks
}

/// Source: upstream's `apiserver/pkg/server/healthz`.
fn health(core: &Core, kind: &str, only: &str, query: &Query) -> Result<Reply, ApiError> {
    let checks = checks(core, kind);
    if !only.is_empty() {
        let (name, good) =
            checks.into_iter().find(|(name, _)| *name == only).ok_or_else(response::unknown_path)?;
        return Ok(match good {
            true => response::text(StatusCode::OK, "ok"),
            // Who may ask for one check may know why it fails.
            false => response::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("internal server error: {name}: not finished\n"),
            ),
        });
    }
    let mut unknown: BTreeSet<&str> = query.all("exclude").collect();
    let excluded = unknown.clone();
    let mut text = String::new();
    let mut failed = false;
    for (name, good) in &checks {
        if excluded.contains(name) {
            unknown.remove(name);
            let _ = writeln!(text, "[+]{name} excluded: ok");
            continue;
        }
        core.metrics.checks.observe(kind, name, *good);
        if *good {
            let _ = writeln!(text, "[+]{name} ok");
        } else {
            failed = true;
            let _ = writeln!(text, "[-]{name} failed: reason withheld");
        }
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.into_iter().map(go_quote).collect();
        let names = names.join(", ");
        let _ = writeln!(text, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    if failed {
        let _ = writeln!(text, "{kind} check failed");
        return Ok(response::text(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    if query.has("verbose") {
        let _ = writeln!(text, "{kind} check passed");
        return Ok(response::text(StatusCode::OK, text));
    }
    Ok(response::text(StatusCode::OK, "ok"))
}

/// Media type of the text exposition format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

fn metrics(core: &Core) -> Reply {
    let stored: Vec<Stored> = core
        .catalogue
        .all_stored()
        .iter()
        .map(|served| {
            let objects = core.store.count(&KeyRange::prefix(&served.prefix));
            Stored {
                group: served.group.clone(),
                resource: served.plural.clone(),
                objects,
                bytes: objects * core.flow_control.stored(&served.prefix).bytes_each,
            }
        })
        .collect();
    let mut text = core.metrics.render(&stored, core.store.revision());
    core.flow_control.render(&mut text);
    core.authenticator.render(&mut text);
    core.authorizer.render(&mut text);
    core.admission.render(&mut text);
    core.services.render(core, &mut text);
    // What is kept for the whole process: clients, queues and informers, if it has any.
    podium_client::metrics::collect(&mut text);
    (core.config.more_metrics)(&mut text);
    response::bytes(StatusCode::OK, EXPOSITION, text)
}

/// `/metrics/slis`: how the health checks went.
fn slis(core: &Core) -> Reply {
    let mut text = String::new();
    core.metrics.checks.collect(&mut text);
    response::bytes(StatusCode::OK, EXPOSITION, text)
}

fn openid_configuration(core: &Core) -> Result<Reply, ApiError> {
    let issuer = core.config.issuer.as_ref().ok_or_else(response::unknown_path)?;
    let document = json!({
        "issuer": issuer.issuer,
        "jwks_uri": format!("{}/openid/v1/jwks", issuer.issuer),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": issuer.keys.algorithms(),
    });
    Ok(response::object(StatusCode::OK, &document, Output::JSON))
}

fn jwks(core: &Core) -> Result<Reply, ApiError> {
    let issuer = core.config.issuer.as_ref().ok_or_else(response::unknown_path)?;
    let bytes = serde_json::to_vec(&issuer.keys.jwks()).map_err(|e| ApiError::internal(e.to_string()))?;
    Ok(response::bytes(StatusCode::OK, "application/jwk-set+json", bytes))
}

/// `/`: where there is something.
fn index(core: &Core) -> Value {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/healthz",
        "/livez",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for (group, versions) in core.config.served.groups().into_iter().filter(|(group, _)| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.sort();
    paths.dedup();
    json!({"paths": paths})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregated_discovery_is_recognised() {
        assert!(wants_aggregated(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
        ));
        assert!(!wants_aggregated("application/json"));
        assert!(!wants_aggregated(
            "application/json, application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        ));
        assert!(!wants_aggregated("*/*"));
    }
}
