//! Scenarios that are about one thing: claims of stateful sets, the rules of Jobs, or tainted nodes.

use fastrand::Rng;
use serde_json::{Value, json};

use super::scenario::{NAMESPACE, NODES, Scenario, Workload, job, template};
use crate::testing::api::{FakeApi, Objects};

/// The key of the taint that comes and goes.
pub(super) const TAINT: &str = "sick";
/// Exit codes that the Jobs' rules know.
pub(super) const FAILS_JOB: i64 = 42;
pub(super) const FAILS_INDEX: i64 = 43;
pub(super) const IGNORED: i64 = 44;

/// What a scenario is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// Stateful sets with claims, and what becomes of those.
    Claims,
    /// Jobs with rules of failure and success.
    Rules,
    /// Taints that end pods.
    Taints,
}

impl Theme {
    /// Every seed has one.
    pub(super) fn of(seed: u64) -> Self {
        match seed % 3 {
            0 => Self::Claims,
            1 => Self::Rules,
            _ => Self::Taints,
        }
    }

    /// Makes a scenario be about this.
    pub(super) fn shape(self, rng: &mut Rng, scenario: &mut Scenario) {
        scenario.theme = Some(self);
        let count = rng.usize(1..=2);
        scenario.workloads = (0..count)
            .map(|index| {
                let name = format!("w{index}");
                match self {
                    Self::Claims => stateful_set(rng, name),
                    Self::Rules => Workload {
                        resource: "batch/jobs",
                        object: object(&name, &ruled_job(rng, &name)),
                        name,
                        edits: false,
                    },
                    Self::Taints => tolerant(rng, name),
                }
            })
            .collect();
        // Who is evicted neither serves on nor goes in order.
        scenario.steady_pods &= self != Self::Taints;
    }

    /// Whether a scheduler that knows everything puts the pod on that node.
    pub(super) fn admits(self, objects: &Objects, pod: &Value, node: &str) -> bool {
        match self {
            Self::Claims => claims_of(pod).all(|name| {
                let key = ("/persistentvolumeclaims".to_owned(), NAMESPACE.to_owned(), name.to_owned());
                objects.get(&key).is_some_and(|claim| !claim["metadata"]["deletionTimestamp"].is_string())
            }),
            Self::Rules => true,
            Self::Taints => !is_tainted(objects, node) || patience(pod) == Patience::Forever,
        }
    }

    /// How a container fails.
    pub(super) fn exit_code(self, rng: &mut Rng) -> i64 {
        match rng.u32(0..12) {
            0 if self == Self::Rules => FAILS_JOB,
            1 | 2 if self == Self::Rules => FAILS_INDEX,
            3 | 4 if self == Self::Rules => IGNORED,
            _ => 1,
        }
    }
}

fn object(name: &str, spec: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
}

fn stateful_set(rng: &mut Rng, name: String) -> Workload {
    let policy = |rng: &mut Rng| if rng.bool() { "Delete" } else { "Retain" };
    let spec = json!({
        "replicas": rng.u32(0..5), "selector": {"matchLabels": {"app": name}}, "template": template(&name, 0),
        "serviceName": name, "podManagementPolicy": if rng.bool() { "Parallel" } else { "OrderedReady" },
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}, "revisionHistoryLimit": 2,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": policy(rng), "whenScaled": policy(rng)},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}],
    });
    Workload { resource: "apps/statefulsets", object: object(&name, &spec), name, edits: true }
}

fn ruled_job(rng: &mut Rng, name: &str) -> Value {
    let mut spec = job(rng, name);
    let indexed = spec["completionMode"] == "Indexed";
    let on = |action: &str, code: i64| json!({"action": action, "onExitCodes": {"operator": "In", "values": [code]}});
    let mut rules = vec![on("Ignore", IGNORED)];
    if rng.bool() {
        rules.push(on("FailJob", FAILS_JOB));
    }
    if spec["backoffLimitPerIndex"].is_number() {
        rules.push(on("FailIndex", FAILS_INDEX));
        if rng.bool() {
            spec["maxFailedIndexes"] = json!(rng.u32(0..3));
        }
    }
    spec["podFailurePolicy"] = json!({"rules": rules});
    spec["podReplacementPolicy"] = json!("Failed");
    if indexed && rng.bool() {
        let completions = spec["completions"].as_u64().unwrap_or(1);
        let last = rng.u64(0..completions);
        let mut rule = json!({"succeededIndexes": format!("0-{last}")});
        if rng.bool() {
            rule["succeededCount"] = json!(rng.u64(1..=last + 1));
        }
        spec["successPolicy"] = json!({"rules": [rule]});
    }
    spec
}

fn tolerant(rng: &mut Rng, name: String) -> Workload {
    let mut template = template(&name, 0);
    let resource =
        ["apps/deployments", "apps/replicasets", "apps/statefulsets", "apps/daemonsets"][rng.usize(0..4)];
    let toleration = json!({"key": TAINT, "operator": "Exists", "effect": "NoExecute"});
    // A daemon that bears a taint for a while comes back for ever.
    let tolerations = match rng.u32(0..3) {
        0 => json!([]),
        1 if resource != "apps/daemonsets" => {
            let mut toleration = toleration;
            toleration["tolerationSeconds"] = json!(rng.u32(0..40));
            json!([toleration])
        }
        _ => json!([toleration]),
    };
    template["spec"]["tolerations"] = tolerations;
    let mut spec =
        json!({"selector": {"matchLabels": {"app": name}}, "template": template, "revisionHistoryLimit": 2});
    let rolling = |rule: Value| json!({"type": "RollingUpdate", "rollingUpdate": rule});
    match resource {
        "apps/daemonsets" => spec["updateStrategy"] = rolling(json!({"maxSurge": 0, "maxUnavailable": 1})),
        "apps/statefulsets" => {
            spec["updateStrategy"] = rolling(json!({"partition": 0}));
            spec["serviceName"] = json!(name);
            spec["podManagementPolicy"] = json!("OrderedReady");
        }
        "apps/deployments" => {
            spec["strategy"] = rolling(json!({"maxSurge": 1, "maxUnavailable": 1}));
            spec["progressDeadlineSeconds"] = json!(600);
        }
        _ => {}
    }
    if resource != "apps/daemonsets" {
        spec["replicas"] = json!(rng.u32(0..6));
    }
    Workload { resource, object: object(&name, &spec), name, edits: true }
}

/// The names of the claims that a pod uses.
pub(super) fn claims_of(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
}

/// How long a pod bears the taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    Seconds(i64),
    Forever,
}

pub(super) fn patience(pod: &Value) -> Patience {
    let tolerations = pod["spec"]["tolerations"].as_array().into_iter().flatten();
    let Some(toleration) = tolerations.into_iter().find(|it| it["key"] == TAINT) else {
        return Patience::Seconds(0);
    };
    toleration["tolerationSeconds"].as_i64().map_or(Patience::Forever, Patience::Seconds)
}

/// When the node's taint was added.
pub(super) fn tainted_since(node: &Value) -> Option<&str> {
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    taints.into_iter().find(|it| it["key"] == TAINT)?["timeAdded"].as_str()
}

pub(super) fn is_tainted(objects: &Objects, node: &str) -> bool {
    let key = ("/nodes".to_owned(), String::new(), node.to_owned());
    objects.get(&key).is_some_and(|node| tainted_since(node).is_some())
}

/// Taints a node, or ends it.
pub(super) fn taint(api: &FakeApi, node: &str, since: Option<&str>) {
    api.edit("/nodes", "", node, |node| {
        let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let had = taints.iter().any(|it| it["key"] == TAINT);
        match since {
            Some(since) if !had => {
                taints.push(json!({"key": TAINT, "effect": "NoExecute", "timeAdded": since}));
            }
            Some(_) => {}
            None => taints.retain(|it| it["key"] != TAINT),
        }
        if had || since.is_some() {
            node["spec"]["taints"] = json!(taints);
        }
    });
}

/// What users leave tainted: nothing, or one node.
pub(super) fn settle_taints(api: &FakeApi, rng: &mut Rng, now: &str) {
    let stays = rng.bool();
    for (index, node) in NODES.iter().enumerate() {
        taint(api, node, (stays && index == 0).then_some(now));
    }
}
