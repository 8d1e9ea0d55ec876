//! Everything that is not a resource: discovery, OpenAPI, health, metrics, version, keys.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use podium_api::codec::{self, Encoding};
use podium_api::status::ApiError;
use podium_api::zpages::{FLAGZ, RUNTIME, STATUSZ};
use podium_api::{accept, discovery};
use podium_store::KeyRange;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::core::Core;
use crate::metrics::Stored;
use crate::negotiate::{self, Output};
use crate::request::Query;
use crate::response::{self, Reply};

mod documents;
mod health;
mod zpages;

/// A request for a path that is no resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// As it was sent.
    pub(crate) path: &'a str,
    /// Any.
    pub(crate) method: &'a Method,
    /// The headers.
    pub(crate) headers: &'a HeaderMap,
    /// The query.
    pub(crate) query: &'a Query,
    /// Whether JSON is to be indented.
    pub(crate) pretty: bool,
}

impl<'a> Asked<'a> {
    fn header(&self, name: HeaderName) -> &'a str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The `Accept` header; empty where there is none.
    fn accept(&self) -> &'a str {
        self.header(ACCEPT)
    }

    /// What a document is written as. Those that are no objects of a kind know no tables.
    fn output(&self) -> Result<Output, ApiError> {
        let output = negotiate::plain(self.accept()).ok_or_else(negotiate::not_acceptable)?;
        Ok(Output { pretty: output.pretty || self.pretty, ..output })
    }

    /// What upstream's router wants of a request: GET, and, if there is a `Content-Type`, one of these; any if
    /// there are none.
    fn is_get(&self, consumed: &[&str]) -> Result<(), ApiError> {
        if self.method != Method::GET {
            return Err(response::method_not_allowed());
        }
        let given = self.header(CONTENT_TYPE);
        let taken = |media: &str| media == "*/*" || consumed.contains(&media);
        let media = |text: &'a str| text.split(';').next().unwrap_or_default().trim_matches(' ');
        if consumed.is_empty() || given.is_empty() || given.split(',').map(media).any(taken) {
            return Ok(());
        }
        Err(response::unsupported_content())
    }

    /// The same for a discovery document, which is also known to the router by what it is written as.
    fn is_discovery(&self) -> Result<(), ApiError> {
        self.is_get(&["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"])?;
        negotiate::routed(self.accept(), false)
    }
}

/// Answers a request for a path that is no resource.
///
/// Source: upstream's chain of servers. What its plain muxes have is answered whatever the method, and by its exact path;
/// the rest is routed, with and without a slash at the end.
pub(crate) async fn serve(core: &Arc<Core>, asked: Asked<'_>) -> Result<Reply, ApiError> {
    match asked.path {
        "/" | "/index.html" => return Ok(index(core)),
        "/apis" | "/apis/" => return root(core, "/apis", asked),
        "/metrics" => return Ok(metrics(core)),
        "/metrics/slis" => return Ok(slis(core)),
        "/openapi/v2" | "/openapi/v3" => return documents::serve(core, &asked.path[9..], asked).await,
        STATUSZ => return Ok(zpages::statusz(core, asked)),
        FLAGZ => return Ok(zpages::flagz(core, asked)),
        path => {
            if let Some((kind, check)) = health::of_path(path) {
                return Ok(health::serve(core, kind, check, asked.query));
            }
            if path.starts_with("/openapi/v3/") {
                return documents::serve(core, &path[9..], asked).await;
            }
        }
    }
    let path = asked.path.strip_suffix('/').unwrap_or(asked.path);
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let document = match segments.as_slice() {
        ["api"] => {
            asked.is_discovery()?;
            return root(core, "/api", asked);
        }
        // The aggregator has these of all groups, without a router before them.
        ["apis", group] => discovery::group(&core.config.served, group),
        ["api", version] => resource_list(core, "", version, asked)?,
        ["apis", group, version] => resource_list(core, group, version, asked)?,
        ["version"] => {
            asked.is_get(&["application/json"])?;
            negotiate::routed_one(asked.accept(), "application/json")?;
            return Ok(response::object(StatusCode::OK, &version(), Output { pretty: true, ..Output::JSON }));
        }
        [".well-known", "openid-configuration"] => {
            asked.is_get(&[])?;
            negotiate::routed_one(asked.accept(), "application/json")?;
            return openid_configuration(core);
        }
        ["openid", "v1", "jwks"] => {
            asked.is_get(&[])?;
            negotiate::routed_one(asked.accept(), "application/jwk-set+json")?;
            return jwks(core);
        }
        _ => None,
    };
    match document {
        Some(document) => Ok(response::object(StatusCode::OK, &document, asked.output()?)),
        None => not_found(core, asked.path),
    }
}

/// The resources of a group's version; `None` where it is not served.
fn resource_list(
    core: &Core,
    group: &str,
    version: &str,
    asked: Asked<'_>,
) -> Result<Option<Value>, ApiError> {
    let list = discovery::resource_list(&core.config.served, group, version);
    list.map(|list| asked.is_discovery().map(|()| list)).transpose()
}

/// Nothing is served at a path: said by the router, where it has something above it, or as any web server says it.
pub(crate) fn not_found(core: &Core, path: &str) -> Result<Reply, ApiError> {
    let mut segments = path.split('/').skip(1);
    let routed = match (segments.next().unwrap_or_default(), segments.next().unwrap_or_default()) {
        ("api" | "version", _) => true,
        ("apis", group) => core.config.served.groups().iter().any(|(served, _)| *served == group),
        _ => path.starts_with("/openid/v1/jwks/") || path.starts_with("/.well-known/openid-configuration/"),
    };
    if routed { Err(response::unknown_path()) } else { Ok(response::no_page()) }
}

/// What groups and versions there are: in one document with all resources, where that is asked for.
fn root(core: &Core, path: &str, asked: Asked<'_>) -> Result<Reply, ApiError> {
    if let Some((encoding, media)) = aggregated(asked.accept())
        && let Some(document) = discovery::aggregated(&core.config.served, path)
    {
        let mut reply = with_etag(asked.headers, media, Bytes::from(codec::encode(&document, encoding)));
        reply.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
        return Ok(reply);
    }
    let document = if path == "/api" {
        let address = std::net::SocketAddr::new(core.config.advertise_address, core.advertised_port());
        discovery::api_versions(&address.to_string())
    } else {
        discovery::api_groups(&core.config.served)
    };
    let mut reply = response::object(StatusCode::OK, &document, asked.output()?);
    reply.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    Ok(reply)
}

/// How the aggregated document is to be written, where a client would have it at all: rather than the plain one.
///
/// Source: upstream's `DiscoveryEndpointRestrictions`.
fn aggregated(accept: &str) -> Option<(Encoding, &'static str)> {
    const FORMS: [(Encoding, &str); 3] = [
        (Encoding::Json, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
        (Encoding::Yaml, "application/yaml;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
        (
            Encoding::Protobuf,
            "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        ),
    ];
    accept::clauses(accept).iter().find_map(|clause| {
        let wanted = (clause.get("g"), clause.get("v"), clause.get("as"));
        if wanted != ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") || !clause.get("sv").is_empty() {
            return None;
        }
        FORMS.into_iter().find(|(encoding, _)| clause.takes(negotiate::content_type(*encoding)))
    })
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

/// `/version`. Source: `k8s.io/apimachinery/pkg/version.Info`.
fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "gitVersion": podium_api::VERSION,
        "gitCommit": option_env!("PODIUM_COMMIT").unwrap_or(""),
        "gitTreeState": "clean",
        "buildDate": option_env!("PODIUM_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z"),
        "goVersion": RUNTIME,
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
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

/// Every path that is listed: the routes' roots and what the muxes have.
fn paths(core: &Core) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        FLAGZ,
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/openid/v1/jwks",
        STATUSZ,
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.extend(health::paths(core));
    for (group, versions) in core.config.served.groups().into_iter().filter(|(group, _)| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.sort();
    paths.dedup();
    paths
}

/// `/`: where there is something.
fn index(core: &Core) -> Reply {
    let text = response::indented(&json!({"paths": paths(core)}));
    response::bytes(StatusCode::OK, "application/json", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregated_discovery_is_recognised() {
        let encoding = |accept: &str| aggregated(accept).map(|(encoding, _)| encoding);
        let asked = ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let json = format!("application/json{asked}");
        let beta = json.replace("v=v2", "v=v2beta1");
        assert_eq!(encoding(&format!("{json},{beta},application/json")), Some(Encoding::Json));
        assert_eq!(encoding(&format!("{json};profile=nopeer")), Some(Encoding::Json));
        assert_eq!(encoding(&format!("application/yaml{asked}")), Some(Encoding::Yaml));
        let protobuf = format!("application/vnd.kubernetes.protobuf{asked},{json}");
        assert_eq!(encoding(&protobuf), Some(Encoding::Protobuf));
        // It is preferred to the plain one, whatever comes first.
        assert_eq!(encoding(&format!("application/json, {json}")), Some(Encoding::Json));
        for other in ["application/json", "*/*", "", &beta] {
            assert_eq!(encoding(other), None, "{other}");
        }
    }
}
