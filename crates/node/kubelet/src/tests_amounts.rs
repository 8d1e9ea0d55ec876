//! What pods ask for, against a runtime that pretends: amounts that change while they run, and who goes for whom. Cgroups are
//! real, so these need root.

use serde_json::{Value, json};

use crate::tests_life::{World, container, is, with};

#[tokio::test(flavor = "multi_thread")]
async fn resizing_leaves_containers_running_unless_they_asked_for_a_restart() {
    let Some(world) = World::start() else { return };
    let sized = |name: &str, cpu: &str, memory: &str| {
        with(
            container(name),
            json!({"resources": {"requests": {"cpu": cpu}, "limits": {"memory": memory}},
            "resizePolicy": if name == "b" { json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]) } else { json!([]) }}),
        )
    };
    world.pod("web", json!({"containers": [sized("a", "10m", "64Mi"), sized("b", "10m", "64Mi")]}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    let change = |generation: i64, containers: Value| {
        let mut pod = world.api.get("pods", "default", "web").unwrap();
        pod["metadata"]["generation"] = generation.into();
        pod["spec"]["containers"] = containers;
        world.api.put("pods", pod);
    };
    change(2, json!([sized("a", "20m", "128Mi"), sized("b", "10m", "32Mi")]));
    let done = |pod: &Value, generation: i64| {
        pod["status"]["observedGeneration"] == generation
            && !pod["status"]["conditions"].to_string().contains("PodResize")
            && is(pod, "Ready", "True")
    };
    let pod = world.wait("web", "is resized", |pod| done(pod, 2)).await;
    let statuses = &pod["status"]["containerStatuses"];
    assert_eq!(statuses[0]["resources"], json!({"requests": {"cpu": "20m"}, "limits": {"memory": "128Mi"}}));
    assert_eq!(statuses[0]["allocatedResources"], json!({"cpu": "20m"}));
    assert_eq!((&statuses[0]["restartCount"], &statuses[1]["restartCount"]), (&json!(0), &json!(1)));
    let calls = world.runtime.calls();
    assert!(calls.contains(&format!("resize a {} {}", 20, 128 << 20)), "{calls:?}");
    assert!(!calls.iter().any(|call| call.starts_with("resize b")), "{calls:?}");
    world.event("ResizeCompleted", "Pod resize completed: ").await;
    // More than any machine has: the containers stay as they are, and the pod says why.
    change(3, json!([sized("a", "9000", "128Mi"), sized("b", "10m", "32Mi")]));
    let pod = world.wait("web", "waits", |pod| is(pod, "PodResizePending", "True")).await;
    assert!(pod["status"]["conditions"].to_string().contains("Infeasible"), "{pod}");
    assert_eq!(pod["status"]["containerStatuses"][0]["resources"]["requests"]["cpu"], "20m");
    change(4, json!([sized("a", "20m", "128Mi"), sized("b", "10m", "32Mi")]));
    world.wait("web", "withdraws its wish", |pod| done(pod, 4)).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resizing_a_pod_as_a_whole() {
    let Some(world) = World::start() else { return };
    let level = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu}, "limits": {"memory": memory}});
    world.pod("web", json!({"containers": [container("a")], "resources": level("10m", "64Mi")}));
    let pod = world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    assert_eq!(pod["status"]["resources"], level("10m", "64Mi"));
    assert_eq!(pod["status"]["allocatedResources"], json!({"cpu": "10m"}));
    let change = |generation: i64, resources: Value| {
        let mut pod = world.api.get("pods", "default", "web").unwrap();
        pod["metadata"]["generation"] = generation.into();
        pod["spec"]["resources"] = resources;
        world.api.put("pods", pod);
    };
    change(2, level("20m", "128Mi"));
    let pod = world
        .wait("web", "is resized", |pod| {
            pod["status"]["resources"] == level("20m", "128Mi")
                && !pod["status"]["conditions"].to_string().contains("PodResize")
        })
        .await;
    assert_eq!(pod["status"]["allocatedResources"], json!({"cpu": "20m"}));
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    let calls = world.runtime.calls();
    assert!(calls.contains(&format!("resize a {} {}", 2, 128 << 20)), "its own by way of the pod: {calls:?}");
    world.event("ResizeStarted", "Pod resize started: ").await;
    world.event("ResizeCompleted", "Pod resize completed: ").await;
    // Requests alone concern nobody but the group.
    change(3, level("30m", "128Mi"));
    world.wait("web", "asks for more", |pod| pod["status"]["resources"] == level("30m", "128Mi")).await;
    change(4, level("9000", "128Mi"));
    let pod = world.wait("web", "waits", |pod| is(pod, "PodResizePending", "True")).await;
    assert_eq!(pod["status"]["resources"], level("30m", "128Mi"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_pod_takes_the_place_of_others() {
    let Some(world) = World::start() else { return };
    world.pod("idle", json!({"containers": [container("a")]}));
    world.wait("idle", "is ready", |pod| is(pod, "Ready", "True")).await;
    let node = world.api.get("nodes", "", "n1").unwrap_or_default();
    let cpus = node["status"]["allocatable"]["cpu"].clone();
    let all = |name: &str| with(container(name), json!({"resources": {"requests": {"cpu": cpus}}}));
    world.pod("web", json!({"containers": [all("b")]}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    world.pod("vital", json!({"priority": 2_000_000_000, "containers": [all("c")]}));
    let pod = world.wait("web", "makes room", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "Preempting");
    assert_eq!(pod["status"]["message"], "Preempted in order to admit critical pod");
    assert!(is(&pod, "DisruptionTarget", "True"), "{pod}");
    world.event("Preempting", "Preempted in order to admit critical pod").await;
    world.wait("vital", "is ready", |pod| is(pod, "Ready", "True")).await;
    let calls = world.runtime.calls();
    let at =
        |call: &str| calls.iter().position(|one| one == call).unwrap_or_else(|| panic!("{call}: {calls:?}"));
    assert!(at("stop b 30") < at("start c"), "{calls:?}");
    assert_eq!(world.api.get("pods", "default", "idle").unwrap()["status"]["phase"], "Running");
    // Nobody is left who would go for another of its kind.
    world.pod("late", json!({"priority": 2_000_000_000, "containers": [all("d")]}));
    let pod = world.wait("late", "is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "UnexpectedAdmissionError");
    world.stop().await;
}
