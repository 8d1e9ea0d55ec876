//! What answers are written as, and what is said where nothing is served.

use serde_json::{Value, json};

use crate::support::{Server, call, get_as, raw};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn one_map(server: &Server) {
    let body = json!({"metadata": {"name": "a"}, "data": {"kind": "x"}});
    assert_eq!(call(server, "POST", MAPS, body).await.status, 201);
}

#[tokio::test]
async fn items_of_lists_have_no_type_and_objects_begin_with_it() {
    let server = Server::start().await;
    one_map(&server).await;
    let one = call(&server, "GET", &format!("{MAPS}/a"), Value::Null).await.text();
    assert!(one.starts_with(r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"#), "{one}");
    let list = format!("{MAPS}?fieldSelector=metadata.name%3Da");
    let text = call(&server, "GET", &list, Value::Null).await.text();
    assert!(text.starts_with(r#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"#), "{text}");
    assert!(text.contains(r#""items":[{"metadata":{"#), "{text}");
    for accept in ["application/json", "application/json;pretty=1"] {
        let answer = get_as(&server, &list, accept).await;
        let length: usize = answer.headers["content-length"].to_str().unwrap().parse().unwrap();
        assert_eq!(length, answer.body.len(), "{accept}");
        let item = &answer.json()["items"][0];
        assert_eq!((&item["kind"], &item["apiVersion"]), (&Value::Null, &Value::Null), "{accept}");
        assert_eq!(item["data"]["kind"], "x");
    }
    // In the version that is not the stored one too.
    let body = json!({
        "metadata": {"name": "h"},
        "spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}},
    });
    let scalers = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    assert_eq!(call(&server, "POST", scalers, body).await.status, 201);
    let converted = call(&server, "GET", scalers, Value::Null).await.json();
    assert_eq!(converted["kind"], "HorizontalPodAutoscalerList");
    let item = &converted["items"][0];
    assert_eq!((&item["kind"], &item["metadata"]["name"]), (&Value::Null, &json!("h")));
    // Metadata and tables carry objects of a kind of their own.
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let answer = get_as(&server, &list, metadata).await.json();
    assert_eq!(answer["items"][0]["kind"], "PartialObjectMetadata");
    let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json";
    for (path, accept, message) in [
        (
            "/api/v1/namespaces",
            one,
            "PartialObjectMetadata, but the requested object is a list (*core.NamespaceList)",
        ),
        (
            "/apis/apps/v1/deployments",
            one,
            "PartialObjectMetadata, but the requested object is a list (*apps.DeploymentList)",
        ),
        (
            "/api/v1/namespaces/default",
            metadata,
            "PartialObjectMetadataList, but the requested object is not a list (*core.Namespace)",
        ),
    ] {
        let refused = get_as(&server, path, accept).await;
        assert_eq!(refused.status, 406, "{path}");
        assert_eq!(refused.json()["message"], format!("you requested {message}"));
    }
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let answer = get_as(&server, &format!("{list}&includeObject=Object"), table).await.json();
    assert_eq!(answer["rows"][0]["object"]["kind"], "ConfigMap");
    let columns = &answer["columnDefinitions"];
    let data = columns[1]["description"].as_str().unwrap();
    assert!(data.starts_with("Data contains the configuration data."), "{columns}");
    assert!(columns[0]["description"].as_str().unwrap().starts_with("Name must be unique"), "{columns}");
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_written_is_refused_as_upstream_does() {
    let server = Server::start().await;
    one_map(&server).await;
    let one = format!("{MAPS}/a");
    let routed = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let streams = ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    let offered = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    for (path, accept, message) in [
        (one.as_str(), "application/*", routed.to_owned()),
        (MAPS, "application/*", format!("{routed}{streams}")),
        (MAPS, "text/csv", format!("{routed}{streams}")),
        ("/api/v1", "application/*", routed.to_owned()),
        (
            "/version",
            "application/yaml",
            "406: Not Acceptable\n\nAvailable representations: application/json".to_owned(),
        ),
        (MAPS, "application/json;as=Other;g=meta.k8s.io;v=v1", offered.to_owned()),
        (MAPS, "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1", offered.to_owned()),
        ("/apis", "text/csv", offered.to_owned()),
        (
            &format!("{MAPS}?watch=1"),
            "application/yaml, application/json",
            format!("only the following media types are accepted: {}", &streams[2..]),
        ),
    ] {
        let answer = get_as(&server, path, accept).await;
        assert_eq!(answer.status, 406, "{path} {accept}: {}", answer.text());
        let yaml = accept.starts_with("application/yaml");
        if !yaml {
            assert_eq!(answer.json()["message"], message, "{path} {accept}");
        } else {
            assert_eq!(answer.headers["content-type"], "application/yaml", "{path}");
        }
    }
    // Nothing that we have is taken: indented JSON.
    let raw_json = get_as(&server, MAPS, "text/csv").await.text();
    assert!(
        raw_json.starts_with("{\n  \"kind\": \"Status\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {},\n"),
        "{raw_json}"
    );
    assert_eq!(get_as(&server, "/openapi/v2", "text/csv").await.status, 406);
    assert_eq!(get_as(&server, "/openapi/v3", "text/csv").await.status, 200);
    let protobuf = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
    let document = get_as(&server, "/openapi/v3/version", protobuf).await;
    assert_eq!(
        document.headers["content-type"],
        "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
    );
    assert!(document.body.starts_with(b"\x0a\x053.0.0"), "{:?}", document.body);
    assert_eq!(get_as(&server, "/openapi/v3/apis/apps", "*/*").await.json()["openapi"], "3.0.0");
    // A person's client gets indented JSON, if it does not say otherwise.
    let curl = |uri: String| {
        let request = http::Request::builder().uri(uri).header("user-agent", "curl/8.5.0").body(Vec::new());
        raw(&server.server, "admin", &["system:masters"], request.unwrap())
    };
    let indented = curl(one.clone()).await.text();
    assert!(indented.starts_with("{\n  \"kind\": \"ConfigMap\",\n") && indented.ends_with('}'), "{indented}");
    assert!(curl(format!("{one}?pretty=false")).await.text().starts_with("{\"kind\""));
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_served_is_said_by_whom_it_concerns() {
    let server = Server::start().await;
    for path in
        ["/foo", "/apis/foo", "/apis/foo/v1", "/apis/foo/v1/bars", "/healthz/", "/livez/nothing", "/metrics/"]
    {
        let answer = call(&server, "GET", path, Value::Null).await;
        assert_eq!((answer.status, answer.text().as_str()), (404, "404 page not found\n"), "{path}");
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8", "{path}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
    }
    for path in ["/apis/apps/v9", "/apis/apps/v1/foos", "/api/v2", "/api/v1/foos", "/version/x"] {
        let answer = call(&server, "GET", path, Value::Null).await;
        assert_eq!((answer.status, &answer.json()["reason"]), (404, &json!("NotFound")), "{path}");
        assert_eq!(answer.json()["message"], "the server could not find the requested resource", "{path}");
    }
    for path in
        ["/api", "/api/", "/api/v1", "/version", "/api/v1/pods", "/apis/apps/v1/namespaces/a/deployments/b"]
    {
        let answer = call(&server, "HEAD", path, Value::Null).await;
        assert_eq!((answer.status, &answer.json()["reason"]), (405, &json!("MethodNotAllowed")), "{path}");
    }
    for path in ["/apis", "/apis/apps", "/healthz", "/livez/ping", "/openapi/v3", "/"] {
        assert_eq!(call(&server, "HEAD", path, Value::Null).await.status, 200, "{path}");
        assert_eq!(call(&server, "POST", path, Value::Null).await.status, 200, "{path}");
    }
    let csv =
        http::Request::builder().uri("/api/v1").header("content-type", "text/csv").body(Vec::new()).unwrap();
    let answer = raw(&server.server, "admin", &["system:masters"], csv).await;
    assert_eq!((answer.status, &answer.json()["message"]), (415, &json!("415: Unsupported Media Type")));
    let index = call(&server, "GET", "/", Value::Null).await;
    assert!(
        index.text().starts_with("{\n  \"paths\": [\n    \"/.well-known/openid-configuration\",\n"),
        "{}",
        index.text()
    );
    let index = index.json();
    let paths: Vec<&str> = index["paths"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for path in
        ["/flagz", "/statusz", "/openapi/v3/", "/readyz/poststarthook/start-service-ip-repair-controllers"]
    {
        assert!(paths.contains(&path), "{path} is not in {paths:?}");
    }
    assert!(paths.is_sorted());
    server.stop().await;
}

#[tokio::test]
async fn pages_about_the_server() {
    let server = Server::start().await;
    let statusz = get_as(&server, "/statusz", "").await.text();
    assert!(statusz.starts_with("\napiserver statusz\nWarning: "), "{statusz}");
    assert!(statusz.contains("/healthz /livez /metrics /readyz /statusz /version\n"), "{statusz}");
    let accept = "application/json;as=Flagz;v=v1beta1;g=config.k8s.io";
    let flagz = get_as(&server, "/flagz", accept).await;
    assert_eq!(flagz.headers["content-type"], "application/json;g=config.k8s.io;v=v1beta1;as=Flagz");
    let flags = flagz.json()["flags"].clone();
    assert_eq!((&flags["event-ttl"], &flags["max-requests-inflight"]), (&json!("1h0m0s"), &json!("400")));
    let old = get_as(&server, "/statusz", "application/json;as=Statusz;v=v1alpha1;g=config.k8s.io").await;
    assert!(old.headers.contains_key("warning"));
    assert_eq!(get_as(&server, "/statusz", "application/json").await.status, 406);
    for path in ["/statusz", "/flagz"] {
        let request = || http::Request::builder().uri(path).body(Vec::new()).unwrap();
        assert_eq!(
            raw(&server.server, "jane", &["system:authenticated"], request()).await.status,
            403,
            "{path}"
        );
        let monitor = raw(&server.server, "m", &["system:monitoring"], request()).await;
        assert_eq!(monitor.status, 200, "{path}: {}", monitor.text());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_watch_does_not_read_in_pages() {
    let server = Server::start().await;
    let list = call(&server, "GET", MAPS, Value::Null).await.json();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let rest = format!("resourceVersion={revision}&continue=x");
    let watch = call(&server, "GET", &format!("{MAPS}?watch=1&timeoutSeconds=1&{rest}"), Value::Null).await;
    assert_eq!((watch.status, watch.text().as_str()), (200, ""));
    assert_eq!(call(&server, "GET", &format!("{MAPS}?{rest}"), Value::Null).await.status, 400);
    server.stop().await;
}
