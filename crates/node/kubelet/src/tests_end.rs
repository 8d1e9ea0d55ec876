//! Ends that are in a hurry, and hooks: against a runtime that pretends, as in [`crate::tests_life`].

use std::io::Write as _;

use serde_json::{Value, json};

use crate::{
    testing::eventually,
    tests_life::{LIMIT, World, container, is, with},
};

/// A container with a hook that runs a command.
fn hooked(name: &str, hook: &str, command: &str) -> Value {
    with(container(name), json!({"lifecycle": {hook: {"exec": {"command": [command]}}}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_without_end_does_not_hold_a_deletion_up() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().endless.push("forever".into());
    world.pod("web", json!({"containers": [hooked("a", "postStart", "forever"), container("b")]}));
    world.called("exec forever").await;
    world.api.delete("pods", "default", "web", Some(4));
    world.gone("web").await;
    let calls = world.runtime.calls();
    assert!(calls.contains(&"stop a 4".to_owned()), "{calls:?}");
    assert!(!calls.contains(&"start b".to_owned()), "{calls:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_interrupts_the_kill_of_one_container() {
    let Some(world) = World::start() else { return };
    let probe =
        json!({"livenessProbe": {"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1}});
    {
        let mut held = world.runtime.held.lock();
        held.ignores_stop.push("a".into());
        held.exec.insert("alive".into(), 1);
    }
    world.pod(
        "web",
        json!({"terminationGracePeriodSeconds": 3600, "containers": [with(container("a"), probe), container("b")]}),
    );
    world.called("stop a 3600").await;
    world.api.delete("pods", "default", "web", Some(4));
    world.gone("web").await;
    let calls = world.runtime.calls();
    assert!(calls.contains(&"stop a 4".to_owned()) && calls.contains(&"stop b 4".to_owned()), "{calls:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_deletion_is_heard_by_sidecars() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().ignores_stop.push("side".into());
    let sidecar = with(container("side"), json!({"restartPolicy": "Always"}));
    world.pod("web", json!({"initContainers": [sidecar], "containers": [container("a")]}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    world.api.delete("pods", "default", "web", Some(3600));
    world.called("stop side 3").await;
    world.api.delete("pods", "default", "web", Some(1));
    world.gone("web").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_at_once_and_sidecars_wait_for_their_turn() {
    let Some(world) = World::start() else { return };
    {
        let mut held = world.runtime.held.lock();
        held.ignores_stop.extend(["a".to_owned(), "second".to_owned()]);
    }
    let sidecar = |name: &str| {
        with(hooked(name, "preStop", &format!("bye-{name}")), json!({"restartPolicy": "Always"}))
    };
    let spec =
        json!({"initContainers": [sidecar("first"), sidecar("second")], "containers": [container("a")]});
    world.pod("web", spec);
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    world.api.delete("pods", "default", "web", Some(3600));
    for call in ["stop a 3", "exec bye-first", "exec bye-second"] {
        world.called(call).await;
    }
    let stopped =
        |name: &str| world.runtime.calls().iter().any(|call| call.starts_with(&format!("stop {name} ")));
    assert!(!stopped("first") && !stopped("second"), "{:?}", world.runtime.calls());
    world.runtime.end("a", 0);
    world.called("stop second 3").await;
    assert!(!stopped("first"), "{:?}", world.runtime.calls());
    world.runtime.end("second", 0);
    world.gone("web").await;
    assert!(stopped("first"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_one_grace_for_hooks_and_turns() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().endless.push("forever".into());
    let sidecar = with(container("side"), json!({"restartPolicy": "Always"}));
    let spec = json!({"initContainers": [sidecar], "containers": [hooked("a", "preStop", "forever")]});
    world.pod("web", spec);
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    world.api.delete("pods", "default", "web", Some(1));
    world.gone("web").await;
    let calls = world.runtime.calls();
    // The hook took all of it: both get the least there is, and neither waits for the other.
    assert!(calls.contains(&"stop a 2".to_owned()) && calls.contains(&"stop side 2".to_owned()), "{calls:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_said_last_stays_with_its_pod() {
    let Some(world) = World::start() else { return };
    let telling = with(
        container("a"),
        json!({"terminationMessagePath": "said", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
    );
    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    world.pod("job", json!({"restartPolicy": "Never", "containers": [telling], "volumes": volumes}));
    let pod = world.wait("job", "is ready", |pod| is(pod, "Ready", "True")).await;
    let mounts = world.runtime.held.lock().containers[0].1.mounts.clone();
    let of = |path: &str| mounts.iter().find(|mount| mount.container_path == path).unwrap().host_path.clone();
    std::fs::write(of("/said"), "done").unwrap();
    world.runtime.end("a", 0);
    let said = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"].clone();
    let mut pod_now = world.wait("job", "succeeds", |pod| pod["status"]["phase"] == "Succeeded").await;
    assert_eq!(said(&pod_now), "done");
    eventually("its volumes go", LIMIT, || async {
        if std::path::Path::new(&of("/v")).exists() { Err("still there".to_owned()) } else { Ok(()) }
    })
    .await;
    let world = world.restart().await;
    pod_now["metadata"]["generation"] = json!(2);
    world.api.put("pods", pod_now);
    let after = world.wait("job", "is looked at", |pod| pod["status"]["observedGeneration"] == 2).await;
    assert_eq!(said(&after), "done");
    world.api.delete("pods", "default", "job", Some(3));
    world.gone("job").await;
    let files = world.runtime.path().join("kubelet/pods").join(pod["metadata"]["uid"].as_str().unwrap());
    assert!(!files.exists());
    world.stop().await;
}

/// The exit code of the pod's container, and whether the pod is said to be done.
fn done(pod: &Value) -> bool {
    pod["status"]["phase"] == "Succeeded"
        && pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_takes_ended_containers_before_images() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().ends_at_once.insert("a".into(), 0);
    world.pod("job", json!({"restartPolicy": "Never", "containers": [container("a")]}));
    world.wait("job", "succeeds", done).await;
    world.runtime.held.lock().images.push("old:v1".into());
    let world = world
        .restart_as(&|settings| {
            settings.eviction_hard = Some([("nodefs.available".to_owned(), "99.999%".to_owned())].into());
            settings.image_minimum_gc_age = crate::Span::default();
        })
        .await;
    world.event("EvictionThresholdMet", "Attempting to reclaim ephemeral-storage").await;
    let removed = || world.runtime.held.lock().removed.clone();
    eventually("what nobody uses goes", LIMIT, || async {
        if removed().len() > 1 { Ok(()) } else { Err(format!("{:?}", removed())) }
    })
    .await;
    assert_eq!(removed(), ["container a", "image old:v1"], "the job's own image may be wanted again");
    eventually("its sandbox goes", LIMIT, || async {
        if world.runtime.held.lock().sandboxes.is_empty() { Ok(()) } else { Err("still there".to_owned()) }
    })
    .await;
    // What is known of it stays known.
    let mut pod = world.api.get("pods", "default", "job").unwrap();
    pod["metadata"]["generation"] = json!(2);
    world.api.put("pods", pod);
    let pod = world.wait("job", "is looked at", |pod| pod["status"]["observedGeneration"] == 2).await;
    assert!(done(&pod), "{pod}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ended_containers_the_newest_stays_while_there_is_room() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().ends_at_once.insert("a".into(), 0);
    world.pod("job", json!({"restartPolicy": "Never", "containers": [container("a")]}));
    world.wait("job", "succeeds", done).await;
    let world = world
        .restart_between(&|world| {
            let containers = &mut world.runtime.held.lock().containers;
            let (sandbox, mut older) = containers[0].clone();
            older.id = "older".into();
            older.created_at -= 1;
            containers.push((sandbox, older));
        })
        .await;
    let left = || -> Vec<String> {
        world.runtime.held.lock().containers.iter().map(|(_, status)| status.id.clone()).collect()
    };
    eventually("the older one goes", LIMIT, || async {
        if left().len() == 1 { Ok(()) } else { Err(format!("{:?}", left())) }
    })
    .await;
    assert_ne!(left(), ["older"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_went_while_nobody_looked_ends_with_its_hooks() {
    let Some(world) = World::start() else { return };
    let hook = with(hooked("a", "preStop", "bye"), json!({"ports": [{"containerPort": 80}]}));
    world.pod("web", json!({"terminationGracePeriodSeconds": 40, "containers": [hook, container("b")]}));
    let pod = world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    let world = world
        .restart_between(&|world| {
            world.api.delete("pods", "default", "web", Some(0));
            world.runtime.held.lock().calls.clear();
        })
        .await;
    world.event("Killing", "Stopping container a").await;
    for call in ["exec bye", "stop a 40", "stop b 40", "stop-sandbox"] {
        world.called(call).await;
    }
    let calls = world.runtime.calls();
    let at = |call: &str| calls.iter().position(|one| one == call).unwrap();
    assert!(at("exec bye") < at("stop a 40"), "{calls:?}");
    let files = world.runtime.path().join("kubelet/pods").join(pod["metadata"]["uid"].as_str().unwrap());
    eventually("its files go", LIMIT, || async {
        if files.exists() { Err("still there".to_owned()) } else { Ok(()) }
    })
    .await;
    assert!(world.runtime.held.lock().containers.is_empty());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_whose_hook_has_no_end_holds_nothing_up() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().endless.push("forever".into());
    for (name, hook) in [("slow", "forever"), ("quick", "bye")] {
        world.pod(
            name,
            json!({"terminationGracePeriodSeconds": 3600, "containers": [hooked(name, "preStop", hook)]}),
        );
        world.wait(name, "is ready", |pod| is(pod, "Ready", "True")).await;
    }
    let world = world
        .restart_between(&|world| {
            for name in ["slow", "quick"] {
                world.api.delete("pods", "default", name, Some(0));
            }
        })
        .await;
    world.called("exec forever").await;
    world.called("stop quick 3").await;
    let left = || world.runtime.held.lock().sandboxes.len();
    eventually("the quick one goes", LIMIT, || async {
        if left() == 1 { Ok(()) } else { Err(format!("{} sandboxes", left())) }
    })
    .await;
    let stopped = world.runtime.calls().iter().any(|call| call.starts_with("stop slow"));
    assert!(!stopped, "its grace is not over: {:?}", world.runtime.calls());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_for_want_of_memory_is_told() {
    let Some(world) = World::start() else { return };
    let path = world.runtime.path().join("kmsg");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Both ends, so that neither opening nor writing waits for the kubelet.
    let log = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let world = world.restart().await;
    for line in ["4,1,1,-;sh invoked oom-killer: order=0", "3,2,1,-;Out of memory: Killed process 12 (sh) x"]
    {
        writeln!(&log, "{line}").unwrap();
    }
    world.event("SystemOOM", "System OOM encountered, victim process: sh, pid: 12").await;
    world.stop().await;
}
