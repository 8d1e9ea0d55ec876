//! What a seed puts into the cluster, and what users do to it.

use fastrand::Rng;
use serde_json::{Value, json};

use super::link::Faults;
use super::theme::Theme;
use crate::testing::api::FakeApi;

/// Where everything lives.
pub(super) const NAMESPACE: &str = "ns";
pub(super) const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// What a seed has chosen.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) workloads: Vec<Workload>,
    /// Pods never fail by themselves, and users do not delete them.
    pub(super) steady_pods: bool,
    /// The process dies now and then.
    pub(super) crashes: bool,
    /// For a while two processes lead.
    pub(super) two_leaders: bool,
    /// Watches break and expire.
    pub(super) cuts: bool,
    pub(super) faults: Faults,
    /// The last thing users do is to delete everything.
    pub(super) ends_with: Ending,
    pub(super) steps: u32,
    /// What it is about, if it is about one thing.
    pub(super) theme: Option<Theme>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Stay,
    DeleteOwners,
    DeleteNamespace,
}

/// One object that makes pods.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) resource: &'static str,
    pub(super) name: String,
    pub(super) object: Value,
    /// Whether users change it.
    pub(super) edits: bool,
}

impl Scenario {
    pub(super) fn of(rng: &mut Rng) -> Self {
        let count = rng.usize(1..=2);
        let workloads = (0..count).map(|index| workload(rng, index)).collect();
        let quiet = rng.u32(0..5) == 0;
        let faults = if quiet {
            Faults { delay_ms: rng.u64(0..20), ..Faults::default() }
        } else {
            Faults {
                unsent: rng.u32(0..30),
                unanswered: rng.u32(0..30),
                refused: rng.u32(0..30),
                delay_ms: rng.u64(0..200),
            }
        };
        Self {
            workloads,
            steady_pods: rng.bool(),
            crashes: rng.bool(),
            two_leaders: rng.u32(0..4) == 0,
            cuts: rng.bool(),
            faults,
            ends_with: match rng.u32(0..6) {
                0 => Ending::DeleteOwners,
                1 => Ending::DeleteNamespace,
                _ => Ending::Stay,
            },
            steps: rng.u32(40..160),
            theme: None,
        }
    }

    /// One that is about a theme.
    pub(super) fn about(theme: Theme, rng: &mut Rng) -> Self {
        let mut scenario = Self::of(rng);
        theme.shape(rng, &mut scenario);
        scenario
    }
}

pub(super) fn template(name: &str, version: u32) -> Value {
    json!({
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": format!("image:v{version}")}]},
    })
}

fn count_or_percent(rng: &mut Rng) -> Value {
    match rng.u32(0..4) {
        0 => json!(0),
        1 => json!(1),
        2 => json!(2),
        _ => json!(format!("{}%", rng.u32(0..10) * 10)),
    }
}

fn workload(rng: &mut Rng, index: usize) -> Workload {
    let name = format!("w{index}");
    let replicas = rng.u32(0..7);
    let selector = json!({"matchLabels": {"app": name}});
    let mut spec = json!({"replicas": replicas, "selector": selector, "template": template(&name, 0)});
    if rng.u32(0..3) == 0 {
        spec["minReadySeconds"] = json!(rng.u32(1..10));
    }
    let kind = rng.u32(0..11);
    let resource = match kind {
        0..4 => {
            spec["strategy"] = match rng.u32(0..5) {
                0 => json!({"type": "Recreate"}),
                _ => json!({"type": "RollingUpdate", "rollingUpdate":
                    {"maxSurge": count_or_percent(rng), "maxUnavailable": count_or_percent(rng)}}),
            };
            spec["progressDeadlineSeconds"] = json!(600);
            spec["revisionHistoryLimit"] = json!(rng.u32(0..3));
            "apps/deployments"
        }
        4 => "apps/replicasets",
        5 => {
            spec["selector"] = json!({"app": name});
            "/replicationcontrollers"
        }
        6 | 7 => {
            spec["serviceName"] = json!(name);
            spec["podManagementPolicy"] = json!(if rng.u32(0..3) == 0 { "Parallel" } else { "OrderedReady" });
            spec["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}});
            spec["revisionHistoryLimit"] = json!(2);
            "apps/statefulsets"
        }
        8 => {
            spec.as_object_mut().expect("an object").remove("replicas");
            let (surge, unavailable) = if rng.bool() { (1, 0) } else { (0, 1) };
            spec["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate":
                {"maxSurge": surge, "maxUnavailable": unavailable}});
            spec["revisionHistoryLimit"] = json!(2);
            "apps/daemonsets"
        }
        9 => {
            spec = job(rng, &name);
            "batch/jobs"
        }
        _ => {
            spec = json!({
                "schedule": "* * * * *",
                "concurrencyPolicy": *rng.choice(["Allow", "Forbid", "Replace"].iter()).expect("three"),
                "successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 1, "suspend": false,
                "jobTemplate": {"spec": job(rng, &name)},
            });
            "batch/cronjobs"
        }
    };
    let object = json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
    Workload { resource, name, object, edits: kind < 9 }
}

pub(super) fn job(rng: &mut Rng, name: &str) -> Value {
    let indexed = rng.bool();
    let mut template = template(name, 0);
    template["spec"]["restartPolicy"] = json!("Never");
    let mut spec = json!({
        "parallelism": rng.u32(1..5), "completions": rng.u32(1..8), "backoffLimit": rng.u32(2..8),
        "completionMode": if indexed { "Indexed" } else { "NonIndexed" }, "suspend": false,
        "podReplacementPolicy": if rng.bool() { "Failed" } else { "TerminatingOrFailed" },
        "template": template,
    });
    if indexed && rng.bool() {
        spec["backoffLimitPerIndex"] = json!(rng.u32(1..4));
        spec["backoffLimit"] = json!(i32::MAX);
        spec["podReplacementPolicy"] = json!("Failed");
    }
    spec
}

/// Fills an empty cluster.
pub(super) fn furnish(api: &FakeApi, scenario: &Scenario) {
    for node in NODES {
        api.create(
            "/nodes",
            &json!({"metadata": {"name": node, "labels": {"kubernetes.io/hostname": node}},
            "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        );
        api.create(
            "coordination.k8s.io/leases",
            &json!({"metadata": {"name": node, "namespace": "kube-node-lease"}, "spec": {"leaseDurationSeconds": 40}}),
        );
    }
    api.create("/namespaces", &json!({"metadata": {"name": NAMESPACE}, "spec": {}, "status": {}}));
    for workload in &scenario.workloads {
        let created = api.create(workload.resource, &workload.object);
        let (api_version, kind) = (created["apiVersion"].clone(), created["kind"].clone());
        api.create(
            "/services",
            &json!({"metadata": {"name": workload.name, "namespace": NAMESPACE}, "spec": {
                "selector": {"app": workload.name}, "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
                "ipFamilies": ["IPv4"], "type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}}),
        );
        // Something that only the garbage collector looks after.
        api.create(
            "/configmaps",
            &json!({"metadata": {"name": format!("of-{}", workload.name), "namespace": NAMESPACE,
                "ownerReferences": [{"apiVersion": api_version, "kind": kind, "name": workload.name,
                    "uid": created["metadata"]["uid"]}]}}),
        );
        api.create(
            "policy/poddisruptionbudgets",
            &json!({"metadata": {"name": workload.name, "namespace": NAMESPACE},
                "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": workload.name}}}}),
        );
    }
}

/// Something a user does to a workload that is there.
pub(super) fn edit(api: &FakeApi, rng: &mut Rng, workload: &Workload) {
    let version = rng.u32(0..4);
    let replicas = rng.u32(0..8);
    let pause = rng.u32(0..4) == 0;
    let choice = rng.u32(0..3);
    let image = json!(format!("image:v{version}"));
    api.edit(workload.resource, NAMESPACE, &workload.name, |object| match choice {
        0 if object["spec"]["replicas"].is_number() => object["spec"]["replicas"] = json!(replicas),
        1 if workload.resource == "apps/deployments" => object["spec"]["paused"] = json!(pause),
        _ => object["spec"]["template"]["spec"]["containers"][0]["image"] = image,
    });
}
