//! Bad input: each gets upstream's status code, reason and message.

use serde_json::{Value, json};

use crate::support::{Answer, Server, call, call_as, get_as, raw};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[track_caller]
fn check(answer: &Answer, code: u64, reason: &str, text: &str) {
    let status = answer.json();
    assert_eq!(status["kind"], "Status", "{status}");
    assert_eq!(status["status"], "Failure", "{status}");
    assert_eq!(status["code"], code, "{status}");
    assert_eq!(u64::from(answer.status), code, "{status}");
    assert_eq!(status["reason"], reason, "{status}");
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.contains(text), "{message:?} does not say {text:?}");
}

#[tokio::test]
async fn bodies_that_do_not_decode() {
    let server = Server::start().await;
    let post = |body: &str| {
        let body = body.as_bytes().to_vec();
        call_as(&server, "POST", MAPS, "application/json", body)
    };
    check(&post("{").await, 400, "BadRequest", "");
    check(&post("[]").await, 400, "BadRequest", "");
    check(&post("").await, 400, "BadRequest", "");
    check(
        &post(r#"{"metadata":{"name":"a"},"data":{"k":1}}"#).await,
        400,
        "BadRequest",
        "cannot unmarshal number",
    );
    check(
        &post(r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}"#).await,
        400,
        "BadRequest",
        "",
    );
    let yaml = call_as(&server, "POST", MAPS, "application/yaml", b"a: [1\nb: }".to_vec()).await;
    check(&yaml, 400, "BadRequest", "");
    let xml = call_as(&server, "POST", MAPS, "text/xml", b"<a/>".to_vec()).await;
    check(
        &xml,
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: application/json",
    );
    let protobuf =
        call_as(&server, "POST", MAPS, "application/vnd.kubernetes.protobuf", b"k8s\0\x0a\xff".to_vec())
            .await;
    check(&protobuf, 400, "BadRequest", "");
    server.stop().await;
}

#[tokio::test]
async fn unknown_and_duplicate_fields() {
    let server = Server::start().await;
    let body = br#"{"metadata":{"name":"a"},"dat":{},"data":{"k":"v","k":"w"}}"#.to_vec();
    let strict =
        call_as(&server, "POST", &format!("{MAPS}?fieldValidation=Strict"), "application/json", body.clone())
            .await;
    check(&strict, 400, "BadRequest", r#"unknown field "dat""#);
    let text = strict.json()["message"].as_str().unwrap().to_owned();
    assert!(text.contains("strict decoding error") && text.contains(r#"duplicate field "data.k""#), "{text}");
    let warned = call_as(&server, "POST", MAPS, "application/json", body.clone()).await;
    assert_eq!(warned.status, 201);
    let warnings: Vec<&str> =
        warned.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(warnings.iter().any(|w| w.starts_with("299 - ") && w.contains("unknown field")), "{warnings:?}");
    let bad =
        call_as(&server, "POST", &format!("{MAPS}?fieldValidation=Maybe"), "application/json", body).await;
    check(&bad, 422, "Invalid", "fieldValidation: Unsupported value");
    server.stop().await;
}

#[tokio::test]
async fn names_and_addresses() {
    let server = Server::start().await;
    let long = "a".repeat(254);
    let answer = call(&server, "POST", MAPS, json!({"metadata": {"name": long}})).await;
    check(&answer, 422, "Invalid", "metadata.name");
    check(
        &call(&server, "POST", MAPS, json!({"metadata": {"name": "A_b"}})).await,
        422,
        "Invalid",
        "RFC 1123 subdomain",
    );
    check(&call(&server, "POST", MAPS, json!({})).await, 422, "Invalid", "name or generateName is required");
    let other = json!({"metadata": {"name": "a", "namespace": "kube-system"}});
    check(
        &call(&server, "POST", MAPS, other).await,
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    );
    call(&server, "POST", MAPS, json!({"metadata": {"name": "a"}})).await;
    check(
        &call(&server, "POST", MAPS, json!({"metadata": {"name": "a"}})).await,
        409,
        "AlreadyExists",
        "configmaps \"a\" already exists",
    );
    check(
        &call(&server, "PUT", &format!("{MAPS}/a"), json!({"metadata": {"name": "b"}})).await,
        400,
        "BadRequest",
        "does not match the name on the URL",
    );
    check(
        &call(&server, "GET", &format!("{MAPS}/none"), Value::Null).await,
        404,
        "NotFound",
        "configmaps \"none\" not found",
    );
    check(
        &call(&server, "PUT", &format!("{MAPS}/none"), json!({"metadata": {"name": "none"}})).await,
        404,
        "NotFound",
        "configmaps \"none\" not found",
    );
    check(
        &call(&server, "POST", "/api/v1/namespaces/none/configmaps", json!({"metadata": {"name": "a"}}))
            .await,
        404,
        "NotFound",
        "namespaces \"none\" not found",
    );
    let versioned = json!({"metadata": {"name": "v", "resourceVersion": "1"}});
    check(
        &call(&server, "POST", MAPS, versioned).await,
        400,
        "BadRequest",
        "resourceVersion should not be set on objects to be created",
    );
    server.stop().await;
}

#[tokio::test]
async fn immutable_and_invalid_fields() {
    let server = Server::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = call(&server, "POST", PODS, pod).await.json();
    let patch = json!({"spec": {"containers": [{"name": "c", "image": "i", "command": ["x"]}]}});
    let answer = call(&server, "PATCH", &format!("{PODS}/p"), patch).await;
    check(&answer, 422, "Invalid", "pod updates may not change fields other than");
    let mut other = made;
    other["metadata"]["uid"] = json!("11111111-1111-1111-1111-111111111111");
    check(
        &call(&server, "PUT", &format!("{PODS}/p"), other).await,
        409,
        "Conflict",
        "Precondition failed: UID in precondition",
    );
    let empty = json!({"metadata": {"name": "q"}, "spec": {"containers": []}});
    let answer = call(&server, "POST", PODS, empty).await;
    check(&answer, 422, "Invalid", "spec.containers: Required value");
    assert_eq!(answer.json()["details"]["causes"][0]["field"], "spec.containers");
    server.stop().await;
}

#[tokio::test]
async fn resource_exhaustion_bodies_that_are_too_large_or_too_deep() {
    let server = Server::start().await;
    let body = json!({"metadata": {"name": "a"}, "data": {"k": "x".repeat(4 << 20)}});
    let answer = call(&server, "POST", MAPS, body).await;
    check(&answer, 413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728");
    let deep = format!(r#"{{"metadata":{{"name":"a"}},"x":{}1{}}}"#, "[".repeat(1000), "]".repeat(1000));
    let answer = call_as(&server, "POST", MAPS, "application/json", deep.into_bytes()).await;
    assert!(answer.status == 400 || answer.status == 201, "{}", answer.text());
    let deeper =
        format!(r#"{{"metadata":{{"name":"b"}},"x":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let answer = call_as(&server, "POST", MAPS, "application/json", deeper.into_bytes()).await;
    check(&answer, 400, "BadRequest", "");
    let patch = format!(r#"{{"metadata":{{"annotations":{}1{}}}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    call(&server, "POST", MAPS, json!({"metadata": {"name": "p"}})).await;
    let answer =
        call_as(&server, "PATCH", &format!("{MAPS}/p"), "application/merge-patch+json", patch.into_bytes())
            .await;
    check(&answer, 400, "BadRequest", "");
    server.stop().await;
}

#[tokio::test]
async fn selectors_and_versions() {
    let server = Server::start().await;
    let get = |query: &str| {
        let uri = format!("{MAPS}?{query}");
        let server = &server;
        async move { call(server, "GET", &uri, Value::Null).await }
    };
    check(&get("labelSelector=a%20b%20c").await, 400, "BadRequest", "unable to parse requirement");
    check(&get("labelSelector=x%20in%20(").await, 400, "BadRequest", "");
    check(
        &get("fieldSelector=spec.x%3D1").await,
        400,
        "BadRequest",
        "is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
    );
    let pods = call(&server, "GET", &format!("{PODS}?fieldSelector=spec.x%3D1"), Value::Null).await;
    check(&pods, 400, "BadRequest", "field label not supported: spec.x");
    check(&get("resourceVersion=abc").await, 400, "BadRequest", "invalid resource version");
    let future = get("resourceVersion=99999999&resourceVersionMatch=Exact").await;
    check(&future, 504, "Timeout", "Too large resource version: 99999999, current:");
    let status = future.json();
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
    check(
        &get("resourceVersionMatch=Exact").await,
        422,
        "Invalid",
        "resourceVersionMatch is forbidden unless resourceVersion is provided",
    );
    check(&get("continue=nonsense!").await, 400, "BadRequest", "continue key is not valid");
    check(&get("limit=x").await, 400, "BadRequest", "invalid syntax");
    check(&get("sendInitialEvents=true").await, 422, "Invalid", "sendInitialEvents is forbidden for list");
    server.stop().await;
}

#[tokio::test]
async fn revisions_that_are_gone() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        call(&server, "POST", MAPS, json!({"metadata": {"name": name}})).await;
    }
    let page = call(&server, "GET", &format!("{MAPS}?limit=1"), Value::Null).await.json();
    let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
    let old = page["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    call(&server, "POST", MAPS, json!({"metadata": {"name": "d"}})).await;
    server.store.compact(server.store.revision()).await.unwrap();
    let exact = format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
    check(
        &call(&server, "GET", &exact, Value::Null).await,
        410,
        "Expired",
        "The resourceVersion for the provided list is too old.",
    );
    let answer = call(&server, "GET", &format!("{MAPS}?limit=10&continue={token}"), Value::Null).await;
    check(
        &answer,
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result.",
    );
    let next = answer.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = call(&server, "GET", &format!("{MAPS}?limit=10&continue={next}"), Value::Null).await.json();
    let names: Vec<&str> =
        rest["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["b", "c", "d"].map(|n| n), "{rest}");
    let watch = call(&server, "GET", &format!("{MAPS}?watch=1&resourceVersion={old}"), Value::Null).await;
    let event: Value = serde_json::from_slice(&watch.body).unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)), "{event}");
    assert!(event["object"]["message"].as_str().unwrap().contains("too old resource version"));
    server.stop().await;
}

#[tokio::test]
async fn methods_paths_and_media() {
    let server = Server::start().await;
    let text = "the server could not find the requested resource";
    for path in [
        "/api/v2/pods",
        "/api/v1/nonsense",
        "/apis/apps/v1/namespaces/default/deployments/web/unknown",
        "/api/v1/namespaces/default/nodes/n",
    ] {
        check(&call(&server, "GET", path, Value::Null).await, 404, "NotFound", text);
    }
    let not_allowed = "the server does not allow this method on the requested resource";
    check(
        &call(&server, "POST", &format!("{MAPS}/a"), json!({})).await,
        405,
        "MethodNotAllowed",
        not_allowed,
    );
    check(&call(&server, "PUT", MAPS, json!({})).await, 405, "MethodNotAllowed", not_allowed);
    check(
        &call(&server, "DELETE", "/api/v1/namespaces", Value::Null).await,
        405,
        "MethodNotAllowed",
        not_allowed,
    );
    check(
        &get_as(&server, MAPS, "text/csv").await,
        406,
        "NotAcceptable",
        "406: Not Acceptable\n\nAvailable representations: application/json, ",
    );
    call(&server, "POST", MAPS, json!({"metadata": {"name": "a"}})).await;
    let apply = call_as(
        &server,
        "PATCH",
        &format!("{MAPS}/a?fieldManager=me"),
        "application/unknown+json",
        b"{}".to_vec(),
    )
    .await;
    check(&apply, 415, "UnsupportedMediaType", "application/json-patch+json");
    let ops: Vec<Value> =
        (0..10_001).map(|_| json!({"op": "test", "path": "/kind", "value": "ConfigMap"})).collect();
    let many = call_as(
        &server,
        "PATCH",
        &format!("{MAPS}/a"),
        "application/json-patch+json",
        json!(ops).to_string().into_bytes(),
    )
    .await;
    assert_eq!(many.status, 413, "{}", many.text());
    server.stop().await;
}

#[tokio::test]
async fn scope_confusion_traversal_reaches_nothing() {
    let server = Server::start().await;
    call(&server, "POST", "/api/v1/namespaces/kube-system/secrets", json!({"metadata": {"name": "s"}})).await;
    for path in [
        "/api/v1/namespaces/default%2f..%2fkube-system/secrets/s",
        "/api/v1/namespaces/default/../kube-system/secrets/s",
        "/api/v1/namespaces/default/secrets/..%2fkube-system%2fs",
        "/api/v1/namespaces/%2e%2e/secrets/s",
    ] {
        let answer = call(&server, "GET", path, Value::Null).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_without_permission() {
    let server = Server::start().await;
    let request =
        || http::Request::builder().uri("/api/v1/namespaces/default/pods").body(Vec::new()).unwrap();
    let answer = raw(&server.server, "jane", &[], request()).await;
    check(
        &answer,
        403,
        "Forbidden",
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
    );
    let request = http::Request::builder().uri("/metrics").body(Vec::new()).unwrap();
    let answer = raw(&server.server, "jane", &[], request).await;
    check(&answer, 403, "Forbidden", "User \"jane\" cannot get path \"/metrics\"");
    server.stop().await;
}
