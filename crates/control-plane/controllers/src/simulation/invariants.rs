//! What must hold after every single change.
//!
//! Promises are judged by the most generous spec of the last [`STALE_SECONDS`]: a controller cannot act on an edit it has not
//! been told of. All else is judged by the API's own state at that instant. What two leaders may break together is not judged
//! while there are two, nor until what they did has been told to everybody.

mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::Value;

pub(super) use rules::is_kept_for_its_users;

use crate::clock::{Clock, RuntimeClock};
use crate::deployment::Strategy;
use crate::owner::controller_of;
use crate::pods;
use crate::testing::api::{Commit, Hook, Objects};

/// No watch lags longer than this.
pub(super) const STALE_SECONDS: i64 = 20;

/// What a seed lets happen, as far as promises depend on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Strictness {
    /// Pods that serve go on serving until a controller deletes them.
    pub(super) steady_pods: bool,
    /// Pods go because of their nodes: that is no one's order.
    pub(super) evicted_pods: bool,
}

/// The judge's memory.
#[derive(Debug)]
pub(super) struct Judge {
    clock: RuntimeClock,
    strict: Strictness,
    /// Since when no more than one process leads. Two that create pods at once may together create too many for a moment.
    alone_since: Option<Timestamp>,
    /// By uid, what a pod has been worth since when.
    worths: HashMap<String, (Timestamp, Worth)>,
    /// By uid, what was promised from when on.
    promises: HashMap<String, Vec<(Timestamp, Promise)>>,
    /// By the uid of a Job: the uids of pods that ended, and how.
    pub(super) ended: HashMap<String, BTreeMap<String, bool>>,
    rules: rules::Memory,
    pub(super) broken: Vec<String>,
    pub(super) judged: u64,
}

/// What a pod is worth to the set that it belongs to: whether it has a node, whether it runs, and whether it serves. The lesser ones
/// go first. Source: the beginning of the order in `ActivePodsWithRanks.Less`.
type Worth = (bool, bool, bool);

fn worth(pod: &Pod) -> Worth {
    (pods::node_name(pod).is_some(), pods::phase(pod) == "Running", pods::is_ready(pod))
}

/// What a workload says about the number of its pods.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Promise {
    most: i32,
    fewest: i32,
}

impl Judge {
    pub(super) fn new(clock: RuntimeClock, strict: Strictness) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            clock,
            strict,
            alone_since: Some(Timestamp::UNIX_EPOCH),
            worths: HashMap::new(),
            promises: HashMap::new(),
            ended: HashMap::new(),
            rules: rules::Memory::default(),
            broken: Vec::new(),
            judged: 0,
        }))
    }

    pub(super) fn hook(judge: &Arc<Mutex<Self>>) -> Hook {
        let judge = Arc::clone(judge);
        Box::new(move |commit| judge.lock().see(commit))
    }

    /// Hears how many processes lead from now on.
    pub(super) fn leaders(&mut self, count: usize) {
        self.alone_since = match (count, self.alone_since) {
            (0 | 1, Some(since)) => Some(since),
            (0 | 1, None) => Some(self.clock.now()),
            _ => None,
        };
    }

    /// Whether one process leads, and knows what became of what others did.
    fn one_leads(&self) -> bool {
        self.alone_since.is_some_and(|since| since <= self.horizon())
    }

    /// What happened before is known to everybody.
    fn horizon(&self) -> Timestamp {
        crate::clock::after(self.clock.now(), -STALE_SECONDS)
    }

    fn fail(&mut self, commit: &Commit<'_>, what: impl Into<String>) {
        let at = self.clock.now();
        self.broken.push(format!("{at} {}/{}: {}", commit.key.0, commit.key.2, what.into()));
    }

    fn see(&mut self, commit: &Commit<'_>) {
        self.judged += 1;
        match commit.key.0.as_str() {
            "/pods" => {
                self.pod(commit);
                self.themed_pod(commit);
            }
            "/persistentvolumeclaims" => self.claim(commit),
            "/nodes" => self.node(commit),
            "apps/deployments" => self.deployment(commit),
            "apps/replicasets" | "/replicationcontrollers" | "apps/statefulsets" => self.replicated(commit),
            "batch/jobs" => self.job(commit),
            "/configmaps" => self.dependent(commit),
            _ => {}
        }
    }

    fn promise(&mut self, uid: &str, promise: Promise) {
        let now = self.clock.now();
        let history = self.promises.entry(uid.to_owned()).or_default();
        if history.last().is_none_or(|(_, last)| *last != promise) {
            history.push((now, promise));
        }
    }

    /// The most generous promise in force within the last seconds.
    fn promised(&self, uid: &str) -> Option<Promise> {
        let history = self.promises.get(uid)?;
        let horizon = self.horizon();
        let start = history.iter().rposition(|(since, _)| *since <= horizon).unwrap_or(0);
        let recent = history[start..].iter().map(|(_, promise)| *promise);
        recent.reduce(|one, other| Promise {
            most: one.most.max(other.most),
            fewest: one.fewest.min(other.fewest),
        })
    }

    fn deployment(&mut self, commit: &Commit<'_>) {
        let Some(new) = commit.new else { return };
        let deployment: Deployment = parse(new);
        let strategy = Strategy::of(&deployment);
        let promise = Promise { most: strategy.most(), fewest: strategy.fewest() };
        self.promise(uid(new), promise);
    }

    fn replicated(&mut self, commit: &Commit<'_>) {
        let Some(new) = commit.new else {
            let old = commit.old.expect("deleted objects were there");
            // Only history may be cleaned up while the Deployment lives.
            let owner = old["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default();
            let lives = commit
                .objects
                .iter()
                .any(|(key, it)| key.0 == "apps/deployments" && uid(it) == owner && !is_going(it));
            if lives && commit.key.0 == "apps/replicasets" && old["spec"]["replicas"].as_i64() != Some(0) {
                self.fail(commit, "a ReplicaSet that is not empty was deleted under its Deployment");
            }
            return;
        };
        let replicas = i32::try_from(new["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap();
        self.promise(uid(new), Promise { most: replicas, fewest: replicas });
    }

    fn job(&mut self, commit: &Commit<'_>) {
        let Some(new) = commit.new else { return };
        let parallelism = new["spec"]["parallelism"].as_i64().unwrap_or(1);
        let parallelism = i32::try_from(parallelism).unwrap();
        self.promise(uid(new), Promise { most: parallelism, fewest: 0 });
        let Some(old) = commit.old else { return };
        self.job_by_rules(commit, old, new);
        for field in ["succeeded", "failed"] {
            let count = |job: &Value| job["status"][field].as_i64().unwrap_or(0);
            if count(new) < count(old) {
                self.fail(commit, format!("{field} went from {} to {}", count(old), count(new)));
            }
            let true_count = self.ended.get(uid(new)).map_or(0, |ended| {
                ended.values().filter(|succeeded| **succeeded == (field == "succeeded")).count()
            });
            if field == "succeeded" && count(new) > i64::try_from(true_count).unwrap() {
                self.fail(commit, format!("{field} is {} but only {true_count} did", count(new)));
            }
        }
        if has_condition(new, "Complete") && has_condition(new, "Failed") {
            self.fail(commit, "both complete and failed");
        }
        for type_ in ["Complete", "Failed"] {
            if has_condition(old, type_) && !has_condition(new, type_) {
                self.fail(commit, format!("no longer {type_}"));
            }
        }
    }

    /// Only the garbage collector deletes ConfigMaps, and not while an owner lives.
    fn dependent(&mut self, commit: &Commit<'_>) {
        let Some(old) = commit.old.filter(|_| commit.new.is_none_or(is_going)) else { return };
        let owners = old["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        for owner in owners {
            let id = owner["uid"].as_str().unwrap_or_default();
            let lives = commit
                .objects
                .iter()
                .any(|(key, it)| key.1 == commit.key.1 && uid(it) == id && !is_going(it));
            if lives && commit.writer.is_some() && !namespace_is_going(commit.objects, &commit.key.1) {
                self.fail(commit, format!("deleted although its owner {} lives", owner["name"]));
            }
        }
    }

    fn pod(&mut self, commit: &Commit<'_>) {
        match (commit.old, commit.new) {
            (None, Some(new)) => {
                self.note_worth(new);
                self.created(commit, &parse(new));
            }
            (Some(old), new) => {
                if let Some(new) = new {
                    self.note_end(old, new);
                    self.note_worth(new);
                }
                let begins = !is_going(old) && new.is_none_or(is_going);
                if begins && commit.writer.is_some() {
                    self.goes_with_claims(commit, old);
                    self.deleted(commit, &parse(old));
                }
            }
            (None, None) => {}
        }
    }

    fn note_end(&mut self, old: &Value, new: &Value) {
        let phase = new["status"]["phase"].as_str().unwrap_or_default();
        if old["status"]["phase"].as_str() == Some(phase) || !matches!(phase, "Succeeded" | "Failed") {
            return;
        }
        self.note_job_end(new);
        let pod: Pod = parse(new);
        if let Some(owner) = controller_of(&pod.metadata).filter(|owner| owner.kind == "Job") {
            let ended = self.ended.entry(owner.uid.clone()).or_default();
            ended.insert(uid(new).to_owned(), phase == "Succeeded");
        }
    }

    fn note_worth(&mut self, pod: &Value) {
        let (now, worth) = (self.clock.now(), worth(&parse(pod)));
        let known = self.worths.entry(uid(pod).to_owned()).or_insert((now, worth));
        if known.1 != worth {
            *known = (now, worth);
        }
    }

    /// What the pod is worth, if everybody knows.
    fn known_worth(&self, pod: &Pod) -> Option<Worth> {
        let (since, worth) = self.worths.get(pod.metadata.uid.as_deref()?)?;
        (*since <= self.horizon()).then_some(*worth)
    }

    fn created(&mut self, commit: &Commit<'_>, pod: &Pod) {
        let Some(owner) = controller_of(&pod.metadata) else { return };
        let siblings = active_pods(commit.objects, &owner.uid);
        let strict = self.one_leads();
        match owner.kind.as_str() {
            "ReplicaSet" | "ReplicationController" | "Job" if strict => {
                self.at_most(commit, &owner.uid, siblings.len(), &owner.kind);
            }
            _ => {}
        }
        match owner.kind.as_str() {
            "ReplicaSet" if strict => self.created_by_deployment(commit, &owner.uid),
            "Job" if strict => {
                let index = |pod: &Pod| {
                    let annotations = pod.metadata.annotations.as_ref()?;
                    annotations.get("batch.kubernetes.io/job-completion-index").cloned()
                };
                let own = index(pod);
                if own.is_some() && siblings.iter().filter(|it| index(it) == own).count() > 1 {
                    self.fail(commit, format!("two pods work on index {own:?}"));
                }
            }
            "DaemonSet" if strict => {
                let node = target_node(pod);
                let count = siblings.iter().filter(|it| target_node(it) == node).count();
                let set = commit.objects.values().find(|it| uid(it) == owner.uid);
                let set: Option<DaemonSet> = set.map(|set| parse(set));
                let surge = set.is_some_and(|set| surges(&set));
                if count > 1 + usize::from(surge) {
                    self.fail(commit, format!("{count} daemons on {node:?}"));
                }
            }
            "StatefulSet" => self.created_in_order(commit, pod, &owner.uid),
            _ => {}
        }
    }

    fn at_most(&mut self, commit: &Commit<'_>, uid: &str, count: usize, kind: &str) {
        let Some(promise) = self.promised(uid) else { return };
        if count > usize::try_from(promise.most).unwrap() {
            self.fail(commit, format!("{count} pods of a {kind} that is to have {}", promise.most));
        }
    }

    fn created_by_deployment(&mut self, commit: &Commit<'_>, set: &str) {
        let Some((deployment, sets)) = family(commit.objects, set) else { return };
        let active: usize = sets.iter().map(|uid| active_pods(commit.objects, uid).len()).sum();
        self.at_most(commit, deployment.metadata.uid.as_deref().unwrap_or_default(), active, "Deployment");
        if !Strategy::of(&deployment).rolling {
            let others = sets.iter().filter(|uid| *uid != set);
            let left =
                others.flat_map(|uid| pods_of(commit.objects, uid)).filter(|pod| !pods::is_finished(pod));
            if left.count() > 0 {
                self.fail(commit, "old and new pods at once in a Deployment that recreates");
            }
        }
    }

    fn created_in_order(&mut self, commit: &Commit<'_>, pod: &Pod, uid: &str) {
        let ordinal = ordinal(pod);
        if let Some(promise) = self.promised(uid)
            && ordinal >= promise.most
        {
            self.fail(commit, format!("ordinal {ordinal} of {}", promise.most));
        }
        // Of a set that is gone the garbage collector takes the pods in any order, and its controller may not know of it yet.
        let set = commit.objects.values().find(|it| self::uid(it) == uid && !is_going(it));
        let Some(set) = set else { return };
        let parallel = set["spec"]["podManagementPolicy"] == "Parallel";
        if parallel || !self.strict.steady_pods || !self.one_leads() {
            return;
        }
        let ready: BTreeSet<i32> = pods_of(commit.objects, uid)
            .iter()
            .filter(|pod| pods::is_ready(pod) && !pods::is_terminating(pod))
            .map(self::ordinal)
            .collect();
        if let Some(missing) = (0..ordinal).find(|lower| !ready.contains(lower)) {
            self.fail(commit, format!("made before ordinal {missing} was ready"));
        }
    }

    fn deleted(&mut self, commit: &Commit<'_>, pod: &Pod) {
        if namespace_is_going(commit.objects, &commit.key.1) || self.strict.evicted_pods {
            return;
        }
        let Some(owner) = controller_of(&pod.metadata) else { return };
        match owner.kind.as_str() {
            "ReplicaSet" => {
                self.deleted_by_set(commit, pod, &owner.uid);
                self.deleted_by_deployment(commit, pod, &owner.uid);
            }
            "ReplicationController" => self.deleted_by_set(commit, pod, &owner.uid),
            "StatefulSet" => self.deleted_in_order(commit, pod, &owner.uid),
            _ => {}
        }
    }

    /// Of a set that shrinks those pods go that can best be done without. Several may go at once and in any order, so it is wrong
    /// only when those that are worth less would have been enough.
    fn deleted_by_set(&mut self, commit: &Commit<'_>, pod: &Pod, set: &str) {
        let lives = commit.objects.values().any(|it| uid(it) == set && !is_going(it));
        if !lives || !self.strict.steady_pods || !self.one_leads() || !pods::is_active(pod) {
            return;
        }
        let (Some(promise), Some(own)) = (self.promised(set), self.known_worth(pod)) else { return };
        let left = active_pods(commit.objects, set);
        let excess = (left.len() + 1).saturating_sub(usize::try_from(promise.fewest).unwrap());
        let lesser = left.iter().filter(|it| self.known_worth(it).is_some_and(|worth| worth < own)).count();
        if lesser >= excess.max(1) {
            self.fail(commit, format!("deleted although {lesser} were worth less and {excess} had to go"));
        }
    }

    fn deleted_by_deployment(&mut self, commit: &Commit<'_>, pod: &Pod, set: &str) {
        let now = self.clock.now();
        let Some((deployment, sets)) = family(commit.objects, set) else { return };
        let min_ready = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let rolling = Strategy::of(&deployment).rolling;
        if !self.strict.steady_pods || !self.one_leads() || !rolling || is_leaving(&deployment) {
            return;
        }
        // One that became available a moment ago may go: its set was told to be smaller because it did not serve. To delete only
        // what is still unready would not help, since the set is to be smaller all the same.
        if !pods::is_available(pod, min_ready, now) || self.known_worth(pod).is_none() {
            return;
        }
        let available = sets
            .iter()
            .flat_map(|uid| active_pods(commit.objects, uid))
            .filter(|pod| pods::is_available(pod, min_ready, now))
            .count();
        let promise = self.promised(deployment.metadata.uid.as_deref().unwrap_or_default());
        if let Some(promise) = promise
            && i32::try_from(available).unwrap() < promise.fewest
        {
            self.fail(commit, format!("{available} available pods left, {} promised", promise.fewest));
        }
    }

    fn deleted_in_order(&mut self, commit: &Commit<'_>, pod: &Pod, uid: &str) {
        let Some(set) = commit.objects.values().find(|it| self::uid(it) == uid) else { return };
        if is_going(set) || set["spec"]["podManagementPolicy"] == "Parallel" || !self.one_leads() {
            return;
        }
        let promise = self.promised(uid).unwrap_or(Promise { most: 0, fewest: 0 });
        let pods = pods_of(commit.objects, uid);
        // Beyond the greatest size of late, a pod goes because the set shrinks: the highest first.
        let higher = pods.iter().any(|it| ordinal(it) > ordinal(pod));
        if ordinal(pod) >= promise.most && higher {
            self.fail(commit, "scaled down out of order");
        }
        // Below the smallest size of late it does not shrink: the pod is updated, one after the other.
        if self.strict.steady_pods && ordinal(pod) < promise.fewest && pods::is_ready(pod) {
            let mut others =
                pods.iter().filter(|it| ordinal(it) != ordinal(pod) && ordinal(it) < promise.most);
            if others.any(|it| !pods::is_ready(it) || pods::is_terminating(it)) {
                self.fail(commit, "updated while another pod was not ready");
            }
        }
    }
}

pub(super) fn parse<K: k8s_openapi::serde::de::DeserializeOwned>(value: &Value) -> K {
    K::deserialize(value).expect("stored objects are readable")
}

pub(super) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

pub(super) fn is_going(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

pub(super) fn has_condition(object: &Value, type_: &str) -> bool {
    object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|it| it["type"] == type_ && it["status"] == "True")
}

fn namespace_is_going(objects: &Objects, name: &str) -> bool {
    objects.get(&("/namespaces".to_owned(), String::new(), name.to_owned())).is_none_or(|it| is_going(it))
}

fn is_leaving(deployment: &Deployment) -> bool {
    deployment.metadata.deletion_timestamp.is_some()
}

fn owned_by(object: &Value, uid: &str) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|it| it["controller"] == true && it["uid"] == uid)
}

/// Pods controlled by the object with that uid.
pub(super) fn pods_of(objects: &Objects, uid: &str) -> Vec<Pod> {
    let of = objects.iter().filter(|(key, pod)| key.0 == "/pods" && owned_by(pod, uid));
    of.map(|(_, pod)| parse(pod)).collect()
}

pub(super) fn active_pods(objects: &Objects, uid: &str) -> Vec<Pod> {
    pods_of(objects, uid).into_iter().filter(pods::is_active).collect()
}

/// The Deployment of a ReplicaSet and the uids of all its ReplicaSets.
fn family(objects: &Objects, set: &str) -> Option<(Deployment, Vec<String>)> {
    let set = objects.iter().find(|(key, it)| key.0 == "apps/replicasets" && uid(it) == set)?;
    let set: ReplicaSet = parse(set.1);
    let owner = &controller_of(&set.metadata)?.uid;
    let deployment = objects.iter().find(|(key, it)| key.0 == "apps/deployments" && uid(it) == owner)?;
    let sets = objects.iter().filter(|(key, it)| key.0 == "apps/replicasets" && owned_by(it, owner));
    Some((parse(deployment.1), sets.map(|(_, it)| uid(it).to_owned()).collect()))
}

pub(super) fn ordinal(pod: &Pod) -> i32 {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    name.rsplit('-').next().and_then(|text| text.parse().ok()).unwrap_or(-1)
}

/// The node a daemon is meant for.
fn target_node(pod: &Pod) -> Option<String> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    terms.first()?.match_fields.as_ref()?.first()?.values.as_ref()?.first().cloned()
}

fn surges(set: &DaemonSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    strategy
        .and_then(|it| it.rolling_update.as_ref())
        .and_then(|it| it.max_surge.as_ref())
        .is_some_and(|it| crate::deployment::scaled(it, 1, true) > 0)
}
