//! Device plugins from registration to the container's configuration, with a plugin that a test plays. Cgroups are real, so
//! these need root.

use serde_json::{Value, json};

use crate::{
    testing::{
        device_plugin::{FakeDevicePlugin, devices},
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
    world.api.delete("pods", "default", "one", Some(0));
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
