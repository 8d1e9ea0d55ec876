//! kube-rs over TLS: typed and dynamic objects, lists, watches, patches, subresources, deletes, errors as Status.
//!
//! Every test has a server of its own, so all work in the namespace `default`.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::{Binding, ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{
    DeleteParams, EvictParams, GetParams, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
    Preconditions, WatchEvent, WatchParams,
};
use kube::core::{DynamicObject, Status};
use kube::discovery::{Discovery, Scope, pinned_kind, verbs};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::Server;

/// How long the next event of a watch may take; far above what it does take, far below a test's patience.
const LIMIT: Duration = Duration::from_secs(30);

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of this kind")
}

fn config_map(name: &str, labels: &Value) -> ConfigMap {
    object(json!({"metadata": {"name": name, "labels": labels}, "data": {"a": "1"}}))
}

fn deployment(name: &str) -> Deployment {
    object(json!({
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template(name)},
    }))
}

fn template(app: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "main", "image": "registry.example/main:1"}]},
    })
}

fn pod(name: &str) -> Pod {
    object(json!({"metadata": {"name": name}, "spec": template(name)["spec"]}))
}

/// Names in the order of the answer.
fn names<K: ResourceExt>(items: &[K]) -> Vec<String> {
    items.iter().map(ResourceExt::name_any).collect()
}

fn version<K: ResourceExt>(object: &K) -> String {
    object.resource_version().expect("a stored object has a version")
}

/// Manager, operation and subresource of each entry, sorted.
fn managers<K: ResourceExt>(object: &K) -> Vec<(String, String, String)> {
    let mut found: Vec<_> = object
        .managed_fields()
        .iter()
        .map(|entry| {
            let word = |text: &Option<String>| text.clone().unwrap_or_default();
            (word(&entry.manager), word(&entry.operation), word(&entry.subresource))
        })
        .collect();
    found.sort();
    found
}

/// The Status of a call that must fail.
#[track_caller]
fn refused<T: Debug>(answer: kube::Result<T>, code: u16, reason: &str) -> Status {
    match answer {
        Err(kube::Error::Api(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (code, reason), "{status:?}");
            assert!(status.is_failure(), "{status:?}");
            *status
        }
        other => panic!("expected {code} {reason}, got {other:?}"),
    }
}

#[track_caller]
fn fields(status: &Status) -> Vec<(&str, &str)> {
    let details = status.details.as_ref().unwrap_or_else(|| panic!("no details: {status:?}"));
    details.causes.iter().map(|cause| (cause.reason.as_str(), cause.field.as_str())).collect()
}

async fn next<K>(
    stream: &mut (impl Stream<Item = kube::Result<WatchEvent<K>>> + Unpin),
) -> Option<WatchEvent<K>> {
    let event = tokio::time::timeout(LIMIT, stream.next()).await.expect("an event, or the end, in time");
    event.map(|event| event.expect("an event that can be read"))
}

/// The event's type and its object's name; of a bookmark whether it ends the initial events.
fn seen<K: ResourceExt>(event: &WatchEvent<K>) -> (&'static str, String) {
    match event {
        WatchEvent::Added(object) => ("added", object.name_any()),
        WatchEvent::Modified(object) => ("modified", object.name_any()),
        WatchEvent::Deleted(object) => ("deleted", object.name_any()),
        WatchEvent::Bookmark(bookmark) => {
            let ends = bookmark.metadata.annotations.get("k8s.io/initial-events-end");
            ("bookmark", ends.cloned().unwrap_or_default())
        }
        WatchEvent::Error(status) => panic!("the watch failed: {status:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_finds_kinds_and_what_they_can() {
    let server = Server::start().await;
    let client = server.remote().await;
    let info = client.apiserver_version().await.expect("the version");
    assert_eq!((info.major.as_str(), info.minor.trim_end_matches('+')), ("1", "36"));

    let plain = Discovery::new(client.clone()).run().await.expect("discovery");
    let aggregated = Discovery::new(client).run_aggregated().await.expect("aggregated discovery");
    for found in [&plain, &aggregated] {
        let gvk = GroupVersionKind::gvk("apps", "v1", "Deployment");
        let (resource, can) = found.resolve_gvk(&gvk).expect("deployments");
        assert_eq!((resource.plural.as_str(), resource.api_version.as_str()), ("deployments", "apps/v1"));
        assert!(can.scope == Scope::Namespaced);
        for verb in [
            verbs::CREATE,
            verbs::GET,
            verbs::LIST,
            verbs::WATCH,
            verbs::UPDATE,
            verbs::PATCH,
            verbs::DELETE,
            verbs::DELETE_COLLECTION,
        ] {
            assert!(can.supports_operation(verb), "deployments do not {verb}");
        }
        let mut subresources: Vec<&str> =
            can.subresources.iter().map(|(resource, _)| resource.kind.as_str()).collect();
        subresources.sort_unstable();
        assert_eq!(subresources, ["Deployment", "Scale"]);
        let (_, can) = found.resolve_gvk(&GroupVersionKind::gvk("", "v1", "Node")).expect("nodes");
        assert!(can.scope == Scope::Cluster);
        assert!(found.resolve_gvk(&GroupVersionKind::gvk("apps", "v1", "Nothing")).is_none());
    }
    let everything = |found: &Discovery| {
        let mut kinds: Vec<String> = found
            .groups()
            .flat_map(|group| group.recommended_resources())
            .map(|(resource, _)| format!("{} {} {}", resource.api_version, resource.kind, resource.plural))
            .collect();
        kinds.sort();
        kinds
    };
    assert_eq!(everything(&plain), everything(&aggregated));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_objects_are_made_read_and_replaced() {
    let server = Server::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.remote().await);
    let by_script = PostParams { field_manager: Some("script".to_owned()), dry_run: false };
    let made = maps.create(&by_script, &config_map("one", &json!({"app": "web"}))).await.expect("made");
    assert_eq!(made.namespace().as_deref(), Some("default"));
    assert!(made.uid().is_some() && made.creation_timestamp().is_some());
    assert_eq!(managers(&made), [("script".to_owned(), "Update".to_owned(), String::new())]);
    assert_eq!(maps.get("one").await.expect("read"), made);
    assert_eq!(maps.get_with("one", &GetParams::any()).await.expect("read from a cache"), made);
    let metadata = maps.get_metadata("one").await.expect("its metadata");
    assert_eq!(metadata.metadata.uid, made.metadata.uid);
    assert_eq!(
        metadata.types.as_ref().map(|types| types.kind.as_str()),
        Some("PartialObjectMetadata"),
        "{metadata:?}"
    );
    assert!(maps.get_opt("none").await.expect("an answer").is_none());

    let mut changed = made.clone();
    changed.data.get_or_insert_default().insert("b".to_owned(), "2".to_owned());
    let replaced = maps.replace("one", &PostParams::default(), &changed).await.expect("replaced");
    assert_eq!(replaced.data, changed.data);
    assert_eq!(replaced.metadata.uid, made.metadata.uid);
    assert_ne!(version(&replaced), version(&made));
    let status = refused(maps.replace("one", &PostParams::default(), &changed).await, 409, "Conflict");
    assert!(status.is_conflict() && !status.is_already_exists());
    assert!(status.message.contains("the object has been modified"), "{status:?}");

    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let never = maps.create(&dry, &config_map("dry", &json!({}))).await.expect("a dry run");
    assert!(never.uid().is_some());
    refused(maps.get("dry").await, 404, "NotFound");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_typed() {
    let server = Server::start().await;
    let client = server.remote().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let post = PostParams::default();
    maps.create(&post, &config_map("one", &json!({}))).await.expect("made");

    let status = refused(maps.create(&post, &config_map("one", &json!({}))).await, 409, "AlreadyExists");
    assert!(status.is_already_exists());
    assert_eq!(status.message, "configmaps \"one\" already exists");
    let status = refused(maps.get("none").await, 404, "NotFound");
    assert!(status.is_not_found());
    let details = status.details.expect("details");
    assert_eq!((details.name.as_str(), details.kind.as_str()), ("none", "configmaps"));
    let status = refused(maps.create(&post, &config_map("Bad_Name", &json!({}))).await, 422, "Invalid");
    assert!(status.is_invalid());
    assert_eq!(fields(&status), [("FieldValueInvalid", "metadata.name")]);

    // All that is wrong, not the first of it.
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let wrong = object(json!({
        "metadata": {"name": "web"},
        "spec": {"type": "Never", "ports": [{"port": 0}]},
    }));
    let status = refused(services.create(&post, &wrong).await, 422, "Invalid");
    let found = fields(&status);
    assert!(found.contains(&("FieldValueInvalid", "spec.ports[0].port")), "{status:?}");
    assert!(found.contains(&("FieldValueNotSupported", "spec.type")), "{status:?}");
    let details = status.details.expect("details");
    assert_eq!((details.name.as_str(), details.kind.as_str()), ("web", "Service"));

    let elsewhere: Api<ConfigMap> = Api::namespaced(client, "none");
    let status = refused(elsewhere.create(&post, &config_map("one", &json!({}))).await, 404, "NotFound");
    assert_eq!(status.message, "namespaces \"none\" not found");
    assert!(elsewhere.list(&ListParams::default()).await.expect("an empty list").items.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_selectors_and_pages() {
    let server = Server::start().await;
    let client = server.remote().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    for index in 0..5 {
        let labels = json!({"parity": if index % 2 == 0 { "even" } else { "odd" }});
        maps.create(&PostParams::default(), &config_map(&format!("item-{index}"), &labels))
            .await
            .expect("made");
    }
    let all = ["item-0", "item-1", "item-2", "item-3", "item-4"];
    for (parameters, wanted) in [
        (ListParams::default().labels("parity=even"), vec!["item-0", "item-2", "item-4"]),
        (ListParams::default().labels("parity notin (even),parity"), vec!["item-1", "item-3"]),
        (
            ListParams::default().labels("parity=even").fields("metadata.name!=item-2"),
            vec!["item-0", "item-4"],
        ),
        (ListParams::default().fields("metadata.name=item-3"), vec!["item-3"]),
        (ListParams::default().match_any().labels("parity"), all.to_vec()),
    ] {
        let list = maps.list(&parameters).await.expect("a list");
        assert_eq!(names(&list.items), wanted, "{parameters:?}");
        assert_eq!(list.types.kind, "ConfigMapList");
    }
    refused(maps.list(&ListParams::default().labels("a in b")).await, 400, "BadRequest");
    refused(maps.list(&ListParams::default().fields("data.a=1")).await, 400, "BadRequest");

    let mut parameters = ListParams::default().limit(2);
    let (mut pages, mut remaining, mut versions) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let page = maps.list(&parameters).await.expect("a page");
        pages.push(names(&page.items));
        remaining.push(page.metadata.remaining_item_count);
        versions.push(page.metadata.resource_version.expect("a version"));
        // What comes between pages is not in the list that the first one began.
        if pages.len() == 1 {
            maps.create(&PostParams::default(), &config_map("item-9", &json!({}))).await.expect("made");
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(pages, [vec!["item-0", "item-1"], vec!["item-2", "item-3"], vec!["item-4"]]);
    assert_eq!(remaining, [Some(3), Some(1), None]);
    versions.dedup();
    assert_eq!(versions.len(), 1, "{versions:?}");
    refused(maps.list(&ListParams::default().limit(1).continue_token("none")).await, 400, "BadRequest");
    let exact = ListParams::default().at(&versions[0]).matching(kube::api::VersionMatch::Exact);
    assert_eq!(names(&maps.list(&exact).await.expect("the list as it was").items), all);

    let metadata = maps.list_metadata(&ListParams::default().labels("parity=odd")).await.expect("metadata");
    assert_eq!(names(&metadata.items), ["item-1", "item-3"]);
    let everywhere: Api<ConfigMap> = Api::all(client);
    let found = everywhere.list(&ListParams::default().labels("parity")).await.expect("a list");
    assert_eq!(names(&found.items), all);
    assert!(found.items.iter().all(|item| item.namespace().as_deref() == Some("default")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_tell_what_happens_and_end_in_time() {
    let server = Server::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.remote().await);
    let post = PostParams::default();
    let keep = |word: &str| Patch::Merge(json!({"metadata": {"labels": {"keep": word}}}));
    maps.create(&post, &config_map("first", &json!({"keep": "yes"}))).await.expect("made");

    // A streamed list: what is there, a bookmark that says so, then what happens.
    let parameters = WatchParams::streaming_lists().labels("keep=yes");
    let mut stream = maps.watch(&parameters, "").await.expect("a watch").boxed();
    let event = next(&mut stream).await.expect("the first object");
    assert_eq!(seen(&event), ("added", "first".to_owned()));
    let event = next(&mut stream).await.expect("a bookmark");
    assert_eq!(seen(&event), ("bookmark", "true".to_owned()));
    let WatchEvent::Bookmark(bookmark) = event else { unreachable!("just compared") };
    assert_eq!(bookmark.types.kind, "ConfigMap");
    let began = bookmark.metadata.resource_version;

    maps.create(&post, &config_map("second", &json!({"keep": "yes"}))).await.expect("made");
    maps.create(&post, &config_map("other", &json!({"keep": "no"}))).await.expect("made");
    maps.patch("second", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "2"}})))
        .await
        .expect("patched");
    // An object that no longer matches has gone for this watcher, and one that now does is new to it.
    maps.patch("second", &PatchParams::default(), &keep("no")).await.expect("patched");
    maps.patch("other", &PatchParams::default(), &keep("yes")).await.expect("patched");
    maps.delete("first", &DeleteParams::default()).await.expect("deleted");
    let happened = [
        ("added", "second"),
        ("modified", "second"),
        ("deleted", "second"),
        ("added", "other"),
        ("deleted", "first"),
    ];
    for (what, name) in happened {
        let event = next(&mut stream).await.expect("an event");
        assert_eq!(seen(&event), (what, name.to_owned()));
    }
    drop(stream);

    // The same again from the version of the bookmark, and the end after the time asked for.
    let parameters = WatchParams::default().labels("keep=yes").timeout(1);
    let started = Instant::now();
    let mut stream = maps.watch(&parameters, &began).await.expect("a watch").boxed();
    let mut again = Vec::new();
    while let Some(event) = next(&mut stream).await {
        // Where bookmarks come besides is the server's choice.
        if !matches!(event, WatchEvent::Bookmark(_)) {
            again.push(seen(&event));
        }
    }
    assert_eq!(again, happened.map(|(what, name)| (what, name.to_owned())));
    assert!(started.elapsed() >= Duration::from_millis(900), "ended after {:?}", started.elapsed());

    let mut stream = maps.watch_metadata(&WatchParams::default(), "0").await.expect("a watch").boxed();
    let mut there = Vec::new();
    for _ in 0..2 {
        there.push(seen(&next(&mut stream).await.expect("an object that is there")));
    }
    there.sort();
    assert_eq!(there, [("added", "other".to_owned()), ("added", "second".to_owned())]);
    drop(stream);
    server.stop().await;
}

/// kube's own JSON patches need a second, older `json-patch` in the build; its client sends what we write just as well.
async fn json_patch(client: &Client, path: &str, operations: &Value) -> kube::Result<Deployment> {
    let request = http::Request::patch(path)
        .header("content-type", "application/json-patch+json")
        .body(operations.to_string().into_bytes())
        .expect("a request");
    client.request(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_every_kind() {
    let server = Server::start().await;
    let client = server.remote().await;
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let made = deployments.create(&PostParams::default(), &deployment("web")).await.expect("made");
    let containers = |found: &Deployment| -> Vec<String> {
        let pod = found.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).expect("a pod's spec");
        pod.containers.iter().map(|container| container.name.clone()).collect()
    };
    let replicas = |found: &Deployment| found.spec.as_ref().and_then(|spec| spec.replicas);
    let by_patcher = PatchParams { field_manager: Some("patcher".to_owned()), ..PatchParams::default() };
    let side = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "side", "image": "registry.example/side:1"}]}}}});

    let found = deployments.patch("web", &by_patcher, &Patch::Strategic(&side)).await.expect("strategic");
    assert_eq!(containers(&found), ["side", "main"]);
    assert!(managers(&found).contains(&("patcher".to_owned(), "Update".to_owned(), String::new())));
    assert_eq!(found.metadata.generation, Some(2));
    let found = deployments.patch("web", &by_patcher, &Patch::Merge(&side)).await.expect("merge");
    assert_eq!(containers(&found), ["side"]);
    let nothing = deployments.patch("web", &by_patcher, &Patch::Merge(&side)).await.expect("the same again");
    assert_eq!(version(&nothing), version(&found));

    let path = "/apis/apps/v1/namespaces/default/deployments/web";
    let operations = json!([
        {"op": "test", "path": "/spec/replicas", "value": 1},
        {"op": "replace", "path": "/spec/replicas", "value": 3},
    ]);
    assert_eq!(replicas(&json_patch(&client, path, &operations).await.expect("operations")), Some(3));
    refused(json_patch(&client, path, &operations).await, 422, "Invalid");
    refused(json_patch(&client, path, &json!([{"op": "leap", "path": "/spec"}])).await, 422, "Invalid");
    refused(json_patch(&client, path, &json!({"spec": {"replicas": 3}})).await, 400, "BadRequest");

    let dry = PatchParams::default().dry_run();
    let found = deployments.patch("web", &dry, &Patch::Merge(json!({"spec": {"replicas": 7}}))).await;
    assert_eq!(replicas(&found.expect("a dry run")), Some(7));
    assert_eq!(replicas(&deployments.get("web").await.expect("read")), Some(3));
    let stale = json!({"metadata": {"resourceVersion": version(&made)}, "spec": {"replicas": 9}});
    refused(deployments.patch("web", &by_patcher, &Patch::Merge(&stale)).await, 409, "Conflict");
    let selector = json!({"spec": {"selector": {"matchLabels": {"app": "other"}}}});
    let status =
        refused(deployments.patch("web", &by_patcher, &Patch::Merge(&selector)).await, 422, "Invalid");
    assert!(fields(&status).contains(&("FieldValueInvalid", "spec.selector")), "{status:?}");
    refused(deployments.patch("none", &by_patcher, &Patch::Merge(&side)).await, 404, "NotFound");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_knows_whose_a_field_is() {
    let server = Server::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.remote().await);
    let applied = |data: Value| {
        Patch::Apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": data,
        }))
    };
    let owner = |word: &str| (word.to_owned(), "Apply".to_owned(), String::new());
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));

    let made = maps.patch("settings", &one, &applied(json!({"a": "1", "b": "1"}))).await.expect("made");
    assert_eq!(managers(&made), [owner("one")]);
    let same = maps.patch("settings", &one, &applied(json!({"a": "1", "b": "1"}))).await.expect("again");
    assert_eq!(version(&same), version(&made));
    // What one says too is no conflict; then both have it.
    let shared = maps.patch("settings", &two, &applied(json!({"a": "1"}))).await.expect("agreed");
    assert_eq!(managers(&shared), [owner("one"), owner("two")]);

    let status = refused(maps.patch("settings", &two, &applied(json!({"a": "2"}))).await, 409, "Conflict");
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    assert_eq!(fields(&status), [("FieldManagerConflict", ".data.a")]);
    let forced =
        maps.patch("settings", &two.clone().force(), &applied(json!({"a": "2"}))).await.expect("forced");
    assert_eq!(json!(forced.data), json!({"a": "2", "b": "1"}));
    // A field that its only manager no longer applies is gone.
    let less = maps.patch("settings", &one, &applied(json!({}))).await.expect("less");
    assert_eq!(json!(less.data), json!({"a": "2"}));
    let update = Patch::Merge(json!({"data": {"a": "3"}}));
    maps.patch("settings", &PatchParams::default(), &update).await.expect("an update asks nobody");
    refused(maps.patch("settings", &two, &applied(json!({"a": "2"}))).await, 409, "Conflict");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_change_their_part_only() {
    let server = Server::start().await;
    let client = server.remote().await;
    let post = PostParams::default();
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments.create(&post, &deployment("web")).await.expect("made");

    let mut scale = deployments.get_scale("web").await.expect("a scale");
    assert_eq!(scale.spec.as_ref().and_then(|spec| spec.replicas), Some(1));
    assert_eq!(scale.status.as_ref().and_then(|status| status.selector.as_deref()), Some("app=web"));
    scale.spec.get_or_insert_default().replicas = Some(4);
    let scale = deployments.replace_scale("web", &post, &scale).await.expect("scaled");
    assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(4));
    let patch = Patch::Merge(json!({"spec": {"replicas": 2}}));
    let scale = deployments.patch_scale("web", &PatchParams::default(), &patch).await.expect("scaled");
    assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(2));
    let patch = Patch::Merge(json!({"spec": {"replicas": -1}}));
    refused(deployments.patch_scale("web", &PatchParams::default(), &patch).await, 422, "Invalid");

    let patch = Patch::Merge(json!({"spec": {"replicas": 9}, "status": {"replicas": 2}}));
    let found = deployments.patch_status("web", &PatchParams::default(), &patch).await.expect("a status");
    let parts = |found: &Deployment| {
        let spec = found.spec.as_ref().and_then(|spec| spec.replicas);
        (spec, found.status.as_ref().and_then(|status| status.replicas))
    };
    assert_eq!(parts(&found), (Some(2), Some(2)));
    assert!(managers(&found).iter().any(|(_, _, subresource)| subresource == "status"));
    let mut found = deployments.get_status("web").await.expect("read through its own path");
    found.status.get_or_insert_default().observed_generation = found.metadata.generation;
    found.spec.as_mut().expect("a spec").replicas = Some(9);
    let found = deployments.replace_status("web", &post, &found).await.expect("replaced");
    assert_eq!(parts(&found), (Some(2), Some(2)));
    assert_eq!(found.status.and_then(|status| status.observed_generation), found.metadata.generation);
    let patch = Patch::Merge(json!({"status": {"replicas": 7}}));
    let found = deployments.patch("web", &PatchParams::default(), &patch).await.expect("no change");
    assert_eq!(parts(&found), (Some(2), Some(2)));
    let restarted = deployments.restart("web").await.expect("restarted");
    let template = restarted.spec.expect("a spec").template.metadata.expect("metadata");
    assert!(template.annotations.is_some_and(|all| all.contains_key("kube.kubernetes.io/restartedAt")));

    let pods: Api<Pod> = Api::default_namespaced(client);
    pods.create(&post, &pod("one")).await.expect("made");
    let binding: Binding = object(json!({
        "metadata": {"name": "one"}, "target": {"apiVersion": "v1", "kind": "Node", "name": "somewhere"},
    }));
    let bound: Status = pods.create_subresource("binding", "one", &post, &binding).await.expect("bound");
    assert!(bound.is_success(), "{bound:?}");
    let found = pods.get("one").await.expect("read");
    assert_eq!(found.spec.and_then(|spec| spec.node_name).as_deref(), Some("somewhere"));
    let again = pods.create_subresource::<Binding, Status>("binding", "one", &post, &binding).await;
    refused(again, 409, "Conflict");
    let evicted = pods.evict("one", &EvictParams::default()).await.expect("evicted");
    assert!(evicted.is_success(), "{evicted:?}");
    let found = pods.get("one").await.expect("still there, for its grace");
    assert!(found.metadata.deletion_timestamp.is_some());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_have_conditions_and_ways() {
    let server = Server::start().await;
    let client = server.remote().await;
    let post = PostParams::default();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let made = maps.create(&post, &config_map("one", &json!({}))).await.expect("made");
    let only = |uid: Option<&str>, version: Option<&str>| {
        DeleteParams::default().preconditions(Preconditions {
            uid: uid.map(str::to_owned),
            resource_version: version.map(str::to_owned),
        })
    };
    let uid = made.uid().expect("a uid");
    let status = refused(maps.delete("one", &only(Some("other"), None)).await, 409, "Conflict");
    assert!(status.message.contains("the UID in the precondition (other) does not match"), "{status:?}");
    refused(maps.delete("one", &only(Some(&uid), Some("1"))).await, 409, "Conflict");
    maps.delete("one", &DeleteParams::default().dry_run()).await.expect("a dry run");
    let gone = maps.delete("one", &only(Some(&uid), Some(&version(&made)))).await.expect("deleted");
    let status = gone.right().expect("gone at once is told by a Status");
    assert!(status.is_success());
    let details = status.details.expect("details");
    assert_eq!((details.name.as_str(), details.kind.as_str(), details.uid), ("one", "configmaps", uid));
    refused(maps.delete("one", &DeleteParams::default()).await, 404, "NotFound");

    // Nobody collects garbage here, so what a delete waits for stays to be seen.
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    for (name, parameters, finalizer) in [
        ("foreground", DeleteParams::foreground(), "foregroundDeletion"),
        ("orphan", DeleteParams::orphan(), "orphan"),
    ] {
        deployments.create(&post, &deployment(name)).await.expect("made");
        let left = deployments.delete(name, &parameters).await.expect("deleted");
        let left = left.left().expect("an object that is still there is told by itself");
        assert_eq!(left.finalizers(), [finalizer]);
        assert!(left.metadata.deletion_timestamp.is_some());
        let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        deployments.patch(name, &PatchParams::default(), &patch).await.expect("the last finalizer");
        refused(deployments.get(name).await, 404, "NotFound");
    }
    deployments.create(&post, &deployment("background")).await.expect("made");
    let gone = deployments.delete("background", &DeleteParams::background()).await.expect("deleted");
    assert!(gone.is_right(), "{gone:?}");

    let pods: Api<Pod> = Api::default_namespaced(client);
    let mut placed = pod("placed");
    placed.spec.as_mut().expect("a spec").node_name = Some("somewhere".to_owned());
    pods.create(&post, &placed).await.expect("made");
    let left = pods.delete("placed", &DeleteParams::default().grace_period(5)).await.expect("deleted");
    let left = left.left().expect("a pod on a node has time to end");
    assert_eq!(left.metadata.deletion_grace_period_seconds, Some(5));
    pods.delete("placed", &DeleteParams::default().grace_period(0)).await.expect("at once");
    refused(pods.get("placed").await, 404, "NotFound");

    for (name, app) in [("a", "web"), ("b", "web"), ("c", "other")] {
        maps.create(&post, &config_map(name, &json!({"app": app}))).await.expect("made");
    }
    let gone =
        maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("app=web")).await;
    let gone = gone.expect("deleted").left().expect("upstream answers with the list of them");
    assert_eq!(names(&gone.items), ["a", "b"]);
    let left = maps.list(&ListParams::default().labels("app")).await.expect("a list");
    assert_eq!(names(&left.items), ["c"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dynamic_objects_need_no_types() {
    let server = Server::start().await;
    let client = server.remote().await;
    let gvk = GroupVersionKind::gvk("networking.k8s.io", "v1", "Ingress");
    let (resource, _) = pinned_kind(&client, &gvk).await.expect("ingresses");
    assert_eq!(resource.plural, "ingresses");
    let ingresses: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let wanted = DynamicObject::new("web", &resource).data(json!({"spec": {"defaultBackend": backend}}));
    let mut made = ingresses.create(&PostParams::default(), &wanted).await.expect("made");
    assert_eq!(made.types.as_ref().map(|types| types.kind.as_str()), Some("Ingress"));
    assert_eq!(made.data["spec"]["defaultBackend"], backend);

    made.data["spec"]["ingressClassName"] = json!("some");
    let replaced = ingresses.replace("web", &PostParams::default(), &made).await.expect("replaced");
    assert_eq!(replaced.metadata.generation, Some(2));
    let applied = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web"},
        "spec": {"rules": [{"host": "web.example"}]},
    });
    let found =
        ingresses.patch("web", &PatchParams::apply("one"), &Patch::Apply(&applied)).await.expect("applied");
    assert_eq!(found.data["spec"]["rules"][0]["host"], "web.example");
    assert_eq!(found.data["spec"]["ingressClassName"], "some");
    let status = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}));
    let found = ingresses.patch_status("web", &PatchParams::default(), &status).await.expect("a status");
    assert_eq!(found.data["status"]["loadBalancer"]["ingress"][0]["ip"], "192.0.2.1");

    let list = ingresses.list(&ListParams::default()).await.expect("a list");
    assert_eq!(names(&list.items), ["web"]);
    let began = list.metadata.resource_version.expect("a version");
    ingresses.delete("web", &DeleteParams::default()).await.expect("deleted");
    let mut stream = ingresses.watch(&WatchParams::default(), &began).await.expect("a watch").boxed();
    let event = next(&mut stream).await.expect("an event");
    assert_eq!(seen(&event), ("deleted", "web".to_owned()));
    drop(stream);
    refused(ingresses.get("web").await, 404, "NotFound");

    let nothing = GroupVersionKind::gvk("networking.k8s.io", "v1", "Nothing");
    assert!(pinned_kind(&client, &nothing).await.is_err());
    server.stop().await;
}

/// Another user of the same server: the administrator's kubeconfig with a token in place of the certificate.
async fn with_token(server: &Server, token: &str) -> Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(&server.kubeconfig).expect("the kubeconfig");
    let mut value = serde_json::to_value(kubeconfig).expect("a kubeconfig is plain data");
    value["users"][0]["user"] = json!({"token": token});
    let path = server.directory.join("token.conf");
    std::fs::write(&path, value.to_string()).expect("written");
    podium_client::from_kubeconfig(&path).await.expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_gives_what_its_roles_give() {
    let server = Server::start().await;
    let client = server.remote().await;
    let post = PostParams::default();
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    let roles: Api<Role> = Api::default_namespaced(client.clone());
    let bindings: Api<RoleBinding> = Api::default_namespaced(client);
    accounts.create(&post, &object(json!({"metadata": {"name": "robot"}}))).await.expect("an account");
    let role = object(json!({
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}],
    }));
    roles.create(&post, &role).await.expect("a role");
    let binding = object(json!({
        "metadata": {"name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
    }));
    bindings.create(&post, &binding).await.expect("a binding");

    let request: TokenRequest = object(json!({"spec": {"audiences": [], "expirationSeconds": 3600}}));
    let answer = accounts.create_token_request("robot", &post, &request).await.expect("a token");
    let token = answer.status.expect("a status").token.expect("a token");
    let robot = with_token(&server, &token).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(robot.clone());
    // The server tells its authorizer of a binding before it answers who wrote it.
    maps.list(&ListParams::default()).await.expect("a role that is in force");
    let status = refused(maps.create(&post, &config_map("one", &json!({}))).await, 403, "Forbidden");
    assert!(status.is_forbidden());
    assert_eq!(
        status.message,
        "configmaps is forbidden: User \"system:serviceaccount:default:robot\" cannot create resource \
         \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let reviews: Api<SelfSubjectAccessReview> = Api::all(robot);
    for (verb, allowed) in [("list", true), ("create", false)] {
        let review = object(json!({"spec": {"resourceAttributes": {
            "verb": verb, "resource": "configmaps", "namespace": "default"}}}));
        let answer = reviews.create(&post, &review).await.expect("a review");
        assert_eq!(answer.status.map(|status| status.allowed), Some(allowed), "{verb}");
    }
    let nobody: Api<ConfigMap> = Api::default_namespaced(with_token(&server, "none").await);
    refused(nobody.list(&ListParams::default()).await, 401, "Unauthorized");
    server.stop().await;
}
