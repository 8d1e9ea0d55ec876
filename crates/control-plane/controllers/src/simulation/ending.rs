//! What must hold when everybody has come to rest: the cluster is what its objects say, and nothing is left behind.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::invariants::{
    Judge, active_pods, has_condition, is_going, is_kept_for_its_users, ordinal, parse, pods_of, uid,
};
use super::scenario::{Ending, NAMESPACE, NODES, Scenario, Workload};
use super::theme::{Patience, is_tainted, patience};
use crate::pods;
use crate::testing::api::Objects;

/// What is wrong.
pub(super) fn judge(scenario: &Scenario, objects: &Objects, judge: &Judge) -> Vec<String> {
    let mut broken = Vec::new();
    for (key, object) in objects {
        let kept = is_kept_for_its_users(objects, &key.0, object);
        if is_going(object) && !kept {
            broken.push(format!("{}/{} is still going: {}", key.0, key.2, object["metadata"]["finalizers"]));
        }
        let owners = object["metadata"]["ownerReferences"].as_array().filter(|it| !it.is_empty());
        if let Some(owners) = owners
            && !owners.iter().any(|owner| objects.values().any(|it| uid(it) == owner["uid"]))
            && !kept
        {
            broken.push(format!("{}/{} outlived its owners", key.0, key.2));
        }
        if is_held_for_nobody(object) {
            broken.push(format!("{}/{} is held although its Job left it behind", key.0, key.2));
        }
        let node = object["spec"]["nodeName"].as_str().filter(|_| key.0 == "/pods").unwrap_or_default();
        if is_tainted(objects, node) && patience(object) != Patience::Forever {
            broken.push(format!("{}/{} bears the taint of {node}", key.0, key.2));
        }
        if scenario.ends_with == Ending::DeleteNamespace && key.1 == NAMESPACE {
            broken.push(format!("{}/{} outlived its namespace", key.0, key.2));
        }
    }
    for workload in &scenario.workloads {
        let key = (workload.resource.to_owned(), NAMESPACE.to_owned(), workload.name.clone());
        match objects.get(&key) {
            Some(object) => {
                let report = Report { scenario, objects, judge, workload, object };
                broken.extend(report.wrong().into_iter().map(|it| format!("{}: {it}", workload.resource)));
            }
            None if scenario.ends_with == Ending::Stay => {
                broken.push(format!("{} is gone", workload.name));
            }
            None => {}
        }
    }
    broken
}

/// Whether it waits to be counted by a Job, and no Job is its controller.
fn is_held_for_nobody(object: &Value) -> bool {
    let meta = &object["metadata"];
    let list = |field: &str| meta[field].as_array().cloned().unwrap_or_default();
    list("finalizers").iter().any(|it| it == crate::job::FINALIZER)
        && !list("ownerReferences").iter().any(|it| it["controller"] == true)
}

struct Report<'a> {
    scenario: &'a Scenario,
    objects: &'a Objects,
    judge: &'a Judge,
    workload: &'a Workload,
    object: &'a Value,
}

impl Report<'_> {
    fn wrong(&self) -> Vec<String> {
        let mut wrong = match self.workload.resource {
            "apps/deployments" => self.deployment(),
            "apps/replicasets" | "/replicationcontrollers" => self.replicas(),
            "apps/statefulsets" => self.stateful_set(),
            "apps/daemonsets" => self.daemon_set(),
            "batch/jobs" => self.job(self.object),
            _ => self.cron_job(),
        };
        wrong.extend(self.endpoints());
        wrong.extend(self.budget());
        wrong
    }

    fn replicas_wanted(&self) -> usize {
        usize::try_from(self.object["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap()
    }

    fn image(&self) -> &Value {
        &self.object["spec"]["template"]["spec"]["containers"][0]["image"]
    }

    fn status(&self, field: &str) -> usize {
        usize::try_from(self.object["status"][field].as_i64().unwrap_or(0)).unwrap()
    }

    fn expect_status(&self, fields: &[&str], count: usize) -> Vec<String> {
        let off = fields.iter().filter(|field| self.status(field) != count);
        off.map(|field| format!("status.{field} is {} and not {count}", self.status(field))).collect()
    }

    fn all_new_and_ready(&self, pods: &[Pod]) -> Vec<String> {
        let mut wrong = Vec::new();
        for pod in pods {
            let image = pod.spec.as_ref().and_then(|spec| spec.containers[0].image.as_deref());
            if image != self.image().as_str() {
                wrong.push(format!("{:?} runs {image:?}", pod.metadata.name));
            }
            if !pods::is_ready(pod) {
                wrong.push(format!("{:?} is not ready", pod.metadata.name));
            }
        }
        wrong
    }

    fn deployment(&self) -> Vec<String> {
        let sets = self.objects.iter().filter(|(key, set)| {
            key.0 == "apps/replicasets" && set["metadata"]["ownerReferences"][0]["uid"] == uid(self.object)
        });
        let sets: Vec<&Value> = sets.map(|(_, set)| &**set).collect();
        let pods: Vec<Pod> = sets.iter().flat_map(|set| active_pods(self.objects, uid(set))).collect();
        if self.object["spec"]["paused"] == true {
            let sizes = sets.iter().map(|set| set["spec"]["replicas"].as_u64().unwrap_or(0)).sum::<u64>();
            let same = pods.len() as u64 == sizes;
            return if same { Vec::new() } else { vec![format!("{} pods of {sizes}", pods.len())] };
        }
        let mut wrong = self.all_new_and_ready(&pods);
        if pods.len() != self.replicas_wanted() {
            wrong.push(format!("{} pods of {}", pods.len(), self.replicas_wanted()));
        }
        let fields = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
        wrong.extend(self.expect_status(&fields, self.replicas_wanted()));
        let limit = self.object["spec"]["revisionHistoryLimit"].as_u64().unwrap_or(10);
        let empty = sets.iter().filter(|set| set["spec"]["replicas"] == 0).count() as u64;
        // Of nothing at all the newest set is empty too.
        if empty > limit + u64::from(self.replicas_wanted() == 0) {
            wrong.push(format!("{empty} old sets kept, {limit} allowed"));
        }
        if self.object["status"]["observedGeneration"] != self.object["metadata"]["generation"] {
            wrong.push("the last edit was not observed".to_owned());
        }
        wrong
    }

    fn replicas(&self) -> Vec<String> {
        let pods = active_pods(self.objects, uid(self.object));
        let mut wrong =
            self.expect_status(&["replicas", "readyReplicas", "availableReplicas"], self.replicas_wanted());
        if pods.len() != self.replicas_wanted() {
            wrong.push(format!("{} pods of {}", pods.len(), self.replicas_wanted()));
        }
        wrong
    }

    fn stateful_set(&self) -> Vec<String> {
        let pods = active_pods(self.objects, uid(self.object));
        let mut wrong = self.all_new_and_ready(&pods);
        let ordinals: BTreeSet<i32> = pods.iter().map(ordinal).collect();
        let wanted: BTreeSet<i32> = (0..i32::try_from(self.replicas_wanted()).unwrap()).collect();
        if ordinals != wanted {
            wrong.push(format!("ordinals {ordinals:?} of {wanted:?}"));
        }
        if self.object["status"]["currentRevision"] != self.object["status"]["updateRevision"] {
            wrong.push("the update did not end".to_owned());
        }
        wrong.extend(
            self.expect_status(&["replicas", "readyReplicas", "availableReplicas"], self.replicas_wanted()),
        );
        wrong.extend(self.claims(&wanted));
        wrong
    }

    /// Every pod has its claim. More than those may be there whatever the set says: pods that were gone when it shrank took nothing along.
    fn claims(&self, wanted: &BTreeSet<i32>) -> Option<String> {
        if self.object["spec"]["volumeClaimTemplates"].as_array().is_none_or(Vec::is_empty) {
            return None;
        }
        let prefix = format!("data-{}-", self.workload.name);
        let claims = self.objects.keys().filter(|key| key.0 == "/persistentvolumeclaims");
        let kept: BTreeSet<i32> =
            claims.filter_map(|key| key.2.strip_prefix(&prefix)?.parse().ok()).collect();
        (!kept.is_superset(wanted)).then(|| format!("claims {kept:?} of {wanted:?}"))
    }

    fn daemon_set(&self) -> Vec<String> {
        let pods = active_pods(self.objects, uid(self.object));
        let mut wrong = self.all_new_and_ready(&pods);
        let nodes: BTreeSet<&str> = pods.iter().filter_map(pods::node_name).collect();
        let bears = patience(&self.object["spec"]["template"]) == Patience::Forever;
        let wanted = NODES.iter().filter(|node| bears || !is_tainted(self.objects, node)).count();
        if pods.len() != wanted || nodes.len() != wanted {
            wrong.push(format!("{} daemons on {nodes:?}", pods.len()));
        }
        let fields = ["desiredNumberScheduled", "currentNumberScheduled", "numberReady", "numberAvailable"];
        wrong.extend(self.expect_status(&fields, wanted));
        wrong
    }

    fn job(&self, job: &Value) -> Vec<String> {
        let name = &job["metadata"]["name"];
        let mut wrong = Vec::new();
        let (complete, failed) = (has_condition(job, "Complete"), has_condition(job, "Failed"));
        if !complete && !failed {
            return vec![format!("{name} never ended: {}", job["status"])];
        }
        let held = |pod: &Pod| pod.metadata.finalizers.as_ref().is_some_and(|it| !it.is_empty());
        if pods_of(self.objects, uid(job)).iter().any(held) {
            wrong.push(format!("{name} still holds pods"));
        }
        if job["status"]["uncountedTerminatedPods"].as_object().is_some_and(|it| !it.is_empty()) {
            wrong.push(format!("{name} did not count {}", job["status"]["uncountedTerminatedPods"]));
        }
        let count = |field: &str| job["status"][field].as_u64().unwrap_or(0);
        let ended = self.judge.ended.get(uid(job));
        let truth = ended.map_or(0, |ended| ended.values().filter(|succeeded| **succeeded).count() as u64);
        let ended = ended.map_or(0, |ended| ended.len() as u64) - self.judge.ignored(job);
        let completions = job["spec"]["completions"].as_u64().unwrap_or(1);
        if job["spec"]["completionMode"] == "Indexed" {
            let enough = job["spec"]["successPolicy"].is_object() && count("succeeded") < completions;
            if complete && count("succeeded") != completions && !enough {
                wrong
                    .push(format!("{name} is complete with {} of {completions} indexes", count("succeeded")));
            }
        } else {
            // What a second leader made can succeed after the end, and counts no more.
            let counts = (count("succeeded"), count("failed"));
            if !self.scenario.two_leaders && is_miscounted(failed, counts, (truth, ended)) {
                wrong.push(format!("{name} counts {} completions, there were {truth}", count("succeeded")));
            }
            if complete && truth < completions {
                wrong.push(format!("{name} is complete with {truth} of {completions}"));
            }
        }
        if count("active") > 0 || count("terminating") > 0 {
            wrong.push(format!("{name} counts pods that work: {}", job["status"]));
        }
        wrong
    }

    fn cron_job(&self) -> Vec<String> {
        let jobs = self.objects.iter().filter(|(key, job)| {
            key.0 == "batch/jobs" && job["metadata"]["ownerReferences"][0]["uid"] == uid(self.object)
        });
        let jobs: Vec<&Value> = jobs.map(|(_, job)| &**job).collect();
        let mut wrong: Vec<String> = jobs.iter().flat_map(|job| self.job(job)).collect();
        for (condition, limit) in
            [("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")]
        {
            let kept = jobs.iter().filter(|job| has_condition(job, condition)).count() as u64;
            if kept > self.object["spec"][limit].as_u64().unwrap_or(0) {
                wrong.push(format!("{kept} jobs kept that are {condition}"));
            }
        }
        if self.object["status"]["active"].as_array().is_some_and(|it| !it.is_empty()) {
            wrong.push(format!("still active: {}", self.object["status"]["active"]));
        }
        wrong
    }

    /// The Service's slices name exactly the pods that serve.
    fn endpoints(&self) -> Option<String> {
        if self.scenario.ends_with == Ending::DeleteNamespace {
            return None;
        }
        let pods: BTreeSet<String> =
            self.labelled().iter().filter(|it| pods::is_ready(it)).filter_map(address).collect();
        let slices = self.objects.iter().filter(|(key, slice)| {
            key.0 == "discovery.k8s.io/endpointslices"
                && slice["metadata"]["labels"]["kubernetes.io/service-name"] == self.workload.name.as_str()
        });
        let ready: BTreeSet<String> = slices
            .flat_map(|(_, slice)| slice["endpoints"].as_array().cloned().unwrap_or_default())
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned))
            .collect();
        (pods != ready).then(|| format!("slices lead to {ready:?}, ready are {pods:?}"))
    }

    fn labelled(&self) -> Vec<Pod> {
        let of = self.objects.iter().filter(|(key, pod)| {
            key.0 == "/pods" && pod["metadata"]["labels"]["app"] == self.workload.name.as_str()
        });
        of.map(|(_, pod)| parse(pod)).collect()
    }

    fn budget(&self) -> Option<String> {
        let key =
            ("policy/poddisruptionbudgets".to_owned(), NAMESPACE.to_owned(), self.workload.name.clone());
        let budget = self.objects.get(&key)?;
        let healthy = self.labelled().iter().filter(|it| pods::is_ready(it)).count() as u64;
        let counted = budget["status"]["currentHealthy"].as_u64().unwrap_or(0);
        (counted != healthy).then(|| format!("the budget counts {counted} healthy pods of {healthy}"))
    }
}

/// Whether a Job's counts of what succeeded and failed are wrong, of `truth` that succeeded and `ended` in all.
///
/// When a Job has failed, what still works is deleted and counts as failed: also what has succeeded a moment ago, without anybody
/// having been told. Source: `trackJobStatusAndRemoveFinalizers`.
fn is_miscounted(has_failed: bool, (succeeded, failed): (u64, u64), (truth, ended): (u64, u64)) -> bool {
    if has_failed { succeeded > truth || succeeded + failed < ended } else { succeeded != truth }
}

#[test]
fn a_failed_job_may_count_as_failed_what_succeeded_unseen() {
    for (has_failed, counts, truth, expected) in [
        (false, (3, 5), (3, 7), false),
        (false, (3, 5), (4, 7), true),
        (true, (3, 5), (4, 7), false),
        (true, (3, 3), (4, 7), true),
        (true, (5, 3), (4, 7), true),
    ] {
        assert_eq!(is_miscounted(has_failed, counts, truth), expected, "{has_failed} {counts:?} {truth:?}");
    }
}

fn address(pod: &Pod) -> Option<String> {
    pod.status.as_ref()?.pod_ip.clone()
}
