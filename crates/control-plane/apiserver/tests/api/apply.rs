//! Server-side apply and managed fields, through the server.

use serde_json::{Value, json};

use crate::support::{Answer, Server, call, call_as, raw};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn apply(server: &Server, uri: &str, config: &Value) -> Answer {
    call_as(server, "PATCH", uri, "application/apply-patch+yaml", config.to_string().into_bytes()).await
}

async fn patch_by(server: &Server, agent: &str, uri: &str, kind: &str, body: &Value) -> Answer {
    let request = http::Request::builder()
        .method("PATCH")
        .uri(uri)
        .header("content-type", format!("application/{kind}-patch+json"))
        .header("user-agent", agent)
        .body(body.to_string().into_bytes())
        .unwrap();
    raw(&server.server, "admin", &["system:masters"], request).await
}

fn map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn deployment(replicas: Option<i64>) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = json!(replicas);
    }
    object
}

#[track_caller]
fn entry<'a>(object: &'a Value, manager: &str, subresource: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array();
    let found = entries
        .into_iter()
        .flatten()
        .find(|e| e["manager"] == manager && e["subresource"].as_str().unwrap_or_default() == subresource);
    found.unwrap_or_else(|| panic!("no entry of {manager} in {object}"))
}

#[tokio::test]
async fn apply_creates_and_changes_and_does_nothing() {
    let server = Server::start().await;
    let uri = format!("{MAPS}/m?fieldManager=one");
    let created = apply(&server, &uri, &map("m", &json!({"a": "1"}))).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let object = created.json();
    let owned = entry(&object, "one", "");
    assert_eq!((&owned["operation"], &owned["apiVersion"]), (&json!("Apply"), &json!("v1")));
    assert_eq!(
        (&owned["fieldsType"], &owned["fieldsV1"]),
        (&json!("FieldsV1"), &json!({"f:data": {"f:a": {}}}))
    );
    assert!(owned["time"].is_string());
    // The same again is no write.
    let again = apply(&server, &uri, &map("m", &json!({"a": "1"}))).await;
    assert_eq!((again.status, again.json()), (200, object.clone()));
    let dry = apply(&server, &format!("{uri}&dryRun=All"), &map("m", &json!({"a": "2"}))).await.json();
    assert_eq!(dry["data"], json!({"a": "2"}));
    assert_eq!(call(&server, "GET", &format!("{MAPS}/m"), Value::Null).await.json(), object);
    let dry =
        apply(&server, &format!("{MAPS}/other?fieldManager=one&dryRun=All"), &map("other", &json!({}))).await;
    assert_eq!(dry.status, 201);
    assert_eq!(call(&server, "GET", &format!("{MAPS}/other"), Value::Null).await.status, 404);
    // What is applied no longer goes.
    let next = apply(&server, &uri, &map("m", &json!({"b": "2"}))).await.json();
    assert_eq!(next["data"], json!({"b": "2"}));
    assert_ne!(next["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    server.stop().await;
}

#[tokio::test]
async fn conflicts_and_force() {
    let server = Server::start().await;
    apply(&server, &format!("{MAPS}/m?fieldManager=one"), &map("m", &json!({"a": "1"}))).await;
    let uri = format!("{MAPS}/m?fieldManager=two");
    let refused = apply(&server, &uri, &map("m", &json!({"a": "2"}))).await;
    assert_eq!(refused.status, 409);
    let status = refused.json();
    assert_eq!(status["reason"], "Conflict");
    assert_eq!(status["message"], r#"Apply failed with 1 conflict: conflict with "one": .data.a"#);
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.a"}])
    );
    let forced = apply(&server, &format!("{uri}&force=true"), &map("m", &json!({"a": "2"}))).await.json();
    assert_eq!(forced["data"], json!({"a": "2"}));
    assert_eq!(forced["metadata"]["managedFields"].as_array().unwrap().len(), 1, "{forced}");
    server.stop().await;
}

#[tokio::test]
async fn bad_applies_are_refused() {
    let server = Server::start().await;
    let config = map("m", &json!({}));
    let refused = apply(&server, &format!("{MAPS}/m"), &config).await;
    assert_eq!(refused.status, 422);
    assert_eq!(
        refused.json()["message"],
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    let uri = format!("{MAPS}/m?fieldManager=one");
    let check = |answer: &Answer, code: u16, text: &str| {
        assert_eq!(answer.status, code, "{}", answer.text());
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(text), "{message}");
    };
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "m"}});
    check(&apply(&server, &uri, &other).await, 400, "invalid object type: /v1, Kind=Secret");
    check(&apply(&server, &uri, &map("n", &json!({}))).await, 400, "does not match the name on the URL (m)");
    let mut config = map("m", &json!({}));
    config["metadata"]["managedFields"] = json!([]);
    check(&apply(&server, &uri, &config).await, 400, "metadata.managedFields must be nil");
    let mut config = map("m", &json!({}));
    config["metadata"]["uid"] = json!("u");
    check(&apply(&server, &uri, &config).await, 409, "uid mismatch");
    let mut config = map("m", &json!({}));
    config["nonsense"] = json!(1);
    check(&apply(&server, &uri, &config).await, 500, ".nonsense: field not declared in schema");
    let twice =
        b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: x}\ndata: {a: y}\n".to_vec();
    let kind = "application/apply-patch+yaml";
    let strict =
        call_as(&server, "PATCH", &format!("{uri}&fieldValidation=Strict"), kind, twice.clone()).await;
    check(&strict, 400, "error strict decoding YAML");
    let warned = call_as(&server, "PATCH", &uri, kind, twice).await;
    assert_eq!(warned.status, 201, "{}", warned.text());
    assert!(warned.headers["warning"].to_str().unwrap().contains("data"), "{:?}", warned.headers);
    let cbor = call_as(&server, "PATCH", &uri, "application/apply-patch+cbor", vec![0xd9]).await;
    check(&cbor, 415, "application/apply-patch+yaml");
    let missing = apply(&server, &format!("{DEPLOYMENTS}/d/status?fieldManager=x"), &deployment(None)).await;
    assert_eq!(missing.status, 404);
    let plain = call(&server, "PATCH", &format!("{MAPS}/m?force=true"), json!({})).await;
    check(&plain, 422, "force: Forbidden: may not be specified for non-apply patch");
    server.stop().await;
}

#[tokio::test]
async fn creating_by_apply_needs_the_right_to_create() {
    let server = Server::start().await;
    let role = json!({"metadata": {"name": "patcher"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch", "get"]}]});
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    assert_eq!(call(&server, "POST", &format!("{roles}/roles"), role).await.status, 201);
    let binding = json!({"metadata": {"name": "patcher"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patcher"},
        "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]});
    assert_eq!(call(&server, "POST", &format!("{roles}/rolebindings"), binding).await.status, 201);
    let request = |name: &str| {
        http::Request::builder()
            .method("PATCH")
            .uri(format!("{MAPS}/{name}?fieldManager=jane"))
            .header("content-type", "application/apply-patch+yaml")
            .body(map(name, &json!({"a": "1"})).to_string().into_bytes())
            .unwrap()
    };
    let refused = raw(&server.server, "jane", &["system:authenticated"], request("m")).await;
    assert_eq!((refused.status, refused.json()["reason"].clone()), (403, json!("Forbidden")));
    call(&server, "POST", MAPS, map("m", &json!({}))).await;
    let allowed = raw(&server.server, "jane", &["system:authenticated"], request("m")).await;
    assert_eq!(allowed.status, 200, "{}", allowed.text());
    server.stop().await;
}

#[tokio::test]
async fn every_write_is_tracked_under_its_agent() {
    let server = Server::start().await;
    let mut pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let created =
        call(&server, "POST", "/api/v1/namespaces/default/pods?fieldManager=maker", pod.clone()).await;
    let created = created.json();
    let owned = entry(&created, "maker", "");
    assert_eq!(owned["operation"], "Update");
    assert_eq!(owned["fieldsV1"]["f:metadata"], json!({"f:labels": {".": {}, "f:a": {}}}));
    let container = &owned["fieldsV1"]["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"];
    assert_eq!((&container["."], &container["f:image"]), (&json!({}), &json!({})));
    // Defaults are owned by who made them appear; what admission added is nobody's, and status is not the client's.
    assert_eq!(owned["fieldsV1"]["f:spec"]["f:dnsPolicy"], json!({}));
    assert_eq!(owned["fieldsV1"]["f:spec"]["f:volumes"], Value::Null);
    assert_eq!(owned["fieldsV1"].get("f:status"), None);
    let uri = "/api/v1/namespaces/default/pods/p";
    let agent = "kubelet/v1.36 (linux)";
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let patched = patch_by(&server, agent, &format!("{uri}/status"), "strategic-merge", &status).await.json();
    assert_eq!(
        entry(&patched, "kubelet", "status")["fieldsV1"],
        json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {},
            // Times that are not said are null, and owned.
            "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}}},
            "f:phase": {}}})
    );
    // Whoever changes a field takes it.
    let label = json!([{"op": "replace", "path": "/metadata/labels/a", "value": "c"}]);
    let patched = patch_by(&server, "editor/1", uri, "json", &label).await.json();
    assert_eq!(entry(&patched, "editor", "")["fieldsV1"], json!({"f:metadata": {"f:labels": {"f:a": {}}}}));
    assert_eq!(entry(&patched, "maker", "")["fieldsV1"]["f:metadata"], json!({"f:labels": {}}));
    // What is written back unchanged is no write, whoever does it; an update without managed fields keeps them.
    let same = call(&server, "PUT", &format!("{uri}?fieldManager=other"), patched.clone()).await.json();
    assert_eq!(same, patched);
    pod = patched.clone();
    pod["metadata"].as_object_mut().unwrap().remove("managedFields");
    pod["metadata"]["labels"]["d"] = json!("e");
    let put = call(&server, "PUT", &format!("{uri}?fieldManager=other"), pod).await.json();
    assert_eq!(entry(&put, "other", "")["fieldsV1"], json!({"f:metadata": {"f:labels": {"f:d": {}}}}));
    assert_eq!(put["metadata"]["managedFields"].as_array().unwrap().len(), 4);
    // A client may forget them all.
    for reset in [json!([{}]), json!([])] {
        let body = json!({"metadata": {"managedFields": reset}});
        let cleared = patch_by(&server, "x/1", &format!("{uri}?dryRun=All"), "merge", &body).await.json();
        assert_eq!(cleared["metadata"].get("managedFields"), None, "{cleared}");
    }
    server.stop().await;
}

#[tokio::test]
async fn scale_and_status_have_entries_of_their_own() {
    let server = Server::start().await;
    let uri = format!("{DEPLOYMENTS}/d");
    apply(&server, &format!("{uri}?fieldManager=one"), &deployment(Some(1))).await;
    let scale = json!({"spec": {"replicas": 3}});
    let scaled = patch_by(&server, "kubectl/v1.36", &format!("{uri}/scale"), "merge", &scale).await;
    assert_eq!(scaled.json()["spec"]["replicas"], 3, "{}", scaled.text());
    let object = call(&server, "GET", &uri, Value::Null).await.json();
    assert_eq!(entry(&object, "kubectl", "scale")["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(entry(&object, "kubectl", "scale")["apiVersion"], "apps/v1");
    assert_eq!(entry(&object, "one", "")["fieldsV1"]["f:spec"].get("f:replicas"), None);
    let refused = apply(&server, &format!("{uri}?fieldManager=one"), &deployment(Some(1))).await;
    assert_eq!(
        refused.json()["message"],
        r#"Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale" using apps/v1: .spec.replicas"#
    );
    let config = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "default"},
        "spec": {"replicas": 5}});
    let refused = apply(&server, &format!("{uri}/scale?fieldManager=auto"), &config).await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    let forced = apply(&server, &format!("{uri}/scale?fieldManager=auto&force=true"), &config).await;
    assert_eq!((forced.status, forced.json()["spec"]["replicas"].clone()), (200, json!(5)));
    let object = call(&server, "GET", &uri, Value::Null).await.json();
    assert_eq!(entry(&object, "auto", "scale")["operation"], "Apply");
    assert!(object["metadata"]["managedFields"].as_array().unwrap().len() == 2, "{object}");
    let mut status = deployment(None);
    status.as_object_mut().unwrap().remove("spec");
    status["status"] = json!({"replicas": 5, "observedGeneration": 3});
    let applied = apply(&server, &format!("{uri}/status?fieldManager=ctl"), &status).await.json();
    assert_eq!(applied["status"]["replicas"], 5);
    assert_eq!(
        entry(&applied, "ctl", "status")["fieldsV1"],
        json!({"f:status": {"f:observedGeneration": {}, "f:replicas": {}}})
    );
    server.stop().await;
}

/// Managers keep their fields whatever version of a kind they speak, and what one no longer applies goes.
#[tokio::test]
async fn versions_of_a_kind_are_applied_together() {
    let server = Server::start().await;
    let uri = |version: &str, manager: &str| {
        format!(
            "/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/h?fieldManager={manager}"
        )
    };
    let config = |version: &str, more: &Value| {
        let mut object = json!({"apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
        for (key, value) in more.as_object().into_iter().flatten() {
            object["spec"][key.as_str()] = value.clone();
        }
        object
    };
    let cpu = json!({"minReplicas": 2, "metrics": [{"type": "Resource", "resource":
        {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}]});
    let made = apply(&server, &uri("v2", "one"), &config("v2", &cpu)).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let conflict =
        apply(&server, &uri("v1", "two"), &config("v1", &json!({"targetCPUUtilizationPercentage": 50})))
            .await;
    assert_eq!(conflict.status, 409, "{}", conflict.text());
    let next = apply(&server, &uri("v1", "one"), &config("v1", &json!({}))).await;
    assert_eq!(next.status, 200, "{}", next.text());
    let seen = next.json();
    // Both have gone, and the server's defaults have come.
    assert_eq!(
        (&seen["spec"]["minReplicas"], &seen["spec"]["targetCPUUtilizationPercentage"]),
        (&json!(1), &json!(80))
    );
    assert_eq!(entry(&seen, "one", "")["apiVersion"], "autoscaling/v1");
    let now =
        apply(&server, &uri("v1", "two"), &config("v1", &json!({"targetCPUUtilizationPercentage": 50})))
            .await;
    assert_eq!(now.status, 200, "{}", now.text());
    server.stop().await;
}
