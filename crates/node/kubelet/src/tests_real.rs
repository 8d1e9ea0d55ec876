//! A whole kubelet against a real containerd (host network: no CNI is needed) and an API in memory.

use std::{path::PathBuf, time::Duration};

use podium_client::{SharedInformers, Shutdown};
use serde_json::{Value, json};

use crate::{
    Config,
    testing::{
        api::FakeApi,
        containerd::{Containerd, IMAGE},
        eventually,
    },
};

const LIMIT: Duration = Duration::from_secs(30);

struct Node {
    api: FakeApi,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), crate::Error>>,
}

/// A cgroup of the test's own, named as its directory.
fn cgroup_root(containerd: &Containerd) -> String {
    let path = containerd.path();
    let name = path.file_name().unwrap().to_string_lossy();
    format!("podium-test-{}", name.trim_start_matches('.'))
}

fn start(containerd: &Containerd, api: &FakeApi, root: PathBuf) -> Node {
    let shutdown = Shutdown::new();
    let client = api.client();
    let informers = SharedInformers::new(client.clone(), shutdown.clone());
    let settings = crate::testing::settings(&containerd.endpoint(), &cgroup_root(containerd), &root);
    let config = Config::new("n1", "127.0.0.1".parse().unwrap(), root, settings, client, informers);
    Node { api: api.clone(), shutdown: shutdown.clone(), task: tokio::spawn(crate::run(config, shutdown)) }
}

impl Node {
    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.task).await.expect("stops in time").unwrap().unwrap();
    }

    async fn wait(&self, name: &str, what: &str, check: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{name} {what}"), LIMIT, || async {
            let pod = self.api.get("pods", "default", name).unwrap_or_default();
            if check(&pod) { Ok(pod) } else { Err(format!("{}", pod["status"])) }
        })
        .await
    }
}

fn pod(name: &str, spec: Value) -> Value {
    let mut whole = json!({"nodeName": "n1", "hostNetwork": true, "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 2, "serviceAccountName": "default"});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "generation": 1},
        "spec": whole, "status": {"phase": "Pending"}})
}

fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script],
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}}})
}

fn condition(pod: &Value, type_: &str) -> bool {
    let list = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    list.iter().any(|condition| condition["type"] == type_ && condition["status"] == "True")
}

fn events(api: &FakeApi, reason: &str) -> Vec<String> {
    let all = api.list("events");
    all.iter()
        .filter(|e| e["reason"] == reason)
        .map(|e| e["message"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_live_and_die() {
    let Some(containerd) = Containerd::start().await else { return };
    let api = FakeApi::new();
    api.put(
        "configmaps",
        json!({"metadata": {"name": "cfg", "namespace": "default"}, "data": {"mode": "fast"}}),
    );
    let root = containerd.path().join("kubelet");
    let node = start(&containerd, &api, root.clone());
    eventually("the node registers", LIMIT, || async {
        let node = api.get("nodes", "", "n1").unwrap_or_default();
        if node["status"]["capacity"]["cpu"].is_string() { Ok(()) } else { Err(node.to_string()) }
    })
    .await;

    // Create to Ready, with a ConfigMap in a volume and in the environment.
    let begun = std::time::Instant::now();
    let mut web =
        container("c", "echo $MODE; cat /cfg/mode; trap 'exit 0' TERM; while true; do sleep 0.1; done");
    web["env"] = json!([{"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "mode"}}}]);
    web["volumeMounts"] = json!([{"name": "cfg", "mountPath": "/cfg"}]);
    web["readinessProbe"] =
        json!({"exec": {"command": ["test", "-f", "/cfg/mode"]}, "periodSeconds": 1, "timeoutSeconds": 5});
    api.put(
        "pods",
        pod("web", json!({"containers": [web], "volumes": [{"name": "cfg", "configMap": {"name": "cfg"}}]})),
    );
    let running = node.wait("web", "is ready", |pod| condition(pod, "Ready")).await;
    println!("create to Ready: {:?}", begun.elapsed());
    assert_eq!(running["status"]["phase"], "Running");
    assert_eq!(running["status"]["podIP"], "127.0.0.1");
    let id = running["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned();
    assert!(id.starts_with("containerd://"), "{id}");

    // A change of the ConfigMap reaches the volume.
    api.put(
        "configmaps",
        json!({"metadata": {"name": "cfg", "namespace": "default"}, "data": {"mode": "slow"}}),
    );
    let uid = running["metadata"]["uid"].as_str().unwrap();
    let file = root.join(format!("pods/{uid}/volumes/kubernetes.io~configmap/cfg/mode"));
    eventually("the volume is refreshed", LIMIT, || async {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if text == "slow" { Ok(()) } else { Err(text) }
    })
    .await;

    // A restarted kubelet leaves it alone.
    node.stop().await;
    let node = start(&containerd, &api, root.clone());
    api.put("pods", pod("second", json!({"containers": [container("c", "sleep 1000")]})));
    node.wait("second", "is ready", |pod| condition(pod, "Ready")).await;
    let after = api.get("pods", "default", "web").unwrap();
    assert_eq!(after["status"]["containerStatuses"][0]["containerID"], id.as_str());
    assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
    assert!(condition(&after, "Ready"));

    // A killed process is restarted in place, at once the first time, then held back.
    let begun = std::time::Instant::now();
    api.put(
        "pods",
        pod("crash", json!({"containers": [container("c", "echo bye > /dev/termination-log; exit 3")]})),
    );
    let crashed = node
        .wait("crash", "crash loops", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    println!("create to CrashLoopBackOff: {:?}", begun.elapsed());
    let status = &crashed["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["lastState"]["terminated"]["message"], "bye\n");
    assert_eq!(status["restartCount"], 1);
    let message = status["state"]["waiting"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("back-off 10s restarting failed container=c pod=crash_default("),
        "{message}"
    );

    // Run to completion, out of memory, an image that is not there.
    api.put("pods", pod("done", json!({"restartPolicy": "Never", "containers": [container("c", "exit 0")]})));
    let done = node.wait("done", "succeeds", |pod| pod["status"]["phase"] == "Succeeded").await;
    assert_eq!(done["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let mut absent = container("c", "true");
    absent["image"] = json!("docker.io/podium/absent:v1");
    absent["imagePullPolicy"] = json!("Never");
    api.put("pods", pod("absent", json!({"containers": [absent]})));
    node.wait("absent", "says why", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    })
    .await;
    let mut eater = container("c", "cat /dev/zero | sh -c 'x=$(cat)'");
    eater["resources"]["limits"]["memory"] = json!("16Mi");
    eater["command"] = json!(["sh", "-c", "x=a; while true; do x=$x$x; done"]);
    // Beside another: by itself its limit would be the pod's too, whose group has the pause in it and reaches it first.
    // containerd looks at the groups of containers only.
    let bystander = container("d", "true");
    api.put("pods", pod("eater", json!({"restartPolicy": "Never", "containers": [eater, bystander]})));
    let eaten = node.wait("eater", "fails", |pod| pod["status"]["phase"] == "Failed").await;
    let ended = &eaten["status"]["containerStatuses"][0]["state"]["terminated"];
    // containerd hears of the kernel's kill and of the exit by two ways. Where the first is the slower one, as under load, it tells
    // us of an error, and of the kill to nobody who has asked already. (That ours never does so is seen end to end.)
    assert!(ended["reason"] == "OOMKilled" || ended["reason"] == "Error", "{ended}");
    assert_eq!(ended["exitCode"], 137, "{ended}");

    // Deletion: the process ends, the object goes, nothing is left on disk.
    let begun = std::time::Instant::now();
    api.delete("pods", "default", "web", None);
    eventually("web goes", LIMIT, || async {
        match api.get("pods", "default", "web") {
            None => Ok(()),
            Some(pod) => Err(pod["status"].to_string()),
        }
    })
    .await;
    println!("delete to gone: {:?}", begun.elapsed());
    assert!(!root.join(format!("pods/{uid}")).exists());
    for name in ["second", "crash", "done", "absent", "eater"] {
        api.delete("pods", "default", name, Some(1));
    }
    eventually("all go", LIMIT, || async {
        let left = api.list("pods").len();
        if left == 0 { Ok(()) } else { Err(format!("{left} pods")) }
    })
    .await;
    eventually("the runtime is empty", LIMIT, || async {
        let left = containerd
            .cri()
            .list_pod_sandbox(Default::default())
            .await
            .map_err(|e| e.to_string())?
            .items
            .len();
        if left == 0 { Ok(()) } else { Err(format!("{left} sandboxes")) }
    })
    .await;
    eventually("events are written", LIMIT, || async {
        let missing: Vec<&str> = ["Pulled", "Created", "Started", "Killing", "BackOff", "ErrImageNeverPull"]
            .into_iter()
            .filter(|reason| events(&api, reason).is_empty())
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    })
    .await;
    node.stop().await;
    let name = cgroup_root(&containerd);
    crate::cgroups::Cgroups::new(&crate::Configuration::default())
        .unwrap()
        .remove(&format!("/{name}"))
        .unwrap();
}
