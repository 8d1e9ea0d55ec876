//! What must hold after every single change that is about a [`Theme`](super::super::theme::Theme): claims, rules of Jobs, taints.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use serde_json::Value;

use super::super::theme::{FAILS_INDEX, FAILS_JOB, IGNORED, Patience, claims_of, patience, tainted_since};
use super::{Judge, is_going, namespace_is_going, uid};
use crate::clock::{Clock, after};
use crate::testing::api::{Commit, Objects};

/// How a pod of a Job ended.
#[derive(Clone, Debug)]
struct End {
    at: Timestamp,
    succeeded: bool,
    /// `None` when it was not its container that ended it.
    code: Option<i64>,
    index: Option<String>,
}

/// What the rules must remember.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// By the uid of a Job and that of a pod.
    ends: HashMap<String, BTreeMap<String, End>>,
    /// By node: from when to when it was tainted.
    taints: HashMap<String, Vec<(Timestamp, Option<Timestamp>)>>,
}

fn index_of(pod: &Value) -> Option<String> {
    pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].as_str().map(str::to_owned)
}

fn job_of(pod: &Value) -> Option<&str> {
    let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.into_iter().find(|it| it["kind"] == "Job" && it["controller"] == true)?["uid"].as_str()
}

/// Whether it holds its claims: on a node, and not at its end.
fn holds(pod: &Value) -> bool {
    pod["spec"]["nodeName"].is_string()
        && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn holders<'a>(objects: &'a Objects, namespace: &str, claim: &str) -> Vec<&'a Value> {
    let pods = objects.iter().filter(|(key, _)| key.0 == "/pods" && key.1 == namespace);
    let pods = pods.map(|(_, pod)| &**pod);
    pods.filter(|pod| holds(pod) && claims_of(pod).any(|name| name == claim)).collect()
}

/// Whether it is a claim that goes as soon as nobody uses it, and that is used.
///
/// A leader that sees a set as it was hands the claim to a pod that is too many by that; the other leader has made the pod's
/// successor by then. The claim goes with the old pod and is kept for the new one, as upstream's would be: nobody ends a pod
/// that runs because its claim is to go.
pub(in crate::simulation) fn is_kept_for_its_users(objects: &Objects, resource: &str, claim: &Value) -> bool {
    let meta = &claim["metadata"];
    let held = meta["finalizers"] == serde_json::json!(["kubernetes.io/pvc-protection"]);
    let name = |field: &str| meta[field].as_str().unwrap_or_default();
    resource == "/persistentvolumeclaims"
        && held
        && is_going(claim)
        && !holders(objects, name("namespace"), name("name")).is_empty()
}

/// Whether the Job's policy does that to pods with some exit code.
fn has_rule(job: &Value, action: &str) -> bool {
    let rules = job["spec"]["podFailurePolicy"]["rules"].as_array().into_iter().flatten();
    rules.into_iter().any(|rule| rule["action"] == action)
}

/// The reason of a condition that holds.
fn reason<'a>(object: &'a Value, type_: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.into_iter().find(|it| it["type"] == type_ && it["status"] == "True")?;
    Some(found["reason"].as_str().unwrap_or_default())
}

/// Whether these indexes are a success by the policy, whose rules begin at index 0.
fn is_success(job: &Value, succeeded: &BTreeSet<u64>) -> bool {
    let rules = job["spec"]["successPolicy"]["rules"].as_array().into_iter().flatten();
    rules.into_iter().any(|rule| {
        let last = rule["succeededIndexes"].as_str().and_then(|range| range.rsplit('-').next()?.parse().ok());
        let last: u64 = last.unwrap_or(u64::MAX);
        let have = succeeded.iter().filter(|index| **index <= last).count() as u64;
        have >= rule["succeededCount"].as_u64().unwrap_or(last.saturating_add(1))
    })
}

impl Judge {
    /// Failed pods of a Job that its policy does not count.
    pub(in super::super) fn ignored(&self, job: &Value) -> u64 {
        let ends = self.rules.ends.get(uid(job)).into_iter().flat_map(BTreeMap::values);
        ends.filter(|end| has_rule(job, "Ignore") && end.code == Some(IGNORED)).count() as u64
    }

    pub(super) fn claim(&mut self, commit: &Commit<'_>) {
        if let Some(new) = commit.new {
            self.claim_handed_over(commit, new);
        }
        let Some(old) = commit.old else { return };
        let begins = !is_going(old) && commit.new.is_none_or(is_going);
        if begins && commit.writer.is_some() && !namespace_is_going(commit.objects, &commit.key.1) {
            self.claim_deleted(commit, old);
        }
        if commit.new.is_none() {
            for pod in holders(commit.objects, &commit.key.1, &commit.key.2) {
                self.fail(commit, format!("went from under {}", pod["metadata"]["name"]));
            }
        }
    }

    /// A claim goes with a pod that is too many, or with its set, where the set says so.
    fn claim_handed_over(&mut self, commit: &Commit<'_>, new: &Value) {
        let owners = |claim: Option<&Value>| {
            claim.and_then(|it| it["metadata"]["ownerReferences"].as_array().cloned()).unwrap_or_default()
        };
        let before = owners(commit.old);
        let Some((set, number)) = commit.key.2.strip_prefix("data-").and_then(|rest| rest.rsplit_once('-'))
        else {
            return;
        };
        let key = ("apps/statefulsets".to_owned(), commit.key.1.clone(), set.to_owned());
        let Some(set) = commit.objects.get(&key) else { return };
        let policy = &set["spec"]["persistentVolumeClaimRetentionPolicy"];
        for owner in owners(Some(new)).iter().filter(|it| before.iter().all(|old| old["uid"] != it["uid"])) {
            match owner["kind"].as_str() {
                Some("Pod") => {
                    let fewest = self.promised(uid(set)).map_or(0, |promise| promise.fewest);
                    let stays = number.parse::<i32>().is_ok_and(|number| number < fewest);
                    if policy["whenScaled"] != "Delete" || stays {
                        self.fail(commit, "handed to a pod although it is to stay");
                    }
                }
                _ if policy["whenDeleted"] != "Delete" => {
                    self.fail(commit, "handed to its set although it is to stay");
                }
                _ => {}
            }
        }
    }

    /// A pod that is too many takes its claims along, if its set says so. One that is gone when its set shrinks takes nothing.
    pub(super) fn goes_with_claims(&mut self, commit: &Commit<'_>, pod: &Value) {
        let owner = pod["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default();
        let mut sets = commit.objects.iter().filter(|(key, _)| key.0 == "apps/statefulsets");
        let set = sets.find(|(_, set)| uid(set) == owner && !is_going(set)).map(|(_, set)| &**set);
        let Some(set) = set.filter(|_| self.one_leads()) else { return };
        let most = self.promised(owner).map_or(0, |promise| promise.most);
        let number = commit.key.2.rsplit('-').next().and_then(|number| number.parse::<i32>().ok());
        let deletes = set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Delete";
        if !deletes || number.is_none_or(|number| number < most) {
            return;
        }
        for name in claims_of(pod) {
            let key = ("/persistentvolumeclaims".to_owned(), commit.key.1.clone(), name.to_owned());
            let Some(claim) = commit.objects.get(&key).filter(|claim| !is_going(claim)) else { continue };
            let owners = claim["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            if !owners.into_iter().any(|it| it["uid"] == pod["metadata"]["uid"]) {
                self.fail(commit, format!("deleted as one too many without {name}"));
            }
        }
    }

    fn claim_deleted(&mut self, commit: &Commit<'_>, old: &Value) {
        let owners = old["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        if owners.is_empty() {
            self.fail(commit, "deleted although it belongs to nobody");
        }
        for owner in owners {
            let waits = |it: &Value| {
                let finalizers = it["metadata"]["finalizers"].as_array().into_iter().flatten();
                is_going(it) && finalizers.into_iter().any(|it| it == "foregroundDeletion")
            };
            let lives = commit.objects.values().any(|it| uid(it) == owner["uid"] && !waits(it));
            if lives {
                self.fail(commit, format!("deleted although its owner {} is there", owner["name"]));
            }
        }
    }

    pub(super) fn node(&mut self, commit: &Commit<'_>) {
        let now = self.clock.now();
        let tainted = commit.new.and_then(tainted_since);
        let history = self.rules.taints.entry(commit.key.2.clone()).or_default();
        let open = history.last_mut().filter(|(_, end)| end.is_none());
        match (open, tainted) {
            (None, Some(since)) => history.push((since.parse().expect("a time"), None)),
            (Some((_, end)), None) => *end = Some(now),
            _ => {}
        }
    }

    /// What the themes say of pods.
    pub(super) fn themed_pod(&mut self, commit: &Commit<'_>) {
        let Some(new) = commit.new else { return };
        let bound = |pod: Option<&Value>| pod.is_some_and(|pod| pod["spec"]["nodeName"].is_string());
        if bound(Some(new)) && !bound(commit.old) {
            for claim in claims_of(new) {
                if holders(commit.objects, &commit.key.1, claim).len() > 1 {
                    self.fail(commit, format!("two pods on claim {claim}"));
                }
            }
        }
        let evicted = |pod: &Value| reason(pod, "DisruptionTarget") == Some("DeletionByTaintManager");
        if evicted(new) && !commit.old.is_some_and(evicted) && !self.may_evict(new) {
            self.fail(commit, "evicted before its time");
        }
        if commit.old.is_none() {
            self.made_by_rules(commit, new);
        }
    }

    /// Whether the pod's time on its node was up by what was known of late.
    fn may_evict(&self, pod: &Value) -> bool {
        let Patience::Seconds(seconds) = patience(pod) else { return false };
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let created: Option<Timestamp> =
            pod["metadata"]["creationTimestamp"].as_str().and_then(|time| time.parse().ok());
        let history = self.rules.taints.get(node).into_iter().flatten();
        history.into_iter().any(|(since, end)| {
            let begins = created.map_or(*since, |created| created.max(*since));
            end.is_none_or(|end| end > self.horizon()) && after(begins, seconds) <= self.clock.now()
        })
    }

    pub(super) fn note_job_end(&mut self, new: &Value) {
        let Some(job) = job_of(new) else { return };
        let end = End {
            at: self.clock.now(),
            succeeded: new["status"]["phase"] == "Succeeded",
            code: new["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64(),
            index: index_of(new),
        };
        self.rules.ends.entry(job.to_owned()).or_default().insert(uid(new).to_owned(), end);
    }

    /// An index that has failed for good is not made again.
    fn made_by_rules(&mut self, commit: &Commit<'_>, pod: &Value) {
        let (Some(job), Some(index)) = (job_of(pod), index_of(pod)) else { return };
        let Some(object) = commit.objects.values().find(|it| uid(it) == job).filter(|_| self.one_leads())
        else {
            return;
        };
        let Some(limit) = object["spec"]["backoffLimitPerIndex"].as_u64() else { return };
        let ends = self.rules.ends.get(job).into_iter().flat_map(BTreeMap::values);
        let failed: Vec<&End> =
            ends.filter(|it| !it.succeeded && it.index.as_ref() == Some(&index)).collect();
        let for_good =
            has_rule(object, "FailIndex") && failed.iter().any(|end| end.code == Some(FAILS_INDEX));
        let ignores = has_rule(object, "Ignore");
        let counted = failed.iter().filter(|end| !(ignores && end.code == Some(IGNORED))).count() as u64;
        if for_good || counted > limit {
            self.fail(commit, format!("index {index} is made again although it failed for good"));
        }
    }

    /// A Job ends as its policies say.
    pub(super) fn job_by_rules(&mut self, commit: &Commit<'_>, old: &Value, new: &Value) {
        let ends: Vec<End> =
            self.rules.ends.get(uid(new)).into_iter().flat_map(BTreeMap::values).cloned().collect();
        let fails: Vec<&End> = ends.iter().filter(|end| end.code == Some(FAILS_JOB)).collect();
        let news = |type_: &str| reason(new, type_).filter(|_| reason(old, type_).is_none());
        match news("FailureTarget") {
            Some("PodFailurePolicy") if fails.is_empty() || !has_rule(new, "FailJob") => {
                self.fail(commit, "failed by a rule that no pod matches");
            }
            Some("BackoffLimitExceeded") if new["spec"]["podFailurePolicy"].is_object() => {
                let failed = ends.iter().filter(|end| !end.succeeded).count() as u64;
                let counted = failed - self.ignored(new);
                let limit = new["spec"]["backoffLimit"].as_u64().unwrap_or(6);
                if counted <= limit {
                    self.fail(commit, format!("{counted} failures are too many, {limit} allowed"));
                }
            }
            _ => {}
        }
        let Some(why) = news("SuccessCriteriaMet") else { return };
        let succeeded = ends.iter().filter(|end| end.succeeded);
        let succeeded = succeeded.filter_map(|end| end.index.as_deref()?.parse().ok()).collect();
        if why == "SuccessPolicy" && !is_success(new, &succeeded) {
            self.fail(commit, format!("succeeded with indexes {succeeded:?}"));
        }
        let horizon = self.horizon();
        if has_rule(new, "FailJob") && fails.iter().any(|end| end.at <= horizon) && self.one_leads() {
            self.fail(commit, "succeeded although a pod had failed it");
        }
    }
}
