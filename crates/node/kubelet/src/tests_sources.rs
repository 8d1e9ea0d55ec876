//! What a kubelet takes from elsewhere than the API, against a runtime that pretends: pods from a URL, variables from files.

use serde_json::{Value, json};

use crate::{
    Span,
    testing::{
        eventually,
        pages::{Pages, ok},
    },
    tests_life::{LIMIT, World, container, is, with},
};

#[tokio::test(flavor = "multi_thread")]
async fn pods_from_a_url_run_and_are_shown() {
    let pages = Pages::start().await;
    let manifest = |image: &str| {
        let spec = json!({"terminationGracePeriodSeconds": 3, "containers": [with(container("a"), json!({"image": image}))]});
        ok(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "far"}, "spec": spec}).to_string())
    };
    pages.set([manifest("app:v1")]);
    let url = format!("http://{}/", pages.address);
    let from_there = move |settings: &mut crate::Configuration| {
        settings.static_pod_url = Some(url.clone());
        settings.http_check_frequency = Span(std::time::Duration::from_millis(20));
    };
    let Some(world) = World::start_as("", &from_there) else { return };
    world.runtime.held.lock().images.push("app:v2".into());
    let shown = world.wait("far-n1", "is ready", |pod| is(pod, "Ready", "True")).await;
    let annotation = |pod: &Value, name: &str| pod["metadata"]["annotations"][name].clone();
    assert_eq!(annotation(&shown, "kubernetes.io/config.source"), "http");
    let hash = annotation(&shown, "kubernetes.io/config.mirror");

    // A server in trouble ends nothing; it is asked on.
    pages.set(["HTTP/1.1 503 Wait\r\ncontent-length: 0\r\n\r\n"]);
    asked_twice(&pages).await;
    assert_eq!(world.runtime.calls(), ["sandbox", "start a"]);

    // Nor does a kubelet that comes back and cannot ask, though the API knows more pods than it does.
    let world = world.restart_as(&from_there).await;
    asked_twice(&pages).await;
    world.pod("near", json!({"containers": [container("b")]}));
    world.wait("near", "is ready", |pod| is(pod, "Ready", "True")).await;
    assert_eq!(world.runtime.calls(), ["sandbox", "start a", "sandbox", "start b"]);
    assert_eq!(
        world.api.get("pods", "default", "far-n1").unwrap()["metadata"]["uid"],
        shown["metadata"]["uid"]
    );

    pages.set([manifest("app:v2")]);
    world
        .wait("far-n1", "is another", |pod| {
            is(pod, "Ready", "True") && annotation(pod, "kubernetes.io/config.mirror") != hash
        })
        .await;
    pages.set([ok("{apiVersion: v1, kind: PodList}")]);
    world.gone("far-n1").await;
    assert_eq!(world.runtime.held.lock().sandboxes.len(), 1);
    world.stop().await;
}

/// Waits until the answers that are set now have been given.
async fn asked_twice(pages: &Pages) {
    let before = pages.requests().len();
    eventually("the server is asked again", LIMIT, || async {
        let now = pages.requests().len();
        if now > before + 1 { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_come_from_files_of_the_pod() {
    let Some(world) = World::start() else { return };
    let mounts = json!({"volumeMounts": [{"name": "own", "mountPath": "/own"}]});
    let variable = |key: &str, optional: bool| {
        let file = json!({"volumeName": "own", "path": "a.env", "key": key, "optional": optional});
        json!({"name": key, "valueFrom": {"fileKeyRef": file}})
    };
    let pod = |keys: &[Value]| {
        json!({"volumes": [{"name": "own", "emptyDir": {}}], "initContainers": [with(container("init"), mounts.clone())],
            "containers": [with(container("a"), json!({"env": keys}))]})
    };
    // As the init container would, before it ends.
    let write = async |name: &str, text: &str| {
        let started = format!("starts {name}");
        let pod = world
            .wait(name, &started, |pod| {
                pod["status"]["initContainerStatuses"][0]["state"]["running"].is_object()
            })
            .await;
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let volumes = world.runtime.path().join("kubelet/pods").join(uid).join("volumes");
        std::fs::write(volumes.join("kubernetes.io~empty-dir/own/a.env"), text).unwrap();
        world.runtime.end("init", 0);
    };
    world.pod("good", pod(&[variable("A", false), variable("B", true)]));
    write("good", "A='one'\n").await;
    world.wait("good", "is ready", |pod| is(pod, "Ready", "True")).await;
    let last = world.runtime.held.lock().configs.last().unwrap().envs.clone();
    let own: Vec<_> = last
        .iter()
        .map(|one| (one.key.as_str(), one.value.as_slice()))
        .filter(|(key, _)| key.len() == 1)
        .collect();
    assert_eq!(own, [("A", &b"one"[..])]);

    world.pod("bad", pod(&[variable("A", false)]));
    write("bad", "A=one\n").await;
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let why = json!({"reason": "CreateContainerConfigError", "message": "couldn't parse env file"});
    world.wait("bad", "says why", |pod| waiting(pod) == why).await;
    world.event("Failed", "Error: couldn't parse env file").await;
    world.stop().await;
}
