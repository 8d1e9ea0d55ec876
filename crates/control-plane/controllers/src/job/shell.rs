//! Watches Jobs and pods, decides, and carries it out.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{
    EnvVar, EnvVarSource, Namespace, ObjectFieldSelector, Pod, PodTemplateSpec,
};
use kube::api::{Api, ListParams, PostParams};
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_not_found, reference_of, run_workers};
use serde_json::{Value, json};

use super::decide::{Decision, NewPod, Observed, decide, is_held, manager_elsewhere};
use super::freshness::Freshness;
use super::indexes::Indexes;
use super::status;
use super::{FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED_FAILURES};
use crate::children::{Children, Target, concerned, owner_of};
use crate::clock;
use crate::context::{Context, Error, LAG_CHECK};
use crate::expect::Expectations;
use crate::finalizers;
use crate::labels::Selector;
use crate::metrics;
use crate::names;
use crate::owner::{self, Claim};
use crate::pods;

/// Index of pods that carry the finalizer by the key of the Job that they name.
const HELD: &str = "controllers/jobHeld";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let pods = context.informers.of::<Pod>();
    pods::index_by_controller(&pods);
    pods.add_index(HELD, |pod| {
        let key = owner_of::<Job>(&pod.metadata).filter(|_| is_held(pod));
        key.map(|key| key.to_string()).into_iter().collect()
    });
    let controller = Arc::new(Controller {
        jobs: context.informers.of::<Job>(),
        namespaces: context.informers.of::<Namespace>(),
        pods,
        queue: WorkQueue::new("job"),
        orphans: WorkQueue::new("job_orphan_pod"),
        expectations: Expectations::default(),
        own_writes: Expectations::default(),
        freshness: Freshness::default(),
        context: context.clone(),
    });
    controller.watch();
    context.ready([controller.jobs.synced().boxed(), controller.pods.synced().boxed()]).await;
    let (queue, orphans) = (controller.queue.clone(), controller.orphans.clone());
    let other = Arc::clone(&controller);
    // One is enough: it is rare that a Job leaves its pods behind. Source: upstream starts one as well.
    let freeing =
        run_workers(orphans, 1, context.shutdown.clone(), move |key| free_orphan(Arc::clone(&other), key));
    tokio::join!(context.work(queue, move |key| reconcile(Arc::clone(&controller), key)), freeing);
}

#[derive(Debug)]
struct Controller {
    context: Context,
    jobs: Informer<Job>,
    namespaces: Informer<Namespace>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    /// Pods that carry the finalizer and name no controller.
    orphans: WorkQueue<ObjectKey>,
    /// Writes to pods.
    expectations: Expectations,
    /// Writes to the Job itself: what is counted there must not be counted again.
    own_writes: Expectations,
    freshness: Freshness,
}

impl Controller {
    fn watch(&self) {
        let queue = self.queue.clone();
        self.jobs.on_event(move |change| {
            if let Change::Added(job) = change
                && let Some(manager) = manager_elsewhere(job)
            {
                metrics::JOBS_MANAGED_ELSEWHERE.with([manager]).increment();
            }
            queue.add(ObjectKey::of(change.object().as_ref()));
        });
        let (queue, jobs, orphans) = (self.queue.clone(), self.jobs.clone(), self.orphans.clone());
        self.pods.on_event(move |change| {
            count_held(change);
            let selector =
                |job: &Job| job.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
            for key in concerned(change, &jobs, selector) {
                queue.add(key);
            }
            // Pods that outlive their Job must not be held by it.
            if let Change::Added(pod) = change
                && is_held(pod)
            {
                owner_of::<Job>(&pod.metadata).into_iter().for_each(|key| queue.add(key));
            }
            if is_orphan(change.object()) && !matches!(change, Change::Deleted(_)) {
                orphans.add(ObjectKey::of(change.object().as_ref()));
            }
        });
    }

    /// Decides by the cache; or, where that may be older than the counts in the Job's status, by what the API says of pods whose
    /// ends would be noted now.
    async fn decide(
        &self,
        children: &Children<'_, Job>,
        mut pods: Vec<Arc<Pod>>,
        namespace_ends: bool,
        now: Timestamp,
    ) -> Result<Decision, Error> {
        let job = children.owner;
        let decided = |pods: &[Arc<Pod>]| decide(&Observed { job, pods, namespace_ends }, now);
        let mut decision = decided(&pods);
        let cache = self.pods.resource_version().parse().unwrap_or_default();
        if self.freshness.suffices(children.key, owner::version(&job.metadata), cache) {
            return Ok(decision);
        }
        let mut confirmed = HashSet::new();
        loop {
            let uids = newly_noted(job, &decision);
            let doubtful = |pod: &&Arc<Pod>| {
                let uid = owner::uid(&pod.metadata);
                uids.contains(uid) && !confirmed.contains(uid)
            };
            let Some(pod) = pods.iter().find(doubtful).cloned() else { return Ok(decision) };
            confirmed.insert(owner::uid(&pod.metadata).to_owned());
            let live = read(&children.pods(), &pod).await?;
            pods.retain(|it| !Arc::ptr_eq(it, &pod));
            pods.extend(live.map(Arc::new));
            decision = decided(&pods);
        }
    }

    /// Frees pods whose Job is gone, or another one by its name, and that still name it.
    async fn free_left(&self, key: &ObjectKey, living: Option<&str>) -> Result<(), Error> {
        for pod in self.pods.by_index(HELD, &key.to_string()) {
            let owner = owner::controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
            if owner.is_none() || owner == living {
                continue;
            }
            release(&Api::namespaced(self.context.client.clone(), &key.namespace), &Target::of(&pod)).await?;
        }
        Ok(())
    }
}

/// The uids of pods whose ends a decision notes for the first time.
fn newly_noted(job: &Job, decision: &Decision) -> BTreeSet<String> {
    let noted = |status: Option<&JobStatus>| -> BTreeSet<String> {
        let uncounted = status.and_then(|status| status.uncounted_terminated_pods.as_ref());
        let lists = uncounted.into_iter().flat_map(|it| [&it.succeeded, &it.failed]);
        lists.flatten().flatten().cloned().collect()
    };
    let before = noted(job.status.as_ref());
    noted(decision.status.as_ref()).difference(&before).cloned().collect()
}

/// The pod as it is now, unless it is gone. By a list, since the controller's role has no `get` of pods.
async fn read(api: &Api<Pod>, pod: &Pod) -> Result<Option<Pod>, Error> {
    let name = owner::name(&pod.metadata);
    let params = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = api.list(&params).await.map_err(Error::call("read pod", name))?;
    Ok(found.items.into_iter().find(|it| it.metadata.uid == pod.metadata.uid))
}

/// Takes the finalizer off a pod, if it is still the same one.
async fn release(api: &Api<Pod>, target: &Target) -> Result<Option<Pod>, Error> {
    patch(api, &target.key, finalizers::remove(&target.uid, FINALIZER)).await
}

/// Patches a pod, unless it is gone or another one.
async fn patch(api: &Api<Pod>, key: &ObjectKey, patch: Value) -> Result<Option<Pod>, Error> {
    let params = kube::api::PatchParams::default();
    match api.patch(&key.name, &params, &kube::api::Patch::Strategic(patch)).await {
        Ok(pod) => Ok(Some(pod)),
        Err(error) if is_not_found(&error) || podium_client::is_conflict(&error) => Ok(None),
        Err(error) => Err(Error::call("release pod", key.to_string())(error)),
    }
}

/// Whether the pod is held for a Job, but names no controller: its Job was deleted and left it behind.
fn is_orphan(pod: &Pod) -> bool {
    is_held(pod) && owner::controller_of(&pod.metadata).is_none()
}

/// Frees a pod that no Job will ever count. Source: `syncOrphanPod`.
async fn free_orphan(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(pod) = controller.pods.get(&key).filter(|pod| is_orphan(pod)) else { return Ok(()) };
    let mut change = finalizers::remove(owner::uid(&pod.metadata), FINALIZER);
    // A Job may have taken it over in the meantime, and counts on the finalizer. If so, the cache is about to tell.
    change["metadata"]["resourceVersion"] = json!(pod.metadata.resource_version);
    let api = Api::namespaced(controller.context.client.clone(), &key.namespace);
    patch(&api, &key, change).await.map(drop)
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(job) = controller.jobs.get(&key) else {
        controller.expectations.forget(&key);
        controller.own_writes.forget(&key);
        controller.freshness.forget(&key);
        return controller.free_left(&key, None).await;
    };
    controller.free_left(&key, job.metadata.uid.as_deref()).await?;
    if manager_elsewhere(&job).is_some() {
        return Ok(());
    }
    let now = controller.context.now();
    let pods_shown = controller.expectations.satisfied(&key, &controller.pods, now);
    let job_shown = controller.own_writes.satisfied(&key, &controller.jobs, now);
    if !pods_shown || !job_shown {
        let unseen = if pods_shown { ["batch", "jobs"] } else { ["", "pods"] };
        metrics::JOBS_STALE.with(unseen).increment();
        metrics::job_synced("reconciling", mode(&job), true, std::time::Duration::ZERO);
        controller.queue.add_after(key, LAG_CHECK);
        return Ok(());
    }
    let children = Children {
        context: &controller.context,
        owner: job.as_ref(),
        key: &key,
        expectations: &controller.expectations,
    };
    let Some(pods) = claim(&controller, &children).await? else {
        // What was taken over is looked at when the cache shows it.
        return Ok(());
    };
    let namespace = controller.namespaces.get(&ObjectKey::cluster(key.namespace.as_str()));
    let namespace_ends = namespace.is_some_and(|it| it.metadata.deletion_timestamp.is_some());
    let decision = controller.decide(&children, pods, namespace_ends, now).await?;
    if let Some(moment) = decision.next_check {
        controller.queue.add_after(key.clone(), clock::until(moment, now));
    }
    let (action, mode, started) = (action(&decision), mode(&job), std::time::Instant::now());
    let outcome = apply(&controller, &children, decision).await;
    metrics::job_synced(action, mode, outcome.is_ok(), started.elapsed());
    outcome
}

/// What a decision is mainly about, in the words of upstream's metrics.
fn action(decision: &Decision) -> &'static str {
    match decision {
        _ if !decision.create.is_empty() => "pods_created",
        _ if !decision.delete.is_empty() || !decision.uncounted.is_empty() => "pods_deleted",
        _ => "tracking",
    }
}

fn mode(job: &Job) -> &'static str {
    let indexed = job.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) == Some("Indexed");
    if indexed { "Indexed" } else { "NonIndexed" }
}

/// Counts pods that have come to their end and are held for that to be counted, and those that are no more.
fn count_held(change: &Change<Pod>) {
    let waits = |pod: &Pod| pods::is_finished(pod) && is_held(pod);
    let (before, after) = match change {
        Change::Added(pod) => (false, waits(pod)),
        Change::Modified { old, new } => (waits(old), waits(new)),
        Change::Deleted(pod) => (waits(pod), false),
    };
    if before != after {
        metrics::JOB_PODS_HELD.with([if after { "add" } else { "delete" }]).increment();
    }
}

/// How many indexes one status says to have ended that the other did not, by the kind of limit and by how.
pub(super) fn ended_indexes(
    job: &Job,
    before: &JobStatus,
    after: &JobStatus,
) -> Vec<([&'static str; 2], u64)> {
    let spec = job.spec.as_ref();
    let completions = spec.and_then(|spec| spec.completions).unwrap_or_default();
    let per_index = spec.is_some_and(|spec| spec.backoff_limit_per_index.is_some());
    let limit = if per_index { "perIndex" } else { "global" };
    let len = |list: &Option<String>| Indexes::parse(list.as_deref().unwrap_or_default(), completions).len();
    let news = |old: &Option<String>, new: &Option<String>| u64::try_from(len(new) - len(old)).unwrap_or(0);
    let mut ended = vec![([limit, "succeeded"], news(&before.completed_indexes, &after.completed_indexes))];
    if per_index {
        ended.push(([limit, "failed"], news(&before.failed_indexes, &after.failed_indexes)));
    }
    ended
}

/// Counts what a status that was written says for the first time.
fn count_news(job: &Job, written: &Job) {
    let mode = mode(job);
    let none = JobStatus::default();
    let before = job.status.as_ref().unwrap_or(&none);
    let after = written.status.as_ref().unwrap_or(&none);
    let news =
        |old: Option<i32>, new: Option<i32>| u64::try_from(new.unwrap_or(0) - old.unwrap_or(0)).unwrap_or(0);
    metrics::JOB_PODS_FINISHED.with([mode, "succeeded"]).add(news(before.succeeded, after.succeeded));
    metrics::JOB_PODS_FINISHED.with([mode, "failed"]).add(news(before.failed, after.failed));
    if mode == "Indexed" {
        for (labels, count) in ended_indexes(job, before, after) {
            metrics::JOB_INDEXES_FINISHED.with(labels).add(count);
        }
    }
    for (type_, result) in [(status::COMPLETE, "succeeded"), (status::FAILED, "failed")] {
        if let (None, Some(condition)) = (status::holds(before, type_), status::holds(after, type_)) {
            let reason = condition.reason.as_deref().unwrap_or_default();
            metrics::JOBS_FINISHED.with([mode, reason, result]).increment();
        }
    }
}

/// The Job's pods, or `None` when some had to be taken over first.
async fn claim(
    controller: &Controller,
    children: &Children<'_, Job>,
) -> Result<Option<Vec<Arc<Pod>>>, Error> {
    let job = children.owner;
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let selector = Selector::new(&selector)
        .map_err(|error| Error::Unusable { object: children.key.to_string(), why: error.to_string() })?;
    let mut candidates = controller.pods.by_index(pods::BY_CONTROLLER, owner::uid(&job.metadata));
    candidates
        .extend(controller.pods.by_index(pods::BY_CONTROLLER, &pods::orphans_of(&children.key.namespace)));
    let (mut owned, mut adopt, mut let_go) = (Vec::new(), Vec::new(), Vec::new());
    for pod in candidates {
        match owner::claim(&job.metadata, &selector, &pod.metadata) {
            Claim::Keep => owned.push(pod),
            Claim::Adopt if !selector.is_empty() => adopt.push(Target::of(&pod)),
            Claim::Release => let_go.push(Target::of(&pod)),
            Claim::Adopt | Claim::Ignore => {}
        }
    }
    // What is taken over is counted as well.
    children.adopt(&adopt, Some(FINALIZER)).await?;
    children.claim(&[], &let_go).await?;
    for target in &let_go {
        release(&children.pods(), target).await?;
    }
    Ok((adopt.is_empty() && let_go.is_empty()).then_some(owned))
}

async fn apply(
    controller: &Controller,
    children: &Children<'_, Job>,
    decision: Decision,
) -> Result<(), Error> {
    let call = |action| Error::call(action, children.key.to_string());
    for target in &decision.uncounted {
        children.patch(target, &finalizers::remove(&target.uid, FINALIZER)).await?;
    }
    children.delete_all(&decision.uncounted).await.map_err(call("delete pods of"))?;
    children.delete_all(&decision.delete).await.map_err(call("delete pods of"))?;
    let made = create(children, &decision.create, decision.why_create).await;
    if let Some(status) = decision.status {
        let updated = Job { status: Some(status), ..children.owner.clone() };
        let api: Api<Job> = Api::namespaced(children.context.client.clone(), &children.key.namespace);
        match api.replace_status(&children.key.name, &PostParams::default(), &updated).await {
            Ok(job) => {
                count_news(children.owner, &job);
                controller.own_writes.wrote(children.key, &job, children.context.now());
                controller.freshness.wrote(children.key, owner::version(&job.metadata));
            }
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error) => return Err(call("update status of job")(error)),
        }
    }
    for action in &decision.handled {
        metrics::JOB_POD_FAILURES.with([action]).increment();
    }
    for target in &decision.release {
        if let Some(pod) = release(&children.pods(), target).await? {
            controller.expectations.wrote(children.key, &pod, children.context.now());
        }
    }
    for (type_, reason, message) in decision.events {
        children.context.event_about(&reference_of(children.owner), type_, &reason, message);
    }
    made.map_err(call("create pods of"))
}

async fn create(children: &Children<'_, Job>, new: &[NewPod], why: &str) -> Result<(), kube::Error> {
    let Some(spec) = &children.owner.spec else { return Ok(()) };
    let indexed = mode(children.owner) == "Indexed";
    let mut template = spec.template.clone();
    let finalizers = template.metadata.get_or_insert_default().finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    if indexed {
        tell_index(&mut template);
    }
    let reference = owner::controller_reference(children.owner);
    let pod = |new: &NewPod| {
        let prefix = match new.index {
            Some(index) => names::prefix(&format!("{}-{index}", children.key.name)),
            None => names::prefix(&children.key.name),
        };
        let name = names::generate(&prefix, children.context.names.as_ref());
        let namespace = &children.key.namespace;
        let mut pod = pods::from_template(&template, namespace, Some(prefix), name, reference.clone());
        if let Some(index) = new.index {
            mark(&mut pod, &children.key.name, index, new.failures);
        }
        pod
    };
    let ((created, refused), outcome) = children.create_counted(new.iter().map(pod)).await;
    for (status, count) in [("succeeded", created), ("failed", refused)] {
        if count > 0 {
            metrics::JOB_PODS_CREATED.with([why, status]).add(count);
        }
    }
    outcome
}

/// Has every container told the index of its pod.
fn tell_index(template: &mut PodTemplateSpec) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let Some(spec) = &mut template.spec else { return };
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let env = container.env.get_or_insert_default();
        if env.iter().any(|variable| variable.name == NAME) {
            continue;
        }
        let field =
            ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None };
        env.push(EnvVar {
            name: NAME.to_owned(),
            value: None,
            value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        });
    }
}

fn mark(pod: &mut Pod, job: &str, index: i32, failures: Option<(i32, i32)>) {
    let meta = &mut pod.metadata;
    meta.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some((counted, ignored)) = failures {
        annotations.insert(INDEX_FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(INDEX_IGNORED_FAILURES.to_owned(), ignored.to_string());
        }
    }
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{job}-{index}"));
    }
}
