//! What breaks the rules of claims, of Jobs and of taints.

use super::*;
use crate::simulation::invariants::is_kept_for_its_users;
use crate::simulation::theme;

const SETS: &str = "apps/statefulsets";
const CLAIMS: &str = "/persistentvolumeclaims";
const NOW: &str = "1970-01-12T13:46:40Z";

impl Stage {
    /// A set of two with a claim, and a pod that uses it.
    fn claim(&self, deleted: &str, scaled: &str) {
        let spec = json!({"replicas": 2, "serviceName": "db", "template": {}, "selector": {},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}});
        self.make(SETS, "db", None, &spec);
        self.make(CLAIMS, "data-db-0", None, &json!({}));
        self.user("db-0");
    }

    fn user(&self, name: &str) {
        let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]);
        let spec = json!({"containers": [], "nodeName": "n1", "volumes": volumes});
        self.pod(name, ("StatefulSet", SETS, "db"), &spec);
    }

    fn hand_over(&self, kind: &str, resource: &str, name: &str) {
        let owner: Value = self.api.get(resource, NAMESPACE, name).expect("the owner is there");
        self.api.edit(CLAIMS, NAMESPACE, "data-db-0", |claim| {
            claim["metadata"]["ownerReferences"] = json!([{"apiVersion": owner["apiVersion"], "kind": kind,
                "name": name, "uid": owner["metadata"]["uid"]}]);
        });
    }

    fn ruled_job(&self, action: &str, code: i64) {
        let spec = json!({"parallelism": 2, "template": {}, "completions": 2, "completionMode": "Indexed",
            "backoffLimit": 3, "backoffLimitPerIndex": 5,
            "podFailurePolicy": {"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [code]}}]},
            "successPolicy": {"rules": [{"succeededIndexes": "0-1", "succeededCount": 1}]}});
        self.make("batch/jobs", "j", None, &spec);
    }

    fn end(&self, name: &str, phase: &str, code: i64) {
        self.status(
            "/pods",
            name,
            &json!({"phase": phase, "containerStatuses": [
            {"name": "main", "restartCount": 0, "ready": false, "image": "", "imageID": "",
                "state": {"terminated": {"exitCode": code}}}]}),
        );
    }

    fn why(&self, type_: &str, reason: &str) {
        let condition = json!({"type": type_, "status": "True", "reason": reason});
        self.status("batch/jobs", "j", &json!({"conditions": [condition]}));
    }

    /// One more pod like that one.
    fn again(&self, name: &str) {
        let mut pod: Value = self.api.get("/pods", NAMESPACE, name).expect("is there");
        pod["metadata"]["name"] = json!("again");
        self.api.create("/pods", &pod);
    }

    fn evictable(&self, seconds: &Value) {
        self.api.create("/nodes", &json!({"metadata": {"name": "n1"}, "spec": {}}));
        self.replica_set(1);
        let tolerations = json!([{"key": theme::TAINT, "operator": "Exists", "tolerationSeconds": seconds}]);
        let spec = json!({"containers": [], "nodeName": "n1", "tolerations": tolerations});
        self.pod("a", ("ReplicaSet", "apps/replicasets", "s"), &spec);
        theme::taint(&self.api, "n1", Some(NOW));
    }

    fn evict(&self) {
        let reason = "DeletionByTaintManager";
        self.status(
            "/pods",
            "a",
            &json!({"phase": "Running", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": reason}]}),
        );
    }
}

pub(super) const ROWS: &[Row] = &[
    (
        "handed to a pod although it is to stay",
        |stage| stage.claim("Delete", "Delete"),
        |stage| stage.hand_over("Pod", "/pods", "db-0"),
    ),
    (
        "handed to its set although it is to stay",
        |stage| stage.claim("Retain", "Delete"),
        |stage| stage.hand_over("StatefulSet", SETS, "db"),
    ),
    (
        "deleted as one too many without data-db-0",
        |stage| {
            stage.claim("Retain", "Delete");
            stage.api.edit(SETS, NAMESPACE, "db", |set| set["spec"]["replicas"] = json!(0));
        },
        |stage| stage.delete("pods", "db-0"),
    ),
    (
        "deleted although it belongs to nobody",
        |stage| stage.claim("Retain", "Delete"),
        |stage| stage.delete("persistentvolumeclaims", "data-db-0"),
    ),
    (
        "deleted although its owner \"db\" is there",
        |stage| {
            stage.claim("Delete", "Retain");
            stage.hand_over("StatefulSet", SETS, "db");
        },
        |stage| stage.delete("persistentvolumeclaims", "data-db-0"),
    ),
    (
        "went from under \"db-0\"",
        |stage| stage.claim("Delete", "Delete"),
        |stage| {
            stage.api.edit(CLAIMS, NAMESPACE, "data-db-0", |it| it["metadata"]["finalizers"] = json!([]));
            stage.delete("persistentvolumeclaims", "data-db-0");
        },
    ),
    ("two pods on claim data-db-0", |stage| stage.claim("Delete", "Delete"), |stage| stage.user("db-1")),
    ("evicted before its time", |stage| stage.evictable(&json!(300)), Stage::evict),
    ("evicted before its time", |stage| stage.evictable(&Value::Null), Stage::evict),
    (
        "index 0 is made again although it failed for good",
        |stage| {
            stage.ruled_job("FailIndex", theme::FAILS_INDEX);
            stage.pod_of_job("a", "0");
            stage.end("a", "Failed", theme::FAILS_INDEX);
        },
        |stage| stage.again("a"),
    ),
    (
        "failed by a rule that no pod matches",
        |stage| stage.ruled_job("FailJob", theme::FAILS_JOB),
        |stage| stage.why("FailureTarget", "PodFailurePolicy"),
    ),
    (
        "0 failures are too many, 3 allowed",
        |stage| {
            stage.ruled_job("Ignore", theme::IGNORED);
            stage.pod_of_job("a", "0");
            stage.end("a", "Failed", theme::IGNORED);
        },
        |stage| stage.why("FailureTarget", "BackoffLimitExceeded"),
    ),
    (
        "succeeded with indexes {}",
        |stage| stage.ruled_job("Ignore", theme::IGNORED),
        |stage| stage.why("SuccessCriteriaMet", "SuccessPolicy"),
    ),
    (
        "succeeded although a pod had failed it",
        |stage| {
            stage.ruled_job("FailJob", theme::FAILS_JOB);
            for (name, index, phase, code) in
                [("a", "0", "Failed", theme::FAILS_JOB), ("b", "1", "Succeeded", 0)]
            {
                stage.pod_of_job(name, index);
                stage.end(name, phase, code);
            }
        },
        |stage| stage.why("SuccessCriteriaMet", "SuccessPolicy"),
    ),
];

#[tokio::test(start_paused = true)]
async fn what_the_rules_allow_is_not_noticed() {
    let stage = Stage::new();
    stage.claim("Retain", "Delete");
    stage.ruled_job("FailIndex", theme::FAILS_INDEX);
    stage.evictable(&json!(5));
    pass(A_WHILE).await;
    stage.evict();
    stage.api.edit(SETS, NAMESPACE, "db", |set| set["spec"]["replicas"] = json!(0));
    stage.hand_over("Pod", "/pods", "db-0");
    stage.api.finish_pod(NAMESPACE, "db-0");
    stage.api.delete("/pods", NAMESPACE, "db-0", "Background");
    stage.delete("persistentvolumeclaims", "data-db-0");
    stage.pod_of_job("b", "0");
    stage.end("b", "Failed", 1);
    stage.again("b");
    stage.end("again", "Succeeded", 0);
    stage.why("SuccessCriteriaMet", "SuccessPolicy");
    assert!(stage.broken().is_empty(), "{:?}", stage.broken());
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_kept_for_its_users_and_for_nobody_else() {
    let stage = Stage::new();
    stage.claim("Delete", "Delete");
    let kept = |finalizers: Value| {
        stage.api.edit(CLAIMS, NAMESPACE, "data-db-0", |claim| claim["metadata"]["finalizers"] = finalizers);
        let claim: Value = stage.api.get(CLAIMS, NAMESPACE, "data-db-0").expect("is there");
        is_kept_for_its_users(&stage.api.objects(), CLAIMS, &claim)
    };
    let protection = || json!(["kubernetes.io/pvc-protection"]);
    assert!(!kept(protection()), "it is not going");
    stage.delete("persistentvolumeclaims", "data-db-0");
    assert!(kept(protection()));
    assert!(!kept(json!(["kubernetes.io/pvc-protection", "foregroundDeletion"])), "something else holds it");
    stage.api.finish_pod(NAMESPACE, "db-0");
    assert!(!kept(protection()), "its user is done");
}
