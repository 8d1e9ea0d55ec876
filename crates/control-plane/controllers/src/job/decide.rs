//! What one Job needs next.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use podium_client::EventType;

use super::indexes::Indexes;
use super::policy::{self, Verdict, is_failed, judge, replaces_only_failed};
use super::status::{self, COMPLETE, FAILED, FAILURE_TARGET, SUCCESS_CRITERIA_MET, SUSPENDED};
use super::{FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED_FAILURES};
use crate::children::Target;
use crate::clock;
use crate::labels;
use crate::owner;
use crate::pods;
use crate::replicaset::dispensable_first;

/// The most pods made or unmade by one reconcile, and the most ends noted at once. Source: `MaxPodCreateDeletePerSync`,
/// `MaxUncountedPods`.
const MOST: usize = 500;
/// The first pause after a failed pod, doubled with each further one, and the longest, in seconds.
const FIRST_BACKOFF: i64 = 10;
const LONGEST_BACKOFF: i64 = 600;

/// What the caches show. The shell has waited until they show all that was written for the Job.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) job: &'a Job,
    /// The pods it controls.
    pub(crate) pods: &'a [Arc<Pod>],
    /// Its namespace is on its way out: nothing new can be made in it, and nothing must be kept for that.
    pub(crate) namespace_ends: bool,
}

/// A pod to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewPod {
    /// The index it works on.
    pub(crate) index: Option<i32>,
    /// How often that index has failed, counted and ignored, where each index has its own limit.
    pub(crate) failures: Option<(i32, i32)>,
}

/// To be carried out in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    /// Pods to delete.
    pub(crate) delete: Vec<Target>,
    /// Those of them whose end is not to be counted: their finalizer goes first.
    pub(crate) uncounted: Vec<Target>,
    pub(crate) create: Vec<NewPod>,
    /// Why, as upstream's metrics have it; empty when none are created.
    pub(crate) why_create: &'static str,
    /// The new status, when it is another one.
    pub(crate) status: Option<JobStatus>,
    /// Pods whose finalizer is to be taken off once the status is written.
    pub(crate) release: Vec<Target>,
    /// The actions of the failure policy's rules by which some of them are dealt with now.
    pub(crate) handled: Vec<String>,
    pub(crate) events: Vec<(EventType, String, String)>,
    /// When to look again although nothing happens.
    pub(crate) next_check: Option<Timestamp>,
}

/// Whether the pod's end is still to be counted.
pub(crate) fn is_held(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// The other controller that looks after the Job, if one does.
pub(crate) fn manager_elsewhere(job: &Job) -> Option<&str> {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    manager.filter(|manager| *manager != "kubernetes.io/job-controller")
}

/// Chooses what one Job needs next. No I/O.
pub(crate) fn decide(seen: &Observed<'_>, now: Timestamp) -> Decision {
    let Some(spec) = &seen.job.spec else { return Decision::default() };
    if manager_elsewhere(seen.job).is_some() {
        return Decision::default();
    }
    let before = seen.job.status.clone().unwrap_or_default();
    if status::is_finished(&before) {
        let release = seen.pods.iter().filter(|pod| is_held(pod)).map(|pod| Target::of(pod)).collect();
        return Decision { release, ..Decision::default() };
    }
    let mut work = Work::new(seen, spec, before, now);
    work.count();
    work.judge();
    if work.ending() {
        work.end();
    } else {
        work.manage();
    }
    work.finish()
}

/// One decision as it develops.
struct Work<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [Arc<Pod>],
    namespace_ends: bool,
    active: Vec<Arc<Pod>>,
    now: Timestamp,
    status: JobStatus,
    succeeded_uncounted: Vec<String>,
    failed_uncounted: Vec<String>,
    completed: Indexes,
    failed_indexes: Option<Indexes>,
    /// Failed pods that are kept until their index has a new one, since they carry its count of failures.
    kept: BTreeMap<i32, Arc<Pod>>,
    terminating: usize,
    out: Decision,
}

impl<'a> Work<'a> {
    fn new(seen: &Observed<'a>, spec: &'a JobSpec, status: JobStatus, now: Timestamp) -> Self {
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let completions = spec.completions.unwrap_or_default();
        let completed = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
        let failed = status.failed_indexes.as_deref().unwrap_or_default();
        let per_index = spec.backoff_limit_per_index.is_some();
        Self {
            job: seen.job,
            spec,
            pods: seen.pods,
            namespace_ends: seen.namespace_ends,
            active: seen.pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect(),
            now,
            succeeded_uncounted: uncounted.succeeded.unwrap_or_default(),
            failed_uncounted: uncounted.failed.unwrap_or_default(),
            completed,
            failed_indexes: per_index.then(|| Indexes::parse(failed, completions)),
            kept: BTreeMap::new(),
            terminating: seen
                .pods
                .iter()
                .filter(|it| pods::is_terminating(it) && !pods::is_finished(it))
                .count(),
            status,
            out: Decision::default(),
        }
    }

    fn indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// The pod's index, if it is one of the Job's.
    fn index(&self, pod: &Pod) -> Option<i32> {
        let index: i32 = labels::value(pod.metadata.annotations.as_ref(), INDEX)?.parse().ok()?;
        (0..self.spec.completions.unwrap_or_default()).contains(&index).then_some(index)
    }

    /// Whether the pod belongs to the Job's work at all.
    fn is_valid(&self, pod: &Pod) -> bool {
        !self.indexed() || self.index(pod).is_some()
    }

    /// Turns noted ends into counts where the finalizer is gone, and notes the ends that are new.
    fn count(&mut self) {
        let held: HashSet<&str> =
            self.pods.iter().filter(|pod| is_held(pod)).map(|pod| owner::uid(&pod.metadata)).collect();
        let settle = |uids: &mut Vec<String>| {
            let before = uids.len();
            uids.retain(|uid| held.contains(uid.as_str()));
            i32::try_from(before - uids.len()).unwrap_or(i32::MAX)
        };
        let (succeeded, failed) = (settle(&mut self.succeeded_uncounted), settle(&mut self.failed_uncounted));
        self.status.succeeded = present(self.status.succeeded.unwrap_or_default() + succeeded);
        self.status.failed = present(self.status.failed.unwrap_or_default() + failed);
        self.keep_counts_of_indexes();
        for pod in self.pods.iter().filter(|pod| is_held(pod)) {
            if self.succeeded_uncounted.len() + self.failed_uncounted.len() >= MOST {
                break;
            }
            self.note_end(pod);
        }
    }

    fn note_end(&mut self, pod: &Arc<Pod>) {
        let uid = owner::uid(&pod.metadata).to_owned();
        let failed_before = self.failed_uncounted.contains(&uid);
        if pods::phase(pod) == "Succeeded" && !failed_before {
            match (self.indexed(), self.index(pod)) {
                (true, Some(index)) => self.completed.insert(index),
                (true, None) => {}
                (false, _) if self.succeeded_uncounted.contains(&uid) => {}
                (false, _) => self.succeeded_uncounted.push(uid),
            }
        } else if is_failed(pod, self.spec) && !failed_before && self.is_valid(pod) {
            let kept = self.kept.values().any(|kept| Arc::ptr_eq(kept, pod));
            if !kept && judge(self.spec.pod_failure_policy.as_ref(), pod) != Verdict::Ignore {
                self.failed_uncounted.push(uid);
            }
        }
    }

    /// Where each index has its own limit: which indexes have failed for good, and which failed pods to keep meanwhile.
    fn keep_counts_of_indexes(&mut self) {
        let (Some(limit), Some(mut failed)) = (self.spec.backoff_limit_per_index, self.failed_indexes.take())
        else {
            return;
        };
        let policy = self.spec.pod_failure_policy.as_ref();
        let held_failures: Vec<(i32, &Arc<Pod>)> = self
            .pods
            .iter()
            .filter(|pod| is_held(pod) && is_failed(pod, self.spec))
            .filter_map(|pod| Some((self.index(pod)?, pod)))
            .collect();
        for (index, pod) in &held_failures {
            let verdict = judge(policy, pod);
            let counted = matches!(verdict, Verdict::Count | Verdict::FailJob(_));
            if verdict == Verdict::FailIndex || (counted && annotation(pod, INDEX_FAILURES) >= limit) {
                failed.insert(*index);
            }
        }
        let busy: BTreeSet<i32> = self.active.iter().filter_map(|pod| self.index(pod)).collect();
        for (index, pod) in held_failures {
            let settled = failed.contains(index) || self.completed.contains(index) || busy.contains(&index);
            if settled || self.namespace_ends {
                continue;
            }
            let rank = |pod: &Arc<Pod>| {
                (
                    annotation(pod, INDEX_FAILURES) + annotation(pod, INDEX_IGNORED_FAILURES),
                    status::pod_ended_at(pod),
                )
            };
            let newest = self.kept.entry(index).or_insert_with(|| pod.clone());
            if rank(pod) > rank(newest) {
                *newest = pod.clone();
            }
        }
        self.failed_indexes = Some(failed);
    }

    fn succeeded(&self) -> i32 {
        if self.indexed() {
            return self.completed.len();
        }
        self.status.succeeded.unwrap_or_default() + count(self.succeeded_uncounted.len())
    }

    fn failed(&self) -> i32 {
        self.status.failed.unwrap_or_default() + count(self.failed_uncounted.len())
    }

    fn ending(&self) -> bool {
        [SUCCESS_CRITERIA_MET, FAILURE_TARGET]
            .iter()
            .any(|type_| status::holds(&self.status, type_).is_some())
    }

    /// Decides whether the Job has come to its end.
    fn judge(&mut self) {
        if self.status.start_time.is_none() && !self.suspended() {
            self.status.start_time = Some(clock::time(self.now));
        }
        if self.ending() {
            return;
        }
        if let Some((reason, message)) = self.failure() {
            status::add(&mut self.status, FAILURE_TARGET, reason, &message, self.now);
        } else if let Some(message) = self.early_success() {
            status::add(&mut self.status, SUCCESS_CRITERIA_MET, "SuccessPolicy", &message, self.now);
        } else if self.is_complete() {
            let message = "Reached expected number of succeeded pods";
            status::add(&mut self.status, SUCCESS_CRITERIA_MET, "CompletionsReached", message, self.now);
        } else if let Some(deadline) = self.deadline() {
            self.check_at(deadline);
        }
    }

    fn failure(&self) -> Option<(&'static str, String)> {
        let policy = self.spec.pod_failure_policy.as_ref();
        let fatal =
            self.pods.iter().filter(|pod| policy.is_some() && is_failed(pod, self.spec)).find_map(|pod| {
                match judge(policy, pod) {
                    Verdict::FailJob(message) => Some(message),
                    _ => None,
                }
            });
        if let Some(message) = fatal {
            return Some(("PodFailurePolicy", message));
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failed() > limit || self.restarted_too_often(limit) {
            return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".to_owned()));
        }
        if self.deadline().is_some_and(|deadline| deadline <= self.now) {
            return Some(("DeadlineExceeded", "Job was active longer than specified deadline".to_owned()));
        }
        let failed = self.failed_indexes.as_ref().map(Indexes::len).unwrap_or_default();
        if self.spec.max_failed_indexes.is_some_and(|most| failed > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(("MaxFailedIndexesExceeded", message.to_owned()));
        }
        let all = self.spec.completions.is_some_and(|all| failed + self.completed.len() >= all);
        (failed > 0 && all).then(|| ("FailedIndexes", "Job has failed indexes".to_owned()))
    }

    /// Containers that are restarted in place count as failures while their pods run.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let running = self.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
        let restarts: i32 = running
            .filter_map(|pod| pod.status.as_ref())
            .flat_map(|it| it.container_statuses.iter().chain(&it.init_container_statuses).flatten())
            .map(|container| container.restart_count)
            .sum();
        restarts > 0 && restarts >= limit
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.spec.active_deadline_seconds.filter(|_| !self.suspended())?;
        Some(clock::after(self.status.start_time.as_ref()?.0, seconds))
    }

    fn early_success(&self) -> Option<String> {
        let completions = self.spec.completions?;
        let rule = policy::success(self.spec.success_policy.as_ref(), &self.completed, completions)?;
        self.indexed().then(|| format!("Matched rules at index {rule}"))
    }

    fn is_complete(&self) -> bool {
        let succeeded = self.succeeded();
        let enough = self.spec.completions.map_or(succeeded > 0, |wanted| succeeded >= wanted);
        enough && self.active.is_empty()
    }

    fn check_at(&mut self, moment: Timestamp) {
        self.out.next_check = Some(self.out.next_check.map_or(moment, |check| check.min(moment)));
    }

    /// Ends what still runs. Where the Job fails that counts as failure.
    fn end(&mut self) {
        let fails = status::holds(&self.status, FAILURE_TARGET).is_some();
        let doomed = std::mem::take(&mut self.active);
        if fails {
            for pod in self.pods.iter().filter(|pod| is_held(pod) && pods::phase(pod) != "Succeeded") {
                let uid = owner::uid(&pod.metadata).to_owned();
                let ignored = is_failed(pod, self.spec)
                    && judge(self.spec.pod_failure_policy.as_ref(), pod) == Verdict::Ignore;
                if self.is_valid(pod) && !ignored && !self.failed_uncounted.contains(&uid) {
                    self.failed_uncounted.push(uid);
                }
            }
            self.out.delete.extend(doomed.iter().map(|pod| Target::of(pod)));
        } else {
            self.out.uncounted.extend(doomed.iter().map(|pod| Target::of(pod)));
        }
        self.terminating += doomed.len();
        self.kept.clear();
    }

    /// Brings the number of running pods to what is wanted.
    fn manage(&mut self) {
        if self.job.metadata.deletion_timestamp.is_some() || self.namespace_ends {
            return;
        }
        self.note_suspension();
        let duplicates = self.duplicates();
        if !duplicates.is_empty() {
            self.remove(&duplicates[..duplicates.len().min(MOST)]);
            return;
        }
        let wanted = self.wanted();
        if self.active.len() > wanted {
            let surplus = (self.active.len() - wanted).min(MOST);
            let ranked = dispensable_first(&self.active, 0, &[], self.now);
            self.remove(&ranked[..surplus]);
            return;
        }
        let leaving = if replaces_only_failed(self.spec) { self.terminating } else { 0 };
        let missing = wanted.saturating_sub(self.active.len() + leaving).min(MOST);
        if missing > 0 && !self.suspended() {
            self.add(missing);
        }
    }

    fn wanted(&self) -> usize {
        if self.suspended() {
            return 0;
        }
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            Some(completions) => (completions - self.succeeded()).min(parallelism),
            None if self.succeeded() > 0 => count(self.active.len()).min(parallelism),
            None => parallelism,
        };
        usize::try_from(wanted).unwrap_or_default()
    }

    /// Pods of an index that has another pod, or that the Job does not have.
    fn duplicates(&self) -> Vec<Arc<Pod>> {
        if !self.indexed() {
            return Vec::new();
        }
        let mut taken = BTreeSet::new();
        // The most valuable is seen first and stays.
        let ranked = dispensable_first(&self.active, 0, &[], self.now);
        ranked
            .into_iter()
            .rev()
            .filter(|pod| self.index(pod).is_none_or(|index| !taken.insert(index)))
            .collect()
    }

    fn remove(&mut self, pods: &[Arc<Pod>]) {
        self.out.uncounted.extend(pods.iter().map(|pod| Target::of(pod)));
        self.active.retain(|pod| !pods.iter().any(|other| Arc::ptr_eq(other, pod)));
        self.terminating += pods.len();
    }

    fn add(&mut self, missing: usize) {
        self.create(missing);
        let only_failed = self.spec.pod_replacement_policy.as_deref() == Some("Failed");
        self.out.why_create = match (self.out.create.is_empty(), self.failed() > 0) {
            (true, _) => "",
            (false, true) if only_failed => "recreate_failed",
            (false, failed) if failed || self.terminating > 0 => "recreate_terminating_or_failed",
            (false, _) => "new",
        };
    }

    fn create(&mut self, missing: usize) {
        let per_index = self.spec.backoff_limit_per_index.is_some();
        if !per_index && let Some(moment) = self.backoff().filter(|moment| *moment > self.now) {
            self.check_at(moment);
            return;
        }
        if !self.indexed() {
            self.out.create = vec![NewPod { index: None, failures: None }; missing];
            return;
        }
        for index in self.pending(missing) {
            let kept = self.kept.get(&index).cloned();
            let failures = per_index.then(|| self.failures_of_next(kept.as_ref()));
            let ready = kept.as_ref().and_then(|pod| {
                let (counted, ignored) = failures?;
                pause(status::pod_ended_at(pod), counted + ignored)
            });
            match ready {
                Some(moment) if moment > self.now => self.check_at(moment),
                _ => self.out.create.push(NewPod { index: Some(index), failures }),
            }
        }
    }

    /// The counts that the next pod of an index starts with.
    fn failures_of_next(&self, kept: Option<&Arc<Pod>>) -> (i32, i32) {
        let Some(pod) = kept else { return (0, 0) };
        let (counted, ignored) = (annotation(pod, INDEX_FAILURES), annotation(pod, INDEX_IGNORED_FAILURES));
        match judge(self.spec.pod_failure_policy.as_ref(), pod) {
            Verdict::Ignore => (counted, ignored + 1),
            _ => (counted + 1, ignored),
        }
    }

    /// The first indexes that nobody works on.
    fn pending(&self, count: usize) -> Vec<i32> {
        let leaving = replaces_only_failed(self.spec);
        let busy: BTreeSet<i32> = self
            .pods
            .iter()
            .filter(|pod| {
                pods::is_active(pod) || (leaving && pods::is_terminating(pod) && !pods::is_finished(pod))
            })
            .filter_map(|pod| self.index(pod))
            .collect();
        (0..self.spec.completions.unwrap_or_default())
            .filter(|index| !busy.contains(index) && !self.completed.contains(*index))
            .filter(|index| !self.failed_indexes.as_ref().is_some_and(|failed| failed.contains(*index)))
            .take(count)
            .collect()
    }

    /// Until when no new pod is made after the last failures.
    fn backoff(&self) -> Option<Timestamp> {
        let ended = |test: &dyn Fn(&Pod) -> bool| -> Vec<Timestamp> {
            self.pods.iter().filter(|pod| test(pod)).map(|pod| status::pod_ended_at(pod)).collect()
        };
        let last_success = ended(&|pod| pods::phase(pod) == "Succeeded").into_iter().max();
        let mut failures = ended(&|pod| is_failed(pod, self.spec));
        failures.retain(|time| last_success.is_none_or(|success| *time > success));
        pause(*failures.iter().max()?, count(failures.len()))
    }

    fn note_suspension(&mut self) {
        let (status, reason, message, event) = if self.suspended() {
            ("True", "JobSuspended", "Job suspended", "Suspended")
        } else {
            ("False", "JobResumed", "Job resumed", "Resumed")
        };
        if status::set(&mut self.status, SUSPENDED, status, reason, message, self.now) {
            self.out.events.push((EventType::Normal, event.to_owned(), message.to_owned()));
            self.status.start_time = (!self.suspended()).then(|| clock::time(self.now));
        }
    }

    fn finish(mut self) -> Decision {
        self.release_counted();
        // Those about to be created are counted when they are there.
        self.status.active = present(count(self.active.len()));
        self.status.ready = Some(count(self.active.iter().filter(|pod| pods::is_ready(pod)).count()));
        self.status.terminating = Some(count(self.terminating));
        if self.indexed() {
            self.status.succeeded = present(self.completed.len());
            self.status.completed_indexes = Some(self.completed.to_string()).filter(|text| !text.is_empty());
            self.status.failed_indexes = self.failed_indexes.as_ref().map(ToString::to_string);
        }
        let list = |uids: &Vec<String>| (!uids.is_empty()).then(|| uids.clone());
        self.status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: list(&self.succeeded_uncounted),
            failed: list(&self.failed_uncounted),
        });
        let settled = self.succeeded_uncounted.is_empty()
            && self.failed_uncounted.is_empty()
            && self.terminating == 0
            && self.active.is_empty();
        if settled {
            self.conclude();
        }
        self.out.status = (self.job.status.as_ref() != Some(&self.status)).then_some(self.status);
        self.out
    }

    /// Lets go of pods whose end is noted, or of no interest.
    fn release_counted(&mut self) {
        let ending = self.ending() || self.job.metadata.deletion_timestamp.is_some();
        let fails = status::holds(&self.status, FAILURE_TARGET).is_some();
        let before = self.job.status.as_ref().and_then(|status| status.uncounted_terminated_pods.as_ref());
        let before = before.and_then(|uncounted| uncounted.failed.as_deref()).unwrap_or_default();
        let policy = self.spec.pod_failure_policy.as_ref();
        for pod in self.pods.iter().filter(|pod| is_held(pod)) {
            let uid = owner::uid(&pod.metadata).to_owned();
            let kept = self.kept.values().any(|kept| Arc::ptr_eq(kept, pod));
            let noted = self.succeeded_uncounted.contains(&uid) || self.failed_uncounted.contains(&uid);
            let index_done = self.indexed()
                && pods::phase(pod) == "Succeeded"
                && self.index(pod).is_none_or(|index| self.completed.contains(index));
            let ignored =
                is_failed(pod, self.spec) && (judge(policy, pod) == Verdict::Ignore || !self.is_valid(pod));
            if noted || index_done || (ignored && !kept) || ending {
                self.out.release.push(Target::of(pod));
                // One that was noted before was dealt with then. Where the Job fails, what still runs has failed too.
                let failed = pods::phase(pod) != "Succeeded" && (fails || is_failed(pod, self.spec));
                let news = failed && self.is_valid(pod) && !before.contains(&uid);
                self.out.handled.extend(policy::action(policy, pod).filter(|_| news).map(str::to_owned));
            }
        }
        self.out.release.retain(|target| !self.out.uncounted.contains(target));
    }

    /// The Job's last word, once everything is counted.
    fn conclude(&mut self) {
        let words = |type_: &str| {
            let condition = status::holds(&self.status, type_)?;
            Some((
                condition.reason.clone().unwrap_or_default(),
                condition.message.clone().unwrap_or_default(),
            ))
        };
        if let Some((reason, message)) = words(FAILURE_TARGET) {
            status::add(&mut self.status, FAILED, &reason, &message, self.now);
            self.out.events.push((EventType::Warning, reason, message));
        } else if let Some((reason, message)) = words(SUCCESS_CRITERIA_MET) {
            status::add(&mut self.status, COMPLETE, &reason, &message, self.now);
            self.status.completion_time = Some(clock::time(self.now));
            if self.spec.completions.is_some_and(|wanted| self.succeeded() > wanted) {
                let message = "Too many succeeded pods running after completion count reached";
                self.out.events.push((
                    EventType::Warning,
                    "TooManySucceededPods".to_owned(),
                    message.to_owned(),
                ));
            }
            self.out.events.push((EventType::Normal, "Completed".to_owned(), "Job completed".to_owned()));
        }
    }
}

/// Until when nothing is tried again after that many failures, the last at `ended`.
fn pause(ended: Timestamp, failures: i32) -> Option<Timestamp> {
    let doublings = u32::try_from(failures - 1).ok()?.min(10);
    Some(clock::after(ended, (FIRST_BACKOFF << doublings).min(LONGEST_BACKOFF)))
}

fn annotation(pod: &Pod, key: &str) -> i32 {
    labels::value(pod.metadata.annotations.as_ref(), key)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Zero is left out on the wire.
fn present(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}
