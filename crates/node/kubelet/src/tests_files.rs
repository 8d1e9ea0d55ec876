//! Files and mounts of pods against a runtime that pretends: what it is asked to make, and what the pod says of it.

use serde_json::{Value, json};

use crate::tests_life::{World, container, is, with};

fn mounting(mode: &str) -> Value {
    let mount = json!({"name": "v", "mountPath": "v", "readOnly": true, "recursiveReadOnly": mode});
    json!({"containers": [with(container("a"), json!({"volumeMounts": [mount]}))],
        "volumes": [{"name": "v", "emptyDir": {}}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_read_only_to_the_ground_where_the_runtime_can() {
    let Some(world) = World::start() else { return };
    let shown =
        |pod: &Value| pod["status"]["containerStatuses"][0]["volumeMounts"][0]["recursiveReadOnly"].clone();
    let asked = || world.runtime.held.lock().configs.last().unwrap().mounts.clone();
    world.pod("tries", mounting("IfPossible"));
    let pod = world.wait("tries", "is ready", |pod| is(pod, "Ready", "True")).await;
    assert_eq!(shown(&pod), "Disabled");
    assert!(asked().iter().any(|mount| mount.container_path == "/v" && mount.readonly));
    assert!(!asked().iter().any(|mount| mount.recursive_read_only));
    world.pod("insists", mounting("Enabled"));
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let pod = world
        .wait("insists", "is refused", |pod| waiting(pod)["reason"] == "CreateContainerConfigError")
        .await;
    assert_eq!(
        waiting(&pod)["message"],
        "failed to resolve recursive read-only mode: volume \"v\" requested recursive read-only mode, but it is not \
         supported by the runtime"
    );
    world.runtime.held.lock().recursive_read_only = true;
    for (name, mode) in [("first", "IfPossible"), ("second", "Enabled")] {
        world.pod(name, mounting(mode));
        let pod = world.wait(name, "is ready", |pod| is(pod, "Ready", "True")).await;
        assert_eq!(shown(&pod), "Enabled");
        assert!(asked().iter().any(|mount| mount.container_path == "/v" && mount.recursive_read_only));
    }
    // What was made before the runtime could is as it was made.
    let old = world.api.get("pods", "default", "tries").unwrap();
    assert_eq!(shown(&old), "Disabled");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_runs_that_are_forgotten_go() {
    let Some(world) = World::start() else { return };
    world.pod(
        "web",
        json!({"containers": [with(container("a"), json!({"terminationMessagePath": "/message"}))]}),
    );
    let pod = world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let own = world.runtime.path().join("kubelet/pods").join(uid).join("containers/a");
    // As a start leaves it whose container was not made, or was removed.
    std::fs::write(own.join("stale"), "").unwrap();
    world.runtime.end("a", 1);
    let restarted = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    world.wait("web", "is ready again", |pod| restarted(pod) && is(pod, "Ready", "True")).await;
    let mut left: Vec<_> = std::fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut held: Vec<std::path::PathBuf> = {
        let held = world.runtime.held.lock();
        let mounts = held.containers.iter().flat_map(|(_, one)| &one.mounts);
        mounts
            .filter(|mount| mount.container_path == "/message")
            .map(|mount| mount.host_path.clone().into())
            .collect()
    };
    left.sort();
    held.sort();
    assert_eq!((left.len(), &left), (2, &held));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_asks_the_servers_that_the_host_has_when_it_starts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    let Some(world) = World::start_as("", &|settings| settings.resolv_conf = file.clone()) else { return };
    // A host without the file, then two networks one after the other.
    for (name, server) in [("none", ""), ("home", "192.0.2.1"), ("abroad", "198.51.100.1")] {
        if !server.is_empty() {
            std::fs::write(&file, format!("nameserver {server}\n")).unwrap();
        }
        world.pod(name, json!({"dnsPolicy": "Default", "containers": [container("a")]}));
        world.wait(name, "is ready", |pod| is(pod, "Ready", "True")).await;
        let asked = world.runtime.held.lock().resolvers.last().unwrap().servers.clone();
        assert_eq!(asked.join(" "), server);
    }
    // One that cannot be read is no reason to run a pod without any.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    world.pod("held", json!({"dnsPolicy": "Default", "containers": [container("a")]}));
    world.event("FailedCreatePodSandBox", "failed to read").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_bundle_is_projected_and_follows_its_object() {
    let gates = |settings: &mut crate::Configuration| {
        for gate in ["ClusterTrustBundle", "ClusterTrustBundleProjection"] {
            settings.feature_gates.insert(gate.to_owned(), true);
        }
    };
    let Some(world) = World::start() else { return };
    let api = world.api.clone();
    let bundle = |content: &str| {
        let content = podium_pki::certificate::to_pem("CERTIFICATE", content.as_bytes());
        api.put(
            "clustertrustbundles",
            json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
                "metadata": {"name": "roots"}, "spec": {"trustBundle": content}}),
        );
        content
    };
    let mount = json!({"name": "v", "mountPath": "/v"});
    let pod = |name: &str| {
        json!({"containers": [with(container(name), json!({"volumeMounts": [mount]}))],
            "volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"name": "roots", "path": "ca.pem"}}]}}]})
    };
    // Off, as by default.
    world.pod("early", pod("a"));
    world.event("FailedMount", "ClusterTrustBundle projection is not supported in static kubelet mode").await;
    let world = world.restart_as(&gates).await;
    let reason = "MountVolume.SetUp failed for volume \"v\" : while getting ClusterTrustBundle: \
                  clustertrustbundle.certificates.k8s.io \"roots\" not found";
    world.event("FailedMount", reason).await;
    let first = bundle("one");
    let ready = world.wait("early", "is ready", |pod| is(pod, "Ready", "True")).await;
    let uid = ready["metadata"]["uid"].as_str().unwrap();
    let volume =
        world.runtime.path().join("kubelet/pods").join(uid).join("volumes/kubernetes.io~projected/v");
    let file = volume.join("ca.pem");
    let behind = || std::fs::read_link(volume.join("..data")).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), first);
    let before = behind();
    let second = bundle("two");
    crate::testing::eventually("the new bundle", crate::tests_life::LIMIT, async || {
        let found = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        if found == second { Ok(()) } else { Err(found) }
    })
    .await;
    assert_ne!(behind(), before, "a new directory took the place of the old one at once");
    world.stop().await;
}
