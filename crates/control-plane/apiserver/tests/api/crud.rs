//! Create, read, change, delete: through kube clients and raw, in process and over TLS.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::{Server, call, call_as};

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "x"}}, "data": {"k": value}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_typed_client_lives_its_whole_life_over_tls() {
    let server = Server::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(server.remote().await, "default");
    let new: ConfigMap = serde_json::from_value(config_map("a", "1")).unwrap();
    let made = maps.create(&PostParams::default(), &new).await.unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.resource_version.is_some());
    let read = maps.get("a").await.unwrap();
    assert_eq!(read, made);
    let mut changed = read.clone();
    changed.data.as_mut().unwrap().insert("k".into(), "2".into());
    let replaced = maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_ne!(replaced.metadata.resource_version, made.metadata.resource_version);
    assert_eq!(replaced.metadata.uid, made.metadata.uid);
    // The old version is refused from now on.
    let stale = maps.replace("a", &PostParams::default(), &changed).await.unwrap_err();
    let kube::Error::Api(status) = stale else { panic!("a status: {stale}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let patch = Patch::Merge(json!({"data": {"k": "3", "l": "4"}}));
    let patched = maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.data.unwrap().len(), 2);
    assert_eq!(maps.list(&ListParams::default().labels("app=x")).await.unwrap().items.len(), 1);
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn what_is_stored_is_what_is_sent() {
    let server = Server::start().await;
    let made = call(&server, "POST", MAPS, config_map("a", "1")).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let read = call(&server, "GET", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(read.body, made.body);
    let list = call(&server, "GET", MAPS, Value::Null).await;
    let list = list.json();
    let item = list["items"].as_array().unwrap().iter().find(|i| i["metadata"]["name"] == "a");
    // An item is of the kind that the list says.
    let mut bare = made.json();
    bare.as_object_mut().unwrap().retain(|name, _| !matches!(name.as_str(), "kind" | "apiVersion"));
    assert_eq!(item.unwrap(), &bare);
    assert_eq!(made.headers["content-type"], "application/json");
    assert!(made.headers.contains_key("audit-id"));
    server.stop().await;
}

#[tokio::test]
async fn generated_names_and_system_metadata() {
    let server = Server::start().await;
    let body = json!({"metadata": {"generateName": "web-", "uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 99}});
    let made = call(&server, "POST", MAPS, body).await.json();
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    assert_ne!(made["metadata"]["uid"], "mine");
    assert_ne!(made["metadata"]["creationTimestamp"], "2001-01-01T00:00:00Z");
    server.stop().await;
}

#[tokio::test]
async fn defaults_generation_and_status_of_a_deployment() {
    let server = Server::start().await;
    let deployments: Api<Deployment> = Api::namespaced(server.admin(), "default");
    let new: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"replicas": 7},
    }))
    .unwrap();
    let made = deployments.create(&PostParams::default(), &new).await.unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(made.spec.as_ref().unwrap().replicas, Some(1));
    assert_eq!(made.status.unwrap_or_default().replicas, None, "a create cannot set status");
    let scaled = deployments
        .patch("web", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 3}})))
        .await
        .unwrap();
    assert_eq!(scaled.metadata.generation, Some(2));
    let status = deployments
        .patch_status(
            "web",
            &PatchParams::default(),
            &Patch::Merge(json!({"status": {"replicas": 3}, "spec": {"replicas": 9}})),
        )
        .await
        .unwrap();
    assert_eq!(status.metadata.generation, Some(2));
    assert_eq!(status.spec.unwrap().replicas, Some(3), "a status update cannot change the spec");
    assert_eq!(status.status.unwrap().replicas, Some(3));
    let scale = deployments.get_scale("web").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(3));
    let patch = Patch::Merge(json!({"spec": {"replicas": 5}}));
    let scale = deployments.patch_scale("web", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(5));
    assert_eq!(deployments.get("web").await.unwrap().spec.unwrap().replicas, Some(5));
    server.stop().await;
}

#[tokio::test]
async fn strategic_merge_keeps_what_it_does_not_name() {
    let server = Server::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "a", "image": "i:1"}, {"name": "b", "image": "j:1"}]}});
    let made = call(&server, "POST", pods, pod).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let patch = br#"{"spec":{"containers":[{"name":"b","image":"j:2"}]}}"#.to_vec();
    let media = "application/strategic-merge-patch+json";
    let patched = call_as(&server, "PATCH", &format!("{pods}/p"), media, patch).await;
    assert_eq!(patched.status, 200, "{}", patched.text());
    let containers = patched.json()["spec"]["containers"].clone();
    assert_eq!((&containers[0]["image"], &containers[1]["image"]), (&json!("i:1"), &json!("j:2")));
    let json_patch = br#"[{"op":"replace","path":"/spec/containers/0/image","value":"i:3"}]"#.to_vec();
    let patched =
        call_as(&server, "PATCH", &format!("{pods}/p"), "application/json-patch+json", json_patch).await;
    assert_eq!(patched.json()["spec"]["containers"][0]["image"], "i:3", "{}", patched.text());
    server.stop().await;
}

#[tokio::test]
async fn a_change_that_changes_nothing_stores_nothing() {
    let server = Server::start().await;
    let made = call(&server, "POST", MAPS, config_map("a", "1")).await.json();
    let again = call(&server, "PUT", &format!("{MAPS}/a"), made.clone()).await.json();
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let patch = json!({"data": {"k": "1"}});
    let again = call(&server, "PATCH", &format!("{MAPS}/a"), patch).await.json();
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    server.stop().await;
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let server = Server::start().await;
    call(&server, "POST", MAPS, config_map("a", "1")).await;
    let maps: Api<ConfigMap> = Api::namespaced(server.admin(), "default");
    let patches = (0..20).map(|n| {
        let maps = maps.clone();
        async move {
            let patch = Patch::Merge(json!({"data": {format!("n{n}"): "x"}}));
            maps.patch("a", &PatchParams::default(), &patch).await
        }
    });
    for result in futures::future::join_all(patches).await {
        result.unwrap();
    }
    assert_eq!(maps.get("a").await.unwrap().data.unwrap().len(), 21);
    server.stop().await;
}

#[tokio::test]
async fn dry_runs_store_nothing() {
    let server = Server::start().await;
    let made = call(&server, "POST", &format!("{MAPS}?dryRun=All"), config_map("a", "1")).await;
    assert_eq!(made.status, 201);
    assert_eq!(call(&server, "GET", &format!("{MAPS}/a"), Value::Null).await.status, 404);
    call(&server, "POST", MAPS, config_map("a", "1")).await;
    let patch = json!({"data": {"k": "2"}});
    let patched = call(&server, "PATCH", &format!("{MAPS}/a?dryRun=All"), patch).await.json();
    assert_eq!(patched["data"]["k"], "2");
    assert_eq!(call(&server, "DELETE", &format!("{MAPS}/a?dryRun=All"), Value::Null).await.status, 200);
    // A dry run without a name for it is refused, not taken for a wet one.
    assert_eq!(call(&server, "DELETE", &format!("{MAPS}/a?dryRun="), Value::Null).await.status, 422);
    let read = call(&server, "GET", &format!("{MAPS}/a"), Value::Null).await.json();
    assert_eq!(read["data"]["k"], "1");
    server.stop().await;
}

#[tokio::test]
async fn who_deletes_a_job_hears_that_its_pods_stay() {
    const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        let spec = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
        let made = call(&server, "POST", JOBS, json!({"metadata": {"name": name}, "spec": spec})).await;
        assert_eq!(made.status, 201);
    }
    let told = |answer: &crate::support::Answer| answer.headers.contains_key("warning");
    let by_default = call(&server, "DELETE", &format!("{JOBS}/a"), Value::Null).await;
    assert!(
        by_default.headers["warning"].to_str().unwrap().contains("child pods are preserved by default"),
        "{:?}",
        by_default.headers
    );
    for query in ["propagationPolicy=Background", "orphanDependents=true"] {
        let asked = call(&server, "DELETE", &format!("{JOBS}/b?dryRun=All&{query}"), Value::Null).await;
        assert!(asked.status == 200 && !told(&asked), "{query}: {:?}", asked.headers);
    }
    assert!(told(&call(&server, "DELETE", &format!("{JOBS}?dryRun=All"), Value::Null).await));
    assert!(!told(&call(&server, "DELETE", &format!("{MAPS}?dryRun=All"), Value::Null).await));
    server.stop().await;
}

#[tokio::test]
async fn finalizers_hold_a_deleted_object() {
    let server = Server::start().await;
    let mut map = config_map("a", "1");
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    call(&server, "POST", MAPS, map).await;
    let path = format!("{MAPS}/a");
    let deleted = call(&server, "DELETE", &path, Value::Null).await;
    assert_eq!(deleted.status, 200);
    let held = call(&server, "GET", &path, Value::Null).await.json();
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    let refused = call(&server, "PATCH", &path, more).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    let freed = call(&server, "PATCH", &path, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(freed.status, 200, "{}", freed.text());
    assert_eq!(call(&server, "GET", &path, Value::Null).await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn propagation_and_preconditions() {
    let server = Server::start().await;
    let made = call(&server, "POST", MAPS, config_map("a", "1")).await.json();
    let path = format!("{MAPS}/a");
    let wrong = json!({"preconditions": {"uid": "other"}});
    let refused = call(&server, "DELETE", &path, wrong).await.json();
    assert_eq!(refused["code"], 409);
    assert!(refused["message"].as_str().unwrap().contains("does not match the UID in record"), "{refused}");
    let foreground =
        json!({"propagationPolicy": "Foreground", "preconditions": {"uid": made["metadata"]["uid"]}});
    let marked = call(&server, "DELETE", &path, foreground).await.json();
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    assert_eq!(call(&server, "DELETE", &path, both).await.status, 422);

    // A controller of old that is deleted without a word leaves its pods.
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    let rc = json!({"metadata": {"name": "rc"}, "spec": {"template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(call(&server, "POST", controllers, rc).await.status, 201);
    let marked = call(&server, "DELETE", &format!("{controllers}/rc"), Value::Null).await.json();
    assert_eq!(marked["metadata"]["finalizers"], json!(["orphan"]), "{marked}");
    server.stop().await;
}

#[tokio::test]
async fn a_pod_without_a_node_goes_at_once_and_one_with_a_node_gets_its_grace() {
    let server = Server::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    call(&server, "POST", pods, pod("a")).await;
    let gone = call(&server, "DELETE", &format!("{pods}/a"), Value::Null).await;
    assert_eq!(gone.json()["kind"], "Pod");
    assert_eq!(call(&server, "GET", &format!("{pods}/a"), Value::Null).await.status, 404);

    call(&server, "POST", pods, pod("b")).await;
    let binding = json!({"metadata": {"name": "b"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = call(&server, "POST", &format!("{pods}/b/binding"), binding.clone()).await;
    assert_eq!(bound.status, 201, "{}", bound.text());
    let twice = call(&server, "POST", &format!("{pods}/b/binding"), binding).await.json();
    assert_eq!(twice["code"], 409);
    assert!(
        twice["message"].as_str().unwrap().contains("pod b is already assigned to node \"n1\""),
        "{twice}"
    );
    let read = call(&server, "GET", &format!("{pods}/b"), Value::Null).await.json();
    assert_eq!(read["spec"]["nodeName"], "n1");
    assert_eq!(read["status"]["conditions"][0]["type"], "PodScheduled");
    let waiting = call(&server, "DELETE", &format!("{pods}/b"), Value::Null).await.json();
    assert_eq!(waiting["metadata"]["deletionGracePeriodSeconds"], 30);
    let now = call(&server, "DELETE", &format!("{pods}/b?gracePeriodSeconds=0"), Value::Null).await;
    assert_eq!(now.status, 200);
    assert_eq!(call(&server, "GET", &format!("{pods}/b"), Value::Null).await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn a_namespace_is_emptied_before_it_goes() {
    let server = Server::start().await;
    let namespaces: Api<Namespace> = Api::all(server.admin());
    let new: Namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    let made = namespaces.create(&PostParams::default(), &new).await.unwrap();
    assert_eq!(made.spec.unwrap().finalizers.unwrap(), ["kubernetes"]);
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    let terminating = namespaces.get("team").await.unwrap();
    assert_eq!(terminating.status.as_ref().unwrap().phase.as_deref(), Some("Terminating"));
    let refused = call(&server, "POST", "/api/v1/namespaces/team/configmaps", config_map("a", "1")).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let mut body = serde_json::to_value(&terminating).unwrap();
    body["spec"]["finalizers"] = json!([]);
    let done = call(&server, "PUT", "/api/v1/namespaces/team/finalize", body).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert!(namespaces.get_opt("team").await.unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        let mut map = config_map(name, "1");
        map["metadata"]["labels"] = json!({"keep": (name == "c").to_string()});
        call(&server, "POST", MAPS, map).await;
    }
    let deleted =
        call(&server, "DELETE", &format!("{MAPS}?labelSelector=keep%3Dfalse"), Value::Null).await.json();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = call(&server, "GET", &format!("{MAPS}?labelSelector=keep"), Value::Null).await.json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn versions_of_one_kind_share_their_objects() {
    let server = Server::start().await;
    let hpa = json!({"metadata": {"name": "h"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "minReplicas": 1, "maxReplicas": 4, "targetCPUUtilizationPercentage": 70}});
    let made =
        call(&server, "POST", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", hpa).await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.json()["apiVersion"], "autoscaling/v1");
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h";
    let read = call(&server, "GET", path, Value::Null).await.json();
    assert_eq!(read["apiVersion"], "autoscaling/v2");
    assert_eq!(read["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70, "{read}");
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Because", "message": "m", "type": "Normal", "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1, "source": {"component": "t"}});
    let made = call(&server, "POST", "/api/v1/namespaces/default/events", event).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let read =
        call(&server, "GET", "/apis/events.k8s.io/v1/namespaces/default/events/e", Value::Null).await.json();
    assert_eq!((&read["note"], &read["regarding"]["name"]), (&json!("m"), &json!("p")), "{read}");
    server.stop().await;
}

#[tokio::test]
async fn events_are_forgotten_and_other_objects_are_not() {
    let server = Server::start().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "R", "message": "m", "type": "Normal", "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "source": {"component": "t"}});
    let made = call(&server, "POST", "/api/v1/namespaces/default/events", event).await;
    assert_eq!(made.status, 201, "{}", made.text());
    call(&server, "POST", MAPS, config_map("a", "1")).await;
    let lease = |key: &str| server.store.get(key.as_bytes()).unwrap().lease;
    let first = lease("/registry/core/events/default/e");
    assert!(first.is_some());
    assert!(lease("/registry/core/configmaps/default/a").is_none());
    call(&server, "PATCH", "/api/v1/namespaces/default/events/e", json!({"count": 2})).await;
    assert!(lease("/registry/core/events/default/e").is_some());
    let table = crate::support::get_as(
        &server,
        "/apis/events.k8s.io/v1/namespaces/default/events",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
    )
    .await
    .json();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert!(cells.contains(&json!("m")) && cells.contains(&json!("R")), "{table}");
    server.stop().await;
}

#[tokio::test]
async fn an_owner_is_named_once() {
    let server = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u1"});
    let body = json!({"metadata": {"name": "owned", "ownerReferences": [owner, owner]}});
    let created = call(&server, "POST", maps, body.clone()).await;
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(created.json()["metadata"]["ownerReferences"], json!([owner]));
    let warning = |answer: &crate::support::Answer| answer.headers["warning"].to_str().unwrap().to_owned();
    let text = "contains duplicate entries; API server dedups owner references in 1.20+";
    assert!(warning(&created).contains(text) && warning(&created).ends_with("observed: u1\""), "{created:?}");
    let put = call(&server, "PUT", &format!("{maps}/owned"), body.clone()).await;
    assert_eq!(put.status, 200, "{}", put.text());
    assert!(warning(&put).contains(text), "{put:?}");
    let patch = json!({"metadata": {"ownerReferences": body["metadata"]["ownerReferences"]}});
    let patched = call(&server, "PATCH", &format!("{maps}/owned"), patch).await;
    assert!(warning(&patched).contains("after mutating admission happens"), "{patched:?}");
    assert_eq!(patched.json()["metadata"]["ownerReferences"], json!([owner]));
    server.stop().await;
}

#[tokio::test]
async fn a_change_without_a_version_is_one_of_the_newest_state() {
    let server = Server::start().await;
    call(&server, "POST", MAPS, json!({"metadata": {"name": "any"}, "data": {"k": "1"}})).await;
    let wanted =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "any"}, "data": {"k": "2"}});
    let answer = call(&server, "PUT", &format!("{MAPS}/any"), wanted).await;
    assert_eq!((answer.status, &answer.json()["data"]["k"]), (200, &json!("2")), "{}", answer.text());
    // Leases are among the kinds whose writers have to say what they saw.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    call(&server, "POST", leases, json!({"metadata": {"name": "l"}})).await;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}});
    let refused = call(&server, "PUT", &format!("{leases}/l"), lease).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    server.stop().await;
}
