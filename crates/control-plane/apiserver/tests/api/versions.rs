//! Versions of the API that are off by default (`--runtime-config`).

use serde_json::{Value, json};

use crate::support::{Server, call, get_as};

async fn with(selection: &str) -> Server {
    let served = selection.parse().expect("a selection");
    Server::start_with(0, |config| config.served = served).await
}

#[tokio::test]
async fn betas_are_off_by_default_and_served_when_asked_for() {
    let path = "/apis/networking.k8s.io/v1beta1/servicecidrs";
    let server = Server::start().await;
    assert_eq!(call(&server, "GET", path, Value::Null).await.status, 404);
    server.stop().await;

    let server = with("api/beta=true").await;
    let cidr = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/24"]}});
    let made = call(&server, "POST", path, cidr).await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.json()["apiVersion"], "networking.k8s.io/v1beta1");
    let ga = call(&server, "GET", "/apis/networking.k8s.io/v1/servicecidrs/more", Value::Null).await.json();
    assert_eq!((&ga["apiVersion"], &ga["spec"]), (&json!("networking.k8s.io/v1"), &made.json()["spec"]));
    let protobuf = get_as(&server, &format!("{path}/more"), "application/vnd.kubernetes.protobuf").await;
    let object = podium_api::codec::protobuf_to_json(&protobuf.body).expect("protobuf");
    assert_eq!(object["apiVersion"], "networking.k8s.io/v1beta1");
    let groups = call(&server, "GET", "/apis/networking.k8s.io", Value::Null).await.json();
    assert_eq!(groups["versions"][1]["version"], "v1beta1");
    assert_eq!(groups["preferredVersion"]["version"], "v1");
    let index = call(&server, "GET", "/", Value::Null).await.json();
    let paths = index["paths"].as_array().expect("paths");
    for path in ["/apis/networking.k8s.io/v1beta1", "/apis/authorization.k8s.io/v1", "/apis/events.k8s.io/v1"]
    {
        assert!(paths.contains(&json!(path)), "{path} is missing: {index}");
    }
    server.stop().await;
}

/// Kinds that have no GA version live their life as any other.
#[tokio::test]
async fn kinds_that_are_only_beta() {
    let server = Server::start_with(0, |config| {
        config.served =
            "certificates.k8s.io/v1beta1=true,coordination.k8s.io/v1beta1=true".parse().expect("a selection");
        config.features.cluster_trust_bundle = true;
    })
    .await;
    let path = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";
    let authority = server.pki.authority().certificate().to_owned();
    let bundle = json!({"metadata": {"name": "roots"}, "spec": {"trustBundle": authority}});
    let made = call(&server, "POST", path, bundle).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let list = call(&server, "GET", path, Value::Null).await.json();
    assert_eq!(list["items"][0]["metadata"]["name"], "roots");
    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    let patched = call(&server, "PATCH", &format!("{path}/roots"), patch).await;
    assert_eq!(patched.json()["metadata"]["labels"]["a"], "b", "{}", patched.text());
    assert_eq!(call(&server, "DELETE", &format!("{path}/roots"), Value::Null).await.status, 200);
    let other = call(&server, "GET", "/apis/networking.k8s.io/v1beta1/servicecidrs", Value::Null).await;
    assert_eq!(other.status, 404, "only what was asked for");
    server.stop().await;
}

/// A feature that is off has no resource, whatever version is asked for, and its field is not kept in pods and their templates.
#[tokio::test]
async fn features_that_are_off_leave_nothing() {
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "projected": {"sources": [
                {"clusterTrustBundle": {"name": "roots", "path": "ca.pem"}}]}}]}}}})
    };
    let source =
        |object: &Value| object["spec"]["template"]["spec"]["volumes"][0]["projected"]["sources"][0].clone();
    let server = with("certificates.k8s.io/v1beta1=true").await;
    for plural in ["clustertrustbundles", "podcertificaterequests"] {
        let path = format!("/apis/certificates.k8s.io/v1beta1/{plural}");
        assert_eq!(call(&server, "GET", &path, Value::Null).await.status, 404, "{plural}");
    }
    let groups = call(&server, "GET", "/apis/certificates.k8s.io", Value::Null).await.json();
    assert_eq!(
        groups["versions"].as_array().map(Vec::len),
        Some(1),
        "nothing is left of the version: {groups}"
    );
    let made = call(&server, "POST", deployments, deployment("web")).await;
    assert_eq!((made.status, source(&made.json())), (201, json!({})), "{}", made.text());
    // Said again, it is still not a change.
    let path = format!("{deployments}/web");
    let again = call(&server, "PUT", &path, deployment("web")).await;
    assert_eq!(source(&again.json()), json!({}), "{}", again.text());
    assert_eq!(again.json()["metadata"]["generation"], 1);
    server.stop().await;

    let server = Server::start_with(0, |config| {
        config.features.cluster_trust_bundle = true;
        config.features.cluster_trust_bundle_projection = true;
    })
    .await;
    let made = call(&server, "POST", deployments, deployment("web")).await.json();
    assert_eq!(source(&made), json!({"clusterTrustBundle": {"name": "roots", "path": "ca.pem"}}));
    server.stop().await;
}

#[tokio::test]
async fn a_version_that_is_off_is_not_there() {
    let server = with("autoscaling/v1=false").await;
    let path =
        |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    assert_eq!(call(&server, "GET", &path("v1"), Value::Null).await.status, 404);
    assert_eq!(call(&server, "GET", &path("v2"), Value::Null).await.status, 200);
    assert_eq!(call(&server, "GET", "/openapi/v3/apis/autoscaling/v1", Value::Null).await.status, 404);
    server.stop().await;
}
