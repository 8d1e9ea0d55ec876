//! Decisions about one Job, and the controller against a server.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, JobStatus, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule,
    UncountedTerminatedPods,
};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;

use super::decide::{Decision, NewPod, Observed, decide, is_held};
use super::indexes::Indexes;
use super::policy::{self, Verdict, judge};
use super::status::{self, COMPLETE, FAILED, FAILURE_TARGET, SUCCESS_CRITERIA_MET};
use super::{FINALIZER, INDEX, INDEX_FAILURES};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, controlled_by, labels, meta, pod, selector, template, time};

mod metrics;

#[test]
fn indexes_are_written_as_upstream_does() {
    for (text, completions, expected, count) in [
        ("", 10, "", 0),
        ("0", 10, "0", 1),
        ("1,2", 10, "1,2", 2),
        ("1,2,3", 10, "1-3", 3),
        ("5,1-3,4", 10, "1-5", 5),
        ("0,2-4,x,8-20", 10, "0,2-4,8,9", 6),
        ("7-3", 10, "", 0),
    ] {
        let indexes = Indexes::parse(text, completions);
        assert_eq!((indexes.to_string().as_str(), indexes.len()), (expected, count), "{text}");
    }
    let mut indexes = Indexes::parse("0,2", 5);
    indexes.insert(1);
    assert_eq!(indexes.to_string(), "0-2");
    assert!(indexes.contains(2) && !indexes.contains(3));
    assert_eq!(indexes.overlap(&Indexes::parse("2-4", 5)), 1);
}

proptest! {
    /// A set of indexes holds what was put in, and reads back as it was written.
    #[test]
    fn indexes_are_a_set(numbers in proptest::collection::vec(0..50i32, 0..60)) {
        let mut indexes = Indexes::default();
        numbers.iter().for_each(|number| indexes.insert(*number));
        let model: std::collections::BTreeSet<i32> = numbers.into_iter().collect();
        prop_assert_eq!(indexes.len(), i32::try_from(model.len()).unwrap());
        prop_assert!((0..50).all(|number| indexes.contains(number) == model.contains(&number)));
        prop_assert_eq!(Indexes::parse(&indexes.to_string(), 50), indexes);
    }
}

fn job(completions: i32, parallelism: i32) -> Job {
    Job {
        metadata: meta("work"),
        spec: Some(JobSpec {
            completions: Some(completions),
            parallelism: Some(parallelism),
            backoff_limit: Some(2),
            selector: Some(selector(&[("job", "work")])),
            template: template(&[("job", "work")], "v1"),
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn edited(mut job: Job, edit: impl FnOnce(&mut JobSpec)) -> Job {
    edit(job.spec.as_mut().unwrap());
    job
}

fn indexed(completions: i32, parallelism: i32) -> Job {
    edited(job(completions, parallelism), |spec| spec.completion_mode = Some("Indexed".to_owned()))
}

fn ours(name: &str) -> Pod {
    pod(name)
        .labelled(&[("job", "work")])
        .owned_by(controlled_by("batch/v1", "Job", "work"))
        .edit(|pod| pod.metadata.finalizers = Some(vec![FINALIZER.to_owned()]))
}

fn of_index(name: &str, index: i32) -> Pod {
    ours(name).edit(|pod| pod.metadata.annotations = Some(labels(&[(INDEX, &index.to_string())])))
}

fn exited(pod: Pod, code: i32, at_second: i64) -> Pod {
    pod.phase(if code == 0 { "Succeeded" } else { "Failed" }).edit(|pod| {
        let terminated = ContainerStateTerminated {
            exit_code: code,
            finished_at: Some(time(at_second)),
            ..Default::default()
        };
        let state = ContainerState { terminated: Some(terminated), ..ContainerState::default() };
        let status =
            ContainerStatus { name: "main".to_owned(), state: Some(state), ..ContainerStatus::default() };
        pod.status.as_mut().unwrap().container_statuses = Some(vec![status]);
    })
}

fn freed(pod: Pod) -> Pod {
    pod.edit(|pod| pod.metadata.finalizers = None)
}

fn decided(job: &Job, pods: Vec<Pod>) -> Decision {
    let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    decide(&Observed { job, pods: &pods, namespace_ends: false }, at(1000))
}

fn with_status(job: &Job, status: JobStatus) -> Job {
    Job { status: Some(status), ..job.clone() }
}

/// Created, removed without counting, deleted to fail, released.
fn numbers(decision: &Decision) -> (usize, usize, usize, usize) {
    (decision.create.len(), decision.uncounted.len(), decision.delete.len(), decision.release.len())
}

#[test]
fn pods_are_made_as_far_as_wanted() {
    let many = |count: usize| (0..count).map(|index| ours(&format!("p{index}"))).collect::<Vec<_>>();
    let queue = edited(job(1, 3), |spec| spec.completions = None);
    let suspended = edited(job(5, 3), |spec| spec.suspend = Some(true));
    let counted = |count| JobStatus { succeeded: Some(count), ..JobStatus::default() };
    for (case, job, pods, expected) in [
        ("begin", job(5, 3), vec![], (3, 0, 0, 0)),
        ("more running would be too many", job(5, 3), many(3), (0, 0, 0, 0)),
        ("the last ones", with_status(&job(5, 3), counted(4)), vec![], (1, 0, 0, 0)),
        ("less parallelism", job(5, 1), many(3), (0, 2, 0, 0)),
        ("a work queue", queue.clone(), vec![], (3, 0, 0, 0)),
        ("a work queue that empties", with_status(&queue, counted(1)), many(1), (0, 0, 0, 0)),
        ("suspended", suspended.clone(), vec![], (0, 0, 0, 0)),
        ("suspended while running", suspended, many(2), (0, 2, 0, 0)),
        ("not more than a burst", job(2000, 2000), vec![], (500, 0, 0, 0)),
    ] {
        assert_eq!(numbers(&decided(&job, pods)), expected, "{case}");
    }
}

#[test]
fn every_end_is_noted_released_and_counted_once() {
    let mut current = job(3, 3);
    let pods = vec![exited(ours("a"), 0, 900), exited(ours("b"), 1, 10), ours("c").ready(1)];
    let noted = decided(&current, pods.clone());
    let status = noted.status.clone().unwrap();
    let uncounted = status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(uncounted.succeeded.as_deref(), Some(&["a-uid".to_owned()][..]));
    assert_eq!(uncounted.failed.as_deref(), Some(&["b-uid".to_owned()][..]));
    assert_eq!(
        (status.succeeded, status.failed, status.active, status.ready),
        (None, None, Some(1), Some(1))
    );
    assert_eq!(noted.release.len(), 2);
    assert_eq!(noted.create.len(), 1, "a success is enough to forget the failure before it");
    current.status = Some(status);
    let again = decided(&current, pods.clone());
    assert_eq!((again.status, again.release.len()), (None, 2), "nothing new, but the finalizers must go");
    let released: Vec<Pod> =
        pods.into_iter().map(|pod| if crate::pods::is_finished(&pod) { freed(pod) } else { pod }).collect();
    let counted = decided(&current, released.clone()).status.unwrap();
    assert_eq!((counted.succeeded, counted.failed), (Some(1), Some(1)));
    assert_eq!(counted.uncounted_terminated_pods, Some(UncountedTerminatedPods::default()));
    current.status = Some(counted);
    assert_eq!(decided(&current, released).status, None, "counted once");
}

#[test]
fn success_ends_in_two_steps() {
    let mut current = job(1, 1);
    let done = exited(ours("a"), 0, 900);
    let first = decided(&current, vec![done.clone()]);
    let status = first.status.unwrap();
    assert!(status::holds(&status, COMPLETE).is_none(), "its end is not counted yet");
    assert!(status::holds(&status, SUCCESS_CRITERIA_MET).is_some());
    current.status = Some(status);
    let last = decided(&current, vec![freed(done)]);
    let status = last.status.unwrap();
    let complete = status::holds(&status, COMPLETE).unwrap();
    assert_eq!(complete.reason.as_deref(), Some("CompletionsReached"));
    assert_eq!(status.completion_time, Some(time(1000)));
    assert_eq!(last.events[0].1, "Completed");
    current.status = Some(status);
    assert_eq!(decided(&current, vec![]), Decision::default(), "and that is that");
    assert_eq!(numbers(&decided(&current, vec![ours("late")])), (0, 0, 0, 1), "nobody stays held");
}

#[test]
fn failure_takes_the_running_pods_along() {
    let mut current = with_status(&job(5, 3), JobStatus { failed: Some(2), ..JobStatus::default() });
    let failed = exited(ours("a"), 1, 900);
    let first = decided(&current, vec![failed.clone(), ours("b").ready(1)]);
    let status = first.status.clone().unwrap();
    assert_eq!(
        status::holds(&status, FAILURE_TARGET).unwrap().reason.as_deref(),
        Some("BackoffLimitExceeded")
    );
    assert_eq!((first.delete.len(), first.create.len()), (1, 0));
    assert_eq!(status.uncounted_terminated_pods.as_ref().unwrap().failed.as_ref().unwrap().len(), 2);
    current.status = Some(status);
    let terminating = decided(&current, vec![freed(failed), freed(ours("b")).deleting()]);
    assert!(status::holds(&terminating.status.clone().unwrap(), FAILED).is_none(), "a pod still terminates");
    current.status = terminating.status;
    let last = decided(&current, vec![]);
    let status = last.status.unwrap();
    assert_eq!(status.failed, Some(4));
    let over = status::holds(&status, FAILED).unwrap();
    assert_eq!(over.message.as_deref(), Some("Job has reached the specified backoff limit"));
    assert_eq!(last.events[0].1, "BackoffLimitExceeded");
}

#[test]
fn failures_slow_down_what_comes_next() {
    let failed = |name: &str, second: i64| exited(ours(name), 1, second);
    let after = |pods: Vec<Pod>| {
        let decision = decided(&job(3, 1), pods);
        (decision.create.len(), decision.next_check)
    };
    assert_eq!(after(vec![failed("a", 995)]), (0, Some(at(1005))), "ten seconds");
    assert_eq!(after(vec![failed("a", 990)]), (1, None));
    assert_eq!(after(vec![failed("a", 100), failed("b", 985)]), (0, Some(at(1005))), "twenty seconds");
    let success = exited(ours("c"), 0, 996);
    assert_eq!(after(vec![failed("a", 100), failed("b", 995), success]), (1, None), "forgiven");
}

#[test]
fn deadlines_and_restarts_end_jobs() {
    let late = edited(job(3, 1), |spec| spec.active_deadline_seconds = Some(100));
    let started = |second: i64| JobStatus { start_time: Some(time(second)), ..JobStatus::default() };
    let waiting = decided(&with_status(&late, started(950)), vec![ours("a")]);
    assert_eq!(waiting.next_check, Some(at(1050)));
    let over = decided(&with_status(&late, started(900)), vec![ours("a")]).status.unwrap();
    assert_eq!(status::holds(&over, FAILURE_TARGET).unwrap().reason.as_deref(), Some("DeadlineExceeded"));
    let in_place = edited(job(3, 1), |spec| {
        spec.template.spec.as_mut().unwrap().restart_policy = Some("OnFailure".to_owned());
    });
    let restarted = ours("a").ready(1).edit(|pod| {
        let status = ContainerStatus { restart_count: 2, ..ContainerStatus::default() };
        pod.status.as_mut().unwrap().container_statuses = Some(vec![status]);
    });
    let over = decided(&in_place, vec![restarted]).status.unwrap();
    assert_eq!(status::holds(&over, FAILURE_TARGET).unwrap().reason.as_deref(), Some("BackoffLimitExceeded"));
}

#[test]
fn indexes_are_worked_on_one_by_one() {
    let new = |indexes: &[i32]| -> Vec<NewPod> {
        indexes.iter().map(|index| NewPod { index: Some(*index), failures: None }).collect()
    };
    assert_eq!(decided(&indexed(5, 2), vec![]).create, new(&[0, 1]));
    let mut half = indexed(5, 3);
    half.status = Some(JobStatus { completed_indexes: Some("0,2".to_owned()), ..JobStatus::default() });
    let decision = decided(&half, vec![of_index("a", 1)]);
    assert_eq!(decision.create, new(&[3, 4]));
    let done = decided(&half, vec![exited(of_index("a", 1), 0, 900)]);
    let status = done.status.unwrap();
    assert_eq!((status.completed_indexes.as_deref(), status.succeeded), (Some("0-2"), Some(3)));
    assert_eq!(done.release.len(), 1);
    let doubled =
        decided(&indexed(5, 5), vec![of_index("a", 1), of_index("b", 1).ready(1), of_index("c", 9)]);
    let mut removed: Vec<_> = doubled.uncounted.iter().map(|target| target.key.name.as_str()).collect();
    removed.sort_unstable();
    assert_eq!(removed, ["a", "c"], "the running one stays, and there is no ninth index");
}

#[test]
fn indexes_with_their_own_limit_fail_alone() {
    let current = edited(indexed(3, 3), |spec| {
        spec.backoff_limit_per_index = Some(1);
        spec.backoff_limit = Some(i32::MAX);
    });
    let failed = |name: &str, index: i32, before: i32| {
        exited(of_index(name, index), 1, 100).edit(|pod| {
            let annotations = pod.metadata.annotations.as_mut().unwrap();
            annotations.insert(INDEX_FAILURES.to_owned(), before.to_string());
        })
    };
    let first = decided(&current, vec![failed("a", 0, 0)]);
    assert_eq!(first.create[0], NewPod { index: Some(0), failures: Some((1, 0)) });
    assert!(first.release.is_empty(), "it is kept until its successor is there");
    let pods = [Arc::new(failed("a", 0, 0))];
    let ends = decide(&Observed { job: &current, pods: &pods, namespace_ends: true }, at(1000));
    assert_eq!((ends.create.len(), ends.release.len()), (0, 1), "there will be no successor");
    let second = decided(&current, vec![failed("a", 0, 0), of_index("b", 0)]);
    assert_eq!(second.release.len(), 1);
    let last = decided(&current, vec![failed("b", 0, 1)]);
    assert_eq!(last.status.as_ref().unwrap().failed_indexes.as_deref(), Some("0"));
    assert!(last.create.iter().all(|new| new.index != Some(0)));
    let mut all = current;
    all.status = Some(JobStatus {
        completed_indexes: Some("1,2".to_owned()),
        failed_indexes: Some("0".to_owned()),
        ..JobStatus::default()
    });
    let over = decided(&all, vec![]).status.unwrap();
    assert_eq!(status::holds(&over, FAILED).unwrap().message.as_deref(), Some("Job has failed indexes"));
}

#[test]
fn rules_decide_about_failures_and_success() {
    let codes = |action: &str, values: &[i32]| PodFailurePolicyRule {
        action: action.to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: None,
            operator: "In".to_owned(),
            values: values.to_vec(),
        }),
        on_pod_conditions: None,
    };
    let disrupted = PodFailurePolicyRule {
        action: "Ignore".to_owned(),
        on_exit_codes: None,
        on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned().into(),
        }]),
    };
    let policy =
        PodFailurePolicy { rules: vec![codes("FailJob", &[42]), disrupted, codes("FailIndex", &[7])] };
    let verdict = |pod: &Pod| judge(Some(&policy), pod);
    let fatal = "Container main for pod ns/a failed with exit code 42 matching FailJob rule at index 0";
    assert_eq!(verdict(&exited(ours("a"), 42, 1)), Verdict::FailJob(fatal.to_owned()));
    assert_eq!(verdict(&exited(ours("a"), 1, 1)), Verdict::Count);
    assert_eq!(verdict(&exited(ours("a"), 7, 1)), Verdict::FailIndex);
    assert_eq!(verdict(&exited(ours("a"), 1, 1).condition("DisruptionTarget", "True", 1)), Verdict::Ignore);
    let strict = edited(job(3, 1), |spec| spec.pod_failure_policy = Some(policy));
    let over = decided(&strict, vec![exited(ours("a"), 42, 1)]).status.unwrap();
    assert_eq!(status::holds(&over, FAILURE_TARGET).unwrap().reason.as_deref(), Some("PodFailurePolicy"));
    let ignored = decided(&strict, vec![exited(ours("a"), 1, 1).condition("DisruptionTarget", "True", 1)]);
    assert_eq!(ignored.release.len(), 1);
    assert_eq!(ignored.status.unwrap().uncounted_terminated_pods, Some(UncountedTerminatedPods::default()));
    let rule = |indexes: Option<&str>, count| SuccessPolicyRule {
        succeeded_indexes: indexes.map(str::to_owned),
        succeeded_count: count,
    };
    let succeeded = Indexes::parse("0,3", 5);
    for (rules, expected) in [
        (vec![rule(Some("0"), None)], Some(0)),
        (vec![rule(Some("0-2"), None), rule(Some("0-3"), Some(2))], Some(1)),
        (vec![rule(None, Some(3))], None),
        (vec![rule(None, Some(2))], Some(0)),
    ] {
        assert_eq!(policy::success(Some(&SuccessPolicy { rules }), &succeeded, 5), expected);
    }
}

fn stored(api: &FakeApi) -> JobStatus {
    api.get::<Job>("batch/jobs", "ns", "work").unwrap().status.unwrap_or_default()
}

/// Ends every running pod with that exit code.
fn end_pods(api: &FakeApi, code: i32) {
    for pod in api.list::<Pod>("/pods") {
        if !crate::pods::is_finished(&pod) {
            let name = pod.metadata.name.clone().unwrap();
            let like = serde_json::to_value(exited(pod, code, 900)).unwrap();
            api.edit("/pods", "ns", &name, |pod| pod["status"] = like["status"].clone());
        }
    }
}

const CONTROLLER: &[&str] = &["job-controller"];

#[tokio::test(start_paused = true)]
async fn a_job_runs_to_its_end() {
    let api = FakeApi::default();
    let stored_job = Job { metadata: ObjectMeta { uid: None, ..meta("work") }, ..indexed(7, 3) };
    api.create("batch/jobs", &stored_job);
    let running = Running::start(&api, CONTROLLER);
    let watched = |api: &FakeApi| {
        let active = api.list::<Pod>("/pods").iter().filter(|pod| !crate::pods::is_finished(pod)).count();
        assert!(active <= 3, "{active} at once");
        end_pods(api, 0);
    };
    api.until("it completes", watched, |api| status::holds(&stored(api), COMPLETE).is_some()).await;
    api.settle().await;
    let status = stored(&api);
    assert_eq!((status.succeeded, status.completed_indexes.as_deref()), (Some(7), Some("0-6")));
    let pods: Vec<Pod> = api.list("/pods");
    assert_eq!(pods.len(), 7, "each index once");
    assert!(pods.iter().all(|pod| !is_held(pod)));
    assert!(pods.iter().any(|pod| pod.spec.as_ref().unwrap().hostname.as_deref() == Some("work-6")));
    api.until("the event", |_| {}, |api| api.events("Completed") == ["Job completed"]).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_fails_after_its_limit_with_growing_pauses() {
    let api = FakeApi::default();
    api.create("batch/jobs", &job(1, 1));
    let running = Running::start(&api, CONTROLLER);
    let fail_now = |api: &FakeApi| {
        for pod in api.list::<Pod>("/pods") {
            if !crate::pods::is_finished(&pod) {
                let name = pod.metadata.name.clone().unwrap();
                let like = serde_json::to_value(exited(pod, 1, 1_000_000)).unwrap();
                api.edit("/pods", "ns", &name, |pod| pod["status"] = like["status"].clone());
            }
        }
    };
    let begin = tokio::time::Instant::now();
    api.until("it fails", fail_now, |api| status::holds(&stored(api), FAILED).is_some()).await;
    assert!(begin.elapsed() >= Duration::from_secs(20), "{:?}", begin.elapsed());
    let status = stored(&api);
    assert_eq!(status.failed, Some(3));
    assert_eq!(status::holds(&status, FAILED).unwrap().reason.as_deref(), Some("BackoffLimitExceeded"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_do_not_stay_held_by_a_job_that_is_gone() {
    let api = FakeApi::default();
    api.create("batch/jobs", &job(2, 2));
    let running = Running::start(&api, CONTROLLER);
    api.until("two pods", |_| {}, |api| api.list::<Pod>("/pods").len() == 2).await;
    api.settle().await;
    api.delete("batch/jobs", "ns", "work", "Background");
    api.until("they are free", |_| {}, |api| api.list::<Pod>("/pods").iter().all(|pod| !is_held(pod))).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_a_deleted_job_leaves_behind_are_free() {
    let api = FakeApi::default();
    api.create("batch/jobs", &job(2, 2));
    let running = Running::start(&api, CONTROLLER);
    api.until("two pods", |_| {}, |api| api.list::<Pod>("/pods").len() == 2).await;
    api.settle().await;
    assert!(api.list::<Pod>("/pods").iter().all(is_held));
    // As the garbage collector does it, before the controller hears of the deletion.
    api.hold("batch/jobs");
    api.delete("batch/jobs", "ns", "work", "Orphan");
    for pod in api.list::<Pod>("/pods") {
        let name = pod.metadata.name.unwrap();
        api.edit("/pods", "ns", &name, |pod| pod["metadata"]["ownerReferences"] = serde_json::json!([]));
    }
    api.settle().await;
    api.release("batch/jobs");
    api.until("they are free", |_| {}, |api| !api.list::<Pod>("/pods").iter().any(is_held)).await;
    let pods: Vec<Pod> = api.list("/pods");
    assert_eq!(pods.len(), 2, "they stay");
    assert!(pods.iter().all(|pod| pod.metadata.owner_references.iter().flatten().next().is_none()));
    running.stop().await;
}

/// Of two pods that were left behind while nobody looked, a Job takes one over: it counts that one, and the other is free.
#[tokio::test(start_paused = true)]
async fn pods_left_behind_are_free_or_counted_by_who_takes_them_over() {
    let api = FakeApi::default();
    api.create("batch/jobs", &job(1, 1));
    let orphan = |name: &str| ours(name).edit(|pod| pod.metadata.owner_references = None);
    api.create("/pods", &orphan("taken"));
    api.create("/pods", &orphan("left").labelled(&[("job", "other")]));
    let running = Running::start(&api, CONTROLLER);
    let get = |api: &FakeApi, name: &str| api.get::<Pod>("/pods", "ns", name).unwrap();
    let owned = |pod: &Pod| pod.metadata.owner_references.iter().flatten().next().is_some();
    api.until("one is free", |_| {}, |api| !is_held(&get(api, "left"))).await;
    api.until("one is taken over", |_| {}, |api| owned(&get(api, "taken"))).await;
    api.settle().await;
    assert!(is_held(&get(&api, "taken")) && !owned(&get(&api, "left")));
    api.until("it counts", |api| end_pods(api, 0), |api| stored(api).succeeded == Some(1)).await;
    running.stop().await;
}

/// Another process has counted a pod's end and let the pod go; this one knows of the count, but not yet of the pod.
#[tokio::test(start_paused = true)]
async fn an_end_that_another_process_has_counted_is_not_counted_again() {
    let api = FakeApi::default();
    let elsewhere = |job: &mut serde_json::Value, manager: &str| job["spec"]["managedBy"] = manager.into();
    let mut work = serde_json::to_value(job(2, 1)).unwrap();
    elsewhere(&mut work, "example.com/other");
    let uid = api.create("batch/jobs", &work)["metadata"]["uid"].clone();
    let mut ended = serde_json::to_value(exited(ours("first"), 0, 900)).unwrap();
    ended["metadata"]["ownerReferences"][0]["uid"] = uid;
    api.create("/pods", &ended);
    // New pods are pending, whatever they say.
    api.edit("/pods", "ns", "first", |pod| pod["status"] = ended["status"].clone());
    let running = Running::start(&api, CONTROLLER);
    api.settle().await;
    let status = |api: &FakeApi| api.get::<Job>("batch/jobs", "ns", "work").unwrap().status.unwrap();
    api.hold("/pods");
    api.edit("/pods", "ns", "first", |pod| pod["metadata"]["finalizers"] = serde_json::json!([]));
    api.edit("batch/jobs", "ns", "work", |job| {
        job["status"] = serde_json::json!({"succeeded": 1, "uncountedTerminatedPods": {}});
        elsewhere(job, "kubernetes.io/job-controller");
    });
    api.until("it works on", |_| {}, |api| api.list::<Pod>("/pods").len() == 2).await;
    api.release("/pods");
    api.settle().await;
    assert_eq!((status(&api).succeeded, status(&api).active), (Some(1), Some(1)));
    assert!(status::holds(&status(&api), COMPLETE).is_none());
    running.stop().await;
}
