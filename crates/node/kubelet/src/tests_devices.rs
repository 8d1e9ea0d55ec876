//! Device plugins and drivers from registration to the container's configuration, with plugins that a test plays; and processors. Cgroups are real, so
//! these need root.

use podium_plugins::pod_resources::{
    AllocatableResourcesRequest, GetPodResourcesRequest, ListPodResourcesRequest,
    pod_resources_lister_client::PodResourcesListerClient,
};
use serde_json::{Value, json};

use crate::{
    ContainerManagerSettings,
    testing::{
        device_plugin::{FakeDevicePlugin, devices},
        driver::FakeDriver,
        eventually,
    },
    tests_life::{LIMIT, World, container, is, with},
};

const RESOURCE: &str = "example.com/gpu";

fn asking(name: &str, count: u32) -> Value {
    with(container(name), json!({"resources": {"limits": {RESOURCE: count.to_string()}}}))
}

impl World {
    /// Starts a plugin and registers it, as soon as the kubelet listens.
    async fn plugin(&self, name: &str, ids: &[&str]) -> FakeDevicePlugin {
        let directory = self.runtime.path().join("kubelet/device-plugins");
        let socket = directory.join("kubelet.sock");
        eventually("the kubelet's socket", LIMIT, || async {
            tokio::net::UnixStream::connect(&socket).await.map_err(|error| error.to_string())
        })
        .await;
        let plugin = FakeDevicePlugin::serve(&directory, name, ids);
        plugin.register(RESOURCE).await.unwrap();
        plugin
    }

    async fn node_has(&self, all: &str, healthy: &str) {
        eventually("the node shows its devices", LIMIT, || async {
            let node = self.api.get("nodes", "", "n1").unwrap_or_default();
            let (capacity, allocatable) =
                (&node["status"]["capacity"][RESOURCE], &node["status"]["allocatable"][RESOURCE]);
            if *capacity == all && *allocatable == healthy {
                Ok(())
            } else {
                Err(format!("{capacity} {allocatable}"))
            }
        })
        .await;
    }
}

fn health(pod: &Value) -> Vec<String> {
    let list = pod["status"]["containerStatuses"][0]["allocatedResourcesStatus"].as_array();
    let of = |one: &Value| {
        let resources = one["resources"].as_array().cloned().unwrap_or_default();
        resources
            .iter()
            .map(|health| format!("{}={}", health["resourceID"], health["health"]).replace('"', ""))
            .collect::<Vec<_>>()
    };
    list.into_iter().flatten().filter(|one| one["name"] == RESOURCE).flat_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_gets_the_devices_it_asks_for() {
    let Some(world) = World::start() else { return };
    let plugin = world.plugin("gpu.sock", &["a", "b", "c", "d!"]).await;
    world.node_has("4", "3").await;
    world.pod("one", json!({"containers": [asking("c", 2)]}));
    let pod = world.wait("one", "runs", |pod| is(pod, "Ready", "True")).await;
    assert_eq!(health(&pod), ["b=Healthy", "c=Healthy"], "the plugin's wish");
    assert_eq!(plugin.calls(), ["prefer 2 of a,b,c", "allocate b,c", "start b,c"]);
    let config = world.runtime.held.lock().configs[0].clone();
    let env = config.envs.iter().find(|env| env.key == "DEVICES").unwrap();
    assert_eq!(env.value, b"b,c");
    let device = &config.devices[0];
    assert_eq!(
        (device.container_path.as_str(), device.host_path.as_str(), device.permissions.as_str()),
        ("/dev/b", "/dev/null", "rw")
    );
    let mount = config.mounts.iter().find(|mount| mount.container_path == "/opt/lib").unwrap();
    assert!(mount.readonly && mount.host_path == "/usr/lib");
    assert_eq!(config.cdi_devices[0].name, "vendor.com/dev=b");
    assert_eq!(config.annotations["vendor.com/ids"], "b,c");

    // An agent on the node is told who has them.
    let socket = world.runtime.path().join("kubelet/pod-resources/kubelet.sock");
    let mut agent = PodResourcesListerClient::new(podium_plugins::channel(&socket));
    let all = agent.list(ListPodResourcesRequest {}).await.unwrap().into_inner().pod_resources;
    let given: Vec<_> =
        all[0].containers[0].devices.iter().flat_map(|one| &one.device_ids).map(String::as_str).collect();
    assert_eq!((all.len(), all[0].name.as_str(), given), (1, "one", vec!["b", "c"]));
    let asked =
        |name: &str| GetPodResourcesRequest { pod_name: name.into(), pod_namespace: "default".into() };
    let one = agent.get(asked("one")).await.unwrap().into_inner().pod_resources;
    assert_eq!(one.as_ref(), Some(&all[0]));
    let missing = agent.get(asked("none")).await.unwrap_err();
    assert_eq!(missing.message(), "pod none in namespace default not found");
    let node = agent.get_allocatable_resources(AllocatableResourcesRequest {}).await.unwrap().into_inner();
    assert_eq!((node.devices.len(), node.cpu_ids.len()), (3, 0), "nobody manages processors");

    // What is left is not enough: the pod is refused in upstream's words.
    world.pod("two", json!({"containers": [asking("c", 2)]}));
    let refused = world.wait("two", "is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(refused["status"]["reason"], "UnexpectedAdmissionError");
    assert_eq!(
        refused["status"]["message"],
        "Pod was rejected: Allocate failed due to requested number of devices unavailable for \
         example.com/gpu. Requested: 2, Available: 1, which is unexpected"
    );

    // A device that falls ill is seen on the node and in the pod.
    plugin.devices.send_replace(devices(&["a", "b!", "c", "d"]));
    world.node_has("4", "3").await;
    let shown = |pod: &Value| health(pod) == ["b=Unhealthy", "c=Healthy"];
    world.wait("one", "shows the ill device", shown).await;

    // The devices of a pod that is gone are free again.
    world.api.delete("pods", "default", "one", Some(1));
    world.gone("one").await;
    plugin.devices.send_replace(devices(&["a", "b", "c", "d"]));
    world.node_has("4", "4").await;
    world.pod("three", json!({"containers": [asking("c", 4)]}));
    world.wait("three", "runs", |pod| is(pod, "Ready", "True")).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_outlive_kubelet_and_plugin() {
    let Some(world) = World::start() else { return };
    let plugin = world.plugin("gpu.sock", &["a", "b"]).await;
    world.node_has("2", "2").await;
    world.pod("one", json!({"containers": [asking("c", 1)]}));
    world.wait("one", "runs", |pod| is(pod, "Ready", "True")).await;
    drop(plugin);
    world.node_has("2", "0").await;
    let world = world.restart().await;
    world.node_has("0", "0").await;
    // Without its plugin there is nothing to be had.
    world.pod("early", json!({"containers": [asking("c", 1)]}));
    let refused = world.wait("early", "is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(
        refused["status"]["message"],
        "Pod was rejected: Allocate failed due to no healthy devices present; cannot allocate unhealthy \
         devices example.com/gpu, which is unexpected"
    );
    let plugin = world.plugin("gpu.sock", &["a", "b"]).await;
    world.node_has("2", "2").await;
    // The first pod still has its device: only the other one is free. Its container starts again with it.
    world.pod("two", json!({"containers": [asking("c", 1)]}));
    world.wait("two", "runs", |pod| is(pod, "Ready", "True")).await;
    let given: Vec<_> = plugin.calls().into_iter().filter(|call| call.starts_with("allocate")).collect();
    assert_eq!(given, ["allocate a"], "b was the first pod's");
    world.runtime.held.lock().configs.clear();
    world.runtime.end("c", 1);
    eventually("a container is made again", LIMIT, || async {
        let held = world.runtime.held.lock();
        let devices: Vec<_> = held.configs.iter().flat_map(|config| &config.devices).collect();
        if devices.len() == 1 { Ok(()) } else { Err(format!("{:?}", held.calls)) }
    })
    .await;
    assert_eq!(plugin.calls().iter().filter(|call| call.starts_with("allocate")).count(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_make_no_sense_are_refused() {
    let Some(world) = World::start() else { return };
    let plugin = world.plugin("gpu.sock", &["a"]).await;
    for (resource, version, text) in [
        (
            RESOURCE,
            "v1alpha1",
            "requested API version \"v1alpha1\" is not supported by kubelet. Supported version is [\"v1beta1\"]",
        ),
        ("kubernetes.io/gpu", "v1beta1", "the ResourceName \"kubernetes.io/gpu\" is invalid"),
        ("gpu", "v1beta1", "the ResourceName \"gpu\" is invalid"),
    ] {
        let refused = plugin.register_as(resource, version).await.unwrap_err();
        assert_eq!(refused.message(), text);
    }
    world.node_has("1", "1").await;
    world.stop().await;
}

/// An allocated claim that this pod may use.
fn claim(name: &str, pod: &Value) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "default"}, "spec": {},
        "status": {"reservedFor": [{"resource": "pods", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}],
            "allocation": {"devices": {"results":
                [{"request": "r", "driver": "dra.example.com", "pool": "pool", "device": name}]}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_prepared_for_a_pod_and_given_back() {
    let Some(world) = World::start() else { return };
    let slice = |name: &str, driver: &str, node: &str| {
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name},
            "spec": {"driver": driver, "nodeName": node, "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}})
    };
    world.api.put("resourceslices", slice("theirs", "dra.example.com", "n2"));
    let uses = with(container("c"), json!({"resources": {"claims": [{"name": "gpu"}]}}));
    let spec =
        json!({"containers": [uses], "resourceClaims": [{"name": "gpu", "resourceClaimName": "shared"}]});
    world.pod("one", spec);
    world
        .event("FailedPrepareDynamicResources", "prepare dynamic resources: fetch ResourceClaim shared")
        .await;
    let pod = world.api.get("pods", "default", "one").unwrap();
    world.api.put("resourceclaims", claim("shared", &pod));
    world
        .event(
            "FailedPrepareDynamicResources",
            "prepare dynamic resources: DRA driver dra.example.com is not registered",
        )
        .await;
    let root = world.runtime.path().join("kubelet");
    let driver = FakeDriver::serve(&root, "dra.example.com");
    driver.registration.registered(LIMIT).await.unwrap();
    world.wait("one", "runs", |pod| is(pod, "Ready", "True")).await;
    assert_eq!(driver.asked.lock().calls, ["prepare shared"]);
    let config = world.runtime.held.lock().configs[0].clone();
    assert_eq!(config.cdi_devices[0].name, "vendor.com/dra=shared");

    // A kubelet that comes back knows the claim. A driver that refuses is asked until it does not.
    let world = world.restart().await;
    driver.asked.lock().error = "busy".into();
    world.api.delete("pods", "default", "one", Some(1));
    eventually("the driver is asked twice", LIMIT, || async {
        let calls = driver.asked.lock().calls.clone();
        if calls.len() >= 3 { Ok(()) } else { Err(format!("{calls:?}")) }
    })
    .await;
    assert!(world.api.get("pods", "default", "one").is_some(), "not gone before its claim is given back");
    driver.asked.lock().error.clear();
    world.gone("one").await;
    let calls = driver.asked.lock().calls.clone();
    assert!(calls[1..].iter().all(|call| call == "unprepare shared"), "{calls:?}");
    assert_eq!(world.api.list("resourceslices").len(), 1, "another node's");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_of_this_node_are_taken_away_at_a_start() {
    let Some(world) = World::start() else { return };
    for (name, node) in [("ours", "n1"), ("theirs", "n2")] {
        world.api.put(
            "resourceslices",
            json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name},
                "spec": {"driver": "d", "nodeName": node}}),
        );
    }
    let world = world.restart().await;
    eventually("our slice is taken away", LIMIT, || async {
        let names: Vec<_> =
            world.api.list("resourceslices").iter().map(|slice| slice["metadata"]["name"].clone()).collect();
        if names == ["theirs"] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_are_given_out_and_the_others_make_room() {
    let all = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    if all.trim() == "0" {
        println!("skipped: there is one processor");
        return;
    }
    let settings = ContainerManagerSettings {
        cpu_manager_policy: "static".into(),
        reserved_system_cpus: "0".into(),
        ..Default::default()
    };
    let Some(world) = World::start_managed("", settings) else { return };
    let last = |world: &World| {
        let configs = world.runtime.held.lock().configs.clone();
        let resources = configs.last().and_then(|config| config.linux.clone()?.resources);
        resources.unwrap_or_default().cpuset_cpus
    };
    world.pod("shared", json!({"containers": [container("s")]}));
    world.wait("shared", "runs", |pod| is(pod, "Ready", "True")).await;
    assert_eq!(last(&world), all.trim());
    let own = |count: &str| {
        let limits = json!({"cpu": count, "memory": "1Mi"});
        json!({"containers": [with(container("c"), json!({"resources": {"limits": limits}}))]})
    };
    world.pod("own", own("1"));
    world.wait("own", "runs", |pod| is(pod, "Ready", "True")).await;
    let mine = last(&world);
    let mine: usize = mine.parse().expect("one processor");
    assert_ne!(mine, 0, "that is reserved");
    eventually("the other makes room", LIMIT, || async {
        let calls = world.runtime.calls();
        // What is left of all of them.
        let rest = calls.iter().rfind(|call| call.starts_with("cpus s ")).map(|call| &call[7..]);
        match rest {
            Some(rest) if !rest.split([',', '-']).any(|cpu| cpu == mine.to_string()) => Ok(()),
            _ => Err(format!("{calls:?}")),
        }
    })
    .await;

    // A kubelet that comes back knows it.
    let world = world.restart().await;
    let state = world.runtime.path().join("kubelet/cpu_manager_state");
    let text = std::fs::read_to_string(&state).unwrap();
    assert!(text.contains(&format!("{{\"c\":\"{mine}\"}}")), "{text}");
    // What was given is given back.
    world.api.delete("pods", "default", "own", Some(1));
    world.gone("own").await;
    let text = std::fs::read_to_string(&state).unwrap();
    assert!(text.contains("\"entries\":{}"), "{text}");

    // A state that cannot be read is not guessed at.
    std::fs::write(&state, "{").unwrap();
    let error = world.fails_to_restart().await;
    let advice = format!(
        "please drain this node and delete the CPU manager checkpoint file {state:?} before restarting Kubelet"
    );
    assert!(error.ends_with(&advice), "{error}");
}

/// A pod that is deleted without grace is never seen as one that is being deleted; the kubelet forgets it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_goes_at_once_is_forgotten() {
    let Some(world) = World::start() else { return };
    for (name, policy) in [("running", "Always"), ("over", "Never")] {
        world.pod(name, json!({"restartPolicy": policy, "containers": [container(name)]}));
        world.wait(name, "is ready", |pod| is(pod, "Ready", "True")).await;
    }
    world.runtime.end("over", 0);
    world.wait("over", "succeeds", |pod| pod["status"]["phase"] == "Succeeded").await;
    let socket = world.runtime.path().join("kubelet/pod-resources/kubelet.sock");
    let agent = PodResourcesListerClient::new(podium_plugins::channel(&socket));
    let known = |name: &str| {
        let (mut agent, pod_name) = (agent.clone(), name.to_owned());
        async move {
            let asked = GetPodResourcesRequest { pod_name, pod_namespace: "default".into() };
            agent.get(asked).await.map(|_| ())
        }
    };
    for name in ["running", "over"] {
        // Asked as often as this, the kubelet refuses now and then.
        eventually(&format!("{name} is known"), LIMIT, || async {
            known(name).await.map_err(|status| status.to_string())
        })
        .await;
        world.api.delete("pods", "default", name, Some(0));
        let missing = format!("pod {name} in namespace default not found");
        eventually(&format!("{name} is forgotten"), LIMIT, || async {
            match known(name).await {
                Err(status) if status.message() == missing => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    world.stop().await;
}
