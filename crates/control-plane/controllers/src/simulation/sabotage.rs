//! The judge itself is judged: whatever it is to notice is done once, by hand, and it must say so.

mod rules;

use std::sync::Arc;

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::invariants::{Judge, STALE_SECONDS, Strictness};
use super::scenario::NAMESPACE;
use crate::clock::RuntimeClock;
use crate::testing::api::FakeApi;
use crate::testing::{at, pass};

/// A cluster without controllers, and its judge.
struct Stage {
    api: FakeApi,
    judge: Arc<Mutex<Judge>>,
}

impl Stage {
    fn new() -> Self {
        let clock = RuntimeClock::starting_at(at(1_000_000));
        let judge = Judge::new(clock, Strictness { steady_pods: true, evicted_pods: false });
        let api = FakeApi::default();
        api.simulate(clock, Judge::hook(&judge));
        api.create("/namespaces", &json!({"metadata": {"name": NAMESPACE}, "spec": {}, "status": {}}));
        Self { api, judge }
    }

    /// An object; `owner` is the kind, resource and name of what controls it.
    fn make(&self, resource: &str, name: &str, owner: Option<(&str, &str, &str)>, spec: &Value) {
        let mut object = json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
        if let Some((kind, resource, name)) = owner {
            let owner: Value = self.api.get(resource, NAMESPACE, name).expect("the owner is there");
            object["metadata"]["ownerReferences"] = json!([{"apiVersion": owner["apiVersion"], "kind": kind,
                "name": name, "uid": owner["metadata"]["uid"], "controller": true}]);
        }
        self.api.create(resource, &object);
    }

    fn deployment(&self, replicas: u32, strategy: &Value) {
        let selector = json!({"matchLabels": {"app": "d"}});
        let template = json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": []}});
        let spec =
            json!({"replicas": replicas, "selector": selector, "template": template, "strategy": strategy});
        self.make("apps/deployments", "d", None, &spec);
        for name in ["old", "new"] {
            let spec = json!({"replicas": replicas, "selector": selector, "template": template});
            self.make("apps/replicasets", name, Some(("Deployment", "apps/deployments", "d")), &spec);
        }
    }

    fn replica_set(&self, replicas: u32) {
        let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": "s"}}});
        self.make("apps/replicasets", "s", None, &spec);
    }

    fn stateful_set(&self, replicas: u32) {
        let spec = json!({"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {}});
        self.make("apps/statefulsets", "db", None, &spec);
    }

    fn job(&self, parallelism: u32) {
        self.make("batch/jobs", "j", None, &json!({"parallelism": parallelism, "template": {}}));
    }

    fn pod_of_set(&self, name: &str, set: &str) {
        self.pod(name, ("ReplicaSet", "apps/replicasets", set), &json!({"containers": []}));
    }

    fn pod_of_stateful_set(&self, name: &str) {
        self.pod(name, ("StatefulSet", "apps/statefulsets", "db"), &json!({"containers": []}));
    }

    fn pod_of_job(&self, name: &str, index: &str) {
        self.pod(name, ("Job", "batch/jobs", "j"), &json!({"containers": []}));
        // Too late for the judge, but in time for the next pod.
        self.api.edit("/pods", NAMESPACE, name, |pod| {
            pod["metadata"]["annotations"] = json!({"batch.kubernetes.io/job-completion-index": index});
        });
    }

    fn pod(&self, name: &str, owner: (&str, &str, &str), spec: &Value) {
        self.make("/pods", name, Some(owner), spec);
    }

    fn serve(&self, name: &str) {
        self.api.edit("/pods", NAMESPACE, name, |pod| {
            pod["spec"]["nodeName"] = json!("n1");
            pod["status"] = json!({"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-12T13:46:40Z"}]});
        });
    }

    fn status(&self, resource: &str, name: &str, status: &Value) {
        self.api.edit(resource, NAMESPACE, name, |object| object["status"] = status.clone());
    }

    fn condition(&self, types: &[&str]) {
        let conditions: Vec<Value> =
            types.iter().map(|type_| json!({"type": type_, "status": "True"})).collect();
        self.status("batch/jobs", "j", &json!({"conditions": conditions}));
    }

    /// Deletes as a controller does.
    fn delete(&self, plural: &str, name: &str) {
        let uri = format!("/api/v1/namespaces/{NAMESPACE}/{plural}/{name}").parse().expect("a path");
        let answer = self.api.answer_to(1, &Method::DELETE, &uri, Value::Null, false);
        assert_eq!(answer.status(), 200, "{uri}");
    }

    fn broken(&self) -> Vec<String> {
        self.judge.lock().broken.clone()
    }
}

/// What is wrong, in the judge's words; what there is for a while before it; and what is done then.
type Row = (&'static str, fn(&Stage), fn(&Stage));

const ROWS: &[Row] = &[
    (
        "a ReplicaSet that is not empty was deleted under its Deployment",
        |stage| stage.deployment(2, &json!({})),
        |stage| stage.api.delete("apps/replicasets", NAMESPACE, "old", "Background"),
    ),
    (
        "2 pods of a ReplicaSet that is to have 1",
        |stage| stage.replica_set(1),
        |stage| ["a", "b"].iter().for_each(|name| stage.pod_of_set(name, "s")),
    ),
    (
        "2 pods of a ReplicationController that is to have 1",
        |stage| stage.make("/replicationcontrollers", "c", None, &json!({"replicas": 1})),
        |stage| {
            let owner = ("ReplicationController", "/replicationcontrollers", "c");
            ["a", "b"].iter().for_each(|name| stage.pod(name, owner, &json!({"containers": []})));
        },
    ),
    (
        "2 pods of a Deployment that is to have 1",
        |stage| stage.deployment(1, &json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})),
        |stage| ["old", "new"].iter().for_each(|set| stage.pod_of_set(set, set)),
    ),
    (
        "old and new pods at once in a Deployment that recreates",
        |stage| stage.deployment(2, &json!({"type": "Recreate"})),
        |stage| ["old", "new"].iter().for_each(|set| stage.pod_of_set(set, set)),
    ),
    (
        "1 available pods left, 2 promised",
        |stage| {
            stage.deployment(2, &json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}));
            for name in ["a", "b"] {
                stage.pod_of_set(name, "new");
                stage.serve(name);
            }
        },
        |stage| stage.delete("pods", "a"),
    ),
    (
        "deleted although 1 were worth less and 1 had to go",
        |stage| {
            stage.replica_set(2);
            ["a", "b"].iter().for_each(|name| stage.pod_of_set(name, "s"));
            stage.serve("a");
        },
        |stage| {
            stage.api.edit("apps/replicasets", NAMESPACE, "s", |set| set["spec"]["replicas"] = json!(1));
            stage.delete("pods", "a");
        },
    ),
    (
        "2 pods of a Job that is to have 1",
        |stage| stage.job(1),
        |stage| ["a", "b"].iter().for_each(|name| stage.pod_of_job(name, "0")),
    ),
    (
        "two pods work on index Some(\"0\")",
        |stage| stage.job(2),
        |stage| {
            let mut second = json!({"metadata": {"name": "b", "namespace": NAMESPACE}});
            stage.pod_of_job("a", "0");
            let first: Value = stage.api.get("/pods", NAMESPACE, "a").expect("just made");
            for field in ["annotations", "ownerReferences"] {
                second["metadata"][field] = first["metadata"][field].clone();
            }
            stage.api.create("/pods", &second);
        },
    ),
    (
        "succeeded went from 1 to 0",
        |stage| {
            stage.job(1);
            stage.status("batch/jobs", "j", &json!({"succeeded": 1}));
        },
        |stage| stage.status("batch/jobs", "j", &json!({"succeeded": 0})),
    ),
    (
        "failed went from 2 to 1",
        |stage| {
            stage.job(1);
            stage.status("batch/jobs", "j", &json!({"failed": 2}));
        },
        |stage| stage.status("batch/jobs", "j", &json!({"failed": 1})),
    ),
    (
        "succeeded is 1 but only 0 did",
        |stage| stage.job(1),
        |stage| stage.status("batch/jobs", "j", &json!({"succeeded": 1})),
    ),
    ("both complete and failed", |stage| stage.job(1), |stage| stage.condition(&["Complete", "Failed"])),
    (
        "no longer Complete",
        |stage| {
            stage.job(1);
            stage.condition(&["Complete"]);
        },
        |stage| stage.condition(&[]),
    ),
    (
        "deleted although its owner \"s\" lives",
        |stage| {
            stage.replica_set(0);
            stage.make("/configmaps", "m", Some(("ReplicaSet", "apps/replicasets", "s")), &json!({}));
        },
        |stage| stage.delete("configmaps", "m"),
    ),
    (
        "2 daemons on Some(\"n1\")",
        |stage| {
            let spec = json!({"selector": {"matchLabels": {"app": "a"}}, "template": {}});
            stage.make("apps/daemonsets", "a", None, &spec);
        },
        |stage| {
            let terms = json!([{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]);
            let required =
                json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
            let spec = json!({"containers": [], "affinity": {"nodeAffinity": required}});
            let owner = ("DaemonSet", "apps/daemonsets", "a");
            ["a", "b"].iter().for_each(|name| stage.pod(name, owner, &spec));
        },
    ),
    ("ordinal 2 of 2", |stage| stage.stateful_set(2), |stage| stage.pod_of_stateful_set("db-2")),
    (
        "made before ordinal 0 was ready",
        |stage| stage.stateful_set(2),
        |stage| ["db-0", "db-1"].iter().for_each(|name| stage.pod_of_stateful_set(name)),
    ),
    (
        "scaled down out of order",
        |stage| {
            stage.stateful_set(3);
            for name in ["db-0", "db-1", "db-2"] {
                stage.pod_of_stateful_set(name);
                stage.serve(name);
            }
            stage.api.edit("apps/statefulsets", NAMESPACE, "db", |set| set["spec"]["replicas"] = json!(1));
        },
        |stage| stage.delete("pods", "db-1"),
    ),
    (
        "updated while another pod was not ready",
        |stage| {
            stage.stateful_set(2);
            for name in ["db-0", "db-1"] {
                stage.pod_of_stateful_set(name);
                stage.serve(name);
            }
            stage.status("/pods", "db-0", &json!({"phase": "Running"}));
        },
        |stage| stage.delete("pods", "db-1"),
    ),
];

/// Longer than anybody may not know.
const A_WHILE: u64 = STALE_SECONDS.unsigned_abs() + 10;

#[tokio::test(start_paused = true)]
async fn every_broken_invariant_is_noticed() {
    for (wrong, before, then) in ROWS.iter().chain(rules::ROWS) {
        let stage = Stage::new();
        before(&stage);
        pass(A_WHILE).await;
        assert!(!stage.broken().iter().any(|it| it.contains(wrong)), "{wrong}: {:?}", stage.broken());
        then(&stage);
        assert!(stage.broken().iter().any(|it| it.contains(wrong)), "{wrong}: {:?}", stage.broken());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_right_is_not_noticed() {
    let stage = Stage::new();
    stage.replica_set(2);
    ["a", "b"].iter().for_each(|name| stage.pod_of_set(name, "s"));
    stage.serve("a");
    pass(A_WHILE).await;
    stage.api.edit("apps/replicasets", NAMESPACE, "s", |set| set["spec"]["replicas"] = json!(1));
    stage.delete("pods", "b");
    assert!(stage.broken().is_empty(), "{:?}", stage.broken());
}

#[tokio::test(start_paused = true)]
async fn two_leaders_are_not_judged_for_what_they_do_together() {
    let stage = Stage::new();
    stage.replica_set(1);
    stage.judge.lock().leaders(2);
    pass(A_WHILE).await;
    ["a", "b"].iter().for_each(|name| stage.pod_of_set(name, "s"));
    stage.judge.lock().leaders(1);
    pass(5).await;
    stage.pod_of_set("c", "s");
    assert!(stage.broken().is_empty(), "{:?}", stage.broken());
    pass(A_WHILE).await;
    stage.pod_of_set("d", "s");
    assert!(!stage.broken().is_empty(), "one leads, and knows it");
}

#[tokio::test(start_paused = true)]
async fn the_order_of_a_stateful_set_ends_with_it() {
    let stage = Stage::new();
    stage.stateful_set(2);
    stage.pod_of_stateful_set("db-0");
    let mut late: Value = stage.api.get("/pods", NAMESPACE, "db-0").unwrap();
    let owners = late["metadata"]["ownerReferences"].take();
    late["metadata"] = json!({"name": "db-1", "namespace": NAMESPACE, "ownerReferences": owners});
    pass(A_WHILE).await;
    stage.api.delete("apps/statefulsets", NAMESPACE, "db", "Background");
    stage.api.create("/pods", &late);
    assert!(stage.broken().is_empty(), "{:?}", stage.broken());
}
