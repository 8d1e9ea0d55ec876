//! Every verb that discovery tells of is there, for every resource and subresource, and no other is.

use http_body_util::{BodyExt as _, Full};
use podium_api::kinds::features::Features;
use podium_api::resources::Selection;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::support::Server;

/// What a request at an address leads to.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The verb is served, whatever came of the request.
    Served,
    /// The address is known, the verb is not.
    NotAllowed,
    /// There is nothing at the address.
    Nothing,
}

async fn ask(server: &Server, method: &str, uri: &str) -> (Found, String) {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if matches!(method, "GET" | "DELETE") { Vec::new() } else { b"{}".to_vec() };
    let request = http::Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", media)
        .body(Full::new(bytes::Bytes::from(body)))
        .expect("a request");
    let service = server.server.service(podium_apiserver::User::new("admin", &["system:masters"]));
    let Ok(reply) = service.oneshot(request).await;
    let status = reply.status().as_u16();
    if status == 200 {
        // Perhaps a watch, which would not end.
        return (Found::Served, String::new());
    }
    let body = reply.into_body().collect().await.expect("a body").to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    let message = serde_json::from_slice::<Value>(&body).unwrap_or_default()["message"].clone();
    let found = match status {
        405 => Found::NotAllowed,
        404 if message == "the server could not find the requested resource" => Found::Nothing,
        _ => Found::Served,
    };
    (found, format!("{status} {text}"))
}

/// Methods at a collection, and the verbs they are.
const OF_COLLECTIONS: [(&str, &str); 3] =
    [("list", "GET"), ("create", "POST"), ("deletecollection", "DELETE")];

/// Methods at an object or its subresource, and the verbs they are.
const OF_OBJECTS: [(&str, &str); 4] =
    [("get", "GET"), ("update", "PUT"), ("patch", "PATCH"), ("delete", "DELETE")];

#[tokio::test]
async fn verbs_are_those_of_discovery() {
    let betas: Selection = "api/beta=true".parse().expect("a selection");
    let features = Features { cluster_trust_bundle: true, ..Features::default() };
    let served = betas.clone().with_features(features);
    let server = Server::start_with(0, |config| {
        config.served = betas;
        config.features = features;
    })
    .await;
    let mut wrong = Vec::new();
    let mut count = 0;
    for resource in served.iter() {
        let root = if resource.group.is_empty() {
            "/api/v1".to_owned()
        } else {
            format!("/apis/{}/{}", resource.group, resource.version)
        };
        let within = if resource.namespaced { format!("{root}/namespaces/default") } else { root };
        let collection = format!("{within}/{}", resource.plural);
        let mut cases = Vec::new();
        for (verb, method) in OF_COLLECTIONS {
            // Nothing is lost by it, and what is there may be needed by what follows.
            let uri = if verb == "deletecollection" {
                format!("{collection}?dryRun=All")
            } else {
                collection.clone()
            };
            cases.push((resource.allows(verb), verb, method, uri));
        }
        if resource.allows("list") {
            let watch = format!("{collection}?watch=true");
            cases.push((resource.allows("watch"), "watch", "GET", watch));
        }
        let object = format!("{collection}/no-such");
        for (verb, method) in OF_OBJECTS {
            cases.push((resource.allows(verb), verb, method, object.clone()));
        }
        for subresource in resource.subresources {
            let uri = format!("{object}/{}", subresource.name);
            for (verb, method) in OF_OBJECTS.into_iter().chain([("create", "POST")]) {
                cases.push((subresource.verbs.contains(&verb), verb, method, uri.clone()));
            }
        }
        for (expected, verb, method, uri) in cases {
            count += 1;
            let (found, text) = ask(&server, method, &uri).await;
            if (found == Found::Served) != expected {
                wrong.push(format!("{verb}: {method} {uri}: {found:?}, expected {expected}: {text}"));
            }
        }
    }
    assert!(count > 700, "only {count} cases");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    server.stop().await;
}
