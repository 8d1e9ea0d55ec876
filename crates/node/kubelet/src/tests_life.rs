//! The life of pods against a runtime that pretends: order of init containers, probes, failures, the
//! way a pod ends. Cgroups are real, so these need root.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use podium_client::{SharedInformers, Shutdown};
use serde_json::{Value, json};

use crate::{
    Config, Configuration, ContainerManagerSettings, CredentialProviders, LogindPlaces,
    metrics::Metrics,
    testing::{api::FakeApi, eventually, runtime::FakeRuntime},
};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A kubelet between an API server and a runtime that pretend.
pub(crate) struct World {
    pub(crate) api: FakeApi,
    pub(crate) runtime: FakeRuntime,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), crate::Error>>,
    cgroup: String,
    extra: Extra,
}

/// What is not in the configuration.
#[derive(Clone, Default)]
struct Extra {
    managers: ContainerManagerSettings,
    logind: LogindPlaces,
    providers: Option<Arc<CredentialProviders>>,
    metrics: Arc<Metrics>,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl World {
    pub(crate) fn start() -> Option<Self> {
        Self::start_as("", &|_| {})
    }

    /// With a runtime that says it is of this name.
    fn start_with(runtime_name: &str) -> Option<Self> {
        Self::start_as(runtime_name, &|_| {})
    }

    /// With policies of processors, memory and topology.
    pub(crate) fn start_managed(runtime_name: &str, managers: ContainerManagerSettings) -> Option<Self> {
        Self::start_all(runtime_name, &|_| {}, Extra { managers, ..Extra::default() })
    }

    /// With other settings, too.
    pub(crate) fn start_as(runtime_name: &str, change: &dyn Fn(&mut Configuration)) -> Option<Self> {
        Self::start_all(runtime_name, change, Extra::default())
    }

    /// On a machine whose login manager is there.
    pub(crate) fn start_beside(logind: LogindPlaces, change: &dyn Fn(&mut Configuration)) -> Option<Self> {
        Self::start_all("", change, Extra { logind, ..Extra::default() })
    }

    /// With these credential plugins.
    pub(crate) fn start_providing(providers: CredentialProviders) -> Option<Self> {
        Self::start_all("", &|_| {}, Extra { providers: Some(Arc::new(providers)), ..Extra::default() })
    }

    fn start_all(runtime_name: &str, change: &dyn Fn(&mut Configuration), extra: Extra) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: cgroups need root");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("podium-life-{}-{number}", std::process::id());
        let (api, runtime) = (FakeApi::new(), FakeRuntime::start());
        runtime.held.lock().images.push("app:v1".into());
        runtime.held.lock().name = runtime_name.into();
        let (shutdown, task) = kubelet(&api, &runtime, &cgroup, change, &extra);
        Some(Self { api, runtime, shutdown, task, cgroup, extra })
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, &mut self.task).await.expect("stops in time").unwrap().unwrap();
    }

    pub(crate) async fn restart(self) -> Self {
        self.restart_as(&|_| {}).await
    }

    /// With other settings than the default.
    pub(crate) async fn restart_as(mut self, change: &dyn Fn(&mut Configuration)) -> Self {
        self.shutdown.cancel();
        (&mut self.task).await.unwrap().unwrap();
        (self.shutdown, self.task) = kubelet(&self.api, &self.runtime, &self.cgroup, change, &self.extra);
        self
    }

    /// What happens `between` no kubelet sees.
    pub(crate) async fn restart_between(mut self, between: &dyn Fn(&Self)) -> Self {
        self.shutdown.cancel();
        (&mut self.task).await.unwrap().unwrap();
        between(&self);
        (self.shutdown, self.task) = kubelet(&self.api, &self.runtime, &self.cgroup, &|_| {}, &self.extra);
        self
    }

    /// Why the kubelet does not start again.
    pub(crate) async fn fails_to_restart(mut self) -> String {
        self.shutdown.cancel();
        (&mut self.task).await.unwrap().unwrap();
        (self.shutdown, self.task) = kubelet(&self.api, &self.runtime, &self.cgroup, &|_| {}, &self.extra);
        let ended = tokio::time::timeout(LIMIT, &mut self.task).await.expect("ends in time").unwrap();
        podium_client::error_chain(&ended.expect_err("it does not start"))
    }

    /// What was counted, by all kubelets of this world.
    pub(crate) fn metrics(&self) -> String {
        self.extra.metrics.render("")
    }

    pub(crate) fn pod(&self, name: &str, spec: Value) {
        let mut whole =
            json!({"nodeName": "n1", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.api.put("pods", json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "generation": 1}, "spec": whole, "status": {"phase": "Pending"}}));
    }

    pub(crate) async fn wait(&self, name: &str, what: &str, check: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{name} {what}"), LIMIT, || async {
            let pod = self.api.get("pods", "default", name).unwrap_or_default();
            if check(&pod) {
                Ok(pod)
            } else {
                Err(format!("{} after {:?}", pod["status"], self.runtime.calls()))
            }
        })
        .await
    }

    pub(crate) async fn gone(&self, name: &str) {
        eventually(&format!("{name} goes"), LIMIT, || async {
            match self.api.get("pods", "default", name) {
                None => Ok(()),
                Some(pod) => Err(format!("{} after {:?}", pod["status"], self.runtime.calls())),
            }
        })
        .await;
    }

    /// The runtime has been asked for something that begins so.
    pub(crate) async fn called(&self, call: &str) {
        eventually(&format!("the call {call}"), LIMIT, || async {
            let calls = self.runtime.calls();
            if calls.iter().any(|one| one.starts_with(call)) { Ok(()) } else { Err(format!("{calls:?}")) }
        })
        .await;
    }

    pub(crate) async fn event(&self, reason: &str, text: &str) {
        eventually(&format!("event {reason}: {text}"), LIMIT, || async {
            let events = self.api.list("events");
            let messages: Vec<String> = events
                .iter()
                .filter(|event| event["reason"] == reason)
                .map(|event| event["message"].as_str().unwrap_or_default().to_owned())
                .collect();
            if messages.iter().any(|message| message.contains(text)) {
                Ok(())
            } else {
                Err(format!("{messages:?}"))
            }
        })
        .await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
        // Pods that still ran have volumes.
        crate::volumes::sub_path::unmount_below(&self.runtime.path()).ok();
        if let Ok(cgroups) = crate::cgroups::Cgroups::new(&crate::Configuration::default()) {
            cgroups.remove(&format!("/{}", self.cgroup)).ok();
        }
    }
}

fn kubelet(
    api: &FakeApi,
    runtime: &FakeRuntime,
    cgroup: &str,
    change: &dyn Fn(&mut Configuration),
    extra: &Extra,
) -> (Shutdown, tokio::task::JoinHandle<Result<(), crate::Error>>) {
    let shutdown = Shutdown::new();
    let client = api.client();
    let informers = SharedInformers::new(client.clone(), shutdown.clone());
    let root = runtime.path().join("kubelet");
    let mut settings = crate::testing::settings(&runtime.endpoint(), cgroup, &root);
    change(&mut settings);
    let mut config = Config::new("n1", "127.0.0.1".parse().unwrap(), root, settings, client, informers);
    config.container_manager = extra.managers.clone();
    config.logind = extra.logind.clone();
    // Not the machine's.
    config.kernel_log = runtime.path().join("kmsg");
    config.credential_providers = extra.providers.clone();
    config.metrics = extra.metrics.clone();
    (shutdown.clone(), tokio::spawn(crate::run(config, shutdown)))
}

pub(crate) fn container(name: &str) -> Value {
    json!({"name": name, "image": "app:v1", "imagePullPolicy": "IfNotPresent"})
}

pub(crate) fn with(mut base: Value, extra: Value) -> Value {
    base.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    base
}

pub(crate) fn is(pod: &Value, type_: &str, status: &str) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .is_some_and(|list| list.iter().any(|one| one["type"] == type_ && one["status"] == status))
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_come_first_and_sidecars_stay() {
    let Some(world) = World::start() else { return };
    let sidecar = with(container("side"), json!({"restartPolicy": "Always"}));
    world.runtime.held.lock().ends_at_once.insert("init".into(), 0);
    world.pod("web", json!({"initContainers": [sidecar, container("init")], "containers": [container("a"), container("b")]}));
    let pod = world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    assert_eq!(world.runtime.calls(), ["sandbox", "start side", "start init", "start a", "start b"]);
    assert_eq!(pod["status"]["initContainerStatuses"][1]["state"]["terminated"]["exitCode"], 0);
    assert_eq!(pod["status"]["podIP"], "10.88.0.1");
    // The sidecar outlives the others.
    world.api.delete("pods", "default", "web", Some(30));
    world.gone("web").await;
    let calls = world.runtime.calls();
    let at = |text: &str| calls.iter().position(|call| call.starts_with(text)).unwrap();
    assert!(at("stop side") > at("stop a") && at("stop side") > at("stop b"), "{calls:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_take_out_and_restart() {
    let Some(world) = World::start() else { return };
    let probe =
        |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 1});
    let probed =
        with(container("a"), json!({"readinessProbe": probe("ready"), "livenessProbe": probe("alive")}));
    world.runtime.held.lock().exec.insert("ready".into(), 1);
    world.pod("web", json!({"containers": [probed], "terminationGracePeriodSeconds": 7}));
    world
        .wait("web", "runs unready", |pod| pod["status"]["phase"] == "Running" && is(pod, "Ready", "False"))
        .await;
    world.event("Unhealthy", "Readiness probe failed").await;
    world.runtime.held.lock().exec.clear();
    world.wait("web", "becomes ready", |pod| is(pod, "Ready", "True")).await;
    world.runtime.held.lock().exec.insert("alive".into(), 1);
    world.event("Killing", "Container a failed liveness probe, will be restarted").await;
    world.runtime.held.lock().exec.clear();
    let pod = world
        .wait("web", "is restarted", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"] == 1 && is(pod, "Ready", "True")
        })
        .await;
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 143);
    assert!(world.runtime.calls().contains(&"stop a 7".to_owned()), "{:?}", world.runtime.calls());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_are_restarted_then_held_back() {
    let Some(world) = World::start() else { return };
    world.pod("web", json!({"containers": [container("a")]}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    world.runtime.end("a", 1);
    world
        .wait("web", "is restarted", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"] == 1 && is(pod, "Ready", "True")
        })
        .await;
    world.runtime.end("a", 1);
    let pod = world
        .wait("web", "is held back", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    assert_eq!(pod["status"]["phase"], "Running");
    world.event("BackOff", "Back-off restarting failed container a in pod web_default(").await;
    // A new image is a new chance.
    let mut changed = pod.clone();
    world.runtime.held.lock().images.push("app:v2".into());
    changed["spec"]["containers"][0]["image"] = json!("app:v2");
    world.api.put("pods", changed);
    world.wait("web", "runs again", |pod| is(pod, "Ready", "True")).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_cannot_be_had() {
    let Some(world) = World::start() else { return };
    world.pod("web", json!({"containers": [with(container("a"), json!({"image": "gone:v1"}))]}));
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let pod = world.wait("web", "fails to pull", |pod| waiting(pod)["reason"] == "ErrImagePull").await;
    assert_eq!(waiting(&pod)["message"], "rpc error: code = NotFound desc = failed to pull gone:v1");
    let pod = world.wait("web", "waits to pull", |pod| waiting(pod)["reason"] == "ImagePullBackOff").await;
    assert_eq!(
        waiting(&pod)["message"],
        "Back-off pulling image \"gone:v1\": ErrImagePull: rpc error: code = NotFound desc = failed to pull gone:v1"
    );
    world.event("Failed", "Failed to pull image \"gone:v1\": rpc error").await;
    world.event("Failed", "Error: ErrImagePull").await;
    world.event("BackOff", "Back-off pulling image \"gone:v1\"").await;
    world.api.delete("pods", "default", "web", Some(30));
    world.gone("web").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_others() {
    let Some(mut world) = World::start() else { return };
    world.runtime.held.lock().registry.insert("secret:v1".into(), "joe".into());
    let config = json!({"auths": {"docker.io": {"username": "joe", "password": "pw"}}}).to_string();
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, config);
    for name in ["joes", "copy"] {
        world.api.put(
            "secrets",
            json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
            "metadata": {"name": name, "namespace": "default"}, "data": {".dockerconfigjson": data}}),
        );
    }
    let pod = |world: &World, name: &str, policy: &str, secret: Option<&str>| {
        let image = json!({"image": "secret:v1", "imagePullPolicy": policy});
        let secrets: Vec<Value> = secret.iter().map(|name| json!({"name": name})).collect();
        world.pod(name, json!({"containers": [with(container("a"), image)], "imagePullSecrets": secrets}));
    };
    let ready = |pod: &Value| is(pod, "Ready", "True");
    let waits = |reason: &'static str| {
        move |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
    };
    pod(&world, "joe", "IfNotPresent", Some("joes"));
    world.wait("joe", "pulls", ready).await;
    let pulls = |world: &World| world.runtime.calls().iter().filter(|call| *call == "pull secret:v1").count();
    for round in 1..3 {
        let pulled = pulls(&world);
        for (name, secret) in [("same", "joes"), ("copy", "copy")] {
            let name = format!("{name}{round}");
            pod(&world, &name, "IfNotPresent", Some(secret));
            world.wait(&name, "has the credentials", ready).await;
        }
        assert_eq!(pulls(&world), pulled, "nobody asked the registry");
        pod(&world, &format!("other{round}"), "IfNotPresent", None);
        world.wait(&format!("other{round}"), "has no credentials", waits("ImagePullBackOff")).await;
        pod(&world, &format!("never{round}"), "Never", None);
        world.wait(&format!("never{round}"), "has no credentials", waits("ErrImageNeverPull")).await;
        // They would ask the registry again in the next round.
        for name in ["other", "never"] {
            let name = format!("{name}{round}");
            world.api.delete("pods", "default", &name, Some(0));
            world.gone(&name).await;
        }
        // Records outlive the kubelet.
        world = world.restart().await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_fails_is_tried_again() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().sandbox_failures = 2;
    world.pod("web", json!({"containers": [container("a")]}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    world
        .event(
            "FailedCreatePodSandBox",
            "Failed to create pod sandbox: rpc error: code = Unknown desc = no network yet",
        )
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_config_map_holds_the_pod_until_it_comes() {
    let Some(world) = World::start() else { return };
    let mounted = with(container("a"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    world.pod(
        "web",
        json!({"containers": [mounted], "volumes": [{"name": "v", "configMap": {"name": "cfg"}}]}),
    );
    world
        .event("FailedMount", "MountVolume.SetUp failed for volume \"v\" : configmap \"cfg\" not found")
        .await;
    assert!(world.runtime.calls().is_empty());
    world
        .api
        .put("configmaps", json!({"metadata": {"name": "cfg", "namespace": "default"}, "data": {"a": "1"}}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    let env = json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "db", "key": "pw"}}}]});
    world.pod("env", json!({"containers": [with(container("b"), env)]}));
    let pod = world
        .wait("env", "says why", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                == "CreateContainerConfigError"
        })
        .await;
    assert_eq!(
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"],
        "secret \"db\" not found"
    );
    world.stop().await;
}

/// A container with an image for a volume, beside one without.
fn with_image_volume(reference: &str) -> Value {
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "etc"}]});
    json!({"containers": [with(container("a"), mount), container("b")],
        "volumes": [{"name": "v", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn image_volumes_are_pulled_and_handed_on() {
    let Some(world) = World::start_with("podium") else { return };
    world.runtime.held.lock().images.push("data:v1".into());
    world.pod("web", with_image_volume("data:v1"));
    let pod = world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    let mounts = {
        let held = world.runtime.held.lock();
        let (_, first) =
            held.containers.iter().find(|(_, one)| one.mounts.iter().any(|m| m.image.is_some())).unwrap();
        first.mounts.clone()
    };
    let mount = mounts.iter().find(|mount| mount.container_path == "/v").unwrap();
    assert!(mount.readonly && mount.host_path.is_empty() && mount.image_sub_path == "etc", "{mount:?}");
    let image = mount.image.clone().unwrap();
    assert_eq!((image.image.as_str(), image.user_specified_image.as_str()), ("id-of-data:v1", "data:v1"));
    let status = &pod["status"]["containerStatuses"][0]["volumeMounts"][0];
    assert_eq!(status["volumeStatus"]["image"]["imageRef"], "id-of-data:v1", "{status}");
    // One that cannot be pulled holds up only the container that wants it, and says so there.
    world.pod("late", with_image_volume("gone:v1"));
    let reason = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    world.wait("late", "says why", |pod| reason(pod) == "ErrImagePull").await;
    world.event("Failed", "Error: ErrImagePull").await;
    let pod = world.wait("late", "backs off", |pod| reason(pod) == "ImagePullBackOff").await;
    assert!(pod["status"]["containerStatuses"][1]["state"]["running"].is_object(), "{}", pod["status"]);
    assert_eq!(world.runtime.calls().iter().filter(|call| *call == "pull gone:v1").count(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_would_leave_image_volumes_out_is_not_asked() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().images.push("data:v1".into());
    world.pod("web", with_image_volume("data:v1"));
    let text = "MountVolume.SetUp failed for volume \"v\" : volume source image is not supported by this container runtime";
    world.event("FailedMount", text).await;
    assert!(world.runtime.calls().is_empty());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_a_pod_ends() {
    let Some(world) = World::start() else { return };
    let hooked = with(container("a"), json!({"lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}}));
    world.runtime.held.lock().ignores_stop.push("a".into());
    world.pod("web", json!({"containers": [hooked]}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    world.api.delete("pods", "default", "web", Some(600));
    eventually("the stop begins", LIMIT, || async {
        let calls = world.runtime.calls();
        if calls.iter().any(|call| call.starts_with("stop a 6") || call.starts_with("stop a 5")) {
            Ok(())
        } else {
            Err(format!("{calls:?}"))
        }
    })
    .await;
    let calls = world.runtime.calls();
    let at = |text: &str| calls.iter().position(|call| call.starts_with(text)).unwrap();
    assert!(at("exec bye") < at("stop a"), "{calls:?}");
    // A second deletion with less grace shortens it.
    world.api.delete("pods", "default", "web", Some(1));
    world.gone("web").await;
    world.event("Killing", "Stopping container a").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_changes_nothing_and_clears_away_the_unknown() {
    let Some(world) = World::start() else { return };
    let probe = json!({"readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1, "initialDelaySeconds": 0}});
    world.pod("web", json!({"containers": [with(container("a"), probe)]}));
    world.pod("lost", json!({"containers": [container("b")]}));
    let before = world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    world.wait("lost", "is ready", |pod| is(pod, "Ready", "True")).await;
    // While the kubelet is away one pod is removed from the API by force.
    let world = {
        let api = world.api.clone();
        let stopped = world.restart();
        api.delete("pods", "default", "lost", Some(0));
        stopped.await
    };
    eventually("the unknown pod is ended", LIMIT, || async {
        let left = world.runtime.held.lock().sandboxes.len();
        if left == 1 { Ok(()) } else { Err(format!("{left} sandboxes")) }
    })
    .await;
    let after = world.api.get("pods", "default", "web").unwrap();
    assert_eq!(after["status"]["containerStatuses"], before["status"]["containerStatuses"]);
    let starts = world.runtime.calls().iter().filter(|call| *call == "start a").count();
    assert_eq!(starts, 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_fit_fails() {
    let Some(world) = World::start() else { return };
    let greedy = with(container("a"), json!({"resources": {"requests": {"cpu": "1000"}}}));
    world.pod("web", json!({"containers": [greedy]}));
    let pod = world.wait("web", "fails", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    assert!(
        pod["status"]["message"]
            .as_str()
            .unwrap()
            .starts_with("Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000")
    );
    assert!(world.runtime.calls().is_empty());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_the_scheduler_saw_first_is_asked_for() {
    let Some(world) = World::start() else { return };
    world.pod("first", json!({"containers": [container("a")]}));
    world.wait("first", "is ready", |pod| is(pod, "Ready", "True")).await;
    let mut node = world.api.list("nodes").remove(0);
    node["metadata"]["labels"]["disk"] = json!("ssd");
    world.api.put("nodes", node);
    world.pod("web", json!({"nodeSelector": {"disk": "ssd"}, "containers": [container("b")]}));
    world.pod("lost", json!({"nodeSelector": {"disk": "hdd"}, "containers": [container("c")]}));
    let pod = world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    assert_eq!(pod["status"]["phase"], "Running");
    let pod = world.wait("lost", "fails", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "NodeAffinity");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_completes_and_keeps_its_status() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().ends_at_once.insert("a".into(), 0);
    world.pod("job", json!({"restartPolicy": "Never", "containers": [container("a")]}));
    let pod = world.wait("job", "succeeds", |pod| pod["status"]["phase"] == "Succeeded").await;
    assert!(is(&pod, "Ready", "False"));
    let world = world.restart().await;
    world.pod("other", json!({"containers": [container("b")]}));
    world.wait("other", "is ready", |pod| is(pod, "Ready", "True")).await;
    assert_eq!(world.api.get("pods", "default", "job").unwrap()["status"]["phase"], "Succeeded");
    assert_eq!(world.runtime.calls().iter().filter(|call| *call == "start a").count(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_long_is_too_long() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().ignores_stop.push("a".into());
    world.pod("web", json!({"containers": [container("a")]}));
    let mut pod = world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    pod["spec"]["activeDeadlineSeconds"] = json!(1);
    world.api.put("pods", pod);
    world.wait("web", "is not ready any more", |pod| is(pod, "Ready", "False")).await;
    world.called("stop a 30").await;
    // Whoever made it must not make another while this one runs.
    let pod = world.api.get("pods", "default", "web").unwrap();
    assert_eq!((&pod["status"]["phase"], &pod["status"]["reason"]), (&json!("Running"), &Value::Null));
    world.runtime.end("a", 137);
    let pod = world.wait("web", "is over its deadline", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    assert!(pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object(), "{pod}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_follow_labels_and_tokens_are_renewed() {
    let Some(world) = World::start() else { return };
    world.api.short_tokens();
    let volumes = json!([
        {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "access", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}]}},
    ]);
    let mounts = json!({"volumeMounts": [
        {"name": "info", "mountPath": "/info"}, {"name": "access", "mountPath": "/access"}]});
    world.pod("web", json!({"containers": [with(container("a"), mounts)], "volumes": volumes}));
    let mut pod = world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let volumes = world.runtime.path().join("kubelet/pods").join(uid).join("volumes");
    let reads = |path: &str| std::fs::read_to_string(volumes.join(path)).unwrap_or_default();
    assert_eq!(reads("kubernetes.io~downward-api/info/labels"), "");
    pod["metadata"]["labels"] = json!({"tier": "front"});
    world.api.put("pods", pod);
    eventually("the label shows", LIMIT, || async {
        let text = reads("kubernetes.io~downward-api/info/labels");
        if text.contains("tier=\"front\"") { Ok(()) } else { Err(text) }
    })
    .await;
    let first = reads("kubernetes.io~projected/access/token");
    eventually("another token", LIMIT, || async {
        let token = reads("kubernetes.io~projected/access/token");
        if token.starts_with("token-of-default") && token != first { Ok(()) } else { Err(token) }
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn static_pods_run_and_are_shown() {
    let Some(world) = World::start() else { return };
    let manifests = world.runtime.path().join("kubelet/manifests");
    std::fs::create_dir_all(&manifests).unwrap();
    let file = manifests.join("own.yaml");
    world.runtime.held.lock().images.push("app:v2".into());
    let text = |image: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own"},
            "spec": {"terminationGracePeriodSeconds": 3,
                "containers": [with(container("a"), json!({"image": image}))]}})
        .to_string()
    };
    std::fs::write(&file, text("app:v1")).unwrap();
    let shown = world.wait("own-n1", "is ready", |pod| is(pod, "Ready", "True")).await;
    let annotation = |pod: &Value, name: &str| pod["metadata"]["annotations"][name].clone();
    assert_eq!(annotation(&shown, "kubernetes.io/config.source"), "file");
    let hash = annotation(&shown, "kubernetes.io/config.mirror");
    assert_eq!(hash, annotation(&shown, "kubernetes.io/config.hash"));
    assert_eq!(shown["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_ne!(shown["metadata"]["uid"], hash);

    // What is done to the mirror is undone, and the pod does not notice.
    world.api.delete("pods", "default", "own-n1", Some(30));
    world
        .wait("own-n1", "is shown again", |pod| {
            is(pod, "Ready", "True") && pod["metadata"]["uid"] != shown["metadata"]["uid"]
        })
        .await;
    assert_eq!(world.runtime.calls(), ["sandbox", "start a"]);

    // A restart takes it over.
    let world = world.restart().await;
    std::fs::write(&file, text("app:v2")).unwrap();
    world
        .wait("own-n1", "is another", |pod| {
            is(pod, "Ready", "True") && annotation(pod, "kubernetes.io/config.mirror") != hash
        })
        .await;
    let mut calls = world.runtime.calls();
    // Stopping a sandbox is repeated where its end has not been seen yet.
    calls.dedup();
    assert_eq!(calls, ["sandbox", "start a", "stop a 3", "stop-sandbox", "sandbox", "start a"]);
    std::fs::remove_file(&file).unwrap();
    world.gone("own-n1").await;
    assert!(world.runtime.held.lock().sandboxes.is_empty());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_go_when_the_disk_is_full() {
    let full = |settings: &mut Configuration| {
        // Any disk is fuller than that, and none gets so empty by removing images.
        (settings.image_gc_high_threshold_percent, settings.image_gc_low_threshold_percent) = (1, 0);
        settings.image_minimum_gc_age = crate::Span::default();
    };
    let Some(world) = World::start_as("", &full) else { return };
    world.event("FreeDiskSpaceFailed", "Insufficient free disk space on the node's image filesystem (").await;
    assert!(world.runtime.held.lock().images.is_empty());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_waited_for_and_mounted() {
    let Some(world) = World::start() else { return };
    let data = world.runtime.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let claim = |phase: &str, volume: &str| {
        json!({"metadata": {"name": "c", "namespace": "default", "uid": "cu"}, "spec": {"volumeName": volume},
            "status": {"phase": phase}})
    };
    world.api.put("persistentvolumeclaims", claim("Pending", ""));
    let mounted = with(container("a"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}}]);
    world.pod("web", json!({"containers": [mounted], "volumes": volumes}));
    world
        .event(
            "FailedMount",
            "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[v], failed to process volumes=[v]: \
             error processing PVC default/c: PVC is not bound",
        )
        .await;
    assert!(world.runtime.calls().is_empty());
    world.api.put(
        "persistentvolumes",
        json!({"metadata": {"name": "pv"}, "spec": {"local": {"path": data}, "claimRef": {"uid": "cu"}}}),
    );
    world.api.put("persistentvolumeclaims", claim("Bound", "pv"));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    let mount = world.runtime.held.lock().containers[0].1.mounts[0].clone();
    assert!(mount.readonly && mount.container_path == "/v", "{mount:?}");
    std::fs::write(data.join("file"), "x").unwrap();
    assert_eq!(std::fs::read_to_string(std::path::Path::new(&mount.host_path).join("file")).unwrap(), "x");
    // A kubelet that comes back needs neither claim nor volume to go on.
    world.api.delete("persistentvolumes", "", "pv", None);
    let world = world.restart().await;
    world.api.delete("pods", "default", "web", Some(3));
    world.gone("web").await;
    assert!(data.join("file").exists() && !std::path::Path::new(&mount.host_path).exists());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_node_evicts_its_pods() {
    let short = |settings: &mut Configuration| {
        // No machine has so much memory.
        let levels = [("memory.available".to_owned(), "1Ei".to_owned())];
        settings.eviction_hard = Some(levels.into());
    };
    let Some(world) = World::start_as("", &short) else { return };
    // What asks for nothing would not come in.
    let asking = with(container("a"), json!({"resources": {"requests": {"cpu": "1m"}}}));
    world.pod("web", json!({"containers": [asking]}));
    world.event("EvictionThresholdMet", "Attempting to reclaim memory").await;
    let node = eventually("the node is short of memory", LIMIT, || async {
        let node = world.api.get("nodes", "", "n1").unwrap_or_default();
        if is(&node, "MemoryPressure", "True") {
            Ok(node)
        } else {
            Err(node["status"]["conditions"].to_string())
        }
    })
    .await;
    assert!(is(&node, "DiskPressure", "False"));
    let pod = world.wait("web", "is evicted", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "Evicted");
    assert!(is(&pod, "DisruptionTarget", "True"), "{pod}");
    world.pod("late", json!({"containers": [container("b")]}));
    let pod = world.wait("late", "is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "Evicted");
    assert_eq!(pod["status"]["message"], "Pod was rejected: The node had condition: [MemoryPressure]. ");
    assert!(!is(&pod, "DisruptionTarget", "True"), "it never ran: {pod}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_users_of_its_own() {
    let Some(world) = World::start() else { return };
    world.pod("host", json!({"containers": [container("a")]}));
    world.wait("host", "is ready", |pod| is(pod, "Ready", "True")).await;
    let mounts = json!({"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]});
    let volumes = json!([{"name": "scratch", "emptyDir": {}}]);
    let spec = json!({"hostUsers": false, "containers": [with(container("b"), mounts)], "volumes": volumes});
    world.pod("own", spec);
    let refused = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";
    world.event("FailedCreatePodSandBox", refused).await;
    world.runtime.held.lock().user_namespaces = true;
    world.wait("own", "is ready", |pod| is(pod, "Ready", "True")).await;
    let seen = || {
        let held = world.runtime.held.lock();
        let users = |sandbox: &podium_cri::v1::PodSandboxStatus| {
            let options = sandbox.linux.clone().unwrap().namespaces.unwrap().options.unwrap();
            options.userns_options.unwrap()
        };
        let of = |name: &str| {
            let named = |one: &&podium_cri::v1::PodSandboxStatus| {
                one.metadata.as_ref().is_some_and(|metadata| metadata.name == name)
            };
            held.sandboxes.iter().find(named).map(users).unwrap()
        };
        let mounts = &held
            .containers
            .iter()
            .find(|(_, one)| {
                !one.mounts.is_empty() && one.mounts.iter().any(|mount| mount.container_path == "/scratch")
            })
            .unwrap()
            .1
            .mounts;
        (of("host"), of("own"), mounts.clone())
    };
    let (host, own, mounts) = seen();
    assert_eq!((host.mode(), host.uids.len()), (podium_cri::v1::NamespaceMode::Node, 0));
    assert_eq!(own.mode(), podium_cri::v1::NamespaceMode::Pod);
    let range = own.uids[0];
    assert!(own.uids == own.gids && range.host_id >= 65_536 && range.length == 65_536, "{own:?}");
    assert!(mounts.iter().all(|mount| mount.uid_mappings == [range] && mount.gid_mappings == [range]));
    let uid =
        world.api.get("pods", "default", "own").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let file = world.runtime.path().join("kubelet/pods").join(uid).join("userns");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(&format!("\"hostId\":{}", range.host_id)), "{text}");
    world.stop().await;
}
