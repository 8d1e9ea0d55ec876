//! Containers that want more than is theirs, or will not end: each is stopped, and its neighbours do not notice.

use std::path::Path;

use podium_testkit::{Cluster, Kubectl, http, images, wait_for};

use crate::{LIMIT, archives, becomes, cluster, deploy_example, out_of_memory, service_address, told};

/// A pod that runs a script in a container with these further fields, such as limits.
fn pod(kubectl: &Kubectl, name: &str, script: &str, container: &str, spec: &str) {
    kubectl.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: {image}
    command: [sh, -c, {script:?}]
{container}
{spec}
",
        image = images::BUSYBOX
    ));
}

/// The example serves, and the API server answers.
fn neighbours_are_well(kubectl: &Kubectl) {
    let address = service_address(kubectl, "production", "web-app-service");
    assert!(http::get(address, "/").is_ok());
    kubectl.run("get --raw /readyz").ok();
}

#[test]
fn what_a_container_takes_is_bounded_and_it_ends_when_it_must() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    deploy_example(&kubectl);

    // Memory: the kernel ends it, and the status says so.
    pod(&kubectl, "memory", "exec tail /dev/zero", "    resources: {limits: {memory: 32Mi}}", "");
    wait_for(
        "the kernel to end it",
        LIMIT,
        || kubectl.get("pod memory", "{.status.containerStatuses[0].state.terminated.reason}"),
        |reason| out_of_memory().contains(&reason.as_str()),
    );
    becomes(&kubectl, "pod memory", "{.status.containerStatuses[0].state.terminated.exitCode}", "137");
    neighbours_are_well(&kubectl);

    // The file system of its own, and a volume: the pod is evicted.
    let fill = |place: &str| format!("dd if=/dev/zero of={place}/x bs=1M count=64; exec sleep 3600");
    let limit = "    resources: {limits: {ephemeral-storage: 16Mi}}";
    pod(&kubectl, "disk", &fill("/tmp"), limit, "");
    let mount = "    volumeMounts: [{name: v, mountPath: /v}]";
    pod(&kubectl, "volume", &fill("/v"), mount, "  volumes: [{name: v, emptyDir: {sizeLimit: 16Mi}}]");
    for (name, message) in [
        ("disk", "Pod ephemeral local storage usage exceeds the total limit of containers 16Mi. "),
        ("volume", "Usage of EmptyDir volume \"v\" exceeds the limit \"16Mi\". "),
    ] {
        becomes(&kubectl, &format!("pod {name}"), "{.status.reason}", "Evicted");
        assert_eq!(kubectl.get(&format!("pod {name}"), "{.status.message}"), message);
    }
    neighbours_are_well(&kubectl);

    // Its log: rotated, so that it stays below a few times the size of one file.
    pod(&kubectl, "log", "while :; do head -c 65536 /dev/zero | tr '\\\\0' x; echo; done", "", "");
    let logs = cluster.data_dir().join("pod-logs");
    wait_for("its log to be rotated", LIMIT, || files(&logs, "log").len(), |count| *count > 1);
    neighbours_are_well(&kubectl);
    kubectl.run("delete pod log --timeout=30s").ok();

    // A process that ignores every signal that can be ignored is gone after its grace.
    let deaf = "trap '' HUP INT TERM QUIT USR1 USR2; while :; do sleep 1; done";
    pod(&kubectl, "deaf", deaf, "", "");
    becomes(&kubectl, "pod deaf", "{.status.phase}", "Running");
    kubectl.run("delete pod deaf --timeout=30s").ok();

    // A probe that never answers counts as failed, and its process does not stay.
    let mark = mark(1);
    let probe = format!(
        "    livenessProbe: {{exec: {{command: [sleep, '{mark}']}}, timeoutSeconds: 1, periodSeconds: 1, failureThreshold: 1}}"
    );
    pod(&kubectl, "probe", "exec sleep 3600", &probe, "");
    becomes(&kubectl, "pod probe", "{.status.phase}", "Failed");
    told(&kubectl, "involvedObject.name=probe", &["Liveness probe failed: command timed out"]);
    wait_for("the probe's process to end", LIMIT, || running(&mark), |count| *count == 0);
    neighbours_are_well(&kubectl);
}

#[test]
fn a_container_that_forks_without_end_is_bounded() {
    /// Processes of one pod: enough for the example's servers.
    const MOST: usize = 100;
    if !Cluster::available() || !Kubectl::available() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = directory.path().join("kubelet.yaml");
    let text = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\npodPidsLimit: {MOST}\n"
    );
    std::fs::write(&config, text).expect("the file is written");
    let flags = ["--kubelet-config", config.to_str().expect("a path of text")];
    let cluster = Cluster::start_with(&flags).expect("the cluster starts");
    for archive in archives() {
        cluster.load(archive);
    }
    let kubectl = cluster.kubectl();
    deploy_example(&kubectl);

    // As many as it can, and no more than the machine bears should nobody stop it. The shell that may not fork ends; the first
    // process needs no other, and stays.
    let mark = mark(2);
    let forks = format!(
        "sh -c 'i=0; while [ $i -lt 400 ]; do sleep {mark} & i=$((i+1)); done'; echo refused; exec sleep 3600"
    );
    pod(&kubectl, "forks", &forks, "", "");
    becomes(&kubectl, "pod forks", "{.status.phase}", "Running");
    wait_for(
        "a fork to be refused",
        LIMIT,
        || kubectl.run("logs forks").ok(),
        |text| text.contains("refused"),
    );
    // A shell that was made is shown by its program a moment later. No more are made, so this does not pass by its bound.
    wait_for("its processes", LIMIT, || running(&mark), |made| (MOST / 2..MOST).contains(made));
    let said = kubectl.run("logs forks").ok();
    assert!(said.contains("fork"), "the kernel refused it: {said}");
    neighbours_are_well(&kubectl);
    // Others may still begin, and nothing of it stays.
    pod(&kubectl, "after", "exec sleep 3600", "", "");
    becomes(&kubectl, "pod after", "{.status.phase}", "Running");
    kubectl.run("delete pod forks --timeout=30s").ok();
    wait_for("its processes to end", LIMIT, || running(&mark), |count| *count == 0);
    neighbours_are_well(&kubectl);
}

/// The files of a pod's logs.
fn files(logs: &Path, pod: &str) -> Vec<std::path::PathBuf> {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    let own = format!("default_{pod}_");
    entries(logs)
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&own)))
        .flat_map(|pod| entries(&pod).collect::<Vec<_>>())
        .flat_map(|container| entries(&container).collect::<Vec<_>>())
        .collect()
}

/// Seconds to sleep, many years, that no process has but those of this test in this run: the containers of a run that was killed
/// go on.
fn mark(test: u8) -> String {
    format!("7{test}{:07}", std::process::id())
}

/// How many processes have this among their arguments.
fn running(argument: &str) -> usize {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let wanted = format!("\0{argument}\0");
    processes
        .filter(|process| {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).ends_with(&wanted)
        })
        .count()
}
