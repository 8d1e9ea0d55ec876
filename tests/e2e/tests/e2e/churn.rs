//! The daemon is killed again and again while pods come and go; what was deleted leaves nothing on the machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use podium_testkit::{Cluster, images, wait_for};

use crate::restarts::Ends;
use crate::{LIMIT, cluster, deploy_example};

/// How often the daemon is killed.
const KILLS: usize = 100;

#[test]
fn a_hundred_kills_during_churn_lose_and_leave_nothing() {
    if crate::on_containerd() {
        // Debian's, killed between the start of a shim and its record of it, forgets the shim.
        println!("skipped: what containerd leaves behind when it is killed is containerd's");
        return;
    }
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    deploy_example(&kubectl);
    let ids = "{.items[*].status.containerStatuses[0].containerID}";
    let before = kubectl.get("-n production pods", ids);
    let there = remains(&cluster);
    assert!(there.len() > 3, "{there:?}");
    kubectl.run("create namespace churn").ok();
    kubectl.apply(&format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: churn, namespace: churn}}, spec: {{\
         replicas: 2, selector: {{matchLabels: {{app: churn}}}}, template: {{metadata: {{labels: {{app: churn}}}}, \
         spec: {{terminationGracePeriodSeconds: 0, \
         containers: [{{name: c, image: {image}, command: [sleep, '3600'], \
         volumeMounts: [{{name: v, mountPath: /v, subPath: below}}]}}], \
         volumes: [{{name: v, emptyDir: {{medium: Memory}}}}]}}}}}}}}",
        image = images::BUSYBOX
    ));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                // Calls fail while the daemon is away; the next one comes.
                let replicas = [5, 1, 4, 0][number % 4];
                kubectl.run(&format!("-n churn scale deployment/churn --replicas={replicas}"));
                kubectl.run("-n churn delete pods --all --wait=false");
            }
        });
        let end = Ends(&stop);
        for round in 0..KILLS {
            // A different moment of the daemon's work each time.
            std::thread::park_timeout(Duration::from_millis(u64::try_from(round * 53 % 500).unwrap()));
            cluster.kill().unwrap();
            cluster.up().unwrap_or_else(|error| panic!("round {round}: {error:#}"));
        }
        drop(end);
    });
    assert_eq!(kubectl.get("-n production pods", ids), before, "no container was lost");
    kubectl.run("delete namespace churn --timeout=120s").ok();
    wait_for(
        "nothing to be left of the deleted pods",
        LIMIT,
        || {
            let now = remains(&cluster);
            let left: Vec<String> = now.difference(&there).cloned().collect();
            let lost: Vec<String> = there.difference(&now).cloned().collect();
            (left, lost)
        },
        |(left, lost)| left.is_empty() && lost.is_empty(),
    );
    assert_eq!(kubectl.get("-n production pods", ids), before, "no container was lost afterwards");
}

/// What pods leave on a machine while they are there: mounts, control groups, processes, routes, addresses, directories, and
/// the daemon's descriptors of logs.
fn remains(cluster: &Cluster) -> BTreeSet<String> {
    let data = cluster.data_dir();
    let (routes, tag) = routes(&data);
    let own = [data.display().to_string(), format!("/run/podium-{tag}/")];
    let is_own = |text: &str| own.iter().any(|place| text.contains(place));
    let mut found: BTreeSet<String> = routes.into_iter().collect();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|place| is_own(place));
    found.extend(places.map(|place| format!("mount {place}")));
    for process in entries(Path::new("/proc")) {
        let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains("-shim") && is_own(&command) {
            found.insert(format!("process {command}"));
        }
    }
    let group = format!("podium-{tag}");
    // Version 1 has a tree for each controller, version 2 one for all.
    let trees = entries(Path::new("/sys/fs/cgroup"));
    for tree in trees.iter().map(PathBuf::as_path).chain([Path::new("/sys/fs/cgroup")]) {
        groups(&tree.join(&group), &mut found);
    }
    for below in ["network/addresses", "pod-logs", "kubelet/pods", "runtime/sandboxes", "runtime/containers"]
    {
        found.extend(entries(&data.join(below)).iter().map(|path| format!("entry {}", path.display())));
    }
    let daemon = cluster.pid().expect("the daemon runs");
    for descriptor in entries(Path::new(&format!("/proc/{daemon}/fd"))) {
        let target = std::fs::read_link(&descriptor).unwrap_or_default();
        if target.starts_with(data.join("pod-logs")) {
            found.insert(format!("descriptor of {}", target.display()));
        }
    }
    found
}

/// The host's routes to pods, and the tag in the names of what the cluster has outside of its directory.
fn routes(data: &Path) -> (Vec<String>, String) {
    let settings = std::fs::read_to_string(data.join("cluster.json")).expect("the cluster's settings");
    let settings: serde_json::Value = serde_json::from_str(&settings).expect("JSON");
    let range = settings["podCidr"].as_str().expect("a range of pod addresses");
    // The ranges that clusters choose are /16.
    let prefix = range.split('.').take(2).collect::<Vec<_>>().join(".") + ".";
    let output = std::process::Command::new("ip").args(["-o", "route", "show"]).output().expect("iproute2");
    let output = String::from_utf8_lossy(&output.stdout);
    let routes: Vec<&str> = output.lines().filter(|route| route.starts_with(&prefix)).collect();
    let tag = routes.iter().find_map(|route| {
        let device = route.split_whitespace().skip_while(|word| *word != "dev").nth(1)?;
        device.strip_prefix("podium").map(str::to_owned)
    });
    let tag = tag.unwrap_or_else(|| panic!("no bridge among {routes:?}"));
    (routes.into_iter().map(|route| format!("route {route}")).collect(), tag)
}

/// The control groups at and below a place; those of a class of pods are the node's and stay.
fn groups(place: &Path, found: &mut BTreeSet<String>) {
    if place.is_dir() {
        if !["besteffort", "burstable"].iter().any(|class| place.ends_with(class)) {
            found.insert(format!("group {}", place.display()));
        }
        for below in entries(place) {
            groups(&below, found);
        }
    }
}

/// The entries of a directory; none when it is not there.
fn entries(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
